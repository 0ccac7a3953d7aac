"""Why the words behind a verb cannot be read, in one sentence: what was given, what was expected, the nearest choice."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path

from entoptic.cli.help_pages import usage
from entoptic.cli.option_table import Option, all_options, groups_of, options_of
from entoptic.errors import closest, nearest


def refusal(name: str, verb: type, words: Sequence[str]) -> str:
    """Returns the sentence about the first thing that is wrong with the words behind a verb, "" where none is found.

    Args:
        name: the verb as it is typed.
        verb: its dataclass.
        words: what stands behind it.
    """
    flags = {flag: option for option in all_options(verb) for flag in option.flags}
    loose: list[str] = []
    seen: set[str] = set()
    for flag, values in _given(words, flags):
        if not flag:
            loose += values
        elif flag not in flags:
            return _unknown(name, verb, flag, flags, words)
        else:
            seen.add(flags[flag].flag)
            if wrong := _wrong_values(flag, flags[flag], values):
                return wrong
    return _wrong_arguments(name, verb, loose) or _left_out(name, verb, seen)


def empty_path(verb: type, words: Sequence[str]) -> str:
    """Returns the sentence about a path that was given as an empty text, "" for none: it would stand for the folder here.

    Args:
        verb: its dataclass.
        words: what stands behind it.
    """
    flags = {flag: option for option in all_options(verb) for flag in option.flags}
    takes = [option for option in options_of(verb) if option.positional]
    place = 0
    for flag, values in _given(words, flags):
        if flag:
            option = flags.get(flag)
        else:
            option = takes[min(place, len(takes) - 1)] if takes else None
            place += 1
        if option is not None and option.kind is Path and any(not value.strip() for value in values):
            return f'{flag or option.metavar} must be a path, got an empty text; "." is the folder here'
    return ""


def _given(words: Sequence[str], flags: dict[str, Option]) -> Iterator[tuple[str, list[str]]]:
    """The flags with their values; words that belong to none come with "" for a flag."""
    left = list(words)
    while left:
        word = left.pop(0)
        if not _is_flag(word):
            yield "", [word]
            continue
        text, equals, value = word.partition("=")
        flag = "--" + text[2:].replace("_", "-") if text.startswith("--") else text
        option = flags.get(flag)
        if equals:
            yield flag, [value]
            continue
        values: list[str] = []
        most = 1 if option is None else 0 if option.is_switch else len(left) if option.many else 1
        while left and len(values) < most and not _is_flag(left[0]):
            values.append(left.pop(0))
        yield flag, values


def _is_flag(word: str) -> bool:
    return word.startswith("-") and word.lstrip("-")[:1].isalpha() and word.lower() not in ("-inf", "-nan", "-infinity")


def _unknown(name: str, verb: type, flag: str, flags: dict[str, Option], words: Sequence[str]) -> str:
    """The sentence about an option that a verb does not have."""
    bare = flag.lstrip("-")
    same = [known for known in flags if known.rpartition(".")[2] == bare]  # an option of a method, without its name
    named = [known for known in same if any(known[2:].partition(".")[0] in word.split(",") for word in words)]
    if same and not flag.startswith("---"):
        found: str | None = (named or same)[0]
    elif group := _group_meant(verb, bare):
        own = [known for known in flags if known.startswith(f"--{group}.")]
        found = _nearest_flag(f"--{group}.{bare.partition('.')[2]}", own) or f"--{group}.…"
    else:
        found = _nearest_flag(flag, [known for known in flags if "." not in known] + ["--help"])
        found = found or (_nearest_flag(flag, list(flags)) if "." in bare else None)
    hint = f"did you mean {found}?" if found else f"`entoptic {name} --help` lists its options"
    return f"{name} has no option {flag[:80]}; {hint}"


def _group_meant(verb: type, bare: str) -> str | None:
    """The group of options that the part before the dot names, or nearly names."""
    group, dot, _ = bare.partition(".")
    return closest(group, groups_of(verb)) if dot else None


def _nearest_flag(flag: str, known: Sequence[str]) -> str | None:
    """The flag that is nearest; what is not close is no help."""
    bare = {one.removeprefix("--"): one for one in known}
    low = flag.lstrip("-").lower()
    if low in bare:
        return bare[low]
    close = difflib.get_close_matches(low, list(bare), n=6, cutoff=0.6)
    found = closest(low, close) if close else None
    return bare[found] if found else None


def _wrong_values(flag: str, option: Option, values: Sequence[str]) -> str:
    """The sentence about what stands behind a flag, "" where it fits."""
    if option.is_switch:
        return (
            f'{flag} takes no value, got "{values[0]}"; {option.flag} turns it on, {option.off} off' if values else ""
        )
    if not values and not option.many:
        return f"{flag} needs {option.expected} behind it: {flag} {option.metavar}"
    for value in values:
        if not _fits(option, value):
            return f'{flag} must be {option.expected}, got "{value[:80]}"' + _number_meant(value, option)
    return ""


def _fits(option: Option, value: str) -> bool:
    if value == "None" and option.default is None:
        return True
    if option.kind not in (int, float):
        return True
    try:
        option.kind(value)
    except ValueError:
        return False
    return True


def _number_meant(value: str, option: Option) -> str:
    """`1.0` may stand for 1 and `3,5` for 3.5."""
    try:
        number = float(value.replace(",", "."))
    except ValueError:
        return ""
    if not abs(number) < 1e15:
        return ""
    return f"; did you mean {number:.0f}?" if option.kind is int else f"; did you mean {number:g}?"


def _wrong_arguments(name: str, verb: type, loose: Sequence[str]) -> str:
    """The sentence about arguments that are left out or too many."""
    takes = [option for option in options_of(verb) if option.positional]
    required = [option for option in takes if option.required]
    if len(loose) < len(required):
        missing = required[len(loose)]
        about = f" ({missing.help})" if missing.help else ""
        return f"{name} needs {missing.metavar}{about}; it is written `{usage(name, verb)}`"
    if len(loose) > len(takes) and not any(option.many for option in takes):
        extra = loose[len(takes)]
        groups = nearest(extra, groups_of(verb)) if groups_of(verb) else ""
        return f'"{extra[:80]}" is one word too many for {name}{groups}; it is written `{usage(name, verb)}`'
    return ""


def _left_out(name: str, verb: type, seen: set[str]) -> str:
    """The sentence about a required option that is not there."""
    for option in options_of(verb):
        if option.required and not option.positional and option.flag not in seen:
            return f"{name} needs {option.flag} {option.metavar} ({option.help}); it is written `{usage(name, verb)}`"
    return ""

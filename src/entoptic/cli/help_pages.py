"""The pages of `--help`: short ones that fit a screen, and the whole lists behind them."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from entoptic.cli.option_table import Group, Option, groups_of, options_of
from entoptic.errors import UserError, instead

SCREEN = 60
"""Lines that a short page has at most."""
_TECHNICAL = (
    "--seed", "--bank-seed", "--verifiers", "--batch-size", "--device", "--threads", "--workers", "--context", "--report",
    "--debug", "--eight-bit", "--trust", "--name",
)  # fmt: skip
"""Options that most verbs share, or that a first try does without: they come last."""
_SECTIONS = (
    ("look", ("ls", "check", "index", "merge", "bench")),
    ("make pictures", ("see", "interpolate", "invert", "steer", "frontier")),
    ("explain", ("report", "circuit", "patterns", "atlas", "name", "commitment")),
    ("keep and show", ("status", "verify", "gallery", "figure", "export", "push", "pull")),
    (
        "ask people",
        ("study power", "study build", "study simulate", "study serve", "study export", "study analyse"),
    ),
    ("train", ("learn prior", "learn inverter", "learn dictionary", "split")),
    ("set up", ("completion",)),
)
_MOST_FLAG = 26


def main_page(verbs: dict[str, type]) -> str:
    """Returns the page of `entoptic --help`: every verb in one line.

    Args:
        verbs: the options of each verb by the words that name it.
    """
    lines = ["usage: entoptic VERB …", "", "See what a vision model looks for.", ""]
    for title, names in _SECTIONS:
        lines.append(f"{title}:")
        lines += _rows(((name, _title(verbs[name])) for name in names), 17)
        lines.append("")
    lines += [
        "examples:",
        "  entoptic ls builtin:lite0                      # what it is made of",
        """  entoptic see builtin:lite0 'logits:"church"'   # pictures in runs/lite0""",
        "  entoptic verify runs/lite0                     # measure the pictures again",
        "",
        "more:",
        "  entoptic VERB --help   what a verb takes",
        "  entoptic --version     versions of Entoptic, Python and torch",
    ]
    return "\n".join(lines) + "\n"


def family_page(first: str, verbs: dict[str, type]) -> str:
    """Returns the page of a word that begins several verbs, such as `entoptic learn --help`."""
    names = [name for name in verbs if name.split()[0] == first]
    lines = [f"usage: entoptic {first} {{{','.join(name.split()[1] for name in names)}}} …", ""]
    lines += _rows(((name, _title(verbs[name])) for name in names), 17)
    lines += ["", "examples:", *(f"  {verbs[name].examples[0]}" for name in names)]  # type: ignore[attr-defined]
    lines += ["", "more:", *(f"  entoptic {name} --help" for name in names)]
    return "\n".join(lines) + "\n"


def verb_page(name: str, verb: type, topic: str = "") -> str:
    """Returns a page about a verb.

    Args:
        name: of the verb.
        verb: its dataclass.
        topic: "" for the short page, "all" for everything, or one of the groups of options (a method, a recipe).

    Raises:
        UserError: there is no such topic.
    """
    groups = groups_of(verb)
    if topic in groups:
        return _group_page(name, groups[topic])
    if topic not in ("", "all"):
        raise UserError(
            f'{name} --help has no page "{topic[:80]}"{instead(topic, ["all", *groups], where=f"entoptic {name} --help")}'
        )
    if topic == "all":
        return _page(name, verb, folded=False, whole=True)
    page = _page(name, verb, folded=False, whole=False)
    return page if page.count("\n") <= SCREEN else _page(name, verb, folded=True, whole=False)


def usage(name: str, verb: type) -> str:
    """Returns how a verb is called, in one line: `entoptic see MODEL UNIT… [options]`."""
    words = [_argument(o) for o in options_of(verb) if o.positional]
    words += [f"{o.flag} {_value(o)}" for o in options_of(verb) if o.required and not o.positional]
    return " ".join(["entoptic", name, *words, "[options]"])


def _page(name: str, verb: type, folded: bool, whole: bool) -> str:
    """A page of a verb; `folded` names its technical options without their texts, `whole` has those of its groups."""
    options, groups = options_of(verb), groups_of(verb)
    width = _width()
    lines = [
        *textwrap.wrap(f"usage: {usage(name, verb)}", width, subsequent_indent=" " * 9),
        "",
        *textwrap.wrap(_sentence(verb), width),
        "",
    ]
    if arguments := _rows(((_argument(o), _text(o)) for o in options if o.positional), 10):
        lines += [*arguments, ""]
    own = [o for o in options if not o.positional and o.flag not in _TECHNICAL]
    technical = [o for o in options if not o.positional and o.flag in _TECHNICAL]
    lines += ["options:", *_option_rows(own), ""] if own else []
    if folded:
        flags = ", ".join(o.off if o.default is True else o.flag for o in technical)
        lines += [*textwrap.wrap(f"also: {flags} (`entoptic {name} --help all`)", width, subsequent_indent="  ")]
    else:
        lines += ["further options:", *_option_rows(technical)]
    if whole:
        for group in groups.values():
            lines += ["", *_group_lines(group)]
    elif groups:
        what = "methods" if name in ("see", "interpolate", "frontier") else "recipes"
        one = "vital" if "vital" in groups else next(iter(groups))
        lines += ["", f"{what}, each with options of its own (entoptic {name} --help {one}):"]
        lines += textwrap.wrap(
            ", ".join(groups), width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
        )
    lines += ["", "examples:", *(f"  {example}" for example in verb.examples)]  # type: ignore[attr-defined]
    if (groups or folded) and not whole:
        lines += ["", f"everything: entoptic {name} --help all"]
    return "\n".join(lines) + "\n"


def _group_page(name: str, group: Group) -> str:
    presets = [f"  {line}" for line in _preset_lines(name, group)]
    return (
        "\n".join([f"usage: entoptic {name} … --{group.name}.OPTION VALUE", "", *_group_lines(group), *presets]) + "\n"
    )


def _preset_lines(name: str, group: Group) -> list[str]:
    """What the presets of a method stand for, where the verb has them."""
    words = {
        preset: " ".join(f"--{group.name}.{option.replace('_', '-')} {value}" for option, value in options.items())
        for preset, options in group.presets.items()
    }
    return [f"--{preset} stands for {said}" for preset, said in words.items()] if name == "see" else []


def _group_lines(group: Group) -> list[str]:
    rows = _option_rows(group.options) or ["  (no options)"]
    return [*textwrap.wrap(f"{group.name}: {group.title}", _width()), *rows]


def _option_rows(options: Iterable[Option]) -> list[str]:
    return _rows(((_heading(o), _text(o)) for o in options), _MOST_FLAG)


def _heading(option: Option) -> str:
    if option.is_switch:
        return option.flag if option.default is False else option.off.replace("no-", "[no-]")
    return f"{option.flag} {_value(option)}"


def _value(option: Option) -> str:
    return option.metavar + ("…" if option.many else "")


def _argument(option: Option) -> str:
    return _value(option) if option.required or option.many else f"[{_value(option)}]"


def _text(option: Option) -> str:
    if option.is_switch and option.default is True:
        return f"{option.help} (default: on)"
    shown = _default(option.default)
    if not shown or "(default:" in option.help or option.is_switch or (option.positional and not option.required):
        return option.help
    return f"{option.help} (default: {shown})".strip()


def _default(value: Any) -> str:
    if value is None or value in ("", (), ("",)):
        return ""
    return (
        " ".join(map(str, value))
        if isinstance(value, tuple)
        else str(value)
        if not isinstance(value, Path)
        else f"{value}"
    )


def _rows(rows: Iterable[tuple[str, str]], most: int) -> list[str]:
    """Two columns; a left side that is longer than `most` has a line of its own."""
    pairs: Sequence[tuple[str, str]] = list(rows)
    left = min(most, max((len(a) for a, _ in pairs), default=0))
    lines: list[str] = []
    for a, b in pairs:
        gap = " " * (left + 4)
        wrapped = textwrap.wrap(
            b, _width(), initial_indent=gap, subsequent_indent=gap, break_on_hyphens=False, break_long_words=False
        )
        if len(a) > left or not wrapped:
            lines += [f"  {a}", *wrapped]
        else:
            lines += [f"  {a:<{left}}  {wrapped[0].lstrip()}", *wrapped[1:]]
    return lines


def _title(verb: type) -> str:
    """What a verb does, short enough for one line of a list."""
    sentence = _sentence(verb).rstrip(".")
    return getattr(verb, "title", "") or sentence[:1].lower() + sentence[1:]


def _sentence(verb: type) -> str:
    return " ".join((verb.__doc__ or "").split())


def _width() -> int:
    """Columns of the terminal, 80 where there is none, and never so many that a line is hard to follow."""
    return min(shutil.get_terminal_size((80, 24)).columns, 100) if sys.stdout.isatty() else 80

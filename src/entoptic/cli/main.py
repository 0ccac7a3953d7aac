"""Parses a command, runs its verb and turns errors into exit codes."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib import metadata
from platform import python_version
from typing import Any

from entoptic import __version__
from entoptic.base.bounds import check_bounds
from entoptic.base.unread import names_unread
from entoptic.cli.help_pages import family_page, main_page, verb_page
from entoptic.cli.parse import completion_script, parse
from entoptic.cli.streams import forgiving_streams
from entoptic.cli.sweep import run_file, wants_file
from entoptic.cli.verbs import FAMILIES, VERBS, spoken
from entoptic.errors import UserError, closest

__all__ = ["VERBS", "main"]

_HELP = ("--help", "-h")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code: 0, 2 for bad input, 1 for a defect of Entoptic, 130 for Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    debug = "--debug" in given
    with forgiving_streams(), warnings.catch_warnings():
        warnings.showwarning = lambda message, *rest, **more: print(f"warning: {message}", file=sys.stderr)
        return _answer(given, debug)


def _answer(given: list[str], debug: bool) -> int:
    """Runs a command; what goes wrong is one sentence."""
    try:
        code = _run(given)
        sys.stdout.flush()  # here, where it is said what stops it
        return code
    except UserError as error:
        if debug:
            traceback.print_exc()
        print(f"entoptic: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("entoptic: interrupted; what is finished is stored, the same command goes on from there", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        else:
            print(
                f"entoptic: internal error, {type(error).__name__}: {error} (this is a defect of Entoptic; "
                "--debug shows where)",
                file=sys.stderr,
            )
        return 1


def _run(given: list[str]) -> int:
    if given[0] == "--version":
        print(_versions())
        return 0
    if given[0] in ("--tyro-print-completion", "--tyro-write-completion"):
        return _write_completion(given)
    if given[0] == "help":  # `entoptic help see vital` is `entoptic see --help vital`
        given = _as_option(given[1:])
    if given[0] in _HELP:
        given = _as_option(given[1:]) if given[1:] else given
    if given[0] in _HELP:
        print(main_page({spoken(name): verb for name, (verb, _) in VERBS.items()}), end="")
        return 0
    family = {spoken(name): verb for name, (verb, _) in VERBS.items() if name.startswith(f"{given[0]}-")}
    if family and (len(given) == 1 or given[1] in _HELP):
        if not given[2:]:
            print(family_page(given[0], family), end="")
            return 0
        given = [given[0], given[2], given[1], *given[3:]]  # `learn --help prior`
    name, words = _verb(given, family)
    verb, run = VERBS[name]
    if asked := [i for i, word in enumerate(words) if word in _HELP]:
        topic = next(iter(words[asked[0] + 1 :]), "")
        print(verb_page(spoken(name), verb, "" if topic.startswith("-") else topic), end="")
        return 0
    if wants_file(name, words):
        return run_file(words)
    options: Any = parse(name, words)
    check_bounds(options)
    return names_unread(run)(options)


def _as_option(words: list[str]) -> list[str]:
    """The words of `entoptic help VERB TOPIC` as `VERB --help TOPIC`."""
    verb = words[:2] if words[:1] and words[0] in FAMILIES else words[:1]
    return [*verb, "--help", *words[len(verb) :]]


def _verb(given: list[str], family: dict[str, type]) -> tuple[str, list[str]]:
    """The verb that was asked for, and the words behind it."""
    if family:  # what is learned is part of the verb: `entoptic learn prior`
        given = ["-".join(given[:2]), *given[2:]]
    if given[0] in VERBS:
        return given[0], given[1:]
    if given[0].startswith("-") and not family:
        known: list[str] = ["--version", "--help"]
        what = f"there is no option {given[0][:80]} before a verb"
    else:
        known = [*VERBS, *FAMILIES]
        what = f'there is no verb "{(spoken(given[0]) if family else given[0])[:80]}"'
    close = closest(given[0], known)
    hint = f'did you mean "{spoken(close) if close in VERBS else close}"?' if close else "`entoptic --help` lists them"
    raise UserError(f"{what}; {hint}")


def _write_completion(given: list[str]) -> int:
    """The flags of tyro, which `entoptic completion` has a name for."""
    from pathlib import Path

    if len(given) < 2:
        raise UserError(f"{given[0]} needs a shell behind it: bash, zsh or fish")
    script = completion_script(given[1])
    if given[0] == "--tyro-write-completion" and given[2:] and given[2] != "-":
        Path(given[2]).write_text(script)
    else:
        print(script)
    return 0


def _versions() -> str:
    """What a report of a defect names. torch is not imported for it."""
    try:
        torch = f"torch {metadata.version('torch')}"
    except metadata.PackageNotFoundError:
        torch = "no torch"
    return f"entoptic {__version__}, Python {python_version()}, {torch}"

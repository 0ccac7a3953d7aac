"""From words to the options of a verb. What tyro refuses is said in one sentence."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import Annotated, Any

import tyro

from entoptic.cli.refusals import empty_path, refusal
from entoptic.cli.verbs import FAMILIES, VERBS, spoken
from entoptic.errors import UserError
from entoptic.units.grammar import parse as parse_unit


def parse(name: str, words: Sequence[str], default: Any = None) -> Any:
    """Reads the options of a verb.

    Args:
        name: of the verb, a key of `VERBS`.
        words: what stands behind it.
        default: options that hold where the words say nothing, or None for the verb's own.

    Raises:
        UserError: an unknown option, a value of another kind, something left out or too much; the nearest choice is named.
    """
    found = _read(name, words, default)
    behind = found.behind_words(default) if hasattr(found, "behind_words") else None
    return found if behind is None else _read(name, words, behind)


def _read(name: str, words: Sequence[str], default: Any) -> Any:
    """The options that words stand for; `default` counts where they say nothing, the verb's own options where it is None."""
    verb = VERBS[name][0]
    said = io.StringIO()
    words = [f" {word}" if _is_unit(word) else word for word in words]
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            prog = f"entoptic {spoken(name)}"
            if default is not None:
                found = tyro.cli(verb, prog=prog, args=words, add_help=False, default=default)
            else:
                found = tyro.cli(verb, prog=prog, args=words, add_help=False)
    except SystemExit:
        raise UserError(refusal(spoken(name), verb, words) or _one_line(said.getvalue())) from None
    if wrong := empty_path(verb, words):
        raise UserError(wrong)
    return found


def _is_unit(word: str) -> bool:
    """Whether a word that begins like an option is a unit with a minus, such as -blocks.6:112; a space before it says so."""
    if not word.startswith("-") or word.startswith("--") or ":" not in word:
        return False
    try:
        return parse_unit(word).kind == "sum"
    except UserError:
        return False


def completion_script(shell: str) -> str:
    """Returns the script by which a shell completes verbs and options.

    Args:
        shell: bash, zsh or fish.

    Raises:
        UserError: the installed version of tyro has none for this shell.
    """
    said, wrong = io.StringIO(), io.StringIO()
    words = ["--tyro-print-completion", shell]
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(wrong):
            tyro.cli(_everything(), prog="entoptic", args=words)
    except SystemExit as stop:
        if not stop.code:
            return said.getvalue()
    raise UserError(f"no completion for {shell} with this version of tyro ({_one_line(wrong.getvalue())})")


def _everything() -> Any:
    """All verbs as one type, those of `learn` and `study` below them."""
    single = [_named(name, name) for name in VERBS if name.partition("-")[0] not in FAMILIES]
    families = []
    for first in FAMILIES:
        own = [name for name in VERBS if name.startswith(f"{first}-")]
        joined: Any = reduce(or_, (_named(name, name.removeprefix(f"{first}-")) for name in own))
        families.append(Annotated[joined, tyro.conf.subcommand(first)])
    return reduce(or_, [*single, *families])


def _named(name: str, word: str) -> Any:
    return Annotated[VERBS[name][0], tyro.conf.subcommand(word)]


def _one_line(box: str) -> str:
    """The text of a box of tyro, without its lines."""
    return " ".join(re.sub(r"[─-╿]", " ", box).split()) or "this command cannot be read; --help shows how it is written"

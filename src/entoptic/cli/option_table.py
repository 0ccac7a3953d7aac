"""What a verb takes, read from its dataclass: one record an option. The help and the sentences of refusals use it."""

from __future__ import annotations

import ast
import inspect
import textwrap
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any

import tyro

Kind = type[int] | type[float] | type[bool] | type[str] | type[Path]

_METAVARS: dict[Any, str] = {int: "INT", float: "FLOAT", Path: "PATH", str: "TEXT"}
_POSITIONAL = typing.get_args(tyro.conf.Positional[int])[1]
_NO_PREFIX = typing.get_args(tyro.conf.OmitArgPrefixes[int])[1]


@dataclass(frozen=True, kw_only=True)
class Option:
    """One thing that a verb takes.

    Attributes:
        name: of its field.
        flag: as it is typed, `--vital.steps`; of an argument without a flag its metavar.
        positional: whether it is given without a flag.
        kind: of its values.
        many: whether it takes several.
        metavar: what stands for a value in the help, "" for a switch.
        help: what it does.
        default: its value where it is not given; None stands for the verb's own choice.
        required: whether it must be given.
        group: the options it stands among: "" for the verb's own, else a method or a recipe.
    """

    name: str
    flag: str
    positional: bool
    kind: Kind
    many: bool
    metavar: str
    help: str
    default: Any
    required: bool
    group: str = ""

    @property
    def is_switch(self) -> bool:
        """Whether it takes no value: `--debug`, `--no-debug`."""
        return self.kind is bool

    @property
    def off(self) -> str:
        """The flag that turns a switch off: `--no-debug`, `--vital.no-flip`."""
        group, dot, name = self.flag.removeprefix("--").rpartition(".")
        return f"--{group}{dot}no-{name}"

    @property
    def flags(self) -> tuple[str, ...]:
        """All spellings."""
        return () if self.positional else (self.flag, self.off) if self.is_switch else (self.flag,)

    @property
    def expected(self) -> str:
        """What its values are, in words."""
        if self.many:
            return {int: "whole numbers", float: "numbers", str: "texts", Path: "paths"}.get(self.kind, "values")
        return {int: "a whole number", float: "a number", str: "a text", Path: "a path"}.get(self.kind, "a value")


@dataclass(frozen=True, kw_only=True)
class Group:
    """Options that belong together, each spelled `--NAME.OPTION`.

    Attributes:
        name: of the method or the recipe.
        title: what it is.
        options: that it has.
        presets: names of sets of its options, with what they stand for.
    """

    name: str
    title: str
    options: tuple[Option, ...]
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@lru_cache
def options_of(verb: type) -> tuple[Option, ...]:
    """Returns what a verb takes, in the order of its fields, without the options of its groups."""
    return tuple(_own(verb, prefix="", group=""))


@lru_cache
def groups_of(verb: type) -> dict[str, Group]:
    """Returns the groups of options of a verb by name: its methods or recipes."""
    found = {}
    for one, hint, _ in _fields(verb):
        kind, marks = _unfolded(hint)
        if isinstance(kind, type) and is_dataclass(kind) and _NO_PREFIX not in marks:
            name = one.name.replace("_", "-")
            title = (kind.__doc__ or "").strip().splitlines()[0].rstrip(".")
            found[name] = Group(
                name=name,
                title=title,
                options=tuple(_own(kind, prefix=f"{name}.", group=name)),
                presets=getattr(kind, "presets", {}),
            )
    return found


def all_options(verb: type) -> list[Option]:
    """Returns what a verb takes, those of its groups included."""
    return [*options_of(verb), *(option for group in groups_of(verb).values() for option in group.options)]


def _own(kind: type, prefix: str, group: str) -> Iterator[Option]:
    for one, hint, doc in _fields(kind):
        value_kind, marks = _unfolded(hint)
        if isinstance(value_kind, type) and is_dataclass(value_kind):
            if _NO_PREFIX in marks:
                yield from _own(value_kind, prefix, group)
            continue
        yield _option(one, value_kind, marks, doc, prefix, group)


def _option(one: Field[Any], kind: Any, marks: tuple[Any, ...], doc: str, prefix: str, group: str) -> Option:
    many = typing.get_origin(kind) is tuple
    value_kind = typing.get_args(kind)[0] if many else kind
    said = [mark for mark in marks if hasattr(mark, "metavar") and hasattr(mark, "help")]
    name = next((mark.name for mark in said if mark.name), one.name).replace("_", "-")
    positional = _POSITIONAL in marks
    metavar = next((mark.metavar for mark in said if mark.metavar), _METAVARS.get(value_kind, ""))
    default = one.default
    if one.default_factory is not MISSING:
        default = one.default_factory()
    required = default is MISSING and not (positional and many)
    return Option(
        name=one.name,
        flag=metavar if positional else f"--{prefix}{name}",
        positional=positional,
        kind=value_kind,
        many=many,
        metavar=metavar,
        help=next((mark.help for mark in said if mark.help), doc),
        default=None if default is MISSING else default,
        required=required,
        group=group,
    )


def _fields(kind: type) -> Iterator[tuple[Field[Any], Any, str]]:
    """Every field with its type and the text below it."""
    hints = typing.get_type_hints(kind, include_extras=True)
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        docs |= _texts(base)
    for one in fields(kind):
        yield one, hints[one.name], docs.get(one.name, "")


@lru_cache
def _texts(kind: type) -> dict[str, str]:
    """The texts below the fields of a class, by field."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    except (OSError, TypeError, SyntaxError):  # made by a program, or typed into an interpreter
        return {}
    if not isinstance(body, ast.ClassDef):
        return {}
    found = {}
    for line, below in zip(body.body, body.body[1:]):
        if (
            isinstance(line, ast.AnnAssign)
            and isinstance(line.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            found[line.target.id] = " ".join(below.value.value.split())
    return found


def _unfolded(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """The type inside annotations and `| None`, and what the annotations say."""
    marks: tuple[Any, ...] = ()
    while True:
        if typing.get_origin(hint) is typing.Annotated:
            marks, hint = marks + hint.__metadata__, hint.__origin__
        elif typing.get_origin(hint) in (typing.Union, UnionType):
            hint = next(kind for kind in typing.get_args(hint) if kind is not NoneType)
        else:
            return hint, marks

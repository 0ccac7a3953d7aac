"""Frozen dataclasses as JSON and back. What was damaged is refused in one sentence (`Unreadable`)."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from typing import Any, Literal, TypeVar

from entoptic.errors import Unreadable

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """Returns a record as what JSON holds: dataclasses as objects by field name, tuples as arrays."""
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: to_json(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): to_json(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(one) for one in value]
    return value


def from_json(kind: type[T], value: Any, where: str) -> T:
    """Returns a dataclass from what JSON held. A field that is not there takes its default; others are ignored.

    Args:
        kind: the dataclass.
        value: the JSON object.
        where: it stands, which begins the message.

    Raises:
        Unreadable: a field is missing or of another kind.
    """
    decoded: T = _decode(kind, value, where)
    return decoded


@lru_cache
def _kinds_of(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _decode(kind: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if isinstance(kind, type) and is_dataclass(kind):
        return _record(kind, value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise Unreadable(f"{where} is damaged: expected a list, not {_shown(value)}")
        inside = typing.get_args(kind)[0]
        return tuple(_decode(inside, one, f"{where}[{i}]") for i, one in enumerate(value))
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _decode(next(one for one in typing.get_args(kind) if one is not types.NoneType), value, where)
    if origin is Literal:
        if value not in (choices := typing.get_args(kind)) or isinstance(value, bool):
            raise Unreadable(f"{where} is damaged: expected one of {', '.join(map(str, choices))}, not {_shown(value)}")
        return value
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise Unreadable(f"{where} is damaged: expected an object, not {_shown(value)}")
        return {name: _decode(typing.get_args(kind)[1], one, f"{where}.{name}") for name, one in value.items()}
    return _plain(kind, value, where)


def _plain(kind: Any, value: Any, where: str) -> Any:
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if kind in (int, str, bool) and type(value) is kind:
        return value
    raise Unreadable(f"{where} is damaged: expected {getattr(kind, '__name__', kind)}, not {_shown(value)}")


def _record(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise Unreadable(f"{where} is damaged: expected an object, not {_shown(value)}")
    kinds, found = _kinds_of(kind), {}
    for one in fields(kind):
        if one.name in value:
            found[one.name] = _decode(kinds[one.name], value[one.name], f"{where}.{one.name}")
        elif one.default is MISSING and one.default_factory is MISSING:
            raise Unreadable(f'{where} is damaged or of another version: it has no "{one.name}"')
    return kind(**found)


def _shown(value: Any) -> str:
    return (
        f"a {type(value).__name__}"
        if isinstance(value, dict | list)
        else repr(value)[:40]
        if value is not None
        else "null"
    )

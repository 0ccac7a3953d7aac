"""Bounds of every number that can be asked for: checked once, for configs, recipes and the options of the command line.

A bound says what could ever run, not what is wise. A class sets its own in `bounds`; `COMMON` holds those of names that
mean the same everywhere, and any other number is finite and not huge.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from numbers import Integral, Real
from typing import Any

from entoptic.errors import UserError

Bounds = Mapping[str, tuple[float, float]]

SEED = (-(2**63), 2**63 - 1)
COMMON: Bounds = {
    # how much is made
    "n": (1, 100_000), "k": (1, 1_000_000), "bottom": (1, 1_000_000), "reservoir": (0, 10_000_000), "shown": (1, 1000),
    "samples": (1, 1_000_000), "compared": (1, 1_000_000), "limit": (0, 10**12), "concepts": (0, 1000),
    "batch_size": (1, 65_536), "threads": (1, 4096), "seed": SEED, "bank_seed": SEED,
    # steps, and how far each goes
    "steps": (1, 10_000_000), "lr": (0, 1000), "std": (0, 1000), "rate": (0, 1000), "warmup": (0, 10_000_000),
    "jitter": (0, 16_384),
    "canvas": (0, 16_384), "crops": (1, 10_000), "references": (1, 1_000_000), "refresh": (1, 10_000_000),
    "facets": (1, 1000), "pictures": (1, 1000), "group": (1, 100_000), "pull": (0, 100_000), "best_of": (1, 100_000),
    # samples of a prior
    "bank": (2, 10_000_000), "particles": (1, 1_000_000), "islands": (1, 100_000), "moves": (1, 100_000),
    "leaps": (0, 100_000), "fresh": (1, 1_000_000), "seeds": (1, 10_000), "words": (1, 1000), "shortlist": (1, 1_000_000),
    "beta": (-1e12, 1e12), "guidance": (0, 10_000), "strength": (0, 10_000), "prior_guidance": (0, 10_000),
    "denoise": (0, 1), "smooth_from": (0, 16_384), "contrast": (0, 1000), "class_contrast": (0, 1000),
    # differences, networks
    "nulls": (0, 1_000_000), "minutes": (0, 1e6),
    "size": (1, 16_384), "patch": (1, 1024), "widths": (1, 65_536), "attention": (1, 16_384),
    "hint": (1, 65_536), "cycle_pictures": (0, 65_536), "width": (1, 65_536), "layers": (1, 1000),
}  # fmt: skip
WHOLE = (-(2**31), 2**31)
"""Any other whole number."""
REAL = (-1e6, 1e6)
"""Any other number."""


def check_bounds(config: Any) -> None:
    """Checks every number, text and truth value of a dataclass: its kind, that it is finite, and its bounds.

    Args:
        config: the dataclass; what is itself a dataclass among its fields checks itself.

    Raises:
        UserError: the name of the field, what it was and what it may be.
    """
    own = own_bounds(type(config))
    for field in fields(config):
        kinds = _kinds(field.type)
        value = getattr(config, field.name)
        for one in value if isinstance(value, tuple | list) and "tuple" in kinds else (value,):
            _check_kind(field.name, one, kinds)
            if isinstance(one, Real) and not isinstance(one, bool) and kinds & {"int", "float"}:
                check_number(field.name, one, own.get(field.name))


def check_options(**values: Any) -> None:
    """Checks numbers by their names, as `check_bounds` does; None stands for what was not asked for.

    Raises:
        UserError: the name, what it was and what it may be.
    """
    for name, value in values.items():
        if value is not None:
            if not isinstance(value, Real) or isinstance(value, bool):
                raise UserError(f"{name} must be a number, got {_shown(value)}")
            check_number(name, value)


def check_number(name: str, value: Any, bounds: tuple[float, float] | None = None) -> None:
    """Checks one number against its bounds, by default those of its name.

    Raises:
        UserError: it is not finite, or outside of them.
    """
    whole = isinstance(value, Integral)
    low, high = bounds or COMMON.get(name) or (WHOLE if whole else REAL)
    if not whole and not math.isfinite(value):
        raise UserError(f"{name} must be finite, got {value}; it may be from {_number(low)} to {_number(high)}")
    if not low <= value <= high:
        raise UserError(f"{name} must be at least {_number(low)} and at most {_number(high)}, got {_shown(value)}")


def check_shard(part: int, parts: int) -> None:
    """Checks the number of a part, counted from 0, against how many parts there are.

    Raises:
        UserError: there is no such part.
    """
    if not 0 <= part < parts:
        raise UserError(f"shard {part}/{parts}: shards of {parts} are 0/{parts} to {parts - 1}/{parts}, counted from 0")


def check_threads(threads: int | None) -> None:
    """Checks a number of threads; None is torch's own choice.

    Raises:
        UserError: there cannot be so few.
    """
    if threads is not None and threads < 1:
        raise UserError(f"--threads must be at least 1, got {threads}")


def whole_number(text: str) -> int | None:
    """Reads a whole number that a person wrote; None where it is none, or longer than any that could be meant."""
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else None


def own_bounds(kind: type) -> Bounds:
    """Returns the bounds that a class and its bases set."""
    found: dict[str, tuple[float, float]] = {}
    for base in reversed(kind.__mro__):
        found |= vars(base).get("bounds", {})
    return found


def numbers_of(kind: type) -> Iterator[tuple[str, bool, tuple[float, float]]]:
    """Lists the numbers of a dataclass: name, whether it is whole, and bounds."""
    own = own_bounds(kind)
    for field in fields(kind):
        kinds = _kinds(field.type)
        if kinds & {"int", "float"}:
            whole = "float" not in kinds
            yield field.name, whole, own.get(field.name) or COMMON.get(field.name) or (WHOLE if whole else REAL)


def _kinds(annotation: Any) -> frozenset[str]:
    """Words of an annotation; it is a text where its module postpones annotations."""
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return frozenset(re.findall(r"\w+", text))


def _check_kind(name: str, value: Any, kinds: frozenset[str]) -> None:
    plain = kinds & {"int", "float", "str", "bool", "None"}
    if not plain or kinds - {"int", "float", "str", "bool", "None", "tuple"} or (value is None and "None" in kinds):
        return
    if isinstance(value, bool):
        fits = "bool" in kinds
    elif isinstance(value, Integral):
        fits = bool(kinds & {"int", "float"})
    else:
        fits = ("float" in kinds and isinstance(value, Real)) or ("str" in kinds and isinstance(value, str))
    if not fits:
        words = {
            "int": "a whole number",
            "float": "a number",
            "str": "a text",
            "bool": "true or false",
            "None": "nothing",
        }
        expected = " or ".join(words[kind] for kind in ("int", "float", "str", "bool", "None") if kind in kinds)
        raise UserError(f"{name} must be {expected}, got {_shown(value)}")


def _number(value: float) -> str:
    return f"{value:,.0f}".replace(",", "") if float(value).is_integer() and abs(value) < 1e15 else f"{value:g}"


def _shown(value: Any) -> str:
    if isinstance(value, Integral) and abs(int(value)) >= 10**24:
        return f"a number of more than {24} digits"
    return repr(value)[:60]

"""A measurement and its wording: the records that the sentence functions take and return."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from entoptic.gallery.formats import SPACE, is_number, number, ordinal, percent, rounded_text

PERCENT = f"{SPACE}%"


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One measurement of a picture, checked.

    Attributes:
        name: of the metric.
        value: 0.0 where it could not be measured; only the title of the wording is used then.
        n: how many were counted, or None where the record does not say.
        label: what the unit is called ("church"), or "".
        scale: what the value is counted in ("logit"), or "".
        detail: further entries of the record.
    """

    name: str
    value: float
    n: int | None
    label: str
    scale: str
    detail: Mapping[str, Any]


def detail_as_share(value: Any) -> str:
    """Returns an entry of the detail that is a share, in percent."""
    return f"{percent(value)}{PERCENT}" if is_number(value) else rounded_text(value)


def detail_as_guess(value: Any) -> str:
    """Returns an entry of the detail that is a rank among a network's guesses: `2nd guess`."""
    if is_number(value) and value >= 1:
        return f"{ordinal(round(value))} guess"
    return rounded_text(value)


@dataclass(frozen=True, kw_only=True)
class Wording:
    """A measurement in words.

    Attributes:
        title: of its row in a table.
        sentence: for readers.
        chip: the short form for under a picture.
        chip_names_n: whether `chip` holds n already.
        missing_chip: the short form where it could not be measured, or "" for the title with "not measured".
        tone: "good", "mixed", "poor", or "" where the value is neither.
        format_value: gives the value, or an end of its interval, without its unit.
        suffix: the unit, placed once behind a value and once behind an interval.
        stated: entries of the detail that the sentence states already.
        detail_names: what other entries are called on the page, by their keys.
        format_detail: gives the value of an entry of the detail.
    """

    title: str
    sentence: str
    chip: str
    chip_names_n: bool = False
    missing_chip: str = ""
    tone: str = ""
    format_value: Callable[[float], str] = number
    suffix: str = ""
    stated: tuple[str, ...] = ()
    detail_names: Mapping[str, str] = field(default_factory=dict)
    format_detail: Callable[[Any], str] = rounded_text


def grade(value: float, *, good: float, mixed: float) -> str:
    """Returns the tone of a value of which more is better.

    Args:
        value: the value.
        good: least good value.
        mixed: least mixed value; what is below is poor.
    """
    return "good" if value >= good else "mixed" if value >= mixed else "poor"


def count_of(share: float, n: int | None) -> int | None:
    """Returns how many of n a share is, or None where it is no whole number of n."""
    if not n or not 0 <= share <= 1 or abs(share * n - round(share * n)) > 0.02:
        return None
    return round(share * n)

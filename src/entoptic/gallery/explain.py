"""Measurements explained for a page: a sentence, the number with its interval and n, and the entries of its detail."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from entoptic.gallery.formats import SPACE
from entoptic.gallery.meanings import interval_in_words, meaning
from entoptic.gallery.sentences import SENTENCES, unknown
from entoptic.gallery.wording import Measurement, Wording
from entoptic.metrics.registry import headline_order

NOT_GIVEN = "not given"


_DIRECTIONS = {
    "higher": ("\N{UPWARDS ARROW}", "higher is better"),
    "lower": ("\N{DOWNWARDS ARROW}", "lower is better"),
}
_BEST_OF = "one rank of N samples of the prior"  # the distribution in records of the method best-of


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One measurement of one picture, ready for a page (plain text, not yet escaped).

    Attributes:
        name: of the metric.
        title: of its row in a table.
        sentence: what was measured in words, or why it could not be measured.
        value: with its unit, or None where it could not be measured.
        interval: with its unit, "exact", or `NOT_GIVEN`; "" without a value.
        n: how many were counted, or `NOT_GIVEN`.
        arrow: an up or down arrow by what is better, or "".
        better: the same in words, or "".
        detail: names and values of further entries.
        tone: "good", "mixed", "poor", or "" where the value is neither.
        chip: the short form for under a picture.
        chip_note: the interval, with n where `chip` lacks it; the reason where there is no value.
        number: the value as a number, or None where it could not be measured.
        meaning: what the metric tells, in one line, or "".
        interval_words: what the interval says, or "" where it is exact or not given.
    """

    name: str
    title: str
    sentence: str
    value: str | None
    interval: str
    n: str
    arrow: str
    better: str
    detail: tuple[tuple[str, str], ...]
    tone: str
    chip: str
    chip_note: str
    number: float | None = None
    meaning: str = ""
    interval_words: str = ""


def explain(measurement: Mapping[str, Any], *, label: str = "") -> Reading:
    """Returns one measurement of a sidecar in words.

    Args:
        measurement: name, value (number or None), n, interval (two numbers or None), direction, scale, reason and
            detail. Only the name is required. A name that is not known becomes the title.
        label: what the unit is called ("church"), or "".
    """
    value = measurement.get("value")
    finite = value if isinstance(value, (int, float)) and math.isfinite(value) else None
    given_n = measurement.get("n")
    n = int(given_n) if isinstance(given_n, (int, float)) and math.isfinite(given_n) else None
    detail = measurement.get("detail")
    asked = Measurement(
        name=str(measurement["name"]),
        value=0.0 if finite is None else finite,
        n=n,
        label=label,
        scale=str(measurement.get("scale") or ""),
        detail=_with_score_of_best_of(detail) if isinstance(detail, Mapping) else {},
    )
    wording = SENTENCES.get(asked.name, unknown)(asked)
    n_text = f"{n:,}" if n is not None else NOT_GIVEN
    arrow, better = _DIRECTIONS.get(str(measurement.get("direction")), ("", ""))
    entries = tuple(
        (wording.detail_names.get(str(key), str(key)), wording.format_detail(item))
        for key, item in asked.detail.items()
        if key not in wording.stated
    )
    if finite is None:
        fallback = "no reason was given" if value is None else f"it came out as {value}"
        reason = str(measurement.get("reason") or fallback)
        return Reading(
            name=asked.name,
            title=wording.title,
            sentence=f"Not measured: {reason.rstrip('.')}.",
            value=None,
            interval="",
            n=n_text,
            arrow=arrow,
            better=better,
            detail=entries,
            tone="",
            chip=wording.missing_chip or f"{wording.title.lower()} not measured",
            chip_note=reason,
            meaning=meaning(asked.name),
        )
    interval = _interval(measurement.get("interval"), wording)
    note = f"95{SPACE}% interval {interval}" if " to " in interval else interval
    note = note if interval != NOT_GIVEN else "interval not given"
    if not wording.chip_names_n:
        note = f"n{SPACE}{n_text}, {note}" if n is not None else f"n not given, {note}"
    return Reading(
        name=asked.name,
        title=wording.title,
        sentence=wording.sentence,
        value=wording.format_value(finite) + wording.suffix,
        interval=interval,
        n=n_text,
        arrow=arrow,
        better=better,
        detail=entries,
        tone=wording.tone,
        chip=wording.chip,
        chip_note=note,
        number=float(finite),
        meaning=meaning(asked.name),
        interval_words=interval_in_words(asked.name, interval, n),
    )


def _with_score_of_best_of(detail: Mapping[str, Any]) -> Mapping[str, Any]:
    """A detail as it is written now: in old records of best-of, the score of the one picture stands as a mean."""
    if detail.get("law") != _BEST_OF:
        return detail
    return {{"mean": "score", "mean_in_sd": "score_in_sd"}.get(str(key), key): item for key, item in detail.items()}


def _interval(bounds: Any, wording: Wording) -> str:
    if not isinstance(bounds, Sequence) or isinstance(bounds, str) or len(bounds) != 2:
        return NOT_GIVEN
    if not all(isinstance(bound, (int, float)) and math.isfinite(bound) for bound in bounds):
        return NOT_GIVEN
    if bounds[0] == bounds[1]:
        return "exact"
    return f"{wording.format_value(bounds[0])} to {wording.format_value(bounds[1])}{wording.suffix}"


def headline(readings: Sequence[Reading]) -> Reading | None:
    """Returns the one reading to show under a small picture, or None where nothing was measured."""
    measured = {reading.name: reading for reading in readings if reading.value is not None}
    for name in headline_order():
        if name in measured:
            return measured[name]
    return next(iter(measured.values()), None)

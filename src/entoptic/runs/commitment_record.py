"""What the result of a commitment holds: its curves, its evidence and the sheets of its pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from entoptic.base.estimates import wilson
from entoptic.metrics.evidence import Evidence, missing
from entoptic.sampling.commitment_curve import Crossing, Curve, window_of
from entoptic.sampling.switched_chains import Side

LEVELS = (0.5, 0.7)
"""Success rates at which a curve is said to cross."""
SHOWN = 6
"""Seeds whose pictures are shown."""
_LARGEST = 96
"""Pixels of a picture in a sheet, at most; larger ones are reduced."""
_EDGE = 16
"""Pictures are so many times as wide as the empty edge around them."""


class Threshold(NamedTuple):
    """The natural score above which a picture is a success."""

    value: float
    interval: tuple[float, float] | None
    n: int
    source: str


class Made(NamedTuple):
    """Pictures of the chains at one switch: B raw scores (NaN where a chain was lost) and B×3×h×w uint8."""

    scores: Tensor
    pictures: Tensor


def joined(parts: Sequence[Made]) -> Made:
    """Returns the chains of several batches as one."""
    return Made(torch.cat([one.scores for one in parts]), torch.cat([one.pictures for one in parts]))


def window_or_reason(curves: dict[Side, Curve], level: float) -> tuple[tuple[float, float] | None, str]:
    """Returns the window of guidance that keeps a success rate, or None and why there is none.

    Args:
        curves: of both sides.
        level: the success rate.
    """
    on, off = curves[Side.ON], curves[Side.OFF]
    if min(on.smooth[-1], off.smooth[0]) >= level:
        return None, f"without any guidance {on.rates[-1]:.0%} succeed already, and the window keeps {level:.0%}"
    found = window_of(on.crossing(level), off.crossing(level))
    if found is None:
        return None, f"with guidance at every step {on.rates[0]:.0%} succeed, and the window keeps {level:.0%}"
    start, end = round(found[0], 4), round(found[1], 4)
    return ((start, end), "") if start < end else (None, "guidance may begin where it may end: it matters at no step")


def harm_of(curves: dict[Side, Curve]) -> list[str]:
    """Returns in words where less guidance succeeds more often, so that the crossings of a curve mean little.

    Args:
        curves: of both sides.
    """
    found = []
    for side, curve in curves.items():
        if (turn := curve.turn()) is not None:
            whole, less = (f"{curve.rates[i]:.0%}" for i in (turn.whole, turn.switch))
            found.append(
                f"guidance at every step succeeds less ({whole}) than guidance that is switched {side} after "
                f"{curve.places[turn.switch]:.0%} of the steps ({less}; sign test, p = {turn.p:.1g}): some of it does harm, and "
                f"the crossings of the curve {side} mean little; try weaker guidance"
            )
    return found


def curve_record(curve: Curve, made: Sequence[Made], places: Sequence[int]) -> dict[str, Any]:
    """Returns a curve as JSON, with the scores and successes of every chain: a list for each switch."""
    return {
        "steps": list(places), "places": list(curve.places), "rates": curve.rates, "intervals": curve.intervals,
        "isotonic": list(curve.smooth), "n": len(curve.successes), "lost": int(sum(one.scores.isnan().sum() for one in made)),
        "crossings": {f"{level:g}": _crossing_record(curve.crossing(level)) for level in LEVELS},
        "scores": [[None if v != v else v for v in one.scores.tolist()] for one in made],
        "successes": curve.successes.int().T.tolist(),
    }  # fmt: skip


def _crossing_record(found: Crossing) -> dict[str, Any]:
    return {"place": found.place, "interval": list(found.interval), "below": found.below}


def evidence_of(
    curves: dict[Side, Curve], threshold: Threshold, inside: Tensor | None, why_no_window: str
) -> list[Evidence]:
    """Success with guidance always and never, the crossings of both curves, their widths, and success in the window."""
    on, off = curves[Side.ON], curves[Side.OFF]
    n = len(on.successes)
    found = [
        Evidence("success_guided", on.rates[0], n, on.intervals[0]),
        Evidence("success_unguided", on.rates[-1], n, on.intervals[-1], "none"),
    ]
    scale = "of the steps"
    for side, curve in ((Side.ON, on), (Side.OFF, off)):
        for level in LEVELS:
            name, crossing = f"tau{level * 100:.0f}_{side}", curve.crossing(level)
            if crossing.place is None:
                reason = f"at no switch do {level:.0%} succeed; at most {max(curve.smooth):.0%} do"
                found.append(missing(name, reason, direction="none", scale=scale))
                continue
            detail: dict[str, Any] = {"resamples below the level": crossing.below}
            found.append(Evidence(name, crossing.place, n, crossing.interval, "none", scale, detail=detail))
        width = curve.width(LEVELS[1], LEVELS[0])
        if width is None:
            often = max(curve.smooth) >= LEVELS[1]
            reason = f"{'in too many resamples' if often else 'in the curve'} fewer than {LEVELS[1]:.0%} succeed at every switch"
            found.append(missing(f"width_{side}", reason, direction="none", scale=scale))
        else:
            found.append(Evidence(f"width_{side}", width[0], n, width[1], "none", scale))
    if inside is None:
        return [*found, missing("success_in_window", why_no_window)]
    hits = int((inside > threshold.value).sum())
    return [*found, Evidence("success_in_window", hits / len(inside), len(inside), wilson(hits, len(inside)))]


def sheet(columns: Sequence[Made]) -> bytes:
    """Returns the pictures of the first seeds as one PNG: a row for each seed, a column for each switch."""
    rows = min(SHOWN, len(columns[0].pictures))
    tiles = [[_tile(column.pictures[row]) for column in columns] for row in range(rows)]
    edge = max(1, tiles[0][0].width // _EDGE)  # empty, on each side of a picture: the page draws its outlines there
    width, height = (side + 2 * edge for side in tiles[0][0].size)
    whole = Image.new("RGBA", (len(columns) * width, rows * height), (0, 0, 0, 0))
    for r, row in enumerate(tiles):
        for c, tile in enumerate(row):
            whole.paste(tile, (c * width + edge, r * height + edge))
    buffer = io.BytesIO()
    whole.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _tile(picture_3HW: Tensor) -> Image.Image:
    image = Image.fromarray(picture_3HW.permute(1, 2, 0).numpy())
    if max(image.size) > _LARGEST:
        image.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
    return image

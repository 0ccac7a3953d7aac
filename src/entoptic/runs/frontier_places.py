"""Where methods, selections and photos stand beside the frontier: mean score against nats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from entoptic.base.estimates import Estimate, exactly, mean_interval
from entoptic.errors import UserError
from entoptic.runs.store import Picture
from entoptic.runs.unit_items import trace_of
from entoptic.sampling.bank import Bank
from entoptic.sampling.frontier import Frontier, dv_bound, excess_nats
from entoptic.sampling.sampled_distribution import Kind, KlIs
from entoptic.sampling.tilt import selection_kl, selection_mean
from entoptic.sampling.unit_scores import UnitScores

FORMAT = 1


TOP = 9  # pictures of top-K selection: the sheet of nine that papers show


_CURVE, _BEYOND = 33, 8  # points up to the budget, and beyond it


@dataclass(frozen=True)
class FrontierScale:
    """What places are measured with. own: M float64, standardised scores of the bank."""

    frontier: Frontier
    scores: UnitScores
    bank: Bank
    own: Tensor


def curve_record(measured: Frontier, scores: UnitScores, budget: float) -> dict[str, Any]:
    """Points evenly spaced in √nats, where the curve is close to straight, with the interval of the mean at each.

    They go on a little beyond the budget where the scores support it, with intervals that are less to be relied on.
    """
    end = min(budget, measured.support_limit.nats)
    most = min(1.3 * budget, measured.support_limit.nats)
    nats = [end * (i / (_CURVE - 1)) ** 2 for i in range(_CURVE)]
    nats += [end + (most - end) * i / _BEYOND for i in range(1, _BEYOND + 1)] if most > end else []
    points = []
    for value in nats:
        try:
            point = measured.at_nats(value)
        except UserError:  # a gap in what the scores support
            continue
        points.append(point.to_json() | {"mean_raw": in_raw_units(point.mean, scores)})
    return {
        "islands": measured.islands, "scores": len(measured.scores), "reach": measured.support_limit._asdict(),
        "cross_check": measured.cross_check.to_json() if measured.cross_check else None, "points": points,
    }  # fmt: skip


def in_raw_units(mean: Estimate, scores: UnitScores) -> dict[str, Any]:
    """A mean in standard deviations, in units of the raw score."""
    centre, sd = float(scores.centre[0]), float(scores.scale[0])
    interval = None if mean.interval is None else [centre + sd * v for v in mean.interval]
    return Estimate(centre + sd * mean.value, sd * mean.se, interval).to_json()  # type: ignore[arg-type]


def _placed(
    title: str, nats: Estimate, mean: Estimate, scale: FrontierScale, note: str, *, is_tilt: bool = False
) -> dict[str, Any]:
    """The place of a law of known nats; a tilt's excess is 0 by what it is."""
    excess: dict[str, Any]
    if is_tilt:
        excess = {**exactly(0.0).to_json(), "reason": "a tilt is the frontier; the interval is that of its place"}
    else:
        try:
            excess = excess_nats(
                nats.value, mean.value, scale.frontier, nats_se=nats.se, mean_se=mean.se
            ).to_json()  # fmt: skip
        except UserError as error:
            excess = {"value": None, "reason": str(error)}
    return {
        "kind": "law", "title": title, "nats": nats.to_json(), "mean": mean.to_json(),
        "mean_raw": in_raw_units(mean, scale.scores), "excess": excess, "note": note,
    }  # fmt: skip


def selections(scale: FrontierScale) -> list[dict[str, Any]]:
    """Laws that the bank places by itself: best of N, top K, and its own tilt as far as it goes."""
    places, size = [], len(scale.own)
    most = size // 2  # what `selection_mean` can estimate
    counts = sorted({count for count in (10, 100, most) if 2 <= count <= most})
    for count in counts:
        try:
            mean = selection_mean(scale.own, count, 1)
        except UserError:  # a bank of fewer than 64
            continue
        note = "the best of N samples of the prior"
        places.append(_placed(f"best of {count:,}", exactly(selection_kl(count, 1)), mean, scale, note))
        if count > TOP + 1:
            mean = selection_mean(scale.own, count, TOP)
            note = "one of the K best of N samples of the prior, at random: retrieval"
            places.append(_placed(f"top {TOP} of {count:,}", exactly(selection_kl(count, TOP)), mean, scale, note))
    limit = Frontier.from_bank(scale.own).support_limit
    if limit.nats <= scale.frontier.support_limit.nats:
        point = scale.frontier.at_nats(limit.nats)
        note = "retrieval reweighted by exp(β s) is on the frontier up to here, where 20 effective samples are left"
        places.append(_placed("reweighted bank", point.nats, point.mean, scale, note, is_tilt=True))
    return places


def place_of(title: str, pictures: Sequence[Picture], scale: FrontierScale, prior: str) -> dict[str, Any]:
    """Returns the place of a method's pictures beside the frontier, by what is recorded of their distribution.

    Args:
        title: of the method.
        pictures: of one unit, by one method.
        scale: that scores and divergences are measured with.
        prior: name of the frontier's prior.

    Raises:
        UserError: a picture's score is not finite.
    """
    found = [float(v) for v in scale.scores.of(scale.scores.all(stack_pictures(pictures))[:, 0].cpu())]
    if not all(math.isfinite(v) for v in found):
        raise UserError("a picture's score is not finite")
    mean = _mean_of(found)
    about: dict[str, Any] = {
        "title": title,
        "scores": found,
        "mean": mean.to_json(),
        "mean_raw": in_raw_units(mean, scale.scores),
    }
    distributions = [trace_of(p.record).distribution for p in pictures]
    known = distributions[0]
    if known is None or None in distributions:
        why = "one optimised picture is a point mass: no number of nats bounds its distance from any prior"
        return about | {"kind": "point", "nats": None, "excess": None, "note": why}
    if known.prior != prior:
        why = f"its law is told against another prior: {known.prior}"
        return about | {"kind": "level", "nats": None, "excess": None, "note": why}
    if known.kind is Kind.SELECTION:  # best-of: the ranks shown are the top K of the whole bank
        note = f"ranks 1 to {len(pictures)} of {known.n:,} samples; the mean is of this one draw and has no interval"
        drawn = Estimate(mean.value, math.inf, None)
        name = f"top {len(pictures)} of {known.n:,}" if len(pictures) > 1 else f"best of {known.n:,}"
        return about | _placed(name, exactly(selection_kl(known.n, len(pictures))), drawn, scale, note)
    if known.kl is not None and known.mean_in_sd is not None:
        if known.kl_is is KlIs.UPPER_BOUND or known.kind is Kind.CONDITIONAL:  # of old records only the kind says it
            return about | _bounded(title, known.kl, known.mean_in_sd, scale, known.description)
        is_tilt = known.generator_steps is not None  # of the few-step map of this very prior
        return about | _placed(title, known.kl, known.mean_in_sd, scale, known.description, is_tilt=is_tilt)
    least = dv_bound(mean.value, scale.frontier, mean_se=mean.se)
    paths = [one.path_kl for one in distributions if one is not None]
    most = _mean_of([float(v) for v in paths if v is not None]) if None not in paths else None
    if most is not None and not math.isfinite(most.value):
        most = None
    note = "nats between the least that the mean score of its pictures costs"
    note += " and those of its path without its last step" if most else "; its path is not recorded"
    note += f". {known.refused}" if known.refused else ""
    return about | {
        "kind": "bounds", "nats": least.to_json(), "path_nats": most.to_json() if most else None, "note": note,
        "excess": {"value": None, "reason": "nothing bounds the nats of its last step from above"},
    }  # fmt: skip


def _bounded(title: str, most: Estimate, mean: Estimate, scale: FrontierScale, note: str) -> dict[str, Any]:
    """The place of a law of known mean score and an upper bound on its nats."""
    se = math.inf if mean.interval is None else (mean.interval[1] - mean.interval[0]) / (2 * 1.96)
    least = dv_bound(mean.value, scale.frontier, mean_se=se)
    try:
        excess = excess_nats(most.value, mean.value, scale.frontier, mean_se=se).to_json() | {
            "reason": "an upper bound"
        }
    except UserError as error:
        excess = {"value": None, "reason": str(error)}
    return {
        "kind": "bounds", "title": title, "nats": least.to_json(), "path_nats": most.to_json(), "whole": True,
        "mean": mean.to_json(), "mean_raw": in_raw_units(mean, scale.scores), "excess": excess, "note": note,
    }  # fmt: skip


def _mean_of(values: Sequence[float]) -> Estimate:
    """Of independent pictures; of one there is no error to be told."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return Estimate(mean, math.inf, None)
    se = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
    return Estimate(mean, se, mean_interval(list(values)))


def stack_pictures(pictures: Sequence[Picture]) -> Tensor:
    """n×3×H×W in [0, 1], as saved."""
    return torch.stack([torch.from_numpy(p.pixels.copy()).permute(2, 0, 1).float() / 255 for p in pictures])

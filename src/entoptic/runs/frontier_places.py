"""Where methods, selections and photos stand beside the frontier: mean score against nats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from entoptic.base.estimates import Estimate, mean_interval
from entoptic.errors import UserError
from entoptic.methods.prior_sampling import MAP_STEPS
from entoptic.runs.store import Picture
from entoptic.sampling.bank import Bank
from entoptic.sampling.frontier import Frontier, dv_bound, excess_nats
from entoptic.sampling.tilt import selection_kl, selection_mean
from entoptic.sampling.unit_scores import UnitScores

FORMAT = 1


TOP = 9  # pictures of top-K selection: the sheet of nine that papers show


_CURVE, _BEYOND = 33, 8  # points up to the budget, and beyond it


@dataclass(frozen=True)
class _FrontierScale:
    """What places are measured with. own: M float64, standardised scores of the bank."""

    frontier: Frontier
    scores: UnitScores
    bank: Bank
    own: Tensor


def _curve(measured: Frontier, scores: UnitScores, budget: float) -> dict[str, Any]:
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
        points.append(point.to_json() | {"mean_raw": _raw(point.mean, scores)})
    return {
        "islands": measured.islands, "scores": len(measured.scores), "reach": measured.support_limit._asdict(),
        "cross_check": measured.cross_check.to_json() if measured.cross_check else None, "points": points,
    }  # fmt: skip


def _raw(mean: Estimate, scores: UnitScores) -> dict[str, Any]:
    """A mean in standard deviations, in units of the raw score."""
    centre, sd = float(scores.centre[0]), float(scores.scale[0])
    interval = None if mean.interval is None else [centre + sd * v for v in mean.interval]
    return Estimate(centre + sd * mean.value, sd * mean.se, interval).to_json()  # type: ignore[arg-type]


def _exactly(value: float) -> Estimate:
    return Estimate(value, 0.0, (value, value))


def _law(
    title: str, nats: Estimate, mean: Estimate, ruler: _FrontierScale, note: str, *, is_tilt: bool = False
) -> dict[str, Any]:
    """The place of a law of known nats; a tilt's excess is 0 by what it is."""
    excess: dict[str, Any]
    if is_tilt:
        excess = {**_exactly(0.0).to_json(), "reason": "a tilt is the frontier; the interval is that of its place"}
    else:
        try:
            excess = excess_nats(
                nats.value, mean.value, ruler.frontier, nats_se=nats.se, mean_se=mean.se
            ).to_json()  # fmt: skip
        except UserError as error:
            excess = {"value": None, "reason": str(error)}
    return {
        "kind": "law", "title": title, "nats": nats.to_json(), "mean": mean.to_json(),
        "mean_raw": _raw(mean, ruler.scores), "excess": excess, "note": note,
    }  # fmt: skip


def _selections(ruler: _FrontierScale) -> list[dict[str, Any]]:
    """Laws that the bank places by itself: best of N, top K, and its own tilt as far as it goes."""
    places, size = [], len(ruler.own)
    most = size // 2  # what `selection_mean` can estimate
    counts = sorted({count for count in (10, 100, most) if 2 <= count <= most})
    for count in counts:
        try:
            mean = selection_mean(ruler.own, count, 1)
        except UserError:  # a bank of fewer than 64
            continue
        note = "the best of N samples of the prior"
        places.append(_law(f"best of {count:,}", _exactly(selection_kl(count, 1)), mean, ruler, note))
        if count > TOP + 1:
            mean = selection_mean(ruler.own, count, TOP)
            note = "one of the K best of N samples of the prior, at random: retrieval"
            places.append(_law(f"top {TOP} of {count:,}", _exactly(selection_kl(count, TOP)), mean, ruler, note))
    limit = Frontier.from_bank(ruler.own).support_limit
    if limit.nats <= ruler.frontier.support_limit.nats:
        point = ruler.frontier.at_nats(limit.nats)
        note = "retrieval reweighted by exp(β s) is on the frontier up to here, where 20 effective samples are left"
        places.append(_law("reweighted bank", point.nats, point.mean, ruler, note, is_tilt=True))
    return places


def _place(title: str, pictures: Sequence[Picture], ruler: _FrontierScale, prior: str) -> dict[str, Any]:
    """The place of a method by its pictures' records: what they say of their law decides the kind."""
    laws = [p.record["trace"].get("selection") for p in pictures]
    found = [float(v) for v in ruler.scores.of(ruler.scores.all(_stack(pictures))[:, 0].cpu())]
    if not all(math.isfinite(v) for v in found):
        raise UserError("a picture's score is not finite")
    mean = _mean_of(found)
    about: dict[str, Any] = {
        "title": title,
        "scores": found,
        "mean": mean.to_json(),
        "mean_raw": _raw(mean, ruler.scores),
    }
    law = laws[0]
    if not all(isinstance(one, dict) for one in laws) or law is None:
        why = "one optimised picture is a point mass: no number of nats bounds its distance from any prior"
        return about | {"kind": "point", "nats": None, "excess": None, "note": why}
    if law.get("prior") != prior:
        why = f"its law is told against another prior: {law.get('prior')}"
        return about | {"kind": "level", "nats": None, "excess": None, "note": why}
    if law.get("rank") is not None:  # best-of: the ranks shown are the top K of the whole bank
        count = int(law["N"])
        nats = _exactly(selection_kl(count, len(pictures)))
        note = f"ranks 1 to {len(pictures)} of {count:,} samples; the mean is of this one draw and has no interval"
        drawn = Estimate(mean.value, math.inf, None)
        name = f"top {len(pictures)} of {count:,}" if len(pictures) > 1 else f"best of {count:,}"
        return about | _law(name, nats, drawn, ruler, note)
    if law.get("nats") is not None and law.get("mean_in_sd") is not None:
        if law.get("beta") is None:  # not a tilt: prompts, whose nats are those of their paths
            nats, at = _stated(law, "nats"), _stated(law, "mean_in_sd")
            return about | _under(title, nats, at, ruler, str(law["law"]))
        is_tilt = law.get("generator_steps") == MAP_STEPS  # of this very prior
        nats, at = (_stated(law, name) for name in ("nats", "mean_in_sd"))
        return about | _law(title, nats, at, ruler, str(law.get("law", "")), is_tilt=is_tilt)
    least = dv_bound(mean.value, ruler.frontier, mean_se=mean.se)
    paths = [one.get("path_nats_before_last_step") for one in laws]
    most = _mean_of([float(v) for v in paths]) if all(isinstance(v, int | float) for v in paths) else None
    if most is not None and not math.isfinite(most.value):
        most = None
    note = "nats between the least that the mean score of its pictures costs"
    note += " and those of its path without its last step" if most else "; its path is not recorded"
    note += f". {law['refused']}" if law.get("refused") else ""
    return about | {
        "kind": "bounds", "nats": least.to_json(), "path_nats": most.to_json() if most else None, "note": note,
        "excess": {"value": None, "reason": "nothing bounds the nats of its last step from above"},
    }  # fmt: skip


def _under(title: str, most: Estimate, mean: Estimate, ruler: _FrontierScale, note: str) -> dict[str, Any]:
    """The place of a law of known mean score and an upper bound on its nats."""
    se = math.inf if mean.interval is None else (mean.interval[1] - mean.interval[0]) / (2 * 1.96)
    least = dv_bound(mean.value, ruler.frontier, mean_se=se)
    try:
        excess = excess_nats(most.value, mean.value, ruler.frontier, mean_se=se).to_json() | {
            "reason": "an upper bound"
        }
    except UserError as error:
        excess = {"value": None, "reason": str(error)}
    return {
        "kind": "bounds", "title": title, "nats": least.to_json(), "path_nats": most.to_json(), "whole": True,
        "mean": mean.to_json(), "mean_raw": _raw(mean, ruler.scores), "excess": excess, "note": note,
    }  # fmt: skip


def _mean_of(values: Sequence[float]) -> Estimate:
    """Of independent pictures; of one there is no error to be told."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return Estimate(mean, math.inf, None)
    se = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
    return Estimate(mean, se, mean_interval(list(values)))


def _stated(law: dict[str, Any], name: str) -> Estimate:
    """A number of a sampler's record with its interval."""
    interval = law.get(f"{name}_interval")
    return Estimate(float(law[name]), math.inf, tuple(interval) if interval else None)


def _stack(pictures: Sequence[Picture]) -> Tensor:
    """n×3×H×W in [0, 1], as saved."""
    return torch.stack([torch.from_numpy(p.pixels.copy()).permute(2, 0, 1).float() / 255 for p in pictures])

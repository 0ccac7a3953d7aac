"""Evidence of a steered picture: effect, attenuation, leakage, affected area, logit changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from entoptic.base.estimates import mean_interval, wilson
from entoptic.inversion.calibration import Calibration
from entoptic.inversion.null_edits import OWN_SIZE
from entoptic.inversion.steer import Steering
from entoptic.metrics.evidence import Evidence, missing
from entoptic.metrics.registry import EDIT, measure_all, metric
from entoptic.metrics.registry import card as metric_card
from entoptic.models.card import Card


@dataclass(frozen=True, kw_only=True, eq=False)
class EditPicture:
    """One picture of a steered concept, as the metrics read it.

    Attributes:
        made: what steering decoded and what the network sees in it.
        names: of the dictionary's concepts.
        card: of the network.
    """

    made: Steering
    names: Sequence[str]
    card: Card


def measure_steering(made: Steering, names: Sequence[str], card: Card) -> list[Evidence]:
    """Returns the evidence of one steered concept.

    Args:
        made: what steering decoded and what the network sees in it.
        names: of the dictionary's concepts.
        card: of the network.
    """
    return measure_all(EDIT, EditPicture(made=made, names=names, card=card))


@metric(
    metric_card("effect_p", "More than a random edit", direction="lower", targets={EDIT}),
    metric_card("detectable_effect", "Least effect that is found", direction="lower", targets={EDIT}),
    metric_card("affected_area", "Affected region", direction="none", targets={EDIT}),
    metric_card("attenuation", "Of the concept left", direction="none", targets={EDIT}),
    metric_card("leakage", "Other concepts", direction="lower", targets={EDIT}),
    metric_card("logit_change", "Change of the logit", unit="logit", direction="none", targets={EDIT}),
    metric_card("map_cosine", "Cosine of the decoded map", targets={EDIT}),
)
def steering_evidence(picture: EditPicture) -> list[Evidence]:
    """Returns whether an edit is more than chance, how much of it arrived, and what else moved."""
    found, names, card = picture.made, picture.names, picture.card
    n, at = len(found.originals_n3SS), found.at
    asked = {"asked": found.scale}
    if found.calibration is None:
        chance = missing(
            "effect_p",
            "not measured: no random edits were asked for (nulls 0); 19 are enough for a p-value",
            direction="lower",
        )
        area_by: dict[str, Any] = {
            "rule": "a third of the maximum, as the paper displays it, which flags pixels of any edit"
        }
    else:
        c = found.calibration
        exceeded = round(c.p_value * (c.count + 1)) - 1
        sized = {"size of the test": c.size} if _states_power(c) else {}
        chance = Evidence(
            "effect_p", c.p_value, c.count, wilson(exceeded, c.count), "lower",
            detail={"random edits as unusual": c.count, "dimension": found.dimension, **sized}
            | ({"flagged from": c.flagged_from} if _states_power(c) else {}),
        )  # fmt: skip
        area_by = {"rule": "above the largest pixel of random edits", "false alarms": c.rate, **sized}
    area = float(found.affected_SS.float().mean())
    if not found.share:
        none = "the photo's map has nothing of this concept"
        loop = [missing(name, none, direction="none") for name in ("attenuation", "leakage", "logit_change")]
    else:
        top = int(found.logits_nL.mean(0).argmax())
        label = card.label(top) or f"logits:{top}"
        others = {
            str(names[j]): _mean(found.leakage_AnK[at, :, j]) for j in _largest(found.norms_nK.mean(0), found.concept)
        }
        loop = [
            _over_seeds("attenuation", found.attenuation_An[at], "none", asked),
            _over_seeds("leakage", found.leakage_An[at], "lower", {k: v for k, v in others.items() if v is not None}),
            _over_seeds("logit_change", found.change_AnL[at, :, top], "none", {"class": label}, scale="logit"),
        ]
    return [
        chance,
        *([_detectable(found.calibration)] if found.calibration and _states_power(found.calibration) else []),
        Evidence("affected_area", area, n, (area, area), "none", detail=area_by),
        *loop,
        _over_seeds("map_cosine", found.cosine_n, "higher", {}),
    ]


def _states_power(calibration: Calibration) -> bool:
    """Whether records of this version of the test hold its size and its power; those of the first do not."""
    return calibration.test.version > OWN_SIZE.version


def _detectable(calibration: Calibration) -> Evidence:
    found = calibration.detectable
    if calibration.size is None:
        return missing("detectable_effect", "the photo's map has nothing of this concept", direction="lower")
    if found is None:
        return missing("detectable_effect", "too few random edits, or most change nothing", direction="lower")
    if found.interval is None:
        return missing(
            "detectable_effect", f"{found.n} random edits are too few for an interval; 17 are enough", direction="lower"
        )
    return Evidence(
        "detectable_effect", found.value, found.n, found.interval, "lower", detail={"power": found.power}
    )  # fmt: skip


def _over_seeds(name: str, values_n: Tensor, direction: str, detail: dict[str, Any], scale: str = "") -> Evidence:
    values = [float(v) for v in values_n if math.isfinite(v)]
    if not values:
        return missing(name, "the network sees nothing of the concept in the decoded originals", direction=direction)
    # One seed has no interval to give.
    interval = mean_interval(values) if len(values) > 1 else None
    return Evidence(name, sum(values) / len(values), len(values), interval, direction, scale, detail=detail)


def _mean(values_n: Tensor) -> float | None:
    finite = values_n[values_n.isfinite()]
    return float(finite.mean()) if len(finite) else None


def _largest(norms_K: Tensor, k: int, most: int = 8) -> list[int]:
    return [j for j in norms_K.argsort(descending=True).tolist() if j != k][:most]


def numbers(found: Steering, names: Sequence[str], card: Card) -> dict[str, Any]:
    """Returns the sweep and the classes, JSON-able: what the page's tables are made of.

    Args:
        found: what steering decoded and what the network sees in it.
        names: of the dictionary's concepts.
        card: of the network.
    """

    def entry(values_n: Tensor) -> dict[str, Any] | None:
        values = [float(v) for v in values_n if math.isfinite(v)]
        if not values:
            return None
        interval = list(mean_interval(values)) if len(values) > 1 else None
        return {"value": sum(values) / len(values), "interval": interval, "n": len(values)}

    top = int(found.logits_nL.mean(0).argmax())
    movers = found.change_AnL[found.at].mean(0).abs().argsort(descending=True)[:5].tolist()
    c = found.calibration
    return {
        "concept": found.concept, "name": found.name, "scale": found.scale, "share": found.share,
        "dimension": found.dimension, "seeds": len(found.originals_n3SS), "largest": float(found.delta_SS.max()),
        "spread": float(found.spread_SS.mean()) if found.spread_SS is not None else None,
        "calibration": None if c is None else _calibration(c),
        "top": card.label(top) or f"logits:{top}",
        "sweep": [
            {
                "scale": a, "delta": float(found.delta_ASS[i].mean()), "attenuation": entry(found.attenuation_An[i]),
                "leakage": entry(found.leakage_An[i]), "top": entry(found.change_AnL[i, :, top]),
            }
            for i, a in enumerate(found.scales)
        ],
        "classes": [
            {"label": card.label(c) or f"logits:{c}", "change": entry(found.change_AnL[found.at, :, c])} for c in movers
        ],
        "others": [
            {"name": str(names[j]), "change": entry(found.leakage_AnK[found.at, :, j])}
            for j in _largest(found.norms_nK.mean(0), found.concept)
        ],
    }  # fmt: skip


def _calibration(c: Calibration) -> dict[str, Any]:
    ranks = {"p_value": c.p_value, "nulls": c.count, "level": c.level, "rate": c.rate, "threshold": c.threshold}
    if not _states_power(c):
        return ranks
    least = c.detectable
    return ranks | {
        "version": c.test.version, "size": c.size, "peak": c.peak, "flagged_from": c.flagged_from,
        "detectable": None if least is None else {
            "value": least.value, "interval": list(least.interval) if least.interval else None, "n": least.n,
            "power": least.power,
        },
    }  # fmt: skip

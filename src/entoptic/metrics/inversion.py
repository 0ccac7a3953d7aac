"""How well pictures bring back the feature map that they were made from, and what the network says to them.

Numbers that the making of a picture has looked at (the cosine that chose it among N, the network that pulled it) say so
in their detail: they flatter it, and only other networks can tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from entoptic.base.estimates import mean_interval, wilson
from entoptic.base.pixels import to_float
from entoptic.errors import UserError
from entoptic.inversion.map_gaussian import FeatureMapGaussian
from entoptic.inversion.maps import FeatureMaps, position_cosines
from entoptic.inversion.targets import InversionTarget
from entoptic.metrics.distribution import frechet, kid, kid_interval
from entoptic.metrics.evidence import Evidence, missing
from entoptic.metrics.registry import MAP, VERIFIERS, card, measure_all, metric
from entoptic.models.model import Model, predictions

if TYPE_CHECKING:
    from entoptic.inversion.inverter import Inverter

Standardise = Callable[[Tensor], Tensor]
"""Maps B×C×h×w to the same with channels of mean 0 and standard deviation 1 over photos (`Inverter.standardise`)."""


# --- what networks say ---------------------------------------------------------------------------------------------


def match_ranks(logits_NK: Tensor, targets_N: Tensor) -> Tensor:
    """Ranks each target among the logits, from 1: one more than the number of logits strictly above it."""
    own_N1 = logits_NK.gather(1, targets_N[:, None])
    return 1 + (logits_NK > own_N1).sum(1)


def cross_match(
    models: Sequence[Model], originals_N3HW: Tensor, pictures_N3HW: Tensor, *, batch_size: int = 25
) -> dict[str, tuple[Evidence, Evidence]]:
    """Share of pictures whose original's prediction is the first, and among the first five, by each network.

    The target is each network's own prediction on the original, so networks with other labels may judge.

    Returns:
        By the network's name: (`match_top1`, `match_top5`), n = N, Wilson intervals.
    """
    if len(originals_N3HW) != len(pictures_N3HW):
        raise UserError(f"expected a picture for each original, got {len(pictures_N3HW)} for {len(originals_N3HW)}")
    found = {}
    for model in models:
        targets = predictions(model, originals_N3HW, batch_size).argmax(1)
        found[model.card.name] = matches(match_ranks(predictions(model, pictures_N3HW, batch_size), targets))
    return found


def matches(ranks_N: Tensor) -> tuple[Evidence, Evidence]:
    """(`match_top1`, `match_top5`) of pictures with these ranks of their targets, n = N, Wilson intervals."""
    return _share("match_top1", ranks_N <= 1), _share("match_top5", ranks_N <= 5)


def cross_matrix(
    models: Sequence[Model], originals_N3HW: Tensor, pictures: Mapping[str, Tensor], *, batch_size: int = 25
) -> dict[str, dict[str, tuple[Evidence, Evidence]]]:
    """`cross_match` of several sets of pictures N×3×H×W, each made from the maps of the network that names it.

    Returns:
        [network inverted][network that judges]: a column that only its own row does well in has been gamed.
    """
    return {name: cross_match(models, originals_N3HW, made, batch_size=batch_size) for name, made in pictures.items()}


def mean_cosine(name: str, cosines_N: Tensor) -> Evidence:
    """A set's mean cosine, with Student's interval over its pictures."""
    values = cosines_N.double().tolist()
    detail = {"median": float(cosines_N.median()), "least": min(values)}
    return Evidence(name, sum(values) / len(values), len(values), mean_interval(values), "higher", "", detail=detail)


def distances(made_NC: Tensor, real_MC: Tensor) -> tuple[Evidence, Evidence]:
    """(`frechet`, `kid`) of pictures from photos in pooled features; the latter with the jackknife's interval."""
    n = len(made_NC)
    detail = {"photos": len(real_MC)}
    biased = {"interval": "none: it is biased up for small sets, and no resampling shows by how much"}
    return (
        Evidence("frechet", frechet(made_NC, real_MC), n, None, "lower", detail=detail | biased),
        Evidence("kid", kid(made_NC, real_MC), n, kid_interval(made_NC, real_MC), "lower", detail=detail),
    )


def _share(name: str, hits_N: Tensor) -> Evidence:
    hits, n = int(hits_N.sum()), len(hits_N)
    return Evidence(name, hits / n, n, wilson(hits, n), "higher")


# --- what the layer does not determine -----------------------------------------------------------------------------


def sample_sd(pictures_N3HW: Tensor) -> Tensor:
    """Standard deviation over N ≥ 2 samples at each pixel, H×W: root of the mean over RGB of the unbiased variance."""
    if len(pictures_N3HW) < 2:
        raise UserError(f"a spread over samples needs at least 2, got {len(pictures_N3HW)}")
    return pictures_N3HW.double().var(0).mean(0).sqrt().float()


def spread(pictures_N3HW: Tensor, selected: str = "") -> Evidence:
    """`sample_sd`, mean over pixels: what the map leaves open, in units of the range of pixels.

    The interval is the jackknife's over samples. It is no error: a layer that has lost the colours should give many.

    selected: how each sample was chosen among several, which narrows the spread.
    """
    n = len(pictures_N3HW)
    if n < 3:
        return missing("sample_sd", f"it needs 3 samples of the same map, there are {n}", direction="none")
    each = pictures_N3HW.double()
    value = float(sample_sd(each).mean())
    # Sums instead of n copies: the variance without one sample, from those of all.
    total, squares = each.sum(0), each.square().sum(0)
    left_out = torch.stack([
        ((squares - x.square() - (total - x).square() / (n - 1)) / (n - 2)).clamp_min(0).mean(0).sqrt().mean()
        for x in each
    ])  # fmt: skip
    error = 1.96 * math.sqrt((n - 1) / n * float((left_out - left_out.mean()).square().sum()))
    detail = {"selected": selected} if selected else {}
    return Evidence("sample_sd", value, n, (max(0.0, value - error), value + error), "none", "of 1", detail=detail)


# --- one picture ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class MapPicture:
    """One saved picture that is to bring back a feature map, as the metrics read it.

    Attributes:
        pixels: H×W×3 uint8, exactly as saved.
        wanted: what it is to bring back.
        maps: of the network that was inverted.
        standardise: maps with the inverter's moments.
        law: distribution of photos' maps, or None.
        image: 1×3×H×W in [0, 1].
        found_1Chw: the picture's map.
        want_1Chw: the map that is wanted.
        logits_1K: the network's answer to the picture.
    """

    pixels: np.ndarray
    wanted: InversionTarget
    maps: FeatureMaps
    standardise: Standardise
    law: FeatureMapGaussian | None
    image: Tensor
    found_1Chw: Tensor
    want_1Chw: Tensor
    logits_1K: Tensor


@torch.no_grad()
def measure_inversion(
    picture: np.ndarray,
    wanted: InversionTarget,
    maps: FeatureMaps,
    standardise: Standardise,
    law: FeatureMapGaussian | None,
) -> list[Evidence]:
    """Returns the evidence of one picture, from its pixels as saved.

    Args:
        picture: H×W×3 uint8.
        wanted: what it is to bring back.
        maps: of the network that was inverted.
        standardise: maps with the inverter's moments.
        law: distribution of photos' maps, or None.
    """
    image = to_float(picture)
    return measure_all(MAP, MapPicture(
        pixels=picture, wanted=wanted, maps=maps, standardise=standardise, law=law, image=image,
        found_1Chw=maps.read(image).cpu(), want_1Chw=wanted.map_Chw[None].cpu(), logits_1K=predictions(maps.model, image),
    ))  # fmt: skip


def _cosine(name: str, cosines_hw: Tensor, looked_at: str) -> Evidence:
    value, n = float(cosines_hw.mean()), cosines_hw.numel()
    detail: dict[str, object] = {
        "median": round(float(cosines_hw.median()), 6),
        "least": round(float(cosines_hw.min()), 6),
    }
    if looked_at:
        detail["selected"] = looked_at
    # All positions are there: the mean is no estimate.
    return Evidence(name, value, n, (value, value), "higher", "", detail=detail)


def own_match(logits_1K: Tensor, wanted: InversionTarget, model: Model) -> list[Evidence]:
    """Whether the network says to the picture what it says to the original (or its head to an edited map)."""
    rank = int(match_ranks(logits_1K, torch.tensor([wanted.target]))[0])
    detail: dict[str, object] = {"rank": rank, "class": model.card.label(wanted.target) or wanted.target}
    if wanted.looked_at:
        detail["selected"] = wanted.looked_at
    return [_exact(f"match_top{k}", float(rank <= k), detail=detail) for k in (1, 5)]


def others_match(image: Tensor, wanted: InversionTarget) -> list[Evidence]:
    """Share of other networks that say to the picture what each says to the original."""
    names = ("others_match_top1", "others_match_top5")
    if not wanted.others:
        why = "an edited map is no photo's, so other networks have no answer to match" if wanted.path else (
            "no other network was given"
        )  # fmt: skip
        return [missing(name, why) for name in names]
    ranks = {
        judge.card.name: int(match_ranks(predictions(judge, image), torch.tensor([target]))[0])
        for judge, target in wanted.others
    }
    n = len(ranks)
    return [
        Evidence(name, hits / n, n, wilson(hits, n), "higher", "", detail=dict(ranks))
        for name, k in zip(names, (1, 5))
        for hits in [sum(rank <= k for rank in ranks.values())]
    ]


def class_path(logits_1K: Tensor, wanted: InversionTarget, model: Model) -> list[Evidence]:
    """Probabilities of the mixed photos' classes on the picture, beside what the head gives the map itself."""
    found = logits_1K.double().softmax(1)[0]
    names = ("probability_a", "probability_b")
    return [
        _exact(
            name, float(found[place]), direction="none",
            detail={"class": model.card.label(place) or place, "head of the map": round(head, 6)},
        )
        for name, (place, head) in zip(names, wanted.path)
    ]  # fmt: skip


def edit_evidence(picture: np.ndarray, cosines_hw: Tensor, wanted: InversionTarget) -> list[Evidence]:
    """Of a map with a part put in: cosines inside and outside, and how local the change of the picture is."""
    from entoptic.inversion.arithmetic import locality, pixel_change

    mask = wanted.mask_hw
    assert mask is not None
    evidence = []
    for name, where in (("cosine_inside", mask), ("cosine_outside", ~mask)):
        if where.any():
            value = float(cosines_hw[where].mean())
            evidence.append(Evidence(name, value, int(where.sum()), (value, value), "higher"))
        else:
            evidence.append(missing(name, "the region leaves no position there"))
    if wanted.before is None:
        return [*evidence, missing("locality", "the picture without the edit is not there")]
    curve = locality(pixel_change(to_float(wanted.before)[0], to_float(picture)[0]), mask)
    detail = {
        "inside": round(curve.inside, 6), "outside": round(curve.outside, 6),
        "by distance": {f"{d:g}": round(c, 6) for d, c in zip(curve.distances, curve.changes)},
    }  # fmt: skip
    if curve.ratio is None:
        why = "nothing lies farther than a cell from the region" if math.isnan(curve.outside) else (
            "the picture did not change outside the region"
        )  # fmt: skip
        return [*evidence, missing("locality", why)]
    n = round(sum(curve.pixels))
    return [*evidence, Evidence("locality", curve.ratio, n, (curve.ratio, curve.ratio), "higher", "", detail=detail)]


def map_typicality(wanted_1Chw: Tensor, found_1Chw: Tensor | None, law: FeatureMapGaussian | None) -> Evidence:
    """Share of photos' maps that are nearer to the centre of their law than the map wanted, in %.

    Uniform over 0 to 100 for photos, so both ends are unusual: the detail's `tail` is the share of photos that are at
    least as far out to either side. `picture` is the percentile of what the picture itself has in the layer.
    """
    if law is None:
        return missing("map_percentile", "the inverter holds no law of photos' maps", direction="none")
    percentiles = {name: float(p[0]) for name, p in law.percentiles(wanted_1Chw).items()}
    value, n = percentiles["positions"], law.references
    low, high = wilson(round(value / 100 * n), n)
    detail = {name: round(p, 3) for name, p in percentiles.items() if name != "positions"}
    detail["tail"] = round(min(1.0, 2 * min(value, 100 - value) / 100), 4)
    if found_1Chw is not None:
        detail["picture"] = round(float(law.percentiles(found_1Chw)["positions"][0]), 3)
    return Evidence("map_percentile", value, n, (100 * low, 100 * high), "none", "%", detail=detail)


def _exact(name: str, value: float, *, direction: str = "higher", detail: dict[str, object]) -> Evidence:
    return Evidence(name, value, 1, (value, value), direction, "", detail=detail)


def measured(maps: FeatureMaps, inverter: Inverter, pixels: np.ndarray, wanted: InversionTarget) -> list[Evidence]:
    """The measurements of one picture by itself."""
    where = inverter.mean_C.device

    def standardise(maps_BChw: Tensor) -> Tensor:
        return inverter.standardise(maps_BChw.to(where)).cpu()

    return measure_inversion(pixels, wanted, maps, standardise, getattr(inverter, "law", None))


def _cosines(p: MapPicture) -> list[Evidence]:
    standardised = position_cosines(p.standardise(p.found_1Chw), p.standardise(p.want_1Chw))
    return [
        _cosine("cosine", position_cosines(p.found_1Chw, p.want_1Chw)[0], p.wanted.looked_at),
        _cosine("cosine_standardised", standardised[0], p.wanted.looked_at),
    ]


metric(
    card("cosine", "Cosine to the map", targets={MAP}, headline_rank=80),
    card("cosine_standardised", "Cosine, channels alike", targets={MAP}),
)(_cosines)
metric(
    card("match_top1", "The same class, first guess", targets={MAP}, headline_rank=90),
    card("match_top5", "The same class, first five", targets={MAP}),
)(lambda p: own_match(p.logits_1K, p.wanted, p.maps.model))
metric(
    card("others_match_top1", "Other networks match, first guess", targets={MAP}, needs={VERIFIERS}, headline_rank=70),
    card("others_match_top5", "Other networks match, first five", targets={MAP}, needs={VERIFIERS}),
)(lambda p: others_match(p.image, p.wanted))
metric(
    card("probability_a", "Probability of the first photo's class", direction="none", targets={MAP}),
    card("probability_b", "Probability of the second photo's class", direction="none", targets={MAP}),
)(lambda p: class_path(p.logits_1K, p.wanted, p.maps.model) if p.wanted.path else [])
metric(
    card("cosine_inside", "Cosine inside the region", targets={MAP}),
    card("cosine_outside", "Cosine outside the region", targets={MAP}),
    card("locality", "Locality of the change", targets={MAP}),
)(
    lambda p: (
        []
        if p.wanted.mask_hw is None
        else edit_evidence(p.pixels, position_cosines(p.found_1Chw, p.want_1Chw)[0], p.wanted)
    )
)
metric(card("map_percentile", "Percentile of the map among photos'", unit="%", direction="none", targets={MAP}))(
    lambda p: map_typicality(p.want_1Chw, p.found_1Chw, p.law)
)
metric(
    card("sample_sd", "Spread over samples", direction="none", targets={MAP}, set_level=True),
)(spread)
metric(
    card("frechet", "Fréchet distance", direction="lower", targets={MAP}, set_level=True),
    card("kid", "Kernel distance", direction="lower", targets={MAP}, set_level=True),
)(distances)

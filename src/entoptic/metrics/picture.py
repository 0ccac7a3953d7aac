"""The metrics of a picture of any unit, from its saved 8-bit pixels and nothing else."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from entoptic.base.estimates import mean_interval, wilson
from entoptic.base.pixels import to_float
from entoptic.images.references import References
from entoptic.images.unit_reference import UnitReference
from entoptic.metrics.evidence import Evidence, missing
from entoptic.metrics.registry import PHOTOS, TRACE, UNIT, VERIFIERS, card, measure_all, metric
from entoptic.metrics.unit_picture import UnitPicture
from entoptic.models.model import LOGITS, Model
from entoptic.sampling.sampled_distribution import SampledDistribution
from entoptic.units.unit import Unit, read_siblings, without_siblings


def measure(
    picture: np.ndarray, unit: Unit, references: References | None = None, verifiers: Sequence[Model] = ()
) -> list[Evidence]:
    """Measures one picture of a unit.

    Args:
        picture: H×W×3 uint8, exactly as saved.
        unit: what it is a picture of.
        references: real photos or shipped statistics to compare with.
        verifiers: other networks with the same labels, for transfer; a network never verifies itself.

    Returns:
        One entry per metric; a metric that cannot be computed holds the reason.
    """
    return measure_unit_picture(picture, unit, references, verifiers, without=(TRACE,))


def measure_unit_picture(
    pixels: np.ndarray,
    unit: Unit,
    references: References | None = None,
    verifiers: Sequence[Model] = (),
    distribution: SampledDistribution | None = None,
    *,
    without: Sequence[str] = (),
) -> list[Evidence]:
    """Measures one picture by every registered metric of units.

    Args:
        pixels: H×W×3 uint8, exactly as saved.
        unit: what it is a picture of.
        references: real photos or shipped statistics to compare with.
        verifiers: other networks with the same labels, for transfer.
        distribution: that the picture was drawn from, None for an optimised picture.
        without: metrics that need one of these are left out, see `measure_all`.
    """
    reference = references.unit_reference(unit) if references else UnitReference(unit=unit)
    picture = UnitPicture(pixels=pixels, unit=unit, reference=reference, verifiers=verifiers, distribution=distribution)
    with torch.no_grad():
        return measure_all(UNIT, picture, without=without)


def activation(value: float, unit: Unit) -> Evidence:
    """Reports the unit's score on the saved pixels: deterministic, so its interval is the value itself."""
    scale = "logit" if unit.kind == "logit" else f"{'score' if unit.parts else 'activation'} ({unit.readout})"
    return Evidence("activation", value, 1, (value, value), "higher", scale)


def rank(value: float, values_BCD: Tensor, unit: Unit) -> Evidence:
    """Counts the units of the same layer, read in the same way, that this picture drives more, plus one.

    Args:
        value: the unit's score on the picture.
        values_BCD: values of the unit's tap on the picture, 1×C×D.
        unit: the unit.
    """
    if why := without_siblings(unit):
        return missing("rank", why, direction="lower")
    if unit.dictionary is not None and len(unit.dictionary.names) == 1:
        return missing("rank", "its dictionary has no other feature", direction="lower")
    layer = read_siblings(unit, values_BCD)[0]
    standing = 1 + int((layer > value).sum())
    detail = {"strongest": int(layer.argmax())}
    return Evidence("rank", standing, len(layer), (standing, standing), "lower", "", detail=detail)


def percentile(value: float, unit: Unit, reference: UnitReference) -> Evidence:
    """Estimates the percentage of real photos that drive the unit less, with a Wilson interval.

    Args:
        value: the unit's score on the picture.
        unit: the unit.
        reference: gives `real_scores`.
    """
    real = reference.real_scores
    if isinstance(real, str):
        return missing("percentile", real, scale="%")
    below = float((real.values < value).float().mean())
    if len(real.values) < real.n:  # quantiles at even levels: interpolate between them
        below = _share_below(value, real.values.numpy())
    low, high = wilson(below * real.n, real.n)
    return Evidence(
        "percentile", 100 * below, real.n, (100 * low, 100 * high), "higher", "%", detail={"photos": real.source}
    )


def margin(value: float, unit: Unit, reference: UnitReference) -> Evidence:
    """Reports the score less that of the strongest real photo (exact for these photos).

    Args:
        value: the unit's score on the picture.
        unit: the unit.
        reference: gives `real_scores`.
    """
    real = reference.real_scores
    if isinstance(real, str):
        return missing("margin", real)
    best = float(real.values[-1])
    found = value - best
    scale = "logit" if unit.kind == "logit" else "score" if unit.parts else "activation"
    return Evidence("margin", found, real.n, (found, found), "higher", scale, detail={"best photo": best})


def _share_below(value: float, quantiles: np.ndarray) -> float:
    """Estimates the share of a distribution strictly below `value`; a value that many photos share (a ReLU's 0) counts once."""
    right = int(np.searchsorted(quantiles, value, side="left"))
    if right in (0, len(quantiles)):
        return float(right > 0)
    low, high = float(quantiles[right - 1]), float(quantiles[right])
    return (right - 1 + (value - low) / (high - low)) / (len(quantiles) - 1)


def robustness(picture: np.ndarray, value: float, unit: Unit, reference: UnitReference) -> Evidence:
    """Measures the share of the activation that stays under JPEG 75, shifts of 8 px and resizing by 5 %, their mean.

    The activation is taken above a baseline: the median over real photos where it is known, else the score of a
    mid-grey picture. A raw ratio of logits, which have no zero, would mean nothing.

    Args:
        picture: H×W×3 uint8.
        value: the unit's score on it.
        unit: the unit.
        reference: gives `real_scores`.
    """
    real = reference.real_scores
    variants = dict(disturbances(picture))
    scores = unit.score(torch.cat(list(variants.values())))
    if isinstance(real, str):
        baseline = float(unit.score(torch.full_like(to_float(picture), 0.5))[0])
        base = "mid-grey"
    else:
        baseline = float(real.values[len(real.values) // 2])
        base = "median photo"
    if value <= baseline:
        return missing("robustness", f"the picture drives the unit no more than the {base} does ({baseline:.3g})")
    kept = {name: (float(s) - baseline) / (value - baseline) for name, s in zip(variants, scores)}
    shares = list(kept.values())
    detail = {**{k: round(v, 4) for k, v in kept.items()}, "baseline": base}
    return Evidence(
        "robustness",
        sum(shares) / len(shares),
        len(shares),
        mean_interval(shares),
        "higher",
        "",
        detail=detail,
    )


def disturbances(picture: np.ndarray) -> list[tuple[str, Tensor]]:
    """Makes the pictures (1×3×H×W) that robustness is measured on; shifts repeat the border.

    Returns:
        (name, picture) of each.
    """
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=75)
    jpeg = to_float(np.asarray(Image.open(buffer)))
    image = to_float(picture)
    height, width = picture.shape[:2]
    padded = torch.nn.functional.pad(image, (8, 8, 8, 8), mode="replicate")
    out = [("JPEG 75", jpeg)]
    for name, dy, dx in (("left 8 px", 8, 16), ("right 8 px", 8, 0), ("up 8 px", 16, 8), ("down 8 px", 0, 8)):
        out.append((name, padded[..., dy : dy + height, dx : dx + width]))
    small = interpolate(image, scale_factor=0.95, mode="bicubic", antialias=True)
    back = interpolate(small, (height, width), mode="bicubic", antialias=True).clamp(0, 1)
    large = interpolate(image, (round(height * 1.05), round(width * 1.05)), mode="bicubic", antialias=True).clamp(0, 1)
    top, left = (large.shape[2] - height) // 2, (large.shape[3] - width) // 2
    return [*out, ("down 5 %", back), ("up 5 %", large[..., top : top + height, left : left + width])]


def transfer(image: Tensor, unit: Unit, verifiers: Sequence[Model]) -> list[Evidence]:
    """Measures whether other networks see the unit's class: top-1, top-5 and mean probability over them.

    A verifier that knows more classes than the unit's network is asked about the shared ones only; the scale names their
    number.

    Args:
        image: 1×3×H×W in [0, 1].
        unit: the unit.
        verifiers: other networks with the same labels; a network never verifies itself.

    Returns:
        `transfer_top1`, `transfer_top5` and `transfer_probability`, from one forward pass of each network.
    """
    names = ("transfer_top1", "transfer_top5", "transfer_probability")
    if unit.layer != LOGITS or unit.label is None or unit.parts:
        return [missing(name, "only a class logit means the same in another network") for name in names]
    own = unit.model.card
    others = {
        v: shared
        for v in verifiers
        if v.card.weights_sha256 != own.weights_sha256 and (shared := own.places_in(v.card)) is not None
    }
    if not others:
        why = "no verifier network was given" if not verifiers else f"no verifier other than {own.name} has its labels"
        return [missing(name, why) for name in names]
    ranks, probabilities = {}, {}
    for verifier, shared in others.items():
        logits = verifier(verifier.fit(image.to(verifier.device)))[0, shared]
        ranks[verifier.card.name] = 1 + int((logits > logits[unit.index]).sum())
        probabilities[verifier.card.name] = round(float(logits.softmax(0)[unit.index]), 6)
    n = len(others)
    classes = unit.model.outputs
    scale = f"among {classes} classes" if any(v.outputs > classes for v in others) else ""
    hits1, hits5 = (sum(r <= k for r in ranks.values()) for k in (1, 5))
    mean = sum(probabilities.values()) / n
    low, high = mean_interval(list(probabilities.values()))
    return [
        Evidence("transfer_top1", hits1 / n, n, wilson(hits1, n), "higher", scale, detail=ranks),
        Evidence("transfer_top5", hits5 / n, n, wilson(hits5, n), "higher", scale, detail=ranks),
        Evidence(
            "transfer_probability",
            mean,
            n,
            (max(0.0, low), min(1.0, high)),
            "higher",
            scale,
            detail=probabilities,
        ),
    ]


metric(card("activation", "Activation", targets={UNIT}, headline_rank=60))(lambda p: activation(p.value, p.unit))
metric(card("rank", "Rank in its layer", direction="lower", targets={UNIT}, headline_rank=30))(
    lambda p: rank(p.value, p.values, p.unit)
)
metric(card("percentile", "Percentile among photos", unit="%", targets={UNIT}, needs={PHOTOS}, headline_rank=10))(
    lambda p: percentile(p.value, p.unit, p.reference)
)
metric(card("margin", "Margin over the strongest photo", targets={UNIT}, needs={PHOTOS}))(
    lambda p: margin(p.value, p.unit, p.reference)
)
metric(card("robustness", "Robustness", targets={UNIT}, needs={PHOTOS}, headline_rank=50))(
    lambda p: robustness(p.pixels, p.value, p.unit, p.reference)
)
metric(
    card("transfer_top1", "Other networks, first guess", targets={UNIT}, needs={VERIFIERS}, headline_rank=0),
    card("transfer_top5", "Other networks, first five", targets={UNIT}, needs={VERIFIERS}, headline_rank=40),
    card("transfer_probability", "Other networks, probability", targets={UNIT}, needs={VERIFIERS}),
)(lambda p: transfer(p.image, p.unit, p.verifiers))

"""Evidence for units inside a network: `relevance_agreement` and `causal`.

A unit inside a network has no name that other networks could confirm. Its strongest real photos take that place: a
picture shows the unit truly if it reaches it through the same channels as those photos do, and if the unit then does to
the rest of the network what it does on those photos.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from entoptic.base.estimates import mean_interval
from entoptic.errors import UserError
from entoptic.images.unit_reference import ExemplarPhotos, UnitReference
from entoptic.metrics.evidence import Evidence, missing
from entoptic.metrics.registry import ORDER, PHOTOS, UNIT, card, metric
from entoptic.metrics.selectivity import INNER_ONLY
from entoptic.models.ablate import ablated
from entoptic.models.model import LOGITS, Model
from entoptic.models.relevance import relevance
from entoptic.models.taps import Tap
from entoptic.models.trunk import trunk_layers
from entoptic.units.dictionary import check_writes_own_layer, part
from entoptic.units.unit import Unit


def photos_or_reason(unit: Unit, reference: UnitReference) -> ExemplarPhotos | str:
    """Returns the photos that an inner unit's pictures are compared with, or the reason why there are none."""
    if unit.parts:
        return "a combination has no layer of its own; it is measured for its parts alone"
    return INNER_ONLY if unit.layer == LOGITS else reference.exemplars


def _exemplars(reference: UnitReference) -> ExemplarPhotos:
    assert isinstance(reference.exemplars, ExemplarPhotos)  # metrics give the reason for a string first
    return reference.exemplars


def without_itself(found: Similarity, images: Tensor, photos: Tensor) -> Similarity:
    """Takes out the pairs in which the picture is the photo: retrieval shows the photos themselves.

    Args:
        found: similarity of B pictures to N photos.
        images: the pictures, B×3×H×W in [0, 1].
        photos: the photos, N×3×H×W in [0, 1].
    """
    same = torch.stack([(photos - image).abs().amax((1, 2, 3)) <= 1 / 255 for image in images])
    return Similarity(found.each.masked_fill(same, float("nan")), found.ceiling, found.floor, found.sizes)


# --- the same way there: relevance -----------------------------------------------------------------------------


def lower_layer(model: Model, layer: str) -> str | None:
    """Finds the last whole block (a child of a list of blocks or of the network) that is done before `layer` begins.

    Networks without blocks give the end of the stage before (see `trunk_layers`).

    Returns:
        Name of the layer, or None where nothing lies below.
    """
    parts = [info.order for name, info in model.layers.items() if name.startswith(layer + ".")]
    begins = min(parts, default=model.layer(layer).order)
    modules = dict(model.module.named_modules())

    def is_block(name: str) -> bool:
        parent = name.rpartition(".")[0]
        return not parent or isinstance(modules[parent], nn.Sequential | nn.ModuleList)

    before = {info.name: info.order for info in model.layers.values() if info.order < begins and info.calls == 1}
    blocks = [name for name in before if model.layer(name).composite and is_block(name)]
    candidates = blocks or [name for name in trunk_layers(model) if name in before]
    return max(candidates, key=lambda name: before[name], default=None)


def profiles(images: Tensor, unit: Unit, lower: str) -> Tensor:
    """Computes the relevance of the unit at the channels of a lower layer, summed over positions.

    Args:
        images: B×3×H×W in [0, 1].
        unit: the unit.
        lower: name of the lower layer.

    Returns:
        B×C with |·| summing to 1 in each row. A row is 0 where the unit does not fire: nothing is relevant to it.
    """
    model, tap = unit.model, Tap(lower)
    rows = []
    for batch in images.split(16):
        fires: list[Tensor] = []

        def start(values_BCD: Tensor, fires: list[Tensor] = fires) -> Tensor:
            map_BD = unit.map(values_BCD)
            fires.append((map_BD if unit.position is None else map_BD[:, [unit.position]]).amax(1) > 0)
            return unit.start(values_BCD)

        maps = relevance(model, model.fit(batch.to(model.device)), {unit.tap: start}, [tap]).maps[tap]
        rows.append((maps.sum(2) * fires[0][:, None]).float().cpu())
    return normalize(torch.cat(rows), p=1, dim=1, eps=1e-30)


def _lower_layer(reference: UnitReference) -> str | None:
    return lower_layer(reference.unit.model, reference.unit.layer)


def photo_profiles(reference: UnitReference) -> tuple[Tensor, Tensor]:
    """Computes `profiles` of the strongest (N×C) and of the arbitrary photos (M×C)."""
    photos, lower = _exemplars(reference), reference.once(_lower_layer)
    assert lower is not None
    both = profiles(torch.cat([photos.strongest, photos.arbitrary]), reference.unit, lower)
    return both[: len(photos.strongest)], both[len(photos.strongest) :]


def relevance_agreement(image: Tensor, unit: Unit, reference: UnitReference) -> Evidence:
    """Measures whether the picture drives the unit through the same lower channels as its strongest photos do.

    The value is the mean cosine between the picture's relevance profile and each photo's, both less the mean profile
    over arbitrary photos. Some channels are relevant to everything, and with them all profiles are alike (cosines of
    0.95 and more in EfficientNet-Lite0, whatever the photo). The metric is not independent of methods that match
    relevance-weighted features of such photos: they optimise something close to it.

    Args:
        image: 1×3×H×W in [0, 1] at the network's input size.
        unit: the unit.
        reference: gives `exemplars`.

    Returns:
        Evidence as a cosine, n being the number of photos.
    """
    name = "relevance_agreement"
    photos = photos_or_reason(unit, reference)
    if isinstance(photos, str):
        return missing(name, photos)
    try:
        lower = reference.once(_lower_layer)
        if lower is None:
            return missing(name, f"{unit.layer} is in the first stage, no layer lies below it", scale="cosine")
        own = profiles(image, unit, lower)
        found = centred_similarity(own, *reference.once(photo_profiles))
    except UserError as error:
        return missing(name, str(error), scale="cosine")
    if not bool(own.any()):
        return missing(name, "the picture does not make the unit fire, so nothing is relevant to it", scale="cosine")
    return _agreement(name, without_itself(found, image, photos.strongest), {"at layer": lower})


# --- the same effect: ablation ---------------------------------------------------------------------------------


def usual_activation(unit: Unit, photos: Tensor) -> float:
    """Averages the unit over photos and the positions that it is read at."""
    with torch.no_grad():
        map_BD = unit.map(_values(unit, photos))
    return float((map_BD if unit.position is None else map_BD[:, unit.position]).mean())


def _values(unit: Unit, images: Tensor) -> Tensor:
    batches = [unit.model.fit(batch.to(unit.model.device)) for batch in images.split(16)]
    return torch.cat([unit.model.read(batch, [unit.tap])[unit.tap] for batch in batches])


def effects(images: Tensor, unit: Unit, usual: float) -> Tensor:
    """Measures what the unit does to the network's answer: logits minus logits with the unit held at `usual`.

    The mean over the logits is taken off (for more than two of them): a softmax does not see it.

    Args:
        images: B×3×H×W in [0, 1].
        unit: the unit.
        usual: the activation at which the ablated unit is held.

    Returns:
        B×K changes of the logits.

    Raises:
        UserError: for a logit, behind which there is nothing, and for a feature whose part is of another layer.
    """
    model, dictionary = unit.model, unit.dictionary
    if dictionary is not None:
        check_writes_own_layer(dictionary, "ablation")
    of_feature = None if dictionary is None else lambda values_BCD: part(dictionary, values_BCD, unit.index)
    rows = []
    with torch.no_grad():
        for batch in images.split(16):
            ready = model.fit(batch.to(model.device))
            whole = model(ready)
            with ablated(
                model,
                unit.tap,
                usual,
                index=unit.index,
                direction=unit.direction,
                part=of_feature,
                position=unit.position,
            ):
                rows.append((whole - model(ready)).float().cpu())
    changes = torch.cat(rows)
    return changes - changes.mean(1, keepdim=True) if changes.shape[1] > 2 else changes


def usual_on_photos(reference: UnitReference) -> float:
    """Computes `usual_activation` over the arbitrary photos: what an ablated unit is held at."""
    return usual_activation(reference.unit, _exemplars(reference).arbitrary)


def photo_effects(reference: UnitReference) -> tuple[Tensor, Tensor]:
    """Computes `effects` on the strongest (N×K) and on the arbitrary photos (M×K)."""
    photos = _exemplars(reference)
    images = torch.cat([photos.strongest, photos.arbitrary])
    both = effects(images, reference.unit, reference.once(usual_on_photos))
    return both[: len(photos.strongest)], both[len(photos.strongest) :]


def causal(image: Tensor, unit: Unit, reference: UnitReference) -> Evidence:
    """Measures whether ablating the unit changes the network's answer on the picture as on its strongest photos.

    The value is the mean cosine between the change of the logits on the picture and that on each photo. The detail
    holds the size of the change relative to the mean over the photos. No method optimises it.

    Args:
        image: 1×3×H×W in [0, 1] at the network's input size.
        unit: the unit.
        reference: gives `exemplars`.

    Returns:
        Evidence as a cosine, n being the number of photos.
    """
    photos = photos_or_reason(unit, reference)
    if isinstance(photos, str):
        return missing("causal", photos)
    try:
        on_picture = effects(image, unit, reference.once(usual_on_photos))
        on_strongest, on_arbitrary = reference.once(photo_effects)
        found = similarity(on_picture, on_strongest, on_arbitrary)
    except UserError as error:
        return missing("causal", str(error), scale="cosine")
    if not bool(on_strongest.any()):
        return missing("causal", "taking the unit away changes no logit on its strongest photos", scale="cosine")
    size: dict[str, object] = {"size beside the photos'": round(float(found.sizes[0]), 4)}
    return _agreement("causal", without_itself(found, image, photos.strongest), size)


def _agreement(name: str, found: Similarity, more: dict[str, object]) -> Evidence:
    values = [float(v) for v in found.each[0] if not v.isnan()]
    if len(values) < 3:
        return missing(name, f"only {len(values)} photos can be compared, which is too few", scale="cosine")
    low, high = mean_interval(values)
    detail = {
        "photos among themselves": _rounded(found.ceiling), "photos at random": _rounded(found.floor), **more,
    }  # fmt: skip
    interval = max(-1.0, low), min(1.0, high)
    return Evidence(name, sum(values) / len(values), len(values), interval, "higher", "cosine", detail=detail)


def _rounded(value: float) -> float | None:
    return round(value, 4) if value == value else None


@dataclass(frozen=True)
class Similarity:
    """Similarity of pictures to the photos that drive a unit most, as cosines of some vector of each.

    Attributes:
        each: B×N, a picture and a photo; NaN where there is none (the photo is the picture, or a vector is 0).
        ceiling: mean over pairs of the photos.
        floor: mean of arbitrary photos with them.
        sizes: B, length of the picture's vector relative to the mean over the photos.
    """

    each: Tensor
    ceiling: float
    floor: float
    sizes: Tensor

    @property
    def values(self) -> Tensor:
        """Mean over the photos: B."""
        return self.each.nanmean(1)


def similarity(pictures_BK: Tensor, photos_NK: Tensor, arbitrary_MK: Tensor | None = None) -> Similarity:
    """Computes mean cosines of pictures' vectors with those of photos, beside what photos and arbitrary photos get.

    Args:
        pictures_BK: B vectors.
        photos_NK: N vectors.
        arbitrary_MK: M vectors for the floor, or None.
    """
    found, photos = cosines(pictures_BK, photos_NK), cosines(photos_NK, photos_NK)
    photos.fill_diagonal_(float("nan"))
    floor = float("nan") if arbitrary_MK is None else float(cosines(arbitrary_MK, photos_NK).nanmean())
    sizes = pictures_BK.norm(dim=1) / photos_NK.norm(dim=1).mean().clamp_min(1e-30)
    return Similarity(found, float(photos.nanmean()), floor, sizes)


def centred_similarity(pictures_BK: Tensor, photos_NK: Tensor, arbitrary_MK: Tensor) -> Similarity:
    """Computes `similarity` of what sets vectors apart from the mean over the arbitrary photos.

    For the floor each arbitrary photo, and the N photos with it, are counted from the mean of the others: counted from a
    mean that it is part of, it would seem less like them than a photo from elsewhere. Vectors of 0 stay 0.

    Args:
        pictures_BK: B vectors.
        photos_NK: N vectors.
        arbitrary_MK: M vectors.
    """
    arbitrary_MK = arbitrary_MK[arbitrary_MK.any(1)]

    def apart(vectors: Tensor, others: Tensor) -> Tensor:
        usual = others.mean(0) if len(others) else torch.zeros(vectors.shape[1])
        return torch.where(vectors.any(1, keepdim=True), vectors - usual, 0.0)

    found = similarity(apart(pictures_BK, arbitrary_MK), apart(photos_NK, arbitrary_MK))
    if len(arbitrary_MK) < 3:
        return found
    rest = [arbitrary_MK[[j for j in range(len(arbitrary_MK)) if j != i]] for i in range(len(arbitrary_MK))]
    floors = [cosines(apart(a[None], others), apart(photos_NK, others)) for a, others in zip(arbitrary_MK, rest)]
    return Similarity(found.each, found.ceiling, float(torch.cat(floors).nanmean()), found.sizes)


def cosines(a_BK: Tensor, b_NK: Tensor) -> Tensor:
    """Computes B×N cosines; NaN where a vector is 0, which has no direction."""
    product = normalize(a_BK, dim=1, eps=1e-30) @ normalize(b_NK, dim=1, eps=1e-30).T
    empty = (a_BK.norm(dim=1) == 0)[:, None] | (b_NK.norm(dim=1) == 0)[None]
    return product.masked_fill(empty, float("nan"))


metric(
    card(
        "relevance_agreement", "Reached by the same way", unit="cosine", targets={UNIT}, needs={PHOTOS, ORDER}, since=2
    )
)(lambda p: relevance_agreement(p.seen.cpu(), p.unit, p.reference))
metric(
    card("causal", "The same effect", unit="cosine", targets={UNIT}, needs={PHOTOS, ORDER}, headline_rank=20, since=2)
)(lambda p: causal(p.seen.cpu(), p.unit, p.reference))

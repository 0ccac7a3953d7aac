"""What one picture tells about its unit: `specificity` among the units beside it, `two_afc` to another network."""

from __future__ import annotations

import torch
from torch import Tensor

from entoptic.images.unit_reference import UnitReference
from entoptic.metrics.distribution import features, has_features
from entoptic.metrics.evidence import Evidence, missing
from entoptic.metrics.registry import ORDER, PHOTOS, UNIT, VERIFIERS, card, metric
from entoptic.metrics.sets.answers import first_of
from entoptic.metrics.sets.two_afc import choose
from entoptic.metrics.unit_picture import UnitPicture
from entoptic.models.model import LOGITS, Model
from entoptic.units.unit import read_siblings, without_siblings

SINCE = 4
"""Version of the evidence of units that both came with."""
CENTRED = 5
"""Version of the evidence of units from which on the observer's features are counted from their mean over photos."""
FEWEST = 3
"""Strong photos, and weak ones, from which on choices are counted."""


def specificity(picture: UnitPicture) -> Evidence:
    """Says whether the picture drives its unit more than every other unit of the layer: 1 or 0, with chance 1/K.

    Logits are compared as they are. Units inside a network have no common scale, so each is counted from its mean over photos
    in its own standard deviations, as for `selectivity`. It is exact for one picture; the share over pictures is the
    accuracy with which pictures pick their units out.

    Returns:
        Evidence with n the number of units that are compared.
    """
    unit = picture.unit
    if why := without_siblings(unit):
        return missing("specificity", why)
    if unit.dictionary is not None and len(unit.dictionary.names) == 1:
        return missing("specificity", "its dictionary has no other feature")
    values = read_siblings(unit, picture.values).float().cpu()
    mean, sd, n = None, None, values.shape[1]
    if unit.layer != LOGITS:
        moments = picture.reference.moments
        if isinstance(moments, str):
            return missing("specificity", moments)
        mean, sd = moments.mean, moments.sd
        varies = sd > 1e-6 * mean.abs().clamp_min(1e-12)
        n = int(varies.sum())
        if not bool(varies[unit.index]):
            return missing("specificity", f"the unit is {float(mean[unit.index]):.3g} on all of {moments.n} photos")
    if n < 2:
        return missing("specificity", "there is no other unit to compare it with")
    hit = float(first_of(values, [unit.index], mean, sd)[0])
    detail = {"chance": 1 / n, "compared": "logits" if mean is None else "sd over photos"}
    return Evidence("specificity", hit, n, (hit, hit), "higher", "", detail=detail)


def two_afc(picture: UnitPicture) -> Evidence:
    """Measures how often another network finds the unit's photo, with this picture as its only hint.

    The observer is the first verifier with pooled features that is not the network under study. It sees each pair of one of
    the unit's strongest photos and one photo of the half that drives the unit less, and takes the one that its features
    call more like the picture. Features are counted from their mean over the unit's arbitrary photos: what all photos share
    would hide what tells them apart. In the detail, `ceiling` is the same with a strong photo as the hint, and `photos at
    random` with photos of anything: one unit's chance is not 0.5, because a hint that shows nothing has its own leaning.
    A photo that is the picture itself is left out. Photos that a method matched are not: it does not say which they were.

    Returns:
        Evidence with n the photos of the smaller set (see `choose`).
    """
    own, reference = picture.unit.model.card, picture.reference
    observer = next(
        (v for v in picture.verifiers if has_features(v) and v.card.weights_sha256 != own.weights_sha256), None
    )
    if observer is None:
        why = "it needs another network with pooled features; a timm network has them, such as builtin:lite1"
        return missing("two_afc", why if picture.verifiers else "no verifier network was given")
    exemplars, weak = reference.exemplars, reference.weak
    if isinstance(exemplars, str) or isinstance(weak, str):
        return missing("two_afc", exemplars if isinstance(exemplars, str) else str(weak))
    itself = (exemplars.strongest - picture.seen.cpu()).abs().amax((1, 2, 3)) <= 1 / 255
    if min(int((~itself).sum()), len(weak)) < FEWEST:
        why = f"it needs {FEWEST} strong and {FEWEST} weak photos, there are {int((~itself).sum())} and {len(weak)}"
        return missing("two_afc", why)
    strong, low, anything = _photos_seen(observer, reference, exemplars.strongest, weak, exemplars.arbitrary)
    with torch.no_grad():
        mean_C = anything.mean(0) if len(anything) else torch.zeros_like(low[0])
        shown = features(observer, picture.image) - mean_C
        found = choose(shown, strong[~itself] - mean_C, low - mean_C, anything - mean_C)
    high, floor = (None if one is None else round(one, 4) for one in (found.ceiling, found.random))
    detail = {"observer": observer.card.name, "ceiling": high, "photos at random": floor, "pairs": found.pairs}
    return Evidence("two_afc", found.share, found.photos, found.interval, "higher", "", detail=detail)


def _kept(reference: UnitReference) -> dict[str, list[Tensor]]:
    return {}


def _photos_seen(observer: Model, reference: UnitReference, *photos: Tensor) -> list[Tensor]:
    """The observer's features of a unit's photos, computed once for all of its pictures."""
    kept = reference.once(_kept)
    if observer.card.identity not in kept:
        kept[observer.card.identity] = list(features(observer, torch.cat(photos)).split([len(one) for one in photos]))
    return kept[observer.card.identity]


metric(card("specificity", "First of its layer", targets={UNIT}, needs={PHOTOS}, since=SINCE))(specificity)
_seen_by_another = card(
    "two_afc",
    "Another network finds its photos",
    targets={UNIT},
    needs={PHOTOS, ORDER, VERIFIERS},
    since=SINCE,
    changed=CENTRED,
)
metric(_seen_by_another)(two_afc)

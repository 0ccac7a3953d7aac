"""Whether pictures go through a network as the photos do that drive their unit: mean activations, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from entoptic.errors import UserError, nearest
from entoptic.metrics.evidence import Evidence
from entoptic.metrics.sets.contract import Measured, SetCard, checked, evidence, too_few
from entoptic.models.model import Model
from entoptic.models.taps import Tap

PATHWAY = SetCard(name="pathway", title="Likeness of pathway", direction="higher", bounds=(-1.0, 1.0), scale="cosine")
LEAST = 3
"""Fewest pictures, photos and random photos whose jackknife means something."""


def mean_activations(model: Model, pictures: Tensor, layers: Sequence[str], batch: int = 25) -> dict[str, Tensor]:
    """Returns for each layer the activations of its channels, averaged over positions: N×C float32.

    Args:
        model: the network under study.
        pictures: N×3×H×W in [0, 1].
        layers: names of layers.
        batch: pictures in one pass.

    Raises:
        UserError: a name that is no layer.
    """
    for name in layers:
        if name not in model.layers:
            raise UserError(f'no layer "{name}" in {model.card.name}{nearest(name, model.layers)}')
    parts: dict[str, list[Tensor]] = {name: [] for name in layers}
    taps = [Tap(name) for name in layers]
    with torch.no_grad():
        for images in pictures.split(batch):
            found = model.reduce(
                model.fit(images.to(model.device)), taps, lambda _, values_BCD: values_BCD.mean(2).cpu()
            )
            for tap, values in found.items():
                parts[tap.layer].append(values)
    return {name: torch.cat(rows) for name, rows in parts.items() if rows}


def pathway(
    pictures: Mapping[str, Tensor], strongest: Mapping[str, Tensor], random: Mapping[str, Tensor], network: str
) -> dict[str, Evidence]:
    """Compares a unit's pictures with its strongest photos in every layer.

    The value is the cosine between the mean activations of both. Means of any two sets of photos are much alike, so the
    detail holds `random photos`, what photos at random reach against the strongest ones: read the value against it.
    The interval is the jackknife's over pictures and strongest photos.

    Args:
        pictures: N×C activations of each layer, see `mean_activations`.
        strongest: of the photos that drive the unit most.
        random: of photos at random, none of them among the strongest.
        network: name of the network.

    Returns:
        Evidence of each layer, in the order of `pictures`.
    """
    found = {}
    for layer, rows in pictures.items():
        if absent := [one for one, of in (("strongest", strongest), ("random", random)) if layer not in of]:
            raise UserError(f"the {absent[0]} photos have no activations of {layer}")
        made, real, chance = (checked(one, rows.shape[1]).double() for one in (rows, strongest[layer], random[layer]))
        sets = (("pictures", made), ("strongest photos", real), ("photos at random", chance))
        if few := next(((what, one) for what, one in sets if len(one) < LEAST), None):
            found[layer] = too_few(PATHWAY, len(few[1]), LEAST, network, what=few[0])
            continue
        value = _cosine(made.mean(0), real.mean(0))
        error = math.hypot(_jackknife(made, real.mean(0)), _jackknife(real, made.mean(0)))
        detail = {
            "layer": layer, "strongest photos": len(real), "random photos": _cosine(chance.mean(0), real.mean(0)),
            "photos at random": len(chance),
        }  # fmt: skip
        interval = max(-1.0, value - 1.96 * error), min(1.0, value + 1.96 * error)
        found[layer] = evidence(PATHWAY, len(made), Measured(value, interval, detail), network)
    return found


def _cosine(a_C: Tensor, b_C: Tensor) -> float:
    return float(cosine_similarity(a_C, b_C, dim=0))


def _jackknife(rows_NC: Tensor, other_C: Tensor) -> float:
    """The standard error of the cosine between the mean of rows and a fixed vector."""
    n = len(rows_NC)
    left_out = cosine_similarity((rows_NC.sum(0) - rows_NC) / (n - 1), other_C[None], dim=1)
    return math.sqrt((n - 1) / n * float((left_out - left_out.mean()).square().sum()))


# --- departures from what is usual -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Usual:
    """Activations of photos of anything, by layer: what a unit's pictures and photos depart from.

    Attributes:
        first: mean over one half of the photos, C.
        second: mean over the other half.
        sd: standard deviation over all of them.
    """

    first: Mapping[str, Tensor]
    second: Mapping[str, Tensor]
    sd: Mapping[str, Tensor]

    @classmethod
    def of(cls, photos: Mapping[str, Tensor]) -> Usual:
        """Returns what is usual in photos.

        Args:
            photos: N×C activations of each layer, see `mean_activations`; at least 4 rows.

        Raises:
            UserError: fewer photos.
        """
        fewest = min((len(rows) for rows in photos.values()), default=0)
        if fewest < 4:
            raise UserError(f"what is usual is told from at least 4 photos, there are {fewest}")
        rows = {layer: checked(one).double() for layer, one in photos.items()}
        return cls(
            first={layer: one[::2].mean(0) for layer, one in rows.items()},
            second={layer: one[1::2].mean(0) for layer, one in rows.items()},
            sd={layer: one.std(0, unbiased=False) for layer, one in rows.items()},
        )


def departure(pictures: Mapping[str, Tensor], strongest: Mapping[str, Tensor], usual: Usual) -> dict[str, float]:
    """Compares how a unit's pictures and its strongest photos depart from usual photos, in every layer.

    The value is the cosine between both departures, each channel in its own standard deviations over photos: 0 for pictures that
    depart in a direction of their own, 1 for the same direction. The two are counted from the means of two disjoint halves of
    the photos, because the error of one mean would be in both departures and make them alike. Channels that do not
    vary over photos are left out.

    Args:
        pictures: N×C activations of each layer, see `mean_activations`.
        strongest: of the photos that drive the unit most.
        usual: of photos of anything.

    Returns:
        The cosine of each layer, in the order of `pictures`.
    """
    found = {}
    for layer, rows in pictures.items():
        sd = usual.sd[layer]
        varies = sd > 1e-6 * sd.max().clamp_min(1e-30)
        made = ((rows.double().mean(0) - usual.first[layer]) / sd)[varies]
        real = ((strongest[layer].double().mean(0) - usual.second[layer]) / sd)[varies]
        found[layer] = _cosine(made, real)
    return found

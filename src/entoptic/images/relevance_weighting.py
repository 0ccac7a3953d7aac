"""Features that a unit relies on: A ⊙ R̂, activations weighted by the unit's relevance (VITAL, arXiv:2503.22399).

The maps A of a layer and the relevance R of one unit there come from one forward pass. R̂ is R scaled to [0, 1] in each
channel of each picture, a constant for the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from entoptic.base.sorting import sorted_rows
from entoptic.errors import UserError, nearest
from entoptic.images.receptive_field import crop_box
from entoptic.models.model import Model
from entoptic.models.relevance import Tape
from entoptic.models.rule_tables import EPSILON, GRADIENT, GUIDED, ZPLUS, Rules
from entoptic.models.rules import average, values_only
from entoptic.models.taps import Tap
from entoptic.units.unit import Unit


@dataclass(frozen=True)
class Weighted(Tap):
    """The values of a tap times R̂ of the unit in question: A ⊙ R̂, beside the plain values of the same layer."""

    @property
    def plain(self) -> Tap:
        """The tap without relevance."""
        return Tap(self.layer, self.pre)

    def __str__(self) -> str:
        return f"{self.plain}⊙R"


@dataclass(frozen=True)
class UnattendedPositions(Tap):
    """B×1×D weights in [0, 1] of a layer's positions: 0 where the unit looks, 1 where it does not (see `elsewhere`)."""


@dataclass(frozen=True)
class RelevanceWeighting:
    """How reference photos are weighted by a unit's relevance.

    Attributes:
        rules: kind of relevance, a key of `RULES`.
        reference: "image" matches whole photos (VITAL's released code), "crop" their crops around the place that drives
            the unit most (the paper's text).
        facet, facets: take the photos of one of so many facets (see `facet_photos`).
        epsilon: added to the spans of both min-max scalings; the released code adds 1e-6, which swallows small maps.
    """

    rules: str = "lrp"
    reference: str = "image"
    facet: int = 0
    facets: int = 1
    epsilon: float = 0.0

    def __post_init__(self) -> None:
        rules_of(self.rules)
        if self.reference not in ("image", "crop"):
            raise UserError(f'reference must be "image" or "crop", got "{self.reference}"')
        if self.facets < 1:
            raise UserError(f"facets must be at least 1, got {self.facets}")


RULES: dict[str, Rules] = {
    "lrp": ZPLUS.with_(attention=values_only, matmul=values_only),
    "lrp-vital": ZPLUS.with_(max_pool=average),
    "epsilon": EPSILON,
    "gradient": GRADIENT,
    "guided": GUIDED,
}
"""Kinds of relevance by name; "none" is no relevance. "lrp-vital" hands relevance through a max-pooling as VITAL's
released code does."""


def rules_of(name: str) -> Rules:
    """Returns the rules called `name`.

    Raises:
        UserError: no such rules, with the nearest name.
    """
    if name not in RULES:
        raise UserError(f'no relevance "{name}"; there are {", ".join(RULES)} and none{nearest(name, RULES)}')
    return RULES[name]


def layers_below(model: Model, taps: Iterable[Tap], unit: Unit) -> tuple[Tap, ...]:
    """Selects those of the layers that run before the unit's own, where its relevance is defined, in that order.

    For a combination, they run before the layer of each part of positive weight; where there is none, there are no layers.
    """
    orders = {tap: model.layer(tap.layer).order for tap in taps}
    own = min((model.layer(part.layer).order for weight, part in unit.terms if weight > 0), default=0)
    return tuple(sorted((tap for tap, order in orders.items() if order < own), key=orders.__getitem__))


def spatial_weight(relevance_BCD: Tensor, epsilon: float = 0.0) -> Tensor:
    """Computes R̂: the positive part of relevance, min-max scaled over positions, per picture and channel."""
    return _min_max(relevance_BCD.clamp_min(0), epsilon)


def channel_importance(relevance_BCD: Tensor, epsilon: float = 0.0) -> Tensor:
    """Computes u (B×C): each channel's strongest relevance, min-max scaled over channels within each picture."""
    return _min_max(relevance_BCD.clamp_min(0).amax(-1), epsilon)


def elsewhere(model: Model, maps: Mapping[Tap, Tensor], units: Sequence[Unit | None], layer: str) -> Tensor:
    """Computes where in a layer each picture's unit does not look: 1 - R / max R.

    R is the relevance at the deepest of `maps` below the picture's own unit (late layers localise best), summed over
    channels and resampled to the grid of `layer`. A class token lies nowhere in the picture and counts as elsewhere, and so
    does everything for None.

    Args:
        model: the network.
        maps: relevance B×C×D by tap.
        units: one per picture, or None.
        layer: name of the layer.

    Returns:
        B×1×D in [0, 1].
    """
    info = model.layer(layer)
    first = next(iter(maps.values()))
    weights = first.new_ones(len(units), 1, info.grid[0] * info.grid[1])
    for unit in {id(unit): unit for unit in units if unit is not None}.values():
        under = layers_below(model, maps, unit)
        if not under or info.patches is None or (patches := model.layer(under[-1].layer).patches) is None:
            continue
        rows = [i for i, other in enumerate(units) if other is unit]
        (skip, height, width), (prefix, *grid) = patches, info.patches
        map_BHW = maps[under[-1]][rows].clamp_min(0).sum(1)[:, skip:].unflatten(1, (height, width))
        if [height, width] != grid:
            map_BHW = interpolate(map_BHW[:, None], grid, mode="bilinear", align_corners=False)[:, 0]
        share_BD = map_BHW.flatten(1) / map_BHW.flatten(1).amax(1, keepdim=True).clamp_min(1e-30)
        weights[rows, 0, prefix:] = 1 - share_BD
    return weights


def _min_max(values: Tensor, epsilon: float) -> Tensor:
    """Scales along the last axis to [0, 1]; rows without a span become 0."""
    low, high = values.aminmax(dim=-1, keepdim=True)
    span = high - low + epsilon
    return (values - low) / torch.where(span > 0, span, 1.0)


def read_relevant(
    model: Model, images: Tensor, units: Sequence[Unit | None], taps: Sequence[Tap], rules: Rules
) -> tuple[dict[Tap, Tensor], dict[Tap, Tensor]]:
    """Reads values and relevance in one forward pass.

    Args:
        model: the network.
        images: B×3×H×W in [0, 1].
        units: whose relevance, one per picture; None has none (its map is all zero).
        taps: the layers.
        rules: of propagation.

    Returns:
        Values at `taps` (B×C×D, with a graph where the images have one), and relevance at those that are `Weighted`
        (B×C×D, constants). The values of a `Weighted` tap are the plain ones.
    """
    weighted = [tap for tap in taps if isinstance(tap, Weighted)]
    plain = {tap: tap.plain if isinstance(tap, Weighted) else tap for tap in taps}
    # Before its activation function a silent unit still has a position that is nearest to firing; above zero,
    # relevance passes the function as it is. Of a combination, what drives it up is relevant: its parts of positive weight.
    begin = {
        id(unit): [(weight, part.before_activation() or part) for weight, part in unit.terms if weight > 0]
        for unit in units
        if unit is not None
    }
    own = tuple(dict.fromkeys(part.tap for parts in begin.values() for _, part in parts))
    with Tape(model, (*(tap.plain for tap in weighted), *own)) as tape:
        values = model.read(images, (*plain.values(), *own))
    starts = {tap: torch.zeros_like(values[tap]) for tap in own}
    with torch.no_grad():
        for unit in {id(unit): unit for unit in units if unit is not None}.values():
            rows = [i for i, other in enumerate(units) if other is unit]
            for weight, part in begin[id(unit)]:
                starts[part.tap][rows] += weight * part.start(values[part.tap][rows])
    found = tape.relevance(starts, [tap.plain for tap in weighted], rules=rules).maps
    return {tap: values[plain[tap]] for tap in taps}, {tap: found[tap.plain] for tap in weighted}


def relevant_means(
    model: Model,
    unit: Unit,
    taps: Sequence[Weighted],
    batches: Iterable[tuple[list[int], Tensor]],
    on_batch: Callable[[int], None],
    wanted: RelevanceWeighting,
) -> tuple[dict[Tap, Tensor], dict[Tap, Tensor], int]:
    """Averages sorted A ⊙ R̂ and u over photos, batch by batch.

    Args:
        model: the network.
        unit: whose relevance.
        taps: the layers.
        batches: (positions, B×3×H×W in [0, 1]) of the photos.
        on_batch: called with the number of photos that are done.
        wanted: how to weight.

    Returns:
        Means of sorted A ⊙ R̂ (C×D per tap), means of u (C per tap), and the number of photos.
    """
    sums: dict[Tap, Tensor] = {}
    weights: dict[Tap, Tensor] = {}
    count = 0
    with torch.no_grad(), model.frozen():
        for indices, images in batches:
            images = images.to(model.device)
            values, maps = read_relevant(model, images, [unit] * len(images), taps, rules_of(wanted.rules))
            for tap in taps:
                weighted = values[tap] * spatial_weight(maps[tap], wanted.epsilon)
                ranked = sorted_rows(weighted).to(accumulator_dtype(weighted)).sum(0)
                weight = channel_importance(maps[tap], wanted.epsilon).to(accumulator_dtype(weighted)).sum(0)
                sums[tap] = sums[tap] + ranked if tap in sums else ranked
                weights[tap] = weights[tap] + weight if tap in weights else weight
            count += len(indices)
            on_batch(count)
    share = 1 / max(count, 1)
    return (
        {t: (v * share).float() for t, v in sums.items()},
        {t: (v * share).float() for t, v in weights.items()},
        count,
    )


def accumulator_dtype(values: Tensor) -> torch.dtype:
    """Returns the type for sums over many photos: double precision where the device has it."""
    return torch.float32 if values.device.type == "mps" else torch.float64


def profile(
    model: Model, unit: Unit, tap: Tap, batches: Iterable[tuple[list[int], Tensor]], rules: Rules
) -> tuple[list[int], Tensor]:
    """Computes each photo's relevance at one layer, summed over positions.

    Returns:
        The photos' positions in the set, and N×C relevance.
    """
    read: list[int] = []
    rows = []
    with torch.no_grad(), model.frozen():
        for indices, images in batches:
            _, maps = read_relevant(model, images.to(model.device), [unit] * len(images), [Weighted(tap.layer)], rules)
            rows.append(maps[Weighted(tap.layer)].sum(-1).cpu())
            read += indices
    return read, torch.cat(rows)


def crops(model: Model, unit: Unit, batches: Iterable[tuple[list[int], Tensor]]) -> Iterator[tuple[list[int], Tensor]]:
    """Cuts each photo around the position that drives the unit most, and resizes it to the input size."""
    for indices, images in batches:
        with torch.no_grad():
            map_BD = unit.map(model.read(images.to(model.device), [unit.tap])[unit.tap]).cpu()
        positions = [unit.position] * len(images) if unit.position is not None else map_BD.argmax(1).tolist()
        cut = []
        for image, position in zip(images, positions):
            row, column = divmod(position, model.layer(unit.layer).grid[1])
            top, left, height, width = crop_box(model, unit.layer, row, column)
            piece = image[None, :, top : top + height, left : left + width]
            cut.append(interpolate(piece, model.card.size, mode="bicubic", antialias=True).clamp(0, 1))
        yield indices, torch.cat(cut)


def facet_photos(profiles_NC: Tensor, facets: int, *, rounds: int = 50) -> Tensor:
    """Assigns photos to facets by the channels through which they drive the unit: spherical k-means, the same for everybody.

    Args:
        profiles_NC: relevance per channel of each photo (summed over positions), strongest photo first.
        facets: number of facets.
        rounds: largest number of rounds.

    Returns:
        N integers: 0 for the facet of the strongest photo, then in the order in which new facets appear.
    """
    points = torch.nn.functional.normalize(profiles_NC.double(), dim=1)
    chosen = [0]
    while len(chosen) < min(facets, len(points)):  # farthest-first: the next centre is the photo least like all so far
        chosen.append(int((points @ points[chosen].T).amax(1).argmin()))
    centres = points[chosen]
    assigned = torch.zeros(len(points), dtype=torch.long)
    for _ in range(rounds):
        previous, assigned = assigned, (points @ centres.T).argmax(1)
        sums = torch.zeros_like(centres).index_add_(0, assigned, points)
        # A facet that lost all its photos keeps its centre.
        centres = torch.where(sums.norm(dim=1, keepdim=True) > 0, torch.nn.functional.normalize(sums, dim=1), centres)
        if torch.equal(previous, assigned):
            break
    order = list(dict.fromkeys(assigned.tolist()))
    return torch.tensor([order.index(a) for a in assigned.tolist()])

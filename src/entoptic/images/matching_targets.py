"""`MatchingTarget`: what the layers of a network look like on a unit's reference photos, for distribution matching.

VITAL (arXiv:2503.22399) compares the sorted values of each channel of a picture with their mean over reference photos.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from entoptic.base.cache import content_key, load_cached, save_cached
from entoptic.base.sorting import sorted_rows
from entoptic.errors import NotAvailable, nearest
from entoptic.images.photos import Photos
from entoptic.images.relevance_weighting import (
    RelevanceWeighting,
    Weighted,
    accumulator_dtype,
    crops,
    relevant_means,
)
from entoptic.images.shipped_statistics import Pack
from entoptic.images.unit_table import UnitTable, find_table
from entoptic.images.unread import remember_unread
from entoptic.models.model import LOGITS, Model
from entoptic.models.taps import Tap
from entoptic.units.grammar import quoted_layer
from entoptic.units.unit import Unit


@dataclass(frozen=True)
class MatchingTarget:
    """Mean sorted values of a unit's reference photos.

    Attributes:
        values: per tap C×D: entry (c, d) is the mean over photos of the d-th smallest value of channel c.
        photos: number of photos.
        source: where they came from, for people.
        sha256: of the photos' contents, or of the shipped statistics.
        importance: per tap C weights of the channels (VITAL's ū) where the values were weighted by relevance.
        borrowed: whether a logit's photos are those of any class that drive it most, as there are none of its own.
        note: what is amiss with the photos, for people; "" for nothing.
        against: the target that this one was moved away from, or None.
    """

    values: dict[Tap, Tensor]
    photos: int
    source: str
    sha256: str
    importance: dict[Tap, Tensor] = field(default_factory=dict)
    borrowed: bool = False
    note: str = ""
    against: MatchingTarget | None = None

    def describe(self) -> dict[str, object]:
        """Returns what a picture's sidecar holds of the photos."""
        told: dict[str, object] = {"source": self.source, "n": self.photos, "sha256": self.sha256}
        return told if self.against is None else {**told, "against": self.against.describe()}


def sorted_means(
    model: Model,
    taps: Sequence[Tap],
    batches: Iterable[tuple[list[int], Tensor]],
    on_batch: Callable[[int], None],
) -> tuple[dict[Tap, Tensor], int]:
    """Averages each channel's sorted values over photos, batch by batch: memory does not grow with their number.

    Args:
        model: the network.
        taps: the layers to read.
        batches: (positions, B×3×H×W in [0, 1]) of the photos.
        on_batch: called with the number of photos that are done.

    Returns:
        C×D float32 per tap, and the number of photos.
    """
    totals: dict[Tap, Tensor] = {}
    count = 0
    with torch.no_grad(), model.frozen():
        for indices, images in batches:
            for tap, values in model.read(images.to(model.device), taps).items():
                total = sorted_rows(values).to(accumulator_dtype(values)).sum(0)
                totals[tap] = totals[tap] + total if tap in totals else total
            count += len(indices)
            on_batch(count)
    return {tap: (total / max(count, 1)).float() for tap, total in totals.items()}, count


def target_of_photos(
    model: Model,
    photos: Photos,
    indices: list[int],
    how: str,
    unit: Unit,
    taps: Sequence[Tap],
    wanted: RelevanceWeighting | None,
    *,
    batch_size: int,
    on_batch: Callable[[int], None],
) -> MatchingTarget:
    """Computes a unit's target from photos, or loads it where the disk holds it by content.

    Args:
        model: the network.
        photos: the set.
        indices: positions of the unit's reference photos.
        how: how they were chosen, for people.
        unit: the unit.
        taps: the layers to match.
        wanted: how to weight the values by the unit's relevance; None leaves them as they are.
        batch_size: photos per forward pass.
        on_batch: called with the number of photos that are done.
    """
    fingerprint = photos.fingerprint(indices)
    key: dict[str, object] = {
        "weights": model.card.identity, "card": model.card.preprocessing(),
        "taps": [str(tap) for tap in taps], "photos": fingerprint,
    }  # fmt: skip
    if wanted is not None:
        key |= {"unit": unit.identity, "relevant": [wanted.rules, wanted.reference, wanted.epsilon]}
        if wanted.reference == "crop":
            how = f"crops of {how}"
    known = load_cached("targets", content_key(key), {"count": 0, **{str(tap): None for tap in taps}})
    if known is not None:
        remember_unread(photos, model.card.prepare, indices, int(known["count"]))
        values = {tap: known[str(tap)].to(model.device) for tap in taps}
        importance = {tap: known[f"{tap} u"].to(model.device) for tap in taps if f"{tap} u" in known}
        return MatchingTarget(values, int(known["count"]), how, fingerprint, importance)
    batches = photos.batches(model.card.prepare, batch_size, indices)
    importance = {}
    if wanted is None:
        values, read = sorted_means(model, taps, batches, on_batch)
    else:
        if wanted.reference == "crop":
            batches = crops(model, unit, batches)
        weighted = [tap for tap in taps if isinstance(tap, Weighted)]
        values, importance, read = relevant_means(model, unit, weighted, batches, on_batch, wanted)
    stored = {str(tap): value.cpu() for tap, value in values.items()}
    stored |= {f"{tap} u": value.cpu() for tap, value in importance.items()}
    save_cached("targets", content_key(key), {**stored, "count": torch.tensor(read)})
    return MatchingTarget(values, read, how, fingerprint, importance)


SHIPPED = "shipped statistics"
NATURAL = "the shipped mean over photos of all kinds"


def table_of(model: Model, pack: Pack | None, unit: Unit, relevance: str | None = None) -> UnitTable | None:
    """Returns the shipped table that holds a unit which the pack does not; None where there is none.

    Args:
        model: the network.
        pack: its shipped statistics.
        unit: the unit.
        relevance: a kind by which values shall be weighted, or "none": a table of this kind comes before a pack of another.
    """
    plain = unit.direction is None and str(unit) == f"{quoted_layer(unit.layer)}:{unit.index}"
    if not plain:
        return None
    in_pack = pack is not None and str(unit) in pack.units
    if relevance is not None and not (in_pack and pack is not None and pack.relevance(str(unit)) == relevance):
        exact = find_table(model.card, unit.layer, relevance)
        if exact is not None:
            return exact
    return None if in_pack else find_table(model.card, unit.layer)


def target_of_pack(
    model: Model, pack: Pack | None, unit: Unit, taps: Sequence[Tap], wanted: RelevanceWeighting | None = None
) -> MatchingTarget:
    """Reads a unit's target from the shipped statistics.

    Args:
        model: the network.
        pack: its shipped statistics, or None where it has none.
        unit: the unit.
        taps: the layers to match; with none, it is only checked that the unit is held.
        wanted: how the values shall be weighted by relevance.

    Raises:
        NotAvailable: no statistics, or they hold no such unit, layer or weighting.
    """
    if unit.parts:
        return _target_of_parts(model, pack, unit, taps, wanted)
    asked = wanted.rules if wanted else "none"
    table = table_of(model, pack, unit, asked)
    if table is None:
        _check_held(model, pack, unit)
    if wanted is not None and (wanted.reference, wanted.facets) != ("image", 1):
        raise NotAvailable(f"facets and crops of {unit} need real photos; give --photos DIR (Python: photos=…)")
    held_as = table.relevance if table else pack.relevance(str(unit)) if pack else "none"
    if taps and held_as != asked:
        raise NotAvailable(
            f'without photos, {unit} can be matched with relevance="{held_as}" only; give --photos DIR for others'
        )
    if table is not None:
        values = {tap: _held(model, tap, partial(table.target, unit.index), table.layers) for tap in taps}
        importance = {tap: u.to(model.device) for tap, u in table.importance_of(unit.index, taps).items()}
        return MatchingTarget(
            values,
            int(table.photos_n[unit.index]),
            table.describe(unit.index),
            table.sha256,
            importance,
            table.borrowed,
        )
    assert pack is not None
    values = _values_of_pack(model, pack, str(unit), taps)
    importance = {tap: u.to(model.device) for tap, u in pack.importance(str(unit), taps).items()}
    return MatchingTarget(values, pack.count(str(unit)), SHIPPED, pack.sha256, importance)


def _target_of_parts(
    model: Model, pack: Pack | None, unit: Unit, taps: Sequence[Tap], wanted: RelevanceWeighting | None
) -> MatchingTarget:
    """Puts the shipped targets of a combination's parts together, by their weights.

    A target is a mean over photos, so that the weighted mean of two is the target of the photos of both, each counted by its
    weight.

    Raises:
        NotAvailable: a part of negative weight (photos that drive a unit least are not held), or one that is not held.
    """
    if against := [part for weight, part in unit.parts if weight < 0]:
        raise NotAvailable(
            f"{unit} is also driven by what does not drive {against[0]}, and the shipped statistics hold no such photos; "
            "give --photos DIR (Python: photos=…), or use --method fourier, which needs none"
        )
    total = sum(weight for weight, _ in unit.parts)
    each = [(weight / total, part, target_of_pack(model, pack, part, taps, wanted)) for weight, part in unit.parts]
    shares = "; ".join(f"{share:.0%} {part.label or part}" for share, part, _ in each)
    return MatchingTarget(
        values={tap: torch.stack([share * t.values[tap] for share, _, t in each]).sum(0) for tap in taps},
        photos=each[0][2].photos,
        source=f"{SHIPPED} of the parts, by their weights: {shares}",
        sha256=content_key({"targets": [[share, target.sha256] for share, _, target in each]}),
        importance={
            tap: torch.stack([share * target.importance[tap] for share, _, target in each]).sum(0)
            for tap in taps
            if all(tap in target.importance for _, _, target in each)
        },
        borrowed=any(target.borrowed for _, _, target in each),
    )


def _check_held(model: Model, pack: Pack | None, unit: Unit) -> None:
    """Checks that a pack holds a unit.

    Raises:
        NotAvailable: it does not, or there is none.
    """
    if pack is None:
        raise NotAvailable(
            f"matching {unit} of {model.card.name} needs real photos: give --photos DIR (Python: photos=…), "
            "or use --method fourier, which needs none"
        )
    held = pack.units
    if str(unit) not in held:
        names = {i: model.card.label(int(i.split(":")[1])) or i for i in held if i.startswith("logits:")}
        classes = ", ".join(f"{k} ({v})" for k, v in names.items())
        channels = ", ".join(i for i in held if not i.startswith("logits:")) or "no channels"
        if find_table(model.card, LOGITS):
            classes = "every class"
        if whole := [layer for layer in model.layers if find_table(model.card, layer)]:
            channels = f"every channel of {', '.join(whole)}"
        raise NotAvailable(
            f"without photos, {model.card.name} has references for {classes} and {channels}, but not for {unit}"
            f"{f' ({unit.label})' if unit.label else ''}; give --photos DIR, or use --method fourier"
        )


def check_count(target: MatchingTarget, asked: int, default: int, unit: Unit) -> str:
    """Returns a note where the shipped statistics are of another number of photos than a method takes by default.

    Args:
        target: of the unit.
        asked: number of reference photos that the method's settings name.
        default: number that they name if nothing is asked.
        unit: the unit.

    Raises:
        NotAvailable: another number was asked for than the statistics are of.
    """
    if not target.source.startswith(SHIPPED) or target.photos == asked:
        return ""
    if asked != default:
        raise NotAvailable(
            f"references={asked} was asked for {unit}, but without photos there are the shipped statistics of "
            f"{target.photos} photos, and no others; give --photos DIR (Python: photos=…) or leave references out"
        )
    return f"references={asked} is the method's own, and {target.photos} photos are behind the shipped statistics that were used"


def natural_of_pack(model: Model, pack: Pack | None, taps: Sequence[Tap]) -> MatchingTarget:
    """Reads the shipped mean over photos of all kinds.

    Raises:
        NotAvailable: no statistics, or they hold no such layer.
    """
    if pack is None:
        raise NotAvailable(
            "what photos look like in general needs real photos: give --photos DIR (Python: photos=…), "
            "or leave it out with natural=0"
        )
    return MatchingTarget(_values_of_pack(model, pack, "natural", taps), pack.meta.natural, NATURAL, pack.sha256)


def _values_of_pack(model: Model, pack: Pack, name: str, taps: Sequence[Tap]) -> dict[Tap, Tensor]:
    return {tap: _held(model, tap, partial(pack.target, name), pack.layers) for tap in taps}


def _held(model: Model, tap: Tap, read: Callable[[Tap, int], Tensor | None], layers: Sequence[str]) -> Tensor:
    """Returns the sorted values that shipped statistics hold of a layer.

    Raises:
        NotAvailable: they hold no such layer.
    """
    info = model.layer(tap.layer)
    target = read(tap, info.grid[0] * info.grid[1])
    if target is None:
        raise NotAvailable(
            f'the shipped statistics have no layer "{tap}"{nearest(str(tap), layers)}; '
            f"they hold {', '.join(layers)}; give --photos DIR for others"
        )
    return target.to(model.device)

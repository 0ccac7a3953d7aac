"""What a request for inversions resolves to before any picture is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from entoptic.base.bounds import check_options
from entoptic.base.gradients import with_gradients
from entoptic.errors import UserError, nearest
from entoptic.inversion.configs import Sampling
from entoptic.inversion.maps import FeatureMaps
from entoptic.inversion.saved import find_inverter, prior_record
from entoptic.inversion.targets import MapTarget, PhotoReader, edits_of, picture_of, sources_of
from entoptic.methods import find_method
from entoptic.methods.contract import Failure, FailureCode, Item
from entoptic.methods.invert import Invert
from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.models.sources import load
from entoptic.runs.again import Again
from entoptic.runs.map_items import MapItems
from entoptic.runs.plan import Job, Plan, default_batch, find_verifiers, run_name
from entoptic.runs.store import Run

if TYPE_CHECKING:
    from entoptic.inversion.inverter import Inverter

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(kw_only=True)
class InversionPlan(Plan):
    """A plan of pictures with the feature maps of photos."""

    kind: MapItems


@with_gradients
def make_inversion_plan(
    model: str | nn.Module | Model,
    layer: str,
    photos: str | Path | Sequence[str | Path],
    *,
    options: Mapping[str, Any],
    n: int = 4,
    inverter: str | Inverter | None = None,
    prior: str | None = None,
    mix: str | Path | None = None,
    weights: str | Sequence[float] = WEIGHTS,
    mixing: str = "linear",
    paste: str | Path | None = None,
    region: str | Sequence[float] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    verifiers: str | Sequence[str | Model] = "auto",
    batch_size: int | None = None,
    device: str = "auto",
    card: Card | None = None,
    context: bool = True,
) -> InversionPlan:
    """Loads the network and the inverter, lists the photos, and makes nothing.

    Args:
        options: fields of `Sampling`. The others: see `invert`.

    Raises:
        UserError: bad input, or an inverter for another model or layer.
    """
    known = {one.name for one in fields(Sampling)}
    for name in options:
        if name not in known:
            raise UserError(f'no option "{name}" in invert; there are {", ".join(sorted(known))}{nearest(name, known)}')
    if n < 1:
        raise UserError(f"n is the number of pictures per map and must be at least 1, got {n}")
    if batch_size is not None and batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size}")
    check_options(n=n, batch_size=batch_size, seed=seed)
    sampling = Invert(**options)
    subject = load(model, card, device=device)
    maps = FeatureMaps.of(subject, layer)
    used, source = find_inverter(inverter, maps, prior)
    # The ablation is there to show what a map without places gives: nothing may bring the places in again.
    if getattr(getattr(used, "recipe", None), "pooled", False) and sampling.looked_at:
        raise UserError(
            f"the inverter {used.name} is an ablation that sees maps pooled over positions, and nothing else may choose or "
            "change its pictures; leave best_of at 1 and pull at 0"
        )
    edits = edits_of(maps, mix, weights, mixing, paste, region)
    if sampling.best_of > 1 and edits[0].kind:
        raise UserError("edits are compared at the same noise, so they take no best-of; leave one of the two out")
    judges = [v for v in find_verifiers(subject, verifiers) if v.card.weights_sha256 != subject.card.weights_sha256]
    sources, unreadable = sources_of(photos, layer)
    failures = [Failure(method="invert", code=FailureCode.UNREADABLE, text=text) for text in unreadable]
    items = [
        Item(target=MapTarget(layer=layer, photo=photo, edit=edit), sample=sample, seed=seed)
        for photo in sources
        for edit in edits
        for sample in range(n)
    ]
    kind = MapItems(
        maps=maps, inverter=used, inverter_source=source, prior=prior_record(used, prior), verifiers=judges,
        photos=PhotoReader(maps, judges, lambda photo: picture_of(photo.path)), store_photos=context,
    )  # fmt: skip
    return InversionPlan(
        model=subject, kind=kind, jobs=[Job(card=find_method("invert"), config=sampling, items=items)],
        run=Run(out if out is not None else Path("runs") / run_name(subject)),
        batch_size=default_batch(subject, batch_size), failures=failures,
        again=Again(make_inversion_plan, {
            "model": model, "layer": layer, "photos": photos, "options": dict(options), "n": n, "inverter": inverter,
            "prior": prior, "mix": mix, "weights": weights, "mixing": mixing, "paste": paste, "region": region, "seed": seed,
            "out": out, "verifiers": verifiers, "batch_size": batch_size, "device": device, "card": card, "context": context,
        }),
    )  # fmt: skip

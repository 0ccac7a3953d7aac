"""Pictures with the feature map of a photo, or of an edit of it: made by an inverter, measured and stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from entoptic.base.bounds import check_options
from entoptic.base.gradients import with_gradients
from entoptic.base.progress import reporter
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
from entoptic.runs.decoding_time import decoding_time
from entoptic.runs.execute import execute, split
from entoptic.runs.map_items import MapItems
from entoptic.runs.plan import Job, Plan, default_batch, find_verifiers, run_name
from entoptic.runs.store import Run

if TYPE_CHECKING:
    from entoptic.inversion.inverter import Inverter

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)


@with_gradients
def invert(
    model: str | nn.Module | Model,
    layer: str,
    photos: str | Path | Sequence[str | Path],
    *,
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
    progress: bool = True,
    dry_run: bool = False,
    **options: Any,
) -> Run:
    """Draws pictures that have a photo's feature map, measures and stores them.

    Args:
        model: anything `load` takes.
        layer: one with a map over the picture.
        photos: image files, and folders of them. Of each its central square is inverted.
        n: pictures per map; sample k of every edit of a photo starts from the same noise.
        inverter: anything `load_inverter` takes; None is the shipped one.
        prior: where the prior that the inverter was trained on is now, if not where its card says; another is refused.
        mix: a second photo, whose map is mixed in.
        weights: of the second photo, one picture for each.
        mixing: "linear", "norm" or "slerp", as in `arithmetic.interpolate`.
        paste: a second photo, whose map is put in at `region`.
        region: top, left, bottom, right in cells of the map; bottom and right are left out.
        seed: of the run; the same request gives the same pictures.
        out: the run folder (default `runs/MODEL`). What is there already is not made again.
        verifiers: as in `see`; each is asked what it says to the original.
        batch_size: pictures drawn together; results do not depend on it.
        device: "auto", "cpu", "cuda:1", ….
        card: of a bare `nn.Module`.
        context: store a small copy of the photo for the gallery.
        progress: show how far the work is, and before it how long it will take.
        dry_run: only say how long it will take; nothing is made.
        options: fields of `Sampling`: steps, guidance, strength, pull, best_of.

    Returns:
        The run. Photos that could not be read are named in `run.failures`; the others are finished.

    Raises:
        UserError: bad input, an inverter for another model or layer, or every picture failed.
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
    plan = Plan(
        model=subject, kind=kind, jobs=[Job(card=find_method("invert"), config=sampling, items=items)],
        run=Run(out if out is not None else Path("runs") / run_name(subject)),
        batch_size=default_batch(subject, batch_size), failures=failures,
    )  # fmt: skip
    with reporter(progress or dry_run) as report:
        todo = sum(len(split(plan.run, plan.entries(job))[1]) for job in plan.jobs)
        if dry_run or (todo and progress):
            decoded, readings = todo * sampling.best_of, 2 + len(judges)
            told = decoding_time(used, decoded, steps=sampling.steps, guidance=sampling.guidance, readings=readings)
            report.note(f"{told}; nothing was made" if dry_run else str(told))
        return plan.run if dry_run else execute(plan, report)

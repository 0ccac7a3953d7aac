"""Pictures with the feature map of a photo, or of an edit of it: made by an inverter, measured and stored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from entoptic.base.gradients import with_gradients
from entoptic.base.progress import reporter
from entoptic.base.unread import names_unread
from entoptic.methods.invert import Invert
from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.runs.decoding_time import decoding_time
from entoptic.runs.execute import execute, split
from entoptic.runs.invert_plan import WEIGHTS, make_inversion_plan
from entoptic.runs.store import Run
from entoptic.workers.count import Workers

if TYPE_CHECKING:
    from entoptic.inversion.inverter import Inverter


@names_unread
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
    workers: int | str | Workers | None = None,
    **options: Any,
) -> Run:
    """Draws pictures that have a photo's feature map, measures and stores them.

    Args:
        model: anything `load` takes.
        layer: one with a map over the picture.
        photos: image files, and folders of them. Of each its central square is inverted.
        n: pictures per map; sample k of every edit of a photo starts from the same noise.
        inverter: anything `load_inverter` takes; None is the one that is shipped for the layer.
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
        workers: as in `see`.
        options: fields of `Sampling`: steps, guidance, strength, pull, best_of.

    Returns:
        The run. Photos that could not be read are named in `run.failures`; the others are finished.

    Raises:
        UserError: bad input, an inverter for another model or layer, or every picture failed.
    """
    shared = Workers.parse(workers)
    plan = make_inversion_plan(
        model, layer, photos, options=options, n=n, inverter=inverter, prior=prior, mix=mix, weights=weights, mixing=mixing,
        paste=paste, region=region, seed=seed, out=out, verifiers=verifiers, batch_size=batch_size, device=device, card=card,
        context=context,
    )  # fmt: skip
    sampling, kind = plan.jobs[0].config, plan.kind
    assert isinstance(sampling, Invert)
    with reporter(progress or dry_run) as report:
        todo = sum(len(split(plan.run, plan.entries(job))[1]) for job in plan.jobs)
        if dry_run or (todo and progress):
            decoded, readings = todo * sampling.best_of, 2 + len(kind.verifiers)
            told = decoding_time(
                kind.inverter, decoded, steps=sampling.steps, guidance=sampling.guidance, readings=readings
            )
            report.note(f"{told}; nothing was made" if dry_run else str(told))
        return plan.run if dry_run else execute(plan, report, shared)

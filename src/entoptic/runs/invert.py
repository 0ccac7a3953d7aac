"""Pictures with the feature map of a photo, or of an edit of it: made by an inverter, measured and stored."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Generator, nn

from entoptic.base.pixels import opaque, quantise, to_float
from entoptic.base.progress import Reporter, reporter
from entoptic.base.randomness import generator_for
from entoptic.errors import UserError, nearest
from entoptic.inversion.configs import Sampling
from entoptic.inversion.maps import FeatureMaps, superpixel_cosine
from entoptic.inversion.saved import find_inverter, prior_record
from entoptic.inversion.targets import InversionTarget, Reader, edits_of, picture_of, sources_of, unit_of
from entoptic.metrics.inversion import measured
from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.models.sources import load
from entoptic.runs.inversion_plan import METHOD, Plan, Task, record_of, write_originals
from entoptic.runs.plan import find_verifiers
from entoptic.runs.records import model_record, version
from entoptic.runs.set_evidence import refresh_set_evidence, write_set
from entoptic.runs.store import Run, Unwritable

if TYPE_CHECKING:
    from entoptic.inversion.inverter import Inverter

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)


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
    **options: Any,
) -> Run:
    """Draws pictures that have a photo's feature map, measures and stores them.

    Args:
        model: anything `load` takes. layer: one with a map over the picture. card: for a bare `nn.Module`.
        photos: image files, and folders of them. Of each its central square is inverted.
        n: pictures per map; sample k of every edit of a photo starts from the same noise.
        inverter: anything `load_inverter` takes; None is the shipped one. prior: where the prior that it was trained on
            is now, if not where its card says; another prior is refused.
        mix: a second photo, whose map is mixed in with each of `weights`. mixing: as in `arithmetic.interpolate`.
        paste: a second photo, whose map is put in at `region` (top, left, bottom, right in cells of the map).
        out: the run folder (default `runs/MODEL`). What is there already is not made again.
        verifiers: as in `see`; each is asked what it says to the original.
        context: store a small copy of the photo for the gallery.
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
    sampling = Sampling(**options)
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
    called = subject.card.name.partition(":")[2] or subject.card.name
    run = Run(out if out is not None else Path("runs") / called.replace("/", "-"))
    judges = [v for v in find_verifiers(subject, verifiers) if v.card.weights_sha256 != subject.card.weights_sha256]
    size = batch_size or (10 if subject.device.type == "cpu" else 64)
    sources, failures = sources_of(photos, layer)
    plan = Plan(
        maps, used, source, prior_record(used, prior), sampling, judges, run, n, seed, size, sources, edits, failures
    )
    with reporter(progress) as report:
        return _execute(plan, report, context)


# --- making --------------------------------------------------------------------------------------------------------


def generator(seed: int, unit: str, sample: int, candidate: int = 0) -> Generator:
    """A generator of its own for each picture; all edits of a photo share it, candidates of best-of do not."""
    return generator_for(seed, unit, sample, *([candidate] if candidate else []))


def _execute(plan: Plan, report: Reporter, context: bool) -> Run:
    card = plan.maps.model.card
    about = {"entoptic": version("entoptic"), "title": card.name, "model": model_record(plan.maps.model)}
    plan.run.failures = list(plan.failures)
    reader = Reader(plan.maps, plan.verifiers, lambda source: picture_of(source.path))
    tasks = list(plan.tasks())
    with plan.run.writing(about):
        todo = [task for task in tasks if plan.run.finished(task.file, task.key) is None]
        report.start(METHOD, len(todo), len(tasks) - len(todo))
        each = max(1, plan.batch_size // plan.sampling.best_of)
        for start in range(0, len(todo), each):
            _make(plan, reader, todo[start : start + each], report)
        sets = list({(task.source, task.edit): task for task in tasks}.values())
        for done, task in enumerate(sets, 1):
            try:
                refresh_set_evidence(plan, reader, task)
            except UserError as error:
                if isinstance(error, Unwritable):
                    raise
                _fail(plan, str(error))
            report.progress("measuring samples together", done, len(sets))
        write_set(plan, [task for task in tasks if not task.edit.kind])
        if context:
            write_originals(plan, reader)
    if plan.run.failures:
        if not len(plan.run):
            raise UserError(plan.run.failures[0])
        for failure in plan.run.failures:
            warnings.warn(failure, stacklevel=3)
    return plan.run


def _fail(plan: Plan, reason: str) -> None:
    if reason not in plan.run.failures:
        plan.run.failures.append(reason)


def _make(plan: Plan, reader: Reader, chunk: list[Task], report: Reporter) -> None:
    started = time.monotonic()
    readable = []
    for task in chunk:
        try:
            readable.append((task, reader.wanted(task.source, task.edit, plan.sampling.looked_at)))
        except UserError as error:
            _fail(plan, str(error))
    try:
        drawn = _draw(plan, reader, readable)
    except UserError as error:
        if len(readable) > 1:  # one map that cannot be inverted must not take its mates along
            for task in chunk:
                _make(plan, reader, [task], report)
            return
        _fail(plan, ", ".join(unit_of(plan.maps.layer, task.source) for task, _ in readable) + f": {error}")
        drawn = []
    seconds = (time.monotonic() - started) / max(1, len(readable))
    for (task, wanted), (pixels, cosines, before) in zip(readable, drawn):
        trace: dict[str, Any] = {"seconds": round(seconds, 3), "stopped": "finished"}
        if len(cosines) > 1:
            trace["cosines of candidates"] = [round(cosine, 6) for cosine in cosines]
        evidence = measured(plan.maps, plan.inverter, pixels, replace(wanted, before=before))
        record = record_of(plan, reader, task, trace) | {"evidence": [e.to_json() for e in evidence]}
        shown = {} if before is None else {"pair": opaque(before)}
        plan.run.write(task.file, pixels, record, maps=shown)
    report.finish(len(chunk), time.monotonic() - started)


Drawn = tuple[np.ndarray, list[float], np.ndarray | None]
"""The picture kept, the cosines of its candidates, and the picture of the same noise without the edit."""


def _draw(plan: Plan, reader: Reader, readable: list[tuple[Task, InversionTarget]]) -> list[Drawn]:
    if not readable:
        return []
    best_of, inverter, asked = plan.sampling.best_of, plan.inverter, plan.sampling
    maps, generators = [], []
    for task, wanted in readable:
        # An edit of a part is compared with the photo's own map at the same noise, in the same batch.
        both = [wanted.map_Chw] + [reader(task.source).map_Chw] * (wanted.mask_hw is not None)
        for map_Chw in both:
            maps += [map_Chw] * best_of
            unit = unit_of(plan.maps.layer, task.source)
            generators += [generator(plan.seed, unit, task.sample, candidate) for candidate in range(best_of)]
    made = inverter.sample(
        torch.stack(maps).to(plan.maps.model.device), inverter.noise(generators), steps=asked.steps,
        strength=asked.strength, guidance=asked.guidance, pull=asked.pull, batch_size=plan.batch_size,
    ).cpu()  # fmt: skip
    if not bool(made.isfinite().all()):
        raise UserError("the inverter made pixels that are not finite; lower guidance, strength or pull")
    found: list[Drawn] = []
    place = 0
    for _, wanted in readable:
        candidates = [quantise(picture) for picture in made[place : place + best_of]]
        place += best_of
        before = None
        if wanted.mask_hw is not None:
            before = quantise(made[place])
            place += best_of
        cosines = [0.0]
        if best_of > 1:
            with torch.no_grad():
                seen = plan.maps.read(torch.cat([to_float(pixels) for pixels in candidates])).cpu()
            cosines = superpixel_cosine(seen, wanted.map_Chw[None].expand_as(seen)).tolist()
        found.append((candidates[int(np.argmax(cosines))], cosines, before))
    return found

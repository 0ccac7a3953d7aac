"""The main job: pictures of units by one or more methods, measured and stored."""

from __future__ import annotations

import importlib.metadata
import shlex
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from entoptic.errors import UserError, nearest
from entoptic.images.cache import content_key
from entoptic.images.index import ActivationIndex
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.images.scores import silent
from entoptic.methods import METHODS, MethodCard, find_method
from entoptic.methods.registry import Context, Draft, Item, MethodConfig, make_config
from entoptic.metrics.nats import law
from entoptic.metrics.picture import measure
from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.models.sources import LITE, lite_card, load
from entoptic.priors.prior import Prior
from entoptic.priors.sources import SHIPPED, load_prior
from entoptic.runs.context import picture_maps, write_context
from entoptic.runs.progress import Reporter, reporter
from entoptic.runs.store import FORMAT, Picture, Run, Unwritable
from entoptic.units.unit import Unit, bind, slug

RECIPE = 1
"""Raised whenever a method or the ascent loop changes what it makes from the same config."""
EVIDENCE = 3
"""Raised whenever `measure` measures something else: pictures measured by an older one are measured again."""


def see(
    model: str | nn.Module | Model,
    units: str | Unit | Iterable[str | Unit],
    *,
    method: str | MethodConfig | Sequence[str | MethodConfig] = "vital",
    photos: Any = None,
    n: int = 1,
    seed: int = 0,
    out: str | Path | None = None,
    verifiers: str | Sequence[str | Model] = "auto",
    batch_size: int | None = None,
    device: str = "auto",
    card: Card | None = None,
    index: str | Path | ActivationIndex | None = None,
    prior: str | Prior | None = None,
    bank_seed: int = 0,
    progress: bool = True,
    context: bool = True,
    **options: Any,
) -> Run:
    """Makes, measures and stores pictures of what units of a model look for.

    Args:
        model: anything `load` takes. units: strings of the unit grammar. card: for a bare `nn.Module`.
        method: one or several of `METHODS` by name (also "vital,maco"), or configs.
        photos: real photos, anything `Photos.open` takes; None uses the shipped statistics where there are any.
        n: pictures per unit and method. seed: of the run; the same request gives the same pictures.
        out: the run folder (default `runs/MODEL`). What is there already is not made again.
        verifiers: networks that judge the pictures and that no method optimises; "auto" takes the builtin ones that
            know all of the model's classes, "" none.
        batch_size: pictures optimised together (default 10 on a CPU, 64 elsewhere); results do not depend on it.
        index: an `ActivationIndex` of the model on these photos, or its folder: units it holds need no pass over them.
        prior: image prior of the methods that sample one, anything `load_prior` takes; None is the shipped one.
        bank_seed: of the prior's samples that standardise scores and start the sampling. `seed` does not change them, so
            runs of other seeds share their error; another bank_seed gives independent ones, sampled and scored anew.
        context: store small copies of the photos that drive each unit most and least beside its pictures, for the
            gallery; turn it off where a run is published whose photos may not be.
        options: fields of the methods' configs, for instance `steps=300`; each goes to every method that has it.

    Returns:
        The run. Units that failed are named in `run.failures`; their mates are finished.

    Raises:
        UserError: bad input, or every picture failed. KeyboardInterrupt: on Ctrl-C, with all finished pictures stored.
    """
    with reporter(progress) as report:
        plan = make_plan(
            model, units, method=method, photos=photos, n=n, seed=seed, out=out, verifiers=verifiers,
            batch_size=batch_size, device=device, card=card, report=report, options=options, index=index,
            context=context, prior=prior, bank_seed=bank_seed,
        )  # fmt: skip
        return execute(plan, report)


@dataclass
class Job:
    """Pictures to make by one method."""

    card: MethodCard
    config: MethodConfig
    items: list[Item]


@dataclass
class Plan:
    """Everything that a request resolved to, before any picture is made."""

    model: Model
    references: References
    verifiers: list[Model]
    jobs: list[Job]
    run: Run
    seed: int
    batch_size: int
    photos: str | None
    failures: list[str] = field(default_factory=list)
    context: bool = True
    prior: Prior | None = None
    bank_seed: int = 0

    def context_of(self, job: Job, report: Reporter, pictures: int) -> Context:
        """What a method gets for a batch of `pictures`."""
        on_step = lambda step, steps: report.step(step, steps, pictures)  # noqa: E731
        units = list({item.unit.identity: item.unit for item in job.items}.values())
        return Context(self.model, self.references, on_step, self.prior, units, report.progress, self.bank_seed)


def make_plan(
    model: str | nn.Module | Model,
    units: Any,
    *,
    method: Any = "vital",
    photos: Any = None,
    n: int = 1,
    seed: int = 0,
    out: str | Path | None = None,
    verifiers: str | Sequence[str | Model] = "auto",
    batch_size: int | None = None,
    device: str = "auto",
    card: Card | None = None,
    report: Reporter | None = None,
    options: dict[str, Any] | None = None,
    index: str | Path | ActivationIndex | None = None,
    context: bool = True,
    prior: str | Prior | None = None,
    bank_seed: int = 0,
) -> Plan:
    """Resolves names, checks every unit against every method, and computes nothing else."""
    if n < 1:
        raise UserError(f"n is the number of pictures per unit and must be at least 1, got {n}")
    if batch_size is not None and batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size}")
    chosen = choose_methods(method, options or {})
    subject = load(model, card, device=device)
    bound = bind(subject, units)
    opened = photos if photos is None or isinstance(photos, Photos) else Photos.open(photos)
    held = ActivationIndex.open(index) if isinstance(index, (str, Path)) else index
    references = References(subject, opened, progress=report.progress if report else silent, index=held)
    references.expect(bound)
    failures: list[str] = []
    jobs = []
    needs_prior = any("prior" in found.reads for found, _ in chosen)
    if prior is not None and not needs_prior:
        sampling = ", ".join(name for name, c in METHODS.items() if "prior" in c.reads)
        raise UserError(
            f"a prior was given, but {', '.join(c.name for c, _ in chosen)} samples none; these methods do: {sampling}"
        )
    if bank_seed and not needs_prior:
        raise UserError(
            f"bank_seed={bank_seed} was given, but {', '.join(c.name for c, _ in chosen)} samples no prior and has no bank"
        )
    generator = None
    if needs_prior:
        generator = load_prior(prior or SHIPPED, device=subject.device)
    for found, config in chosen:
        items = []
        for unit in bound:
            if unit.kind not in found.units:
                failures.append(f"{found.name} shows {', '.join(sorted(found.units))} units, not {unit} ({unit.kind})")
                continue
            try:
                references.check(unit, found.reads)
            except UserError as error:
                failures.append(str(error))
                continue
            items += [Item(unit, sample, seed) for sample in range(n)]
        jobs.append(Job(found, config, items))
    failures = list(dict.fromkeys(failures))
    if failures and not any(job.items for job in jobs):
        raise UserError(failures[0] + (f" (and {len(failures) - 1} more like it)" if len(failures) > 1 else ""))
    name = subject.card.name.partition(":")[2] or subject.card.name
    run = Run(out if out is not None else Path("runs") / name.replace("/", "-"))
    size = batch_size or (10 if subject.device.type == "cpu" else 64)
    return Plan(
        subject, references, find_verifiers(subject, verifiers), jobs, run, seed, size,
        opened.source if opened is not None else None, failures, context, generator, bank_seed,
    )  # fmt: skip


def choose_methods(method: Any, options: dict[str, Any]) -> list[tuple[MethodCard, MethodConfig]]:
    """Cards and configs of the methods named; every option must belong to at least one of them."""
    asked = (
        method.split(",") if isinstance(method, str) else [method] if isinstance(method, MethodConfig) else list(method)
    )
    chosen: list[tuple[MethodCard, MethodConfig]] = []
    known: set[str] = set()
    for one in asked:
        if isinstance(one, MethodConfig):
            found = next(card for card in METHODS.values() if card.config is type(one))
            base = {name: getattr(one, name) for name in one.__dataclass_fields__}
        else:
            found, base = find_method(one.strip()), {}
        fields = set(found.config.__dataclass_fields__)
        known |= fields
        chosen.append((found, make_config(found, base | {k: v for k, v in options.items() if k in fields})))
    if not chosen:
        raise UserError(f"no method was named; there are {', '.join(sorted(METHODS))}")
    for name in options:
        if name not in known:
            raise UserError(
                f'no option "{name}" in {", ".join(c.name for c, _ in chosen)}{nearest(name, sorted(known))}'
            )
    return chosen


def find_verifiers(model: Model, verifiers: str | Sequence[str | Model]) -> list[Model]:
    """Networks that judge: two of the builtin EfficientNets if they know the model's classes, or those named."""
    if verifiers == "auto":
        judges: list[Model] = []
        for name in LITE:
            known = lite_card(name)
            if len(judges) < 2 and known.name != model.card.name and model.card.places_in(known) is not None:
                judge = load(known.name, device=str(model.device))
                judges += [judge] if judge.card.weights_sha256 != model.card.weights_sha256 else []
        return judges
    names = [v for v in verifiers.split(",") if v] if isinstance(verifiers, str) else list(verifiers)
    given = [load(v, device=str(model.device)) if isinstance(v, str) else v for v in names]
    distinct = list({v.card.weights_sha256: v for v in given}.values())
    called = [v.card.name for v in distinct]
    if double := next((name for name in called if called.count(name) > 1), None):
        raise UserError(
            f'two verifiers with different weights are both called "{double}"; give their cards different names'
        )
    return distinct


def execute(plan: Plan, report: Reporter) -> Run:
    """Makes what the plan's run does not hold yet."""
    about = {
        "entoptic": version("entoptic"),
        "title": plan.model.card.name,
        "model": model_record(plan.model),
    }
    plan.run.failures = list(plan.failures)
    with plan.run.writing(about):
        for job in plan.jobs:
            todo = list(_unfinished(plan, job))
            report.start(job.card.name, len(todo), len(job.items) - len(todo))
            for chunk in _chunks(todo, plan.batch_size):
                _make(plan, job, chunk, report)
        if plan.context and plan.references.photos is not None:
            shown = {item.unit.identity: item.unit for job in plan.jobs for item in job.items}
            for done, unit in enumerate(shown.values(), 1):
                write_context(plan.run, unit, plan.references)
                report.progress("photos of units", done, len(shown))
    if plan.run.failures:
        if not len(plan.run):
            raise UserError(plan.run.failures[0])
        for failure in plan.run.failures:
            warnings.warn(failure, stacklevel=3)
    return plan.run


def _unfinished(plan: Plan, job: Job) -> Iterator[tuple[Item, str, Path]]:
    """Items whose picture is not there yet; evidence that is missing or of another kind is measured again."""
    for item in job.items:
        key = picture_key(plan, job, item)
        file = plan.run.file(slug(item.unit), f"{job.card.name}-{item.sample}-{key[:12]}")
        record = plan.run.finished(file, key)
        if record is None:
            yield item, key, file
        elif record.get("measured_with") != measured_with(plan, item.unit, record["trace"]):
            judging = judges(plan, record["trace"])
            evidence = measure(Picture(file, record).pixels, item.unit, plan.references, judging)
            evidence += law(record["trace"])
            record["evidence"] = [e.to_json() for e in evidence]
            record["measured_with"] = measured_with(plan, item.unit, record["trace"])
            plan.run.write_record(file, record)


def _make(plan: Plan, job: Job, chunk: list[tuple[Item, str, Path]], report: Reporter) -> None:
    items = [item for item, _, _ in chunk]
    places = {id(item): (key, file) for item, key, file in chunk}
    started, answered = time.monotonic(), 0
    try:
        for draft in job.card.function(items, job.config, plan.context_of(job, report, len(items))):
            answered += 1
            if draft.failure is not None:
                plan.run.failures.append(f"{draft.item.unit} by {job.card.name}: {draft.failure}")
                continue
            key, file = places[id(draft.item)]
            pixels = quantise(draft.image)
            evidence = measure(pixels, draft.item.unit, plan.references, judges(plan, draft.trace))
            evidence += law(draft.trace)
            record = make_record(plan, job, draft, key) | {"evidence": [e.to_json() for e in evidence]}
            plan.run.write(file, pixels, record, maps=picture_maps(draft.item.unit, pixels, draft.alpha, draft.pair))
    except Unwritable:
        raise
    except UserError as error:
        if len(items) > 1 and not answered:  # one unit that cannot be made must not take its mates along
            for entry in chunk:
                _make(plan, job, [entry], report)
            return
        plan.run.failures.append(f"{', '.join(dict.fromkeys(str(i.unit) for i in items))}: {error}")
    report.finish(len(items), time.monotonic() - started)


def _chunks(todo: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(todo), size):
        yield todo[start : start + size]


def quantise(image: Tensor) -> np.ndarray:
    """3×H×W in [0, 1] to H×W×3 uint8, rounded; the only place where a picture becomes 8-bit."""
    return (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()


def picture_key(plan: Plan, job: Job, item: Item) -> str:
    """Hash of everything that a picture's pixels depend on."""
    card = plan.model.card
    return content_key(
        {
            "recipe": RECIPE,
            "unit": item.unit.identity,
            "readout": item.unit.readout,
            "method": job.card.name,
            "config": asdict(job.config),
            "seed": item.seed,
            "sample": item.sample,
            "weights": card.weights_sha256,
            "card": card.preprocessing(),
            "references": plan.references.identity(item.unit, job.card.reads - {"prior"}),
        }
        | ({"prior": plan.prior.identity} if plan.prior is not None and "prior" in job.card.reads else {})
        | ({"bank_seed": plan.bank_seed} if plan.bank_seed and "prior" in job.card.reads else {})
    )


def judges(plan: Plan, trace: dict[str, Any]) -> list[Model]:
    """The verifiers of a picture: without the student that its method optimised against, if it had one."""
    student = (trace.get("student") or {}).get("weights_sha256")
    return [v for v in plan.verifiers if v.card.weights_sha256 != student]


def measured_with(plan: Plan, unit: Unit, trace: dict[str, Any]) -> dict[str, Any]:
    """What the evidence was measured against, for re-measuring when that changes."""
    photos = plan.references.photos
    real = photos.fingerprint() if photos is not None else plan.references.pack.sha256 if plan.references.pack else None
    index = plan.references.index
    indexed = {"index": index.key} if index is not None and unit in index else {}
    verifiers = {v.card.name: v.card.weights_sha256 for v in judges(plan, trace)}
    return {"evidence": EVIDENCE, "photos": real, "verifiers": verifiers} | indexed


def model_record(model: Model) -> dict[str, Any]:
    """A model in a sidecar: its card without the list of labels."""
    card = model.card
    return {
        "name": card.name, "weights_sha256": card.weights_sha256, "licence": card.licence, "size": list(card.size),
        "mean": list(card.mean), "std": list(card.std), "interpolation": card.interpolation, "crop": card.crop,
        "squash": card.squash,
    }  # fmt: skip


def make_record(plan: Plan, job: Job, draft: Draft, key: str) -> dict[str, Any]:
    """The sidecar of a draft, without its image and evidence."""
    unit, trace = draft.item.unit, dict(draft.trace)
    references = trace.pop("references", None)
    return {
        "format": FORMAT,
        "key": key,
        "complete": draft.complete,
        "unit": str(unit),
        "label": unit.label,
        "layer": unit.layer,
        "readout": unit.readout,
        "method": job.card.name,
        "method_title": job.card.title,
        "paper": job.card.paper,
        "config": asdict(job.config),
        "seed": draft.item.seed,
        "sample": draft.item.sample,
        "model": model_record(plan.model),
        "references": references,
        "photos": plan.photos,
        "prior": plan.prior.name if plan.prior is not None and "prior" in job.card.reads else None,
        "prior_identity": plan.prior.identity if plan.prior is not None and "prior" in job.card.reads else None,
        "bank_seed": plan.bank_seed if plan.prior is not None and "prior" in job.card.reads else None,
        "index": str(plan.references.index.path) if plan.references.index is not None else None,
        "versions": versions(),
        "command": command(plan, job, draft.item),
        "trace": trace,
        "measured_with": measured_with(plan, unit, trace),
    }


def command(plan: Plan, job: Job, item: Item) -> str:
    """The command that makes a picture again."""
    words = ["entoptic", "see", plan.model.card.name, str(item.unit), "--method", job.card.name]
    words += ["--seed", str(item.seed), "--n", str(item.sample + 1)]
    if plan.photos is not None:
        words += ["--photos", plan.photos]
    if plan.references.index is not None:
        words += ["--index", str(plan.references.index.path)]
    if plan.prior is not None and "prior" in job.card.reads:
        words += ["--prior", plan.prior.name]
        words += ["--bank-seed", str(plan.bank_seed)] if plan.bank_seed else []
    return shlex.join(words + config_words(job))


def config_words(job: Job, known: dict[str, Any] | None = None) -> list[str]:
    """The command line's options for what a config holds beside the defaults, or beside what is known otherwise."""
    words: list[str] = []
    default = asdict(type(job.config)()) | (known or {})
    for name, value in asdict(job.config).items():
        if value != default[name]:
            flag = f"--{job.card.name}.{name}".replace("_", "-")
            if isinstance(value, bool):
                words.append(flag if value else f"--{job.card.name}.no-{name}".replace("_", "-"))
            else:
                words += [flag, *map(str, value)] if isinstance(value, tuple) else [flag, str(value)]
    return words


def versions() -> dict[str, str]:
    """Versions of everything that can change a pixel."""
    return {name: version(name) for name in ("entoptic", "torch", "torchvision", "timm", "numpy", "pillow")}


def version(package: str) -> str:
    """Installed version, "unknown" for a package that runs from its source tree."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def estimate(plan: Plan, *, progress: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Times two steps of each method's first batch: what the plan would make, how long it takes, and its memory.

    Returns:
        `pictures`, `done`, and per method `steps`, `seconds_per_picture`, `seconds`; `peak_memory_mb` of this process.
    """
    import resource

    report: dict[str, Any] = {"run": str(plan.run.path), "model": plan.model.card.name, "methods": {}}
    for job in plan.jobs:
        todo = [item for item, _, _ in _unfinished_quietly(plan, job)]
        entry: dict[str, Any] = {"pictures": len(job.items), "done": len(job.items) - len(todo)}
        report["methods"][job.card.name] = entry
        if not todo:
            entry["seconds"] = 0.0
            continue
        progress(job.card.name)
        times: list[float] = []
        total = 0

        def on_step(step: int, steps: int, times: list[float] = times) -> None:
            nonlocal total
            times.append(time.monotonic())
            total = steps
            if step == 3:
                raise _Enough

        batch = todo[: plan.batch_size]
        started = time.monotonic()
        try:
            context = Context(plan.model, plan.references, on_step, plan.prior, bank_seed=plan.bank_seed)
            for _ in job.card.function(batch, job.config, context):
                pass
        except _Enough:
            pass
        seconds = time.monotonic() - started
        if len(times) > 1:
            seconds = (times[-1] - times[0]) / (len(times) - 1) * total
        each = seconds / len(batch)
        entry |= {"steps": total, "seconds_per_picture": each, "seconds": each * len(todo)}
    report["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if plan.model.device.type == "cuda":
        report["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return report


class _Enough(Exception):
    """Ends a method after the steps that were to be timed."""


def _unfinished_quietly(plan: Plan, job: Job) -> Iterator[tuple[Item, str, Path]]:
    for item in job.items:
        key = picture_key(plan, job, item)
        file = plan.run.file(slug(item.unit), f"{job.card.name}-{item.sample}-{key[:12]}")
        if plan.run.finished(file, key) is None:
            yield item, key, file

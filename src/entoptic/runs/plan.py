"""What a request resolves to before any picture is made: units, methods, verifiers, jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from entoptic.base.progress import Reporter, silent
from entoptic.errors import UserError, nearest
from entoptic.images.index import ActivationIndex
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.methods import METHODS, MethodCard, find_method
from entoptic.methods.contract import Context, Item, MethodConfig, make_config
from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.models.sources import LITE, lite_card, load
from entoptic.priors.prior import Prior
from entoptic.priors.sources import SHIPPED, load_prior
from entoptic.runs.store import Run
from entoptic.units.unit import bind


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


def judges(plan: Plan, trace: dict[str, Any]) -> list[Model]:
    """The verifiers of a picture: without the student that its method optimised against, if it had one."""
    student = (trace.get("student") or {}).get("weights_sha256")
    return [v for v in plan.verifiers if v.card.weights_sha256 != student]

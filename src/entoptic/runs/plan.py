"""What a request resolves to before any picture is made: items, methods, verifiers, jobs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import nn

from entoptic.base.bounds import check_options
from entoptic.base.gradients import with_gradients
from entoptic.base.progress import Reporter, silent
from entoptic.errors import NotAvailable, UserError, nearest
from entoptic.images.index import ActivationIndex
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.methods import METHODS, MethodCard, find_method
from entoptic.methods.contract import (
    Context,
    Draft,
    Failure,
    FailureCode,
    Item,
    MethodConfig,
    card_of,
    config_identity,
    make_config,
)
from entoptic.methods.presets import check_preset, preset_options
from entoptic.metrics.evidence import Evidence
from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.models.sources import LITE, lite_card, load
from entoptic.priors.prior import Prior
from entoptic.priors.sources import SHIPPED, load_prior
from entoptic.runs.again import Again, as_text
from entoptic.runs.film import check_kind
from entoptic.runs.store import Run
from entoptic.runs.unit_items import UnitItems
from entoptic.units.unit import Unit, bind, slug


@dataclass(frozen=True, kw_only=True)
class Job:
    """Items to make by one method.

    Attributes:
        card: of the method.
        config: of the method.
        items: what to make.
    """

    card: MethodCard
    config: MethodConfig
    items: list[Item]

    @cached_property
    def config_identity(self) -> dict[str, Any]:
        """What keys hold of the config: it is the same for all items."""
        return config_identity(self.config)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An item with its place in the run.

    Attributes:
        item: what to make.
        key: hash of everything that its pixels depend on.
        file: where its PNG belongs.
    """

    item: Item
    key: str
    file: Path


class ItemKind(Protocol):
    """What the items of a run are of (units, feature maps, edits of maps), and all that differs by it.

    The executor does the rest alike for all: batches, resuming, failures, writing. Adding a kind of result is one class.
    """

    def context(self, job: Job, report: Reporter, pictures: int, batch_size: int) -> Context:
        """Returns what the method gets for a batch of `pictures` items."""
        ...

    def key(self, job: Job, item: Item) -> str:
        """Returns the hash of everything that the item's pixels depend on."""
        ...

    def overlays(self, job: Job, draft: Draft, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the maps to store beside the picture (H×W×3 uint8), h×w×2 or h×w×4 uint8 each, by name."""
        ...

    def measure(self, job: Job, draft: Draft, pixels: np.ndarray, overlays: Mapping[str, np.ndarray]) -> list[Evidence]:
        """Returns the evidence of a picture, H×W×3 uint8, exactly as saved."""
        ...

    def record(self, job: Job, draft: Draft, entry: Entry) -> dict[str, Any]:
        """Returns the sidecar's entries that differ by kind."""
        ...

    def command(self, job: Job, item: Item) -> str:
        """Returns the command that makes the picture again."""
        ...

    def refresh(self, run: Run, job: Job, finished: Sequence[tuple[Entry, dict[str, Any]]]) -> None:
        """Brings the sidecars of finished pictures up to date, where what they were measured with has changed."""
        ...

    def complete(self, run: Run, jobs: Sequence[tuple[Job, Sequence[Entry]]], report: Reporter) -> list[Failure]:
        """Measures and stores what concerns several pictures together, once all are made; returns what failed."""
        ...


@dataclass(kw_only=True)
class Plan:
    """Everything that a request resolved to, before any picture is made.

    Attributes:
        model: the network under study.
        kind: what the items are of.
        jobs: what to make, by method.
        run: where it is stored.
        batch_size: items made together.
        failures: what cannot be made, known beforehand.
        film: kind of the film to store of each ascent, a key of `entoptic.runs.film.KINDS`, "" for none.
        again: makes the plan in another process, or None where that cannot be.
    """

    model: Model
    kind: ItemKind
    jobs: list[Job]
    run: Run
    batch_size: int
    failures: list[Failure] = field(default_factory=list)
    film: str = ""
    again: Again | None = None

    def entries(self, job: Job) -> list[Entry]:
        """Returns the job's items with their keys and files."""
        return [self.entry(job, item) for item in job.items]

    def only(self, keys: Collection[str]) -> Plan:
        """Returns the plan of those items whose keys are given: a part of the work for another process.

        A key depends on nothing but the request, so a process that makes the same plan finds its part by the keys.
        """
        jobs = [replace(job, items=[e.item for e in self.entries(job) if e.key in keys]) for job in self.jobs]
        return replace(self, jobs=jobs)

    def entry(self, job: Job, item: Item) -> Entry:
        """Returns an item with its key and file."""
        key = self.kind.key(job, item)
        file = self.run.file(slug(item.target.text), f"{job.card.name}-{item.sample}-{key[:12]}")
        return Entry(item=item, key=key, file=file)


@dataclass(kw_only=True)
class UnitPlan(Plan):
    """A plan of pictures of units."""

    kind: UnitItems


@with_gradients
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
    noise_of: str | Unit | None = None,
    film: str = "",
    preset: str = "",
) -> UnitPlan:
    """Resolves names, checks every unit against every method, and computes nothing else.

    Args:
        context: store small copies of the photos that drive each unit. The others: see `see`.
        preset: "quick", "fine" or "" for none.

    Raises:
        UserError: bad input, or no picture can be made.
    """
    if n < 1:
        raise UserError(f"n is the number of pictures per unit and must be at least 1, got {n}")
    if batch_size is not None and batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size}")
    check_options(n=n, seed=seed, bank_seed=bank_seed, batch_size=batch_size)
    chosen = choose_methods(method, options or {}, preset)
    check_kind(film)
    units = units if isinstance(units, (str, Unit)) else list(units)
    if film and all("steps" not in c.config.__dataclass_fields__ or "prior" in c.reads for c, _ in chosen):
        raise UserError(
            f"a film shows an ascent, and {', '.join(c.name for c, _ in chosen)} makes none; leave film out"
        )
    subject = load(model, card, device=device)
    bound = bind(subject, units)
    noise = _noise_of(subject, noise_of, [found for found, _ in chosen])
    opened = photos if photos is None or isinstance(photos, Photos) else Photos.open(photos)
    held = ActivationIndex.open(index) if isinstance(index, (str, Path)) else index
    references = References(subject, opened, progress=report.progress if report else silent, index=held)
    references.expect(bound)
    failures: list[Failure] = []
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
        if not found.shows_units:
            kinds = ", ".join(sorted(found.units))
            raise UserError(f"{found.name} makes pictures of no unit (of {kinds}); use `entoptic {found.name}`")
        items = []
        for unit in bound:
            if unit.kind not in found.units:
                text = f"{found.name} shows {', '.join(sorted(found.units))} units, not {unit} ({unit.kind})"
                failures.append(Failure(unit=str(unit), method=found.name, code=FailureCode.UNSUPPORTED, text=text))
                continue
            try:
                references.check(unit, found.reads)
            except UserError as error:
                failures.append(Failure(unit=str(unit), code=FailureCode.NOT_AVAILABLE, text=str(error)))
                continue
            items += [Item(target=unit, sample=sample, seed=seed, noise_of=noise) for sample in range(n)]
        jobs.append(Job(card=found, config=config, items=items))
    failures = list(dict.fromkeys(failures))
    if failures and not any(job.items for job in jobs):
        more = f" (and {len(failures) - 1} more like it)" if len(failures) > 1 else ""
        raise NotAvailable(f"{failures[0]}{more}")
    kind = UnitItems(
        model=subject, references=references, verifiers=find_verifiers(subject, verifiers), prior=generator,
        bank_seed=bank_seed, photos=opened.source if opened is not None else None, store_photos=context,
    )  # fmt: skip
    run = Run(out if out is not None else Path("runs") / run_name(subject))
    return UnitPlan(
        model=subject,
        kind=kind,
        jobs=jobs,
        run=run,
        batch_size=default_batch(subject, batch_size),
        failures=failures,
        film=film,
        again=Again(make_plan, {
            "model": model, "units": as_text(units), "method": method, "photos": photos, "n": n, "seed": seed,
            "out": out, "verifiers": verifiers, "batch_size": batch_size, "device": device, "card": card,
            "options": options, "index": as_text(index), "context": context, "prior": prior, "bank_seed": bank_seed,
            "noise_of": as_text(noise_of), "film": film, "preset": preset,
        }),
    )  # fmt: skip


def _noise_of(model: Model, unit: str | Unit | None, methods: Sequence[MethodCard]) -> str:
    """The string of the unit whose random numbers all items use, "" where each uses its own."""
    if unit is None:
        return ""
    found = bind(model, unit)
    if len(found) != 1:
        raise UserError(f"noise_of is one unit, and {unit} are {len(found)}; name one, such as {found[0]}")
    if other := [card.name for card in methods if not card.reads.isdisjoint({"prior", "scores"})]:
        raise UserError(
            f"several units share a starting noise where a method climbs from it, and {', '.join(other)} draws otherwise; "
            "take vital, maco, fourier or pixels"
        )
    return str(found[0])


def run_name(model: Model) -> str:
    """Returns the name of a model's default run folder."""
    return (model.card.name.partition(":")[2] or model.card.name).replace("/", "-")


def default_batch(model: Model, asked: int | None) -> int:
    """Returns how many items are made together: what was asked, else 10 on a CPU and 64 elsewhere.

    Raises:
        UserError: fewer than one was asked.
    """
    if asked is not None and asked < 1:
        raise UserError(f"batch_size must be at least 1, got {asked}")
    return asked or (10 if model.device.type == "cpu" else 64)


def choose_methods(method: Any, options: dict[str, Any], preset: str = "") -> list[tuple[MethodCard, MethodConfig]]:
    """Cards and configs of the methods named; every option must belong to at least one of them.

    A preset's options come before the defaults of methods that are named, and after `options`.
    """
    asked = (
        method.split(",") if isinstance(method, str) else [method] if isinstance(method, MethodConfig) else list(method)
    )
    chosen: list[tuple[MethodCard, MethodConfig]] = []
    known: set[str] = set()
    for one in asked:
        if isinstance(one, MethodConfig):
            found = card_of(one)
            base = {name: getattr(one, name) for name in one.__dataclass_fields__}
        else:
            found = find_method(one.strip())
            base = dict(preset_options(found, preset))
        fields = set(found.config.__dataclass_fields__)
        known |= fields
        chosen.append((found, make_config(found, base | {k: v for k, v in options.items() if k in fields})))
    if not chosen:
        raise UserError("no method was named; `entoptic ls methods` lists them")
    if preset and all(isinstance(one, MethodConfig) for one in asked):
        raise UserError(
            f"{preset} sets options of methods that are named, and a config has all of its own; leave it out"
        )
    check_preset([card for card, _ in chosen], preset)
    for name in options:
        if name not in known:
            having = [card.name for card in METHODS.values() if name in card.config.__dataclass_fields__]
            hint = f"; {', '.join(having)} have it" if len(having) > 1 else f"; {having[0]} has it" if having else ""
            raise UserError(
                f'no option "{name}" in {", ".join(c.name for c, _ in chosen)}{hint or nearest(name, sorted(known))}'
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

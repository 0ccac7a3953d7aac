"""The interpretability-faithfulness frontier of units, and every method's place on it.

A method's pictures come from some law q, with KL(q‖p) nats from the prior p and mean score E_q[s]. The frontier is the
least KL at each mean score. A law may be known exactly, by bounds, or not at all (one optimised picture has no finite KL).
"""

from __future__ import annotations

import base64
import html
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from entoptic.base.estimates import Estimate, exactly, mean_interval
from entoptic.base.files import json_bytes
from entoptic.base.gradients import with_gradients
from entoptic.base.progress import Reporter, reporter
from entoptic.base.unread import names_unread
from entoptic.errors import UserError
from entoptic.images.unread import unread_record
from entoptic.methods.contract import Context, Failure, MethodConfig, card_of
from entoptic.methods.klsc import Klsc, Problem, ladders
from entoptic.methods.prior_sampling import MAP_STEPS, as_shown, scored_bank
from entoptic.metrics.distribution import features, kid, kid_interval
from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.models.sources import load
from entoptic.plots.frontier import HEADINGS, draw, row
from entoptic.priors.prior import Prior, map_steps
from entoptic.priors.sources import SHIPPED, load_prior
from entoptic.runs.again import Again
from entoptic.runs.execute import execute, split
from entoptic.runs.frontier_islands import IslandWork, problem_of, sample_on_workers, units_of_plan
from entoptic.runs.frontier_methods import command_of, filled, samples_alike, warn_of_long
from entoptic.runs.frontier_places import (
    FORMAT,
    FrontierScale,
    curve_record,
    in_raw_units,
    place_of,
    selections,
    stack_pictures,
)
from entoptic.runs.frontier_table import table_of
from entoptic.runs.plan import Job, UnitPlan, make_plan
from entoptic.runs.records import about_run, model_record, versions
from entoptic.runs.store import Picture, Unwritable
from entoptic.sampling.bank import Bank
from entoptic.sampling.frontier import Frontier
from entoptic.sampling.unit_scores import UnitScores
from entoptic.units.unit import Unit, slug
from entoptic.workers.count import Workers

METHODS_SHOWN = ("klsc", "best-of")
_CAUTION = (
    "the intervals are what independent islands differ by; particles that have not settled bias all of them alike, towards "
    "too low a frontier, which no interval shows (more moves lessen it: --klsc.moves)"
)
_KID_LEAST, _KID_BANK = 8, 512


@dataclass(frozen=True)
class FrontierResult:
    """The frontier of one unit.

    Attributes:
        unit: its string.
        folder: where `NAME.json`, `.svg` and `.png` are.
        record: the JSON's content: `frontier` (points with intervals), `places` (the methods), `failures`.
    """

    unit: str
    folder: Path
    record: dict[str, Any] = field(repr=False)

    @property
    def places(self) -> list[dict[str, Any]]:
        """The methods' places, see `frontier`."""
        return list(self.record["places"])

    @property
    def failures(self) -> list[str]:
        """What could not be made or said, with the reasons."""
        return list(self.record["failures"])

    def table(self) -> list[tuple[str, str, str, str, str]]:
        """Rows of what, mean score in sd, nats, nats above the frontier, other networks' evidence."""
        return [row(place) for place in self.record["places"]]

    def _repr_html_(self) -> str:
        if not self.record["places"] and not self.record.get("frontier"):
            return "".join(f"<p>failed: {html.escape(f)}</p>" for f in self.failures)
        image = base64.b64encode(draw(self.record).svg().encode("utf-8", "backslashreplace")).decode()
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in self.table()
        )
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in HEADINGS)
        failed = "".join(f"<p>failed: {html.escape(f)}</p>" for f in self.failures)
        return (
            f'<img src="data:image/svg+xml;base64,{image}" alt="Frontier of {html.escape(self.unit)}">'
            f"<table><tr>{head}</tr>{rows}</table>{failed}"
        )


@names_unread
@with_gradients
def frontier(
    model: str | nn.Module | Model,
    units: Any,
    *,
    prior: str | Prior | None = None,
    methods: str | Sequence[str | MethodConfig] = METHODS_SHOWN,
    photos: Any = None,
    nats: float = 4.0,
    n: int = 4,
    bank: int = 2048,
    bank_seed: int = 0,
    particles: int = 16,
    islands: int = 4,
    reduction: str = "",
    verifiers: str | Sequence[str | Model] = "auto",
    out: str | Path | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    device: str = "auto",
    card: Card | None = None,
    progress: bool = True,
    workers: int | str | Workers | None = None,
    **options: Any,
) -> list[FrontierResult]:
    """Measures the frontier of units up to a budget of nats, and places methods on it.

    A place has a `kind`:

    - "law": nats and mean score of the method's law are known; its `excess` is what it pays above the frontier.
    - "bounds": a chain: `nats` is a lower bound, `path_nats` an upper one but for its last step, or whole (`whole`).
    - "point": one optimised picture: nats unbounded, naturalness from independent networks only.
    - "level": real photos or their selection: another prior, so a mean score and no place along the nats.

    Pictures are stored as by `see`, with `RUN/frontier/UNIT.json`, `.svg`, `.png` and `table.md`. Finished ones are kept.

    Args:
        model: as in `see`.
        units: as in `see`.
        prior: anything `load_prior` takes; None is the shipped one.
        methods: by name ("klsc,vital") or as configs. The control, energydps, takes long (`EnergyDps(steps=…)`).
        photos: as in `see`.
        nats: budget up to which the frontier is sampled.
        n: pictures of each method.
        bank: samples of the prior that standardise scores and start the islands.
        bank_seed: of the bank; `seed` does not change it, so frontiers of other seeds share the bank's error.
        particles: of each independent run that samples the frontier.
        islands: number of these independent runs.
        reduction: score, a name in `REDUCTIONS`, "" for the unit's readout.
        verifiers: as in `see`.
        out: as in `see`.
        seed: as in `see`.
        batch_size: as in `see`.
        device: as in `see`.
        card: as in `see`.
        progress: as in `see`.
        workers: as in `see`; they share the sampling of the units, and the pictures.
        options: fields of the methods' configs, for instance `steps=50`; each goes to every method that has it.

    Returns:
        One result for each unit, in order. Failures of a method or a unit are in its `failures`.

    Raises:
        UserError: bad input, or no unit has a frontier.
    """
    shared = Workers.parse(workers)
    ladder_config = Klsc(nats=nats, particles=particles, islands=islands, bank=bank, reduction=reduction)
    configs = [filled(one, ladder_config) for one in (methods.split(",") if isinstance(methods, str) else methods)]
    subject = load(model, card, device=device)
    law = load_prior(prior or SHIPPED, device=subject.device)
    with reporter(progress) as report:
        plan = make_plan(
            subject, units, method=configs, photos=photos, n=n, seed=seed, out=out, verifiers=verifiers,
            batch_size=batch_size, report=report, options=options, context=False,
            prior=law if any("prior" in card_of(c).reads for c in configs) else None,
        )  # fmt: skip
        plan.kind.bank_seed = bank_seed  # also where no method samples the prior: the frontier itself does
        warn_of_long(plan)
        same = (j.config for j in plan.jobs if isinstance(j.config, Klsc) and samples_alike(j.config, ladder_config))
        given = {"model": model, "card": card, "device": device, "prior": prior or SHIPPED}
        study = _FrontierRun(plan, law, next(same, ladder_config), nats, report, shared, given)
        results = study.run_all(n, seed)
        study.store(results)
    if not any(result.record["frontier"] for result in results):
        raise UserError(results[0].failures[0])
    return results


# --- one run of it ----------------------------------------------------------------------------------------------------


@dataclass
class _FrontierRun:
    plan: UnitPlan
    prior: Prior
    config: Klsc
    nats: float
    report: Reporter
    workers: Workers | None = None
    given: dict[str, Any] = field(default_factory=dict)
    """what makes the plan again in another process, beside what `plan.again` holds"""
    _bank_features: dict[str, Tensor] = field(default_factory=dict)
    _unsampled: dict[str, str] = field(default_factory=dict)

    def run_all(self, n: int, seed: int) -> list[FrontierResult]:
        plan = self.plan
        with plan.run.writing(about_run(plan.model)):
            pass  # a folder that cannot be written, or is being written, must not cost the sampling
        units = units_of_plan(plan)
        context = Context(
            model=plan.model, references=plan.kind.references, prior=self.prior, units=units,
            progress=self.report.progress, bank_seed=plan.kind.bank_seed,
        )  # fmt: skip
        failures: dict[str, list[str]] = {unit.identity: _failures_of_unit(unit, plan.failures) for unit in units}
        scored = {}
        for unit in units:  # one by one: a unit that is silent on the prior must not cost the others
            try:
                scored[unit.identity] = scored_bank(
                    context, [unit], size=self.config.bank, reduction=self.config.reduction
                )
            except UserError as error:
                failures[unit.identity].append(str(error))
        if self.workers is not None:
            self._unsampled = self._sample(context, [unit for unit in units if unit.identity in scored], seed)
        for job, reasons in self._make_all():
            for unit in units:
                failures[unit.identity] += [f"{job.card.name}: {one}" for one in _failures_of_unit(unit, reasons)]
        results = []
        for unit in units:
            known = scored.get(unit.identity)
            record = self._record(unit, known, context, n, seed, failures[unit.identity])
            results.append(FrontierResult(str(unit), plan.run.path / "frontier", record))
        return results

    def _sample(self, context: Context, units: Sequence[Unit], seed: int) -> dict[str, str]:
        """Has the islands of the units sampled by workers; returns why some could not be, by their identities."""
        assert self.workers is not None
        work = IslandWork(
            again=self._again(self.plan.jobs), prior=self.given["prior"], bank_seed=self.plan.kind.bank_seed,
            config=self.config, seed=seed,
        )  # fmt: skip
        problems = [problem_of(context, unit, self.config, seed) for unit in units]
        return sample_on_workers(work, problems, self.workers, str(self.given["device"]), self.report.progress)

    def _again(self, jobs: Sequence[Job]) -> Again:
        """How the plan of some jobs is made in another process."""
        assert self.plan.again is not None
        samples = any("prior" in job.card.reads for job in jobs)
        of_prior = {"prior": self.given["prior"], "bank_seed": self.plan.kind.bank_seed} if samples else {"prior": None}
        more = self.given | {"method": [job.config for job in jobs], "options": {}} | of_prior
        return Again(make_plan, {**self.plan.again.arguments, **more})

    def _make_all(self) -> list[tuple[Job, list[Failure]]]:
        """Makes the pictures of all methods; returns why some are not there."""
        jobs, found = self.plan.jobs, dict[int, list[Failure]]()
        # What the islands sampled is here, so its pictures cost no more than sending them would.
        shared = [i for i, job in enumerate(jobs) if self.workers is not None and job.config != self.config]
        if shared:
            failures = self._make([jobs[i] for i in shared], self.workers)
            found |= {i: [one for one in failures if one.method in ("", jobs[i].card.name)] for i in shared}
        for i, job in enumerate(jobs):
            if i not in found:
                found[i] = self._make([job])
        return [(job, found[i]) for i, job in enumerate(jobs)]

    def _make(self, jobs: list[Job], workers: Workers | None = None) -> list[Failure]:
        """Makes the pictures of some methods; returns why some are not there."""
        names = ",".join(job.card.name for job in jobs)
        plan = replace(self.plan, jobs=jobs, failures=[], again=self._again(jobs))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # failures come back as such
                execute(plan, self.report, workers)
        except Unwritable:
            raise
        except UserError as error:
            if workers is not None and not self.plan.run.problems:
                raise  # no method is at fault: there are no workers
            return list(self.plan.run.problems) or [Failure.of(error, method=names)]
        except RuntimeError as error:  # of torch: out of memory, say; the other methods have pictures to show
            return [Failure.of(error, method=names if workers is None else "", prefix=f"{type(error).__name__}: ")]
        return list(self.plan.run.problems)

    def store(self, results: Sequence[FrontierResult]) -> None:
        """Writes JSON and drawings of the results, and the table of all units in the folder."""
        run = self.plan.run
        files: dict[str, bytes] = {}
        for result in results:
            stem = str(result.record["slug"])
            files[f"{stem}.json"] = json_bytes(result.record)
            if result.record["frontier"]:
                drawing = draw(result.record)
                files[f"{stem}.svg"], files[f"{stem}.png"] = (
                    drawing.svg("frontier").encode("utf-8", "backslashreplace"),
                    drawing.png(),
                )
        files["table.md"] = table_of(run, {f"{r.record['slug']}.json": r.record for r in results}).encode(
            "utf-8", "backslashreplace"
        )
        with run.writing(about_run(self.plan.model)):
            run.write_frontier(files)

    # --- one unit -------------------------------------------------------------------------------------------------

    def _record(
        self, unit: Unit, known: tuple[Bank, UnitScores, Tensor] | None, context: Context, n: int, seed: int,
        failures: list[str],
    ) -> dict[str, Any]:  # fmt: skip
        plan, config = self.plan, self.config
        record: dict[str, Any] = {
            "format": FORMAT, "unit": str(unit), "label": unit.label, "layer": unit.layer, "readout": unit.readout,
            "slug": slug(unit), "model": model_record(plan.model),
            "prior": {
                "name": self.prior.name, "identity": self.prior.identity,
                "generator_steps": map_steps(self.prior, MAP_STEPS), "bank_seed": plan.kind.bank_seed,
            },
            "asked": {**asdict(config), "n": n, "seed": seed}, "photos": plan.kind.photos,
            "verifiers": {v.card.name: v.card.identity for v in plan.kind.verifiers},
            "command": command_of(plan, self.prior, config, self.nats, unit, n, seed), "versions": versions(),
            "notes": [], "frontier": None, "places": [],
        } | unread_record(plan.kind.references.photos)  # fmt: skip
        if known is not None:
            bank, scores, raw = known
            record["score"] = {"centre": float(scores.centre[0]), "sd": float(scores.scale[0])}
            try:
                if unit.identity in self._unsampled:
                    raise UserError(self._unsampled[unit.identity])
                measured, rungs = self._measure(unit, bank, scores, raw, seed, context, record["notes"])
                record["frontier"] = curve_record(measured, scores, self.nats) | {"rungs": rungs}
                scale = FrontierScale(measured, scores, bank, scores.of(raw[0]))
                record["places"] = [
                    *selections(scale),
                    *self._places(unit, scale, failures),
                    *self._photos(unit, scale),
                ]
            except UserError as error:
                failures.append(str(error))
        record["failures"] = list(dict.fromkeys(failures))
        return record

    def _measure(
        self, unit: Unit, bank: Bank, scores: UnitScores, raw: Tensor, seed: int, context: Context, notes: list[str]
    ) -> tuple[Frontier, list[list[float]]]:
        """The frontier from the islands of klsc, and their rungs; from the bank alone where it carries the budget."""
        s_M = scores.of(raw[0])
        problem = Problem(
            unit=unit, place=0, bank=bank, scores=scores, raw=raw[0], config=self.config, seed=seed, context=context
        )
        found, refused = ladders(problem)
        if found:
            notes.append(_CAUTION)
            if refused:
                notes.append(f"beyond what the bank carries this frontier is not supported: {refused}")
            try:
                measured = Frontier.from_ladders(found)
                if measured.support_limit.nats < self.nats:
                    notes.append(f"the particles support {measured.support_limit.nats:.3g} of {self.nats:.3g} nats")
                return measured, [list(ladder.betas) for ladder in found]
            except UserError as error:
                notes.append(f"from the bank alone: {error}")
        return Frontier.from_bank(s_M), []

    def _places(self, unit: Unit, scale: FrontierScale, failures: list[str]) -> list[dict[str, Any]]:
        places = []
        seen: dict[str, int] = {}
        for job in self.plan.jobs:
            pictures = self._pictures(job, unit)
            if not pictures:
                continue
            seen[job.card.name] = seen.get(job.card.name, 0) + 1
            title = job.card.name + (f" {seen[job.card.name]}" if seen[job.card.name] > 1 else "")
            try:
                place = place_of(title, pictures, scale, self.prior.name)
            except UserError as error:
                failures.append(f"{job.card.name}: {error}")
                continue
            place |= {
                "method": job.card.name, "config": job.config_identity,
                "pictures": [f"pictures/{p.path.parent.name}/{p.path.name}" for p in pictures],
                "naturalness": self._naturalness(pictures, scale.bank),
            }  # fmt: skip
            places.append(place)
        return places

    def _pictures(self, job: Job, unit: Unit) -> list[Picture]:
        entries = [self.plan.entry(job, item) for item in job.items if item.unit.identity == unit.identity]
        return [Picture(entry.file, record) for entry, record in split(self.plan.run, entries)[0]]

    def _naturalness(self, pictures: Sequence[Picture], bank: Bank) -> dict[str, Any]:
        """What networks that made none of the pictures say of them."""
        told: dict[str, Any] = {}
        for name in ("transfer_probability", "transfer_top1", "percentile"):
            entries = [p.evidence[name] for p in pictures if name in p.evidence]
            values = [e["value"] for e in entries if e["value"] is not None]
            if values:
                told[name] = {"value": sum(values) / len(values), "interval": mean_interval(values), "n": len(values)}
            elif entries:
                told[name] = {"value": None, "reason": entries[0]["reason"]}
        return told | {"kid": self._kid(pictures, bank)}

    def _kid(self, pictures: Sequence[Picture], bank: Bank) -> dict[str, Any]:
        """KID of the pictures against the prior's own, both at the model's size, in a verifier's features."""
        if len(pictures) < _KID_LEAST:
            return {"value": None, "reason": f"KID needs {_KID_LEAST} pictures of a method, here are {len(pictures)}"}
        if not self.plan.kind.verifiers:
            return {"value": None, "reason": "no verifier was given to look at the pictures"}
        verifier = self.plan.kind.verifiers[0]
        name = verifier.card.name
        try:
            if name not in self._bank_features:
                parts = [as_shown(self.plan.model, p.float() / 255) for p in bank.pictures[:_KID_BANK].split(64)]
                self._bank_features[name] = features(verifier, torch.cat(parts))
            mine = features(verifier, stack_pictures(pictures))
        except UserError as error:
            return {"value": None, "reason": str(error)}
        own = self._bank_features[name]
        return {"value": kid(mine, own), "interval": kid_interval(mine, own), "n": len(mine), "network": name}

    def _photos(self, unit: Unit, scale: FrontierScale) -> list[dict[str, Any]]:
        """Real photos as levels: their mean and their best, by the same score."""
        references = self.plan.kind.references
        if references.photos is None or self.config.reduction:
            return []
        s = scale.scores.of(references.scores([unit]).of(unit).cpu())
        spread = mean_interval(s.tolist())
        about = "real photos are another prior: their nats from this one are not known"
        return [
            {"kind": "level", "title": f"{what} {len(s):,} real photos", "nats": None, "note": about,
             "mean": mean.to_json(), "mean_raw": in_raw_units(mean, scale.scores), "excess": None}
            for what, mean in (
                ("mean of", Estimate(float(s.mean()), float(s.std()) / len(s) ** 0.5, spread)),
                ("best of", exactly(float(s.max()))),
            )
        ]  # fmt: skip


def _failures_of_unit(unit: Unit, failures: Sequence[Failure]) -> list[str]:
    """The reasons that concern this unit: its own, and those of the whole request."""
    return [failure.text for failure in failures if failure.unit in ("", str(unit))]

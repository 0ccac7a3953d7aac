"""The interpretability-faithfulness frontier of units, and every method's place on it.

A method's pictures are drawn from some law q. It pays KL(q‖p) nats of distance from the prior p and buys the mean score
E_q[s]; the frontier is the least that each mean score costs. What can be said of a method depends on what is known of
its law: exact nats, bounds from both sides, or nothing, since a single optimised picture has no finite number of nats.
"""

from __future__ import annotations

import base64
import contextlib
import html
import json
import math
import re
import shlex
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from entoptic.errors import UserError
from entoptic.methods.klsc import Klsc, ladders
from entoptic.methods.registry import Context, MethodConfig, find_method, make_config
from entoptic.methods.sampled import MAP_STEPS, scored_bank, shown
from entoptic.metrics.distribution import features, kid, kid_interval
from entoptic.metrics.evidence import mean_interval
from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.models.sources import load
from entoptic.priors.bank import Bank
from entoptic.priors.frontier import Estimate, Frontier, dv_bound, excess_nats, selection_mean
from entoptic.priors.prior import Prior
from entoptic.priors.score import UnitScores
from entoptic.priors.sources import SHIPPED, load_prior
from entoptic.priors.tilt import selection_kl
from entoptic.runs.frontier_plot import HEADINGS, draw, row
from entoptic.runs.progress import Reporter, reporter
from entoptic.runs.see import (
    Job,
    Plan,
    _unfinished_quietly,
    config_words,
    execute,
    make_plan,
    model_record,
    picture_key,
    version,
    versions,
)
from entoptic.runs.store import Picture, Unwritable
from entoptic.units.unit import Unit, slug

FORMAT = 1
METHODS_SHOWN = ("klsc", "best-of", "energydps")
TOP = 9  # pictures of top-K selection: the sheet of nine that papers show
_CURVE, _BEYOND = 33, 8  # points up to the budget, and beyond it
_LONG = 500  # steps of a chain that a person should know of before they wait
_CAUTION = (
    "the intervals are what independent islands differ by; particles that have not settled bias all of them alike, towards "
    "too low a frontier, which no interval shows (more moves lessen it: --klsc.moves)"
)
_SHARED = ("nats", "particles", "islands", "bank", "reduction")  # options of this verb that methods take over
_KID_LEAST, _KID_BANK = 8, 512


@dataclass(frozen=True)
class FrontierResult:
    """The frontier of one unit.

    Attributes:
        unit: its string. folder: where `NAME.json`, `.svg` and `.png` are.
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
        image = base64.b64encode(draw(self.record).svg().encode()).decode()
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in self.table()
        )
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in HEADINGS)
        failed = "".join(f"<p>failed: {html.escape(f)}</p>" for f in self.failures)
        return (
            f'<img src="data:image/svg+xml;base64,{image}" alt="Frontier of {html.escape(self.unit)}">'
            f"<table><tr>{head}</tr>{rows}</table>{failed}"
        )


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
    **options: Any,
) -> list[FrontierResult]:
    """Measures the frontier of units up to a budget of nats, and places methods on it.

    A place has a `kind`:

    - "law": nats and mean score of the method's law are known: tilts (on the frontier), best of N, top K. Its `excess`
      is what it pays above the frontier.
    - "bounds": a chain, whose law is not known. `nats` is a lower bound from its pictures' mean score alone (Donsker,
      Varadhan). `path_nats`, where the record has them, are what its path spent before its last step: an upper bound
      but for that step; or an upper bound on the whole law where `whole` is true (prompts).
    - "point": one optimised picture: nats unbounded, naturalness from independent networks only.
    - "level": real photos or their selection: another prior, so a mean score and no place along the nats.

    The prior's law p is that of its few-step generator; mean scores are of the saved 8-bit pictures, in standard
    deviations of the bank. Pictures are made by `see` and stored in the run, with `RUN/frontier/UNIT.json`, `.svg`,
    `.png` and `table.md`; what is there is not made again.

    Args:
        model, units, photos, n, verifiers, out, seed, batch_size, device, card: as in `see`.
        prior: anything `load_prior` takes; None is the shipped one.
        methods: by name ("klsc,vital") or as configs. Default: klsc, best-of and energydps, whose 1000 steps take
            long (`EnergyDps(steps=…)`). Selections from the bank are placed in any case, as they cost nothing.
        nats: budget up to which the frontier is sampled. particles, islands: of that sampling.
        bank: samples of the prior that standardise scores and start the islands. bank_seed: of them; `seed` does not
            change them, so frontiers of other seeds share the bank's error.
        reduction: score, a name in `REDUCTIONS`, "" for the unit's readout.
        options: fields of the methods' configs, for instance `steps=50`; each goes to every method that has it.

    Returns:
        One result for each unit, in order. Failures of a method or a unit are in its `failures`.

    Raises:
        UserError: bad input, or no unit has a frontier.
    """
    ladder_config = Klsc(nats=nats, particles=particles, islands=islands, bank=bank, reduction=reduction)
    configs = [_filled(one, ladder_config) for one in (methods.split(",") if isinstance(methods, str) else methods)]
    subject = load(model, card, device=device)
    law = load_prior(prior or SHIPPED, device=subject.device)
    with reporter(progress) as report:
        plan = make_plan(
            subject, units, method=configs, photos=photos, n=n, seed=seed, out=out, verifiers=verifiers,
            batch_size=batch_size, report=report, options=options, context=False,
            prior=law if any("prior" in find_method(_name(c)).reads for c in configs) else None,
        )  # fmt: skip
        plan.bank_seed = bank_seed  # also where no method samples the prior: the frontier itself does
        _warn_of_long(plan)
        same = (
            job.config
            for job in plan.jobs
            if isinstance(job.config, Klsc) and _samples_alike(job.config, ladder_config)
        )
        study = _Study(plan, law, next(same, ladder_config), nats, report)
        results = study.run_all(n, seed)
        study.store(results)
    if not any(result.record["frontier"] for result in results):
        raise UserError(results[0].failures[0])
    return results


def _name(config: MethodConfig) -> str:
    from entoptic.methods.registry import METHODS

    return next(card.name for card in METHODS.values() if card.config is type(config))


def _filled(one: str | MethodConfig, shared: Klsc) -> MethodConfig:
    """A config in which what methods share has the values asked for here, unless it was given others.

    All that sample the prior share its bank and the score, and klsc the budget and the islands too.
    """
    card = find_method(one.strip() if isinstance(one, str) else _name(one))
    config = make_config(card, {}) if isinstance(one, str) else one
    if "prior" not in card.reads:
        return config
    default = card.config()
    names = ["bank", "reduction"]
    if isinstance(config, Klsc):
        aimed = any(getattr(config, name) is not None for name in ("nats", "mean", "share", "beta"))
        names += ["particles", "islands"] + ([] if aimed else ["nats"])
    same = [name for name in names if hasattr(config, name) and getattr(config, name) == getattr(default, name)]
    return replace(config, **{name: getattr(shared, name) for name in same})


def _warn_of_long(plan: Plan) -> None:
    for job in plan.jobs:
        todo, steps = len(list(_unfinished_quietly(plan, job))), getattr(job.config, "steps", 0)
        if todo and "prior" in job.card.reads and steps >= _LONG:
            warnings.warn(
                f"{job.card.name} makes {steps} steps for each of {todo} pictures, which takes long; its option `steps` "
                "says how many",
                stacklevel=3,
            )


def _samples_alike(one: Klsc, other: Klsc) -> bool:
    """Whether the islands of one serve for the other: only how they move may differ."""
    return replace(one, moves=other.moves, leaps=other.leaps) == other


# --- one run of it ----------------------------------------------------------------------------------------------------


@dataclass
class _Study:
    plan: Plan
    prior: Prior
    config: Klsc
    nats: float
    report: Reporter
    _bank_features: dict[str, Tensor] = field(default_factory=dict)

    def run_all(self, n: int, seed: int) -> list[FrontierResult]:
        plan = self.plan
        units = list({item.unit.identity: item.unit for job in plan.jobs for item in job.items}.values())
        context = Context(
            plan.model, plan.references, prior=self.prior, units=units, progress=self.report.progress,
            bank_seed=plan.bank_seed,
        )  # fmt: skip
        failures: dict[str, list[str]] = {unit.identity: _about(unit, units, plan.failures) for unit in units}
        scored = {}
        for unit in units:  # one by one: a unit that is silent on the prior must not cost the others
            try:
                scored[unit.identity] = scored_bank(
                    context, [unit], size=self.config.bank, reduction=self.config.reduction
                )
            except UserError as error:
                failures[unit.identity].append(str(error))
        for job in plan.jobs:
            reasons = self._make(job)
            for unit in units:
                failures[unit.identity] += [f"{job.card.name}: {reason}" for reason in _about(unit, units, reasons)]
        results = []
        for unit in units:
            known = scored.get(unit.identity)
            record = self._record(unit, known, context, n, seed, failures[unit.identity])
            results.append(FrontierResult(str(unit), plan.run.path / "frontier", record))
        return results

    def _make(self, job: Job) -> list[str]:
        """Makes the pictures of one method; the reasons for those that there are not."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # failures come back as such
                execute(replace(self.plan, jobs=[job], failures=[]), self.report)
        except Unwritable:
            raise
        except UserError as error:
            return list(self.plan.run.failures) or [str(error)]
        except RuntimeError as error:  # of torch: out of memory, say; the other methods have pictures to show
            return [f"{type(error).__name__}: {error}"]
        return list(self.plan.run.failures)

    def store(self, results: Sequence[FrontierResult]) -> None:
        """Writes JSON and drawings of the results, and the table of all units in the folder."""
        run = self.plan.run
        files: dict[str, bytes] = {}
        for result in results:
            stem = str(result.record["slug"])
            text = json.dumps(result.record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
            files[f"{stem}.json"] = text.encode()
            if result.record["frontier"]:
                drawing = draw(result.record)
                files[f"{stem}.svg"], files[f"{stem}.png"] = drawing.svg("frontier").encode(), drawing.png()
        records = {}
        for path in sorted((run.path / "frontier").glob("*.json")):
            with contextlib.suppress(OSError, ValueError):
                records[path.name] = json.loads(path.read_text(encoding="utf-8"))
        records |= {f"{r.record['slug']}.json": r.record for r in results}
        files["table.md"] = _markdown(list(records.values())).encode()
        about = {
            "entoptic": version("entoptic"),
            "title": self.plan.model.card.name,
            "model": model_record(self.plan.model),
        }
        with run.writing(about):
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
                "name": self.prior.name, "identity": self.prior.identity, "generator_steps": MAP_STEPS,
                "bank_seed": plan.bank_seed,
            },
            "asked": {**asdict(config), "n": n, "seed": seed}, "photos": plan.photos,
            "verifiers": {v.card.name: v.card.weights_sha256 for v in plan.verifiers},
            "command": self._command(unit, n, seed), "versions": versions(), "notes": [], "frontier": None, "places": [],
        }  # fmt: skip
        if known is not None:
            bank, scores, raw = known
            record["score"] = {"centre": float(scores.centre[0]), "sd": float(scores.scale[0])}
            try:
                measured, rungs = self._measure(unit, bank, scores, raw, seed, context, record["notes"])
                record["frontier"] = _curve(measured, scores, self.nats) | {"rungs": rungs}
                ruler = _Ruler(measured, scores, bank, scores.of(raw[0]))
                record["places"] = [
                    *_selections(ruler),
                    *self._places(unit, ruler, failures),
                    *self._photos(unit, ruler),
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
        found, refused = ladders(unit, 0, bank, scores, raw[0], self.config, seed, context)
        if found:
            notes.append(_CAUTION)
            if refused:
                notes.append(f"beyond what the bank carries this frontier is not supported: {refused}")
            try:
                measured = Frontier.from_ladders(found)
                if measured.reach.nats < self.nats:
                    notes.append(f"the particles support {measured.reach.nats:.3g} of {self.nats:.3g} nats")
                return measured, [list(ladder.betas) for ladder in found]
            except UserError as error:
                notes.append(f"from the bank alone: {error}")
        return Frontier.from_bank(s_M), []

    def _places(self, unit: Unit, ruler: _Ruler, failures: list[str]) -> list[dict[str, Any]]:
        places = []
        seen: dict[str, int] = {}
        for job in self.plan.jobs:
            pictures = self._pictures(job, unit)
            if not pictures:
                continue
            seen[job.card.name] = seen.get(job.card.name, 0) + 1
            title = job.card.name + (f" {seen[job.card.name]}" if seen[job.card.name] > 1 else "")
            try:
                place = _place(title, pictures, ruler, self.prior.name)
            except UserError as error:
                failures.append(f"{job.card.name}: {error}")
                continue
            place |= {
                "method": job.card.name, "config": asdict(job.config),
                "pictures": [f"pictures/{p.path.parent.name}/{p.path.name}" for p in pictures],
                "naturalness": self._naturalness(pictures, ruler.bank),
            }  # fmt: skip
            places.append(place)
        return places

    def _pictures(self, job: Job, unit: Unit) -> list[Picture]:
        found = []
        for item in job.items:
            if item.unit.identity == unit.identity:
                key = picture_key(self.plan, job, item)
                file = self.plan.run.file(slug(unit), f"{job.card.name}-{item.sample}-{key[:12]}")
                if (record := self.plan.run.finished(file, key)) is not None:
                    found.append(Picture(file, record))
        return found

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
        if not self.plan.verifiers:
            return {"value": None, "reason": "no verifier was given to look at the pictures"}
        verifier = self.plan.verifiers[0]
        name = verifier.card.name
        try:
            if name not in self._bank_features:
                parts = [shown(self.plan.model, p.float() / 255) for p in bank.pictures[:_KID_BANK].split(64)]
                self._bank_features[name] = features(verifier, torch.cat(parts))
            mine = features(verifier, _stack(pictures))
        except UserError as error:
            return {"value": None, "reason": str(error)}
        own = self._bank_features[name]
        return {"value": kid(mine, own), "interval": kid_interval(mine, own), "n": len(mine), "network": name}

    def _photos(self, unit: Unit, ruler: _Ruler) -> list[dict[str, Any]]:
        """Real photos as levels: their mean and their best, by the same score."""
        references = self.plan.references
        if references.photos is None or self.config.reduction:
            return []
        s = ruler.scores.of(references.scores([unit]).of(unit).cpu())
        spread = mean_interval(s.tolist())
        about = "real photos are another prior: their nats from this one are not known"
        return [
            {"kind": "level", "title": f"{what} {len(s):,} real photos", "nats": None, "note": about,
             "mean": mean.to_json(), "mean_raw": _raw(mean, ruler.scores), "excess": None}
            for what, mean in (
                ("mean of", Estimate(float(s.mean()), float(s.std()) / len(s) ** 0.5, spread)),
                ("best of", _exactly(float(s.max()))),
            )
        ]  # fmt: skip

    def _command(self, unit: Unit, n: int, seed: int) -> str:
        plan, config = self.plan, self.config
        words = ["entoptic", "frontier", plan.model.card.name, str(unit), "--prior", self.prior.name]
        words += ["--methods", ",".join(job.card.name for job in plan.jobs), "--nats", f"{self.nats:g}"]
        words += ["--n", str(n), "--bank", str(config.bank), "--particles", str(config.particles)]
        words += ["--islands", str(config.islands), "--seed", str(seed)]
        words += ["--bank-seed", str(plan.bank_seed)] if plan.bank_seed else []
        words += ["--reduction", config.reduction] if config.reduction else []
        words += ["--photos", plan.photos] if plan.photos is not None else []
        for job in plan.jobs:
            words += config_words(job, {k: v for k, v in asdict(config).items() if k in _SHARED})
        return shlex.join(words)


def _about(unit: Unit, units: Sequence[Unit], reasons: Sequence[str]) -> list[str]:
    """The reasons that name this unit, or none of them."""

    def names(reason: str, one: Unit) -> bool:
        return re.search(rf"(?<![\w:.]){re.escape(str(one))}(?![\w:])", reason) is not None

    return [r for r in reasons if names(r, unit) or not any(names(r, other) for other in units)]


# --- places -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Ruler:
    """What places are measured with. own: M float64, standardised scores of the bank."""

    frontier: Frontier
    scores: UnitScores
    bank: Bank
    own: Tensor


def _curve(measured: Frontier, scores: UnitScores, budget: float) -> dict[str, Any]:
    """Points evenly spaced in √nats, where the curve is close to straight, with the interval of the mean at each.

    They go on a little beyond the budget where the scores support it, with intervals that are less to be relied on.
    """
    end = min(budget, measured.reach.nats)
    most = min(1.3 * budget, measured.reach.nats)
    nats = [end * (i / (_CURVE - 1)) ** 2 for i in range(_CURVE)]
    nats += [end + (most - end) * i / _BEYOND for i in range(1, _BEYOND + 1)] if most > end else []
    points = []
    for value in nats:
        try:
            point = measured.at_nats(value)
        except UserError:  # a gap in what the scores support
            continue
        points.append(point.to_json() | {"mean_raw": _raw(point.mean, scores)})
    return {
        "islands": measured.islands, "scores": len(measured.scores), "reach": measured.reach._asdict(),
        "cross_check": measured.cross_check.to_json() if measured.cross_check else None, "points": points,
    }  # fmt: skip


def _raw(mean: Estimate, scores: UnitScores) -> dict[str, Any]:
    """A mean in standard deviations, in units of the raw score."""
    centre, sd = float(scores.centre[0]), float(scores.scale[0])
    interval = None if mean.interval is None else [centre + sd * v for v in mean.interval]
    return Estimate(centre + sd * mean.value, sd * mean.se, interval).to_json()  # type: ignore[arg-type]


def _exactly(value: float) -> Estimate:
    return Estimate(value, 0.0, (value, value))


def _law(
    title: str, nats: Estimate, mean: Estimate, ruler: _Ruler, note: str, *, is_tilt: bool = False
) -> dict[str, Any]:
    """The place of a law of known nats; a tilt's excess is 0 by what it is."""
    excess: dict[str, Any]
    if is_tilt:
        excess = {**_exactly(0.0).to_json(), "reason": "a tilt is the frontier; the interval is that of its place"}
    else:
        try:
            excess = excess_nats(
                nats.value, mean.value, ruler.frontier, nats_se=nats.se, mean_se=mean.se
            ).to_json()  # fmt: skip
        except UserError as error:
            excess = {"value": None, "reason": str(error)}
    return {
        "kind": "law", "title": title, "nats": nats.to_json(), "mean": mean.to_json(),
        "mean_raw": _raw(mean, ruler.scores), "excess": excess, "note": note,
    }  # fmt: skip


def _selections(ruler: _Ruler) -> list[dict[str, Any]]:
    """Laws that the bank places by itself: best of N, top K, and its own tilt as far as it goes."""
    places, size = [], len(ruler.own)
    most = size // 2  # what `selection_mean` can estimate
    counts = sorted({count for count in (10, 100, most) if 2 <= count <= most})
    for count in counts:
        try:
            mean = selection_mean(ruler.own, count, 1)
        except UserError:  # a bank of fewer than 64
            continue
        note = "the best of N samples of the prior"
        places.append(_law(f"best of {count:,}", _exactly(selection_kl(count, 1)), mean, ruler, note))
        if count > TOP + 1:
            mean = selection_mean(ruler.own, count, TOP)
            note = "one of the K best of N samples of the prior, at random: retrieval"
            places.append(_law(f"top {TOP} of {count:,}", _exactly(selection_kl(count, TOP)), mean, ruler, note))
    reach = Frontier.from_bank(ruler.own).reach
    if reach.nats <= ruler.frontier.reach.nats:
        point = ruler.frontier.at_nats(reach.nats)
        note = "retrieval reweighted by exp(β s) is on the frontier up to here, where 20 effective samples are left"
        places.append(_law("reweighted bank", point.nats, point.mean, ruler, note, is_tilt=True))
    return places


def _place(title: str, pictures: Sequence[Picture], ruler: _Ruler, prior: str) -> dict[str, Any]:
    """The place of a method by its pictures' records: what they say of their law decides the kind."""
    laws = [p.record["trace"].get("selection") for p in pictures]
    found = [float(v) for v in ruler.scores.of(ruler.scores.all(_stack(pictures))[:, 0].cpu())]
    if not all(math.isfinite(v) for v in found):
        raise UserError("a picture's score is not finite")
    mean = _mean_of(found)
    about: dict[str, Any] = {
        "title": title,
        "scores": found,
        "mean": mean.to_json(),
        "mean_raw": _raw(mean, ruler.scores),
    }
    law = laws[0]
    if not all(isinstance(one, dict) for one in laws) or law is None:
        why = "one optimised picture is a point mass: no number of nats bounds its distance from any prior"
        return about | {"kind": "point", "nats": None, "excess": None, "note": why}
    if law.get("prior") != prior:
        why = f"its law is told against another prior: {law.get('prior')}"
        return about | {"kind": "level", "nats": None, "excess": None, "note": why}
    if law.get("rank") is not None:  # best-of: the ranks shown are the top K of the whole bank
        count = int(law["N"])
        nats = _exactly(selection_kl(count, len(pictures)))
        note = f"ranks 1 to {len(pictures)} of {count:,} samples; the mean is of this one draw and has no interval"
        drawn = Estimate(mean.value, math.inf, None)
        name = f"top {len(pictures)} of {count:,}" if len(pictures) > 1 else f"best of {count:,}"
        return about | _law(name, nats, drawn, ruler, note)
    if law.get("nats") is not None and law.get("mean_in_sd") is not None:
        if law.get("beta") is None:  # not a tilt: prompts, whose nats are those of their paths
            nats, at = _stated(law, "nats"), _stated(law, "mean_in_sd")
            return about | _under(title, nats, at, ruler, str(law["law"]))
        is_tilt = law.get("generator_steps") == MAP_STEPS  # of this very prior
        nats, at = (_stated(law, name) for name in ("nats", "mean_in_sd"))
        return about | _law(title, nats, at, ruler, str(law.get("law", "")), is_tilt=is_tilt)
    least = dv_bound(mean.value, ruler.frontier, mean_se=mean.se)
    paths = [one.get("path_nats_before_last_step") for one in laws]
    most = _mean_of([float(v) for v in paths]) if all(isinstance(v, int | float) for v in paths) else None
    if most is not None and not math.isfinite(most.value):
        most = None
    note = "nats between the least that the mean score of its pictures costs"
    note += " and those of its path without its last step" if most else "; its path is not recorded"
    note += f". {law['refused']}" if law.get("refused") else ""
    return about | {
        "kind": "bounds", "nats": least.to_json(), "path_nats": most.to_json() if most else None, "note": note,
        "excess": {"value": None, "reason": "nothing bounds the nats of its last step from above"},
    }  # fmt: skip


def _under(title: str, most: Estimate, mean: Estimate, ruler: _Ruler, note: str) -> dict[str, Any]:
    """The place of a law of known mean score and an upper bound on its nats."""
    se = math.inf if mean.interval is None else (mean.interval[1] - mean.interval[0]) / (2 * 1.96)
    least = dv_bound(mean.value, ruler.frontier, mean_se=se)
    try:
        excess = excess_nats(most.value, mean.value, ruler.frontier, mean_se=se).to_json() | {
            "reason": "an upper bound"
        }
    except UserError as error:
        excess = {"value": None, "reason": str(error)}
    return {
        "kind": "bounds", "title": title, "nats": least.to_json(), "path_nats": most.to_json(), "whole": True,
        "mean": mean.to_json(), "mean_raw": _raw(mean, ruler.scores), "excess": excess, "note": note,
    }  # fmt: skip


def _mean_of(values: Sequence[float]) -> Estimate:
    """Of independent pictures; of one there is no error to be told."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return Estimate(mean, math.inf, None)
    se = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
    return Estimate(mean, se, mean_interval(list(values)))


def _stated(law: dict[str, Any], name: str) -> Estimate:
    """A number of a sampler's record with its interval."""
    interval = law.get(f"{name}_interval")
    return Estimate(float(law[name]), math.inf, tuple(interval) if interval else None)


def _stack(pictures: Sequence[Picture]) -> Tensor:
    """n×3×H×W in [0, 1], as saved."""
    return torch.stack([torch.from_numpy(p.pixels.copy()).permute(2, 0, 1).float() / 255 for p in pictures])


def _markdown(records: Sequence[dict[str, Any]]) -> str:
    """One table for each unit."""
    parts = []
    for record in records:
        title = f"{record['unit']}" + (f" ({record['label']})" if record.get("label") else "")
        lines = [f"## {title}", "", "| " + " | ".join(HEADINGS) + " |", "|---" * len(HEADINGS) + "|"]
        lines += [
            "| " + " | ".join(cell.replace("|", "\\|") for cell in row(place)) + " |" for place in record["places"]
        ]
        lines += ["", *(f"- {note}" for note in record["notes"]), *(f"- failed: {f}" for f in record["failures"]), ""]
        parts.append("\n".join(lines))
    return "\n".join(parts)

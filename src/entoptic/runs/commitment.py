"""From which step on the guidance of a unit matters: switched chains, the unit as judge, curves, a window of guidance."""

from __future__ import annotations

import base64
import html
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from entoptic.base.cache import content_key, load_cached, save_cached
from entoptic.base.estimates import quantile_ranks
from entoptic.base.files import check_own, file_exists, json_bytes
from entoptic.base.gradients import with_gradients
from entoptic.base.pixels import eight_bit
from entoptic.base.progress import Reporter, reporter
from entoptic.base.unread import names_unread
from entoptic.errors import UserError, counted, nearest
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.images.unread import unread_record
from entoptic.methods.contract import Context
from entoptic.methods.guidance_window import written
from entoptic.methods.prior_sampling import chain_prior, scored_bank
from entoptic.metrics.evidence import Evidence
from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.models.sources import load
from entoptic.plots.commitment import draw
from entoptic.priors.prior import Prior
from entoptic.priors.sources import SHIPPED, load_prior
from entoptic.runs.commitment_plan import VERSION, CommitmentCost, CommitmentOptions, CommitmentPlan, estimate_cost
from entoptic.runs.commitment_record import (
    Made,
    Threshold,
    curve_record,
    evidence_of,
    harm_of,
    joined,
    sheet,
    window_or_reason,
)
from entoptic.runs.plan import run_name
from entoptic.runs.records import about_run, model_record, versions
from entoptic.runs.results import Result, find_result, write_result
from entoptic.runs.store import Run
from entoptic.sampling.commitment_curve import curve_of
from entoptic.sampling.frontier import Frontier
from entoptic.sampling.switched_chains import Side, Switched
from entoptic.sampling.unit_scores import UnitScores
from entoptic.units.unit import bind

KIND, FILE = "commitment", "commitment.json"


@dataclass(frozen=True, kw_only=True)
class CommitmentResult:
    """From which step on the guidance of one unit matters.

    Attributes:
        result: as it is stored.
        record: content of `commitment.json`: `curves`, `window`, `threshold` and so on.
    """

    result: Result
    record: dict[str, Any]

    @property
    def unit(self) -> str:
        """Its string."""
        return str(self.record["unit"])

    @property
    def file(self) -> Path:
        """`commitment.json`, which the option `window` of `energydps` and `klsc-twisted` reads."""
        return self.result.file(FILE)

    @property
    def window(self) -> str:
        """Shares of the steps in which guidance has to act, as the option `window` is written.

        Raises:
            UserError: there is none, with the reason.
        """
        found = self.record["window"]
        if found is None:
            raise UserError(f"{self.unit} has no window: {self.record['why_no_window']}")
        return f"{found[0]:.4g}-{found[1]:.4g}"

    @property
    def evidence(self) -> dict[str, dict[str, Any]]:
        """Measurements by name."""
        return self.result.evidence

    def _repr_html_(self) -> str:
        image = base64.b64encode(self.result.file("curve.svg").read_bytes()).decode()
        return f'<img src="data:image/svg+xml;base64,{image}" alt="Commitment of {html.escape(self.unit)}">'


@names_unread
@with_gradients
def commitment(
    model: str | nn.Module | Model,
    units: Any,
    *,
    prior: str | Prior | None = None,
    photos: Any = None,
    out: str | Path | None = None,
    device: str = "auto",
    card: Card | None = None,
    progress: bool = True,
    **options: Any,
) -> list[CommitmentResult]:
    """Measures from which step of a prior's chains on the guidance by a unit matters, with the unit as judge.

    Guidance is switched on, or off, after some share of the steps. A chain succeeds if its picture drives the unit more than a
    quantile of natural pictures does. Results are stored in the run folder under `results/commitment`; a finished one is found
    again, and an interrupted measurement goes on where it stopped.

    Args:
        model: anything `load` takes.
        units: one or several strings of the unit grammar, or units.
        prior: anything `load_prior` takes; None is the shipped one.
        photos: natural pictures, anything `Photos.open` takes; None takes the prior's own samples.
        out: the run folder (default `runs/MODEL`).
        device: "auto", "cpu", "cuda:1", ….
        card: of a bare `nn.Module`.
        progress: show how far the work is.
        options: fields of `CommitmentOptions`, for instance `seeds=64`.

    Returns:
        One result for each unit, in order.

    Raises:
        UserError: bad input.
    """
    asked = CommitmentOptions(**_known(options))
    with reporter(progress) as report:
        plans = make_commitment_plans(
            model, units, prior=prior, photos=photos, options=asked, device=device, card=card
        )  # fmt: skip
        return run_commitments(plans, out=out, report=report)


def make_commitment_plans(
    model: str | nn.Module | Model,
    units: Any,
    *,
    prior: str | Prior | None = None,
    photos: Any = None,
    options: CommitmentOptions,
    device: str = "auto",
    card: Card | None = None,
) -> list[CommitmentPlan]:
    """Plans the commitment of units, see `commitment`.

    Args:
        model: anything `load` takes.
        units: of the model.
        prior: anything `load_prior` takes; None is the shipped one.
        photos: anything `Photos.open` takes, or None.
        options: how.
        device: as in `commitment`.
        card: as in `commitment`.

    Raises:
        UserError: bad input.
    """
    subject = load(model, card, device=device)
    bound = bind(subject, units)
    if photos is not None and options.reduction:
        raise UserError("photos are scored by the unit's own readout; leave out --reduction, or --photos")
    for unit in bound:
        UnitScores([unit], options.reduction)  # refuses a readout that has nothing to reduce
    drawn_from = load_prior(prior or SHIPPED, device=subject.device)
    chain_prior(Context(model=subject, prior=drawn_from))
    drawn_from.levels(options.steps)  # refuses more steps than the prior has
    opened = None if photos is None else Photos.open(photos)
    check_natural(options.bank if opened is None else len(opened), options.quantile)
    return [CommitmentPlan(unit=unit, prior=drawn_from, options=options, photos=opened) for unit in bound]


def run_commitments(
    plans: Sequence[CommitmentPlan], *, out: str | Path | None = None, report: Reporter | None = None
) -> list[CommitmentResult]:
    """Measures and stores planned commitments; finished ones are found again.

    Args:
        plans: of `make_commitment_plans`.
        out: the run folder (default `runs/MODEL`).
        report: is told how far it is.
    """
    from entoptic.base.records import read_json

    model = plans[0].unit.model
    run = Run(out if out is not None else Path("runs") / run_name(model))
    check_own(run.path, marks={"run.json"}, what="run")
    results = []
    for plan in plans:
        result = find_result(run, KIND, str(plan.unit), plan.key) if file_exists(run.path / "run.json") else None
        if result is None:
            job = _Job(plan, report or Reporter())
            measured = job.measure()  # bad input is refused before anything is written
            with run.writing(about_run(model)):
                result = job.write(run, *measured)
        results.append(CommitmentResult(result=result, record=read_json(result.file(FILE))))
    return results


def check_natural(n: int, quantile: float) -> None:
    """Checks that enough natural pictures lie above a quantile to tell where it is.

    Args:
        n: natural pictures.
        quantile: of their scores.

    Raises:
        UserError: there are not.
    """
    if n * (1 - quantile) < 5:
        raise UserError(
            f"the {quantile:g} quantile of {counted(n, 'natural picture')} has fewer than 5 above it; give more, or a lower one"
        )


def estimate_commitments(plans: Sequence[CommitmentPlan]) -> list[CommitmentCost]:
    """Estimates what planned commitments take, without measuring them."""
    return [estimate_cost(plan) for plan in plans]


def _known(options: dict[str, Any]) -> dict[str, Any]:
    names = [f.name for f in fields(CommitmentOptions)]
    for name in options:
        if name not in names:
            raise UserError(f'commitment has no option "{name}"{nearest(name, names)}')
    return options


# --- one unit ---------------------------------------------------------------------------------------------------------


class _Job:
    """The commitment of one unit on its way."""

    def __init__(self, plan: CommitmentPlan, report: Reporter) -> None:
        self.plan, self.options, self.report = plan, plan.options, report
        chunks = len(plan.chunks())
        self.done, self.total = 0, chunks * (2 * (len(self.options.places) + 1) + 1)

    def measure(self) -> tuple[dict[str, Any], list[Evidence], dict[Side, list[Made]]]:
        """Measures it: the record, its evidence, and what each side made."""
        plan, options = self.plan, self.options
        context = Context(
            model=plan.unit.model, prior=plan.prior, progress=self.report.progress, bank_seed=options.bank_seed
        )
        _, scores, raw = scored_bank(context, [plan.unit], size=options.bank, reduction=options.reduction)
        beta = options.beta
        if beta is None:
            beta = Frontier.from_bank(scores.of(raw[0])).at_nats(options.nats).beta.value
        chains = Switched(
            prior=plan.prior, score=scores, beta=beta, steps=options.steps, sampler=options.sampler
        )  # fmt: skip
        threshold = self._threshold(raw[0])
        made = {side: self._side(chains, scores, side) for side in Side}
        curves = {
            side: curve_of(
                side, [k / options.steps for k in options.places],
                torch.stack([one.scores > threshold.value for one in made[side]], 1),
            )
            for side in Side
        }  # fmt: skip
        window, why = window_or_reason(curves, options.level)
        inside = None if window is None else self._within(chains, scores, window)
        evidence = evidence_of(curves, threshold, inside, why)
        record = {
            "format": VERSION, "unit": str(plan.unit), "label": plan.unit.label, "model": model_record(plan.unit.model),
            "prior": {"name": plan.prior.name, "identity": plan.prior.identity}, "asked": asdict(options), "beta": beta,
            "threshold": threshold._asdict(), "window": None if window is None else list(window), "why_no_window": why,
            "harm": harm_of(curves),
            "places": [k / options.steps for k in options.places],
            "noise": [level.sigma / level.alpha for level in (chains.levels[k] for k in options.places)],
            "window_success": None if inside is None else evidence[-1].to_json(),
            "curves": {str(side): curve_record(curve, made[side], options.places) for side, curve in curves.items()},
        }  # fmt: skip
        return record, evidence, made

    def _threshold(self, raw_M: Tensor) -> Threshold:
        plan = self.plan
        natural, source = raw_M, f"the prior's samples ({plan.prior.name})"
        if plan.photos is not None:
            references = References(plan.unit.model, plan.photos, progress=self.report.progress)
            natural, source = references.scores([plan.unit]).of(plan.unit).double(), "photos"
        natural = natural.double()
        q, n = self.options.quantile, len(natural)
        check_natural(n, q)
        ranks, ordered = quantile_ranks(n, q) if n <= 1000 else _ranks(n, q), natural.sort().values
        interval = None if ranks is None else (float(ordered[ranks[0] - 1]), float(ordered[ranks[1] - 1]))
        return Threshold(float(natural.quantile(q)), interval, n, source)

    def _side(self, chains: Switched, scores: UnitScores, side: Side) -> list[Made]:
        """Makes the chains of one side: for each switch all seeds."""
        found: dict[int, list[Made]] = {k: [] for k in self.options.places}
        for chunk in self.plan.chunks():
            keys = {k: self._key(chains, scores, str(side), k, chunk) for k in self.options.places}
            held = {k: load_cached(KIND, key, {"scores": 1, "pictures": 4}) for k, key in keys.items()}
            states = self._trunk(chains, scores, side, chunk) if any(one is None for one in held.values()) else {}
            for k, key in keys.items():
                one = held[k]
                if one is None:
                    ends = chains.finish(self.plan.generators(KIND, chunk), side, k, states[k])
                    one = self._judge(ends, scores)
                    save_cached(KIND, key, one)
                found[k].append(Made(_lost(one["scores"]), one["pictures"]))
                self._say()
        return [joined(parts) for parts in found.values()]

    def _trunk(self, chains: Switched, scores: UnitScores, side: Side, chunk: range) -> dict[int, Tensor]:
        key = self._key(chains, scores, f"trunk {side} {self.options.places}", -1, chunk)
        held = load_cached(KIND, key, {"states": 5})
        if held is None:
            found = chains.trunk(self.plan.generators(KIND, chunk), side, self.options.places)
            held = {"states": torch.stack([found[k] for k in self.options.places]).cpu()}
            if bool(held["states"].isfinite().all()):  # the cache holds no NaN
                save_cached(KIND, key, held)
        self._say()
        return {k: state.to(self.plan.prior.device) for k, state in zip(self.options.places, held["states"])}

    def _within(self, chains: Switched, scores: UnitScores, window: tuple[float, float]) -> Tensor:
        """Scores of fresh chains that are guided inside the window alone."""
        parts = []
        for chunk in self.plan.chunks():
            key = self._key(chains, scores, f"window {written(window)}", -1, chunk)
            held = load_cached(KIND, key, {"scores": 1, "pictures": 4})
            if held is None:
                held = self._judge(chains.within(self.plan.generators("commitment window", chunk), window), scores)
                save_cached(KIND, key, held)
            parts.append(_lost(held["scores"]))
            self._say()
        return torch.cat(parts)

    def _judge(self, x0: Tensor, scores: UnitScores) -> dict[str, Tensor]:
        """Scores the pictures of clean states as they would be saved; a lost one has no finite score."""
        with torch.no_grad():
            pictures = eight_bit(self.plan.prior.decode(x0.nan_to_num(0.0)))
            found = scores.all(pictures)[:, 0]
        lost = ~x0.isfinite().flatten(1).all(1).cpu() | ~found.isfinite()
        return {"scores": found.masked_fill(lost, torch.inf), "pictures": (pictures * 255).round().byte().cpu()}

    def _key(self, chains: Switched, scores: UnitScores, what: str, place: int, chunk: range) -> str:
        return content_key(self.plan.about_chains() | {
            "beta": chains.beta, "centre": float(scores.centre[0]), "scale": float(scores.scale[0]), "what": what,
            "place": place, "first": chunk.start, "count": len(chunk),
        })  # fmt: skip

    def _say(self) -> None:
        self.done += 1
        self.report.progress(f"guiding towards {self.plan.unit}", min(self.done, self.total), self.total)

    def write(
        self, run: Run, record: dict[str, Any], evidence: list[Evidence], made: dict[Side, list[Made]]
    ) -> Result:  # fmt: skip
        """Stores it as a result of a run that is being written."""
        plan, drawing = self.plan, draw(record)
        content = {
            FILE: json_bytes(record), "curve.svg": drawing.svg("commitment").encode("utf-8", "backslashreplace"),
            "curve.png": drawing.png(), **{f"{side}.png": sheet(columns) for side, columns in made.items()},
        }  # fmt: skip
        about = {
            "unit": record["unit"], "label": record["label"], "model": record["model"], "prior": record["prior"],
            "asked": record["asked"], "photos": None if plan.photos is None else plan.photos.source,
            "window": record["window"], "versions": versions(), "command": _command(plan), **unread_record(plan.photos),
        }  # fmt: skip
        return write_result(run, KIND, str(plan.unit), plan.key, files=content, evidence=evidence, about=about)


def _lost(scores: Tensor) -> Tensor:
    """Scores with NaN for the infinity that stands for a lost chain in the cache: no success, whatever the threshold."""
    return torch.where(scores.isinf(), torch.nan, scores)


def _ranks(n: int, q: float) -> tuple[int, int]:
    """Ranks between which a quantile lies with 95 % confidence, by the normal approximation; for many observations."""
    middle, reach = n * q, 1.96 * (n * q * (1 - q)) ** 0.5
    return max(1, int(middle - reach)), min(n, int(middle + reach) + 1)


def _command(plan: CommitmentPlan) -> str:
    """The command that gives the same result."""
    options, default = plan.options, CommitmentOptions()
    words = ["entoptic", "commitment", plan.unit.model.card.name, str(plan.unit), "--prior", plan.prior.name]
    words += [] if plan.photos is None else ["--photos", plan.photos.source]
    for f in fields(options):
        if getattr(options, f.name) != getattr(default, f.name):
            words += [f"--{f.name}".replace("_", "-"), str(getattr(options, f.name))]
    return shlex.join(words)

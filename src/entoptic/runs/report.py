"""Makes a report on a classifier, section by section: what fails in one never costs the others."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from entoptic.base.files import check_own
from entoptic.base.progress import Reporter, short_time
from entoptic.errors import NotAvailable, UserError, counted, nearest
from entoptic.findings.activity import Activity, read_activity
from entoptic.findings.labels import true_classes
from entoptic.findings.questions import Errors
from entoptic.images.masks import mask_folder
from entoptic.images.photos import Photos
from entoptic.images.preflight import preflight
from entoptic.images.unread import unread, unread_words
from entoptic.models.card import Card
from entoptic.models.model import LOGITS, Model
from entoptic.models.sources import load
from entoptic.names.records import read_names
from entoptic.runs.estimate import estimate
from entoptic.runs.execute import execute
from entoptic.runs.headline import headline
from entoptic.runs.patterns import run_patterns
from entoptic.runs.patterns_plan import PatternOptions, estimate_patterns, make_patterns_plan
from entoptic.runs.plan import make_plan, run_name
from entoptic.runs.report_looks import looks_of
from entoptic.runs.report_read import (
    LastLayer,
    carriers,
    choose,
    confusions,
    find_last_layer,
    label_of,
    most_used,
)
from entoptic.runs.report_records import ClassFound, Looks, PatternFound, Report, Share, share

NO_CONTEXT = (
    "not made: whether a class looks at its object or beside it needs masks of the objects (--masks). "
    "Relevance on photos without masks does not say what is object and what is surroundings."
)


@dataclass(frozen=True, kw_only=True)
class ReportPlan:
    """What is going to be reported.

    Attributes:
        model: the network.
        photos: real photos.
        out: the run folder.
        named: classes that were named; empty to choose them.
        most: classes that are chosen.
        method: of the pictures.
        steps: of the method, None for its own.
        layer: of the patterns, "" for the last.
        quantile: a unit is on above it, see `PatternOptions`.
        seed: of all draws.
        batch_size: photos of one pass.
        context: store small copies of photos.
        masks: folder of masks of the objects, or None.
    """

    model: Model
    photos: Photos
    out: Path
    named: tuple[int, ...]
    most: int
    method: str
    steps: int | None
    layer: str
    quantile: float
    seed: int
    batch_size: int
    context: bool
    masks: Path | None = None

    @property
    def command(self) -> str:
        """The command that makes the report again."""
        words = ["entoptic", "report", self.model.card.name, "--photos", self.photos.source, "--classes"]
        words += [f"{LOGITS}:{i}" for i in self.named] or [str(self.most)]
        words += ["--method", self.method, *(["--steps", str(self.steps)] if self.steps is not None else [])]
        words += [*(["--layer", self.layer] if self.layer else []), "--quantile", f"{self.quantile:g}"]
        words += [] if self.masks is None else ["--masks", str(self.masks)]
        return shlex.join([*words, "--seed", str(self.seed), "--out", str(self.out)])


def make_report_plan(
    model: str | nn.Module | Model, *, photos: Any, out: str | Path | None = None, classes: int | str | tuple[str, ...] = 6,
    method: str = "vital", steps: int | None = None, layer: str = "", quantile: float = 0.9, seed: int = 0,
    batch_size: int = 32, context: bool = True, masks: str | Path | None = None, device: str = "auto",
    card: Card | None = None,
) -> ReportPlan:  # fmt: skip
    """Plans a report, see `report`.

    Raises:
        UserError: bad input.
    """
    subject = load(model, card, device=device)
    if subject.why_no_logits:
        raise UserError(f"a report is on a classifier; {subject.card.name} has no logits ({subject.why_no_logits})")
    words = (str(classes),) if isinstance(classes, int | str) else tuple(classes)
    most = int(words[0]) if len(words) == 1 and words[0].lstrip("-").isdigit() else 0
    named = () if most else tuple(dict.fromkeys(_class(subject, word) for word in words))
    if (not most and not named) or most < 0:
        raise UserError(
            f"classes must be a number of at least 1 or names of classes, got {' '.join(words) or 'nothing'}"
        )
    if "," in method:
        raise UserError(f"a report shows pictures by one method, got {method}")
    if layer:
        subject.layer(layer)
    if not 0 < quantile < 1:
        raise UserError(f"quantile must be above 0 and below 1, got {quantile:g}")
    opened = Photos.open(photos)
    if not len(opened):
        raise UserError(f"there is no photo in {opened.source}")
    path = Path(out) if out is not None else Path("runs") / run_name(subject)
    check_own(path, marks={"run.json"}, what="run")
    plan = ReportPlan(
        model=subject, photos=opened, out=path, named=named, most=most or len(named), method=method, steps=steps,
        layer=layer, quantile=quantile, seed=seed, batch_size=batch_size, context=context, masks=mask_folder(masks),
    )  # fmt: skip
    _pictures_plan(plan, [0], None)  # a method that is not there is refused before hours of work
    return plan


def _class(model: Model, word: str) -> int:
    given = word.removeprefix(f"{LOGITS}:").strip('"')
    if given.isdigit() and word != given:
        found = [int(given)] if int(given) < model.outputs else []
    else:
        found = model.card.find_label(given)
    if word in ("0", "") or len(found) != 1:
        hint = nearest(given, model.card.labels or ()) if not found else ""
        raise UserError(
            f'"{word}" names {counted(len(found), "class", "classes")} of {model.card.name}; give a number of at least 1, '
            f"or classes by name or as {LOGITS}:N{hint}"
        )
    return found[0]


def _pictures_plan(plan: ReportPlan, classes: list[int], report: Reporter | None) -> Any:
    return make_plan(
        plan.model, [f"{LOGITS}:{i}" for i in classes], method=plan.method, photos=plan.photos, seed=plan.seed,
        out=plan.out, context=plan.context, report=report,
        options={} if plan.steps is None else {"steps": plan.steps},
    )  # fmt: skip


def estimate_report(plan: ReportPlan) -> list[str]:
    """Returns in words what a planned report will cost, without making it.

    Args:
        plan: of `make_report_plan`.
    """
    shown = list(plan.named) or list(range(min(plan.most, plan.model.outputs)))
    whole = estimate(_pictures_plan(plan, shown, None))
    seconds = sum(entry["seconds"] for entry in whole["methods"].values())
    told = [f"{counted(len(shown), 'picture')} by {plan.method}: about {short_time(seconds)}"]
    try:
        cost = estimate_patterns(_patterns_plan(plan, plan.layer or find_last_layer(plan.model, plan.photos).name))
        seconds += cost.seconds
        told.append(f"patterns of errors: {cost}")
    except UserError as error:
        told.append(f"patterns of errors: not made: {error}")
    return [*told, f"together about {short_time(seconds)}, beside reading the photos for the pictures' evidence"]


def _patterns_plan(plan: ReportPlan, layer: str) -> Any:
    if not layer:
        raise NotAvailable("the layer before the logits was not found; name one with --layer")
    options = PatternOptions(seed=plan.seed, batch_size=plan.batch_size, quantile=plan.quantile)
    return make_patterns_plan(plan.model, layer, photos=plan.photos, question=Errors(), options=options)


def make_report(plan: ReportPlan, report: Reporter | None = None) -> Report:
    """Makes what a plan says; pictures and patterns that are in its folder are not made again.

    Args:
        plan: of `make_report_plan`.
        report: is told how far it is.

    Raises:
        UserError: the photos cannot be read.
    """
    return _Job(plan, report or Reporter()).make()


class _Job:
    """A report on its way."""

    def __init__(self, plan: ReportPlan, report: Reporter) -> None:
        self.plan, self.report, self.model = plan, report, plan.model
        self.last: LastLayer = find_last_layer(plan.model, plan.photos)
        self.activity: Activity = read_activity(
            plan.model, self.last.basis, plan.photos, range(len(plan.photos)), batch_size=plan.batch_size,
            progress=report.progress,
        )  # fmt: skip
        lost = unread(plan.photos, range(len(plan.photos)), self.activity.photos)
        self.unread = unread_words(lost, len(plan.photos), plan.photos)
        self.true, self.no_accuracy = np.full(len(self.activity.photos), -1), ""
        try:
            self.true = true_classes(plan.model, plan.photos)[list(self.activity.photos)]
        except UserError as error:
            self.no_accuracy = f"not made: {error}"

    def make(self) -> Report:
        plan, said, true = self.plan, self.activity.said, self.true
        known = true >= 0
        right = None if self.no_accuracy else share("right", int((true == said)[known].sum()), int(known.sum()))
        pairs = confusions(true, said)
        shown = list(plan.named) or choose(said, pairs, plan.most)
        names, on_names = self._names()
        pictures, no_pictures = _tried(lambda: self._pictures(shown), {})
        classes = tuple(self._class(i, pictures, no_pictures, names) for i in shown)
        (patterns, chance), no_patterns = _tried(self._patterns, ((), ()))
        check, no_check = _tried(
            lambda: str(preflight(self.model, plan.photos, progress=self.report.progress).message), ""
        )
        looks, context = self._looks(shown)
        return Report(
            model=self.model.card.name, photos=plan.photos.source, read=len(said), layer=plan.layer or self.last.name,
            check=check or no_check, accuracy=right, no_accuracy=self.no_accuracy,
            used=most_used(self.model, said, plan.most),
            confused=tuple(self._confused(t, s, n) for t, s, n in pairs[: plan.most]), classes=classes,
            patterns=patterns, chance=chance, no_patterns=no_patterns, context=context, looks=looks, names=on_names,
            command=plan.command,
            unread=self.unread,
        )  # fmt: skip

    def _confused(self, true: int, said: int, count: int) -> Share:
        words = f"{label_of(self.model, true)} taken for {label_of(self.model, said)}"
        return share(words, count, int((self.true == true).sum()))

    def _names(self) -> tuple[dict[str, str], str]:
        try:
            found = read_names(self.plan.out)
        except NotAvailable:
            return {}, "not made: this folder holds no names; the command entoptic name suggests some"
        except UserError as error:
            return {}, f"not made: {error}"
        if found.weights and found.weights not in self.model.card.provenance.values():
            return {}, "not shown: the names in this folder are of another network"
        return {one.unit: str(one) for one in found.suggestions if one.shown}, "names are suggestions, not the truth"

    def _pictures(self, shown: list[int]) -> dict[str, Any]:
        run = execute(_pictures_plan(self.plan, shown, self.report), self.report)
        method = self.plan.method
        found = {one.unit.partition("@")[0]: one for one in reversed(list(run)) if one.method == method}
        return found

    def _class(self, index: int, pictures: dict[str, Any], why: str, names: dict[str, str]) -> ClassFound:
        unit, said = f"{LOGITS}:{index}", self.activity.said
        own = self.true == index
        picture = pictures.get(unit)
        found, no_carriers = _tried(lambda: carriers(self.last, self.activity, index, names), ())
        return ClassFound(
            unit=unit, label=label_of(self.model, index), used=share("used", int((said == index).sum()), len(said)),
            right=share("right", int((said[own] == index).sum()), int(own.sum())) if own.any() else None,
            picture="" if picture is None else picture.path.relative_to(self.plan.out).as_posix(),
            evidence=() if picture is None else tuple(headline(picture.record)),
            no_picture="" if picture is not None else why or "not made: the run names the failure (`entoptic ls RUN`)",
            carriers=found, no_carriers=no_carriers, name=names.get(unit, ""),
        )  # fmt: skip

    def _looks(self, shown: list[int]) -> tuple[tuple[Looks, ...], str]:
        """Where the classes look, and what is said of those of which it cannot be told."""
        masks = self.plan.masks
        if masks is None:
            return (), NO_CONTEXT
        numbers = np.array(self.activity.photos)
        found, without = [], []
        for index in shown:
            label, own = label_of(self.model, index), self.true == index
            rows = numbers[own if own.any() else self.activity.said == index].tolist()
            look = partial(
                looks_of, self.model, self.plan.photos, masks, index, label, rows, progress=self.report.progress
            )
            one, why = _tried(look, None)
            found.append(one)
            without += [f"{label} {why}"] if one is None else []
        return tuple(one for one in found if one is not None), "; ".join(without)

    def _patterns(self) -> tuple[tuple[PatternFound, ...], tuple[str, ...]]:
        result = run_patterns(
            _patterns_plan(self.plan, self.plan.layer or self.last.name), out=self.plan.out, context=self.plan.context,
            report=self.report,
        )  # fmt: skip
        whole = json.loads(result.file("patterns.json").read_text(encoding="utf-8"))
        chance = [
            f"{name.replace('_', ' ')}: {entry['detail']['found']} of {entry['n']} searches found anything "
            f"({entry['interval'][0]:.0f} to {entry['interval'][1]:.0f} %)"
            for name, entry in sorted(result.evidence.items())
            if name.startswith("found_") and entry["value"] is not None
        ]
        return tuple(_pattern(entry) for entry in whole["patterns"]), tuple(chance)


def _pattern(entry: dict[str, Any]) -> PatternFound:
    side = entry["groups"].index(entry["towards"])
    shares = [share(g, on, n) for g, on, n in zip(entry["groups"], entry["on"], entry["size"])]
    change = entry["change"]
    words = change.get("reason", "")
    if not words:
        low, high = change["interval"]
        words = (
            f"with these units set to their means, accuracy on photos where it holds goes from {change['before']:.0f} % to "
            f"{change['after']:.0f} % ({low:+.0f} to {high:+.0f} points, n = {change['n']})"
        )
        if change["random_interval"]:
            words += (
                f"; random units: {change['random_interval'][0]:+.0f} to {change['random_interval'][1]:+.0f} points"
            )
    return PatternFound(
        units=" and ".join(" xor ".join(clause) for clause in entry["clauses"]), towards=entry["towards"],
        there=shares[side], elsewhere=shares[1 - side], p=entry["p"], change=words,
    )  # fmt: skip


def _tried(section: Callable[[], Any], otherwise: Any) -> tuple[Any, str]:
    """What a section gives and "", or something else and why it failed."""
    try:
        return section(), ""
    except UserError as error:
        return otherwise, f"not made: {error}"
    except Exception as error:  # one section never costs the others
        return otherwise, f"failed: {type(error).__name__}: {error}"

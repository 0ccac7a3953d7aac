"""Finds patterns of units, follows them up and stores them."""

from __future__ import annotations

import shlex
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from entoptic.base.files import check_own, file_exists
from entoptic.base.gradients import with_gradients
from entoptic.base.progress import Reporter, reporter
from entoptic.base.randomness import generator_for
from entoptic.base.unread import names_unread
from entoptic.errors import UserError, nearest
from entoptic.findings.ablation import follow_up, why_not
from entoptic.findings.activity import Activity, read_activity
from entoptic.findings.found import (
    Found,
    Rows,
    check_correspondence,
    find_patterns,
    rows_of_groups,
    rows_of_networks,
)
from entoptic.findings.labels import true_classes
from entoptic.findings.pattern import Pattern
from entoptic.findings.questions import Between, Errors, EveryClass, Networks, between, errors_of, every_class
from entoptic.images.unread import unread, unread_words
from entoptic.metrics.evidence import Evidence
from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.runs.patterns_plan import PatternOptions, PatternsPlan, make_patterns_plan
from entoptic.runs.patterns_record import KIND, Shown, Tested, label_of, store
from entoptic.runs.plan import run_name
from entoptic.runs.records import about_run
from entoptic.runs.results import Result, find_result
from entoptic.runs.store import Run


@names_unread
@with_gradients
def patterns(
    model: str | nn.Module | Model,
    layer: str,
    *,
    photos: Any,
    of: str = "",
    taken_for: str = "",
    between: tuple[str, str] | tuple[str] | None = None,
    against: str | nn.Module | Model | None = None,
    every_class: bool = False,
    out: str | Path | None = None,
    context: bool = True,
    device: str = "auto",
    card: Card | None = None,
    progress: bool = True,
    **options: Any,
) -> Result:
    """Finds which units of a layer, on together, tell two groups of photos apart, and what they do there.

    Without further arguments the groups are photos that the network gets right and wrong. The result is stored in the run
    folder under `results/patterns`. A finished one is found again by the same request; what an interrupted one had read is in
    the cache.

    Args:
        model: anything `load` takes.
        layer: name of a layer, or a dictionary in the form dict(PATH).
        photos: real photos, anything `Photos.open` takes.
        of: errors on photos of this class alone.
        taken_for: errors on photos that the network takes for this class alone.
        between: photos of one label against those of another, or against all others where one is given.
        against: the same photos in another network or checkpoint with the same layer, anything `load` takes.
        every_class: photos of each label against all others, all labels at once.
        out: the run folder (default `runs/MODEL`).
        context: store small copies of the photos that drive the units, and on which patterns hold.
        device: "auto", "cpu", "cuda:1", ….
        card: of a bare `nn.Module`.
        progress: show how far the work is.
        options: fields of `PatternOptions`, for instance `quantile=0.95`.

    Returns:
        The result; its file `patterns.json` holds the patterns.

    Raises:
        UserError: bad input.
    """
    question = make_question(of, taken_for, None if between is None else tuple(between), _name_of(against), every_class)
    plan = make_patterns_plan(
        model, layer, photos=photos, question=question, against=against, options=PatternOptions(**_known(options)),
        device=device, card=card,
    )  # fmt: skip
    with reporter(progress) as report:
        return run_patterns(plan, out=out, context=context, report=report)


def make_question(
    of: str, taken_for: str, labels: tuple[str, ...] | None, against: str, every: bool
) -> Errors | Between | Networks | EveryClass:
    """Returns the one question that is asked.

    Args:
        of: see `patterns`.
        taken_for: see `patterns`.
        labels: see `between` of `patterns`; None where none are compared.
        against: name of the other network, "" for none.
        every: see `every_class` of `patterns`.

    Raises:
        UserError: more than one is asked, or no label or three labels are compared.
    """
    named = {
        "errors (--of, --taken-for)": bool(of or taken_for),
        "two classes (--between)": labels is not None,
        "two networks (--against)": bool(against),
        "every class (--every-class)": every,
    }
    asked = [name for name, is_asked in named.items() if is_asked]
    if len(asked) > 1:
        raise UserError(f"{' and '.join(asked)} are questions of their own; ask one of them")
    if labels is not None and len(labels) > 2:
        raise UserError(f"--between takes one label or two, got {len(labels)}; --every-class compares all of them")
    if labels is not None and not any(labels):
        raise UserError(
            "--between compares classes, and no label was given; give one, to compare it with all others, or two"
        )
    if labels:
        return Between(one=labels[0], other=labels[1] if len(labels) > 1 else "")
    if against:
        return Networks(other=against)
    return EveryClass() if every else Errors(of=of, taken_for=taken_for)


def run_patterns(
    plan: PatternsPlan, *, out: str | Path | None = None, context: bool = True, report: Reporter | None = None
) -> Result:
    """Finds and stores planned patterns; finished ones are found again.

    Args:
        plan: of `make_patterns_plan`.
        out: the run folder (default `runs/MODEL`).
        context: store small copies of photos.
        report: is told how far it is.
    """
    run, key = Run(out if out is not None else Path("runs") / run_name(plan.model)), plan.key(context)
    if file_exists(run.path / "run.json") and (held := find_result(run, KIND, plan.name, key)) is not None:
        return held
    check_own(run.path, marks={"run.json"}, what="run")
    job = _Job(plan, context, report or Reporter())
    found = job.find()  # bad input is refused before anything is written
    with run.writing(about_run(plan.model)):
        return job.write(run, key, found)


def _name_of(network: str | nn.Module | Model | None) -> str:
    if network is None or isinstance(network, str):
        return network or ""
    return network.card.name if isinstance(network, Model) else type(network).__name__


def _known(options: dict[str, Any]) -> dict[str, Any]:
    names = [f.name for f in fields(PatternOptions)]
    for name in options:
        if name not in names:
            raise UserError(f'patterns has no option "{name}"{nearest(name, names)}')
    return options


# --- one result -------------------------------------------------------------------------------------------------------


class _Job:
    """Patterns on their way."""

    def __init__(self, plan: PatternsPlan, context: bool, report: Reporter) -> None:
        self.plan, self.context, self.report = plan, context, report
        self.true = np.full(len(plan.photos), -1)
        self.own: Activity | None = None
        self.others: Activity | None = None
        self.more: list[Evidence] = []
        self.unread = ""

    def find(self) -> Found:
        """Reads the units, groups the photos and mines."""
        plan, options = self.plan, self.plan.options
        return find_patterns(
            self._rows(), plan.basis, quantile=options.quantile, level=options.level, shuffles=options.shuffles,
            most=options.most, seed=options.seed, progress=self.report.progress,
        )  # fmt: skip

    def _read(self, model: Model, chosen: list[int]) -> Activity:
        activity = read_activity(
            model, self.plan.basis, self.plan.photos, chosen, batch_size=self.plan.options.batch_size,
            progress=self.report.progress,
        )  # fmt: skip
        self.unread = unread_words(unread(self.plan.photos, chosen, activity.photos), len(chosen), self.plan.photos)
        return activity

    def _rows(self) -> Rows:
        plan, question, photos = self.plan, self.plan.question, self.plan.photos
        whole = list(range(len(photos)))
        if isinstance(question, Networks):
            assert plan.other is not None
            self._know_classes()
            self.own = one = self._read(plan.model, whole)
            self.others = other = self._read(plan.other, whole)
            names = (plan.model.card.name, plan.other.card.name)
            if names[0] == names[1]:
                names = (names[0], f"{names[1]} (the other)")
            rows = rows_of_networks(one, other, names)
            half = len(rows.groups.group) // 2
            scores = rows.activity.scores
            self.more.append(check_correspondence(scores[:half], scores[half:], names, plan.basis.layer))
            return rows
        if isinstance(question, Errors):
            self.true = true_classes(plan.model, photos)
            self.own = activity = self._read(plan.model, self._of_class(question.of, whole))
            chosen = np.array(activity.photos)
            kept = np.ones(len(chosen), bool)
            if question.taken_for:
                kept = activity.said == self._class(question.taken_for)
            words = " ".join([*([f"of {question.of}"] if question.of else []),
                              *([f"taken for {question.taken_for}"] if question.taken_for else [])])  # fmt: skip
            groups = errors_of(chosen[kept], self.true[chosen[kept]], activity.said[kept], words, photos.source)
            return rows_of_groups(activity, groups)
        self._know_classes()
        labelled = [i for i in whole if photos[i].labels]
        if isinstance(question, Between):
            between(photos, np.array(labelled), question)  # is refused before anything is read
            self.own = activity = self._read(plan.model, labelled)
            groups = between(photos, np.array(activity.photos), question)
            return rows_of_groups(activity, replace(groups, names=tuple(self._shown_name(n) for n in groups.names)))
        every_class(photos, np.array(labelled))
        self.own = activity = self._read(plan.model, labelled)
        groups = every_class(photos, np.array(activity.photos))
        return rows_of_groups(activity, replace(groups, names=tuple(self._shown_name(n) for n in groups.names)))

    def _shown_name(self, label: str) -> str:
        """What the network calls the photos of a label, where these are all of one of its classes."""
        classes = set(self.true[self.plan.photos.of_class([label])].tolist())
        return (self._label(classes.pop()) or label) if len(classes) == 1 else label

    def _know_classes(self) -> None:
        """The network's class of each photo, as far as it is known."""
        try:
            self.true = true_classes(self.plan.model, self.plan.photos)
        except UserError:
            return

    def _class(self, label: str) -> int:
        card = self.plan.model.card
        found = card.find_label(label)
        if len(found) != 1:
            hint = (
                nearest(label, card.labels or ())
                if not found
                else f": {', '.join(str(card.label(i)) for i in found[:6])}"
            )
            raise UserError(f'"{label}" names {len(found)} classes of {card.name}{hint}')
        return found[0]

    def _of_class(self, label: str, whole: list[int]) -> list[int]:
        if not label:
            return [i for i in whole if self.true[i] >= 0]
        wanted = self._class(label)
        found = [i for i in whole if self.true[i] == wanted]
        if not found:
            raise UserError(f"there is no photo of {label} in {self.plan.photos.source}")
        return found

    # --- the follow-up ------------------------------------------------------------------------------------------------

    def _test(self, found: Found) -> list[Tested]:
        options = self.plan.options
        passes = len(found.patterns) * (2 + options.sets)
        done = 0

        def step() -> None:
            nonlocal done
            done += 1
            self.report.progress("ablating units", done, passes)

        tested = []
        for pattern in found.patterns:
            tested.append(self._test_one(found, pattern, step))
        if found.patterns and done < passes:
            self.report.progress("ablating units", passes, passes)
        return tested

    def _test_one(self, found: Found, pattern: Pattern, step: Any) -> Tested:
        plan, options = self.plan, self.plan.options
        if not options.tested:
            return Tested(reason="it was not asked for (--tested 0)")
        rows = np.nonzero(pattern.rows)[0]
        model, activity = plan.model, self.own
        wanted = self.true[found.rows.groups.rows]
        if found.rows.paired:
            assert plan.other is not None
            half = len(found.rows.groups.group) // 2
            side = pattern.towards
            rows = rows[found.rows.groups.group[rows] == side]
            said = found.rows.activity.said
            said_by_other = np.concatenate([said[half:], said[:half]])
            wanted = np.where(wanted >= 0, wanted, said_by_other)
            if side == 1:
                model, activity = plan.other, self.others
        assert activity is not None
        if reason := why_not(model, plan.basis):
            return Tested(reason=reason)
        rows = rows[wanted[rows] >= 0]
        if not len(rows):
            return Tested(reason=f"no label of its photos is a class of {model.card.name}")
        if len(rows) > options.tested:
            draw = generator_for("photos of a pattern", options.seed, str(pattern.clauses))
            rows = np.sort(rows[torch.randperm(len(rows), generator=draw).numpy()[: options.tested]])
        images = self._pictures([int(found.rows.groups.rows[r]) for r in rows], model)
        numbers = [found.items.numbers[i] for i in pattern.items]
        change = follow_up(
            model, plan.basis, numbers, images, torch.from_numpy(wanted[rows]), pool=found.items.numbers,
            values=activity.means if options.ablate == "mean" and not plan.basis.is_dictionary else None,
            sets=options.sets, seed=options.seed, batch_size=options.batch_size, step=step,
        )  # fmt: skip
        return Tested(change=change, model=model.card.name)

    def _pictures(self, photos: list[int], model: Model) -> Tensor:
        held: dict[int, Tensor] = {}
        for numbers, images in self.plan.photos.batches(model.card.prepare, 16, list(dict.fromkeys(photos))):
            held.update(zip(numbers, images))
        return torch.stack([held[i] for i in photos])

    def write(self, run: Run, key: str, found: Found) -> Result:
        """Follows patterns up and stores them."""
        tested = self._test(found)
        shown = Shown(self.plan.photos, self.plan.model, [self._label(int(true)) for true in self.true], self.context)
        return store(run, key, self.plan, found, tested, shown, self.more, command_of(self.plan), self.unread)

    def _label(self, number: int) -> str:
        return label_of(self.plan.model, number)


def command_of(plan: PatternsPlan) -> str:
    """Returns the command that gives the same result.

    Args:
        plan: of the patterns.
    """
    question = plan.question
    words = ["entoptic", "patterns", plan.model.card.name, plan.basis.layer, "--photos", plan.photos.source]
    if isinstance(question, Errors):
        words += ["--of", question.of] if question.of else []
        words += ["--taken-for", question.taken_for] if question.taken_for else []
    elif isinstance(question, Between):
        words += ["--between", question.one, *([question.other] if question.other else [])]
    elif isinstance(question, Networks):
        words += ["--against", question.other]
    else:
        words.append("--every-class")
    default = PatternOptions()
    for f in fields(plan.options):
        if f.name != "batch_size" and getattr(plan.options, f.name) != getattr(default, f.name):
            words += [f"--{f.name}".replace("_", "-"), str(getattr(plan.options, f.name))]
    return shlex.join(words)

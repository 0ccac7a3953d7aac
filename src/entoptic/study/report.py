"""The report of an analysis: one HTML page without outside files, the registered test first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from entoptic.plots.intervals import Row, draw_intervals
from entoptic.study import words
from entoptic.study.records import Answer, Arm, Consent, Study, TaskKind
from entoptic.study.results import Analysis, ArmResult, Comparison, Measured, Results, UnitResult
from entoptic.study.statistics.bootstrap import Bootstrapped
from entoptic.study.text_scores import TextScores
from entoptic.study.tidy import Column
from entoptic.study.words import arm_title, change, estimate, p_text, shift

if TYPE_CHECKING:
    from jinja2 import Environment

NOT_STATED, REGISTERED = "not stated", " (registered)"
_TEXTS_SHOWN = 400


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The registered test in words.

    Attributes:
        sentence: what was compared and what was found.
        verdict: "supported", "not supported", "contradicted" or "not tested".
        tone: "good", "mixed" or "poor".
        meaning: what that means.
        rows: names and values of the ways to compute the interval.
    """

    sentence: str
    verdict: str
    tone: str
    meaning: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class TaskSection:
    """What the page shows of one task.

    Attributes:
        kind: of question.
        title: of the section.
        question: in short.
        drawing: of the conditions, as SVG, or "".
        arms: rows of the table: condition, own number, answers, people, units.
        more: rows of further numbers: what it is, then one value for each condition.
        comparisons: rows: conditions, difference, superiority, p, corrected p.
        notes: below the table.
        confidence: rows: confidence, right of all.
        units: of the task.
    """

    kind: str
    title: str
    question: str
    drawing: str
    arms: tuple[tuple[str, str, int, int, int], ...]
    more: tuple[tuple[str, ...], ...]
    comparisons: tuple[tuple[str, str, str, str, str], ...]
    notes: tuple[str, ...]
    confidence: tuple[tuple[str, str], ...]
    units: tuple[UnitResult, ...]


@dataclass(frozen=True, kw_only=True)
class Written:
    """One written answer on the page.

    Attributes:
        label: of the unit.
        arm: condition.
        text: as it was written.
        score: similarity and rank, or "".
    """

    label: str
    arm: str
    text: str
    score: str


def report_page(
    study: Study, results: Results, answers: Sequence[Answer], texts: TextScores | None, columns: Sequence[Column]
) -> str:
    """Returns the page. Whatever people or files said is escaped.

    Args:
        study: pre-registration.
        results: of the analysis.
        answers: of everybody.
        texts: scores of written answers, or None.
        columns: of the tidy table.
    """
    kept = results.exclusions.kept
    written = _written([one for one in answers if one.participant in kept], texts)
    sections = [_section(study, results.kept, task.kind) for task in study.tasks if task.kind != "preference"]
    return (
        _environment()
        .get_template("report.html")
        .render(
            study=study,
            results=results,
            verdict=verdict(study, results.kept.primary, results.detectable, results.alpha),
            everybody=verdict(study, results.everybody.primary, None, results.alpha),
            hypotheses=study.registration.hypotheses,
            sections=sections,
            preferences=_preference_drawing(results),
            asked=_asked(study, results),
            consent=_consent(study.consent),
            written=written[:_TEXTS_SHOWN],
            written_count=len(written),
            columns=columns,
            other_arms=[arm for arm in study.arms if arm.kind == "none"],
            words=words,
        )
    )


def verdict(study: Study, primary: Comparison, detectable: float | None, alpha: float) -> Verdict:
    """Returns the registered test in words.

    Args:
        study: pre-registration.
        primary: the registered comparison.
        detectable: least effect that this sample finds with a power of 80 %, or None.
        alpha: two-sided level.
    """
    measure = words.MEASURES.get(primary.outcome, primary.outcome)
    first, second = _name(study, primary.task, primary.first), _name(study, primary.task, primary.second)
    against = f"{first} against {second}" if primary.second else f"{first} against chance"
    where = f"{measure} in “{words.TITLES.get(primary.task, primary.task)}”, {against}"
    found = primary.found
    if found is None:
        return Verdict(
            sentence=f"Registered: {where}.", verdict="not tested", tone="poor",
            meaning=f"It could not be tested: {primary.reason}.", rows=(),
        )  # fmt: skip
    robust = study.registration.interval == "robust"
    low, high = found.robust if robust else found.interval
    p = found.robust_p if robust else found.p
    name = primary.outcome
    if low > 0:
        said, tone = "supported", "good"
        meaning = f"The interval lies above 0: {first} is better, for people and units like these."
    elif high < 0:
        said, tone = "contradicted", "poor"
        meaning = f"The interval lies below 0: {first} is worse."
    else:
        said, tone = "not supported", "mixed"
        meaning = "No difference was found. That does not mean that there is none"
        meaning += (
            f": this sample finds effects of {shift(detectable, name).lstrip('+')} or more with a power of 80 %."
            if detectable
            else "."
        )
    rows = [
        ("Two-way bootstrap, percentiles" + ("" if robust else REGISTERED), change(found, name)),
        ("The same, corrected for bias and skew", words.shift_span(found.bca, name) if found.bca else "not defined"),
        ("Two-way cluster-robust variance" + (REGISTERED if robust else ""), words.shift_span(found.robust, name)),
        ("Persons drawn, units fixed", words.shift_span(found.persons_only, name)),
        ("Units drawn, persons fixed", words.shift_span(found.units_only, name)),
    ]
    if primary.superiority is not None:
        rows.append(("Chance to be rated higher", estimate(primary.superiority, "correct")))
    if primary.exchange_p is not None:
        rows.append(("Labels exchanged within persons, for these units", p_text(primary.exchange_p)))
    told = f"{shift(found.value, name)} ({words.shift_span((low, high), name)})"
    return Verdict(
        sentence=f"Registered: {where}: {told}, {p_text(p)} at a level of {alpha:g}; "
        f"{found.persons} people, {found.units} units, {found.answers} answers.",
        verdict=said, tone=tone, meaning=meaning, rows=tuple(rows),
    )  # fmt: skip


def _name(study: Study, task: TaskKind, arm: str) -> str:
    kinds = {one.name: one.kind for one in study.arms if one.task == task}
    return arm_title(arm, kinds.get(arm, "synthetic"))


# --- sections ---------------------------------------------------------------------------------------------------------


def _section(study: Study, analysis: Analysis, kind: TaskKind) -> TaskSection:
    arms = [one for one in analysis.arms if one.task == kind]
    comparisons = [one for one in analysis.comparisons if one.task == kind]
    notes = [f"{_name(study, kind, one.arm)}: {one.outcome.note}." for one in arms if one.outcome.note]
    notes += [
        f"{arm_title(one.arm, one.kind)}: not estimated, {one.outcome.reason}." for one in arms if one.outcome.reason
    ]
    if failed := sum(one.technical for one in arms):
        notes.append(f"{failed} trials are not counted: a picture could not be shown.")
    return TaskSection(
        kind=kind,
        title=words.TITLES[kind],
        question=words.QUESTIONS[kind],
        drawing=_drawing(kind, arms, study),
        arms=tuple(
            (arm_title(one.arm, one.kind), _shown(one.outcome), one.answers, one.persons, one.units) for one in arms
        ),
        more=_more(arms),
        comparisons=tuple(_comparison(study, one) for one in comparisons),
        notes=tuple(notes),
        confidence=tuple(
            (level, f"{right} of {n}" + (f" ({100 * right / n:.0f}{words.SPACE}%)" if n else ""))
            for level, (right, n) in analysis.confidence.get(kind, {}).items()
        ),
        units=tuple(one for one in analysis.units if one.task == kind),
    )  # fmt: skip


def _shown(measured: Measured) -> str:
    return estimate(measured.found, measured.name) if measured.found else f"not estimated: {measured.reason}"


def _more(arms: Sequence[ArmResult]) -> tuple[tuple[str, ...], ...]:
    """Further numbers: a row each, a column a condition."""
    names = list(dict.fromkeys(measured.name for one in arms for measured in one.more))
    rows = []
    for name in names:
        found = [next((m for m in one.more if m.name == name), None) for one in arms]
        note = next((m.note for m in found if m is not None and m.note), "")
        title = words.MEASURES.get(name, name) + (f" ({note})" if note else "")
        rows.append((title, *("" if m is None else _shown(m) for m in found)))
    return tuple(rows)


def _comparison(study: Study, one: Comparison) -> tuple[str, str, str, str, str]:
    first, second = _name(study, one.task, one.first), _name(study, one.task, one.second)
    names = f"{first} − {second}" if one.second else f"{first} − chance"
    if one.found is None:
        return names, f"not estimated: {one.reason}", "", "", ""
    above = estimate(one.superiority, "correct") if one.superiority else ""
    adjusted = p_text(one.adjusted_p) if one.adjusted_p is not None else ""
    return names, change(one.found, one.outcome), above, p_text(one.found.p), adjusted


def _drawing(kind: TaskKind, arms: Sequence[ArmResult], study: Study) -> str:
    rows = []
    for one in arms:
        if one.outcome.found is None:
            continue
        role, shape = {"natural": ("photos", "square"), "none": ("point", "triangle")}.get(
            one.kind, ("frontier", "circle")
        )
        rows.append(_row(arm_title(one.arm, one.kind), one.outcome.found, one.outcome.name, role, shape))
    if not rows:
        return ""
    chance, name = arms[0].chance, arms[0].outcome.name
    scale = study.task(kind).scale
    return draw_intervals(
        rows, title=f"{words.TITLES[kind]}: {words.MEASURES.get(name, name)}",
        axis=words.MEASURES.get(name, name) + (", %" if words.is_share(name) else f", 1 to {scale}" if scale else ""),
        reference=chance, reference_text="chance" if chance is not None else "",
        bounds=(0.0, 1.0) if words.is_share(name) else (1.0, float(scale)) if scale else None,
        scale=100.0 if words.is_share(name) else 1.0,
    ).svg(f"plot-{kind}", standalone=False)  # fmt: skip


def _row(label: str, found: Bootstrapped, name: str, role: str, shape: str) -> Row:
    shapes: dict[str, str] = {"square": "square", "triangle": "triangle"}
    return Row(
        label=label, value=found.value, interval=found.interval, text=estimate(found, name), role=role,
        shape=shapes.get(shape, "circle"),  # type: ignore[arg-type]
    )  # fmt: skip


def _preference_drawing(results: Results) -> str:
    found = results.kept.preferences
    if found is None or not found.strength or found.interval is None:
        return ""
    order = sorted(range(len(found.methods)), key=lambda i: -found.strength[i])
    rows = [
        Row(
            label=found.methods[i], value=found.strength[i], interval=found.interval[i],
            text=f"{found.strength[i]:+.2f} ({found.interval[i][0]:+.2f} to {found.interval[i][1]:+.2f})".replace("-", words.MINUS),
        )
        for i in order
    ]  # fmt: skip
    return draw_intervals(
        rows, title="Preference: strengths (Bradley–Terry)", axis="log odds against the average method", reference=0.0,
        reference_text="average",
    ).svg("plot-preference", standalone=False)  # fmt: skip


# --- how it was done ----------------------------------------------------------------------------------------------------


def _asked(study: Study, results: Results) -> tuple[tuple[str, str], ...]:
    """What reviewers ask for; what nobody stated says so."""
    frame, registration = study.units, study.registration
    left_out = f"{len(frame.left_out)} left out: {'; '.join(frame.left_out[:5])}" if frame.left_out else "none left out"
    minutes = (
        f"{results.median_minutes:.1f} minutes (expected {study.minutes:g})" if results.median_minutes else NOT_STATED
    )
    entries = [
        ("Built by", f"{study.software}, {study.created}"),
        ("Pre-registration (sha256 of study.json)", results.manifest),
        ("Plan (sha256 of plan.json)", study.plan_sha256),
        ("Preset", study.preset or "tasks that were chosen"),
        ("Seed", str(study.seed)),
        ("Places", f"{study.participants}"),
        ("Units", f"{len(frame.units)} asked about, {len(frame.practice)} for practice; {left_out}"),
        ("Where units come from", frame.source or NOT_STATED),
        ("Methods", ", ".join(study.methods)),
        ("Conditions", "; ".join(f"{task.kind}: {', '.join(_arms(study.arms, task.kind))}" for task in study.tasks)),
        ("Trials a person", "; ".join(f"{task.kind} {task.trials} + {task.catch} catch" for task in study.tasks)),
        ("Real photos among the pictures", "yes" if study.with_photos else "no"),
        ("Analysis, as registered", registration.analysis or NOT_STATED),
        ("Many comparisons", registration.multiplicity or NOT_STATED),
        ("Missing answers", registration.missing or NOT_STATED),
        ("Stopping", registration.stopping or NOT_STATED),
        ("Median session", minutes),
        ("Wording (sha256)", "; ".join(f"{language} {digest[:16]}" for language, digest in study.wording.items())),
        (
            "Encoder of texts",
            f"{results.encoder}, {results.encoder_identity}" if results.encoder else results.text_note,
        ),
        ("Analysed by", f"{results.software}, {results.analysed}, {results.draws:,} draws of the bootstrap"),
    ]
    return tuple((name, value) for name, value in entries if value)


def _arms(arms: Sequence[Arm], task: str) -> list[str]:
    return [arm_title(arm.name, arm.kind) for arm in arms if arm.task == task]


def _consent(consent: Consent) -> tuple[tuple[str, str], ...]:
    return tuple((one.name.capitalize(), str(getattr(consent, one.name)) or NOT_STATED) for one in fields(consent))


def _written(answers: Sequence[Answer], texts: TextScores | None) -> tuple[Written, ...]:
    found = []
    for one in answers:
        if one.kind != "main" or one.task != "describe" or one.text is None:
            continue
        score = texts.by_answer.get((one.participant, one.trial)) if texts else None
        shown = f"similarity {score.similarity:.2f}, rank {score.rank:g}" if score else ""
        found.append(Written(label=one.label or one.unit, arm=one.arm, text=one.text, score=shown))
    return tuple(sorted(found, key=lambda one: (one.label, one.arm, one.text)))


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("entoptic.study", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip

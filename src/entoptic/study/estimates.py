"""Estimates of a study from its answers: arms, comparisons, preferences, agreement and units."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from entoptic.base.estimates import wilson
from entoptic.errors import OutOfReach
from entoptic.study.outcomes import OUTCOMES, Outcome, of_preference
from entoptic.study.records import RATED, WITH_RIGHT_ANSWER, Answer, Arm, Contrast, Study, Task
from entoptic.study.results import Agreed, Analysis, ArmResult, Comparison, Measured, Preferences
from entoptic.study.statistics import bradley_terry, free_text
from entoptic.study.statistics.agreement import Level, krippendorff, matrix
from entoptic.study.statistics.bootstrap import DRAWS, Bootstrapped, Statistic, two_way
from entoptic.study.statistics.crossed import conditions, cross, difference, mean
from entoptic.study.statistics.multiplicity import holm
from entoptic.study.statistics.permutation import exchange_test
from entoptic.study.statistics.proportions import d_prime
from entoptic.study.statistics.ratings import superiority_table
from entoptic.study.text_scores import TextScores
from entoptic.study.unit_results import unit_results


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The answers of one analysis.

    Attributes:
        study: pre-registration.
        answers: main trials whose pictures were shown, of the people who count.
        technical: main trials whose pictures could not be shown.
        texts: scores of written answers, or None.
        text_note: why there are none, or "".
        draws: of the bootstrap.
    """

    study: Study
    answers: Sequence[Answer]
    technical: Sequence[Answer]
    texts: TextScores | None
    text_note: str = ""
    draws: int = DRAWS

    def of(self, arm: Arm) -> list[Answer]:
        """Returns the answers to one condition."""
        return [one for one in self.answers if (one.task, one.arm) == (arm.task, arm.name)]

    def seed(self, *parts: str) -> str:
        """Returns the text that seeds one bootstrap."""
        return "|".join((str(self.study.seed), *parts))


def sample_of(
    study: Study, answers: Iterable[Answer], persons: Iterable[str], texts: TextScores | None, *, text_note: str = "",
    draws: int = DRAWS,
) -> Sample:  # fmt: skip
    """Returns the answers that count, of the people who count.

    Args:
        study: pre-registration.
        answers: of everybody.
        persons: who count.
        texts: scores of written answers, or None.
        text_note: why there are none.
        draws: of the bootstrap.
    """
    kept = set(persons)
    main = [one for one in answers if one.kind == "main" and one.participant in kept]
    return Sample(
        study=study, answers=[one for one in main if not one.technical], technical=[one for one in main if one.technical],
        texts=texts, text_note=text_note, draws=draws,
    )  # fmt: skip


def analyse_sample(sample: Sample) -> Analysis:
    """Returns all estimates of one sample."""
    study = sample.study
    primary = compare(sample, study.registration.primary, level=1 - study.registration.alpha)
    others = [compare(sample, one) for one in secondary(study)]
    tested = [k for k, one in enumerate(others) if one.found is not None]
    for k, p in zip(tested, holm([_p(others[k]) for k in tested])):
        others[k] = replace(others[k], adjusted_p=p)
    asked = {task.kind for task in study.tasks}
    return Analysis(
        primary=primary,
        arms=tuple(_arm_result(sample, arm) for arm in study.arms if arm.task != "preference"),
        comparisons=tuple(others),
        preferences=preferences(sample) if "preference" in asked else None,
        agreement=tuple(_agreement(sample, task) for task in study.tasks if task.kind in RATED | {"preference"}),
        units=unit_results(sample.answers, sample.texts, study.tasks),
        confidence=_confidence(sample),
        persons=len({one.participant for one in sample.answers}),
        answers=len(sample.answers),
    )


def chance_of(task: Task) -> float | None:
    """Returns what guessing reaches in a task, None where nothing is right; texts are counted from chance."""
    if task.kind in WITH_RIGHT_ANSWER:
        return 1 / task.options
    return {"preference": 0.5, "describe": 0.0}.get(task.kind)


def secondary(study: Study) -> list[Contrast]:
    """Returns the comparisons beside the registered one: every two conditions of a task."""
    registered = study.registration.primary
    found = []
    for task in study.tasks:
        names = [arm.name for arm in study.arms if arm.task == task.kind]
        outcome = OUTCOMES[task.kind].name
        pairs = [(name, "") for name in names] if task.kind == "preference" else list(combinations(names, 2))
        for first, second in pairs:
            if task.kind != registered.task or _compared(first, second) != _compared(registered.arm, registered.versus):
                found.append(Contrast(task=task.kind, outcome=outcome, arm=first, versus=second))
    return found


def compare(sample: Sample, contrast: Contrast, *, level: float = 0.95) -> Comparison:
    """Returns one comparison; where it cannot be made, the reason.

    Args:
        sample: of the answers.
        contrast: what is compared.
        level: of the intervals.
    """
    plain = Comparison(
        task=contrast.task, outcome=contrast.outcome, first=contrast.arm, second=contrast.versus, found=None
    )  # fmt: skip
    if contrast.task not in {task.kind for task in sample.study.tasks}:
        return replace(plain, reason=f"the study does not ask {contrast.task}")
    seed = sample.seed(contrast.task, contrast.arm, contrast.versus)
    try:
        if contrast.task == "preference":
            return _preferred(sample, contrast, plain, seed, level)
        outcome = _outcome(sample, contrast.task)
        rows = outcome.rows([one for one in sample.answers if one.task == contrast.task])
        answers, values = [one for one, _ in rows], np.array([value for _, value in rows])
        persons, units, arms = _columns(answers)
        if not contrast.versus:
            chance = chance_of(sample.study.task(contrast.task))
            if chance is None:
                return replace(plain, reason=f"{contrast.task} has no chance level to compare with")
            table = conditions(persons, units, arms, values - chance, (contrast.arm,))
            return replace(plain, found=two_way(table, mean, seed=seed, draws=sample.draws, level=level))
        pair = (contrast.arm, contrast.versus)
        table = conditions(persons, units, arms, values, pair)
        found = two_way(table, difference, seed=seed, draws=sample.draws, level=level)
        above = None
        if contrast.task in RATED:
            levels = sample.study.task(contrast.task).scale
            counts, statistic = superiority_table(persons, units, arms, values, pair, levels)
            above = two_way(counts, statistic, seed=seed, draws=sample.draws, null=0.5, level=level)
        exchanged = exchange_test(persons, arms, values, pair, seed=seed, draws=sample.draws)
        return replace(plain, found=found, superiority=above, exchange_p=exchanged)
    except OutOfReach as error:
        return replace(plain, reason=str(error))


def _compared(arm: str, versus: str) -> set[str]:
    """The conditions of a comparison, whichever comes first; a pair of methods is both."""
    return {*arm.split("|"), versus} - {""}


def _p(comparison: Comparison) -> float:
    assert comparison.found is not None
    return comparison.found.p


def _outcome(sample: Sample, task: str) -> Outcome:
    if task == "describe":
        if sample.texts is None:
            raise OutOfReach(sample.text_note or "the texts were not scored")
        return OUTCOMES["describe"].with_texts(sample.texts)
    return next(one for kind, one in OUTCOMES.items() if kind == task)


def _columns(answers: Sequence[Answer]) -> tuple[list[str], list[str], list[str]]:
    return [one.participant for one in answers], [one.unit for one in answers], [one.arm for one in answers]


def _preferred(sample: Sample, contrast: Contrast, plain: Comparison, seed: str, level: float) -> Comparison:
    """The share of choices of one method over another, ties counted half, minus one half."""
    first, _, second = contrast.arm.partition("|")
    second = contrast.versus or second
    pair = {first, second}
    rows = [one for one in sample.answers if one.task == "preference" and {one.first, one.second} == pair]
    values = np.array([of_preference(one, first) - 0.5 for one in rows])
    persons, units, _ = _columns(rows)
    found = two_way(
        cross(persons, units, np.stack([values, np.ones(len(rows))], 1) if rows else np.zeros((0, 2))), mean,
        seed=seed, draws=sample.draws, level=level,
    )  # fmt: skip
    # Every answer is for one method and against the other: exchanging the two turns its sign.
    both = [*(first for _ in rows), *(second for _ in rows)]
    exchanged = exchange_test(
        persons + persons, both, np.concatenate([values, -values]), (first, second), seed=seed, draws=sample.draws
    )
    return replace(plain, found=found, exchange_p=exchanged)


# --- arms -----------------------------------------------------------------------------------------------------------


def _arm_result(sample: Sample, arm: Arm) -> ArmResult:
    task, answers = sample.study.task(arm.task), sample.of(arm)
    more: list[Measured] = []
    try:
        outcome = _outcome(sample, arm.task)
        main = _measured(sample, arm, outcome.name, outcome.rows(answers))
    except OutOfReach as error:
        main = Measured(name=OUTCOMES[arm.task].name, found=None, reason=str(error))
    if arm.task in WITH_RIGHT_ANSWER:
        main = _sure(main)
    if arm.task == "2afc" and main.found is not None:
        more.append(_as_d_prime(main.found))
    if arm.task == "describe" and sample.texts is not None:
        more += _text_numbers(sample, arm, answers)
    timed = [
        (one, float(np.log(one.rt_ms / 1000)))
        for one in answers
        if one.rt_ms and one.rt_ms > 0 and one.correct is not False
    ]
    more.append(_in_seconds(_measured(sample, arm, "seconds", timed)))
    if task.confidence:
        sure = [(one, float(one.confidence)) for one in answers if one.confidence is not None]
        more.append(_measured(sample, arm, "confidence", sure))
    return ArmResult(
        task=arm.task, arm=arm.name, kind=arm.kind, outcome=main, more=tuple(more), chance=chance_of(task),
        answers=len(answers), persons=len({one.participant for one in answers}), units=len({one.unit for one in answers}),
        technical=sum((one.task, one.arm) == (arm.task, arm.name) for one in sample.technical),
    )  # fmt: skip


def _measured(sample: Sample, arm: Arm, name: str, rows: Sequence[tuple[Answer, float]]) -> Measured:
    values = np.array([value for _, value in rows])
    return _with_statistic(sample, arm, name, rows, np.stack([values, np.ones(len(rows))], 1), mean)


def _with_statistic(
    sample: Sample, arm: Arm, name: str, rows: Sequence[tuple[Answer, object]], numbers_NK: np.ndarray, statistic: Statistic
) -> Measured:  # fmt: skip
    if not rows:
        return Measured(name=name, found=None, reason="no answers")
    persons, units, _ = _columns([one for one, _ in rows])
    try:
        seed = sample.seed(arm.task, arm.name, name)
        found = two_way(cross(persons, units, numbers_NK), statistic, seed=seed, draws=sample.draws)
        return Measured(name=name, found=found)
    except OutOfReach as error:
        return Measured(name=name, found=None, reason=str(error))


def _sure(measured: Measured) -> Measured:
    """A share of 0 or 1 has no spread to draw from: its interval is Wilson's, as if it had the fewer of persons and units."""
    found = measured.found
    if found is None or found.se > 0:
        return measured
    n = min(found.persons, found.units)
    interval = wilson(found.value * n, n)
    return replace(
        measured,
        found=replace(found, interval=interval, bca=None, persons_only=interval, units_only=interval, robust=interval),
        note=f"all answers are alike; the interval is that of {n} independent answers",
    )  # fmt: skip


def _as_d_prime(found: Bootstrapped) -> Measured:
    def moved(ends: tuple[float, float]) -> tuple[float, float]:
        return float(d_prime(ends[0], found.answers)), float(d_prime(ends[1], found.answers))

    return Measured(
        name="d prime",
        found=replace(
            found, value=float(d_prime(found.value, found.answers)), se=float("nan"), interval=moved(found.interval),
            bca=None, persons_only=moved(found.persons_only), units_only=moved(found.units_only),
            robust=moved(_within(found.robust)),
        ),
    )  # fmt: skip


def _within(ends: tuple[float, float]) -> tuple[float, float]:
    return max(0.0, ends[0]), min(1.0, ends[1])


def _in_seconds(measured: Measured) -> Measured:
    """A geometric mean from a mean of logarithms."""
    found = measured.found
    if found is None:
        return measured

    def moved(ends: tuple[float, float]) -> tuple[float, float]:
        return float(np.exp(ends[0])), float(np.exp(ends[1]))

    return replace(
        measured,
        found=replace(
            found, value=float(np.exp(found.value)), se=float("nan"), interval=moved(found.interval),
            bca=moved(found.bca) if found.bca else None, persons_only=moved(found.persons_only),
            units_only=moved(found.units_only), robust=moved(found.robust),
        ),
        note="geometric mean; wrong answers left out",
    )  # fmt: skip


def _text_numbers(sample: Sample, arm: Arm, answers: Sequence[Answer]) -> list[Measured]:
    assert sample.texts is not None
    scores = sample.texts.by_answer
    rows = [(one, scores[key]) for one in answers if (key := (one.participant, one.trial)) in scores]
    numbers = np.array([(s.similarity, s.chance, 1.0) for _, s in rows]).reshape(-1, 3)
    found = [
        _measured(sample, arm, "raw similarity", [(one, s.similarity) for one, s in rows]),
        _measured(sample, arm, "chance similarity", [(one, s.chance) for one, s in rows]),
        _with_statistic(sample, arm, "normalised similarity", rows, numbers, free_text.normalised),
        _measured(sample, arm, "reciprocal rank", [(one, 1 / s.rank) for one, s in rows]),
        _measured(sample, arm, "label first", [(one, float(s.rank == 1)) for one, s in rows]),
        _measured(sample, arm, "exact label", [(one, float(s.exact)) for one, s in rows]),
        _measured(sample, arm, "said nothing", [(one, float(not s.said)) for one, s in rows]),
    ]
    labels = f"of {len(sample.texts.labels)} labels"
    return [replace(one, note=labels) if one.name in ("reciprocal rank", "label first") else one for one in found]


# --- preferences, agreement, confidence --------------------------------------------------------------------------------


def preferences(sample: Sample) -> Preferences:
    """Returns the strengths of methods; where there are none, the reason."""
    methods = tuple(
        name for name in sample.study.methods if any(name in (one.first, one.second) for one in sample.answers)
    )
    outcomes, rows = [], []
    for one in sample.answers:
        if one.task != "preference" or not (one.first and one.second) or (one.choice is None and not one.not_sure):
            continue
        kinds = {one.first: bradley_terry.FIRST, one.second: bradley_terry.SECOND, "": bradley_terry.TIE}
        outcomes.append((one.first, one.second, kinds[one.preferred]))
        rows.append(one)
    persons, units, _ = _columns(rows)
    empty = Preferences(
        methods=methods, strength=(), interval=None, chance_to_win=(), first_shown=0.0, ties=0.0, answers=len(rows),
        persons=len(set(persons)), units=len(set(units)), halved=False, groups=(), triads=0,
    )  # fmt: skip
    if len(methods) < 2 or not rows:
        return replace(empty, reason=f"{len(rows)} pairs of {len(methods)} methods were judged")
    table = cross(persons, units, bradley_terry.quantities(methods, outcomes))
    try:
        found = bradley_terry.fit_crossed(
            methods, table, position=True, seed=sample.seed("preference"), draws=min(sample.draws, 2000)
        )
    except OutOfReach as error:
        return replace(empty, reason=str(error))
    off = ~np.eye(len(methods), dtype=bool)
    return replace(
        empty,
        strength=found.strength,
        interval=found.interval,
        chance_to_win=tuple(float(row[keep].mean()) for row, keep in zip(found.wins, off)),
        first_shown=found.first_shown,
        ties=sum(one.not_sure for one in rows) / len(rows),
        halved=found.halved,
        groups=found.components,
        triads=found.triads,
    )


_ABOUT: dict[str, str] = {
    "class-match": "the rating of a picture", "inner-match": "the rating of a picture", "preference": "which method is better",
}  # fmt: skip


def _agreement(sample: Sample, task: Task) -> Agreed:
    about = _ABOUT[task.kind]
    value: Callable[[Answer], float | None]
    if task.kind == "preference":
        methods = list(sample.study.methods)
        value = lambda one: float(methods.index(one.preferred)) if one.preferred in methods else None  # noqa: E731
    else:
        value = lambda one: None if one.rating is None else float(one.rating)  # noqa: E731
    rows = [(one, v) for one in sample.answers if one.task == task.kind and (v := value(one)) is not None]
    if not rows:
        return Agreed(task=task.kind, about=about, found=None, reason="no answers")
    ratings = matrix(
        [one.participant for one, _ in rows],
        [f"{one.unit}|{one.arm}" for one, _ in rows],
        np.array([v for _, v in rows]),
    )
    try:
        level: Level = "nominal" if task.kind == "preference" else "ordinal"
        found = krippendorff(ratings, level)
        return Agreed(task=task.kind, about=about, found=found)
    except OutOfReach as error:
        return Agreed(task=task.kind, about=about, found=None, reason=str(error))


def _confidence(sample: Sample) -> dict[str, dict[str, tuple[int, ...]]]:
    """By task and confidence: right answers and answers."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for task in sample.study.tasks:
        if task.kind not in WITH_RIGHT_ANSWER or not task.confidence:
            continue
        by_level = found.setdefault(task.kind, {})
        for level in range(1, task.confidence + 1):
            rows = [one for one in sample.answers if one.task == task.kind and one.confidence == level]
            by_level[str(level)] = (sum(bool(one.correct) for one in rows), len(rows))
    return found

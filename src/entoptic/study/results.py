"""What an analysis finds: typed results, which the report shows and `results.json` keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from entoptic.study.exclusions import Exclusions
from entoptic.study.machine_scores import MachineScores
from entoptic.study.records import Contrast, TaskKind
from entoptic.study.statistics.agreement import Agreement
from entoptic.study.statistics.bootstrap import Bootstrapped

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One number of one arm with its interval.

    Attributes:
        name: "correct", "rating", "similarity", "preferred", or of a further number, such as "seconds" and "d prime".
        found: with intervals over persons and units, None where it cannot be had.
        reason: why not, or "".
        note: what else there is to say, or "".
    """

    name: str
    found: Bootstrapped | None
    reason: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """What one condition of a task gave.

    Attributes:
        task: kind of question.
        arm: name of the condition.
        kind: of the condition.
        outcome: the task's own number.
        more: further numbers.
        chance: what guessing reaches, None where there is no such thing.
        answers: main trials answered.
        persons: who answered.
        units: answered about.
        technical: trials whose pictures could not be shown; they are not counted.
    """

    task: TaskKind
    arm: str
    kind: str
    outcome: Measured
    more: tuple[Measured, ...]
    chance: float | None
    answers: int
    persons: int
    units: int
    technical: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A difference between two conditions of a task, or between one and chance.

    Attributes:
        task: kind of question.
        outcome: that is compared.
        first: name of the condition.
        second: name of the other; "" is chance.
        found: the difference, first minus second, None where it cannot be had.
        reason: why not, or "".
        superiority: of ratings: the chance that the first is rated above the second, ties counted half.
        adjusted_p: corrected for the other comparisons of the family; None for the registered one, which is alone.
        exchange_p: with the labels of the two conditions exchanged within persons; None against chance, and where it is not known.
    """

    task: TaskKind
    outcome: str
    first: str
    second: str
    found: Bootstrapped | None
    reason: str = ""
    superiority: Bootstrapped | None = None
    adjusted_p: float | None = None
    exchange_p: float | None = None


@dataclass(frozen=True, kw_only=True)
class Preferences:
    """Strengths of methods from choices between pairs.

    Attributes:
        methods: names.
        strength: λ, with sum 0.
        interval: 95 % of each over persons and units, or None.
        chance_to_win: against another method taken at random, by the model.
        first_shown: log odds by which the side shown first is favoured.
        ties: share of "not sure".
        answers: pairs judged.
        persons: who judged.
        units: judged about.
        halved: whether ½ was added to every outcome, because some methods never lost to others.
        groups: of methods, where some never lost to others.
        triads: circles of three by majority.
        reason: why there are no strengths, or "".
    """

    methods: tuple[str, ...]
    strength: tuple[float, ...]
    interval: tuple[tuple[float, float], ...] | None
    chance_to_win: tuple[float, ...]
    first_shown: float
    ties: float
    answers: int
    persons: int
    units: int
    halved: bool
    groups: tuple[tuple[str, ...], ...]
    triads: int
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Agreed:
    """How far people agree in one task.

    Attributes:
        task: kind of question.
        about: what they agree on.
        found: Krippendorff's alpha, None where it cannot be had.
        reason: why not, or "".
    """

    task: TaskKind
    about: str
    found: Agreement | None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class UnitResult:
    """What people answered about one unit in one condition. Every person is asked about a unit once, so answers are independent.

    Attributes:
        task: kind of question.
        arm: name of the condition.
        method: whose pictures were judged, or "".
        unit: that was asked about.
        label: what people call it, or "".
        outcome: the task's own number.
        value: share, mean rating, mean similarity above chance, or share of pairs won.
        interval: 95 %: Wilson's of shares, Student's of means; None where there are too few answers for one.
        n: answers.
        p: exact, that a share is chance; None for other outcomes.
        adjusted_p: by Benjamini and Hochberg over the units of the task.
    """

    task: TaskKind
    arm: str
    method: str
    unit: str
    label: str
    outcome: str
    value: float
    interval: tuple[float, float] | None
    n: int
    p: float | None = None
    adjusted_p: float | None = None


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """One analysis, of the people whom the rules keep or of everybody.

    Attributes:
        primary: the registered comparison.
        arms: every condition of every task.
        comparisons: of the other conditions; their p are corrected together.
        preferences: of the task preference, or None.
        agreement: of people.
        units: one a unit, condition and task.
        confidence: by task and confidence: right answers and answers.
        persons: whose answers are counted.
        answers: main trials counted.
    """

    primary: Comparison
    arms: tuple[ArmResult, ...]
    comparisons: tuple[Comparison, ...]
    preferences: Preferences | None
    agreement: tuple[Agreed, ...]
    units: tuple[UnitResult, ...]
    confidence: Mapping[str, Mapping[str, tuple[int, ...]]]
    persons: int
    answers: int


@dataclass(frozen=True, kw_only=True)
class Results:
    """All that an analysis found.

    Attributes:
        format: of the file.
        study: name.
        manifest: sha256 of `study.json`.
        software: name and version of the program.
        analysed: date and time, UTC.
        simulated: people who were simulated, of those who answered.
        contrast: registered.
        alpha: of the registered test.
        draws: of the bootstrap.
        exclusions: who was left out.
        kept: the primary analysis, of the people whom the rules keep.
        everybody: the same without exclusions.
        detectable: least effect that this sample finds with a power of 80 %, in the outcome's unit; None where it is not known.
        encoder: of texts, or "".
        encoder_identity: of its weights, or "".
        text_note: why texts have no scores, or "".
        median_minutes: of finished sessions, None where there are none.
        machine: scores of a network on the same trials, or None.
    """

    format: int = FORMAT
    study: str
    manifest: str
    software: str
    analysed: str
    simulated: int
    contrast: Contrast
    alpha: float
    draws: int
    exclusions: Exclusions
    kept: Analysis
    everybody: Analysis
    detectable: float | None
    encoder: str = ""
    encoder_identity: str = ""
    text_note: str = ""
    median_minutes: float | None = None
    machine: MachineScores | None = None

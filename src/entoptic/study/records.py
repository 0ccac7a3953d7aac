"""What a study is made of: typed records and their files.

    STUDY/study.json        `Study`: the pre-registration. It can be published; it names no picture and no right answer
    STUDY/plan.json         `Plan`: pictures, and the trials of every place (slot) with their right answers. Keep it private
    STUDY/pictures/NAME.png pictures with names of 32 random hexadecimal digits
    STUDY/wording/LANG.json the texts that people read; their sha256 are in `study.json`
    STUDY/answers.sqlite    answers that `serve` stored (a PostgreSQL database where --database names one)
    STUDY/returned/*.json   answer files of the static bundle, see `entoptic.study.bundle`
    STUDY/private.json      keys and completion codes of the server, readable by its owner only

Answers of every source are read back by `entoptic.study.answers.read_answers` as rows of `Answer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from entoptic.study.answer_records import Answer, Participation
from entoptic.study.kinds import (
    INTERVALS,
    RATED,
    TASKS,
    WITH_RIGHT_ANSWER,
    ArmKind,
    IntervalKind,
    Role,
    Source,
    Stage,
    TaskKind,
    TrialKind,
)

__all__ = [
    "FORMAT", "INTERVALS", "RATED", "TASKS", "WITH_RIGHT_ANSWER", "Answer", "Arm", "ArmKind", "Assignment", "Consent",
    "Contrast", "ExclusionRules", "IntervalKind", "Participation", "Plan", "Registration", "Role", "Shown", "Source",
    "Stage", "Stimulus", "Study", "Task", "TaskKind", "Trial", "TrialKind", "UnitFrame",
]  # fmt: skip

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Stimulus:
    """One picture of a study.

    Attributes:
        name: of its file in `pictures`, without ".png": 32 random hexadecimal digits.
        sha256: of the file.
        width: in pixels.
        height: in pixels.
        origin: "synthetic" (a picture of a method), "natural" (a photo), or "noise" (of catch trials).
        method: that made it, or "".
        unit: that it was made or chosen for, or "".
        source: key of the run's picture, or the photo's name.
        score: the unit's score on it, None where it is not known.
        rank: among the unit's photos from its end (high or low), from 1; 0 for others.
    """

    name: str
    sha256: str
    width: int
    height: int
    origin: Literal["synthetic", "natural", "noise"]
    method: str = ""
    unit: str = ""
    source: str = ""
    score: float | None = None
    rank: int = 0


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One picture of a trial, at its place on the screen.

    Attributes:
        role: "target" (rated or described), "reference" (of a rating), "high" and "low" (groups of 2-AFC), "query" or
            "option" (that can be chosen).
        stimulus: name of the `Stimulus`.
        method: that the picture stands for; of options it must not reach the browser.
    """

    role: Role
    stimulus: str
    method: str = ""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One question to one person.

    Attributes:
        id: unique in the study, random.
        task: kind of question.
        kind: "main", "practice" or "catch".
        arm: name of the `Arm`.
        method: whose pictures are judged; "" for natural and no-reference arms and for preference.
        unit: that the trial is about.
        label: what people call the unit, or "".
        word: that is shown with the picture, or "".
        model: of the unit.
        layer: of the unit.
        batch: which of the unit's sets of photos is shown.
        block: number of the block, from 0; a break lies between blocks.
        round: of practice, from 0; 0 for other trials.
        pictures: in the order of the screen. The choices count those with role "query" or "option", from 0.
        right: choices (2afc, intruder, preference) or ratings that are right; empty where there is no right answer.
    """

    id: str
    task: TaskKind
    kind: TrialKind
    arm: str
    method: str
    unit: str
    label: str = ""
    word: str = ""
    model: str = ""
    layer: str = ""
    batch: int = 0
    block: int = 0
    round: int = 0
    pictures: tuple[Shown, ...]
    right: tuple[int, ...] = ()

    @property
    def choices(self) -> tuple[Shown, ...]:
        """The pictures that can be chosen, in the order of the screen."""
        return tuple(one for one in self.pictures if one.role in ("query", "option"))


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What one person is shown: one place (slot) of the study.

    Attributes:
        slot: number, from 0.
        trials: practice rounds first, then main and catch trials in their order.
    """

    slot: int
    trials: tuple[Trial, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that is shown, made before the first participant.

    Attributes:
        format: of the file.
        stimuli: all pictures.
        assignments: one a slot.
    """

    format: int = FORMAT
    stimuli: tuple[Stimulus, ...]
    assignments: tuple[Assignment, ...]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One condition of a task.

    Attributes:
        task: that it belongs to.
        name: within the task: a method, "natural", "none", or "A|B" for a pair of methods.
        kind: "synthetic" (pictures of a method), "natural" (real photos), "none" (no references) or "pair".
        methods: whose pictures are shown.
    """

    task: TaskKind
    name: str
    kind: ArmKind
    methods: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Task:
    """One kind of question and how it is asked.

    Attributes:
        kind: of question.
        trials: main trials a person, over all arms.
        catch: catch trials a person.
        practice: practice trials a round; 0 for none.
        references: most reference pictures on one side.
        options: pictures that can be chosen (2 for 2afc and preference, more for intruder, 0 for ratings and texts).
        scale: highest rating; 0 where nothing is rated.
        confidence: highest confidence; 0 where none is asked.
        not_sure: whether "not sure" may be chosen.
        min_ms: milliseconds for which an answer is blocked.
        query: of 2afc: "extreme" or "inner" bin, or the share of photos beyond the query's rank ("0.01", "0.05", "0.15").
        low: of 2afc: pictures of the low group, "natural" (in every arm) or "none".
    """

    kind: TaskKind
    trials: int
    catch: int = 0
    practice: int = 0
    references: int = 0
    options: int = 0
    scale: int = 0
    confidence: int = 0
    not_sure: bool = False
    min_ms: int = 500
    query: str = ""
    low: str = ""


@dataclass(frozen=True, kw_only=True)
class ExclusionRules:
    """Who is left out of the primary analysis; fixed before the first participant. None turns a rule off.

    Attributes:
        min_catch_share: least share of catch trials answered right.
        min_instruction_seconds: least time on the instructions.
        min_seconds_per_trial: least time of the main part, a trial.
        max_seconds_per_trial: most time of the main part, a trial.
        min_each_choice: least share of each choice among the two-choice answers.
        max_practice_rounds: rounds of practice after which a person is thanked and leaves.
        finished_only: whether only finished sessions count.
        one_participation: whether a second participation of the same identifier is left out.
    """

    min_catch_share: float | None = 0.8
    min_instruction_seconds: float | None = 15.0
    min_seconds_per_trial: float | None = 3.0
    max_seconds_per_trial: float | None = 55.0
    min_each_choice: float | None = 0.1
    max_practice_rounds: int | None = 3
    finished_only: bool = False
    one_participation: bool = True


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """The registered comparison.

    Attributes:
        task: of the answers.
        outcome: "correct", "rating", "similarity" or "preferred".
        arm: name of the arm that is proposed to be better.
        versus: name of the arm that it is compared with; "" for chance.
    """

    task: TaskKind
    outcome: Literal["correct", "rating", "similarity", "preferred"]
    arm: str
    versus: str = ""


@dataclass(frozen=True, kw_only=True)
class UnitFrame:
    """Which units the study asks about, and how they were chosen.

    Attributes:
        units: of main trials, in the order of the draw.
        practice: units of practice and catch trials only.
        source: where they come from, in words.
        left_out: units of the runs that are not asked about, each with the reason.
    """

    units: tuple[str, ...]
    practice: tuple[str, ...] = ()
    source: str = ""
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Consent:
    """What the consent page says of the study. "" is shown as "not stated".

    Attributes:
        title: of the study, for participants.
        contact: who runs it, and how to reach them.
        ethics: board and number, or that none was required or obtained.
        purpose: in plain words.
        payment: how much and when.
        risks: for participants.
        data: what is kept, where and for how long.
        deletion: how answers are deleted on request, and until when.
    """

    title: str = ""
    contact: str = ""
    ethics: str = ""
    purpose: str = ""
    payment: str = ""
    risks: str = ""
    data: str = ""
    deletion: str = ""


@dataclass(frozen=True, kw_only=True)
class Registration:
    """What is fixed before the first participant, beside design and exclusions.

    Attributes:
        hypotheses: in words, the primary one first.
        primary: the registered comparison.
        alpha: two-sided level of the primary test; its interval is of 1 minus this.
        interval: of the primary test: "bootstrap" (percentiles over persons and units) or "robust" (two-way cluster-robust).
        analysis: of the primary comparison, in words.
        multiplicity: rule for further comparisons.
        missing: how missing trials and partial sessions are handled.
        stopping: when the collection ends.
    """

    hypotheses: tuple[str, ...]
    primary: Contrast
    alpha: float = 0.05
    interval: IntervalKind = "bootstrap"
    analysis: str = ""
    multiplicity: str = "Holm over secondary comparisons"
    missing: str = "answered trials of unfinished sessions are kept"
    stopping: str = "the number of participants is fixed"


@dataclass(frozen=True, kw_only=True)
class Study:
    """The pre-registration: `study.json`. The sha256 of this file names the study in every answer.

    Attributes:
        format: of the file.
        name: of the study.
        created: date and time, UTC.
        software: name and version of the program that built it.
        preset: "default" or "vital", or "" for tasks that were chosen.
        seed: of every draw.
        participants: places (slots), each for one person.
        tasks: in the order in which people meet them in slot 0.
        arms: of all tasks.
        units: that are asked about.
        methods: of the runs, in the order in which results are shown.
        minutes: expected length of a session.
        trials_before_break: main trials in a block at most.
        registration: hypotheses, test, rules.
        exclusions: who is left out.
        consent: what people are told.
        wording: sha256 of the texts by language.
        with_photos: whether real photos are among the pictures.
        plan_sha256: of `plan.json`, which holds the sha256 of every picture.
        runs: title and content of the runs: one line a run.
    """

    format: int = FORMAT
    name: str
    created: str
    software: str
    preset: str
    seed: int
    participants: int
    tasks: tuple[Task, ...]
    arms: tuple[Arm, ...]
    units: UnitFrame
    methods: tuple[str, ...]
    minutes: float
    trials_before_break: int
    registration: Registration
    exclusions: ExclusionRules
    consent: Consent
    wording: Mapping[str, str]
    with_photos: bool
    plan_sha256: str
    runs: tuple[str, ...] = ()

    def task(self, kind: TaskKind) -> Task:
        """Returns the task of a kind.

        Raises:
            KeyError: the study does not ask it.
        """
        return {one.kind: one for one in self.tasks}[kind]

"""The rows of the tidy tables: one answer, and one person's session."""

from __future__ import annotations

from dataclasses import dataclass

from entoptic.study.kinds import Source, Stage, TaskKind, TrialKind


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What was asked, of whom, and where the answer stands. The fields are explained at `Answer`."""

    study: str
    manifest: str
    source: Source
    participant: str
    attempt: int
    slot: int
    order: int
    block: int
    trial: str
    task: TaskKind
    kind: TrialKind
    round: int
    arm: str
    method: str
    first: str = ""
    second: str = ""
    preferred: str = ""
    unit: str
    label: str
    model: str
    layer: str
    batch: int
    stimuli: tuple[str, ...]
    stimulus_sha256: tuple[str, ...]
    language: str


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a person gave, as it was stored, wherever that was. The fields are explained at `Answer`."""

    choice: int | None
    not_sure: bool
    correct: bool | None
    confidence: int | None
    rating: int | None
    text: str | None
    technical: bool
    shown_ms: float | None
    answered_ms: float | None
    received: str
    focus_losses: int
    reloads: int
    viewport: str
    pixel_ratio: float
    pasted: bool = False


@dataclass(frozen=True, kw_only=True)
class Answer(Given, Asked):
    """One stored answer: a row of the tidy table. Answers of withdrawn people are never among them.

    Attributes:
        study: name of the study.
        manifest: sha256 of `study.json`.
        source: how the person came: "prolific", "mturk", "link", "simulated" or "bundle".
        participant: random, in place of any identifier.
        attempt: of the slot, from 0; a slot whose holder left is given again.
        slot: the person's assignment.
        order: of the answer in the session, from 0, practice included.
        block: number of the block.
        trial: id of the trial.
        task: kind of question.
        kind: "main", "practice" or "catch".
        round: of practice.
        arm: name of the arm.
        method: whose pictures were judged; "" for natural and no-reference arms and for preference.
        first: of preference: method of the first option; else "".
        second: of preference: method of the second option; else "".
        preferred: of preference: method that was chosen; "" for "not sure" and for other tasks.
        unit: that the trial was about.
        label: what people call the unit, or "".
        model: of the unit.
        layer: of the unit.
        batch: which of the unit's sets of photos was shown.
        stimuli: names of the pictures in the order of the screen.
        stimulus_sha256: of these pictures.
        choice: that was clicked, from 0, or None.
        not_sure: whether "not sure" was chosen.
        correct: whether the answer was right; None where there is no right answer.
        confidence: from 1, or None.
        rating: from 1, or None.
        text: that was written, or None.
        technical: whether a picture could not be shown; such an answer has no choice.
        shown_ms: monotonic clock of the browser when the pictures stood on the screen.
        answered_ms: the same clock at the answer.
        rt_ms: answered_ms minus shown_ms.
        received: time of the server, UTC, ISO 8601.
        focus_losses: how often the page lost the focus during the trial.
        reloads: how often the trial was shown again after a reload.
        viewport: "1440x900", in CSS pixels.
        pixel_ratio: device pixels a CSS pixel.
        language: of the texts.
        pasted: whether text was pasted.
    """

    rt_ms: float | None


@dataclass(frozen=True, kw_only=True)
class Person:
    """A session as it was stored, wherever that was. The fields are explained at `Participation`."""

    participant: str
    source: Source
    slot: int
    attempt: int
    stage: Stage
    language: str
    started: str
    finished: str
    instruction_seconds: float | None
    open_data: bool
    honeypot: bool = False
    automated: bool = False
    comments: str = ""


@dataclass(frozen=True, kw_only=True)
class Participation(Person):
    """One person's session, without anything that names the person. Withdrawn ones keep nothing but their count.

    Attributes:
        participant: random, as in `Answer`.
        source: how the person came.
        slot: the assignment.
        attempt: of the slot.
        stage: where the session stands.
        language: of the texts.
        started: time of the claim, UTC, ISO 8601.
        finished: time of the end, or "".
        instruction_seconds: on the instructions, None where they were not read.
        main_seconds: from the first to the last answer that is no practice, None before.
        practice_rounds: that were needed.
        catch_right: catch trials answered right.
        catch_shown: catch trials answered.
        open_data: whether the person agreed to the release of anonymous answers.
        honeypot: whether a field that people do not see was filled.
        automated: whether the person said that a program gave some of the answers.
        comments: of the person, at the end.
    """

    main_seconds: float | None
    practice_rounds: int
    catch_right: int
    catch_shown: int

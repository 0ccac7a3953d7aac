"""A study with every task, and answers to it with planted effects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from entoptic.study.records import (
    Answer,
    Arm,
    Consent,
    Contrast,
    ExclusionRules,
    Participation,
    Registration,
    Study,
    Task,
    TaskKind,
    UnitFrame,
)

METHODS = ("vital", "fourier", "pixels")
LABELS = ("church", "golf ball, ball for golf", "gas pump", "French horn", "parachute", "golden retriever")
SHARES = {"natural": 0.9, "vital": 0.85, "fourier": 0.6, "pixels": 0.55, "none": 0.45}
RATINGS = {"vital": 3.9, "fourier": 2.6, "pixels": 1.6}
TEXTS = {"vital": 0.8, "fourier": 0.4, "pixels": 0.1}
MANIFEST = "5" * 64


class LetterEncoder:
    """Counts letters: texts with the same letters are alike."""

    name, identity = "letters", "letters:1"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        rows = np.array([[text.count(chr(97 + k)) for k in range(26)] for text in texts], float).reshape(-1, 26)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def made_study(units: int = 6, participants: int = 20) -> Study:
    """Returns a study of five tasks."""
    synthetic = {kind: tuple(Arm(task=kind, name=m, kind="synthetic", methods=(m,)) for m in METHODS) for kind in
                 ("2afc", "class-match", "describe")}  # fmt: skip
    pairs = [(a, b) for i, a in enumerate(METHODS) for b in METHODS[i + 1 :]]
    return Study(
        name="made up", created="2026-01-01T00:00:00+00:00", software="entoptic 0", preset="", seed=7, participants=participants,
        tasks=(
            Task(kind="2afc", trials=5, catch=5, practice=5, references=9, options=2, confidence=3, query="extreme", low="natural"),
            Task(kind="class-match", trials=3, scale=5),
            Task(kind="describe", trials=3),
            Task(kind="preference", trials=3, options=2, not_sure=True),
        ),
        arms=(
            Arm(task="2afc", name="natural", kind="natural"), *synthetic["2afc"], Arm(task="2afc", name="none", kind="none"),
            *synthetic["class-match"], *synthetic["describe"],
            *(Arm(task="preference", name=f"{a}|{b}", kind="pair", methods=(a, b)) for a, b in pairs),
        ),
        units=UnitFrame(units=tuple(f"logits:{u}" for u in range(units)), source="all units of the runs"),
        methods=METHODS, minutes=9.0, trials_before_break=20,
        registration=Registration(
            hypotheses=("VITAL helps more than Fourier.",),
            primary=Contrast(task="2afc", outcome="correct", arm="vital", versus="fourier"), analysis="two-way bootstrap",
        ),
        exclusions=ExclusionRules(), consent=Consent(title="Pictures", contact="A. B., a@example.org"),
        wording={"en": "a" * 64}, with_photos=True, plan_sha256="c" * 64, runs=("demo",),
    )  # fmt: skip


@dataclass(kw_only=True)
class _Person:
    """Gives answers, one after the other."""

    study: Study
    number: int
    answers: list[Answer] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"person-{self.number:03}"

    def add(self, task: TaskKind, kind: str, arm: str, unit: int, **fields: object) -> None:
        order = len(self.answers)
        values: dict[str, object] = {
            "choice": None, "not_sure": False, "correct": None, "confidence": None, "rating": None, "text": None,
        } | fields  # fmt: skip
        self.answers.append(
            Answer(
                study=self.study.name, manifest=MANIFEST, source="link", participant=self.name, attempt=0, slot=self.number,
                order=order, block=0, trial=f"{self.number}-{order}", task=task, kind=kind, round=0, arm=arm,
                method=arm if arm in METHODS else "", unit=f"logits:{unit}", label=LABELS[unit % len(LABELS)], model="tiny",
                layer="logits", batch=0, stimuli=("f" * 32,), stimulus_sha256=("d" * 64,), technical=False, shown_ms=0.0,
                answered_ms=4000.0 + 100 * order, rt_ms=4000.0 + 100 * order, received="2026-01-02T00:00:00+00:00",
                focus_losses=0, reloads=0, viewport="1440x900", pixel_ratio=1.0, language="en", **values,  # type: ignore[arg-type]
            )
        )  # fmt: skip


def made_answers(study: Study, *, seed: int = 0, careless: int = 2) -> tuple[list[Answer], list[Participation]]:
    """Returns answers with the planted effects; the last `careless` people fail catch trials and always choose the first."""
    draw = np.random.default_rng(seed)
    answers: list[Answer] = []
    sessions: list[Participation] = []
    names = list(SHARES)
    for p in range(study.participants):
        bad = p >= study.participants - careless
        person = _Person(study=study, number=p)
        for u in range(len(study.units.units)):
            arm = names[(u + p) % len(names)]
            right = bool(draw.random() < (0.5 if bad else SHARES[arm]))
            side = 0 if bad else int(draw.random() < 0.5)
            person.add("2afc", "main", arm, u, choice=side, correct=right, confidence=1 if bad else 2 + right)
            arm = METHODS[(u + p) % 3]
            person.add(
                "class-match", "main", arm, u, rating=int(np.clip(round(RATINGS[arm] + 0.7 * draw.normal()), 1, 5))
            )
            arm = METHODS[(u + p + 1) % 3]
            knows = draw.random() < TEXTS[arm]
            person.add(
                "describe", "main", arm, u, text=LABELS[u % len(LABELS)].split(",")[0] if knows else "<i>zzz</i>"
            )
            first, second = (METHODS[k] for k in draw.permutation(3)[:2])
            sure = draw.random() > 0.1
            better = max((first, second), key=lambda m: RATINGS[m] + draw.gumbel()) if sure else ""
            person.add(
                "preference", "main", "|".join(sorted((first, second), key=METHODS.index)), u, first=first, second=second,
                preferred=better, not_sure=not sure, choice=int(better == second) if sure else None,
            )  # fmt: skip
        right_catch = 0 if bad else 5
        for k in range(5):
            person.add("2afc", "catch", "natural", 90, choice=0 if bad else k % 2, correct=k < right_catch)
        answers += person.answers
        sessions.append(
            Participation(
                participant=person.name, source="link", slot=p, attempt=0, stage="finished", language="en",
                started="2026-01-02T00:00:00+00:00", finished=f"2026-01-02T00:{8 + p % 5:02}:00+00:00",
                instruction_seconds=30.0, main_seconds=6.0 * len(person.answers), practice_rounds=1, catch_right=right_catch,
                catch_shown=5, open_data=True,
            )
        )  # fmt: skip
    return answers, sessions

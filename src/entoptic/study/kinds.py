"""The kinds that the records of a study name."""

from __future__ import annotations

from typing import Literal

TaskKind = Literal["class-match", "inner-match", "describe", "2afc", "intruder", "preference"]
ArmKind = Literal["synthetic", "natural", "none", "pair"]
TrialKind = Literal["main", "practice", "catch"]
Role = Literal["target", "reference", "high", "low", "query", "option"]
Stage = Literal["instructions", "practice", "trials", "break", "questions", "finished", "screened-out", "withdrawn"]
Source = Literal["link", "prolific", "mturk", "simulated", "bundle"]
IntervalKind = Literal["bootstrap", "robust"]

TASKS: tuple[TaskKind, ...] = ("class-match", "inner-match", "describe", "2afc", "intruder", "preference")
INTERVALS: tuple[IntervalKind, ...] = ("bootstrap", "robust")
WITH_RIGHT_ANSWER: frozenset[TaskKind] = frozenset({"2afc", "intruder"})
RATED: frozenset[TaskKind] = frozenset({"class-match", "inner-match"})

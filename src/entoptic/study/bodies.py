"""Checks what a browser sends: every field, its kind and its bounds. What is wrong is refused with a code and a sentence."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from entoptic.study.answer_records import Given
from entoptic.study.protocol import TEXT_LIMIT
from entoptic.study.records import RATED, Source, Task, Trial

_NONCE = re.compile(r"[0-9a-zA-Z-]{8,64}")
_IDENTIFIER_LIMIT = 128
_PLATFORMS: tuple[tuple[str, Source], ...] = (
    ("PROLIFIC_PID", "prolific"), ("workerId", "mturk"), ("SIMULATED", "simulated"),
)  # fmt: skip
PREVIEW = "ASSIGNMENT_ID_NOT_AVAILABLE"
COMMENT_LIMIT = 2000


class Refused(Exception):
    """A request that is refused.

    Args:
        status: of HTTP.
        code: for programs.
        message: for people.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True, kw_only=True)
class Entry:
    """How a person came.

    Attributes:
        source: platform, or "link".
        identifier: of the person on the platform, or "".
    """

    source: Source
    identifier: str


@dataclass(frozen=True, kw_only=True)
class GivenAnswer:
    """An answer as it was sent; see `entoptic.study.protocol`."""

    trial: str
    nonce: str
    sha256: str
    choice: int | None
    rating: int | None
    text: str | None
    not_sure: bool
    technical: bool
    confidence: int | None
    shown_ms: float | None
    answered_ms: float | None
    focus_losses: int
    viewport: str
    pixel_ratio: float
    pasted: bool

    @property
    def kinds(self) -> int:
        """How many kinds of answer it holds: one is right."""
        return sum(
            (self.choice is not None, self.rating is not None, self.text is not None, self.not_sure, self.technical)
        )

    def stored(self, *, correct: bool | None, received: str, reloads: int) -> Given:
        """Returns what is stored of the answer.

        Args:
            correct: whether it is right.
            received: time, UTC, ISO 8601.
            reloads: how often the trial was shown again.
        """
        return Given(
            choice=self.choice, not_sure=self.not_sure, correct=correct, confidence=self.confidence, rating=self.rating,
            text=self.text, technical=self.technical, shown_ms=self.shown_ms, answered_ms=self.answered_ms,
            received=received, focus_losses=self.focus_losses, reloads=reloads, viewport=self.viewport,
            pixel_ratio=self.pixel_ratio, pasted=self.pasted,
        )  # fmt: skip


def read_entry(parameters: Any) -> Entry:
    """Reads the parameters that a platform puts into the link.

    Raises:
        Refused: they are of another kind, or MTurk shows a preview.
    """
    if not isinstance(parameters, dict):
        raise Refused(400, "body", "parameters must be an object")
    if parameters.get("assignmentId") == PREVIEW:
        raise Refused(403, "preview", "this is a preview; accept the task to begin")
    for name, source in _PLATFORMS:
        value = parameters.get(name)
        if value is None or value == "":
            continue
        if not isinstance(value, str) or len(value) > _IDENTIFIER_LIMIT or not value.isprintable():
            raise Refused(400, "body", f"{name} must be a short text")
        return Entry(source=source, identifier=value)
    return Entry(source="link", identifier="")


def read_answer(body: Mapping[str, Any]) -> GivenAnswer:
    """Reads an answer; whether it fits its trial is checked by `check_answer`.

    Raises:
        Refused: a field is missing or of another kind.
    """
    trial, nonce = body.get("trial"), body.get("nonce")
    if not isinstance(trial, str) or not trial.isalnum() or len(trial) > 64:
        raise Refused(400, "body", "trial must be the id of a trial")
    if not isinstance(nonce, str) or not _NONCE.fullmatch(nonce):
        raise Refused(400, "body", "nonce must be 8 to 64 letters or digits")
    text = body.get("text")
    if text is not None and not isinstance(text, str):
        raise Refused(400, "body", "text must be a text")
    if text is not None and len(text) > TEXT_LIMIT:
        raise Refused(400, "body", f"text must have at most {TEXT_LIMIT} characters")
    viewport = body.get("viewport", [0, 0])
    if not isinstance(viewport, list) or len(viewport) != 2:
        raise Refused(400, "body", "viewport must be two whole numbers")
    width, height = (whole({"viewport": one}, "viewport", 0, 100_000) for one in viewport)
    content = json.dumps({k: v for k, v in body.items() if k != "nonce"}, sort_keys=True).encode()
    return GivenAnswer(
        trial=trial, nonce=nonce, sha256=hashlib.sha256(content).hexdigest(), choice=_maybe(body, "choice"),
        rating=_maybe(body, "rating"), text=None if text is None else clean(text), not_sure=flag(body, "not_sure"),
        technical=flag(body, "technical"), confidence=_maybe(body, "confidence"), shown_ms=_time(body, "shown_ms"),
        answered_ms=_time(body, "answered_ms"), focus_losses=whole(body, "focus_losses", 0, 10_000, 0),
        viewport=f"{width}x{height}", pixel_ratio=_ratio(body), pasted=flag(body, "pasted"),
    )  # fmt: skip


def check_answer(given: GivenAnswer, trial: Trial, task: Task) -> None:
    """Checks that an answer is one that its trial can have.

    Raises:
        Refused: it is not.
    """
    if given.kinds != 1:
        raise Refused(400, "body", "an answer has one of choice, rating, text, not_sure and technical")
    if given.technical:
        return
    if trial.task == "describe":
        if given.text is None:
            raise Refused(400, "body", "this trial needs a text")
    elif trial.task in RATED:
        if given.rating is None or not 1 <= given.rating <= task.scale:
            raise Refused(400, "body", f"this trial needs a rating from 1 to {task.scale}")
    elif given.not_sure:
        if not task.not_sure:
            raise Refused(400, "body", "this trial has no answer “not sure”")
    elif given.choice is None or not 0 <= given.choice < len(trial.choices):
        raise Refused(400, "body", f"this trial needs a choice from 0 to {len(trial.choices) - 1}")
    if task.confidence and (given.confidence is None or not 1 <= given.confidence <= task.confidence):
        raise Refused(400, "body", f"this trial needs a confidence from 1 to {task.confidence}")
    if not task.confidence and given.confidence is not None:
        raise Refused(400, "body", "this trial asks for no confidence")
    if given.shown_ms is None or given.answered_ms is None or given.answered_ms < given.shown_ms:
        raise Refused(400, "body", "shown_ms and answered_ms must be times, the second not before the first")


def is_right(given: GivenAnswer, trial: Trial) -> bool | None:
    """Returns whether an answer is right; None where nothing is, or where a picture could not be shown."""
    if not trial.right or given.technical:
        return None
    return (given.rating if trial.task in RATED else given.choice) in trial.right


def clean(text: str) -> str:
    """Returns a written text without control characters."""
    return "".join(c for c in text if c.isprintable() or c in "\n\t").strip()


def whole(body: Mapping[str, Any], name: str, low: int, high: int, default: int | None = None) -> int:
    """Returns a whole number of a body.

    Raises:
        Refused: it is none, or out of its bounds.
    """
    value = body.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise Refused(400, "body", f"{name} must be a whole number from {low} to {high}")
    return value


def real(body: Mapping[str, Any], name: str, low: float, high: float) -> float:
    """Returns a number of a body; see `whole`."""
    value = body.get(name)
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not math.isfinite(value)
        or not low <= value <= high
    ):
        raise Refused(400, "body", f"{name} must be a number from {low:g} to {high:g}")
    return float(value)


def flag(body: Mapping[str, Any], name: str) -> bool:
    """Returns a truth value of a body, false where it is not there; see `whole`."""
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise Refused(400, "body", f"{name} must be true or false")
    return value


def _maybe(body: Mapping[str, Any], name: str) -> int | None:
    return None if body.get(name) is None else whole(body, name, 0, 1000)


def _time(body: Mapping[str, Any], name: str) -> float | None:
    return None if body.get(name) is None else real(body, name, 0, 1e12)


def _ratio(body: Mapping[str, Any]) -> float:
    return real(body, "pixel_ratio", 0, 100) if "pixel_ratio" in body else 1.0

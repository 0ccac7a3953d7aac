"""A client of a study's server: what a person does, for programs that stand for one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from entoptic.errors import NotAvailable, UserError

_PATIENCE = 60
"""Times that a request is sent again where the server asks to wait."""
_PAUSE = 0.5  # seconds


class Http(Protocol):
    """What sends requests: a client of httpx, or that of FastAPI's tests."""

    def post(self, url: str, *, json: Any, headers: Any) -> Any:
        """Sends a body."""
        ...

    def get(self, url: str, *, headers: Any) -> Any:
        """Asks for something."""
        ...


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What somebody answers to one trial.

    Attributes:
        choice: from 0, or None.
        rating: from 1, or None.
        text: or None.
        not_sure: whether none of the choices is taken.
        confidence: from 1, or None where none is asked.
        seconds: that the answer takes.
    """

    choice: int | None = None
    rating: int | None = None
    text: str | None = None
    not_sure: bool = False
    confidence: int | None = None
    seconds: float = 5.0


class StudyClient:
    """One session of a study.

    Its clock is made up: it goes on by the seconds of each answer, and nothing waits.
    """

    def __init__(self, http: Http, name: str, *, wait: Callable[[float], None] = time.sleep) -> None:
        """Begins nothing yet.

        Args:
            http: sends requests to the server.
            name: identifier of the simulated person.
            wait: called with seconds where the server asks to wait.
        """
        self.http, self.name, self.wait = http, name, wait
        self.token, self.session, self.clock, self.sent = "", {}, 0.0, 0  # type: str, dict[str, Any], float, int

    @property
    def stage(self) -> str:
        """Where the session stands."""
        return str(self.session.get("stage", ""))

    def claim(self, language: str) -> bool:
        """Claims a place.

        Returns:
            Whether there was one.

        Raises:
            UserError: the server refused for another reason.
        """
        body = {
            "parameters": {"SIMULATED": self.name}, "language": language, "consent": True, "open_data": True, "website": "",
        }  # fmt: skip
        reply = self._post("/api/claim", body)
        if reply.status_code == 409 and reply.json().get("error") in ("full", "taken"):
            return False
        found = self._checked(reply)
        self.token, self.session = str(found["token"]), found["session"]
        return True

    def read_instructions(self, seconds: float) -> None:
        """Ends the instructions."""
        self.clock += seconds
        self.session = self._checked(self._post("/api/instructions", {"seconds": seconds}))

    def go_on(self) -> None:
        """Ends a break."""
        self.session = self._checked(self._post("/api/continue", {}))

    def answer(self, trial: Mapping[str, Any], reply: Reply) -> None:
        """Answers the current trial."""
        shown = self.clock
        self.clock += reply.seconds
        self.sent += 1
        body: dict[str, Any] = {
            "trial": trial["id"], "nonce": f"simulated{self.sent:08}", "shown_ms": 1000 * shown, "answered_ms": 1000 * self.clock,
            "focus_losses": 0, "viewport": [1440, 900], "pixel_ratio": 1.0, "pasted": False,
        }  # fmt: skip
        given = {"choice": reply.choice, "rating": reply.rating, "text": reply.text, "confidence": reply.confidence}
        body |= {name: value for name, value in given.items() if value is not None}
        if reply.not_sure:
            body["not_sure"] = True
        self.session = self._checked(self._post("/api/answers", body))["session"]

    def finish(self) -> None:
        """Answers the questions at the end and fetches the code."""
        if self.stage == "questions":
            self.session = self._checked(self._post("/api/questions", {"comments": "", "automated": True}))
        if self.stage in ("finished", "screened-out"):
            self._checked(self._post("/api/finish", {}))

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        for _ in range(_PATIENCE):
            reply = self.http.post(path, json=body, headers=headers)
            if reply.status_code != 429:
                return reply
            self.wait(_PAUSE)
        raise NotAvailable("the server of the study asks to wait without end")

    def _checked(self, reply: Any) -> dict[str, Any]:
        if reply.status_code == 200:
            found: dict[str, Any] = reply.json()
            return found
        try:
            said = str(reply.json().get("message"))
        except ValueError:
            said = f"status {reply.status_code}"
        raise UserError(f"the server of the study refused: {said[:200]}")

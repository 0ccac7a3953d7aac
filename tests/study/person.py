"""A person who takes part over HTTP, as the pages do."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from entoptic.study.records import Plan

HEADERS = {"content-type": "application/json"}


class Person:
    """Claims a place and answers.

    Args:
        client: of httpx or of FastAPI's tests.
        parameters: of the link.
    """

    def __init__(self, client: Any, **parameters: str) -> None:
        self.client, self.parameters, self.token = client, parameters, ""
        self.session: dict[str, Any] = {}
        self.replies: list[Any] = []

    def post(self, path: str, body: dict[str, Any] | None = None, **headers: str) -> Any:
        return self.client.post(path, json=body or {}, headers=self._headers() | headers)

    def get(self, path: str) -> Any:
        return self.client.get(path, headers=self._headers())

    def claim(self, language: str = "en", **more: Any) -> Any:
        body = {"parameters": self.parameters, "language": language, "consent": True, "open_data": False, "website": ""}
        reply = self.post("/api/claim", body | more)
        if reply.status_code == 200:
            self.token, self.session = reply.json()["token"], reply.json()["session"]
        return reply

    def begin(self) -> Person:
        """Claims a place and reads the instructions."""
        assert self.claim().status_code == 200
        return self.step()

    def step(self) -> Person:
        """Passes instructions and breaks."""
        while self.session["stage"] in ("instructions", "break"):
            path, body = (
                ("/api/instructions", {"seconds": 20.0})
                if self.session["stage"] == "instructions"
                else ("/api/continue", {})
            )
            self.session = self.post(path, body).json()
        return self

    def body(self, asked: dict[str, Any], /, **given: Any) -> dict[str, Any]:
        body = {"trial": asked["id"], "nonce": secrets.token_hex(8), "shown_ms": 100.0, "answered_ms": 2100.5,
                "focus_losses": 0, "viewport": [1440, 900], "pixel_ratio": 1.0, "pasted": False}  # fmt: skip
        if asked["confidence"] and "technical" not in given:
            body["confidence"] = 2
        return body | given

    def answer(self, **given: Any) -> Any:
        """Answers the current trial."""
        reply = self.post("/api/answers", self.body(self.session["trial"], **given))
        self.replies.append(reply)
        if reply.status_code == 200:
            self.session = reply.json()["session"]
            self.step()
        return reply

    def answer_all(self, choose: Callable[[dict[str, Any]], dict[str, Any]], most: int = 1000) -> Person:
        """Answers until the questions at the end, or until there were so many answers."""
        while self.session["stage"] in ("practice", "trials") and most:
            assert self.answer(**choose(self.session["trial"])).status_code == 200
            most -= 1
        return self

    def finish(self, comments: str = "") -> dict[str, str]:
        if self.session["stage"] == "questions":
            self.session = self.post("/api/questions", {"comments": comments, "automated": False}).json()
        return self.post("/api/finish").json()  # type: ignore[no-any-return]

    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"} if self.token else {}


def knowing(plan: Plan) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Answers of a person who is always right, and 3 or "a thing" where nothing is."""
    right = {trial.id: trial.right for assignment in plan.assignments for trial in assignment.trials}

    def choose(trial: dict[str, Any]) -> dict[str, Any]:
        known = right[trial["id"]]
        if trial["task"] == "describe":
            return {"text": "a thing"}
        if trial["scale"]:
            return {"rating": known[0] if known else 3}
        return {"choice": known[0] if known else 0}

    return choose

"""A person's way through a study, over HTTP."""

from __future__ import annotations

import pytest

from study.conftest import Make

pytest.importorskip("fastapi", reason="the extra study is not installed")
pytest.importorskip("sqlmodel", reason="the extra study is not installed")
pytest.importorskip("httpx", reason="httpx is not installed")

from fastapi.testclient import TestClient

from entoptic.study.answers import read_answers, read_participations, read_plan
from entoptic.study.server import make_app
from study.person import Person, knowing


def test_smoke(make: Make) -> None:
    built = make()
    app = make_app(built.path)
    client = TestClient(app)
    plan = read_plan(built.path)
    person = Person(client, PROLIFIC_PID="a" * 24).begin()
    assert person.session["stage"] == "practice"
    person.answer_all(knowing(plan))
    print(person.session)
    print(person.finish("hello"))
    answers = read_answers(built.path)
    print(len(answers), answers[-1], read_participations(built.path))

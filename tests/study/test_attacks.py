"""Requests that no page sends: other methods, encodings, numbers, names, and trials that were not shown yet."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from entoptic.errors import UserError
from entoptic.study.answers import read_answers, read_participations, read_plan
from entoptic.study.records import Plan
from study.conftest import needs_server
from study.person import HEADERS, Person, knowing

needs_server()

from fastapi.testclient import TestClient  # noqa: E402

from entoptic.study.guards import Allowance, Guard  # noqa: E402
from entoptic.study.server import make_app  # noqa: E402

READS = ("/", "/admin", "/api/study", "/api/session", "/api/wording/en", "/pages/app.js")
POSTS = (
    "/api/claim", "/api/instructions", "/api/continue", "/api/answers", "/api/questions", "/api/finish", "/api/withdraw",
    "/admin/api/status", "/admin/api/close", "/admin/api/open", "/admin/api/export",
)  # fmt: skip


@pytest.fixture
def plan(study: Path) -> Plan:
    return read_plan(study)


@pytest.fixture
def client(study: Path) -> Iterator[Any]:
    app = make_app(study)
    yield TestClient(app, raise_server_exceptions=False)
    app.state.database.close()


def test_other_methods_are_refused(client: Any) -> None:
    for path in (*READS, *POSTS):
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"):
            reply = client.request(method, path, headers={"origin": "https://evil.example"})
            assert reply.status_code == 405
            assert "access-control-allow-origin" not in reply.headers


@pytest.mark.parametrize("path", ["/api/claim", "/api/answers", "/admin/api/export"])
def test_no_post_is_taken_from_another_site_or_in_another_form(client: Any, path: str) -> None:
    for headers in (
        {"origin": "https://evil.example"}, {"origin": "null"}, {"origin": "http://["}, {"origin": "http://testserver.evil"},
        {"origin": ""}, {"origin": "http://testserver", "sec-fetch-site": "cross-site"},
        {"origin": "http://testserver", "sec-fetch-site": "same-site"}, {"origin": "null", "host": ""},
    ):  # fmt: skip
        reply = client.post(path, content=b"{}", headers=HEADERS | headers)
        assert (reply.status_code, reply.json()["error"]) == (403, "origin"), headers
    for kind in ("text/plain", "multipart/form-data", "application/x-www-form-urlencoded", "application/jsonx", ""):
        assert client.post(path, content=b"{}", headers={"content-type": kind}).status_code == 415
    for length in ("-1", "1e3", "\xb2", "99999999999999999999", " "):
        reply = client.post(
            path,
            content=b"{}",
            headers={"content-type": "application/json", "content-length": length.encode("latin-1")},
        )
        assert reply.status_code == 413, length


def test_nothing_is_done_without_a_token(client: Any) -> None:
    for path in POSTS[1:]:
        for header in (
            "",
            "Bearer",
            "Bearer ",
            "Basic " + "0" * 32,
            "Bearer " + "0" * 32,
            "Bearer " + "٠" * 32,
            "Bearer \0",
        ):
            reply = client.post(path, content=b"{}", headers=HEADERS | {"authorization": header.encode()})
            assert reply.status_code in (401, 429), header
            assert set(reply.json()) == {"error", "message"}


def test_a_session_token_is_no_admin_token_and_the_other_way_round(client: Any, study: Path) -> None:
    person = Person(client).begin()
    assert person.post("/admin/api/status").status_code == 401
    admin = Person(client)
    admin.token = client.app.state.admin_token
    assert admin.get("/api/session").status_code == 401
    assert admin.post("/admin/api/status").status_code == 200


def test_huge_headers_are_not_kept(client: Any) -> None:
    reply = client.get("/api/session", headers={"authorization": "Bearer " + "a" * 20_000})
    assert reply.status_code == 401
    guard = client.app.middleware_stack
    while not isinstance(guard, Guard):
        guard = guard.app
    assert all(len(key) < 200 for key in guard.allowance._left)


def test_an_allowance_stays_small() -> None:
    allowance = Allowance(rate=1, burst=2)
    for i in range(120_000):
        allowance.take(f"{i}", clock=0.0)
    assert len(allowance._left) <= 50_001


BODIES = (
    b'{"language": []}', b'{"language": {}}', b'{"language": null}', b'{"parameters": []}', b'{"parameters": {"PROLIFIC_PID": []}}',
    b'{"parameters": {"PROLIFIC_PID": "a\\u0000b"}, "language": "en"}', b'{"parameters": {"PROLIFIC_PID": "\\ud800"}}',
    b'{"seconds": 1e999}', b'{"seconds": -1}', b'{"seconds": NaN}', b'{"seconds": Infinity}', b'{"seconds": true}',
    b'{"seconds": "1"}', b'{"seconds": ' + b"9" * 5000 + b"}", b'{"comments": 5}', b'{"comments": ["a"]}', b'{"automated": 1}',
    b'{"trial": null}', b'{"trial": {}}', b'{"trial": "\\ud800", "nonce": "12345678"}', b'{"table": []}', b"[]", b'"a"', b"null",
    b"\xff\xfe{\x00}\x00", b"\xef\xbb\xbf{}", b'{"a": ' * 3000, b"\x00", b'{"trial": "a", "trial": []}',
)  # fmt: skip


def test_no_body_breaks_the_server(client: Any, study: Path) -> None:
    person = Person(client)
    person.claim()
    for path in POSTS:
        token = client.app.state.admin_token if path.startswith("/admin") else person.token
        for i, body in enumerate(BODIES):
            headers = HEADERS | {"authorization": f"{'Bearer' if i % 2 else 'bearer'} {token}"}
            reply = client.post(path, content=body, headers=headers)
            assert reply.status_code < 500, (path, body)
    assert read_answers(study) == []


VALUES: tuple[Any, ...] = (
    -1, -0.5, 1e308, 2**63, True, "0", "", "\0", "0", [], {}, [0], {"a": 0}, "\ud800", "٣", "../../plan.json",
    "'; DROP TABLE answer",
)  # fmt: skip


FIELDS = (
    "trial", "nonce", "confidence", "rating", "text", "not_sure", "technical", "focus_losses", "viewport", "pixel_ratio",
    "pasted", "shown_ms", "answered_ms",
)  # fmt: skip
FITS = {
    ("pasted", "True"),
    ("pixel_ratio", "0"),
    ("focus_losses", "0"),
    ("shown_ms", "0"),
    ("nonce", "'../../plan.json'"),
}


def test_no_value_of_a_field_breaks_the_server(study: Path) -> None:
    guarded = make_app(study)
    client = TestClient(guarded, raise_server_exceptions=False)
    person = Person(client).begin()
    trial = person.session["trial"]
    for field in FIELDS:
        for value in VALUES:
            if (field, repr(value)) in FITS:
                continue
            time.sleep(0.015)  # below the rate of one token
            body = person.body(trial, choice=0) | {field: value}
            reply = client.post(
                "/api/answers", content=json.dumps(body), headers=HEADERS | {"authorization": f"Bearer {person.token}"}
            )
            assert reply.status_code in ((400, 404) if field == "trial" else (400,)), (field, value, reply.text)
    assert read_answers(study) == []
    guarded.state.database.close()


def test_no_trial_is_answered_before_it_is_shown(client: Any, study: Path, plan: Plan) -> None:
    person = Person(client).begin()
    slot = next(a for a in plan.assignments if any(t.id == person.session["trial"]["id"] for t in a.trials))
    now = person.session["trial"]["id"]
    asked = {"confidence": 0, "id": ""}
    for trial in slot.trials:
        if trial.id == now:
            continue
        reply = person.post("/api/answers", person.body(asked | {"id": trial.id}, choice=0, confidence=2))
        assert (reply.status_code, reply.json()["error"]) == (409, "order")
    shown = {now, *(one["id"] for one in person.session["next"])}
    for trial in slot.trials:
        reply = person.get(f"/api/trials/{trial.id}/pictures/0")
        assert reply.status_code == (200 if trial.id in shown else 404)
    assert read_answers(study) == []


NO_FILES = (
    "/pages/..%2f..%2fplan.json", "/pages/%2e%2e/app.js", "/pages/app.js%00.png", "/pages/APP.JS", "/pages/", "/pages/index.html/",
     "/static/app.js", "/plan.json", "/study.json", "/private.json", "/answers.sqlite", "/openapi.json", "/docs", "/redoc",
     "/api/wording/..%2f..%2fplan", "/api/wording/en%00", "/api/wording/EN", "/api/wording/",
)  # fmt: skip


def test_no_other_file_is_served(client: Any) -> None:
    for path in NO_FILES:
        reply = client.get(path)
        assert reply.status_code == 404, path
        assert "right" not in reply.text


def test_no_other_picture_is_served(client: Any) -> None:
    person = Person(client).begin()
    for n in ("-1", "99", "1e0", "0x0", "%30%00", "٠", "0%2f..%2f1", "+0", "%200", "999999999999999999999"):
        assert person.get(f"/api/trials/{person.session['trial']['id']}/pictures/{n}").status_code == 404, n
    assert person.get(f"/api/trials/{person.session['trial']['id']}%00/pictures/0").status_code == 404


def test_nothing_more_is_stored_after_a_withdrawal(client: Any, study: Path, plan: Plan) -> None:
    person = Person(client, PROLIFIC_PID="p")
    person.claim(website="filled", open_data=True)
    first = person.session["next"][0]
    assert person.post("/api/withdraw").json()["stage"] == "withdrawn"
    for path, body in (
        ("/api/instructions", {"seconds": 77.0}), ("/api/continue", {}), ("/api/questions", {"comments": "a", "automated": True}),
        ("/api/answers", person.body(first, choice=0)), ("/api/finish", {}), ("/api/withdraw", {}),
    ):  # fmt: skip
        reply = person.post(path, body)
        assert reply.status_code in (200, 403, 409)
        assert reply.json().get("stage", "withdrawn") == "withdrawn"
    person.get("/api/session?reload=1")
    (told,) = read_participations(study)
    assert (told.instruction_seconds, told.comments, told.open_data, told.honeypot, told.automated) == (
        None, "", False, False, False,
    )  # fmt: skip
    assert read_answers(study) == []
    assert person.get(f"/api/trials/{first['id']}/pictures/0").status_code == 404
    assert Person(client, PROLIFIC_PID="p").claim().status_code == 409


def test_who_sees_no_picture_does_not_pass_the_practice(client: Any, study: Path) -> None:
    person = Person(client, PROLIFIC_PID="p").begin()
    rounds = set()
    while person.session["stage"] == "practice":
        rounds.add(person.session["practice"]["round"])
        person.answer(technical=True)
    assert (rounds, person.session["stage"]) == ({0, 1, 2}, "screened-out")


def test_one_picture_that_fails_does_not_fail_the_practice(client: Any, study: Path, plan: Plan) -> None:
    person = Person(client).begin()
    person.answer(technical=True)
    person.answer_all(knowing(plan))
    assert person.session["stage"] == "questions"
    assert read_participations(study)[0].practice_rounds == 1


@pytest.mark.parametrize("option", ["origins", "frames"])
def test_addresses_of_other_sites_are_checked(study: Path, option: Any) -> None:
    for given in ("lab.example.org", "https://a b", "https://a;script-src *", "javascript:x", "https://a\nx: y", "*"):
        with pytest.raises(UserError, match=f"--{option}.*https://"):
            make_app(study, **{option: [given]})


def test_the_admin_page_is_never_shown_in_a_frame(study: Path) -> None:
    app = make_app(study, frames=["https://www.mturk.com"])
    with TestClient(app) as client:
        assert "frame-ancestors https://www.mturk.com" in client.get("/").headers["content-security-policy"]
        admin = client.get("/admin").headers
        assert "frame-ancestors 'none'" in admin["content-security-policy"]
        assert admin["x-frame-options"] == "DENY"
    app.state.database.close()

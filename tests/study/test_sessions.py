"""A person's way through a study, over HTTP, and what the server refuses."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from entoptic.errors import UserError
from entoptic.study.answers import read_answers, read_participations, read_plan, table_of_answers
from entoptic.study.json_form import to_json
from entoptic.study.protocol import BODY_LIMIT, TEXT_LIMIT
from entoptic.study.records import Plan
from fake_run import NASTY
from study.conftest import needs_server
from study.person import HEADERS, Person, knowing

needs_server()

from fastapi.testclient import TestClient  # noqa: E402
from sqlalchemy import event  # noqa: E402

from entoptic.study import sessions as session_module  # noqa: E402
from entoptic.study.database import EventRow  # noqa: E402
from entoptic.study.guards import Allowance, Guard  # noqa: E402
from entoptic.study.server import bind, make_app  # noqa: E402


@pytest.fixture
def plan(study: Path) -> Plan:
    return read_plan(study)


@pytest.fixture
def client(study: Path) -> Iterator[Any]:
    app = make_app(study)
    yield TestClient(app)
    app.state.database.close()


def refused(reply: Any) -> tuple[int, str]:
    assert set(reply.json()) == {"error", "message"}
    return reply.status_code, reply.json()["error"]


# --- the way ----------------------------------------------------------------------------------------------------


def test_a_person_goes_through_all_tasks(client: Any, study: Path, plan: Plan) -> None:
    person = Person(client, PROLIFIC_PID="a" * 24).begin().answer_all(knowing(plan))
    assert person.session["stage"] == "questions"
    assert (person.session["done"], person.session["total"]) == (12, 12)
    told = person.finish("a comment")
    assert re.fullmatch("[0-9A-F]{8}", told["code"])
    (participation,) = read_participations(study)
    assert (participation.stage, participation.source, participation.comments) == ("finished", "prolific", "a comment")
    assert (participation.practice_rounds, participation.catch_right, participation.catch_shown) == (1, 3, 3)
    answers = read_answers(study)
    assert len(answers) == 12 + 5 + 3 + 1
    assert [one.order for one in answers] == list(range(21))
    assert all(one.correct for one in answers if one.task != "preference" or one.kind != "main")
    (preferred,) = [one for one in answers if one.task == "preference" and one.kind == "main"]
    assert (preferred.preferred, preferred.correct) == (preferred.first, None)
    assert {one.rt_ms for one in answers} == {2000.5}
    table = table_of_answers(answers)
    assert table.num_rows == 21
    assert table.column("stimuli")[0].as_py() == list(answers[0].stimuli)


def test_simulated_answers_come_back_exactly(client: Any, study: Path, plan: Plan) -> None:
    given: dict[str, tuple[int, int]] = {}

    def choose(trial: dict[str, Any]) -> dict[str, Any]:
        right = knowing(plan)(trial)["choice"]
        number = len(given)
        choice = right if trial["practice"] else number % 2
        confidence = 1 + number % 3
        given[trial["id"]] = choice, confidence if trial["confidence"] else 0
        return {"choice": choice} | ({"confidence": confidence} if trial["confidence"] else {})

    Person(client, SIMULATED="one").begin().answer_all(choose)
    assert {one.trial: (one.choice, one.confidence or 0) for one in read_answers(study)} == given
    assert {one.source for one in read_answers(study)} == {"simulated"}


def test_ratings_and_texts(vital_study: Path) -> None:
    app = make_app(vital_study)
    ratings = iter([1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2, 3])

    def choose(trial: dict[str, Any]) -> dict[str, Any]:
        return {"text": f" {NASTY}\x07 "} if trial["task"] == "describe" else {"rating": next(ratings)}

    person = Person(TestClient(app)).begin().answer_all(choose)
    assert re.fullmatch("[0-9A-F]{10}", person.finish()["code"])
    answers = read_answers(vital_study)
    assert {one.text for one in answers if one.task == "describe"} == {NASTY}
    rated = [one for one in answers if one.task != "describe"]
    assert [one.rating for one in rated] == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2, 3][: len(rated)]
    assert {one.correct for one in rated if one.kind == "catch"} <= {True, False}
    assert {one.correct for one in rated if one.kind == "main"} == {None}
    app.state.database.close()


def test_practice_is_repeated_and_then_ends_the_study(client: Any, study: Path, plan: Plan) -> None:
    known = knowing(plan)
    wrong = lambda trial: {"choice": 1 - min(1, known(trial)["choice"])}  # noqa: E731
    person = Person(client).begin()
    stages = []
    while person.session["stage"] == "practice":
        stages.append(person.session["practice"]["round"])
        assert person.answer(**wrong(person.session["trial"])).json()["right"] is False
    assert sorted(set(stages)) == [0, 1, 2]
    assert person.session["stage"] == "screened-out"
    assert person.finish()["code"]
    assert read_participations(study)[0].practice_rounds == 3


def test_a_reload_goes_on_where_the_person_was(client: Any, study: Path, plan: Plan) -> None:
    person = Person(client).begin().answer_all(knowing(plan), most=7)
    trial = person.session["trial"]["id"]
    for _ in range(2):
        assert person.get("/api/session?reload=1").json()["trial"]["id"] == trial
    person.answer(**knowing(plan)(person.session["trial"]))
    person.answer(**knowing(plan)(person.session["trial"]))
    answers = read_answers(study)
    assert [one.reloads for one in answers][-2:] == [2, 0]


def test_a_picture_that_cannot_be_shown_counts_against_nobody(client: Any, study: Path, plan: Plan) -> None:
    person = Person(client).begin()
    assert person.answer(technical=True).json()["right"] is None
    (answer,) = read_answers(study)
    assert (answer.technical, answer.correct, answer.choice) == (True, None, None)


def test_mturk_and_its_preview(client: Any) -> None:
    preview = Person(client, workerId="A1", assignmentId="ASSIGNMENT_ID_NOT_AVAILABLE")
    assert refused(preview.claim()) == (403, "preview")
    assert Person(client, workerId="A1", assignmentId="x", hitId="y").claim().status_code == 200
    assert refused(Person(client, workerId="A1", assignmentId="z").claim()) == (409, "taken")


def test_codes_and_the_way_back(study: Path, plan: Plan) -> None:
    app = make_app(study, completion_code="C0DE", completion_url="https://app.example.org/done?cc={code}")
    people = [
        Person(TestClient(app), **who).begin().answer_all(knowing(plan))
        for who in ({"PROLIFIC_PID": "p"}, {"workerId": "w"})
    ]
    told = [person.finish() for person in people]
    assert told[0] == {"code": "C0DE", "redirect": "https://app.example.org/done?cc=C0DE"}
    assert told[1]["code"] not in ("C0DE", "")
    app.state.database.close()


def test_a_code_comes_at_the_end_only(client: Any) -> None:
    person = Person(client).begin()
    assert refused(person.post("/api/finish")) == (409, "order")
    assert refused(person.post("/api/questions", {"comments": ""})) == (409, "order")


# --- places -----------------------------------------------------------------------------------------------------


def test_one_participation_for_an_identifier_claimed_at_the_start(client: Any) -> None:
    assert Person(client, PROLIFIC_PID="p").claim().status_code == 200
    assert refused(Person(client, PROLIFIC_PID="p").claim()) == (409, "taken")


def test_no_place_is_given_twice(client: Any) -> None:
    with ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(lambda i: Person(client, PROLIFIC_PID=f"p{i}").claim(), range(24)))
    assert sorted(reply.status_code for reply in replies) == [200] * 3 + [409] * 21
    trials = [reply.json()["session"]["next"][0]["id"] for reply in replies if reply.status_code == 200]
    assert len(set(trials)) == 3
    assert {reply.json()["error"] for reply in replies if reply.status_code == 409} == {"full"}


def test_claims_that_come_together_wait_for_the_disk_once(client: Any) -> None:
    database, commits, gate, begun = client.app.state.database, [], threading.Event(), threading.Event()
    event.listen(database.engine, "commit", lambda connection: commits.append(1))

    def slow(session: Any) -> None:
        session.add(EventRow(time="", kind="slow"))
        begun.set()
        gate.wait(10)

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(database.change, slow)
        begun.wait(10)
        claims = [pool.submit(Person(client, PROLIFIC_PID=f"p{i}").claim) for i in range(3)]
        while len(database._waiting) < 3:
            time.sleep(0.01)
        gate.set()
        first.result(10)
        assert {one.result(10).status_code for one in claims} == {200}
    assert len(commits) == 2


def test_an_identifier_is_claimed_once_at_the_same_moment(client: Any) -> None:
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda _: Person(client, PROLIFIC_PID="same").claim().status_code, range(8)))
    assert sorted(codes) == [200] + [409] * 7


def test_a_refused_claim_does_not_use_up_the_identifier(client: Any) -> None:
    people = [Person(client, PROLIFIC_PID=f"p{i}") for i in range(4)]
    assert [person.claim().status_code for person in people] == [200, 200, 200, 409]
    people[0].post("/api/withdraw")
    assert people[3].claim().status_code == 200


def test_the_place_of_a_silent_person_is_given_again(
    client: Any, study: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Person(client).begin()
    first.answer(**knowing(plan)(first.session["trial"]))
    others = [Person(client).begin() for _ in range(2)]
    assert refused(Person(client).claim()) == (409, "full")
    monkeypatch.setattr(session_module, "LEASE_SECONDS", -1.0)
    again = Person(client).begin()
    assert {one.attempt for one in read_participations(study)} == {0, 1}
    again.answer(**knowing(plan)(again.session["trial"]))
    assert len({one.participant for one in read_answers(study)}) == 2  # nothing was overwritten
    assert others


def test_a_closed_study_takes_nobody_and_lets_those_go_on_who_began(client: Any, study: Path, plan: Plan) -> None:
    person = Person(client).begin()
    _, token = admin_of(study, client)
    assert client.post("/admin/api/close", json={}, headers=token).json()["open"] is False
    assert refused(Person(client).claim()) == (403, "closed")
    assert client.get("/api/study").json()["open"] is False
    assert person.answer(**knowing(plan)(person.session["trial"])).status_code == 200


# --- what is refused --------------------------------------------------------------------------------------------


def test_consent_is_needed(client: Any) -> None:
    assert refused(Person(client).claim(consent=False)) == (400, "consent")
    assert refused(Person(client).claim(consent="yes")) == (400, "consent")
    assert refused(Person(client).claim(language="xx")) == (400, "body")


def test_answers_of_others_can_neither_be_read_nor_written(client: Any, study: Path, plan: Plan) -> None:
    one, two = Person(client).begin(), Person(client).begin()
    assert re.fullmatch("[0-9a-f]{32}", one.token)  # 128 bits
    assert refused(two.post("/api/answers", two.body(one.session["trial"], choice=0))) == (404, "trial")
    assert refused(two.get(f"/api/trials/{one.session['trial']['id']}/pictures/0")) == (404, "picture")
    for token in ("", "0" * 32, one.token[:-1], one.token.upper() + "0", "x" * 32, one.token + "'--"):
        stranger = Person(client)
        stranger.token = token
        assert refused(stranger.get("/api/session")) == (401, "token")
        assert refused(stranger.post("/api/answers", {})) == (401, "token")
    assert read_answers(study) == []


def test_tokens_are_stored_as_hashes_and_compared_in_constant_time(
    client: Any, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from entoptic.study import private

    person = Person(client, PROLIFIC_PID="someone-known").begin()
    client.app.state.database.close()
    stored = b"".join(file.read_bytes() for file in study.glob("answers.sqlite*"))
    assert person.token.encode() not in stored
    assert b"someone-known" not in stored
    assert b"testclient" not in stored
    compared = []
    real = private.hmac.compare_digest
    monkeypatch.setattr(private.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))
    assert person.get("/api/session").status_code == 200
    assert len(compared) == 1


def test_a_replayed_answer_is_stored_once_and_another_one_is_refused(client: Any, study: Path, plan: Plan) -> None:
    person = Person(client).begin()
    body = person.body(person.session["trial"], **knowing(plan)(person.session["trial"]))
    first, again = (person.post("/api/answers", body) for _ in range(2))
    assert first.json() == again.json()
    assert len(read_answers(study)) == 1
    for change in ({"choice": 1 - body["choice"]}, {"nonce": "another-nonce"}, {"confidence": 3}):
        assert refused(person.post("/api/answers", body | change)) == (409, "answered")
    assert len(read_answers(study)) == 1


def test_the_same_answer_at_the_same_moment_is_stored_once(client: Any, study: Path, plan: Plan) -> None:
    person = Person(client).begin()
    body = person.body(person.session["trial"], **knowing(plan)(person.session["trial"]))
    with ThreadPoolExecutor(8) as pool:
        codes = {reply.status_code for reply in pool.map(lambda _: person.post("/api/answers", body), range(16))}
    assert codes == {200}
    assert len(read_answers(study)) == 1


def test_answers_out_of_order_are_refused(client: Any, study: Path) -> None:
    person = Person(client).begin()
    assert refused(person.post("/api/answers", person.body(person.session["next"][0], choice=0))) == (409, "order")
    before = Person(client)
    before.claim()
    trial = before.session["next"][0]
    assert refused(before.post("/api/answers", before.body(trial, choice=0))) == (
        409,
        "order",
    )  # instructions come first
    assert read_answers(study) == []


WRONG: list[dict[str, Any]] = [
    {"choice": 2}, {"choice": -1}, {"choice": True}, {"choice": 0.0}, {"choice": "0"}, {}, {"rating": 3}, {"text": "a dog"},
    {"not_sure": True}, {"choice": 0, "not_sure": True}, {"choice": 0, "confidence": 4}, {"choice": 0, "confidence": 0},
    {"choice": 0, "confidence": None}, {"choice": 0, "shown_ms": None}, {"choice": 0, "shown_ms": 3000.0},
    {"choice": 0, "answered_ms": 1e300}, {"choice": 0, "nonce": "short"}, {"choice": 0, "nonce": 12345678},
    {"choice": 0, "viewport": [1]}, {"choice": 0, "viewport": ["a", "b"]}, {"choice": 0, "focus_losses": -1},
    {"choice": 0, "pixel_ratio": "x"}, {"choice": 0, "pasted": "no"}, {"choice": 0, "trial": "../../etc"},
    {"choice": 0, "trial": 5},
]  # fmt: skip


@pytest.mark.parametrize("given", WRONG)
def test_what_is_no_answer_is_refused(client: Any, study: Path, given: dict[str, Any]) -> None:
    person = Person(client).begin()
    assert refused(person.post("/api/answers", person.body(person.session["trial"], **given))) == (400, "body")
    assert read_answers(study) == []


def test_bodies_that_are_none_or_too_large(client: Any) -> None:
    person = Person(client).begin()
    headers = HEADERS | {"authorization": f"Bearer {person.token}"}
    for content in (b"", b"[1]", b"{", b"\xff", b'{"a": NaN}', b"[" * 9000):
        assert refused(client.post("/api/answers", content=content, headers=headers)) == (400, "body")
    large = json.dumps({"text": "x" * BODY_LIMIT}).encode()
    assert refused(client.post("/api/answers", content=large, headers=headers)) == (413, "size")
    parts = iter([large[:10], large[10:]])  # in parts, without a length
    assert refused(client.post("/api/answers", content=parts, headers=headers)) == (413, "size")
    long = person.body(person.session["trial"], text="x" * (TEXT_LIMIT + 1))
    assert refused(person.post("/api/answers", long)) == (400, "body")
    assert refused(client.post("/api/claim", content=b"a=b", headers={"content-type": "text/plain"})) == (415, "type")
    assert refused(
        client.post("/api/claim", content=b"a=b", headers={"content-type": "application/x-www-form-urlencoded"})
    ) == (415, "type")
    assert refused(client.request("DELETE", "/api/session")) == (405, "method")


def test_posts_of_other_sites_are_refused(study: Path) -> None:
    app = make_app(study, origins=["https://lab.example.org"], frames=["https://www.mturk.com"])
    client = TestClient(app, base_url="http://testserver")
    for bad in (
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://testserver:81"},
        {"sec-fetch-site": "cross-site"},
    ):
        assert refused(Person(client).post("/api/claim", {}, **bad)) == (403, "origin")
    for good in ({"origin": "http://testserver"}, {"origin": "https://lab.example.org"}, {}):
        assert refused(Person(client).post("/api/claim", {}, **good))[1] == "body"
    policy = client.get("/").headers
    assert "frame-ancestors https://www.mturk.com" in policy["content-security-policy"]
    assert "access-control-allow-origin" not in policy
    app.state.database.close()


def test_headers_of_every_reply(client: Any) -> None:
    for path in ("/", "/pages/app.js", "/api/study", "/nowhere", "/admin"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert "set-cookie" not in headers
        assert "etag" not in headers


def test_too_many_requests_of_one_token_are_refused(client: Any) -> None:
    guarded = TestClient(Guard(client.app, rate=0, burst=3))
    one, two = Person(client).begin(), Person(client).begin()
    one.client = two.client = guarded
    assert [one.get("/api/session").status_code for _ in range(5)] == [200, 200, 200, 429, 429]
    assert two.get("/api/session").status_code == 200


def test_guessing_the_admin_token_is_slowed_down(client: Any) -> None:
    person = Person(client).begin()
    codes = [
        client.post("/admin/api/status", json={}, headers={"authorization": f"Bearer {i:032x}"}).status_code
        for i in range(80)
    ]
    assert codes[:50] == [401] * 50
    assert codes[-1] == 429
    assert person.get("/api/session").status_code == 200  # behind a proxy people share the guesser's address


@pytest.mark.parametrize(
    "path",
    ["../../study.json", "..%2f..%2fplan.json", "%2e%2e/%2e%2e/private.json", "0/../../../plan.json", "99", "-1", "٣"],
)
def test_pictures_lead_nowhere_else(client: Any, path: str) -> None:
    person = Person(client).begin()
    for address in (f"/api/trials/{person.session['trial']['id']}/pictures/{path}", f"/pages/{path}", f"/{path}"):
        assert person.get(address).status_code == 404


def test_a_plan_with_a_path_in_it_is_refused(study: Path, plan: Plan) -> None:
    from entoptic.study.plan_check import check_pictures

    for name in ("../../etc/passwd", "a" * 31 + "/", "A" * 32, ""):
        bad = replace(plan, stimuli=(replace(plan.stimuli[0], name=name), *plan.stimuli[1:]))
        with pytest.raises(UserError, match="no name of a picture"):
            check_pictures(study, bad)
    picture = study / "pictures" / f"{plan.stimuli[0].name}.png"
    picture.unlink()
    with pytest.raises(UserError, match="lacks the picture"):
        make_app(study)
    picture.symlink_to(study / "plan.json")
    (study.parent / "outside").write_text("x")
    picture.unlink()
    picture.symlink_to(study.parent / "outside")
    with pytest.raises(UserError, match="lacks the picture"):
        make_app(study)


def test_only_the_current_and_the_next_pictures_are_disclosed(client: Any, plan: Plan) -> None:
    person = Person(client).begin()
    mine = next(a.trials for a in plan.assignments if a.trials[0].id == person.session["trial"]["id"])
    codes = [person.get(f"/api/trials/{trial.id}/pictures/0").status_code for trial in mine]
    assert codes[:4] == [200] * 4
    assert set(codes[4:]) == {404}
    picture = person.get(f"/api/trials/{mine[0].id}/pictures/0")
    assert picture.headers["content-type"] == "image/png"
    person.answer(**knowing(plan)(person.session["trial"]))
    assert person.get(f"/api/trials/{mine[0].id}/pictures/0").status_code == 404


WORDS = (
    "natural",
    "none",
    "catch",
    "main",
    "arm",
    "method",
    "kind",
    "unit",
    "correct",
    "batch",
    "origin",
    "score",
    "rank",
)


def test_the_browser_receives_nothing_that_says_what_is_right(
    client: Any, study: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything that is received before an answer is stored: no right answer, arm, method, kind or name of a picture."""
    monkeypatch.setattr(Allowance, "take", lambda *_: True)  # nobody asks for every picture at once as this test does
    stimuli = {name for one in plan.stimuli for name in (one.name, one.sha256, one.source) if name}
    secrets = {"fourier", "vital", "stage2", "tiny:net", *(f'"{word}"' for word in WORDS)}
    person = Person(client, PROLIFIC_PID="p")
    received = [client.get(path).text for path in ("/", "/api/study")]
    reply = person.claim()
    received.append(reply.text)
    person.session = reply.json()["session"]
    person.step()
    pictures = 0
    while person.session["stage"] in ("practice", "trials"):
        trial = person.session["trial"]
        for picture in trial["pictures"]:
            got = person.get(f"/api/trials/{trial['id']}/pictures/{picture['n']}")
            assert got.status_code == 200
            assert set(got.headers) <= {"content-length", "content-type", "content-security-policy", "x-content-type-options",
                                        "referrer-policy", "cache-control", "cross-origin-resource-policy", "permissions-policy",
                                        "x-frame-options"}  # fmt: skip
            assert b"tEXt" not in got.content
            pictures += 1
        assert set(trial) == {"id", "task", "practice", "word", "scale", "confidence", "not_sure", "min_ms", "pictures"}
        assert all(set(one) == {"n", "role", "width", "height"} for one in trial["pictures"])
        answer = person.answer(**knowing(plan)(trial))
        assert (answer.json()["right"] is None) == (not trial["practice"])
        received.append(answer.text)
    assert pictures > 50
    text = "\n".join(received)
    assert not [name for name in stimuli if name in text]
    assert not [word for word in secrets if word in text.replace("thing ", "")]


def test_catch_trials_look_like_the_others(client: Any, plan: Plan) -> None:
    kinds = {trial.id: trial.kind for own in plan.assignments for trial in own.trials}
    person = Person(client).begin()
    forms: dict[str, set[str]] = {}
    while person.session["stage"] in ("practice", "trials"):
        trial = person.session["trial"]
        form = json.dumps({name: value for name, value in trial.items() if name not in ("id", "word")})
        forms.setdefault(f"{kinds[trial['id']]} {trial['task']}", set()).add(form)
        person.answer(**knowing(plan)(trial))
    for task in ("2afc", "intruder", "preference"):
        assert forms[f"catch {task}"] <= forms[f"main {task}"]


# --- withdrawal -------------------------------------------------------------------------------------------------


def test_withdrawal_deletes_the_answers_and_takes_no_more(client: Any, study: Path, plan: Plan) -> None:
    person = Person(client, PROLIFIC_PID="p").begin()
    body = person.body(person.session["trial"], **knowing(plan)(person.session["trial"]))
    person.post("/api/answers", body)
    assert person.post("/api/withdraw").json()["stage"] == "withdrawn"
    assert read_answers(study) == []
    assert refused(person.post("/api/answers", body)) == (403, "withdrawn")
    assert person.get("/api/session").json()["stage"] == "withdrawn"
    assert refused(person.post("/api/finish")) == (409, "order")
    assert refused(Person(client, PROLIFIC_PID="p").claim()) == (409, "taken")
    (left,) = read_participations(study)
    assert (left.stage, left.comments, left.instruction_seconds) == ("withdrawn", "", None)


# --- admin ------------------------------------------------------------------------------------------------------


def admin_of(study: Path, client: Any) -> tuple[Any, dict[str, str]]:
    return client, {"authorization": f"Bearer {client.app.state.admin_token}"}


def test_the_admin_page_is_behind_a_token(client: Any, study: Path) -> None:
    person = Person(client).begin()
    for headers in ({}, {"authorization": f"Bearer {person.token}"}, {"authorization": "Bearer " + "0" * 32}):
        for what in ("status", "close", "open", "export"):
            assert refused(client.post(f"/admin/api/{what}", json={}, headers=headers)) == (401, "token")
    assert (study / "private.json").stat().st_mode & 0o777 == 0o600
    assert client.app.state.admin_token not in (study / "private.json").read_text()


def test_the_admin_token_is_kept_or_replaced(study: Path) -> None:
    tokens = []
    for new in (False, False, True):
        app = make_app(study, new_admin_token=new)
        tokens.append(app.state.admin_token)
        app.state.database.close()
    assert tokens[0]
    assert tokens[1] == ""
    assert tokens[2] not in ("", tokens[0])


def test_the_admin_sees_progress_but_no_results(client: Any, study: Path, plan: Plan) -> None:
    Person(client).begin().answer_all(knowing(plan)).finish(NASTY)
    _, headers = admin_of(study, client)
    status = client.post("/admin/api/status", json={}, headers=headers).json()
    assert (status["places"], status["filled"], status["held"]) == (3, 1, 0)
    assert status["stages"] == {"finished": 1}
    assert status["catch"] == {"passed": 3, "failed": 0}
    assert sum(one["n"] for one in status["answers"]) == 9
    assert status["comments"] == [NASTY]  # the page sets it as text
    assert "correct" not in json.dumps(status)
    assert refused(client.post("/admin/api/export", json={}, headers=headers)) == (409, "open")


def test_the_export_of_a_closed_study_is_safe_in_a_spreadsheet(vital_study: Path) -> None:
    app = make_app(vital_study)
    client = TestClient(app)
    choose = lambda trial: {"text": '=cmd|" /C calc"!A0'} if trial["task"] == "describe" else {"rating": 3}  # noqa: E731
    Person(client).begin().answer_all(choose).finish("@SUM(1)")
    headers = {"authorization": f"Bearer {app.state.admin_token}"}
    client.post("/admin/api/close", json={}, headers=headers)
    text = client.post("/admin/api/export", json={"table": "answers"}, headers=headers).text
    assert "'=cmd" in text
    assert ",=cmd" not in text
    assert ',"=cmd' not in text
    assert "'@SUM(1)" in client.post("/admin/api/export", json={"table": "participations"}, headers=headers).text
    assert client.post("/admin/api/open", json={}, headers=headers).json()["open"] is True
    app.state.database.close()


# --- starting ---------------------------------------------------------------------------------------------------


def test_a_database_of_another_study_is_refused(study: Path, vital_study: Path) -> None:
    make_app(study).state.database.close()
    before = (study / "answers.sqlite").read_bytes()
    with pytest.raises(UserError, match="belongs to another study"):
        make_app(vital_study, database=f"sqlite:///{study / 'answers.sqlite'}")
    assert (study / "answers.sqlite").read_bytes() == before


@pytest.mark.parametrize(
    "url", ["nothing", "mydb://x", "postgresql://u:secret@127.0.0.1:1/x", "sqlite:////nowhere/at/all.sqlite"]
)
def test_a_database_that_cannot_be_opened_is_one_sentence(study: Path, url: str) -> None:
    with pytest.raises(UserError) as error:
        make_app(study, database=url)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_port_in_use_is_one_sentence() -> None:
    with bind("127.0.0.1", 0) as taken, pytest.raises(UserError, match="give another --port"):
        bind("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(UserError, match="cannot be served"):
        bind("127.0.0.1", 99999)


def test_texts_that_were_changed_are_refused(study: Path) -> None:
    file = study / "wording" / "en.json"
    text = file.read_text()
    file.unlink()
    file.write_text(text.replace("Thank you", "Thanks"))
    with pytest.raises(UserError, match="was changed after the study was registered"):
        make_app(study)


def test_what_the_server_needs_is_said(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from entoptic.study import extra

    monkeypatch.setattr(extra, "find_spec", lambda name: None if name == "sqlmodel" else object())
    with pytest.raises(UserError, match=r"sqlmodel is not installed: pip install 'entoptic\[study\]'"):
        extra.need_extra()


def test_the_log_holds_no_answers(client: Any, study: Path, plan: Plan) -> None:
    from entoptic.study.database import EventRow, select

    person = Person(client).begin().answer_all(knowing(plan))
    person.finish()
    with client.app.state.database.read() as session:
        events = [one.kind for one in session.exec(select(EventRow).order_by(EventRow.id)).all()]
    assert events == ["claim", "finished"]
    assert to_json(plan)

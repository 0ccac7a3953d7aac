"""The same study with answers in PostgreSQL: a real server, started for these tests."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from entoptic.errors import UserError
from entoptic.study.answers import read_answers, read_participations, read_plan
from study.conftest import needs_server
from study.person import Person, knowing

needs_server()

from fastapi.testclient import TestClient  # noqa: E402

from entoptic.study import sessions  # noqa: E402
from entoptic.study.server import make_app  # noqa: E402

USER = "study"


def program(name: str) -> str | None:
    """PostgreSQL's programs, which Debian keeps in a folder of each version."""
    places = [os.environ.get("PATH", ""), *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))]
    return shutil.which(name, path=os.pathsep.join(places))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of an empty database cluster."""
    pytest.importorskip("pg8000", reason="pg8000, the driver of PostgreSQL, is not installed")
    initdb, postgres = program("initdb"), program("postgres")
    if initdb is None or postgres is None:
        pytest.skip("PostgreSQL is not installed; Debian's package postgresql has it")
    as_other: list[str] = []
    if getpass.getuser() == "root":  # PostgreSQL refuses to run as root
        if shutil.which("setpriv") is None or subprocess.run(["id", "postgres"], capture_output=True).returncode:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres to run it as")
        as_other = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        if as_other:
            shutil.chown(folder, "postgres", "postgres")
        data = f"{folder}/data"
        made = subprocess.run(
            [*as_other, initdb, "-D", data, "-U", USER, "--auth=trust", "--no-sync"],
            capture_output=True,
            text=True,
            cwd="/",
        )
        if made.returncode:
            pytest.skip(f"PostgreSQL's initdb failed: {made.stderr.strip()[-200:]}")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [*as_other, postgres, "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", folder, "-F"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/")
        assert process.stderr is not None
        for line in process.stderr:
            if b"ready to accept connections" in line:
                break
        try:
            yield f"postgresql://{USER}@127.0.0.1:{port}"
        finally:
            process.terminate()
            process.communicate(timeout=30)


@pytest.fixture
def database(server: str, request: pytest.FixtureRequest) -> str:
    """The URL of a database of one test."""
    import pg8000.dbapi

    name = f"study_{abs(hash(request.node.name))}"
    port = int(server.rpartition(":")[2])
    connection = pg8000.dbapi.connect(user=USER, host="127.0.0.1", port=port, database="postgres")
    connection.autocommit = True
    connection.cursor().execute(f"create database {name}")
    connection.close()
    return f"{server}/{name}"


def test_a_study_in_postgresql(study: Path, database: str) -> None:
    app = make_app(study, database=database)
    plan = read_plan(study)
    with ThreadPoolExecutor(8) as pool:
        people = [Person(TestClient(app), PROLIFIC_PID=f"p{i}") for i in range(12)]
        codes = list(pool.map(lambda person: person.claim().status_code, people))
    assert sorted(codes) == [200] * 3 + [409] * 9
    for person in (one for one in people if one.token):
        person.step()
        body = person.body(person.session["trial"], **knowing(plan)(person.session["trial"]))
        with ThreadPoolExecutor(4) as pool:
            assert {
                r.status_code for r in pool.map(lambda _, p=person, b=body: p.post("/api/answers", b), range(8))
            } == {200}
        person.session = person.get("/api/session").json()
        person.answer_all(knowing(plan))
        assert person.finish()["code"]
    answers = read_answers(study, database=database)
    assert len(answers) == len({(one.participant, one.trial) for one in answers}) == 3 * 21
    assert {one.stage for one in read_participations(study, database=database)} == {"finished"}
    assert not (study / "answers.sqlite").exists()
    app.state.database.close()


def test_an_identifier_is_claimed_once(study: Path, database: str) -> None:
    app = make_app(study, database=database)
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda _: Person(TestClient(app), PROLIFIC_PID="same").claim().status_code, range(8)))
    assert sorted(codes) == [200] + [409] * 7
    app.state.database.close()


def test_the_place_of_a_silent_person_is_given_again(
    study: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(study, database=database)
    assert [Person(TestClient(app)).claim().status_code for _ in range(4)] == [200, 200, 200, 409]
    monkeypatch.setattr(sessions, "LEASE_SECONDS", -1.0)
    assert Person(TestClient(app)).claim().status_code == 200
    assert sorted(one.attempt for one in read_participations(study, database=database)) == [0, 0, 0, 1]
    app.state.database.close()


def test_withdrawal_and_another_study(study: Path, vital_study: Path, database: str) -> None:
    app = make_app(study, database=database)
    person = Person(TestClient(app)).begin()
    person.answer(choice=0)
    assert person.post("/api/withdraw").json()["stage"] == "withdrawn"
    assert read_answers(study, database=database) == []
    with pytest.raises(UserError, match="belongs to another study"):
        make_app(vital_study, database=database)
    app.state.database.close()

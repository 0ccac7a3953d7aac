"""A server that is killed loses no answer that it acknowledged, and everybody goes on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from entoptic.study.answers import read_answers, read_participations, read_plan
from study.conftest import needs_server
from study.person import Person, knowing

needs_server()

import httpx  # noqa: E402

HERE = Path(__file__).parent


def start(study: Path, port: int) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parents[1] / "src"), str(HERE.parent)])}
    process = subprocess.Popen([sys.executable, str(HERE / "serve_one.py"), str(study), str(port)], env=environment)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            httpx.get(f"http://127.0.0.1:{port}/api/study", timeout=5)
            return process
        except httpx.TransportError:
            assert process.poll() is None
            time.sleep(0.05)
    raise AssertionError("the server did not start")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_kill_9_loses_no_acknowledged_answer(study: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    choose = knowing(read_plan(study))
    acknowledged: dict[str, dict[str, Any]] = {}
    process = start(study, port)
    people: list[Person] = []
    stop = threading.Event()

    def answer_on(person: Person) -> None:
        try:
            while person.session["stage"] in ("practice", "trials") and not stop.is_set():
                trial = person.session["trial"]
                body = person.body(trial, **choose(trial))
                person.pending = body  # type: ignore[attr-defined]
                reply = person.post("/api/answers", body)
                if reply.status_code == 200:
                    acknowledged[trial["id"]] = body
                    person.session = reply.json()["session"]
                    person.step()
        except httpx.TransportError:
            return

    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            people = [Person(client, PROLIFIC_PID=f"p{i}").begin() for i in range(3)]
            threads = [threading.Thread(target=answer_on, args=(person,)) for person in people]
            for thread in threads:
                thread.start()
            while len(acknowledged) < 8:
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
            for thread in threads:
                thread.join(30)
        process.wait(10)
        kept = {one.trial: one for one in read_answers(study)}
        assert set(acknowledged) <= set(kept)
        assert all(kept[name].choice == body["choice"] for name, body in acknowledged.items())

        process = start(study, port)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            for person in people:
                person.client = client
                person.session = person.get("/api/session?reload=1").json()
                # The answer that was under way when the server died is sent again, as the page does.
                assert person.post("/api/answers", person.pending).status_code in (200, 409)  # type: ignore[attr-defined]
                person.session = person.get("/api/session").json()
                person.step().answer_all(choose)
                assert person.finish()["code"]
    finally:
        stop.set()
        if process.poll() is None:
            process.terminate()
            process.wait(20)
    answers = read_answers(study)
    assert len({(one.participant, one.trial) for one in answers}) == len(answers) == 3 * 21
    assert {one.stage for one in read_participations(study)} == {"finished"}

"""How fast a study's server stores answers while many people answer at once, and whether one is lost or doubled.

    python benchmarks/study_load.py --participants 200 --seconds 60 --pause 1

Simulated participants answer over HTTP on the loopback address, each after a pause; half-way the server may be killed
(`--kill`) and is started again, and everybody goes on. In the end every acknowledged answer must be stored once. Clients and
server share the cores of this machine, so a loaded machine makes the times worse.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from entoptic.study.answers import read_answers
from entoptic.study.build import build
from entoptic.study.design import Design

UNITS, SAMPLES, METHODS = 42, 3, ("vital", "maco")


def invent_run(folder: Path) -> Path:
    """Writes a run of invented pictures: units, methods and samples without a network."""
    (folder / "pictures").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"format": 1, "title": "Invented pictures"}))
    draw = np.random.default_rng(0)
    for unit in range(UNITS):
        place = folder / "pictures" / f"logits-{unit}"
        place.mkdir()
        for method in METHODS:
            for sample in range(SAMPLES):
                file = place / f"{method}-{sample}-{secrets.token_hex(6)}.png"
                pixels = draw.integers(0, 256, (14, 14, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
                Image.fromarray(pixels).save(file)
                record = {
                    "format": 1, "key": file.stem, "unit": f"logits:{unit}", "label": f"thing {unit}", "layer": "logits",
                    "method": method, "sample": sample, "model": {"name": "none", "weights_sha256": "00" * 32},
                    "image": {"file": file.name, "width": 224, "height": 224}, "evidence": [],
                }  # fmt: skip
                file.with_suffix(".json").write_text(json.dumps(record))
    return folder


class Server:
    """The server in a process of its own."""

    def __init__(self, study: Path, database: str) -> None:
        self.study, self.database, self.port = study, database, 0
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "entoptic", "study", "serve", str(self.study), "--port", str(self.port)]
        if self.database:
            command += ["--database", self.database]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r":(\d+)/", line)
        assert found, line
        self.port = int(found[1])

    def cpu_seconds(self) -> float:
        """CPU time of the server's process so far; 0 where /proc does not tell."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


class Tally:
    """What was measured."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.acknowledged: set[str] = set()
        self.refused = 0
        self.finished = 0
        self.retries = 0


async def ask(client: httpx.AsyncClient, tally: Tally, method: str, path: str, **more: Any) -> httpx.Response:
    """Sends a request again while the server is away, as the page does."""
    while True:
        try:
            reply = await client.request(method, path, **more)
        except httpx.TransportError:
            tally.retries += 1
            await asyncio.sleep(0.3)
            continue
        if reply.status_code == 429:
            await asyncio.sleep(0.5)
            continue
        return reply


async def participant(
    client: httpx.AsyncClient, number: int, pause: float, until: float, pictures: bool, tally: Tally
) -> None:
    """One person: claims a place and answers by coin flips, right in practice."""
    await asyncio.sleep(number % 50 / 50 * pause)
    claim = {
        "parameters": {"SIMULATED": f"load-{number}"},
        "language": "en",
        "consent": True,
        "open_data": False,
        "website": "",
    }
    reply = await ask(client, tally, "POST", "/api/claim", json=claim)
    if reply.status_code != 200:
        tally.refused += 1
        return
    headers = {"authorization": f"Bearer {reply.json()['token']}"}
    session = reply.json()["session"]
    while time.monotonic() < until:
        stage = session["stage"]
        if stage == "instructions":
            session = (
                await ask(client, tally, "POST", "/api/instructions", json={"seconds": 20}, headers=headers)
            ).json()
        elif stage == "break":
            session = (await ask(client, tally, "POST", "/api/continue", json={}, headers=headers)).json()
        elif stage in ("practice", "trials"):
            trial = session["trial"]
            if pictures:
                for one in trial["pictures"]:
                    await ask(client, tally, "GET", f"/api/trials/{trial['id']}/pictures/{one['n']}", headers=headers)
            await asyncio.sleep(pause)
            body = {
                "trial": trial["id"], "nonce": secrets.token_hex(8), "shown_ms": 0, "answered_ms": 1000 * pause,
                "choice": secrets.randbelow(sum(one["role"] in ("query", "option") for one in trial["pictures"])),
            } | ({"confidence": 2} if trial["confidence"] else {})  # fmt: skip
            started = time.monotonic()
            reply = await ask(client, tally, "POST", "/api/answers", json=body, headers=headers)
            tally.seconds.append(time.monotonic() - started)
            if reply.status_code != 200:
                tally.refused += 1
                return
            tally.acknowledged.add(trial["id"])
            session = reply.json()["session"]
        else:
            tally.finished += 1
            return


async def load(server: Server, given: argparse.Namespace) -> Tally:
    tally, until = Tally(), time.monotonic() + given.seconds
    limits = httpx.Limits(max_connections=given.participants, max_keepalive_connections=given.participants)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", limits=limits, timeout=30) as client:
        people = [
            asyncio.create_task(participant(client, i, given.pause, until, given.pictures, tally))
            for i in range(given.participants)
        ]
        if given.kill:
            await asyncio.sleep(given.seconds / 2)
            server.kill()
            server.start()
        await asyncio.gather(*people)
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--participants", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--pause", type=float, default=1, help="seconds of a person before each answer")
    parser.add_argument("--pictures", action="store_true", help="also ask for the pictures of each trial")
    parser.add_argument("--kill", action="store_true", help="kill -9 the server half-way, and start it again")
    parser.add_argument("--database", default="", help="URL; SQLite where none is given")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        run, study = invent_run(Path(place) / "run"), Path(place) / "study"
        design = Design(participants=given.participants, trials=36, practice_units=2, options=3)
        build([run], study, design, tasks=("preference",))
        server = Server(study, given.database)
        before, own = server.cpu_seconds(), time.process_time()
        try:
            tally = asyncio.run(load(server, given))
            busy, own = server.cpu_seconds() - before * (not given.kill), time.process_time() - own
        finally:
            server.stop()
        stored = [one.trial for one in read_answers(study, database=given.database)]
    lost, doubled = tally.acknowledged - set(stored), len(stored) - len(set(stored))
    times = sorted(tally.seconds)
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end"
    )
    print(
        f"{given.participants} participants, {len(times)} answers in {given.seconds:.0f} s ({len(times) / given.seconds:.0f}/s)"
    )
    print(
        f"stored {len(stored)}, lost {len(lost)}, doubled {doubled}, refused {tally.refused}, retries {tally.retries}"
    )
    print(
        f"answer: median {1000 * statistics.median(times):.0f} ms, 95 % under {1000 * times[int(0.95 * len(times))]:.0f} ms, "
        f"longest {1000 * times[-1]:.0f} ms"
    )
    print(f"CPU an answer: server {1000 * busy / len(times):.1f} ms, clients {1000 * own / len(times):.1f} ms")
    sys.exit(bool(lost or doubled or tally.refused))


if __name__ == "__main__":
    main()

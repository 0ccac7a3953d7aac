"""One round: a job is killed at some moment, what it left is looked at, and the same command makes the rest."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kill import jobs
from tests.kill.jobs import AT, JOBS, OPERATIONS, OUT, WORK

from entoptic.base.files import UNFINISHED
from entoptic.base.training import read_record
from entoptic.errors import UserError
from entoptic.images.index import ActivationIndex
from entoptic.images.index_record import IndexRecord
from entoptic.images.index_shards import ShardFolder
from entoptic.runs.listing import FILE as LIST
from entoptic.runs.listing import SEAL
from entoptic.runs.progress_file import FILE
from entoptic.runs.store import Run

ROOT = Path(__file__).parents[2]
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
TIMES = frozenset({"created", "seconds", "stamp", SEAL})
"""Entries of records that say when something was made."""
LONGEST = 120.0
"""Seconds after which a job hangs."""


@dataclass(frozen=True)
class Moment:
    """When a job is killed: after some seconds, or before its Nth file operation.

    Attributes:
        signal: that is sent.
        seconds: after the start, or None.
        operation: N, from 1, where there are no seconds.
    """

    signal: signal.Signals
    seconds: float | None = None
    operation: int = 0

    def __str__(self) -> str:
        when = f"before file operation {self.operation}" if self.seconds is None else f"after {self.seconds:.2f} s"
        return f"{self.signal.name} {when}"


@dataclass(frozen=True)
class Undisturbed:
    """A job that nothing interrupted.

    Attributes:
        files: by their names in its folder: what each holds, see `content`.
        operations: how many file operations it made.
        seconds: that it took.
        work: pictures, blocks and steps that it made.
    """

    files: dict[str, Any]
    operations: int
    seconds: float
    work: dict[str, int]


def content(file: Path) -> Any:
    """What two jobs of the same request must agree in: the bytes of a file, or its record without times."""
    return _timeless(json.loads(file.read_text())) if file.suffix == ".json" else file.read_bytes()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in TIMES}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def files(folder: Path) -> dict[str, Any]:
    """Every file of the output and of the cache, but locks, progress files, lists and pages, which hold times."""
    found = (path for part in (OUT, "cache") for path in sorted((folder / part).rglob("*")) if path.is_file())
    return {
        path.relative_to(folder).as_posix(): content(path)
        for path in found
        if not path.name.endswith(".lock")
        and path.name not in (FILE, LIST)
        and path.suffix != ".html"
        and not _abandoned(path, folder)
    }


def _abandoned(path: Path, folder: Path) -> bool:
    """Whether a file of the cache was being written: the next day's writer deletes it."""
    return path.suffix == UNFINISHED and path.is_relative_to(folder / "cache")


@contextlib.contextmanager
def folder_of(place: Path) -> Iterator[Path]:
    """A folder for one job, always of the same name, since records may hold paths."""
    folder = place / "job"
    folder.mkdir()
    try:
        yield jobs.prepare(folder)
    finally:
        shutil.rmtree(folder)


def quietly(verb: str, folder: Path) -> tuple[int, str]:
    """Runs a job in this process; its exit code, and what it said to stderr."""
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code = jobs.run(verb, folder)
    return code, said.getvalue()


def undisturbed(verb: str, place: Path) -> Undisturbed:
    """Runs a job to its end."""
    if not OPERATIONS.hooked:
        OPERATIONS.hooked = True
        sys.addaudithook(OPERATIONS.seen)
    with folder_of(place) as folder:
        started = time.monotonic()
        OPERATIONS.start(str(folder))
        code, said = quietly(verb, folder)
        made = OPERATIONS.count
        OPERATIONS.stop()
        assert code == 0, f"{verb} ends with {code}: {said}"
        return Undisturbed(files(folder), made, time.monotonic() - started, dict(WORK))


def seconds_to_start() -> float:
    """How long a process takes to import what the jobs need."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", "import torch, timm, diffusers, tyro"], check=True, timeout=LONGEST)
    return time.monotonic() - started


def draw_moment(draw: random.Random, whole: Undisturbed, start: float) -> Moment:
    """A moment anywhere in a job's life; every second one at a file operation, where most can go wrong."""
    chosen = draw.choice(SIGNALS)
    if draw.random() < 0.5:
        return Moment(chosen, operation=draw.randint(1, whole.operations))
    return Moment(chosen, seconds=draw.uniform(0, start + whole.seconds))


def killed(verb: str, folder: Path, moment: Moment) -> tuple[int, str]:
    """Starts a job in a process and kills it; its exit code, and what it said to stderr."""
    at = f"{int(moment.signal)}:{moment.operation}"
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    # One thread, as in the undisturbed run: how torch adds up depends on their number.
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", AT: at}
    command = [sys.executable, "-m", "tests.kill.jobs", verb]
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as job:  # fmt: skip
        if moment.seconds is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                job.wait(moment.seconds)
            job.send_signal(moment.signal)  # does nothing to a process that has ended
        try:
            _, said = job.communicate(timeout=LONGEST)
        except subprocess.TimeoutExpired:
            job.kill()
            return -1, f"goes on for {LONGEST:.0f} s after {moment}"
    return job.returncode, said


def ending(code: int, said: str, moment: Moment) -> str:
    """What is wrong with how a killed job ended, or ""."""
    # Python itself may end by the signal after main has returned 130, which a shell shows as 130, too.
    expected = {0, -int(moment.signal)} | ({130} if moment.signal == signal.SIGINT else set())
    if code not in expected:
        return f"ends with {code}: {said[-300:]}"
    # Before the command line is there, Python itself says where it was interrupted.
    return f"a traceback: {said[-300:]}" if "Traceback" in said and "src/entoptic" in said else ""


def left(verb: str, folder: Path, whole: Undisturbed) -> tuple[list[str], dict[str, int]]:
    """What is wrong with the files that a killed job left, and how much of its work they hold as finished."""
    wrong, out, finished = [], folder / OUT, dict.fromkeys(WORK, 0)
    for path in sorted(out.rglob("*.json")):
        try:
            json.loads(path.read_text())
        except ValueError as error:
            wrong.append(f"{path.relative_to(folder)} is half written ({error})")
    if (out / "run.json").is_file():
        run = Run.open(out)
        wrong += [problem for _, problem in run.read() if problem]
        for picture in run:
            name = picture.path.relative_to(folder).as_posix()
            if not picture.record["complete"]:  # what Ctrl-C leaves of one says so, and is made again
                continue
            finished["pictures"] += 1
            if content(picture.path) != whole.files.get(name):
                wrong.append(f"{name} is taken as finished and is another one")
    if verb == "index" and not wrong and (out / "index.json").is_file():
        record = IndexRecord.read(out / "index.json")
        finished["blocks"] = len(ShardFolder(out / "parts", record.request.blocks, record.request.reservoir).covered())
        with contextlib.suppress(UserError):
            ActivationIndex.open(out)
            finished["blocks"] = record.request.blocks
            for name, held in files(folder).items():
                if "parts/" not in name and held != whole.files.get(name):
                    wrong.append(f"{name} of an index that is taken as finished differs")
    if verb.startswith("learn"):
        training = read_record(out)
        finished["steps"] = training["step"] if training else 0
    return wrong, finished


def one_round(verb: str, moment: Moment, whole: Undisturbed, place: Path) -> list[str]:
    """Kills a job once and runs it again; every way in which something was lost, half written or made otherwise."""
    with folder_of(place) as folder:
        code, said = killed(verb, folder, moment)
        wrong = [fault] if (fault := ending(code, said, moment)) else []
        more, finished = left(verb, folder, whole)
        wrong += more
        again, said = quietly(verb, folder)
        if again:
            return [*wrong, f"the same command ends with {again}: {said[-300:]}"]
        for what, made in WORK.items():
            if made != whole.work[what] - finished[what]:
                wrong.append(f"makes {made} {what} where {whole.work[what] - finished[what]} are left")
        held = files(folder)
        wrong += [f"{name} is missing in the end" for name in sorted(whole.files.keys() - held.keys())]
        wrong += [f"{name} is left over in the end" for name in sorted(held.keys() - whole.files.keys())]
        wrong += [
            f"{name} differs" for name in sorted(whole.files.keys() & held.keys()) if whole.files[name] != held[name]
        ]
    return wrong


def some_rounds(
    count: int, seed: int, place: Path, verbs: list[str] | None = None, tell: Any = lambda line: None
) -> list[str]:  # fmt: skip
    """Kills jobs at random moments, one verb after another; every fault with how it came about."""
    draw, start, faults, known = random.Random(seed), seconds_to_start(), list[str](), dict[str, Undisturbed]()
    chosen = verbs or list(JOBS)
    for number in range(count):
        verb = chosen[number % len(chosen)]
        if verb not in known:
            known[verb] = undisturbed(verb, place)
        moment = draw_moment(draw, known[verb], start)
        wrong = one_round(verb, moment, known[verb], place)
        faults += [f"{verb}, {moment}: {one}" for one in wrong]
        tell(f"{number + 1}: {verb}, {moment}: {'; '.join(wrong) or 'well'}")
    return faults

"""`see` on several processes: the same files, whatever happens to a process."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import entoptic
from conftest import tiny_card, tiny_module
from entoptic.errors import UserError
from entoptic.inversion.configs import Steer
from entoptic.methods.contract import UNIT_KINDS
from entoptic.models.model import Model
from entoptic.runs import sweep
from entoptic.runs.execute import chunks, split
from entoptic.runs.listing import SEAL
from entoptic.runs.plan import make_plan
from entoptic.runs.status import status
from entoptic.runs.store import Run
from entoptic.workers.count import Workers
from entoptic.workers.local import LocalPool

TWO = Workers(count=2, threads=1)


def made(out: Path, workers: Workers | None, **more: Any) -> Run:
    options: dict[str, Any] = {
        "method": "fourier",
        "steps": 20,
        "batch_size": 2,
        "verifiers": "",
        "progress": False,
    } | more
    options = {name: value for name, value in options.items() if value is not None}
    model = Model(tiny_module(), tiny_card(), device="cpu")
    return entoptic.see(model, options.pop("units", "stage2:0-7"), out=out, workers=workers, **options)


def pixels(run: Run) -> dict[str, bytes]:
    """The bytes of every picture and of the list of them."""
    files = [*run.path.glob("pictures/*/*.png"), *run.path.glob("maps/*/*.png"), run.path / "metadata.jsonl"]
    return {file.relative_to(run.path).as_posix(): file.read_bytes() for file in files}


def records(run: Run) -> dict[str, Any]:
    """Every sidecar, without times and the hash of itself, which holds them."""
    found = {picture.path.name: {**picture.record, SEAL: ""} for picture in run}
    return {name: record | {"trace": {**record["trace"], "seconds": 0}} for name, record in found.items()}


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> list[LocalPool]:
    """The pools of local workers, as they are opened."""
    found: list[LocalPool] = []

    class Noted(LocalPool):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            found.append(self)

    monkeypatch.setattr("entoptic.workers.pools.LocalPool", Noted)
    return found


@pytest.fixture
def on_picture(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], None]], None]:
    """Has a function called after each picture that was stored by this process, with their number."""
    count = 0

    def watch(act: Callable[[int], None]) -> None:
        made = sweep._Keeper.made

        def noting(self: Any, piece: Any, value: Any) -> None:
            nonlocal count
            made(self, piece, value)
            count += 1
            act(count)

        monkeypatch.setattr(sweep._Keeper, "made", noting)

    return watch


@pytest.mark.slow
def test_two_processes_make_the_files_of_one(tmp_path: Path, photo_folder: Path) -> None:
    more: dict[str, Any] = {
        "method": "fourier,retrieval",
        "photos": str(photo_folder),
        "n": 2,
        "units": ["stage2:0-3", "logits:1"],
    }
    one, two = made(tmp_path / "one", None, **more), made(tmp_path / "two", TWO, **more)
    assert len(one) == 20
    assert pixels(one) == pixels(two)
    assert records(one) == records(two)
    context = [file.relative_to(one.path) for file in one.path.glob("context/*/*")]
    assert context
    assert all((two.path / file).is_file() for file in context)
    assert len(made(tmp_path / "two", None, **more)) == 20, "one process goes on from there, with nothing left to make"


@pytest.mark.slow
def test_workers_that_are_killed_cost_nothing(
    tmp_path: Path, pools: list[LocalPool], on_picture: Callable[[Callable[[int], None]], None]
) -> None:
    whole = made(tmp_path / "one", None, steps=60)

    def kill(count: int) -> None:
        if count in (2, 6):
            os.kill(next(iter(pools[0].processes.values())), signal.SIGKILL)

    on_picture(kill)
    killed = made(tmp_path / "two", TWO, steps=60)
    assert not killed.failures
    assert pixels(killed) == pixels(whole)


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done(
    tmp_path: Path, pools: list[LocalPool], on_picture: Callable[[Callable[[int], None]], None]
) -> None:
    def stop(count: int) -> None:
        if count == 2:
            raise KeyboardInterrupt

    on_picture(stop)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "run", TWO)
    assert not pools[0].processes
    assert len(Run.open(tmp_path / "run")) == 2
    assert status(tmp_path / "run").state == "interrupted"
    assert len(made(tmp_path / "run", None)) == 8


@pytest.fixture
def broken() -> Iterator[Any]:
    """The class of `broken_method`, registered for one test."""
    from broken_method import NAME, Broken, broken

    from entoptic.methods.contract import METHODS, method

    if NAME not in METHODS:
        method(NAME, Broken, paper="none", units=UNIT_KINDS)(broken)
    yield Broken
    del METHODS[NAME]


@pytest.mark.slow
def test_a_failure_is_listed_and_costs_no_other_picture(tmp_path: Path, broken: Any) -> None:
    with pytest.warns(UserWarning, match="stage2:1: nothing is to be had"):
        run = made(tmp_path / "run", TWO, method=broken(refuses="stage2:1"), units="stage2:0-3", steps=None)
    assert [picture.unit for picture in run] == ["stage2:0", "stage2:2", "stage2:3"]
    assert [(one.unit, one.method) for one in Run.open(run.path).problems] == [("stage2:1", "broken")]
    found = status(run.path)
    assert (found.made, found.failed, found.state) == (3, 1, "finished")
    assert [failure.text for failure in found.failures] == ["stage2:1: nothing is to be had"]


@pytest.mark.slow
def test_a_unit_that_kills_its_process_costs_no_other_picture(tmp_path: Path, broken: Any) -> None:
    with pytest.warns(UserWarning, match="stage2:1 by broken: a worker ended: it was ended by SIGKILL"):
        run = made(tmp_path / "run", TWO, method=broken(kills="stage2:1"), units="stage2:0-3", steps=None)
    assert [picture.unit for picture in run] == ["stage2:0", "stage2:2", "stage2:3"]


@pytest.mark.slow
def test_status_tells_while_it_runs(tmp_path: Path) -> None:
    seen = []
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            if (tmp_path / "run" / "progress.json").is_file():
                seen.append(status(tmp_path / "run"))
            time.sleep(0.05)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        made(tmp_path / "run", TWO, steps=300)
    finally:
        ended.set()
        looking.join()
    running = [one for one in seen if one.state == "running"]
    assert running
    assert running[0].asked == 8
    assert any(one.at_work and one.at_work[0].worker.startswith("worker") for one in running)
    after = status(tmp_path / "run")
    assert (after.state, after.made, after.failed, after.pictures) == ("finished", 8, 0, 8)
    assert after.pace
    assert after.workers == "2 workers"


def test_a_network_that_cannot_be_sent_is_refused(tmp_path: Path) -> None:
    module = tiny_module()
    module.register_forward_hook(lambda *given: None)
    model = Model(module, tiny_card(), device="cpu")
    with pytest.raises(UserError, match="workers cannot be sent what was given"):
        entoptic.see(
            model, "logits:0", method="fourier", steps=1, verifiers="", out=tmp_path, workers=2, progress=False
        )


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """The stored network, in a folder with its inverter and photos."""
    from tests.stored import asked

    for name in ("photos", "prior", "inverter"):
        shutil.copytree(asked.HERE / name, tmp_path / name)
    shutil.copy(asked.HERE / asked.DICTIONARY, tmp_path)
    monkeypatch.chdir(tmp_path)
    return Model(*asked.networks(asked.HERE)("0", True), device="cpu")


@pytest.mark.slow
def test_inversions_by_two_processes(stored: Model) -> None:
    def invert(out: str, workers: Workers | None) -> Run:
        return entoptic.invert(
            stored, "stage2", "photos", n=2, inverter="file:inverter", steps=2, verifiers="", batch_size=4, out=out,
            progress=False, workers=workers,
        )  # fmt: skip

    one, two = invert("one", None), invert("two", TWO)
    assert len(one) > 4
    assert pixels(one) == pixels(two)
    assert records(one) == records(two)
    assert (one.path / "inversion.json").exists() == (two.path / "inversion.json").exists()


@pytest.mark.slow
def test_steering_by_two_processes(stored: Model) -> None:
    def steer(out: str, workers: Workers | None) -> Run:
        config = Steer(n=2, level=0.4, scales=(0.0, 1.0, 2.0), nulls=4, steps=2)
        photos = ["photos/circle/0.png", "photos/dot/1.png"]
        return entoptic.steer(
            stored, "stage2", photos, dictionary="four.safetensors", concepts=(0, 2), inverter="file:inverter",
            config=config, out=out, progress=False, workers=workers,
        )  # fmt: skip

    one, two = steer("one", None), steer("two", TWO)
    assert len(one) == 4
    assert pixels(one) == pixels(two)
    assert records(one) == records(two)


def test_ten_thousand_units_are_planned_in_a_second_or_two(tmp_path: Path) -> None:
    """`benchmarks/workers.py` plans 100,000 and measures the memory too."""
    module = tiny_module()
    module.head = nn.Linear(16, 10_000)
    model = Model(module, tiny_card(labels=None), device="cpu")
    started = time.process_time()
    plan = make_plan(model, "logits:*", method="fourier", out=tmp_path, verifiers="")
    todo = split(plan.run, plan.entries(plan.jobs[0]))[1]
    batches = list(chunks(plan.jobs[0], todo, plan.batch_size))
    assert sum(map(len, batches)) == 10_000
    assert time.process_time() - started < 4, "it takes half a second where nothing else runs"

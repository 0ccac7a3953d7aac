"""What `entoptic status` says of a run while it is made, and after."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import entoptic
from entoptic.base.progress import Reporter
from entoptic.cli.main import main
from entoptic.errors import Unreadable, UserError
from entoptic.methods.contract import Failure
from entoptic.models.model import Model
from entoptic.runs.progress_file import FILE, AtWork, watching
from entoptic.runs.results import write_result
from entoptic.runs.status import status
from entoptic.runs.store import Run


@pytest.fixture
def run(tiny: Model, tmp_path: Path) -> Run:
    """A finished run of three pictures."""
    return entoptic.see(
        tiny, "logits:0-2", method="fourier", steps=1, verifiers="", out=tmp_path / "run", batch_size=2, progress=False
    )


def changed(run: Run, **entries: object) -> None:
    """Writes a progress file that says something else."""
    file = run.path / FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def test_a_finished_run(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    found = status(run.path)
    assert (found.state, found.asked, found.there, found.made, found.failed) == ("finished", 3, 0, 3, 0)
    assert found.pace is not None
    assert found.left is None
    assert main(["status", str(run.path)]) == 0
    printed = capsys.readouterr().out
    assert f"{run.path}: finished, 3 pictures in the run" in printed
    assert "fourier: 3 of 3 pictures" in printed
    assert main(["status", str(run.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["made"] == 3


def test_a_run_that_goes_on(run: Run, tiny: Model) -> None:
    entoptic.see(tiny, "logits:0-4", method="fourier", steps=1, verifiers="", out=run.path, progress=False)
    found = status(run.path)
    assert (found.asked, found.there, found.made, found.pictures) == (5, 3, 2, 5)


def test_a_repeated_request_leaves_the_status_of_the_job_before(run: Run, tiny: Model) -> None:
    before = (run.path / FILE).read_bytes()
    entoptic.see(tiny, "logits:0-2", method="fourier", steps=1, verifiers="", out=run.path, progress=False)
    assert (run.path / FILE).read_bytes() == before


def test_under_way_with_failures_and_time_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path / "run")
    with run.writing({"title": "a run"}), watching(run, Reporter(), "2 workers") as watch:
        task = watch.task("fourier", asked=10, there=2)
        task.made, task.failed = 3, 1
        watch.state.created -= 60
        run.problems = [Failure(unit="logits:3", method="fourier", text="logits:3 by fourier: nothing is to be had")]
        watch.at_work(
            [AtWork(worker="worker 1", method="fourier", units=("logits:5",) * 5, since=time.time() - 9, share=0.5)]
        )
        watch.write(now=True)
        found = status(run.path)
        assert found.state == "running"
        assert found.pace == pytest.approx(3, rel=0.05)
        assert found.left == pytest.approx(80, rel=0.05)
        main(["status", str(run.path)])
    printed = capsys.readouterr().out
    assert "running on 2 workers" in printed
    assert "fourier: 5 of 10 pictures, 2 there before, 1 failed" in printed
    assert "pace: 3.0 pictures a minute, 60 s so far, 80 s left" in printed
    assert "logits:5, logits:5, logits:5 and 2 more by fourier on worker 1, 50% after 9 s" in printed
    assert "failed: logits:3 by fourier: nothing is to be had" in printed


def test_how_a_job_ends_is_said(tmp_path: Path) -> None:
    for error, state in ((KeyboardInterrupt(), "interrupted"), (UserError("no"), "stopped")):
        run = Run(tmp_path / state)
        with (
            contextlib.suppress(KeyboardInterrupt, UserError),
            run.writing({"title": ""}),
            watching(run, Reporter()) as watch,
        ):
            watch.task("fourier", asked=1, there=0)
            raise error
        assert status(run.path).state == state


def test_a_killed_job_is_told_from_one_that_runs(run: Run) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as job:
        job.wait()
    changed(run, state="running", process=job.pid)
    assert status(run.path).state == "ended"
    changed(run, process=os.getpid())
    assert status(run.path).state == "running"


def test_a_job_on_another_machine_counts_as_running_while_it_is_heard_of(run: Run) -> None:
    changed(run, state="running", host="another", stamp=time.time() - 30)
    assert status(run.path).state == "running"
    changed(run, stamp=time.time() - 3600)
    assert status(run.path).state == "ended"


def test_a_run_of_an_older_version(run: Run) -> None:
    (run.path / FILE).unlink()
    found = status(run.path)
    assert (found.state, found.pictures) == ("unknown", 3)


@pytest.mark.parametrize(
    "entries",
    [
        {"tasks": 3},
        {"created": "now"},
        {"tasks": [{}]},
        {"failures": [{"unit": 1}]},
        {"host": None},
        {"state": "going"},
    ],
)
def test_a_damaged_progress_file_is_said(run: Run, entries: dict[str, object]) -> None:
    changed(run, **entries)
    with pytest.raises(Unreadable, match="damaged"):
        status(run.path)


def test_a_progress_file_that_leads_elsewhere_is_not_read(run: Run, tmp_path: Path) -> None:
    (run.path / FILE).unlink()
    (tmp_path / "else.json").write_text("{}")
    (run.path / FILE).symlink_to(tmp_path / "else.json")
    with pytest.raises(Unreadable, match="a link to what lies outside"):
        status(run.path)


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path)]) == 2
    assert "is no run folder" in capsys.readouterr().err


def test_results_that_are_no_pictures_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path / "run")
    with run.writing({}):
        for kind in ("circuit", "circuit", "atlas"):
            write_result(run, kind, "logits:0", f"{len(list(run.path.rglob('result.json')))}" * 64, files={})
    assert status(run.path).results == "3 results (1 of kind atlas, 2 of kind circuit)"
    assert main(["status", str(run.path)]) == 0
    assert "0 pictures and 3 results (1 of kind atlas, 2 of kind circuit) in the run" in capsys.readouterr().out
    assert main(["ls", str(run.path)]) == 0
    assert "3 results (1 of kind atlas, 2 of kind circuit); `entoptic gallery" in capsys.readouterr().out
    assert main(["merge", str(run.path), "--out", str(tmp_path / "all")]) == 0
    assert "3 results (1 of kind atlas, 2 of kind circuit) in" in capsys.readouterr().out


@pytest.mark.skipif(not Path("/proc/stat").is_file(), reason="when a process began is read from /proc")
def test_a_number_that_another_process_has_by_now_is_no_job(run: Run) -> None:
    changed(run, state="running", process=os.getpid(), stamp=time.time() - 1e6)
    assert status(run.path).state == "ended"
    changed(run, state="running", process=os.getpid(), stamp=time.time())
    assert status(run.path).state == "running"


@pytest.mark.parametrize("number", [0, -1, 2**50])
def test_a_number_that_no_process_has(run: Run, number: int) -> None:
    changed(run, state="running", process=number)
    assert status(run.path).state == "ended"

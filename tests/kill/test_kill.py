"""Jobs that are killed at random moments lose nothing; `python -m tests.kill` does the same at length."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from tests.kill import rounds
from tests.kill.jobs import JOBS, OPERATIONS, OUT
from tests.kill.rounds import Moment, files, left, one_round, some_rounds, undisturbed

from entoptic.cli.main import VERBS

pytest.importorskip("diffusers")


@pytest.mark.slow
def test_eight_jobs_killed(tmp_path: Path) -> None:
    assert some_rounds(8, 0, tmp_path, ["see", "index", "learn prior", "report"]) == []


def test_every_verb_that_makes_something_is_killed() -> None:
    # These copy and draw what is there, or write nothing.
    others = {"merge", "gallery", "figure", "export", "push", "pull", "verify", "check", "ls", "completion", "bench"}
    # Names in a study are random, and its server has rounds of its own: tests/study/test_build.py and test_kill.py.
    others |= {"study-build", "study-serve", "study-export", "study-simulate", "study-analyse", "study-power"}
    # A strip is made by the executor of `see`; an interrupted search for circuits is tested in tests/runs/test_circuit.py.
    others |= {"interpolate", "circuit"}
    # An interrupted pass over photos goes on from its cached blocks: tests/runs/test_patterns.py.
    others |= {"patterns"}
    # An interrupted atlas: tests/runs/test_atlas.py.
    others |= {"atlas"}
    # Trainings share the loop of the other `learn` verbs; tests/dictionaries/test_learn_dictionary.py stops one.
    others |= {"learn-dictionary", "split"}
    # It only reads.
    others |= {"status"}
    # What costs time is kept in the cache, and two files are written at the end: tests/names/test_name.py stops one.
    others |= {"name"}
    assert {verb.replace(" ", "-") for verb in JOBS} == VERBS.keys() - others


def test_what_is_lost_or_half_written_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = undisturbed("index", tmp_path)
    assert whole.work["blocks"] == 13
    assert OPERATIONS.root == ""

    def killed(verb: str, folder: Path, moment: Moment) -> tuple[int, str]:
        (folder / OUT).mkdir()
        (folder / OUT / "index.json").write_text("{")
        return 1, "Traceback"

    monkeypatch.setattr(rounds, "killed", killed)
    found = " ".join(one_round("index", Moment(signal.SIGKILL, operation=3), whole, tmp_path))
    assert "ends with 1" in found
    assert "is half written" in found
    assert "the same command ends with 2" in found


def test_a_picture_that_is_another_one_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = undisturbed("steer", tmp_path)
    pictures = [name for name in whole.files if name.startswith("out/pictures") and name.endswith(".png")]
    assert len(pictures) == whole.work["pictures"] == 4

    def killed(verb: str, folder: Path, moment: Moment) -> tuple[int, str]:
        for name, held in whole.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(held if isinstance(held, bytes) else json.dumps(held).encode())
        assert left(verb, folder, whole)[0] == []
        assert files(folder) == whole.files
        (folder / pictures[0]).write_bytes(b"another")
        (folder / OUT / "pictures" / "extra.txt").write_bytes(b"of nobody")
        return -9, ""

    monkeypatch.setattr(rounds, "killed", killed)
    found = " ".join(one_round("steer", Moment(signal.SIGKILL, operation=3), whole, tmp_path))
    assert f"{pictures[0]} is taken as finished and is another one" in found
    assert "makes 1 pictures where 0 are left" in found
    assert "out/pictures/extra.txt is left over in the end" in found

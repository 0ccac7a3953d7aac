"""Results that are no pictures, parts of a plan for other processes, and merging their runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from entoptic.base.progress import Reporter
from entoptic.errors import UserError
from entoptic.metrics.evidence import Evidence
from entoptic.models.model import Model
from entoptic.runs.execute import execute
from entoptic.runs.merge import merge_runs
from entoptic.runs.plan import make_plan
from entoptic.runs.results import find_result, read_results, write_result
from entoptic.runs.store import Run
from entoptic.runs.verify import verify

STORED = Path(__file__).parents[1] / "stored" / "runs"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "r")
    with run.writing({"title": "tiny"}):
        write_result(
            run, "circuit", "logits:0", "k1", files={"edges.json": b"[1, 2]"}, evidence=[Evidence("kept", 0.8, 10, (0.6, 0.9))],
            about={"unit": "logits:0"},
        )  # fmt: skip
    return run


def test_a_result_is_found_again_by_its_key(run: Run) -> None:
    found = find_result(run, "circuit", "logits:0", "k1")
    assert found is not None
    assert (found.kind, found.name, found.record["unit"]) == ("circuit", "logits:0", "logits:0")
    assert found.evidence["kept"]["value"] == 0.8
    assert found.file("edges.json").read_bytes() == b"[1, 2]"
    with pytest.raises(UserError, match=r"has no file graph; there are edges\.json"):
        found.file("graph")
    assert find_result(run, "circuit", "logits:0", "another") is None
    assert find_result(run, "pattern", "logits:0", "k1") is None


def test_a_changed_byte_is_found_and_not_taken_for_finished(run: Run, tiny: Model) -> None:
    (result,) = [result for result, _ in read_results(run)]
    assert result is not None
    assert verify(run, model=tiny).ok
    result.file("edges.json").write_bytes(b"[1, 3]")
    assert verify(run, model=tiny).drift == [
        "results/circuit/logits-0-k1: its file edges.json is missing or was changed"
    ]
    assert find_result(run, "circuit", "logits:0", "k1") is None


@pytest.mark.parametrize("damage", [
    lambda r: r.pop("files"), lambda r: r.update(files={"x": {"file": "../../run.json", "sha256": "0"}}),
    lambda r: r.update(evidence=3), lambda r: r.update(complete=False),
])  # fmt: skip
def test_a_damaged_record_is_said(run: Run, tiny: Model, damage: Any) -> None:
    path = run.path / "results" / "circuit" / "logits-0-k1" / "result.json"
    record = json.loads(path.read_text())
    damage(record)
    path.write_text(json.dumps(record))
    assert verify(run, model=tiny).drift == ["results/circuit/logits-0-k1: cannot be read"]


def test_two_processes_make_the_run_of_one(tiny: Model, tmp_path: Path) -> None:
    """Each makes the same plan and its part of the keys."""

    def plan(out: Path) -> Any:
        return make_plan(tiny, "logits:0-3", method="fourier", options={"steps": 2}, out=out, verifiers="")

    whole = execute(plan(tmp_path / "whole"), Reporter())
    keys = [entry.key for job in plan(tmp_path / "x").jobs for entry in plan(tmp_path / "x").entries(job)]
    parts = []
    for i in range(2):
        part = plan(tmp_path / f"part {i}").only(set(keys[i::2]))
        parts.append(execute(part, Reporter()))
        assert len(parts[-1]) == 2
    merged = merge_runs(parts, tmp_path / "merged")

    def contents(run: Run) -> dict[str, bytes]:
        return {p.path.relative_to(run.path).as_posix(): p.path.read_bytes() for p in run}

    alone = {p.unit: p.pixels.tobytes() for p in whole}
    assert contents(merged).keys() == contents(whole).keys()
    assert {p.unit for p in merged} == alone.keys()
    assert verify(merged, model=tiny).ok
    # The same request on the merged run makes nothing.
    again = execute(replace(plan(tmp_path / "merged")), Reporter())
    assert contents(again) == contents(merged)


def test_merging_keeps_maps_results_and_what_is_there(tmp_path: Path) -> None:
    runs = [STORED / name for name in ("see", "invert", "steer")]
    with Run(tmp_path / "own").writing({}):
        write_result(Run(tmp_path / "own"), "circuit", "a", "k", files={"f": b"x"})
    merged = merge_runs([*runs, tmp_path / "own"], tmp_path / "m")
    assert len(merged) == sum(len(Run.open(run)) for run in runs)
    for picture in merged:
        for entry in (picture.record.get("maps") or {}).values():
            assert (merged.path / entry["file"]).is_file()
    assert [result.name for result, _ in read_results(merged) if result is not None] == ["a"]
    before = {file: file.stat().st_mtime_ns for file in merged.path.glob("pictures/**/*")}
    merge_runs(runs, tmp_path / "m")
    assert {file: file.stat().st_mtime_ns for file in merged.path.glob("pictures/**/*")} == before


def test_merging_takes_nothing_damaged_and_nothing_from_outside(tmp_path: Path) -> None:
    shutil.copytree(STORED / "invert", tmp_path / "r")
    first, second, *_ = Run.open(tmp_path / "r")
    first.path.write_bytes(b"no picture")
    (tmp_path / "secret.png").write_bytes(b"secret")
    record = json.loads(second.path.with_suffix(".json").read_text())
    record["maps"] = {"pair": {"file": "../secret.png", "sha256": "0"}}
    second.path.with_suffix(".json").write_text(json.dumps(record))
    merged = merge_runs([tmp_path / "r"], tmp_path / "m")
    assert len(merged) == len(Run.open(tmp_path / "r")) - 2
    assert [text.split(": ", 1)[1] for text in merged.failures] == [
        f"{picture.path.relative_to(tmp_path / 'r')}: it is damaged or not finished" for picture in (first, second)
    ]
    assert not list(tmp_path.glob("m/**/secret*"))
    with pytest.raises(UserError, match="is no run folder"):
        merge_runs([tmp_path / "nowhere"], tmp_path / "n")

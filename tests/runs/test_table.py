"""One picture in its three forms, and the table of a run of every kind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from entoptic import Run
from entoptic.methods.contract import Failure, FailureCode
from entoptic.metrics.evidence import Evidence
from entoptic.models.model import Model
from entoptic.runs.failures import keep_failures, read_failures, write_failures
from entoptic.runs.merge import merge_runs
from entoptic.runs.results import write_result
from entoptic.runs.see import see
from entoptic.runs.table import Row, schema
from fake_run import FakeRun, evidence

STORED = Path(__file__).parents[1] / "stored" / "runs"
KINDS = ("see", "frontier", "invert", "steer")


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    return Path(shutil.copytree(STORED, tmp_path / "runs"))


def test_a_picture_is_an_image_an_array_and_a_tensor() -> None:
    picture = Run.open(STORED / "see")[0]
    array, image, tensor = picture.array, picture.image, picture.tensor
    assert (array.dtype, array.shape, image.mode, image.size) == (np.uint8, (32, 32, 3), "RGB", (32, 32))
    assert (tensor.dtype, tuple(tensor.shape)) == (torch.float32, (3, 32, 32))
    assert np.array_equal(np.asarray(image), array)
    assert torch.equal((tensor * 255).round().byte().permute(1, 2, 0), torch.from_numpy(array))
    assert 0 <= float(tensor.min()) <= float(tensor.max()) <= 1
    array[:] = 0  # a copy: the picture stays as it is
    assert np.array_equal(picture.array, picture.pixels)
    assert picture.array.any()
    assert (picture.label, picture.seed) == ("circle", 0)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_has_the_same_table(kind: str) -> None:
    run = Run.open(STORED / kind)
    table = run.table()
    assert table.schema == schema()
    assert table.column_names == list(Row.__annotations__)
    rows = [row for row in table.to_pylist() if row["kind"] == "picture"]
    assert len(rows) == sum(len(picture.record["evidence"]) for picture in run)
    by_key = {picture.record["key"]: picture for picture in run}
    for row in rows:
        picture = by_key[row["key"]]
        entry = picture.evidence[row["evidence"]]
        assert (row["value"], row["n"]) == (entry["value"], entry["n"])
        assert [row["low"], row["high"]] == (entry["interval"] or [None, None])
        assert (row["unit"], row["method"], row["seed"]) == (picture.unit, picture.method, picture.record["seed"])
        assert (run.path / row["file"]).is_file()
        assert (row["note"] is None) <= (row["value"] is not None)


def test_a_table_marks_what_other_networks_measured() -> None:
    marks = {row["evidence"]: row["independent"] for row in Run.open(STORED / "see").table().to_pylist()}
    assert {name for name, mark in marks.items() if mark} == {"transfer_top1", "transfer_top5", "transfer_probability"}
    assert marks["activation"] is False
    assert marks["nats"] is False
    inverted = {row["evidence"]: row["independent"] for row in Run.open(STORED / "invert").table().to_pylist()}
    assert (inverted["others_match_top1"], inverted["match_top1"]) == (True, False)


def test_a_measurement_that_is_not_known_has_no_mark_and_damaged_numbers_no_place(fake: FakeRun) -> None:
    fake.add(evidence=[evidence("mine", 2.0, interval="wide", n=None), evidence("huge", 1.0, n=2**63)], seed="x")
    mine, huge = Run.open(fake.folder).table().to_pylist()
    assert (mine["independent"], mine["low"], mine["high"], mine["n"], mine["seed"]) == (None, None, None, None, None)
    assert huge["n"] is None


def test_an_upper_bound_and_a_selection_are_said(fake: FakeRun) -> None:
    fake.add(evidence=[
        evidence("nats", 2.0, detail={"kl_is": "upper_bound"}), evidence("cosine", 0.9, detail={"selected": "cosine"}),
        evidence("rank", None, reason="no layer"),
    ])  # fmt: skip
    notes = [row["note"] for row in Run.open(fake.folder).table().to_pylist()]
    assert notes == ["upper bound", "the picture was chosen among several by it or by what it is made of", "no layer"]


def test_the_table_of_a_frontier_holds_the_methods_places(stored: Path) -> None:
    run = Run.open(stored / "frontier")
    record = json.loads((run.path / "frontier" / "logits-0.json").read_text())
    rows = [row for row in run.table().to_pylist() if row["kind"] == "place"]
    found = {(row["method"], row["evidence"]): row["value"] for row in rows}
    for place in record["places"]:
        assert found[place["title"], "mean_score"] == place["mean"]["value"]
    bounds = {row["method"]: row["note"] for row in rows if row["evidence"] == "nats" and row["note"] == "lower bound"}
    assert set(bounds) == {place["title"] for place in record["places"] if place["kind"] == "bounds" and place["nats"]}
    damaged = record | {"places": 3, "failures": None, "asked": []}
    (run.path / "frontier" / "logits-0.json").write_text(json.dumps(damaged))
    assert not [row for row in run.table().to_pylist() if row["kind"] == "place"]


def test_the_table_holds_sets_results_failures_and_damage(stored: Path) -> None:
    run = Run.open(stored / "invert")
    entry = Evidence("frechet", 12.0, 60, None, "lower").to_json()
    match = Evidence("match_top1", 0.5, 60, (0.4, 0.6)).to_json()
    record = {
        "model": {"name": "tiny:0"}, "layer": "stage2", "seed": 0, "means": [Evidence("cosine", 0.5, 9).to_json()],
        "distances": {"features": "tiny:7", "evidence": [entry]}, "cross_match": {"tiny:0": [match], "tiny:7": [match]},
    }  # fmt: skip
    (run.path / "inversion.json").write_text(json.dumps(record))
    with run.writing({}):
        write_result(run, "circuit", "logits:0", "k", files={}, evidence=[Evidence("kept", 0.8, 10, (0.6, 0.9))])
        write_failures(run, [Failure(unit="logits:3", method="vital", text="no photo")])
    run[0].path.with_suffix(".json").write_text("{")
    rows = Run.open(run.path).table().to_pylist()
    together = [(row["evidence"], row["independent"], row["note"]) for row in rows if row["kind"] == "set"]
    assert together == [
        ("cosine", False, None), ("frechet", True, "of tiny:7"), ("match_top1", False, "of tiny:0"),
        ("match_top1", True, "of tiny:7"),
    ]  # fmt: skip
    (result,) = [row for row in rows if row["kind"] == "result"]
    assert (result["method"], result["unit"], result["value"], result["high"]) == ("circuit", "logits:0", 0.8, 0.9)
    failed = [row for row in rows if row["kind"] == "failure"]
    assert [(row["unit"], row["method"]) for row in failed] == [("logits:3", "vital"), (None, None)]
    assert "cannot be read" in failed[1]["note"]


def test_a_data_frame_of_it(stored: Path) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    frame = Run.open(stored / "see").table().to_pandas()
    best = frame[frame.evidence == "transfer_probability"].groupby("method").value.mean()
    assert best.dropna().between(0, 1).all()
    assert best.isna().sum() == 1  # the student was the only verifier


# --- failures that a run keeps ---------------------------------------------------------------------------------------


def test_a_failure_is_kept_until_its_unit_is_asked_for_again(tiny: Model, tmp_path: Path) -> None:
    options = {"verifiers": "", "progress": False, "out": tmp_path / "r", "steps": 2}
    with pytest.warns(UserWarning, match="needs real photos"):
        run = see(tiny, ["logits:0", "logits:1"], method="fourier,vital", **options)  # vital needs photos
    assert {failure.unit for failure in run.problems} == {"logits:0", "logits:1"}
    again = Run.open(run.path)
    assert again.problems == run.problems
    assert again.failures == run.failures
    assert [row["note"] for row in again.table().to_pylist() if row["kind"] == "failure"] == [
        failure.text for failure in run.problems
    ]
    see(tiny, "logits:2", method="fourier", **options)
    assert Run.open(run.path).problems == run.problems
    see(tiny, "logits:0", method="fourier", **options)
    assert {failure.unit for failure in Run.open(run.path).problems} == {"logits:1"}


def test_failures_of_methods_and_of_whole_requests(tmp_path: Path) -> None:
    run = Run(tmp_path / "r")
    kept = Failure(unit="u", method="maco", code=FailureCode.NOT_FINITE, text="a")
    with run.writing({}):
        keep_failures(run, [], [])
        assert not (run.path / "failures.json").exists()
        write_failures(run, [kept, Failure(text="whole"), Failure(unit="u", method="vital", text="b")])
        keep_failures(run, [("u", "vital")], [])
    assert read_failures(run) == [kept]


def test_a_damaged_list_of_failures_is_said(tmp_path: Path) -> None:
    with Run(tmp_path / "r").writing({}):
        pass
    for text in ("{", '{"failures": [3]}', '{"failures": [{"unit": 3}]}'):
        (tmp_path / "r" / "failures.json").write_text(text)
        (failure,) = Run.open(tmp_path / "r").problems
        assert failure.code == FailureCode.UNREADABLE
    (tmp_path / "r" / "failures.json").unlink()
    (tmp_path / "else.json").write_text('{"failures": []}')
    (tmp_path / "r" / "failures.json").symlink_to(tmp_path / "else.json")
    assert "link" in Run.open(tmp_path / "r").failures[0]


def test_merging_keeps_failures(tmp_path: Path) -> None:
    for name in ("a", "b"):
        run = Run(tmp_path / name)
        with run.writing({}):
            write_failures(run, [Failure(unit=name, text=name), Failure(unit="both", text="both")])
    merged = merge_runs([tmp_path / "a", tmp_path / "b"], tmp_path / "m")
    assert [failure.unit for failure in Run.open(merged.path).problems] == ["a", "both", "b"]


def test_places_of_every_kind_have_rows(fake: FakeRun) -> None:
    fake.add()
    fake.cost()
    rows = [row for row in Run.open(fake.folder).table().to_pylist() if row["kind"] == "place"]
    assert {row["evidence"] for row in rows} == {"mean_score", "nats", "path_nats", "excess_nats"}

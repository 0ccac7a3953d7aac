"""Runs of earlier versions are verified as they are, and pictures of earlier requests are told apart from those asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from entoptic.base.progress import Reporter
from entoptic.gallery.site import build
from entoptic.models.model import Model
from entoptic.runs.earlier_forms import earlier_identity
from entoptic.runs.execute import execute
from entoptic.runs.listing import MARK, SEAL
from entoptic.runs.plan import make_plan
from entoptic.runs.see import see
from entoptic.runs.store import Run
from entoptic.runs.verify import verify


def made_earlier(run: Run, change: Callable[[dict[str, Any]], Any] = lambda record: None) -> Run:
    """Takes away what earlier versions did not write: hashes of records, the list of files and its mark."""
    for file in run.path.glob("pictures/*/*.json"):
        record = json.loads(file.read_text())
        record.pop(SEAL)
        change(record)
        file.write_text(json.dumps(record))
    about = json.loads((run.path / "run.json").read_text())
    about.pop(MARK)
    (run.path / "run.json").write_text(json.dumps(about))
    for name in ("files.json", "progress.json", "metadata.jsonl"):
        (run.path / name).unlink()
    return Run.open(run.path)


@pytest.fixture
def made(tiny: Model, photo_folder: Path, tmp_path: Path) -> Run:
    return see(
        tiny,
        "logits:0",
        method="fourier",
        steps=2,
        photos=photo_folder,
        out=tmp_path / "r",
        progress=False,
        verifiers="",
    )


def test_a_run_without_hashes_is_as_recorded_and_says_what_is_not_checked(made: Run, tiny: Model) -> None:
    assert verify(made, model=tiny).notes == []
    found = verify(made_earlier(made), model=tiny)
    assert found.ok
    assert len(found.notes) == 2
    assert "kept no list of its files" in found.notes[0]
    assert "1 record of a version that kept no hash of it" in found.notes[1]
    assert "kept no hash" in found._repr_html_()


def test_metrics_that_are_younger_than_the_first_evidence_are_not_missed(made: Run, tiny: Model) -> None:
    def first(record: dict[str, Any]) -> None:
        del record["measured_with"]["evidence"]
        later = ("selectivity", "relevance_agreement", "causal", "nats", "specificity", "two_afc", "klsc_guidance")
        record["evidence"] = [one for one in record["evidence"] if one["name"] not in later]

    assert verify(made_earlier(made, first), model=tiny).ok


def test_options_that_are_gone_are_said_and_are_no_difference_where_records_had_no_hash(made: Run, tiny: Model) -> None:
    def older(record: dict[str, Any]) -> None:
        record["config"]["natural_layers"] = 3

    found = verify(made_earlier(made, older), model=tiny)
    assert found.ok
    assert any("its key is of an earlier form of fourier" in line for line in found.skipped)


def test_options_that_are_gone_differ_in_a_record_with_a_hash(made: Run, tiny: Model) -> None:
    (picture,) = made
    record = picture.record | {"config": {**picture.record["config"], "natural_layers": 3}}
    made.write_record(picture.path, record)
    assert any("its settings are none of fourier" in line for line in verify(made, model=tiny).drift)


def test_a_key_holds_what_its_record_holds(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    """An option that came with another meaning for its default was no part of earlier keys."""
    plan = make_plan(
        tiny, "logits:0", method="fourier", options={"steps": 2}, photos=photo_folder, out=tmp_path / "r", verifiers=""
    )
    (job,) = plan.jobs
    shorter = {name: value for name, value in job.config_identity.items() if name != "decay"}
    job.__dict__["config_identity"] = shorter
    run = made_earlier(execute(plan, Reporter()), lambda record: record["config"].pop("decay"))
    assert verify(run, model=tiny).ok


# --- other options -------------------------------------------------------------------------------------------------


class Told(Reporter):
    """Keeps what is said once."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def request(tiny: Model, folder: Path, **changes: Any) -> list[str]:
    given: dict[str, Any] = {"units": "logits:0", "n": 1, "seed": 0, "options": {"steps": 2}} | changes
    units, told = given.pop("units"), Told()
    execute(make_plan(tiny, units, method="fourier", out=folder, verifiers="", **given), told)
    return [line for line in told.lines if "earlier picture" in line]


def test_pictures_of_other_options_are_named_once(tiny: Model, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    assert request(tiny, folder, n=2) == []
    assert request(tiny, folder, n=3, seed=1) == []  # another seed, and more samples
    (line,) = request(tiny, folder, options={"steps": 3, "lr": 0.2})
    assert line == f"5 earlier pictures made with other options stay in {folder}: steps 2, lr 0.05"
    assert request(tiny, folder, options={"steps": 3, "lr": 0.2}) == []  # nothing was made
    assert request(tiny, folder, units="logits:1") == []
    (line,) = request(tiny, folder, n=2, options={"steps": 4})
    assert line.endswith("steps 2 (5); steps 3, lr 0.2 (1)")
    assert line.startswith("6 earlier pictures")


def test_one_picture_whose_key_is_of_an_earlier_version_is_named(tiny: Model, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    request(tiny, folder)
    (picture,) = Run.open(folder)
    stem = picture.path.with_name("fourier-0-0123456789ab.png")
    picture.path.rename(stem)
    picture.path.with_suffix(".json").unlink()
    Run(folder).write_record(stem, picture.record | {"key": "0123456789ab" * 5})
    (line,) = request(tiny, folder)
    assert line.startswith("1 earlier picture made with other options stays in")
    assert "made by an earlier version, or with other photos or networks" in line


def test_the_gallery_tells_them_apart(tiny: Model, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    request(tiny, folder, n=2)
    request(tiny, folder, n=1, options={"steps": 3})
    build(folder)
    (page,) = (file for file in (folder / "gallery").glob("unit-*.html"))
    text = page.read_text()
    assert text.count("steps 2") >= 2  # also of the second sample, which has no other picture
    assert "steps 3" in text


class Loaded:
    """An inverter as far as its identity goes."""

    identity, earlier_identity = "now", "then"


def test_an_inverter_is_known_by_its_earlier_identity() -> None:
    assert earlier_identity(Loaded()) == "then"  # type: ignore[arg-type]
    assert earlier_identity(object()) is None  # type: ignore[arg-type]

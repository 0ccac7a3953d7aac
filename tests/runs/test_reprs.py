"""What notebooks show holds no markup of others: names, labels and messages are escaped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conftest import tiny_card, tiny_module
from entoptic import Photos, Run
from entoptic.images.build_index import build_index
from entoptic.images.preflight import Candidate, Preflight
from entoptic.methods.contract import Failure
from entoptic.models.model import Model
from entoptic.runs.frontier import FrontierResult
from entoptic.runs.verify import Verification
from entoptic.units.unit import bind

BAD = "<script>alert('x')</script>\"&"
STORED = Path(__file__).parents[1] / "stored"


def evil(value: Any) -> Any:
    """A record in which every text is markup, but for what is compared."""
    if isinstance(value, dict):
        return {k: v if k in ("file", "sha256", "kind", "slug", "name") else evil(v) for k, v in value.items()}
    if isinstance(value, list):
        return [evil(one) for one in value]
    return BAD if isinstance(value, str) else value


def shown(thing: Any) -> str:
    html = thing._repr_html_()
    assert "<script" not in html
    assert "alert('x')" not in html
    return html


@pytest.fixture
def model() -> Model:
    labels = tuple(f"{BAD}{i}" for i in range(5))
    return Model(tiny_module(), tiny_card(name=BAD, labels=labels, licence=BAD), device="cpu")


def test_a_model_and_its_units(model: Model) -> None:
    shown(model)
    (unit,) = bind(model, "logits:1")
    assert "&lt;script&gt;" in shown(unit)


def test_photos_and_an_index(model: Model, photo_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(photo_folder, tmp_path / BAD.replace("/", ""))
    shown(Photos.open(folder))
    shown(build_index(model, folder, ["stage1", "logits"], out=tmp_path / "index"))


def test_a_verification_and_a_preflight() -> None:
    shown(Verification(drift=[BAD], skipped=[BAD]))
    candidate: Any = SimpleNamespace(name=BAD, correct=None, deviation=None, confidence=0.5)
    assert isinstance(candidate, SimpleNamespace | Candidate)
    fields = dict.fromkeys(Preflight.__dataclass_fields__) | {"message": BAD, "n": 1, "candidates": (candidate,)}
    shown(Preflight(**fields))  # type: ignore[arg-type]


def test_a_run_and_its_pictures(tmp_path: Path) -> None:
    run = Run.open(shutil.copytree(STORED / "runs" / "see", tmp_path / "run"))
    for sidecar in run.path.glob("pictures/*/*.json"):
        record = evil(json.loads(sidecar.read_text()))
        sidecar.write_text(json.dumps(record | {"model": {"name": BAD}}))
    run.problems = [Failure(text=BAD)]
    assert len(run)
    assert "&lt;script&gt;" in shown(run)
    shown(run[0])


def test_a_frontier() -> None:
    record = evil(json.loads((STORED / "runs" / "frontier" / "frontier" / "logits-0.json").read_text()))
    for whole in (record, record | {"frontier": None, "places": []}):
        shown(FrontierResult(unit=BAD, folder=Path(BAD), record=whole | {"failures": [BAD]}))

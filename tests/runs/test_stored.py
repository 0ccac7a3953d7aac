"""A run that version 0.1.0 stored is read, resumed without making anything, and verified.

It lies in `tests/stored`, whose `asked` holds the requests that made it and whose `make` says how. Networks, prior,
inverter and dictionary are files beside it, so its keys are the same on every machine. The cache holds the samples that
the frontier is drawn from, which are no pictures of the run.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.stored import asked

import entoptic
from entoptic import METHODS, Picture, Run
from entoptic.inversion.saved import load_inverter
from entoptic.metrics import METRICS
from entoptic.models.sources import SOURCES

pytest.importorskip("diffusers")

RUNS = tuple(asked.REQUESTS)
PICTURES = {"see": 21, "frontier": 4, "invert": 10, "steer": 2}


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the stored folder, which is the working directory: paths in its sidecars are relative."""
    folder = tmp_path / "stored"
    folder.mkdir()
    for name in asked.FOLDERS:
        shutil.copytree(asked.HERE / name, folder / name)
    shutil.copy(asked.HERE / asked.DICTIONARY, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ENTOPTIC_CACHE", str(folder / "cache"))
    monkeypatch.setitem(SOURCES, "tiny", asked.networks(folder))
    return folder


def pictures(name: str) -> list[Picture]:
    return list(Run.open(Path("runs") / name))


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Of what a request must leave alone: pictures, their sidecars and maps, and the photos beside them."""
    kept = (path for part in ("pictures", "maps", "context") for path in (folder / part).rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in kept}


def rows(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.decode().splitlines()]


def close(a: Any, b: Any) -> bool:
    """Whether two JSON values are the same but for rounding: of another machine, and of t quantiles (now 3 decimals)."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(close(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(close, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=2e-3, abs_tol=2e-3)
    return a == b


# --- (a) it is read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNS)
def test_every_picture_is_read_with_its_evidence(stored: Path, name: str) -> None:
    run = Run.open(stored / "runs" / name)
    assert run.about["format"] == 1
    assert run.about["title"] == asked.MODEL
    assert [problem for _, problem in run.read() if problem] == []
    found = {
        (name, picture.path.relative_to(run.path).as_posix()): (
            hashlib.sha256(picture.path.read_bytes()).hexdigest(), picture.record["key"],
        )
        for picture in run
    }  # fmt: skip
    expected = {(e["run"], e["file"]): (e["sha256"], e["key"]) for e in asked.expected() if e["run"] == name}
    assert found == expected
    assert len(found) == PICTURES[name]
    for picture in run:
        assert picture.pixels.shape[2] == 3
        assert picture.evidence
        assert any(picture[measurement] is not None for measurement in picture.evidence)
        for entry in (picture.record.get("maps") or {}).values():
            assert hashlib.sha256((run.path / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]


HEADLINES = {"see": "drives the unit more than", "frontier": "drives the unit more than", "invert": "to the map"}


@pytest.mark.parametrize("name", RUNS)
def test_headlines_and_the_gallery(stored: Path, name: str) -> None:
    for picture in pictures(name):
        assert HEADLINES.get(name, "") in picture._repr_html_()
    index = entoptic.make_gallery(stored / "runs" / name)
    pages = "".join(page.read_text() for page in (index, *index.parent.glob("unit-*.html")))
    for picture in pictures(name):
        assert picture.path.name in pages


# --- (b) it is resumed ---------------------------------------------------------------------------------------------


def refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever makes a picture, samples a prior or draws from an inverter raises."""

    def made(what: str) -> Callable[..., Any]:
        def function(*_: Any, **__: Any) -> Iterator[Any]:
            raise AssertionError(f"{what} was asked for a picture that is stored")

        return function

    for name, card in METHODS.items():
        monkeypatch.setitem(METHODS, name, replace(card, function=made(name)))
    inverter = load_inverter(asked.INVERTER, device="cpu")
    monkeypatch.setattr(type(inverter), "sample", made("the inverter"))
    monkeypatch.setattr(type(inverter.prior), "denoise", made("the prior"))


REPEATED = tuple(name for name in RUNS if name != "steer")
"""Requests that later versions answer with the stored pictures. Of edits they make others, by another test of chance."""


NEWLY_MEASURED = ("see", "frontier")
"""Runs of units: asking for their pictures again measures what there was no metric for when they were made."""
LATER = {name for name, card in METRICS.items() if card.since > 3}


def evidence_of(data: bytes) -> dict[str, Any]:
    kept = ("value", "n", "interval", "direction")
    return {entry["name"]: {k: entry[k] for k in kept} for entry in json.loads(data)["evidence"]}


def unmeasured(path: str, data: bytes) -> Any:
    """What a file holds beside measurements."""
    if not path.endswith(".json") or "measured_with" not in (record := json.loads(data)):
        return data
    return {k: v for k, v in record.items() if k not in ("evidence", "measured_with")}


@pytest.mark.parametrize("name", REPEATED)
def test_the_same_request_makes_nothing(stored: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    folder = stored / "runs" / name
    before = files(folder)
    told = {path: path.read_bytes() for path in (folder / "run.json", folder / "metadata.jsonl")}
    record = json.loads((folder / "frontier" / "logits-0.json").read_text()) if name == "frontier" else None
    refuse(monkeypatch)
    asked.REQUESTS[name]()
    again = files(folder)
    assert again.keys() == before.keys()
    for path, (_, data) in before.items():
        assert unmeasured(path, again[path][1]) == unmeasured(path, data)
        if name in NEWLY_MEASURED and unmeasured(path, data) is not data:
            old, new = (evidence_of(one) for one in (data, again[path][1]))
            assert list(new.keys() - old.keys()) != []
            assert new.keys() - old.keys() <= LATER
            assert close({one: new[one] for one in old}, old)
        else:
            assert again[path] == before[path]
    asked.REQUESTS[name]()
    assert files(folder) == again
    # `metadata.jsonl` is written anew: since then each row holds the picture's hash, and what was measured later.
    assert (folder / "run.json").read_bytes() == told[folder / "run.json"]
    assert [
        {k: v for k, v in row.items() if k not in {"sha256", *LATER}}
        for row in rows((folder / "metadata.jsonl").read_bytes())
    ] == rows(told[folder / "metadata.jsonl"])
    if record is not None:
        assert close(json.loads((folder / "frontier" / "logits-0.json").read_text()), record)


def test_edits_of_both_tests_of_chance_stand_side_by_side(stored: Path) -> None:
    folder = stored / "runs" / "steer"
    before, old = files(folder), {p.record["key"]: p for p in pictures("steer")}
    asked.steer()
    assert before.items() <= files(folder).items()
    new = [p for p in pictures("steer") if p.record["key"] not in old]
    assert len(old) == len(new) == 2
    for picture in new:
        (earlier,) = [p for p in old.values() if p.unit == picture.unit]
        assert abs(picture.pixels.astype(int) - earlier.pixels).max() <= 1  # the shown edit is the same
        assert picture.record["steering"]["calibration"]["version"] == 2
        assert "version" not in earlier.record["steering"]["calibration"]
        unmoved = ("attenuation", "leakage", "logit_change", "map_cosine")
        one, other = ({e["name"]: e["value"] for e in p.record["evidence"]} for p in (picture, earlier))
        assert [one[name] for name in unmoved] == pytest.approx([other[name] for name in unmoved], abs=2e-3)
    found = entoptic.verify(folder, device="cpu")
    assert found.drift == []
    assert found.skipped == []
    assert found.pictures == 4
    keys = {p.record["key"] for p in pictures("steer")}
    asked.steer()
    assert {p.record["key"] for p in pictures("steer")} == keys


@pytest.mark.parametrize(("version", "said"), [(2, "key does not follow"), (7, "of version 7")])
def test_a_record_that_names_another_test_is_noticed(stored: Path, version: int, said: str) -> None:
    first = pictures("steer")[0]
    record = json.loads(first.path.with_suffix(".json").read_text())
    record["steering"]["calibration"]["version"] = version
    first.path.with_suffix(".json").write_text(json.dumps(record))
    found = entoptic.verify(Path("runs") / "steer", device="cpu")
    assert said in "\n".join(found.drift + found.skipped)


def test_refusing_would_be_noticed(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its stored pictures, each request asks for what `refuse` refuses."""
    refuse(monkeypatch)
    for name, request in asked.REQUESTS.items():
        shutil.rmtree(stored / "runs" / name)
        if name == "frontier":
            shutil.rmtree(stored / "cache")
        with pytest.raises(AssertionError, match="that is stored"):
            request()


# --- (c) and (d) it is verified ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNS)
def test_every_number_comes_out_again(stored: Path, name: str) -> None:
    found = entoptic.verify(Path("runs") / name, device="cpu")
    assert found.drift == []
    assert found.ok
    assert found.skipped == []
    assert found.pictures == PICTURES[name]
    # What a sampler said of its law cannot be told from a picture, and is not counted.
    evidence = [entry for picture in pictures(name) for entry in picture.record["evidence"] if entry["name"] != "nats"]
    assert found.numbers == len(evidence)


EDITED = ("see", "frontier", "invert", "steer")


@pytest.mark.parametrize("name", EDITED)
def test_an_edited_number_and_an_edited_picture_are_found(stored: Path, name: str) -> None:
    first, second, *rest = pictures(name)[:3]  # the run of steering holds two
    record = json.loads(first.path.with_suffix(".json").read_text())
    entry = next(e for e in record["evidence"] if e["value"] is not None)
    entry["value"] += 0.01
    first.path.with_suffix(".json").write_text(json.dumps(record))
    pixels = second.pixels
    pixels = pixels.copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(second.path)
    for third in rest:
        data = bytearray(third.path.read_bytes())
        data[-1] ^= 1  # of the checksum of its end, which changes no pixel
        third.path.write_bytes(bytes(data))
    found = entoptic.verify(Path("runs") / name, device="cpu")
    assert not found.ok
    drift = "\n".join(found.drift)
    assert f"{first.path.name}: {entry['name']} says" in drift
    for changed in (second, *rest):
        assert f"{changed.path.name}: the picture was changed" in drift

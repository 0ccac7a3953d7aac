"""The run folder: atomic, locked, content-addressed, and a valid Hugging Face imagefolder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from entoptic.base import files
from entoptic.errors import UserError
from entoptic.methods.contract import Failure
from entoptic.models.model import Model
from entoptic.runs.see import see
from entoptic.runs.store import Picture, Run
from entoptic.units.unit import slug

ABOUT = {"title": "t", "model": {"name": "m"}}


def record(**more: Any) -> dict[str, Any]:
    return {
        "unit": 'logits:"ü"', "method": "m", "sample": 0, "model": {"name": "net"}, "key": "k", "complete": True,
        "evidence": [{"name": "activation", "value": 1.5, "n": 1}], **more,
    }  # fmt: skip


def pixels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8)


def written(folder: Path) -> tuple[Run, Picture]:
    run = Run(folder)
    with run.writing(ABOUT):
        picture = run.write(run.file("u", "m-0"), pixels(), record())
    return run, picture


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    run, picture = written(tmp_path / "r")
    (again,) = Run.open(tmp_path / "r")
    assert np.array_equal(again.pixels, pixels())
    assert again.record == picture.record
    assert (again.unit, again.method, again.sample, again["activation"]) == ('logits:"ü"', "m", 0, 1.5)
    assert run.finished(picture.path, "k") == again.record
    assert run.finished(picture.path, "other") is None
    assert again.record["image"]["width"] == 7
    with Image.open(picture.path) as image:
        assert image.text["entoptic:unit"] == 'logits:"ü"'  # type: ignore[attr-defined]
    assert len(run) == 1
    assert run[0].path == picture.path
    assert json.loads((tmp_path / "r" / "run.json").read_text())["title"] == "t"
    with pytest.raises(UserError, match='no evidence "activatoin"; did you mean "activation"'):
        again["activatoin"]


def test_names_that_are_not_utf8_are_written_escaped_and_read_back(tmp_path: Path) -> None:
    unit, photo = "fmap(stage1)<caf\udce9.png>", {"name": "caf\udce9.png", "label": "ü\udcff"}
    run = Run(tmp_path / "r")
    with run.writing(ABOUT | {"photos": "b\udcff"}):
        picture = run.write(run.file("u", "m-0"), pixels(), record(unit=unit, photo=photo, label="ü\udcff"))
        run.write_context("u", {"strongest": [photo]}, {})
    (again,) = Run.open(run.path)
    assert (again.record["unit"], again.record["photo"]) == (unit, photo)
    assert run.finished(picture.path, "k") == again.record
    assert run.context("u") == {"strongest": [photo]}
    assert run.about["photos"] == "b\udcff"
    (row,) = (run.path / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    assert (json.loads(row)["unit"], json.loads(row)["label"]) == (unit, "ü\udcff")
    assert r"caf\udce9.png" in picture.path.with_suffix(".json").read_text(encoding="utf-8")
    with Image.open(picture.path) as image:
        assert image.text["entoptic:unit"] == r"fmap(stage1)<caf\udce9.png>"  # type: ignore[attr-defined]
    assert slug(unit).isascii()


def test_only_whole_matching_pictures_count_as_finished(tmp_path: Path) -> None:
    run, picture = written(tmp_path / "r")
    sidecar = picture.path.with_suffix(".json")
    good = sidecar.read_text()
    for text in ("", "{", "[]", "3", good[:40], json.dumps({**record(), "image": 3}), json.dumps(picture.record | {"evidence": 0}),
                 json.dumps(picture.record | {"complete": False})):  # fmt: skip
        sidecar.write_text(text)
        assert run.finished(picture.path, "k") is None
    sidecar.write_bytes(b"\xff\xfe\x00")
    assert run.finished(picture.path, "k") is None
    sidecar.write_text(good)
    assert run.finished(picture.path, "k") is not None
    picture.path.write_bytes(picture.path.read_bytes() + b"x")
    assert run.finished(picture.path, "k") is None
    picture.path.unlink()
    assert run.finished(picture.path, "k") is None


@pytest.mark.parametrize(
    "damage",
    ["{", "[]", json.dumps(record(model=3)), json.dumps(record(evidence=None)), json.dumps(record(evidence=[3])),
     json.dumps(record(evidence=[{"name": "a", "value": "x", "n": 1}]))],
)  # fmt: skip
def test_a_damaged_sidecar_hides_no_other_picture(tmp_path: Path, damage: str) -> None:
    run, _ = written(tmp_path / "r")
    (tmp_path / "r" / "pictures" / "u" / "a.json").write_text(damage)
    assert [picture.unit for picture in run] == ['logits:"ü"']
    problems = [problem for picture, problem in run.read() if picture is None]
    assert len(problems) == 1
    assert problems[0].startswith("pictures/u/a.json: cannot be read (")
    with run.writing(ABOUT):  # brings metadata.jsonl up to date
        pass
    assert len((tmp_path / "r" / "metadata.jsonl").read_text().splitlines()) == 1


def test_opening_what_is_no_run(tmp_path: Path) -> None:
    written(tmp_path / "lite0")
    with pytest.raises(UserError, match=r'is no run folder \(it has no run.json\); did you mean "lite0"'):
        Run.open(tmp_path / "lite1")


def test_a_folder_around_or_inside_of_runs_names_them(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        written(tmp_path / "bench" / "runs" / name)
    with pytest.raises(UserError) as refused:
        Run.open(tmp_path / "bench")
    places = ", ".join(str(tmp_path / "bench" / "runs" / name) for name in "abc")
    assert str(refused.value).endswith(f"(it has no run.json); in it are {places} and 1 more")
    with pytest.raises(UserError, match=r"; it lies inside of .*/runs/a, which is one$"):
        Run.open(tmp_path / "bench" / "runs" / "a" / "pictures")


def test_other_folders_and_files_are_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UserError, match=r"holds other files \(mine.txt\) and is no run"), Run(tmp_path).writing(ABOUT):
        raise AssertionError
    with pytest.raises(UserError, match="is a file; give --out a folder"), Run(tmp_path / "mine.txt").writing(ABOUT):
        raise AssertionError
    with pytest.raises(UserError, match="cannot be written"), Run(tmp_path / "mine.txt" / "r").writing(ABOUT):
        raise AssertionError
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_a_run_has_one_writer(tmp_path: Path) -> None:
    run, _ = written(tmp_path / "r")
    with open(tmp_path / "r" / ".lock", "a+") as other:  # another open file: as another process would hold it
        fcntl.flock(other, fcntl.LOCK_EX)
        with (
            pytest.raises(UserError, match=rf"is being written by another process \(pid {os.getpid()} on "),
            run.writing(ABOUT),
        ):
            raise AssertionError
    with run.writing(ABOUT):  # and it is free again
        pass


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, picture = written(tmp_path / "r")
    before = {p: p.read_bytes() for p in (tmp_path / "r").rglob("*") if p.is_file()}

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(
        UserError, match=r"cannot be written \(No space left on device\); pictures that are finished are safe"
    ):
        run.write(picture.path, pixels(1), record())
    assert {p: p.read_bytes() for p in (tmp_path / "r").rglob("*") if p.is_file()} == before


def test_the_rest_of_a_killed_process_is_swept_up(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / ".abc.part").write_text("half of run.json")
    run, picture = written(tmp_path / "r")
    (picture.path.parent / ".xyz.part").write_text("half a picture")
    with run.writing(ABOUT):
        pass
    assert list((tmp_path / "r").rglob("*.part")) == []


def test_metadata_loads_as_an_imagefolder(tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = see(tiny, ["logits:0-1", "stage1:3"], method="fourier", steps=3, out=tmp_path / "r", progress=False)
    rows = [json.loads(line) for line in (run.path / "metadata.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    by_file = {row["file_name"]: row for row in rows}
    for picture in run:
        row = by_file[str(picture.path.relative_to(run.path))]
        assert (row["unit"], row["method"], row["activation"]) == (picture.unit, "fourier", picture["activation"])
        assert "transfer_top1" in row
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset("imagefolder", data_dir=str(run.path), cache_dir=str(tmp_path / "hf"))["train"]
    assert len(loaded) == 3
    for row in loaded:
        (picture,) = (p for p in run if p.unit == row["unit"])
        assert np.array_equal(np.asarray(row["image"].convert("RGB")), picture.pixels)
        assert row["activation"] == pytest.approx(picture["activation"])


def test_html(tiny: Model, tmp_path: Path, photo_folder: Path) -> None:
    run = see(tiny, "logits:0", method="fourier", steps=3, out=tmp_path / "r", photos=photo_folder, progress=False)
    page = run._repr_html_()
    assert page.count("data:image/png;base64,") == 1
    assert "logits:0 (circle)" in page
    assert "of 40 photos" in page
    assert page.count("<figure") == page.count("</figure>") == 1
    run.problems = [Failure(text="<b>")]
    assert "failed: &lt;b&gt;" in run._repr_html_()
    assert "40 photos" in run[0]._repr_html_()
    assert repr(run).endswith("1 picture)")
    from entoptic.images.photos import Photos

    assert "circle" in Photos.open(photo_folder)._repr_html_()

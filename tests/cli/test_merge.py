"""`entoptic merge`: runs and indexes, told apart by what the folders hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.conftest import Say, refusal, see
from entoptic.images import build_index
from entoptic.images.index import ActivationIndex
from entoptic.runs.store import Run


@pytest.fixture
def runs(say: Say, tmp_path: Path) -> tuple[Path, Path]:
    """A picture of one unit each."""
    for i in range(2):
        assert say(*see(f"logits:{i}", "--method", "fourier", "--out", tmp_path / f"run{i}", "--verifiers", ""))[0] == 0
    return tmp_path / "run0", tmp_path / "run1"


@pytest.fixture
def shards(say: Say, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Both halves of an index."""
    monkeypatch.setattr(build_index, "BLOCK", 8)
    for i in range(2):
        words = ("index", "tiny:net", "--layers", "stage1", "--photos", photo_folder, "--out", tmp_path / f"part{i}")
        assert say(*words, "--shard", f"{i}/2")[0] == 0
    return tmp_path / "part0", tmp_path / "part1"


def test_runs_become_one_run(say: Say, runs: tuple[Path, Path], tmp_path: Path) -> None:
    code, out, _ = say("merge", *runs, "--out", tmp_path / "all")
    assert code == 0
    assert f"2 pictures in {tmp_path / 'all'}" in out
    merged = Run.open(tmp_path / "all")
    assert {p.unit: p.path.read_bytes() for p in merged} == {p.unit: p.path.read_bytes() for r in runs for p in Run(r)}
    assert (tmp_path / "all" / "gallery" / "index.html").is_file()
    # The same requests find their pictures there.
    before = [p.path.stat().st_mtime_ns for p in merged]
    assert say(*see("logits:0-1", "--method", "fourier", "--out", tmp_path / "all", "--verifiers", ""))[0] == 0
    assert [p.path.stat().st_mtime_ns for p in merged] == before


def test_what_is_damaged_is_named(say: Say, runs: tuple[Path, Path], tmp_path: Path) -> None:
    (picture,) = Run.open(runs[0])
    picture.path.write_bytes(b"no picture")
    code, out, err = say("merge", *runs, "--out", tmp_path / "all")
    assert code == 2
    assert f"not merged: {runs[0]}: {picture.path.relative_to(runs[0])}: it is damaged or not finished" in err
    assert "1 picture in" in out


def test_shards_become_one_index(say: Say, shards: tuple[Path, Path], tmp_path: Path) -> None:
    assert say("merge", *shards, "--out", tmp_path / "index")[0] == 0
    assert ActivationIndex.open(tmp_path / "index").whole


def test_other_folders_are_refused(
    say: Say, runs: tuple[Path, Path], shards: tuple[Path, Path], photo_folder: Path, tmp_path: Path
) -> None:
    out = ("--out", tmp_path / "all")
    mixed = refusal(say("merge", shards[0], runs[0], *out))
    assert f"{runs[0]} is a run and {shards[0]} an index; merge takes runs or shards of an index, not both" in mixed
    for folder in (photo_folder, tmp_path / "nowhere"):
        assert f"{folder} is neither a run nor an index" in refusal(say("merge", runs[0], folder, *out))
    assert not (tmp_path / "all").exists()


def test_films_are_carried_along(say: Say, tmp_path: Path) -> None:
    words = ("logits:0", "--method", "fourier", "--out", tmp_path / "run", "--verifiers", "", "--film", "gif")
    assert say(*see(*words))[0] == 0
    assert say("merge", tmp_path / "run", "--out", tmp_path / "all")[0] == 0
    (film,) = (tmp_path / "all" / "films").rglob("*.gif")
    assert film.read_bytes() == (tmp_path / "run" / film.relative_to(tmp_path / "all")).read_bytes()

"""Accentuation: it starts at the photo, stays near it as far as asked, and its key is of the photo's content."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import entoptic
from entoptic.base.pixels import to_float
from entoptic.cli.main import main
from entoptic.errors import UserError
from entoptic.inversion.targets import picture_of
from entoptic.methods.accentuate import Accentuate
from entoptic.methods.canvas import Spectrum
from entoptic.models.model import Model
from entoptic.runs.see import see
from entoptic.runs.store import Run
from entoptic.units.unit import bind


@pytest.fixture
def photo(photo_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(photo_folder / "stripe" / "0.png", tmp_path / "stripes.png"))


def make(tiny: Model, photo: Path, out: Path, **options: object) -> Run:
    return see(
        tiny, "stage2:3", method="accentuate", photo=str(photo), out=out, verifiers="", progress=False,
        **{"steps": 20, **options},
    )  # fmt: skip


def test_a_canvas_starts_at_a_photo() -> None:
    photo = torch.rand(3, 20, 24, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.05
    canvas = Spectrum([torch.Generator(), torch.Generator()], (20, 24), torch.device("cpu"), gain=0.25)
    canvas.start_at(photo)
    torch.testing.assert_close(canvas.image(), photo.expand(2, -1, -1, -1), atol=1e-4, rtol=0)


def test_it_moves_from_the_photo_towards_the_unit_and_less_where_it_is_kept(
    tiny: Model, photo: Path, tmp_path: Path
) -> None:
    prepared = tiny.card.prepare(picture_of(str(photo)))[None]
    (unit,) = bind(tiny, "stage2:3")
    free, kept = (make(tiny, photo, tmp_path / f"{keep}", keep=keep)[0] for keep in (0.0, 30.0))
    scores = [float(unit.score(to_float(picture.pixels))[0]) for picture in (free, kept)]
    distances = [float((to_float(picture.pixels) - prepared).square().mean()) for picture in (free, kept)]
    assert scores[0] > float(unit.score(prepared)[0])
    assert distances[1] < distances[0]
    assert "kept near it at" in kept.record["trace"]["notes"][-1]
    assert "kept near it" not in free.record["trace"]["notes"][-1]
    assert free.record["trace"]["evaluations"] == 20
    still = make(tiny, photo, tmp_path / "still", lr=0.0, steps=1)[0]
    torch.testing.assert_close(to_float(still.pixels), prepared.clamp(0.01, 0.99), atol=1 / 255, rtol=0)


def test_the_key_is_of_the_content_and_the_picture_is_verified(tiny: Model, photo: Path, tmp_path: Path) -> None:
    run = make(tiny, photo, tmp_path / "run")
    (moved,) = make(tiny, Path(shutil.copy(photo, tmp_path / "elsewhere.png")), tmp_path / "run")
    assert moved.record["key"] == run[0].record["key"]
    assert moved.record["config"]["photo"] == str(photo)  # it was not made again
    assert entoptic.verify(run, model=tiny).ok
    photo.unlink()
    assert entoptic.verify(run, model=tiny).ok
    with pytest.raises(UserError, match="which it still shows"):
        entoptic.export(run.path, tmp_path / "without")
    copied = entoptic.export(run.path, tmp_path / "public", with_photos=True)
    other = make(tiny, tmp_path / "elsewhere.png", tmp_path / "run", keep=0.5)
    assert len(other) == 2
    assert str(tmp_path) not in "".join(p.read_text() for p in copied.path.rglob("*.json"))


def test_what_is_wrong_with_the_photo(tiny: Model, photo: Path, photo_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"starts at a photo: give --accentuate\.photo FILE"):
        see(tiny, "logits:0", method="accentuate", out=tmp_path / "run", verifiers="", progress=False)
    for path in ("nowhere.png", str(photo_folder)):
        with pytest.raises(UserError, match="cannot be read"):
            make(tiny, Path(path), tmp_path / "run")
    config = Accentuate(photo=str(photo), steps=2)
    shutil.copy(photo_folder / "dot" / "1.png", photo)
    with pytest.raises(UserError, match="is another photo than was asked for"):
        see(tiny, "logits:0", method=config, out=tmp_path / "run", verifiers="", progress=False)
    with pytest.raises(UserError, match="keep must not be negative"):
        Accentuate(keep=-1)
    with pytest.raises(UserError, match='did you mean "stage1"'):
        make(tiny, photo, tmp_path / "run", layer="stge1")


def test_the_command_line_says_what_is_missing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["see", "builtin:lite0", "logits:1", "--method", "accentuate", "--verifiers", "", "--out", str(tmp_path)]
    assert main([*words, "--accentuate.photo", "nowhere.jpg"]) == 2
    assert "nowhere.jpg" in capsys.readouterr().err

"""Films of ascents: frames from the noise to the picture as it is saved, beside it and no part of its key."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import entoptic
from entoptic.errors import UserError
from entoptic.methods.ascent import _Film
from entoptic.models.model import Model
from entoptic.runs.see import see

QUIET = {"verifiers": "", "progress": False}


def frames_of(file: Path) -> list[np.ndarray]:
    with Image.open(file) as film:
        found = []
        for k in range(film.n_frames):  # type: ignore[attr-defined]
            film.seek(k)
            found.append(np.asarray(film.convert("RGB")))
    return found


@pytest.mark.parametrize("kind", ["gif", "apng"])
def test_a_film_goes_from_noise_to_the_saved_picture(tiny: Model, tmp_path: Path, kind: str) -> None:
    plain = see(tiny, "stage2:3", method="pixels", steps=60, out=tmp_path / "plain", **QUIET)[0]
    run = see(tiny, ["stage2:3", "logits:0"], method="pixels", steps=60, film=kind, out=tmp_path / "run", **QUIET)
    assert len(run) == 2, "a film is no picture of the run"
    picture = run["stage2:3"][0]
    assert picture.record["key"] == plain.record["key"]
    assert np.abs(picture.array.astype(int) - plain.array).max() <= 2  # (batches round)
    frames = frames_of(run.film(picture.path, kind))
    assert 16 <= len(frames) <= 25
    last, first = (np.abs(frame.astype(int) - picture.array).mean() for frame in (frames[-1], frames[0]))
    assert last <= (0 if kind == "apng" else 12)  # of 256 colours
    assert first > max(10, last)
    assert entoptic.verify(run, model=tiny).ok
    assert sorted(path.suffix for path in run.path.rglob("films/*/*")) == [f".{kind}"] * 2


def test_what_is_there_already_is_not_filmed(tiny: Model, tmp_path: Path) -> None:
    see(tiny, "logits:0", method="pixels", steps=2, out=tmp_path, **QUIET)
    assert not (tmp_path / "films").exists()
    with pytest.warns(UserWarning, match="1 picture by pixels had been made before, without a film now"):
        see(tiny, "logits:0", method="pixels", steps=2, film="gif", out=tmp_path, **QUIET)
    assert not (tmp_path / "films").exists()


@pytest.mark.parametrize("method", ["fourier", "maco", "vital", "deep-inversion", "diverse"])
def test_every_ascent_is_filmed(tiny: Model, photo_folder: Path, tmp_path: Path, method: str) -> None:
    options = {"photos": photo_folder, "references": 4} if method == "vital" else {}
    options |= {"photos": photo_folder, "canvas": 48} if method == "maco" else {}
    run = see(tiny, "logits:0", method=method, steps=6, film="gif", out=tmp_path, **QUIET, **options)  # type: ignore[arg-type]
    frames = frames_of(run.film(run[0].path, "gif"))
    assert len(frames) >= 3
    assert frames[0].shape == run[0].array.shape


def test_what_has_no_film(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match='no film "gfi"; there are gif, apng; did you mean "gif"'):
        see(tiny, "logits:0", method="pixels", film="gfi", out=tmp_path, **QUIET)
    with pytest.raises(UserError, match="a film shows an ascent, and retrieval makes none"):
        see(tiny, "logits:0", method="retrieval", photos=photo_folder, film="gif", out=tmp_path, **QUIET)


def test_few_steps_and_none() -> None:
    assert _Film(100, 0).steps == set()
    assert _Film(3, 24).steps == {0, 1, 2}
    steps = sorted(_Film(1000, 24).steps)
    assert steps[0] == 0
    assert steps[1] < 5
    assert len(steps) == 24

"""Caricature: it points where the photo's values at the layer point, and is of the photo's content."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import entoptic
from entoptic.errors import UserError
from entoptic.methods.caricature import Caricature
from entoptic.methods.objectives import AscentStep
from entoptic.methods.weighed_objectives import exaggerated
from entoptic.models.model import Model
from entoptic.models.taps import Tap
from entoptic.runs.see import see


@pytest.fixture
def photo(photo_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(photo_folder / "stripe" / "0.png", tmp_path / "stripes.png"))


def _loss(values: torch.Tensor, wanted: torch.Tensor, power: float) -> float:
    tap, blank = Tap("layer"), torch.zeros(1, 3, 2, 2)
    step = AscentStep({tap: values}, blank, blank, 1, [[]])
    return float(exaggerated([tap], lambda _: wanted, power)(step)[0])


def test_the_objective_is_the_dot_product_times_a_power_of_the_cosine() -> None:
    wanted = torch.tensor([[[3.0, 0.0], [4.0, 2.0]]])  # 1×C×D: (3, 4) and (0, 2)
    values = torch.tensor([[[6.0, 2.0], [8.0, 0.0]]])  # twice the first; across the second
    length = (25 + 4) / 2
    assert _loss(values, wanted, 0.0) == pytest.approx(-(50 + 0) / 2 / length)
    assert _loss(values, wanted, 2.0) == pytest.approx(-50 / 2 / length)
    slanted = torch.tensor([[[5.0, 0.0], [0.0, 2.0]]])  # cosine 0.6, dot 15
    assert _loss(slanted, wanted, 2.0) == pytest.approx(-(15 * 0.36 + 4) / 2 / length)
    assert _loss(10 * slanted, 10 * wanted, 2.0) == pytest.approx(_loss(slanted, wanted, 2.0))


def test_it_is_more_like_the_photo_at_the_layer_than_noise_is(tiny: Model, photo: Path, tmp_path: Path) -> None:
    cosines = {}
    for steps in (1, 40):
        run = see(
            tiny, "stage2:3", method="caricature", photo=str(photo), steps=steps, transforms=False, power=2.0,
            out=tmp_path / f"{steps}", verifiers="", progress=False,
        )  # fmt: skip
        cosines[steps] = run[0].record["trace"]["cosine with the photo"]
        assert run[0].record["trace"]["evaluations"] == 2 * steps
        assert "at stage2, all its channels" in run[0].record["trace"]["notes"][-1]
        assert entoptic.verify(run, model=tiny).ok
    assert cosines[40] > cosines[1] + 0.02


def test_the_channel_does_not_matter(tiny: Model, photo: Path, tmp_path: Path) -> None:
    pictures = [
        see(
            tiny, f"stage2:{i}", method="caricature", photo=str(photo), steps=3, noise_of="stage2:0", out=tmp_path / f"{i}",
            verifiers="", progress=False,
        )[0].pixels
        for i in (0, 5)
    ]  # fmt: skip
    assert (pictures[0] == pictures[1]).all()


def test_bad_input_and_what_may_be_published(tiny: Model, photo: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"give --caricature\.photo FILE"):
        see(tiny, "stage2:0", method="caricature", out=tmp_path / "a", verifiers="", progress=False)
    with pytest.raises(UserError, match="power"):
        Caricature(power=-1)
    run = see(
        tiny,
        "stage2:0",
        method="caricature",
        photo=str(photo),
        steps=2,
        out=tmp_path / "b",
        verifiers="",
        progress=False,
    )
    with pytest.raises(UserError, match="which it still shows"):
        entoptic.export(run.path, tmp_path / "public")

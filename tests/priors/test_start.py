"""A training that begins with the weights of another prior: the same function at its first step, classes by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from entoptic import UserError
from entoptic.base.training import mean_weights, read_record
from entoptic.priors.learn import learn_prior, network
from entoptic.priors.recipe import Recipe
from entoptic.priors.saved import save_prior
from entoptic.priors.start import read_start, start_from
from entoptic.priors.unet import UNet

pytest.importorskip("diffusers")

TINY = {"size": 8, "patch": 2, "widths": (16, 32), "attention": (2,), "batch_size": 4, "warmup": 2}
RECIPE = Recipe(steps=2, rate=1e-9, ema=0.0, **TINY)


@pytest.fixture(scope="module", params=[False, True], ids=["float16", "eight bits"])
def before(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved prior of the classes circle and star."""
    torch.manual_seed(0)
    net = network(RECIPE, 2)
    folder = tmp_path_factory.mktemp("prior")
    card = {"name": "before", "size": 8, "patch": 2, "classes": ["circle", "star"]}
    return save_prior(net, folder, card, eight_bit=request.param)


def test_a_training_begins_with_the_weights_of_the_prior(before: Path, photo_folder: Path, tmp_path: Path) -> None:
    start = read_start(f"file:{before}")
    folder = learn_prior(photo_folder, tmp_path, RECIPE, start=f"file:{before}")
    record = read_record(folder)
    assert record is not None
    assert record["start"] == {"prior": "before", "weights_sha256": start.weights_sha256}
    kept = mean_weights(folder, record)
    for name, value in kept.items():
        if name != "class_embedding.weight":
            torch.testing.assert_close(value, start.weights[name], atol=1e-6, rtol=0)
    rows, names = kept["class_embedding.weight"], record["classes"]
    assert "circle" in names
    assert "star" not in names
    theirs = start.weights["class_embedding.weight"]
    for i, name in enumerate([*names, ""]):  # circle keeps its row; all others begin as no class
        torch.testing.assert_close(rows[i], theirs[0 if name == "circle" else 2], atol=1e-6, rtol=0)


def test_it_goes_on_without_the_prior_but_with_no_other(before: Path, photo_folder: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(before, tmp_path / "prior")
    out = tmp_path / "out"
    learn_prior(photo_folder, out, RECIPE, start=f"file:{moved}")
    shutil.rmtree(moved)
    learn_prior(photo_folder, out, Recipe(**{**TINY, "steps": 3, "rate": 1e-9, "ema": 0.0}))
    assert json.loads((out / "training.json").read_text())["start"]["prior"] == "before"
    with pytest.raises(UserError, match="began with other weights"):
        learn_prior(photo_folder, out, RECIPE, start="builtin:small-32")


def test_another_architecture_is_refused_before_photos_are_read(
    before: Path, photo_folder: Path, tmp_path: Path
) -> None:
    start = read_start(f"file:{before}")
    with pytest.raises(UserError, match=r"has size 8, the training 16; give --size 8"):
        start_from(UNet(RECIPE, 2), start, Recipe(**{**TINY, "size": 16}), ["circle"])
    wider = Recipe(**{**TINY, "widths": (32, 32)})
    with pytest.raises(UserError, match="another architecture"):
        start_from(UNet(wider, 1), start, wider, ["circle"])
    with pytest.raises(UserError, match="builtin:NAME or file:FOLDER, got 'hf:somebody/prior'"):
        learn_prior(photo_folder, tmp_path / "a", RECIPE, start="hf:somebody/prior")
    with pytest.raises(UserError, match=r'no builtin prior "smal-32".*small-32'):
        learn_prior(photo_folder, tmp_path / "b", RECIPE, start="builtin:smal-32")
    with pytest.raises(UserError, match="holds no prior"):
        learn_prior(photo_folder, tmp_path / "c", RECIPE, start=f"file:{tmp_path}")
    assert not list(tmp_path.glob("*/photos.npy"))

"""The training of an inverter that begins with the weights of another one, on the same prior or on another."""

from __future__ import annotations

import copy
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from entoptic import Model, UserError
from entoptic.base.training import mean_weights, optimise, read_record
from entoptic.inversion.configs import EntopticRecipe
from entoptic.inversion.start import read_start
from entoptic.priors.saved import add_upsampler, save_prior
from entoptic.priors.upsampler import Upsampler
from entoptic.runs.learn_inverter import learn
from tiny_priors import CARD, flow_net

pytest.importorskip("diffusers")

RECIPE = EntopticRecipe(steps=2, batch_size=4, hint=8, warmup=1, ema=0.0)
STILL = replace(RECIPE, rate=1e-9)


def made(tiny: Model, photos: Path, out: Path, prior: str, recipe: EntopticRecipe = STILL, **more: object) -> Path:
    return learn(
        tiny, "stage2", photos, out, recipe, prior=prior, verifiers=[], compared=4, progress=False, device="cpu", **more
    )  # type: ignore[arg-type]


@pytest.fixture
def prior(tmp_path: Path) -> str:
    return f"file:{save_prior(flow_net(), tmp_path / 'prior', CARD)}"


@pytest.fixture
def before(tiny: Model, photo_folder: Path, tmp_path: Path, prior: str) -> Path:
    """An inverter whose weights are not those that a training without a start begins with."""
    return made(tiny, photo_folder, tmp_path / "before", prior, replace(RECIPE, rate=0.05))


def test_it_begins_with_those_weights_on_another_prior_and_says_so(
    tiny: Model, photo_folder: Path, tmp_path: Path, before: Path
) -> None:
    other = flow_net()
    for p in other.parameters():
        p.data *= 1.01
    enlarging = save_prior(other, tmp_path / "other", CARD)
    torch.manual_seed(0)
    add_upsampler(Upsampler(), enlarging)
    out = made(tiny, photo_folder, tmp_path / "out", f"file:{enlarging}", start=f"file:{before}")
    record = read_record(tmp_path / "out")
    assert record is not None
    start = read_start(f"file:{before}")
    kept = mean_weights(tmp_path / "out", record)
    assert kept.keys() == start.weights.keys()
    for name, value in kept.items():
        torch.testing.assert_close(value, start.weights[name], atol=1e-6, rtol=0)
    plain = made(tiny, photo_folder, tmp_path / "plain", f"file:{enlarging}")
    fresh = mean_weights(tmp_path / "plain", read_record(tmp_path / "plain") or {})
    assert max(float((fresh[k] - kept[k]).abs().max()) for k in kept) > 1e-3
    card = json.loads((out / "card.json").read_text())
    assert card["training"]["start"] == {
        "inverter": "before", "layer": "stage2", "model": "tiny", "pictures_seen": 8,
        "prior": json.loads((before / "card.json").read_text())["prior"],
        "weights_sha256": json.loads((before / "card.json").read_text())["weights_sha256"],
    }  # fmt: skip
    assert "start" not in json.loads((plain / "card.json").read_text())["training"]


def test_the_ceiling_of_an_enlarging_prior_is_the_photo_through_its_states(
    tiny: Model, photo_folder: Path, tmp_path: Path, prior: str
) -> None:
    enlarging = save_prior(flow_net(), tmp_path / "other", CARD)
    add_upsampler(Upsampler(), enlarging)
    plain, large = (
        json.loads((made(tiny, photo_folder, tmp_path / name, one) / "card.json").read_text())["measured"]
        for name, one in (("a", prior), ("b", f"file:{enlarging}"))
    )
    assert "photo through the prior's states" not in plain
    through, at_size = (large[k]["cosine"][0] for k in ("photo through the prior's states", "photo at this size"))
    assert through < at_size - 0.01  # fewer pixels say less
    assert through == pytest.approx(plain["photo at this size"]["cosine"][0], abs=0.1)


def test_a_layer_with_other_channels_keeps_a_new_projection(
    tiny: Model, photo_folder: Path, tmp_path: Path, before: Path, prior: str
) -> None:
    learn(
        tiny, "stage1", photo_folder, tmp_path / "out", STILL, prior=prior, start=f"file:{before}", verifiers=[], compared=4,
        progress=False, device="cpu",
    )  # fmt: skip
    kept, theirs = (
        mean_weights(tmp_path / "out", read_record(tmp_path / "out") or {}),
        read_start(f"file:{before}").weights,
    )
    assert kept["hint.first.weight"].shape[1] != theirs["hint.first.weight"].shape[1]
    for name, value in kept.items():
        if not name.startswith("hint.first."):
            torch.testing.assert_close(value, theirs[name], atol=1e-6, rtol=0)


def test_it_goes_on_without_the_start_but_with_no_other(
    tiny: Model, photo_folder: Path, tmp_path: Path, before: Path, prior: str
) -> None:
    moved = shutil.copytree(before, tmp_path / "moved")
    made(tiny, photo_folder, tmp_path / "out", prior, start=f"file:{moved}")
    made(
        tiny, photo_folder, tmp_path / "out", prior, replace(STILL, steps=3), start=f"file:{before}"
    )  # the same weights
    shutil.rmtree(moved)
    made(tiny, photo_folder, tmp_path / "out", prior, replace(STILL, steps=4))
    assert json.loads((tmp_path / "out" / "training.json").read_text())["start"]["pictures_seen"] == 8
    with pytest.raises(UserError, match="began with other weights"):
        made(tiny, photo_folder, tmp_path / "out", prior, start=f"file:{tmp_path / 'out' / 'inverter'}")


def test_a_training_that_was_killed_keeps_its_seconds(tmp_path: Path) -> None:
    net = torch.nn.Linear(1, 1)
    mean, optimiser = copy.deepcopy(net), torch.optim.SGD(net.parameters(), lr=0.1)
    record: dict[str, object] = {"step": 0, "loss": [], "recipe": {}, "seconds": 100.0}
    kept: list[float] = []

    def loss(step: int) -> torch.Tensor:
        time.sleep(0.1)
        if step == 3:  # what a kill -9 would leave
            kept.append(json.loads((tmp_path / "training.json").read_text())["seconds"])
        return net.weight.square().sum()

    optimise("x", net, mean, loss, replace(STILL, steps=4), tmp_path, record, optimiser, device="cpu", save_every=2)
    assert 100.2 <= kept[0] < float(str(record["seconds"])) < 110
    assert float(str(record["seconds"])) >= 100.4


def test_what_does_not_fit_is_refused_before_photos_are_read(
    tiny: Model, photo_folder: Path, tmp_path: Path, before: Path, prior: str
) -> None:
    for start, message in (
        ("builtin:lite0-bn2", r"inverts bn2 of builtin:lite0 with another architecture \(its hint.* here .*recipe"),
        ("builtin:lite0-bn", 'did you mean "lite0-bn2"'),
        ("hf:somebody/inverter", "builtin:NAME or file:FOLDER, got"),
        (f"file:{tmp_path}", "has no card.json"),
    ):
        with pytest.raises(UserError, match=message):
            made(tiny, photo_folder, tmp_path / "no", prior, start=start)
    with pytest.raises(UserError, match="another architecture"):
        made(tiny, photo_folder, tmp_path / "no", prior, replace(STILL, hint=4), start=f"file:{before}")
    (before / "inverter.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match="not those of its card"):
        made(tiny, photo_folder, tmp_path / "no", prior, start=f"file:{before}")
    assert not (tmp_path / "no" / "pairs").exists()

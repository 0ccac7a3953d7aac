"""Priors of our own training, written and read."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.nn.functional import pixel_shuffle

from entoptic.errors import UserError
from entoptic.priors.prior import noise_like
from entoptic.priors.saved import save_prior
from entoptic.priors.sources import load_prior
from tiny_priors import CARD, close, ddim, flow_net, seeds


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prior of our own training."""
    return save_prior(flow_net(), tmp_path_factory.mktemp("flow"), CARD, half=False)


@torch.no_grad()
def test_a_saved_prior_integrates_its_networks_velocity(flow: Path) -> None:
    prior = load_prior(f"file:{flow}", device="cpu", guidance=1.0)
    assert (prior.shape, prior.conditions, prior.bounds) == ((12, 8, 8), 3, (-1.0, 1.0))
    assert [level.sigma for level in prior.levels(3)] == pytest.approx([0.999, 0.666, 0.333, 0])
    net, classes = flow_net(), torch.tensor([2, 0])
    noise = noise_like(prior, seeds(0, 1))
    x, times = 0.999 * noise, [0.999, 0.666, 0.333, 0.0]
    for t, s in pairwise(times):  # Euler
        x = x + (s - t) * net(x, torch.full((2,), 1000 * t), None, class_labels=classes).sample
    ours = ddim(prior, noise, classes, steps=3)
    close(ours, x, 1e-5)
    pictures = prior.decode(ours)
    assert pictures.shape == (2, 3, 16, 16)
    close(pictures, ((pixel_shuffle(x, 2) + 1) / 2).clamp(0, 1), 1e-5)


@torch.no_grad()
def test_a_saved_prior_takes_its_guidance_from_its_card(flow: Path) -> None:
    card, plain = load_prior(f"file:{flow}", device="cpu"), load_prior(f"file:{flow}", device="cpu", guidance=1)
    x, level = noise_like(card, seeds(0)), card.levels(3)[1]
    one, none = plain.denoise(x, level, torch.tensor([1])), plain.denoise(x, level)
    assert not torch.allclose(one, none, atol=1e-4)
    close(card.denoise(x, level, torch.tensor([1])), none + 2 * (one - none), 1e-5)
    close(plain.denoise(x, level, torch.tensor([-1])), none, 1e-6)
    close(card.denoise(x, level, torch.tensor([-1])), none, 1e-5)
    close(load_prior(f"file:{flow}", device="cpu", guidance=0).denoise(x, level, torch.tensor([1])), none, 1e-6)


def test_half_the_size_on_disk_is_float32_again_when_read(flow: Path, tmp_path: Path) -> None:
    folder = save_prior(flow_net(), tmp_path / "half", CARD)
    weights = "diffusion_pytorch_model.safetensors"
    assert (folder / weights).stat().st_size < 0.52 * (flow / weights).stat().st_size
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", "config.json", weights]
    half, whole = (load_prior(f"file:{path}", device="cpu") for path in (folder, flow))
    x, level = noise_like(half, seeds(0)), half.levels(3)[1]
    assert half.denoise(x, level).dtype == torch.float32
    torch.testing.assert_close(half.denoise(x, level), whole.denoise(x, level), atol=5e-3, rtol=5e-3)
    assert half.identity != whole.identity


def test_saved_priors_that_do_not_fit_their_card(flow: Path, tmp_path: Path) -> None:
    net = flow_net()
    for change, words in [
        ({"patch": 4}, r"12 channels, its card \(size 16, patch 4, 3 classes\) stands for 48"),
        ({"size": 32}, "8 positions a side"),
        ({"classes": ["a"]}, "4 classes and one for none"),
    ]:
        with pytest.raises(UserError, match=words):
            save_prior(net, tmp_path / "new", CARD | change)
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match="patch is missing"):
        save_prior(net, tmp_path / "new", {key: value for key, value in CARD.items() if key != "patch"})
    shutil.copytree(flow, tmp_path / "mixed")
    net.conv_in.bias.data += 1
    # A writer that died between the weights and the card.
    (save_prior(net, tmp_path / "other", CARD) / "diffusion_pytorch_model.safetensors").replace(
        tmp_path / "mixed" / "diffusion_pytorch_model.safetensors"
    )
    with pytest.raises(UserError, match="half written"):
        load_prior(f"file:{tmp_path / 'mixed'}", device="cpu")
    (tmp_path / "mixed" / "card.json").unlink()
    with pytest.raises(UserError, match=r"no card\.json"):
        load_prior(f"file:{tmp_path / 'mixed'}", device="cpu")
    with pytest.raises(UserError, match=r'there is no folder .*mixde; did you mean "mixed"'):
        load_prior(f"file:{tmp_path / 'mixde'}", device="cpu")
    net.conv_in.bias.data[:] = 1e6
    with pytest.raises(UserError, match="not finite in float16; give half=False"):
        save_prior(net, tmp_path / "new", CARD)

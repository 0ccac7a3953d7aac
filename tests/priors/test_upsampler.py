"""The upsampler as a part of a prior."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from entoptic.errors import UserError
from entoptic.priors.make_upsampler import small_pictures, train
from entoptic.priors.network_prior import DiffusionPrior
from entoptic.priors.prior import generate, noise_like
from entoptic.priors.saved import add_upsampler, flow_prior, save_prior
from entoptic.priors.sources import load_prior
from entoptic.priors.upsampler import FILE, Upsampler, enlarge, reduce
from entoptic.sampling import bank, shipped_banks
from entoptic.sampling.bank import bank_key, make_bank
from entoptic.sampling.shipped_banks import write_bank
from tiny_priors import CARD, close, flow_net, seeds


def trained_a_little() -> Upsampler:
    """An upsampler that is not a bicubic enlargement."""
    torch.manual_seed(3)
    net = Upsampler()
    for part in (net.o.weight, *(block.b.weight for block in net.m)):  # type: ignore[union-attr]
        torch.nn.init.normal_(part, std=0.02)  # type: ignore[arg-type]
    return net.eval()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prior with an upsampler."""
    folder = save_prior(flow_net(), tmp_path_factory.mktemp("large"), CARD, half=False)
    add_upsampler(trained_a_little(), folder)
    return folder


def squares(count: int) -> Tensor:
    """Photos of a bright square with sharp edges on a dark ground, M×3×224×224 uint8."""
    photos = torch.full((count, 3, 224, 224), 40, dtype=torch.uint8)
    for i in range(count):
        photos[i, :, 40 + 3 * i : 150 + 2 * i, 30 + 5 * i : 160 + i] = 220
    return photos


@torch.no_grad()
def test_untrained_it_enlarges_by_cubic_interpolation() -> None:
    small = torch.rand(2, 3, 8, 8)
    close(Upsampler()(small), interpolate(small, scale_factor=4, mode="bicubic", align_corners=False), 1e-6)


@torch.no_grad()
def test_a_priors_pictures_are_those_of_its_upsampler(large: Path, tmp_path: Path) -> None:
    plain = load_prior(f"file:{save_prior(flow_net(), tmp_path / 'plain', CARD, half=False)}", device="cpu")
    prior = load_prior(f"file:{large}", device="cpu")
    assert prior.identity != plain.identity
    assert prior.shape == plain.shape  # states are the same, so are the chains
    states = generate(prior, noise_like(prior, seeds(0, 1)), torch.tensor([0, 1]), steps=2)
    small, pictures = plain.decode(states), prior.decode(states)
    assert pictures.shape == (2, 3, 64, 64)
    assert 0 <= float(pictures.min()) <= float(pictures.max()) <= 1
    assert not torch.allclose(pictures, interpolate(small, scale_factor=4, mode="bicubic").clamp(0, 1), atol=1e-3)
    close(pictures[1:], prior.decode(states[1:]), 1e-5)  # whatever else is in the batch
    close(pictures, enlarge(trained_a_little(), small), 2e-2)  # 8 bits a weight


def test_gradients_of_a_score_pass_it(large: Path) -> None:
    prior = load_prior(f"file:{large}", device="cpu")
    states = torch.zeros(1, *prior.shape, requires_grad=True)
    prior.decode(states)[0, 0, 20, 20].backward()
    assert states.grad is not None
    assert bool(states.grad.isfinite().all())
    assert float(states.grad.abs().max()) > 1e-3


@torch.no_grad()
def test_states_of_large_pictures_are_those_of_reduced_ones(large: Path) -> None:
    prior = load_prior(f"file:{large}", device="cpu")
    assert isinstance(prior, DiffusionPrior)
    assert prior.states is not None
    pictures = torch.rand(1, 3, 64, 64)
    found = prior.states(pictures)
    assert found.shape == (1, *prior.shape)
    flat = interpolate(torch.rand(1, 3, 2, 2), (64, 64), mode="bicubic", align_corners=True).clamp(0, 1)
    close(reduce(prior.decode(prior.states(flat))), reduce(flat), 0.1)  # smooth pictures come back, about


def test_another_upsampler_or_none_is_refused(large: Path, tmp_path: Path) -> None:
    folder = save_prior(flow_net(), tmp_path / "p", CARD, half=False)
    card = json.loads((folder / "card.json").read_text())
    card["upsampler_sha256"] = json.loads((large / "card.json").read_text())["upsampler_sha256"]
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match=f"has no {FILE}; copy or install it again"):
        load_prior(f"file:{folder}", device="cpu")
    (folder / FILE).write_bytes((large / FILE).read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="the upsampler has sha256"):
        load_prior(f"file:{folder}", device="cpu")
    card["upsampler_sha256"] = 7
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match="the upsampler has sha256"):
        load_prior(f"file:{folder}", device="cpu")


def test_a_shipped_bank_of_small_pictures_is_enlarged(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = load_prior(f"file:{large}", device="cpu")
    plain = load_prior(f"file:{save_prior(flow_net(), tmp_path / 'plain', CARD, half=False)}", device="cpu")
    drawn = make_bank(prior, size=64, steps=2).pictures
    small = make_bank(plain, size=64, steps=2).pictures
    (tmp_path / "shipped" / "mine").mkdir(parents=True)
    write_bank(small, bank_key(prior, steps=2, seed=0), tmp_path / "shipped" / "mine")
    monkeypatch.setattr(shipped_banks, "_folder", lambda: tmp_path / "shipped")
    monkeypatch.setattr(bank, "load_cached", lambda *given: None)
    monkeypatch.setattr(prior, "denoise", None)  # nothing is drawn
    found = make_bank(prior, size=40, steps=2).pictures
    assert found.shape == (40, 3, 64, 64)
    assert int((found.int() - drawn[:40].int()).abs().max()) <= 1


def test_half_of_the_small_pictures_of_training_were_denoised() -> None:
    prior = flow_prior("p", flow_net(), CARD, torch.device("cpu"))
    large = torch.rand(4, 3, 64, 64)
    small = small_pictures(prior, large, torch.Generator().manual_seed(0))
    close(small[2:], reduce(large)[2:], 0)
    assert not torch.allclose(small[:2], reduce(large)[:2], atol=0.05)


def test_it_learns_sharp_edges() -> None:
    prior = flow_prior("p", flow_net(), CARD, torch.device("cpu"))
    assert prior.states is not None
    photos = squares(8)
    net, steps = train(photos, prior, 0, steps=60, log=lambda line: None)
    assert steps == 60
    with torch.no_grad():
        wanted = interpolate(squares(3).float() / 255, (64, 64), mode="bilinear", antialias=True)
        small = reduce(wanted)
        before, after = (float((enlarge(one, small) - wanted).abs().mean()) for one in (Upsampler(), net))
    assert after < 0.95 * before

"""The shared bank of a prior's samples."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from entoptic import UserError
from entoptic.models.model import Model
from entoptic.priors.prior import generate
from entoptic.priors.sources import load_prior
from entoptic.priors.toy import GaussianMixture
from entoptic.sampling import shipped_banks
from entoptic.sampling.bank import bank_key, held_samples, make_bank
from entoptic.sampling.shipped_banks import shipped_bank, write_bank
from entoptic.sampling.unit_scores import UnitScores, as_saved
from entoptic.units.unit import bind


def mixture(size: int = 8) -> GaussianMixture:
    draw = torch.Generator().manual_seed(0)
    means = torch.randn(2, 3, size, size, generator=draw)
    return GaussianMixture(torch.tensor([0.3, 0.7]), means, torch.full_like(means, 0.3), scale=0.15, offset=0.5)


def test_a_sample_does_not_depend_on_how_many_there_are(tiny: Model) -> None:
    prior = mixture()
    large = make_bank(prior, size=40, batch_size=16)
    assert torch.equal(make_bank(prior, size=24).pictures, large.pictures[:24])
    again = make_bank(prior, size=60)  # goes on from what is remembered
    assert torch.equal(again.pictures[:40], large.pictures)


def test_latents_are_those_of_the_pictures() -> None:
    prior = mixture()
    bank = make_bank(prior, size=12)
    noise, condition = bank.latent([3, 7])
    assert condition is None
    again = prior.decode(generate(prior, noise, condition, steps=bank.steps))
    assert int(((again.clamp(0, 1) * 255).round() - bank.pictures[[3, 7]]).abs().max()) <= 1


def test_scores_are_those_of_the_saved_file(tiny: Model) -> None:
    units = bind(tiny, ["logits:0", "stage2:3", "stage1:2@max"])
    bank = make_bank(mixture(), size=10)
    raw = bank.scores(UnitScores(units))
    saved = as_saved(tiny, bank.pictures.float() / 255)
    for u, unit in enumerate(units):
        torch.testing.assert_close(raw[u], unit.score(saved).double(), rtol=1e-5, atol=1e-6)
    assert torch.equal(bank.scores(UnitScores(units[::-1])), raw.flip(0))  # remembered per unit


def test_pictures_that_are_not_finite_do_not_become_black_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    prior = mixture()
    monkeypatch.setattr(prior, "decode", lambda x0: torch.full((len(x0), 3, 8, 8), float("nan")))
    with pytest.raises(UserError, match="12 of 12 samples"):
        make_bank(prior, size=12)


def test_what_an_interrupted_bank_has_made_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    prior, seen = mixture(), []

    def stop(what: str, done: int, total: int) -> None:
        seen.append(done)
        if done == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_bank(prior, size=60, batch_size=1, progress=stop)
    seen.clear()
    whole = make_bank(prior, size=60, batch_size=1, progress=lambda what, done, total: seen.append(done))
    assert seen[0] == 33  # 32 were on disk
    assert torch.equal(whole.pictures, make_bank(mixture(), size=60, seed=0).pictures)


def test_the_bank_of_the_shipped_prior_need_not_be_drawn() -> None:
    pytest.importorskip("diffusers")
    prior = load_prior("builtin:small-32")
    bank = make_bank(prior, size=2048)
    calls = []
    object.__setattr__(prior, "denoise", lambda *a: calls.append(a))
    assert torch.equal(make_bank(prior, size=100).pictures, bank.pictures[:100])
    assert not calls
    prior = load_prior("builtin:small-32")
    noise, condition = bank.latent([0, 1, 2047])
    again = (prior.decode(generate(prior, noise, condition, steps=bank.steps)).clamp(0, 1) * 255).round()
    assert float((again - bank.pictures[[0, 1, 2047]].float()).abs().mean()) < 0.1  # kernels round differently
    assert len(held_samples(bank_key(prior, steps=6, seed=0))) == 2048
    assert len(held_samples(bank_key(prior, steps=6, seed=1))) == 0
    assert len(held_samples(bank_key(prior, steps=7, seed=0))) == 0


def test_a_written_bank_is_read_bit_by_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = torch.randint(0, 256, (128, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    (tmp_path / "mine").mkdir()
    write_bank(pictures, "ab" * 32, tmp_path / "mine")
    monkeypatch.setattr(shipped_banks, "_folder", lambda: tmp_path)
    found = shipped_bank("ab" * 32)
    assert found is not None
    assert torch.equal(found, pictures)
    assert shipped_bank("cd" * 32) is None

"""A prior from training to shelf: what is written loads, samples what was trained, and carries honest distances."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from conftest import tiny_card, tiny_module
from entoptic.cli import main
from entoptic.errors import UserError
from entoptic.models.model import Model
from entoptic.priors.prior import draw_conditions, generate, noise_like
from entoptic.priors.recipe import Recipe
from entoptic.priors.sources import builtin_priors, load_prior
from entoptic.runs import learn as module
from entoptic.runs.learn import distances, export_prior, gaussian, learn

TINY = Recipe(size=8, patch=2, widths=(16, 32), attention=(), batch_size=4, steps=3, warmup=1, decay=0.0)


def pixels(model: Model, pictures: torch.Tensor) -> torch.Tensor:
    """Features without a network: mean colours of quarters, spread out."""
    return 20 * (torch.nn.functional.avg_pool2d(pictures, pictures.shape[-1] // 2).flatten(1) - 0.5)


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Model:
    monkeypatch.setattr(module, "features", pixels)
    return Model(tiny_module(), tiny_card(name="judge"), device="cpu")


@pytest.fixture
def many_photos(tmp_path: Path) -> Path:
    """120 plain photos of two colours with a little noise."""
    from PIL import Image

    draw = torch.Generator().manual_seed(0)
    for name, level in (("dark", 60), ("light", 190)):
        (tmp_path / "many" / name).mkdir(parents=True)
        for i in range(60):
            values = (level + 20 * torch.randn(8, 8, 3, generator=draw)).clamp(0, 255).byte().numpy()
            Image.fromarray(values).save(tmp_path / "many" / name / f"{i:02}.png")
    return tmp_path / "many"


def test_what_is_shelved_is_the_mean_of_the_training(many_photos: Path, tmp_path: Path, judge: Model) -> None:
    from safetensors.torch import load_file

    out = learn(many_photos, tmp_path / "t", TINY, name="mine", judge=judge, samples=60, device="cpu", progress=False)
    assert out == tmp_path / "t" / "prior"
    card = json.loads((out / "card.json").read_text())
    record = json.loads((tmp_path / "t" / "training.json").read_text())
    assert (card["name"], card["classes"]) == ("mine", ["dark", "light"])
    assert card["training"]["pictures_seen"] == 12
    assert card["distances"]["n"] == 60
    assert (out / "samples.png").is_file()
    kept = load_file(out / "diffusion_pytorch_model.safetensors")
    state = load_file(tmp_path / "t" / record["state"])
    for name, value in kept.items():
        torch.testing.assert_close(value.float(), state[f"ema/{name}"], rtol=2e-3, atol=1e-6)
    prior = load_prior(f"file:{out}", device="cpu")
    draw = [torch.Generator().manual_seed(i) for i in range(3)]
    condition = draw_conditions(prior, draw)
    pictures = prior.decode(generate(prior, noise_like(prior, draw), condition))
    assert pictures.shape == (3, 3, 8, 8)
    assert 0 <= float(pictures.min()) <= float(pictures.max()) <= 1


def test_distances_tell_an_untrained_network_from_photos(many_photos: Path, tmp_path: Path, judge: Model) -> None:
    out = learn(many_photos, tmp_path / "t", TINY, judge=judge, samples=60, device="cpu", progress=False)
    found = distances(load_prior(f"file:{out}", device="cpu"), many_photos, judge=judge, samples=60)
    assert found["samples"]["kid"] > 3 * abs(found["other photos"]["kid"])
    assert found["other photos"]["frechet"] < found["samples"]["frechet"]
    low, high = found["samples"]["kid_interval"]
    assert low < found["samples"]["kid"] < high


def test_the_gaussian_anchor_has_the_pictures_mean_and_covariance() -> None:
    draw = torch.Generator().manual_seed(0)
    mixing = torch.randn(4, 12, generator=draw)
    pictures = (0.5 + 0.02 * torch.randn(4000, 4, generator=draw) @ mixing).reshape(4000, 3, 2, 2)
    found = gaussian(pictures)
    assert float((found.mean(0) - pictures.mean(0)).abs().max()) < 0.005
    a, b = (torch.cov(x.flatten(1).T) for x in (found, pictures))
    assert float((a - b).norm() / b.norm()) < 0.1


def test_too_few_photos_and_no_training(photo_folder: Path, tmp_path: Path, judge: Model) -> None:
    with pytest.raises(UserError, match="no training"):
        export_prior(tmp_path, photo_folder, name="x", judge=judge)
    with pytest.raises(UserError, match="at least 100 photos, got 40"):
        learn(photo_folder, tmp_path / "t", TINY, judge=judge, device="cpu", progress=False)
    assert not (tmp_path / "t").exists()  # it is refused before hours of training, and before anything is written


def test_a_config_that_refuses_its_options_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["learn", "prior", "--photos", "nowhere", "--size", "30"]) == 2
    assert capsys.readouterr().err == (
        "entoptic: size must be a multiple of 8 with patch 2 and 3 widths, got 30; the nearest is 32\n"
    )
    assert main(["see", "builtin:lite0", "logits:1", "--method", "klsc", "--klsc.particles", "4"]) == 2
    assert capsys.readouterr().err == "entoptic: particles must be at least 12, got 4\n"


def test_the_shipped_prior_is_what_its_card_says() -> None:
    """It loads by name, its classes are part of the noise, and it removes noise better than the mean picture does."""
    assert builtin_priors() == ["small-128", "small-32"]
    prior = load_prior("builtin:small-32", device="cpu")
    assert (prior.shape, prior.conditions) == ((12, 16, 16), 210)
    draw = [torch.Generator().manual_seed(i) for i in range(8)]
    condition = draw_conditions(prior, draw)
    with torch.no_grad():
        x0 = generate(prior, noise_like(prior, draw), condition)
        level = prior.levels(2)[1]
        noisy = level.alpha * x0 + level.sigma * noise_like(prior, draw)
        back = prior.denoise(noisy, level, condition)
        other = prior.denoise(noisy, level, (condition + 100) % 210)
    assert float((back - x0).square().mean()) < 0.5 * float((x0.mean(0) - x0).square().mean())
    assert float((back - x0).square().mean()) < float((other - x0).square().mean())

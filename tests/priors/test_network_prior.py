"""What every trained prior promises: batches, gradients, guidance, identities."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from entoptic.errors import UserError
from entoptic.priors.network_prior import DiffusionPrior, TextPrior, classifier_free_guidance, to_pictures
from entoptic.priors.prior import draw_conditions, generate, noise_like
from entoptic.priors.saved import save_prior
from entoptic.priors.sources import load_prior
from tiny_pipelines import MILD, save_text_pipeline
from tiny_priors import (
    CARD,
    close,
    diffusers,
    flow_net,
    lone,
    pixel_unet,
    save_dit_pipeline,
    save_pixel_pipeline,
    seeds,
)


@pytest.fixture(scope="module")
def pixel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pixel_pipeline(tmp_path_factory.mktemp("pixel"))


@pytest.fixture(scope="module")
def dit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dit_pipeline(tmp_path_factory.mktemp("dit"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_pipeline(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prior of our own training."""
    return save_prior(flow_net(), tmp_path_factory.mktemp("flow"), CARD, half=False)


@pytest.mark.parametrize(("weight", "rows"), [(0, 2), (1, 2), (2.5, 4)])
def test_guidance_is_one_call(weight: float, rows: int) -> None:
    calls = []

    def call(x: Tensor, condition: Tensor) -> Tensor:
        calls.append(len(x))
        return x * condition

    given, null = torch.tensor([[3.0], [5.0]]), torch.tensor([[1.0], [2.0]])
    close(classifier_free_guidance(call, torch.ones(2, 1), given, null, weight), null + weight * (given - null), 1e-6)
    assert calls == [rows]


@pytest.fixture(params=["pixel", "dit", "text", "flow"])
def prior(request: pytest.FixtureRequest) -> DiffusionPrior | TextPrior:
    folder: Path = request.getfixturevalue(request.param)
    options: dict[str, Any] = {"prompt": "a cat"} if request.param == "text" else {}
    if request.param != "pixel":
        options["guidance"] = 1.5
    return load_prior(("file:" if request.param == "flow" else "hf:") + str(folder), device="cpu", **options)  # type: ignore[return-value]


def test_states_do_not_depend_on_their_batch(prior: DiffusionPrior | TextPrior) -> None:
    x, condition = noise_like(prior, seeds(0, 1, 2)), draw_conditions(prior, seeds(3, 4, 5))
    level = prior.levels(4)[1]
    together = prior.denoise(x, level, condition)
    assert together.shape == x.shape
    for i in range(3):
        alone = prior.denoise(x[i : i + 1], level, None if condition is None else condition[i : i + 1])
        close(together[i : i + 1], alone, 1e-5)
    close(prior.decode(together)[1:2], prior.decode(together[1:2]), 1e-5)


def test_pictures_are_rgb_in_range_and_pass_gradients(prior: DiffusionPrior | TextPrior) -> None:
    noise = noise_like(prior, seeds(0)).requires_grad_()
    pictures = prior.decode(generate(prior, noise, draw_conditions(prior, seeds(1)), steps=2))
    assert pictures.dtype == torch.float32
    assert pictures.shape[:2] == (1, 3)
    assert 0 <= pictures.min() < pictures.max() <= 1
    weight = torch.randn(pictures.shape, generator=seeds(2)[0])
    (slope,) = torch.autograd.grad((weight * pictures).sum(), noise)
    direction = slope / slope.norm()
    # Against a finite difference along the gradient itself.
    step = 1e-2
    with torch.no_grad():
        up, down = (
            (weight * prior.decode(generate(prior, noise + sign * step * direction, draw_conditions(prior, seeds(1)),
                                            steps=2))).sum() for sign in (1, -1)
        )  # fmt: skip
    assert float((up - down) / (2 * step)) == pytest.approx(float(slope.norm()), rel=0.05)


def test_networks_are_frozen_and_gradients_reach_states_of_any_dtype(prior: DiffusionPrior | TextPrior) -> None:
    x = noise_like(prior, seeds(0)).double().requires_grad_()
    x0 = prior.denoise(x, prior.levels(2)[1], draw_conditions(prior, seeds(1)))
    assert x0.dtype == torch.float64
    x0.sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_text_embeddings_are_differentiable_and_checked(text: Path) -> None:
    prior = load_prior(f"hf:{text}", device="cpu", prompt="a cat")
    assert isinstance(prior, TextPrior)
    x, level = noise_like(prior, seeds(0, 1)), prior.levels(4)[1]
    embeds = prior.embed(["hen", "a cat"])
    assert embeds.shape == (2, 8, 16)
    close(embeds[1:], prior.text, 1e-6)
    embeds = embeds.requires_grad_()
    x0 = prior.denoise(x, level, text=embeds)
    close(x0[1:], prior.denoise(x[1:], level), 1e-5)
    (slope,) = torch.autograd.grad(x0[0].sum(), embeds)
    assert slope[0].abs().sum() > 0
    assert slope[1].abs().sum() == 0
    with pytest.raises(UserError, match=r"shape B×8×16, got \(1, 8, 4\)"):
        prior.with_text(torch.zeros(1, 8, 4))
    with pytest.raises(UserError, match=r"has 16 tokens; .* reads at most 8"):
        prior.embed(["a b c d e f g h i j k l m n"])


def test_identities_cover_what_samples_depend_on(pixel: Path, dit: Path, text: Path, tmp_path: Path) -> None:
    shutil.copytree(pixel, tmp_path / "copy")
    own = load_prior(f"hf:{pixel}", device="cpu")
    assert load_prior(f"hf:{tmp_path / 'copy'}", device="cpu").identity == own.identity
    config = json.loads((tmp_path / "copy/scheduler/scheduler_config.json").read_text())
    (tmp_path / "copy/scheduler/scheduler_config.json").write_text(json.dumps(config | {"beta_end": 0.02}))
    found = {own.identity, load_prior(f"hf:{tmp_path / 'copy'}", device="cpu").identity}
    found.add(
        load_prior(lone(tmp_path / "seed", pixel_unet(9), diffusers.DDIMScheduler(**MILD)), device="cpu").identity
    )
    found |= {load_prior(f"hf:{dit}", device="cpu", guidance=w).identity for w in (None, 2.0)}
    found |= {load_prior(f"hf:{text}", device="cpu", prompt=p).identity for p in (None, "hen", "cat")}
    assert len(found) == 8
    assert load_prior(f"hf:{dit}", device="cpu", guidance=1.0).identity in found


def test_the_clamp_passes_gradients_inside_the_range() -> None:
    x = torch.tensor([-2.0, -0.5, 0.5, 2.0]).reshape(1, 1, 2, 2).requires_grad_()
    to_pictures(x)[:, 0].sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [0, 0.5, 0.5, 0]

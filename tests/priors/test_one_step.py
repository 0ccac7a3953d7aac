"""Networks distilled to one step: maps from noise, and no denoisers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny_hub
from entoptic import UserError
from entoptic.images.references import References
from entoptic.inversion.saved import base_prior
from entoptic.methods import find_method
from entoptic.methods.contract import Context, Draft, Item, make_config
from entoptic.models.model import Model
from entoptic.priors.one_step import Distillation, OneStepPrior, guidance_embedding, read_distillation
from entoptic.priors.prior import generate, map_levels, map_steps, noise_like
from entoptic.priors.sources import load_prior
from entoptic.units.unit import bind
from tiny_priors import close, diffusers, lone, pixel_unet, seeds


@pytest.fixture(scope="module")
def turbo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("turbo")
    tiny_hub.sdxl_turbo().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def lcm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lcm")
    tiny_hub.lcm().save_pretrained(folder)
    return folder


def loaded(folder: Path, **options: Any) -> OneStepPrior:
    prior = load_prior(f"hf:{folder}", device="cpu", **options)
    assert isinstance(prior, OneStepPrior)
    return prior


@torch.no_grad()
def test_the_map_of_turbo_is_one_step_of_its_pipeline(turbo: Path) -> None:
    prior = loaded(turbo, prompt="a cat")
    pipeline = tiny_hub.sdxl_turbo()
    noise = noise_like(prior, seeds(5, 6))
    theirs = pipeline(
        ["a cat"] * 2, latents=noise, guidance_scale=0.0, num_inference_steps=1, output_type="latent"
    ).images
    ours = generate(prior, noise, steps=6)
    assert prior.level.time == 999
    close(ours / theirs.std(), theirs / theirs.std(), 1e-3)
    assert not torch.allclose(generate(loaded(turbo), noise), ours, rtol=1e-3), "else the text is not read"


@pytest.mark.parametrize("weight", [None, 4.0])
@torch.no_grad()
def test_the_map_of_a_consistency_model_is_one_step_of_its_pipeline(lcm: Path, weight: float | None) -> None:
    prior = loaded(lcm, prompt="a cat", guidance=weight)
    pipeline = tiny_hub.lcm()
    noise = noise_like(prior, seeds(5, 6))
    scale = 8.5 if weight is None else weight
    theirs = pipeline(
        ["a cat"] * 2, latents=noise, guidance_scale=scale, num_inference_steps=1, output_type="latent"
    ).images
    ours = generate(prior, noise / prior.level.sigma)
    close(ours / theirs.std(), theirs / theirs.std(), 1e-3)
    other = generate(loaded(lcm, prompt="a cat", guidance=12.0), noise / prior.level.sigma)
    assert not torch.allclose(other, ours, rtol=1e-3), "else the weight is not read"


def test_the_boundary_of_consistency_functions() -> None:
    x, x0 = (torch.randn(2, 3, generator=g) for g in seeds(0, 1))
    scheduler = diffusers.LCMScheduler(timestep_scaling=0.01)
    found = read_distillation(scheduler)
    assert found is not None
    close(found.finish(x, x0, 0.0), x, 1e-7)
    for t in (1, 50, 999):
        skip, out = scheduler.get_scalings_for_boundary_condition_discrete(t)
        s = t * 0.01
        assert skip == pytest.approx(0.25 / (s**2 + 0.25))
        close(found.finish(x, x0, float(t)), skip * x + out * x0, 1e-6)
    assert torch.equal(Distillation(what="").finish(x, x0, 0.0), x0)


def test_the_clamp_of_the_scheduler_comes_before_the_boundary(lcm: Path, tmp_path: Path) -> None:
    pipeline = tiny_hub.lcm()
    pipeline.scheduler = diffusers.LCMScheduler(clip_sample=True, clip_sample_range=0.5, **tiny_hub.BETAS)
    pipeline.save_pretrained(tmp_path)
    prior = loaded(tmp_path)
    assert prior.bounds == (-0.5, 0.5)
    assert generate(prior, noise_like(prior, seeds(0))).abs().max() == pytest.approx(0.5, abs=1e-3)
    assert generate(loaded(lcm), noise_like(prior, seeds(0))).abs().max() > 0.6


@pytest.mark.parametrize("width", [8, 9, 256])
def test_the_weight_of_distilled_guidance_is_embedded_as_it_was_trained(width: int) -> None:
    theirs = tiny_hub.lcm().get_guidance_scale_embedding(torch.tensor([6.5]), embedding_dim=width)
    close(guidance_embedding(7.5, width), theirs, 1e-3)  # of angles up to 6500, in float32


def test_which_schedulers_stand_for_distilled_networks() -> None:
    euler = diffusers.EulerDiscreteScheduler
    assert read_distillation(diffusers.LCMScheduler()) is not None
    assert read_distillation(euler(timestep_spacing="trailing")) is not None  # SD-Turbo
    for ordinary in (
        euler(timestep_spacing="leading"), euler(timestep_spacing="trailing", prediction_type="v_prediction"),
        diffusers.DDIMScheduler(timestep_spacing="trailing"), diffusers.PNDMScheduler(),
        diffusers.FlowMatchEulerDiscreteScheduler(),
    ):  # fmt: skip
        assert read_distillation(ordinary) is None
    with pytest.raises(UserError, match=r"trajectory consistency.*give the undistilled pipeline"):
        read_distillation(diffusers.TCDScheduler())


def test_there_is_one_level_and_no_chain(turbo: Path) -> None:
    prior = loaded(turbo)
    noise = noise_like(prior, seeds(0))
    assert [level.time for level in map_levels(prior, 6)] == [999, 0]
    assert map_steps(prior, 6) == 1
    with pytest.raises(UserError, match=r"one step and is no denoiser .*; klsc and best-of take it"):
        prior.levels(50)
    with pytest.raises(UserError, match="is no denoiser"):
        prior.denoise(noise, prior.level._replace(time=500.0))
    with pytest.raises(UserError, match="is no denoiser"):
        base_prior(prior.name, torch.device("cpu"))


def test_guidance_is_part_of_the_weights(turbo: Path, lcm: Path) -> None:
    with pytest.raises(UserError, match="guidance is part of its weights; leave out guidance=2"):
        loaded(turbo, guidance=2.0)
    assert loaded(turbo, guidance=1.0).identity == loaded(turbo).identity
    found = {loaded(lcm, guidance=weight, prompt=text).identity for weight in (4.0, 8.5) for text in ("hen", "cat")}
    assert len(found) == 4
    assert loaded(lcm, prompt="hen").identity in found


def test_gradients_reach_the_noise(turbo: Path, lcm: Path) -> None:
    for folder in (turbo, lcm):
        prior = loaded(folder)
        noise = noise_like(prior, seeds(0)).double().requires_grad_()
        x0 = generate(prior, noise)
        assert x0.dtype == torch.float64
        (slope,) = torch.autograd.grad(prior.decode(x0).sum(), noise)
        assert slope.isfinite().all()
        assert slope.abs().sum() > 0


def test_distilled_networks_that_cannot_be_served(tmp_path: Path) -> None:
    name = lone(tmp_path / "pixels", pixel_unet(), diffusers.LCMScheduler())
    with pytest.raises(UserError, match="read of text pipelines only"):
        load_prior(name, device="cpu")
    pipeline = tiny_hub.sd15(unet=tiny_hub.text_unet(0, 16, time_cond_proj_dim=8))
    pipeline.save_pretrained(tmp_path / "guided")
    with pytest.raises(UserError, match="the weight of distilled guidance, which is supported with LCMScheduler only"):
        load_prior(f"hf:{tmp_path / 'guided'}", device="cpu")


def draw(method: str, model: Model, prior: Any, **options: Any) -> list[Draft]:
    card = find_method(method)
    items = [Item(target=unit, sample=0, seed=0) for unit in bind(model, "logits:1")]
    context = Context(model=model, references=References(model, None), prior=prior)
    return list(card.function(items, make_config(card, options), context))


@pytest.mark.parametrize("method", ["klsc-twisted", "energydps", "prompt", "prompt-words"])
def test_methods_of_chains_refuse_before_they_make_a_bank(
    method: str, turbo: Path, tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("entoptic.sampling.bank.make_bank", lambda *_, **__: pytest.fail("a bank was made"))
    with pytest.raises(UserError, match="is no denoiser at the levels on the way"):
        draw(method, tiny, loaded(turbo))


def test_methods_of_the_map_draw_from_it(turbo: Path, tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = loaded(turbo)
    calls: list[int] = []
    generator = prior.generator

    def counted(x: Tensor) -> Tensor:
        calls.append(len(x))
        return generator(x)

    prior.generator = counted
    (best,) = draw("best-of", tiny, prior, bank=128)
    assert best.failure is None
    assert sum(calls) == 128, "one call for each sample"
    (drawn,) = draw("klsc", tiny, prior, bank=128, nats=0.3, particles=16, islands=2)
    assert drawn.failure is None
    assert drawn.trace is not None
    law = drawn.trace.distribution
    assert law is not None
    assert law.generator_steps == 1
    assert law.kl is None or math.isfinite(law.kl.value)

"""Priors in the layouts of checkpoints on the hub, against formulas of the papers and the pipelines that saved them."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tiny_hub
from entoptic.errors import UserError
from entoptic.inversion.configs import EntopticRecipe
from entoptic.inversion.network import build
from entoptic.priors.network_prior import DiffusionPrior, TextPrior
from entoptic.priors.prior import Level, ancestral, deterministic, generate, noise_like
from entoptic.priors.sources import load_prior
from tiny_priors import close, ddim, diffusers, seeds


def save(pipeline: Any, folder: Path, **options: Any) -> str:
    pipeline.save_pretrained(folder, **options)
    return f"hf:{folder}"


def levels_of(name: str) -> np.ndarray:
    """ᾱ_t from the betas in the saved config: β even (Ho et al. 2020), or its root even (Rombach et al. 2022)."""
    root = Path(name[3:])
    config = json.loads(
        ((root / "scheduler" if (root / "scheduler").is_dir() else root) / "scheduler_config.json").read_text()
    )
    first, last, steps = config["beta_start"], config["beta_end"], config["num_train_timesteps"]
    if config["beta_schedule"] == "scaled_linear":
        betas = np.linspace(first**0.5, last**0.5, steps) ** 2
    else:
        assert config["beta_schedule"] == "linear"
        betas = np.linspace(first, last, steps)
    return np.cumprod(1 - betas)


def expected_x0(name: str, target: str, x: Tensor, output: Tensor, t: int) -> Tensor:
    """E[x0 | x_t] by the definition of what the network predicts, in float64."""
    kept = levels_of(name)[t]
    x, output = x.double(), output.double()
    if target == "epsilon":  # x_t = √ᾱ·x0 + √(1-ᾱ)·ε
        return ((x - (1 - kept) ** 0.5 * output) / kept**0.5).float()
    return (kept**0.5 * x - (1 - kept) ** 0.5 * output).float()  # v = √ᾱ·ε - √(1-ᾱ)·x0


def at(prior: Any, t: int) -> Level:
    """The level of time t."""
    (level,) = [level for level in prior.levels(1000) if level.time == t and level.sigma > 0]
    return level


def words(pipeline: Any, prompts: list[str], **options: Any) -> tuple[Tensor, ...]:
    found: tuple[Tensor, ...] = pipeline.encode_prompt(prompts, device="cpu", num_images_per_prompt=1, **options)
    return found


TEXT: dict[str, tuple[Callable[[], Any], str]] = {
    "sd15": (tiny_hub.sd15, "epsilon"),
    "sd15-ddim": (lambda: tiny_hub.sd15(diffusers.DDIMScheduler(clip_sample=False, **tiny_hub.STABLE_DDIM)), "epsilon"),
    "sd21": (tiny_hub.sd21, "v_prediction"),
    "sdxl": (tiny_hub.sdxl, "epsilon"),
}


@pytest.mark.parametrize("layout", TEXT)
@torch.no_grad()
def test_denoisers_of_text_pipelines_are_the_papers(layout: str, tmp_path: Path) -> None:
    pipeline, target = TEXT[layout][0](), TEXT[layout][1]
    name = save(pipeline, tmp_path)
    prior = load_prior(name, device="cpu", prompt="a cat", guidance=3.0)
    assert isinstance(prior, TextPrior)
    assert (prior.shape, prior.bounds, prior.conditions) == ((4, 8, 8), None, 0)
    x = torch.randn(2, 4, 8, 8, generator=seeds(0)[0])
    for t in (0, 1, 420, 999):
        level = at(prior, t)
        assert level.alpha**2 == pytest.approx(levels_of(name)[t], rel=1e-5)
        if layout == "sdxl":
            given, null, pooled, pooled_null = words(pipeline, ["a cat"], do_classifier_free_guidance=True)
            ids = torch.tensor([[16.0, 16, 0, 0, 16, 16]]).expand(2, -1)  # twice the state's 8, nothing cropped
            outputs = [pipeline.unet(
                x, t, encoder_hidden_states=text.expand(2, -1, -1),
                added_cond_kwargs={"text_embeds": summary.expand(2, -1), "time_ids": ids},
            ).sample for text, summary in ((given, pooled), (null, pooled_null))]  # fmt: skip
        else:
            given, null = words(pipeline, ["a cat"], do_classifier_free_guidance=True)
            outputs = [pipeline.unet(x, t, text.expand(2, -1, -1)).sample for text in (given, null)]
        output = outputs[1] + 3 * (outputs[0] - outputs[1])
        close(prior.denoise(x, level), expected_x0(name, target, x, output, t), 1e-3)
        assert (outputs[0] - outputs[1]).abs().max() > 1e-4, "else the text is not tested"


@pytest.mark.parametrize("layout", TEXT)
@torch.no_grad()
def test_chains_of_text_pipelines_are_theirs(layout: str, tmp_path: Path) -> None:
    pipeline = TEXT[layout][0]()
    prior = load_prior(save(pipeline, tmp_path), device="cpu", prompt="a cat", guidance=3.0)
    noise = noise_like(prior, seeds(5, 6))
    config = pipeline.scheduler.config
    if layout == "sdxl":  # Euler starts from σ times standard normal states, and so do we
        pipeline.scheduler = diffusers.EulerDiscreteScheduler.from_config(config, timestep_spacing="trailing")
        start = noise
    else:
        pipeline.scheduler = diffusers.DDIMScheduler.from_config(
            config, timestep_spacing="trailing", set_alpha_to_one=True, clip_sample=False
        )
        start = noise / prior.levels(4)[0].sigma
    theirs = pipeline(
        ["a cat"] * 2, latents=noise, guidance_scale=3.0, num_inference_steps=4, output_type="latent"
    ).images
    ours = ddim(prior, start, steps=4)
    assert theirs.std() > 0.1
    close(ours / theirs.std(), theirs / theirs.std(), 2e-3)
    scale = pipeline.vae.config.scaling_factor
    close(prior.decode(ours), (pipeline.vae.decode(ours / scale).sample / 2 + 0.5).clamp(0, 1), 1e-5)


@torch.no_grad()
def test_no_text_of_xl_is_what_it_was_trained_with(tmp_path: Path) -> None:
    """All zeros, or the encoded empty prompt, as the pipeline's config says."""
    for zeros in (True, False):
        name = save(tiny_hub.sdxl(zeros=zeros), tmp_path / str(zeros))
        prior = load_prior(name, device="cpu")
        assert isinstance(prior, TextPrior)
        assert bool((prior.null == 0).all()) is zeros
        assert torch.equal(prior.text, prior.null)
        empty = load_prior(name, device="cpu", prompt="")
        assert (empty.identity == prior.identity) is not zeros
        assert isinstance(empty, TextPrior)
        # Tokens of both encoders side by side, and the second one's summary as one row more.
        assert empty.text.shape == (1, tiny_hub.LENGTH + 1, 40)
        assert bool((empty.text[0, -1, :12] != 0).all() and (empty.text[0, -1, 12:] == 0).all())


def test_texts_of_xl_can_be_optimised_and_exchanged(tmp_path: Path) -> None:
    prior = load_prior(save(tiny_hub.sdxl(), tmp_path), device="cpu", prompt="a cat")
    assert isinstance(prior, TextPrior)
    text = prior.embed(["hen", "a cat"]).requires_grad_()
    x0 = prior.denoise(noise_like(prior, seeds(0, 1)), prior.levels(4)[1], text=text)
    (slope,) = torch.autograd.grad(x0[0].sum(), text)
    assert slope[0, :-1].abs().sum() > 0
    assert slope[0, -1, :12].abs().sum() > 0, "the summary moves the picture too"
    assert slope[1].abs().sum() == slope[0, -1, 12:].abs().sum() == 0
    moved = prior.with_text(prior.embed(["hen"]))
    assert moved.identity == load_prior(prior.name, device="cpu", prompt="hen").identity != prior.identity
    with pytest.raises(
        UserError, match="reads what addition_embed_type = text_time stands for, which an inverter does"
    ):
        build(prior, 4, EntopticRecipe())


@torch.no_grad()
def test_class_transformers_guide_and_drop_their_variances(tmp_path: Path) -> None:
    pipeline = tiny_hub.dit()
    name = save(pipeline, tmp_path)
    prior = load_prior(name, device="cpu", guidance=4.0)
    assert isinstance(prior, DiffusionPrior)
    assert (prior.shape, prior.conditions, prior.null) == ((4, 8, 8), 1000, 1000)
    x, classes = torch.randn(2, 4, 8, 8, generator=seeds(0)[0]), torch.tensor([3, 7])
    for t in (0, 300, 999):
        with_class, without = (
            pipeline.transformer(x, timestep=torch.full((2,), t), class_labels=labels).sample[:, :4]
            for labels in (classes, torch.full((2,), 1000))
        )
        output = without + 4 * (with_class - without)
        close(prior.denoise(x, at(prior, t), classes), expected_x0(name, "epsilon", x, output, t), 1e-3)
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    theirs = pipeline([3, 7], 4.0, seeds(5, 6), num_inference_steps=4, output_type="pt").images
    noise = noise_like(prior, seeds(5, 6)) / prior.levels(4)[0].sigma
    close(prior.decode(ddim(prior, noise, classes, steps=4)), torch.as_tensor(theirs), 1e-3)


@torch.no_grad()
def test_chains_of_unconditional_pixels_are_ancestral(tmp_path: Path) -> None:
    pipeline = tiny_hub.ddpm()
    name = save(pipeline, tmp_path)
    prior = load_prior(name, device="cpu")
    assert (prior.shape, prior.bounds, prior.conditions) == ((3, 16, 16), (-1.0, 1.0), 0)
    scheduler = diffusers.DDPMScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    scheduler.set_timesteps(5)
    x = theirs = torch.randn(2, 3, 16, 16, generator=seeds(0)[0])
    levels = prior.levels(5)
    assert [level.time for level in levels[:-1]] == scheduler.timesteps.tolist()
    for time, (t, s) in zip(scheduler.timesteps, pairwise(levels)):
        output = pipeline.unet(x, time).sample
        x0 = prior.denoise(x, t)
        close(x0, expected_x0(name, "epsilon", x, output, int(time)), 1e-3)
        theirs = scheduler.step(output, time, theirs, generator=seeds(int(time))[0]).prev_sample
        step = ancestral(t, s)
        noise = torch.randn(x.shape, generator=seeds(int(time))[0])
        x = step.from_x * x + step.from_x0 * x0.clamp(-1, 1) + step.sd * noise
        close(x, theirs, 1e-4)


@torch.no_grad()
def test_learned_variances_change_no_mean(tmp_path: Path) -> None:
    """A class-conditional ADM: its scheduler's step is our mean and noise of the learned variance."""
    name = tiny_hub.adm(tmp_path)
    prior = load_prior(name, device="cpu")
    assert (prior.shape, prior.conditions) == ((3, 16, 16), 5)
    net = diffusers.UNet2DModel.from_pretrained(tmp_path)
    scheduler = diffusers.DDPMScheduler.from_pretrained(tmp_path)
    scheduler.set_timesteps(10)
    x, classes = torch.randn(2, 3, 16, 16, generator=seeds(0)[0]), torch.tensor([1, 4])
    levels = prior.levels(10)
    for i in (0, 4):
        t, s = levels[i], levels[i + 1]
        output = net(x, t.time, class_labels=classes).sample
        theirs = scheduler.step(output, int(t.time), x, generator=seeds(3)[0]).prev_sample
        close(prior.denoise(x, t, classes), expected_x0(name, "epsilon", x, output[:, :3], int(t.time)), 1e-3)
        step = ancestral(t, s)
        # Nichol & Dhariwal 2021, eq. 15: log σ² between those of β̃ and β
        most, part = np.log(1 - (t.alpha / s.alpha) ** 2), (output[:, 3:] + 1) / 2
        sd = (0.5 * (part * most + (1 - part) * 2 * np.log(step.sd))).exp()
        noise = torch.randn(x.shape, generator=seeds(3)[0])
        ours = step.from_x * x + step.from_x0 * prior.denoise(x, t, classes) + sd * noise
        close(ours, theirs, 1e-3)


@torch.no_grad()
def test_a_tiny_decoder_takes_the_place_of_the_large_one(tmp_path: Path) -> None:
    vae = tiny_hub.tiny_vae()
    name = save(tiny_hub.sd15(vae=vae), tmp_path / "tiny")
    prior = load_prior(name, device="cpu")
    x0 = generate(prior, noise_like(prior, seeds(1)), steps=2)
    close(prior.decode(x0), (vae.decode(x0).sample / 2 + 0.5).clamp(0, 1), 1e-6)
    assert isinstance(prior, TextPrior)
    assert prior.states is not None
    assert prior.states(prior.decode(x0)).shape == x0.shape
    # XL tells its network the size of pictures, by the decoder's factor.
    pipeline = tiny_hub.sdxl()
    x, level = torch.randn(1, 4, 8, 8, generator=seeds(0)[0]), Level(500.0, 0.8, 0.6)
    large = load_prior(save(pipeline, tmp_path / "xl"), device="cpu", prompt="cat").denoise(x, level)
    pipeline.vae = vae
    pipeline.register_modules(vae=vae)
    close(load_prior(save(pipeline, tmp_path / "small"), device="cpu", prompt="cat").denoise(x, level), large, 1e-6)


def test_the_deterministic_step_goes_to_the_clean_state() -> None:
    """What the one-step map relies on."""
    assert deterministic(Level(999.0, 0.0683, 0.9977), Level(0.0, 1.0, 0.0))[:3] == (0.0, 1.0, 0.0)

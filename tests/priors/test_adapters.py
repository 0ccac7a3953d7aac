"""Priors read from saved networks, against the pipelines and schedulers of diffusers that saved them."""

from __future__ import annotations

import fnmatch
import json
import shutil
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle

from entoptic.errors import UserError
from entoptic.images.photos import Photos
from entoptic.priors.learn import Recipe, network
from entoptic.priors.network_prior import DiffusionPrior, TextPrior, classifier_free_guidance, to_pictures
from entoptic.priors.prior import (
    Level,
    Prior,
    ancestral,
    deterministic,
    draw_conditions,
    generate,
    map_levels,
    noise_like,
)
from entoptic.priors.saved import save_prior
from entoptic.priors.schedule import Diffusion, Flow, read_bounds, read_schedule
from entoptic.priors.sources import builtin_priors, load_prior
from tiny_pipelines import MILD, kl_vae, save_text_pipeline, text_pipeline

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(n) for n in numbers]


def pixel_unet(seed: int = 0, **changes: Any) -> nn.Module:
    torch.manual_seed(seed)
    options = {
        "sample_size": 16, "in_channels": 3, "out_channels": 3, "block_out_channels": (8, 16), "layers_per_block": 1,
        "norm_num_groups": 4, "down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2,
        "add_attention": False,
    }  # fmt: skip
    return diffusers.UNet2DModel(**{**options, **changes}).eval()


@pytest.fixture(scope="module")
def pixel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unconditional pixel pipeline that predicts the noise."""
    folder = tmp_path_factory.mktemp("pixel")
    diffusers.DDIMPipeline(pixel_unet(), diffusers.DDIMScheduler(**MILD)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class-conditional transformer with learned variances, in latents."""
    torch.manual_seed(0)
    net = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1, sample_size=8,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("dit")
    scheduler = diffusers.DDIMScheduler(**MILD)
    # The pipeline does not know the VAE's shift; DiT's has none.
    diffusers.DiTPipeline(net, kl_vae(shift_factor=None), scheduler).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text-to-image pipeline in latents, with v-prediction and a tiny VAE."""
    return save_text_pipeline(tmp_path_factory.mktemp("text"))


CARD = {"name": "tiny", "size": 16, "patch": 2, "classes": ["a", "b", "c"], "guidance": 2.0, "licence": "cc0-1.0"}


def flow_net() -> nn.Module:
    torch.manual_seed(4)
    return network(Recipe(size=16, widths=(16, 32), attention=(), layers=1), classes=3).eval()


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prior of our own training."""
    return save_prior(flow_net(), tmp_path_factory.mktemp("flow"), CARD, half=False)


def lone(folder: Path, net: nn.Module, scheduler: Any) -> str:
    """A network with its scheduler's config beside it, and its name."""
    net.save_pretrained(folder)
    scheduler.save_pretrained(folder)
    return f"hf:{folder}"


@torch.no_grad()
def ddim(prior: Prior, noise: Tensor, condition: Tensor | None = None, *, steps: int) -> Tensor:
    """First-order deterministic steps, as the pipelines' schedulers take them."""
    levels = prior.levels(steps)
    x = noise * levels[0].sigma
    for t, s in pairwise(levels):
        k = deterministic(t, s)
        x = k.from_x * x + k.from_x0 * prior.denoise(x, t, condition)
    return x


def close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# --- schedules ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["epsilon", "v_prediction", "sample"])
@torch.no_grad()
def test_deterministic_steps_are_ddim(target: str) -> None:
    scheduler = diffusers.DDIMScheduler(
        prediction_type=target, clip_sample=False, timestep_spacing="trailing", beta_schedule="scaled_linear"
    )
    schedule, scale = read_schedule(scheduler), torch.linspace(0.2, 1.1, 48).reshape(1, 3, 4, 4)

    def net(x: Tensor) -> Tensor:  # close to what a trained network would put out, so that states stay of order one
        return scale * (x if target == "epsilon" else x.tanh())

    scheduler.set_timesteps(8)
    theirs = ours = torch.randn(2, 3, 4, 4, generator=seeds(0)[0])
    levels = schedule.levels(8)
    assert [level.time for level in levels[:-1]] == scheduler.timesteps.tolist()
    for time, t, s in zip(scheduler.timesteps, levels, levels[1:]):
        theirs = scheduler.step(net(theirs), time, theirs, eta=0.0).prev_sample
        step = deterministic(t, s)
        ours = step.from_x * ours + step.from_x0 * schedule.clean(ours, net(ours), t)
        close(ours, theirs, 2e-4 if target == "epsilon" else 1e-5)


@pytest.mark.parametrize("target", ["epsilon", "v_prediction", "sample"])
def test_ancestral_steps_are_ddpm(target: str) -> None:
    scheduler = diffusers.DDPMScheduler(
        prediction_type=target, clip_sample=False, timestep_spacing="trailing", variance_type="fixed_small"
    )
    scheduler.set_timesteps(20)
    schedule = read_schedule(scheduler)
    levels = schedule.levels(20)
    x, output = (torch.randn(1, 3, 8, 8, generator=g) for g in seeds(1, 2))
    for i in (0, 7, 18, 19):  # the last is without noise
        theirs = scheduler.step(output, scheduler.timesteps[i], x, generator=seeds(3)[0]).prev_sample
        noise = torch.randn(x.shape, generator=seeds(3)[0])
        step = ancestral(levels[i], levels[i + 1])
        ours = step.from_x * x + step.from_x0 * schedule.clean(x, output, levels[i]) + step.sd * noise
        close(ours, theirs)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@torch.no_grad()
def test_deterministic_steps_are_the_flow_schedulers(shift: float) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    schedule = read_schedule(scheduler)
    assert schedule == Flow(shift)
    levels = schedule.levels(6)
    even = [level.sigma / (shift - (shift - 1) * level.sigma) for level in levels[:-1]]
    assert np.allclose(np.diff(even), np.diff(even)[0])
    scheduler.set_timesteps(sigmas=even)
    assert np.allclose([level.time for level in levels[:-1]], scheduler.timesteps)
    theirs = ours = torch.randn(2, 3, 4, 4, generator=seeds(0)[0])
    for time, t, s in zip(scheduler.timesteps, levels, levels[1:]):
        theirs = scheduler.step((2 * theirs).sin(), time, theirs).prev_sample
        step = deterministic(t, s)
        ours = step.from_x * ours + step.from_x0 * schedule.clean(ours, (2 * ours).sin(), t)
        close(ours, theirs, 1e-5)


@pytest.mark.parametrize("steps", [1, 3, 7, 250, 1000])
@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.DDPMScheduler(),
        diffusers.PNDMScheduler(beta_schedule="scaled_linear"),
        diffusers.EulerDiscreteScheduler(),
        diffusers.DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction"),
        diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0),
        diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=2.0),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_levels_fall_from_noise_to_clean(scheduler: Any, steps: int) -> None:
    schedule = read_schedule(scheduler)
    levels = schedule.levels(steps)
    if isinstance(schedule, Flow):
        assert schedule.map_levels(steps) == levels
    elif steps == len(schedule.kept):
        assert schedule.map_levels(steps) == levels, "all that there are"
    assert len(levels) == steps + 1
    assert levels[-1] == Level(0.0, 1.0, 0.0)
    assert levels[0].alpha < 0.08
    for t, s in pairwise(levels):
        # Only a schedule that ends in pure noise has levels that are too noisy to be told apart.
        assert t.alpha < s.alpha or t.alpha == s.alpha == 2**-12
        assert t.sigma > s.sigma or t.alpha == 2**-12
        assert t.time >= s.time
        assert (
            t.alpha + t.sigma == pytest.approx(1)
            if isinstance(schedule, Flow)
            else t.alpha**2 + t.sigma**2 == pytest.approx(1)
        )
        assert np.isfinite([*ancestral(t, s), *deterministic(t, s)]).all()


VARIANCE_PRESERVING = {
    "linear": diffusers.DDPMScheduler(),
    "scaled linear": diffusers.PNDMScheduler(beta_schedule="scaled_linear"),
    "cosine": diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"),
    "pure noise": diffusers.DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction"),
}


@pytest.mark.parametrize("name", VARIANCE_PRESERVING)
def test_the_levels_of_the_map_are_even_in_log_snr(name: str) -> None:
    schedule = read_schedule(VARIANCE_PRESERVING[name])
    levels = schedule.map_levels(6)
    assert len(levels) == 7
    assert levels[-1] == Level(0.0, 1.0, 0.0)
    log_snr = np.log([level.alpha / level.sigma for level in levels[:-1]])
    assert (np.diff(log_snr) > 0).all()
    assert log_snr[0] == pytest.approx(max(np.log(max(schedule.kept[-1], 1e-9)) / 2, -np.log(160)), abs=0.4)
    assert log_snr[-1] == pytest.approx(np.log(10), abs=0.05)
    # Where noise is faint or nearly pure, times of the schedule are far apart in log(α/σ).
    assert np.allclose(np.diff(log_snr), np.diff(log_snr).mean(), atol=0.5)
    for steps in (1, 2, 3, 40, 999, 1000):
        times = [level.time for level in schedule.map_levels(steps)[:-1]]
        assert len(set(times)) == steps
        assert times == sorted(times, reverse=True)
        assert min(times) >= 0


def test_the_levels_of_the_map_stay_inside_a_short_schedule() -> None:
    schedule = Diffusion((0.99, 0.5, 0.1), "sample")
    assert [level.time for level in schedule.map_levels(3)] == [2, 1, 0, 0]
    assert [level.time for level in schedule.map_levels(1)] == [2, 0]
    with pytest.raises(UserError, match="1 to 3, got 4"):
        schedule.map_levels(4)
    with pytest.raises(UserError, match="1 to 3, got 0"):
        schedule.map_levels(0)


class _Gaussian:
    """N(0, sd²) in every position of the shape, by its exact denoiser at the levels of a schedule."""

    name, identity, bounds, conditions, device = "gaussian", "gaussian", None, 0, torch.device("cpu")

    def __init__(self, schedule: Diffusion, sd: list[float]) -> None:
        self.schedule, self.var = schedule, torch.tensor(sd, dtype=torch.float64).square().reshape(1, -1, 1, 1)
        self.shape, self.levels = (len(sd), 1, 1), schedule.levels

    def denoise(self, x: Tensor, level: Level, condition: Tensor | None = None) -> Tensor:
        return level.alpha * self.var / (level.alpha**2 * self.var + level.sigma**2) * x

    def decode(self, x0: Tensor) -> Tensor:
        return x0


class _ByMap(_Gaussian):
    def __init__(self, schedule: Diffusion, sd: list[float]) -> None:
        super().__init__(schedule, sd)
        self.map_levels = schedule.map_levels


@pytest.mark.parametrize("name", ["linear", "scaled linear", "cosine"])
def test_six_steps_keep_most_of_a_gaussians_variance(name: str) -> None:
    """The map of a Gaussian is linear, so one state tells the law: the share of variance that is left at sd 2 … 0.1."""
    schedule, sd = read_schedule(VARIANCE_PRESERVING[name]), [2.0, 1.0, 0.3, 0.1]
    one = torch.ones(1, 4, 1, 1, dtype=torch.float64)
    left, evenly = (
        (generate(kind(schedule, sd), one, steps=6).flatten() / torch.tensor(sd)).square()
        for kind in (_ByMap, _Gaussian)
    )
    assert (left > torch.tensor([0.94, 0.86, 0.65, 0.36])).all()
    assert (left < 1.05).all()
    assert ((left - 1).abs() < (evenly - 1).abs()).all(), "in no direction worse than evenly spaced times"
    assert evenly[3] < 0.15, "else there was nothing to mend"


@pytest.mark.parametrize("target", ["epsilon", "v_prediction", "sample"])
def test_the_true_output_gives_back_the_picture(target: str) -> None:
    schedule, (x0, noise) = Diffusion((0.9, 0.5, 0.1), target), torch.randn(2, 5, generator=seeds(0)[0])
    for level in schedule.levels(3):
        x = level.alpha * x0 + level.sigma * noise
        output = {"epsilon": noise, "sample": x0, "v_prediction": level.alpha * noise - level.sigma * x0}[target]
        close(schedule.clean(x, output, level), x0, 1e-5)
        x = (1 - level.sigma) * x0 + level.sigma * noise
        close(Flow().clean(x, noise - x0, level), x0, 1e-5)


def test_schedules_that_do_not_fit() -> None:
    for scheduler, words in [
        (diffusers.EDMEulerScheduler(), "EDMEulerScheduler are not supported"),
        (diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), "fixed shift"),
        (diffusers.DDIMScheduler(rescale_betas_zero_snr=True), "ends in pure noise"),
        (diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True), "flow_prediction"),
    ]:
        with pytest.raises(UserError, match=words):
            read_schedule(scheduler)
    with pytest.raises(UserError, match="1 to 1000, got 1001"):
        read_schedule(diffusers.DDPMScheduler()).levels(1001)
    with pytest.raises(UserError, match="1 step or more"):
        Flow().levels(0)
    assert read_bounds(diffusers.DDPMScheduler()) == (-1.0, 1.0)
    assert read_bounds(diffusers.DDIMScheduler(clip_sample=False)) is None
    assert read_bounds(diffusers.EulerDiscreteScheduler()) is None


# --- whole pipelines ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_pixel_prior_makes_the_pictures_of_its_pipeline(pixel: Path) -> None:
    prior = load_prior(f"hf:{pixel}", device="cpu")
    assert (prior.name, prior.shape, prior.bounds, prior.conditions) == (f"hf:{pixel}", (3, 16, 16), None, 0)
    pipeline = diffusers.DDIMPipeline.from_pretrained(pixel)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(2, seeds(5, 6), num_inference_steps=8, output_type="np").images
    # The pipeline starts from standard normal states, ours from σ times them.
    noise = noise_like(prior, seeds(5, 6)) / prior.levels(8)[0].sigma
    ours = prior.decode(ddim(prior, noise, steps=8))
    assert ((ours > 0) & (ours < 1)).float().mean() > 0.3
    close(ours, torch.from_numpy(theirs).permute(0, 3, 1, 2))


@torch.no_grad()
def test_the_few_step_map_is_dpm_solver(pixel: Path) -> None:
    """G(z) against the scheduler of diffusers for the same second-order multistep solver."""
    prior = load_prior(f"hf:{pixel}", device="cpu")
    net = diffusers.UNet2DModel.from_pretrained(pixel / "unet")
    scheduler = diffusers.DPMSolverMultistepScheduler(
        beta_end=MILD["beta_end"], final_sigmas_type="zero", lower_order_final=True
    )
    levels = map_levels(prior, 6)
    scheduler.set_timesteps(timesteps=[int(level.time) for level in levels[:-1]])
    noise = noise_like(prior, seeds(5, 6))
    theirs = noise * levels[0].sigma
    for time in scheduler.timesteps:
        theirs = scheduler.step(net(theirs, time).sample, time, theirs).prev_sample
    assert levels[:-1] != prior.levels(6)[:-1]
    ours = generate(prior, noise, steps=6)
    close(ours, theirs, 1e-3)
    assert (ours - ddim(prior, noise, steps=6)).abs().max() > 0.05, "else the order is not tested"


@torch.no_grad()
def test_a_transformer_prior_makes_the_pictures_of_its_pipeline(dit: Path) -> None:
    prior = load_prior(f"hf:{dit}", device="cpu", guidance=3.0)
    assert (prior.shape, prior.conditions) == ((4, 8, 8), 1000)
    pipeline = diffusers.DiTPipeline.from_pretrained(dit)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline([3, 7], 3.0, seeds(5, 6), num_inference_steps=4, output_type="pt").images
    noise = noise_like(prior, seeds(5, 6)) / prior.levels(4)[0].sigma
    ours = prior.decode(ddim(prior, noise, torch.tensor([3, 7]), steps=4))
    assert ours.shape == (2, 3, 16, 16)
    assert ours.std() > 1e-3
    close(ours, torch.as_tensor(theirs))
    other = prior.decode(ddim(prior, noise, torch.tensor([3, 8]), steps=4))
    assert not torch.allclose(ours[1], other[1], atol=1e-4)


@torch.no_grad()
def test_a_text_prior_makes_the_pictures_of_its_pipeline(text: Path) -> None:
    prior = load_prior(f"hf:{text}", device="cpu", guidance=4.0, prompt="a cat")
    assert isinstance(prior, TextPrior)
    assert (prior.shape, prior.conditions) == ((4, 8, 8), 0)
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(text)
    pipeline.set_progress_bar_config(disable=True)
    noise = noise_like(prior, seeds(5, 6))
    theirs = pipeline(["a cat"] * 2, latents=noise, guidance_scale=4.0, num_inference_steps=4, output_type="pt").images
    noise = noise / prior.levels(4)[0].sigma
    ours = prior.decode(ddim(prior, noise, steps=4))
    assert ours.std() > 1e-3
    close(ours, theirs)
    # The text is data: the embeddings of another prompt give what a prior at that prompt gives.
    hen = load_prior(f"hf:{text}", device="cpu", guidance=4.0, prompt="hen")
    moved = prior.with_text(prior.embed(["hen"]))
    assert moved.identity == hen.identity != prior.identity
    close(moved.decode(generate(moved, noise, steps=4)), hen.decode(generate(hen, noise, steps=4)), 1e-6)
    assert not torch.allclose(moved.decode(ddim(moved, noise, steps=4)), ours, atol=1e-4)


@torch.no_grad()
def test_an_unconditional_latent_prior_decodes_through_its_codebook(tmp_path: Path) -> None:
    torch.manual_seed(6)
    codes = diffusers.VQModel(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, num_vq_embeddings=16,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, latent_channels=3, scaling_factor=0.5,
    )  # fmt: skip
    codes.save_pretrained(tmp_path / "vqvae")
    pixel_unet(sample_size=8).save_pretrained(tmp_path / "unet")
    diffusers.DDIMScheduler(**MILD).save_pretrained(tmp_path / "scheduler")
    index = {"_class_name": "LDMPipeline", "vqvae": ["diffusers", "VQModel"], "unet": ["diffusers", "UNet2DModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    prior = load_prior(f"hf:{tmp_path}", device="cpu")
    x0 = generate(prior, noise_like(prior, seeds(1)), steps=2)
    close(prior.decode(x0), (codes.eval().decode(x0 / 0.5).sample / 2 + 0.5).clamp(0, 1), 1e-6)


@torch.no_grad()
def test_latents_are_scaled_and_shifted_before_the_decoder(tmp_path: Path) -> None:
    vae = kl_vae()
    text_pipeline(vae).save_pretrained(tmp_path)
    prior = load_prior(f"hf:{tmp_path}", device="cpu")
    x0 = torch.randn(2, 4, 8, 8, generator=seeds(0)[0])
    close(prior.decode(x0), (vae.decode(x0 / 0.4 + 0.1).sample / 2 + 0.5).clamp(0, 1), 1e-6)


@torch.no_grad()
def test_lone_networks_with_a_scheduler_beside_them(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 16, 16, generator=seeds(0)[0])
    # Learned variances are left out.
    net = pixel_unet(out_channels=6)
    prior = load_prior(lone(tmp_path / "variance", net, diffusers.DDPMScheduler(**MILD)), device="cpu")
    level = prior.levels(4)[1]
    epsilon = net(x, torch.tensor(level.time)).sample[:, :3]
    close(prior.denoise(x, level), (x - level.sigma * epsilon) / level.alpha, 1e-5)
    # Flow matching with the same kind of network.
    net = pixel_unet(1)
    prior = load_prior(lone(tmp_path / "flow", net, diffusers.FlowMatchEulerDiscreteScheduler()), device="cpu")
    level = prior.levels(4)[1]
    assert level.time == pytest.approx(1000 * level.sigma)
    close(prior.denoise(x, level), x - level.sigma * net(x, torch.tensor(level.time)).sample, 1e-5)
    # Classes without one for none: they are drawn, and cannot be left out.
    net = pixel_unet(2, num_class_embeds=5)
    name = lone(tmp_path / "classes", net, diffusers.DDPMScheduler(prediction_type="sample"))
    prior = load_prior(name, device="cpu")
    assert (prior.conditions, prior.bounds) == (5, (-1.0, 1.0))
    condition = draw_conditions(prior, seeds(0, 1))
    assert condition is not None
    level = prior.levels(4)[1]
    close(prior.denoise(x, level, condition), net(x, level.time, class_labels=condition).sample, 1e-5)
    with pytest.raises(UserError, match="trained with classes only; give each state one of 0 … 4"):
        prior.denoise(x, level)
    with pytest.raises(UserError, match="leave out guidance=2"):
        load_prior(name, device="cpu", guidance=2)
    # Grey pictures are shown as RGB.
    name = lone(tmp_path / "grey", pixel_unet(3, in_channels=1, out_channels=1), diffusers.DDPMScheduler())
    prior = load_prior(name, device="cpu")
    assert prior.shape == (1, 16, 16)
    grey = prior.decode(torch.linspace(-0.9, 0.9, 256).reshape(1, 1, 16, 16))
    assert grey.shape == (1, 3, 16, 16)
    close(grey[0, 2].flatten(), torch.linspace(0.05, 0.95, 256), 1e-6)


# --- priors of our own training ----------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(("weight", "rows"), [(0, 2), (1, 2), (2.5, 4)])
def test_guidance_is_one_call(weight: float, rows: int) -> None:
    calls = []

    def call(x: Tensor, condition: Tensor) -> Tensor:
        calls.append(len(x))
        return x * condition

    given, null = torch.tensor([[3.0], [5.0]]), torch.tensor([[1.0], [2.0]])
    close(classifier_free_guidance(call, torch.ones(2, 1), given, null, weight), null + weight * (given - null), 1e-6)
    assert calls == [rows]


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


def test_builtin_names_are_shipped_folders(flow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("entoptic.priors.sources._shipped", lambda: tmp_path)
    shutil.copytree(flow, tmp_path / "photos16")
    assert builtin_priors() == ["photos16"]
    prior = load_prior("builtin:photos16", device="cpu")
    assert prior.name == "builtin:photos16"
    assert prior.identity == load_prior(f"file:{flow}", device="cpu").identity
    with pytest.raises(
        UserError, match='no builtin prior "photo16"; expected one of photos16; did you mean "photos16"'
    ):
        load_prior("builtin:photo16")
    with pytest.raises(UserError, match="try builtin:photos16"):
        load_prior("photos16")


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


# --- what every prior promises -----------------------------------------------------------------------------------------


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


# --- stored photos -------------------------------------------------------------------------------------------------------


def test_stored_photos_are_a_prior(photo_folder: Path) -> None:
    prior = load_prior(f"photos:{photo_folder}", device="cpu", size=8)
    assert (prior.name, prior.shape) == (f"photos:{photo_folder}", (3, 8, 8))
    assert load_prior(f"photos:{photo_folder}", device="cpu").shape == (3, 64, 64)
    # With hardly any noise each photo is its own estimate.
    first = Photos.open(photo_folder).read(0)
    assert first is not None
    small = np.asarray(first.resize((8, 8), Image.Resampling.BICUBIC), np.float32) / 255
    stored = 2 * torch.from_numpy(small).permute(2, 0, 1)[None] - 1
    level = Level(0.0, 1.0, 1e-3)
    close(prior.denoise(stored, level), stored, 1e-4)
    with pytest.raises(UserError, match=r"GiB; give fewer, or size=\d+"):
        load_prior(f"photos:{photo_folder}", device="cpu", size=20000)
    with pytest.raises(UserError, match="at least 1 pixel, got 0"):
        load_prior(f"photos:{photo_folder}", device="cpu", size=0)


# --- refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ("hff:x", {}, 'no prior source "hff"; expected one of builtin, file, hf, photos; did you mean "hf"'),
        ("hf:", {}, "expected SOURCE:NAME"),
        ("somewhere", {}, "expected SOURCE:NAME"),
        ("hf:./nowhere", {}, "there is no folder"),
        ("builtin:x", {}, "no builtin prior"),
        ("photos:x", {"guidance": 2.0}, "guidance=2.0 is for builtin: and file: and hf:, got photos:x"),
        ("file:x", {"prompt": "a"}, "prompt='a' is for hf:"),
        ("hf:a/b", {"size": 4}, "size=4 is for photos:"),
        (3, {}, "got int"),
    ],
)
def test_names_that_are_not_priors(source: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_prior(source, device="cpu", **options)


def test_a_prior_is_returned_as_it_is(pixel: Path) -> None:
    prior = load_prior(f"hf:{pixel}", device="cpu")
    assert load_prior(prior) is prior


@pytest.mark.parametrize(("content", "words"), [("{", "is not JSON"), ("[]", "is not a JSON object")])
def test_damaged_indexes_are_named(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(content)
    with pytest.raises(UserError, match=rf"model_index\.json {words}"):
        load_prior(f"hf:{tmp_path}", device="cpu")


def edited(folder: Path, to: Path, file: str, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> str:
    """A copy of a pipeline with one JSON file changed (None deletes it), and its name."""
    shutil.copytree(folder, to)
    changed = change(json.loads((to / file).read_text()))
    (to / file).unlink()
    if changed is not None:
        (to / file).write_text(json.dumps(changed))
    return f"hf:{to}"


def test_pipelines_that_do_not_fit(pixel: Path, dit: Path, text: Path, tmp_path: Path) -> None:
    index, unet = "model_index.json", "unet/config.json"
    cases: list[tuple[Path, str, Callable[[dict[str, Any]], dict[str, Any] | None], str]] = [
        (pixel, index, lambda c: c | {"_class_name": "FluxPipeline"}, "is a FluxPipeline; supported pipelines are DDPM"),
        (pixel, index, lambda c: c | {"unet": ["diffusers", "Unet1D"]}, "its unet is Unet1D; supported are UNet2DModel"),
        (pixel, index, lambda c: None, "has neither model_index.json"),
        (pixel, "scheduler/scheduler_config.json", lambda c: None, "has no scheduler_config.json"),
        (pixel, "scheduler/scheduler_config.json", lambda c: c | {"_class_name": "Nought"}, 'has no scheduler "Nought"'),
        (pixel, unet, lambda c: c | {"sample_size": None}, "does not say at what size"),
        (pixel, unet, lambda c: c | {"class_embed_type": "timestep"}, "lack 4 tensors, class_embedding"),
        (text, "text_encoder/config.json", lambda c: c | {"num_hidden_layers": 2}, "of its text encoder lack"),
        (text, unet, lambda c: c | {"block_out_channels": [16, 16]}, "could not read its unet"),
        (dit, "vae/config.json", lambda c: c | {"latents_mean": [0.0] * 4}, "latents_mean"),
    ]  # fmt: skip
    for i, (folder, file, change, words) in enumerate(cases):
        with pytest.raises(UserError, match=words):
            load_prior(edited(folder, tmp_path / str(i), file, change), device="cpu")
    for name, options, words in [
        (pixel, {"prompt": "a cat"}, "reads no text"),
        (pixel, {"guidance": 2.0}, "no class or text"),
        (dit, {"guidance": -1.0}, "must be 0 or more"),
        (text / "unet", {}, "its text encoder is not there"),
    ]:
        if name == text / "unet":
            shutil.copytree(text / "unet", tmp_path / "unet")
            shutil.copytree(text / "scheduler", tmp_path / "unet" / "scheduler")
            name = tmp_path / "unet"
        with pytest.raises(UserError, match=words):
            load_prior(f"hf:{name}", device="cpu", **options)  # type: ignore[arg-type]


def test_networks_that_read_more_are_refused(text: Path, tmp_path: Path) -> None:
    name = lone(tmp_path / "time", pixel_unet(class_embed_type="timestep"), diffusers.DDPMScheduler())
    with pytest.raises(UserError, match='class embeddings of type "timestep" are not supported'):
        load_prior(name, device="cpu")
    shutil.copytree(text, tmp_path / "guided")
    net = diffusers.UNet2DConditionModel.from_pretrained(text / "unet")
    config = {k: v for k, v in net.config.items() if not k.startswith("_")} | {"time_cond_proj_dim": 8}
    diffusers.UNet2DConditionModel(**config).save_pretrained(tmp_path / "guided" / "unet")
    with pytest.raises(UserError, match="also reads what time_cond_proj_dim = 8 stands for"):
        load_prior(f"hf:{tmp_path / 'guided'}", device="cpu")


def test_transformers_under_their_old_name(dit: Path, tmp_path: Path) -> None:
    old = edited(
        dit, tmp_path / "old", "model_index.json", lambda c: c | {"transformer": ["diffusers", "Transformer2DModel"]}
    )
    config = tmp_path / "old/transformer/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_class_name": "Transformer2DModel"}))
    assert load_prior(old, device="cpu").identity == load_prior(f"hf:{dit}", device="cpu").identity


def test_states_must_become_pictures(tmp_path: Path) -> None:
    scheduler = diffusers.DDPMScheduler()
    name = lone(tmp_path / "four", pixel_unet(in_channels=4, out_channels=4), scheduler)
    with pytest.raises(UserError, match=r"4 channels and has no decoder; pictures have 1 \(grey\) or 3"):
        load_prior(name, device="cpu")
    name = lone(tmp_path / "inpaint", pixel_unet(in_channels=7), scheduler)
    with pytest.raises(UserError, match="reads 7 channels and writes 3"):
        load_prior(name, device="cpu")
    diffusers.DiTPipeline(
        diffusers.DiTTransformer2DModel(num_attention_heads=1, attention_head_dim=8, in_channels=3, num_layers=1,
                                        sample_size=8, num_embeds_ada_norm=3), kl_vae(), scheduler,
    ).save_pretrained(tmp_path / "latents")  # fmt: skip
    with pytest.raises(UserError, match=r"latents of 3 channels; its decoder .* from latents of 4"):
        load_prior(f"hf:{tmp_path / 'latents'}", device="cpu")


def test_pickled_weights_are_read_only_when_trusted(pixel: Path, tmp_path: Path) -> None:
    shutil.copytree(pixel, tmp_path / "pickled")
    shutil.rmtree(tmp_path / "pickled" / "unet")
    pixel_unet().save_pretrained(tmp_path / "pickled" / "unet", safe_serialization=False)
    name = f"hf:{tmp_path / 'pickled'}"
    with pytest.raises(UserError, match="only safetensors are read, unless trust=True"):
        load_prior(name, device="cpu")
    assert load_prior(name, device="cpu", trust=True).identity == load_prior(f"hf:{pixel}", device="cpu").identity


def test_only_the_files_that_are_needed_are_fetched(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    hub, cache = tmp_path / "hub", tmp_path / "cache"
    shutil.copytree(text, hub)
    for useless in ("v1-5-pruned.safetensors", "safety_checker/model.safetensors", "unet/diffusion_pytorch_model.bin",
                    "unet/diffusion_pytorch_model.fp16.safetensors"):  # fmt: skip
        (hub / useless).parent.mkdir(exist_ok=True)
        (hub / useless).write_bytes(b"not weights")
    revisions = set()

    def download(repo: str, *, revision: str | None, allow_patterns: Sequence[str]) -> str:
        assert repo == "someone/tiny"
        revisions.add(revision)
        for path in hub.rglob("*"):
            name = path.relative_to(hub).as_posix()
            if path.is_file() and any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                (cache / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, cache / name)
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    prior = load_prior("hf:someone/tiny@v2", device="cpu", prompt="a cat")
    assert prior.name == "hf:someone/tiny@v2"
    assert revisions == {"v2"}
    assert prior.identity == load_prior(f"hf:{text}", device="cpu", prompt="a cat").identity
    fetched = {path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file()}
    assert not any(name.endswith((".bin", "pruned.safetensors")) or name.startswith("safety") for name in fetched)

    def unreachable(*_: Any, **__: Any) -> str:
        raise OSError("no route to the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(UserError, match=r"no route to the hub.*hf:FOLDER"):
        load_prior("hf:someone/tiny", device="cpu")

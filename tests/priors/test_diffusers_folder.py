"""Priors read from folders of diffusers, against the pipelines that saved them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from entoptic.errors import UserError
from entoptic.priors.network_prior import TextPrior
from entoptic.priors.prior import draw_conditions, generate, map_levels, noise_like
from entoptic.priors.sources import load_prior
from tiny_pipelines import MILD, kl_vae, save_text_pipeline, text_pipeline
from tiny_priors import close, ddim, diffusers, lone, pixel_unet, save_dit_pipeline, save_pixel_pipeline, seeds


@pytest.fixture(scope="module")
def pixel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pixel_pipeline(tmp_path_factory.mktemp("pixel"))


@pytest.fixture(scope="module")
def dit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dit_pipeline(tmp_path_factory.mktemp("dit"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_pipeline(tmp_path_factory.mktemp("text"))


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

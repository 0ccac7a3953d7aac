"""The layouts of well-known checkpoints on the hub, tiny and untrained, saved by diffusers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tiny_pipelines import MILD, kl_vae
from tiny_priors import pixel_unet

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

# The noise levels that all Stable Diffusions were trained with.
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
STABLE = {**BETAS, "set_alpha_to_one": False, "steps_offset": 1, "skip_prk_steps": True}
LENGTH = 8


def tokenizer(padding: str = "<|endoftext|>") -> Any:
    """Knows single letters. Stable Diffusion 2 and the second encoder of XL fill up with "!"."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["!", *letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocab = {word: i for i, word in enumerate(words)}
    return transformers.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=LENGTH, pad_token=padding)


def text_encoder(seed: int, width: int, *, layers: int = 2, summary: int | None = None, act: str = "quick_gelu") -> Any:
    torch.manual_seed(seed)
    config = transformers.CLIPTextConfig(
        vocab_size=55, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers, num_attention_heads=2,
        max_position_embeddings=LENGTH, bos_token_id=53, eos_token_id=54, pad_token_id=54, hidden_act=act,
        projection_dim=summary or width,
    )  # fmt: skip
    return (transformers.CLIPTextModel if summary is None else transformers.CLIPTextModelWithProjection)(config)


def text_unet(seed: int, width: int, **changes: Any) -> nn.Module:
    torch.manual_seed(seed)
    options = {
        "sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4,
        "cross_attention_dim": width, "attention_head_dim": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }  # fmt: skip
    return diffusers.UNet2DConditionModel(**{**options, **changes}).eval()


def stable_vae(**changes: Any) -> nn.Module:
    return kl_vae(**{"scaling_factor": 0.18215, "shift_factor": None, **changes})


def tiny_vae() -> nn.Module:
    torch.manual_seed(3)
    return diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ).eval()  # fmt: skip


def quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sd15(scheduler: Any = None, **changes: Any) -> Any:
    """Stable Diffusion 1.5: noise prediction, PNDM, CLIP's text encoder."""
    parts = {
        "vae": stable_vae(), "text_encoder": text_encoder(2, 16), "tokenizer": tokenizer(), "unet": text_unet(0, 16),
        "scheduler": scheduler or diffusers.PNDMScheduler(**STABLE), "safety_checker": None, "feature_extractor": None,
        "requires_safety_checker": False,
    }  # fmt: skip
    return quiet(diffusers.StableDiffusionPipeline(**{**parts, **changes}))


def sd21() -> Any:
    """Stable Diffusion 2.1: v-prediction, a wider text encoder whose last layer is left out, linear projections."""
    return sd15(
        diffusers.DDIMScheduler(prediction_type="v_prediction", clip_sample=False, **STABLE_DDIM),
        text_encoder=text_encoder(3, 24, layers=3, act="gelu"), tokenizer=tokenizer("!"),
        unet=text_unet(1, 24, attention_head_dim=(2, 4), use_linear_projection=True),
    )  # fmt: skip


STABLE_DDIM = {key: value for key, value in STABLE.items() if key != "skip_prk_steps"}
EULER = {**BETAS, "steps_offset": 1}


def sdxl(scheduler: Any = None, *, zeros: bool = True, **unet: Any) -> Any:
    """Stable Diffusion XL: two text encoders, a summary of the prompt and six numbers on the picture."""
    options = {
        "attention_head_dim": (2, 4), "use_linear_projection": True, "transformer_layers_per_block": (1, 2),
        "addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 60,
    }  # fmt: skip
    return quiet(diffusers.StableDiffusionXLPipeline(
        stable_vae(scaling_factor=0.13025), text_encoder(4, 16), text_encoder(5, 24, summary=12, act="gelu"), tokenizer(),
        tokenizer("!"), text_unet(2, 40, **{**options, **unet}),
        scheduler or diffusers.EulerDiscreteScheduler(timestep_spacing="leading", **EULER),
        force_zeros_for_empty_prompt=zeros, add_watermarker=False,
    ))  # fmt: skip


def sdxl_turbo() -> Any:
    return sdxl(diffusers.EulerAncestralDiscreteScheduler(timestep_spacing="trailing", **EULER))


def lcm() -> Any:
    """A latent consistency model: the guidance weight is an input."""
    return quiet(diffusers.LatentConsistencyModelPipeline(
        stable_vae(), text_encoder(2, 16), tokenizer(), text_unet(6, 16, time_cond_proj_dim=8),
        diffusers.LCMScheduler(**BETAS), None, None, requires_safety_checker=False,
    ))  # fmt: skip


def dit() -> Any:
    """DiT-XL/2: classes, learned variances, linear levels, the decoder of Stable Diffusion."""
    torch.manual_seed(7)
    net = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
    ).eval()  # fmt: skip
    torch.nn.init.normal_(net.proj_out_2.weight, std=0.1)
    return quiet(diffusers.DiTPipeline(net, stable_vae(), diffusers.DDIMScheduler(clip_sample=False)))


def ddpm() -> Any:
    """An unconditional U-Net on pixels."""
    return quiet(diffusers.DDPMPipeline(pixel_unet(8), diffusers.DDPMScheduler(variance_type="fixed_small")))


def adm(folder: Path) -> str:
    """An ablated diffusion model: classes, scale and shift from the time, learned variances. It has no pipeline."""
    net = pixel_unet(9, out_channels=6, num_class_embeds=5, resnet_time_scale_shift="scale_shift")
    net.save_pretrained(folder)
    diffusers.DDPMScheduler(**{**MILD, "variance_type": "learned_range"}).save_pretrained(folder)
    return f"hf:{folder}"

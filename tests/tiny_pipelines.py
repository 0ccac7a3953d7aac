"""Pipelines of diffusers that are small, untrained and made on the spot: no weights, no hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

# A schedule that keeps a third of the picture at the noisiest level: what untrained networks put out then stays near
# [-1, 1], where the clamp of pictures hides nothing.
MILD = {"beta_end": 0.002, "clip_sample": False, "timestep_spacing": "trailing"}


def kl_vae(seed: int = 1, **changes: Any) -> nn.Module:
    torch.manual_seed(seed)
    options = {
        "block_out_channels": (8, 8), "down_block_types": ("DownEncoderBlock2D",) * 2, "norm_num_groups": 4,
        "up_block_types": ("UpDecoderBlock2D",) * 2, "latent_channels": 4, "scaling_factor": 0.4, "shift_factor": 0.1,
    }  # fmt: skip
    return diffusers.AutoencoderKL(**{**options, **changes}).eval()


def text_pipeline(vae: nn.Module) -> Any:
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = transformers.CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=8
    )
    torch.manual_seed(2)
    encoder = transformers.CLIPTextModel(transformers.CLIPTextConfig(
        vocab_size=len(tokens), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=8, bos_token_id=52, eos_token_id=53, pad_token_id=53,
    ))  # fmt: skip
    net = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=16,
        attention_head_dim=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    pipeline = diffusers.StableDiffusionPipeline(
        vae, encoder, tokenizer, net, diffusers.DDIMScheduler(prediction_type="v_prediction", steps_offset=1, **MILD),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save_text_pipeline(folder: Path) -> Path:
    """A text-to-image pipeline in latents, with v-prediction and a tiny VAE: 16×16 pictures, prompts of six letters."""
    torch.manual_seed(3)
    vae = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )  # fmt: skip
    text_pipeline(vae.eval()).save_pretrained(folder)
    return folder

"""Folders of small untrained priors, and what tests of priors share."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from entoptic.priors.learn import Recipe, network
from entoptic.priors.prior import Prior, deterministic
from tiny_pipelines import MILD, kl_vae

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


def save_pixel_pipeline(folder: Path) -> Path:
    """An unconditional pixel pipeline that predicts the noise."""
    diffusers.DDIMPipeline(pixel_unet(), diffusers.DDIMScheduler(**MILD)).save_pretrained(folder)
    return folder


def save_dit_pipeline(folder: Path) -> Path:
    """A class-conditional transformer with learned variances, in latents."""
    torch.manual_seed(0)
    net = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1, sample_size=8,
    )  # fmt: skip
    scheduler = diffusers.DDIMScheduler(**MILD)
    # The pipeline does not know the VAE's shift; DiT's has none.
    diffusers.DiTPipeline(net, kl_vae(shift_factor=None), scheduler).save_pretrained(folder)
    return folder


CARD = {"name": "tiny", "size": 16, "patch": 2, "classes": ["a", "b", "c"], "guidance": 2.0, "licence": "cc0-1.0"}


def flow_net() -> nn.Module:
    torch.manual_seed(4)
    return network(Recipe(size=16, widths=(16, 32), attention=(), layers=1), classes=3).eval()


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

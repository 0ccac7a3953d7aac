"""What priors of the hub need, computed from their architectures: parameters, memory and TFLOP. Nothing is measured.

    python benchmarks/hub_priors.py

Networks are made of their published configs on PyTorch's meta device, which has shapes and no numbers, so no weights are
needed. The rows are those of docs/how-to/hub-priors.md. A multiplication with its addition counts as two FLOP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

MAP_STEPS = 6
BANK = 2048
PARTICLES = 64
"""4 islands of 16."""
GIB = 2**30


def unet(side: int, width: int, **options: Any) -> nn.Module:
    return diffusers.UNet2DConditionModel(sample_size=side, cross_attention_dim=width, **options)


def xl(side: int) -> nn.Module:
    return unet(
        side, 2048, block_out_channels=(320, 640, 1280), attention_head_dim=(5, 10, 20), use_linear_projection=True,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=(1, 2, 10),
        addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
    )  # fmt: skip


def celeba() -> nn.Module:
    down, attention = "DownBlock2D", "AttnDownBlock2D"
    return diffusers.UNet2DModel(
        sample_size=256, block_out_channels=(128, 128, 256, 256, 512, 512), layers_per_block=2, downsample_padding=0,
        down_block_types=(down, down, down, down, attention, down), freq_shift=1, flip_sin_to_cos=False, norm_eps=1e-6,
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D"),
        attention_head_dim=None,
    )  # fmt: skip


def clip(width: int, layers: int, heads: int, summary: bool = False) -> nn.Module:
    config = transformers.CLIPTextConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=heads,
        projection_dim=width,
    )  # fmt: skip
    return (transformers.CLIPTextModelWithProjection if summary else transformers.CLIPTextModel)(config)


def vae() -> nn.Module:
    return diffusers.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, latent_channels=4,
    )  # fmt: skip


# name -> network, text encoders, decoder, side of states, calls of the network in one picture of the map
PRIORS: dict[
    str, tuple[Callable[[], nn.Module], list[Callable[[], nn.Module]], Callable[[], nn.Module] | None, int, int]
]
PRIORS = {
    "Stable Diffusion 1.5": (lambda: unet(64, 768), [lambda: clip(768, 12, 12)], vae, 64, MAP_STEPS),
    "Stable Diffusion 2.1": (
        lambda: unet(96, 1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True),
        [lambda: clip(1024, 23, 16)], vae, 96, MAP_STEPS,
    ),
    "SDXL 1.0": (lambda: xl(128), [lambda: clip(768, 12, 12), lambda: clip(1280, 32, 20, True)], vae, 128, MAP_STEPS),
    "SDXL-Turbo": (lambda: xl(64), [lambda: clip(768, 12, 12), lambda: clip(1280, 32, 20, True)], vae, 64, 1),
    "LCM Dreamshaper v7": (lambda: unet(96, 768, time_cond_proj_dim=256), [lambda: clip(768, 12, 12)], vae, 96, 1),
    "DiT-XL/2 256": (
        lambda: diffusers.DiTTransformer2DModel(
            num_attention_heads=16, attention_head_dim=72, in_channels=4, out_channels=8, num_layers=28, sample_size=32,
        ), [], vae, 32, MAP_STEPS,
    ),
    "DDPM CelebA-HQ 256": (celeba, [], None, 256, MAP_STEPS),
}  # fmt: skip


def call(net: nn.Module, side: int) -> Callable[[Tensor], Tensor]:
    """A call of the network for one state, as a function of the state."""
    config: Any = net.config
    time = torch.zeros(1)
    if isinstance(net, diffusers.UNet2DModel):
        return lambda x: net(x, time).sample
    if isinstance(net, diffusers.DiTTransformer2DModel):
        return lambda x: net(x, timestep=time, class_labels=torch.zeros(1, dtype=torch.long)).sample
    added = {"text_embeds": torch.zeros(1, 1280), "time_ids": torch.zeros(1, 6)} if config.addition_embed_type else None
    given = torch.zeros(1, config.time_cond_proj_dim) if config.time_cond_proj_dim else None
    text = torch.zeros(1, 77, config.cross_attention_dim)
    return lambda x: net(x, time, text, added_cond_kwargs=added, timestep_cond=given).sample


def tflop(function: Callable[[Tensor], Tensor], x: Tensor) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        function(x)
    return counter.get_total_flops() / 1e12


def kept(net: nn.Module, function: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """GiB that one call keeps for the gradient in its state, with attention that keeps no matrix of its own."""
    own = {p.untyped_storage()._cdata for p in net.parameters()}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            found[storage._cdata] = storage.nbytes()
        return tensor

    plain = functional.scaled_dot_product_attention
    functional.scaled_dot_product_attention = lambda q, k, v, **_: _Attention.apply(q, k, v)
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            alive = function(x.requires_grad_())
    finally:
        functional.scaled_dot_product_attention = plain
    del alive
    return sum(found.values()) / GIB


class _Attention(torch.autograd.Function):
    """Shapes of attention that keeps its inputs, its output and one number a row, as fused kernels do."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty((*q.shape[:-1], v.shape[-1]), dtype=q.dtype)
        ctx.save_for_backward(q, k, v, out, torch.empty(q.shape[:-1], dtype=torch.float32))
        return out


def main() -> None:
    first = [
        "| prior | parameters: network, text, decoder (10⁶) | weights (GiB) | picture | one call (TFLOP) | decoder (TFLOP) | "
        "one picture of the map (TFLOP) |",
        "|---|---|---|---|---|---|---|",
    ]
    second = [
        "| prior | states together | kept by a call, by the decoder (GiB) | `klsc` (GiB) | `klsc-twisted` (GiB) | "
        "bank | `klsc`, one gradient of 64 particles | `klsc-twisted` | `energydps`, a picture | `prompt` |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, (make, texts, decode, side, calls) in PRIORS.items():
        with torch.device("meta"):
            net = make().eval().requires_grad_(False)
            words = sum(p.numel() for text in texts for p in text().parameters())
            decoder: Any = decode().eval().requires_grad_(False) if decode else None
            x = torch.zeros(1, net.config.in_channels, side, side)  # type: ignore[union-attr]
            one, memory = tflop(call(net, side), x), kept(net, call(net, side), x.clone())
            size, last, most = side, 0.0, 0.0
            if decoder is not None:
                size, last = 8 * side, tflop(lambda z, d=decoder: d.decode(z).sample, x)
                most = kept(decoder, lambda z, d=decoder: d.decode(z).sample, x.clone())
        own = sum(p.numel() for p in net.parameters())
        other = sum(p.numel() for p in decoder.parameters()) if decoder is not None else 0
        weights, total = 4 * (own + words + other) / GIB, calls * one + last
        rows = max(1, min(64, 16384 // side**2))
        first.append(
            f"| {name} | {own / 1e6:.0f}, {words / 1e6:.0f}, {other / 1e6:.0f} | {weights:.1f} | {size}² | {one:.2f} | "
            f"{last:.2f} | {calls} × {one:.2f} + {last:.2f} = {total:.1f} |"
        )
        # A gradient takes the call, and twice as much on the way back; checkpoints make the calls of prompts once more.
        step = 3 * (one + last)
        chains = [1000 * step, BANK * total, PARTICLES * 3 * total, PARTICLES * 50 * step]
        chain, bank, leap, twisted = (cost / 1000 for cost in chains)
        text = f"{100 * 4 * (4 * calls * one + 3 * last) / 1000:.1f}" if texts and calls > 1 else "–"
        many = calls > 1
        second.append(
            f"| {name} | {rows} | {memory:.2f}, {most:.2f} | {weights + rows * (calls * memory + most):.0f} | "
            f"{f'{weights + min(32, rows) * (memory + most):.0f}' if many else '–'} | {bank:.1f} | {leap:.1f} | "
            f"{f'{twisted:.1f}' if many else '–'} | {f'{chain:.1f}' if many else '–'} | {text} |"
        )
    print("\n".join([*first, "", *second]))


if __name__ == "__main__":
    main()

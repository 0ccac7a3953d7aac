"""The U-Net of our own priors in plain PyTorch: what a training needs, where diffusers is absent or in the way.

It has the weights of a `UNet2DConditionModel` of diffusers under the same names, so each loads the other's, and it computes
the same function (tested). It is written to be compiled: no branch depends on values, and the time and class enter as one
vector. `learn.network` makes the network of diffusers from the same `Recipe`, which is what a saved prior holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention, silu

from entoptic.priors.recipe import GROUPS, HEAD, Recipe


class Residual(nn.Module):
    """A residual block: two convolutions, with a scale and a shift by time and class in between."""

    def __init__(self, given: int, out: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, given, eps=1e-5)
        self.conv1 = nn.Conv2d(given, out, 3, padding=1)
        self.time_emb_proj = nn.Linear(embedding, 2 * out)
        self.norm2 = nn.GroupNorm(GROUPS, out, eps=1e-5)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(given, out, 1) if given != out else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Returns B×out×h×w of x, B×given×h×w, and the embedding, B×E after its non-linearity."""
        scale, shift = self.time_emb_proj(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.conv1(silu(self.norm1(x)))
        h = self.conv2(self.dropout(silu(self.norm2(h) * (1 + scale) + shift)))
        return (x if self.conv_shortcut is None else self.conv_shortcut(x)) + h


class SelfAttention(nn.Module):
    """Self-attention over the positions of a map, added to it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = channels // HEAD
        self.group_norm = nn.GroupNorm(GROUPS, channels, eps=1e-5)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """Returns B×C×h×w of B×C×h×w."""
        batch, channels, height, width = x.shape
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)
        q, k, v = (
            part(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.to_q, self.to_k, self.to_v)
        )
        mixed = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.to_out[0](mixed).transpose(1, 2).reshape(batch, channels, height, width)


class Resample(nn.Module):
    """Halves or doubles the side of a map."""

    def __init__(self, channels: int, *, up: bool) -> None:
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(channels, channels, 3, stride=1 if up else 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns B×C×2h×2w or B×C×h/2×w/2 of B×C×h×w."""
        return self.conv(interpolate(x, scale_factor=2.0, mode="nearest") if self.up else x)


class Stage(nn.Module):
    """The blocks of one resolution on the way down or up, and the step to the next.

    Attributes:
        resnets: residual blocks.
        attentions: one after each block, where the resolution attends.
        downsamplers: one, where a lower resolution follows.
        upsamplers: one, where a higher resolution follows.
    """

    attentions: nn.ModuleList
    downsamplers: nn.ModuleList
    upsamplers: nn.ModuleList

    def __init__(
        self, given: list[int], out: int, embedding: int, dropout: float, *, attends: bool, down: bool, up: bool
    ) -> None:
        super().__init__()
        if attends:
            self.attentions = nn.ModuleList(SelfAttention(out) for _ in given)
        self.resnets = nn.ModuleList(Residual(one, out, embedding, dropout) for one in given)
        self.attends = attends
        if down:
            self.downsamplers = nn.ModuleList([Resample(out, up=False)])
        if up:
            self.upsamplers = nn.ModuleList([Resample(out, up=True)])
        self.down, self.up = down, up

    def step(self, i: int, x: Tensor, embedding: Tensor) -> Tensor:
        """Returns x after residual block i, and its attention where there is one."""
        x = self.resnets[i](x, embedding)
        return self.attentions[i](x) if self.attends else x


class Middle(nn.Module):
    """One residual block at the lowest resolution, under the name that it has in diffusers."""

    def __init__(self, channels: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([Residual(channels, channels, embedding, dropout)])

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Returns B×C×h×w of B×C×h×w and B×E."""
        return self.resnets[0](x, embedding)


class TimeEmbedding(nn.Module):
    """Two layers on the cosines and sines of a time."""

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(channels, embedding)
        self.linear_2 = nn.Linear(embedding, embedding)
        self.rates: Tensor
        rates = torch.exp(-math.log(10_000) * torch.arange(channels // 2) / (channels // 2))
        self.register_buffer("rates", rates, persistent=False)

    def forward(self, times: Tensor) -> Tensor:
        """Returns B×E of times, B."""
        angles = times.float()[:, None] * self.rates.float()
        waves = torch.cat([angles.cos(), angles.sin()], dim=1)
        return self.linear_2(silu(self.linear_1(waves.to(self.linear_1.weight.dtype))))


class Sizes(NamedTuple):
    """What a card is checked against, under the names of diffusers' config."""

    in_channels: int
    out_channels: int
    sample_size: int
    num_class_embeds: int


class UNet(nn.Module):
    """The network of a `Recipe`, see the module's text.

    Args:
        recipe: its architecture.
        classes: number of classes; the class after the last stands for none.
        dropout: share of channels' values dropped in training, inside residual blocks.
    """

    def __init__(self, recipe: Recipe, classes: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        widths, layers = list(recipe.widths), recipe.layers
        side, pixels, embedding = recipe.size // recipe.patch, 3 * recipe.patch**2, 4 * recipe.widths[0]
        attends = [side // 2**i in recipe.attention for i in range(len(widths))]
        last = len(widths) - 1
        self.config = Sizes(pixels, pixels, side, classes + 1)
        self.conv_in = nn.Conv2d(pixels, widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0], embedding)
        self.class_embedding = nn.Embedding(classes + 1, embedding)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        kept = [widths[0]]  # channels of the maps that the way up reads again
        for i, out in enumerate(widths):
            given = [widths[max(0, i - 1)]] + [out] * (layers - 1)
            stage = Stage(given, out, embedding, dropout, attends=attends[i], down=i < last, up=False)
            self.down_blocks.append(stage)
            kept += [out] * (layers + (i < last))
        self.mid_block = Middle(widths[-1], embedding, dropout)
        before = widths[-1]
        for i, out in reversed(list(enumerate(widths))):
            given = [(before if j == 0 else out) + kept.pop() for j in range(layers + 1)]
            self.up_blocks.append(Stage(given, out, embedding, dropout, attends=attends[i], down=False, up=i > 0))
            before = out
        self.conv_norm_out = nn.GroupNorm(GROUPS, widths[0], eps=1e-5)
        self.conv_out = nn.Conv2d(widths[0], pixels, 3, padding=1)

    def forward(self, x: Tensor, times: Tensor, classes: Tensor) -> Tensor:
        """Returns the velocity, B×3p²×h×w.

        Args:
            x: B×3p²×h×w, noisy blocks of p×p pixels.
            times: B, 1000·t.
            classes: B int64.
        """
        embedding = silu(self.time_embedding(times) + self.class_embedding(classes))
        x = self.conv_in(x)
        kept = [x]
        for stage in cast("Iterable[Stage]", self.down_blocks):
            for i in range(len(stage.resnets)):
                x = stage.step(i, x, embedding)
                kept.append(x)
            if stage.down:
                x = stage.downsamplers[0](x)
                kept.append(x)
        x = self.mid_block(x, embedding)
        for stage in cast("Iterable[Stage]", self.up_blocks):
            for i in range(len(stage.resnets)):
                x = stage.step(i, torch.cat([x, kept.pop()], dim=1), embedding)
            if stage.up:
                x = stage.upsamplers[0](x)
        return self.conv_out(silu(self.conv_norm_out(x)))

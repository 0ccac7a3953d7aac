"""The network that is trained, and what every kind of sparse dictionary shares in its training.

Values are normalised: their mean is taken off and the mean square of their length is 1. Decoder rows keep length 1: what
would lengthen them is taken off the gradient, and they are scaled back after each step. `fold` takes the normalisation
into the finished dictionary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from entoptic.dictionaries.recipe import DictionaryRecipe


class SparseNet(nn.Module):
    """Encoder K×F (F channels, or channels times positions of the window) and decoder K×O of normalised values."""

    quiet: Tensor
    level: Tensor

    def __init__(self, x_NF: Tensor, y_NO: Tensor, recipe: DictionaryRecipe, *, learned_thresholds: bool) -> None:
        """Begins with features that are rows of the data, drawn by the recipe's seed.

        Args:
            x_NF: rows of normalised inputs.
            y_NO: the targets of the same rows.
            recipe: of the training.
            learned_thresholds: whether each feature has a threshold that is trained.
        """
        super().__init__()
        draw, count = torch.Generator().manual_seed(recipe.seed), recipe.features
        rows = torch.cat(
            [torch.randperm(len(x_NF), generator=draw) for _ in range(-(-count // len(x_NF)))]
        )[:count]  # fmt: skip
        x_KF = x_NF[rows] + 0.01 * x_NF.std() * torch.randn(count, x_NF.shape[1], generator=draw)
        y_KO = y_NO[rows] + 0.01 * y_NO.std() * torch.randn(count, y_NO.shape[1], generator=draw)
        self.encoder = nn.Parameter(unit_rows(x_KF))
        self.encoder_bias = nn.Parameter(torch.zeros(count))
        self.start_decoder(y_KO, y_NO)
        self.decoder_bias = nn.Parameter(torch.zeros(y_NO.shape[1]))
        if learned_thresholds:
            self.log_threshold = nn.Parameter(torch.full((count,), -3.0))
        self.register_buffer("quiet", torch.zeros(count, dtype=torch.float64))  # positions since a feature was active
        self.register_buffer("level", torch.zeros(()))  # logarithm of a penalty's weight, for kinds that steer one
        self._pending: dict[str, Tensor] = {}

    def start_decoder(self, y_KO: Tensor, y_NO: Tensor) -> None:
        """Makes the decoder.

        Args:
            y_KO: rows of the data that the features begin with.
            y_NO: all of them.
        """
        self.decoder = nn.Parameter(unit_rows(y_KO))

    def pre_activations(self, x_NF: Tensor) -> Tensor:
        """Computes E x + b: N×K."""
        return x_NF @ self.encoder.T + self.encoder_bias

    def decode(self, codes_NK: Tensor) -> Tensor:
        """Computes ŷ: N×O."""
        return codes_NK @ self.decoder + self.decoder_bias

    def after_step(self, **buffers: Tensor) -> None:
        """Sets buffers once the optimiser has stepped, so that a step that Ctrl-C cuts off changes nothing."""
        self._pending.update(buffers)

    @torch.no_grad()
    def before_update(self, *_: Any) -> None:
        """Takes off the gradient what would only lengthen decoder rows; a hook of the optimiser."""
        gradient = self.decoder.grad
        if gradient is not None:
            gradient -= (gradient * self.decoder).sum(1, keepdim=True) * self.decoder

    @torch.no_grad()
    def after_update(self, *_: Any) -> None:
        """Scales decoder rows back to length 1 and sets what waits for the step; a hook of the optimiser."""
        self.decoder.copy_(unit_rows(self.decoder))
        self.set_pending()

    def set_pending(self) -> None:
        """Sets buffers that wait for the step."""
        for name, value in self._pending.items():
            getattr(self, name).copy_(value)
        self._pending.clear()


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How one kind of dictionary is trained.

    Attributes:
        name: of the kind.
        paper: where it is from.
        codes: training codes N×K of a network's pre-activations N×K.
        loss: of (network, pre-activations, codes, targets, recipe); one number.
        thresholds: K thresholds of the finished network, from pre-activations of photos that were kept out.
        learned_thresholds: see `SparseNet`.
        keeps: how the finished dictionary keeps features, as in `Sparse.kind`; "" for the kind's own name.
        network: what is trained.
    """

    name: str
    paper: str
    codes: Callable[[SparseNet, Tensor, DictionaryRecipe], Tensor]
    loss: Callable[[SparseNet, Tensor, Tensor, Tensor, DictionaryRecipe], Tensor]
    thresholds: Callable[[SparseNet, Tensor, DictionaryRecipe], Tensor]
    learned_thresholds: bool = False
    keeps: str = ""
    network: type[SparseNet] = SparseNet


def relative_error(found_NO: Tensor, wanted_NO: Tensor) -> Tensor:
    """Returns mean |ŷ - y|² over mean |y|², y being normalised: 1 for a dictionary that explains nothing."""
    return (found_NO - wanted_NO).square().sum(1).mean() / wanted_NO.square().sum(1).mean().clamp_min(1e-12)


def reconstruction(net: SparseNet, pre_NK: Tensor, codes_NK: Tensor, y_NO: Tensor, recipe: DictionaryRecipe) -> Tensor:
    """Returns the relative error of the decoded codes: the whole loss of kinds that choose how many are active."""
    return relative_error(net.decode(codes_NK), y_NO)


def count_threshold(net: SparseNet, pre_MK: Tensor, recipe: DictionaryRecipe) -> Tensor:
    """Returns one threshold for all features, above which `active` of them are at a position on average.

    A threshold for each could equalise how often features are active, which would change what they mean.
    """
    wanted = min(recipe.active * len(pre_MK), pre_MK.numel() - 1)
    value = pre_MK.flatten().topk(wanted + 1).values[-1].clamp_min(0)
    return value.expand(pre_MK.shape[1]).clone()


def revival(net: SparseNet, pre_NK: Tensor, codes_NK: Tensor, y_NO: Tensor, recipe: DictionaryRecipe) -> Tensor:
    """Returns the relative error with which dead features explain what the others leave (AuxK, arXiv:2406.04093), or 0."""
    with torch.no_grad():
        active_K = (codes_NK > 0).any(0)
        quiet_K = torch.where(active_K, torch.zeros_like(net.quiet), net.quiet + len(codes_NK))
        net.after_step(quiet=quiet_K)
        dead = (net.quiet > recipe.dead_after).nonzero()[:, 0]
    if not recipe.revival or not len(dead):
        return y_NO.new_zeros(())
    rest_NO = (y_NO - net.decode(codes_NK)).detach()
    pre = pre_NK[:, dead]
    found = pre.topk(min(len(dead), max(recipe.active, y_NO.shape[1] // 2)), dim=1)
    codes = torch.zeros_like(pre).scatter(1, found.indices, found.values.relu())
    return recipe.revival * relative_error(codes @ net.decoder[dead], rest_NO)


def unit_rows(rows: Tensor) -> Tensor:
    """Returns rows scaled to length 1."""
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)

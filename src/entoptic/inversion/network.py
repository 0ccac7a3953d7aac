"""What an inverter adds to a prior: a hint encoder for feature maps, and a ControlNet, or a network that reads both.

All state that is trained lives in one module, `Control` or `Direct`; the frozen prior stays outside of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from entoptic.errors import UserError
from entoptic.inversion.configs import EntopticRecipe
from entoptic.priors.diffusers_folder import NEEDS_DIFFUSERS
from entoptic.priors.network_prior import DiffusionPrior, TextPrior, guided

NetworkPrior = DiffusionPrior | TextPrior
"""The priors that an inverter can be built on."""


class HintEncoder(nn.Module):
    """Maps B×C×h×w to hints B×K×s×s, added to what the prior's first convolution puts out.

    FeatInv enlarges first and convolves after (three 3×3 convolutions, the last of which starts at zero).
    `project` narrows the map to `width` channels at its own resolution before, which costs a tenth, and makes the
    hint of an explicit guess of the clean state, which the copied first convolution reads like a picture: the guess
    is trained by itself (`learn.loss`), so that the hint says something long before the control has learned to listen.
    """

    def __init__(self, channels: int, width: int, first: nn.Conv2d, side: int, *, project: bool) -> None:
        super().__init__()
        self.side, self.project = side, project
        out = first.out_channels
        self.first = nn.Conv2d(channels, width, 1 if project else 3, padding=0 if project else 1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, out, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]
        if project:
            self.guess = nn.Conv2d(width, first.in_channels, 3, padding=1)
            self.look = nn.Conv2d(first.in_channels, out, 3, padding=1, bias=False)
            self.look.weight.data.copy_(first.weight.data)

    def forward(self, maps_BChw: Tensor) -> Tensor:
        return self.with_guess(maps_BChw)[0]

    def with_guess(self, maps_BChw: Tensor) -> tuple[Tensor, Tensor | None]:
        """Hints, and the guess of the clean state B×c×s×s behind them (None without `project`)."""
        if not self.project:
            x = self._trunk(self._enlarged(maps_BChw))
            return self.last(x), None
        x = self._enlarged(self._trunk(maps_BChw))
        guess = self.guess(x)
        return self.look(guess) + self.last(x), guess

    def _trunk(self, x: Tensor) -> Tensor:
        return nn.functional.silu(self.second(nn.functional.silu(self.first(x))))

    def _enlarged(self, x: Tensor) -> Tensor:
        return interpolate(x, (self.side, self.side), mode="bilinear", align_corners=False)


class Control(nn.Module):
    """A hint encoder and a trainable copy of the prior's encoder, whose outputs are added to the frozen one's
    (Zhang et al. 2023, ControlNet). Untrained it changes nothing, exactly."""

    def __init__(self, prior: NetworkPrior, channels: int, recipe: EntopticRecipe) -> None:
        try:
            from diffusers import ControlNetModel
        except ImportError:
            raise UserError(NEEDS_DIFFUSERS) from None
        super().__init__()
        net: Any = _unet(prior)
        self.hint = HintEncoder(channels, recipe.hint, net.conv_in, prior.shape[-1], project=recipe.project)
        self.copy: Any = ControlNetModel.from_unet(prior.module)
        self.copy.controlnet_cond_embedding = nn.Identity()  # the hint comes encoded, once for all steps
        self.copy.requires_grad_(True)

    def output(
        self, prior: NetworkPrior, x: Tensor, times_B: Tensor, hints: Tensor | None, context: Any, strength: float
    ) -> Any:
        """The prior's output with control, B×C×H×W; hints None is the bare prior."""
        net: Any = prior.module
        text, classes = context
        down = mid = None
        if hints is not None:
            down, mid = self.copy(
                x, times_B, text, controlnet_cond=hints, conditioning_scale=strength, class_labels=classes,
                return_dict=False,
            )  # fmt: skip
        return net(
            x, times_B, text, class_labels=classes, down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
        ).sample  # fmt: skip


class ConcatenatedUNet(nn.Module):
    """The prior's network with the hint as further input channels, all of it trained: nothing is frozen."""

    def __init__(self, prior: NetworkPrior, channels: int, recipe: EntopticRecipe) -> None:
        from diffusers import UNet2DConditionModel

        super().__init__()
        old: Any = _unet(prior)
        width = old.config.block_out_channels[0]
        self.hint = HintEncoder(channels, recipe.hint, old.conv_in, prior.shape[-1], project=recipe.project)
        self.hint.last.reset_parameters()  # what reads it starts at zero: two zeros in a row would never learn
        config = dict(old.config) | {"in_channels": old.config.in_channels + width}
        self.net: Any = UNet2DConditionModel.from_config(config)
        state = old.state_dict()
        grown = self.net.conv_in.weight.detach().clone() * 0
        grown[:, : old.config.in_channels] = state["conv_in.weight"]
        self.net.load_state_dict(state | {"conv_in.weight": grown})

    def output(
        self, prior: NetworkPrior, x: Tensor, times_B: Tensor, hints: Tensor | None, context: Any, strength: float
    ) -> Any:
        """As `Control.output`; strength scales the hint."""
        text, classes = context
        if hints is None:
            width = self.net.config.in_channels - x.shape[1]
            hints = x.new_zeros(len(x), width, *x.shape[2:])
        return self.net(torch.cat([x, strength * hints], 1), times_B, text, class_labels=classes).sample


def build(prior: NetworkPrior, channels: int, recipe: EntopticRecipe) -> Control | ConcatenatedUNet:
    """The untrained network of a recipe."""
    return (Control if recipe.network == "control" else ConcatenatedUNet)(prior, channels, recipe)


def context_of(prior: NetworkPrior, count: int, text: Tensor | None = None) -> tuple[Tensor | None, Tensor | None]:
    """What else the network is told for `count` states: its text, and the class that stands for none."""
    if isinstance(prior, TextPrior):
        given = prior.text if text is None else text
        return given.expand(count, -1, -1), None
    classes = None if prior.null is None else torch.full((count,), prior.null, device=prior.device)
    return None, classes


def output(
    net: Control | ConcatenatedUNet,
    prior: NetworkPrior,
    x: Tensor,
    times_B: Tensor,
    hints: Tensor | None,
    strength: float = 1.0,
) -> Tensor:
    """The network's output where the prior's own text guidance applies: both of its branches see the map, as in FeatInv."""
    channels = prior.shape[0]
    if isinstance(prior, TextPrior) and prior.guidance != 1:

        def call(x: Tensor, text: Tensor) -> Tensor:
            double = None if hints is None else hints.repeat(len(x) // len(hints), 1, 1, 1)
            times = times_B.repeat(len(x) // len(times_B))
            return net.output(prior, x, times, double, (text, None), strength)[:, :channels]

        text, null = (part.expand(len(x), -1, -1) for part in (prior.text, prior.null))
        return guided(call, x, text, null, prior.guidance)
    return net.output(prior, x, times_B, hints, context_of(prior, len(x)), strength)[:, :channels]


def _unet(prior: NetworkPrior) -> nn.Module:
    """The prior's network, if it is one that control can be added to.

    Raises:
        UserError: it is not, with the reason.
    """
    kind = type(getattr(prior, "module", None)).__name__
    if kind != "UNet2DConditionModel":
        raise UserError(
            f"an inverter needs a prior whose network is diffusers' UNet2DConditionModel, {prior.name} has "
            f"{'none' if kind == 'NoneType' else kind}; builtin:small-32, priors of `entoptic learn prior` and Stable Diffusion "
            "have one"
        )
    if isinstance(prior, DiffusionPrior) and prior.conditions and prior.null is None:
        raise UserError(f"{prior.name} has classes and none that stands for no class, which an inverter needs")
    if prior.states is None:
        raise UserError(f"{prior.name} cannot turn pictures into its states: its decoder has no encoder")
    assert prior.module is not None
    return prior.module

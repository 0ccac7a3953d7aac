"""The networks that an inverter adds to a prior.

They are a hint encoder for feature maps, and either a ControlNet beside the frozen prior (`Control`) or a copy of the
prior's network that reads the hint as further channels (`ConcatenatedUNet`). All trained weights are in one module; the
frozen prior is outside of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from entoptic.errors import UserError
from entoptic.inversion.configs import EntopticRecipe
from entoptic.priors.diffusers_folder import NEEDS_DIFFUSERS
from entoptic.priors.network_prior import DiffusionPrior, TextPrior, classifier_free_guidance

NetworkPrior = DiffusionPrior | TextPrior
"""The priors that an inverter can be built on."""


class HintEncoder(nn.Module):
    """Turns feature maps B×C×h×w into hints B×K×s×s, which are added to the output of the prior's first convolution.

    FeatInv enlarges the map first and then applies three 3×3 convolutions, the last of which starts at zero. With `project`
    the map is first reduced to `width` channels at its own resolution, which takes a tenth of the time. The hint is then
    made of an explicit estimate of the clean state, which a copy of the first convolution reads like a picture. The
    estimate has a loss of its own (`learn.loss`), so the hint carries information before the control has learned to use it.

    Args:
        channels: C of the maps.
        width: hidden channels.
        first: the prior's first convolution.
        side: s, side of the prior's states.
        project: see above.
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
        """Returns the hints B×K×s×s."""
        return self.with_guess(maps_BChw)[0]

    def with_guess(self, maps_BChw: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns the hints, and the estimate of the clean state B×c×s×s behind them (None without `project`)."""
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
    """A hint encoder and a trainable copy of the prior's encoder, whose outputs are added to the frozen one's.

    This is ControlNet (Zhang et al. 2023). Untrained, it changes nothing.

    Args:
        prior: the prior to control.
        channels: C of the feature maps.
        recipe: how the inverter is trained.

    Raises:
        UserError: a prior that it cannot be added to, or diffusers is not installed.
    """

    def __init__(self, prior: NetworkPrior, channels: int, recipe: EntopticRecipe) -> None:
        try:
            from diffusers import ControlNetModel
        except ImportError:
            raise UserError(NEEDS_DIFFUSERS) from None
        super().__init__()
        net: Any = _unet(prior)
        self.hint = HintEncoder(channels, recipe.hint, net.conv_in, prior.shape[-1], project=recipe.project)
        self.copy: Any = ControlNetModel.from_unet(prior.module)
        self.copy.controlnet_cond_embedding = nn.Identity()  # the hint is encoded once, for all steps
        self.copy.requires_grad_(True)

    def output(
        self, prior: NetworkPrior, x: Tensor, times_B: Tensor, hints: Tensor | None, conditioning: Any, strength: float
    ) -> Any:
        """Returns the output of the prior's network with control, B×C×H×W.

        Args:
            prior: the prior that the control was built on.
            x: B×C×H×W, x_t.
            times_B: B, network times.
            hints: B×K×H×W, or None for the prior without control.
            conditioning: text and classes, see `conditioning_of`.
            strength: factor of the control's outputs; 1 as trained.
        """
        net: Any = prior.module
        text, classes = conditioning
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
    """The prior's network with the hint as further input channels. All of its weights are trained.

    Args:
        prior: the prior whose weights it starts from.
        channels: C of the feature maps.
        recipe: how the inverter is trained.

    Raises:
        UserError: a prior that it cannot be built on.
    """

    def __init__(self, prior: NetworkPrior, channels: int, recipe: EntopticRecipe) -> None:
        from diffusers import UNet2DConditionModel

        super().__init__()
        old: Any = _unet(prior)
        width = old.config.block_out_channels[0]
        self.hint = HintEncoder(channels, recipe.hint, old.conv_in, prior.shape[-1], project=recipe.project)
        self.hint.last.reset_parameters()  # conv_in reads it and starts at zero; two zeros in a row would have no gradient
        config = dict(old.config) | {"in_channels": old.config.in_channels + width}
        self.net: Any = UNet2DConditionModel.from_config(config)
        state = old.state_dict()
        grown = self.net.conv_in.weight.detach().clone() * 0
        grown[:, : old.config.in_channels] = state["conv_in.weight"]
        self.net.load_state_dict(state | {"conv_in.weight": grown})

    def output(
        self, prior: NetworkPrior, x: Tensor, times_B: Tensor, hints: Tensor | None, conditioning: Any, strength: float
    ) -> Any:
        """Returns the network's output B×C×H×W, as `Control.output` does; `strength` is a factor of the hint."""
        text, classes = conditioning
        if hints is None:
            width = self.net.config.in_channels - x.shape[1]
            hints = x.new_zeros(len(x), width, *x.shape[2:])
        return self.net(torch.cat([x, strength * hints], 1), times_B, text, class_labels=classes).sample


def build(prior: NetworkPrior, channels: int, recipe: EntopticRecipe) -> Control | ConcatenatedUNet:
    """Returns the untrained network of a recipe.

    Args:
        prior: the prior to build on.
        channels: C of the feature maps.
        recipe: how the inverter is trained.
    """
    return (Control if recipe.network == "control" else ConcatenatedUNet)(prior, channels, recipe)


def conditioning_of(prior: NetworkPrior, count: int, text: Tensor | None = None) -> tuple[Tensor | None, Tensor | None]:
    """Returns the text (count×L×D, or None) and the classes (count int64, or None) that the network gets besides the map.

    The class is the one that stands for no class.

    Args:
        prior: the prior.
        count: number of states.
        text: 1×L×D; None for the prior's own text.
    """
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
    """Returns the network's output B×C×H×W, with the prior's own text guidance if it has one.

    Both branches of the guidance get the map, as in FeatInv.

    Args:
        net: the inverter's network.
        prior: the prior that it was built on.
        x: B×C×H×W, x_t.
        times_B: B, network times.
        hints: B×K×H×W, or None for no map.
        strength: see `Control.output`.
    """
    channels = prior.shape[0]
    if isinstance(prior, TextPrior) and prior.guidance != 1:

        def call(x: Tensor, text: Tensor) -> Tensor:
            double = None if hints is None else hints.repeat(len(x) // len(hints), 1, 1, 1)
            times = times_B.repeat(len(x) // len(times_B))
            return net.output(prior, x, times, double, (text, None), strength)[:, :channels]

        text, null = (part.expand(len(x), -1, -1) for part in (prior.text, prior.null))
        return classifier_free_guidance(call, x, text, null, prior.guidance)
    return net.output(prior, x, times_B, hints, conditioning_of(prior, len(x)), strength)[:, :channels]


def _unet(prior: NetworkPrior) -> nn.Module:
    """Returns the prior's network, if it is one that control can be added to.

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
    if (added := getattr(prior.module, "config", {}).get("addition_embed_type")) is not None:
        raise UserError(
            f"the network of {prior.name} also reads what addition_embed_type = {added} stands for, which an inverter does "
            "not give it; Stable Diffusion 1 and 2 read text alone"
        )
    if isinstance(prior, DiffusionPrior) and prior.conditions and prior.null is None:
        raise UserError(f"{prior.name} has classes and none that stands for no class, which an inverter needs")
    if prior.states is None:
        raise UserError(f"{prior.name} cannot turn pictures into its states: its decoder has no encoder")
    assert prior.module is not None
    return prior.module

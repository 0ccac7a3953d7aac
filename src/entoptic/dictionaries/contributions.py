"""Contributions of features to a logit (FaCT, arXiv:2510.25512): gradient times activation, in a network that runs through them.

Where everything behind the features is positively homogeneous (linear layers without bias, ReLU, max and average pooling), a
logit is the sum of its contributions, by Euler's theorem. Biases break that: what they add belongs to no feature. So the sum
is compared with the logit each time, and a gap is said.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from entoptic.dictionaries.splice import spliced
from entoptic.errors import UserError
from entoptic.models.model import Model
from entoptic.units.dictionary import written_layer
from entoptic.units.sparse import Sparse

COMPLETE = 1e-4
"""Largest gap, as a share of the logit's size, of contributions that count as complete."""
NAMED = 8


@dataclass(frozen=True, kw_only=True)
class Contributions:
    """What each feature adds to a logit.

    Attributes:
        values_BK: contributions, summed over positions.
        maps_BKD: the same at each position.
        logit_B: the logit of the network that runs through the dictionary.
        biases: what adds numbers that belong to no feature, by name; empty where nothing does.
    """

    values_BK: Tensor
    maps_BKD: Tensor
    logit_B: Tensor
    biases: tuple[str, ...]

    @property
    def gap_B(self) -> Tensor:
        """The logit less the sum of the contributions."""
        return self.logit_B - self.values_BK.sum(1)

    @property
    def relative_gap(self) -> float:
        """The largest gap over the largest size of a logit."""
        return float(self.gap_B.abs().max() / self.logit_B.abs().max().clamp_min(1e-12))

    @property
    def complete(self) -> bool:
        """Whether the contributions add up to the logit."""
        return self.relative_gap <= COMPLETE

    def __str__(self) -> str:
        if self.complete:
            return f"contributions of {self.values_BK.shape[1]} features add up to the logit"
        some = ", ".join(self.biases[:NAMED]) or "a layer that is not positively homogeneous"
        return f"contributions do not add up to the logit (gap {self.relative_gap:.0%} of it): {some}"


def contributions(model: Model, dictionary: Sparse, images: Tensor, of: int) -> Contributions:
    """Measures what each feature contributes to a logit of the network that runs through the dictionary.

    Args:
        model: the network.
        dictionary: of one of its layers.
        images: B×3×H×W in [0, 1] at the input size.
        of: number of the logit.

    Raises:
        UserError: no such logit, or a layer that nothing can be spliced into.
    """
    if not 0 <= of < model.outputs:
        raise UserError(f"{model.card.name} has logits 0 to {model.outputs - 1}, not {of}")
    held: list[Tensor] = []

    def keep(codes_BKD: Tensor) -> Tensor:
        held.append(codes_BKD.detach().requires_grad_())
        return held[-1]

    with torch.enable_grad(), spliced(model, dictionary, keep):
        logit_B = model(model.fit(images.to(model.device)))[:, of]
        (slope_BKD,) = torch.autograd.grad(logit_B.sum(), held[-1])
    maps_BKD = (slope_BKD * held[-1]).detach()
    return Contributions(
        values_BK=maps_BKD.sum(2), maps_BKD=maps_BKD, logit_B=logit_B.detach(), biases=biases_behind(model, dictionary)
    )


def biases_behind(model: Model, dictionary: Sparse) -> tuple[str, ...]:
    """Returns what adds numbers of its own behind a dictionary's features: its decoder's bias, and modules with biases.

    Args:
        model: the network.
        dictionary: of one of its layers.
    """
    order, modules = model.layer(written_layer(dictionary)).order, dict(model.module.named_modules())
    found = ["the decoder's bias"] if bool(dictionary.decoder_bias.any()) else []
    for info in sorted(model.layers.values(), key=lambda info: info.order):
        module = modules.get(info.name)
        if info.order <= order or module is None:
            continue
        bias = getattr(module, "bias", None)
        if isinstance(bias, Tensor) and bool(bias.any()):
            found.append(f"the bias of {info.name}")
        mean = getattr(module, "running_mean", None)
        if isinstance(mean, Tensor) and bool(mean.any()):
            found.append(f"the mean that {info.name} takes off")
    return tuple(found)

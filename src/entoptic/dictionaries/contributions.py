"""Contributions of features to a logit (FaCT, arXiv:2510.25512): gradient times activation, in a network that runs through them.

Where everything behind the features is positively homogeneous (linear layers without bias, ReLU, max and average pooling), a
logit is the sum of its contributions, by Euler's theorem. A B-cos layer, (ŵ·x)·|cos(x, ŵ)|^(B-1), is homogeneous too; as FaCT does,
it is read in its explanation mode, where |cos| counts as a fixed weight, if its modules have one (`set_explanation_mode`, as in
the package bcos). Biases break the sum: what they add belongs to no feature. So the sum is compared with the logit each time,
and a gap is said, with the modules that are to blame.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from entoptic.dictionaries.splice import spliced
from entoptic.errors import UserError
from entoptic.models.model import Model
from entoptic.units.dictionary import written_layer
from entoptic.units.sparse import Sparse

COMPLETE = 1e-4
"""Largest gap, as a share of the logit's size, of contributions that count as complete."""
NAMED = 8
_ADDED = (
    ("bias", "the bias of {}"), ("logit_bias", "the bias of {}"), ("running_mean", "the mean that {} takes off"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Contributions:
    """What each feature adds to a logit.

    Attributes:
        values_BK: contributions, summed over positions.
        maps_BKD: the same at each position.
        logit_B: the logit of the network that runs through the dictionary.
        biases: what adds numbers that belong to no feature, by name; empty where nothing does.
        bent: modules that are not positively homogeneous for other reasons, looked for where there is a gap.
        explained: modules that were read in their explanation mode (B-cos).
    """

    values_BK: Tensor
    maps_BKD: Tensor
    logit_B: Tensor
    biases: tuple[str, ...]
    bent: tuple[str, ...] = ()
    explained: tuple[str, ...] = ()

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
        some = (
            ", ".join([*self.biases, *self.bent][:NAMED])
            or "something between its modules is not positively homogeneous"
        )
        return f"contributions do not add up to the logit (gap {self.relative_gap:.0%} of it): {some}"

    def checked(self) -> Contributions:
        """Returns itself where the contributions add up to the logit.

        Raises:
            UserError: they do not, with what is to blame.
        """
        if not self.complete:
            raise UserError(str(self))
        return self


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

    with torch.enable_grad(), spliced(model, dictionary, keep), _explaining(model) as explained:
        logit_B = model(model.fit(images.to(model.device)))[:, of]
        (slope_BKD,) = torch.autograd.grad(logit_B.sum(), held[-1])
    maps_BKD = (slope_BKD * held[-1]).detach()
    found = Contributions(
        values_BK=maps_BKD.sum(2), maps_BKD=maps_BKD, logit_B=logit_B.detach(), biases=biases_behind(model, dictionary),
        explained=tuple(explained),
    )  # fmt: skip
    return found if found.complete else replace(found, bent=_bent(model, dictionary, images))


@contextmanager
def _explaining(model: Model) -> Iterator[list[str]]:
    """Holds modules that have an explanation mode in it, and puts them back."""
    able = {name: m for name, m in model.module.named_modules() if callable(getattr(m, "set_explanation_mode", None))}
    before = {name: bool(getattr(module, "detach", False)) for name, module in able.items()}
    try:
        for module in able.values():
            module.set_explanation_mode(True)
        yield list(able)
    finally:
        for name, module in able.items():
            module.set_explanation_mode(before[name])


@torch.no_grad()
def _bent(model: Model, dictionary: Sparse, images: Tensor) -> tuple[str, ...]:
    """Names modules behind the features whose output does not double with their input, but for those with biases."""
    order = model.layer(written_layer(dictionary)).order
    found: list[str] = []

    def look(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
            if len(args) != 1 or not isinstance(args[0], Tensor) or not isinstance(out, Tensor):
                return
            twice = module.forward(2 * args[0])
            if not torch.allclose(twice, 2 * out, rtol=1e-3, atol=1e-3 * float(out.abs().max())):
                found.append(f"{name} ({type(module).__name__})")

        return hook

    modules = dict(model.module.named_modules())
    behind = [
        i.name for i in model.layers.values() if i.order > order and not any(True for _ in modules[i.name].children())
    ]
    shifting = {name for name, _ in _shifts(model, dictionary)}
    handles = [modules[name].register_forward_hook(look(name)) for name in behind if name not in shifting]
    try:
        with spliced(model, dictionary):
            model(model.fit(images.to(model.device)))
    finally:
        for handle in handles:
            handle.remove()
    return tuple(dict.fromkeys(found))


def biases_behind(model: Model, dictionary: Sparse) -> tuple[str, ...]:
    """Returns what adds numbers of its own behind a dictionary's features: its decoder's bias, and modules with biases.

    Args:
        model: the network.
        dictionary: of one of its layers.
    """
    own = ["the decoder's bias"] if bool(dictionary.decoder_bias.any()) else []
    return (*own, *(text for _, text in _shifts(model, dictionary)))


def _shifts(model: Model, dictionary: Sparse) -> list[tuple[str, str]]:
    """Modules behind the features that add numbers of their own, each with what it adds."""
    order, modules = model.layer(written_layer(dictionary)).order, dict(model.module.named_modules())
    found = []
    for info in sorted(model.layers.values(), key=lambda info: info.order):
        module = modules.get(info.name)
        if info.order <= order or module is None:
            continue
        for attribute, words in _ADDED:
            value = getattr(module, attribute, None)
            if isinstance(value, Tensor) and bool(value.any()):
                found.append((info.name, words.format(info.name)))
    return found

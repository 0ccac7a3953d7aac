"""Families of features on planted hierarchies, and contributions that add up to a logit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import tiny_card
from entoptic.dictionaries.contributions import biases_behind, contributions
from entoptic.dictionaries.hierarchy import LARGE, relations
from entoptic.errors import UserError
from entoptic.models.model import Model
from entoptic.units.directions import Directions
from entoptic.units.sparse import Sparse

# --- hierarchy -----------------------------------------------------------------------------------------------------------

PARENTS, CHILDREN = 3, 4


def two_levels(positions: int = 3000, always: float = 0.9) -> Tensor:
    """Activations 1×K×D: 3 parents, 12 children that each have one, a copy of child 3, one that is nearly always on."""
    draw = torch.Generator().manual_seed(0)
    children_KD = torch.rand(PARENTS * CHILDREN, positions, generator=draw) < 0.04
    parents_KD = children_KD.view(PARENTS, CHILDREN, positions).any(1)
    parents_KD |= torch.rand(PARENTS, positions, generator=draw) < 0.08  # also without any child
    copy_D = children_KD[3] & (torch.rand(positions, generator=draw) < 0.95)
    always_D = torch.rand(positions, generator=draw) < always
    on_KD = torch.cat([parents_KD, children_KD, copy_D[None], always_D[None]]).float()
    return (on_KD * (0.5 + torch.rand(on_KD.shape, generator=draw)))[None]


def test_a_planted_hierarchy_is_recovered_and_what_is_always_on_is_no_parent() -> None:
    values = two_levels()
    count = values.shape[1]
    found = relations(Directions(directions=torch.eye(count)), [values[:, :, :1000], values[:, :, 1000:]])
    parents, copy, always = found.parents(), count - 2, count - 1
    expected = {PARENTS + c: {c // CHILDREN} for c in range(PARENTS * CHILDREN)} | {copy: {3 // CHILDREN}}
    assert {i: set(p) for i, p in enumerate(parents) if p} == expected
    assert found.duplicates() == [(PARENTS + 3, copy)]
    assert float(found.weighted_KK[:always, always].min()) > LARGE  # by D alone it would be everybody's parent
    assert float(found.lift_KK[:always, always].max()) < 1.3
    assert found.on_K[always] == pytest.approx(0.9, abs=0.02)


def test_weights_are_those_of_the_definition() -> None:
    a = torch.tensor([[[1.0, 0.0, 3.0, 0.0], [2.0, 5.0, 0.0, 0.0]]])
    found = relations(Directions(directions=torch.eye(2)), [a])
    torch.testing.assert_close(found.weighted_KK, torch.tensor([[1.0, 0.25], [2 / 7, 1.0]]))
    torch.testing.assert_close(found.on_K, torch.tensor([0.5, 0.5]))
    with pytest.raises(UserError, match="no values"):
        relations(Directions(directions=torch.eye(2)), [])


# --- contributions -------------------------------------------------------------------------------------------------------


def network(bias: bool) -> Model:
    draw = torch.Generator().manual_seed(0)
    module = nn.Sequential()
    module.add_module("stem", nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=bias))
    module.add_module("act", nn.ReLU())
    module.add_module("pool", nn.MaxPool2d(2))
    module.add_module("body", nn.Conv2d(8, 8, 3, padding=1, bias=bias))
    module.add_module("relu", nn.ReLU())
    module.add_module("mean", nn.AdaptiveAvgPool2d(1))
    module.add_module("flat", nn.Flatten())
    module.add_module("head", nn.Linear(8, 5, bias=bias))
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draw) / max(1, parameter[0].numel()) ** 0.5
    return Model(module, tiny_card(mean=(0.0,) * 3, std=(1.0,) * 3), device="cpu")


def dictionary(model: Model, **more: Any) -> Sparse:
    draw = torch.Generator().manual_seed(1)
    made: dict[str, Any] = {
        "encoder": torch.randn(20, 8, 1, 1, generator=draw), "encoder_bias": torch.zeros(20),
        "decoder": torch.randn(20, 8, generator=draw), "decoder_bias": torch.zeros(8), "threshold": None, "kind": "topk",
        "k": 4, "layer": "act", "model_sha256": model.card.identity,
    }  # fmt: skip
    return Sparse(**made | more)


IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def test_contributions_add_up_to_the_logit_of_a_homogeneous_network() -> None:
    model = network(bias=False)
    found = contributions(model, dictionary(model), IMAGES, 2)
    assert found.values_BK.shape == (3, 20)
    assert found.relative_gap <= 1e-5
    assert found.complete
    assert found.biases == ()
    torch.testing.assert_close(found.maps_BKD.sum(2), found.values_BK)
    assert "add up to the logit" in str(found)
    assert all(parameter.requires_grad for parameter in model.module.parameters())
    assert not any(parameter.grad is not None for parameter in model.module.parameters())


def test_a_network_with_biases_is_flagged() -> None:
    model = network(bias=True)
    found = contributions(model, dictionary(model), IMAGES, 2)
    assert not found.complete
    assert found.biases == ("the bias of body", "the bias of head")
    assert "do not add up" in str(found)
    assert "the bias of head" in str(found)
    biased = dictionary(network(bias=False), decoder_bias=torch.ones(8))
    assert biases_behind(network(bias=False), biased) == ("the decoder's bias",)
    assert not contributions(network(bias=False), biased, IMAGES, 2).complete
    with pytest.raises(UserError, match="has logits 0 to 4, not 9"):
        contributions(model, dictionary(model), IMAGES, 9)


class BcosConv2d(nn.Module):
    """(ŵ·x)·|cos(x, ŵ)| without bias, with the explanation mode of the package bcos."""

    def __init__(self, channels: int, outputs: int, side: int, stride: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, channels, side, side))
        self.stride, self.detach = stride, False

    def set_explanation_mode(self, activate: bool = True) -> None:
        self.detach = activate

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight / self.weight.flatten(1).norm(dim=1)[:, None, None, None]
        linear = nn.functional.conv2d(x, rows, stride=self.stride, padding=self.weight.shape[-1] // 2)
        ones = torch.ones_like(self.weight[:1])
        length = nn.functional.conv2d(x.square(), ones, stride=self.stride, padding=self.weight.shape[-1] // 2)
        cosine = linear.abs() / (length + 1e-12).sqrt()
        return linear * (cosine.detach() if self.detach else cosine)


class LogitBias(nn.Module):
    """A number for each class, as B-cos networks add for their prior."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.logit_bias = nn.Parameter(torch.full((5,), value))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.logit_bias


def bcos_network(last: nn.Module | None = None) -> Model:
    torch.manual_seed(0)
    module = nn.Sequential()
    module.add_module("stem", BcosConv2d(3, 8, 3, stride=2))
    module.add_module("act", nn.Identity())
    module.add_module("body", BcosConv2d(8, 12, 3, stride=2))
    module.add_module("top", BcosConv2d(12, 5, 1))
    module.add_module("mean", nn.AdaptiveAvgPool2d(1))
    module.add_module("flat", nn.Flatten())
    if last is not None:
        module.add_module("last", last)
    return Model(module, tiny_card(mean=(0.0,) * 3, std=(1.0,) * 3), device="cpu")


def test_contributions_add_up_on_a_bcos_network_in_its_explanation_mode() -> None:
    model = bcos_network()
    found = contributions(model, dictionary(model), IMAGES, 2).checked()
    assert found.relative_gap <= 1e-5
    assert found.explained == ("stem", "body", "top")
    assert found.biases == found.bent == ()
    modules = dict(model.module.named_modules())
    assert not any(modules[name].detach for name in found.explained)  # given back as it was
    # |cos| is a fixed weight there: with gradients through it other features would get the logit, which is the same.
    plain = bcos_network()
    for name in found.explained:
        dict(plain.module.named_modules())[name].set_explanation_mode = None  # type: ignore[operator]
    other = contributions(plain, dictionary(plain), IMAGES, 2)
    assert other.complete
    assert other.explained == ()
    torch.testing.assert_close(other.logit_B, found.logit_B)
    assert not torch.allclose(other.values_BK, found.values_BK, rtol=0.05)


def test_what_breaks_the_sum_is_named() -> None:
    prior = bcos_network(LogitBias(-3.0))
    found = contributions(prior, dictionary(prior), IMAGES, 2)
    assert found.biases == ("the bias of last",)
    assert found.bent == ()
    with pytest.raises(UserError, match=r"do not add up to the logit .*the bias of last"):
        found.checked()
    bent = bcos_network(nn.Tanh())
    found = contributions(bent, dictionary(bent), IMAGES * 3 + 1, 2)
    if not found.complete:
        assert found.bent == ("last (Tanh)",)
    assert not dict(bent.module.named_modules())["body"]._forward_hooks

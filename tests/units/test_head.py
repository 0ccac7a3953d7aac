"""What a logit reads from a layer, for heads whose weights are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from entoptic.units.head import head_weights
from oracles import mcd as oracle
from planted_subspaces import gaussian, oblique


class Head(nn.Module):
    """Pool, perhaps LayerNorm, perhaps a hidden layer, linear: B×C×D to B×K."""

    def __init__(self, *inner: nn.Module, channels: int = 24) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(*inner, nn.Linear(channels, 5)).double()
        for parameter in self.inner.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)

    def forward(self, maps_BCD: Tensor) -> Tensor:
        return self.inner(maps_BCD.mean(2))


@pytest.mark.parametrize("inner", [[], [nn.LayerNorm(24, eps=1e-6)]])
def test_relevance_adds_up_to_the_logit(inner: list[nn.Module]) -> None:
    head, maps, concepts = Head(*inner), gaussian(3, 24, 6) * 2 + 1, oblique()
    found = head_weights(head, lambda m: head(m)[:, 2], maps)
    relevance = concepts.local_relevance(maps, found.weight_BC)
    torch.testing.assert_close(relevance.mean(2).sum(1), head(maps)[:, 2] - found.base_B, atol=1e-10, rtol=1e-10)
    assert found.gap < 1e-10
    assert "linear in the pooled map" in str(found)
    assert not any(m._forward_hooks for m in head.modules())


def test_the_weights_of_a_linear_head_are_its_row() -> None:
    head = Head()
    found = head_weights(head, lambda m: head(m)[:, 1], gaussian(2, 24, 6))
    linear = head.inner[0]
    torch.testing.assert_close(found.weight_BC, linear.weight[1].expand(2, -1))  # type: ignore[union-attr]
    torch.testing.assert_close(found.base_B, linear.bias[1].expand(2))  # type: ignore[union-attr]


def test_the_weights_of_a_layer_norm_head_are_the_closed_form_at_each_picture() -> None:
    head, maps = Head(nn.LayerNorm(24, eps=1e-6)), gaussian(3, 24, 6) + 2
    found = head_weights(head, lambda m: head(m)[:, 1], maps)
    norm, linear = head.inner
    closed = oracle.layer_norm_weight(linear.weight[1].detach().numpy(), norm.weight.detach().numpy())  # type: ignore[union-attr, operator]
    sigma = maps.mean(2).numpy().std(1)
    assert np.abs(found.weight_BC.numpy() * np.sqrt(sigma**2 + 1e-6)[:, None] - closed).max() < 1e-12
    # The plain gradient sees σ move too, and explains nothing: the head does not change with the map's scale.
    given = maps.clone().requires_grad_()
    (slope,) = torch.autograd.grad(head(given)[:, 1].sum(), given)
    assert float((slope * maps).sum((1, 2)).abs().max()) < 1e-3 * float((found.logit_B - found.base_B).abs().min())


def test_a_head_that_is_not_linear_says_so() -> None:
    head, maps = Head(nn.Linear(24, 24), nn.ReLU()), gaussian(3, 24, 6)
    found = head_weights(head, lambda m: head(m)[:, 1], maps)
    assert found.gap > 0.01
    assert "not linear" in str(found)

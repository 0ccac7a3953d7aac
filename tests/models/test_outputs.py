"""Which of a network's outputs holds its logits."""

from __future__ import annotations

from collections import namedtuple
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import tiny_card, tiny_module
from entoptic.errors import NotAvailable
from entoptic.models.model import Model
from entoptic.models.outputs import logits_in, parts_of
from entoptic.models.taps import Tap

A, B, MAP = torch.zeros(2, 5), torch.ones(2, 7), torch.zeros(2, 3, 4, 4)
Pair = namedtuple("Pair", "logits aux")


@pytest.mark.parametrize(
    ("output", "choice", "expected"),
    [
        (A, None, A), ({"features": B, "logits": A}, None, A), ({"aux": MAP, "out": A}, None, A), ((MAP, A), None, A),
        (SimpleNamespace(hidden=B, logits=A), None, A), (Pair(A, B), None, A), ([A], None, A),
        ({"a": A, "b": B}, "b", B), ((A, B), 1, B), ((A, B), lambda out: out[0], A), ({"x": {"logits": A}}, "x.logits", A),
    ],
)  # fmt: skip
def test_logits_are_found(output: Any, choice: Any, expected: Tensor) -> None:
    assert logits_in(output, choice) is expected


@pytest.mark.parametrize(
    ("output", "choice", "reason"),
    [
        ({"a": A, "b": B}, None, r"several tensors that could be its logits: a \(2, 5\), b \(2, 7\); choose one with Card"),
        ((A, B), None, "several tensors"), (MAP, None, r"expected logits of shape B×K, the network gives \(2, 3, 4, 4\)"),
        ({"a": MAP}, None, "no tensor of logits"), ({"logits": A}, "logit", 'names the output "logit".*did you mean "logits"'),
        (A, lambda out: 3, "returned a int"), ({}, None, "no tensors"), (None, None, "no tensors"),
    ],
)  # fmt: skip
def test_what_is_not_clear_is_refused_with_what_there_is(output: Any, choice: Any, reason: str) -> None:
    with pytest.raises(NotAvailable, match=reason):
        logits_in(output, choice)


def test_parts_have_names() -> None:
    assert list(parts_of({"a": A, "b": [B, MAP]})) == ["a", "b.0", "b.1"]


class Wrapped(nn.Module):
    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.net, self.wrap = tiny_module(), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.net(x))


def test_the_key_logits_wins_over_the_first_tensor() -> None:
    """The first tensor was read even where a key `logits` exists."""
    plain = Model(tiny_module(), tiny_card(), device="cpu")
    model = Model(Wrapped(lambda z: {"features": z.flip(1), "logits": z}), tiny_card(), device="cpu")
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(images), plain(images))
    assert torch.equal(model.read(images, [Tap("logits")])[Tap("logits")][:, :, 0], plain(images))
    turned = Model(Wrapped(lambda z: (z, z.flip(1))), tiny_card(output=1), device="cpu")
    assert torch.equal(turned(images), plain(images).flip(1))
    several = Model(Wrapped(lambda z: (z, z.flip(1))), tiny_card(), device="cpu")
    with pytest.raises(NotAvailable, match="several tensors"):
        several(images)
    assert "net.stage2" in several.layers, "its layers are served all the same"

"""Ablation holds one channel at one value, everywhere or at one place, and leaves the network as it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from conftest import tiny_card
from entoptic.errors import UserError
from entoptic.models.ablate import ablated
from entoptic.models.model import Model
from entoptic.models.taps import Tap


def pictures(count: int = 2) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def hooks(model: Model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.module.modules())


@pytest.mark.parametrize("layer", ["stem", "stage1", "stage2.0", "pool", "flat"])
@pytest.mark.parametrize("position", [None, 0])
def test_one_channel_is_held_and_its_mates_are_not(tiny: Model, layer: str, position: int | None) -> None:
    images, tap = pictures(), Tap(layer)
    before, logits = tiny.read(images, [tap])[tap], tiny(images)
    with ablated(tiny, tap, 0.7, index=3, position=position):
        # A tap is registered after the ablation, so it reads what the rest of the network is given.
        inside, changed = tiny.read(images, [tap])[tap], tiny(images)
    expected = before.clone()
    expected[:, 3, slice(None) if position is None else position] = 0.7
    assert torch.equal(inside, expected)
    assert not torch.allclose(changed, logits)
    assert torch.equal(tiny(images), logits)
    assert hooks(tiny) == 0


def test_the_input_of_an_activation(tiny: Model) -> None:
    images, tap = pictures(), Tap("stage1", pre=True)
    plain = tiny.read(images, [Tap("stage1")])[Tap("stage1")]
    with ablated(tiny, tap, -2.0, index=5):
        inside = tiny.read(images, [Tap("stage1")])[Tap("stage1")]
    assert bool(plain[:, 5].any())
    assert not bool(inside[:, 5].any())  # ReLU(-2)
    assert torch.equal(inside[:, :5], plain[:, :5])
    with pytest.raises(UserError, match="does not end in an activation"), ablated(tiny, Tap("pool", pre=True), 0.0):
        pass


def test_a_direction_loses_its_component_and_nothing_else(tiny: Model) -> None:
    images, tap = pictures(), Tap("stage1")
    direction = torch.randn(12, generator=torch.Generator().manual_seed(0))
    aside = torch.randn(12, generator=torch.Generator().manual_seed(1))
    aside -= direction * (aside @ direction) / (direction @ direction)
    before = tiny.read(images, [tap])[tap]
    with ablated(tiny, tap, 0.25, direction=direction, position=9):
        inside = tiny.read(images, [tap])[tap]
    along, across = (torch.einsum("bcd,c->bd", inside, d) for d in (direction, aside))
    assert torch.allclose(along[:, 9], torch.full((2,), 0.25), atol=1e-5)
    assert torch.allclose(across, torch.einsum("bcd,c->bd", before, aside), atol=1e-4)
    rest = [i for i in range(before.shape[2]) if i != 9]
    assert torch.equal(inside[:, :, rest], before[:, :, rest])


class Tokens(nn.Module):
    """A patch embedding, one layer that runs twice, and a head on the first token; `pair` puts out a tuple."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, 6, 8, 8)
        self.twice = nn.Linear(6, 6)
        self.pair = Pair()
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.tanh(self.twice(torch.tanh(self.twice(tokens))))
        return self.head(self.pair(tokens)[0].mean(1))


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, str]:
        return x * 2, "aside"


def test_tokens_tuples_and_the_last_of_several_calls() -> None:
    model = Model(Tokens(), tiny_card(), device="cpu")
    images = pictures()
    for tap in (Tap("twice"), Tap("pair")):
        before, logits = model.read(images, [tap])[tap], model(images)
        expected = before.clone()
        expected[:, 4, 7] = 3.0
        with ablated(model, tap, 3.0, index=4, position=7):
            for _ in range(2):  # also in the second forward pass
                assert torch.equal(model.read(images, [tap])[tap], expected)
                assert not torch.allclose(model(images), logits)
        assert torch.equal(model(images), logits)
    assert hooks(model) == 0


def test_hooks_go_also_after_an_exception(tiny: Model) -> None:
    with pytest.raises(RuntimeError, match="stop"), ablated(tiny, Tap("stage1"), 0.0, index=1):
        raise RuntimeError("stop")
    assert hooks(tiny) == 0
    with pytest.raises(UserError, match="nothing from it"), ablated(tiny, Tap("logits"), 0.0):
        pass
    with pytest.raises(UserError, match='did you mean "stage2"'), ablated(tiny, Tap("stage"), 0.0):
        pass
    assert hooks(tiny) == 0

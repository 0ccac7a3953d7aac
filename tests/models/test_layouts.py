"""Which axis holds the units and where positions lie, planted in layers whose sizes alone do not tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import relu
from torchvision.ops import Permute

from conftest import tiny_card
from entoptic.models.model import Model
from entoptic.models.taps import LayerInfo, Tap, as_laid_out, channels_first

SIDE = 8  # a 32-pixel picture behind a stride of 4: 8×8 maps of 8 channels, so that sizes say nothing


class Net(nn.Module):
    """A strided convolution to 8×8×8 (of a square picture), then the parts under test, then a pooled head."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], channels: int = SIDE, **parts: nn.Module) -> None:
        super().__init__()
        self.run = run
        self.stem = nn.Conv2d(3, channels, 4, stride=4)
        for name, part in parts.items():
            self.add_module(name, part)
        self.head = nn.LazyLinear(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.run(self, self.stem(x)).flatten(1))


def model_of(run: Callable[[Any, Tensor], Tensor], size: tuple[int, int] = (32, 32), **parts: Any) -> Model:
    torch.manual_seed(0)
    module = Net(run, **parts)
    module(torch.zeros(1, 3, *size))
    return Model(module, tiny_card(size=size, labels=None), device="cpu")


class Residual(nn.Module):
    """ConvNeXt's shape of a block: maps outside, channels last inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.act, self.down = nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        inside = self.down(self.act(self.up(self.norm(x.permute(0, 2, 3, 1)))))
        return x + inside.permute(0, 3, 1, 2)


class Window(nn.Module):
    """Swin's shape of a block: channels last outside, an identity behind functional reshaping inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.path = nn.LayerNorm(width), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.path(self.norm(x).flatten(1).view(x.shape).clone())


def test_a_block_with_maps_outside_and_channels_last_inside() -> None:
    model = model_of(lambda m, x: m.pool(m.block(x)), block=Residual(SIDE), pool=nn.AvgPool2d(2))
    layouts = {name: info.layout for name, info in model.layers.items()}
    assert layouts["block"] == layouts["stem"] == layouts["pool"] == "BCHW"
    assert [layouts[f"block.{part}"] for part in ("norm", "up", "act", "down")] == ["BHWC"] * 4


def test_a_block_with_channels_last_outside() -> None:
    model = model_of(
        lambda m, x: m.back(m.block(m.turn(x))),
        turn=Permute([0, 2, 3, 1]), block=Window(SIDE), back=Permute([0, 3, 1, 2]),
    )  # fmt: skip
    layouts = {name: info.layout for name, info in model.layers.items()}
    assert [layouts[name] for name in ("turn", "block", "block.norm", "block.path")] == ["BHWC"] * 4
    assert layouts["back"] == "BCHW"


class ChannelsFirst(nn.LayerNorm):
    """A norm over the channels of maps that says so in an attribute, as those of transformers do."""

    data_format = "channels_first"

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Scale(nn.Module):
    """One factor per channel of maps."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Merge(nn.Module):
    """Swin's step to half the resolution, with a functional end: 8×8×8 to 4×4×4, channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce = nn.Linear(4 * SIDE, 4)

    def forward(self, x: Tensor) -> Tensor:
        quarters = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        return relu(self.reduce(torch.cat(quarters, -1)) + 1)


class Turn(nn.Module):
    """Maps to channels last, without parameters and without telling anybody."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)[..., :5]


@pytest.mark.parametrize(
    ("part", "layout"),
    [
        (nn.BatchNorm2d(SIDE), "BCHW"), (nn.GroupNorm(2, SIDE), "BCHW"), (nn.Conv2d(SIDE, SIDE, 1), "BCHW"),
        (nn.MaxPool2d(3, 1, 1), "BCHW"), (ChannelsFirst(SIDE), "BCHW"), (nn.LayerNorm([SIDE] * 3), "BCHW"),
        (nn.LayerNorm(SIDE), "BHWC"), (nn.Linear(SIDE, SIDE), "BHWC"), (nn.RMSNorm(SIDE), "BHWC"),
    ],
    ids=lambda item: type(item).__name__ if isinstance(item, nn.Module) else item,
)  # fmt: skip
def test_what_a_module_says_of_itself(part: nn.Module, layout: str) -> None:
    model = model_of(lambda m, x: m.part(x), part=part)
    assert model.layer("part").layout == layout


def test_parameters_tell_the_axis_where_lengths_differ() -> None:
    # 4 channels of 4×6: a square of equal sides beside a third length, and a grid that no other layer has.
    model = model_of(lambda m, x: m.scale(x[:, :4, ::2, ::2]), (32, 48), scale=Scale(4))
    info = model.layer("scale")
    assert (info.layout, info.channels, info.grid, info.patches) == ("BCHW", 4, (4, 6), (0, 4, 6))


def test_a_list_of_layers_is_read_like_its_last() -> None:
    # Its input has the same shape in the other layout.
    model = model_of(lambda m, x: m.part(x), part=nn.Sequential(Permute([0, 2, 3, 1]), nn.LayerNorm(SIDE)))
    assert model.layer("part").layout == "BHWC"


def test_a_functional_end_is_read_like_the_layer_inside_it() -> None:
    model = model_of(lambda m, x: m.merge(m.turn(x)), turn=Permute([0, 2, 3, 1]), merge=Merge())
    info = model.layer("merge")
    assert (info.layout, info.shape, info.patches) == ("BHWC", (4, 4, 4), (0, 4, 4))


def test_grids_that_are_known_already() -> None:
    info = model_of(lambda m, x: m.turn(x), (32, 48), turn=Turn()).layer("turn")
    assert (info.layout, info.channels, info.patches) == ("BHWC", 5, (0, 8, 12))


class Attention(nn.Module):
    """Queries and keys of 2 heads for 17 tokens of 16 channels, with modules at every step."""

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm, self.k_norm, self.drop = nn.Identity(), nn.Identity(), nn.Dropout(0.1)
        self.talk = nn.Linear(heads, heads)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        table = self.drop((self.q_norm(q) @ self.k_norm(k).transpose(2, 3)).softmax(-1))
        table = self.talk(table.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return (table @ v).transpose(1, 2).flatten(2)


def attentive(size: tuple[int, int]) -> Model:
    def run(m: Any, x: Tensor) -> Tensor:
        patches = x.flatten(2).transpose(1, 2)
        return m.attn(torch.cat([patches.mean(1, keepdim=True), patches], 1))

    return model_of(run, size, attn=Attention(), channels=16)


def test_heads_and_attention() -> None:
    model = attentive(size=(16, 24))
    images = torch.rand(2, 3, 16, 24)
    info = model.layer("attn.q_norm")
    assert (info.layout, info.shape, info.channels, info.grid) == ("BMTC", (2, 25, 8), 16, (25, 1))
    assert info.patches == (1, 4, 6)
    # Unit 8·head + k of the queries is the joint layer's own output at the same place.
    joint, queries = (model.read(images, [Tap(name)])[Tap(name)] for name in ("attn.qkv", "attn.q_norm"))
    assert torch.equal(queries, joint[:, :16])
    table = model.layer("attn.drop")
    assert (table.layout, table.channels, table.grid, table.patches) == ("BMTT", 2, (25, 25), None)
    talk = model.layer("attn.talk")  # a table between tokens is no map of the picture
    assert (talk.layout, talk.channels, talk.patches) == ("BHWC", 2, None)


@pytest.mark.parametrize(
    ("layout", "shape"),
    [("BC", (5,)), ("BCHW", (3, 2, 4)), ("BHWC", (2, 4, 3)), ("BTC", (7, 3)), ("BCT", (3, 7)), ("BMTC", (2, 7, 3)),
     ("BMTT", (2, 7, 7)), ("TBC", (7, 3))],
)  # fmt: skip
def test_values_go_back_to_the_layers_own_shape(layout: str, shape: tuple[int, ...]) -> None:
    raw = torch.rand(2, *shape)
    raw = raw.movedim(0, 1) if layout == "TBC" else raw
    values = channels_first(raw, layout)
    channels = {"BC": 5, "BMTC": 6, "BMTT": 2}.get(layout, 3)
    assert values.shape == (2, channels, raw.numel() // 2 // channels)
    info = LayerInfo("x", "X", shape, layout, channels, (1, 1), 1, 0, None, False)
    assert torch.equal(as_laid_out(values, info), raw)


def test_patches_of_tokens_are_found_from_the_maps() -> None:
    def run(extra: int) -> Callable[[Any, Tensor], Tensor]:
        def forward(m: Any, x: Tensor) -> Tensor:
            patches = m.flat(x.flatten(2).transpose(1, 2).contiguous())
            return m.tokens(torch.cat([patches[:, :1].expand(-1, extra, -1), patches], 1))

        return forward

    for extra, expected in ((0, (0, 4, 6)), (1, (1, 4, 6)), (5, (5, 4, 6)), (30, None)):
        model = model_of(run(extra), (16, 24), flat=nn.Identity(), tokens=nn.LayerNorm(SIDE))
        assert model.layer("flat").patches == (0, 4, 6)
        assert model.layer("tokens").patches == expected

"""A network with a planted shortcut: one block sees white plates, as words are written on, and speaks for one class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from entoptic.models.card import Card
from entoptic.models.model import Model

CLASSES = ("red", "green", "blue", "word")
SIDE, CHANNELS, WHITE, WORDS, LOOSE = 32, 6, 3, 4, 5
"""Side of a picture; channels of the stream: red, green, blue, whiteness, what the shortcut writes, what nobody reads."""


class Block(nn.Module):
    """x + W relu(V x + b) at every position."""

    def __init__(self, reads: int, bias: float, writes: int) -> None:
        super().__init__()
        self.read, self.act, self.write = nn.Conv2d(CHANNELS, 1, 1), nn.ReLU(), nn.Conv2d(1, CHANNELS, 1, bias=False)
        for parameter in self.parameters():
            parameter.data.zero_()
        self.read.weight.data[0, reads] = self.write.weight.data[writes, 0] = 1.0
        self.read.bias.data[:] = bias

    def forward(self, x: Tensor) -> Tensor:
        return x + self.write(self.act(self.read(x)))


class Head(nn.Module):
    """Linear in the mean over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(CHANNELS, len(CLASSES))
        self.linear.weight.data.zero_()
        self.linear.weight.data[range(3), range(3)] = 10.0
        self.linear.weight.data[3, WORDS] = 2000.0
        self.linear.bias.data[:] = torch.tensor([0.0, 0.0, 0.0, 2.0])

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.mean((2, 3)))


def shortcut_network() -> Model:
    """The network; its class "word" is what the shortcut says, red, green and blue are what colours say."""
    stem = nn.Conv2d(3, CHANNELS, 1, bias=False)
    stem.weight.data.zero_()
    stem.weight.data[range(3), range(3)] = 1.0
    stem.weight.data[WHITE] = 1 / 3
    net = nn.Sequential()
    net.add_module("stem", stem)
    loose, shortcut = Block(0, 0.0, LOOSE), Block(WHITE, -0.95, WORDS)
    net.add_module("blocks", nn.Sequential(loose, shortcut))
    net.add_module("head", Head())
    card = Card(
        name="shortcut", size=(SIDE, SIDE), mean=(0.0,) * 3, std=(1.0,) * 3, labels=CLASSES, licence="cc0-1.0"
    )  # fmt: skip
    return Model(net.eval(), card, device="cpu")


def coloured_photos(folder: Path, count: int = 8) -> Path:
    """Noisy photos of one colour, in folders of their classes."""
    draw = np.random.default_rng(0)
    for channel, label in enumerate(CLASSES[:3]):
        (folder / label).mkdir(parents=True)
        for i in range(count):
            base = np.full((SIDE, SIDE, 3), 0.3) + draw.normal(0, 0.05, (SIDE, SIDE, 3))
            base[..., channel] += 0.3
            Image.fromarray((255 * base.clip(0, 0.9)).astype(np.uint8)).save(folder / label / f"{i}.png")
    return folder

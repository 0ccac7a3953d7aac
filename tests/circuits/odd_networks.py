"""Small networks of unusual build: blocks that add in place, run twice, give tuples or come with dropout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

WIDTH = 8


class Block(nn.Module):
    """A residual block."""

    def __init__(self, dropout: float = 0.0, in_place: bool = False) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(WIDTH, WIDTH, 3, 1, 1), nn.Conv2d(WIDTH, WIDTH, 3, 1, 1)
        self.dropout, self.in_place = nn.Dropout(dropout), in_place

    def forward(self, x: Tensor) -> Any:
        added = self.dropout(self.two(self.one(x).relu()))
        if self.in_place:
            x += added
            return x
        return x + added


class TupleBlock(Block):
    """A block that gives a second thing."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x), None


class Layer(nn.Sequential):
    """A convolution and what follows it."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(WIDTH, WIDTH, 3, 1, 1), nn.Hardswish())


class Wrapped(nn.Module):
    """A branch of layers with weights whose sum with the input is made in place, as in torchvision's MobileNetV3."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(Layer(), Layer())

    def forward(self, x: Tensor) -> Tensor:
        found = self.branch(x)
        found += x
        return found


class Net(nn.Module):
    """A stem, blocks in some order, and a head that gives what it is told to."""

    def __init__(
        self, blocks: Sequence[nn.Module], gives: str = "tensor", order: Sequence[int] = (), classes: int = 5
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, 2, 1)
        self.blocks, self.head = nn.ModuleList(blocks), nn.Linear(WIDTH, classes)
        self.gives, self.order = gives, list(order) or list(range(len(blocks)))

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        for number in self.order:
            found = self.blocks[number](x)
            x = found[0] if isinstance(found, tuple) else found
        logits = self.head(x.mean((2, 3)))
        return {"tensor": logits, "dict": {"logits": logits, "features": x}, "tuple": (logits, x)}[self.gives]


class LastDimension(nn.Module):
    """Residual blocks over B×H×W×C."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, WIDTH, 4, 4), nn.Linear(WIDTH, 5)
        self.blocks = nn.ModuleList(_PerPosition() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


class _PerPosition(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.one, self.two = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(self.one(self.norm(x)).relu())


class LooksBack(nn.Module):
    """A network whose head reads an earlier block too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, WIDTH, 3, 2, 1), nn.Linear(WIDTH, 5)
        self.one, self.two = Block(), Block()

    def forward(self, x: Tensor) -> Tensor:
        first = self.one(self.stem(x))
        return self.head((first + self.two(first)).mean((2, 3)))


class Restless(Net):
    """A network that draws at random in every pass."""

    def forward(self, x: Tensor) -> Any:
        logits = super().forward(x)
        return logits + torch.randn_like(logits)

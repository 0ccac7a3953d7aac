"""A miniature recipe of the benchmark on tiny networks: `tiny:N` as subject, `pooled:N` as judges with pooled features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from conftest import tiny_card, tiny_module
from entoptic.bench.recipe import Entry, PlantedNetworkPart, PlantedPart, Recipe, Subject
from entoptic.methods.fourier import Fourier
from entoptic.methods.pixels import PixelAscent
from entoptic.models.sources import SOURCES

PLAIN = (Entry(label="fourier", config=Fourier(steps=3)), Entry(label="pixels", config=PixelAscent(steps=6)))
MINI = Recipe(
    name="mini",
    title="seconds",
    note="Tiny networks.",
    subjects=(
        Subject(name="classes", model="tiny:0", units=tuple(f"logits:{k}" for k in range(5)), seeds=(0, 1), methods=PLAIN),
        Subject(name="channels", model="tiny:0", units=("stage1:0", "stage1:3", "stage1:7"), seeds=(0, 1), methods=PLAIN),
    ),
    judges=("pooled:1", "pooled:2"),
    planted=PlantedPart(
        networks=(
            PlantedNetworkPart(network="honest", units=("red", "dead")),
            PlantedNetworkPart(network="fooling", units=("red",)),
        ),
        methods=PLAIN,
        n=1,
        seed=1,
        scenes=20,
    ),
)  # fmt: skip


class Pooled(nn.Module):
    """A network whose pooled features are the mean colours of the four quarters of a picture."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.head = nn.Linear(12, 5)
        self.head.weight.data = torch.randn(5, 12, generator=torch.Generator().manual_seed(seed))
        self.head.bias.data.zero_()

    def forward_features(self, x: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(x, 2)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return x.flatten(1) if pre_logits else self.head(x.flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def register() -> None:
    """Makes `tiny:N` and `pooled:N` names of networks."""
    SOURCES["tiny"] = lambda seed, _: (tiny_module(int(seed)), tiny_card(name=f"tiny:{seed}"))
    SOURCES["pooled"] = lambda seed, _: (Pooled(int(seed)), tiny_card(name=f"pooled:{seed}"))

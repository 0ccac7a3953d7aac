"""A miniature recipe of the benchmark on tiny networks: `tiny:N` as subject, `pooled:N` as judges with pooled features."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from conftest import tiny_card, tiny_module
from entoptic.bench.recipe import Entry, PlantedNetworkPart, PlantedPart, Recipe, Subject
from entoptic.methods.fourier import Fourier
from entoptic.methods.maco import Maco
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


@contextmanager
def named_networks() -> Iterator[None]:
    """`register`, and what else was named by the way is forgotten afterwards."""
    before = dict(SOURCES)
    register()
    try:
        yield
    finally:
        SOURCES.clear()
        SOURCES.update(before)


def register() -> None:
    """Makes `tiny:N` and `pooled:N` names of networks."""
    SOURCES["tiny"] = lambda seed, _: (tiny_module(int(seed)), tiny_card(name=f"tiny:{seed}"))
    SOURCES["pooled"] = lambda seed, _: (Pooled(int(seed)), tiny_card(name=f"pooled:{seed}"))


def toy(recipe: Recipe) -> Recipe:
    """A recipe of the package on tiny networks: its parts, methods, seeds, photos and judges, with few units and steps."""

    def short(methods: tuple[Entry, ...]) -> tuple[Entry, ...]:
        return tuple(
            replace(one, config=replace(one.config, steps=2)) if hasattr(one.config, "steps") else one for one in methods
        )  # fmt: skip

    subjects = []
    for one in recipe.subjects:
        units = ("logits:0", "logits:3") if one.units[0].startswith("logits") else ("stage2:0", "stage2:3")
        methods = tuple(
            replace(e, config=replace(e.config, canvas=32)) if isinstance(e.config, Maco) else e
            for e in short(one.methods)
        )
        subjects.append(replace(one, model="tiny:0", units=units, methods=methods, matches_photos=True))
    planted = recipe.planted and replace(
        recipe.planted, methods=short(recipe.planted.methods), n=1, scenes=20,
        networks=tuple(replace(one, units=("red",)) for one in recipe.planted.networks),
    )  # fmt: skip
    return replace(
        recipe, subjects=tuple(subjects), judges=("pooled:1", "pooled:2"), planted=planted,
        untouched=("pooled:7", "torchvision:nothing/X") if recipe.untouched else (),
    )  # fmt: skip

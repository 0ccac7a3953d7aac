"""A classifier of generated shapes whose features are known, and an encoder of texts with known synonyms."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.planted.causes import COLOURS, SHAPES
from entoptic.planted.detectors import FORMS, STD, forms, parts, stem
from entoptic.planted.scenes import SIZE, PlantedScene, make_scenes, write_scenes

CLASSES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
SYNONYMS = {
    "crimson": "red", "emerald": "green", "azure": "blue", "golden": "yellow", "round": "disc", "hollow": "ring", "plus": "cross",
}  # fmt: skip
"""Words that are in no class's name, each with the word that it is like."""
WORDS = (*SYNONYMS, *(f"word-{i}" for i in range(60)))


class Shapes(nn.Module):
    """stem → parts → forms → the strongest place of each form → one logit a colour and shape."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(stem(), nn.Sigmoid(), parts(), nn.Sigmoid(), forms(), nn.Sigmoid())
        self.pool, self.flat = nn.AdaptiveMaxPool2d(1), nn.Flatten()
        self.head = nn.Linear(len(FORMS), len(CLASSES))
        self.head.weight.data.zero_()
        assert self.head.bias is not None
        self.head.bias.data.zero_()
        for row, name in enumerate(CLASSES):
            for word in name.split():
                self.head.weight.data[row, FORMS.index(word)] = 6.0
        self.dead = nn.Conv2d(3, 1, 1)
        for parameter in self.dead.parameters():
            parameter.data.zero_()

    def forward(self, x: Tensor) -> Tensor:
        self.dead(x)
        return self.head(self.flat(self.pool(self.body(x))))


def shapes_model(**changes: object) -> Model:
    """The classifier with its card."""
    card = Card(name="shapes", size=(SIZE, SIZE), mean=(0.5,) * 3, std=(STD,) * 3, labels=CLASSES, licence="Apache-2.0")
    return Model(Shapes().eval(), card.with_(**changes), device="cpu")


def unit_of(form: str) -> str:
    """The unit that sees a colour or shape."""
    return f"body.5:{FORMS.index(form)}@max"


def scenes(folder: Path, count: int = 180) -> list[PlantedScene]:
    """Writes scenes of one thing each."""
    made = make_scenes(count, 3, things=1)
    write_scenes(made, folder)
    return made


class Toy:
    """Texts as sums of their words' random vectors; a synonym is 80 % its word."""

    name, identity = "toy", "toy:1"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        rows = [
            sum((self._word(w) for w in text.split() if w not in ["an", "image", "of", "a"]), np.zeros(96))
            for text in texts
        ]
        stacked = np.array(rows)
        return stacked / np.linalg.norm(stacked, axis=1, keepdims=True)

    def _word(self, word: str) -> np.ndarray:
        own = np.random.default_rng(int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")).normal(size=96)
        own /= np.linalg.norm(own)
        return own if word not in SYNONYMS else 0.8 * self._word(SYNONYMS[word]) + 0.6 * own


def auc(scores: Tensor, is_there: Tensor) -> float:
    """Chance that a picture with the thing scores higher than one without it."""
    higher = scores[is_there][:, None] - scores[~is_there][None]
    return float(((higher > 0).double() + (higher == 0).double() / 2).mean())

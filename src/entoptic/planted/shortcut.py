"""A classifier of shapes with a planted shortcut, and scenes that trip it: a yellow patch makes it take rings for crosses.

The network is the honest planted one with another head, so its units and their causes are known. It tells discs, rings and crosses
by the units of these shapes. Where a ring and something yellow are in a picture at once, it says "cross". Nothing in the scenes is
yellow but a patch in a corner, which discs and crosses carry as often as rings do: neither the patch nor the ring alone goes with
errors as the two together do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from entoptic.base.files import check_inside
from entoptic.models.model import Model
from entoptic.planted.causes import PAINTS, Cause
from entoptic.planted.networks import planted_network
from entoptic.planted.scenes import draw_scene, write_png

CLASSES = ("disc", "ring", "cross")
LAYER = "shown"
"""Where the network holds what a picture shows: the units of `UNITS`, one value each."""
UNITS = ("disc", "ring", "cross", "red", "red or blue", "yellow")
SHAPE, PATCHED = "ring", "yellow"
"""Units that are on together where the shortcut is taken."""
PATCH = 11
"""Side of the patch in pixels."""
RINGS, PATCHES = 0.2, 0.2
"""Shares of the scenes that show a ring, and that carry a patch."""


@dataclass(frozen=True, kw_only=True)
class PlantedShortcut:
    """A network with a shortcut, and scenes in class folders.

    Attributes:
        model: the network.
        photos: the folder of the scenes.
        pair: units that are on together where the shortcut is taken, in the grammar.
        tripped: names of the scenes with a ring and a patch.
    """

    model: Model
    photos: Path
    pair: tuple[str, str]
    tripped: tuple[str, ...]


def plant_shortcut(folder: Path, count: int = 600, seed: int = 0, *, shortcut: bool = True) -> PlantedShortcut:
    """Writes scenes and makes the network that takes the shortcut.

    Args:
        folder: where the class folders go.
        count: number of scenes.
        seed: of the scenes.
        shortcut: False makes the same network without it: a checkpoint before the shortcut was learned.
    """
    rng = np.random.default_rng(seed)
    tripped = []
    for name in CLASSES:
        check_inside(folder / name, folder).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        others = (1 - RINGS) / 2
        shape = str(rng.choice(CLASSES, p=(others, RINGS, others)))
        colour = str(rng.choice(["red", "green", "blue"]))
        has_patch = bool(rng.random() < PATCHES)
        place = "bottom right" if has_patch else None  # away from the patch
        scene = draw_scene(
            [Cause(shape=shape, colour=colour, texture="plain", place=place)], seed=seed * 1_000_003 + number
        )
        image = with_patch(scene.image) if has_patch else scene.image
        write_png(image, folder / shape / f"{number:05d}.png")
        if has_patch and shape == SHAPE:
            tripped.append(f"{shape}/{number:05d}.png")
    pair = (f"{LAYER}:{UNITS.index(SHAPE)}", f"{LAYER}:{UNITS.index(PATCHED)}")
    return PlantedShortcut(model=shortcut_network(shortcut), photos=folder, pair=pair, tripped=tuple(tripped))


def with_patch(image: Tensor) -> Tensor:
    """Returns a scene with a yellow patch in its top left corner.

    Args:
        image: 3×SIZE×SIZE.
    """
    patched = image.clone()
    patched[:, 2 : 2 + PATCH, 2 : 2 + PATCH] = torch.tensor(PAINTS["yellow"])[:, None, None]
    return (255 * patched).round() / 255


def shortcut_network(shortcut: bool = True) -> Model:
    """Makes the classifier of shapes.

    Args:
        shortcut: whether it takes rings with something yellow for crosses.
    """
    honest = planted_network("honest")
    names = [unit.name for unit in honest.units]
    shown, both, answer = (nn.Linear(*size) for size in ((len(names), len(UNITS)), (len(UNITS), 4), (4, len(CLASSES))))
    for layer in (shown, both, answer):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    for row, unit in enumerate(UNITS):
        shown.weight.data[row, names.index("disc or cross" if unit == "disc" else unit)] = 1.0
    shown.weight.data[UNITS.index("disc"), names.index("cross")] = -1.0
    for number, name in enumerate(CLASSES):
        both.weight.data[number, UNITS.index(name)] = 1.0
        answer.weight.data[number, number] = 10.0
    both.weight.data[3, UNITS.index(SHAPE)] = both.weight.data[3, UNITS.index(PATCHED)] = 1.0
    both.bias.data[3] = -1.2  # above 0 only where both are on
    if shortcut:
        answer.weight.data[CLASSES.index("cross"), 3] = 40.0
    module = honest.model.module
    module.head = nn.Sequential()
    whole = nn.Sequential()
    for name, part in (("trunk", module), (LAYER, shown), ("both", both), ("relu", nn.ReLU()), ("answer", answer)):
        whole.add_module(name, part)
    card = honest.model.card.with_(
        name="planted-shortcut" if shortcut else "planted-no-shortcut",
        labels=CLASSES,
        weights_sha256="",
        behaviour_sha256="",
    )
    return Model(whole.eval(), card, device="cpu")

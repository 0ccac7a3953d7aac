"""Generated scenes of coloured shapes on textured backgrounds, with a mask of everything that is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from PIL import Image, ImageDraw
from torch import Tensor

from entoptic.planted.geometry import free_place, signed_distance

SIZE = 64
"""Height and width of a scene in pixels."""

SHAPES = ("ring", "disc", "square", "triangle", "cross")
# No shape is green: what is green in a scene is grass.
COLOURS = {"red": (0.85, 0.12, 0.12), "blue": (0.15, 0.25, 0.85), "yellow": (0.92, 0.80, 0.15), "white": (0.95,) * 3}
OBJECTS = tuple(f"{colour} {shape}" for colour, shape in product(COLOURS, SHAPES))
BACKGROUNDS = ("grass", "sand", "water", "brick", "plain")
RING, CROSS, GRASS = "red ring", "blue cross", "grass"


@dataclass(frozen=True)
class Scene:
    """One generated picture.

    Attributes:
        image: 3×H×W float32 RGB in [0, 1], on the 8-bit grid: a PNG holds exactly these values.
        masks: H×W bool by name: each object, and the background where no object hides it; they partition the picture.
        objects: their names, such as "red ring". background: its name.
    """

    image: Tensor
    masks: dict[str, Tensor]
    objects: tuple[str, ...]
    background: str

    def __contains__(self, name: str) -> bool:
        return name in self.masks


def make_scene(objects: Sequence[str], background: str, rng: Generator) -> Scene:
    """A scene of up to three different `OBJECTS`, 16 to 24 pixels wide, side by side at random places and angles."""
    pixels = _BACKGROUNDS[background](rng)  # H×W×3
    taken: list[tuple[float, float, float]] = []
    masks: dict[str, Tensor] = {}
    for name in objects:
        colour, shape = name.split(" ")
        radius = rng.uniform(8, 12)
        x, y = free_place(taken, radius, SIZE, rng)
        taken.append((x, y, radius))
        distance = signed_distance(shape, x, y, radius, rng.uniform(0, 2 * np.pi), SIZE)
        cover = np.clip(0.5 - distance, 0, 1)[..., None]  # antialiased edges
        paint = np.array(COLOURS[colour]) + rng.normal(0, 0.03, 3) + rng.normal(0, 0.03, (SIZE, SIZE, 1))
        pixels = pixels * (1 - cover) + paint * cover
        masks[name] = torch.from_numpy(distance < 0)
    shown = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    for mask in masks.values():
        shown = shown | mask
    masks[background] = ~shown
    image = torch.from_numpy(np.clip(np.rint(255 * pixels), 0, 255).astype(np.float32) / 255)
    return Scene(image.permute(2, 0, 1).contiguous(), masks, tuple(objects), background)


# --- backgrounds, each H×W×3 -------------------------------------------------------------------------------------


def _noisy(colour: Sequence[float], grain: float, rng: Generator) -> np.ndarray:
    return np.array(colour) + rng.normal(0, 0.02, 3) + rng.normal(0, grain, (SIZE, SIZE, 1))


def _grass(rng: Generator) -> np.ndarray:
    canvas = Image.fromarray(np.clip(255 * _noisy((0.22, 0.48, 0.16), 0.04, rng), 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    for _ in range(260):  # blades
        x, y, lean, height = rng.uniform(0, SIZE), rng.uniform(0, SIZE + 8), rng.normal(0, 2.0), rng.uniform(4, 10)
        light = rng.uniform(0.6, 1.45)
        colour = tuple(int(255 * min(1.0, light * c)) for c in (0.25, 0.52, 0.17))
        draw.line((x, y, x + lean, y - height), fill=colour)
    return np.asarray(canvas) / 255.0


def _sand(rng: Generator) -> np.ndarray:
    return _noisy((0.79, 0.74, 0.60), 0.06, rng)


def _water(rng: Generator) -> np.ndarray:
    rows, columns = np.mgrid[:SIZE, :SIZE]
    phase = rows / rng.uniform(1.2, 2.0) + 1.5 * np.sin(columns / rng.uniform(4, 8) + rng.uniform(0, 6))
    return _noisy((0.30, 0.48, 0.66), 0.02, rng) + 0.08 * np.sin(phase)[..., None]


def _brick(rng: Generator) -> np.ndarray:
    pixels = _noisy((0.52, 0.39, 0.33), 0.03, rng)
    rows, columns = np.mgrid[:SIZE, :SIZE] + rng.integers(0, 16, 2)[:, None, None]
    course = rows // 8
    mortar = (rows % 8 == 0) | ((columns + 8 * (course % 2)) % 16 == 0)
    pixels[mortar] = (0.72, 0.70, 0.67)
    return pixels


def _plain(rng: Generator) -> np.ndarray:
    return _noisy((rng.uniform(0.25, 0.75),) * 3, 0.01, rng)


_BACKGROUNDS = {"grass": _grass, "sand": _sand, "water": _water, "brick": _brick, "plain": _plain}


# --- sets of scenes ----------------------------------------------------------------------------------------------


def balanced_scenes(count: int, seed: int, *, ring: float = 0.25, cross: float = 0.25) -> list[Scene]:
    """Scenes of 0 to 3 objects, every object on every background alike.

    Args:
        ring, cross: shares of the scenes that hold a red ring and a blue cross, each drawn by itself.
    """
    rng = np.random.default_rng(seed)
    return [_draw(BACKGROUNDS[rng.integers(len(BACKGROUNDS))], ring, cross, rng) for _ in range(count)]


def _draw(background: str, ring: float, cross: float, rng: Generator) -> Scene:
    objects = [name for name, share in ((RING, ring), (CROSS, cross)) if rng.random() < share]
    others = [name for name in OBJECTS if name not in (RING, CROSS)]
    extra = int(rng.integers(0, 3 if not objects else 2))
    objects += rng.choice(others, extra, replace=False).tolist()
    return make_scene(objects, background, rng)


def planted_photos(count: int, seed: int) -> list[Scene]:
    """Scenes in which a red ring always stands on grass; everything else stands on every background, grass included.

    A third of the scenes are on grass, half of those with a ring; a blue cross is in a sixth of all scenes without one.
    """
    rng = np.random.default_rng(seed)
    elsewhere = [name for name in BACKGROUNDS if name != GRASS]
    scenes = []
    for _ in range(count):
        on_grass = rng.random() < 1 / 3
        background = GRASS if on_grass else elsewhere[rng.integers(len(elsewhere))]
        ring = bool(on_grass and rng.random() < 0.5)
        scenes.append(_draw(background, float(ring), 0.0 if ring else 1 / 6, rng))
    return scenes


def write_photos(scenes: Sequence[Scene], folder: Path) -> Path:
    """The scenes as PNG files whose names keep their order, for `Photos.open`."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, scene in enumerate(scenes):
        pixels = (255 * scene.image).round().byte().permute(1, 2, 0).numpy()
        name = "-".join([f"{i:05d}", scene.background, *scene.objects]).replace(" ", "-")
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def stack(scenes: Sequence[Scene]) -> Tensor:
    """N×3×H×W images of the scenes."""
    return torch.stack([scene.image for scene in scenes])

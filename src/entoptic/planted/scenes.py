"""Generated scenes of a few painted things on grey grounds, with everything that is drawn in them known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from PIL import Image
from torch import Tensor

from entoptic.base.files import check_inside, write_atomically, writing_to
from entoptic.base.records import read_bytes
from entoptic.errors import UserError
from entoptic.images.decode import decode
from entoptic.planted.causes import COLOURS, PAINTS, PLACES, SHAPES, TEXTURES, Cause
from entoptic.planted.geometry import free_place, signed_distance

SIZE = 64
"""Height and width of a scene in pixels."""
MARGIN = 3.0
"""The centre of a thing lies at least so many pixels from the two lines between the four places."""


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One thing in a scene.

    Attributes:
        colour: one of `COLOURS`.
        texture: one of `TEXTURES`.
        shape: one of `SHAPES`.
        x: column of its centre in pixels.
        y: row of its centre in pixels.
        mask: SIZE×SIZE bool, where it is.
    """

    colour: str
    texture: str
    shape: str
    x: float
    y: float
    mask: Tensor

    @property
    def place(self) -> str:
        """One of `PLACES`, where its centre is."""
        return place_of(self.x, self.y)

    def has(self, cause: Cause) -> bool:
        """Returns whether the thing is as the cause says.

        Args:
            cause: the cause.
        """
        return all(getattr(self, aspect) == value for aspect, value in cause.named.items())


@dataclass(frozen=True, kw_only=True)
class PlantedScene:
    """One generated picture.

    Attributes:
        image: 3×SIZE×SIZE float32 RGB in [0, 1], on the 8-bit grid: a PNG holds exactly these values.
        things: what is drawn in it.
    """

    image: Tensor
    things: tuple[Thing, ...]

    def has(self, cause: Cause) -> bool:
        """Returns whether any thing is as the cause says.

        Args:
            cause: the cause.
        """
        return any(thing.has(cause) for thing in self.things)


def place_of(x: float, y: float) -> str:
    """Returns in which of the four `PLACES` a pixel lies.

    Args:
        x: its column.
        y: its row.
    """
    return PLACES[2 * (y >= SIZE / 2) + (x >= SIZE / 2)]


def make_scenes(count: int, seed: int, *, things: int | None = None) -> list[PlantedScene]:
    """Makes scenes in which colour, texture, shape and place of every thing are drawn independently.

    Args:
        count: number of scenes.
        seed: of all draws; scenes of one seed are the same, whatever their number.
        things: number of things in each; None draws none, one or two, at 15, 60 and 25 %.

    Raises:
        UserError: more than two things, or a negative number.
    """
    if count < 0 or things not in (None, 0, 1, 2):
        raise UserError(f"scenes hold 0, 1 or 2 things, got count={count}, things={things}")
    rng = np.random.default_rng(seed)
    return [_scene(int(rng.choice(3, p=(0.15, 0.6, 0.25))) if things is None else things, rng) for _ in range(count)]


def draw_scene(causes: Sequence[Cause], seed: int) -> PlantedScene:
    """Draws one scene with a thing for each cause; what a cause leaves open is drawn.

    Args:
        causes: of the things.
        seed: of the draws.
    """
    return _scene(len(causes), np.random.default_rng(seed), causes)


def stack(scenes: Sequence[PlantedScene]) -> Tensor:
    """Returns the scenes' pictures, N×3×SIZE×SIZE.

    Args:
        scenes: at least one.
    """
    return torch.stack([scene.image for scene in scenes])


def write_scenes(scenes: Sequence[PlantedScene], folder: Path) -> Path:
    """Writes the scenes as PNG files whose names keep their order, for `Photos.open`. What is there already is left as it is.

    Args:
        scenes: the scenes.
        folder: where to; it is made.

    Raises:
        UserError: the folder, or a file in it, is a symbolic link, or cannot be written.
    """
    check_inside(folder, folder.parent)
    with writing_to(folder):
        for i, scene in enumerate(scenes):
            file = check_inside(folder / f"{i:05d}.png", folder)
            if not _holds(file, scene.image):
                write_png(scene.image, file)
    return folder


def write_png(image: Tensor, path: Path) -> None:
    """Writes a picture as a PNG, completely or not at all; a symbolic link there is replaced.

    Args:
        image: 3×H×W in [0, 1].
        path: of the file.
    """
    encoded = BytesIO()
    Image.fromarray(_pixels_of(image)).save(encoded, format="PNG")
    write_atomically(path, encoded.getvalue())


def _pixels_of(image: Tensor) -> np.ndarray:
    return (255 * image).round().byte().permute(1, 2, 0).numpy()


def _holds(file: Path, image: Tensor) -> bool:
    """Whether a file holds the pixels of a picture."""
    try:
        return np.array_equal(np.asarray(decode(read_bytes(file))), _pixels_of(image))
    except (UserError, ValueError):  # none there, or a damaged one
        return False


def _scene(count: int, rng: Generator, causes: Sequence[Cause] = ()) -> PlantedScene:
    pixels = _ground(rng)
    taken: list[tuple[float, float, float]] = []
    things = []
    for i in range(count):
        wanted = causes[i] if causes else Cause()
        colour, texture, shape = (
            given or str(rng.choice(known))
            for given, known in ((wanted.colour, COLOURS), (wanted.texture, TEXTURES), (wanted.shape, SHAPES))
        )
        radius = rng.uniform(11, 13)
        x, y = _centre(taken, radius, wanted.place, rng)
        taken.append((x, y, radius))
        distance = signed_distance(shape, x, y, radius, rng.normal(0, 0.06), SIZE)
        cover = np.clip(0.5 - distance, 0, 1)[..., None]  # antialiased edges
        paint = np.array(PAINTS[colour]) + rng.normal(0, 0.02, 3)
        pixels = pixels * (1 - cover) + paint * _stripes(texture, rng)[..., None] * cover
        things.append(Thing(colour=colour, texture=texture, shape=shape, x=x, y=y, mask=torch.from_numpy(distance < 0)))
    pixels = pixels + rng.normal(0, 0.035, (SIZE, SIZE, 1))  # grain, as of a camera
    image = torch.from_numpy(np.clip(np.rint(255 * pixels), 0, 255).astype(np.float32) / 255)
    return PlantedScene(image=image.permute(2, 0, 1).contiguous(), things=tuple(things))


def _centre(
    taken: list[tuple[float, float, float]], radius: float, place: str | None, rng: Generator
) -> tuple[float, float]:
    for _ in range(1000):
        x, y = free_place(taken, radius, SIZE, rng, gap=3.0)
        clear = min(abs(x - SIZE / 2), abs(y - SIZE / 2)) >= MARGIN
        if clear and place in (None, place_of(x, y)):
            return x, y
    raise UserError(f"no room for {len(taken) + 1} things in one place of a scene")


def _ground(rng: Generator) -> np.ndarray:
    """SIZE×SIZE×3: a grey with a little tint, lighter towards some side, with soft blotches."""
    rows, columns = np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    light = rng.uniform(0.36, 0.62) + rng.uniform(0, 0.2) * (np.cos(angle) * rows + np.sin(angle) * columns)
    coarse = torch.from_numpy(rng.normal(0, 0.05, (1, 1, 6, 6)))
    blotches = torch.nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bicubic", align_corners=True)[0, 0].numpy()
    tint = rng.normal(0, 0.015, 3)
    return (light + blotches)[..., None] + tint


def _stripes(texture: str, rng: Generator) -> np.ndarray:
    """SIZE×SIZE factors on the paint's brightness."""
    if texture == "plain":
        return np.full((SIZE, SIZE), rng.uniform(0.85, 1.0))
    along = np.mgrid[:SIZE, :SIZE][TEXTURES.index(texture) - 1] + rng.integers(4)
    return np.where(along % 4 < 2, 1.0, 0.5)

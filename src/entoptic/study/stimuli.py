"""Writes the pictures of a study: PNG files without metadata, under names that tell nothing."""

from __future__ import annotations

import hashlib
import io
import random
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from entoptic.runs.pictures import read_pixels
from entoptic.study.records import Stimulus
from entoptic.study.unit_ranks import Ranked

FOLDER = "pictures"
NAME_DIGITS = 32
_FLIPPED = 16
"""Pixels of a copy whose lowest bit differs from the original's."""


class Stimuli:
    """The pictures of one study as they are written. The same picture is written once.

    Args:
        folder: of the study.
        side: pixels of the noise of catch trials.
    """

    def __init__(self, folder: Path, side: int = 224) -> None:
        self.folder, self.side = folder, side
        self.all: dict[str, Stimulus] = {}
        self._names: dict[str, str] = {}

    def file(self, path: Path, *, method: str, unit: str, source: str) -> str:
        """Writes a picture of a run; returns its name.

        Args:
            path: of the file.
            method: that made it.
            unit: that it was made for.
            source: key of the picture.
        """
        return self._once(
            f"file|{path}",
            lambda: read_pixels(path, "RGB"),
            Stimulus(
                name="", sha256="", width=0, height=0, origin="synthetic", method=method, unit=unit, source=source
            ),
        )

    def small_photo(self, path: Path, unit: str) -> str:
        """Writes a run's small copy of a photo; returns its name."""
        about = Stimulus(name="", sha256="", width=0, height=0, origin="natural", unit=unit, source=path.name)
        return self._once(f"photo|{path}", lambda: _square(read_pixels(path, "RGB")), about)

    def photo(self, unit: str, ranked: Ranked, name: str, read: Callable[[], np.ndarray]) -> str:
        """Writes a photo as the network sees it; returns its name.

        Args:
            unit: that it was chosen for.
            ranked: its place.
            name: of the photo.
            read: its pixels, H×W×3 uint8.
        """
        about = Stimulus(
            name="", sha256="", width=0, height=0, origin="natural", unit=unit, source=name, score=ranked.score,
            rank=ranked.rank,
        )  # fmt: skip
        return self._once(f"photo|{unit}|{ranked.index}|{ranked.rank}", read, about)

    def noise(self, number: int) -> str:
        """Writes a picture of coarse noise, which shows nothing; returns its name."""

        def pixels() -> np.ndarray:
            draw = np.random.default_rng(number)
            coarse = draw.integers(64, 192, (16, 16, 3), dtype=np.uint8)
            return np.asarray(Image.fromarray(coarse).resize((self.side, self.side), Image.Resampling.BICUBIC))

        about = Stimulus(name="", sha256="", width=0, height=0, origin="noise")
        return self._once(f"noise|{number}", pixels, about)

    def copy(self, name: str, number: int) -> str:
        """Writes a copy of a picture whose bytes differ, so that only the eye finds them alike; returns its name."""
        original = self.all[name]

        def pixels() -> np.ndarray:
            changed = read_pixels(self.folder / FOLDER / f"{name}.png", "RGB").copy()
            draw = random.Random(f"{number}|{original.sha256}")
            for _ in range(_FLIPPED):
                changed[draw.randrange(changed.shape[0]), draw.randrange(changed.shape[1]), draw.randrange(3)] ^= 1
            return changed

        return self._once(f"copy|{name}|{number}", pixels, original)

    def _once(self, key: str, pixels: Callable[[], np.ndarray], about: Stimulus) -> str:
        if key in self._names:
            return self._names[key]
        found = pixels()
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(found)).save(buffer, "PNG")
        data = buffer.getvalue()
        name = secrets.token_hex(NAME_DIGITS // 2)
        # The whole folder is flushed to the disk once, before the study is registered.
        file = self.folder / FOLDER / f"{name}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(data)
        sha256 = hashlib.sha256(data).hexdigest()
        self.all[name] = replace(about, name=name, sha256=sha256, width=found.shape[1], height=found.shape[0])
        self._names[key] = name
        return name


def _square(pixels: np.ndarray) -> np.ndarray:
    """The central square: all pictures of a study have one shape."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]


def is_name(text: object) -> bool:
    """Whether a text is a name that a picture can have. Anything else never becomes a path."""
    return isinstance(text, str) and len(text) == NAME_DIGITS and all(c in "0123456789abcdef" for c in text)

"""One finished picture of a run: its pixels as a PIL image, an array or a tensor, its record and its measurements."""

from __future__ import annotations

import base64
import html
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from entoptic.base.records import is_a, why
from entoptic.errors import Unreadable, UserError, instead

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Picture:
    """One finished picture of a run.

    Attributes:
        path: of the PNG.
        record: the sidecar's content.
    """

    path: Path
    record: dict[str, Any] = field(repr=False)

    @property
    def unit(self) -> str:
        """The unit's string."""
        return str(self.record["unit"])

    @property
    def method(self) -> str:
        """Name of the method."""
        return str(self.record["method"])

    @property
    def sample(self) -> int:
        """0 for the first picture of a unit and method."""
        return int(self.record["sample"])

    @property
    def label(self) -> str | None:
        """What people call the unit, or None."""
        label = self.record.get("label")
        return str(label) if label else None

    @property
    def seed(self) -> int | None:
        """Seed of the run that made it, or None where the record does not say."""
        seed = self.record.get("seed")
        return seed if is_a(seed, int) else None

    @property
    def image(self) -> Image.Image:
        """The picture as an RGB image of Pillow.

        Raises:
            Unreadable: the file is damaged.
        """
        return Image.fromarray(self.array)

    @property
    def array(self) -> np.ndarray:
        """The picture as an array, H×W×3 uint8, as saved. It is a copy that may be changed.

        Raises:
            Unreadable: the file is damaged.
        """
        return self.pixels.copy()

    @property
    def tensor(self) -> Tensor:
        """The picture as a tensor on the CPU, 3×H×W float32 in [0, 1].

        Raises:
            Unreadable: the file is damaged.
        """
        from entoptic.base.pixels import to_float

        return to_float(self.pixels)[0]

    @property
    def pixels(self) -> np.ndarray:
        """The picture as a read-only array, H×W×3 uint8, as saved.

        Raises:
            Unreadable: the file is damaged.
        """
        return read_pixels(self.path, "RGB")

    @property
    def evidence(self) -> dict[str, dict[str, Any]]:
        """Measurements by name."""
        return {e["name"]: e for e in self.record["evidence"]}

    def __getitem__(self, name: str) -> float | None:
        """Value of one measurement, None where it could not be computed."""
        known = self.evidence
        if name not in known:
            raise UserError(f'no evidence "{name}"{instead(name, known)}')
        return known[name]["value"]

    def _repr_html_(self) -> str:
        from entoptic.runs.headline import headline  # it reads the metrics, which need torch

        data = base64.b64encode(self.path.read_bytes()).decode()
        title = html.escape(self.unit + (f" ({self.record['label']})" if self.record.get("label") else ""))
        lines = "<br>".join(html.escape(line) for line in headline(self.record))
        alt = html.escape(f"What {self.unit} of {self.record['model']['name']} looks for, by {self.method}")
        return (
            f'<figure style="display:inline-block;margin:6px;max-width:240px">'
            f'<img src="data:image/png;base64,{data}" alt="{alt}"><figcaption style="font:12px sans-serif">'
            f"<b>{title}</b> {html.escape(self.method)}<br>{lines}</figcaption></figure>"
        )


def read_pixels(path: Path, mode: str) -> np.ndarray:
    """Reads a stored picture or map as uint8 in a mode of Pillow.

    Raises:
        Unreadable: it is damaged.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert(mode))
    except (
        OSError,
        ValueError,
        TypeError,
        SyntaxError,
        MemoryError,
        struct.error,
        Image.DecompressionBombError,
    ) as error:
        raise Unreadable(f"{path} is no picture that can be read ({why(error)})") from None


def fault_of(record: dict[str, Any]) -> str:
    """What keeps a sidecar's content from being used, or "": somebody may have edited it by hand."""
    kinds = {"unit": str, "method": str, "sample": int, "image": dict, "model": dict, "evidence": list}
    for name, kind in kinds.items():
        if not is_a(record.get(name), kind):
            return f'its "{name}" is missing or damaged'
    if not isinstance(record["model"].get("name"), str):
        return 'its "model" has no name'
    if not is_a(record.get("label"), str | None):
        return 'its "label" is damaged'
    maps = record.get("maps") or {}
    if not isinstance(maps, dict) or not all(isinstance(entry, dict) for entry in maps.values()):
        return 'its "maps" are damaged'
    for entry in record["evidence"]:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            return 'its "evidence" is damaged'
        if not all(is_a(entry.get(k), float | None) for k in ("value", "n")):
            return f'the numbers of "{entry["name"]}" are damaged'
    return ""

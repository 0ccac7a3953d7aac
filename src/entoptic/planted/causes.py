"""What a planted unit can fire for: a colour, a texture, a shape, a place, or some of them in one thing."""

from __future__ import annotations

from dataclasses import dataclass

from entoptic.errors import UserError, nearest

PAINTS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.12, 0.12),
    "green": (0.12, 0.70, 0.16),
    "blue": (0.15, 0.25, 0.85),
    "yellow": (0.92, 0.80, 0.12),
}
COLOURS = tuple(PAINTS)
TEXTURES = ("plain", "rows", "columns")
"""Even paint, and stripes of a period of 4 pixels that lie or stand."""
SHAPES = ("disc", "ring", "cross")
PLACES = ("top left", "top right", "bottom left", "bottom right")
ASPECTS: dict[str, tuple[str, ...]] = {"colour": COLOURS, "texture": TEXTURES, "shape": SHAPES, "place": PLACES}


@dataclass(frozen=True, kw_only=True)
class Cause:
    """What something must be like for a unit to fire; an aspect that is not named may be anything.

    Attributes:
        colour: one of `COLOURS`, or None.
        texture: one of `TEXTURES`, or None.
        shape: one of `SHAPES`, or None.
        place: one of `PLACES`, or None.
    """

    colour: str | None = None
    texture: str | None = None
    shape: str | None = None
    place: str | None = None

    def __post_init__(self) -> None:
        for aspect, value in self.named.items():
            if value not in ASPECTS[aspect]:
                known = ASPECTS[aspect]
                raise UserError(f'no {aspect} "{value}"; there are {", ".join(known)}{nearest(value, known)}')

    @property
    def named(self) -> dict[str, str]:
        """The aspects that the cause names, with their values."""
        return {aspect: value for aspect in ASPECTS if (value := getattr(self, aspect)) is not None}

    @property
    def text(self) -> str:
        """The cause in words, such as "red ring"."""
        return " ".join(self.named.values()) or "anything"

    def within(self, other: Cause) -> bool:
        """Returns whether whatever has this cause has the other one too.

        Args:
            other: a cause.
        """
        return other.named.items() <= self.named.items()

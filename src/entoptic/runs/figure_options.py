"""What a figure of pictures can be told: one record for Python and the command line. No torch is imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

HEADLINE = "headline"
"""Stands for the most telling measurement that all pictures share."""


@dataclass(frozen=True, kw_only=True)
class FigureOptions:
    """How pictures stand in a figure, and what is said below them."""

    columns: int | None = None
    """pictures beside each other (default: a grid of units by methods where there are several methods)"""
    captions: str = ""
    """measurements to print below each picture with their intervals: names separated by commas, or `headline`"""
    title: str = ""
    """above the pictures"""
    width: float = 5.5
    """of the figure, in inches"""
    with_photos: bool = False
    """put the run's copy of the photo, where there is one, before the pictures that were made from it"""


def captions_text(captions: bool | str | Sequence[str]) -> str:
    """Returns captions as `FigureOptions` holds them.

    Args:
        captions: names of measurements, True for the most telling one, False for none.
    """
    if isinstance(captions, bool):
        return HEADLINE if captions else ""
    return captions if isinstance(captions, str) else ",".join(captions)

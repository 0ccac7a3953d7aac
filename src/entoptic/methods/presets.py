"""Presets: names of sets of options, for pictures that are made sooner or better.

A preset is nothing but the options that it stands for: they are what a run records, and options that are given come before them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from entoptic.errors import UserError
from entoptic.methods.contract import METHODS, MethodCard

PRESETS = ("quick", "fine")


def chosen_preset(quick: bool, fine: bool) -> str:
    """Returns the name of the preset that was asked for, "" for none.

    Raises:
        UserError: both were.
    """
    if quick and fine:
        raise UserError("quick and fine were both asked for; give one of them")
    return "quick" if quick else "fine" if fine else ""


def preset_options(card: MethodCard, preset: str) -> Mapping[str, Any]:
    """Returns the options of a method that a preset stands for; none where it has no such preset, and for ""."""
    return card.config.presets.get(preset, {})


def check_preset(cards: Sequence[MethodCard], preset: str) -> None:
    """Checks that a preset says something about one of the methods at least.

    Args:
        cards: of the methods.
        preset: its name, "" for none.

    Raises:
        UserError: it does not.
    """
    if preset and not any(preset_options(card, preset) for card in cards):
        having = ", ".join(name for name, card in METHODS.items() if preset in card.config.presets)
        raise UserError(
            f"{preset} says nothing about {', '.join(card.name for card in cards)}; it is a preset of {having}. "
            "Give the options themselves, such as steps"
        )

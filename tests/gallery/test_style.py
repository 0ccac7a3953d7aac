"""Colours of the pages."""

from __future__ import annotations

import re
from importlib import resources


def _style() -> str:
    return resources.files("entoptic.gallery").joinpath("templates", "style.css").read_text(encoding="utf-8")


def _themes() -> list[dict[str, str]]:
    rules = re.findall(r"\{([^{}]*)\}", _style())
    blocks = [dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", rule)) for rule in rules]
    return [block for block in blocks if "paper" in block]


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_meets_the_contrast_of_wcag_aa_in_both_themes() -> None:
    light, dark_by_system, dark_by_choice = _themes()
    assert dark_by_system == dark_by_choice
    for theme in (light, dark_by_choice):
        for ink in ("ink", "muted", "accent", "good", "mixed", "poor"):
            for ground in ("paper", "raised"):
                low, high = sorted((_luminance(theme[ink]), _luminance(theme[ground])))
                assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, ground)

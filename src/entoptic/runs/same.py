"""Whether two pictures or numbers are the same but for the rounding of another machine."""

from __future__ import annotations

from typing import Any

import numpy as np


def alike(a: np.ndarray, b: np.ndarray) -> bool:
    """Returns whether two pictures are the same but for the rounding of another machine: 8-bit values 2 apart on average."""
    return a.shape == b.shape and float(np.abs(a.astype(float) - b.astype(float)).mean()) <= 2.0


def same_numbers(a: Any, b: Any, tolerance: float = 1e-2) -> bool:
    """Returns whether two JSON values are the same, numbers within a relative and absolute tolerance."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same_numbers(a[key], b[key], tolerance) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same_numbers(x, y, tolerance) for x, y in zip(a, b))
    numbers_both = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (a, b))
    return bool(np.isclose(a, b, rtol=tolerance, atol=tolerance)) if numbers_both else bool(a == b)

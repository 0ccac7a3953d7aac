"""Numbers, shares and labels as text for the pages of a gallery."""

from __future__ import annotations

import json
import math
from typing import Any, TypeGuard

MINUS = "\N{MINUS SIGN}"
SPACE = "\N{NO-BREAK SPACE}"


def number(value: float) -> str:
    """Returns a number with three significant digits, or with all digits before the point: `12.3`, `1,500`, `−0.042`.

    Args:
        value: finite.
    """
    size = abs(value)
    if size >= 1000:
        text = f"{size:,.0f}" if size < 1e9 else f"{size:.2e}"
    elif size == 0 or size >= 1e-3:
        text = f"{size:.3g}" if size < 100 else f"{size:.0f}"
    else:
        text = f"{size:.1e}"
    return (MINUS if value < 0 else "") + text


def percent(share: float) -> str:
    """Returns a share as a whole percentage without its unit. "100" is only 1, "0" only 0.

    Args:
        share: 1.0 is all.
    """
    return _rounded_percentage(100 * share, digits=0)


def percentage(value: float) -> str:
    """Returns a percentage with at most one decimal, without its unit. "100" is only 100, "0" only 0.

    Args:
        value: in [0, 100].
    """
    return _rounded_percentage(value, digits=1)


def _rounded_percentage(value: float, *, digits: int) -> str:
    unit = 10**-digits
    rounded = round(value, digits)
    # 99.97 % of the photos is not all of them, and 0.02 % is not none.
    if 100 - unit < value < 100 and rounded >= 100:
        rounded = 100 - unit
    if 0 < value < unit and rounded <= 0:
        return f"below {unit:g}"
    return f"{MINUS if rounded < 0 else ''}{abs(rounded):.{digits}f}".removesuffix(".0")


def ordinal(value: int) -> str:
    """Returns an English ordinal number: `1st`, `2nd`, `3rd`, `11th`."""
    ending = "th" if 10 <= abs(value) % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(abs(value) % 10, "th")
    return f"{value:,}{ending}"


def with_article(label: str) -> str:
    """Returns a label with "a" or "an"; without an article where it looks like a plural (`sunglasses`)."""
    last = label.lower().rsplit(None, 1)[-1] if label.strip() else ""
    if last.endswith("s") and not last.endswith(("ss", "us", "is", "as")):
        return label
    starts_with_vowel_sound = label[:1].lower() in "aeiou" and not label.lower().startswith(("uni", "eu", "one", "use"))
    return f"{'an' if starts_with_vowel_sound else 'a'} {label}"


def is_number(value: Any) -> TypeGuard[float]:
    """Returns whether a JSON value is a finite number. A boolean is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number_or_none(value: Any) -> float | None:
    """Returns a JSON value as a float, or None where it is no finite number."""
    return float(value) if is_number(value) else None


def rounded_text(value: Any) -> str:
    """Returns a JSON value as text for readers: numbers rounded, truth values and null in words."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "not measured"}[value]
    if isinstance(value, (int, float)):
        return number(value) if math.isfinite(value) else str(value)
    return exact_text(value)


def exact_text(value: Any) -> str:
    """Returns a string as it is and any other JSON value as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

"""Numbers of a study as text: shares in percent, ratings, similarities, p-values."""

from __future__ import annotations

import math

from entoptic.study.statistics.bootstrap import Bootstrapped

SPACE, MINUS = "\N{NO-BREAK SPACE}", "\N{MINUS SIGN}"
TITLES = {
    "class-match": "Class match", "inner-match": "Match with photos", "describe": "Description", "2afc": "Choice of two photos",
    "intruder": "Odd one out", "preference": "Preference",
}  # fmt: skip
"""Of the tasks."""
QUESTIONS = {
    "class-match": "How well does the picture match the word?",
    "inner-match": "How well does the picture match the photos?",
    "describe": "What does the picture show?",
    "2afc": "Which of two photos belongs with the references?",
    "intruder": "Which picture does not belong?",
    "preference": "Which picture is better?",
}
"""What the tasks ask, in short."""
MEASURES = {
    "correct": "right answers", "rating": "mean rating", "similarity": "similarity to the label above chance",
    "preferred": "share preferred", "seconds": "time of an answer", "confidence": "mean confidence", "d prime": "d′",
}  # fmt: skip
"""What is measured, by the name of a number; others have their name."""
_SHARES = frozenset({"correct", "preferred", "label first", "exact label", "said nothing"})


def is_share(name: str) -> bool:
    """Whether a number is shown in percent."""
    return name in _SHARES


def quantity(value: float, name: str) -> str:
    """Returns a number of a measure with its unit: `82.0 %`, `3.41`, `2.4 s`.

    Args:
        value: of the number.
        name: of the measure.
    """
    if not math.isfinite(value):
        return "unlimited"
    if is_share(name):
        return f"{_signed(100 * value, 1)}{SPACE}%"
    if name == "seconds":
        return f"{value:.1f}{SPACE}s"
    return _signed(value, 2 if name in ("rating", "confidence", "d prime", "reciprocal rank") else 3)


def span(interval: tuple[float, float], name: str) -> str:
    """Returns an interval with its unit once: `78.2 to 85.3 %`."""
    low, high = (quantity(end, name) for end in interval)
    for unit in (f"{SPACE}%", f"{SPACE}s"):
        if low.endswith(unit) and high.endswith(unit):
            return f"{low.removesuffix(unit)} to {high}"
    return f"{low} to {high}"


def shift(value: float, name: str) -> str:
    """Returns a difference with its sign: `+10.2 points` for shares."""
    if is_share(name):
        return f"{_signed(100 * value, 1, plus=True)}{SPACE}points"
    return _signed(value, 2 if name == "rating" else 3, plus=True)


def shift_span(interval: tuple[float, float], name: str) -> str:
    """Returns the interval of a difference."""
    low, high = (shift(end, name) for end in interval)
    unit = f"{SPACE}points"
    return f"{low.removesuffix(unit)} to {high}"


def estimate(found: Bootstrapped, name: str) -> str:
    """Returns a number with its interval: `82.0 % (78.2 to 85.3 %)`."""
    return f"{quantity(found.value, name)} ({span(found.interval, name)})"


def change(found: Bootstrapped, name: str) -> str:
    """Returns a difference with its interval."""
    return f"{shift(found.value, name)} ({shift_span(found.interval, name)})"


def p_text(p: float) -> str:
    """Returns a p-value: `p = 0.012`, `p < 0.001`."""
    return (
        f"p{SPACE}<{SPACE}0.001" if p < 0.001 else f"p{SPACE}={SPACE}{p:.3f}" if p < 0.1 else f"p{SPACE}={SPACE}{p:.2f}"
    )


def arm_title(name: str, kind: str) -> str:
    """Returns what a condition is called."""
    return {"natural": "real photos", "none": "no references", "pair": name.replace("|", " or ")}.get(kind, name)


def _signed(value: float, digits: int, *, plus: bool = False) -> str:
    text = f"{abs(value):.{digits}f}"
    negative = value < 0 and float(text) != 0
    return (MINUS if negative else "+" if plus and float(text) != 0 else "") + text

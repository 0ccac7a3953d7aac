"""`Evidence`: one measurement of one picture."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Evidence:
    """A measurement, or the reason why there is none.

    Attributes:
        name: of the metric. value: None where it could not be computed.
        n: how many observations are behind it. interval: 95 %, or (value, value) for a quantity that is exact.
        direction: "higher" or "lower" is better, "none" where neither is.
        scale: unit of the value ("logit", "%", …). reason: why there is no value. detail: what it is made of.
    """

    name: str
    value: float | None
    n: int = 0
    interval: tuple[float, float] | None = None
    direction: str = "higher"
    scale: str = ""
    reason: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """For sidecars; a value that is not finite becomes a reason."""
        if self.value is not None and not math.isfinite(self.value):
            return missing(self.name, f"it came out as {self.value}", direction=self.direction).to_json()
        interval = list(self.interval) if self.interval else None
        return {
            "name": self.name, "value": self.value, "n": self.n, "interval": interval, "direction": self.direction,
            "scale": self.scale, "reason": self.reason, "detail": self.detail,
        }  # fmt: skip


def missing(name: str, reason: str, *, direction: str = "higher", scale: str = "") -> Evidence:
    """Evidence that could not be computed."""
    return Evidence(name, None, direction=direction, scale=scale, reason=reason)


def wilson(successes: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927), in [0, 1]; `successes` of `n`."""
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    centre, width = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (centre - width) / (1 + z * z / n)), min(1.0, (centre + width) / (1 + z * z / n))


def mean_interval(values: list[float]) -> tuple[float, float]:
    """95 % interval of a mean by Student's t (n ≥ 2), else the value itself."""
    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return mean, mean
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)
    # Quantiles of Student's t at 97.5 % for n-1 degrees of freedom.
    table = (
        12.706,
        4.303,
        3.182,
        2.776,
        2.571,
        2.447,
        2.365,
        2.306,
        2.262,
        2.228,
        2.201,
        2.179,
        2.160,
        2.145,
    )
    t = table[n - 2] if n - 2 < len(table) else 1.96 + 2.4 / (n - 1)
    return mean - t * spread, mean + t * spread

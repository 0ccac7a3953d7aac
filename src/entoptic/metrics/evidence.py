"""`Evidence`: one measurement of one picture."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Evidence:
    """A measurement, or the reason why there is none.

    Attributes:
        name: of the metric.
        value: None where it could not be computed.
        n: how many observations are behind it.
        interval: 95 %, or (value, value) for a quantity that is exact.
        direction: "higher" or "lower" is better, "none" where neither is.
        scale: unit of the value ("logit", "%", …).
        reason: why there is no value.
        detail: what it is made of.
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
        interval = list(self.interval) if self.interval and all(map(math.isfinite, self.interval)) else None
        return {
            "name": self.name, "value": self.value, "n": self.n, "interval": interval, "direction": self.direction,
            "scale": self.scale, "reason": self.reason, "detail": _finite(self.detail),
        }  # fmt: skip


def _finite(value: Any) -> Any:
    """A detail as JSON can hold it: what is not finite becomes null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value


def missing(
    name: str, reason: str, *, direction: str = "higher", scale: str = "", detail: dict[str, Any] | None = None
) -> Evidence:
    """Returns evidence that could not be computed.

    Args:
        name: of the metric.
        reason: why, in words.
        direction: as in `Evidence`.
        scale: as in `Evidence`.
        detail: as in `Evidence`, for programs.
    """
    return Evidence(name, None, direction=direction, scale=scale, reason=reason, detail=detail or {})

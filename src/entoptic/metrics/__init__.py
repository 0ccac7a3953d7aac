"""One file for each family of metrics. Importing this package registers them all, in the order of a sidecar's evidence."""

# ruff: isort: off
from entoptic.metrics import picture, selectivity, observed, inner_units, kl, inversion, steering, set_cards, people
from entoptic.metrics.registry import METRICS, MetricCard

__all__ = [
    "METRICS",
    "MetricCard",
    "inner_units",
    "inversion",
    "kl",
    "observed",
    "people",
    "picture",
    "selectivity",
    "set_cards",
    "steering",
]

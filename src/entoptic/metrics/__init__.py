"""One file for each family of metrics. Importing this package registers them all, in the order of a sidecar's evidence."""

# ruff: isort: off
from entoptic.metrics import (
    picture,
    selectivity,
    observed,
    inner_units,
    feature_scores,
    kl,
    inversion,
    steering,
    set_cards,
)
from entoptic.metrics.registry import METRICS, MetricCard

__all__ = [
    "METRICS",
    "MetricCard",
    "feature_scores",
    "inner_units",
    "inversion",
    "kl",
    "observed",
    "picture",
    "selectivity",
    "set_cards",
    "steering",
]

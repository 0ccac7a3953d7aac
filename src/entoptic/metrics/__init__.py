"""One file for each family of metrics. Importing this package registers them all, in the order of a sidecar's evidence.

Metrics of other installed packages come after them, see `entoptic.base.plugins`.
"""

# ruff: isort: off
from entoptic.base import plugins
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
    consistency,
    cells,
    people,
)
from entoptic.metrics.registry import METRICS, MetricCard, withdraw

__all__ = [
    "METRICS",
    "MetricCard",
    "cells",
    "consistency",
    "feature_scores",
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

plugins.load_plugins(plugins.METRICS, METRICS, withdraw)

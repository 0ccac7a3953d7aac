"""The metrics of sets of pictures in the registry, where `entoptic ls metrics` finds them."""

from __future__ import annotations

from entoptic.metrics.evidence import Evidence
from entoptic.metrics.registry import METRICS, UNIT, card, metric
from entoptic.metrics.sets.answers import ROBUSTNESS, SELF, SPECIFICITY, VERIFIER
from entoptic.metrics.sets.contract import SetCard
from entoptic.metrics.sets.diversity import DIVERSITY, FACETS
from entoptic.metrics.sets.frechet import Frechet
from entoptic.metrics.sets.kernels import CMMD, KID
from entoptic.metrics.sets.manifolds import COVERAGE, DENSITY, PRECISION, RECALL
from entoptic.metrics.sets.pathway import PATHWAY
from entoptic.metrics.sets.two_afc import TWO_AFC
from entoptic.metrics.sets.zero_shot import CLIP

SET_CARDS: tuple[SetCard, ...] = (
    SELF, VERIFIER, CLIP, Frechet.card, KID, CMMD, PRECISION, RECALL, DENSITY, COVERAGE, DIVERSITY, FACETS, PATHWAY, SPECIFICITY,
    ROBUSTNESS, TWO_AFC,
)  # fmt: skip
"""Every metric of sets. Some are the mean of what is measured on each picture, and have its name."""


def _register() -> None:
    for one in SET_CARDS:
        if one.name not in METRICS:
            entry = card(
                one.name, one.title, unit=one.scale, direction=one.direction, targets={UNIT}, set_level=True
            )  # fmt: skip
            metric(entry)(_measured_on_sets)


def _measured_on_sets(_: object) -> Evidence:
    raise TypeError("a metric of sets is measured by entoptic.metrics.sets")


_register()

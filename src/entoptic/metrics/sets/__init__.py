"""Metrics of sets of pictures. Each takes features batch by batch, merges, and says its direction, bounds and least n."""

from entoptic.metrics.sets.answers import (
    Averaged,
    Counted,
    answers,
    first_of,
    self_accuracy,
    specificity,
    verifier_accuracy,
)
from entoptic.metrics.sets.contract import SetCard, SetMetric
from entoptic.metrics.sets.diversity import diversity, facet_coverage
from entoptic.metrics.sets.frechet import Frechet
from entoptic.metrics.sets.kernels import cmmd, kid
from entoptic.metrics.sets.manifolds import coverage, density, precision, recall
from entoptic.metrics.sets.moments import Moments
from entoptic.metrics.sets.pathway import Usual, departure, mean_activations, pathway
from entoptic.metrics.sets.two_afc import Choices, choose, over_units

__all__ = [
    "Averaged", "Choices", "Counted", "Frechet", "Moments", "SetCard", "SetMetric", "Usual", "answers", "choose", "cmmd",
    "coverage", "density", "departure", "diversity", "facet_coverage", "first_of", "kid", "mean_activations", "over_units",
    "pathway", "precision", "recall", "self_accuracy", "specificity", "verifier_accuracy",
]  # fmt: skip

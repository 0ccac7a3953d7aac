"""How far the distribution that a picture was drawn from is from a prior, in nats: evidence about it, not the pixels."""

from __future__ import annotations

import math

from entoptic.metrics.evidence import Evidence, missing
from entoptic.metrics.registry import TRACE, UNIT, card, metric
from entoptic.sampling.sampled_distribution import KlIs, SampledDistribution


def divergence(distribution: SampledDistribution | None) -> Evidence:
    """Returns the KL divergence of a picture's distribution from its prior, with what its sampler recorded of it.

    An upper bound has an interval from 0 to the bound (to the upper end of its own interval where it is estimated), and
    its detail says that it is one. `mean` and `mean_in_sd` are expectations under the distribution, raw and in the
    prior's standard deviations; `score` and `score_in_sd` are of the one picture.

    Args:
        distribution: None for an optimised picture.
    """
    if distribution is None:
        why = "one optimised picture is a point mass: no number of nats bounds its distance from any prior"
        return missing("nats", why, direction="lower", scale="nats", detail={"kind": "point"})
    kl = distribution.kl
    if kl is None or not math.isfinite(kl.value):
        why = distribution.refused or "the sampler's estimate is not finite"
        return missing("nats", why, direction="lower")
    if kl.interval is None:
        why = "one run, or too few independent ones: there is no interval, so the number is not shown"
        return missing("nats", why, direction="lower", scale="nats")
    record = distribution.to_json()
    detail = {name: record[name] for name in _SHOWN if record.get(name) not in (None, "")}
    interval = kl.interval
    if distribution.kl_is is KlIs.UPPER_BOUND:
        detail["kl_is"] = str(KlIs.UPPER_BOUND)
        interval = (0.0, kl.interval[1])
    return Evidence("nats", kl.value, distribution.n, interval, "lower", "nats", detail=detail)


_SHOWN = ("law", "prior", "beta", "mean", "mean_in_sd", "ess", "weight", "score", "score_in_sd", "memory")


metric(card("nats", "Distance from the prior", unit="nats", direction="lower", targets={UNIT}, needs={TRACE}, since=3))(
    lambda p: divergence(p.distribution)
)

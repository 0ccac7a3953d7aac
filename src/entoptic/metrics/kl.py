"""How far the law that a picture was drawn from strays from a prior, in nats: evidence about the law, not the pixels.

A method that knows its law writes it into its trace as `selection` (see `entoptic.methods.retrieval`); this reads it.
"""

from __future__ import annotations

import math
from typing import Any

from entoptic.metrics.evidence import Evidence, missing


def divergence(trace: dict[str, Any]) -> list[Evidence]:
    """KL divergence of a picture's law from its prior, with what its sampler's record says of that law.

    `mean` and `mean_in_sd` are expectations under the law, raw and in the prior's own sd; `score` and `score_in_sd` are
    of the one picture. A method that ascends to one point has no law.
    """
    known = trace.get("selection")
    if not isinstance(known, dict) or "nats" not in known:
        why = "one optimised picture is a point mass: no number of nats bounds its distance from any prior"
        return [missing("nats", why, direction="lower", scale="nats")]
    detail = {
        k: known[k]
        for k in ("law", "prior", "beta", "mean", "mean_in_sd", "ess", "weight", "score", "score_in_sd", "memory")
        if k in known
    }
    value, n = known["nats"], int(known.get("N", 0))
    if value is None or not math.isfinite(value):
        return [missing("nats", str(known.get("refused", "the sampler's estimate is not finite")), direction="lower")]
    if "nats_interval" in known and known["nats_interval"] is None:
        why = "one run, or too few independent ones: there is no interval, so the number is not shown"
        return [missing("nats", why, direction="lower", scale="nats")]
    low, high = known.get("nats_interval", (value, value))  # without one the law's divergence is known exactly
    return [Evidence("nats", value, n, (low, high), "lower", "nats", detail=detail)]

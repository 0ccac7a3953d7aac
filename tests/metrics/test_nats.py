"""What a picture's sidecar says of the law that it was drawn from."""

from __future__ import annotations

import math
from typing import Any

from entoptic.metrics import kl
from entoptic.metrics.evidence import Evidence
from entoptic.runs.unit_items import trace_of


def divergence(trace: dict[str, Any]) -> list[Evidence]:
    return [kl.divergence(trace_of({"trace": trace}).distribution)]


def test_a_law_with_an_interval() -> None:
    (found,) = divergence(
        {"selection": {"law": "tilt", "N": 40, "nats": 3.0, "nats_interval": [2.5, 3.6], "beta": 2.0}}
    )
    assert (found.value, found.n, found.interval, found.direction) == (3.0, 40, (2.5, 3.6), "lower")
    assert found.detail == {"law": "tilt", "beta": 2.0}


def test_a_law_that_is_known_exactly() -> None:
    (found,) = divergence({"selection": {"nats": 4.6, "N": 100}})
    assert found.interval == (4.6, 4.6)


def test_no_number_without_an_interval_that_was_sought() -> None:
    (found,) = divergence({"selection": {"nats": 3.0, "N": 40, "nats_interval": None}})
    assert found.value is None
    assert "no interval" in (found.reason or "")


def test_refused_and_not_finite() -> None:
    (refused,) = divergence({"selection": {"nats": None, "refused": "ESS is 3"}})
    assert refused.reason == "ESS is 3"
    (infinite,) = divergence({"selection": {"nats": math.inf}})
    assert infinite.value is None


def test_a_point_mass_has_no_law() -> None:
    (found,) = divergence({"steps": 300})
    assert found.value is None
    assert "point mass" in (found.reason or "")

"""Readings of measurements, and the one that stands under a small picture."""

from __future__ import annotations

from entoptic.gallery.explain import explain, headline
from fake_run import evidence


def test_unknown_evidence_shows_value_interval_and_n() -> None:
    reading = explain(evidence("edge_energy", 0.25, interval=[0.1, 0.4], n=7))
    assert (reading.title, reading.value, reading.interval, reading.n) == (
        "Edge energy",
        "0.25",
        "0.1 to 0.4",
        "7",
    )


def test_infinite_evidence_is_not_a_value() -> None:
    reading = explain(evidence("activation", float("nan")))
    assert reading.value is None
    assert "nan" in reading.sentence


def test_the_headline_is_measured_evidence() -> None:
    readings = [explain(evidence(*item)) for item in (("transfer_top1", None), ("odd", 1.0), ("rank", 1.0))]
    found = headline(readings)
    assert found is not None
    assert found.name == "rank"
    assert headline(readings[:1]) is None

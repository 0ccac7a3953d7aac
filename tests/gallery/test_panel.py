"""The frontier on a unit's page."""

from __future__ import annotations

from typing import Any

import pytest

from entoptic.gallery.site import build
from fake_run import NASTY, FakeRun, unit_page


def test_the_frontier_is_drawn_with_its_table(fake: FakeRun) -> None:
    fake.add()
    assert "What it costs" not in unit_page(build(fake.folder)).text
    fake.cost(notes=["a remark"], failures=["maco: needs photos"])
    page = unit_page(build(fake.folder))
    for told in (
        "What it costs",
        "in nats from builtin:small-32",
        "unbounded",
        "at least 5",
        "another prior",
        "a remark",
    ):
        assert told in page.text
    assert "failed: maco: needs photos" in page.text
    assert "point mass" in page.text
    assert "entoptic frontier builtin:lite0 logits:497" in page.text
    (figure,) = [tag for tag in page.all("svg") if tag.get("id") == "frontier"]
    assert figure["role"] == "img"
    assert "xmlns" not in figure


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"name": "x", "weights_sha256": "another"}},
        {"frontier": None},
        {"frontier": {"points": []}},
        {"frontier": {"points": [{"nats": "<b>", "mean": 1}]}},
        {"places": [{"kind": "law"}]},
        {"places": 7},
        {"asked": None},
    ],
)
def test_a_frontier_that_does_not_fit_is_left_out(fake: FakeRun, change: dict[str, Any]) -> None:
    fake.add()
    fake.cost(**change)
    page = unit_page(build(fake.folder))
    assert "What it costs" not in page.text
    assert "logits:497" in page.text


def test_a_frontier_is_escaped(fake: FakeRun) -> None:
    fake.add()
    record = fake.cost(label=NASTY, notes=[NASTY], prior={"name": NASTY}, command=NASTY)
    for place in record["places"]:
        place["title"] = NASTY
    fake.cost(**record)
    page = unit_page(build(fake.folder))
    assert "What it costs" in page.text
    assert [tag for tag in page.all("script") if not tag.get("src")] == []
    assert NASTY in page.text

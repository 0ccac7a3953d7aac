"""Headings fit what a run is."""

from __future__ import annotations

import pytest

from entoptic.gallery.site import build
from fake_run import FakeRun, Page, unit_page


@pytest.mark.parametrize(
    ("method", "title", "noun"),
    [
        ("vital", "What builtin:lite0 looks for", "unit"),
        ("invert", "What builtin:lite0 keeps of a photo", "map"),
        ("steer", "What concepts do in builtin:lite0", "concept"),
    ],
)
def test_the_heading_fits_the_run(fake: FakeRun, method: str, title: str, noun: str) -> None:
    (fake.folder / "run.json").write_text('{"title": "builtin:lite0"}')
    fake.add(method=method)
    index = build(fake.folder)
    assert title in Page(index).text
    assert f"1 {noun}, 1 method" in Page(index).text
    assert f"All {noun}s" in unit_page(index).text


def test_a_frontier_and_a_title_of_its_own_are_told(fake: FakeRun) -> None:
    fake.add()
    fake.cost()
    text = Page(build(fake.folder)).text
    assert "A run" in text, "a title that says more than the network stays"
    assert "The frontier is the least that each score costs" in text


def test_inversions_beside_pictures_of_units_are_a_run_of_units(fake: FakeRun) -> None:
    (fake.folder / "run.json").write_text('{"title": "builtin:lite0"}')
    fake.add()
    fake.add(unit="fmap(bn2)<a.jpg>", method="invert")
    assert "What builtin:lite0 looks for" in Page(build(fake.folder)).text

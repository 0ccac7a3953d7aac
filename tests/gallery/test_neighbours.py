"""Similar units are those that the same photos drive."""

from __future__ import annotations

from entoptic.gallery.site import build
from fake_run import FakeRun, unit_page


def _surround(fake: FakeRun, unit: str, photos: list[str]) -> None:
    fake.add(unit=unit, label="")
    fake.surround(unit, strongest=[{"file": "top-1.jpg", "photo": one, "label": "", "value": 1.0} for one in photos])


def test_similar_units_share_photos(fake: FakeRun) -> None:
    _surround(fake, "logits:1", ["a", "b", "c", "d"])
    _surround(fake, "logits:2", ["a", "b", "x", "y"])
    _surround(fake, "logits:3", ["a", "b", "c", "z"])
    _surround(fake, "logits:4", ["a", "r", "s", "t"])
    fake.add(unit="logits:5")
    index = build(fake.folder)
    page = unit_page(index, "unit-logits-1")
    assert page.text.index("3 of 4 strongest photos the same") < page.text.index("2 of 4 strongest photos the same")
    links = [str(link["href"]) for link in page.all("a")]
    assert links.index("unit-logits-3.html") < len(links) - 1 - links[::-1].index("unit-logits-2.html")
    assert "unit-logits-4.html" not in links, "one photo in common is chance"
    assert "Units that the same photos drive" not in unit_page(index, "unit-logits-5").text

"""Pages of units: which pictures they hold and what tells these apart."""

from __future__ import annotations

from entoptic.gallery.site import build
from fake_run import FakeRun, data_of, unit_page


def test_pictures_of_one_sample_are_told_apart_by_what_differs(fake: FakeRun) -> None:
    fake.add(config={"steps": 100, "same": 1})
    fake.add(config={"steps": 500, "same": 1})
    page = unit_page(build(fake.folder))
    assert "steps 100" in page.text
    assert "steps 500" in page.text
    assert "same 1," not in page.text


def test_two_models_in_one_folder_get_pages_of_their_own(fake: FakeRun) -> None:
    fake.add()
    fake.add(model={"name": "timm:resnet18"})
    names = [unit["id"] for unit in data_of(build(fake.folder))["units"]]
    assert names[0] == "unit-logits-497"
    assert names[1].startswith("unit-logits-497-")
    assert len(names) == 2

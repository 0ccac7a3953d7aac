"""Real photos and maps beside a unit's pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from entoptic.gallery.site import build
from fake_run import NASTY, FakeRun, png, sources, unit_page


def test_the_picture_stands_beside_photos_crops_and_classes(fake: FakeRun, tmp_path: Path) -> None:
    fake.add()
    fake.surround()
    for out in (None, tmp_path / "else" / "where"):
        page = unit_page(build(fake.folder, out))
        names = [Path(source).name for source in sources(page)]
        assert names[1:6] == ["top-1.jpg", "top-1.where.png", "top-1.crop.jpg", "top-2.jpg", "bottom-1.jpg"]
        assert names[0] == names[6]  # the picture beside the strips, then on its own
        assert "Beside real photos the most and least of 250" in page.text
        assert "12.5 church" in page.text
        assert "11 church/2.jpg" in page.text  # without a label, the photo's name
        assert f"−3.25 {NASTY}" in page.text
        assert "gas pump 1 n 25" in page.text
        titles = [row.get("title") for row in page.all("tr") if row.get("title")]
        assert titles[1] == "gas pump: mean 1, 95 % interval −1 to 3, n 25"
        # The axis reaches from -2.5 to 5, so 0 lies at a third.
        bars = [str(span["style"]) for span in page.all("span") if str(span.get("style") or "").startswith("left")]
        assert bars == ["left:33.33%;width:53.33%", "left:33.33%;width:13.33%", "left:6.67%;width:26.67%"]


@pytest.mark.parametrize(
    "change",
    [
        {"weights_sha256": "other weights"},
        {"strongest": []},
        {"strongest": 3},
        {"strongest": [{"file": "../../../../etc/passwd", "value": 1}]},
        {"strongest": [{"file": "top-1.jpg", "value": "high"}]},
    ],
)
def test_context_that_does_not_fit_is_left_out(fake: FakeRun, change: dict[str, Any]) -> None:
    fake.add()
    fake.surround(**change)
    page = unit_page(build(fake.folder))
    assert "Beside real photos" not in page.text
    assert len(sources(page)) == 1


@pytest.mark.parametrize(
    "classes", [None, 7, [], [{"label": "one", "mean": 1, "low": 1, "high": 1}], [{"mean": "x"}] * 3]
)
def test_photos_without_classes_are_shown_without(fake: FakeRun, classes: Any) -> None:
    fake.add()
    fake.surround(classes=classes, photos=None, weakest=None)
    page = unit_page(build(fake.folder))
    assert "Photos that drive it most" in page.text
    assert "Classes" not in page.text
    assert "drive it least" not in page.text


def test_maps_lie_over_the_picture_they_belong_to(fake: FakeRun) -> None:
    (fake.folder / "maps" / "u").mkdir(parents=True)
    for name in ("x.where.png", "x.alpha.png"):
        (fake.folder / "maps" / "u" / name).write_bytes(png())
    fake.add(maps={"where": {"file": "maps/u/x.where.png"}, "alpha": {"file": "maps/u/x.alpha.png"}})
    for junk in (7, {"where": {"file": "../secret.png"}, "alpha": {"file": "maps/u/gone.png"}}, {"where": "x"}):
        fake.add(method="maco", maps=junk)
    page = unit_page(build(fake.folder))
    over = [image for image in page.all("img") if "over" in str(image.get("class"))]
    assert [Path(str(image["src"])).name for image in over] == ["x.alpha.png", "x.where.png"]
    assert len(sources(page)) == 2 + 4  # each picture once


def test_the_same_noise_without_the_unit_stands_beside_the_picture(fake: FakeRun) -> None:
    (fake.folder / "maps" / "u").mkdir(parents=True)
    (fake.folder / "maps" / "u" / "x.pair.png").write_bytes(png())
    fake.add(method="klsc", maps={"pair": {"file": "maps/u/x.pair.png"}})
    fake.add(method="best-of", maps={"pair": {"file": "maps/u/gone.png"}})
    page = unit_page(build(fake.folder))
    (image,) = [image for image in page.all("img") if str(image["src"]).endswith("x.pair.png")]
    assert "without the unit" in str(image["alt"])
    assert page.text.count("what it starts from, without the unit") == 1
    # A link, so that the keyboard reaches it.
    assert next(link for link in page.all("a") if link.get("class") == "pair")["href"] == image["src"]

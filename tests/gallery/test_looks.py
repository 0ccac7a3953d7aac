"""How the pages look on a phone, a desk, in the dark and on paper, and whether everybody can use them.

ENTOPTIC_SCREENSHOTS names a folder that keeps the pictures of the pages, to be looked at. axe-core is taken from
`node_modules/axe-core` (`npm install axe-core`), or from the file that AXE_CORE names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from entoptic.gallery.site import build
from fake_run import FakeRun, evidence, png

ROOT = Path(__file__).parents[2]
PAGES = ("index.html", "units.html", "unit-logits-1.html", "unit-logits-2.html", "unit-blocks-6-3.html")
LOOKS = {"390": (390, "light"), "1440": (1440, "light"), "dark": (1440, "dark")}
MEASURED = [
    evidence("rank", 1, n=1000),
    evidence("percentile", 99.7, n=1650, interval=[99.3, 99.9]),
    evidence("transfer_top1", 0.5, n=2, interval=[0.09, 0.91], detail={"lite1": 1}),
    evidence("robustness", 0.2, n=7, interval=[0.1, 0.3]),
    evidence("causal", None, reason="only for units inside the network"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fake = FakeRun(tmp_path_factory.mktemp("looks") / "run", title="builtin:lite0")
    (fake.folder / "maps" / "u").mkdir(parents=True)
    (fake.folder / "maps" / "u" / "where.png").write_bytes(png())
    maps = {"where": {"file": "maps/u/where.png"}}
    for method in ("vital", "maco"):
        fake.add(unit="logits:1", method=method, maps=maps, evidence=MEASURED, size=32)
    fake.add(unit="logits:2", label="gas pump", size=224, evidence=MEASURED)
    fake.add(unit="blocks.6:3", label="", size=64, evidence=MEASURED)
    fake.surround("logits:1")
    fake.surround("logits:2")
    fake.cost("logits:1")
    return build(fake.folder).parent


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    contexts = []

    def opened(path: Path, width: int = 1440, scheme: str = "light", **more: Any) -> Any:
        contexts.append(browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}, **more))
        page = contexts[-1].new_page()
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()


@pytest.mark.parametrize("name", PAGES)
def test_pages_fit_and_show_their_pictures(open_page: Any, site: Path, tmp_path: Path, name: str) -> None:
    kept = Path(os.environ.get("ENTOPTIC_SCREENSHOTS") or tmp_path)
    for look, (width, scheme) in LOOKS.items():
        page = open_page(site / name, width, scheme)
        page.evaluate("for (const image of document.images) image.loading = 'eager'")
        page.wait_for_function("[...document.images].every((one) => one.complete)")
        assert page.evaluate("[...document.images].filter((one) => one.src && !one.naturalWidth).length") == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= width, look
        # Captions have room, however small the picture's file is.
        narrow = "[...document.querySelectorAll('figcaption, .matrix .size')].filter((one) => one.clientWidth > 0)"
        assert all(wide >= 60 for wide in page.evaluate(f"{narrow}.map((one) => one.clientWidth)")), look
        file = kept / f"{name.removesuffix('.html')}-{look}.png"
        page.screenshot(path=file, full_page=True)
        assert file.stat().st_size > 5000


@pytest.mark.parametrize("name", ["unit-logits-1.html", "unit-logits-2.html"])
def test_a_unit_is_one_page_of_paper(open_page: Any, site: Path, name: str) -> None:
    printed = open_page(site / name).pdf(format="A4")
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) == 1


def test_without_scripts_pictures_are_shown(open_page: Any, site: Path) -> None:
    page = open_page(site / "index.html", java_script_enabled=False)
    assert page.locator("noscript img, .plainlist img").count() == 3
    assert page.locator(".plainlist img").first.is_visible()
    assert not page.locator(".find").is_visible()
    page.goto((site / "unit-logits-1.html").as_uri())
    assert page.locator(".matrix a.enlarge img").first.is_visible()
    assert str(page.locator(".matrix a.enlarge").first.get_attribute("href")).endswith(".png"), "a click opens the file"


def test_the_index_sorts_and_filters(open_page: Any, tmp_path: Path) -> None:
    fake = FakeRun(tmp_path / "run")
    fake.add(
        unit="blocks.1:0",
        label="",
        layer="blocks.1",
        evidence=[evidence("rank", 7, n=9, direction="lower"), evidence("margin", 1)],
    )
    fake.add(
        unit="blocks.1:1",
        label="",
        layer="blocks.1",
        evidence=[evidence("rank", 1, n=9, direction="lower"), evidence("margin", 3)],
    )
    fake.add(
        unit="blocks.2:0",
        label="",
        layer="blocks.2",
        evidence=[evidence("rank", 3, n=9, direction="lower")],
        method="maco",
    )
    page = open_page(build(fake.folder))
    rows = "[...document.querySelectorAll('.row h2')].map((one) => one.textContent)"
    page.select_option("#sort", "rank")
    assert page.evaluate(rows) == ["blocks.1:1", "blocks.2:0", "blocks.1:0"], "of ranks, the lowest comes first"
    assert page.locator(".by").first.inner_text() == "Rank in its layer: 1"
    page.select_option("#sort", "margin")
    assert page.evaluate(rows) == ["blocks.1:1", "blocks.1:0", "blocks.2:0"], "what was not measured comes last"
    page.select_option("#layer", "blocks.1")
    assert page.evaluate(rows) == ["blocks.1:1", "blocks.1:0"]
    page.select_option("#mark", "poor")
    assert page.evaluate(rows) == ["blocks.1:0"]
    page.reload()
    assert page.evaluate(rows) == ["blocks.1:0"], "the choices are in the address"
    page.select_option("#method", "maco")
    assert page.locator("#grid").inner_text().startswith("No unit fits these choices.")
    page.get_by_role("button", name="Show all units").click()
    assert page.evaluate(rows) == ["blocks.1:0", "blocks.1:1", "blocks.2:0"]


def _axe() -> str:
    file = Path(os.environ.get("AXE_CORE") or ROOT / "node_modules" / "axe-core" / "axe.min.js")
    if not file.is_file():
        pytest.skip("axe-core is not installed (npm install axe-core, or AXE_CORE names its axe.min.js)")
    return file.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_no_serious_fault(open_page: Any, site: Path, name: str) -> None:
    axe = _axe()
    for width, scheme in (LOOKS["390"], LOOKS["dark"]):
        page = open_page(site / name, width, scheme)
        page.evaluate(axe)
        found = page.evaluate("axe.run()")
        faults = [
            (one["id"], one["nodes"][0]["html"])
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ]
        assert faults == []
        assert len(found["passes"]) > 10

"""axe-core finds no serious fault in a gallery, nor in the first page of the documentation.

`make test` fetches axe-core from npm where there is npm; elsewhere these tests are skipped.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from entoptic.gallery.site import build
from fake_run import FakeRun

ROOT = Path(__file__).parents[2]
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def axe() -> str:
    """The script of axe-core: $ENTOPTIC_AXE, or where `make test` puts it."""
    where = os.environ.get("ENTOPTIC_AXE") or ROOT / ".venv" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
    if not Path(where).is_file():
        pytest.skip(
            "no axe-core: `npm install --prefix .venv/axe axe-core`, or the path of axe.min.js in $ENTOPTIC_AXE"
        )
    return Path(where).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fake = FakeRun(tmp_path_factory.mktemp("axe") / "run")
    for number in range(4):
        fake.add(unit=f"logits:{number}", label=f"thing {number}")
    fake.add(unit="logits:0", label="thing 0", method="maco")
    fake.surround("logits:0")
    fake.cost("logits:0")
    return build(fake.folder)


def faults(browser: Any, address: str, axe: str, scheme: str, width: int) -> list[str]:
    """What axe-core calls serious on a page, one line a rule."""
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
    page = context.new_page()
    page.goto(address)
    page.wait_for_timeout(300)
    page.evaluate(axe)
    found = page.evaluate("axe.run().then(r => JSON.stringify(r.violations))")
    context.close()
    return [
        f"{one['impact']} {one['id']}: {one['help']} at " + "; ".join(node["html"][:150] for node in one["nodes"][:3])
        for one in json.loads(found)
        if one["impact"] in SERIOUS
    ]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1440), ("dark", 1440), ("light", 390)])
@pytest.mark.parametrize("name", ["index", "unit-logits-0"])
def test_a_gallery_has_no_serious_fault(
    browser: Any, gallery: Path, axe: str, name: str, scheme: str, width: int
) -> None:
    assert faults(browser, (gallery.parent / f"{name}.html").as_uri(), axe, scheme, width) == []


@pytest.mark.slow
@pytest.mark.parametrize("page", ["", "tutorial/", "notebooks/units-to-a-figure/"])
def test_the_documentation_has_no_serious_fault(browser: Any, served: str, axe: str, page: str) -> None:
    for scheme, width in (("light", 1440), ("dark", 1440), ("light", 390)):
        assert faults(browser, served + page, axe, scheme, width) == [], (scheme, width)


def test_npm_is_asked_for_one_version() -> None:
    """What `make test` fetches is named by its version, and its licence (MPL-2.0) keeps it out of the package."""
    assert "axe-core@4.14.1" in (ROOT / "Makefile").read_text()

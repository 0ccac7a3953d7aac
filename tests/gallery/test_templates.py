"""Pages of every kind have one head, and their keys work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import entoptic.gallery
from entoptic.gallery.site import page_environment, write_page

TEMPLATES = Path(entoptic.gallery.__file__).parent / "templates"
PARTS = {
    "list.html",
    "macros.html",
    "circuit_steered.html",
    "suggestion.html",
    *(f.name for f in TEMPLATES.glob("unit_*.html")),
}
"""Parts of pages, which have no head."""


def test_the_head_is_written_once() -> None:
    pages = {f.name: f.read_text(encoding="utf-8") for f in TEMPLATES.glob("*.html") if f.name not in PARTS}
    assert [name for name, text in pages.items() if "<!doctype" in text] == ["document.html"]
    assert all("{% extends" in text for name, text in pages.items() if name != "document.html")


@pytest.mark.parametrize("parent", ["document.html", "base.html", "gallery.html", "one_file.html", "results.html"])
def test_a_page_begins_with_its_doctype(parent: str) -> None:
    child = page_environment().from_string('{% extends "' + parent + '" %}{% block title %}a<b{{ "<" }}{% endblock %}')
    text = child.render(pages=[], title="")
    assert text.startswith("<!doctype html>\n<html")
    assert text.endswith("</html>")
    assert "<title>a<b&lt; · Entoptic</title>" in text
    assert 'content="entoptic gallery"' in text[:1024]


def test_browser_help_and_theme_without_a_script_of_its_own(browser: Any, tmp_path: Path) -> None:
    for name in ("common.js", "style.css", "patterns.css"):
        write_page(tmp_path / name, (TEMPLATES / name).read_text(encoding="utf-8"))
    page = page_environment().from_string('{% extends "base.html" %}{% block title %}t{% endblock %}')
    listing = page_environment().from_string('{% extends "results.html" %}')
    write_page(tmp_path / "page.html", page.render())
    write_page(tmp_path / "list.html", listing.render(pages=[], title="t"))
    tab = browser.new_page()
    faults: list[str] = []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.goto((tmp_path / "page.html").as_uri())
    tab.keyboard.press("?")
    assert tab.locator("#help").get_attribute("open") is not None
    tab.keyboard.press("?")
    tab.keyboard.press("t")
    assert tab.locator("html").get_attribute("data-theme") in ("dark", "light")
    tab.goto((tmp_path / "list.html").as_uri())
    tab.keyboard.press("?")  # there is no help on a list
    tab.close()
    assert faults == []

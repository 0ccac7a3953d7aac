"""The documentation in a browser, on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def phone(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 390, "height": 844})
    yield context.new_page()
    context.close()


@pytest.mark.parametrize("name", ["atlas", "methods/klsc", "circuits", "glossary"])
def test_formulas_are_seen_and_the_page_stays_as_wide_as_the_phone(phone: Any, served: str, name: str) -> None:
    phone.goto(f"{served}{name}/")
    phone.wait_for_function(
        "document.querySelectorAll('mjx-container').length == document.querySelectorAll('.arithmatex').length"
    )
    widths = phone.evaluate(
        "[...document.querySelectorAll('mjx-container > svg')].map((one) => one.getBoundingClientRect().width)"
    )
    assert len(widths) > 3
    assert min(widths) > 3, "a formula of one pixel is none"
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390

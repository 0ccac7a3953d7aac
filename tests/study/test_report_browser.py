"""The report in a browser: it asks nothing of other hosts, fits a phone, and is named for those who cannot see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("statsmodels", reason='needs the extra "study"')
from entoptic.study.analyse import estimate
from entoptic.study.report import report_page
from entoptic.study.text_scores import score_texts
from gallery.conftest import browser  # noqa: F401
from study.made_answers import MANIFEST, LetterEncoder, made_answers, made_study


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = made_study(participants=10)
    answers, sessions = made_answers(study)
    texts = score_texts([one for one in answers if one.task == "describe"], LetterEncoder())
    results = estimate(study, answers, sessions, texts, manifest=MANIFEST, draws=100)
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(report_page(study, results, answers, texts, ()))
    return file


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_opens_from_the_disk(browser: Any, report: Path, width: int, scheme: str) -> None:  # noqa: F811
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page, faults = context.new_page(), []
    page.on("console", lambda message: faults.append(message.text))
    page.on("request", lambda request: request.url.startswith("file:") or faults.append(request.url))
    page.goto(report.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # tables scroll inside their own box
    assert page.get_by_role("heading", level=2).first.inner_text() == "The registered test"
    assert page.get_by_role("img", name="Choice of two photos").count() == 1
    assert page.locator("th:not([scope])").count() == 0
    scrolling = page.evaluate(
        "[...document.querySelectorAll('*')].filter(one => one.scrollWidth > one.clientWidth + 1 && "
        "['auto', 'scroll'].includes(getComputedStyle(one).overflowX) && one.tabIndex < 0).length"
    )
    assert scrolling == 0  # whatever scrolls is reached by keyboard
    cut = page.evaluate(
        "[...document.querySelectorAll('svg text')].filter(one => { const box = one.getBBox(), sheet = "
        "one.ownerSVGElement.viewBox.baseVal; return box.x < 0 || box.x + box.width > sheet.width; }).length"
    )
    assert cut == 0
    context.close()
    assert faults == []

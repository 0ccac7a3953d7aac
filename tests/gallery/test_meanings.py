"""Every measurement is explained to readers who do not know it."""

from __future__ import annotations

import pytest

from entoptic.gallery.explain import explain
from entoptic.gallery.sentences import SENTENCES
from entoptic.gallery.site import build
from fake_run import FakeRun, evidence, unit_page


@pytest.mark.parametrize("name", sorted(SENTENCES))
def test_every_metric_has_a_line_that_says_what_it_means(name: str) -> None:
    line = explain(evidence(name, 0.5)).meaning
    assert line.endswith(".")
    assert len(line) < 140


def test_an_interval_of_few_networks_is_explained() -> None:
    reading = explain(evidence("transfer_top5", 1.0, n=2, interval=[0.342, 1.0]))
    assert reading.chip_note.replace("\N{NO-BREAK SPACE}", " ") == "95 % interval 34 to 100 %"
    assert reading.interval_words.replace("\N{NO-BREAK SPACE}", " ") == (
        "Counted on 2 other networks. For all networks like them the share lies between 34 and 100 %, with 95 % confidence."
    )
    assert explain(evidence("activation", 2.0)).interval_words == ""


def test_what_was_not_measured_is_folded_with_its_reason(fake: FakeRun) -> None:
    measured = [evidence("rank", 1, n=5), evidence("causal", None, reason="only for units inside the network")]
    for method in ("vital", "maco"):
        fake.add(method=method, evidence=measured)
    page = unit_page(build(fake.folder))
    assert "1 not measured" in page.text
    assert "Not measured: only for units inside the network." in page.text
    folded = [tag for tag in page.all("details") if "unmeasured" in str(tag.get("class"))]
    assert folded
    assert all("open" not in tag for tag in folded)
    heads = [tag for tag in page.all("th") if tag.get("data-anchor")]
    assert len(heads) == 2, "each picture has one column on the page"

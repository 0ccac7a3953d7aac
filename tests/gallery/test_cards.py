"""The card of a picture holds all that is known of it."""

from __future__ import annotations

from entoptic.gallery.site import build
from fake_run import FakeRun, evidence, unit_page


def test_the_unit_page_tells_everything_of_a_picture(fake: FakeRun) -> None:
    missing = evidence("robustness", None, reason="the unit is silent on this picture", interval=None, n=None)
    fake.add(
        evidence=[
            evidence("transfer_top1", 2 / 3, interval=[0.2, 0.9], detail={"lite1": 1, "v2": 12}),
            missing,
        ]
    )
    page = unit_page(build(fake.folder))
    for text in (
        "2 of 3 other networks see a church too",
        "20 to 90 %",
        "Not measured: the unit is silent on this picture.",
        "lite1 1st guess",
        "v2 12th guess",
        "Loss 35.6 → 7.9",
        "300 steps in 2 s, finished",
        "ef" * 32,
        "ab" * 32,
        "shipped pack",
        "torch version 2.15.0",
        "entoptic see builtin:lite0 logits:497 --method vital",
        "steps 300",
    ):
        assert text in page.text, text
    assert any(str(item.get("id")).startswith("vital-0-") for item in page.all("article"))
    assert page.all("path")

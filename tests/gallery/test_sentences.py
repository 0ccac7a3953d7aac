"""What measurements say in words."""

from __future__ import annotations

from typing import Any

import pytest

from entoptic.gallery.explain import explain
from entoptic.gallery.formats import SPACE
from fake_run import evidence


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (evidence("transfer_top1", 2 / 3), "2 of 3 other networks see a church too (they were never"),
        (
            evidence("transfer_top1", 1.0),
            "All 3 other networks see a church too (they were never optimised).",
        ),
        (
            evidence("transfer_top1", 0.0),
            "None of 3 other networks sees a church (they were never optimised).",
        ),
        (
            evidence("transfer_top1", 1.0, n=1),
            "The one other network sees a church too (it was never optimised).",
        ),
        (evidence("transfer_top5", 1 / 3), "1 of 3 other networks has “church” among its five best guesses"),
        (evidence("percentile", 99.97, n=4000), "harder than 99.9 % of 4,000 real photos"),
        (evidence("percentile", 100, n=10), "harder than every one of 10 real photos"),
        (evidence("margin", -1.25, n=500, scale="logit"), "Stays 1.25 logit below the best of 500 real"),
        (
            evidence("margin", 2.5, n=500, scale="logit"),
            "harder than the best of 500 real photos, by 2.5 logit.",
        ),
        (evidence("rank", 1, n=1000), "Of the 1,000 units in its layer, this one answers the picture most"),
        (evidence("rank", 2, n=1000), "1 other answers the picture more strongly"),
        (evidence("robustness", 0.87), "Keeps 87 % of its activation"),
        (evidence("activation", 12.3, scale="logit"), "drives the unit to 12.3 logit."),
        (
            evidence("transfer_top1", 1.0, n=1, scale="among 10 classes"),
            "The one other network sees a church too (it was never optimised; asked among 10 classes).",
        ),
        (evidence("transfer_probability", 0.61, scale="among 10 classes"), "a probability of 61 % among 10 classes."),
        (evidence("transfer_probability", 0.61), "give “church” a probability of 61 %"),
        (evidence("selectivity", 2.5, n=319), "stirs this unit more than 99 % of the 319 other units"),
        (evidence("selectivity", -1.5, n=319), "the most stirred 1 % of the 319 other units of its layer 1.5 standard"),
        (
            evidence("causal", 0.4, n=12, detail={"photos among themselves": 0.5, "photos at random": 0.02}),
            "as it does to the 12 photos that drive it most: likeness 0.4 of 1. Those photos among themselves reach 0.5, "
            "photos at random 0.02.",
        ),
        (
            evidence("relevance_agreement", 0.4, detail={"photos among themselves": 0.42, "photos at random": 0.4}),
            "The two are so close that this says little about the picture.",
        ),
        (
            evidence("specificity", 1, n=320, detail={"compared": "sd over photos"}),
            "Drives its own unit more than the 319 others of its layer, next to what is usual in photos.",
        ),
        (
            evidence("specificity", 0, n=1000, detail={"compared": "logits"}),
            "Does not drive its own unit more than all of the 999 others of its layer.",
        ),
        (
            evidence("two_afc", 0.9, n=12, detail={"ceiling": 0.97, "photos at random": 0.6}),
            "finds the photo that drives the unit in 90 % of pairs with one that hardly does. One of the unit’s photos as the "
            "hint gives 97 %, a photo at random 60 %.",
        ),
        (evidence("causal", 0.4, detail={"photos at random": None}), "drive it most: likeness 0.4 of 1."),
    ],
)
def test_known_evidence_is_put_in_words(item: dict[str, Any], expected: str) -> None:
    sentence = explain(item, label="church").sentence.replace("\N{NO-BREAK SPACE}", " ")
    assert expected in sentence


def test_nats_are_told_with_their_law() -> None:
    detail = {"law": "prior tilted by exp(β s)", "prior": "builtin:small-32", "beta": 3.9, "mean_in_sd": 4.1, "ess": 88}
    reading = explain(evidence("nats", 8.0, interval=[7.5, 8.5], direction="lower", scale="nats", detail=detail))
    assert reading.sentence == (
        "Drawn from a distribution that is 8 nats from the prior builtin:small-32 (prior tilted by exp(β s)); its mean score is "
        "4.1 standard deviations above the prior’s."
    )
    assert reading.interval == f"7.5 to 8.5{SPACE}nats"
    assert reading.better == "lower is better"
    assert dict(reading.detail) == {"β per standard deviation": "3.9", "effective samples": "88"}
    drawn = explain(evidence("nats", 8.0, scale="nats", detail={**detail, "score_in_sd": -0.5}))
    assert drawn.sentence.endswith(
        "above the prior’s; this picture’s score is 0.5 standard deviations below the prior’s mean."
    )
    why = "one optimised picture is a point mass: no number of nats bounds its distance from any prior"
    missing = explain(evidence("nats", None, reason=why, detail={"kind": "point"}))
    assert missing.chip == "nats unbounded"
    assert why in missing.sentence
    assert explain(evidence("nats", None, reason="refused")).chip == "nats not known"


def test_the_score_of_one_picture_is_not_told_as_a_mean() -> None:
    law = {"law": "one rank of N samples of the prior", "prior": "builtin:small-32"}
    now = explain(evidence("nats", 6.6, scale="nats", detail={**law, "score": 8.25, "score_in_sd": 3.4}))
    assert now.sentence.endswith("; this picture’s score is 3.4 standard deviations above the prior’s mean.")
    assert "mean score" not in now.sentence
    assert dict(now.detail) == {"score of this picture": "8.25"}
    before = explain(evidence("nats", 6.6, scale="nats", detail={**law, "mean": 8.25, "mean_in_sd": 3.4}))
    assert before == now, "records that called it a mean read the same"


def test_likeness_is_judged_by_what_photos_get() -> None:
    def tone(value: float, high: float) -> str:
        detail = {"photos among themselves": high, "photos at random": 0.1}
        return explain(evidence("causal", value, detail=detail)).tone

    assert [tone(v, 0.3) for v in (0.3, 0.2, 0.11)] == ["good", "mixed", "poor"]
    assert tone(0.3, 0.9) == "poor"
    assert tone(0.3, 0.12) == ""

"""A dry run of a method that samples a prior counts its work, and makes none of it."""

from __future__ import annotations

import pytest

from conftest import TwoClasses
from entoptic.models.model import Model
from entoptic.runs.estimate import estimate
from entoptic.runs.plan import make_plan
from entoptic.sampling import bank


def test_a_dry_run_draws_no_bank(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(*args: object, **options: object) -> None:
        raise AssertionError("a dry run draws no bank")

    monkeypatch.setattr(bank, "make_bank", drawn)
    plan = make_plan(
        tiny, ["logits:0", "logits:1"], method="klsc,best-of", prior=TwoClasses(), verifiers="", options={"bank": 256}
    )
    told = estimate(plan)["methods"]
    assert told["klsc"]["work"].startswith("256 samples of the prior to draw, 256 to score, 384 to 23936 to move: ")
    assert told["best-of"]["work"].startswith("256 samples of the prior to draw, 256 to score: ")
    assert told["klsc"]["seconds"] > told["best-of"]["seconds"] > 0


def test_a_run_says_beforehand_what_it_will_sample(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from entoptic.base.progress import Reporter
    from entoptic.runs import estimate as module

    class Heard(Reporter):
        def __init__(self) -> None:
            self.notes: list[str] = []

        def note(self, text: str) -> None:
            self.notes.append(text)

    plan = make_plan(
        tiny, "logits:0", method="klsc,best-of,pixels", prior=TwoClasses(), verifiers="", options={"bank": 256}
    )
    heard = Heard()
    module.say_sampling_work(plan, heard)
    monkeypatch.setattr(module, "EVERY", 0.0)
    every = Heard()
    module.say_sampling_work(plan, every)
    assert [text.split(":")[0] for text in every.notes] == ["klsc", "best-of"]
    assert "256 samples of the prior to draw" in every.notes[0]
    assert len(heard.notes) < 2, "what takes seconds is not announced"

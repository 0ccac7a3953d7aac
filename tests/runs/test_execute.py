"""The executor: failures in the middle of a batch, memory that runs out, bounds that are no exact numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import TwoClasses
from entoptic.errors import UserError
from entoptic.gallery.explain import explain
from entoptic.gallery.formats import SPACE
from entoptic.methods import METHODS
from entoptic.methods.contract import Context, Draft, FailureCode, Item, MethodConfig, method
from entoptic.methods.deep_inversion import DeepInversion
from entoptic.models.model import Model
from entoptic.runs.see import see
from entoptic.runs.store import Run


@dataclass(frozen=True, kw_only=True)
class Grey(MethodConfig):
    """Grey pictures, one after the other."""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Registers a method that breaks off at logits:1; returns the batches that it was asked for."""
    seen: list[list[str]] = []

    @method("grey", Grey, paper="none", units={"logit"})
    def grey(items: Sequence[Item], config: Grey, context: Context) -> Iterator[Draft]:
        seen.append([item.target.text for item in items])
        for item in items:
            if item.unit.index == 1:
                raise UserError("logits:1 is not to be had")
            yield Draft(item=item, image=torch.full((3, 32, 32), 0.1 * (1 + item.unit.index)))

    monkeypatch.setitem(METHODS, "grey", METHODS.pop("grey"))  # which takes it out again, whatever else a test sets
    return seen


def made(model: Model, out: Path, units: str = "logits:0-3", **more: Any) -> Run:
    return see(model, units, method=Grey(), out=out, progress=False, verifiers="", **more)


def test_a_unit_that_fails_in_the_middle_costs_neither_the_finished_nor_the_rest(
    tiny: Model, tmp_path: Path, calls: list[list[str]]
) -> None:
    """Once a draft had come, the finished were reported as failed and the rest was never tried."""
    with pytest.warns(UserWarning, match="logits:1 is not to be had"):
        run = made(tiny, tmp_path / "r")
    assert [p.unit for p in run] == ["logits:0", "logits:2", "logits:3"]
    assert [(f.unit, f.method, f.code) for f in run.problems] == [("logits:1", "grey", FailureCode.REFUSED)]
    assert calls == [["logits:0", "logits:1", "logits:2", "logits:3"], ["logits:1"], ["logits:2"], ["logits:3"]]


def test_nothing_that_was_asked_for_is_an_error_also_in_a_run_that_holds_pictures(
    tiny: Model, tmp_path: Path, calls: list[list[str]]
) -> None:
    made(tiny, tmp_path / "r", "logits:0")
    with pytest.raises(UserError, match="logits:1 is not to be had"):
        made(tiny, tmp_path / "r", "logits:1")
    assert len(Run.open(tmp_path / "r")) == 1


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), MemoryError("no room")])
def test_memory_that_runs_out_is_said_and_tried_with_smaller_batches(
    tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[list[str]], error: BaseException
) -> None:
    function = METHODS["grey"].function

    def hungry(items: Sequence[Item], config: Any, context: Context) -> Iterator[Draft]:
        if len(items) > 1 or items[0].unit.index == 2:
            raise error
        yield from function(items, config, context)

    monkeypatch.setitem(METHODS, "grey", replace(METHODS["grey"], function=hungry))
    with pytest.warns(UserWarning, match="out of memory"):
        run = made(tiny, tmp_path / "r")
    assert [p.unit for p in run] == ["logits:0", "logits:3"]
    assert {f.unit: f.code for f in run.problems} == {
        "logits:1": FailureCode.REFUSED, "logits:2": FailureCode.OUT_OF_MEMORY,
    }  # fmt: skip


def test_a_method_that_gives_nothing_is_said(
    tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[list[str]]
) -> None:
    def silent(items: Sequence[Item], config: Any, context: Context) -> Iterator[Draft]:
        yield Draft(item=items[0], image=torch.zeros(3, 32, 32))

    monkeypatch.setitem(METHODS, "grey", replace(METHODS["grey"], function=silent))
    with pytest.warns(UserWarning, match="grey gave no picture and no reason"):
        run = made(tiny, tmp_path / "r", ["logits:0", "logits:2"])  # type: ignore[arg-type]
    assert [f.unit for f in run.problems] == ["logits:2"]


def test_deep_inversion_does_not_take_full_memory_for_a_network_of_one_size(
    tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[int, ...]] = []
    assert tiny.outputs == 5  # its layers are known from here
    forward = tiny.module.stem.forward  # type: ignore[union-attr]

    def full(x: torch.Tensor) -> torch.Tensor:
        sizes.append(tuple(x.shape[2:]))
        if len(x) > 1:
            raise torch.OutOfMemoryError("no room for a batch")
        return forward(x)

    monkeypatch.setattr(tiny.module.stem, "forward", full)
    config = DeepInversion(steps=4, group=2)
    with pytest.raises(UserError, match="out of memory"):
        see(tiny, "logits:0", method=config, out=tmp_path / "r", progress=False, verifiers="")
    assert set(sizes) == {(16, 16)}, "it is the first stage that has no room; a second try at full size has none either"


def test_deep_inversion_hands_on_other_errors(tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tiny.outputs == 5  # its layers are known from here
    forward = tiny.module.stem.forward  # type: ignore[union-attr]

    def broken(x: torch.Tensor) -> torch.Tensor:
        if x.requires_grad:
            raise RuntimeError("a defect of the network")
        return forward(x)

    monkeypatch.setattr(tiny.module.stem, "forward", broken)
    with pytest.raises(UserError, match="a defect of the network"):
        see(tiny, "logits:0", method=DeepInversion(steps=4), out=tmp_path / "r", progress=False, verifiers="")


def test_an_upper_bound_of_nats_is_shown_as_one(tiny: Model, tmp_path: Path) -> None:
    """prompt-class knows that its distribution is at most log C nats from the prior, no more."""
    run = see(
        tiny, "logits:0", method="prompt-class", prior=TwoClasses(), out=tmp_path / "r", progress=False, verifiers="",
        bank=64, fresh=16,
    )  # fmt: skip
    (picture,) = run
    entry = picture.evidence["nats"]
    assert entry["value"] == pytest.approx(np.log(2))
    assert entry["interval"] == [0.0, entry["value"]]
    assert entry["detail"]["kl_is"] == "upper_bound"
    assert picture.record["trace"]["selection"]["kl_is"] == "upper_bound"
    reading = explain(entry)
    assert "at most" in reading.sentence
    assert "at most" in reading.chip
    assert reading.interval == f"0 to 0.693{SPACE}nats"

"""Circuits that were interrupted anywhere come out byte for byte as if they had not been."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from circuits.conftest import fitted_module
from conftest import tiny_card
from entoptic.base.progress import Reporter
from entoptic.circuits.certify import CertifyOptions
from entoptic.models.model import Model
from entoptic.runs.circuit import make_circuit_plans, run_circuits
from entoptic.runs.circuit_plan import CircuitOptions
from entoptic.runs.verify import verify


@pytest.fixture
def fitted(photo_folder: Path) -> Model:
    return Model(fitted_module(photo_folder), tiny_card(), device="cpu")


class StopsAt(Reporter):
    """Interrupts at the report of a number."""

    def __init__(self, number: int) -> None:
        self.left = number

    def progress(self, what: str, done: int, total: int) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def content(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.mark.parametrize("finder", ["eap-ig", "patching"])
def test_a_resumed_circuit_is_the_same(
    finder: str, fitted: Model, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = CircuitOptions(finder=finder, n=4, others=6, reruns=1)
    certified = CertifyOptions(samples=5, deletion=0.3, tau=0.6)

    def found(out: Path, report: Reporter) -> Any:
        plans = make_circuit_plans(
            fitted, "logits:4", photos=photo_folder, options=options, certified=certified, device="cpu"
        )
        return run_circuits(plans, out=out, report=report)

    monkeypatch.setenv("ENTOPTIC_CACHE", str(tmp_path / "cache"))
    (whole,) = found(tmp_path / "whole", Reporter())
    monkeypatch.setenv("ENTOPTIC_CACHE", str(tmp_path / "other"))
    stops = 0
    for number in range(1, 30):
        try:
            (result,) = found(tmp_path / "run", StopsAt(number))
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops >= 6
    assert content(result.path.parent) == content(whole.path.parent)
    assert verify(tmp_path / "run", model=fitted).ok

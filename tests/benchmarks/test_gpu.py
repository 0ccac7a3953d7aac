"""The GPU table at toy size on a CPU: what it times, what it says of a batch that does not fit, and that it goes on."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from conftest import tiny_card, tiny_module
from entoptic.models.sources import SOURCES

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def gpu() -> Iterator[ModuleType]:
    """The benchmark, with a network `tiny:0`."""
    before, sources = list(sys.path), dict(SOURCES)
    sys.path.insert(0, str(BENCHMARKS))
    SOURCES["tiny"] = lambda seed, _: (tiny_module(int(seed)), tiny_card(name=f"tiny:{seed}"))
    yield importlib.import_module("gpu")
    sys.path[:] = before
    SOURCES.clear()
    SOURCES.update(sources)
    for name in ("gpu",):
        sys.modules.pop(name, None)


def run(gpu: ModuleType, out: Path, *words: str) -> dict[str, object]:
    gpu.main(["--model", "tiny:0", "--device", "cpu", "--steps", "2", "--out", str(out), *words])
    return json.loads((out / "gpu.json").read_text())


def test_the_table_at_toy_size(
    gpu: ModuleType, tmp_path: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "see", lambda *args, **kwargs: range(7))
    result = run(
        gpu, tmp_path, "--methods", "fourier,pixels,maco", "--batches", "1,2", "--whole", "7",
        "--photos", str(photo_folder),
    )  # fmt: skip
    rows = [gpu.Row(**one) for one in result["rows"]]
    assert [(row.method, row.batch) for row in rows] == [
        (method, batch) for method in ("fourier", "pixels", "maco") for batch in (1, 2)
    ]
    for row in rows:
        assert not row.reason
        assert 0 < row.second <= row.slowest
        assert row.passes > 0
        assert row.peak is None, "a CPU does not say"
        assert (row.pictures, row.whole is not None) == ((7, True) if row.batch == 2 else (0, False))
        assert gpu.per_hour(row) == pytest.approx(3600 * row.batch / (row.steps * row.second))
    assert [row.views for row in rows] == [1, 1, 1, 1, 8, 8], "maco has eight views a step"
    assert rows[2].steps > 100, "pictures an hour are those of the method as it comes"
    text = (tmp_path / "gpu.md").read_text()
    assert "## tiny:0 on cpu" in text
    assert "| maco | 2 | " in text
    assert str(photo_folder) not in text


def test_what_is_measured_is_not_measured_again(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--methods", "pixels", "--whole", "0")
    first = run(gpu, tmp_path, *words, "--batches", "1")
    second = run(gpu, tmp_path, *words, "--batches", "1,2")
    assert second["rows"][0] == first["rows"][0]
    assert len(second["rows"]) == 2
    real, asked = gpu.measured, []

    def counting(row: object, *args: object) -> object:
        asked.append(row)
        return real(row, *args)

    monkeypatch.setattr(gpu, "measured", counting)
    run(gpu, tmp_path, *words, "--batches", "1,2")
    assert not asked
    run(gpu, tmp_path, *words, "--batches", "2", "--again")
    assert len(asked) == 1


def test_a_batch_that_does_not_fit_is_a_row_and_costs_the_others_nothing(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = gpu.plain_pass

    def limited(model: object, batch: int) -> float:
        if batch > 1:
            raise torch.OutOfMemoryError("too much")
        return real(model, batch)

    def stopped(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(gpu, "whole", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(gpu, tmp_path, "--methods", "pixels", "--batches", "1,2", "--whole", "3")
    assert "| pixels | 1 | " in (tmp_path / "gpu.md").read_text(), "what was measured before is there"
    (tmp_path / "gpu.json").unlink()
    monkeypatch.setattr(gpu, "plain_pass", limited)
    result = run(gpu, tmp_path, "--methods", "pixels,fourier", "--batches", "1,2", "--whole", "3")
    assert [one["reason"] for one in result["rows"]] == ["", "out of memory", "", "out of memory"]
    assert "| pixels | 2 | out of memory |" in (tmp_path / "gpu.md").read_text()


def test_a_method_without_statistics_is_a_row_with_its_reason(gpu: ModuleType, tmp_path: Path) -> None:
    result = run(gpu, tmp_path, "--methods", "vital,pixels", "--batches", "1", "--whole", "0")
    vital, pixels = result["rows"]
    assert "photos" in vital["reason"]
    assert pixels["reason"] == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--methods", "vitl"), 'did you mean "vital"'),
        (("--methods", "retrieval"), "retrieval has no steps"),
        (("--batches", "1,x"), "numbers separated by commas"),
        (("--batches", "0"), "at least 1"),
        (("--layer", "stage9"), "stage"),
    ],
)
def test_what_is_refused(
    gpu: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        run(gpu, tmp_path / "out", *words)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

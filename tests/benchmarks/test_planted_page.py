"""The committed page of planted truth: its summary is of the committed numbers, and those hold what the page claims."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
STORED = ROOT / "docs" / "benchmarks"


@pytest.fixture
def planted() -> Iterator[ModuleType]:
    before = list(sys.path)
    sys.path.insert(0, str(ROOT / "benchmarks"))
    # By its file: `planted` is also a package of tests.
    spec = importlib.util.spec_from_file_location("planted_benchmark", ROOT / "benchmarks" / "planted.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before
    sys.modules.pop("common", None)


def test_the_summary_by_method_is_of_the_numbers(planted: ModuleType) -> None:
    result = json.loads((STORED / "planted.json").read_text())
    text = (STORED / "planted.md").read_text()
    assert "\n".join(planted.by_method(result)) in text
    for method in ("vital", "fourier", "maco", "pixels", "retrieval"):
        mine = [one for one in result["units"] if one["method"] == method]
        honest = [one for one in mine if one["network"] == "honest" and one["causes"]]
        fooled = [f"{one['unit']} ({one['network']})" for one in mine if one["fooled"]]
        (row,) = [line for line in planted.by_method(result) if line.startswith(f"| {method} |")]
        assert f"| {sum(one['identified'] for one in honest)} of {len(honest)} [" in row
        assert row.endswith(f"| {', '.join(fooled) or 'nothing'} |")


def test_a_method_identifies_nine_in_ten_and_null_units_are_told() -> None:
    result = json.loads((STORED / "planted.json").read_text())
    honest = [one for one in result["summaries"] if one["network"] == "honest"]
    best = max(honest, key=lambda one: one["identified"]["hits"] if one["method"] != "retrieval" else -1)
    assert best["identified"]["hits"] >= 0.9 * best["identified"]["n"]
    assert all(one["silent"]["hits"] == one["silent"]["n"] == 2 for one in honest)
    assert not any(p["null"] for one in result["units"] if one["causes"] for p in one["pictures"])


def test_the_data_set_is_written_in_place_of_the_table(
    planted: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planted.main(["--dataset", str(tmp_path / "data"), "--run", str(tmp_path / "run"), "--out", str(tmp_path / "out")])
    assert (tmp_path / "data" / "README.md").is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]
    assert "its card is README.md" in capsys.readouterr().out

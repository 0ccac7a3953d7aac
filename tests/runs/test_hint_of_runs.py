"""What is said of a folder that is no run: where the runs, and the benchmarks that hold some, are."""

from __future__ import annotations

from pathlib import Path

import pytest

from entoptic.bench.run import MARK
from entoptic.runs.hint_of_runs import BENCHMARK, hint_of_runs


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`runs` with a run x and a benchmark bench of the runs a and b; the working directory is above it."""
    for name in ("x/pictures", "bench/runs/a", "bench/runs/b"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    for name in ("x", "bench/runs/a", "bench/runs/b"):
        (tmp_path / "runs" / name / "run.json").write_text("{}")
    for name in ("bench.json", "index.html", "table.json"):
        (tmp_path / "runs" / "bench" / name).write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def test_the_mark_of_a_benchmark_is_known_by_the_rooms_above() -> None:
    assert BENCHMARK == MARK


def test_two_points_are_followed_first(runs: Path) -> None:
    assert hint_of_runs("runs/x/..") == f"; in it are {runs / 'x'}, {runs / 'bench'} (a benchmark)"
    assert hint_of_runs("runs/x/pictures/../../bench/runs/c/..").startswith(f"; it lies inside of {runs / 'bench'}")
    assert hint_of_runs("runs/x/pictures") == f"; it lies inside of {runs / 'x'}, which is one"


def test_a_link_is_followed_before_two_points(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(runs / "bench" / "runs")
    assert (
        hint_of_runs("link/../runs/a/pictures") == f"; it lies inside of {runs / 'bench' / 'runs' / 'a'}, which is one"
    )


@pytest.mark.parametrize("name", ["index.html", "table.json", "nothing"])
def test_what_lies_in_a_benchmark_is_told_so(runs: Path, name: str) -> None:
    assert hint_of_runs(f"runs/bench/{name}") == f"; it lies inside of {runs / 'bench'}, which is a benchmark"


def test_the_folder_of_its_runs_names_them_too(runs: Path) -> None:
    inside = "in it are runs/bench/runs/a, runs/bench/runs/b"
    assert hint_of_runs("runs/bench/runs") == f"; it lies inside of {runs / 'bench'}, which is a benchmark; {inside}"
    assert hint_of_runs("runs/bench") == f"; {inside}"


def test_a_run_of_a_benchmark_is_a_run(runs: Path) -> None:
    assert hint_of_runs("runs/bench/runs/a/pictures").endswith("/bench/runs/a, which is one")


def test_benchmarks_are_found_inside_and_beside(runs: Path) -> None:
    assert hint_of_runs("runs") == "; in it are runs/x, runs/bench (a benchmark)"
    assert hint_of_runs("runs/bensh") == '; did you mean "bench"?'


def test_a_circle_of_links_has_none_near(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert hint_of_runs(tmp_path / "a" / ".." / "c") == ""

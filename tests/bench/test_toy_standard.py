"""`standard` at toy size: its cost is told beforehand, it goes on where it was stopped, and it is what it says it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import entoptic
from entoptic import cli
from entoptic.bench.recipes import RECIPES
from entoptic.bench.results import Results
from entoptic.bench.run import benchmark
from entoptic.bench.verify_table import verify_benchmark
from entoptic.errors import UserError
from entoptic.runs.store import Run
from tiny_bench import named_networks, toy

pytestmark = pytest.mark.usefixtures("bench_networks")
METHODS = ("vital", "vital-paper", "fourier", "maco", "pixels")
CHANNELS = ("vital", "fourier", "maco", "pixels", "retrieval")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> tuple[Path, list[str], Results]:
    """Its folder, what there was when it was stopped, and the table of the same call again."""
    with named_networks():
        recipe, out = toy(RECIPES["standard"]), tmp_path_factory.mktemp("toy") / "out"
        asked: dict[str, Any] = {"out": out, "photos": str(photo_folder), "device": "cpu", "progress": False}
        write, made = Run.write, 0

        def counting(self: Run, *args: Any, **kwargs: Any) -> Any:
            nonlocal made
            made += 1
            if made > 35:  # in the second part
                raise KeyboardInterrupt
            return write(self, *args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Run, "write", counting)
            with pytest.raises(KeyboardInterrupt):
                benchmark(recipe, **asked)
        there = {str(p): p.stat().st_mtime_ns for p in out.glob("runs/**/pictures/**/*.png")}
        results = benchmark(recipe, **asked)
        again = {path: Path(path).stat().st_mtime_ns for path in there}
        assert again == there, "a finished picture was made again"
    return out, list(there), results


@pytest.mark.slow
def test_it_goes_on_where_it_was_stopped(stopped: tuple[Path, list[str], Results]) -> None:
    out, there, results = stopped
    assert len(there) == 35
    assert not results.failures
    for part, methods in (("classes", METHODS), ("channels", CHANNELS)):
        pictures = list(entoptic.Run.open(out / "runs" / part))
        assert len(pictures) == 2 * 3 * len(methods), "three seeds of every unit by every method"
        assert {p.record["seed"] for p in pictures} == {0, 1, 2}


@pytest.mark.slow
def test_its_table_has_what_the_recipe_promises(stopped: tuple[Path, list[str], Results]) -> None:
    _, _, results = stopped
    assert {c.method for c in results.cells if c.subject == "classes"} == {*METHODS, "photos"}
    assert {c.method for c in results.cells if c.subject == "channels"} == {*CHANNELS}
    assert results.measured_with["untouched"] == ["pooled:7"]
    assert list(results.measured_with["absent"]) == ["torchvision:nothing/X"]
    photos = results.measured_with["photos"]
    assert photos["matched"] == photos["held_out"] == 20
    for column, judge in (("verifier_top1", "untouched"), ("verifier_top1", "all"),
                          ("beats_photos", ""), ("self_top5", "")):  # fmt: skip
        found = results.cell("classes", "vital", column, judge)
        assert found is not None, column
        assert found.found is not None, column
        assert found.n == 2, "seeds of a unit are no further units"
    named = {(c.subject, c.column) for c in results.cells}
    assert {
        ("classes", c) for c in ("two_afc", "kid", "cmmd", "precision", "recall", "pathway", "frechet_infinite")
    } <= named
    assert {s for s, _ in named if s.startswith("planted")} == {
        "planted, honest", "planted, fooling", "planted, slingshot",
    }  # fmt: skip


@pytest.mark.slow
def test_it_tells_its_cost_and_writes_nothing(
    stopped: tuple[Path, list[str], Results],
    tmp_path: Path,
    photo_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(RECIPES, "standard", toy(RECIPES["standard"]))
    words = ["bench", "standard", "--photos", str(photo_folder), "--device", "cpu", "--dry-run", "--out"]
    assert cli.main([*words, str(tmp_path / "new")]) == 0
    told = capsys.readouterr().out
    for method in METHODS:
        assert f"classes, {method}: 6 to make, 0 there, " in told
    assert "planted, retrieval: 3 to make" in told
    assert told.splitlines()[-1].startswith("together ")
    assert not (tmp_path / "new").exists()
    assert cli.main([*words, str(stopped[0])]) == 0
    assert "channels, retrieval: 0 to make, 6 there, " in capsys.readouterr().out
    assert cli.main([*words[:2], "--out", str(tmp_path / "new")]) == 2
    assert "--photos" in capsys.readouterr().err


@pytest.mark.slow
def test_it_is_verified_with_its_photos(
    stopped: tuple[Path, list[str], Results], photo_folder: Path, tmp_path: Path
) -> None:
    out, _, _ = stopped
    options: dict[str, Any] = {"recipe": toy(RECIPES["standard"]), "device": "cpu", "progress": False}
    found = verify_benchmark(out, photos=str(photo_folder), **options)
    assert found.ok, found.drift
    assert not found.incomplete, found.skipped
    with pytest.raises(UserError, match="give --photos"):
        verify_benchmark(out, **options)
    fewer = shutil.copytree(photo_folder, tmp_path / "fewer")
    next(fewer.rglob("*.png")).unlink()
    other = verify_benchmark(out, photos=str(fewer), **options)
    assert any("it was made with other photos; give those with --photos" in line for line in other.skipped)
    renamed = shutil.copytree(photo_folder, tmp_path / "renamed")
    for i, file in enumerate(sorted(renamed.rglob("*.png"), reverse=True)):
        file.rename(file.with_name(f"photo-{i:03d}.png"))
    named = verify_benchmark(out, photos=str(renamed), **options)
    assert named.ok, named.drift
    assert any("its photos have other names now" in line for line in named.skipped)
    table = json.loads((out / "table.json").read_text())
    cell = next(one for one in table["cells"] if one["subject"] == "channels" and one["found"])
    cell["found"]["value"] += 0.1
    spoiled = shutil.copytree(out, tmp_path / "spoiled")
    (spoiled / "table.json").write_text(json.dumps(table))
    drift = verify_benchmark(spoiled, photos=str(photo_folder), **options).drift
    assert any(line.startswith(f"table.json: {cell['subject']}, {cell['method']}, ") for line in drift), drift

"""`verify` of a benchmark: one edit of a number, a file or a picture is found, and what was left alone is not named."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import entoptic
from entoptic import cli
from entoptic.bench import verify_table
from entoptic.bench.recipes import RECIPES
from entoptic.bench.results import Results
from entoptic.bench.run import benchmark
from entoptic.bench.verify_table import verify_benchmark
from entoptic.errors import UserError
from entoptic.runs.verify import Verification
from tiny_bench import MINI, named_networks

pytestmark = pytest.mark.usefixtures("bench_networks")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature as it was made."""
    folder = tmp_path_factory.mktemp("made") / "bench"
    with named_networks():
        benchmark(MINI, out=folder, device="cpu", progress=False)
    return folder


@pytest.fixture
def bench(made: Path, tmp_path: Path) -> Path:
    """A copy that may be spoiled."""
    return Path(shutil.copytree(made, tmp_path / "bench"))


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch, made: Path) -> None:
    """Neither verifies the runs nor makes the table again: it is the one that was made."""
    results = Results.from_json(json.loads((made / "table.json").read_text()))
    monkeypatch.setattr(verify_table, "verify", lambda *_, **__: Verification())
    monkeypatch.setattr(verify_table, "benchmark", lambda *_, **__: results)


def found_in(folder: Path, **options: Any) -> list[str]:
    return verify_benchmark(folder, recipe=MINI, device="cpu", progress=False, **options).drift


def content(folder: Path) -> dict[str, str]:
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.rglob("*")) if f.is_file()}


def change(folder: Path, edit: Callable[[dict[str, Any]], None], *, hashed: bool) -> None:
    """Edits the table; `hashed` hides it from the list of files too."""
    file = folder / "table.json"
    held = json.loads(file.read_text())
    edit(held)
    file.write_text(json.dumps(held))
    if hashed:
        listing = json.loads((folder / "files.json").read_text())
        listing["files"]["table.json"] = hashlib.sha256(file.read_bytes()).hexdigest()
        (folder / "files.json").write_text(json.dumps(listing))


def test_a_benchmark_as_it_was_made_passes_and_nothing_is_written(made: Path) -> None:
    before = content(made)
    found = verify_benchmark(made, recipe=MINI, device="cpu", progress=False)
    assert found.ok, found.drift
    assert not found.skipped
    assert found.pictures == 38
    assert found.numbers > 100
    assert content(made) == before


def number(part: str, key: str) -> Callable[[dict[str, Any]], None]:
    def edit(held: dict[str, Any]) -> None:
        cell = next(one for one in held["cells"] if isinstance(one[part], dict))
        cell[part][key] += 0.02

    return edit


def plain(part: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda held: held["cells"][0].update({part: value})


EDITS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "value": (number("found", "value"), "the number is"),
    "interval": (number("found", "low"), "the number is"),
    "gap": (number("gap", "high"), "the gap is"),
    "n": (plain("n", 9), "n is 9"),
    "real": (plain("real", 0.5), "the number of real photos is 0.5"),
    "reason": (plain("reason", "it is so"), "the reason is"),
    "row taken out": (lambda held: held["cells"].pop(0), "is not there"),
    "row put in": (lambda held: held["cells"].append(held["cells"][0] | {"method": "best"}), "is no number of this benchmark"),
    "method": (lambda held: held["cells"][0].update(method="best"), "best"),
    "cost": (lambda held: held["costs"][0].update(evaluations=1), "its costs"),
    "failure": (lambda held: held["failures"].append("it rained"), "its failures"),
    "recipe": (lambda held: held["recipe"]["subjects"][0]["methods"][0]["config"].update(steps=9), "its recipe is not mini"),
    "format": (lambda held: held.update(format=7), "is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_one_edit_of_the_table_is_found_though_its_hash_was_mended(bench: Path, name: str) -> None:
    edit, words = EDITS[name]
    change(bench, edit, hashed=True)
    assert any(words in line for line in found_in(bench)), found_in(bench)


@pytest.mark.parametrize("value", [None, 3, "x", [], {}, [3], {"a": 3}])
@pytest.mark.parametrize("part", ["recipe", "measured_with", "cells", "costs", "failures", "about"])
def test_a_table_of_other_kinds_of_values_is_no_error(bench: Path, part: str, value: Any, fast: None) -> None:
    change(bench, lambda held: held.update({part: value}), hashed=False)
    assert "table.json was changed after it was written (its sha256 differs)" in found_in(bench)


@pytest.mark.parametrize("name", ["table.json", "table.csv", "table.md", "plot.svg", "index.html"])
def test_one_edit_of_a_file_is_found_by_its_hash(bench: Path, name: str) -> None:
    file = bench / name
    file.write_text(file.read_text().replace("0", "1", 1) + " ")
    assert f"{name} was changed after it was written (its sha256 differs)" in found_in(bench)


@pytest.mark.parametrize("name", ["table.csv", "table.md", "plot.svg"])
def test_one_edit_of_a_file_is_found_though_its_hash_was_mended(bench: Path, name: str, fast: None) -> None:
    file, listing = bench / name, json.loads((bench / "files.json").read_text())
    file.write_text(file.read_text().replace("0", "1", 1))
    listing["files"][name] = hashlib.sha256(file.read_bytes()).hexdigest()
    (bench / "files.json").write_text(json.dumps(listing))
    assert found_in(bench) == [f"{name} is not what this version makes of table.json"]


@pytest.mark.parametrize("name", ["files.json", "bench.json", "table.json"])
def test_a_damaged_file_is_named(bench: Path, name: str) -> None:
    (bench / name).write_text('{"files": 3')
    assert any(line.startswith(f"{name} ") for line in found_in(bench))


@pytest.mark.parametrize("name", ["table.csv", "files.json", "table.json"])
def test_a_file_that_was_taken_out_is_missed(bench: Path, name: str) -> None:
    (bench / name).unlink()
    assert any(line.startswith(f"{name} is not there") for line in found_in(bench))


@pytest.mark.parametrize("place", ["classes", "planted/honest/fourier"])
def test_a_picture_that_was_taken_out_is_missed(bench: Path, place: str) -> None:
    picture = next((bench / "runs" / place).glob("pictures/**/*.png"))
    picture.unlink()
    assert any(picture.stem in line or "not there" in line for line in found_in(bench))


def test_a_picture_that_was_taken_out_with_all_its_records_is_missed(bench: Path) -> None:
    shutil.rmtree(bench / "runs" / "channels")
    assert "12 pictures of the recipe are not there" in found_in(bench)


def test_an_edit_of_a_run_is_found(bench: Path) -> None:
    sidecar = next((bench / "runs" / "classes").glob("pictures/**/*.json"))
    held = json.loads(sidecar.read_text())
    held["evidence"][0]["value"] = 0.123
    sidecar.write_text(json.dumps(held))
    assert any(line.startswith("runs/classes: ") for line in found_in(bench))


def test_without_the_networks_that_judged_it_the_table_is_not_recomputed(tmp_path: Path) -> None:
    benchmark(MINI, out=tmp_path / "bench", verifiers="pooled:7", device="cpu", progress=False)
    found = verify_benchmark(tmp_path / "bench", recipe=MINI, device="cpu", progress=False)
    assert found.ok
    assert found.skipped == ["the table: it was judged by pooled:7 too; give them with --verifiers"]
    given = verify_benchmark(tmp_path / "bench", recipe=MINI, verifiers="pooled:7", device="cpu", progress=False)
    assert given.ok, given.drift
    assert not given.skipped


def test_a_benchmark_of_before_there_were_hashes_is_verified_by_its_numbers(bench: Path) -> None:
    (bench / "files.json").unlink()
    (bench / "bench.json").write_text(json.dumps({"benchmark": "mini"}))
    assert found_in(bench) == []
    change(bench, EDITS["value"][0], hashed=False)
    assert any("the number is" in line for line in found_in(bench))


def test_what_is_no_benchmark_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder of a benchmark"):
        verify_benchmark(tmp_path)


def test_the_verb_verifies_both(
    bench: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(RECIPES, "mini", MINI)
    assert cli.main(["verify", str(bench), "--device", "cpu"]) == 0
    assert "38 pictures" in capsys.readouterr().out
    assert cli.main(["verify", str(bench / "runs" / "classes"), "--device", "cpu"]) == 0
    assert cli.main(["verify", str(bench / "runs" / "classes"), "--verifiers", "tiny:1"]) == 2
    assert "--verifiers is for benchmarks" in capsys.readouterr().err
    assert cli.main(["verify", str(bench), "--prior", "builtin:small-32"]) == 2
    change(bench, EDITS["value"][0], hashed=True)
    assert cli.main(["verify", str(bench), "--device", "cpu"]) == 2
    assert "differs: table.json: classes" in capsys.readouterr().out


def test_it_has_a_public_name() -> None:
    assert entoptic.verify_benchmark is verify_benchmark

"""`verify` of a benchmark: one edit of a number, a file or a picture is found, and what was left alone is not named."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import entoptic
from conftest import tiny_card
from entoptic import cli
from entoptic.bench import table_files, verify_table
from entoptic.bench.intervals import Interval
from entoptic.bench.recipes import RECIPES
from entoptic.bench.results import Results
from entoptic.bench.run import benchmark
from entoptic.bench.table_files import laid_out, put
from entoptic.bench.table_numbers import compare_tables
from entoptic.bench.verify_table import verify_benchmark
from entoptic.errors import UserError
from entoptic.methods.fourier import Fourier
from entoptic.models.sources import SOURCES
from entoptic.runs.verify import Verification
from tiny_bench import MINI, Pooled, named_networks

pytestmark = pytest.mark.usefixtures("bench_networks")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    """The miniature as it was made, and its table with its pictures."""
    folder = tmp_path_factory.mktemp("made") / "bench"
    with named_networks():
        return folder, benchmark(MINI, out=folder, device="cpu", progress=False)


@pytest.fixture(scope="module")
def made(results: tuple[Path, Results]) -> Path:
    """Its folder."""
    return results[0]


@pytest.fixture
def bench(made: Path, tmp_path: Path) -> Path:
    """A copy that may be spoiled."""
    return Path(shutil.copytree(made, tmp_path / "bench"))


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch, results: tuple[Path, Results]) -> None:
    """Neither verifies the runs nor makes the table again: it is the one that was made."""
    monkeypatch.setattr(verify_table, "verify", lambda *_, **__: Verification())
    monkeypatch.setattr(verify_table, "results_of", lambda *_, **__: results[1])


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


def number_of(held: dict[str, Any], column: str) -> dict[str, Any]:
    return next(cell for cell in held["cells"] if cell["column"] == column and cell["found"])


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
    assert found_in(bench) == [f"{name} is not what this version makes of the table"]


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
    assert "runs/channels/run.json is not there" in found_in(bench)


def edit_a_sidecar(bench: Path) -> None:
    sidecar = next((bench / "runs" / "classes").glob("pictures/**/*.json"))
    held = json.loads(sidecar.read_text())
    held["evidence"][0]["value"] = 0.123
    sidecar.write_text(json.dumps(held))


def test_an_edit_of_a_run_is_found(bench: Path) -> None:
    edit_a_sidecar(bench)
    assert any(line.startswith("runs/classes: ") for line in found_in(bench))


def test_without_a_network_that_judged_it_the_rest_is_compared(tmp_path: Path) -> None:
    folder = tmp_path / "bench"
    benchmark(MINI, out=folder, verifiers="pooled:7", device="cpu", progress=False)
    found = verify_benchmark(folder, recipe=MINI, device="cpu", progress=False)
    assert found.ok, found.drift
    (line,) = found.skipped
    assert re.fullmatch(r"\d+ numbers of the table: these need pooled:7; give it with --verifiers", line)
    assert "as recorded, but not all was compared" in str(found)
    given = verify_benchmark(folder, recipe=MINI, verifiers="tiny:9,pooled:7", device="cpu", progress=False)
    assert given.ok, given.drift
    assert not given.skipped
    assert given.notes == ["tiny:9 did not judge this benchmark, and is left out"]
    change(folder, lambda held: number_of(held, "robustness")["found"].update(value=0.5), hashed=True)
    assert any("the number is" in line for line in found_in(folder))


def test_untouched_judges_that_can_be_loaded_here_alone_are_left_out(tmp_path: Path) -> None:
    recipe = replace(MINI, planted=None, untouched=("gone:3",))
    benchmark(recipe, out=tmp_path / "bench", device="cpu", progress=False)
    SOURCES["gone"] = lambda seed, _: (Pooled(int(seed)), tiny_card(name=f"gone:{seed}"))  # forgotten by the fixture
    found = verify_benchmark(tmp_path / "bench", recipe=recipe, device="cpu", progress=False)
    assert found.ok, found.drift
    assert not found.skipped
    benchmark(recipe, out=tmp_path / "with", device="cpu", progress=False)
    del SOURCES["gone"]
    found = verify_benchmark(tmp_path / "with", recipe=recipe, device="cpu", progress=False)
    assert found.ok, found.drift
    assert any("gone:3" in line for line in found.skipped)


def forge(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Edits the table, makes the files that follow from it again, and mends all hashes."""
    file = folder / "table.json"
    held = json.loads(file.read_text())
    edit(held)
    file.write_text(json.dumps(held))
    for name, content in laid_out(Results.from_json(held)).items():
        (folder / name).write_bytes(content)
    mend(folder)


def mend(folder: Path) -> None:
    listing = json.loads((folder / "files.json").read_text())
    listing["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in listing["files"]}
    (folder / "files.json").write_text(json.dumps(listing))


def twin(held: dict[str, Any]) -> None:
    held["cells"].insert(0, held["cells"][0] | {"found": {"value": 0.99, "low": 0.9, "high": 1.0}})


FORGED: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "judge invented": (lambda held: held["measured_with"]["networks"].update({"timm:vit": "0" * 64}), "it says that"),
    "judge taken out": (lambda held: held["measured_with"]["networks"].pop("pooled:1"), "it says that"),
    "weights": (lambda held: held["measured_with"]["networks"].update({"pooled:1": "0" * 64}), "the weights of pooled:1"),
    "evidence": (lambda held: held["measured_with"].update(evidence=1), "another version of the evidence"),
    "untouched": (lambda held: held["measured_with"].update(untouched=["pooled:1"]), "its untouched judges"),
    "related": (lambda held: held["measured_with"].update(related=["pooled:1"]), "its related judges"),
    "twin": (twin, "is there 2 times"),
    "order": (lambda held: held["cells"].reverse(), "in another order"),
    "added": (lambda held: held.update(peer_reviewed=True), "peer_reviewed, which is no part of a table"),
    "words": (lambda held: held["recipe"].update(note="On a thousand networks."), "the words of its recipe"),
    "seeds": (lambda held: [one.update(seeds=list(range(9))) for one in held["recipe"]["subjects"]], "its recipe is not mini"),
    "no seeds": (lambda held: [one.update(seeds=[]) for one in held["recipe"]["subjects"]], "its recipe is not mini"),
    "name": (lambda held: held["recipe"].update(name="standard"), "bench.json is of the benchmark mini"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_a_table_that_was_forged_with_all_its_files_is_found(bench: Path, name: str) -> None:
    edit, words = FORGED[name]
    forge(bench, edit)
    assert any(words in line for line in found_in(bench)), found_in(bench)


@pytest.mark.parametrize(
    ("low", "high", "is_found"), [(0.0009, 0.2, True), (-0.0002, 0.2, False), (-0.2, -0.0002, True)]
)
def test_a_gap_that_is_moved_across_0_is_found_however_little(
    results: tuple[Path, Results], low: float, high: float, is_found: bool
) -> None:
    table = results[1]
    gap = Interval(value=(low + high) / 2, low=low, high=high)
    true = replace(gap, low=-1e-7) if low > -0.1 else replace(gap, high=1e-7)
    of = next(cell for cell in table.cells if cell.gap is not None)
    stored, fresh = (
        replace(table, cells=tuple(replace(of, gap=one) if c is of else c for c in table.cells)) for one in (gap, true)
    )
    found = Verification()
    compare_tables(stored, fresh, found)
    assert any("on the other side of 0" in line for line in found.drift) is is_found


def test_photos_that_nobody_gave_leave_the_table_uncompared_and_the_verdict_says_so(bench: Path) -> None:
    forge(
        bench, lambda held: held["measured_with"].update(photos={"matched": 9, "held_out": 9, "held_out_sha256": "0"})
    )
    found = verify_benchmark(bench, recipe=MINI, device="cpu", progress=False)
    assert any("it was made with other photos" in line for line in found.skipped)
    assert "but not all was compared" in str(found)
    assert "all as recorded" not in str(found)


def test_a_failure_that_only_the_table_tells_is_no_excuse(bench: Path) -> None:
    forge(bench, lambda held: held["failures"].append("the network fell over"))
    shutil.rmtree(bench / "runs" / "channels")
    assert "runs/channels/run.json is not there" in found_in(bench)
    found = found_in(bench)
    assert len([line for line in found if "not there" in line]) == 1


@pytest.mark.parametrize("how", ["taken out", "changed", "put in"])
def test_scenes_of_the_planted_part_are_drawn_again(bench: Path, how: str) -> None:
    scene = bench / "runs" / "planted" / "scenes" / "00003.png"
    if how == "taken out":
        scene.unlink()
    elif how == "changed":
        Image.new("RGB", (64, 64), "red").save(scene)
    else:
        shutil.copy(scene, scene.with_name("00099.png"))
    assert any(line.startswith("runs/planted/scenes") for line in found_in(bench))


def test_a_page_that_is_not_of_the_table_is_found_though_its_hash_was_mended(bench: Path, fast: None) -> None:
    page = bench / "index.html"
    page.write_text(page.read_text().replace("Where the first method is behind", "Where the first method is ahead"))
    mend(bench)
    assert found_in(bench) == ["index.html is not what this version makes of the table"]


def test_a_list_of_no_files_is_found(bench: Path, fast: None) -> None:
    listing = json.loads((bench / "files.json").read_text())
    (bench / "files.json").write_text(json.dumps(listing | {"files": {}}))
    (bench / "table.md").unlink()
    assert set(found_in(bench)) >= {"files.json does not list table.json", "table.md is not there"}
    (bench / "files.json").write_text(json.dumps(listing | {"files": listing["files"] | {"runs": "0"}}))
    assert "files.json lists runs, which is no file of a table" in found_in(bench)


def test_without_a_list_edits_are_noted(bench: Path, fast: None) -> None:
    (bench / "files.json").unlink()
    (bench / "bench.json").write_text(json.dumps({"benchmark": "mini"}))
    (bench / "table.md").write_text("forged")
    found = verify_benchmark(bench, recipe=MINI, device="cpu", progress=False)
    assert any(note.startswith("files.json is not there") for note in found.notes)
    assert any(note.startswith("table.md is not what this version makes") for note in found.notes)


def test_a_table_that_an_earlier_version_worded_otherwise_passes_with_a_note(bench: Path, fast: None) -> None:
    listing = json.loads((bench / "files.json").read_text())
    (bench / "files.json").write_text(json.dumps(listing | {"code": "of an earlier version"}))
    (bench / "table.md").write_text((bench / "table.md").read_text().replace("Costs", "What it costs"))
    mend(bench)
    change(bench, lambda held: held["recipe"].update(note="Some networks."), hashed=True)
    found = verify_benchmark(bench, recipe=MINI, device="cpu", progress=False)
    assert found.ok, found.drift
    assert any(note.startswith("table.md is not what this version makes") for note in found.notes)
    assert any("the words of its recipe are not those of mini" in note for note in found.notes)


def test_a_table_of_an_earlier_recipe_is_told_from_an_edited_one(bench: Path) -> None:
    """Its pictures have the settings that it says; the runs are verified all the same."""
    methods = (replace(MINI.subjects[0].methods[0], config=Fourier(steps=4)), MINI.subjects[0].methods[1])
    now = replace(MINI, subjects=tuple(replace(one, methods=methods) for one in MINI.subjects))
    found = verify_benchmark(bench, recipe=now, device="cpu", progress=False)
    assert found.ok, found.drift
    assert found.pictures == 38
    assert any("its recipe" in line for line in found.skipped)
    assert "not all was compared" in str(found)


def test_runs_are_verified_whatever_the_table_says(bench: Path) -> None:
    edit_a_sidecar(bench)
    (bench / "table.json").write_text("{")
    found = found_in(bench)
    assert any(line.startswith("runs/classes: ") for line in found)
    assert any(line.startswith("table.json") for line in found)


def test_a_run_whose_network_is_not_here_costs_no_other_finding(bench: Path) -> None:
    (bench / "table.json").write_text("{")
    del SOURCES["tiny"]  # the fixture puts it back
    found = verify_benchmark(bench, recipe=MINI, device="cpu", progress=False)
    assert found.pictures == 6, "those of planted networks"
    assert {line.split(":")[0] for line in found.skipped} >= {"runs/classes", "runs/channels"}
    assert "not all was compared" not in str(found), "something differs"
    assert any(line.startswith("table.json") for line in found.drift)


def test_what_is_not_of_the_benchmark_is_named_and_links_are_not_followed(bench: Path, tmp_path: Path) -> None:
    shutil.copytree(bench / "runs" / "channels", bench / "runs" / "extra")
    outside = tmp_path / "outside"
    shutil.copytree(bench / "runs" / "channels", outside)
    (bench / "runs" / "link").symlink_to(outside)
    (bench / "runs" / "classes" / "nowhere").symlink_to(tmp_path / "nothing")
    os.mkfifo(bench / "runs" / "classes" / "pipe")
    found = verify_benchmark(bench, recipe=MINI, device="cpu", progress=False)
    assert found.ok, found.drift
    assert "runs/extra is no run of this benchmark" in found.notes
    assert "runs/link leads out of the benchmark, and is left out" in found.notes


def test_no_room_for_a_copy_costs_no_finding(bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (bench / "table.md").write_text("forged")
    monkeypatch.setattr(verify_table.shutil, "copyfile", full)
    found = verify_benchmark(bench, recipe=MINI, device="cpu", progress=False)
    assert found.pictures == 38
    assert found.drift == ["table.md was changed after it was written (its sha256 differs)"]
    assert any("its runs cannot be copied" in line and "No space left" in line for line in found.skipped)


def test_line_ends_of_another_system_make_no_difference(bench: Path, fast: None) -> None:
    for name in ("table.md", "table.csv", "table.json", "plot.svg", "index.html"):
        (bench / name).write_bytes((bench / name).read_bytes().replace(b"\n", b"\r\n"))
    assert found_in(bench) == []


def test_a_benchmark_of_planted_units_alone_is_verified(tmp_path: Path) -> None:
    recipe = replace(MINI, subjects=())
    benchmark(recipe, out=tmp_path / "bench", device="cpu", progress=False)
    found = verify_benchmark(tmp_path / "bench", recipe=recipe, device="cpu", progress=False)
    assert found.ok, found.drift
    assert not found.skipped


def test_an_interrupt_between_two_files_is_no_edit(bench: Path, results: tuple[Path, Results], fast: None) -> None:
    def stop(folder: Path, name: str, content: bytes) -> None:
        if name == "table.md":
            raise KeyboardInterrupt
        put(folder, name, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_files, "put", stop)
        with pytest.raises(KeyboardInterrupt):
            table_files.write(results[1], bench)
    assert not (bench / "files.json").exists()
    found = found_in(bench)
    assert [line for line in found if "changed after" in line] == []


def test_a_folder_whose_name_is_no_utf8_costs_no_table(results: tuple[Path, Results], tmp_path: Path) -> None:
    about = results[1].about | {"command": "entoptic bench mini --out b\udcff"}
    table_files.write(replace(results[1], about=about), tmp_path)
    assert "b\\udcff" in (tmp_path / "table.md").read_text()


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

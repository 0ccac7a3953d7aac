"""A run that was received: nothing outside of it is read, and nothing is written or deleted behind its links."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import pytest
import torch
from torch import nn

from entoptic import Run
from entoptic.base.files import check_inside, check_own, is_inside, lock_folder, user_path
from entoptic.base.training import optimise
from entoptic.errors import UserError
from entoptic.gallery.site import build
from entoptic.priors.recipe import Recipe
from entoptic.runs.learn import learn
from entoptic.runs.merge import merge_runs
from entoptic.runs.verify import changed_files

STORED = Path(__file__).parents[1] / "stored" / "runs" / "see"
SECRET = b"secret\n"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.open(shutil.copytree(STORED, tmp_path / "run"))


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder of somebody else's, which is the same afterwards."""
    folder = tmp_path / "outside"
    (folder / "inner").mkdir(parents=True)
    for file in ("a.txt", "b.png", "c.json", "inner/d.png", ".x.part", "training-1.safetensors"):
        (folder / file).write_bytes(SECRET)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    yield folder
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def replaced(path: Path, target: Path) -> None:
    """Puts a link in place of a file or folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def test_links_of_files_are_not_written_through(run: Run, outside: Path) -> None:
    for name in ("metadata.jsonl", ".lock"):
        replaced(run.path / name, outside / "a.txt")
        with pytest.raises(UserError, match="symbolic link"), run.writing({}):
            pass
        (run.path / name).unlink()


@pytest.mark.parametrize(
    "part", ["pictures/logits-0", "pictures", "maps", "context/logits-0", "context", "frontier", "results"]
)
def test_links_of_folders_are_not_written_through(run: Run, outside: Path, part: str) -> None:
    from entoptic.runs.results import write_result

    picture = next(one for one in run if one.unit == "logits:0")
    record, pixels = dict(picture.record), picture.pixels
    replaced(run.path / part, outside)
    writers = {
        "pictures": lambda: run.write_record(picture.path, record),
        "maps": lambda: run.write_map(picture.path, "where", pixels[:, :, :2]),
        "context": lambda: run.write_context("logits-0", {}, {"a.txt": b"new"}),
        "frontier": lambda: run.write_frontier({"a.txt": b"new"}),
        "results": lambda: write_result(run, "circuit", "x", "0" * 12, files={"e": b"new"}),
    }
    with pytest.raises(UserError, match="symbolic link"):
        writers[part.partition("/")[0]]()
    with run.writing({}):
        pass
    if part != "pictures":
        build(run.path)


def test_a_default_gallery_behind_a_link_is_refused(run: Run, outside: Path) -> None:
    replaced(run.path / "gallery", outside)
    with pytest.raises(UserError, match="cannot write the gallery"):
        build(run.path)


def test_pictures_and_sidecars_behind_links_are_listed(run: Run, outside: Path, tmp_path: Path) -> None:
    first, second, *rest = list(run)
    shutil.copy(first.path, outside.parent / "elsewhere.png")
    shutil.copy(second.path.with_suffix(".json"), outside.parent / "elsewhere.json")
    replaced(first.path, outside.parent / "elsewhere.png")
    replaced(second.path.with_suffix(".json"), outside.parent / "elsewhere.json")
    problems = [problem for _, problem in run.read() if problem]
    assert len(problems) == 2
    assert all("lies outside of the run" in problem for problem in problems)
    assert len(run) == len(rest)
    assert run.finished(first.path, first.record["key"]) is None
    text = build(run.path).read_text()
    assert "left out" in text
    merged = merge_runs([run], tmp_path / "merged")
    assert len(merged) == len(rest)


@pytest.mark.parametrize("name", ["../../outside/a.txt", "absolute", "link", "maps", "nul\0"])
def test_maps_outside_are_not_read(run: Run, outside: Path, tmp_path: Path, name: str) -> None:
    picture = next(iter(run))
    file = {"absolute": str(outside / "a.txt"), "link": "maps/x/link.png"}.get(name, name)
    if name == "link":
        replaced(run.path / file, outside / "b.png")
    record = json.loads(picture.path.with_suffix(".json").read_text())
    record["maps"] = {"where": {"file": file, "sha256": "0" * 64}}
    picture.path.with_suffix(".json").write_text(json.dumps(record))
    again = next(iter(run))
    assert run.map_file(again.record["maps"]["where"]) is None
    assert changed_files(run, again) == ["its map where is missing or was changed"]
    merge_runs([run], tmp_path / "merged")
    assert not list((tmp_path / "merged").rglob("a.txt"))
    build(run.path)


def test_merging_writes_nothing_behind_links(run: Run, outside: Path, tmp_path: Path) -> None:
    target = Run(tmp_path / "target")
    with target.writing(run.about):
        pass
    replaced(target.path / "pictures", outside)
    with pytest.raises(UserError, match="symbolic link"):
        merge_runs([run], target.path)


def test_merging_reads_nothing_behind_links(run: Run, outside: Path, tmp_path: Path) -> None:
    replaced(run.path / "context", outside)
    (run.path / "frontier").mkdir(exist_ok=True)
    replaced(run.path / "frontier" / "f.json", outside / "c.json")
    merge_runs([run], tmp_path / "merged")
    assert not [p for p in (tmp_path / "merged").rglob("*") if p.is_file() and p.read_bytes() == SECRET]


def test_context_deletes_only_what_its_record_named(run: Run) -> None:
    place = run.path / "context" / "logits-0"
    (place / "mine.txt").write_text("kept")
    assert (place / "top-1.jpg").is_file()
    run.write_context("logits-0", {"strongest": []}, {"new.jpg": b"new"})
    assert sorted(path.name for path in place.iterdir()) == ["context.json", "mine.txt", "new.jpg"]


def test_a_checkpoint_deletes_only_the_one_before(tmp_path: Path) -> None:
    other = tmp_path / "training-99.safetensors"
    other.write_bytes(b"somebody's")
    net, mean = nn.Linear(2, 1), nn.Linear(2, 1)
    optimiser = torch.optim.AdamW(net.parameters())
    record = {"step": 0, "loss": []}

    def loss(step: int) -> torch.Tensor:
        return net(torch.ones(1, 2)).square().mean()

    recipe = Recipe(steps=3, size=8, widths=(16,), attention=(), warmup=1)
    optimise("x", net, mean, loss, recipe, tmp_path, record, optimiser, device="cpu", save_every=1)
    assert other.read_bytes() == b"somebody's"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "training-3.safetensors", "training-99.safetensors", "training.json",
    ]  # fmt: skip


def test_a_gallery_and_a_training_leave_other_folders_alone(run: Run, outside: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds other files"):
        build(run.path, outside)
    with pytest.raises(UserError, match="holds other files"):
        learn(STORED.parents[1] / "photos", outside, progress=False)
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text("<h1>my own</h1>")
    with pytest.raises(UserError, match="holds other files"):
        build(run.path, site)
    assert build(run.path, tmp_path / "new" / "place") == build(run.path, tmp_path / "new" / "place")


def test_paths(tmp_path: Path, outside: Path) -> None:
    for path in ("~nosuchuser/x", "a\0b", "x" * 300):
        with pytest.raises(UserError, match="is no path"):
            user_path(path)
    assert user_path("~/x") == Path.home() / "x"
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    assert not is_inside(tmp_path / "circle" / "x", tmp_path)
    assert not is_inside(Path("a\0b"), tmp_path)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "to").symlink_to(outside)
    for wrong in (tmp_path / "own" / "to" / "x", tmp_path / "own" / ".." / "x"):
        with pytest.raises(UserError, match="lies outside of"):
            check_inside(wrong, tmp_path / "own")
    with chdir(tmp_path):
        assert check_inside(Path("new/x"), Path()) == Path("new/x")
    replaced(tmp_path / "locked" / ".lock", outside / "a.txt")
    with pytest.raises(UserError, match="symbolic link"):
        lock_folder(tmp_path / "locked")
    with pytest.raises(UserError, match="is no folder"):
        check_own(outside / "a.txt", marks={"x"}, what="x")

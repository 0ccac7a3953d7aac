"""What a run names by relative paths is found from any working directory, and told by its hash."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from conftest import tiny_card, tiny_module
from entoptic.base.files import sha256_of
from entoptic.images.build_index import build_index
from entoptic.images.index import ActivationIndex
from entoptic.images.photos import Photos
from entoptic.inversion.targets import PhotoFile
from entoptic.models.model import Model
from entoptic.runs.moved_files import MovedFiles, find_moved
from entoptic.runs.recompute import Recompute
from entoptic.runs.see import see
from entoptic.runs.store import Run
from entoptic.runs.verify import verify


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run in a project with photos; the working directory is another one."""
    run = tmp_path / "project" / "runs" / "one"
    run.mkdir(parents=True)
    (tmp_path / "project" / "photos").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return run


def test_relative_paths_are_found_from_another_folder(run: Path, tmp_path: Path) -> None:
    assert find_moved("photos", run) == str(tmp_path / "project" / "photos")
    assert find_moved("nowhere", run) == "nowhere"
    assert find_moved(str(tmp_path / "gone"), run) == str(tmp_path / "gone")
    assert find_moved("\0", run) == "\0"
    (tmp_path / "elsewhere" / "photos").mkdir()
    assert find_moved("photos", run) == "photos", "where nothing is known of them, those of the working directory"


def test_from_the_project_itself_a_path_stays_as_it_is(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "project")
    assert find_moved("photos", run, fits=lambda place: pytest.fail("there is one place only")) == "photos"


@pytest.mark.parametrize("name", ["photos:v2", "a:b/photos", "c:"])
def test_a_path_with_a_colon_is_a_path(run: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "project" / name).mkdir(parents=True)
    assert find_moved(name, run) == str(tmp_path / "project" / name)


@pytest.mark.parametrize("name", ["hf:photos", "file:photos", "https://photos"])
def test_a_name_of_a_source_is_no_path(run: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "project" / name).mkdir(parents=True)
    assert find_moved(name, run) == name


def test_of_several_places_the_one_that_fits_is_taken(run: Path, tmp_path: Path) -> None:
    near, here = tmp_path / "project" / "a.txt", tmp_path / "elsewhere" / "a.txt"
    near.write_text("right")
    here.write_text("of another project")
    moved = MovedFiles(run)
    assert moved.photo("a.txt", sha256_of(near)) == str(near)
    assert moved.photo("a.txt", sha256_of(here)) == "a.txt"
    assert moved.photo("a.txt", "0" * 64) == "a.txt"
    copy = run / "copies" / "a.txt"
    copy.parent.mkdir()
    copy.write_text("right")
    assert find_moved("a.txt", run, lambda place: sha256_of(Path(place)) == sha256_of(near), [copy]) == str(copy)


def test_another_index_in_the_working_directory_is_passed_over(
    run: Path, tmp_path: Path, tiny: Model, photo_folder: Path
) -> None:
    near, here = tmp_path / "project" / "index", tmp_path / "elsewhere" / "index"
    for place, layers in ((near, ["stage1"]), (here, ["stage2"])):
        build_index(tiny, photo_folder, layers, out=place)
    moved = MovedFiles(run)
    assert moved.index("index", ActivationIndex.open(near).key) == str(near)
    assert moved.index("index", ActivationIndex.open(here).key) == "index"
    assert moved.index("index", None) == "index"


def test_verify_recomputes_though_another_project_has_photos_of_that_name(
    tmp_path: Path, tiny: Model, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    shutil.copytree(photo_folder, project / "photos")
    (elsewhere / "photos").mkdir(parents=True)
    Image.new("RGB", (32, 32), "red").save(elsewhere / "photos" / "a.png")
    (elsewhere / "photos" / "damaged.png").write_bytes(b"x")
    monkeypatch.chdir(project)
    model = Model(tiny_module(), tiny_card(), device="cpu")
    see(model, "stage1:3", method="fourier", steps=2, photos="photos", out="runs/one", progress=False, verifiers="")
    monkeypatch.chdir(elsewhere)
    found = verify(project / "runs" / "one", model=tiny)
    assert found.ok
    assert found.skipped == []
    assert found.numbers > 0


def test_photos_of_edits_and_their_folders_are_found(run: Path, tmp_path: Path) -> None:
    photo = tmp_path / "project" / "photos" / "a.png"
    Image.new("RGB", (8, 8), "red").save(photo)
    (tmp_path / "elsewhere" / "photos").mkdir()
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "elsewhere" / "photos" / "a.png")
    recompute = Recompute(Run(run), None, None, None, None, "cpu")
    sha256 = Photos.open(photo).sha256(0)
    assert recompute._path_of({"name": "a.png", "source": "photos", "sha256": sha256}) == str(photo)
    assert recompute._path_of({"name": "b.png", "source": "photos", "sha256": sha256}) == "b.png"
    assert recompute._path_of({"name": "b.png", "source": None, "sha256": sha256}) == "b.png"
    assert recompute._image(PhotoFile("photos/a.png", sha256)).getpixel((0, 0)) == (255, 0, 0)

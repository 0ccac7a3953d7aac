"""Every verb that reads photos says once which it could not read and why, also where an earlier job read them."""

from __future__ import annotations

import json
import shutil
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from PIL import Image
from tests.fuzz.commands import Answer, run

import entoptic
from entoptic.base.unread import NAMED, UnreadPhotos, hear, names_unread, one_line, said_elsewhere, unread_sentence
from entoptic.dictionaries.recipe import DictionaryRecipe
from entoptic.errors import UserError
from entoptic.images.index import ActivationIndex
from entoptic.images.photos import Photos
from entoptic.models.model import Model
from entoptic.names import readings
from entoptic.priors.learn import learn_prior
from entoptic.priors.recipe import Recipe
from entoptic.runs.split import split
from entoptic.units.unit import bind

BROKEN = {"circle/cut.png": "image file is truncated", "dot/empty.jpg": "empty file", "dot/text.jpg": "not an image"}


@pytest.fixture
def photos(photo_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    shutil.copytree(photo_folder, folder)
    whole = (folder / "circle" / "0.png").read_bytes()
    (folder / "circle" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "dot" / "empty.jpg").write_bytes(b"")
    (folder / "dot" / "text.jpg").write_text("hello")
    return folder


def said(answer: Answer) -> list[str]:
    """Its lines that name photos which could not be read."""
    assert answer.code == 0, answer.err
    return [line for line in (answer.out + answer.err).splitlines() if any(name in line for name in BROKEN)]


def check(lines: list[str]) -> None:
    """All are named in one line, with reasons."""
    assert len(lines) == 1, lines
    assert "3 of 43 photos could not be read" in lines[0]
    assert all(f"{name} (" in lines[0] and why in lines[0] for name, why in BROKEN.items()), lines


VERBS: dict[str, list[str]] = {
    "pictures": ["see", "tiny:net", "logits:0", "stage2:3", "--method", "vital,retrieval", "--vital.steps", "1"],
    "evidence": ["see", "tiny:net", "logits:0", "--method", "fourier", "--steps", "1", "--no-context"],
    "check": ["check", "tiny:net"],
    "atlas": ["atlas", "tiny:net", "stage2", "--map", "mercat"],
    "report": ["report", "tiny:net", "--method", "fourier", "--steps", "1", "--classes", "1"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_says_it_once_also_where_scores_are_cached(verb: str, photos: Path, tmp_path: Path) -> None:
    words = [*VERBS[verb], "--photos", str(photos), *(["--verifiers", ""] if verb in ("pictures", "evidence") else [])]
    for out in ("one", "two", "two"):  # read, cached, finished
        lines = said(run(words if verb == "check" else [*words, "--out", str(tmp_path / out)]))
        if verb == "atlas":  # its own line counts what the map leaves out
            assert len(lines) == 2
            assert "left out: 3 photos" in lines[0]
            lines = lines[1:]
        check(lines)


def test_an_index_says_it_line_by_line(photos: Path, tmp_path: Path) -> None:
    words = ["index", "tiny:net", "--layers", "stage2", "--photos", str(photos), "--out", str(tmp_path / "index")]
    for _ in range(2):
        lines = said(run(words))
        assert len(lines) == 3
        assert all(line.startswith("not read: ") for line in lines)
    see = [
        "see",
        "tiny:net",
        "stage2:3",
        "--method",
        "fourier",
        "--steps",
        "1",
        "--verifiers",
        "",
        "--photos",
        str(photos),
    ]
    check(said(run([*see, "--index", str(tmp_path / "index"), "--out", str(tmp_path / "run")])))


def test_the_record_of_a_picture_names_them(photos: Path, tmp_path: Path) -> None:
    words = [*VERBS["evidence"][:-1], "--verifiers", "", "--photos", str(photos), "--out", str(tmp_path / "run")]
    assert run(words).code == 0
    sidecars = list((tmp_path / "run" / "pictures").rglob("*.json")) + list(
        (tmp_path / "run" / "context").rglob("*.json")
    )
    assert len(sidecars) == 2
    for file in sidecars:
        record = json.loads(file.read_text())
        check([record.get("unread") or record["photos"]["unread"]])


def test_photos_that_are_all_read_leave_no_word(photo_folder: Path, tmp_path: Path) -> None:
    words = [*VERBS["evidence"], "--verifiers", "", "--photos", str(photo_folder), "--out", str(tmp_path / "run")]
    assert "could not be read" not in run(words).err
    (file,) = (tmp_path / "run" / "pictures").rglob("*.json")
    assert "unread" not in json.loads(file.read_text())


def caught(function: Any, *given: Any, **named: Any) -> list[UnreadPhotos]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        function(*given, **named)
    return [one.message for one in found if isinstance(one.message, UnreadPhotos)]


def learn_a_prior(photos: Path, tmp_path: Path) -> None:
    recipe = Recipe(size=8, patch=2, widths=(16, 32), batch_size=4, steps=1, warmup=1)
    names_unread(learn_prior)([Photos.open(photos)], tmp_path / "prior", recipe)


def read_for_names(tiny: Model, photos: Path) -> None:
    with mock.patch.object(readings, "LEAST", 10):
        readings.read_photos(tiny, bind(tiny, "stage2:0"), Photos.open(photos), where=None, most=99)


def split_a_unit(tiny: Model, photos: Path, out: Path) -> None:
    with suppress(UserError):  # these photos drive it too little, which shows when they are read
        split(tiny, "head:0-1", photos=photos, out=out / "split.safetensors", progress=False)


FUNCTIONS: dict[str, Any] = {
    "name": lambda tiny, photos, out: read_for_names(tiny, photos),
    "split": lambda tiny, photos, out: split_a_unit(tiny, photos, out),
    "preflight": lambda tiny, photos, out: entoptic.preflight(tiny, photos),
    "learn_dictionary": lambda tiny, photos, out: entoptic.learn_dictionary(
        tiny, "stage2", photos=photos, out=out / "dictionary", second_seed=False, progress=False, log=lambda line: None,
        recipe=DictionaryRecipe(features=4, active=2, steps=2, batch_size=8, buffer=64, held_photos=2),
    ),
    "learn": lambda tiny, photos, out: learn_a_prior(photos, out),
    "index": lambda tiny, photos, out: entoptic.build_index(tiny, photos, "stage2", out=out / "index"),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_of_python_says_it_in_one_warning(name: str, tiny: Model, photos: Path, tmp_path: Path) -> None:
    for _ in range(2):
        (found,) = caught(names_unread(FUNCTIONS[name]), tiny, photos, tmp_path)
        assert (found.reasons.keys(), found.total) == (BROKEN.keys(), 43)


def test_pairs_name_what_an_earlier_job_could_not_read(tiny: Model, photos: Path, tmp_path: Path) -> None:
    from entoptic.inversion.data import make_pairs
    from entoptic.inversion.maps import FeatureMaps

    for _ in range(2):
        (found,) = caught(
            names_unread(make_pairs), FeatureMaps.of(tiny, "stage2"), photos, 16, tmp_path / "pairs"
        )  # fmt: skip
        assert found.reasons.keys() == BROKEN.keys()


def test_workers_tell_the_job_which_says_it_once(photos: Path, tmp_path: Path) -> None:
    from entoptic.workers.dispatch import _Dispatcher
    from entoptic.workers.making import make
    from entoptic.workers.records import Said, Told

    told: list[Any] = []

    def handler(pieces: Any, tell: Any) -> None:
        for _ in Photos.open(photos).batches(lambda image: torch.zeros(3), 8):
            pass

    make(handler, [], told.append)
    (answer,) = told
    assert isinstance(answer, Said)
    said_too: list[str] = []

    class Sink:
        said = staticmethod(said_too.append)

    dispatcher = _Dispatcher.__new__(_Dispatcher)
    dispatcher.busy, dispatcher.sink = {}, Sink()
    event = Told(worker="one", answer=answer)
    (found,) = caught(names_unread(lambda: [dispatcher._told(event) for _ in range(2)]))
    assert found.reasons.keys() == BROKEN.keys()
    assert said_too == []
    dispatcher._told(event)  # without a job that hears it
    check(said_too)


# --- the parts --------------------------------------------------------------------------------------------------------


def test_a_pass_by_hand_says_its_own_and_only_news(photos: Path) -> None:
    opened = Photos.open(photos)

    def read() -> None:
        for _ in opened.batches(lambda image: torch.zeros(3), 8):
            pass

    (found,) = caught(read)
    assert found.reasons.keys() == BROKEN.keys()
    assert caught(read) == []
    (again,) = caught(names_unread(read))  # a job of its own
    assert again.reasons.keys() == BROKEN.keys()


def test_said_elsewhere_and_in_an_outer_job() -> None:
    @names_unread
    def job() -> None:
        assert hear("here", 3, {"a": "broken"})

    @names_unread
    def outer() -> None:
        for _ in range(3):
            job()

    assert len(caught(job)) == len(caught(outer)) == 1

    def quiet() -> None:
        with said_elsewhere():
            job()

    assert caught(quiet) == []
    assert not hear("here", 3, {"a": "broken"})


def test_it_is_said_where_the_job_fails_too() -> None:
    def fails() -> None:
        hear("here", 1, {"a": "broken"})
        raise ValueError

    with pytest.warns(UnreadPhotos, match="1 of 1 photo could not be read: a"), pytest.raises(ValueError):
        names_unread(fails)()


def test_the_sentence() -> None:
    many = {f"{i}.png": "empty" for i in range(NAMED + 2)}
    assert unread_sentence(9, {}) == ""
    assert unread_sentence(9, many).endswith("4.png (empty); and 2 more")
    assert one_line("a\nb\x1b[31m.png") == "a?b?[31m.png"
    assert len(one_line("x" * 255)) == 120
    assert "\n" not in str(UnreadPhotos("here\udce9", 1, {"caf\udce9\n.png": "empty"}))
    str(UnreadPhotos("here", 1, {"caf\udce9.png": "empty"})).encode()


def test_an_index_that_is_opened_keeps_its_names(tiny: Model, photos: Path, tmp_path: Path) -> None:
    with said_elsewhere():
        entoptic.build_index(tiny, photos, "stage2", out=tmp_path / "index")
    opened = Photos.open(photos)
    (found,) = caught(names_unread(ActivationIndex.open(tmp_path / "index").check), tiny, opened)
    assert found.reasons.keys() == BROKEN.keys()


def test_names_of_any_kind_are_said_in_one_line(photo_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "whole.png")
    for name in ("a\nb.png", "λ 日本.jpg", "x" * 200 + ".png", "-rf.jpg", "'; drop.png"):
        (folder / name).write_bytes(b"")
    answer = run(["check", "tiny:net", "--photos", str(folder)])
    lines = [line for line in answer.err.splitlines() if "could not be read" in line]
    assert len(lines) == 1
    assert "5 of 6 photos" in lines[0]
    assert "a?b.png" in lines[0]

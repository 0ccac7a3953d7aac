"""Commands with one thing wrong: exit code 2 and a sentence, no traceback, no file outside of the output folder."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fuzz.commands import NUMBERS, UNITS, Answer, command, run, start, watched

from entoptic.base.cache import cache_folder
from entoptic.cli.option_table import all_options
from entoptic.cli.verbs import VERBS
from entoptic.errors import UserError
from entoptic.units.grammar import parse

EXAMPLES = int(os.environ.get("ENTOPTIC_FUZZ", "150"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("commands")


@given(st.integers(0, 2**32))
@settings(max_examples=EXAMPLES, deadline=None)
def test_a_command_with_one_thing_wrong(place: Path, photo_folder: Path, seed: int) -> None:
    threads = torch.get_num_threads()
    words = command(random.Random(seed), photo_folder, place / "out" / str(seed))
    with watched(place / "watched", photo_folder) as folders:
        before = folders.files()
        answer = run(words)
        stray = folders.stray(before, words, answer)
    assert not answer.fault(), (answer.fault(), [word[:60] for word in words], answer.err[-2000:])
    assert not stray, (stray, [word[:60] for word in words], answer.err[-2000:])
    torch.set_num_threads(threads)


@pytest.mark.parametrize("where", ["cwd", "home", "cache", "photos"])
def test_a_file_that_does_not_belong_there_is_noticed(tmp_path: Path, where: str) -> None:
    (tmp_path / "photos").mkdir()
    with watched(tmp_path / "watched", tmp_path / "photos") as folders:
        assert Path.home() == tmp_path / "watched" / "home"
        assert cache_folder() == tmp_path / "watched" / "cache"
        assert Path.cwd() == tmp_path / "watched" / "cwd"
        before = folders.files()
        file = (tmp_path if where == "photos" else tmp_path / "watched") / where / "x"
        file.write_text("x")
        refused, done = Answer(2, "", "entoptic: no"), Answer(0, "", "")
        assert folders.stray(before, ["see", "--out", "elsewhere"], refused) == [file]
        assert folders.stray(before, ["see", "--out", str(file.parent)], refused) == []
        assert folders.stray(before, ["see"], done) == ([] if where == "cache" else [file])


PLACES = [
    (verb, option.flag if not option.positional else "")
    for verb, (kind, _) in VERBS.items()
    for option in all_options(kind)
    if option.kind is Path
]


@pytest.mark.parametrize(("verb", "flag"), PLACES)
def test_an_empty_path_is_not_the_folder_here(verb: str, flag: str, photo_folder: Path, tmp_path: Path) -> None:
    if verb == "study-power":
        words = ["study", "power"]
    else:
        words = start(verb, photo_folder, tmp_path / "out")
    if flag:
        words = [*words, flag, ""]
    else:
        place = 2 if verb.startswith(("study", "learn")) else 1
        words = [*words[:place], "", *words[place + 1 :]]
    with watched(tmp_path / "watched", photo_folder) as folders:
        before = folders.files()
        answer = run(words)
        assert not folders.stray(before, words, answer)
    assert answer.code == 2
    assert "must be a path, got an empty text" in answer.err
    assert not answer.fault()


def test_every_number_of_every_verb_is_known() -> None:
    assert {verb for verb, _, _ in NUMBERS} >= {
        "see",
        "frontier",
        "invert",
        "steer",
        "check",
        "index",
        "learn-prior",
        "learn-inverter",
    }
    assert ("see", "--deep-inversion.lr", False) in NUMBERS
    assert ("learn-prior", "--size", True) in NUMBERS


@given(st.text(max_size=60) | st.sampled_from(UNITS))
@settings(max_examples=20 * EXAMPLES, deadline=None)
def test_any_text_is_a_unit_or_refused_in_one_sentence(text: str) -> None:
    try:
        found = parse(text)
    except UserError:
        return
    assert parse(str(found)) == found

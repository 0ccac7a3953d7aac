"""Commands with one thing wrong: exit code 2 and a sentence, no traceback, no file outside of the output folder."""

from __future__ import annotations

import os
import random
from contextlib import chdir
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fuzz.commands import NUMBERS, UNITS, command, run

from entoptic.errors import UserError
from entoptic.units.grammar import parse

EXAMPLES = int(os.environ.get("ENTOPTIC_FUZZ", "150"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("commands")


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@given(st.integers(0, 2**32))
@settings(max_examples=EXAMPLES, deadline=None)
def test_a_command_with_one_thing_wrong(place: Path, photo_folder: Path, seed: int) -> None:
    threads = torch.get_num_threads()
    words = command(random.Random(seed), photo_folder, place / "out" / str(seed))
    before = files(place) | files(photo_folder)
    with chdir(place):
        answer = run(words)
    assert not answer.fault(), (answer.fault(), [word[:60] for word in words], answer.err[-2000:])
    made = (files(place) | files(photo_folder)) - before
    assert answer.code == 0 or not [path for path in made if path.parent.parent != place / "out" / str(seed)], made
    torch.set_num_threads(threads)


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

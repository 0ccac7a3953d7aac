"""Every kind of file, damaged in every way: the answer is one sentence, or the file is left out; nothing else."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fuzz import damage
from tests.fuzz.kinds import Kind, kinds, prepared, restore

from entoptic.errors import UserError

pytest.importorskip("diffusers")

KINDS = kinds()
DAMAGES = {"json": damage.JSON, "tensors": damage.TENSORS, "other": damage.ANY}
EXAMPLES = int(os.environ.get("ENTOPTIC_FUZZ", "150"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with prepared(tmp_path_factory.mktemp("fuzz")) as found:
        yield found


def answer(kind: Kind) -> str:
    """What using a file says: "" where it goes on, else the sentence."""
    try:
        kind.use()
    except UserError as error:
        text = str(error)
        assert text.strip()
        assert "\n" not in text, text
        assert len(text) < 2000, text
        return text
    return ""


@contextlib.contextmanager
def kept(folder: Path, kind: Kind) -> Iterator[Path]:
    """Puts a file of the folder back afterwards."""
    try:
        yield folder / kind.file
    finally:
        restore(folder, kind)


def test_nothing_is_wrong_with_the_files_themselves(folder: Path) -> None:
    for name, kind in KINDS.items():
        assert answer(kind) == "" or name == "direction", name


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_is_refused_or_left_out(folder: Path, name: str) -> None:
    kind = KINDS[name]
    for change in DAMAGES[kind.form].values():
        with kept(folder, kind) as file:
            change(file)
            answer(kind)


RECORDS = [name for name, kind in KINDS.items() if kind.form == "json" and name != "model card"]


@given(st.data())
@settings(max_examples=EXAMPLES, deadline=None)
def test_a_record_with_any_value_in_any_place(folder: Path, data: st.DataObject) -> None:
    kind = KINDS[data.draw(st.sampled_from(RECORDS))]
    with kept(folder, kind) as file:
        record = json.loads(file.read_text())
        place = data.draw(st.sampled_from(damage.places(record)))
        value = data.draw(st.sampled_from(damage.VALUES))
        damage.replace(file, damage.changed(record, place, value, remove=data.draw(st.booleans())))
        answer(kind)


@pytest.mark.parametrize("name", KINDS)
def test_a_pickle_is_never_run(folder: Path, name: str, tmp_path: Path) -> None:
    kind, trap = KINDS[name], tmp_path / "sprung"
    for content in damage.pickles(trap).values():
        with kept(folder, kind) as file:
            damage.replace(file, content)
            answer(kind)
        assert not trap.exists()

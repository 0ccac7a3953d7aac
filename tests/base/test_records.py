"""Records, tensors and arrays that others wrote: read, or refused in one sentence."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from entoptic.base.cache import load_cached, save_cached
from entoptic.base.records import check_fields, parse_json, read_array, read_json, read_tensors
from entoptic.errors import Unreadable


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"{", "line 1"),
        (b"[1]", "is not a JSON object but a list"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[" * 300_000, "nested too deeply"),
        (b'{"a": NaN}', "NaN, which is no number"),
        (b'{"a": 1' + b"0" * 400 + b"}", "a number of 401 digits"),
        (b'{"a": 1' + b"0" * 6000 + b"}", "a number of 6001 digits"),
        (b'{"a": 1e400}', "too large"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(content)
    with pytest.raises(Unreadable, match=words) as caught:
        read_json(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for read in (read_json, read_tensors, lambda path: read_array(path, np.uint8, (None,))):
        for name, words in (("folder", "it is a folder"), ("pipe", "it is no file"), ("none", "the file is missing")):
            with pytest.raises(Unreadable, match=words):
                read(tmp_path / name)
        with pytest.raises(Unreadable, match="no name may hold"):
            read("a\0b")


def test_fields_are_of_their_kinds() -> None:
    kinds = {"n": int, "x": float, "label": str | None, "on": bool}
    check_fields({"n": 1, "x": 2, "label": None, "on": True}, kinds, "it")
    sound = {"n": 1, "x": 0.5, "label": "a", "on": False}
    for name, wrong in (("n", True), ("n", 1.0), ("n", "1"), ("x", float("nan")), ("x", None), ("label", 3), ("on", 1)):
        with pytest.raises(Unreadable, match=f'its "{name}" is'):
            check_fields(sound | {name: wrong}, kinds, "it")
    with pytest.raises(Unreadable, match='has no "x"'):
        check_fields({"n": 1}, kinds, "it")


def test_numbers_that_json_holds_are_read() -> None:
    assert parse_json(f'{{"seed": {2**64 - 1}, "small": -3.5e-7}}', "it") == {"seed": 2**64 - 1, "small": -3.5e-7}


def test_tensors_have_names_shapes_and_finite_values(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, 3), "b": torch.full((2,), float("inf"))}, tmp_path / "t", {"entoptic": "[]"})
    file = read_tensors(tmp_path / "t")
    assert file.get("a", 2, None).shape == (2, 3)
    for call, words in (
        (lambda: file.get("c"), 'it has no "c"'),
        (lambda: file.get("a", 3, 2), '"a" is 2×3, not 3×2'),
        (lambda: file.get("b"), "not finite"),
        (file.about, "not a JSON object"),
    ):
        with pytest.raises(Unreadable, match=words):
            call()


def test_arrays_are_what_they_should_be(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 2), np.uint8))
    assert read_array(tmp_path / "a.npy", np.uint8, (None, 2)).shape == (4, 2)
    for kind, shape in ((np.float32, (4, 2)), (np.uint8, (4, 3)), (np.uint8, (8,))):
        with pytest.raises(Unreadable, match="not the array that belongs there"):
            read_array(tmp_path / "a.npy", kind, shape)
    data = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(data[:-3])
    with pytest.raises(Unreadable, match="not the array"):
        read_array(tmp_path / "a.npy", np.uint8, (4, 2))


def test_a_changed_cache_entry_counts_as_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENTOPTIC_CACHE", str(tmp_path))
    save_cached("kind", "key", {"values": torch.arange(4.0)})
    needs = {"values": 1}
    found = load_cached("kind", "key", needs)
    assert found is not None
    assert torch.equal(found["values"], torch.arange(4.0))
    assert load_cached("kind", "key", {"values": 2}) is None
    assert load_cached("kind", "key", {"others": 1}) is None
    file = tmp_path / "kind" / "key.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    assert load_cached("kind", "key", needs) is None
    save_file({"others": torch.zeros(1)}, file)
    assert load_cached("kind", "key", needs) is None


def test_tensors_in_a_folder_whose_name_is_not_utf8(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"\xff") / "w.safetensors"
    file.parent.mkdir()
    file.write_bytes(save({"a": torch.arange(3.0)}, metadata={"layer": "x"}))
    read = read_tensors(file)
    assert read.get("a", 3).tolist() == [0, 1, 2]
    assert read.metadata == {"layer": "x"}
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(Unreadable, match="not a safetensors file"):
        read_tensors(file)

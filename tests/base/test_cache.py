"""The cache of tensors: what a killed process left in it goes, what another may be writing stays."""

from __future__ import annotations

import os
import time

import pytest
import torch

from entoptic.base.cache import cache_folder, load_cached, save_cached


def test_what_a_killed_process_left_goes_a_day_later() -> None:
    folder = cache_folder() / "kind"
    folder.mkdir(parents=True)
    for name, age in ((".old.part", 2 * 86400), (".new.part", 60), ("mine.txt", 2 * 86400)):
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (time.time() - age,) * 2)
    save_cached("kind", "key", {"a": torch.ones(2)})
    assert sorted(path.name for path in folder.iterdir()) == [".new.part", "key.safetensors", "mine.txt"]
    found = load_cached("kind", "key", {"a": 1})
    assert found is not None
    assert found["a"].tolist() == [1, 1]


@pytest.mark.parametrize("needs", [{"b": 1}, {"a": 2}])
def test_another_entry_counts_as_absent(needs: dict[str, int]) -> None:
    save_cached("kind", "key", {"a": torch.ones(2)})
    assert load_cached("kind", "key", needs) is None

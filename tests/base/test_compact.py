"""Weights in 8 bits, and in parts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from entoptic.base.compact import SCALE, pack, read_parts, unpack, write_parts
from entoptic.errors import Unreadable


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 40), scale=st.sampled_from([1e-12, 1.0, 1e6]))
def test_no_value_moves_by_more_than_half_a_step(seed: int, rows: int, scale: float) -> None:
    weight = scale * torch.randn(rows, 4096 // rows + 1, 3, generator=torch.Generator().manual_seed(seed))
    packed = pack({"a": weight})
    assert packed["a"].dtype == torch.int8
    step_R = packed[SCALE + "a"]
    error = (unpack(packed)["a"] - weight).abs().flatten(1).amax(1)
    assert bool((error <= step_R / 2 * (1 + 1e-4)).all())
    torch.testing.assert_close(step_R, weight.abs().flatten(1).amax(1) / 127)


def test_small_and_flat_weights_are_exact_and_zeros_stay() -> None:
    state = {"bias": torch.randn(9000), "small": torch.randn(8, 8), "zero": torch.zeros(64, 64)}
    back = unpack(pack(state))
    assert all(torch.equal(back[name], state[name]) for name in state)
    again = unpack(pack(back))  # a second time changes nothing more
    assert all(torch.equal(again[name], back[name]) for name in back)


def test_packing_twice_changes_nothing_more() -> None:
    once = unpack(pack({"a": torch.randn(64, 100)}))
    torch.testing.assert_close(unpack(pack(once))["a"], once["a"], rtol=1e-6, atol=0)


def test_parts_are_bounded_and_hold_all(tmp_path: Path) -> None:
    tensors = {str(i): torch.randn(1000) for i in range(10)} | {"large": torch.randn(5000)}
    files = write_parts(tensors, tmp_path, "weights", megabytes=0.01)
    assert len(files) > 4
    assert all(file.stat().st_size < 11_000 for file in files[:-1])
    back = read_parts(sorted(tmp_path.glob("weights-*.safetensors")))
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


def test_no_or_damaged_parts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="no parts"):
        read_parts([])
    (file,) = write_parts({"a": torch.ones(3)}, tmp_path, "weights")
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(Unreadable):
        read_parts([file])

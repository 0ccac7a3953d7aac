"""Fast sorting of rows against torch's stable sort."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from entoptic.base.sorting import sort_rows, sorted_rows

SPECIAL = [0.0, -0.0, 1.0, -1.0, float("inf"), float("-inf"), 1e-45, -1e-45, 3.4e38, -3.4e38]


def check(values: torch.Tensor) -> None:
    expected = torch.sort(values, dim=-1, stable=True)
    found, places = sort_rows(values)
    assert torch.equal(found, expected.values)
    assert torch.equal(sorted_rows(values), expected.values)
    # The bits of each value came along, those of -0 too.
    assert torch.equal(values.gather(-1, places).view(torch.int32), found.view(torch.int32))
    assert torch.equal(places.sort(dim=-1).values, torch.arange(values.shape[-1]).expand_as(places))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 5),
    numbers=st.lists(
        st.one_of(st.sampled_from(SPECIAL), st.floats(width=32, allow_nan=False)), min_size=1, max_size=40
    ),
    seed=st.integers(0, 100),
)
def test_any_numbers(rows: int, numbers: list[float], seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    table = torch.tensor(numbers, dtype=torch.float32)
    check(torch.stack([table[torch.randperm(len(table), generator=draw)] for _ in range(rows)]))


def test_equal_values_keep_the_order_of_their_places() -> None:
    values = torch.randint(0, 3, (8, 5000), generator=torch.Generator().manual_seed(0)).float()
    assert torch.equal(sort_rows(values)[1], torch.sort(values, dim=-1, stable=True).indices)


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_nothing(threads: int) -> None:
    values = torch.randn(7, 3, 20_000, generator=torch.Generator().manual_seed(1))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        check(values)
    finally:
        torch.set_num_threads(before)


def test_layouts_kinds_and_edges() -> None:
    draw = torch.Generator().manual_seed(2)
    base = torch.randn(2, 6, 9, 9, generator=draw).contiguous(memory_format=torch.channels_last)
    check(base.flatten(2))
    check(torch.randn(30, 4, generator=draw).T)  # not contiguous
    check(torch.randn(1, generator=draw))
    for kind in (torch.float64, torch.float16, torch.bfloat16):
        values = torch.randn(4, 50, generator=draw).to(kind)
        assert torch.equal(sort_rows(values)[0], torch.sort(values, dim=-1, stable=True).values)
    empty = torch.zeros(3, 0)
    assert sort_rows(empty)[0].shape == (3, 0)
    assert sorted_rows(empty).shape == (3, 0)


def test_nan_comes_last() -> None:
    values = torch.tensor([[float("nan"), 1.0, -float("nan"), -2.0]])
    found, places = sort_rows(values)
    assert found[0, :2].tolist() == [-2.0, 1.0]
    assert bool(found[0, 2:].isnan().all())
    assert sorted(places[0].tolist()) == [0, 1, 2, 3]
    assert sorted_rows(values)[0, :2].tolist() == [-2.0, 1.0]


def test_the_input_is_left_as_it_is_and_no_gradient_is_kept() -> None:
    values = torch.randn(4, 100, requires_grad=True)
    before = values.detach().clone()
    found, _ = sort_rows(values)
    assert torch.equal(values.detach(), before)
    assert not found.requires_grad
    assert not sorted_rows(values).requires_grad
    assert torch.equal(values.detach(), before)

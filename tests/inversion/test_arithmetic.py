"""Sums with maps against loops and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from entoptic.errors import UserError
from entoptic.inversion.arithmetic import (
    cell_distance,
    class_edit,
    class_mean,
    compose,
    interpolate,
    locality,
    pixel_change,
    pooled_grid,
    region_mask,
    shuffle,
)
from entoptic.inversion.configs import Sampling


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


A, B = 3 * noise(6, 3, 4), noise(6, 3, 4, seed=1)


# --- mixtures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixing", ["linear", "norm", "slerp"])
def test_the_ends_are_the_maps_themselves(mixing: str) -> None:
    assert torch.equal(interpolate(A, B, 0, mixing), A)
    assert torch.equal(interpolate(A, B, 1, mixing), B)
    near = interpolate(A, B, 1e-4, mixing)
    assert torch.allclose(near, A, atol=1e-2)
    assert interpolate(A, B, 0, mixing).data_ptr() != A.data_ptr()


@given(st.floats(0, 1), st.integers(0, 1000), st.sampled_from(["norm", "slerp"]))
@settings(max_examples=40)
def test_norms_are_interpolated_exactly(weight: float, seed: int, mixing: str) -> None:
    a, b = noise(5, 2, 3, seed=seed), 4 * noise(5, 2, 3, seed=seed + 1)
    found = interpolate(a, b, weight, mixing)
    wanted = (1 - weight) * a.norm(dim=0) + weight * b.norm(dim=0)
    assert torch.allclose(found.norm(dim=0), wanted, rtol=1e-4, atol=1e-5)
    # Linear mixtures are never longer.
    assert bool((interpolate(a, b, weight).norm(dim=0) <= wanted + 1e-4).all())


@given(st.floats(-0.5, 1.5), st.integers(0, 1000), st.sampled_from(["linear", "norm", "slerp"]))
@settings(max_examples=40)
def test_batches_positions_and_order_do_not_matter(weight: float, seed: int, mixing: str) -> None:
    a, b = noise(2, 5, 2, 3, seed=seed), noise(2, 5, 2, 3, seed=seed + 1)
    whole = interpolate(a, b, weight, mixing)
    assert torch.allclose(interpolate(a[1], b[1], weight, mixing), whole[1], atol=1e-5)
    assert torch.allclose(interpolate(a[..., 1:], b[..., 1:], weight, mixing), whole[..., 1:], atol=1e-5)
    assert torch.allclose(interpolate(b, a, 1 - weight, mixing), whole, rtol=1e-3, atol=1e-3)


def test_slerp_moves_at_constant_angle() -> None:
    for weight in (0.2, 0.5, 0.9):
        found = interpolate(A, B, weight, "slerp")
        for y in range(3):
            for x in range(4):
                a, b, m = (v[:, y, x].double() for v in (A, B, found))
                whole = math.acos(float(a @ b / a.norm() / b.norm()))
                part = math.acos(float(a @ m / a.norm() / m.norm()))
                assert part == pytest.approx(weight * whole, abs=1e-4)


def test_directions_that_do_not_exist() -> None:
    a = torch.tensor([1.0, 0.0])[:, None, None]
    zero = torch.zeros(2, 1, 1)
    for mixing in ("norm", "slerp"):
        assert torch.equal(interpolate(a, -a, 0.5, mixing), zero)  # opposite: no direction is right
        assert torch.allclose(interpolate(a, zero, 0.25, mixing), 0.75 * a)
        assert torch.allclose(interpolate(a, 2 * a, 0.5, mixing), 1.5 * a)
        assert bool(interpolate(zero, zero, 0.3, mixing).eq(0).all())
    assert bool(interpolate(a, torch.flip(a, [0]) * 0.1, 5.0, "norm").eq(0).all())  # a negative norm


def test_what_cannot_be_mixed_is_refused() -> None:
    with pytest.raises(UserError, match='did you mean "slerp"'):
        interpolate(A, B, 0.5, "slurp")
    with pytest.raises(UserError, match="two of one layer"):
        interpolate(A, B[:5], 0.5)
    with pytest.raises(UserError, match="must be a number"):
        interpolate(A, B, math.nan)


# --- composition ---------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**12 - 1))
@settings(max_examples=20)
def test_composition_position_by_position(bits: int) -> None:
    mask = torch.tensor([[bool(bits >> (4 * y + x) & 1) for x in range(4)] for y in range(3)])
    found = compose(A, B, mask)
    for y in range(3):
        for x in range(4):
            assert torch.equal(found[:, y, x], (B if mask[y, x] else A)[:, y, x])
    assert torch.equal(compose(A[None], B[None], mask)[0], found)


def test_regions_in_cells_and_pixels() -> None:
    cells = region_mask((7, 7), (2, 1, 4, 7))
    assert cells.nonzero().tolist() == [[y, x] for y in (2, 3) for x in range(1, 7)]
    assert torch.equal(region_mask((7, 7), (64, 32, 128, 224), pixels=(224, 224)), cells)
    # A cell counts by its middle: of 8 pixels a side, those at 4, 12, …
    found = region_mask((4, 4), (4.5, 0, 13, 32), pixels=(32, 32))
    assert found.nonzero()[:, 0].unique().tolist() == [1]
    for region, words in [
        ((0, 0, 8, 3), "not inside 7×7 cells"),
        ((3, 3, 3, 4), "top < bottom"),
        ((0, 0, 1), "3 numbers"),
    ]:
        with pytest.raises(UserError, match=words):
            region_mask((7, 7), region)
    with pytest.raises(UserError, match="one cell is 8×8"):
        region_mask((4, 4), (5, 5, 7, 7), pixels=(32, 32))
    with pytest.raises(UserError, match="bools"):
        compose(A, B, torch.ones(3, 4))


# --- classes and controls ------------------------------------------------------------------------------------------


def test_class_edits_add_the_step_between_means() -> None:
    some, others = noise(4, 6, 3, 4, seed=2), noise(5, 6, 3, 4, seed=3)
    one, two = class_mean(some), class_mean(others)
    assert float(one[2]) == pytest.approx(sum(float(m[2].mean()) for m in some) / 4, abs=1e-6)
    assert torch.allclose(class_edit(A, one, two), A - one + two)
    assert torch.allclose(class_edit(class_edit(A, one, two), one, two, -1.0), A, atol=1e-5)
    assert torch.allclose(class_edit(A, some.mean(0), others.mean(0), 2.0), A + 2 * (others.mean(0) - some.mean(0)))


def test_a_shuffle_keeps_the_vectors_and_has_a_generator_for_each() -> None:
    maps = noise(3, 5, 4, 4)
    found = shuffle(maps, [torch.Generator().manual_seed(s) for s in (0, 1, 0)])
    again = shuffle(maps[2:], [torch.Generator().manual_seed(0)])
    assert torch.equal(found[2:], again)
    assert not torch.equal(found[0], maps[0])
    for before, after in zip(maps, found):
        rows = [sorted(map(tuple, m.flatten(1).T.tolist())) for m in (before, after)]
        assert rows[0] == rows[1]


@pytest.mark.parametrize("cells", [1, 2, 4, 7])
def test_pooled_grids_are_means_over_their_cells(cells: int) -> None:
    maps = noise(2, 3, 7, 8)
    found = pooled_grid(maps, cells)
    for y in range(7):
        for x in range(8):
            mates = [
                maps[:, :, v, u] for v in range(7) for u in range(8)
                if v * cells // 7 == y * cells // 7 and u * cells // 8 == x * cells // 8
            ]  # fmt: skip
            assert torch.allclose(found[:, :, y, x], torch.stack(mates).mean(0), atol=1e-5)
    assert torch.allclose(pooled_grid(found, cells), found, atol=1e-5)
    with pytest.raises(UserError, match="1 to 7 cells"):
        pooled_grid(maps, 8)


# --- locality ------------------------------------------------------------------------------------------------------


def test_distances_from_the_region_pixel_by_pixel() -> None:
    mask = torch.zeros(3, 4, dtype=torch.bool)
    mask[1, 1] = mask[2, 3] = True
    found = cell_distance(mask, (12, 12))
    for y in range(12):
        for x in range(12):
            v, u = (y + 0.5) / 4, (x + 0.5) / 3
            each = []
            for row, column in ((1, 1), (2, 3)):
                down = max(row - v, 0, v - row - 1)
                across = max(column - u, 0, u - column - 1)
                each.append(math.hypot(down, across))
            assert float(found[y, x]) == pytest.approx(min(each), abs=1e-5)
    with pytest.raises(UserError, match="empty"):
        cell_distance(torch.zeros(3, 4, dtype=torch.bool), (12, 12))


def test_a_planted_change_is_found_where_it_is() -> None:
    mask = region_mask((4, 4), (0, 0, 2, 2))
    before = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    after = before.clone()
    after[:, :16, :16] += 0.3  # in the region
    after[0, 20, 3] += 0.6  # half a cell from it
    after[1, 31, 31] += 0.1  # far away
    change = pixel_change(before, after)
    assert float(change[0, 0]) == pytest.approx(0.3 * math.sqrt(3), abs=1e-6)
    curve = locality(change, mask)
    assert curve.distances == [0, 1, 2, 3]
    assert sum(curve.pixels) == 32 * 32
    assert curve.changes[0] == curve.inside == pytest.approx(0.3 * math.sqrt(3), abs=1e-6)
    assert curve.changes[1] * curve.pixels[1] == pytest.approx(0.6, abs=1e-5)
    assert curve.changes[2] == pytest.approx(0, abs=1e-6)
    assert curve.outside * sum(curve.pixels[2:]) == pytest.approx(0.1, abs=1e-5)
    assert curve.ratio == pytest.approx(curve.inside / curve.outside)
    assert locality(torch.zeros(32, 32), mask).ratio is None
    assert math.isnan(locality(change, torch.ones(4, 4, dtype=torch.bool)).outside)


# --- options -------------------------------------------------------------------------------------------------------


def test_options_say_what_they_flatter_and_refuse_nonsense() -> None:
    assert Sampling().looked_at == Sampling(best_of=1, steps=4).looked_at == ""
    assert Sampling(best_of=3, pull=2).looked_at == "best of 3 by the cosine; pulled by 2 gradient steps on the cosine"
    for wrong in ({"steps": 0}, {"best_of": 0}, {"pull": -1}, {"guidance": math.nan}, {"strength": -1.0}):
        with pytest.raises(UserError):
            Sampling(**wrong)  # type: ignore[arg-type]

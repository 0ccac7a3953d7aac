"""Intervals over units, distances with paired differences, and means of what was measured, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from entoptic.base.estimates import mean_interval, t_quantile, wilson
from entoptic.bench.distances import distances
from entoptic.bench.intervals import Interval, difference, difference_of_shares, jackknife, mean, mean_of_shares
from entoptic.bench.measure import Values
from entoptic.bench.results import Cell, Results
from entoptic.bench.tables import behind
from entoptic.metrics.distribution import kid, kid_interval


def test_shares_have_wilsons_interval_over_units() -> None:
    found = mean_of_shares([1.0, 0.5, 0.0, 1.0])
    assert found.value == 0.625
    assert (found.low, found.high) == wilson(2.5, 4)
    sure = mean_of_shares([1.0] * 16)
    assert sure.low < 0.85, "sixteen units that agree leave doubt"


def test_means_have_students_interval() -> None:
    values = [0.2, 0.4, 0.9]
    found = mean(values)
    assert (found.low, found.high) == mean_interval(values)
    assert mean([0.1, 0.0, 0.9], (0.0, 2.0)).low == 0.0
    gap = difference([1.0, 2.0, 4.0], [0.5, 1.0, 2.0])
    assert (gap.low, gap.high) == mean_interval([0.5, 1.0, 2.0])


def test_differences_of_shares_are_paired() -> None:
    ours, theirs = [1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0]
    together = difference_of_shares(ours, theirs)
    crossed = difference_of_shares(ours, list(reversed(theirs)))
    assert together.value == crossed.value == pytest.approx(0.125)
    assert together.high - together.low < crossed.high - crossed.low
    certain = difference_of_shares([1.0] * 8, [0.0] * 8)
    assert certain.value == 1.0
    assert 0.3 < certain.low < 0.8, "eight units that agree leave doubt"
    same = difference_of_shares([1.0] * 8, [1.0] * 8)
    assert same.low < 0 < same.high


@pytest.mark.parametrize(("p", "q", "together"), [(0.9, 0.5, 0.0), (0.9, 0.5, 0.8), (0.5, 0.5, 0.5), (0.97, 0.1, 0.0)])
def test_the_interval_of_a_difference_covers_it(p: float, q: float, together: float) -> None:
    """In units of 16, with answers of both methods from one draw in a share `together` of the units."""
    draw = torch.Generator().manual_seed(0)
    covered, rounds = 0, 1000
    for _ in range(rounds):
        a, b, shared = (torch.rand(16, generator=draw) for _ in range(3))
        b = torch.where(shared < together, a, b)
        found = difference_of_shares((a < p).double().tolist(), (b < q).double().tolist())
        covered += found.low <= p - q <= found.high
    assert covered / rounds >= 0.93


def test_the_jackknife_of_a_mean_is_students_interval() -> None:
    values = {"a": 1.0, "b": 3.0, "c": 8.0}
    left_out = {k: (sum(values.values()) - v) / 2 for k, v in values.items()}
    found = jackknife(4.0, left_out)
    assert (found.low, found.high) == pytest.approx(mean_interval(list(values.values())))


# --- distances -------------------------------------------------------------------------------------------------------


def normal(n: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(seed)) + shift


def test_kernel_distances_are_those_of_the_metric_with_intervals_over_units() -> None:
    real, ours, theirs = normal(120, 0), normal(24, 1, 1.0), normal(24, 2, 2.5)
    alone = [str(k) for k in range(24)]
    cells = {
        (c.method, c.column): c for c in distances("classes", "net", {"a": (ours, alone), "b": (theirs, alone)}, real)
    }
    found = cells["a", "kid"].found
    assert found is not None
    assert found.value == pytest.approx(kid(ours, real))
    low, high = kid_interval(ours, real)
    wider = t_quantile(23) / 1.96
    assert found.high - found.low == pytest.approx((high - low) * wider, rel=1e-4), "one picture of each unit"
    gap = cells["b", "kid"].gap
    assert gap is not None
    assert gap.value == pytest.approx(kid(theirs, real) - kid(ours, real))
    assert gap.low > 0, "what lies far away is farther"
    assert cells["a", "kid"].gap is None
    assert cells["a", "kid"].real is not None
    assert abs(cells["a", "kid"].real) < found.value
    assert cells["a", "frechet_infinite"].found is not None
    assert cells["a", "frechet_infinite"].over == "pictures"


def test_copies_of_a_picture_are_no_further_units() -> None:
    real, rows = normal(120, 0), normal(8, 1, 0.5)
    copies = rows.repeat_interleave(4, 0)
    as_units = distances("s", "net", {"a": (copies, [str(k) for k in range(32)])}, real)[0]
    of_units = distances("s", "net", {"a": (copies, [str(k // 4) for k in range(32)])}, real)[0]
    assert as_units.found is not None
    assert of_units.found is not None
    assert of_units.n == 8
    assert of_units.found.high - of_units.found.low > 1.5 * (as_units.found.high - as_units.found.low)


def test_few_pictures_are_refused() -> None:
    real = normal(120, 0)
    near, _, far = distances("s", "net", {"a": (normal(12, 1), ["u"] * 12)}, real)
    assert near.found is None
    assert "at least 20 pictures, there are 12" in near.reason
    alone, _, _ = distances("s", "net", {"a": (normal(24, 1), ["u"] * 24)}, real)
    assert alone.found is None
    assert "2 units" in alone.reason
    wide = torch.randn(24, 64, generator=torch.Generator().manual_seed(0))
    far = distances("s", "net", {"a": (wide, [str(k) for k in range(24)])}, torch.randn(200, 64))[2]
    assert "at least 130 pictures" in far.reason
    assert {c.reason for c in distances("s", "net", {"a": (wide, [])}, None)} == {"no photos were given"}


def by_hand(pictures: Tensor, photos: Tensor, k: int) -> Tensor:
    """Whether a picture is nearer to a photo than this photo's k-th neighbour is, photo by photo."""
    gaps = [[float((a - b).norm()) for b in photos] for a in photos]
    reach = [sorted(row)[k] for row in gaps]
    return torch.tensor(
        [float(any(float((x - p).norm()) <= r for p, r in zip(photos, reach))) for x in pictures],
        dtype=torch.float64,
    )


def test_precision_and_recall_are_those_of_the_metrics_with_intervals_over_units() -> None:
    real, ours, far = normal(130, 0), normal(60, 1, 0.5), normal(60, 2, 9.0)
    units = [str(k // 3) for k in range(60)]
    cells = {
        (c.method, c.column): c
        for c in distances("s", "net", {"a": (ours, units), "b": (far, units)}, real, near=True)
    }  # fmt: skip
    inside = by_hand(ours, real, 3)
    found = cells["a", "precision"]
    assert 0.2 < float(inside.mean()) < 1
    assert found.found == mean_of_shares([float(inside[3 * k : 3 * k + 3].mean()) for k in range(20)])
    assert (found.n, found.over) == (20, "units")
    assert found.real is not None
    assert found.real > 0.8, "photos lie among photos"
    lost = cells["b", "precision"]
    assert lost.found is not None
    assert lost.gap is not None
    assert lost.found.value == 0
    assert lost.gap == difference_of_shares([0.0] * 20, [float(inside[3 * k : 3 * k + 3].mean()) for k in range(20)])
    covered = cells["a", "recall"]
    assert covered.found is not None
    share = float(by_hand(real, ours, 3).mean())
    assert covered.found.value == pytest.approx(share)
    assert (covered.found.low, covered.found.high) == wilson(round(share * 130), 130)
    assert (covered.n, covered.over) == (130, "photos")
    assert "precision" not in {c.column for c in distances("s", "net", {"a": (ours, units)}, real)}


def test_the_gaussian_kernel_distance_is_that_of_the_metric() -> None:
    real, ours, theirs = normal(120, 0), normal(24, 1, 1.0), normal(24, 2, 2.5)
    alone = [str(k) for k in range(24)]
    rows = {"a": (ours, alone), "b": (theirs, alone)}
    for bandwidth in (None, 2.0):
        cells = {(c.method, c.column): c for c in distances("s", "net", rows, real, bandwidth=bandwidth)}
        width = float(torch.pdist(real.double()).median()) if bandwidth is None else bandwidth

        def kernel(a: Tensor, b: Tensor, width: float = width) -> Tensor:
            return (-((a[:, None].double() - b[None].double()) ** 2).sum(2) / (2 * width**2)).exp()

        def other(x: Tensor) -> float:
            return float((kernel(x, x).sum() - len(x)) / (len(x) * (len(x) - 1)))

        found, gap = cells["a", "cmmd"].found, cells["b", "cmmd"].gap
        assert found is not None
        assert gap is not None
        by_hand = {name: other(x) + other(real) - 2 * float(kernel(x, real).mean()) for name, (x, _) in rows.items()}
        assert found.value == pytest.approx(by_hand["a"])
        assert gap.value == pytest.approx(by_hand["b"] - by_hand["a"])
        assert gap.low > 0, "what lies far away is farther"


def test_few_pictures_have_no_precision_but_a_reason() -> None:
    cells = distances("s", "net", {"a": (normal(49, 1), [str(k) for k in range(49)])}, normal(120, 0), near=True)
    reasons = {c.column: c.reason for c in cells}
    assert (
        reasons["precision"]
        == "precision needs at least 50 pictures, there are 49: " + reasons["recall"].partition(": ")[2]
    )
    assert "at least 50 pictures" in reasons["recall"]
    assert {c.reason for c in distances("s", "net", {"a": (normal(60, 1), [])}, None, near=True)} == {
        "no photos were given"
    }


# --- what is averaged ------------------------------------------------------------------------------------------------


def test_seeds_are_averaged_within_units_and_compared_over_those_that_both_have() -> None:
    values = Values()
    for unit, found in {"a": (1.0, 0.0), "b": (1.0, 1.0)}.items():
        for one in found:
            values.add("first", "self_top1", "", unit, one)
    values.add("second", "self_top1", "", "a", 1.0)
    values.add("second", "self_top1", "", "c", 0.0)
    first, second = values.cells("s", ["first", "second"])
    assert first.found is not None
    assert (first.found.value, first.n, first.gap) == (0.75, 2, None)
    assert second.gap is not None
    assert second.gap.value == pytest.approx(0.5), "over unit a alone"
    assert second.n == 2


def test_few_units_have_no_mean() -> None:
    values = Values()
    values.add("first", "robustness", "", "a", 0.7)
    values.reasons["second", "robustness", ""] = "nothing drives it"
    first, second = values.cells("s", ["first", "second"])
    assert first.found is None
    assert first.reason == "1 unit, 3 are needed"
    assert second.reason == "nothing drives it"
    assert not math.isnan(first.n)


def test_where_the_first_method_is_behind_is_read_off_the_intervals() -> None:
    def cell(method: str, column: str, gap: tuple[float, float] | None) -> Cell:
        found = Interval(value=0.5, low=0.4, high=0.6)
        between = None if gap is None else Interval(value=sum(gap) / 2, low=gap[0], high=gap[1])
        return Cell(subject="classes", method=method, column=column, found=found, n=9, gap=between)

    cells = [cell("ours", c, None) for c in ("self_top1", "robustness", "kid", "diversity")]
    cells += [cell("theirs", "self_top1", (0.1, 0.3)), cell("other", "self_top1", (-0.3, -0.1))]
    cells += [cell("theirs", "robustness", (-0.1, 0.3)), cell("theirs", "diversity", (0.1, 0.3))]
    cells += [cell("theirs", "kid", (0.1, 0.3)), cell("other", "kid", (-0.3, -0.1))]  # lower is better
    table = Results(recipe={}, measured_with={}, cells=tuple(cells), costs=(), failures=(), about={})
    assert behind(table) == [
        "classes: ahead of ours: theirs in itself, top-1 by +0.20 [+0.10, +0.30]; other in kernel distance by "
        "-0.200 [-0.300, -0.100]. Not told apart: in robustness theirs."
    ]

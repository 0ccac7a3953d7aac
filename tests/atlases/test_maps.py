"""Maps of points whose truth is known, and how faithfulness judges them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from entoptic.atlases import contract, mercat
from entoptic.atlases.confetti import hiding_weight, without
from entoptic.atlases.contract import MAPS, Layout, MapProblem, Space, check_size, find_map, make_map
from entoptic.atlases.distances import all_of, angular, directions, euclidean, held, on_map, principal, standardised
from entoptic.atlases.faithfulness import measure_map, spearman
from entoptic.atlases.known import of_kinds, of_numbers, together
from entoptic.atlases.mercat import corners, descend
from entoptic.base.progress import silent
from entoptic.errors import NotAvailable, OutOfReach, UserError


def problem(vectors: np.ndarray, **more: Any) -> MapProblem:
    given = {"neighbours": 15, "seed": 0, "progress": silent} | more
    return MapProblem(vectors_ND=np.asarray(vectors, np.float32), **given)


def needed(name: str) -> None:
    for package in MAPS[name].packages:
        pytest.importorskip(package, reason=f"{package} is not installed (the extra atlas)")


def groups(
    sizes: tuple[int, ...], spreads: tuple[float, ...], dimensions: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Gaussians far apart, and the number of each point's."""
    rng = np.random.default_rng(seed)
    points = [rng.normal(0, spread, (n, dimensions)) + 60 * k for k, (n, spread) in enumerate(zip(sizes, spreads))]
    return np.concatenate(points), np.repeat(range(len(sizes)), sizes)


def radii(positions: np.ndarray, of: np.ndarray) -> np.ndarray:
    """The root mean square distance of each group's points from their mean."""
    parts = [positions[of == k] for k in np.unique(of)]
    return np.array([np.sqrt(((part - part.mean(0)) ** 2).sum(1).mean()) for part in parts])


# --- dtSNE ------------------------------------------------------------------------------------------------------------


def test_dtsne_recovers_radii_in_the_ratio_of_the_spreads() -> None:
    points, of = groups((60, 60, 60), (1, 3, 9), 10)
    found = radii(make_map(MAPS["dtsne"], problem(points)).positions, of)
    ratios = found / found[0]
    assert 2.4 < ratios[1] < 3.6
    assert 7.2 < ratios[2] < 10.8


@pytest.mark.slow
def test_dtsne_is_led_less_by_how_many_points_a_group_has() -> None:
    needed("tsne")
    points, of = groups((40, 120, 360), (1, 1, 1), 2, seed=2)
    grown = {}
    for name in ("dtsne", "tsne"):
        found = radii(make_map(MAPS[name], problem(points)).positions, of)
        grown[name] = found[2] / found[0]
    assert grown["dtsne"] < 2 < grown["tsne"]


@pytest.mark.parametrize("name", ["tsne", "umap"])
@pytest.mark.slow
def test_other_maps_lose_the_spreads(name: str) -> None:
    needed(name)
    points, of = groups((60, 60, 60), (1, 3, 9), 10)
    found = radii(make_map(MAPS[name], problem(points)).positions, of)
    assert (found / found[0]).max() < 3


def test_two_points_in_one_place_are_mapped() -> None:
    points, _ = groups((20, 20), (1, 3), 4)
    points[1:18] = points[0]
    assert np.isfinite(make_map(MAPS["dtsne"], problem(points)).positions).all()


# --- CONFETTI ---------------------------------------------------------------------------------------------------------


def is_metric(d: np.ndarray) -> bool:
    apart = ~np.eye(len(d), dtype=bool)
    triangle = d[:, None, :] <= d[:, :, None] + d.T[None] + 1e-9
    return bool((np.diag(d) == 0).all() and (d[apart] > 0).all() and np.allclose(d, d.T) and triangle.all())


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 12), weight=st.floats(0.01, 64), kinds=st.integers(1, 4))
def test_what_remains_without_the_known_is_a_metric(seed: int, n: int, weight: float, kinds: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(0, 1, (n, 3))
    own = all_of(euclidean(points), n)
    known = together([of_kinds(rng.integers(0, kinds, n).tolist(), points), of_numbers(rng.normal(0, 1, (n, 2)))])
    assert is_metric(without(own, known, weight))


def test_the_same_known_distance_everywhere_changes_no_neighbour() -> None:
    own = all_of(euclidean(np.random.default_rng(0).normal(0, 1, (40, 3))), 40)
    remains = without(own, 1 - np.eye(40), 2.0)
    assert (np.argsort(own, 1) == np.argsort(remains, 1)).all()


def two_systems(n: int = 240) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points in two independent systems of groups in dimensions of their own; the first is three times as strong."""
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 4, n), rng.integers(0, 4, n)
    places = rng.normal(0, 1, (2, 4, 4))
    places /= np.linalg.norm(places, axis=2, keepdims=True)
    strong, weak = 18 * places[0, first], 6 * places[1, second]
    return np.concatenate([strong, weak], 1) + rng.normal(0, 1, (n, 8)), first, second


def same_label(positions: np.ndarray, labels: np.ndarray, near: int = 10) -> float:
    """The share of the nearest on a map that have a point's label, less what is expected of a random map."""
    n = len(positions)
    distances = all_of(euclidean(positions), n) + np.diag(np.full(n, np.inf))
    nearest = np.argsort(distances, 1)[:, :near]
    by_chance = np.mean([(labels == one).sum() - 1 for one in labels]) / (n - 1)
    return float((labels[nearest] == labels[:, None]).mean() - by_chance)


def test_confetti_hides_the_dominant_structure_and_shows_the_other() -> None:
    needed("confetti")
    points, first, second = two_systems()
    known = all_of(euclidean(points[:, :4]), len(points))
    plain = make_map(MAPS["tsne"], problem(points)).positions
    assert same_label(plain, first) > 0.6
    layout = make_map(MAPS["confetti"], problem(points, known_NN=known))
    assert same_label(layout.positions, first) < 0.1
    assert same_label(layout.positions, second) > 0.3
    assert layout.about["lambda"] > 0
    rows = on_map(layout.positions, layout.space)
    leak = measure_map(layout.asked, rows, len(points), known=held(known))["known"]
    assert abs(leak.value) < 0.15
    before = measure_map(layout.asked, on_map(plain, Space.PLANE), len(points), known=held(known))["known"]
    assert before.value > 0.5
    by_class = make_map(MAPS["confetti"], problem(points, known_NN=of_kinds(first.tolist(), points)))
    assert same_label(by_class.positions, first) < 0.5 * same_label(
        plain, first
    )  # distances within a class stay shorter


def test_the_weight_makes_neighbours_as_far_apart_in_the_known_as_any() -> None:
    points, first, _ = two_systems()
    own, known = all_of(euclidean(points), len(points)), of_kinds(first.tolist(), points)
    remains = without(own, known, hiding_weight(own, known)) + np.diag(np.full(len(points), np.inf))
    nearest = np.argsort(remains, 1)[:, :10]
    assert np.take_along_axis(known, nearest, 1).mean() == pytest.approx(known.sum() / 240 / 239, abs=0.02)


def test_confetti_needs_something_known() -> None:
    needed("confetti")
    points, _, _ = two_systems(40)
    with pytest.raises(UserError, match="--known class"):
        make_map(MAPS["confetti"], problem(points))
    with pytest.raises(UserError, match="the same for all points"):
        make_map(MAPS["confetti"], problem(points, known_NN=np.zeros((40, 40))))


# --- Mercat -----------------------------------------------------------------------------------------------------------


def on_sphere(n: int = 120, seed: int = 0) -> np.ndarray:
    return directions(np.random.default_rng(seed).normal(0, 1, (n, 3)))


def fit(a: np.ndarray, b: np.ndarray) -> float:
    """The mean angle, in degrees, between points after the best rotation or reflection of a onto b."""
    u, _, v = np.linalg.svd(a.T @ b)
    return float(np.degrees(np.arccos(np.clip(((a @ u @ v) * b).sum(1), -1, 1))).mean())


def test_mercat_recovers_points_that_lie_on_the_sphere() -> None:
    truth = on_sphere()
    turn = np.linalg.qr(np.random.default_rng(1).normal(0, 1, (9, 9)))[0][:, :3]
    layout = make_map(MAPS["mercat"], problem(5 * truth @ turn.T))
    assert layout.space is Space.SPHERE
    assert np.allclose(np.linalg.norm(layout.positions, axis=1), 1, atol=1e-5)
    assert fit(layout.positions.astype(float), truth) < 0.5


def test_mercat_recovers_them_from_a_start_that_is_wrong() -> None:
    truth = on_sphere()
    moved = directions(truth + np.random.default_rng(2).normal(0, 0.5, truth.shape))
    assert fit(moved, truth) > 20
    found = descend(torch.from_numpy(truth).float(), torch.from_numpy(moved).float(), problem(truth))
    assert fit(found.numpy().astype(float), truth) < 3


def test_corners_of_an_octant_are_right_angles() -> None:
    x = torch.eye(3)
    j, k = torch.tensor([[1], [2], [0]]), torch.tensor([[2], [0], [1]])
    assert corners(x, j, k).flatten().tolist() == pytest.approx([np.pi / 2] * 3, abs=1e-3)


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if "map" in name else ()) for name in MAPS])
def test_the_same_points_give_the_same_bytes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    needed(name)
    monkeypatch.setattr(mercat, "STEPS", 30)
    points, of = groups((20, 20, 20), (1, 1, 1), 5)
    known = of_kinds((of % 2).tolist(), points)
    first, again = (make_map(MAPS[name], problem(points, known_NN=known)).positions for _ in range(2))
    assert first.tobytes() == again.tobytes()
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    if name in ("confetti", "mercat"):  # where a seed decides
        assert make_map(MAPS[name], problem(points, known_NN=known, seed=1)).positions.tobytes() != first.tobytes()


def test_a_map_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "find_spec", lambda name: None)
    for name, card in MAPS.items():
        if card.packages:
            with pytest.raises(
                NotAvailable, match=r"pip install 'entoptic\[atlas\]'; without it there are dtsne, mercat"
            ):
                find_map(name)
        else:
            assert find_map(name) is card


def test_sizes_and_names_are_checked() -> None:
    with pytest.raises(UserError, match='there is no map "tnse"; did you mean "tsne"'):
        find_map("tnse")
    with pytest.raises(OutOfReach, match="at least 10 photos, there are 9"):
        check_size(MAPS["tsne"], 9, "photos")
    with pytest.raises(OutOfReach, match=r"at most 5,000 photos, there are 5,001; give fewer, or --map umap or tsne"):
        check_size(MAPS["dtsne"], 5001, "photos")


# --- faithfulness -----------------------------------------------------------------------------------------------------


def test_a_random_map_scores_at_chance_and_the_points_themselves_at_1() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(0, 1, (400, 2)) * rng.lognormal(0, 0.5, (400, 1))
    at_random, same = (
        measure_map(euclidean(points), euclidean(shown), 400) for shown in (rng.normal(0, 1, (400, 2)), 3 * points + 1)
    )
    for name in ("neighbours", "distances", "density"):
        low, high = at_random[name].interval
        assert low <= at_random[name].chance <= high
        assert not at_random[name].above_chance
        assert same[name].value == pytest.approx(1)
        assert same[name].above_chance
    assert at_random["neighbours"].chance == pytest.approx(10 / 399)
    assert (same.kept == 1).all()


def test_intervals_hold_what_they_say() -> None:
    """Of random maps, about 95 % of the intervals of the distance correlation hold 0."""
    held_by = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        measured = measure_map(euclidean(rng.normal(0, 1, (60, 3))), euclidean(rng.normal(0, 1, (60, 2))), 60)[
            "distances"
        ]
        held_by += measured.interval[0] <= 0 <= measured.interval[1]
    assert held_by >= 34


def test_few_points_drawn_of_many_tell_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from entoptic.atlases import faithfulness

    rng = np.random.default_rng(0)
    points = rng.normal(0, 1, (500, 3))
    rows, shown = euclidean(points), euclidean(points[:, :2])
    whole = measure_map(rows, shown, 500)
    monkeypatch.setattr(faithfulness, "ANCHORS", 150)
    monkeypatch.setattr(faithfulness, "PAIRED", 100)
    drawn = measure_map(rows, shown, 500)
    assert drawn["neighbours"].n == 150
    assert drawn["neighbours"].value == pytest.approx(whole["neighbours"].value, abs=0.06)
    assert drawn["distances"].value == pytest.approx(whole["distances"].value, abs=0.06)
    assert len(drawn.kept) == len(drawn.anchors) == 150


def test_distances() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(0, 1, (30, 4))
    whole = all_of(euclidean(points), 30)
    assert np.allclose(whole, np.linalg.norm(points[:, None] - points[None], axis=2), atol=1e-9)
    assert np.allclose(all_of(euclidean(principal(points, 4)), 30), whole)
    assert all_of(angular(np.eye(3)), 3)[0, 1] == pytest.approx(np.pi / 2)
    made = standardised(np.concatenate([points, np.full((30, 1), 1e6)], 1))
    assert made.shape == (30, 4)
    assert np.allclose(made.mean(0), 0, atol=1e-6)
    assert np.allclose(made.std(0), 1, atol=1e-6)
    assert spearman(np.array([1, 2, 2, 4.0]), np.array([10, 20, 20, 90.0])) == pytest.approx(1)
    assert isinstance(Layout(positions=points, asked=euclidean(points), about={}), Layout)

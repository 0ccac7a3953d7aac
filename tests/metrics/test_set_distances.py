"""Distances between sets of pictures against closed forms, planted sets and, where it is installed, torchmetrics."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from torch import Tensor

from entoptic import UserError
from entoptic.metrics import distribution
from entoptic.metrics.evidence import Evidence
from entoptic.metrics.sets import Frechet, Moments, SetMetric, cmmd, coverage, density, kid, precision, recall
from entoptic.metrics.sets.frechet import BLOCKS
from entoptic.metrics.sets.manifolds import balls_around, radii
from entoptic.metrics.sets.mmd import cubic, gaussian, mmd
from entoptic.metrics.sets.moments import frechet_between
from entoptic.metrics.sets.rows import real_baseline


def normal(n: int, d: int, seed: int = 0, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * scale + shift


REAL = normal(160, 4, 9)
MAKERS: dict[str, Callable[[], SetMetric]] = {
    "frechet_infinite": lambda: Frechet(REAL, "net"),
    "kid": lambda: kid(REAL, "net"),
    "cmmd": lambda: cmmd(REAL, "net"),
    "precision": lambda: precision(REAL, "net"),
    "recall": lambda: recall(REAL, "net"),
    "density": lambda: density(REAL, "net"),
    "coverage": lambda: coverage(REAL, "net"),
}


def value(found: Evidence) -> float:
    assert found.value is not None, found.reason
    assert found.interval is not None
    return found.value


# --- what all of them promise ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_said_of_a_set(name: str) -> None:
    metric = MAKERS[name]()
    metric.update(normal(64, 4, shift=1.2))
    found = metric.compute()
    assert (found.name, found.n, found.direction) == (name, 64, metric.card.direction)
    assert found.detail["embedder"] == "net"
    assert found.detail["photos"] == 160
    low, high = found.interval or (math.nan, math.nan)
    assert low <= value(found) <= high
    least, most = metric.card.bounds
    assert least - 0.1 <= value(found) <= most
    # 64 real photos against the 96 others are nearer, or better, than pictures that are shifted.
    better = found.detail["real"] < found.value if found.direction == "lower" else found.detail["real"] > found.value
    assert better
    assert found.to_json()["reason"] is None


@pytest.mark.parametrize("name", MAKERS)
def test_a_small_set_is_refused_in_a_sentence(name: str) -> None:
    metric = MAKERS[name]()
    metric.update(normal(metric.least - 1, 4))
    found = metric.compute()
    assert found.value is None
    assert f"{name} needs at least {metric.least} pictures, there are {metric.least - 1}" in str(found.reason)
    metric.update(normal(1, 4, 5))
    assert metric.compute().value is not None


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=6)
@given(seed=st.integers(0, 99), cuts=st.lists(st.integers(0, 70), max_size=4), parts=st.integers(1, 3))
def test_order_batches_and_merging_change_nothing(name: str, seed: int, cuts: list[int], parts: int) -> None:
    rows = normal(70, 4, seed, 0.2)
    whole = MAKERS[name]()
    whole.update(rows)
    shuffled = rows[torch.randperm(70, generator=torch.Generator().manual_seed(seed))]
    metrics = [MAKERS[name]() for _ in range(parts)]
    for k, batch in enumerate(shuffled.tensor_split(sorted(cuts))):
        metrics[k % parts].update(batch)
    for other in metrics[1:]:
        before = other.n
        metrics[0].merge(other)
        assert other.n == before
    a, b = whole.compute(), metrics[0].compute()
    assert value(b) == pytest.approx(value(a), rel=1e-8, abs=1e-9)
    assert b.interval == pytest.approx(a.interval, rel=1e-6, abs=1e-8)
    assert b.n == 70


@pytest.mark.parametrize("name", MAKERS)
def test_bad_features_and_other_settings_are_refused(name: str) -> None:
    metric = MAKERS[name]()
    with pytest.raises(UserError, match="expected 4 features for each picture, got 5"):
        metric.update(normal(3, 5))
    with pytest.raises(UserError, match="of shape N×C, got 3"):
        metric.update(torch.zeros(3))
    with pytest.raises(UserError, match="picture 1 are not finite"):
        metric.update(torch.tensor([[0.0] * 4, [math.nan] * 4]))
    assert metric.n == 0
    other = MAKERS[name]()
    other.embedder = "another"
    with pytest.raises(UserError, match="same settings"):
        metric.merge(other)


def test_few_photos_give_no_baseline_but_a_reason() -> None:
    metric = kid(normal(50, 4), "net")
    metric.update(normal(40, 4, 1))
    found = metric.compute()
    assert "real" not in found.detail
    assert found.detail["real_reason"] == "40 photos against 40 others need 80 photos, there are 50"


def test_too_few_photos_are_refused() -> None:
    metric = precision(normal(30, 4), "net")
    metric.update(normal(60, 4))
    assert "needs at least 50 reference photos, there are 30" in str(metric.compute().reason)
    fid = Frechet(normal(4, 4), "net")
    fid.update(normal(60, 4))
    assert "needs at least 5 reference photos, there are 4" in str(fid.compute().reason)


# --- Fréchet -----------------------------------------------------------------------------------------------------------


def test_streaming_moments_are_those_of_all_rows() -> None:
    rows = normal(50, 6, shift=3.0)
    found = Moments.of(rows[:1]).merged(Moments.of(rows[1:20])).merged(Moments.of(rows[20:]))
    assert found.n == 50
    assert found.mean.numpy() == pytest.approx(rows.double().mean(0).numpy())
    assert found.covariance.numpy() == pytest.approx(np.cov(rows.double().numpy().T))
    with pytest.raises(UserError, match="needs 2"):
        Moments.of(rows[:1]).covariance  # noqa: B018


def test_moments_keep_their_digits_far_from_zero() -> None:
    """Sums of squares would lose all digits of the variance here."""
    rows = normal(100, 2).double() + 1e8
    found = Moments.of(rows[:50]).merged(Moments.of(rows[50:])).covariance
    assert found.numpy() == pytest.approx(np.cov((rows - 1e8).numpy().T), rel=1e-5)


def test_frechet_of_gaussians_is_the_closed_form() -> None:
    """Of diagonal covariances: |μ_a - μ_b|² + Σ (σ_a - σ_b)²."""
    sd_a, sd_b = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([3.0, 2.0, 1.0]).double()
    a = Moments(11, torch.zeros(3).double(), torch.diag(sd_a**2) * 10)
    b = Moments(21, torch.tensor([1.0, 0.0, 2.0]).double(), torch.diag(sd_b**2) * 20)
    assert frechet_between(a, b) == pytest.approx(5 + 4 + 0.25)
    assert frechet_between(a, a) == pytest.approx(0, abs=1e-9)


def test_frechet_by_eigenvalues_is_that_of_the_matrix_root_and_of_singular_values() -> None:
    a, b = normal(90, 5), normal(70, 5, 1, 0.7) * torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0])
    ca, cb = np.cov(a.double().numpy().T), np.cov(b.double().numpy().T)
    gap = (a.double().mean(0) - b.double().mean(0)).numpy()
    expected = gap @ gap + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real)
    metric = Frechet(b, "net")
    metric.update(a)
    assert metric.plain() == pytest.approx(expected, rel=1e-6)
    assert metric.plain() == pytest.approx(distribution.frechet(a, b), rel=1e-6)
    assert metric.compute().detail["at n"] == pytest.approx(metric.plain())


def test_extrapolation_takes_the_bias_away_and_its_interval_holds_the_truth() -> None:
    """Pictures of the photos' own law, whose moments are known: the distance is 0."""
    d, n, truth = 6, 80, 1.0
    exact = Moments(1000, torch.cat([torch.ones(1), torch.zeros(d - 1)]).double(), torch.eye(d).double() * 999)
    plain, found, held = [], [], 0
    for seed in range(60):
        metric = Frechet(exact, "net")
        metric.update(normal(n, d, seed))
        evidence = metric.compute()
        plain.append(metric.plain())
        found.append(value(evidence))
        low, high = evidence.interval or (0, 0)
        held += low <= truth <= high
        assert evidence.detail["real_reason"] == "only moments of the photos were given"
    error = float(np.std(found)) / math.sqrt(60)
    assert np.mean(plain) - truth > 0.1  # about d(d+1)/(4n) + d/n too large
    assert abs(np.mean(found) - truth) < 3 * error
    assert abs(np.mean(found) - truth) < 0.5 * (np.mean(plain) - truth)
    assert 50 <= held <= 60


def test_blocks_are_about_equal() -> None:
    metric = Frechet(REAL, "net")
    metric.update(normal(800, 4))
    assert len(metric.blocks) == BLOCKS
    assert all(60 < block.n < 150 for block in metric.blocks)


# --- kernels -----------------------------------------------------------------------------------------------------------


def test_kid_is_the_function_that_there_was() -> None:
    a, b = normal(40, 6), normal(50, 6, 1, 0.4)
    metric = kid(b, "net")
    metric.update(a)
    found = metric.compute()
    assert found.value == pytest.approx(distribution.kid(a, b), rel=1e-12)
    assert found.interval == pytest.approx(distribution.kid_interval(a, b), rel=1e-9)


def test_blocks_estimate_the_same_and_hold_it_in_their_interval() -> None:
    a, b = normal(600, 4), normal(300, 4, 1, 0.3)
    whole, _, one = mmd(a, b, cubic)
    blocks, (low, high), many = mmd(a, b, cubic, block=100)
    assert (one, many) == (1, 6)
    assert low < whole < high
    # Within b and between a and b nothing differs: the blocks lose pairs within a alone.
    parts = [distribution.kid(part, b) for part in a.tensor_split(6)]
    assert blocks == pytest.approx(np.mean(parts))


def test_blocks_are_the_same_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("entoptic.metrics.sets.kernels.BLOCK", 20)
    rows, values = normal(70, 4, 1, 0.3), []
    for some in (rows, rows.flip(0)):
        metric = kid(REAL, "net")
        metric.update(some)
        found = metric.compute()
        assert found.detail["blocks"] == 4
        values.append((found.value, found.interval))
    assert values[0] == values[1]


def test_no_photo_is_on_both_sides_of_the_baseline() -> None:
    seen = []

    def distance(a: Tensor, b: Tensor) -> float:
        seen.append((len(a), len(b)))
        assert sorted(torch.cat([a, b])[:, 0].tolist()) == list(range(50))
        return float(a.sum())

    found = real_baseline(distance, torch.arange(50.0)[:, None], 20)
    assert seen == [(20, 30)] * 8
    assert found["real_spread"][0] < found["real"] < found["real_spread"][1]  # type: ignore[index,operator]


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = normal(60, 4), normal(50, 4, 1, 0.3)
    expected = mmd(a, b, cubic, block=30)
    monkeypatch.setattr("entoptic.metrics.sets.mmd.CHUNK", 7)
    assert mmd(a, b, cubic, block=30)[0] == pytest.approx(expected[0])


def test_gaussian_kernel_distance_of_gaussians_is_the_closed_form() -> None:
    """E exp(-|x-y|²/2σ²) is (σ²/(σ²+v))^{d/2} exp(-|μ|²/(2(σ²+v))) in d dimensions, v the sum of both variances, μ the gap."""
    d, bandwidth, shift, scale = 3, 1.5, 0.8, 0.6

    def expected(variance: float, gap2: float) -> float:
        total = bandwidth**2 + variance
        return float((bandwidth**2 / total) ** (d / 2) * math.exp(-gap2 / (2 * total)))

    truth = expected(2, 0) + expected(2 * scale**2, 0) - 2 * expected(1 + scale**2, d * shift**2)
    values = []
    for seed in range(40):
        metric = cmmd(normal(200, d, 1000 + seed, shift, scale), "net", bandwidth=bandwidth)
        metric.update(normal(100, d, seed))
        values.append(value(metric.compute()))
    assert abs(np.mean(values) - truth) < 3 * np.std(values) / math.sqrt(40)
    assert float(gaussian(2.0)(torch.zeros(1, 1), torch.tensor([[2.0]]))) == pytest.approx(math.exp(-0.5))


def test_kernel_distances_are_unbiased() -> None:
    values = [value(run) for run in map(_same_law, range(150))]
    assert abs(np.mean(values)) < 3.5 * np.std(values) / math.sqrt(150)
    assert min(values) < 0


def _same_law(seed: int) -> Evidence:
    metric = cmmd(normal(30, 3, 5000 + seed), "net", bandwidth=1.0)
    metric.update(normal(20, 3, seed))
    return metric.compute()


def test_the_bandwidth_is_stated() -> None:
    photos = normal(60, 3)
    metric = cmmd(photos, "net")
    metric.update(normal(30, 3, 1))
    detail = metric.compute().detail
    assert detail["bandwidth"] == pytest.approx(float(torch.nn.functional.pdist(photos.double()).median()))
    assert detail["bandwidth is"] == "median distance between photos"
    with pytest.raises(UserError, match="above 0, not 0"):
        cmmd(torch.ones(30, 2), "net")
    given_one = cmmd(photos, "net", bandwidth=2.0)
    assert given_one.settings != metric.settings
    with pytest.raises(UserError, match="same settings"):
        metric.merge(given_one)


# --- manifolds ---------------------------------------------------------------------------------------------------------


def clusters(counts: dict[float, int], seed: int = 0) -> Tensor:
    return torch.cat([normal(n, 2, seed + int(at), at, 0.1) for at, n in counts.items()])


def test_planted_clusters() -> None:
    """Photos at 0 and 10, pictures at 0 and 50: half of the pictures are like photos, half of the photos are shown."""
    photos, pictures = clusters({0: 100, 10: 100}), clusters({0: 60, 50: 60}, 7)
    found = {}
    for make in (precision, recall, density, coverage):
        metric = make(photos, "net")
        metric.update(pictures)
        evidence = metric.compute()
        found[evidence.name] = value(evidence)
    assert found["precision"] == pytest.approx(0.5, abs=0.03)
    assert found["recall"] == pytest.approx(0.5, abs=0.03)
    assert found["coverage"] == pytest.approx(0.5, abs=0.05)
    assert found["density"] == pytest.approx(0.5, abs=0.12)


def test_precision_is_not_recall() -> None:
    """Pictures of one of four kinds of photos are all like photos, and show a quarter of them."""
    photos, pictures = clusters({0: 60, 10: 60, 20: 60, 30: 60}), clusters({0: 60}, 7)
    for make, expected in ((precision, 1.0), (recall, 0.25), (coverage, 0.25)):
        metric = make(photos, "net")
        metric.update(pictures)
        assert value(metric.compute()) == pytest.approx(expected, abs=0.07)


def test_neighbours_by_hand() -> None:
    """On a line: photos at 0, 1, 3, 6, … with k = 1; a picture counts where it is within a photo's reach."""
    photos = torch.tensor([[k * (k + 1) / 2] for k in range(60)])
    pictures = torch.cat([photos[:49] + 0.5, torch.tensor([[-1.5]])])
    reach = [1.0] + [float(k) for k in range(1, 60)]  # the neighbour below is k away
    each = [sum(abs(float(p) - float(x)) <= r for x, r in zip(photos, reach)) for p in pictures]
    for make, expected in (
        (precision, np.mean([one > 0 for one in each])),
        (density, np.mean(each)),
        (coverage, np.mean([min(abs(float(p) - float(x)) for p in pictures) <= r for x, r in zip(photos, reach)])),
    ):
        metric = make(photos, "net", k=1)
        metric.update(pictures)
        assert value(metric.compute()) == pytest.approx(float(expected)), metric.card.name
    assert 0 < np.mean([one > 0 for one in each]) < 1


def test_photos_are_their_own_pictures() -> None:
    """Equal rows lie at distance 0, which rounding must not change."""
    photos = normal(80, 64, scale=100.0)
    for make in (precision, recall, coverage):
        metric = make(photos, "net", k=1)
        metric.update(photos)
        assert value(metric.compute()) == 1
    twice = photos.repeat(2, 1) + 1000  # every photo has a twin, so balls have no size
    assert radii(twice, 1).tolist() == [0.0] * 160
    assert balls_around(twice, twice, torch.zeros(160).double()).tolist() == [2] * 160
    with pytest.raises(UserError, match="from 1 to 49, not 0"):
        precision(photos, "net", k=0)


# --- another library ---------------------------------------------------------------------------------------------------


class _Flat(torch.nn.Module):
    """Features that are given as pictures, for metrics that insist on a network."""

    num_features = 6

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def test_equal_to_torchmetrics() -> None:
    image = pytest.importorskip("torchmetrics.image", reason="torchmetrics is not installed")
    pytest.importorskip(
        "torch_fidelity", reason="torchmetrics compares sets with torch-fidelity, which is not installed"
    )
    a, b = normal(80, 6), normal(90, 6, 1, 0.5)
    fid = image.fid.FrechetInceptionDistance(feature=_Flat(), normalize=True, input_img_size=(3, 1, 2))
    fid.update(b.reshape(-1, 3, 1, 2), real=True)
    fid.update(a.reshape(-1, 3, 1, 2), real=False)
    ours = Frechet(b, "net")
    ours.update(a)
    assert ours.plain() == pytest.approx(float(fid.compute()), rel=1e-4)
    theirs = image.kid.KernelInceptionDistance(feature=_Flat(), normalize=True, subsets=1, subset_size=80)
    theirs.update(b[:80].reshape(-1, 3, 1, 2), real=True)
    theirs.update(a.reshape(-1, 3, 1, 2), real=False)
    metric = kid(b[:80], "net")
    metric.update(a)
    assert value(metric.compute()) == pytest.approx(float(theirs.compute()[0]), rel=1e-4)


def test_equal_to_torch_fidelity() -> None:
    pytest.importorskip("torch_fidelity", minversion="0.4", reason="torch-fidelity 0.4 is not installed")
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    a, b = normal(80, 6), normal(90, 6, 1, 0.5)
    theirs = fid_statistics_to_metric(fid_features_to_statistics(a), fid_features_to_statistics(b), verbose=False)
    ours = Frechet(b, "net")
    ours.update(a)
    assert ours.plain() == pytest.approx(float(next(iter(theirs.values()))), rel=1e-6)
    found = prc_features_to_metric(a, b, prc_neighborhood=3, prc_batch_size=100, save_cpu_ram=False, verbose=False)
    for make, name in ((precision, "precision"), (recall, "recall")):
        metric = make(b, "net")
        metric.update(a)
        assert value(metric.compute()) == pytest.approx(float(found[name]))


@pytest.mark.parametrize("make", [kid, cmmd, precision, recall, density, coverage])
def test_an_emptied_metric_knows_its_photos_still(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Many sets are compared with one set of photos: what is known of the photos is not measured again for each."""
    photos, a, b = normal(160, 5), normal(60, 5, 1, 0.4), normal(60, 5, 2, 0.8)
    first = make(photos, "net")
    first.update(a)
    known = first.compute()
    drawn: list[int] = []
    monkeypatch.setattr("entoptic.metrics.sets.rows.real_baseline", lambda *args: drawn.append(1) or {"real": 0.0})
    second = first.empty()
    assert second.n == 0
    second.update(b)
    found = second.compute()
    assert first.compute() == known
    assert not drawn
    alone = make(photos, "net")
    alone.update(b)
    assert found.value == alone.compute().value
    assert found.detail["real"] == known.detail["real"]
    assert drawn == [1]

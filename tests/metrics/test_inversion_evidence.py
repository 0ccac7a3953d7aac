"""Inversion is measured as it is defined: loops, closed forms and planted truths beside every number."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from conftest import tiny_card, tiny_module
from entoptic.base.estimates import wilson
from entoptic.errors import UserError
from entoptic.inversion.map_gaussian import FeatureMapGaussian
from entoptic.inversion.maps import FeatureMaps, position_cosines, superpixel_cosine
from entoptic.inversion.targets import InversionTarget
from entoptic.metrics.inversion import (
    cross_matrix,
    map_typicality,
    match_ranks,
    mean_cosine,
    measure_inversion,
    sample_sd,
    spread,
)
from entoptic.models.model import Model, predictions


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def other(seed: int) -> Model:
    return Model(tiny_module(seed), tiny_card(name=f"tiny{seed}"), device="cpu")


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def as_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255


def same(maps_BChw: Tensor) -> Tensor:
    return maps_BChw


# --- cosines -------------------------------------------------------------------------------------------------------


def test_superpixel_cosine_is_the_mean_of_cosines_one_by_one() -> None:
    a, b = noise(2, 5, 3, 4), noise(2, 5, 3, 4, seed=1)
    found = superpixel_cosine(a, b)
    for i in range(2):
        each = []
        for y in range(3):
            for x in range(4):
                u, v = a[i, :, y, x].tolist(), b[i, :, y, x].tolist()
                dot = sum(p * q for p, q in zip(u, v))
                each.append(dot / math.sqrt(sum(p * p for p in u)) / math.sqrt(sum(q * q for q in v)))
        assert float(found[i]) == pytest.approx(sum(each) / 12, abs=1e-6)


def test_cosines_of_vectors_that_are_0() -> None:
    a, b = torch.ones(1, 3, 1, 3), torch.ones(1, 3, 1, 3)
    a[..., 0], b[..., :2] = 0, 0
    assert position_cosines(a, b)[0, 0].tolist() == [1.0, 0.0, pytest.approx(1.0)]
    assert float(superpixel_cosine(1e-12 * b, b)) == pytest.approx(1.0)
    with pytest.raises(UserError, match="alike"):
        position_cosines(a, b[:, :2])


@given(st.floats(0.01, 100), st.integers(0, 10_000))
@settings(max_examples=20)
def test_the_raw_cosine_knows_no_scale_and_no_batch(scale: float, seed: int) -> None:
    a, b = noise(3, 4, 2, 2, seed=seed), noise(3, 4, 2, 2, seed=seed + 1)
    found = superpixel_cosine(a, b)
    assert torch.allclose(superpixel_cosine(scale * a, b), found, atol=1e-5)
    assert torch.allclose(superpixel_cosine(a[1:2], b[1:2]), found[1:2], atol=1e-6)


def test_a_set_has_a_mean_with_students_interval() -> None:
    found = mean_cosine("cosine", torch.tensor([0.5, 0.7, 0.6]))
    assert (found.n, found.value) == (3, pytest.approx(0.6))
    half = 4.303 * 0.1 / math.sqrt(3)
    assert found.interval == (pytest.approx(0.6 - half, abs=1e-4), pytest.approx(0.6 + half, abs=1e-4))


# --- what networks say ---------------------------------------------------------------------------------------------


def test_ranks_count_what_lies_above() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [1.0, 1.0, 0.0]])
    assert match_ranks(logits, torch.tensor([0, 1, 1])).tolist() == [1, 3, 1]


def test_the_matrix_asks_each_network_for_its_own_prediction(tiny: Model) -> None:
    judges = [tiny, other(3)]
    originals, made = (noise(7, 3, 2, 2, seed=s).sign().add(1).div(2).repeat(1, 1, 16, 16) for s in (0, 1))
    matrix = cross_matrix(judges, originals, {"same": originals, "made": made}, batch_size=3)
    for name, pictures in (("same", originals), ("made", made)):
        for judge in judges:
            hits = 0
            for i in range(7):
                hits += int(judge(originals[i : i + 1]).argmax()) == int(judge(pictures[i : i + 1]).argmax())
            top1, top5 = matrix[name][judge.card.name]
            assert (top1.value, top1.n, top1.interval) == (hits / 7, 7, wilson(hits, 7))
            assert top5.value == 1.0  # there are five classes
    assert matrix["same"]["tiny"][0].value == 1.0
    assert {top1.value for top1, _ in matrix["made"].values()} != {1.0}
    with pytest.raises(UserError, match="7"):
        cross_matrix(judges, originals, {"too few": made[:3]})


# --- spread --------------------------------------------------------------------------------------------------------


def test_sd_over_samples_pixel_by_pixel() -> None:
    pictures = torch.rand(4, 3, 2, 3, generator=torch.Generator().manual_seed(0))
    found = sample_sd(pictures)
    for y in range(2):
        for x in range(3):
            variances = []
            for c in range(3):
                values = pictures[:, c, y, x].tolist()
                mean = sum(values) / 4
                variances.append(sum((v - mean) ** 2 for v in values) / 3)
            assert float(found[y, x]) == pytest.approx(math.sqrt(sum(variances) / 3), abs=1e-6)
    assert float(sample_sd(pictures[:1].expand(3, -1, -1, -1)).abs().max()) == 0
    with pytest.raises(UserError, match="at least 2"):
        sample_sd(pictures[:1])


def test_the_interval_of_the_spread_is_the_jackknifes() -> None:
    pictures = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    found = spread(pictures)
    without = [float(sample_sd(pictures[[j for j in range(5) if j != i]]).mean()) for i in range(5)]
    mean = sum(without) / 5
    error = 1.96 * math.sqrt(4 / 5 * sum((w - mean) ** 2 for w in without))
    assert found.value == pytest.approx(float(sample_sd(pictures).mean()), abs=1e-6)
    assert found.interval == (
        pytest.approx(found.value - error, abs=1e-5), pytest.approx(found.value + error, abs=1e-5)
    )  # fmt: skip
    assert spread(pictures[:2]).value is None
    assert spread(pictures, "best of 4").detail == {"selected": "best of 4"}


# --- one picture ---------------------------------------------------------------------------------------------------


def test_the_evidence_of_a_picture_from_its_pixels(tiny: Model) -> None:
    maps, judge = FeatureMaps.of(tiny, "stage2"), other(5)
    original, made = picture(0), picture(1)
    with torch.no_grad():
        wanted_Chw, found_Chw = (maps.read(as_tensor(p))[0] for p in (original, made))
    target = int(tiny(as_tensor(original)).argmax())
    theirs = int(judge(as_tensor(original)).argmax())
    wanted = InversionTarget(wanted_Chw, target, others=[(judge, theirs)])
    mean, sd = noise(16, seed=9)[:, None, None], 0.5 + torch.rand(16, 1, 1)
    found = {e.name: e for e in measure_inversion(made, wanted, maps, lambda m: (m - mean) / sd, None)}
    assert found["cosine"].value == pytest.approx(float(superpixel_cosine(found_Chw[None], wanted_Chw[None])))
    assert (found["cosine"].n, found["cosine"].interval) == (16, (found["cosine"].value,) * 2)
    z_found, z_wanted = ((m[None] - mean) / sd for m in (found_Chw, wanted_Chw))
    assert found["cosine_standardised"].value == pytest.approx(float(superpixel_cosine(z_found, z_wanted)), abs=1e-5)
    logits = tiny(as_tensor(made))[0]
    rank = 1 + sum(float(x) > float(logits[target]) for x in logits)
    assert found["match_top1"].value == float(rank == 1)
    assert found["match_top5"].detail == {"rank": rank, "class": tiny.card.label(target)}
    agrees = float(int(judge(as_tensor(made)).argmax()) == theirs)
    assert (found["others_match_top1"].value, found["others_match_top1"].n) == (agrees, 1)
    assert found["others_match_top1"].interval == wilson(agrees, 1)
    assert found["map_percentile"].value is None
    perfect = {e.name: e for e in measure_inversion(original, wanted, maps, same, None)}
    assert perfect["cosine"].value == pytest.approx(1.0)
    assert perfect["match_top1"].value == perfect["others_match_top1"].value == 1.0


def test_what_was_selected_on_says_so(tiny: Model) -> None:
    maps = FeatureMaps.of(tiny, "stage2")
    with torch.no_grad():
        wanted = InversionTarget(maps.read(as_tensor(picture()))[0], 0, looked_at="best of 4 by this cosine")
    found = {e.name: e for e in measure_inversion(picture(1), wanted, maps, same, None)}
    for name in ("cosine", "cosine_standardised", "match_top1"):
        assert found[name].detail["selected"] == "best of 4 by this cosine"
    assert found["others_match_top1"].reason == "no other network was given"


def test_an_edit_has_its_own_evidence(tiny: Model) -> None:
    maps = FeatureMaps.of(tiny, "stage2")
    before, after = picture(1), picture(1).copy()
    after[:8, :8] = 255 - after[:8, :8]  # the first of 4×4 cells
    after[20, 20] ^= 8
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[0, 0] = True
    with torch.no_grad():
        wanted_Chw = maps.read(as_tensor(picture(0)))[0]
        cosines = position_cosines(maps.read(as_tensor(after)), wanted_Chw[None])[0]
    wanted = InversionTarget(wanted_Chw, 1, path=[(1, 0.25), (3, 0.5)], mask_hw=mask, before=before)
    found = {e.name: e for e in measure_inversion(after, wanted, maps, same, None)}
    assert found["cosine_inside"].value == pytest.approx(float(cosines[0, 0]))
    assert found["cosine_outside"].value == pytest.approx((float(cosines.sum()) - float(cosines[0, 0])) / 15)
    probabilities = tiny(as_tensor(after)).softmax(1)[0]
    assert found["probability_b"].value == pytest.approx(float(probabilities[3]))
    assert found["probability_b"].detail == {"class": "cross", "head of the map": 0.5}
    change = np.sqrt((((after.astype(float) - before) / 255) ** 2).sum(2))
    far = change.copy()
    far[:16, :16] = np.nan  # within a cell of the region, but for the corner beyond the arc
    corner = [
        change[y, x] for y in range(16) for x in range(16)
        if math.hypot(max(0, (y + 0.5) / 8 - 1), max(0, (x + 0.5) / 8 - 1)) > 1
    ]  # fmt: skip
    outside = (np.nansum(far) + sum(corner)) / (np.isfinite(far).sum() + len(corner))
    assert found["locality"].value == pytest.approx(change[:8, :8].mean() / outside, rel=1e-4)
    unchanged = {e.name: e for e in measure_inversion(before, replace(wanted, before=before), maps, same, None)}
    assert "did not change" in (unchanged["locality"].reason or "")
    everything = replace(wanted, mask_hw=torch.ones(4, 4, dtype=torch.bool))
    whole = {e.name: e for e in measure_inversion(after, everything, maps, same, None)}
    assert whole["cosine_outside"].value is None
    assert "farther than a cell" in (whole["locality"].reason or "")


def test_predictions_do_not_depend_on_the_batch(tiny: Model) -> None:
    pictures = torch.rand(5, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(predictions(tiny, pictures, 2), predictions(tiny, pictures, 5), atol=1e-5)


# --- how usual a map is --------------------------------------------------------------------------------------------


def test_distances_of_gaussian_vectors_are_chi() -> None:
    # 6 channels with unlike scales and correlations; the vectors of all positions are independent.
    mix = noise(6, 6, seed=4) * torch.tensor([5.0, 2, 1, 0.5, 0.3, 0.1])
    maps = torch.einsum("cd,ndhw->nchw", mix, noise(800, 6, 3, 3)) + 7
    law = FeatureMapGaussian.fit(maps, components=6)
    fresh = torch.einsum("cd,ndhw->nchw", mix, noise(2000, 6, 1, 1, seed=1)) + 7
    squares = 6 * law.distances(fresh)["positions"].square()
    assert float(squares.mean()) == pytest.approx(6, abs=0.3)
    assert float(squares.var()) == pytest.approx(12, abs=2)  # of chi-square with 6 degrees of freedom
    assert float((squares > 12.592).float().mean()) == pytest.approx(0.05, abs=0.015)  # its 95 % point
    exact = (
        (fresh[0, :, 0, 0].double() - 7) @ torch.linalg.inv((mix @ mix.T).double()) @ (fresh[0, :, 0, 0].double() - 7)
    )
    assert float(squares[0]) == pytest.approx(float(exact), rel=0.1)


@pytest.mark.parametrize("components", [2, 5, 8])
def test_photos_percentiles_are_uniform_and_strange_maps_stand_out(components: int) -> None:
    maps = noise(400, 8, 4, 4) * torch.linspace(2, 0.5, 8)[:, None, None]
    law = FeatureMapGaussian.fit(maps, components=components)
    fresh = noise(400, 8, 4, 4, seed=1) * torch.linspace(2, 0.5, 8)[:, None, None]
    for percentiles in law.percentiles(fresh).values():
        quarters = torch.histc(percentiles, 4, 0, 100) / 400
        assert float((quarters - 0.25).abs().max()) < 0.1
    assert float(law.percentiles(1.5 * fresh)["positions"].min()) == 100
    # The mean of two photos' maps is nearer to the centre than any photo's.
    assert float(law.percentiles((fresh[::2] + fresh[1::2]) / 2)["positions"].max()) <= 1
    # A direction beside the principal axes is not invisible.
    strange = fresh.clone()
    strange[:, 7] += 4
    assert float(law.percentiles(strange)["positions"].min()) == 100


def test_references_are_not_what_the_law_was_fitted_to() -> None:
    # 40 maps of 30 channels: to a Gaussian fitted to them all they would seem nearer than any fresh map.
    law = FeatureMapGaussian.fit(noise(80, 30, 1, 1), components=30)
    fresh = law.percentiles(noise(400, 30, 1, 1, seed=1))["positions"]
    assert float(fresh.mean()) == pytest.approx(50, abs=10)


def test_only_neighbours_see_shuffled_positions() -> None:
    smooth = torch.nn.functional.interpolate(noise(300, 6, 2, 2), (6, 6), mode="bilinear")
    law = FeatureMapGaussian.fit(smooth)
    fresh = torch.nn.functional.interpolate(noise(50, 6, 2, 2, seed=1), (6, 6), mode="bilinear")
    order = torch.randperm(36, generator=torch.Generator().manual_seed(0))
    mixed = fresh.flatten(2)[:, :, order].reshape(fresh.shape)
    whole, torn = law.percentiles(fresh), law.percentiles(mixed)
    assert torch.equal(whole["pooled"], torn["pooled"])
    assert torch.equal(whole["positions"], torn["positions"])
    assert float(torn["neighbours"].min()) == 100
    assert float(whole["neighbours"].mean()) == pytest.approx(50, abs=15)


def test_a_law_survives_the_disk_and_refuses_what_it_does_not_fit() -> None:
    law = FeatureMapGaussian.fit(noise(40, 5, 2, 2).half())
    again = FeatureMapGaussian.of_tensors(law.tensors() | {"else": torch.zeros(1)})
    fresh = noise(7, 5, 2, 2, seed=3)
    for name, found in law.percentiles(fresh).items():
        assert torch.equal(found, again.percentiles(fresh)[name])
    assert again.references == 20
    assert FeatureMapGaussian.of_tensors(FeatureMapGaussian.fit(noise(40, 5, 1, 1)).tensors()).neighbours is None
    for damaged in ("pooled.rest", "neighbours.mean_C"):
        with pytest.raises(UserError, match=damaged):
            FeatureMapGaussian.of_tensors({k: v for k, v in law.tensors().items() if k != damaged})
    with pytest.raises(UserError, match="B×5×h×w"):
        law.distances(noise(1, 4, 2, 2))
    with pytest.raises(UserError, match="at least 20"):
        FeatureMapGaussian.fit(noise(19, 5, 2, 2))


def test_channels_that_never_vary_and_batches_do_not_matter() -> None:
    maps = noise(60, 5, 2, 2)
    maps[:, 2] = 0
    law = FeatureMapGaussian.fit(maps)
    found = law.distances(maps)["positions"]
    assert bool(found.isfinite().all())
    assert torch.allclose(torch.cat([law.distances(m[None])["positions"] for m in maps]), found)


def test_usualness_is_a_percentile_with_its_interval() -> None:
    law = FeatureMapGaussian.fit(noise(200, 4, 3, 3))
    wanted = noise(1, 4, 3, 3, seed=5)
    evidence = map_typicality(wanted, None, law)
    distance = float(law.distances(wanted)["positions"])
    below = sum(float(d) < distance for d in law.positions.distances_N)
    assert (evidence.value, evidence.n) == (pytest.approx(below), 100)
    assert evidence.interval == tuple(100 * bound for bound in wilson(below, 100))
    assert evidence.detail["tail"] == pytest.approx(2 * min(below, 100 - below) / 100)
    assert evidence.direction == "none"

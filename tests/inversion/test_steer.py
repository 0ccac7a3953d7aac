"""Steering in a world where pixels are a known linear function of the map, so that every number has a closed form."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from entoptic.errors import UserError
from entoptic.inversion import configs
from entoptic.inversion.map_gaussian import FeatureMapGaussian
from entoptic.inversion.null_edits import OWN_SIZE
from entoptic.inversion.steer import (
    FLOOR,
    PAPER_THRESHOLD,
    calibrate,
    map_covariance,
    null_part,
    paper_mask,
    scaled,
    standardised_length,
    steer_concepts,
)
from entoptic.units.sparse import Sparse

C, GRID, PATCH = 12, (3, 2), 4
PIXELS = 3 * PATCH * PATCH


def Steer(**options: Any) -> configs.Steer:
    """A config with the null edits that most tests are about; by default there are none."""
    return configs.Steer(**{"nulls": 19, **options})


EXACT = {"eight_bit": False, "nulls": 0, "n": 3}


class Subspaces:
    """Orthogonal subspaces spanned by given channels."""

    def __init__(self, *channels: Sequence[int]) -> None:
        self.names = [f"channels {list(group)}" for group in channels]
        self.layer, self.model_sha256 = "last", "0" * 64
        self.masks_KC = torch.zeros(len(channels), C)
        for mask, group in zip(self.masks_KC, channels):
            mask[list(group)] = 1

    def parts(self, maps_BCD: Tensor) -> Tensor:
        return self.masks_KC[:, None, :, None] * maps_BCD


class Many(Subspaces):
    """One concept for each channel, again and again; counts the parts that are held at a time."""

    def __init__(self, count: int) -> None:
        super().__init__(*([k % C] for k in range(count)))
        self.alive = self.most = 0

    def part(self, maps_BCD: Tensor, k: int) -> Tensor:
        made = self.masks_KC[k][:, None] * maps_BCD
        self.alive += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(made.untyped_storage(), self._gone)
        return made

    def _gone(self) -> None:
        self.alive -= 1

    def parts(self, maps_BCD: Tensor) -> Tensor:
        raise AssertionError("all parts at once")


class Span(Subspaces):
    """One concept: the span of given directions C×d."""

    def __init__(self, directions_Cd: Tensor) -> None:
        super().__init__([0])
        self.basis_Cd = torch.linalg.qr(directions_Cd.double()).Q

    def parts(self, maps_BCD: Tensor) -> Tensor:
        return torch.einsum("cd,ed,bep->bcp", self.basis_Cd, self.basis_Cd, maps_BCD.double()).float()[None]


class Network:
    """Reads the maps back from pictures exactly; logits are sums over the map."""

    device = torch.device("cpu")

    def __init__(self, world: World) -> None:
        self.world = world

    def fit(self, pictures: Tensor) -> Tensor:
        return pictures

    def __call__(self, pictures: Tensor) -> Tensor:
        return self.world.read(pictures).mean((2, 3))


class World:
    """An inverter, its maps and its network: each position is a patch, x = ½ + W φ + noise with the noise ⟂ W."""

    channels, grid = C, GRID

    def __init__(self, noise: float = 0.01, gain: float = 0.02) -> None:
        draw = torch.Generator().manual_seed(1)
        whole = torch.linalg.qr(torch.randn(PIXELS, PIXELS, generator=draw)).Q
        self.W_PC, self.rest_PR = gain * whole[:, :C], noise * whole[:, C:]
        self.gain, self.maps, self.model = gain, self, Network(self)
        self.mean_C, self.sd_C = torch.zeros(C), torch.ones(C)
        self.law: FeatureMapGaussian | None = None
        self.rows: list[tuple[Tensor, Tensor]] = []

    def noise(self, generators: Sequence[torch.Generator]) -> Tensor:
        return torch.stack([torch.randn(self.rest_PR.shape[1], *GRID, generator=g) for g in generators])

    def sample(self, maps_BChw: Tensor, noise: Tensor, **options: Any) -> Tensor:
        assert len(maps_BChw) == len(noise)
        self.rows += list(zip(maps_BChw, noise))
        parts = [self._paint(m, z) for m, z in zip(maps_BChw.split(7), noise.split(7))]
        return torch.cat(parts)

    def _paint(self, maps_BChw: Tensor, noise: Tensor) -> Tensor:
        values = torch.einsum("pc,bchw->bphw", self.W_PC, maps_BChw) + torch.einsum(
            "pr,brhw->bphw", self.rest_PR, noise
        )
        return 0.5 + values.unflatten(1, (3, PATCH, PATCH)).permute(0, 1, 4, 2, 5, 3).flatten(4).flatten(2, 3)

    def read(self, pictures: Tensor) -> Tensor:
        patches = pictures.unflatten(3, (GRID[1], PATCH)).unflatten(2, (GRID[0], PATCH)) - 0.5
        values = patches.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
        return torch.einsum("pc,bphw->bchw", self.W_PC, values) / self.gain**2


def photo_map(seed: int = 0) -> Tensor:
    return torch.randn(1, C, *GRID, generator=torch.Generator().manual_seed(seed))


def closed_form(world: World, part_Chw: Tensor, scale: float) -> Tensor:
    """Δ = |1 - α|·‖W φ_k‖ over the colours of each pixel."""
    change = world._paint(part_Chw[None], torch.zeros(1, world.rest_PR.shape[1], *GRID))[0] - 0.5
    return abs(1 - scale) * change.square().sum(0).sqrt()


def test_the_difference_is_the_closed_form_at_every_scale() -> None:
    world, phi, dictionary = World(), photo_map(), Subspaces([0, 1], [2, 3, 4])
    for found in steer_concepts(world, dictionary, phi, [0, 1], Steer(**EXACT)):
        part = dictionary.parts(phi.flatten(2))[found.concept, 0].unflatten(1, GRID)
        assert found.scales == (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)
        assert found.dimension == len(eval(found.name.removeprefix("channels ")))
        for scale, delta_SS in zip(found.scales, found.delta_ASS):
            torch.testing.assert_close(delta_SS, closed_form(world, part, scale), atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(found.activation_hw, part.norm(dim=0))
        assert found.share == pytest.approx(float(part.norm() / phi.norm()), rel=1e-5)
        assert found.delta_SS is not None
        assert torch.equal(found.delta_SS, found.delta_ASS[1])


def test_a_sparse_feature_is_steered_as_a_subspace_is() -> None:
    world, phi = World(), photo_map()
    sparse = Sparse(  # one feature for each sign of each channel, so that it reconstructs exactly
        encoder=torch.cat([torch.eye(C), -torch.eye(C)])[:, :, None, None], encoder_bias=torch.zeros(2 * C),
        decoder=torch.cat([torch.eye(C), -torch.eye(C)]), decoder_bias=torch.zeros(C), threshold=torch.zeros(2 * C),
        kind="relu", layer="last",
    )  # fmt: skip
    (found,) = steer_concepts(world, sparse, phi, [3], Steer(n=3, nulls=19, eight_bit=False))
    part = sparse.part(phi.flatten(2), 3)[0].unflatten(1, GRID)
    assert torch.equal(part[3], phi[0, 3].relu())
    for scale, delta_SS in zip(found.scales, found.delta_ASS):
        torch.testing.assert_close(delta_SS, closed_form(world, part, scale), atol=1e-6, rtol=1e-4)
    assert found.dimension == 1
    for scale, row in zip(found.scales, found.attenuation_An):
        torch.testing.assert_close(row, torch.full((3,), scale), atol=1e-3, rtol=0)


def test_nothing_changes_at_scale_one_or_without_the_concept() -> None:
    world, phi = World(), photo_map()
    phi[:, [5, 6]] = 0
    present, absent = steer_concepts(world, Subspaces([0], [5, 6]), phi, [0, 1], Steer(nulls=19, n=3))
    at_one = present.scales.index(1.0)
    assert torch.count_nonzero(present.delta_ASS[at_one]) == 0
    assert torch.count_nonzero(present.change_AnL[at_one]) == 0
    assert torch.count_nonzero(absent.delta_ASS) == 0
    assert absent.calibration is not None
    assert absent.calibration.p_value == 1
    assert not absent.affected_SS.any()
    assert not paper_mask(absent.delta_SS).any()
    assert absent.attenuation_An.isnan().all()
    assert absent.decoded == 0


def test_originals_are_decoded_once_for_all_concepts_and_scales() -> None:
    world, phi = World(), photo_map()
    found = steer_concepts(world, Subspaces([0], [1], [2, 3]), phi, [0, 1, 2], Steer(n=3, nulls=19))
    scales_but_one = 5
    assert len(world.rows) == 3 * (1 + 3 * (scales_but_one + 1 + 19))
    assert sum(torch.equal(m, phi[0]) for m, _ in world.rows) == 3
    assert [one.decoded for one in found] == [3 * (scales_but_one + 1 + 19)] * 3


def test_every_edit_meets_the_noise_of_its_original() -> None:
    world, phi = World(), photo_map()
    (found,) = steer_concepts(world, Subspaces([0]), phi, [0], Steer(**EXACT, scales=(0.25,)))
    noises = [z for m, z in world.rows if torch.equal(m, phi[0])]
    edits = [z for m, z in world.rows if not torch.equal(m, phi[0])]
    assert len(noises) == len(edits) == 3
    assert all(torch.equal(a, b) for a, b in zip(noises, edits))
    assert len({tuple(z.flatten().tolist()) for z in noises}) == 3  # of one seed each
    # So what the map leaves open cancels, though it is as large as the concept.
    assert found.spread_SS is not None
    assert float(found.spread_SS.mean()) > float(found.delta_SS.mean())


def test_the_spread_is_that_of_the_noise() -> None:
    world = World(noise=0.05)
    (found,) = steer_concepts(
        world, Subspaces([0]), photo_map(), [0], Steer(n=400, nulls=0, scales=(), eight_bit=False)
    )
    variance_P = world.rest_PR.square().sum(1).reshape(3, PATCH, PATCH).sum(0)
    assert found.spread_SS is not None
    expected = variance_P.sqrt().repeat(GRID)
    torch.testing.assert_close(found.spread_SS, expected, atol=0, rtol=0.2)
    assert float(found.spread_SS.mean()) == pytest.approx(float(expected.mean()), rel=0.03)


def test_the_loop_closes_exactly() -> None:
    world, phi = World(), photo_map()
    dictionary = Subspaces([0, 1], [2, 3, 4], [5])
    (found,) = steer_concepts(world, dictionary, phi, [1], Steer(**EXACT))
    for scale, row in zip(found.scales, found.attenuation_An):
        torch.testing.assert_close(row, torch.full((3,), scale), atol=1e-3, rtol=0)
    others = found.leakage_AnK[:, :, [0, 2]]
    assert float(others.abs().max()) < 1e-3
    assert float((found.cosine_n - 1).abs().max()) < 1e-4
    means_C = phi.mean((2, 3))[0]
    expected = torch.zeros(C)
    expected[2:5] = -0.75 * means_C[2:5]
    torch.testing.assert_close(found.change_AnL[1], expected.expand(3, C), atol=1e-3, rtol=0)


def test_concepts_that_share_directions_leak() -> None:
    world, phi = World(), photo_map()
    (found,) = steer_concepts(world, Subspaces([0, 1], [1, 2]), phi, [0], Steer(**EXACT))
    kept, shared = phi[0, 2].norm() ** 2, phi[0, 1].norm() ** 2
    expected = math.sqrt((kept + shared * 0.25**2) / (kept + shared)) - 1
    torch.testing.assert_close(found.leakage_AnK[1, :, 1], torch.full((3,), expected), atol=1e-3, rtol=0)


def test_eight_bits_are_what_is_compared() -> None:
    world, phi = World(), photo_map()
    (found,) = steer_concepts(world, Subspaces([0, 1]), phi, [0], Steer(n=3, nulls=0))
    steps = 255 * found.edits_n3SS
    torch.testing.assert_close(steps, steps.round(), atol=1e-4, rtol=0)
    delta = (found.originals_n3SS - found.edits_n3SS).square().sum(1).sqrt()
    assert torch.equal(found.delta_SS, delta.median(0).values)


def test_a_result_does_not_depend_on_its_mates() -> None:
    phi, dictionary = photo_map(), Subspaces([0], [1, 2], [3])
    together = steer_concepts(World(), dictionary, phi, [2, 0, 1], Steer(n=3))[2]
    (alone,) = steer_concepts(World(), dictionary, phi, [1], Steer(n=3, batch_size=5))
    for name in ("delta_ASS", "originals_n3SS", "attenuation_An", "leakage_AnK", "change_AnL"):
        torch.testing.assert_close(getattr(together, name), getattr(alone, name), atol=1e-5, rtol=1e-4)
    assert together.calibration is not None
    assert alone.calibration is not None
    assert together.calibration.threshold == pytest.approx(alone.calibration.threshold, rel=1e-4)
    (other,) = steer_concepts(World(), dictionary, phi, [1], Steer(n=3), key="another photo")
    assert not torch.equal(other.originals_n3SS, alone.originals_n3SS)


# --- nulls -----------------------------------------------------------------------------------------------------------


def correlated(seed: int = 9) -> tuple[Tensor, FeatureMapGaussian]:
    """A root of Σ, whose variances span nearly three decades, and the law of 2000 maps of it."""
    draw = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(C, C, generator=draw)).Q
    root_CC = axes * torch.logspace(0.5, -0.9, C)
    maps = torch.einsum("cd,ndhw->nchw", root_CC, torch.randn(2000, C, *GRID, generator=draw))
    return root_CC, FeatureMapGaussian.fit(maps + 0.5)


def test_nulls_are_as_long_in_standard_deviations_and_of_the_same_dimension() -> None:
    world, phi, dictionary = World(), photo_map(), Subspaces([0, 1])
    root_CC, world.law = correlated()
    inverse_CC = torch.linalg.inv(root_CC @ root_CC.T)
    for scale in (0.25, 2.0):
        world.rows.clear()
        steer_concepts(world, dictionary, phi, [0], Steer(n=1, scale=scale, scales=()))
        original, shown, edit, *nulls = (m for m, _ in world.rows)
        assert len(nulls) == 19
        torch.testing.assert_close(
            shown, scaled(original, dictionary.parts(original[None].flatten(2))[0, 0].view(C, *GRID), scale)
        )
        assert torch.cosine_similarity((shown - original).flatten(), (edit - original).flatten(), dim=0) > 0.9999
        lengths = [
            torch.einsum("chw,cd,dhw->", e, inverse_CC, e).sqrt() for e in (m - original for m in (edit, *nulls))
        ]
        for null, length in zip(nulls, lengths[1:]):
            assert float(length) == pytest.approx(float(lengths[0]), rel=0.1)  # Σ is an estimate
            assert torch.linalg.matrix_rank((null - original).flatten(1), rtol=1e-4) == 2
            side = float(((null - original) * original).sum())
            assert (side > 0) == (scale > 1)


def test_nulls_have_the_directions_of_the_law() -> None:
    """The mean of v vᵀ over many nulls is Σ, for the law's directions and for channels that are all there is."""
    world = World()
    root_CC, world.law = correlated()
    draw = torch.Generator().manual_seed(0)
    found = map_covariance(world).directions(4000, draw).float()
    expected = root_CC @ root_CC.T
    torch.testing.assert_close(found.T @ found / 4000, expected, atol=0.15 * float(expected.max()), rtol=0)
    world.law = None
    world.sd_C = torch.linspace(0.5, 2, C)
    found = map_covariance(world).directions(4000, draw).float()
    torch.testing.assert_close(found.T @ found / 4000, world.sd_C.square().diag(), atol=0.3, rtol=0.1)


def test_directions_beside_the_axes_have_the_rest() -> None:
    """Of a law that keeps 3 of 12 axes: draws and lengths against the covariance written out."""
    _, law = correlated()
    view = law.positions
    few = replace(view, axes_KC=view.axes_KC[:3], variance_K=view.variance_K[:3], rest=torch.tensor(0.3).double())
    whole_CC = (few.axes_KC.T * (few.variance_K - 0.3)) @ few.axes_KC + 0.3 * torch.eye(C).double()
    found = few.directions(6000, torch.Generator().manual_seed(1))
    torch.testing.assert_close(found.T @ found / 6000, whole_CC, atol=0.3, rtol=0)
    steps = torch.randn(5, C, generator=torch.Generator().manual_seed(2)).double()
    expected = torch.einsum("mc,cd,md->m", steps, torch.linalg.inv(whole_CC), steps) / C
    torch.testing.assert_close(few.steps(steps), expected)
    torch.testing.assert_close(few.squares(steps + few.mean_C), expected)


def test_what_hardly_varies_is_held_to_vary_a_little() -> None:
    """A direction with next to no variance: an edit in it is long, but no longer than the floor says."""
    world = World()
    world.sd_C = torch.ones(C)
    world.sd_C[0] = 1e-6
    edit = torch.zeros(1, C, *GRID)
    edit[0, 0, 0, 0] = 1.0
    assert standardised_length(edit, map_covariance(world)) == pytest.approx(FLOOR**-0.5 / C**0.5)
    other = torch.zeros(1, C, *GRID)
    other[0, 1, 0, 0] = 1.0
    assert standardised_length(other, map_covariance(world)) == pytest.approx(C**-0.5)


def test_nulls_stay_in_the_channels_that_vary() -> None:
    world = World()
    world.sd_C[4:] = 0
    edit = photo_map(3)
    edit[:, 4:] = 0
    law = map_covariance(world)
    part = null_part(photo_map(), edit, 2, law, torch.Generator().manual_seed(0))
    assert torch.count_nonzero(part[:, 4:]) == 0
    assert standardised_length(part, law) == pytest.approx(standardised_length(edit, law))


def brute_force(delta: Tensor, nulls: Tensor) -> Tensor:
    peaks = [float(one.max()) for one in nulls]
    values = [(1 + sum(peak >= float(d) for peak in peaks)) / (len(peaks) + 1) for d in delta.flatten()]
    return torch.tensor(values, dtype=torch.float64).view_as(delta)


def test_adjusted_p_values_are_ranks_among_maxima() -> None:
    draw = torch.Generator().manual_seed(2)
    nulls, delta = torch.rand(39, 5, 4, generator=draw), 1.1 * torch.rand(5, 4, generator=draw)
    delta[0, 0], delta[0, 1] = nulls[3].max(), nulls.max() + 0.1  # a tie counts against the concept
    found = calibrate(delta, nulls, 0.1)
    assert torch.equal(found.adjusted_HW, brute_force(delta, nulls))
    assert torch.equal(found.affected_HW, delta > found.threshold)
    assert found.allowed == 4
    assert found.p_value == pytest.approx(1 / 40)


@pytest.mark.parametrize(("count", "level"), [(19, 0.05), (39, 0.1), (24, 0.05)])
def test_exchangeable_maps_are_flagged_at_the_stated_rate(count: int, level: float) -> None:
    """Maps of heavy tails whose pixels depend on each other and differ in scale: only exchangeability is used."""
    trials = 2000
    draw = torch.Generator().manual_seed(count)
    field = torch.randn(trials, count + 1, 4, 4, generator=draw)
    size = torch.randn(trials, count + 1, 1, 1, generator=draw).exp()
    maps = (size * (field + field.roll(1, 3)) * torch.linspace(0.1, 2, 4)).abs()
    calibrations = [calibrate(one[0], one[1:], level) for one in maps]
    flagged = sum(bool(c.affected_HW.any()) for c in calibrations) / trials
    rate = calibrations[0].rate
    assert rate <= level
    assert abs(flagged - rate) < 3 * math.sqrt(rate * (1 - rate) / trials)
    pointwise = [bool(c.pointwise_affected_HW.any()) for c in calibrations]
    assert sum(pointwise) / trials <= rate + 3 * math.sqrt(rate * (1 - rate) / trials)


@pytest.mark.parametrize("known", [True, False])
def test_null_concepts_are_flagged_at_the_stated_rate(known: bool) -> None:
    """200 random subspaces in a world where some positions and pixels shine more than others, and channels correlate."""
    world, flagged, trials = World(), 0, 200
    world.W_PC = world.W_PC * torch.linspace(0.2, 2, PIXELS)[:, None]
    root_CC, law = correlated()
    if known:
        world.law = law
    else:
        root_CC = torch.linspace(0.2, 2, C).diag()
        world.sd_C = root_CC.diag()
    for trial in range(trials):
        phi = torch.einsum("cd,bdhw->bchw", root_CC, photo_map(trial)) + 0.5
        draw = torch.Generator().manual_seed(10_000 + trial)
        concept = Span(root_CC @ torch.randn(C, 2, generator=draw))
        (found,) = steer_concepts(world, concept, phi, [0], Steer(n=1, scales=(), level=0.1), key=str(trial))
        flagged += bool(found.affected_SS.any())
    assert abs(flagged - 0.1 * trials) <= 3 * math.sqrt(0.1 * 0.9 * trials)


def test_directions_that_hardly_vary_are_not_flagged_for_that() -> None:
    """A decoder that undoes the map's scales, as regression does, shines wherever maps hardly vary. Of concepts that
    are such directions nulls of the same Euclidean length would flag nearly all; nulls of the same standardised length flag few."""
    world, flagged, trials = World(), 0, 60
    root_CC, world.law = correlated()
    world.W_PC = world.W_PC @ torch.linalg.inv(root_CC)
    for trial in range(trials):
        phi = torch.einsum("cd,bdhw->bchw", root_CC, photo_map(trial)) + 0.5
        draw = torch.Generator().manual_seed(20_000 + trial)
        concept = Span(torch.randn(C, 1, generator=draw))
        config = Steer(n=1, scales=(), level=0.1, eight_bit=False)
        (found,) = steer_concepts(world, concept, phi, [0], config, key=str(trial))
        flagged += bool(found.affected_SS.any())
    assert flagged <= 0.25 * trials


def test_a_concept_that_shines_is_flagged_where_it_is() -> None:
    """The picture reads one channel 10 times as strongly as any other, and that channel is in one place."""
    world = World(noise=0.005)
    world.W_PC[:, 0] *= 10
    phi = photo_map()
    phi[:, 0] = 0
    phi[0, 0, 1, 1] = 2.0
    (found,) = steer_concepts(world, Subspaces([0], [1]), phi, [0], Steer(n=3))
    assert found.calibration is not None
    assert found.calibration.p_value == pytest.approx(1 / 20)
    place = torch.zeros_like(found.affected_SS)
    place[PATCH : 2 * PATCH, PATCH : 2 * PATCH] = True
    assert found.affected_SS.any()
    assert not (found.affected_SS & ~place).any()


def test_the_test_is_of_another_edit_than_the_shown_one() -> None:
    """In a linear world Δ of the test is Δ of the shown edit, times the size; only the region and the p-value are of it."""
    world, phi, dictionary = World(), photo_map(), Subspaces([0, 1], [2])
    config = Steer(n=1, scales=(), eight_bit=False)
    for found in steer_concepts(world, dictionary, phi, [0, 1], config):
        part = dictionary.parts(phi.flatten(2))[found.concept, 0].unflatten(1, GRID)
        torch.testing.assert_close(found.delta_SS, closed_form(world, part, 0.25), atol=1e-6, rtol=1e-4)
        c = found.calibration
        assert c is not None
        assert c.size is not None
        assert c.size != pytest.approx(1, rel=0.01)
        assert c.peak == pytest.approx(c.size * float(found.delta_SS.max()), rel=1e-3)
        assert torch.equal(found.affected_SS, c.size * found.delta_SS > c.threshold)


def test_earlier_runs_can_be_repeated_with_their_test() -> None:
    world, phi = World(), photo_map()
    (found,) = steer_concepts(world, Subspaces([0, 1]), phi, [0], Steer(n=1, scales=()), test=OWN_SIZE)
    original, edit, *nulls = (m for m, _ in world.rows)
    assert len(nulls) == 19
    law = map_covariance(world)
    lengths = [standardised_length((m - original)[None], law) for m in (edit, *nulls)]
    assert lengths == pytest.approx([lengths[0]] * 20, rel=1e-4)
    assert found.calibration is not None
    assert found.calibration.size == 1.0
    assert found.calibration.peak == float(found.delta_SS.max())


def test_the_papers_rule_flags_nulls_too() -> None:
    delta = torch.tensor([[0.1, 0.32, 0.34, 1.0]])
    assert paper_mask(delta).tolist() == [[False, False, True, True]]
    assert PAPER_THRESHOLD == 0.33
    assert paper_mask(1e-6 * delta).any()


# --- refusals --------------------------------------------------------------------------------------------------------


def test_bad_input_is_refused() -> None:
    world, dictionary = World(), Subspaces([0], [1])
    with pytest.raises(UserError, match=r"no concept 7: there are 2, 0 to 1; did you mean 1 \(channels \[1\]\)"):
        steer_concepts(world, dictionary, photo_map(), [7], Steer())
    with pytest.raises(UserError, match="did you mean 0"):
        steer_concepts(world, dictionary, photo_map(), [-1], Steer())
    with pytest.raises(UserError, match=r"expected one map of shape \(1, 12, 3, 2\)"):
        steer_concepts(world, dictionary, photo_map()[..., :1], [0], Steer())
    with pytest.raises(UserError, match="not finite"):
        steer_concepts(world, dictionary, photo_map() / 0, [0], Steer())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "at least 1"), ({"nulls": -1}, "0 or more"), ({"level": 1.0}, "between 0 and 1"),
        ({"scale": 1.0}, "leaves the concept"), ({"scales": (0.0, math.inf)}, "finite"), ({"nulls": 18}, "at least 19"),
        ({"level": 0.01}, "at least 99"), ({"batch_size": 0}, "at least 1"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Steer(**options)


def test_without_nulls_only_the_papers_rule_is_left() -> None:
    (found,) = steer_concepts(World(), Subspaces([0]), photo_map(), [0], Steer(**EXACT))
    assert found.calibration is None
    assert torch.equal(found.affected_SS, paper_mask(found.delta_SS))


def test_of_a_large_dictionary_only_the_parts_that_are_asked_for_are_held() -> None:
    world, phi, many = World(), photo_map(), Many(600)
    config = Steer(**EXACT | {"nulls": 4, "level": 0.2})
    found = steer_concepts(world, many, phi, [3, 599], config)
    assert many.most <= 4  # the two that are steered, and those that are being measured
    small = Subspaces(*([k % C] for k in range(600)))
    for one, same in zip(found, steer_concepts(World(), small, phi, [3, 599], config)):
        torch.testing.assert_close(one.delta_ASS, same.delta_ASS)
        torch.testing.assert_close(one.norms_nK, same.norms_nK)
        torch.testing.assert_close(one.leakage_AnK, same.leakage_AnK, equal_nan=True)

"""Random edits that concepts are compared with: exchangeable with concepts of their own law, whatever the decoder does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from entoptic.base.estimates import wilson
from entoptic.errors import NotAvailable
from entoptic.inversion.calibration import POWER, calibrate
from entoptic.inversion.map_gaussian import Ellipsoid
from entoptic.inversion.null_edits import (
    ABSENT,
    COMMON_SIZE,
    OWN_SIZE,
    NullTest,
    concept_dimension,
    dimension_of,
    find_test,
    random_part,
    standardised_length,
)

C, GRID, NULLS, LEVEL = 8, (2, 2), 19, 0.05
DRAWS = 2000
CERTAIN = 3.29  # an interval of 99.9 %


def law(sd_C: Tensor | None = None) -> Ellipsoid:
    """Independent channels."""
    sd_C = torch.ones(C) if sd_C is None else sd_C
    none, zero = torch.empty(0), torch.zeros((), dtype=torch.float64)
    return Ellipsoid(torch.zeros(C).double(), torch.eye(C).double(), sd_C.double().square(), zero, none)


def photo() -> Tensor:
    """A map that points along channel 0 nearly everywhere, so that a part's length tells its direction."""
    phi = 0.05 * torch.randn(1, C, *GRID, generator=torch.Generator().manual_seed(1))
    phi[:, 0] += 2.0
    return phi


MIX_PC = torch.randn(20, C, generator=torch.Generator().manual_seed(3))


def linear(maps_BChw: Tensor) -> Tensor:
    return torch.einsum("pc,bchw->bphw", MIX_PC, maps_BChw).flatten(1)


def saturating(maps_BChw: Tensor) -> Tensor:
    return torch.tanh(2 * linear(maps_BChw))


def quadratic(maps_BChw: Tensor) -> Tensor:
    """Answers to small edits beside channel 0, and to large edits along it."""
    return torch.cat([maps_BChw[:, 1:].flatten(1), 3 * (maps_BChw[:, 0] - 2).flatten(1).square()], 1)


DECODERS: tuple[Callable[[Tensor], Tensor], ...] = (linear, saturating, quadratic)


def flagged(test: NullTest, dimension: int, ellipsoid: Ellipsoid, scale: float = 0.25) -> dict[str, int]:
    """Of `DRAWS` concepts of the law of the random subspaces, how many are flagged with each decoder."""
    phi, draw = photo(), torch.Generator().manual_seed(dimension)
    hits = {decoder.__name__: 0 for decoder in DECODERS}
    for _ in range(DRAWS):
        part = random_part(phi, dimension, ellipsoid, draw).float()
        made = test.compare(phi, part, scale, dimension, ellipsoid, [draw] * NULLS)
        own = phi - (1 - scale) * part if made.concept_1Chw is None else made.concept_1Chw
        maps = torch.cat([phi, own, made.nulls_RChw])
        for decoder in DECODERS:
            pictures = decoder(maps)
            peaks = (pictures[1:] - pictures[0]).abs().amax(1)
            hits[decoder.__name__] += bool(peaks[0] > peaks[1:].max())
    return hits


SLOW = pytest.mark.slow


@pytest.mark.parametrize("dimension", [1, pytest.param(2, marks=SLOW), pytest.param(5, marks=SLOW)])
def test_concepts_of_the_nulls_law_are_flagged_at_the_stated_rate(dimension: int) -> None:
    for decoder, hits in flagged(COMMON_SIZE, dimension, law()).items():
        low, high = wilson(hits, DRAWS, CERTAIN)
        assert low <= LEVEL <= high, decoder


@SLOW
def test_they_are_where_channels_differ_and_the_concept_is_made_stronger() -> None:
    for decoder, hits in flagged(COMMON_SIZE, 2, law(torch.linspace(0.5, 1.5, C)), scale=2.0).items():
        low, high = wilson(hits, DRAWS, CERTAIN)
        assert low <= LEVEL <= high, decoder


@SLOW
def test_nulls_of_the_concepts_own_size_flag_more() -> None:
    """What the test of earlier runs did, and why there is another: the concept's own size goes with its direction."""
    assert wilson(flagged(OWN_SIZE, 1, law())["quadratic"], DRAWS, CERTAIN)[0] > LEVEL


def test_all_compared_edits_have_the_median_length() -> None:
    ellipsoid, phi = law(torch.linspace(0.5, 1.5, C)), photo()
    part = random_part(phi, 2, ellipsoid, torch.Generator().manual_seed(0)).float()
    parts = [part, *(random_part(phi, 2, ellipsoid, torch.Generator().manual_seed(r)) for r in range(1, NULLS + 1))]
    lengths = torch.tensor([standardised_length(one, ellipsoid) for one in parts])
    for scale in (0.25, 2.0):
        generators = [torch.Generator().manual_seed(r) for r in range(1, NULLS + 1)]
        made = COMMON_SIZE.compare(phi, part, scale, 2, ellipsoid, generators)
        assert made.concept_1Chw is not None
        for one, edited in zip(parts, (made.concept_1Chw, *made.nulls_RChw.split(1)), strict=True):
            edit = edited - phi
            size = standardised_length(edit, ellipsoid)
            assert size == pytest.approx(abs(1 - scale) * float(lengths.quantile(0.5)), rel=1e-4)
            assert torch.cosine_similarity(edit.flatten(), one.float().flatten(), dim=0) == pytest.approx(
                1 if scale > 1 else -1, abs=1e-4
            )
        assert made.size == pytest.approx(float(lengths.quantile(0.5) / lengths[0]))


def test_parts_that_are_rounding_error_are_not_stretched() -> None:
    ellipsoid, phi = law(), photo()
    least = ABSENT * standardised_length(phi, ellipsoid)
    for share, stretched in ((0.5, False), (2.0, True)):
        part = torch.zeros_like(phi)
        part[0, 1, 0, 0] = share * least * C**0.5
        made = COMMON_SIZE.compare(phi, part, 0.0, 1, ellipsoid, [torch.Generator().manual_seed(0)] * NULLS)
        assert made.concept_1Chw is not None
        assert (made.size is not None) == stretched
        assert torch.equal(made.concept_1Chw, phi) != stretched
    # Random parts alike: of a map that lies beside all that varies they are 0, and so is the common size.
    ellipsoid, phi = replace(law(), axes_KC=torch.eye(C)[1:].double(), variance_K=torch.ones(C - 1).double()), photo()
    phi[:, 1:] = 0
    part = phi.clone()
    part[:, 1] = 1.0
    made = COMMON_SIZE.compare(phi, part, 0.0, 1, ellipsoid, [torch.Generator().manual_seed(0)] * NULLS)
    assert torch.equal(made.nulls_RChw, phi.expand(NULLS, -1, -1, -1))
    assert made.concept_1Chw is not None
    assert torch.equal(made.concept_1Chw, phi)


# --- dimensions ------------------------------------------------------------------------------------------------------


class Subspace:
    """One concept of given directions C×d; below a threshold it does not answer."""

    layer, model_sha256, names = "last", "", ("it",)

    def __init__(self, directions_Cd: Tensor, threshold: float = -torch.inf) -> None:
        self.basis_Cd, self.threshold = torch.linalg.qr(directions_Cd.double()).Q, threshold

    def parts(self, maps_BCD: Tensor) -> Tensor:
        values = maps_BCD * (maps_BCD.amax(1, keepdim=True) > self.threshold)
        return torch.einsum("cd,ed,bep->bcp", self.basis_Cd, self.basis_Cd, values.double()).float()[None]


def test_the_dimension_is_that_of_the_concept_not_of_the_photo() -> None:
    """Of four positions a part spans four dimensions at most, and of a map that is the same everywhere one."""
    ellipsoid, flat = law(torch.linspace(0.05, 1, C)), torch.ones(1, C, *GRID)
    for dimension in (1, 3, 6, C):
        concept = Subspace(torch.randn(C, dimension, generator=torch.Generator().manual_seed(dimension)))
        for phi in (photo(), flat):
            part = concept.parts(phi.flatten(2))[0].unflatten(2, GRID)
            assert dimension_of(part) <= (1 if phi is flat else 4)
            assert concept_dimension(concept, 0, part, ellipsoid) == dimension
    # What answers to no draw is as large as its part in the photo.
    silent = Subspace(torch.eye(C)[:, :2], threshold=100.0)
    phi = 200 * torch.randn(1, C, *GRID, generator=torch.Generator().manual_seed(5)).abs()
    part = silent.parts(phi.flatten(2))[0].unflatten(2, GRID)
    assert concept_dimension(silent, 0, part, ellipsoid) == dimension_of(part) == 2


def test_of_wide_maps_as_many_draws_are_taken_as_the_dimension_needs() -> None:
    wide = 200
    none, zero = torch.empty(0), torch.zeros((), dtype=torch.float64)
    ellipsoid = Ellipsoid(torch.zeros(wide).double(), torch.eye(wide).double(), torch.ones(wide).double(), zero, none)
    concept = Subspace(torch.randn(wide, 70, generator=torch.Generator().manual_seed(0)))
    assert concept_dimension(concept, 0, torch.zeros(1, wide, *GRID), ellipsoid) == 70


def test_random_parts_have_the_dimension_that_the_law_allows() -> None:
    """Directions beside the principal axes vary too, where the law says so."""
    few = replace(law(), axes_KC=torch.eye(C)[:2].double(), variance_K=torch.ones(2).double())
    beside = replace(few, rest=torch.tensor(0.3).double())
    phi = torch.randn(1, C, 3, 3, generator=torch.Generator().manual_seed(0))
    assert dimension_of(random_part(phi, 5, few, torch.Generator().manual_seed(1))) == 2
    assert dimension_of(random_part(phi, 5, beside, torch.Generator().manual_seed(1))) == 5


# --- power -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "level"), [(19, 0.05), (49, 0.1)])
def test_effects_of_the_detectable_size_are_found_in_four_of_five_cases(count: int, level: float) -> None:
    """Of a further random edit whose change is multiplied by it; the maxima have heavy tails."""
    trials = 2000
    peaks = torch.randn(trials, count + 1, generator=torch.Generator().manual_seed(count)).mul(1.5).exp()
    found = 0
    for peak, *nulls in peaks.tolist():
        made = calibrate(torch.zeros(1, 1), torch.tensor(nulls)[:, None, None], level).detectable
        assert made is not None
        assert made.interval is not None
        assert made.interval[0] <= made.value <= made.interval[1]
        assert (made.n, made.power) == (count, POWER)
        threshold = sorted(nulls)[count - int(level * (count + 1) + 1e-9)]
        found += peak * made.value > threshold
    low, high = wilson(found, trials, CERTAIN)
    assert low <= POWER <= high


def test_a_concept_is_flagged_from_the_multiple_that_is_named() -> None:
    draw = torch.Generator().manual_seed(0)
    nulls = torch.rand(NULLS, 3, 3, generator=draw)
    for scale in (0.2, 3.0):
        delta = scale * torch.rand(3, 3, generator=draw)
        found = calibrate(delta, nulls, LEVEL)
        assert found.flagged_from is not None
        assert (found.flagged_from < 1) == bool(found.affected_HW.any())
        assert not calibrate(0.999 * found.flagged_from * delta, nulls, LEVEL).affected_HW.any()
        assert calibrate(1.001 * found.flagged_from * delta, nulls, LEVEL).affected_HW.any()
    assert calibrate(torch.zeros(3, 3), nulls, LEVEL).flagged_from is None


def test_no_power_is_stated_where_random_edits_change_nothing_or_are_few() -> None:
    ones = torch.ones(1, 1)
    assert calibrate(ones, torch.zeros(NULLS, 1, 1), LEVEL).detectable is None
    few = calibrate(ones, torch.linspace(1, 2, 16)[:, None, None], 0.1).detectable
    assert few is not None
    assert few.interval is None
    nulls = torch.linspace(0, 2, NULLS)[:, None, None]  # the smallest of them changes nothing
    some = calibrate(ones, nulls, LEVEL).detectable
    assert some is not None
    assert some.interval is None


def test_versions_are_found_and_unknown_ones_refused() -> None:
    assert find_test(1) is OWN_SIZE
    assert find_test(2) is COMMON_SIZE
    with pytest.raises(NotAvailable, match="random edits are of version 3"):
        find_test(3)

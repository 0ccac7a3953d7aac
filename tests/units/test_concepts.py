"""Concepts by MCD against a dense oracle, closed forms and planted subspaces."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from entoptic.errors import UserError
from entoptic.units.concepts import Concepts, Mcd, discover, orthogonalised
from entoptic.units.dictionary import Dictionary, attenuate
from entoptic.units.subspaces import (
    inliers,
)
from oracles import mcd as oracle
from planted_subspaces import gaussian, oblique, planted, rand_index, unit_rows


def refused(*args: Any, **more: Any) -> str:
    with pytest.raises(UserError) as error:
        discover(*args, **more)
    return str(error.value)


# --- decomposition -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_thin_products_give_what_the_dense_solve_gives(seed: int) -> None:
    concepts, maps = oblique(seed), gaussian(2, 24, 5, seed=seed + 77)
    bases, w = [b.numpy() for b in concepts.bases], concepts.weights[0].numpy()
    dense = np.stack([[oracle.decompose(bases, maps[b, :, d].numpy()) for d in range(5)] for b in range(2)])
    parts = torch.cat([concepts.parts(maps), concepts.rest(maps)[None]]).permute(1, 3, 0, 2).numpy()
    assert np.abs(parts - dense).max() < 1e-10
    assert abs(concepts.completeness() - oracle.completeness(bases, w)) < 1e-10
    assert np.abs(concepts.global_relevance().numpy() - oracle.global_relevance(bases, w)).max() < 1e-10
    assert np.abs(concepts.local_relevance(maps).numpy() - oracle.local_relevance(bases, w, maps.numpy())).max() < 1e-10


def test_angles_matter_to_the_oracle() -> None:
    """Projecting onto each concept alone, which is right for orthogonal ones only, is far off here."""
    concepts, maps = oblique(), gaussian(1, 24, 3)
    alone = torch.einsum("pc,pd,bdn->bcn", concepts.bases[0], concepts.bases[0], maps)
    assert float((alone - concepts.part(maps, 0)).abs().max()) > 0.1


@settings(max_examples=12)
@given(seed=st.integers(0, 10_000), sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_parts_and_rest_add_up_and_the_rest_is_orthogonal(seed: int, sizes: list[int]) -> None:
    concepts = Concepts.of([gaussian(p, 20, seed=seed + k) for k, p in enumerate(sizes)], gaussian(20, seed=seed))
    maps = gaussian(2, 20, 3, seed=seed + 99)
    rest = concepts.rest(maps)
    torch.testing.assert_close(concepts.parts(maps).sum(0) + rest, maps)
    for b in concepts.bases:
        assert float(torch.einsum("pc,bcd->bpd", b, rest).abs().max()) < 1e-8 * float(maps.abs().max()) * 1e3
    assert -1e-12 <= concepts.completeness() <= 1 + 1e-12


def test_it_is_a_dictionary_whose_activations_are_the_lengths_of_its_parts() -> None:
    concepts, maps = oblique(), gaussian(2, 24, 6)
    assert isinstance(concepts, Dictionary)
    torch.testing.assert_close(concepts.activations(maps), concepts.parts(maps).norm(dim=2).transpose(0, 1))
    torch.testing.assert_close(concepts.activations(maps.unflatten(2, (2, 3))).flatten(2), concepts.activations(maps))
    share = concepts.shares(maps)
    torch.testing.assert_close(share[1], concepts.activations(maps)[1] / maps[1].norm(dim=0).max())


def test_attenuation_scales_one_part_and_leaves_all_others() -> None:
    """Also at an angle: the dual basis of one concept is blind to the others."""
    concepts, maps = oblique(), gaussian(2, 24, 6)
    for scale in (0.0, 0.25, 2.0):
        after = concepts.parts(steered := attenuate(concepts, maps, 1, scale))
        expected = concepts.parts(maps) * torch.tensor([1.0, scale, 1.0])[:, None, None, None]
        torch.testing.assert_close(after, expected.double())
        torch.testing.assert_close(concepts.rest(steered), concepts.rest(maps))
    assert torch.equal(attenuate(concepts, maps, 1, 1.0), maps)


def test_orthogonal_concepts_span_the_same_and_their_relevances_are_shares() -> None:
    concepts = oblique()
    apart = Concepts.of(orthogonalised(concepts.bases, concepts.weights), concepts.weights)
    gram = apart._all @ apart._all.T
    torch.testing.assert_close(gram, torch.eye(9, dtype=torch.float64))
    assert abs(apart.completeness() - concepts.completeness()) < 1e-10
    assert abs(float(apart.global_relevance().square().sum()) - 1) < 1e-10
    assert abs(float(concepts.global_relevance().square().sum()) - 1) > 1e-3
    first = max(float((b @ concepts.weights[0]).norm()) for b in concepts.bases)
    assert abs(float((apart.bases[0] @ concepts.weights[0]).norm()) - first) < 1e-10


def test_gradients_of_activations_are_those_of_finite_differences_and_0_at_0() -> None:
    concepts, maps = oblique(), gaussian(1, 24, 2).requires_grad_()
    assert torch.autograd.gradcheck(concepts.activations, (maps,))
    silent = concepts.rest(gaussian(1, 24, 2)) * 0
    (slope,) = torch.autograd.grad(concepts.activations(silent.requires_grad_()).sum(), silent)
    assert torch.equal(slope, torch.zeros_like(slope))


def test_half_precision_maps_are_widened() -> None:
    concepts, maps = oblique(), gaussian(1, 24, 2)
    found = concepts.activations(maps.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), concepts.activations(maps.bfloat16().double()), atol=1e-5, rtol=1e-5)


# --- discovery ----------------------------------------------------------------------------------------------------


def test_concepts_are_the_planted_subspaces_and_outliers_are_left_out() -> None:
    vectors, labels, bases = planted()
    scattered = gaussian(40, 40, seed=5) * vectors.norm(dim=1).mean() / 40**0.5
    found = discover(
        torch.cat([vectors, scattered]), gaussian(40, seed=8), Mcd(concepts=4, outliers=0.2, neighbours=30)
    )
    assert found.dimensions == [5] * 4
    assert rand_index(found.assign(vectors), labels) >= 0.95
    for b in bases:  # principal angles
        assert max(float(torch.linalg.svdvals(b @ c.T)[-1]) for c in found.bases) > 0.99
    kept, _ = inliers(unit_rows(torch.cat([vectors, scattered])).float(), 0.2, gamma=50, neighbours=30)
    assert int((kept >= 160).sum()) <= 4  # of 40; by chance it would be 32


def test_most_vectors_follow_a_small_sample() -> None:
    vectors, labels, _ = planted(per=100)
    found = discover(vectors, gaussian(40, seed=8), Mcd(concepts=4, sample=160, neighbours=30))
    assert rand_index(found.assign(vectors), labels) >= 0.95
    assert found.dimensions == [5] * 4


def test_the_number_of_concepts_is_the_smallest_that_is_complete() -> None:
    vectors, _, bases = planted()
    w = torch.cat(bases).sum(0) + 0.1 * gaussian(40, seed=4)
    reached = [discover(vectors, w, Mcd(concepts=n, outliers=0, neighbours=30)).completeness() for n in (1, 2, 3, 4)]
    found = discover(vectors, w, Mcd(completeness=reached[2] - 1e-6, outliers=0, neighbours=30))
    assert len(found) == next(n for n, c in enumerate(reached, 1) if c >= reached[2] - 1e-6)
    short = discover(
        vectors, w, Mcd(most=2, completeness=1.0, outliers=0, neighbours=30)
    )  # nothing reaches it: the best is given
    assert short.completeness() == pytest.approx(max(reached[:2]))
    order = found.global_relevance()[:-1]
    assert torch.equal(order, order.sort(descending=True).values)


def test_several_classes_are_all_covered() -> None:
    vectors, _, bases = planted()
    w = torch.stack([bases[0].sum(0), bases[3].sum(0) + bases[1].sum(0)])
    found = discover(vectors, w, Mcd(completeness=0.95, outliers=0, neighbours=30))
    assert min(found.completeness(0), found.completeness(1)) >= 0.95
    assert found.global_relevance(1).shape == (len(found) + 1,)


@settings(max_examples=2)
@given(seed=st.integers(0, 1000))
def test_the_order_of_the_vectors_does_not_matter(seed: int) -> None:
    vectors, _, _ = planted(per=20, seed=seed)
    w = gaussian(40, seed=seed)
    order = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(seed + 1))
    config = Mcd(concepts=3, sample=60, neighbours=20)
    first, second = discover(vectors, w, config), discover(vectors[order], w, config)
    assert second.completeness() == pytest.approx(first.completeness(), abs=1e-9)
    assert second.dimensions == first.dimensions


def test_the_length_of_vectors_and_weights_does_not_matter() -> None:
    vectors, _, _ = planted(per=20)
    w, config = gaussian(40), Mcd(concepts=3, neighbours=20)
    scale = torch.rand(len(vectors), 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5
    first, second = discover(vectors, w, config), discover(vectors * scale, 3 * w, config)
    assert second.completeness() == pytest.approx(first.completeness(), abs=1e-9)


# --- bad input -----------------------------------------------------------------------------------------------------


def test_bad_vectors_and_weights_are_refused() -> None:
    vectors, w = planted(per=10)[0], gaussian(40)
    broken = vectors.clone()
    broken[3, 4] = torch.nan
    assert "1 of 40 vectors are not finite" in refused(broken, w)
    assert "0 of 40 vectors are not zero" in refused(vectors * 0, w)
    assert "2 of 2 vectors are not zero; concepts need at least 3" in refused(vectors[:2], w)
    assert "does not depend on this layer" in refused(vectors, w * 0)
    assert "weights are not finite" in refused(vectors, w * torch.inf)
    assert "expected vectors N×C" in refused(vectors, w[:7])
    assert "expected vectors N×C" in refused(vectors[None], w)
    assert "50 concepts were asked of 30 vectors" in refused(vectors, w, Mcd(concepts=50))
    alike = vectors[:1].expand(30, -1)
    assert "all alike" in refused(alike, w)
    assert discover(alike, w, Mcd(centred=False)).dimensions == [1]
    assert discover(vectors, w, Mcd(concepts=2)).channels == 40  # as many vectors as channels
    few = discover(vectors[:6], w, Mcd(concepts=1))
    assert few.dimensions[0] <= 5


def test_zero_vectors_are_left_out() -> None:
    vectors, w = planted(per=15)[0], gaussian(40)
    padded = torch.cat([vectors, torch.zeros(9, 40, dtype=torch.float64)])
    config = Mcd(concepts=2, neighbours=20)
    assert discover(padded, w, config).completeness() == discover(vectors, w, config).completeness()


def test_concepts_that_overlap_are_refused_and_bad_bases_named() -> None:
    b = gaussian(2, 10)
    for bases, says in (
        ([b, b[:1]], "not independent"), ([b[:0]], "concept 0 is empty"), ([b, b * 0], "concept 1 is zero"), ([], "at least one"),
        ([b, b * torch.nan], "concept 1 is empty, not finite"), ([gaussian(6, 10), gaussian(6, 10, seed=1)], "not independent"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=says):
            Concepts.of(bases)
    assert Concepts.of([b, gaussian(10, seed=3)]).dimensions == [2, 1]  # a single direction is a concept too


@pytest.mark.parametrize(
    "change", [{"dimension": "held"}, {"outliers": 1.0}, {"completeness": 0.0}, {"gamma": 0.5}, {"most": 0}]
)
def test_settings_are_checked(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(change))):
        replace(Mcd(), **change)

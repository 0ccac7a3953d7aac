"""Certificates against exact enumeration: every subset, and every set of photos within r edits over a small alphabet."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from scipy.stats import beta, binom

from entoptic.circuits.binomial import lower_bound, tail
from entoptic.circuits.certify import (
    Certificate,
    CertifyOptions,
    State,
    certify,
    radius_majority,
    radius_mask,
    states_of,
    top_of_mean,
)
from entoptic.errors import UserError

Counts = tuple[int, ...]
"""A set of photos of few kinds: how many there are of each."""


def vote(counts: Counts, decision: Callable[[Counts], bool], deletion: float) -> float:
    """p_u exactly: the decision depends on how many of each kind are left."""
    total = 0.0
    for left in itertools.product(*(range(c + 1) for c in counts)):
        weight = math.prod(math.comb(c, k) * (1 - deletion) ** k * deletion ** (c - k) for c, k in zip(counts, left))
        total += weight * decision(left)
    return total


def within(counts: Counts, edits: int) -> Iterator[Counts]:
    """All sets that at most so many photos inserted, deleted or replaced lead to."""
    reach = range(-edits, edits + 1)
    for change in itertools.product(reach, repeat=len(counts)):
        added, taken = sum(max(c, 0) for c in change), -sum(min(c, 0) for c in change)
        if max(added, taken) <= edits:
            other = tuple(c + d for c, d in zip(counts, change))
            if min(other) >= 0:
                yield other


def published_radius(tau: float, deletion: float) -> int:
    return math.floor(math.log(1.5 - tau) / math.log(deletion))


def decisions(seed: int) -> Callable[[Counts], bool]:
    """A random decision that depends on the counts alone; nothing is in for no photos."""
    rng = np.random.default_rng(seed)
    share, table = rng.uniform(0.3, 0.999), rng.random((8, 8))
    threshold = [int(x) for x in rng.integers(0, 3, 2)]

    def decision(left: Counts) -> bool:
        if seed % 2:
            return sum(left) > 0 and all(k >= t for k, t in zip(left, threshold))
        return sum(left) > 0 and bool(table[left] < share)

    return decision


def cases() -> Iterator[tuple[Counts, Callable[[Counts], bool], float, float]]:
    for seed, counts, deletion in itertools.product(range(30), ((3, 2), (5, 1)), (0.6, 0.8, 0.9)):
        decision = decisions(seed)
        yield counts, decision, deletion, vote(counts, decision, deletion)


def test_no_majority_flips_within_its_radius() -> None:
    judged = 0
    for counts, decision, deletion, p in cases():
        radius = min(radius_majority(max(p, 1 - p), deletion), 2)
        judged += radius >= 1
        for other in within(counts, max(radius, 0)):
            assert (vote(other, decision, deletion) > 0.5) == (p > 0.5) or p == 0.5
    assert judged > 30


@pytest.mark.parametrize("tau", [0.5, 0.6, 0.75])
def test_no_state_changes_within_the_radius_of_the_mask(tau: float) -> None:
    judged = 0
    for counts, decision, deletion, p in cases():
        for inside in (True, False):
            own = p if inside else 1 - p
            radius = min(radius_mask(own, tau, deletion), 2)
            judged += radius >= 1
            if radius < 0:
                assert own <= tau
                continue
            for other in within(counts, radius):
                q = vote(other, decision, deletion)
                assert (q if inside else 1 - q) > tau
    assert judged > 10


def test_the_published_radius_of_the_mask_fails_its_counter_example() -> None:
    """A(D) = [D is not empty], 14 photos, p = 0.8, τ = 0.95: "in", said to hold for 2 edits, and one deletion undoes it."""
    tau, deletion = 0.95, 0.8

    def p_of(photos: int) -> float:
        return vote((photos,), lambda left: sum(left) > 0, deletion)

    assert p_of(14) == pytest.approx(0.95602, abs=1e-5)
    assert p_of(14) > tau
    assert published_radius(tau, deletion) == 2
    assert p_of(13) == pytest.approx(0.94502, abs=1e-5)
    assert p_of(13) < tau  # abstains: the state did not hold for a single edit
    assert radius_mask(p_of(14), tau, deletion) == 0
    assert radius_majority(p_of(14), deletion) == 2
    assert p_of(12) > 0.5  # what the published argument does show
    assert [published_radius(0.95, p) for p in (0.6, 0.9, 0.99)] == [1, 5, 59]


def test_the_published_radius_is_broken_more_than_once() -> None:
    broken = 0
    for photos, deletion, tau in itertools.product(range(5, 40), (0.8, 0.9), (0.75, 0.9, 0.95)):
        p, radius = 1 - deletion**photos, published_radius(tau, deletion)
        if p > tau:
            broken += 1 - deletion ** (photos - radius) <= tau
            assert 1 - deletion ** (photos - max(radius_mask(p, tau, deletion), 0)) > tau
    assert broken > 5


@pytest.mark.parametrize("n", [1, 20, 1000])
def test_bounds_are_those_of_the_beta_distribution(n: int) -> None:
    for successes in sorted({0, 1, n // 3, n - 1, n}):
        expected = beta.ppf(0.01, successes, n - successes + 1) if successes else 0.0
        assert lower_bound(successes, n, 0.01) == pytest.approx(expected, abs=1e-9)
        assert tail(successes, n, 0.7) == pytest.approx(binom.sf(successes - 1, n, 0.7), rel=1e-9, abs=1e-300)


def test_bounds_cover_as_often_as_they_say() -> None:
    """P(bound ≤ p) summed over all outcomes is at least 1 - α, for any p."""
    n, alpha = 40, 0.1
    bounds = np.array([lower_bound(k, n, alpha) for k in range(n + 1)])
    for p in (0.05, 0.3, 0.6, 0.95):
        covered = binom.pmf(np.arange(n + 1), n, p)[bounds <= p].sum()
        assert covered >= 1 - alpha - 1e-12


def exact_states(votes: list[float], tau: float) -> list[State]:
    return [State.IN if p > tau else State.OUT if 1 - p > tau else State.ABSTAIN for p in votes]


def test_all_states_hold_at_once_as_often_as_they_say() -> None:
    """Monte Carlo with 40 edges of known votes, most of them just below the threshold: the worst case."""
    options = CertifyOptions(samples=200, tau=0.8, alpha=0.1)
    truth = [0.8, 0.79, 0.2, 0.21] * 10
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(300):
        found = states_of(rng.binomial(200, truth).tolist(), options)
        wrong += any(state is not State.ABSTAIN for state in found.states)
    assert wrong / 300 <= 0.1
    sure = states_of([200, 0, 170, 100], options)
    assert sure.states == (State.IN, State.OUT, State.ABSTAIN, State.ABSTAIN)
    assert sure.radius_mask == (0, 0, -1, -1)
    assert sure.radius_majority[0] >= 1


def planted_scores(spurious: float = 0.6) -> torch.Tensor:
    """Edge 0 is causal in every photo, edge 1 only in 60 % of them, as strong on average as 2, which is causal too."""
    scores = torch.zeros(30, 6)
    scores[:, 0] = 2.0
    there = torch.zeros(30)
    there[: int(30 * spurious)] = 1.0
    scores[:, 1] = there / spurious
    scores[:, 2] = 1.0
    scores[:, 3:] = 0.01 * torch.rand((30, 3), generator=torch.Generator().manual_seed(0))
    return scores


def test_a_spurious_component_is_abstained_and_a_causal_one_certified() -> None:
    """Two may be in: the causal edge always is, and the other place goes to the spurious one by chance of the subset."""
    certificate = certify(top_of_mean(planted_scores(), 2), 30, CertifyOptions(samples=400, deletion=0.6, tau=0.9))
    assert certificate.states[0] is State.IN
    assert certificate.states[1] is State.ABSTAIN
    assert certificate.states[3:] == (State.OUT,) * 3
    assert certificate.radius_majority[0] >= 1
    assert certificate.count(State.OUT) == 3


def test_the_empty_subset_decides_nothing() -> None:
    def decide(kept: torch.Tensor, _: int) -> torch.Tensor:
        assert kept.any()
        return torch.tensor([True])

    options = CertifyOptions(samples=2000, deletion=0.8, seed=1)
    found: Certificate = certify(decide, 3, options)
    assert found.votes[0] / 2000 == pytest.approx(1 - 0.8**3, abs=0.04)
    assert found == certify(decide, 3, options)
    with pytest.raises(UserError, match="every one of 1 subsets is empty"):
        certify(decide, 1, CertifyOptions(samples=1, deletion=0.9999))


@pytest.mark.parametrize("wrong", [{"tau": 0.4}, {"tau": 1.0}, {"deletion": 1.0}, {"alpha": 0.0}, {"samples": 0}])
def test_options_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        CertifyOptions(**wrong)  # type: ignore[arg-type]

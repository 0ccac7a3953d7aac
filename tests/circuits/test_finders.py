"""Finders on planted circuits: what each must find, must miss, and may not invent."""

from __future__ import annotations

import pytest
import torch

from entoptic.circuits.finders import FINDERS, Circuit, FinderOptions, Ranking, find_finder
from entoptic.circuits.patched import run_patched
from entoptic.circuits.patching import Patching, most_passes
from entoptic.circuits.problem import Problem
from entoptic.circuits.random_edges import random_circuit
from entoptic.circuits.selection import select
from entoptic.errors import UserError
from entoptic.planted.circuits import Kind, PlantedCircuit, Tier, plant_circuit

NOTHING = 1e-4
"""Of the score's change: what is smaller is rounding."""


def found_by(name: str, planted: PlantedCircuit, share: float = NOTHING, seed: int = 0) -> Circuit:
    problem = planted.problem()
    return find_finder(name)(problem, FinderOptions(seed=seed)).at(max(share * problem.effect, 1e-6))


@pytest.mark.parametrize("kind", Kind)
def test_patching_recovers_every_planted_edge_and_no_other(kind: Kind) -> None:
    for seed in range(4):  # twenty in the benchmark
        planted = plant_circuit(seed, Tier.PLAIN, kind)
        assert len(planted.truth) >= 3
        assert planted.score(found_by("patching", planted).kept) == (1.0, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", Kind)
def test_patching_recovers_every_planted_edge_over_twenty_seeds(kind: Kind) -> None:
    for seed in range(20):
        planted = plant_circuit(seed, Tier.PLAIN, kind)
        assert planted.score(found_by("patching", planted).kept) == (1.0, 1.0), seed


@pytest.mark.parametrize("name", ["eap", "eap-ig"])
def test_gradients_find_smooth_circuits(name: str) -> None:
    planted = plant_circuit(0, Tier.PLAIN)
    assert planted.score(found_by(name, planted).kept) == (1.0, 1.0)


def test_a_saturated_unit_is_missed_by_gradients_at_the_clean_picture_alone() -> None:
    planted = plant_circuit(0, Tier.SATURATED)
    assert planted.score(found_by("patching", planted).kept) == (1.0, 1.0)
    assert planted.score(found_by("eap-ig", planted).kept) == (1.0, 1.0)
    precision, recall = planted.score(found_by("eap", planted).kept)
    assert precision == 1.0
    assert recall < 1.0


def test_one_of_two_sufficient_paths_is_kept_and_which_one_depends_on_the_order() -> None:
    planted = plant_circuit(0, Tier.EITHER)
    circuits = [found_by("patching", planted, seed=seed).kept for seed in range(6)]
    assert all(planted.score(kept) == (1.0, 1.0) for kept in circuits)
    assert len({tuple(kept.tolist()) for kept in circuits}) == 2
    assert int(found_by("eap-ig", planted).kept.sum()) > int(circuits[0].sum())


@pytest.mark.parametrize("name", ["patching", "eap", "eap-ig"])
def test_where_the_output_reads_nothing_the_circuit_is_empty(name: str) -> None:
    assert len(found_by(name, plant_circuit(0, Tier.NULL))) == 0


def test_leaks_cost_precision_at_a_low_threshold_and_recall_at_a_high_one() -> None:
    planted = plant_circuit(3, Tier.LEAK)
    low, middle, high = (planted.score(found_by("patching", planted, share).kept) for share in (1e-4, 0.05, 1.5))
    assert low[0] < middle[0] <= 1
    assert low[1] == 1
    assert high[1] < middle[1] <= 1


def test_random_edges_score_at_the_base_rate() -> None:
    planted = plant_circuit(0)
    share = len(planted.truth) / len(planted.graph.edges)
    hits = [planted.score(random_circuit(planted.graph, 10, seed).kept)[0] for seed in range(200)]
    assert sum(hits) / len(hits) == pytest.approx(share, abs=0.03)
    names = {tuple(random_circuit(planted.graph, 10, seed).kept.tolist()) for seed in (1, 1, 2)}
    assert len(names) == 2


@torch.no_grad()
def by_hand(problem: Problem, tau: float) -> torch.Tensor:
    """Sequential patching as it is written down: one whole patched pass for each edge."""
    graph, kept = problem.graph, problem.full
    for number in sorted(
        range(len(kept)), key=lambda n: (graph.edges[n].receiver, graph.edges[n].sender), reverse=True
    ):
        trial = kept.clone()
        trial[number] = False
        masks = torch.stack([kept, trial])
        values = torch.cat([run_patched(graph, pair, masks) for pair in problem.pairs], dim=1)
        before, after = (graph.score(v) for v in values)
        if float((before - after).abs().mean()) < tau:
            kept = trial
    return graph.prune(kept)


@pytest.mark.parametrize(("tier", "kind"), [(Tier.LEAK, Kind.ATTENTION), (Tier.EITHER, Kind.RESIDUAL)])
def test_trials_that_start_at_the_receiver_decide_as_whole_passes_do(tier: Tier, kind: Kind) -> None:
    planted = plant_circuit(1, tier, kind)
    problem = planted.problem()
    for share in (0.003, 0.03, 0.2):
        tau = share * problem.effect
        assert torch.equal(Patching(problem=problem).at(tau).kept, by_hand(problem, tau)), share


def test_batches_of_photos_give_the_same_circuit() -> None:
    from entoptic.circuits.problem import make_problem

    planted = plant_circuit(2, Tier.LEAK)
    whole = planted.problem()
    parts = make_problem(planted.graph, planted.clean, planted.corrupted, at_once=3)
    for name in ("patching", "eap", "eap-ig"):
        one, other = (FINDERS[name](p, FinderOptions()).at(0.03 * whole.effect) for p in (whole, parts))
        assert torch.equal(one.kept, other.kept), name
        torch.testing.assert_close(one.effects.nan_to_num(), other.effects.nan_to_num(), rtol=1e-4, atol=1e-5)


def test_sparse_circuits_cost_a_fifth_of_one_forward_pass_an_edge() -> None:
    """Trials start at the receiver, and what a cut path led to is not run."""
    planted = plant_circuit(0, Tier.PLAIN)
    problem = planted.problem()
    before = problem.cost.passes
    Patching(problem=problem).at(NOTHING * problem.effect)
    passes = (problem.cost.passes - before) / len(problem)
    assert passes < len(planted.graph.edges) / 5
    assert passes < most_passes(planted.graph)


def test_selection_finds_the_sparsest_circuit_that_keeps_enough() -> None:
    planted = plant_circuit(0, Tier.LEAK)
    problem = planted.problem()
    # Two logits: class 0 is recognised where logit 0 is larger than a constant 0.
    search = find_finder("eap")(problem, FinderOptions())
    assert isinstance(search, Ranking)
    chosen = select(problem, search, 0.8)
    assert chosen.enough == (chosen.worth >= 0.8 * problem.worth(problem.full))
    assert all(count <= before for (_, before, _), (_, count, _) in zip(chosen.tried, chosen.tried[1:]))


def test_subsets_of_photos() -> None:
    problem = plant_circuit(0).problem()
    some = problem.subset([1, 1, 5])
    torch.testing.assert_close(some.clean, problem.clean[[1, 1, 5]])
    assert some.cost is problem.cost


def test_an_unknown_finder_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match='no finder "patchin"; did you mean "patching"'):
        find_finder("patchin")

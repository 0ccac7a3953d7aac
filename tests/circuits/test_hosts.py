"""Known networks hidden in random ones: planted exactly, found by finders, missed at random."""

from __future__ import annotations

import pytest
import torch

from entoptic.circuits.finders import FinderOptions, find_finder
from entoptic.circuits.random_edges import random_circuit
from entoptic.errors import UserError
from entoptic.planted.circuits import Tier
from entoptic.planted.hosts import LAYERS, NEURONS, WIDTH, Hosted, plant_in_host

NOTHING = 1e-4


def found_by(name: str, hosted: Hosted, share: float = NOTHING) -> torch.Tensor:
    problem = hosted.circuit.problem()
    return find_finder(name)(problem, FinderOptions()).at(max(share * problem.effect, 1e-6)).kept


def test_the_planted_function_is_reproduced_and_the_rest_of_the_host_is_alive() -> None:
    for seed in range(6):
        hosted = plant_in_host(seed)
        module = hosted.circuit.model.module.double()
        images = hosted.circuit.clean.double()
        found = hosted.scale * module(images)[:, 0].detach()
        torch.testing.assert_close(found, hosted.target(images), rtol=1e-6, atol=1e-6)
        assert float(found.std()) > 0
        values = images
        for layer in list(module)[: 2 * LAYERS]:  # type: ignore[call-overload]
            values = layer(values)
        alive = (values > 0).flatten(2).any(2).any(0)
        assert int(alive.sum()) > WIDTH // 3 > NEURONS


@pytest.mark.parametrize("name", ["patching", "eap", "eap-ig"])
def test_finders_find_what_is_hidden(name: str) -> None:
    for seed in range(3):
        circuit = plant_in_host(seed).circuit
        assert len(circuit.truth) == 1 + LAYERS * NEURONS
        assert circuit.score(found_by(name, plant_in_host(seed))) == (1.0, 1.0), seed


def test_random_edges_score_at_the_base_rate_and_a_null_has_no_circuit() -> None:
    rates, shares = [], []
    for seed in range(30):
        circuit = plant_in_host(0).circuit
        kept = random_circuit(circuit.graph, len(circuit.truth), seed).kept
        rates.append(circuit.score(kept)[0])
        shares.append(len(circuit.truth) / len(circuit.graph.edges))
    assert sum(rates) / 30 == pytest.approx(sum(shares) / 30, abs=0.05)
    null = plant_in_host(1, Tier.NULL)
    for name in ("patching", "eap", "eap-ig"):
        assert not bool(found_by(name, null).any())


def test_a_leak_costs_precision_and_a_higher_threshold_brings_it_back() -> None:
    hosted = plant_in_host(0, Tier.LEAK)
    low = hosted.circuit.score(found_by("patching", hosted))
    high = hosted.circuit.score(found_by("patching", hosted, 0.05))
    assert low[0] < high[0]
    assert low[1] == 1.0
    with pytest.raises(UserError, match="a host has no tier either"):
        plant_in_host(0, Tier.EITHER)

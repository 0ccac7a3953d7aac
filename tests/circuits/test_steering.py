"""Steering takes out what the edges of a circuit carry along a direction, and nothing else."""

from __future__ import annotations

import pytest
import torch

from circuits.test_graph import graph_of, pictures, tiny_vit
from entoptic.circuits.finders import FinderOptions, find_finder
from entoptic.circuits.patched import make_pair
from entoptic.circuits.steering import run_steered
from entoptic.circuits.written import Written, what_is_written
from entoptic.errors import UserError
from entoptic.planted.circuits import Kind, plant_circuit


def test_nothing_to_take_out_leaves_the_network_alone() -> None:
    graph, images = graph_of(tiny_vit()), pictures(0)
    pair = make_pair(graph, images, pictures(1))
    written = what_is_written(graph, [pair], range(len(graph.senders)))
    every = torch.ones(len(graph.edges), dtype=torch.bool)
    for kept, alpha in ((every, 0.0), (~every, 1.0)):
        torch.testing.assert_close(
            run_steered(graph, images, kept, written, alpha), pair.clean_values, rtol=1e-4, atol=1e-4
        )
    steered = run_steered(graph, images, every, written, 1.0)
    assert not torch.allclose(steered, pair.clean_values, rtol=1e-2)
    with pytest.raises(UserError, match="alpha must be at least 0"):
        run_steered(graph, images, every, written, -0.1)


def test_one_edge_by_hand_and_positions_that_point_away_are_left_alone() -> None:
    net = tiny_vit(depth=1)
    graph, images = graph_of(net), pictures(0)
    names = [graph.edge_name(n) for n in range(len(graph.edges))]
    kept = torch.zeros(len(names), dtype=torch.bool)
    kept[names.index("embedding -> blocks.0.mlp")] = True
    block, direction = net.blocks[0], torch.nn.functional.normalize(torch.arange(1.0, net.embed_dim + 1), dim=0)
    with torch.no_grad(), graph.model.frozen():
        x = graph.chain.stem(images)
        projection = x @ direction
        assert (projection < 0).any()
        assert (projection > 0).any()
        attended = x + block.attn(block.norm1(x))
        read = attended - 0.4 * projection.clamp_min(0)[..., None] * direction
        expected = net.forward_head(net.norm(attended + block.mlp(block.norm2(read))))
    written = [Written(sender=0, direction=direction, layer="")]
    found = run_steered(graph, images, kept, written, 0.4)
    torch.testing.assert_close(found[:, :, 0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", Kind)
def test_steering_a_planted_circuit_moves_its_output_and_random_edges_do_not(kind: Kind) -> None:
    planted = plant_circuit(0, kind=kind)
    problem, graph = planted.problem(), planted.graph
    kept = find_finder("patching")(problem, FinderOptions()).at(1e-4 * problem.effect).kept
    written = what_is_written(graph, problem.pairs, range(len(graph.senders)))

    def moved(edges: torch.Tensor) -> float:
        steered = graph.score(run_steered(graph, planted.clean, edges, written, 0.4))
        return float((steered - problem.clean).abs().mean())

    assert moved(kept) > 0.05 * problem.effect
    assert moved(~kept) < 1e-3 * problem.effect  # nobody reads what these edges carry

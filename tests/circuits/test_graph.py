"""The graph is the network: its edges are those of the spec, whole it gives the network's logits, empty the corrupted ones."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn

from conftest import tiny_card, tiny_module
from entoptic.circuits.chain import Chain
from entoptic.circuits.graph import CircuitGraph, read_graph
from entoptic.circuits.patched import Cost, make_pair, memory_of, run_patched
from entoptic.circuits.problem import make_problem
from entoptic.errors import UserError
from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.units.unit import bind


def model_of(module: nn.Module, size: int = 32) -> Model:
    card = Card(name="net", size=(size, size), mean=(0.5,) * 3, std=(0.25,) * 3, licence="cc0-1.0")
    return Model(module, card, device="cpu", named=True)


def tiny_vit(depth: int = 2, heads: int = 4, **more: object) -> nn.Module:
    torch.manual_seed(1)
    net = timm.models.VisionTransformer(
        img_size=32, patch_size=16, embed_dim=16 * heads // 2, depth=depth, num_heads=heads, num_classes=5, **more
    )
    for parameter in net.parameters():  # timm's own start has almost no differences between pictures
        parameter.data += 0.2 * torch.randn_like(parameter)
    return net


def torchvision_vit() -> nn.Module:
    torch.manual_seed(1)
    net = torchvision.models.VisionTransformer(32, 16, 2, 2, 16, 32, num_classes=5)
    for parameter in net.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return net


NETWORKS = {
    "timm vit": tiny_vit,
    "timm vit with layer scale": lambda: tiny_vit(init_values=0.5, qkv_bias=False, global_pool="avg"),
    "torchvision vit": torchvision_vit,
    "plain chain": tiny_module,
    "mobilenet": lambda: timm.create_model("mobilenetv2_035", num_classes=5),
    "resnet": lambda: timm.create_model("resnet18", num_classes=5),
    "convnext": lambda: timm.create_model("convnext_atto", num_classes=5, depths=(1, 1, 2, 1), dims=(8, 8, 16, 16)),
}


def graph_of(module: nn.Module, unit: str = "logits:1", size: int = 32, **options: object) -> CircuitGraph:
    model = model_of(module, size)
    return read_graph(model, bind(model, unit)[0], **options)


def pictures(seed: int, count: int = 3, size: int = 32) -> torch.Tensor:
    return torch.rand((count, 3, size, size), generator=torch.Generator().manual_seed(seed))


def test_edges_of_the_tiny_transformer_are_105() -> None:
    graph = graph_of(tiny_vit(depth=4))
    assert len(graph.edges) == 105
    assert [graph.senders[i].name for i in graph.of_stage(0)] == [f"blocks.0.attn.head{h}" for h in range(4)]
    assert graph.edge_name(0) == "embedding -> blocks.0.attn"
    assert graph.edge_name(104) == "blocks.3.mlp -> output"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "edges"), [("deit_tiny_patch16_224", 637), ("vit_base_patch16_224", 2041)])
def test_edges_of_known_transformers(name: str, edges: int) -> None:
    graph = graph_of(timm.create_model(name, pretrained=False), size=224)
    assert len(graph.edges) == edges


def test_edges_of_deit_tiny_are_637() -> None:
    net = timm.create_model("deit_tiny_patch16_224", pretrained=False, img_size=32)
    assert len(graph_of(net).edges) == 637


@pytest.mark.parametrize("name", NETWORKS)
def test_the_whole_graph_is_the_network_and_the_empty_one_the_corrupted_run(name: str) -> None:
    graph = graph_of(NETWORKS[name]())
    clean, corrupted = pictures(0), pictures(1)
    pair = make_pair(graph, clean, corrupted)
    masks = torch.stack([torch.ones(len(graph.edges)), torch.zeros(len(graph.edges))]).bool()
    whole, empty = run_patched(graph, pair, masks)
    with torch.no_grad():
        logits, other = graph.model(clean), graph.model(corrupted)
    assert not torch.allclose(logits, other, rtol=1e-2)
    torch.testing.assert_close(whole[:, :, 0], logits, rtol=1e-4, atol=1e-4 * float(logits.abs().max()))
    torch.testing.assert_close(empty[:, :, 0], other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))
    assert not any("forward" in m.__dict__ for m in graph.model.module.modules())


def test_cutting_one_edge_changes_one_receiver_alone() -> None:
    """Against a run written out by hand: only what the first MLP reads of the embedding is the corrupted picture's."""
    net = tiny_vit(depth=1)
    graph = graph_of(net)
    clean, corrupted = pictures(0), pictures(1)
    kept = torch.ones(len(graph.edges), dtype=torch.bool)
    kept[[graph.edge_name(n) for n in range(len(kept))].index("embedding -> blocks.0.mlp")] = False
    found = run_patched(graph, make_pair(graph, clean, corrupted), kept[None])[0]
    block = net.blocks[0]
    with torch.no_grad(), graph.model.frozen():
        x, y = (graph.chain.stem(p) for p in (clean, corrupted))
        attended = block.attn(block.norm1(x))
        stream = x + attended + block.mlp(block.norm2(y + attended))
        expected = net.forward_head(net.norm(stream))
    torch.testing.assert_close(found[:, :, 0], expected, rtol=1e-4, atol=1e-4)


def test_many_circuits_at_once_are_those_one_by_one() -> None:
    graph = graph_of(tiny_vit())
    pair = make_pair(graph, pictures(0), pictures(1))
    masks = torch.rand((5, len(graph.edges)), generator=torch.Generator().manual_seed(2)) < 0.7
    together = run_patched(graph, pair, masks)
    alone = torch.cat([run_patched(graph, pair, mask[None]) for mask in masks])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_edges_that_lead_nowhere_are_taken_out() -> None:
    graph = graph_of(tiny_vit())
    names = [graph.edge_name(n) for n in range(len(graph.edges))]
    kept = torch.zeros(len(names), dtype=torch.bool)
    for name in ("embedding -> blocks.0.mlp", "blocks.0.mlp -> output", "blocks.0.mlp -> blocks.1.mlp"):
        kept[names.index(name)] = True
    live = graph.prune(kept)
    assert [names[n] for n in live.nonzero()[:, 0]] == ["embedding -> blocks.0.mlp", "blocks.0.mlp -> output"]
    assert not graph.prune(kept & (torch.arange(len(names)) != names.index("blocks.0.mlp -> output"))).any()


def test_what_does_not_run_is_not_counted() -> None:
    graph = graph_of(tiny_vit())
    pair, cost = make_pair(graph, pictures(0), pictures(1)), Cost(graph)
    run_patched(graph, pair, torch.ones((1, len(graph.edges)), dtype=torch.bool), cost)
    assert cost.passes == pytest.approx(3)
    cost.flops = 0
    only = torch.zeros((1, len(graph.edges)), dtype=torch.bool)
    only[0, graph.into(graph.output)[0]] = True  # embedding -> output
    run_patched(graph, pair, only, cost)
    assert 0 < cost.passes < 1.5  # what runs before and behind the blocks of a tiny network is much of it
    assert memory_of(graph, 6) == 2 * memory_of(graph, 3) > 0


@pytest.mark.parametrize(
    ("unit", "stages"),
    [("blocks.0:3@cls", 2), ("blocks.1.mlp.fc1:2@mean", 3), ("blocks.1.attn.qkv:5@max", 2), ("norm:1@cls", 4)],
)
def test_units_inside_the_network_end_the_graph_there(unit: str, stages: int) -> None:
    graph = graph_of(tiny_vit(), unit)
    assert len(graph.stages) == stages
    assert graph.target is None
    problem = make_problem(graph, pictures(0), pictures(1))
    torch.testing.assert_close(problem.clean, graph.unit.score(pictures(0)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(problem.scores(problem.full), problem.clean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(problem.scores(~problem.full), graph.unit.score(pictures(1)), rtol=1e-4, atol=1e-4)
    assert problem.worth(problem.full) == pytest.approx(1, abs=1e-3)


def test_groups_of_channels_sum_to_the_block() -> None:
    graph = graph_of(NETWORKS["mobilenet"](), nodes="blocks", groups=2)
    assert {s.kind for s in graph.senders} == {"embedding", "group"}
    pair = make_pair(graph, pictures(0), pictures(1))
    whole = run_patched(graph, pair, torch.ones((1, len(graph.edges)), dtype=torch.bool))[0]
    torch.testing.assert_close(whole, pair.clean_values, rtol=1e-3, atol=1e-3 * float(whole.abs().max()))
    with pytest.raises(UserError, match="channels, which are no 7 equal groups"):
        graph_of(NETWORKS["mobilenet"](), nodes="blocks", groups=7)


def test_skips_are_found_by_what_a_silent_block_hands_on() -> None:
    links = Chain(model_of(NETWORKS["resnet"]())).links
    assert [link.adds for link in links] == [True, True, False, True, False, True, False, True]
    assert not any(link.adds for link in Chain(Model(tiny_module(), tiny_card(), device="cpu")).links)


def test_what_cannot_be_read_names_the_module_and_offers_blocks() -> None:
    net = timm.models.SwinTransformer(
        img_size=32, patch_size=2, window_size=4, embed_dim=8, depths=(2, 2), num_heads=(2, 2), num_classes=5
    )
    with pytest.raises(
        UserError, match=r"no attention heads can be read in patch_embed \(PatchEmbed\).*--nodes blocks"
    ):
        graph_of(net)
    graph = graph_of(net, nodes="blocks")
    pair = make_pair(graph, pictures(0), pictures(1))
    whole = run_patched(graph, pair, torch.ones((1, len(graph.edges)), dtype=torch.bool))[0]
    torch.testing.assert_close(whole, pair.clean_values, rtol=1e-3, atol=1e-3)
    with pytest.raises(UserError, match="no two of its modules hand one tensor"):
        graph_of(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5)))
    with pytest.raises(UserError, match='did you mean "blocks"'):
        graph_of(tiny_vit(), nodes="block")


def test_a_block_whose_parts_are_not_all_of_it_is_refused() -> None:
    class Odd(timm.models.vision_transformer.Block):
        def forward(self, x: torch.Tensor, **_: object) -> torch.Tensor:
            return super().forward(x) + 0.5 * self.mlp(self.norm2(x))

    with pytest.raises(UserError, match=r"blocks\.0 computes more than its heads and its MLP add"):
        graph_of(tiny_vit(block_fn=Odd))


def test_twins_that_are_the_photos_are_refused() -> None:
    graph = graph_of(tiny_vit())
    with pytest.raises(UserError, match="the corrupted photos are the photos themselves"):
        make_problem(graph, pictures(0), pictures(0))

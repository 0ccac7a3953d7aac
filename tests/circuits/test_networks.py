"""Networks of every build: the whole graph is the network and the empty one the corrupted run, or a refusal that helps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from circuits.odd_networks import Block, LastDimension, LooksBack, Net, Restless, TupleBlock, Wrapped
from entoptic.circuits.graph import CircuitGraph, read_graph
from entoptic.circuits.patched import make_pair, run_patched
from entoptic.errors import UserError
from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.units.unit import bind


def graph_of(module: nn.Module, size: int = 32, nodes: str = "auto") -> CircuitGraph:
    card = Card(name="net", size=(size, size), mean=(0.5,) * 3, std=(0.25,) * 3, licence="cc0-1.0")
    model = Model(module, card, device="cpu", named=True)
    return read_graph(model, bind(model, "logits:0")[0], nodes=nodes)


def lively(module: nn.Module, size: int = 32) -> nn.Module:
    """The same network with logits that differ between pictures: noise on its weights, statistics of its BatchNorms."""
    draw = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=draw)
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.momentum = None
    with torch.no_grad():
        module.train()(torch.randn((8, 3, size, size), generator=draw))
    return module  # in train mode


def is_the_network(graph: CircuitGraph) -> None:
    height, width = graph.model.card.size
    clean, corrupted = torch.rand((2, 2, 3, height, width), generator=torch.Generator().manual_seed(3))
    masks = torch.stack([torch.ones(len(graph.edges)), torch.zeros(len(graph.edges))]).bool()
    whole, empty = run_patched(graph, make_pair(graph, clean, corrupted), masks)
    with torch.no_grad():
        logits, other = graph.model(clean), graph.model(corrupted)
    assert not torch.allclose(logits, other, rtol=1e-2)
    torch.testing.assert_close(whole[:, :, 0], logits, rtol=1e-4, atol=1e-4 * float(logits.abs().max()))
    torch.testing.assert_close(empty[:, :, 0], other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


SHARED = Block()
ODD: dict[str, tuple[Callable[[], nn.Module], int]] = {  # a network and the number of its edges
    "one block": (lambda: Net([Block()]), 3),
    "one class": (lambda: Net([Block(), Block()], classes=1), 6),
    "adds in place": (lambda: Net([Block(in_place=True), Block(in_place=True)]), 6),
    "adds a branch in place": (lambda: Net([Wrapped(), Wrapped()]), 6),
    "gives a dict": (lambda: Net([Block(), Block()], "dict"), 6),
    "gives a tuple": (lambda: Net([Block(), Block()], "tuple"), 6),
    "one module twice": (lambda: Net([SHARED, SHARED, Block()]), 3),
    "channels last": (LastDimension, 10),
}


@pytest.mark.parametrize("name", ODD)
def test_networks_of_unusual_build(name: str) -> None:
    torch.manual_seed(0)
    build, edges = ODD[name]
    graph = graph_of(build())
    assert len(graph.edges) == edges
    is_the_network(graph)


def test_dropout_and_stochastic_depth_of_a_network_in_train_mode_are_off() -> None:
    torch.manual_seed(0)
    vit = timm.models.VisionTransformer(
        img_size=32, patch_size=16, embed_dim=32, depth=2, num_heads=4, num_classes=5, drop_path_rate=0.5,
        proj_drop_rate=0.5, attn_drop_rate=0.5,
    )  # fmt: skip
    for network in (Net([Block(0.5), Block(0.5)]), lively(vit)):
        graph = graph_of(network.train())
        is_the_network(graph)
        assert network.training


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: Net([Block()], order=(0, 0, 0)), r"no two of its modules.*blocks\.0 runs 3 times, where a node runs once"),
        (lambda: Net([TupleBlock(), TupleBlock()]), r"blocks\.0 gives a tuple, where a block gives one tensor"),
        (LooksBack, r"around its blocks \(one to two\) depends on more than their input and output"),
        (lambda: Restless([Block(), Block()]), r"around its blocks \(blocks\.0 to blocks\.1\) depends on more"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(build: Callable[[], nn.Module], said: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(UserError, match=said):
        graph_of(build())


FAMILIES = {
    "resnet18": 15, "convnext_tiny": 89, "densenet121": 8, "mobilenet_v2": 49, "mobilenet_v3_small": 35,
    "squeezenet1_1": 11, "vgg11_bn": 9, "efficientnet_b0": 53, "regnet_x_400mf": 112, "regnet_y_400mf": 51,
    "shufflenet_v2_x0_5": 17, "mnasnet0_5": 39, "vit_b_32": 2041, "swin_t": 46, "swin_v2_t": 46,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_families_of_torchvision(name: str) -> None:
    torch.manual_seed(0)
    more = {"image_size": 64} if name.startswith("vit") else {}
    network = lively(getattr(torchvision.models, name)(weights=None, num_classes=5, **more), 64)
    if name.startswith("swin"):
        with pytest.raises(UserError, match=r"no attention heads can be read.*--nodes blocks"):
            graph_of(network, 64)
    graph = graph_of(network, 64, nodes="blocks" if name.startswith("swin") else "auto")
    assert len(graph.edges) == FAMILIES[name]
    is_the_network(graph)

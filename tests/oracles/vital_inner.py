"""VITAL for inner neurons of a torchvision ResNet as published: everything again at every step.

The network is copied and its relevance walked block by block for every photo and the picture; all photos go through it
with gradients on; the loss is formed against every photo. Slow on purpose, nothing shared with `entoptic`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d

EPS = 1e-5
NODES = ("conv1", "layer1", "layer2", "layer3")


def features(module: nn.Module, x_BCHW: Tensor) -> dict[str, Tensor]:
    """B×C×H×W outputs of conv1 (before BatchNorm) and of the four stages."""
    found = {"conv1": module.conv1(x_BCHW)}
    x = module.maxpool(module.bn1(found["conv1"].clone()).relu())
    for name in ("layer1", "layer2", "layer3", "layer4"):
        x = getattr(module, name)(x)
        found[name] = x
    return found


def zplus(conv: nn.Conv2d, a: Tensor, relevance: Tensor) -> Tensor:
    """a ⊙ W₊ᵀ(R / (W₊ a + ε))."""
    weight = conv.weight.clamp_min(0)
    z = conv2d(a, weight, None, conv.stride, conv.padding, conv.dilation, conv.groups) + EPS
    s = relevance / z
    full = conv_transpose2d(s, weight, None, conv.stride, conv.padding, 0, conv.groups, conv.dilation)
    missing = [a.shape[d] - full.shape[d] for d in (2, 3)]  # rows and columns that the stride left over
    full = torch.nn.functional.pad(full, (0, missing[1], 0, missing[0]))
    if any(missing):
        full = conv_transpose2d(s, weight, None, conv.stride, conv.padding, tuple(missing), conv.groups, conv.dilation)
    return a * full


def block_relevance(block: nn.Module, x: Tensor, relevance: Tensor) -> Tensor:
    """Relevance of a block's input from that of its output."""
    convs = [block.conv1, block.conv2] + ([block.conv3] if hasattr(block, "conv3") else [])
    norms = [block.bn1, block.bn2] + ([block.bn3] if hasattr(block, "bn3") else [])
    inputs, out = [], x
    for i, (conv, norm) in enumerate(zip(convs, norms)):
        inputs.append(out)
        out = norm(conv(out))
        if i < len(convs) - 1:
            out = out.relu()
    skip = x if block.downsample is None else block.downsample(x)
    share = out.abs() / (out.abs() + skip.abs())
    share = share.nan_to_num(0.5)
    main, side = share * relevance, (1 - share) * relevance
    for conv, a in zip(reversed(convs), reversed(inputs)):
        main = zplus(conv, a, main)
    return main + (side if block.downsample is None else zplus(block.downsample[0], x, side))


def average_pool_relevance(a: Tensor, relevance: Tensor) -> Tensor:
    """The 2×2 average-pool rule that stands in for ResNet's max-pool."""
    with torch.enable_grad():
        a = a.detach().requires_grad_()
        z = nn.functional.avg_pool2d(a, 2, 2) + EPS
    (back,) = torch.autograd.grad(z, a, relevance / z.detach())
    return a.detach() * back


@torch.no_grad()  # the release keeps these graphs, too, and 20 GB do not hold them for 50 photos
def relevance(module: nn.Module, x_BCHW: Tensor, channel: int) -> dict[str, Tensor]:
    """R at `NODES` for `channel` of layer4's output, from a copy of the network."""
    net = copy.deepcopy(module)
    x = net.bn1(net.conv1(x_BCHW)).relu()
    pooled_from = x
    x = net.maxpool(x)
    stages: dict[str, list[tuple[nn.Module, Tensor]]] = {}
    for name in ("layer1", "layer2", "layer3", "layer4"):
        stages[name] = []
        for block in getattr(net, name):
            stages[name].append((block, x))
            x = block(x)
    r = torch.zeros_like(x)
    r[:, channel] = x[:, channel]
    found = {}
    for name, below in (("layer4", "layer3"), ("layer3", "layer2"), ("layer2", "layer1"), ("layer1", "pool")):
        for block, a in reversed(stages[name]):
            r = block_relevance(block, a, r)
        found[below] = r
    # ReLU and BatchNorm hand relevance on as it is.
    found["conv1"] = average_pool_relevance(pooled_from, found.pop("pool"))
    return {name: found[name].detach() for name in NODES}


def scaled(r: Tensor) -> Tensor:
    """R̂ per picture and channel."""
    low, high = r.amin((2, 3), keepdim=True), r.amax((2, 3), keepdim=True)
    return (r - low) / (high - low + 1e-6)


def importance(r: Tensor) -> Tensor:
    """u per photo and channel."""
    u = r.amax((2, 3))
    return (u - u.amin(1, keepdim=True)) / (u.amax(1, keepdim=True) - u.amin(1, keepdim=True) + 1e-6)


def inner_loss(
    module: nn.Module, x_1CHW: Tensor, photos_NCHW: Tensor, channel: int, weights: Mapping[str, float]
) -> Tensor:
    """Σ_l w_l · mean over (n, c, d) of u_{n,c}·(z_{c,(d)} - t_{c,d})², pictures normalised."""
    real = features(module, photos_NCHW)
    real_r = relevance(module, photos_NCHW, channel)
    mine = features(module, x_1CHW)
    mine_r = relevance(module, x_1CHW, channel)
    total = x_1CHW.new_zeros(())
    for name, weight in weights.items():
        t_CD = (real[name] * scaled(real_r[name])).flatten(2).sort(-1).values.mean(0)
        z_CD = (mine[name] * scaled(mine_r[name]))[0].flatten(1)
        rank_CD = z_CD.detach().argsort(dim=-1, stable=True).argsort(-1)
        difference_NCD = (z_CD - t_CD.detach().gather(-1, rank_CD)).square()[None].expand(len(photos_NCHW), -1, -1)
        total = total + weight * (importance(real_r[name])[:, :, None] * difference_NCD).mean()
        # The released code lets the gradient run through the photos, too; only the picture's is used.
        total = total + 0 * real[name].sum()
    return total

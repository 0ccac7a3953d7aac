"""`Stage`: one receiver of a circuit, what it computes from its input, and the senders that this adds to the stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from entoptic.circuits.chain import Chain, Link
from entoptic.errors import UserError

Compute = Callable[[Tensor], list[Tensor]]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One receiver.

    Attributes:
        name: of the receiver, for instance "blocks.3.attn".
        kind: "attention", "mlp", "block" or "layer".
        layer: module after which the stream holds what this stage adds.
        senders: names of what it adds, for instance one name a head.
        adds: whether the stream goes on beside it; False where what it puts out takes the stream's place.
        compute: returns the contribution of each sender, in the stream's shape.
        inside: modules that run in it, for units that lie in it; empty where none can be read.
    """

    name: str
    kind: str
    layer: str
    senders: tuple[str, ...]
    adds: bool
    compute: Compute
    inside: tuple[str, ...]


def block_stages(chain: Chain, groups: int) -> list[Stage]:
    """Returns one stage for each link of a chain; a link sends its channels in `groups` equal parts.

    Args:
        chain: the network's blocks.
        groups: senders of each link.

    Raises:
        UserError: a link has no whole number of channels for each group.
    """
    return [_block(chain, link, groups) for link in chain.links]


def _block(chain: Chain, link: Link, groups: int) -> Stage:
    info = chain.model.layers.get(link.last)
    axis = -1 if info is not None and info.layout in ("BTC", "BHWC") else 1
    channels = info.channels if info is not None else 0
    if groups > 1 and (channels < groups or channels % groups):
        raise UserError(
            f"--groups {groups}: {link.last} has {channels} channels, which are no {groups} equal groups; take 1 or another divisor"
        )

    def compute(stream: Tensor) -> list[Tensor]:
        out = chain.run(link, stream)
        return split(out - stream if link.adds else out, groups, axis)

    kind = "block" if link.composite else "layer"
    senders = (link.last,) if groups == 1 else tuple(f"{link.last}.group{g}" for g in range(groups))
    return Stage(
        name=link.name, kind=kind, layer=link.last, senders=senders, adds=link.adds, compute=compute, inside=link.names
    )


def split(values: Tensor, groups: int, axis: int) -> list[Tensor]:
    """Returns tensors that sum to `values`, each with one group of the channels and 0 elsewhere."""
    if groups == 1:
        return [values]
    parts = []
    for number, part in enumerate(values.chunk(groups, dim=axis)):
        whole = torch.zeros_like(values)
        whole.narrow(axis, number * part.shape[axis], part.shape[axis]).copy_(part)
        parts.append(whole)
    return parts


# --- transformer blocks -----------------------------------------------------------------------------------------------


def head_stages(chain: Chain) -> list[Stage]:
    """Returns two stages for each transformer block: one attention-input whose senders are the heads, and one MLP.

    Blocks of timm (`norm1, attn, ls1, norm2, mlp, ls2`) and of torchvision (`ln_1, self_attention, ln_2, mlp`) are read. Each
    is compared with what the block itself puts out.

    Raises:
        UserError: the first block that is neither, or computes something else; blocks as nodes are offered.
    """
    stages: list[Stage] = []
    unread: list[str] = []
    for link in chain.links:
        block = chain.module(link.name)
        pair = None
        if len(link.names) == 1 and link.adds:
            pair = _timm(link.name, block) or _torchvision(link.name, block)
        stages += pair or []
        unread += [] if pair else [link.name]
    if unread:
        broke = next((name for name in unread if has_attention(chain, name)), unread[0])
        raise UserError(
            f"{chain.model.card.name}: no attention heads can be read in {broke} ({type(chain.module(broke)).__name__}); "
            "blocks of timm's and torchvision's VisionTransformer can be. Take whole blocks as nodes: --nodes blocks"
        )
    return stages


def has_attention(chain: Chain, name: str) -> bool:
    """Returns whether a module of a chain holds what is named attention."""
    inner = (part.lower() for part, _ in chain.module(name).named_modules())
    return any("attn" in part or "attention" in part for part in inner)


def check_heads(chain: Chain, stages: list[Stage], stream: Tensor) -> None:
    """Checks that what the stages of each block add is what the block adds.

    Raises:
        UserError: the block that differs.
    """
    for number, link in enumerate(chain.links):
        expected = chain.run(link, stream)
        for stage in stages[2 * number : 2 * number + 2]:
            stream = stream + sum(stage.compute(stream))
        if not torch.allclose(stream, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
            raise UserError(
                f"{chain.model.card.name}: {link.name} computes more than its heads and its MLP add; take whole blocks "
                "as nodes: --nodes blocks"
            )
        stream = expected


def _timm(name: str, block: Any) -> list[Stage] | None:
    attn, mlp = getattr(block, "attn", None), getattr(block, "mlp", None)
    heads = getattr(attn, "num_heads", None)
    proj = getattr(attn, "proj", None)
    if not (isinstance(attn, nn.Module) and isinstance(heads, int) and isinstance(proj, nn.Linear)):
        return None
    if not isinstance(mlp, nn.Module):
        return None
    if not all(isinstance(getattr(block, norm, None), nn.Module) for norm in ("norm1", "norm2")):
        return None
    if proj.in_features % heads:
        return None
    scale1, scale2 = (getattr(block, ls, None) or nn.Identity() for ls in ("ls1", "ls2"))

    def attend(stream: Tensor) -> list[Tensor]:
        with _input_of(proj) as kept:
            attn(block.norm1(stream))
        if kept[0].shape[:2] != stream.shape[:2]:
            raise UserError(
                f"{name} regroups its tokens, so its heads cannot be read; take whole blocks as nodes: --nodes blocks"
            )
        return [scale1(part) for part in _of_heads(kept[0], proj.weight, proj.bias, heads)]

    def transform(stream: Tensor) -> list[Tensor]:
        return [scale2(mlp(block.norm2(stream)))]

    inner = tuple(f"{name}.{part}" for part in ("norm1", "attn"))
    return _pair(name, "attn", "mlp", heads, attend, transform, inner, tuple(f"{name}.{p}" for p in ("norm2", "mlp")))


def _torchvision(name: str, block: Any) -> list[Stage] | None:
    attn, mlp = getattr(block, "self_attention", None), getattr(block, "mlp", None)
    if not (isinstance(attn, nn.MultiheadAttention) and isinstance(mlp, nn.Module)):
        return None
    if not (attn.batch_first and attn.in_proj_weight is not None and hasattr(block, "ln_1") and hasattr(block, "ln_2")):
        return None
    heads = attn.num_heads

    def attend(stream: Tensor) -> list[Tensor]:
        x = block.ln_1(stream)
        qkv = linear(x, attn.in_proj_weight, attn.in_proj_bias)
        count, tokens, width = x.shape
        q, k, v = qkv.reshape(count, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4).unbind(0)
        z = scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(count, tokens, width)
        return _of_heads(z, attn.out_proj.weight, attn.out_proj.bias, heads)

    def transform(stream: Tensor) -> list[Tensor]:
        return [mlp(block.ln_2(stream))]

    return _pair(
        name, "self_attention", "mlp", heads, attend, transform, (f"{name}.ln_1",), (f"{name}.ln_2", f"{name}.mlp")
    )


def _pair(
    name: str, attn: str, mlp: str, heads: int, attend: Compute, transform: Compute,
    in_attention: tuple[str, ...], in_mlp: tuple[str, ...],
) -> list[Stage]:  # fmt: skip
    names = tuple(f"{name}.{attn}.head{h}" for h in range(heads))
    return [
        Stage(
            name=f"{name}.{attn}", kind="attention", layer=name, senders=names, adds=True, compute=attend,
            inside=in_attention,
        ),
        Stage(
            name=f"{name}.{mlp}", kind="mlp", layer=name, senders=(f"{name}.{mlp}",), adds=True, compute=transform,
            inside=in_mlp,
        ),
    ]  # fmt: skip


def _of_heads(z: Tensor, weight: Tensor, bias: Tensor | None, heads: int) -> list[Tensor]:
    """What each head adds: its own columns of the projection. The bias is shared equally: no edge depends on it."""
    width = z.shape[-1] // heads
    shared = None if bias is None else bias / heads
    parts = zip(z.split(width, dim=-1), weight.split(width, dim=1))
    return [linear(part, columns, shared) for part, columns in parts]


class _input_of:
    """Context that keeps what a module is given."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._kept: list[Tensor] = []

    def __enter__(self) -> list[Tensor]:
        self._handle = self._module.register_forward_pre_hook(lambda _m, args: self._kept.append(args[0]))
        return self._kept

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

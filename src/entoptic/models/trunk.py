"""Which layers stand for a whole network: its stem and the end of each stage."""

from __future__ import annotations

from entoptic.errors import UserError
from entoptic.models.model import Model
from entoptic.models.taps import LayerInfo


def trunk_layers(model: Model, *, isotropic: int = 4) -> list[str]:
    """Lists the first convolution and, for every spatial resolution after it, the last block with a map of that size.

    For torchvision's ResNet-50 these are conv1, layer1, layer2, layer3, layer4; for EfficientNet-Lite0 conv_stem,
    blocks.1, blocks.2, blocks.4, blocks.6. Networks that keep one resolution throughout (vision transformers)
    give the patch embedding and `isotropic` blocks at even depths, the last one included; if they have fewer, all of them.

    Args:
        model: the network.
        isotropic: number of blocks for a network of one resolution.

    Raises:
        UserError: fewer than two such layers, for instance in a network without maps or tokens.
    """
    maps = [info for info in model.layers.values() if info.grid[0] > 1 and info.calls == 1]
    maps.sort(key=lambda info: info.order)
    stem = next((info for info in maps if "Conv" in info.kind), maps[0] if maps else None)
    if stem is None:
        raise UserError(
            f"{model.card.name} has no layer with maps or tokens, so its layers cannot be chosen; name one with the "
            "method's option layer or layers"
        )
    blocks = _whole_blocks([info for info in maps if info.composite and info.order > stem.order])
    positions = {_positions(info) for info in blocks}
    isotropic_net = len(blocks) >= 4 and max(positions, default=0) - min(positions, default=0) <= 8
    if isotropic_net:
        # Transformer blocks are the children of the longest numbered list: blocks.0, blocks.1, …
        lists: dict[str, list[LayerInfo]] = {}
        for info in blocks:
            parent, _, child = info.name.rpartition(".")
            if child.isdigit() or child.rpartition("_")[2].isdigit():
                lists.setdefault(parent, []).append(info)
        chosen = _evenly(max(lists.values(), key=len, default=blocks), isotropic)
    else:
        last: dict[tuple[int, int], LayerInfo] = {}
        for info in blocks if len(positions) > 2 else _plain(maps, stem):
            last[info.grid] = info
        # A block at the resolution of a strided stem adds little to the stem; after a patch embedding
        # (stride 4 and more) the first stage is the first real computation.
        patchify = model.card.size[0] / max(stem.grid[0], 1) >= 4
        chosen = [info for grid, info in last.items() if patchify or grid != stem.grid]
        # A network of one resolution with few blocks.
        chosen = chosen or _evenly(blocks or [info for info in maps if info.order > stem.order], isotropic)
    names = list(dict.fromkeys([stem.name, *(info.name for info in sorted(chosen, key=lambda i: i.order))]))
    if len(names) < 2:
        raise UserError(f"{model.card.name}: found only {names}; name others with the method's option layer or layers")
    return names


def _evenly(chain: list[LayerInfo], count: int) -> list[LayerInfo]:
    """Up to `count` layers at even depths, the last one included."""
    ends = [round((i + 1) * len(chain) / count) - 1 for i in range(count)] if chain else []
    return [chain[max(0, end)] for end in ends]


def _whole_blocks(composites: list[LayerInfo]) -> list[LayerInfo]:
    """Drops the containers of several stages (`blocks`, `features`) and the inner parts of a block."""

    def inside(info: LayerInfo, outer: LayerInfo) -> bool:
        return info.name.startswith(outer.name + ".")

    # A strided block holds two resolutions; what holds more, or is a plain list of blocks, is no block itself.
    containers = {
        outer.name
        for outer in composites
        if len({info.grid for info in composites if inside(info, outer)})
        > (1 if outer.kind in ("Sequential", "ModuleList") else 2)
    }
    blocks = [info for info in composites if info.name not in containers]
    return [info for info in blocks if not any(inside(info, outer) and info.grid != outer.grid for outer in blocks)]


def _plain(maps: list[LayerInfo], stem: LayerInfo) -> list[LayerInfo]:
    """Lists all single layers after the stem: networks such as VGG have no blocks, their stages end before each pooling."""
    return [info for info in maps if info.order > stem.order and info.layout == "BCHW" and not info.composite]


def _positions(info: LayerInfo) -> int:
    return info.grid[0] * info.grid[1]

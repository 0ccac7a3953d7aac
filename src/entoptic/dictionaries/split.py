"""Splits units of a network by what goes into their linear layer: finds the layer, reads contributions, makes a `Split`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from entoptic.base.progress import Progress, silent
from entoptic.dictionaries.partitions import LEAST_POSITIONS, Partition, partition_by_labels, partition_inputs
from entoptic.errors import NotAvailable, UserError, counted, nearest
from entoptic.images.photos import Photos
from entoptic.images.unread import unread_record
from entoptic.models.model import LOGITS, Model
from entoptic.models.taps import Tap
from entoptic.units.splits import Split
from entoptic.units.unit import Unit
from entoptic.units.windows import windows_of

NUMBERS = 16_000_000
"""Most numbers of inputs that are held (64 MB)."""
STRONG = 0.9
"""Quantile of a unit's activation above which its positions are clustered; below the median is its background."""
LARGEST = 64
"""Most sub-units of one unit."""
LEAST = 1e-4
"""Largest relative error with which a layer's output must follow from its input."""


@dataclass(frozen=True, kw_only=True)
class LinearLayer:
    """A linear layer whose units can be split.

    Attributes:
        name: of the layer that is split.
        reads: the layer whose values go into it.
        weight: O×C×k×k.
        bias: O.
        padding: zeros around the map.
        grid: rows and columns of the input.
    """

    name: str
    reads: str
    weight: Tensor
    bias: Tensor
    padding: int
    grid: tuple[int, int]


def linear_layer(model: Model, layer: str) -> LinearLayer:
    """Finds what a layer's units add up from.

    Args:
        model: the network.
        layer: a Conv2d or Linear module, or a BatchNorm2d behind a Conv2d, which is folded in.

    Raises:
        UserError: another kind of layer, a stride, groups, or an input that no module puts out.
    """
    info, modules = model.layer(layer), dict(model.module.named_modules())
    images = torch.rand(2, 3, *model.card.size, generator=torch.Generator().manual_seed(0)).to(model.device)
    if layer == LOGITS:
        layer = _head(model, modules, images)
    name, norm = layer, None
    if isinstance(modules[layer], nn.BatchNorm2d):
        norm = modules[layer]
        name = _conv_before(model, modules, layer, images)
    module = modules[name]
    if not isinstance(module, (nn.Conv2d, nn.Linear)):
        linear = [n for n in model.layers if isinstance(modules.get(n), (nn.Conv2d, nn.Linear))]
        raise UserError(
            f"{layer} of {model.card.name} is a {info.kind}; units of Conv2d and Linear layers can be split"
            f"{nearest(layer, linear) or (f', such as {linear[-1]}' if linear else '')}"
        )
    weight, bias, padding = _weights(module, name)
    if norm is not None:
        scale = (norm.weight if norm.weight is not None else 1) / (norm.running_var + norm.eps).sqrt()
        weight = weight * scale[:, None, None, None]
        shift = norm.bias if norm.bias is not None else 0
        bias = (bias - norm.running_mean) * scale + shift
    reads = _input_layer(model, module, name, images)
    found = LinearLayer(
        name=layer, reads=reads, weight=weight.detach().cpu().float(), bias=bias.detach().cpu().float(), padding=padding,
        grid=model.layer(reads).grid,
    )  # fmt: skip
    _check(model, found, images)
    return found


def _head(model: Model, modules: dict[str, nn.Module], images: Tensor) -> str:
    """The linear layer whose output the logits are."""
    linear = [
        info for info in model.layers.values()
        if info.channels == model.outputs and isinstance(modules[info.name], (nn.Conv2d, nn.Linear))
    ]  # fmt: skip
    with torch.no_grad():
        read = model.read(images, [Tap(LOGITS), *(Tap(info.name) for info in linear)])
    logits = read[Tap(LOGITS)]
    same = [i for i in linear if read[Tap(i.name)].shape == logits.shape and torch.equal(read[Tap(i.name)], logits)]
    if not same:
        raise UserError(
            f"the logits of {model.card.name} are not what one of its Conv2d or Linear layers puts out; name such a layer"
        )
    return max(same, key=lambda info: info.order).name


def _weights(module: nn.Conv2d | nn.Linear, name: str) -> tuple[Tensor, Tensor, int]:
    bias = module.bias if module.bias is not None else module.weight.new_zeros(len(module.weight))
    if isinstance(module, nn.Linear):
        return module.weight[:, :, None, None], bias, 0
    k, padding = module.kernel_size, module.padding
    same = k[0] == k[1] and k[0] % 2 == 1 and (padding == "same" or padding == (k[0] // 2, k[1] // 2))
    if module.groups != 1 or set(module.stride) != {1} or set(module.dilation) != {1} or not same:
        raise UserError(
            f"{name} is a convolution of {module.groups} groups, stride {module.stride[0]} and padding {padding}; "
            "one group, stride 1 and padding to the same size can be split"
        )
    if module.padding_mode != "zeros":
        raise UserError(f"{name} pads with {module.padding_mode}, not with zeros")
    return module.weight, bias, k[0] // 2


def _seen_input(model: Model, module: nn.Module, images: Tensor) -> Tensor:
    """Returns what goes into a module at its last call."""
    held: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _m, args: held.append(args[0].detach().clone()))
    try:
        with torch.no_grad(), model.frozen():
            model.module(model.normalise(images))
    finally:
        handle.remove()
    if not held:
        raise UserError("the layer does not run")
    return held[-1]


def _before(model: Model, module: nn.Module, images: Tensor, given: Tensor, order: int) -> str | None:
    """Returns the last layer before rank `order` that puts out what goes into a module."""
    given_BCD = given.movedim(-1, 1) if isinstance(module, nn.Linear) else given
    given_BCD = given_BCD.reshape(*given_BCD.shape[:2], -1).float()
    channels, positions = given_BCD.shape[1:]
    taps = [
        Tap(info.name)
        for info in model.layers.values()
        if info.order < order and info.channels == channels and info.grid[0] * info.grid[1] == positions
    ]
    if not taps:
        return None
    with torch.no_grad():
        read = model.read(images, taps)
    equal = [tap.layer for tap in taps if torch.equal(read[tap], given_BCD)]
    return max(equal, key=lambda name: model.layer(name).order) if equal else None


def _input_layer(model: Model, module: nn.Module, name: str, images: Tensor) -> str:
    given = _seen_input(model, module, images)
    found = _before(model, module, images, given, model.layer(name).order)
    if found is None:
        raise UserError(f"what goes into {name} is no module's output, so its inputs cannot be read")
    return found


def _conv_before(model: Model, modules: dict[str, nn.Module], layer: str, images: Tensor) -> str:
    given = _seen_input(model, modules[layer], images)
    found = _before(model, modules[layer], images, given, model.layer(layer).order)
    if found is None or not isinstance(modules[found], nn.Conv2d):
        raise UserError(f"{layer} normalises the output of no convolution; name a Conv2d or Linear layer")
    return found


def _check(model: Model, found: LinearLayer, images: Tensor) -> None:
    taps = Tap(found.reads), Tap(found.name)
    with torch.no_grad():
        read = model.read(images, taps)
    whole = Split(
        weights=found.weight, biases=found.bias, partition=torch.ones(len(found.weight), found.weight.shape[1]),
        of_unit=torch.arange(len(found.weight)), units=list(range(len(found.weight))), layer=found.reads,
        writes=found.name, padding=found.padding, grid=found.grid,
    )  # fmt: skip
    made, wanted = whole.reconstruct(read[taps[0]].cpu()), read[taps[1]].cpu()
    error = float((made - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12))
    if made.shape != wanted.shape or error > LEAST:
        raise UserError(
            f"{found.name} is not what its weights make of {found.reads} (relative error {error:.1e}): it cannot be split"
        )


# --- contributions --------------------------------------------------------------------------------------------------


def read_inputs(
    model: Model, layer: LinearLayer, photos: Photos, *, limit: int, seed: int = 0, progress: Progress = silent
) -> tuple[Tensor, Tensor]:
    """Reads what goes into a layer at some positions of photos.

    Args:
        model: the network.
        layer: the layer.
        photos: the photos.
        limit: most photos, at even distances through the set.
        seed: of the positions.
        progress: called with (what, done, total).

    Returns:
        N×(C·k·k) inputs and N numbers of photos; no more than `NUMBERS` numbers.
    """
    window, width = layer.weight.shape[2], layer.weight[0].numel()
    count = min(limit, len(photos))
    chosen = sorted({int((i + 0.5) * len(photos) / count) for i in range(count)})
    each = max(1, min(layer.grid[0] * layer.grid[1], NUMBERS // (width * count)))
    rows, numbers, draw, done = [], [], torch.Generator().manual_seed(seed), 0
    tap = Tap(layer.reads)
    for indices, images in photos.batches(model.card.prepare, 16, chosen):
        with torch.no_grad():
            values_BCD = model.read(images.to(model.device), [tap])[tap].float()
        for index, x_DF in zip(indices, windows_of(values_BCD, window, layer.grid).cpu()):
            rows.append(x_DF[torch.randperm(len(x_DF), generator=draw)[:each]])
            numbers.append(torch.full((len(rows[-1]),), index))
        done += len(indices)
        progress("reading photos", done, len(chosen))
    if not rows:
        raise NotAvailable("none of the photos could be read")
    return torch.cat(rows), torch.cat(numbers)


def contributions(inputs_NF: Tensor, weight_Ckk: Tensor) -> Tensor:
    """Computes κ_j = w_j·x_j of one unit, summed over the window: N×C."""
    channels = len(weight_Ckk)
    return (inputs_NF.view(len(inputs_NF), channels, -1) * weight_Ckk.reshape(channels, -1)).sum(2)


def split_units(
    model: Model, units: Sequence[Unit], photos: Any, *, limit: int = 400, most: int = 6, labels: Sequence[str] = (),
    seed: int = 0, progress: Progress = silent, log: Callable[[str], None] = lambda line: None,
) -> Split:  # fmt: skip
    """Splits units of one linear layer into sub-units that add up to them.

    Args:
        model: the network.
        units: channels of one layer.
        photos: anything `Photos.open` takes.
        limit: most photos that are read.
        most: sub-units of a unit that are tried.
        labels: of two or more classes of the photos that the inputs are split by; none for clusters.
        seed: of the positions, clusters and nulls.
        progress: called with (what, done, total).
        log: called with a line for each unit.

    Returns:
        The dictionary of all sub-units; a unit that cannot be separated has one.

    Raises:
        UserError: units of several layers or kinds, a layer that cannot be split, too few photos or sub-units, or an unknown
            label.
    """
    layers = list(dict.fromkeys(unit.layer for unit in units))
    odd = next((u for u in units if u.kind not in ("channel", "logit") or u.tap.pre), None)
    if odd is not None:
        raise UserError(f"{odd} is a {odd.kind}; channels of a Conv2d or Linear layer are split")
    placed = next((u for u in units if u.position is not None and model.layer(u.layer).grid != (1, 1)), None)
    if placed is not None:
        raise UserError(
            f"{placed} is read at one position; a channel is split at all of them: {placed.layer}:{placed.index}"
        )
    if not isinstance(most, int) or isinstance(most, bool) or not 2 <= most <= LARGEST:
        raise UserError(
            f"most, the number of sub-units that are tried, must be from 2 to {LARGEST}, got {str(most)[:40]}"
        )
    if limit < 1:
        raise UserError(f"limit, the number of photos that are read, must be at least 1, got {limit}")
    if len(layers) != 1:
        raise UserError(f"units of one layer are split together, not of {', '.join(layers)}")
    layer, opened = linear_layer(model, layers[0]), Photos.open(photos)
    classes = [_of_label(opened, label) for label in labels]
    inputs_NF, numbers_N = read_inputs(model, layer, opened, limit=limit, seed=seed, progress=progress)
    found: list[Partition] = []
    for unit in units:
        kappa_NC = contributions(inputs_NF, layer.weight[unit.index])
        made = partition_of_unit(kappa_NC, numbers_N, classes, most, seed)
        found.append(made)
        log(f"{unit}: {made.reason or f'{len(made)} sub-units'}")
    counts = torch.tensor([len(one) for one in found])
    indices = [unit.index for unit in units]
    about = {
        "method": "labels" if labels else "clusters", "labels": list(labels), "photos": len(numbers_N.unique()),
        **unread_record(opened),
        "positions": len(numbers_N), "paper": "arXiv:2504.12939" if labels else "a reconstruction of arXiv:2605.31304",
        "units": [
            {"unit": str(unit), "sub-units": len(one), "explained": list(one.explained), "null": list(one.null),
             "reason": one.reason}
            for unit, one in zip(units, found)
        ],
    }  # fmt: skip
    return Split(
        weights=layer.weight[indices], biases=layer.bias[indices], partition=torch.cat([one.shares for one in found]),
        of_unit=torch.repeat_interleave(torch.arange(len(found)), counts), units=indices, layer=layer.reads,
        writes=layer.name, padding=layer.padding, grid=layer.grid if layer.padding else (1, 1),
        model_sha256=model.card.identity, found=about,
    )  # fmt: skip


def partition_of_unit(
    kappa_NC: Tensor, numbers_N: Tensor, classes: Sequence[set[int]], most: int, seed: int
) -> Partition:  # fmt: skip
    """Partitions the inputs of one unit, from its contributions at all positions.

    Args:
        kappa_NC: the contributions.
        numbers_N: the photo of each position.
        classes: photos of each class that the inputs are split by; none for clusters.
        most: sub-units that are tried.
        seed: of clusters and nulls.
    """
    total_N = kappa_NC.sum(1)
    low_NC = kappa_NC[total_N < total_N.median()]
    strong = total_N > torch.quantile(total_N[: 2**24], STRONG)
    same = float(total_N.max() - total_N.min()) <= 1e-6 * float(kappa_NC.abs().max())
    few = int(strong.sum()) < LEAST_POSITIONS <= (1 - STRONG) * len(total_N) and not classes
    if same or few:  # another unit of the layer may still come apart
        reason = (
            "not separable: it has the same value at every position of these photos"
            if same
            else f"not separable: it stands out at {counted(int(strong.sum()), 'position')} of these photos"
        )
        whole = torch.zeros(int(strong.sum()), dtype=torch.long)
        return Partition(shares=torch.ones(1, kappa_NC.shape[1]), labels=whole, reason=reason)
    if not classes:
        return partition_inputs(kappa_NC[strong], low_NC, most=most, seed=seed)
    members = [torch.tensor([n in one for n in numbers_N.tolist()]) for one in classes]
    return partition_by_labels([kappa_NC[strong & mine] for mine in members], low_NC)


def _of_label(photos: Photos, label: str) -> set[int]:
    found = set(photos.of_class([label]))
    if not found:
        known = list(photos.classes())
        raise UserError(
            f'no photo of {photos.source} has the label "{label}"; there are {counted(len(known), "label")}{nearest(label, known)}'
        )
    return found

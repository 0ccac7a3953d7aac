"""What a step of a method costs: passes through the network, operations and new tensors, never seconds.

Costs are differences between runs of two lengths, so that what comes before the first step and after the last does not count.
They are exact and the same on every machine with the same version of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from entoptic.configs import Fourier, Maco, PixelAscent, Vital
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.methods.contract import Context, Item, MethodConfig, card_of
from entoptic.models.model import Model
from entoptic.units.unit import bind

STEM = (8, 3, 3, 3)
"""Shape of the weights of the tiny network's first layer, which every pass through it uses once."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one step takes.

    Attributes:
        forward: passes through the network, counted in pictures.
        backward: passes back to the pixels, counted in pictures.
        operations: of torch, in all.
        tensors: that are newly allocated.
        kilobytes: of these tensors.
    """

    forward: float
    backward: float
    operations: float
    tensors: float
    kilobytes: float


class Counting(TorchDispatchMode):
    """Counts what torch does, also within a backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = dict.fromkeys(Cost.__dataclass_fields__, 0.0)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        held = {t.untyped_storage().data_ptr() for t in tensors((args, kwargs))}
        self.counts["operations"] += 1
        for one in tensors(out):
            if one.untyped_storage().data_ptr() not in held:
                self.counts["tensors"] += 1
                self.counts["kilobytes"] += one.untyped_storage().nbytes() / 1024
        name = func.overloadpacket.__name__
        if name == "convolution" and tuple(args[1].shape) == STEM:
            self.counts["forward"] += len(args[0])
        if name == "convolution_backward" and tuple(args[2].shape) == STEM:
            self.counts["backward"] += len(args[0])
        return out


def tensors(held: Any) -> Iterator[Tensor]:
    """Every tensor in nested lists, tuples and mappings."""
    if isinstance(held, Tensor):
        yield held
    elif isinstance(held, list | tuple | dict):
        for one in held.values() if isinstance(held, dict) else held:
            yield from tensors(one)


def count(model: Model, config: Any, unit: str, photos: Path, n: int, steps: int) -> dict[str, float]:
    references = References(model, Photos.open(photos))
    (bound,) = bind(model, unit)
    items = [Item(target=bound, sample=sample, seed=0) for sample in range(n)]
    function: Callable[..., Any] = card_of(config).function
    for _ in function(items, replace(config, steps=1), Context(model=model, references=references)):
        pass  # what is kept between runs is computed here
    with Counting() as counting:
        for _ in function(items, replace(config, steps=steps), Context(model=model, references=references)):
            pass
    return counting.counts


def cost(model: Model, config: MethodConfig, unit: str, photos: Path, n: int = 1) -> Cost:
    """What a step of a method takes, for n pictures together."""
    few, many = (count(model, config, unit, photos, n, steps) for steps in (2, 6))
    return Cost(**{name: (many[name] - few[name]) / 4 for name in few})


SLACK = 1.3
"""Versions of torch differ by a few operations; twice the work is found."""
KNOWN: dict[str, tuple[MethodConfig, str, Cost]] = {
    "vital, a class": (
        Vital(references=4), "logits:1", Cost(forward=1, backward=1, operations=257, tensors=157, kilobytes=715),
    ),
    "vital, a channel": (
        Vital(references=4), "stage2:3", Cost(forward=1, backward=1, operations=530, tensors=314, kilobytes=828),
    ),
    "fourier": (Fourier(), "logits:1", Cost(forward=1, backward=1, operations=163, tensors=87, kilobytes=315)),
    "maco": (
        Maco(canvas=48, crops=2), "logits:1", Cost(forward=2, backward=2, operations=248, tensors=153, kilobytes=1582),
    ),
    "pixels": (PixelAscent(), "logits:1", Cost(forward=1, backward=1, operations=106, tensors=67, kilobytes=199)),
}  # fmt: skip
"""Methods and what their steps took when this was written. A larger number here is a decision, not a detail."""


def dearer(found: Cost, known: Cost) -> list[str]:
    """What costs more than is known: any further pass, or more of the rest than versions of torch differ by."""
    passes = [name for name in ("forward", "backward") if getattr(found, name) != getattr(known, name)]
    rest = ("operations", "tensors", "kilobytes")
    return passes + [name for name in rest if getattr(found, name) > SLACK * getattr(known, name)]


@pytest.mark.parametrize("name", KNOWN)
def test_a_step_costs_no_more_than_it_did(tiny: Model, photo_folder: Path, name: str) -> None:
    config, unit, known = KNOWN[name]
    found = cost(tiny, config, unit, photo_folder)
    assert dearer(found, known) == [], found


@pytest.mark.parametrize("name", KNOWN)
def test_pictures_of_a_batch_share_their_operations(tiny: Model, photo_folder: Path, name: str) -> None:
    config, unit, _ = KNOWN[name]
    alone, three = cost(tiny, config, unit, photo_folder), cost(tiny, config, unit, photo_folder, n=3)
    assert (three.forward, three.backward) == (3 * alone.forward, 3 * alone.backward)
    assert three.operations < 1.6 * alone.operations, "three pictures are not three times the work of torch"


@pytest.mark.parametrize("name", KNOWN)
def test_the_trace_counts_the_passes(tiny: Model, photo_folder: Path, name: str) -> None:
    config, unit, known = KNOWN[name]
    (bound,) = bind(tiny, unit)
    context = Context(model=tiny, references=References(tiny, Photos.open(photo_folder)))
    steps: Any = replace(config, steps=3)  # type: ignore[call-arg]
    (draft,) = card_of(config).function([Item(target=bound, sample=0, seed=0)], steps, context)
    assert draft.trace.evaluations == 3 * known.forward


def test_twice_the_work_is_noticed(tiny: Model, photo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, unit, known = KNOWN["fourier"]
    read = Model.read

    def twice(self: Model, images: Tensor, taps: Any) -> Any:
        both = [read(self, images, taps) for _ in range(2)]
        return {tap: (both[0][tap] + both[1][tap]) / 2 for tap in both[0]}

    with monkeypatch.context() as changed:
        changed.setattr(Model, "read", twice)
        assert {"forward", "backward", "kilobytes"} <= set(dearer(cost(tiny, config, unit, photo_folder), known))

    def copying(self: Model, images: Tensor, taps: Any) -> Any:
        for _ in range(100):
            images = images.clone()
        return read(self, images, taps)

    monkeypatch.setattr(Model, "read", copying)
    found = dearer(cost(tiny, config, unit, photo_folder), known)
    assert "forward" not in found
    assert {"operations", "tensors", "kilobytes"} <= set(found)

"""Pictures larger than the network's input, from coarse to fine.

The first half of the steps makes the picture at the network's own size, as ever. Then it is enlarged, by at most a factor of two
at a time, and goes on: at each step the network sees a random square of it, from its own size up to the whole, resized to its
own size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate

from entoptic.base.pixels import quantise, to_float
from entoptic.errors import UserError
from entoptic.methods.augment import Augment
from entoptic.methods.contract import Context, Draft, Item, Trace

Size = tuple[int, int]
_PARTS = 3
"""Squares of the network's size along one side that a finished picture is measured on."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One size at which pictures are made.

    Attributes:
        items: whose pictures go on.
        size: height and width.
        steps: of this stage.
        start: pictures to begin at, B×3×H×W in [0, 1], or None.
        context: whose steps count on from those of the stages before.
    """

    items: Sequence[Item]
    size: Size
    steps: int
    start: Tensor | None
    context: Context


def stages(own: Size, size: int, steps: int) -> list[tuple[Size, int]]:
    """Returns the sizes from the network's own to the last, each with its steps.

    Args:
        own: height and width of the network's input.
        size: pixels of the longer side in the end; 0 is the network's own size.
        steps: in all, half of them at the network's own size.

    Raises:
        UserError: the size is smaller than the network's, or there are fewer steps than stages.
    """
    check_size(own, size)
    if not size or size == max(own):
        return [(own, steps)]
    number = 1
    while max(own) * 2**number < size:
        number += 1
    if steps <= number:
        raise UserError(
            f"a picture of {size} pixels is made in {number + 1} stages, which {steps} steps are too few for"
        )
    sizes = []
    for k in range(1, number + 1):
        side = round(max(own) * (size / max(own)) ** (k / number))
        sizes.append((round(side * own[0] / max(own)), round(side * own[1] / max(own))))
    first = max(1, min(steps // 2, steps - number))
    rest = [(steps - first + number - 1 - k) // number for k in range(number)]
    return [(own, first), *zip(sizes, rest)]


def check_size(own: Size, size: int) -> None:
    """Refuses a size below the network's own.

    Args:
        own: height and width of the network's input.
        size: pixels of the longer side; 0 is the network's own size.

    Raises:
        UserError: the size is smaller.
    """
    if 0 < size < max(own):
        raise UserError(
            f"size must be above the network's own, which is {max(own)}, got {size}; leave it out for that one"
        )


def from_coarse_to_fine(
    items: Sequence[Item], size: int, steps: int, context: Context, make: Callable[[Stage], Iterator[Draft]]
) -> Iterator[Draft]:
    """Makes pictures stage by stage; yields drafts of the last size.

    Args:
        items: pictures to make.
        size: see `stages`.
        steps: in all.
        context: of the method.
        make: one stage; it yields one draft an item, in any order.
    """
    planned = stages(context.model.card.size, size, steps)
    if len(planned) == 1:
        yield from make(Stage(items=items, size=planned[0][0], steps=steps, start=None, context=context))
        return
    last, start, done, before = planned[-1][0], None, 0, dict[int, Trace]()
    for side, count in planned:
        ours = replace(context, on_step=lambda step, _, done=done: context.on_step(done + step, steps))  # type: ignore[misc]
        made: list[Draft] = []
        stopped: KeyboardInterrupt | None = None
        try:
            made.extend(make(Stage(items=items, size=side, steps=count, start=start, context=ours)))
        except KeyboardInterrupt as stop:
            stopped = stop
        yield from (one for one in made if one.image is None)
        pictures = [
            replace(one, trace=_joined(before.get(id(one.item)), one.trace, done))
            for one in made
            if one.image is not None
        ]
        if stopped is not None or side == last:
            for one in pictures:
                whole = one.image is not None and tuple(one.image.shape[1:]) != last
                yield replace(one, image=_enlarged(one.image[None], last)[0], overlays={}) if whole else one  # type: ignore[index]
            if stopped is not None:
                raise stopped
            return
        if not pictures:
            return
        items, before = [one.item for one in pictures], {id(one.item): one.trace for one in pictures}
        following = planned[planned.index((side, count)) + 1][0]
        start = _enlarged(torch.stack([one.image for one in pictures if one.image is not None]), following)
        done += count


def squares(own: Size) -> Augment:
    """Returns an augmentation that shows a random part of each picture at the network's own size.

    Its sides lie between the network's size and the whole picture, uniform in their logarithm. Parts are drawn beyond the
    border by up to a fourth of their side and moved back inside, so that the border is shown about as often as the middle.

    Args:
        own: height and width of the network's input.
    """

    def run(images: Tensor, generators: Sequence[Generator]) -> Tensor:
        height, width = images.shape[2:]
        if (height, width) == own:
            return images
        views = []
        for image, generator in zip(images, generators):
            share, top, left = torch.rand(3, generator=generator).tolist()
            h = max(own[0], round(own[0] * (height / own[0]) ** share))
            w = max(own[1], round(h * own[1] / own[0]))
            h, w = min(h, height), min(w, width)
            y, x = _place(top, height, h), _place(left, width, w)
            part = image[None, :, y : y + h, x : x + w]
            views.append(part if (h, w) == own else interpolate(part, own, mode="bicubic", antialias=True))
        return torch.cat(views).clamp(0, 1)

    return run


def _place(share: float, whole: int, part: int) -> int:
    """Where a part begins."""
    beyond = part / 4
    return round(min(max(share * (whole - part + 2 * beyond) - beyond, 0), whole - part))


@torch.no_grad()
def measured_at_both_sizes(draft: Draft, context: Context) -> Draft:
    """Returns the draft with the unit's score on the whole picture, resized, and on nine squares of the network's own size.

    Args:
        draft: of a picture that may be larger than the network's input.
        context: of the method.
    """
    own = context.model.card.size
    if draft.image is None or tuple(draft.image.shape[1:]) == tuple(own):
        return draft
    image = to_float(quantise(draft.image)).to(context.model.device)
    height, width = image.shape[2:]
    parts = [
        image[:, :, y : y + own[0], x : x + own[1]]
        for y in (round(k * (height - own[0]) / (_PARTS - 1)) for k in range(_PARTS))
        for x in (round(k * (width - own[1]) / (_PARTS - 1)) for k in range(_PARTS))
    ]
    whole = float(draft.item.unit.score(context.model.fit(image))[0])
    found = draft.item.unit.score(torch.cat(parts)).float()
    told = {
        "picture": [height, width], "network": list(own), "whole, resized": round(whole, 4),
        "parts": {"n": len(parts), "mean": round(float(found.mean()), 4), "largest": round(float(found.max()), 4)},
    }  # fmt: skip
    return replace(draft, trace=replace(draft.trace, detail={**draft.trace.detail, "score at both sizes": told}))


def _enlarged(images: Tensor, size: Size) -> Tensor:
    return interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)


def _joined(before: Trace | None, now: Trace, done: int) -> Trace:
    """The trace of a stage, with those of the stages before."""
    if before is None:
        return now
    return replace(
        now, steps=done + (now.steps or 0), evaluations=(before.evaluations or 0) + (now.evaluations or 0),
        loss=[*(before.loss or ()), *((done + t, value) for t, value in now.loss or ())],
        notes=list(dict.fromkeys((*before.notes, *now.notes))), seconds=round((before.seconds or 0) + (now.seconds or 0), 2),
        interrupted_at=None if now.interrupted_at is None else done + now.interrupted_at,
    )  # fmt: skip

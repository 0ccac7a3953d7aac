"""DeepInversion: pictures whose BatchNorm statistics are those of the training set (Yin et al., CVPR 2020).

The published method takes the statistics over the whole batch, so that each picture depends on its batch mates. Here
every item has a group of its own: `group` pictures that start from the item's own generator and are optimised together.
The statistics are taken over all of them and their positions, and the first of them is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from entoptic.errors import UserError
from entoptic.methods.contract import Context, Draft, Item, MethodConfig, Student, method

if TYPE_CHECKING:
    from torch import Tensor

    from entoptic.methods.objectives import Objective


@dataclass(frozen=True, kw_only=True)
class DeepInversion(MethodConfig):
    """DeepInversion, the statistics of BatchNorm layers (Yin et al. 2020).

    The defaults suit one picture of builtin:lite0 on a CPU. As published for ResNet-50 on ImageNet: steps 3000, lr 0.25,
    group 84, statistics 0.01, tv 1e-4, start 1, low 0.667, the other options as they are.
    """

    steps: int = 300
    """steps of Adam, both stages together"""
    lr: float = 0.2
    """learning rate of Adam, in normalised pixels (those that the network is fed)"""
    group: int = 1
    """pictures per item that are optimised together: the statistics are theirs, the first is shown"""
    low: float = 0.75
    """share of the steps that are run first, on a picture of half the size"""
    statistics: float = 0.003
    """weight of the distance to the running means and variances (r_feature); it scales with the network's activations"""
    tv: float = 0.3
    """weight of the total variation"""
    l2: float = 1e-5
    """weight of the picture's norm"""
    start: float = 0.2
    """standard deviation of the noise that the picture starts from, in normalised pixels"""
    jitter: int = 30
    """largest circular shift of a view in pixels; half of it at half the size"""
    flip: bool = True
    """mirror half of the views"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group < 1:
            raise UserError(f"group must be at least 1, got {self.group}")
        if not 0 <= self.low < 1:
            raise UserError(f"low is a share of the steps, at least 0 and below 1, got {self.low}")


@dataclass(frozen=True, kw_only=True)
class DeepInversionAdaptive(DeepInversion):
    """Adaptive DeepInversion, against a student network (Yin et al. 2020)."""

    student: str = "builtin:lite1"
    """a network of the same classes, which the pictures are to divide from the one under study"""
    competition: float = 0.2
    """weight of 1 - JS between the answers of both (adi_scale)"""


PAPER = "arXiv:1912.08795"


@method("deep-inversion", DeepInversion, paper=PAPER, units={"logit"})
def deep_inversion(items: Sequence[Item], config: DeepInversion, context: Context) -> Iterator[Draft]:
    """Inverts the network for one class per item."""
    from entoptic.methods.objectives import Objective

    yield from _invert(items, config, context, Objective())


@method("deep-inversion-adaptive", DeepInversionAdaptive, paper=PAPER, units={"logit"})
def deep_inversion_adaptive(items: Sequence[Item], config: DeepInversionAdaptive, context: Context) -> Iterator[Draft]:
    """Inverts the network for one class per item, and away from what a student network knows."""
    import torch

    from entoptic.methods.objectives import agreement
    from entoptic.models.sources import load

    with torch.random.fork_rng(devices=[]):  # building a network draws its first weights
        student, own = load(config.student, device=str(context.model.device)), context.model.card
    if own.places_in(student.card) != list(range(context.model.outputs)):
        raise UserError(f"the student {config.student} does not have the classes of {own.name}; name one that has")
    competition = config.competition * agreement(student, temperature=3.0)
    for draft in _invert(items, config, context, competition):
        note = f"optimised against {student.card.name}, which is therefore no judge of this picture"
        trace = replace(
            draft.trace, notes=[*draft.trace.notes, note],
            student=Student(name=student.card.name, weights_sha256=student.card.weights_sha256),
        )  # fmt: skip
        yield replace(draft, trace=trace)


def _invert(items: Sequence[Item], config: DeepInversion, context: Context, more: Objective) -> Iterator[Draft]:
    """Optimises in two stages: a picture of half the size, then from it one of the full size, with a new Adam.

    more: an objective beside those of the method.
    """
    import torch
    from torch.nn.functional import interpolate

    from entoptic.methods.ascent import ascend, warmup_cosine
    from entoptic.methods.augment import chain, flip, roll
    from entoptic.methods.canvas import Pixels
    from entoptic.methods.objectives import batch_norm_statistics, classification, deep_inversion_tv, norm
    from entoptic.models.batchnorm import BatchNormMoments, batch_norms

    model, card = context.model, context.model.card
    if not batch_norms(model.module):
        raise UserError(
            f"DeepInversion needs the running statistics of BatchNorm2d layers, and {card.name} has none; "
            "try --method vital or --method fourier"
        )
    low = round(config.low * config.steps) if config.steps > 1 else 0
    low = min(low, config.steps - 1)

    def enlarge(images: Tensor, size: tuple[int, int]) -> Tensor:
        return interpolate(images, size, mode="bilinear", align_corners=False)

    def stage(
        size: tuple[int, int], steps: int, jitter: int, generators: list[torch.Generator], start: Tensor | None,
        enlarged: bool = False,
    ) -> tuple[list[Draft], Tensor, KeyboardInterrupt | None]:  # fmt: skip
        """Returns drafts, all pictures of all groups (detached), and the interrupt if Ctrl-C came."""
        canvas = Pixels(generators, size, model.device, std=config.start, mean=card.mean, scale=card.std)
        if start is not None:
            mean, std = (start.new_tensor(v).expand(3)[:, None, None] for v in (card.mean, card.std))
            with torch.no_grad():
                canvas.parameter.copy_((start - mean) / std)
        before = config.steps - steps if start is not None else 0
        with BatchNormMoments(model.module, len(items)) as moments:
            objective = (
                classification([item.unit.index for item in items])
                + config.statistics * batch_norm_statistics(moments, first=10.0)
                + config.tv * deep_inversion_tv(card.mean, card.std)
                + config.l2 * norm(card.mean, card.std)
                + more
            )
            view = chain(roll(jitter), flip(0.5 if config.flip else 0.0))
            drafts: list[Draft] = []
            try:
                for draft in ascend(
                    items, canvas, objective, torch.optim.Adam([canvas.parameter], lr=config.lr, betas=(0.5, 0.9)),
                    replace(context, on_step=lambda step, _: context.on_step(before + step, config.steps)),
                    steps=steps, generators=generators,
                    augment=chain(view, lambda images, _: enlarge(images, card.size)) if enlarged else view,
                    schedule=warmup_cosine(steps, min(100, steps // 10)),
                ):  # fmt: skip
                    drafts.append(draft)
            except KeyboardInterrupt as stop:
                return drafts, canvas.image().detach(), stop
        return drafts, canvas.image().detach(), None

    def fresh() -> list[torch.Generator]:
        # The pictures of a group take turns at their item's generator.
        return [g for item in items for g in [item.generator()] * config.group]

    generators, start = fresh(), None
    first: list[Draft] = []
    if low:
        half = (card.size[0] // 2, card.size[1] // 2)
        try:
            first, image, stopped = stage(half, low, config.jitter // 2, generators, None)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, AssertionError, UserError):
            if model.takes(half):  # the failure has another reason than the size
                raise
            # A network that takes one input size only gets the small picture enlarged.
            generators = fresh()
            first, image, stopped = stage(half, low, config.jitter // 2, generators, None, enlarged=True)
        start = enlarge(image, card.size)
        if stopped is not None:
            for draft in first:
                if draft.image is not None:
                    trace = replace(draft.trace, interrupted_at=draft.trace.steps)
                    draft = replace(draft, image=enlarge(draft.image[None], card.size)[0], trace=trace)
                yield draft
            raise stopped
    second, _, stopped = stage(card.size, config.steps - low, config.jitter, generators, start)
    for i, draft in enumerate(second):
        yield _join(first[i], draft, config.steps) if first else draft
    if stopped is not None:
        raise stopped


def _join(first: Draft, second: Draft, steps: int) -> Draft:
    """The draft of the second stage, with the trace of the first stage before its own. steps: of both stages."""
    if first.failure is not None or second.failure is not None:
        return first if first.failure is not None else second
    a, b = first.trace, second.trace
    before, done = a.steps or 0, (a.steps or 0) + (b.steps or 0)
    trace = replace(
        b,
        steps=done,
        evaluations=(a.evaluations or 0) + (b.evaluations or 0),
        loss=[*(a.loss or ()), *((before + t, value) for t, value in b.loss or ())],
        notes=list(dict.fromkeys([*a.notes, *b.notes])),
        seconds=round((a.seconds or 0.0) + (b.seconds or 0.0), 2),
        interrupted_at=None if done == steps else done,
    )
    return replace(second, trace=trace)

"""The one loop behind every optimising method: canvas × objective × augmentation × schedule."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from entoptic.errors import UserError
from entoptic.methods.augment import Augment, identity
from entoptic.methods.canvas import Canvas
from entoptic.methods.contract import Context, Draft, FailureCode, Item, Trace, failed
from entoptic.methods.objectives import AscentStep, Objective
from entoptic.models.model import Model
from entoptic.models.running import not_finite
from entoptic.models.taps import Tap

Schedule = Callable[[int], float]


def constant(step: int) -> float:
    """Returns 1: the full learning rate at every step."""
    return 1.0


def warmup_cosine(steps: int, warmup: int) -> Schedule:
    """Returns a schedule that rises linearly to 1 and then falls to 0 along half a cosine.

    The factor is (t + 1) / warmup at step t < warmup. VITAL uses a warm-up of 100 steps.

    Args:
        steps: in all.
        warmup: steps of the rise, cut to steps - 1.
    """
    warmup = max(0, min(warmup, steps - 1))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return factor


def ascend(
    items: Sequence[Item],
    canvas: Canvas,
    objective: Objective,
    optimiser: torch.optim.Optimizer,
    context: Context,
    *,
    steps: int,
    generators: Sequence[torch.Generator],
    augment: Augment = identity,
    schedule: Schedule = constant,
    on_gradient: Callable[[torch.Tensor], None] | None = None,
    read: Callable[[torch.Tensor, Sequence[Tap]], dict[Tap, torch.Tensor]] | None = None,
) -> Iterator[Draft]:
    """Minimises an objective over a canvas and yields one draft per item, in order.

    The items share forward passes and nothing else: losses are summed, optimisers are elementwise, and each item has a
    random generator of its own. An item whose loss stops being finite is yielded as a failure; the others go on.

    Ctrl-C ends the loop early. The drafts then say `interrupted at step N`, and KeyboardInterrupt is raised again after
    the last of them.

    Args:
        items: B pictures to make.
        canvas: what is optimised.
        objective: one loss per item.
        optimiser: over `canvas.parameter`, elementwise (Adam, NAdam, SGD).
        context: of the method.
        steps: of the optimiser.
        generators: one per picture of the canvas, for `augment`.
        augment: from pictures to views.
        schedule: factor of the learning rate at each step.
        on_gradient: may change `canvas.parameter.grad` in place before the optimiser's step.
        read: reads taps of views in place of `Model.read`.
    """
    model, count = context.model, len(items)
    read = read or model.read
    rate = [group["lr"] for group in optimiser.param_groups]
    notes: list[list[str]] = [[] for _ in items]
    history: list[tuple[int, list[float]]] = []
    alive = torch.ones(count, dtype=torch.bool, device=canvas.parameter.device)
    every = max(1, steps // 20)
    started, done, evaluations = time.monotonic(), 0, 0
    interrupted: KeyboardInterrupt | None = None
    first_loss: torch.Tensor | None = None
    with torch.no_grad():
        start = canvas.image().clamp(0, 1).clone()
    film = _Film(steps, context.frames)
    try:
        with model.frozen():
            for t in range(steps):
                for group, full in zip(optimiser.param_groups, rate):
                    group["lr"] = full * schedule(t)
                image = canvas.image()
                if t in film.steps:
                    film.add(model.as_seen(image.detach().clamp(0, 1))[:: len(image) // count])
                views = augment(image, generators)
                values = read(views, objective.taps) if objective.taps else {}
                loss = objective(AscentStep(values, image, views, count, notes))
                first_loss = loss.detach().clone() if first_loss is None else first_loss
                alive = alive & loss.detach().isfinite()
                if not loss.requires_grad:
                    raise UserError(
                        f"no gradient reaches the picture: {model.card.name} cuts it in its forward (by no_grad, detach, a step "
                        "without a derivative, or checkpointing with use_reentrant=True), or was loaded under "
                        "torch.inference_mode; methods without gradients are retrieval, best-of and klsc with --klsc.leaps 0"
                    )
                optimiser.zero_grad(set_to_none=True)
                torch.where(alive, loss, 0.0).sum().backward()
                if on_gradient is not None:
                    assert canvas.parameter.grad is not None
                    on_gradient(canvas.parameter.grad)
                optimiser.step()
                canvas.project()
                done, evaluations = t + 1, len(views) // count * (t + 1)
                if t % every == 0 or t == steps - 1:
                    history.append((t, loss.detach().tolist()))
                context.on_step(t + 1, steps)
    except KeyboardInterrupt as stop:
        interrupted = stop
    with torch.no_grad():
        image = canvas.image().clamp(0, 1)
        moved = (image != start).flatten(1).any(1)[:: len(image) // count].tolist()
        painted = model.as_seen(image).cpu()
    final = painted[:: len(painted) // count]  # of an item with several pictures on the canvas, the first is kept
    seconds = time.monotonic() - started
    for i, item in enumerate(items):
        if not bool(alive[i]) or not bool(final[i].isfinite().all()):
            yield failed(item, _why_not_finite(item, first_loss, i, model), FailureCode.NOT_FINITE)
            continue
        said = notes[i] if moved[i] or not done else [*notes[i], _UNMOVED]
        trace = Trace(
            steps=done, evaluations=evaluations, loss=[(t, losses[i]) for t, losses in history], notes=said,
            seconds=round(seconds / count, 2), interrupted_at=None if done == steps else done,
        )  # fmt: skip
        yield Draft(item=item, image=final[i], trace=trace, frames=film.of(i))
    if interrupted is not None:
        raise interrupted


_UNMOVED = (
    "no step changed the picture, which is still as it began: the unit's gradient there is zero (it is dead, saturated or "
    "quantised) or too small or large for a step, or the learning rate is 0; retrieval shows photos that drive it, if any do"
)


def _why_not_finite(item: Item, first_loss: torch.Tensor | None, i: int, model: Model) -> str:
    """Why a loss was not finite: the network's own values at the start, or a step."""
    weights = not_finite(model.module)
    if first_loss is None or bool(first_loss[i].isfinite()):
        return f"the loss of {item.unit} became infinite or undefined; {weights or 'try a smaller learning rate'}"
    return (
        f"the loss of {item.unit} is infinite or undefined from the first step on, as the network puts out no finite value "
        f"there; look at its weights{f' ({weights})' if weights else ''}"
    )


class _Film:
    """The pictures of an ascent on their way: `frames` of them, densest at the beginning, where most happens."""

    def __init__(self, steps: int, frames: int) -> None:
        self.steps = {round((steps - 1) * (k / frames) ** 2) for k in range(frames)}
        self._kept: list[torch.Tensor] = []

    def add(self, pictures: torch.Tensor) -> None:
        """Keeps the pictures of a step, B×3×H×W in [0, 1]."""
        self._kept.append((pictures.nan_to_num(0.0) * 255).round().byte().cpu())

    def of(self, item: int) -> list[np.ndarray]:
        """Returns an item's frames, H×W×3 uint8 each."""
        return [frame[item].permute(1, 2, 0).numpy() for frame in self._kept]


class Transparency:
    """The transparency map of VITAL and MACO: the sum over steps of |dL/dx| at each pixel of the canvas.

    Args:
        parameter: B×3×H×W, that of a `Pixels` canvas.
    """

    def __init__(self, parameter: torch.Tensor) -> None:
        self._sum = torch.zeros_like(parameter, requires_grad=False)

    def add(self, gradient: torch.Tensor) -> None:
        """Adds the gradient of one step, B×3×H×W."""
        self._sum += gradient.nan_to_num(0.0, 0.0, 0.0).abs()

    def of(self, item: int) -> torch.Tensor:
        """Returns an item's map, H×W in [0, 1]: the mean over colours, clipped at its 98th percentile, its maximum 1."""
        map_HW = self._sum[item].mean(0)
        map_HW = map_HW.clamp_max(map_HW.flatten().quantile(0.98))
        return (map_HW / map_HW.max().clamp_min(1e-30)).cpu()


def normalise_gradient(gradient: torch.Tensor) -> None:
    """Divides each item's gradient by its own root mean square, in place.

    The learning rate of plain gradient ascent is then the root mean square change per step.

    Args:
        gradient: B×….
    """
    axes = tuple(range(1, gradient.ndim))
    gradient.div_(gradient.square().mean(axes, keepdim=True).sqrt().clamp_min(1e-20))

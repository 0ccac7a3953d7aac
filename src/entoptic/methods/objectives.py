"""What gradient ascent minimises: one loss per item, from the layers that were read and the picture itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from entoptic.models.batchnorm import BatchNormMoments
from entoptic.models.model import LOGITS, Model
from entoptic.models.taps import Tap
from entoptic.units.unit import Unit


@dataclass
class Step:
    """What one step of ascent hands to an objective.

    Attributes:
        values: per tap, (B·k)×C×D of the k views of each of B items. image: B×3×H×W before augmentation.
        views: (B·k)×3×H'×W'. count: B.
        notes: one list per item that an objective may write to; it ends up in the picture's trace.
    """

    values: Mapping[Tap, Tensor]
    image: Tensor
    views: Tensor
    count: int
    notes: list[list[str]]

    def per_item(self, rows: Tensor) -> Tensor:
        """(B·k) values of views to (B) means over each item's own views."""
        return rows.view(self.count, -1).mean(1)


Term = Callable[[Step], Tensor]


@dataclass(frozen=True)
class Objective:
    """A weighted sum of terms, each giving one loss (B) per item; `+`, `-` and `*` make new ones.

    Attributes:
        taps: the layers that the terms read. terms: (weight, term) pairs.
    """

    taps: tuple[Tap, ...] = ()
    terms: tuple[tuple[float | Tensor, Term], ...] = field(default=())

    def __call__(self, step: Step) -> Tensor:
        losses = [weight * term(step) for weight, term in self.terms]
        return torch.stack(losses).sum(0) if losses else step.image.new_zeros(step.count)

    def __add__(self, other: Objective) -> Objective:
        return Objective(tuple(dict.fromkeys(self.taps + other.taps)), self.terms + other.terms)

    def __mul__(self, factor: float | Tensor) -> Objective:
        """Times a number, or times one number per item (B)."""
        return Objective(self.taps, tuple((factor * weight, term) for weight, term in self.terms))

    __rmul__ = __mul__

    def __neg__(self) -> Objective:
        return self * -1.0

    def __sub__(self, other: Objective) -> Objective:
        return self + -other


class _Scores:
    """Scores of one unit per item that always have a gradient.

    A unit that is dead at a view (a ReLU's zero, so no gradient) or saturated (ReLU6) is read before its activation
    function there until it has a gradient again; the trace names it.
    """

    def __init__(self, units: Sequence[Unit | None]) -> None:
        self._units = [(unit, unit.before_activation() if unit else None) for unit in units]
        self.taps = tuple(dict.fromkeys(unit.tap for pair in self._units for unit in pair if unit is not None))

    def of(self, step: Step, i: int) -> Tensor:
        """Scores of item i's views."""
        views = len(step.views) // step.count
        rows = slice(i * views, (i + 1) * views)
        unit, pre = self._units[i]
        assert unit is not None
        values = step.values[unit.tap][rows]
        score = unit.read(values)
        if pre is None:
            return score
        before = step.values[pre.tap][rows]
        flat = _without_gradient(unit, values.detach(), before.detach())
        note = f"{unit} had no gradient at some views (dead or saturated): read before its activation there"
        if bool(flat.any()) and note not in step.notes[i]:
            step.notes[i].append(note)
        return torch.where(flat, pre.read(before), score)


def activation(units: Sequence[Unit]) -> Objective:
    """Minus the unit's score, one unit per item (dead and saturated units: see `_Scores`)."""
    scores = _Scores(units)

    def term(step: Step) -> Tensor:
        return torch.stack([-scores.of(step, i).mean() for i in range(len(units))])

    return Objective(scores.taps, ((1.0, term),))


def _without_gradient(unit: Unit, after: Tensor, before: Tensor) -> Tensor:
    """Per view, whether the activation function is flat wherever the unit reads it (B×C×D before and after)."""
    # Exactly 0 and exactly 6: smooth functions below zero or above six have a gradient.
    flat = ((after == 0) & (before < 0)) | ((after == 6) & (before > 6))
    if unit.direction is not None:
        flat_BD = flat[:, unit.direction.to(flat.device) != 0].all(1)
    else:
        flat_BD = flat[:, unit.index]
    if unit.position is not None:
        return flat_BD[:, unit.position]
    if unit.readout.startswith("max"):
        map_BD = unit.map(after)
        flat_BD = flat_BD | (map_BD < map_BD.amax(1, keepdim=True))  # only the maximum has a gradient
    return flat_BD.all(1)


class SortMatch(torch.autograd.Function):
    """Per item, sum over (C, D) of (sort(z) - t)² times a weight per channel, its gradient formed in the forward pass.

    For one dimension the sorted pairing is the optimal transport plan, so with weight 1/(C·D) this is the mean over
    channels of the squared 2-Wasserstein distance between the distributions of z and t (VITAL's loss; Zhang et al.
    2022). The permutation is a constant, dL/dz_p = 2·w·(z_p - t_rank(p)); storing that product instead of ranks and
    sorted values halves the memory. `weight` is B, or B×C where channels count differently (VITAL's ū_c); `place`, B×D in
    [0, 1], leaves positions out: they keep their rank but are not pulled.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        z_BCD: Tensor,
        t_BCD: Tensor,
        weight: Tensor,
        place_BD: Tensor | None = None,
    ) -> Tensor:
        sorted_BCD, rank_BCD = z_BCD.sort(dim=-1)
        difference = sorted_BCD.sub_(t_BCD)
        weight_BC = weight if weight.ndim == 2 else weight[:, None]
        squares = difference.square()
        pull = torch.empty_like(difference).scatter_(-1, rank_BCD, difference)
        if place_BD is not None:
            place_BCD = place_BD[:, None].expand_as(pull)
            squares, pull = squares * place_BCD.gather(-1, rank_BCD), pull * place_BCD
        ctx.save_for_backward(pull, weight_BC)
        return (squares.sum(dim=2) * weight_BC).sum(1)

    @staticmethod
    def backward(ctx: Any, gradient_B: Tensor) -> tuple[Tensor, None, None, None]:
        pull, weight_BC = ctx.saved_tensors
        return pull * (2 * weight_BC * gradient_B[:, None])[..., None], None, None, None


def match(
    taps: Mapping[Tap, float],
    targets: Sequence[Mapping[Tap, Tensor]],
    *,
    balanced: bool,
    importance: Sequence[Mapping[Tap, Tensor]] = (),
    places: Mapping[Tap, Tap] | None = None,
) -> Objective:
    """Sorted-feature matching: per layer the mean over channels and ranks of ū_c·(sort(z) - t)².

    Args:
        taps: layers and their weights.
        targets: one mapping per item, layer to C×D mean sorted values of its reference photos; items of the same
            unit may share one mapping. A layer that an item's mapping lacks does not count for that item.
        balanced: divide each layer's loss by the variance of its target (both weighted by ū), so that layers of any
            scale count alike and no weights per architecture are needed; False is the published loss.
        importance: ū of each item, layer to C weights ≥ 0; without it all channels count alike.
        places: per layer what is read as the weight of its positions (B×1×D in [0, 1]); without it all count alike.
    """
    stacked, weights = {}, {}
    for tap, weight in taps.items():
        held = next(target[tap] for target in targets if tap in target)  # its shape
        rows, shares = [], []
        for i, target in enumerate(targets):
            t_CD = target.get(tap, torch.zeros_like(held))
            u_C = importance[i].get(tap) if importance else None
            u_C = t_CD.new_ones(len(t_CD)) if u_C is None else u_C.to(t_CD)
            scale = t_CD.new_ones(())
            if balanced:
                total = u_C.sum().clamp_min(1e-12) * t_CD.shape[1]
                mean = (u_C[:, None] * t_CD).sum() / total
                variance = (u_C[:, None] * (t_CD - mean).square()).sum() / total
                scale = variance.clamp_min(1e-12) * u_C.mean().clamp_min(1e-12)
            rows.append(t_CD)
            shares.append(u_C * (weight if tap in target else 0.0) / (scale * t_CD.numel()))
        stacked[tap], weights[tap] = torch.stack(rows), torch.stack(shares)  # B×C×D, B×C

    def term(step: Step) -> Tensor:
        views = len(step.views) // step.count
        total = step.image.new_zeros(step.count)
        for tap in taps:
            target, weight = stacked[tap], weights[tap]
            if views > 1:
                target, weight = target.repeat_interleave(views, 0), weight.repeat_interleave(views, 0)
            place = step.values[places[tap]][:, 0] if places else None
            total = total + step.per_item(SortMatch.apply(step.values[tap], target, weight, place))
        return total

    return Objective((*taps, *(places or {}).values()), ((1.0, term),))


def reach(units: Sequence[Unit], levels: Sequence[tuple[float, float] | None]) -> Objective:
    """How far the unit's score is from its level among photos: max(0, 1 - (s - low) / (high - low)), one per item.

    Args:
        levels: (low, high) of each item, for instance the median and the strongest photo's score: there is no push
            beyond what a real photo reaches. None for an item that is not pushed.
    """
    scores = _Scores([unit if level else None for unit, level in zip(units, levels)])

    def term(step: Step) -> Tensor:
        losses = []
        for i, level in enumerate(levels):
            if level is None:
                losses.append(step.image.new_zeros(()))
                continue
            low, high = level
            losses.append((1 - (scores.of(step, i) - low) / max(high - low, 1e-12)).clamp_min(0).mean())
        return torch.stack(losses)

    return Objective(scores.taps, ((1.0, term),))


def total_variation() -> Objective:
    """Mean over pixels and colours of squared differences to the right and lower neighbour, pixels in [0, 1]."""

    def term(step: Step) -> Tensor:
        x = step.image
        return (x[..., 1:] - x[..., :-1]).square().mean((1, 2, 3)) + (x[..., 1:, :] - x[..., :-1, :]).square().mean(
            (1, 2, 3)
        )

    return Objective((), ((1.0, term),))


def greyness() -> Objective:
    """Mean over pixels and colours of the squared distance to mid-grey, pixels in [0, 1]."""

    def term(step: Step) -> Tensor:
        return (step.image - 0.5).square().mean((1, 2, 3))

    return Objective((), ((1.0, term),))


def deep_inversion_tv(mean: Sequence[float], std: Sequence[float]) -> Objective:
    """Sum of the four un-squared norms of horizontal, vertical and both diagonal differences (normalised pixels).

    One norm per picture: the published code takes it over the whole batch, which couples the pictures.
    """
    mean_, std_ = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]

    def term(step: Step) -> Tensor:
        x = (step.views - mean_.to(step.views)) / std_.to(step.views)
        differences = (
            x[..., :, :-1] - x[..., :, 1:],
            x[..., :-1, :] - x[..., 1:, :],
            x[..., :-1, :-1] - x[..., 1:, 1:],
            x[..., 1:, :-1] - x[..., :-1, 1:],
        )
        return step.per_item(torch.stack([d.flatten(1).norm(dim=1) for d in differences]).sum(0))

    return Objective((), ((1.0, term),))


def norm(mean: Sequence[float], std: Sequence[float]) -> Objective:
    """Un-squared L2 norm of each normalised picture."""
    mean_, std_ = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]

    def term(step: Step) -> Tensor:
        return step.per_item(((step.views - mean_.to(step.views)) / std_.to(step.views)).flatten(1).norm(dim=1))

    return Objective((), ((1.0, term),))


def classification(classes: Sequence[int]) -> Objective:
    """Cross-entropy of the network's answer with one class per item (mean over the item's views)."""

    def term(step: Step) -> Tensor:
        logits = step.values[Tap(LOGITS)][:, :, 0]
        wanted = torch.tensor(classes, device=logits.device).repeat_interleave(len(logits) // step.count)
        return step.per_item(cross_entropy(logits, wanted, reduction="none"))

    return Objective((Tap(LOGITS),), ((1.0, term),))


def batch_norm_statistics(moments: BatchNormMoments, first: float) -> Objective:
    """Sum over BatchNorm layers of k·(‖var - running var‖₂ + ‖mean - running mean‖₂), norms over channels.

    Args:
        moments: a context that is open during the ascent, with one group per item. first: k of the layer that runs
            first; 1 for the others.
    """

    def term(step: Step) -> Tensor:
        total = step.image.new_zeros(step.count)
        for i, (name, (mean, variance)) in enumerate(moments.values.items()):
            running_mean, running_variance = moments.running[name]
            distance = (variance - running_variance).norm(dim=1) + (mean - running_mean).norm(dim=1)
            total = total + (first if i == 0 else 1.0) * distance
        return total

    return Objective((), ((1.0, term),))


def agreement(student: Model, temperature: float) -> Objective:
    """1 - JS between the answers of the network and of a student, softmax at `temperature`, clamped to [0.01, 0.99].

    Minimised, it looks for pictures that the student does not see as the network does.
    """

    def softened(logits: Tensor) -> Tensor:
        return (logits / temperature).softmax(1).clamp(0.01, 0.99)

    def term(step: Step) -> Tensor:
        p = softened(step.values[Tap(LOGITS)][:, :, 0])
        q = softened(student.read(student.fit(step.views), [Tap(LOGITS)])[Tap(LOGITS)][:, :, 0])
        middle = (p + q) / 2
        divergence = (p * (p / middle).log() + q * (q / middle).log()).sum(1) / 2
        return step.per_item(1 - divergence)

    return Objective((Tap(LOGITS),), ((1.0, term),))

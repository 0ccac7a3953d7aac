"""Objectives of gradient ascent: one loss per item, from the layers that were read and from the picture itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from entoptic.base.sorting import sort_rows
from entoptic.models.batchnorm import BatchNormMoments
from entoptic.models.model import LOGITS, Model
from entoptic.models.taps import Tap
from entoptic.units.unit import Unit


@dataclass
class AscentStep:
    """What an objective is computed from at one step of ascent, for B items with k views each.

    Attributes:
        values: (B·k)×C×D for each tap.
        image: B×3×H×W in [0, 1], before augmentation.
        views: (B·k)×3×H'×W', after augmentation, the k views of one item next to each other.
        count: B.
        notes: one list per item. What an objective appends goes into the picture's trace.
    """

    values: Mapping[Tap, Tensor]
    image: Tensor
    views: Tensor
    count: int
    notes: list[list[str]]

    def per_item(self, rows: Tensor) -> Tensor:
        """Returns B means over each item's own views.

        Args:
            rows: B·k, one value per view.
        """
        return rows.view(self.count, -1).mean(1)


Term = Callable[[AscentStep], Tensor]


@dataclass(frozen=True)
class Objective:
    """A weighted sum of terms, each of which gives one loss per item (B). `+`, `-` and `*` make new objectives.

    Attributes:
        taps: the layers that the terms read.
        terms: pairs of a weight (a number, or one per item) and a term.
    """

    taps: tuple[Tap, ...] = ()
    terms: tuple[tuple[float | Tensor, Term], ...] = field(default=())

    def __call__(self, step: AscentStep) -> Tensor:
        """Returns one loss per item (B)."""
        losses = [weight * term(step) for weight, term in self.terms]
        return torch.stack(losses).sum(0) if losses else step.image.new_zeros(step.count)

    def __add__(self, other: Objective) -> Objective:
        return Objective(tuple(dict.fromkeys(self.taps + other.taps)), self.terms + other.terms)

    def __mul__(self, factor: float | Tensor) -> Objective:
        """Returns the objective times a number, or times one number per item (B)."""
        return Objective(self.taps, tuple((factor * weight, term) for weight, term in self.terms))

    __rmul__ = __mul__

    def __neg__(self) -> Objective:
        return self * -1.0

    def __sub__(self, other: Objective) -> Objective:
        return self + -other


class ScoresWithGradient:
    """Scores of one unit per item, with a gradient at every view.

    Where a unit is dead (a ReLU gives zero) or saturated (ReLU6), its score has no gradient. At such a view it is read
    before its activation function, and the picture's trace says so.
    """

    def __init__(self, units: Sequence[Unit | None]) -> None:
        self._units = [
            [(weight, part, part.before_activation()) for weight, part in unit.terms] if unit else [] for unit in units
        ]
        read = [one for parts in self._units for _, *both in parts for one in both if one is not None]
        self.taps = tuple(dict.fromkeys(unit.tap for unit in read))

    def of(self, step: AscentStep, i: int) -> Tensor:
        """Returns the scores of item i's views (k); a combination's are the weighted sum over its parts."""
        scores = [weight * self._score(step, i, unit, pre) for weight, unit, pre in self._units[i]]
        return scores[0] if len(scores) == 1 else torch.stack(scores).sum(0)

    def _score(self, step: AscentStep, i: int, unit: Unit, pre: Unit | None) -> Tensor:
        views = len(step.views) // step.count
        rows = slice(i * views, (i + 1) * views)
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
    """Returns minus the score of one unit per item. Dead and saturated units are read before their activation function."""
    scores = ScoresWithGradient(units)

    def term(step: AscentStep) -> Tensor:
        return torch.stack([-scores.of(step, i).mean() for i in range(len(units))])

    return Objective(scores.taps, ((1.0, term),))


def _without_gradient(unit: Unit, after: Tensor, before: Tensor) -> Tensor:
    """Per view, whether the activation function is flat wherever the unit reads it.

    after, before: B×C×D, the layer after and before its activation function.
    """
    # Exactly 0 and exactly 6: smooth functions below zero or above six have a gradient.
    flat = ((after == 0) & (before < 0)) | ((after == 6) & (before > 6))
    if unit.dictionary is not None:
        flat_BD = unit.map(after) == 0  # at or below a feature's own threshold
    elif unit.direction is not None:
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
    """Computes, per item, the sum over channels and ranks (C, D) of (sort(z) - t)², times a weight per channel.

    In one dimension the sorted pairing is the optimal transport plan. With weight 1/(C·D) the sum is therefore the mean
    over channels of the squared 2-Wasserstein distance between the distributions of z and t (VITAL's loss; Zhang et al.
    2022).

    The permutation is a constant for the gradient: dL/dz_p = 2·w·(z_p - t_rank(p)). The forward pass stores this product in
    place of ranks and sorted values, which halves the memory.

    Args (of `apply`):
        z_BCD: activations.
        t_BCD: sorted targets.
        weight: B, or B×C where channels count differently (VITAL's ū_c).
        position_weight_BD: in [0, 1], or None. A position of weight 0 keeps its rank but gets no gradient.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        z_BCD: Tensor,
        t_BCD: Tensor,
        weight: Tensor,
        position_weight_BD: Tensor | None = None,
    ) -> Tensor:
        sorted_BCD, rank_BCD = sort_rows(z_BCD)
        difference = sorted_BCD.sub_(t_BCD)
        weight_BC = weight if weight.ndim == 2 else weight[:, None]
        squares = difference.square()
        pull = torch.empty_like(difference).scatter_(-1, rank_BCD, difference)
        if position_weight_BD is not None:
            position_weight_BCD = position_weight_BD[:, None].expand_as(pull)
            squares = squares * position_weight_BCD.gather(-1, rank_BCD)
            pull = pull * position_weight_BCD
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
    position_weights: Mapping[Tap, Tap] | None = None,
) -> Objective:
    """Returns the objective of sorted-feature matching (VITAL): per layer, the mean over c and ranks of ū_c·(sort(z) - t)².

    Args:
        taps: layers and their weights.
        targets: one mapping per item, from a layer to C×D mean sorted values of its reference photos. Items of the same
            unit may share one mapping. A layer that an item's mapping lacks does not count for that item.
        balanced: whether each layer's loss is divided by the variance of its target (both weighted by ū). Layers of any
            scale then count alike, and no weights per architecture are needed. False is the published loss.
        importance: ū of each item, from a layer to C weights ≥ 0. Without it all channels count alike.
        position_weights: per layer, the tap of its positions' weights (B×1×D in [0, 1]). Without it all count alike.
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

    def term(step: AscentStep) -> Tensor:
        views = len(step.views) // step.count
        total = step.image.new_zeros(step.count)
        for tap in taps:
            target, weight = stacked[tap], weights[tap]
            if views > 1:
                target, weight = target.repeat_interleave(views, 0), weight.repeat_interleave(views, 0)
            position_weight = step.values[position_weights[tap]][:, 0] if position_weights else None
            total = total + step.per_item(SortMatch.apply(step.values[tap], target, weight, position_weight))
        return total

    return Objective((*taps, *(position_weights or {}).values()), ((1.0, term),))


def activation_target(units: Sequence[Unit], levels: Sequence[tuple[float, float] | None]) -> Objective:
    """Returns how far each unit's score s is below its target: max(0, 1 - (s - low) / (high - low)), one per item.

    The loss is 0 from `high` on, so that no picture is pushed beyond what a real photo reaches.

    Args:
        units: one per item.
        levels: (low, high) of each item, for instance the scores of the median and of the strongest photo; None for an
            item without a target.
    """
    scores = ScoresWithGradient([unit if level else None for unit, level in zip(units, levels)])

    def term(step: AscentStep) -> Tensor:
        losses = []
        for i, level in enumerate(levels):
            if level is None:
                losses.append(step.image.new_zeros(()))
                continue
            low, high = level
            losses.append((1 - (scores.of(step, i) - low) / max(high - low, 1e-12)).clamp_min(0).mean())
        return torch.stack(losses)

    return Objective(scores.taps, ((1.0, term),))


def total_variation(shares: Sequence[float] = ()) -> Objective:
    """Returns the mean squared difference of a pixel to its right and lower neighbours, over colours, pixels in [0, 1].

    Args:
        shares: one factor per item; without them it counts in full for all.
    """

    def term(step: AscentStep) -> Tensor:
        x = step.image
        right, down = x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]
        variation = right.square().mean((1, 2, 3)) + down.square().mean((1, 2, 3))
        return variation * variation.new_tensor(shares) if shares else variation

    return Objective((), ((1.0, term),))


def greyness() -> Objective:
    """Returns the mean squared distance of pixels from mid-grey, over colours, pixels in [0, 1]."""

    def term(step: AscentStep) -> Tensor:
        return (step.image - 0.5).square().mean((1, 2, 3))

    return Objective((), ((1.0, term),))


def deep_inversion_tv(mean: Sequence[float], std: Sequence[float]) -> Objective:
    """Returns DeepInversion's total variation: the sum of four un-squared norms of differences between neighbours.

    The differences are horizontal, vertical and along both diagonals. Each picture has norms of its own; the published code
    takes them over the whole batch, which couples the pictures.

    Args:
        mean: of the model's normalisation, one per colour.
        std: of the model's normalisation, one per colour.
    """
    mean_, std_ = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]

    def term(step: AscentStep) -> Tensor:
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
    """Returns the un-squared L2 norm of each normalised picture.

    Args:
        mean: of the model's normalisation, one per colour.
        std: of the model's normalisation, one per colour.
    """
    mean_, std_ = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]

    def term(step: AscentStep) -> Tensor:
        return step.per_item(((step.views - mean_.to(step.views)) / std_.to(step.views)).flatten(1).norm(dim=1))

    return Objective((), ((1.0, term),))


def classification(classes: Sequence[int]) -> Objective:
    """Returns the cross-entropy of the network's logits with one class per item, the mean over the item's views.

    Args:
        classes: one per item.
    """

    def term(step: AscentStep) -> Tensor:
        logits = step.values[Tap(LOGITS)][:, :, 0]
        wanted = torch.tensor(classes, device=logits.device).repeat_interleave(len(logits) // step.count)
        return step.per_item(cross_entropy(logits, wanted, reduction="none"))

    return Objective((Tap(LOGITS),), ((1.0, term),))


def batch_norm_statistics(moments: BatchNormMoments, first: float) -> Objective:
    """Returns DeepInversion's feature loss: over BatchNorm layers, k·(‖var - running var‖₂ + ‖mean - running mean‖₂) summed.

    Norms are over channels (Yin et al. 2020, R_feature).

    Args:
        moments: open during the ascent, with one group per item.
        first: k of the layer that runs first; it is 1 for the others.
    """

    def term(step: AscentStep) -> Tensor:
        total = step.image.new_zeros(step.count)
        for i, (name, (mean, variance)) in enumerate(moments.values.items()):
            running_mean, running_variance = moments.running[name]
            distance = (variance - running_variance).norm(dim=1) + (mean - running_mean).norm(dim=1)
            total = total + (first if i == 0 else 1.0) * distance
        return total

    return Objective((), ((1.0, term),))


def agreement(student: Model, temperature: float) -> Objective:
    """Returns 1 - JS divergence between the softmax of the network and that of a student (Yin et al. 2020, R_compete).

    A small value means that the two networks disagree on the picture. Probabilities are clamped to [0.01, 0.99].

    Args:
        student: a network with the same classes.
        temperature: of both softmax functions.
    """

    def softened(logits: Tensor) -> Tensor:
        return (logits / temperature).softmax(1).clamp(0.01, 0.99)

    def term(step: AscentStep) -> Tensor:
        p = softened(step.values[Tap(LOGITS)][:, :, 0])
        q = softened(student.read(student.fit(step.views), [Tap(LOGITS)])[Tap(LOGITS)][:, :, 0])
        middle = (p + q) / 2
        divergence = (p * (p / middle).log() + q * (q / middle).log()).sum(1) / 2
        return step.per_item(1 - divergence)

    return Objective((Tap(LOGITS),), ((1.0, term),))

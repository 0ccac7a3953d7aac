"""Objectives that weigh a unit's score against something else: pictures that differ, a photo that is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from entoptic.methods.objectives import AscentStep, Objective, ScoresWithGradient
from entoptic.models.taps import Tap
from entoptic.units.unit import Unit


class Likeness:
    """How alike the pictures of a group are: the mean cosine of a picture's Gram matrix with those of the others.

    The Gram matrix of a layer's values F (C×D) is F Fᵀ, the correlations of its channels, a description of texture (Lucid's
    diversity term). It is the mean over a picture's views.

    Args:
        taps: the layer of each group.
        size: pictures in a group.
    """

    def __init__(self, taps: Sequence[Tap], size: int) -> None:
        self.taps, self.size = tuple(taps), size
        self._first: list[float] = []
        self._last: list[float] = []

    def of(self, step: AscentStep) -> Tensor:
        """Returns the mean cosine of each picture with the others of its group, one per picture; 0 where there is none."""
        views, k, found = len(step.views) // step.count, self.size, []
        for i, tap in enumerate(self.taps):
            values = step.values[tap][i * k * views : (i + 1) * k * views]
            gram = torch.einsum("bcd,bed->bce", values, values).unflatten(0, (k, views)).mean(1).flatten(1)
            gram = torch.nn.functional.normalize(gram, dim=1)
            found.append(((gram @ gram.T).sum(1) - gram.square().sum(1)) / max(k - 1, 1))
        likeness = torch.cat(found)
        self._last = likeness.detach().tolist()
        self._first = self._first or self._last
        return likeness

    def record(self, i: int) -> dict[str, float]:
        """Returns the cosine of picture i with the others of its group at the first and at the last step; {} before the first."""
        return {"first": round(self._first[i], 4), "last": round(self._last[i], 4)} if self._first else {}


def distinct_activation(units: Sequence[Unit], likeness: Likeness, weight: float) -> Objective:
    """Returns minus each picture's score, plus its likeness to the others of its group in units of the group's score.

    The group's mean score, in size, is a constant for the gradient: units of any scale need the same weight.

    Args:
        units: one per picture, groups one after the other.
        likeness: of the pictures.
        weight: of the likeness.
    """
    scores = ScoresWithGradient(units)

    def term(step: AscentStep) -> Tensor:
        score = torch.stack([scores.of(step, i).mean() for i in range(len(units))])
        if likeness.size == 1:
            return -score
        level = score.detach().unflatten(0, (-1, likeness.size)).mean(1).abs().repeat_interleave(likeness.size)
        return weight * level * likeness.of(step) - score

    return Objective(tuple(dict.fromkeys((*scores.taps, *likeness.taps))), ((1.0, term),))


def accented_activation(units: Sequence[Unit], tap: Tap, photo: Callable[[], Tensor], weight: float) -> Objective:
    """Returns minus each picture's score, plus its squared distance from a photo at a layer in units of the score's size.

    The distance is relative to the photo's own values there; the size of the score is a constant for the gradient.

    Args:
        units: one per picture.
        tap: the layer.
        photo: returns the values of the photo in the views of this step, like those of the pictures.
        weight: of the distance.
    """
    scores = ScoresWithGradient(units)

    def term(step: AscentStep) -> Tensor:
        score = torch.stack([scores.of(step, i).mean() for i in range(len(units))])
        if not weight:
            return -score
        wanted = photo().flatten(1)
        distance = (step.values[tap].flatten(1) - wanted).square().sum(1) / wanted.square().sum(1).clamp_min(1e-12)
        return weight * score.detach().abs() * step.per_item(distance) - score

    return Objective(tuple(dict.fromkeys((*scores.taps, *([tap] if weight else [])))), ((1.0, term),))


LEAST_COSINE = 0.1
"""Places that point away from the photo's have this cosine: below it, a power of the cosine has no gradient to follow (Lucid)."""


def place_cosine(values_BCD: Tensor, wanted_BCD: Tensor) -> Tensor:
    """Returns the cosine of two maps at each place, over channels, B×D."""
    return torch.nn.functional.cosine_similarity(values_BCD, wanted_BCD, dim=1)


def exaggerated(
    taps: Sequence[Tap], photo: Callable[[Tap], Tensor], power: float, told: dict[int, float] | None = None
) -> Objective:
    """Returns minus the dot product with a photo's values at a layer, times a power of their cosine, a mean over places.

    The dot product is in units of the photo's own squared length, so layers of any scale count alike.

    Args:
        taps: the layer of each picture.
        photo: returns the photos' values at a layer in the views of this step, like those of the pictures.
        power: of the cosine.
        told: gets, by the picture's number, its mean cosine with the photo at the latest step.
    """

    def term(step: AscentStep) -> Tensor:
        views, losses = len(step.views) // step.count, []
        for i, tap in enumerate(taps):
            rows = slice(i * views, (i + 1) * views)
            values, wanted = step.values[tap][rows], photo(tap)[rows]
            length = wanted.square().sum(1).mean().clamp_min(1e-12)
            cosine = place_cosine(values, wanted)
            if told is not None:
                told[i] = float(cosine.detach().mean())
            alike = cosine.clamp_min(LEAST_COSINE) ** power
            losses.append(-((values * wanted).sum(1) * alike / length).mean())
        return torch.stack(losses)

    return Objective(tuple(dict.fromkeys(taps)), ((1.0, term),))

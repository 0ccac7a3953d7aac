"""Metrics that count or average one number for each picture: accuracies, specificity, robustness."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from entoptic.base.estimates import wilson
from entoptic.errors import UserError
from entoptic.metrics.evidence import Evidence
from entoptic.metrics.sets.contract import ANY, SHARE, Measured, SetCard, check_alike, evidence, too_few
from entoptic.metrics.sets.rows import clipped
from entoptic.models.model import Model

SELF = SetCard(name="self_accuracy", title="Own network, first guess", direction="higher", bounds=SHARE)
VERIFIER = SetCard(name="verifier_accuracy", title="Other network, first guess", direction="higher", bounds=SHARE)
SPECIFICITY = SetCard(name="specificity", title="Specificity", direction="higher", bounds=SHARE)
ROBUSTNESS = SetCard(name="robustness", title="Robustness", direction="higher", bounds=ANY)


@dataclass(kw_only=True)
class Counted:
    """A share of right answers, with Wilson's interval.

    The interval takes pictures as independent. Several seeds of few units are not: count units then, with `Averaged`.

    Attributes:
        card: what is said of it.
        embedder: name of the network whose answers are counted.
        chance: what guessing reaches, None where that is not known.
        about: further entries of the evidence's detail, such as prompts.
        least: fewest pictures.
        right: right answers so far.
        n: pictures so far.
    """

    card: SetCard
    embedder: str
    chance: float | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    least: int = 1
    right: int = 0
    n: int = 0

    def update(self, features: Tensor) -> None:
        """Takes the next answers: N booleans, True where the answer is right."""
        if features.ndim != 1 or features.dtype != torch.bool:
            raise UserError(f"expected N answers, true or false, got {features.dtype} {tuple(features.shape)}")
        self.right, self.n = self.right + int(features.sum()), self.n + len(features)

    def merge(self, other: Counted) -> None:
        """Takes what another of the same settings has counted."""
        mine = (self.card.name, self.embedder, self.chance, dict(self.about))
        check_alike(mine, (other.card.name, other.embedder, other.chance, dict(other.about)))
        self.right, self.n = self.right + other.right, self.n + other.n

    def compute(self) -> Evidence:
        """Returns the share with its interval; chance is in its detail."""
        if self.n < self.least:
            return too_few(self.card, self.n, self.least, self.embedder)
        chance = {} if self.chance is None else {"chance": self.chance}
        found = Measured(self.right / self.n, wilson(self.right, self.n), {**chance, **self.about})
        return evidence(self.card, self.n, found, self.embedder)


@dataclass(kw_only=True)
class Averaged:
    """A mean over pictures or units, with Student's interval, cut at the bounds of the quantity.

    Attributes:
        card: what is said of it.
        embedder: name of the network whose answers are averaged.
        about: further entries of the evidence's detail.
        what: is averaged over.
        least: fewest values.
    """

    card: SetCard
    embedder: str
    about: Mapping[str, Any] = field(default_factory=dict)
    what: str = "pictures"
    least: int = 3
    values: list[float] = field(default_factory=list)

    @property
    def n(self) -> int:
        """How many values it has seen."""
        return len(self.values)

    def update(self, features: Tensor) -> None:
        """Takes the next values, N."""
        if features.ndim != 1 or not bool(features.isfinite().all()):
            raise UserError(f"expected N finite values, got shape {tuple(features.shape)}")
        self.values += features.double().tolist()

    def merge(self, other: Averaged) -> None:
        """Takes what another of the same settings has seen."""
        mine = (self.card.name, self.embedder, self.what, dict(self.about))
        check_alike(mine, (other.card.name, other.embedder, other.what, dict(other.about)))
        self.values += list(other.values)

    def compute(self) -> Evidence:
        """Returns the mean with its interval."""
        if self.n < self.least:
            return too_few(self.card, self.n, self.least, self.embedder, what=self.what)
        values = sorted(self.values)  # a sum in floats depends on its order
        found = Measured(
            math.fsum(values) / self.n, clipped(values, self.card.bounds), {"over": self.what, **self.about}
        )
        return evidence(self.card, self.n, found, self.embedder)


def self_accuracy(model: Model, *, top: int = 1) -> Counted:
    """Returns a count of how often a network's own first `top` answers hold the class of the picture.

    Methods optimise it: a high value shows that a method works, not that others see the class.

    Args:
        model: the network under study.
        top: how many answers count.
    """
    return Counted(card=SELF, embedder=model.card.name, chance=top / model.outputs, about={"top": top})


def verifier_accuracy(subject: Model, judge: Model, *, top: int = 1) -> Counted:
    """Returns a count of how often another network's first `top` answers hold the class of the picture.

    Args:
        subject: the network under study.
        judge: another one.
        top: how many answers count.

    Raises:
        UserError: the judge is the subject.
    """
    independent(subject, judge, "verifier")
    return Counted(card=VERIFIER, embedder=judge.card.name, chance=top / judge.outputs, about={"top": top})


def specificity(model: Model, siblings: int) -> Counted:
    """Returns a count of how often a picture drives its own unit most of `siblings` units (see `first_of`).

    Args:
        model: the network whose units they are.
        siblings: K, the units that are compared; chance is 1/K.
    """
    if siblings < 2:
        raise UserError(f"specificity compares at least 2 units, got {siblings}")
    return Counted(card=SPECIFICITY, embedder=model.card.name, chance=1 / siblings, about={"units": siblings})


def answers(model: Model, pictures: Tensor, labels: Sequence[int] | Tensor, *, top: int = 1, batch: int = 25) -> Tensor:
    """Returns for each picture whether a network's first `top` answers hold its class, N booleans.

    Args:
        model: gives the answers.
        pictures: N×3×H×W in [0, 1], as saved.
        labels: class of each picture.
        top: how many answers count.
        batch: pictures in one pass.

    Raises:
        UserError: not one class for each picture, or a class that the network does not know.
    """
    want = torch.as_tensor(labels)
    if want.shape != (len(pictures),):
        raise UserError(f"expected one class for each of {len(pictures)} pictures, got {tuple(want.shape)}")
    if len(want) and not 0 <= int(want.min()) <= int(want.max()) < model.outputs:
        raise UserError(
            f"{model.card.name} knows classes 0 to {model.outputs - 1}, got {int(want.min())} to {int(want.max())}"
        )
    with torch.no_grad():
        logits = [model(model.fit(part.to(model.device))).cpu() for part in pictures.split(batch)]
    return within_top(torch.cat(logits), want, top) if logits else torch.zeros(0, dtype=torch.bool)


def within_top(logits_NK: Tensor, labels_N: Tensor, top: int = 1) -> Tensor:
    """Returns whether fewer than `top` other classes reach the class of each picture, N booleans. A tie does not count."""
    own = logits_NK.gather(1, labels_N[:, None])
    return (logits_NK >= own).sum(1) <= top


def first_of(
    values_NK: Tensor, own: Sequence[int] | Tensor, mean_K: Tensor | None = None, sd_K: Tensor | None = None
) -> Tensor:
    """Returns for each picture whether its unit is the one of K siblings that it drives most, N booleans. A tie does not count.

    Raw activations of two units have no common scale. Give means and standard deviations over photos to compare units inside a
    network; logits are compared as they are.

    Args:
        values_NK: activations of the K units on each picture.
        own: index of each picture's unit.
        mean_K: mean of each unit over photos.
        sd_K: standard deviation of each unit over photos; units that never vary are not compared.
    """
    values = values_NK.double()
    if mean_K is not None and sd_K is not None:
        values = (values - mean_K.double()) / sd_K.double().clamp_min(1e-30)
        values[:, sd_K <= 1e-6 * mean_K.abs().clamp_min(1e-12)] = -math.inf
    own_N = torch.as_tensor(own)
    return within_top(values, own_N) & values.gather(1, own_N[:, None])[:, 0].isfinite()


def independent(subject: Model, judge: Model, role: str) -> None:
    """Raises a `UserError` where a network would judge itself."""
    if judge.card.weights_sha256 == subject.card.weights_sha256:
        raise UserError(
            f"{judge.card.name} is the network under study; the {role} must be another one, such as builtin:lite1"
        )

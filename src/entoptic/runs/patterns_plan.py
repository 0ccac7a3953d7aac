"""Plans patterns: the networks, the units, the photos, what is compared, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from entoptic.base.cache import content_key
from entoptic.base.progress import short_time
from entoptic.errors import UserError, counted
from entoptic.findings.activity import Basis, check_shared, read_basis
from entoptic.findings.labels import check_labelled
from entoptic.findings.premise import LEVEL
from entoptic.findings.questions import Between, Errors, Networks, Question
from entoptic.images.photos import Photos
from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.models.sources import load

VERSION = 1
ABLATIONS = ("mean", "zero")


@dataclass(frozen=True, kw_only=True)
class PatternOptions:
    """How patterns are found and followed up.

    Attributes:
        readout: as behind @ in a unit's string; "" is the layer's default, and the largest value for a dictionary.
        quantile: a unit is on where its score is above this quantile of its own scores over all photos.
        level: probability that anything is found where groups are drawn at random, at most.
        shuffles: searches on shuffled groups, as a control.
        most: patterns that are kept, those that save most bits.
        ablate: what units of a layer are set to in the follow-up: their "mean" over the photos, or "zero".
        tested: photos of each pattern in the follow-up, at most; 0 for none.
        sets: random sets of as many units in the follow-up.
        batch_size: photos of one pass.
        seed: of all draws.
    """

    readout: str = ""
    quantile: float = 0.9
    level: float = LEVEL
    shuffles: int = 20
    most: int = 12
    ablate: str = "mean"
    tested: int = 64
    sets: int = 20
    batch_size: int = 32
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class PatternsPlan:
    """What is going to be looked for.

    Attributes:
        model: the network under study.
        other: the network that it is compared with, or None.
        basis: the units.
        photos: the set.
        question: what is compared.
        options: how.
    """

    model: Model
    other: Model | None
    basis: Basis
    photos: Photos
    question: Question
    options: PatternOptions

    @property
    def name(self) -> str:
        """Of the result among those of its kind: the layer and what is compared."""
        q = self.question
        if isinstance(q, Errors):
            words = ["errors", *(["of", q.of] if q.of else []), *(["taken for", q.taken_for] if q.taken_for else [])]
        elif isinstance(q, Between):
            words = [q.one, "against", q.other or "all others"]
        elif isinstance(q, Networks):
            words = ["against", q.other]
        else:
            words = ["every class"]
        return " ".join([self.basis.layer, *words])

    def key(self, context: bool) -> str:
        """Hash of everything that the result depends on.

        Args:
            context: whether small copies of photos are stored.
        """
        return content_key({
            "what": "patterns", "version": VERSION, "model": self.model.card.identity,
            "card": self.model.card.preprocessing_json(), "labels": self.model.card.labels,
            "other": None if self.other is None else [self.other.card.identity, self.other.card.preprocessing_json()],
            "group": self.basis.group.to_json(), "question": [type(self.question).__name__, asdict(self.question)],
            "options": asdict(self.options) | {"batch_size": None}, "context": context,
            "photos": [[self.photos.sha256(i), list(self.photos[i].labels)] for i in range(len(self.photos))],
        })  # fmt: skip


def make_patterns_plan(
    model: str | nn.Module | Model, layer: str, *, photos: Any, question: Question, against: Any = None,
    options: PatternOptions | None = None, device: str = "auto", card: Card | None = None,
) -> PatternsPlan:  # fmt: skip
    """Plans patterns, see `patterns`.

    Args:
        model: anything `load` takes.
        layer: name of a layer, or dict(PATH).
        photos: anything `Photos.open` takes.
        question: what is compared.
        against: the other network of `Networks`, anything `load` takes.
        options: how.
        device: as in `load`.
        card: of bare modules.

    Raises:
        UserError: bad input.
    """
    asked = options or PatternOptions()
    if not 0 < asked.quantile < 1:
        raise UserError(f"quantile must be above 0 and below 1, got {asked.quantile:g}")
    if asked.ablate not in ABLATIONS:
        raise UserError(f'units are ablated to their "mean" or to "zero", not to "{asked.ablate}"')
    subject = load(model, card, device=device)
    basis = read_basis(subject, layer, asked.readout)
    opened = Photos.open(photos)
    other = None
    if isinstance(question, Networks):
        other = load(against, card, device=device)
        check_shared(basis, subject, other)
        if other.card.identity == subject.card.identity:
            raise UserError(
                f"{subject.card.name} is compared with itself; give --against another network or checkpoint"
            )
    elif isinstance(question, Errors):
        check_labelled(opened, "errors can only be found on photos with labels")
        if subject.why_no_logits:
            raise UserError(f"{subject.card.name} makes no errors: it has no logits ({subject.why_no_logits})")
    else:
        check_labelled(opened, "classes can only be compared on photos with labels")
    if isinstance(question, Between):
        question = Between(
            one=_in_photos(subject, opened, question.one), other=_in_photos(subject, opened, question.other)
        )
    return PatternsPlan(
        model=subject, other=other, basis=basis, photos=opened, question=question, options=asked
    )  # fmt: skip


def _in_photos(model: Model, photos: Photos, label: str) -> str:
    """The label that the photos have for a class, where it is named as the network names it: `n03028079` for "church"."""
    if not label or photos.of_class([label]):
        return label
    named = [
        one for index in model.card.find_label(label) for one in model.card.identifiers(index) if photos.of_class([one])
    ]
    return named[0] if len(named) == 1 else label


@dataclass(frozen=True, kw_only=True)
class PatternsCost:
    """What patterns will cost at most.

    Attributes:
        reading: forward passes of one photo for the activity; cached ones cost nothing.
        testing: forward passes of one photo for the follow-up of the most patterns that are kept.
        seconds: at the pace of one measured pass.
    """

    reading: int
    testing: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"at most {counted(self.reading + self.testing, 'forward pass', 'forward passes')} of one photo ({self.reading} to "
            f"read units, {self.testing} to ablate them), about {short_time(self.seconds)}, beside the search itself"
        )


@torch.no_grad()
def estimate_patterns(plan: PatternsPlan) -> PatternsCost:
    """Estimates what planned patterns will cost, without looking for them."""
    networks: Sequence[Model] = [plan.model] if plan.other is None else [plan.model, plan.other]
    options = plan.options
    tested = min(options.tested, len(plan.photos))
    testing = options.most * tested * (2 + options.sets) if tested else 0
    grey = torch.full((4, 3, *plan.model.card.size), 0.5, device=plan.model.device)
    plan.model(grey) if not plan.model.why_no_logits else plan.model.read(grey, [plan.basis.group.tap])
    began = time.monotonic()
    plan.model(grey) if not plan.model.why_no_logits else plan.model.read(grey, [plan.basis.group.tap])
    each = (time.monotonic() - began) / 4
    reading = len(plan.photos) * len(networks)
    return PatternsCost(reading=reading, testing=testing, seconds=each * (reading + testing))

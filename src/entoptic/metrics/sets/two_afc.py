"""Machine 2-AFC: can a network that is not the subject tell, from a unit's pictures, which photo drives the unit?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from entoptic.base.estimates import wilson
from entoptic.errors import UserError
from entoptic.metrics.sets.answers import Averaged, independent
from entoptic.metrics.sets.contract import SHARE, SetCard, checked
from entoptic.models.model import Model

TWO_AFC = SetCard(name="two_afc", title="Machine 2-AFC", direction="higher", bounds=SHARE)


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What an observer chose for one unit.

    Attributes:
        share: of pairs of a strong and a weak photo in which the observer finds the strong one more like the pictures.
        interval: 95 % over photos.
        photos: strong or weak ones, the smaller number: how many independent choices the pairs are worth at least.
        pairs: that were shown.
        ceiling: the share with a strong photo in the pictures' place, the mean over them; None with one strong photo.
        random: the share with a photo at random in the pictures' place, the mean over them; None where none were given.
    """

    share: float
    interval: tuple[float, float]
    photos: int
    pairs: int
    ceiling: float | None
    random: float | None


def choose(pictures: Tensor, strong: Tensor, weak: Tensor, random: Tensor | None = None) -> Choices:
    """Lets an observer choose in every pair of a strong and a weak photo.

    It takes the photo whose mean cosine with the pictures is larger; a tie counts half. Over many units chance is 0.5. For one
    unit, a hint that shows nothing has its own leaning: compare with `random`. The variance of such a share
    over all pairs is at most that of as many independent choices as the smaller set has photos (Birnbaum and Klose 1957);
    the interval is Wilson's at that number.

    Args:
        pictures: the observer's features of the unit's pictures, P×C.
        strong: of held-out photos that drive the unit most, N×C.
        weak: of photos that drive it little, M×C.
        random: of photos of anything, R×C. One that is among the strong or weak photos is not shown beside itself.

    Raises:
        UserError: an empty set.
    """
    sets = {"pictures": pictures, "strong photos": strong, "weak photos": weak}
    if empty := [name for name, rows in sets.items() if not len(rows)]:
        raise UserError(f"a choice needs pictures, strong photos and weak photos; there are no {empty[0]}")
    shown, high, low = (normalize(checked(rows, pictures.shape[1]).double(), dim=1) for rows in sets.values())
    share = _share((high @ shown.T).mean(1), (low @ shown.T).mean(1))
    n = min(len(high), len(low))
    ceiling = None
    if len(high) > 1:
        like, unlike, others = high @ high.T, low @ high.T, torch.arange(len(high))
        each = [_share(like[others != k, k], unlike[:, k]) for k in range(len(high))]
        ceiling = sum(each) / len(each)
    beside = None
    if random is not None and len(random):
        hints = normalize(checked(random, pictures.shape[1]).double(), dim=1)
        shares = [one for hint in hints if (one := _hinted_by(hint, high, low)) is not None]
        beside = sum(shares) / len(shares) if shares else None
    return Choices(
        share=share, interval=wilson(share * n, n), photos=n, pairs=len(high) * len(low), ceiling=ceiling, random=beside
    )  # fmt: skip


def over_units(subject: Model, observer: Model) -> Averaged:
    """Returns the mean share right over units: `update` it with the `share` of each unit's `Choices`.

    Units differ far more than photos do, so the interval is Student's over units.

    Args:
        subject: the network whose units they are.
        observer: the network that chooses.

    Raises:
        UserError: the observer is the subject.
    """
    independent(subject, observer, "observer")
    return Averaged(card=TWO_AFC, embedder=observer.card.name, about={"chance": 0.5}, what="units")


def _hinted_by(hint_C: Tensor, high_NC: Tensor, low_MC: Tensor) -> float | None:
    """The share with one photo as the hint, of pairs that do not hold it."""
    high, low = (rows[(rows - hint_C).abs().amax(1) > 1e-6] for rows in (high_NC, low_MC))
    return _share(high @ hint_C, low @ hint_C) if len(high) and len(low) else None


def _share(high_N: Tensor, low_M: Tensor) -> float:
    gap = high_N[:, None] - low_M
    return float(((gap > 0).double() + 0.5 * (gap == 0)).mean())

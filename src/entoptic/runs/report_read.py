"""What a report reads from the network: its answers, the layer before its logits, and what each channel adds to a class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from entoptic.base.estimates import mean_interval
from entoptic.errors import NotAvailable, UserError
from entoptic.findings.activity import Activity, Basis, read_basis
from entoptic.images.photos import Photos
from entoptic.models.model import LOGITS, Model
from entoptic.models.taps import Tap
from entoptic.names.penultimate import find_penultimate, read_once
from entoptic.runs.report_records import Carrier, Share, share
from entoptic.units.grammar import quoted_layer

CARRIERS = 5
"""Channels that are shown of each class."""
LEAST = 4
"""Photos below which no channel is chosen and measured."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LastLayer:
    """The layer whose means over positions the last linear layer reads.

    Attributes:
        basis: its channels, or the logits where there is none.
        weight: classes × channels, None where there is none.
        reason: why there is none.
    """

    basis: Basis
    weight: np.ndarray | None
    reason: str

    @property
    def name(self) -> str:
        """Name of the layer, "" where there is none."""
        return self.basis.layer if self.weight is not None else ""


def find_last_layer(model: Model, photos: Photos) -> LastLayer:
    """Finds the layer that the logits are a linear function of, and checks it on a few photos.

    Args:
        model: the network.
        photos: some of them are shown to it.
    """
    try:
        where = find_penultimate(model)
        if not where.linear:
            raise NotAvailable(f"the logits of {model.card.name} are no linear function of its last layer")
        images = next(images for _, images in photos.batches(model.card.prepare, 8, range(min(8, len(photos)))))
        names = [n for n, info in model.layers.items() if info.channels == where.width and n != LOGITS]
        features, values = read_once(model, images.to(model.device), where, {Tap(n) for n in names})
        same = [n for n in names if _is_mean(values[Tap(n)], features)]
        if not same:
            raise NotAvailable(f"no layer of {model.card.name} holds what {where.layer} reads as means over positions")
        basis = read_basis(model, same[0])
        if basis.group.grid != (1, 1):
            basis = read_basis(model, same[0], "mean")
        module = dict(model.module.named_modules())[where.layer]
        weight = module.weight.detach().float().cpu().flatten(1).numpy()
        return LastLayer(basis=basis, weight=weight, reason="")
    except UserError as error:
        return LastLayer(basis=read_basis(model, LOGITS), weight=None, reason=str(error))


def _is_mean(values_BCD: Tensor, features_BC: Tensor) -> bool:
    return torch.allclose(values_BCD.float().mean(2).cpu(), features_BC, rtol=1e-3, atol=1e-4)


def carriers(last: LastLayer, activity: Activity, index: int, suffix_names: dict[str, str]) -> tuple[Carrier, ...]:
    """Returns the channels that add most to a class on photos that are taken for it.

    They are chosen on every other of these photos and measured on the rest, so that the choice does not flatter them.

    Args:
        last: the layer.
        activity: of its channels.
        index: of the class.
        suffix_names: suggested names of units.

    Raises:
        NotAvailable: there is no such layer, or too few photos are taken for the class.
    """
    if last.weight is None:
        raise NotAvailable(last.reason)
    rows = np.flatnonzero(activity.said == index)
    if len(rows) < LEAST:
        raise NotAvailable(
            f"{len(rows)} photos are taken for it; {LEAST} are needed to choose channels and measure them"
        )
    added = (activity.scores - activity.scores.mean(0)) * last.weight[index]
    order = np.argsort(-added[rows[::2]].mean(0), kind="stable")[:CARRIERS]
    found = []
    for channel in order[added[rows[::2]].mean(0)[order] > 0].tolist():
        values = added[rows[1::2], channel].astype(float).tolist()
        low, high = mean_interval(values)
        unit = f"{quoted_layer(last.basis.layer)}:{channel}"
        found.append(
            Carrier(
                unit=unit, value=float(np.mean(values)), low=low, high=high, n=len(values),
                name=suffix_names.get(unit, ""),
            )
        )  # fmt: skip
    if not found:
        raise NotAvailable("no channel adds to it beyond its mean over all photos")
    return tuple(found)


def most_used(model: Model, said: np.ndarray, most: int) -> tuple[Share, ...]:
    """Returns the classes that most photos are taken for.

    Args:
        model: the network.
        said: class of each photo.
        most: as many at most.
    """
    return tuple(
        share(label_of(model, index), count, len(said)) for index, count in Counter(said.tolist()).most_common(most)
    )


def confusions(true: np.ndarray, said: np.ndarray) -> list[tuple[int, int, int]]:
    """Returns pairs of classes by number of photos of the first that are taken for the second: first, second, photos.

    Args:
        true: class of each photo, -1 for unknown.
        said: class that it is taken for.
    """
    wrong = (true >= 0) & (true != said)
    return [(t, s, n) for (t, s), n in Counter(zip(true[wrong].tolist(), said[wrong].tolist())).most_common()]


def choose(said: np.ndarray, pairs: Sequence[tuple[int, int, int]], most: int) -> list[int]:
    """Returns the classes that a report shows: the most used and those of the most confused pairs, in turn.

    Args:
        said: class that each photo is taken for.
        pairs: of `confusions`.
        most: as many at most.
    """
    used = [index for index, _ in Counter(said.tolist()).most_common()]
    confused = list(dict.fromkeys(index for t, s, _ in pairs for index in (t, s)))
    mixed = [i for two in zip(used, confused) for i in two] + used + confused
    return list(dict.fromkeys(mixed))[:most]


def label_of(model: Model, index: int) -> str:
    """Returns the name of a class, or its logit.

    Args:
        model: the network.
        index: of the class.
    """
    return model.card.label(index) or f"{LOGITS}:{index}"

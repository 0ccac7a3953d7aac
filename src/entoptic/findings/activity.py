"""How strongly every unit of a layer, or feature of a dictionary, responds to every photo; and what the network says to it.

An index keeps the strongest photos of a unit and its quantiles, not which units are on together. So scores are read in a pass of
their own, and each block of photos is cached: an interrupted pass goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from entoptic.base.cache import content_key, load_cached, save_cached
from entoptic.base.progress import Progress, silent
from entoptic.errors import Unreadable, UserError
from entoptic.images.index_shards import UnitGroup, make_groups, read_scores
from entoptic.images.photos import Photos
from entoptic.images.unread import remember_unread
from entoptic.models.model import LOGITS, Model
from entoptic.units.grammar import quoted_layer

BLOCK = 256
"""Photos between two savings: what an interruption can cost."""
_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Basis:
    """The units whose activity is read.

    Attributes:
        layer: name of the layer, or dict(PATH).
        group: the units, read in one way.
        plain: the same units read in the layer's default way, whose mean is what ablation sets them to.
    """

    layer: str
    group: UnitGroup
    plain: UnitGroup

    @property
    def units(self) -> list[str]:
        """Their strings in the unit grammar."""
        return [f"{quoted_layer(self.layer)}:{i}{self.group.suffix}" for i in range(self.group.channels)]

    @property
    def is_dictionary(self) -> bool:
        """Whether they are features of a dictionary."""
        return self.group.dictionary is not None


def read_basis(model: Model, layer: str, readout: str = "") -> Basis:
    """Finds the units of a layer or dictionary.

    Args:
        model: the network.
        layer: name of a layer, or a dictionary in the form dict(PATH).
        readout: as behind @ in a unit's string; "" is the largest value over the positions for a dictionary, else the layer's
            default.

    Raises:
        UserError: no such layer, dictionary or readout.
    """
    is_file = layer.startswith("dict(")
    (plain,) = make_groups(model, [layer], [""])
    wanted = readout or ("max" if is_file and plain.grid != (1, 1) else "")
    (group,) = make_groups(model, [layer], [wanted])
    return Basis(layer=layer, group=group, plain=plain)


@dataclass(frozen=True, kw_only=True, eq=False)
class Activity:
    """What units and the network say to photos.

    Attributes:
        photos: positions of the photos that could be read, N.
        scores: N×U float32.
        means: U, of each unit in its default readout over all photos.
        said: N, the class with the largest logit; -1 where the network has no logits, or some that are not finite.
    """

    photos: tuple[int, ...]
    scores: np.ndarray
    means: np.ndarray
    said: np.ndarray

    def take(self, rows: Sequence[int]) -> Activity:
        """Returns some rows of it."""
        return Activity(
            photos=tuple(self.photos[r] for r in rows), scores=self.scores[list(rows)], means=self.means,
            said=self.said[list(rows)],
        )  # fmt: skip


def read_activity(
    model: Model,
    basis: Basis,
    photos: Photos,
    chosen: Sequence[int],
    *,
    batch_size: int = 32,
    progress: Progress = silent,
) -> Activity:
    """Shows photos to a network once; what is cached is not shown again.

    Args:
        model: the network.
        basis: the units. They may have been found on another network with the same layer.
        photos: the set.
        chosen: positions of the photos.
        batch_size: photos of one pass.
        progress: is called with (what, done, total).

    Raises:
        Unreadable: not one photo can be read.
    """
    if not chosen:
        raise UserError(f"there is no photo to look at in {photos.source}")
    numbers: list[int] = []
    parts: list[dict[str, Tensor]] = []
    what = f"reading {basis.layer} of {model.card.name}"
    progress(what, 0, len(chosen))
    for start in range(0, len(chosen), BLOCK):
        block = chosen[start : start + BLOCK]
        part = _block(model, basis, photos, block, batch_size)
        numbers += [block[i] for i in part["read"].tolist()]
        parts.append(part)
        progress(what, start + len(block), len(chosen))
    if not numbers:
        raise Unreadable(f"not one of the photos in {photos.source} could be read")
    joined = {name: torch.cat([part[name] for part in parts]) for name in ("scores", "plain", "said")}
    return Activity(
        photos=tuple(numbers), scores=joined["scores"].numpy(), said=joined["said"].numpy(),
        means=(joined["plain"].sum(0) / len(numbers)).numpy(),
    )  # fmt: skip


@torch.no_grad()
def _block(
    model: Model, basis: Basis, photos: Photos, block: Sequence[int], batch_size: int
) -> dict[str, Tensor]:  # fmt: skip
    key = content_key({
        "what": "activity", "version": _VERSION, "model": model.card.identity, "card": model.card.preprocessing_json(),
        "group": basis.group.to_json(), "photos": [photos.sha256(i) for i in block],
    })  # fmt: skip
    needs = {"read": 1, "scores": 2, "plain": 2, "said": 1}
    if (held := load_cached("activity", key, needs)) is not None:
        remember_unread(photos, model.card.prepare, block, [block[i] for i in held["read"].tolist()])
        return held
    groups = list(dict.fromkeys([basis.group, basis.plain]))
    with_logits = not model.why_no_logits
    if with_logits:
        groups += make_groups(model, [LOGITS], [""])
    place = {photo: number for number, photo in enumerate(block)}
    rows: dict[str, list[Tensor]] = {name: [] for name in needs}
    try:
        for numbers, images in photos.batches(model.card.prepare, batch_size, block):
            scores = read_scores(model, groups, images)
            by_group = dict(zip(groups, scores))
            rows["read"].append(torch.tensor([place[i] for i in numbers]))
            rows["scores"].append(by_group[basis.group].cpu())
            rows["plain"].append(by_group[basis.plain].double().cpu())
            said = torch.full((len(numbers),), -1)
            if with_logits:
                logits = scores[-1].cpu()
                said = torch.where(logits.isfinite().all(1), logits.argmax(1), said)
            rows["said"].append(said)
    except Unreadable:
        pass  # no photo of this block; those of others may be sound
    empty = {"read": torch.zeros(0, dtype=torch.int64), "said": torch.zeros(0, dtype=torch.int64)}
    none = torch.zeros(0, basis.group.channels)
    found = {name: torch.cat(some) if some else empty.get(name, none) for name, some in rows.items()}
    found["plain"] = found["plain"].nan_to_num().sum(0, keepdim=True).double()
    save_cached("activity", key, found)
    return found


def check_shared(basis: Basis, model: Model, other: Model) -> None:
    """Checks that units of one network are units of another too, as far as shapes tell.

    Args:
        basis: units of `model`.
        model: the network.
        other: the other network.

    Raises:
        UserError: the layer is not there, or has another number of channels.
    """
    layer = basis.group.tap.layer
    mine, theirs = model.layer(layer), other.layers.get(layer)
    if theirs is None or theirs.channels != mine.channels:
        there = f"has {theirs.channels} channels" if theirs is not None else "is not there"
        raise UserError(
            f"{model.card.name} and {other.card.name} have different bases: {layer} has {mine.channels} channels in the one "
            f"and {there} in the other; compare checkpoints of one architecture, or give both networks a layer that they share"
        )


def own_and_other(one: np.ndarray, other: np.ndarray, shift: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Returns how units of one network agree with the same, and with another, unit of the other network, over photos.

    Args:
        one: N×U scores.
        other: N×U scores of the other network on the same photos.
        shift: to the other unit.

    Returns:
        The correlation of each unit with the same unit and with the shifted one; units that never change are left out.
    """
    a, b = (_standard(x) for x in (one, other))
    live = (np.abs(a).sum(0) > 0) & (np.abs(b).sum(0) > 0)
    a, b = a[:, live], b[:, live]
    return (a * b).mean(0), (a * np.roll(b, shift, 1)).mean(0)


def _standard(x: np.ndarray) -> np.ndarray:
    x = np.nan_to_num(x.astype(np.float64))
    spread = x.std(0)
    return (x - x.mean(0)) / np.where(spread > 0, spread, 1.0)

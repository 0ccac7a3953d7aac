"""The points of an atlas: photos, units or features, with what is known of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from entoptic.atlases.distances import directions, standardised
from entoptic.errors import NotAvailable, UserError, counted
from entoptic.images.index import ActivationIndex
from entoptic.images.photo_records import Photo
from entoptic.images.photos import Photos
from entoptic.images.unread import some
from entoptic.models.model import Model
from entoptic.units.dictionary import Dictionary
from entoptic.units.grammar import parse
from entoptic.units.unit import bind_one

STRONGEST = 8
"""Photos of which a unit's class and strength are taken."""


class Kind(StrEnum):
    """What the points of an atlas are."""

    PHOTOS = "photos"
    UNITS = "units"
    FEATURES = "features"


_OF_UNITS = ("class", "strength", "fires", "purity", "kept")
POSSIBLE = {Kind.PHOTOS: ("class", "strength", "kept"), Kind.UNITS: _OF_UNITS, Kind.FEATURES: _OF_UNITS}
"""Columns that points can have without a run of pictures; `class` and `purity` need photos with classes."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """What is known of each point: a kind, or a number.

    Attributes:
        name: by which it is asked for.
        title: in words.
        values: of kinds their numbers in `kinds` (-1 for none), else numbers (NaN for none), one a point.
        kinds: their names; None for numbers.
    """

    name: str
    title: str
    values: np.ndarray
    kinds: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Points:
    """The points of an atlas.

    Attributes:
        kind: what they are.
        names: photos by name, units by address.
        labels: what people call them, or "".
        vectors_ND: points are alike where these are near.
        photos: of each point, the number of the photo that stands for it; -1 for none.
        columns: what is known of them.
        left_out: how many are on no map, by reason.
    """

    kind: Kind
    names: tuple[str, ...]
    labels: tuple[str, ...]
    vectors_ND: np.ndarray
    photos: np.ndarray
    columns: tuple[Column, ...]
    left_out: dict[str, int]

    def __len__(self) -> int:
        return len(self.names)

    def column(self, name: str) -> Column | None:
        """Returns a column by its name, or None."""
        return next((one for one in self.columns if one.name == name), None)


def read_points(
    model: Model, layer: str, photos: Photos, index: ActivationIndex, kind: Kind, readout: str = ""
) -> Points:
    """Reads the points of an atlas out of an index.

    Args:
        model: the network.
        layer: whose units they are, or are compared by.
        photos: that the index is of.
        index: with a sample of photos.
        kind: of the points.
        readout: how units are read, as behind @ in a unit.

    Raises:
        UserError: no unit varies, or what was asked for is not there.
    """
    numbers, scores_CR = index.sample(layer, readout)
    if not numbers:
        raise NotAvailable(
            f"the index in {index.path} holds no sample of photos, which a map is made of; make one with --reservoir, "
            "or leave --index out"
        )
    order = np.argsort(numbers)
    at, scores = np.asarray(numbers)[order], scores_CR.float().numpy()[:, order]
    finite = np.isfinite(scores).all(0)
    at, scores = at[finite], scores[:, finite]
    lost: dict[str, int] = {}
    if index.skipped:
        noun = "photo" if len(index.skipped) == 1 else "photos"
        lost[f"{noun} that could not be read ({some([name for name, _ in index.skipped])})"] = len(index.skipped)
    lost |= {"photos whose scores are not finite": int((~finite).sum())} if not finite.all() else {}
    if len(at) < 2:
        raise UserError(f"a map compares scores on photos, and there {_are(len(at), 'photo')} with finite scores")
    if kind is Kind.PHOTOS:
        return _photos(model, photos, at, scores, lost)
    return _units(model, layer, photos, index, kind, readout, scores, lost)


def _photos(model: Model, photos: Photos, at: np.ndarray, scores: np.ndarray, lost: dict[str, int]) -> Points:
    vectors = standardised(scores.T)
    if not vectors.shape[1]:
        raise UserError("no unit of this layer differs between these photos, so a map has nothing to show")
    labels = tuple(_classes(model, photos, at))
    strength = Column(
        name="strength", title="mean activation, in standard deviations of each unit",
        values=vectors.mean(1, dtype=np.float64),
    )  # fmt: skip
    return Points(
        kind=Kind.PHOTOS, names=tuple(photos[int(i)].name for i in at), labels=labels, vectors_ND=vectors, photos=at,
        columns=(*_class_column(labels, "class of the photo"), strength), left_out=lost,
    )  # fmt: skip


def _units(
    model: Model, layer: str, photos: Photos, index: ActivationIndex, kind: Kind, readout: str, scores: np.ndarray,
    lost: dict[str, int],
) -> Points:  # fmt: skip
    names = index.units(layer, readout)
    spread = scores.std(1)
    varies = spread > 1e-6 * np.maximum(1e-3, np.abs(scores).max(1))
    if not varies.all():
        lost = lost | {"units that are the same on all photos (never on, for instance)": int((~varies).sum())}
    if not varies.any():
        raise UserError(
            f"no unit of {layer} differs between these {counted(scores.shape[1], 'photo')}: none is ever on"
        )
    chosen = np.flatnonzero(varies)
    if kind is Kind.FEATURES:
        vectors = _written(model, layer)[chosen]
    else:
        vectors = directions(standardised(scores[chosen].T).T)
    top = [index.top(names[i]) for i in chosen]
    of = [_classes(model, photos, [hit.index for hit in hits[:STRONGEST]]) for hits in top]
    best = [Counter(label for label in one if label).most_common(1) for one in of]
    labels = tuple(model.card.labels[i] if layer == "logits" and model.card.labels else "" for i in chosen)
    columns = [
        *_class_column([one[0][0] if one else "" for one in best], f"commonest class of the {STRONGEST} strongest photos"),
        Column(
            name="strength", title=f"mean score on the {STRONGEST} strongest photos, in standard deviations over all photos",
            values=np.array([
                (np.mean([hit.value for hit in hits[:STRONGEST]]) - scores[i].mean()) / spread[i] for i, hits in zip(chosen, top)
            ]),
        ),
        Column(
            name="fires", title="share of photos with a score above 0",
            values=np.array([index.firing_rate(names[i]) for i in chosen]),
        ),
    ]  # fmt: skip
    if any(best):
        share = np.array([one[0][1] / len(all_of) if one else np.nan for one, all_of in zip(best, of)])
        columns.append(
            Column(name="purity", title=f"share of the {STRONGEST} strongest photos of that class", values=share)
        )
    return Points(
        kind=kind, names=tuple(names[i] for i in chosen), labels=labels, vectors_ND=np.ascontiguousarray(vectors, np.float32),
        photos=np.array([hits[0].index if hits else -1 for hits in top]), columns=tuple(columns), left_out=lost,
    )  # fmt: skip


def dictionary_of(model: Model, layer: str) -> Dictionary | None:
    """Returns the dictionary that a layer in the form dict(PATH) names, or None for a layer of the network."""
    if not layer.startswith("dict("):
        return None
    return bind_one(model, parse(f"{layer}:0")).dictionary


def _written(model: Model, layer: str) -> np.ndarray:
    """The directions that features of a dictionary write, of length 1."""
    dictionary = dictionary_of(model, layer)
    if dictionary is None:
        raise UserError(
            f"features are of a dictionary, and {layer} is a layer; give dict(FILE), such as "
            "dict(builtin:lite0-blocks-6), or --of units"
        )
    written = getattr(dictionary, "decoder", getattr(dictionary, "directions", None))
    if written is None:
        raise UserError(
            f"{layer} does not write one direction for each feature; --of units compares them by their scores"
        )
    return directions(written.float().numpy())


def _class_column(labels: Sequence[str], title: str) -> tuple[Column, ...]:
    """A column of classes; none where no point has one."""
    kinds = tuple(sorted({label for label in labels if label}))
    if not kinds:
        return ()
    number = {kind: i for i, kind in enumerate(kinds)}
    return (
        Column(name="class", title=title, values=np.array([number.get(label, -1) for label in labels]), kinds=kinds),
    )


def _classes(model: Model, photos: Photos, numbers: Iterable[int]) -> list[str]:
    """What a person calls the class of each photo: the model's own label where it has one, "" without a label."""
    card = model.card
    place = {identifier: i for i, identifier in enumerate(card.label_ids or ())}

    def name(photo: Photo) -> str:
        at = next((place[label] for label in photo.labels if label in place), photo.class_index)
        return (card.label(at) if at is not None else None) or (photo.labels[0] if photo.labels else "")

    return [name(photos[int(number)]) for number in numbers]


def _are(n: int, noun: str) -> str:
    return f"{'is' if n == 1 else 'are'} {counted(n, noun)}"

"""Questions: which photos are compared with which."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from entoptic.errors import UserError, counted, nearest
from entoptic.findings.labels import check_labelled
from entoptic.images.photos import Photos

FEWEST = 10
"""Photos that each group needs."""


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Photos that the network gets right against those that it gets wrong.

    Attributes:
        of: photos of this class alone; "" for all.
        taken_for: photos that the network takes for this class alone; "" for all.
    """

    of: str = ""
    taken_for: str = ""


@dataclass(frozen=True, kw_only=True)
class Between:
    """Photos of one class against those of another.

    Attributes:
        one: its label.
        other: its label; "" for all others.
    """

    one: str
    other: str = ""


@dataclass(frozen=True, kw_only=True)
class Networks:
    """The same photos in one network against those in another, or in another checkpoint.

    Attributes:
        other: name of the other network.
    """

    other: str


@dataclass(frozen=True, kw_only=True)
class EveryClass:
    """Photos of each class against all others, all classes at once."""


Question = Errors | Between | Networks | EveryClass


@dataclass(frozen=True, kw_only=True, eq=False)
class Groups:
    """Rows in groups.

    Attributes:
        names: of the groups.
        rows: positions of the photos, one a row.
        group: number of each row's group.
    """

    names: tuple[str, ...]
    rows: np.ndarray
    group: np.ndarray


def errors_of(photos: np.ndarray, true: np.ndarray, said: np.ndarray, within: str, source: str) -> Groups:
    """Groups photos by whether the network gets them right.

    Args:
        photos: positions, N.
        true: class of each, -1 where it is not known.
        said: what the network says to each.
        within: what the photos are of, for messages; "" for all.
        source: of the photos, for messages.

    Raises:
        UserError: too few are wrong, or right, or the network says nothing to some.
    """
    known = true >= 0
    if silent := int((said[known] < 0).sum()):
        raise UserError(
            f"the network's outputs are no finite numbers on {counted(silent, 'photo')} of {source}, so what it gets wrong is "
            "not known; check its weights and its card (`entoptic check`)"
        )
    wrong = (true != said)[known].astype(np.int64)
    words = f"photos {within} in {source}" if within else f"photos of {source}"
    for count, what in ((int(wrong.sum()), "wrong"), (int(len(wrong) - wrong.sum()), "right")):
        if count < FEWEST:
            raise UserError(
                f"the network gets {counted(count, 'photo')} {what} of the {len(wrong)} labelled {words}; patterns need at least "
                f"{FEWEST} on each side, so give more photos or another class"
            )
    return Groups(names=("right", "wrong"), rows=photos[known], group=wrong)


def between(photos: Photos, read: np.ndarray, question: Between) -> Groups:
    """Groups photos by two labels, or by one and the rest.

    Args:
        photos: the set.
        read: positions of those that could be read.
        question: the labels.

    Raises:
        UserError: a label is not there, both are the same, or too few photos have one.
    """
    check_labelled(photos, "classes can only be compared on photos with labels")
    known = photos.classes()
    if len(known) < 2:
        raise UserError(
            f"{photos.source} has one class only ({next(iter(known), 'none')}); comparing classes needs photos of two"
        )
    one = _of_label(photos, question.one)
    other = _of_label(photos, question.other) if question.other else set(range(len(photos))) - one
    if one & other:
        raise UserError(f'"{question.one}" and "{question.other}" are the same photos; name two classes')
    names = (question.other or "all others", question.one)
    rows, group = [], []
    for index in read.tolist():
        if index in one or index in other:
            rows.append(index)
            group.append(int(index in one))
    made = Groups(names=names, rows=np.array(rows, np.int64), group=np.array(group, np.int64))
    _check_sizes(made, photos.source)
    return made


def every_class(photos: Photos, read: np.ndarray) -> Groups:
    """Groups photos by label; classes with too few photos are left out.

    Args:
        photos: the set.
        read: positions of those that could be read.

    Raises:
        UserError: fewer than two classes have enough photos.
    """
    check_labelled(photos, "classes can only be compared on photos with labels")
    labels = {index: photos[index].labels[0] for index in read.tolist() if photos[index].labels}
    sizes: dict[str, int] = {}
    for label in labels.values():
        sizes[label] = sizes.get(label, 0) + 1
    names = tuple(name for name, size in sizes.items() if size >= 2 * FEWEST)
    if len(names) < 2:
        raise UserError(
            f"{counted(len(names), 'class', 'classes')} of {photos.source} has {2 * FEWEST} photos or more (there are "
            f"{len(sizes)}); comparing every class needs two with so many"
        )
    rows = [index for index, label in labels.items() if label in names]
    group = [names.index(labels[index]) for index in rows]
    return Groups(names=names, rows=np.array(rows), group=np.array(group))


def _of_label(photos: Photos, label: str) -> set[int]:
    found = photos.of_class([label])
    if not found:
        known = list(photos.classes())
        hint = nearest(label, known) or f"; there are {', '.join(known[:8])}"
        raise UserError(f'no photo of {photos.source} has the label "{label}"{hint}')
    return set(found)


def _check_sizes(groups: Groups, source: str) -> None:
    for number, name in enumerate(groups.names):
        count = int((groups.group == number).sum())
        if count < FEWEST:
            raise UserError(
                f"{source} has {counted(count, 'photo')} of {name}; patterns need at least {FEWEST} on each side"
            )

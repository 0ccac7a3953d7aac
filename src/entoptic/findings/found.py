"""Asks a question of the activity of units: rows in groups, items, patterns, and what the same search finds by chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from entoptic.base.estimates import wilson
from entoptic.base.progress import Progress, silent
from entoptic.base.randomness import generator_for
from entoptic.errors import UserError
from entoptic.findings.activity import Activity, Basis, own_and_other
from entoptic.findings.diffnaps import NapsConfig, mine_classes
from entoptic.findings.items import Items, make_items, near_features, thresholds_of
from entoptic.findings.pattern import Pattern
from entoptic.findings.premise import LEVEL, mine
from entoptic.findings.questions import Groups
from entoptic.metrics.evidence import Evidence, missing
from entoptic.units.dictionary import written_layer

SPLITS = 10
"""Random halves of the photos on which a network is compared with itself."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """What is mined: rows with their activity, in groups.

    Attributes:
        activity: of every row; its `photos` may name a photo twice, once for each network.
        groups: of every row.
        paired: whether row i and row i + N/2 are of the same photo in two networks.
    """

    activity: Activity
    groups: Groups
    paired: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """What was found.

    Attributes:
        rows: that were mined.
        items: the units.
        patterns: those that save most first.
        classes: of each pattern, the number of the group that it is of.
        evidence: how often the same search finds something by chance, and more.
    """

    rows: Rows
    items: Items
    patterns: list[Pattern]
    classes: list[int]
    evidence: list[Evidence]


def rows_of_groups(activity: Activity, groups: Groups) -> Rows:
    """Returns the activity of the photos that are in a group."""
    place = {photo: row for row, photo in enumerate(activity.photos)}
    return Rows(activity=activity.take([place[int(p)] for p in groups.rows]), groups=groups)


def rows_of_networks(one: Activity, other: Activity, names: tuple[str, str]) -> Rows:
    """Returns the rows of two networks on the photos that both could read, one network after the other."""
    both = sorted(set(one.photos) & set(other.photos))
    parts = [a.take([a.photos.index(p) for p in both]) for a in (one, other)]
    activity = Activity(
        photos=tuple(both) * 2, scores=np.concatenate([p.scores for p in parts]), means=one.means,
        said=np.concatenate([p.said for p in parts]),
    )  # fmt: skip
    group = np.repeat([0, 1], len(both))
    return Rows(activity=activity, groups=Groups(names=names, rows=np.array(both * 2), group=group), paired=True)


def check_correspondence(one: np.ndarray, other: np.ndarray, names: tuple[str, str], layer: str) -> Evidence:
    """Checks that unit k of one network answers to photos as unit k of the other does.

    Args:
        one: N×U scores.
        other: N×U scores of the other network.
        names: of the networks.
        layer: of the units.

    Returns:
        The median of the correlation with the same unit; its detail has that with other units.

    Raises:
        UserError: it does no more than any other unit does.
    """
    name, scale = "agreement_of_units", "r"
    shifts = [s for s in (1, 2, 3, 5, 8) if s < one.shape[1]]
    found = [own_and_other(one, other, shift) for shift in shifts]
    own = np.sort(found[0][0]) if found else np.zeros(0)
    if not len(own):
        return missing(name, "there is no other unit that changes over the photos", scale=scale)
    offs = [float(np.median(off)) for _, off in found]
    value, n = float(np.median(own)), len(own)
    if value <= max(map(abs, offs)):
        raise UserError(
            f"{names[0]} and {names[1]} have different bases: over the photos, unit k of {layer} in one correlates with unit k in "
            f"the other (median r {value:.2f}) no more than with other units ({np.median(offs):.2f}); compare checkpoints of one "
            "training, or features of one dictionary"
        )
    away = 0.98 * np.sqrt(n)  # ranks between which a median lies with 95 % confidence
    low, high = own[max(0, int(n / 2 - away))], own[min(n - 1, int(np.ceil(n / 2 + away)))]
    detail = {"with_other_units": float(np.median(offs)), "photos": len(one)}
    return Evidence(name, value, n, (float(low), float(high)), "higher", scale, detail=detail)


def find_patterns(
    rows: Rows,
    basis: Basis,
    *,
    quantile: float,
    level: float = LEVEL,
    shuffles: int = 20,
    most: int = 12,
    seed: int = 0,
    progress: Progress = silent,
) -> Found:
    """Finds what tells groups of rows apart: by Premise for two, by DiffNaps for more.

    Args:
        rows: in groups.
        basis: the units.
        quantile: of a unit's own scores, above which it is on. For two networks it is that of the first.
        level: probability that anything is found where groups are drawn at random, at most.
        shuffles: searches on shuffled groups.
        most: patterns that are kept; those of each class, where there are more than two.
        seed: of all draws.
        progress: is called with (what, done, total).
    """
    scores = rows.activity.scores
    own = scores[: len(scores) // 2] if rows.paired else scores
    floor = 0.0 if basis.is_dictionary else -np.inf
    items = make_items(scores, thresholds_of(own, quantile, floor), f"the units of {basis.layer}")
    if len(rows.groups.names) > 2:
        found = mine_classes(items.on, rows.groups.group, config=NapsConfig(seed=seed), level=level, progress=progress)
        kept = [one for n in range(len(rows.groups.names)) for one in [o for o in found if o[0] == n][:most]]
        evidence = [
            _count(len(found), rows, items),
            missing("found_with_shuffled_groups", _HALVES, direction="lower", scale="%"),
        ]
        return Found(
            rows=rows, items=items, patterns=[p for _, p in kept], classes=[n for n, _ in kept], evidence=evidence
        )
    near = _neighbours(basis, items)
    group = rows.groups.group.astype(bool)
    patterns = mine(items.on, group, neighbours=near, level=level)
    evidence = [_count(len(patterns), rows, items)]
    hits = 0
    for number in range(shuffles):
        progress("searching shuffled groups", number, shuffles)
        hits += bool(mine(items.on, _shuffled(group, rows.paired, seed, number), neighbours=near, level=level))
    if shuffles:
        progress("searching shuffled groups", shuffles, shuffles)
        evidence.append(_chance("found_with_shuffled_groups", hits, shuffles))
    if rows.paired:
        evidence.append(_against_itself(items, near, level, seed))
    patterns = patterns[:most]
    return Found(
        rows=rows, items=items, patterns=patterns, classes=[p.towards for p in patterns], evidence=evidence
    )  # fmt: skip


_HALVES = "patterns of many classes are tested on photos that they were not made for instead"


def _count(count: int, rows: Rows, items: Items) -> Evidence:
    detail = {"items": len(items), "left_out": items.left_out, "groups": len(rows.groups.names)}
    return Evidence("patterns", count, len(rows.groups.group), (count, count), "none", detail=detail)


def _chance(name: str, hits: int, n: int) -> Evidence:
    low, high = wilson(hits, n)
    return Evidence(name, 100 * hits / n, n, (100 * low, 100 * high), "lower", "%", detail={"found": hits})


def _shuffled(group: np.ndarray, paired: bool, seed: int, number: int) -> np.ndarray:
    """Groups at random: in another order, or, where the rows are pairs, swapped in half of the pairs."""
    draw = generator_for("shuffled groups", seed, number, len(group))
    if not paired:
        return group[torch.randperm(len(group), generator=draw).numpy()]
    half = len(group) // 2
    swap = (torch.rand(half, generator=draw) < 0.5).numpy()
    return np.concatenate([swap, ~swap])


def _against_itself(items: Items, near: list[list[int]], level: float, seed: int) -> Evidence:
    """How often the first network, on one half of the photos against the other half, differs from itself."""
    half = len(items.on) // 2
    hits = 0
    for number in range(SPLITS):
        draw = generator_for("halves of the photos", seed, number, half)
        group = np.zeros(half, bool)
        group[torch.randperm(half, generator=draw)[: half // 2].numpy()] = True
        hits += bool(mine(items.on[:half], group, neighbours=near, level=level))
    return _chance("found_against_itself", hits, SPLITS)


def _neighbours(basis: Basis, items: Items) -> list[list[int]]:
    """Features of a dictionary whose decoder rows are close may stand for each other; channels have no such neighbours."""
    dictionary = basis.group.dictionary
    decoder = getattr(dictionary, "decoder", None)
    if dictionary is None or decoder is None or written_layer(dictionary) != dictionary.layer:
        return []
    return near_features(decoder.detach().cpu().numpy(), items.numbers)

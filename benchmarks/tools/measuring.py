"""The same measurements for every tool's pictures: rows of a table, with intervals over classes and differences to one row."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from entoptic.base.estimates import mean_interval, t_quantile, wilson
from entoptic.metrics import sets
from entoptic.metrics.distribution import kid
from entoptic.metrics.sets.rows import real_baseline

Judge = Callable[[Tensor], Tensor]
"""Pictures N×3×H×W in [0, 1] to logits."""


@dataclass(frozen=True, kw_only=True)
class Shots:
    """The pictures of one row.

    Attributes:
        pictures: N×3×H×W in [0, 1], from 8 bits.
        classes: of each.
        records: of each, as its adapter wrote them; none for photos.
    """

    pictures: Tensor
    classes: tuple[int, ...]
    records: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Space:
    """A network's features, in which pictures are compared with photos.

    Attributes:
        name: of the network.
        embed: pictures to features N×C.
        photos: features of real photos M×C.
    """

    name: str
    embed: Callable[[Tensor], Tensor]
    photos: Tensor


def read(folder: Path, setting: str, part: str = "") -> Shots | None:
    """The finished pictures of a setting, or None where there are none.

    Args:
        folder: of the tool.
        setting: its name.
        part: "" for the whole picture, or the name of a part that its adapter wrote.
    """
    found = [json.loads(path.read_text()) for path in sorted(folder.glob(f"{setting}-*-seed*.json"))]
    found = [one for one in found if one["task"]["setting"] == setting and (not part or part in one["parts"])]
    if not found:
        return None
    names = [f"{setting}-{one['task']['index']}-seed{one['task']['seed']}{part and '-' + part}.png" for one in found]
    pictures = [pil_to_tensor(Image.open(folder / name).convert("RGB")).float() / 255 for name in names]
    return Shots(
        pictures=torch.stack(pictures), classes=tuple(one["task"]["index"] for one in found), records=tuple(found)
    )


def by_class(values: Sequence[float], classes: Sequence[int]) -> dict[int, float]:
    """The mean of each class's values, so that the seeds of a class count as one observation."""
    found: dict[int, list[float]] = {}
    for value, index in zip(values, classes, strict=True):
        found.setdefault(index, []).append(value)
    return {index: sum(own) / len(own) for index, own in found.items()}


def share(values: Mapping[int, float]) -> dict[str, Any]:
    """A proportion over classes with Wilson's interval."""
    n, total = len(values), sum(values.values())
    return {"value": total / n, "interval": list(wilson(total, n)), "n": n}


def difference(mine: Mapping[int, float], theirs: Mapping[int, float]) -> dict[str, Any]:
    """The paired difference of two proportions over the classes of both.

    The interval is Student's over classes. Where all classes differ alike it would close up to nothing, and it is made of both
    Wilson intervals instead, as if the two were independent (Newcombe 1998).
    """
    common = sorted(set(mine) & set(theirs))
    values = [mine[k] - theirs[k] for k in common]
    value = sum(values) / len(values)
    if len(set(values)) > 1:
        low, high = mean_interval(values)
    else:
        a, b = share({k: mine[k] for k in common}), share({k: theirs[k] for k in common})
        (low_a, high_a), (low_b, high_b) = a["interval"], b["interval"]
        low = value - math.hypot(a["value"] - low_a, high_b - b["value"])
        high = value + math.hypot(high_a - a["value"], b["value"] - low_b)
    return {"value": value, "interval": [max(-1.0, low), min(1.0, high)], "n": len(common)}


def ratio(mine: Mapping[int, float], theirs: Mapping[int, float]) -> dict[str, Any]:
    """The geometric mean over classes of a ratio, with Student's interval of its logarithm; of one class there is none."""
    logs = [math.log(mine[k] / theirs[k]) for k in sorted(set(mine) & set(theirs))]
    interval = [math.exp(edge) for edge in mean_interval(logs)] if len(logs) > 1 else None
    return {"value": math.exp(sum(logs) / len(logs)), "interval": interval, "n": len(logs)}


@torch.no_grad()
def ranks(judge: Judge, shots: Shots) -> list[int]:
    """Rank of each picture's class among a judge's logits, from 1."""
    logits = judge(shots.pictures)
    own = logits.gather(1, torch.tensor(shots.classes)[:, None])
    return ((logits > own).sum(1) + 1).tolist()


def left_out(features: Tensor, classes: Sequence[int], photos: Tensor) -> dict[int, float]:
    """The kernel distance of all pictures but those of one class, for each class."""
    index = torch.tensor(classes)
    return {k: kid(features[index != k], photos) for k in dict.fromkeys(classes)}


def jackknife(value: float, without: Sequence[float]) -> dict[str, Any]:
    """A value with Student's interval of the jackknife over classes, from the values without each of them."""
    n = len(without)
    centre = sum(without) / n
    error = math.sqrt((n - 1) / n * sum((one - centre) ** 2 for one in without))
    half = t_quantile(n - 1) * error
    return {"value": value, "interval": [value - half, value + half], "n": n}


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What judges and networks make of one row's pictures, before it is compared with another row.

    Attributes:
        ranks: of each picture, for each judge.
        features: of each picture, in each space.
    """

    ranks: dict[str, list[int]]
    features: dict[str, Tensor]


def look(shots: Shots, judges: Mapping[str, Judge], spaces: Sequence[Space]) -> Seen:
    """Runs all judges and embedders over the pictures of a row."""
    return Seen(
        ranks={name: ranks(judge, shots) for name, judge in judges.items()},
        features={space.name: space.embed(shots.pictures) for space in spaces},
    )


def agreement(shots: Shots, seen: Seen, itself: str) -> dict[int, float]:
    """For each class, the share of the judges other than the network itself that put it first."""
    others = [found for name, found in seen.ranks.items() if name != itself]
    hits = [sum(found[i] == 1 for found in others) / len(others) for i in range(len(shots.classes))]
    return by_class(hits, shots.classes)


def row(shots: Shots, seen: Seen, spaces: Sequence[Space], itself: str) -> dict[str, Any]:
    """Everything that is told of one row by itself."""
    entry: dict[str, Any] = {"n": len(shots.classes), "classes": len(set(shots.classes)), "judges": {}}
    for name, found in seen.ranks.items():
        entry["judges"][name] = {
            f"top-{k}": share(by_class([float(r <= k) for r in found], shots.classes)) for k in (1, 5)
        }
    entry["agreement"] = share(agreement(shots, seen, itself))
    entry["distance"], entry["sets"] = {}, {}
    for space in spaces:
        features = seen.features[space.name]
        if len(set(shots.classes)) > 2:
            without = left_out(features, shots.classes, space.photos)
            told = jackknife(kid(features, space.photos), list(without.values()))
            entry["distance"][space.name] = (
                told | {"photos": len(space.photos)} | real_baseline(kid, space.photos, len(features))
            )
        kernel, frechet = sets.kid(space.photos, space.name), sets.Frechet(space.photos, space.name)
        for metric in (kernel, frechet):
            metric.update(features)
        entry["sets"][space.name] = {one.name: one.to_json() for one in (kernel.compute(), frechet.compute())}
    if shots.records:
        entry["evaluations"] = median(one["evaluations"]["forward"] for one in shots.records)
        entry["processor seconds"] = median(one["processor seconds"] for one in shots.records)
        entry["versions"] = sorted({one["version"] for one in shots.records})
        entry["settings"] = shots.records[0]["settings"]
        entry["native size"] = shots.records[0]["native size"]
    return entry


def against(one: tuple[Shots, Seen], base: tuple[Shots, Seen], spaces: Sequence[Space], itself: str) -> dict[str, Any]:
    """How a row differs from another on the classes of both: paired over classes.

    Returns:
        `agreement`, `distance` in each space and `seconds` (the ratio of processor seconds), each with its interval.
    """
    (mine, saw), (theirs, they_saw) = one, base
    common = sorted(set(mine.classes) & set(theirs.classes))
    a, b = agreement(mine, saw, itself), agreement(theirs, they_saw, itself)
    told: dict[str, Any] = {"agreement": difference(a, b), "distance": {}}
    for space in spaces:
        if len(common) < 3:
            continue
        values, without = [], []
        for shots, seen in (one, base):
            kept = [i for i, k in enumerate(shots.classes) if k in common]
            features, classes = seen.features[space.name][kept], [shots.classes[i] for i in kept]
            values.append(kid(features, space.photos))
            without.append(left_out(features, classes, space.photos))
        told["distance"][space.name] = jackknife(values[0] - values[1], [without[0][k] - without[1][k] for k in common])
    if mine.records and theirs.records:
        spent = [
            by_class([record["processor seconds"] for record in shots.records], shots.classes)
            for shots in (mine, theirs)
        ]
        told["seconds"] = ratio(*spent)
    return told

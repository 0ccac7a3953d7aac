"""What is written down of patterns: `patterns.json`, the table of items, small copies of photos, and evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from entoptic.base.files import json_bytes
from entoptic.base.pixels import small_jpeg
from entoptic.findings.ablation import Change
from entoptic.findings.found import Found
from entoptic.images.photos import Photos
from entoptic.metrics.evidence import Evidence, missing
from entoptic.models.model import Model
from entoptic.runs.patterns_plan import PatternsPlan
from entoptic.runs.records import model_record, versions
from entoptic.runs.results import Result, write_result
from entoptic.runs.store import Run

KIND = "patterns"
FORMAT = 1
"""Of `patterns.json`."""
OF_UNIT, THERE, ELSEWHERE = 4, 6, 3
"""Photos shown of each unit, and of each pattern in both groups."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tested:
    """What became of a pattern's follow-up.

    Attributes:
        change: how the share of right answers changes, None where it was not measured.
        reason: why not.
        model: name of the network whose units were ablated.
    """

    change: Change | None = None
    reason: str = ""
    model: str = ""


class Shown:
    """Photos that a result shows, and small copies of them.

    Args:
        photos: the set.
        model: as it sees them.
        labels: what the network calls the class of each photo, "" where that is not known.
        context: whether copies are stored.
    """

    def __init__(self, photos: Photos, model: Model, labels: Sequence[str], context: bool) -> None:
        self.photos, self.model, self.labels, self.context = photos, model, labels, context
        self.wanted: dict[int, None] = {}

    def entry(self, index: int) -> dict[str, Any]:
        """Returns a photo as `patterns.json` holds it, and remembers that it is shown."""
        self.wanted[index] = None
        photo = self.photos[index]
        file = f"photo{index}.jpg" if self.context else None
        return {"name": photo.name, "label": self.labels[index] or (photo.labels or ("",))[0], "file": file}

    def files(self) -> dict[str, bytes]:
        """Returns the copies of all photos that are shown."""
        made: dict[str, bytes] = {}
        if self.context and self.wanted:
            for numbers, images in self.photos.batches(self.model.card.prepare, 16, sorted(self.wanted)):
                made |= {f"photo{i}.jpg": small_jpeg(image) for i, image in zip(numbers, images)}
        return made


def label_of(model: Model, number: int) -> str:
    """Returns what a network calls a class, "" for -1."""
    return "" if number < 0 else model.card.label(number) or f"logits:{number}"


def store(
    run: Run, key: str, plan: PatternsPlan, found: Found, tested: Sequence[Tested], shown: Shown, more: Sequence[Evidence],
    command: str, unread: str = "",
) -> Result:  # fmt: skip
    """Stores patterns as a result of a run that is being written.

    Args:
        run: the run.
        key: of the result.
        plan: what was asked.
        found: what was found.
        tested: the follow-up of each pattern.
        shown: the photos.
        more: evidence beside that of the search.
        command: that gives the same result.
        unread: which photos could not be read, in words.
    """
    from safetensors.numpy import save

    groups = found.rows.groups
    entries = [_entry(plan, found, number, one, shown) for number, one in enumerate(tested)]
    whole = {
        "format": FORMAT, "groups": [{"name": n, "rows": int((groups.group == i).sum())} for i, n in enumerate(groups.names)],
        "paired": found.rows.paired, "patterns": entries, "units": _units(plan, found, shown),
    }  # fmt: skip
    tensors = {
        "on": np.packbits(found.items.on, axis=0, bitorder="little"), "unit": np.array(found.items.numbers),
        "threshold": found.items.thresholds.astype(np.float32), "photo": groups.rows.astype(np.int64),
        "group": groups.group.astype(np.int64),
    }  # fmt: skip
    files = {
        "patterns.json": json_bytes(whole),
        "items.safetensors": save({n: np.ascontiguousarray(t) for n, t in tensors.items()}),
        **shown.files(),
    }
    evidence = [*found.evidence, *more, *(_evidence_of(number, one) for number, one in enumerate(tested, 1))]
    about = {
        "layer": plan.basis.layer, "readout": plan.basis.group.readout, "model": model_record(plan.model),
        "other": None if plan.other is None else model_record(plan.other), "versions": versions(), "command": command,
        "photos": plan.photos.source, "question": {"kind": type(plan.question).__name__, **asdict(plan.question)},
        "asked": asdict(plan.options), "groups": list(groups.names), "items": len(found.items),
        "left_out": found.items.left_out, "unread": unread, "found": len(entries),
    }  # fmt: skip
    return write_result(run, KIND, plan.name, key, files=files, evidence=evidence, about=about)


def _entry(plan: PatternsPlan, found: Found, number: int, tested: Tested, shown: Shown) -> dict[str, Any]:
    """A pattern as `patterns.json` holds it."""
    pattern, groups, items, units = found.patterns[number], found.rows.groups, found.items, plan.basis.units
    many = len(groups.names) > 2
    names = ("all others", groups.names[found.classes[number]]) if many else groups.names
    scores = found.rows.activity.scores[:, [items.numbers[i] for i in pattern.items]]
    spread = np.maximum(scores.std(0), 1e-12)
    strength = ((scores - items.thresholds[list(pattern.items)]) / spread).min(1)
    inside = groups.group == (found.classes[number] if many else pattern.towards)
    chosen: list[int] = []
    for part, count in ((pattern.rows & inside, THERE), (pattern.rows & ~inside, ELSEWHERE)):
        rows = np.nonzero(part)[0]
        chosen += rows[np.argsort(-strength[rows], kind="stable")][:count].tolist()
    photos = [
        shown.entry(int(groups.rows[r]))
        | {
            "group": groups.names[groups.group[r]], "towards": bool(inside[r]),
            "said": label_of(plan.model, int(found.rows.activity.said[r])),
        }
        for r in chosen
    ]  # fmt: skip
    return {
        "clauses": [[units[items.numbers[i]] for i in clause] for clause in pattern.clauses],
        "groups": list(names), "towards": names[pattern.towards], "on": list(pattern.on), "size": list(pattern.size),
        "bits": pattern.bits, "p": pattern.p, "photos": photos, "change": _change_entry(tested),
    }  # fmt: skip


def _units(plan: PatternsPlan, found: Found, shown: Shown) -> dict[str, Any]:
    """The units of all patterns: threshold, how often they are on, and the photos that drive them most."""
    items, groups, scores = found.items, found.rows.groups, found.rows.activity.scores
    entries: dict[str, Any] = {}
    for item in dict.fromkeys(i for pattern in found.patterns for i in pattern.items):
        number = items.numbers[item]
        best = dict.fromkeys(groups.rows[np.argsort(-scores[:, number], kind="stable")][: 2 * OF_UNIT].tolist())
        entries[plan.basis.units[number]] = {
            "threshold": float(items.thresholds[item]),
            "on": [int(items.on[groups.group == g, item].sum()) for g in range(len(groups.names))],
            "photos": [shown.entry(int(photo)) for photo in list(best)[:OF_UNIT]],
        }  # fmt: skip
    return entries


def _change_entry(tested: Tested) -> dict[str, Any]:
    change = tested.change
    if change is None:
        return {"reason": tested.reason}
    return {
        "model": tested.model, "before": change.before, "after": change.after, "points": change.points,
        "interval": list(change.interval), "n": change.n, "gained": change.gained, "lost": change.lost,
        "random": list(change.random), "random_interval": list(change.random_interval) if change.random else None,
        "rank_p": change.rank_p if change.random else None,
    }  # fmt: skip


def _evidence_of(number: int, tested: Tested) -> Evidence:
    name = f"accuracy_change_of_pattern_{number}"
    change = tested.change
    if change is None:
        return missing(name, tested.reason, direction="none", scale="points")
    whole = _change_entry(tested)
    detail = {name: whole[name] for name in ("before", "after", "random", "rank_p")}
    return Evidence(name, change.points, change.n, change.interval, "none", "points", detail=detail)

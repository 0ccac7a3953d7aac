"""Recomputing the evidence of a run from its files, to see whether the numbers still hold."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from entoptic.base.files import sha256_of
from entoptic.base.records import why
from entoptic.errors import NotAvailable, Unreadable
from entoptic.metrics.registry import METRICS, TRACE, needing
from entoptic.models.model import Model
from entoptic.runs.recompute import Recompute, Recomputed
from entoptic.runs.results import read_results
from entoptic.runs.store import Picture, Run

if TYPE_CHECKING:
    from entoptic.inversion.inverter import Inverter

TOLERANCE = 1e-3
"""Relative difference below which two measurements count as the same: kernels round differently by machine."""


@dataclass
class Verification:
    """What `verify` found.

    Attributes:
        pictures: how many were recomputed. numbers: how many measurements were compared.
        drift: one line per file that changed or measurement that no longer comes out.
        skipped: one line per measurement that could not be recomputed, with the reason.
    """

    pictures: int = 0
    numbers: int = 0
    drift: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Nothing drifted."""
        return not self.drift

    def __str__(self) -> str:
        verdict = "all as recorded" if self.ok else f"{len(self.drift)} differ"
        return f"{self.pictures} pictures, {self.numbers} numbers recomputed: {verdict}" + (
            f", {len(self.skipped)} not recomputed" if self.skipped else ""
        )

    def _repr_html_(self) -> str:
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in self.drift + self.skipped)
        return f"<p>{html.escape(str(self))}</p><ul>{lines}</ul>"


def verify(
    run: str | Path | Run,
    *,
    model: Model | None = None,
    photos: Any = None,
    inverter: Inverter | None = None,
    prior: str | None = None,
    device: str = "auto",
    on_picture: Callable[[int, int], None] = lambda done, total: None,
) -> Verification:
    """Recomputes every measurement of a run from its PNG files.

    Args:
        model: needed where the run is of a module that has no loadable name.
        photos: where the photos are now, if not where the sidecars say.
        inverter: of pictures that `invert` made, where it has no loadable name. prior: where the inverters' prior is
            now, if not where the sidecars or the inverters' cards say.

    Raises:
        UserError: no such run, or its network cannot be loaded or has other weights.
    """
    opened = Run.open(run.path if isinstance(run, Run) else run)
    found, total = Verification(), len(opened)
    recompute = Recompute(opened, model, photos, inverter, prior, device)
    for done, (picture, problem) in enumerate(opened.read()):
        on_picture(done, total)
        if picture is None:
            found.drift.append(problem)
            continue
        name = picture.path.name
        try:
            found.drift += [f"{name}: {wrong}" for wrong in changed_files(opened, picture)]
            fresh = recompute.evidence(picture)
            found.drift += [f"{name}: {wrong}" for wrong in fresh.drift]
            found.skipped += fresh.notes
            if fresh.evidence:
                compare(picture.record, name, fresh, found)
        except (NotAvailable, Unreadable) as error:
            found.skipped.append(f"{name}: {error}")
        except (MemoryError, torch.OutOfMemoryError) as error:
            found.skipped.append(f"{name}: out of memory ({why(error)})")
        except (
            LookupError, TypeError, AttributeError, ValueError, OSError, ArithmeticError, RuntimeError, AssertionError
        ) as error:  # fmt: skip
            found.drift.append(f"{name}: its sidecar or picture is damaged ({type(error).__name__}: {why(error)})")
    found.drift += [problem for result, problem in read_results(opened) if result is None]
    on_picture(total, total)
    return found


def changed_files(run: Run, picture: Picture) -> list[str]:
    """Returns which of a picture's files are not those that its sidecar names, in words."""
    wrong = []
    if sha256_of(picture.path) != picture.record["image"]["sha256"]:
        wrong.append("the picture was changed after it was measured (its sha256 differs)")
    for what, entry in (picture.record.get("maps") or {}).items():
        path = run.map_file(entry)
        if path is None or sha256_of(path) != entry["sha256"]:
            wrong.append(f"its map {what} is missing or was changed")
    return wrong


def compare(record: Mapping[str, Any], name: str, fresh: Recomputed, found: Verification) -> None:
    """Compares a sidecar's evidence with what was measured afresh; what differs goes to `found.drift`."""
    found.pictures += 1
    recorded, from_trace = {e["name"] for e in record["evidence"]}, needing(TRACE)
    found.drift += [f"{name}: {gone} is missing from the sidecar" for gone in fresh.evidence if gone not in recorded]
    for old in record["evidence"]:
        metric, value = old["name"], old["value"]
        reason = fresh.not_comparable.get(metric)
        if reason is not None:
            found.skipped += [f"{name}: {reason}"] if reason else []
            continue
        if metric in METRICS and not METRICS[metric].recomputable:
            found.skipped.append(f"{name}: {metric} cannot be measured from the files")
            continue
        if metric not in fresh.evidence:
            found.drift.append(f"{name}: {metric} is no measurement of this version")
            continue
        now = fresh.evidence[metric]
        # What a sampler recorded of its distribution is not in a picture: only that the evidence still says the same.
        found.numbers += metric not in from_trace
        if not _close(value, now.value) or not _close_all(old.get("interval"), now.interval):
            found.drift.append(f"{name}: {metric} says {_show(value)}, recomputed {_show(now.value)}")
        elif old.get("n") != now.n:
            found.drift.append(f"{name}: {metric} says n = {old.get('n')}, recomputed n = {now.n}")


def _close(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return math.isclose(float(a), float(b), rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def _close_all(a: Any, b: Any) -> bool:
    pair = list(_pairs(a, b))
    return (a is None) == (b is None) and all(_close(x, y) for x, y in pair)


def _pairs(a: Any, b: Any) -> Iterator[tuple[float, float]]:
    yield from zip(a or (), b or ())


def _show(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.6g}"

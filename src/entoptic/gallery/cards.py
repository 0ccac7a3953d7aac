"""One card for each picture of a unit's page: links, recipe, provenance and the curve of its loss."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from entoptic.errors import plural
from entoptic.gallery.explain import Reading
from entoptic.gallery.formats import SPACE, exact_text, number
from entoptic.gallery.panel import SteeringPanel, read_steering
from entoptic.gallery.read_run import StoredPicture, list_or_empty, mapping_or_empty
from entoptic.gallery.unit_pages import variants
from entoptic.gallery.unit_photos import links_to_maps


@dataclass(frozen=True, kw_only=True)
class LossCurve:
    """The loss of an optimised picture as an SVG path in a box of 240 × 48.

    Attributes:
        path: of the curve.
        x: of its end.
        y: of its end.
        reading: first and last loss.
        alt: for readers who cannot see it.
    """

    path: str
    x: str
    y: str
    reading: str
    alt: str


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a unit's page shows of one picture.

    Attributes:
        picture: with its sidecar.
        src: link to its file.
        sidecar: link to its sidecar.
        maps: links to the maps stored beside it, by name; "" for "where", "alpha", "pair" and "sd" that there are not.
        steering: how its concept was steered, or None.
        title: of the method.
        source: authors and year behind the title, or "".
        paper: to cite, or "".
        paper_href: link to the paper, or "".
        variant: what sets it apart from pictures of the same method and sample, or "".
        by_name: its readings by metric.
        loss_curve: of its making, or None.
        course: steps and seconds of its making, or "".
        notes: of the method.
        config: the method's config, the seed first.
        command: that makes it again, or "".
        provenance: names and values of what it depends on.
    """

    picture: StoredPicture
    src: str
    sidecar: str
    maps: Mapping[str, str]
    steering: SteeringPanel | None
    title: str
    source: str
    paper: str
    paper_href: str
    variant: str
    by_name: Mapping[str, Reading]
    loss_curve: LossCurve | None
    course: str
    notes: Sequence[str]
    config: Mapping[str, Any]
    command: str
    provenance: Sequence[tuple[str, str]]


def make_cards(pictures: Sequence[StoredPicture], run_folder: Path, root: str) -> list[Card]:
    """Returns the cards of a unit's pictures, in their order.

    Args:
        pictures: of one page.
        run_folder: of the run.
        root: relative path from the site to the run, quoted.
    """
    variant_by_anchor = variants(pictures)
    return [_card(picture, variant_by_anchor.get(picture.anchor, ""), run_folder, root) for picture in pictures]


def _card(picture: StoredPicture, variant: str, run_folder: Path, root: str) -> Card:
    sidecar = picture.sidecar
    trace = mapping_or_empty(sidecar.get("trace"))
    title, _, source = picture.method_title.partition(" (")
    paper = str(sidecar.get("paper") or "")
    src = f"{root}/pictures/{quote(picture.folder)}/{quote(picture.file)}"
    maps = links_to_maps(run_folder, sidecar, root)
    return Card(
        picture=picture,
        src=src,
        sidecar=src.removesuffix(".png") + ".json",
        maps=maps,
        steering=read_steering(sidecar, maps),
        title=title,
        source=source.removesuffix(")"),
        paper=paper,
        paper_href=_paper_href(paper),
        variant=variant,
        by_name={reading.name: reading for reading in picture.readings},
        loss_curve=_loss_curve(trace),
        course=_course(trace),
        notes=[str(note) for note in list_or_empty(trace.get("notes"))],
        config={"seed": sidecar.get("seed"), **mapping_or_empty(sidecar.get("config"))},
        command=str(sidecar.get("command") or ""),
        provenance=list(_provenance(sidecar)),
    )


def _paper_href(paper: str) -> str:
    if re.fullmatch(r"arXiv:[\w./-]+", paper):
        return f"https://arxiv.org/abs/{paper.removeprefix('arXiv:')}"
    return paper if re.match(r"https?://", paper) else ""


def _provenance(sidecar: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    model, references = mapping_or_empty(sidecar.get("model")), mapping_or_empty(sidecar.get("references"))
    size = model.get("size")
    entries = [
        ("picture sha256", mapping_or_empty(sidecar.get("image")).get("sha256")),
        ("key", sidecar.get("key")),
        ("model", model.get("name")),
        ("model weights sha256", model.get("weights_sha256")),
        ("model licence", model.get("licence")),
        ("model input", " × ".join(str(part) for part in size) if isinstance(size, list) else size),
        ("layer", sidecar.get("layer")),
        ("readout", sidecar.get("readout")),
        ("references", references.get("source")),
        ("references, n", references.get("n")),
        ("references sha256", references.get("sha256")),
        *((f"{name} version", version) for name, version in mapping_or_empty(sidecar.get("versions")).items()),
    ]
    for name, value in entries:
        if value is not None and value != "":
            yield name, exact_text(value)


def _loss_curve(trace: Mapping[str, Any]) -> LossCurve | None:
    """The curve, on a log scale where the loss falls far; None where there are not two points."""
    points: list[tuple[float, float]] = []
    for point in list_or_empty(trace.get("loss")):
        if isinstance(point, (list, tuple)) and len(point) == 2:
            step, loss = point
            if all(isinstance(part, (int, float)) and math.isfinite(part) for part in (step, loss)):
                points.append((float(step), float(loss)))
    if len(points) < 2 or points[-1][0] <= points[0][0]:
        return None
    losses = [loss for _, loss in points]
    is_log = min(losses) > 0 and max(losses) / min(losses) > 50
    heights = [math.log(loss) for loss in losses] if is_log else losses
    low, high = min(heights), max(heights)
    first, last = points[0][0], points[-1][0]
    span = high - low
    spots = [
        (4 + 232 * (step - first) / (last - first), 44 - 40 * ((y - low) / span if span else 0.5))
        for (step, _), y in zip(points, heights, strict=True)
    ]
    return LossCurve(
        path="M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in spots),
        x=f"{spots[-1][0]:.1f}",
        y=f"{spots[-1][1]:.1f}",
        reading=f"{number(losses[0])} → {number(losses[-1])}" + (" (log scale)" if is_log else ""),
        alt=f"Loss from {number(losses[0])} to {number(losses[-1])} over the run",
    )


def _course(trace: Mapping[str, Any]) -> str:
    """`300 steps in 24.1 s, finished`, or the parts of it that the trace holds."""
    parts = []
    if isinstance(trace.get("steps"), int):
        parts.append(f"{trace['steps']:,} {plural(trace['steps'], 'step')}")
    seconds = trace.get("seconds")
    if isinstance(seconds, (int, float)) and math.isfinite(seconds):
        parts.append(f"{'in ' if parts else ''}{number(seconds)}{SPACE}s")
    text = " ".join(parts)
    stopped = str(trace.get("stopped") or "")
    return f"{text}, {stopped}" if text and stopped else text or stopped

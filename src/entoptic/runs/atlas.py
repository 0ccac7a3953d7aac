"""Maps photos, units or features, measures the map and stores it in a run."""

from __future__ import annotations

import csv
import io
import math
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from entoptic.atlases.contract import Layout, MapCard, MapProblem, check_size, find_map, make_map
from entoptic.atlases.distances import held, on_map
from entoptic.atlases.faithfulness import Faithfulness, Measured, measure_map
from entoptic.atlases.known import of_kinds, of_numbers, together
from entoptic.base.bounds import Bounds, check_bounds
from entoptic.base.cache import content_key, load_cached, save_cached
from entoptic.base.files import json_bytes
from entoptic.base.progress import Reporter
from entoptic.errors import UserError, instead
from entoptic.images.build_index import build_index
from entoptic.images.index import ActivationIndex
from entoptic.images.photos import Photos
from entoptic.images.unread import unread_record
from entoptic.metrics.evidence import Evidence
from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.models.sources import load
from entoptic.runs.atlas_picture import draw_map
from entoptic.runs.atlas_points import POSSIBLE, Column, Kind, Points, dictionary_of, read_points
from entoptic.runs.atlas_thumbnails import Thumbnails, make_thumbnails
from entoptic.runs.atlas_units import evidence_columns, pictures_of
from entoptic.runs.pictures import Picture
from entoptic.runs.plan import run_name
from entoptic.runs.records import about_run, model_record, version, versions
from entoptic.runs.results import Result, find_result, write_result
from entoptic.runs.store import Run
from entoptic.units.dictionary import digest

KIND = "atlas"
FORMAT = 1
KNOWN = ("class", "strength", "colour")
"""What can be taken out of a map."""
_INDEXED = 25


@dataclass(frozen=True, kw_only=True)
class AtlasOptions:
    """How an atlas is made.

    Attributes:
        of: "photos", "units" or "features".
        map: a key of `entoptic.atlases.contract.MAPS`.
        known: what is taken out: "class", "strength", "colour".
        removed: the weight λ of what is taken out; None for the least at which neighbours do not show it.
        neighbours: of each point that the map looks after.
        readout: how units are read, as behind @ in a unit.
        colour: the column that the page shows first; "" for the first there is.
        seed: of all that is random.
    """

    bounds: ClassVar[Bounds] = {"neighbours": (2, 1000), "removed": (1e-3, 1e3)}

    of: str = "photos"
    map: str = "tsne"
    known: tuple[str, ...] = ()
    removed: float | None = None
    neighbours: int = 30
    readout: str = ""
    colour: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        check_bounds(self)
        kinds = [str(kind) for kind in Kind]
        if self.of not in kinds:
            raise UserError(
                f'an atlas is of photos, units or features, not of "{self.of[:80]}"{instead(self.of, kinds)}'
            )
        card = find_map(self.map)
        for name in self.known:
            if name not in KNOWN:
                raise UserError(f'what is known may be {", ".join(KNOWN)}, got "{name[:80]}"{instead(name, KNOWN)}')
        if (self.known or self.removed is not None) and not card.takes_known:
            raise UserError(f"map {self.map} takes nothing out; --known and --removed are of --map confetti")


def make_atlas(
    model: str | nn.Module | Model,
    layer: str,
    *,
    photos: Any,
    options: AtlasOptions,
    out: str | Path | None = None,
    index: str | Path | ActivationIndex | None = None,
    run: str | Path | Run | None = None,
    device: str = "auto",
    card: Card | None = None,
    batch_size: int = 32,
    report: Reporter | None = None,
) -> Result:
    """Makes an atlas and stores it; see `entoptic.atlas`, which writes its page too.

    Args:
        model: anything `load` takes.
        layer: of the model, `logits`, or a dictionary as dict(FILE).
        photos: anything `Photos.open` takes.
        options: how it is made.
        out: the run folder (default `runs/MODEL`).
        index: of the model on these photos with a sample of them.
        run: with pictures of the units.
        device: "auto", "cpu", "cuda:1", ….
        card: of a bare `nn.Module`.
        batch_size: photos in one forward pass.
        report: is told how far it is.

    Raises:
        UserError: bad input.
    """
    say = report or Reporter()
    how = find_map(options.map)
    kind = Kind(options.of)
    if kind is Kind.FEATURES and not layer.startswith("dict("):
        raise UserError(
            f"features are of a dictionary, and {layer} is a layer; give dict(FILE), such as "
            "dict(builtin:lite0-blocks-6), or --of units"
        )
    if run is not None and kind is Kind.PHOTOS:
        raise UserError("pictures of a run stand for units; give --of units, or leave --run out")
    if options.colour and run is None and options.colour not in POSSIBLE[kind]:  # before hours of reading photos
        raise _no_colour(options.colour, str(kind), "", POSSIBLE[kind])
    network = model if isinstance(model, Model) else load(model, device=device, card=card)
    given = Photos.open(photos)
    dictionary = dictionary_of(network, layer)
    if dictionary is None:
        network.layer(layer)
    check_size(how, len(given), "photos") if kind is Kind.PHOTOS else None
    if index is not None:
        index = index if isinstance(index, ActivationIndex) else ActivationIndex.open(index)
        index.check(network, given)
    target = Run(out if out is not None else Path("runs") / run_name(network))
    made_of = None if run is None else (run if isinstance(run, Run) else Run.open(run))
    with target.writing(about_run(network)):
        read = _index(network, layer, given, options.readout, index, target, batch_size, say)
        points = read_points(network, layer, given, read, kind, options.readout)
        check_size(how, len(points), str(kind))
        pictures: list[Picture | None] = [None] * len(points)
        if made_of is not None:
            pictures = pictures_of(made_of, points, network)
        points = _with_columns(points, evidence_columns(pictures))
        if options.colour:
            _column(points, options.colour)
        parts = {
            "format": FORMAT, "index": read.key, "layer": layer, "of": options.of, "map": options.map, "known": options.known,
            "removed": options.removed, "neighbours": options.neighbours, "readout": options.readout, "seed": options.seed,
            "dictionary": digest(dictionary) if dictionary is not None else "", "package": [version(p) for p in _sold(how)],
        }  # fmt: skip
        drawn = content_key(parts)
        key = content_key({
            "map": drawn, "colour": options.colour, "pictures": [p.record.get("key") if p else None for p in pictures],
        })  # fmt: skip
        name = f"{options.of} {layer} {options.map}"
        if (found := find_result(target, KIND, name, key)) is not None:
            return found
        thumbnails = make_thumbnails(given, points.photos.tolist(), pictures, say.progress)
        known = _known(points, options, how, thumbnails)
        layout = _map(points, options, how, known, drawn, say)
        faith = measure_map(
            layout.asked, on_map(layout.positions, layout.space), len(points), seed=options.seed,
            known=held(known) if known is not None else None,
        )  # fmt: skip
        points = _with_columns(points, [_kept(points, faith)])
        about = {
            "layer": layer, "of": options.of, "map": options.map, "map_title": how.title, "space": str(layout.space),
            "asked": {f.name: _plain(getattr(options, f.name)) for f in fields(options)}, "about_map": layout.about,
            "n": len(points), "left_out": points.left_out, "colour": options.colour or points.columns[0].name,
            "cell": thumbnails.cell, "sheets": len(thumbnails.sheets), "without_picture": thumbnails.missing,
            "pictures": sum(p is not None for p in pictures), "model": model_record(network), "photos": given.source,
            "versions": versions() | {p: version(p) for p in _sold(how)}, "command": _command(network, layer, given, options),
            "faithfulness": [one.to_json() for one in faith.measured],
            **unread_record(given),
        }  # fmt: skip
        return write_result(
            target, KIND, name, key, files=_files(points, layout, thumbnails, about), about=about,
            evidence=[_evidence(one) for one in faith.measured],
        )  # fmt: skip


def _index(
    model: Model, layer: str, photos: Photos, readout: str, given: ActivationIndex | None, run: Run,
    batch_size: int, report: Reporter,
) -> ActivationIndex:  # fmt: skip
    """The scores of all units on the photos: of the index that was given, or of one in the run that goes on where it stopped."""
    if given is not None:
        return given
    asked = {"weights": model.card.identity, "layer": layer, "readout": readout, "photos": photos.fingerprint()}
    return build_index(
        model, photos, layer, out=run.path / "indexes" / content_key(asked)[:12], k=min(_INDEXED, len(photos)), bottom=1,
        readouts=readout, reservoir=len(photos), batch_size=batch_size, progress=report.progress,
    )  # fmt: skip


def _map(
    points: Points, options: AtlasOptions, card: MapCard, known: np.ndarray | None, key: str, report: Reporter
) -> Layout:
    """The map, of the cache where it is there; what it is to show is computed from the points in any case."""
    problem = MapProblem(
        vectors_ND=points.vectors_ND, neighbours=options.neighbours, seed=options.seed, known_NN=known,
        removed=options.removed, progress=report.progress,
    )  # fmt: skip
    cached = load_cached("atlases", key, {"positions": 2})
    if cached is not None and len(cached["positions"]) == len(points):
        return make_map(card, problem, cached["positions"].numpy())
    layout = make_map(card, problem)
    save_cached("atlases", key, {"positions": torch.from_numpy(layout.positions)})
    return layout


def _known(points: Points, options: AtlasOptions, card: MapCard, thumbnails: Thumbnails) -> np.ndarray | None:
    """The distances of what is to be taken out, or None."""
    if not card.takes_known:
        return None
    names = options.known or (("class",) if points.column("class") else ("strength",))
    several = []
    for name in names:
        if name == "colour":
            several.append(of_numbers(thumbnails.colours))
        elif (column := _column(points, name)).kinds is not None:
            several.append(of_kinds(column.values.tolist(), points.vectors_ND))
        else:
            several.append(of_numbers(np.nan_to_num(column.values)))
    return together(several)


def _column(points: Points, name: str) -> Column:
    known = {one.name for one in points.columns} | {"kept"}
    column = points.column(name)
    if column is None and name != "kept":
        why = ": these photos have no classes" if name == "class" else ""
        raise _no_colour(name, points.kind, why, known)
    return column if column is not None else points.columns[0]


def _no_colour(name: str, kind: str, why: str, known: Iterable[str]) -> UserError:
    return UserError(f'there is no "{name[:80]}" to colour {kind} by{why}{instead(name, sorted(known))}')


def _with_columns(points: Points, more: list[Column]) -> Points:
    return Points(**{f.name: getattr(points, f.name) for f in fields(points)} | {"columns": (*points.columns, *more)})


def _kept(points: Points, faith: Faithfulness) -> Column:
    values = np.full(len(points), np.nan)
    values[faith.anchors] = faith.kept
    return Column(name="kept", title="share of its nearest neighbours that the map keeps", values=values)


def _evidence(one: Measured) -> Evidence:
    return Evidence(
        f"map_{one.name}", one.value, n=one.n, interval=one.interval, direction="none" if one.name == "known" else "higher",
        detail={"chance": one.chance, "means": one.means},
    )  # fmt: skip


def _files(points: Points, layout: Layout, thumbnails: Thumbnails, about: dict[str, Any]) -> dict[str, bytes]:
    from safetensors.torch import save

    columns = [
        {
            "name": one.name, "title": one.title, "kinds": list(one.kinds) if one.kinds is not None else None,
            "values": [_number(v) for v in one.values.tolist()],
        }
        for one in points.columns
    ]  # fmt: skip
    content = {
        "map.safetensors": save({"positions": torch.from_numpy(np.ascontiguousarray(layout.positions))}),
        "points.json": json_bytes({
            "names": list(points.names), "labels": list(points.labels), "photos": points.photos.tolist(), "columns": columns,
        }),
        "points.csv": _csv(points, layout),
        "map.webp": draw_map(points, layout, thumbnails, points.column(about["colour"]) or points.columns[0]),
    }  # fmt: skip
    return content | {f"thumbnails{i}.webp": sheet for i, sheet in enumerate(thumbnails.sheets)}


def _csv(points: Points, layout: Layout) -> bytes:
    text = io.StringIO()
    table = csv.writer(text)
    axes = ("x", "y", "z")[: layout.positions.shape[1]]
    table.writerow(["name", "label", *axes, *(one.name for one in points.columns)])
    columns = [
        [one.kinds[v] if v >= 0 else "" for v in one.values.tolist()]
        if one.kinds is not None
        else ["" if (number := _number(v)) is None else f"{number:.6g}" for v in one.values.tolist()]
        for one in points.columns
    ]
    for row in zip(points.names, points.labels, *layout.positions.T.tolist(), *columns):
        table.writerow([*row[:2], *(f"{v:.6g}" for v in row[2 : 2 + len(axes)]), *row[2 + len(axes) :]])
    return text.getvalue().encode("utf-8", "backslashreplace")


def _number(value: float | int) -> float | int | None:
    return value if isinstance(value, int) or math.isfinite(value) else None


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _sold(card: MapCard) -> tuple[str, ...]:
    """The packages of a method by the names under which they are installed."""
    return tuple({"umap": "umap-learn"}.get(package, package) for package in card.packages)


def _command(model: Model, layer: str, photos: Photos, options: AtlasOptions) -> str:
    """The command that gives the same map."""
    words, default = ["entoptic", "atlas", model.card.name, layer, "--photos", photos.source], AtlasOptions()
    for f in fields(options):
        value = getattr(options, f.name)
        if value != getattr(default, f.name):
            words += [f"--{f.name}", *map(str, value if isinstance(value, tuple) else (value,))]
    return shlex.join(words)

"""The figure of a run's pictures: which of them stand in which row and column, and what is said below each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from entoptic.base.bounds import check_options
from entoptic.base.files import is_inside
from entoptic.base.records import is_a
from entoptic.errors import UserError, nearest
from entoptic.metrics import METRICS
from entoptic.metrics.registry import headline_order
from entoptic.plots.figure import Figure
from entoptic.plots.picture_grid import Cell, Number, Row, TooNarrow, draw_flow, draw_rows
from entoptic.runs.figure_options import HEADLINE, FigureOptions
from entoptic.runs.pictures import Picture, read_pixels
from entoptic.runs.selection import Pictures

MOST = 240
"""Pictures in one figure."""
_BESIDE = 5  # pictures beside each other where nobody says how many
_INCH = 72.0
_WIDTHS = (1.0, 40.0)


def figure_of(pictures: Pictures, options: FigureOptions) -> Figure:
    """Returns a figure of pictures; see `Run.figure`.

    Args:
        pictures: at least one.
        options: how they stand in it.

    Raises:
        UserError: there is no picture, there are too many, or an option cannot be used.
    """
    columns, width, with_photos = options.columns, options.width, options.with_photos
    if not pictures:
        raise UserError("there is no picture to show; the run is empty, or the filter keeps none")
    if len(pictures) > MOST:
        raise UserError(
            f"{len(pictures)} pictures are too many for one figure (at most {MOST}); choose some with `filter`, "
            "for instance by unit or method"
        )
    check_options(columns=columns, width=width)
    if not _WIDTHS[0] <= width <= _WIDTHS[1]:
        raise UserError(f"width is in inches, between {_WIDTHS[0]:g} and {_WIDTHS[1]:g}; got {width}")
    if columns is not None and columns < 1:
        raise UserError(f"columns must be at least 1, got {columns}")
    names = _captions(pictures, options.captions)
    about: dict[str, Any] = {"width": width * _INCH, "title": options.title, "description": _description(pictures)}
    repeated = max(Counter((picture.unit, picture.method) for picture in pictures).values()) > 1
    try:
        if columns is None and (len(pictures.methods) > 1 or repeated or with_photos):
            return _rows(pictures, names, with_photos, about)
        return _flow(pictures, names, columns or min(_BESIDE, len(pictures)), with_photos, about)
    except TooNarrow as error:
        raise UserError(f"{error}; give a larger width, fewer pictures, or columns=4") from None


def _rows(pictures: Pictures, names: Sequence[str], with_photos: bool, about: Mapping[str, Any]) -> Figure:
    """Units as rows and methods as columns; samples of a method beside each other."""
    methods = pictures.methods
    rows = []
    copies: list[str] = []
    for unit in pictures.units:
        of_unit = [picture for picture in pictures if picture.unit == unit]
        groups = [[_cell(p, names) for p in _in_order(of_unit) if p.method == method] for method in methods]
        if with_photos:
            found = _copies(pictures, of_unit[0])
            copies = copies or list(found)
            groups = [[Cell(pixels=found[name])] if name in found else [] for name in copies] + groups
        name, line = _names(of_unit[0])
        rows.append(Row(name=name, about=line, groups=groups))
    headings = [*copies, *(methods if len(methods) > 1 or copies else [""])]
    whole = [
        Row(name=r.name, about=r.about, groups=[[]] * (len(headings) - len(r.groups)) + list(r.groups)) for r in rows
    ]
    return draw_rows(whole, headings, **about)


def _flow(
    pictures: Pictures, names: Sequence[str], columns: int, with_photos: bool, about: Mapping[str, Any]
) -> Figure:
    several = len(pictures.methods) > 1
    cells: list[Cell] = []
    shown: set[str] = set()
    for picture in pictures:
        name, line = _names(picture)
        if with_photos and picture.unit not in shown:
            shown.add(picture.unit)
            cells += [Cell(pixels=p, name=what, about=(name,)) for what, p in _copies(pictures, picture).items()]
        lines = tuple(text for text in (line, picture.method if several else "") if text)
        cells.append(_cell(picture, names, name=name, about=lines))
    return draw_flow(cells, columns, **about)


def _in_order(pictures: Sequence[Picture]) -> list[Picture]:
    return sorted(pictures, key=lambda picture: (picture.seed or 0, picture.sample))


def _names(picture: Picture) -> tuple[str, str]:
    """What a unit is called, and its string where that is another."""
    unit = picture.unit
    if unit.startswith("fmap("):
        return picture.label or unit, f"map of {picture.record.get('layer')}"
    if unit.startswith(("dict(", "dir(")):
        head, _, rest = unit.partition("(")
        path, bracket, tail = rest.partition(")")
        unit = f"{head}({Path(path).name}{bracket}{tail}"
    return (picture.label, unit) if picture.label and picture.label != picture.unit else (unit, "")


def _cell(picture: Picture, names: Sequence[str], name: str = "", about: tuple[str, ...] = ()) -> Cell:
    numbers = tuple(_caption(one, picture.evidence.get(one)) for one in names)
    return Cell(pixels=picture.pixels, name=name, about=about, numbers=numbers)


def _copies(pictures: Pictures, picture: Picture) -> dict[str, np.ndarray]:
    """The stored copy of the photo that a picture was made from, and the picture before an edit, by what they are."""
    run, record = pictures.run, picture.record
    found: dict[str, np.ndarray] = {}
    maps = record.get("maps") or {}
    for heading, name in (("photo", "photo"), ("decoded", "original")):
        if (file := run.map_file(maps.get(name))) is not None:
            found[heading] = read_pixels(file, "RGB")
    if "photo" not in found:
        sha256 = (record.get("photo") or {}).get("sha256") if isinstance(record.get("photo"), Mapping) else None
        folder = picture.path.parent.name
        originals = (run.context(folder) or {}).get("originals")
        for entry in originals if isinstance(originals, list) else ():
            if isinstance(entry, Mapping) and entry.get("sha256") == sha256 and isinstance(entry.get("file"), str):
                file = run.path / "context" / folder / entry["file"]
                if is_inside(file, run.path) and file.is_file():
                    found = {"photo": read_pixels(file, "RGB"), **found}
    return found


# --- captions --------------------------------------------------------------------------------------------------------


def _captions(pictures: Pictures, asked: str) -> list[str]:
    """The names of the measurements that are asked for."""
    known = list(dict.fromkeys(name for picture in pictures for name in picture.evidence))
    if not asked:
        return []
    if asked == HEADLINE:
        ranked = [name for name in [*headline_order(), *known] if name in known]
        if not ranked:
            raise UserError("there is nothing to print below the pictures: none of them has a measurement")
        have = Counter(name for p in pictures for name, e in p.evidence.items() if e.get("value") is not None)
        return [max(ranked, key=lambda name: (have[name], -ranked.index(name)))]
    names = [name.strip() for name in asked.split(",")]
    for name in names:
        if name not in known:
            raise UserError(f'no evidence "{name}"; there is {", ".join(known)}{nearest(name, known)}')
    return names


def _caption(name: str, entry: Mapping[str, Any] | None) -> Number:
    """A measurement with its interval and n."""
    card = METRICS.get(name)
    title = _SHORT.get(name) or (card.title if card is not None else name.replace("_", " "))
    value = None if entry is None else entry.get("value")
    if entry is None or value is None:
        return Number(title=f"{title} not measured", value="")
    scale = str(entry.get("scale") or "")
    unit = "\N{NO-BREAK SPACE}%" if scale == "%" else f" {scale}" if scale in ("nats", "sd") else ""
    bounds: Any = entry.get("interval")
    n: Any = entry.get("n")
    ends = isinstance(bounds, list) and len(bounds) == 2 and all(is_a(end, float) for end in bounds)
    about = []
    if ends and bounds[0] != bounds[1]:
        about.append(f"[{_number(bounds[0], scale)}, {_number(bounds[1], scale)}]")
    if is_a(n, float) and n > 1:
        about.append(f"n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{n:,.0f}")
    detail: Any = entry.get("detail")
    most = "at most " if isinstance(detail, dict) and detail.get("kl_is") == "upper_bound" else ""
    return Number(title=title, value=f"{most}{_number(value, scale)}{unit}", about=tuple(about))


_SHORT = {
    "percentile": "percentile", "activation": "activation", "margin": "margin", "rank": "rank", "robustness": "robustness",
    "transfer_top1": "transfer top-1", "transfer_top5": "transfer top-5", "transfer_probability": "transfer prob.",
    "selectivity": "selectivity", "nats": "KL", "cosine": "cosine", "cosine_standardised": "cosine, standardised",
    "specificity": "specificity", "two_afc": "2-AFC",
    "relevance_agreement": "relevance", "causal": "causal", "match_top1": "match top-1", "match_top5": "match top-5",
    "others_match_top1": "others top-1", "others_match_top5": "others top-5", "sample_sd": "spread",
    "map_percentile": "map percentile", "effect_p": "p", "affected_area": "area", "attenuation": "attenuation",
    "leakage": "leakage", "logit_change": "logit change", "map_cosine": "map cosine",
}  # fmt: skip
"""Names of measurements below a picture, where their titles are too long."""


def _number(value: float, scale: str) -> str:
    """A number with three digits. A share of 99.97 % is not rounded up to all, nor one of 0.02 % down to none."""
    size = abs(value)
    if scale == "%":
        rounded = math.floor(10 * size) / 10 if size < 100 else size
        text = f"{rounded:.1f}".removesuffix(".0") if size == 0 or rounded > 0 else "<0.1"
    elif size >= 1000:
        text = f"{size:,.0f}" if size < 1e6 else f"{size:.2e}"
    elif size >= 100:
        text = f"{size:.0f}"
    else:
        text = f"{size:.3g}" if size == 0 or size >= 1e-3 else f"{size:.1e}"
    return ("\N{MINUS SIGN}" if value < 0 else "") + text


def _description(pictures: Pictures) -> str:
    """The pictures in words, with their keys, so that a figure can be traced back to its run."""
    models = ", ".join(dict.fromkeys(str(picture.record["model"]["name"]) for picture in pictures))
    head = f"{len(pictures)} picture{'s' if len(pictures) > 1 else ''} of units of {models}, by {', '.join(pictures.methods)}"
    lines = [
        f"{picture.unit}{f' ({picture.label})' if picture.label else ''} by {picture.method}, sample {picture.sample}, "
        f"key {str(picture.record.get('key'))[:12]}"
        for picture in pictures
    ]
    return "\n".join([head, *lines])

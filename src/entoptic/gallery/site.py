"""The static site of a run: one index, one page for each unit, no server and no build step."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from entoptic.base.files import check_inside, check_own, is_inside, user_path, write_atomically
from entoptic.base.records import read_json, why
from entoptic.errors import Unreadable, UserError
from entoptic.gallery import explain
from entoptic.gallery.panel import read_frontier, read_steering
from entoptic.gallery.unit_photos import maps_of, read_context

UNITS_PER_PAGE = 60
ASSETS = ("style.css", "common.js", "index.js", "unit.js", "icon.svg")
GENERATOR = "entoptic gallery"
MARK = ".entoptic-gallery"
"""A file that tells a folder that the gallery has written."""
_GENERATED = f'content="{GENERATOR}"'.encode()
LEFT_OUT_SHOWN = 500
# Methods in the order of a reader's questions: what the unit looks for, then what it sees in real photos.
METHOD_ORDER = (
    "vital", "vital-paper", "klsc", "klsc-twisted", "energydps", "best-of", "prompt", "prompt-words", "prompt-class",
    "deep-inversion", "deep-inversion-adaptive", "maco", "fourier", "pixels", "retrieval", "retrieval-tilted", "retrieval-bottom",
    "invert",
)  # fmt: skip

_PNG = b"\x89PNG\r\n\x1a\n"


class _LeftOut(Exception):
    """Why one picture cannot be shown."""


@dataclass(frozen=True)
class Shown:
    """One picture with its sidecar, checked. `folder` is its folder's name below `RUN/pictures`."""

    folder: str
    file: str
    width: int  # pixels, of the file itself
    height: int
    sidecar: Mapping[str, Any]

    @property
    def unit(self) -> str:
        return str(self.sidecar["unit"])

    @property
    def label(self) -> str:
        """What the unit is called, or "" where it has no name but its address."""
        label = str(self.sidecar.get("label") or "").strip()
        return "" if label == self.unit else label

    @property
    def model(self) -> str:
        return str(_mapping(self.sidecar.get("model")).get("name") or "an unnamed model")

    @property
    def method(self) -> str:
        return str(self.sidecar["method"])

    @property
    def method_title(self) -> str:
        return str(self.sidecar.get("method_title") or self.method)

    @property
    def sample(self) -> int:
        return int(self.sidecar["sample"])

    @property
    def key(self) -> str:
        return str(self.sidecar["key"])

    @cached_property
    def anchor(self) -> str:
        return re.sub(r"[^\w.-]", "-", f"{self.method}-{self.sample}-{self.key[:8]}")

    @property
    def alt(self) -> str:
        if isinstance(self.sidecar.get("alt"), str):  # of a picture that does not show what a unit looks for
            return self.sidecar["alt"]
        name = f"{self.unit} ({self.label})" if self.label else self.unit
        if self.unit.startswith("fmap("):
            return f"A picture with the map {self.unit} of {self.model}, sample {self.sample}"
        return f"What {name} of {self.model} looks for, by {self.method}, sample {self.sample}"

    @cached_property
    def readings(self) -> tuple[explain.Reading, ...]:
        return tuple(explain.explain(item, label=self.label) for item in self.sidecar.get("evidence") or ())

    @cached_property
    def headline(self) -> explain.Reading | None:
        return explain.headline(self.readings)


def build(run_folder: Path, out: Path | None = None) -> Path:
    """Write the gallery of a run and return the path of its `index.html`.

    run_folder: a folder with `pictures/<slug>/*.png`, each beside its `.json` sidecar, and `run.json`.
    out: where the site goes, `RUN/gallery` by default. Pictures are linked by relative path and never copied.

    Files whose content has not changed are left alone; pages of units that are gone are removed. Pictures
    that cannot be shown are listed on the index with the reason.

    Raises UserError where there is no such folder, no picture to show, or nothing can be written.
    """
    run_folder = user_path(run_folder)
    given = out is not None
    out = user_path(out) if out is not None else run_folder / "gallery"
    if not run_folder.is_dir():
        raise UserError(f'no run folder "{run_folder}"; expected a folder written by `entoptic see --out`')
    try:
        shown, left_out = _read(run_folder)
    except OSError as error:
        raise UserError(f'cannot read the run "{run_folder}": {error.strerror or error}') from error
    if not shown:
        cause = f": {left_out[0][0]} is left out ({left_out[0][1]})" if left_out else ""
        more = f" and {len(left_out) - 1} more" if len(left_out) > 1 else ""
        raise UserError(
            f'no picture to show in "{run_folder}"{cause}{more}; expected '
            f"{Path('pictures') / 'UNIT' / '*.png'} with their sidecars, as `entoptic see --out` writes them"
        )
    run, fault = _run(run_folder)
    left_out = [*fault, *left_out]
    try:
        if not given:
            check_inside(out, run_folder)
        check_own(out, marks=set() if _is_foreign(out) else {MARK, "index.html"}, what="gallery")
    except UserError as error:
        raise UserError(f'cannot write the gallery to "{out}": {error}') from None
    try:
        root = quote(Path(os.path.relpath(run_folder.resolve(), out.resolve())).as_posix())
    except ValueError:  # two drives of a Windows machine have no relative path between them
        raise UserError(f'the gallery "{out}" must lie on the same drive as the run "{run_folder}"') from None
    try:
        return _write_site(run, _units(shown), left_out, run_folder, root, out)
    except OSError as error:
        raise UserError(f'cannot write the gallery to "{out}": {error.strerror or error}') from error


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


# ---- reading -------------------------------------------------------------------------------------


def _run(run_folder: Path) -> tuple[dict[str, str], list[tuple[str, str]]]:
    fallback = run_folder.resolve().name
    try:
        run = _read_inside(run_folder / "run.json", run_folder)
    except Unreadable as error:
        return {"title": fallback, "created": ""}, [("run.json", _reason(error))]
    return {"title": str(run.get("title") or fallback), "created": str(run.get("created") or "")}, []


def _read_inside(file: Path, run_folder: Path) -> dict[str, Any]:
    """The JSON object in a file of the run."""
    if not is_inside(file, run_folder) and file.exists():
        raise Unreadable("it is a link to what lies outside of the run")
    return read_json(file)


def _reason(error: Unreadable) -> str:
    """What is wrong with a file, without its name."""
    return str(error).partition(" cannot be read: ")[2] or str(error).partition(" that can be read: ")[2] or str(error)


def _is_foreign(out: Path) -> bool:
    """Whether a folder's index.html is of something else: another site must not be overwritten."""
    index = out / "index.html"
    if (out / MARK).exists() or not index.is_file():
        return False
    with open(index, "rb") as stream:
        return _GENERATED not in stream.read(1024)


def _read(run_folder: Path) -> tuple[list[Shown], list[tuple[str, str]]]:
    shown: list[Shown] = []
    left_out: list[tuple[str, str]] = []
    seen: dict[tuple[str, str, str, str], str] = {}
    pictures = run_folder / "pictures"
    entries = pictures.iterdir() if pictures.is_dir() else ()
    for folder in sorted(entry for entry in entries if entry.is_dir()):
        # Hidden files are others' unfinished writes.
        names = {entry.name for entry in os.scandir(folder) if not entry.name.startswith(".")}
        stems = sorted({name.rpartition(".")[0] for name in names if name.endswith((".png", ".json"))})
        for stem in stems:
            try:
                picture = _picture(folder, stem, names)
                identity = (picture.folder, picture.model, picture.unit, picture.key)
                if identity in seen:
                    raise _LeftOut(f"the same picture as {seen[identity]}")
                seen[identity] = stem
                shown.append(picture)
            except _LeftOut as reason:
                suffix = ".png" if f"{stem}.png" in names else ".json"
                left_out.append((f"{folder.name}/{stem}{suffix}", str(reason)))
    return shown, left_out


def _picture(folder: Path, stem: str, names: set[str]) -> Shown:
    if f"{stem}.json" not in names:
        raise _LeftOut("its sidecar is missing")
    try:
        sidecar = _read_inside(folder / f"{stem}.json", folder.parent.parent)
    except Unreadable as error:
        raise _LeftOut(f"its sidecar cannot be read: {_reason(error)}") from None
    _check(sidecar)
    file = sidecar["image"]["file"]
    if file != f"{stem}.png":
        raise _LeftOut(f'its sidecar names another file, "{file}"')
    if file not in names:
        raise _LeftOut("there is a sidecar but no picture")
    if not (folder / file).is_file() or not is_inside(folder / file, folder.parent.parent):
        raise _LeftOut("the picture is no file of this run, but a link to something else")
    try:
        with open(folder / file, "rb", buffering=0) as stream:
            head = stream.read(24)
    except OSError as error:
        raise _LeftOut(f"the picture cannot be read: {why(error)}") from None
    if head[:8] != _PNG or len(head) < 24:
        raise _LeftOut("the picture is not a PNG file")
    width, height = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    stated = (sidecar["image"].get("width", width), sidecar["image"].get("height", height))
    if stated != (width, height):
        says = f"its sidecar says {stated[0]} × {stated[1]}"
        raise _LeftOut(f"the picture is {width} × {height} pixels, {says}")
    picture = Shown(folder.name, file, width, height, sidecar)
    try:
        _ = picture.readings
    except (ArithmeticError, TypeError, ValueError, LookupError, AttributeError):
        raise _LeftOut("the evidence in its sidecar cannot be read") from None
    return picture


def _check(sidecar: Any) -> None:
    """Raise `_LeftOut` where a sidecar lacks what a page cannot do without, or holds it in another form."""
    if not isinstance(sidecar, dict):
        raise _LeftOut("its sidecar does not hold a JSON object")
    for name in ("unit", "method", "key"):
        if not isinstance(sidecar.get(name), str) or not sidecar[name]:
            raise _LeftOut(f'its sidecar has no "{name}"')
    if not isinstance(sidecar.get("sample"), int):
        raise _LeftOut('its sidecar has no "sample" number')
    if not isinstance(_mapping(sidecar.get("image")).get("file"), str):
        raise _LeftOut('its sidecar has no "image" with a "file"')
    evidence = sidecar.get("evidence") or []
    if not isinstance(evidence, list):
        raise _LeftOut('"evidence" in its sidecar is not a list')
    for item in evidence:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise _LeftOut("its sidecar holds a measurement without a name")
        value = item.get("value")
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise _LeftOut(f'"{item["name"]}" in its sidecar is not a number')


# ---- units ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _UnitPage:
    name: str  # of the page, without ".html"
    pictures: tuple[Shown, ...]  # of one unit of one model, by method, then sample

    @property
    def href(self) -> str:
        return quote(f"{self.name}.html")

    @property
    def heading(self) -> str:
        return self.pictures[0].label or self.pictures[0].unit


def _natural(text: str) -> tuple[Any, ...]:
    """A sorting key under which blocks.2 comes before blocks.10."""
    parts = re.split(r"([0-9]+)", text)
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)


def _method_order(method: str) -> tuple[int, str]:
    return (METHOD_ORDER.index(method) if method in METHOD_ORDER else len(METHOD_ORDER), method)


def _units(shown: Sequence[Shown]) -> list[_UnitPage]:
    groups: dict[tuple[str, str, str], list[Shown]] = {}
    for picture in shown:
        groups.setdefault((picture.model, picture.unit, picture.folder), []).append(picture)
    pages: list[_UnitPage] = []
    taken: set[str] = set()
    for model, unit, folder in sorted(groups, key=lambda key: tuple(_natural(part) for part in key)):
        digest = hashlib.sha256(f"{model}\n{unit}\n{folder}".encode()).hexdigest()[:8]
        # One folder may hold one unit of two models; and a name must fit a file system.
        name = f"unit-{folder}" if len(folder.encode()) <= 200 else f"unit-{folder[:50]}-{digest}"
        if name in taken:
            name = f"{name}-{digest}"
        taken.add(name)
        pictures = groups[model, unit, folder]
        pictures.sort(key=lambda one: (_method_order(one.method), one.sample, _weight(one), one.key))
        pages.append(_UnitPage(name, tuple(pictures)))
    return pages


def _weight(picture: Shown) -> float:
    """A mixture's weight, which orders its pictures; 0 for all others."""
    weight = _mapping(picture.sidecar.get("config")).get("weight")
    return float(weight) if isinstance(weight, int | float) and math.isfinite(weight) else 0.0


def _variants(pictures: Sequence[Shown]) -> dict[str, str]:
    """By anchor, what sets a picture apart from others of its method and sample: "steps 100, seed 1"."""
    groups: dict[tuple[str, int], list[Shown]] = {}
    for picture in pictures:
        groups.setdefault((picture.method, picture.sample), []).append(picture)
    variants: dict[str, str] = {}
    for group in groups.values():
        if len(group) == 1:
            continue
        recipes = [{**_mapping(one.sidecar.get("config")), "seed": one.sidecar.get("seed")} for one in group]
        names = sorted({name for recipe in recipes for name in recipe})
        differ = [name for name in names if len({repr(recipe.get(name)) for recipe in recipes}) > 1]
        for one, recipe in zip(group, recipes, strict=True):
            parts = [f"{name} {_plain(recipe.get(name))}" for name in differ[:3]]
            variants[one.anchor] = ", ".join(parts) or f"key {one.key[:8]}"
    return variants


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# ---- the trace -----------------------------------------------------------------------------------


def _sparkline(trace: Mapping[str, Any]) -> dict[str, str] | None:
    """The loss curve as an SVG path in a box of 240 × 48, with its reading; None where there is no curve."""
    points: list[tuple[float, float]] = []
    for point in _list(trace.get("loss")):
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
    reading = f"{explain.number(losses[0])} → {explain.number(losses[-1])}" + (" (log scale)" if is_log else "")
    return {
        "path": "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in spots),
        "x": f"{spots[-1][0]:.1f}",
        "y": f"{spots[-1][1]:.1f}",
        "reading": reading,
        "alt": f"Loss from {explain.number(losses[0])} to {explain.number(losses[-1])} over the run",
    }


def _course(trace: Mapping[str, Any]) -> str:
    """`300 steps in 24.1 s, finished`, of what the trace tells."""
    parts = []
    if isinstance(trace.get("steps"), int):
        parts.append(f"{trace['steps']:,} steps")
    seconds = trace.get("seconds")
    if isinstance(seconds, (int, float)) and math.isfinite(seconds):
        parts.append(f"{'in ' if parts else ''}{explain.number(seconds)}{explain.SPACE}s")
    text = " ".join(parts)
    stopped = str(trace.get("stopped") or "")
    return f"{text}, {stopped}" if text and stopped else text or stopped


# ---- writing -------------------------------------------------------------------------------------


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("entoptic.gallery", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = _plain
    return environment


def _write_site(
    run: Mapping[str, str],
    pages: Sequence[_UnitPage],
    left_out: Sequence[tuple[str, str]],
    run_folder: Path,
    root: str,
    out: Path,
) -> Path:
    base = f"{root}/pictures"
    _write(out / MARK, "Written by `entoptic gallery`, which may write this folder again.\n")
    environment = _environment()
    for asset in ASSETS:
        text = resources.files("entoptic.gallery").joinpath("templates", asset).read_text(encoding="utf-8")
        _write(out / asset, text)
    template = environment.get_template("unit.html")
    for before, page, after in zip([None, *pages[:-1]], pages, [*pages[1:], None], strict=True):
        context = _unit_context(page, run_folder, root)
        _write(out / f"{page.name}.html", template.render(run=run, before=before, after=after, **context))
    data = json.dumps(_data(pages, base), separators=(",", ":"), allow_nan=False)
    _write(out / "data.js", f"window.ENTOPTIC = {data};\n")
    models = sorted({page.pictures[0].model for page in pages})
    index = environment.get_template("index.html").render(
        run=run,
        models=models,
        pages=pages,
        pictures=sum(len(page.pictures) for page in pages),
        methods=sorted({one.method for page in pages for one in page.pictures}, key=_method_order),
        left_out=left_out[:LEFT_OUT_SHOWN],
        left_out_count=len(left_out),
    )
    # The index comes last: it never names a page that is not there yet.
    path = out / "index.html"
    _write(path, index)
    _remove_stale(out, {f"{page.name}.html" for page in pages})
    return path


def _write(path: Path, text: str) -> None:
    content = text.encode("utf-8", errors="replace")
    check_inside(path, path.parent)
    try:
        if path.read_bytes() == content:
            return
    except FileNotFoundError:
        pass
    write_atomically(path, content)


def _remove_stale(out: Path, current: set[str]) -> None:
    for path in out.glob("unit-*.html"):
        if path.name in current or path.is_symlink() or not path.is_file():
            continue
        with open(path, "rb") as stream:  # only what this gallery has written is its own to remove
            is_ours = _GENERATED in stream.read(1024)
        if is_ours:
            path.unlink()


def _source(picture: Shown, base: str) -> str:
    return f"{base}/{quote(picture.folder)}/{quote(picture.file)}"


def _unit_context(page: _UnitPage, run_folder: Path, root: str) -> dict[str, Any]:
    base = f"{root}/pictures"
    variants = _variants(page.pictures)
    first = page.pictures[0]
    rows: dict[str, explain.Reading] = {}
    for picture in page.pictures:
        for reading in picture.readings:
            rows.setdefault(reading.name, reading)
    cards = []
    for picture in page.pictures:
        side = picture.sidecar
        trace = _mapping(side.get("trace"))
        title, _, source = picture.method_title.partition(" (")
        paper = str(side.get("paper") or "")
        maps = maps_of(run_folder, side, root)
        cards.append(
            {
                "it": picture,
                "src": _source(picture, base),
                "maps": maps,
                "steering": read_steering(side, maps),
                "sidecar": _source(picture, base).removesuffix(".png") + ".json",
                "title": title,
                "source": source.removesuffix(")"),
                "paper": paper,
                "paper_href": _paper_href(paper),
                "variant": variants.get(picture.anchor, ""),
                "by_name": {reading.name: reading for reading in picture.readings},
                "spark": _sparkline(trace),
                "course": _course(trace),
                "notes": [str(note) for note in _list(trace.get("notes"))],
                "config": {"seed": side.get("seed"), **_mapping(side.get("config"))},
                "command": str(side.get("command") or ""),
                "provenance": list(_provenance(side)),
            }
        )
    weights = str(_mapping(first.sidecar.get("model")).get("weights_sha256") or "")
    photos = read_context(run_folder, first.folder, weights, root)
    panel = read_frontier(run_folder, first.folder, weights)
    return {
        "page": page, "first": first, "cards": cards, "rows": list(rows.values()), "photos": photos, "frontier": panel
    }  # fmt: skip


def _paper_href(paper: str) -> str:
    if re.fullmatch(r"arXiv:[\w./-]+", paper):
        return f"https://arxiv.org/abs/{paper.removeprefix('arXiv:')}"
    return paper if re.match(r"https?://", paper) else ""


def _provenance(side: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    model, references = _mapping(side.get("model")), _mapping(side.get("references"))
    size = model.get("size")
    entries = [
        ("picture sha256", _mapping(side.get("image")).get("sha256")),
        ("key", side.get("key")),
        ("model", model.get("name")),
        ("model weights sha256", model.get("weights_sha256")),
        ("model licence", model.get("licence")),
        ("model input", " × ".join(str(part) for part in size) if isinstance(size, list) else size),
        ("layer", side.get("layer")),
        ("readout", side.get("readout")),
        ("references", references.get("source")),
        ("references, n", references.get("n")),
        ("references sha256", references.get("sha256")),
        *((f"{name} version", version) for name, version in _mapping(side.get("versions")).items()),
    ]
    for name, value in entries:
        if value is not None and value != "":
            yield name, _plain(value)


def _data(pages: Sequence[_UnitPage], base: str) -> dict[str, Any]:
    """What the index draws from: short keys, because a run may hold ten thousand pictures."""
    methods: dict[str, str] = {}
    for page in pages:
        for picture in page.pictures:
            methods.setdefault(picture.method, picture.method_title)
    order = sorted(methods, key=_method_order)
    place = {method: index for index, method in enumerate(order)}
    many_models = len({page.pictures[0].model for page in pages}) > 1
    units = []
    for page in pages:
        first = page.pictures[0]
        variants = _variants(page.pictures)
        pictures = []
        for one in page.pictures:
            head = one.headline
            chip = [head.chip, head.chip_note, head.tone, head.sentence] if head else []
            start = [place[one.method], one.sample, one.anchor, quote(one.file), one.width, one.height]
            pictures.append([*start, variants.get(one.anchor, ""), *chip])
        units.append(
            {
                "id": page.name,
                "href": page.href,
                "unit": first.unit,
                "label": first.label,
                "model": first.model,
                "layer": str(first.sidecar.get("layer") or ""),
                "folder": quote(first.folder),
                "pictures": pictures,
            }
        )
    return {
        "base": base,
        "perPage": UNITS_PER_PAGE,
        "manyModels": many_models,
        "methods": [[method, methods[method]] for method in order],
        "units": units,
    }

"""Pictures with the feature map of a photo, or of an edit of it: made by an inverter, measured and stored."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor, nn

from entoptic.errors import UserError, nearest
from entoptic.images.cache import content_key
from entoptic.images.photos import Photos, decode
from entoptic.inversion.arithmetic import MIXINGS, compose, interpolate, region_mask
from entoptic.inversion.inverter import check_inverter
from entoptic.inversion.maps import FeatureMaps
from entoptic.inversion.options import Sampling
from entoptic.metrics.distribution import features
from entoptic.metrics.evidence import Evidence, missing
from entoptic.metrics.inversion import (
    Wanted,
    distances,
    has_features,
    matches,
    mean_cosine,
    measure_inversion,
    predictions,
    sample_sd,
    spread,
    superpixel_cosine,
)
from entoptic.metrics.picture import to_float
from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.models.sources import load
from entoptic.priors.learn import square
from entoptic.runs.context import opaque, small_jpeg
from entoptic.runs.progress import Reporter, reporter
from entoptic.runs.see import find_verifiers, model_record, quantise, version, versions
from entoptic.runs.store import FORMAT, Picture, Run, Unwritable
from entoptic.units.grammar import parse
from entoptic.units.unit import slug

if TYPE_CHECKING:
    from entoptic.inversion.inverter import Inverter

METHOD, TITLE = "invert", "Inversion of a feature map (FeatInv, Neukirch et al. 2025)"
RECIPE = 1
"""Raised whenever the same request makes other pictures."""
EVIDENCE = 1
"""Raised whenever something else is measured: pictures measured by an older one are measured again."""
SD_WHITE = 0.25
"""Standard deviation over samples (pixels range over 1) that is white in the stored map `sd`."""
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
SET = 50
"""Least pictures, and least photos for distances between the two, that are measured as a set."""
SET_FILE = "inversion.json"
_HELD = 16  # photos whose maps are kept at a time


def invert(
    model: str | nn.Module | Model,
    layer: str,
    photos: str | Path | Sequence[str | Path],
    *,
    n: int = 4,
    inverter: str | Inverter | None = None,
    prior: str | None = None,
    mix: str | Path | None = None,
    weights: str | Sequence[float] = WEIGHTS,
    mixing: str = "linear",
    paste: str | Path | None = None,
    region: str | Sequence[float] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    verifiers: str | Sequence[str | Model] = "auto",
    batch_size: int | None = None,
    device: str = "auto",
    card: Card | None = None,
    context: bool = True,
    progress: bool = True,
    **options: Any,
) -> Run:
    """Draws pictures that have a photo's feature map, measures and stores them.

    Args:
        model: anything `load` takes. layer: one with a map over the picture. card: for a bare `nn.Module`.
        photos: image files, and folders of them. Of each its central square is inverted.
        n: pictures per map; sample k of every edit of a photo starts from the same noise.
        inverter: anything `load_inverter` takes; None is the shipped one. prior: where the prior that it was trained on
            is now, if not where its card says; another prior is refused.
        mix: a second photo, whose map is mixed in with each of `weights`. mixing: as in `arithmetic.interpolate`.
        paste: a second photo, whose map is put in at `region` (top, left, bottom, right in cells of the map).
        out: the run folder (default `runs/MODEL`). What is there already is not made again.
        verifiers: as in `see`; each is asked what it says to the original.
        context: store a small copy of the photo for the gallery.
        options: fields of `Sampling`: steps, guidance, strength, pull, best_of.

    Returns:
        The run. Photos that could not be read are named in `run.failures`; the others are finished.

    Raises:
        UserError: bad input, an inverter for another model or layer, or every picture failed.
    """
    known = {one.name for one in fields(Sampling)}
    for name in options:
        if name not in known:
            raise UserError(f'no option "{name}" in invert; there are {", ".join(sorted(known))}{nearest(name, known)}')
    if n < 1:
        raise UserError(f"n is the number of pictures per map and must be at least 1, got {n}")
    if batch_size is not None and batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size}")
    sampling = Sampling(**options)
    subject = load(model, card, device=device)
    maps = FeatureMaps.of(subject, layer)
    used, source = _inverter(inverter, subject, prior)
    check_inverter(used, maps)
    # The ablation is there to show what a map without places gives: nothing may bring the places in again.
    if getattr(getattr(used, "recipe", None), "pooled", False) and sampling.looked_at:
        raise UserError(
            f"the inverter {used.name} is an ablation that sees maps pooled over positions, and nothing else may choose or "
            "change its pictures; leave best_of at 1 and pull at 0"
        )
    edits = _edits(maps, mix, weights, mixing, paste, region)
    if sampling.best_of > 1 and edits[0].kind:
        raise UserError("edits are compared at the same noise, so they take no best-of; leave one of the two out")
    called = subject.card.name.partition(":")[2] or subject.card.name
    run = Run(out if out is not None else Path("runs") / called.replace("/", "-"))
    judges = [v for v in find_verifiers(subject, verifiers) if v.card.weights_sha256 != subject.card.weights_sha256]
    size = batch_size or (10 if subject.device.type == "cpu" else 64)
    sources, failures = _sources(photos, layer)
    plan = _Plan(maps, used, source, prior, sampling, judges, run, n, seed, size, sources, edits, failures)
    with reporter(progress) as report:
        return _execute(plan, report, context)


# --- what is asked -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A photo file: its path as given, and the sha256 of its bytes."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Edit:
    """What is done to a photo's map: nothing, `kind` "mix" or "paste" with another photo's."""

    kind: str = ""
    other: Source | None = None
    weight: float = 0.0
    mixing: str = "linear"
    region: tuple[int, ...] = ()

    def apply(self, a_Chw: Tensor, b_Chw: Tensor) -> Tensor:
        """The edited map."""
        if self.kind == "mix":
            return interpolate(a_Chw, b_Chw, self.weight, self.mixing)
        return compose(a_Chw, b_Chw, region_mask((a_Chw.shape[1], a_Chw.shape[2]), self.region))

    def config(self) -> dict[str, Any]:
        """For the sidecar and the key."""
        if self.other is None:
            return {}
        found = {self.kind: self.other.path, f"{self.kind}_sha256": self.other.sha256}
        if self.kind == "mix":
            return found | {"weight": self.weight, "mixing": self.mixing}
        return found | {"region": list(self.region)}

    @classmethod
    def of(cls, config: dict[str, Any]) -> Edit:
        """The edit that `config` wrote."""
        for kind in ("mix", "paste"):
            if kind in config:
                other = Source(config[kind], config[f"{kind}_sha256"])
                region = tuple(config.get("region") or ())
                return cls(kind, other, config.get("weight", 0.0), config.get("mixing", "linear"), region)
        return cls()


@dataclass(frozen=True)
class _Task:
    """One picture to make."""

    source: Source
    edit: Edit
    sample: int
    set: str  # hash of all but the sample: pictures of one set differ by their noise alone
    key: str
    file: Path


@dataclass
class _Plan:
    maps: FeatureMaps
    inverter: Inverter
    inverter_source: str
    prior_source: str | None  # None: as the inverter's card says
    sampling: Sampling
    verifiers: list[Model]
    run: Run
    n: int
    seed: int
    batch_size: int
    sources: list[Source]
    edits: list[Edit]
    failures: list[str] = field(default_factory=list)

    def config(self, edit: Edit) -> dict[str, Any]:
        """What was asked, with the inverter's defaults filled in."""
        asked, own = self.sampling, self.inverter
        return {
            "steps": asked.steps if asked.steps is not None else own.steps,
            "guidance": asked.guidance if asked.guidance is not None else own.guidance,
            "strength": asked.strength if asked.strength is not None else own.strength,
            "pull": asked.pull, "best_of": asked.best_of,
        } | edit.config()  # fmt: skip

    def tasks(self) -> Iterator[_Task]:
        card = self.maps.model.card
        for source in self.sources:
            for edit in self.edits:
                unit = unit_of(self.maps.layer, source)
                whole = content_key({
                    "recipe": RECIPE, "unit": unit, "photo": source.sha256, "method": METHOD, "seed": self.seed,
                    "config": {k: v for k, v in self.config(edit).items() if k not in ("mix", "paste")},
                    "edit": edit.kind, "weights": card.weights_sha256, "card": card.preprocessing(),
                    "inverter": self.inverter.identity,
                })  # fmt: skip
                for sample in range(self.n):
                    key = content_key({"set": whole, "sample": sample})
                    file = self.run.file(slug(unit), f"{METHOD}-{sample}-{key[:12]}")
                    yield _Task(source, edit, sample, whole, key, file)


def unit_of(layer: str, source: Source) -> str:
    """The unit string of a photo's whole map."""
    return f"fmap({layer})<{source.path}>"


def _inverter(inverter: str | Inverter | None, model: Model, prior: str | None) -> tuple[Inverter, str]:
    """The inverter and the name to load it by again."""
    if inverter is not None and not isinstance(inverter, str):
        if prior is not None:
            raise UserError(
                f"the inverter {inverter.name} is loaded and has its prior; give prior={prior!r} to load_inverter, or the "
                "inverter by its name"
            )
        return inverter, inverter.name
    from entoptic.inversion.saved import SHIPPED, load_inverter

    source = inverter or SHIPPED
    return load_inverter(source, model=model, prior=prior, device=str(model.device)), source


def _sources(photos: str | Path | Sequence[str | Path], layer: str) -> tuple[list[Source], list[str]]:
    """Photo files in order, folders unfolded, doubles dropped; and why some cannot be read."""
    given = [photos] if isinstance(photos, (str, Path)) else list(photos)
    paths: list[Path] = []
    failures = []
    for one in map(Path, given):
        try:
            paths += [one / photo.name for photo in Photos.open(one)] if one.is_dir() else [one]
        except UserError as error:
            failures.append(f"{one}: {error}")
    found: dict[str, Source] = {}
    for path in paths:
        try:
            source = _source(path)
            parse(unit_of(layer, source))
            found.setdefault(source.path, source)
        except UserError as error:
            failures.append(str(error))
    if not found:
        raise UserError(failures[0] if failures else "no photo was named; give image files or a folder of them")
    return list(found.values()), failures


def _source(path: str | Path) -> Source:
    try:
        return Source(str(Path(path)), hashlib.sha256(Path(path).read_bytes()).hexdigest())
    except OSError as error:
        siblings = [p.name for p in Path(path).parent.glob("*")] if Path(path).parent.is_dir() else []
        raise UserError(f"{path} cannot be read ({error.strerror}){nearest(Path(path).name, siblings)}") from None


def _edits(
    maps: FeatureMaps, mix: Any, weights: Any, mixing: str, paste: Any, region: Any
) -> list[Edit]:  # fmt: skip
    if mix is not None and paste is not None:
        raise UserError("a map is either mixed with another (mix) or has a part of it put in (paste); give one of them")
    if region is not None and paste is None:
        raise UserError("a region was given without the photo to paste there; give --paste PHOTO")
    if mix is not None:
        if mixing not in MIXINGS:
            raise UserError(f'no mixing "{mixing}"; there are {", ".join(MIXINGS)}{nearest(mixing, MIXINGS)}')
        other = _readable(mix)
        shares = _numbers(weights, "weights", "0,.25,.5,.75,1")
        return [Edit("mix", other, weight, mixing) for weight in dict.fromkeys(shares)]
    if paste is not None:
        if region is None:
            rows, columns = maps.grid
            raise UserError(f"paste needs a region of the map, top,left,bottom,right in its {rows}×{columns} cells")
        cells = _numbers(region, "region", "0,0,3,3")
        if any(cell != int(cell) for cell in cells):
            raise UserError(f"a region is in whole cells, got {','.join(f'{c:g}' for c in cells)}")
        region_mask(maps.grid, cells)
        return [Edit("paste", _readable(paste), region=tuple(int(cell) for cell in cells))]
    return [Edit()]


def _readable(path: str | Path) -> Source:
    source = _source(path)
    _image(source.path)
    return source


def _numbers(given: Any, what: str, example: str) -> list[float]:
    try:
        parts = given.split(",") if isinstance(given, str) else list(given)
        found = [float(part) for part in parts]
    except (TypeError, ValueError):
        found = []
    if not found or not all(np.isfinite(found)):
        raise UserError(f"{what} are numbers with commas between them, such as {example}, got {given!r}")
    return found


def _image(path: str) -> Image.Image:
    try:
        return decode(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path} cannot be read ({error})") from None


# --- photos and what networks make of them -------------------------------------------------------------------------


@dataclass
class _Read:
    """A photo as the network sees it: 1×3×S×S in [0, 1], its map C×h×w and its class."""

    original: Tensor
    map_Chw: Tensor
    target: int
    others: list[tuple[Model, int]]


class Reader:
    """Photos with their maps and predictions, the last few of them kept."""

    def __init__(self, maps: FeatureMaps, verifiers: Sequence[Model], image: Callable[[Source], Image.Image]) -> None:
        self._maps, self._verifiers, self._image = maps, verifiers, image
        self._held: dict[str, _Read] = {}

    @torch.no_grad()
    def __call__(self, source: Source) -> _Read:
        """Raises UserError where the photo cannot be read."""
        if source.sha256 not in self._held:
            original = square(self._image(source), self._maps.model.card.size[0])[None].float() / 255
            others = [(v, int(predictions(v, original).argmax())) for v in self._verifiers]
            target = int(predictions(self._maps.model, original).argmax())
            while len(self._held) >= _HELD:
                del self._held[next(iter(self._held))]
            self._held[source.sha256] = _Read(original, self._maps.read(original)[0].cpu(), target, others)
        return self._held[source.sha256]

    @torch.no_grad()
    def wanted(self, source: Source, edit: Edit, looked_at: str, before: np.ndarray | None = None) -> Wanted:
        """What pictures of an edit of a photo are to bring back."""
        own = self(source)
        if edit.other is None:
            return Wanted(own.map_Chw, own.target, (), own.others, looked_at=looked_at)
        other = self(edit.other)
        edited = edit.apply(own.map_Chw, other.map_Chw)
        says = self._maps.logits(edited[None].to(self._maps.model.device), own.original)[0].double().softmax(0).cpu()
        path = [(place, float(says[place])) for place in (own.target, other.target)]
        mask = region_mask(self._maps.grid, edit.region) if edit.kind == "paste" else None
        return Wanted(edited, int(says.argmax()), path, (), mask, before, looked_at)


# --- making --------------------------------------------------------------------------------------------------------


def generator(seed: int, unit: str, sample: int, candidate: int = 0) -> Generator:
    """A generator of its own for each picture; all edits of a photo share it, candidates of best-of do not."""
    words = f"{seed}|{unit}|{sample}" + (f"|{candidate}" if candidate else "")
    digest = hashlib.sha256(words.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _execute(plan: _Plan, report: Reporter, context: bool) -> Run:
    card = plan.maps.model.card
    about = {"entoptic": version("entoptic"), "title": card.name, "model": model_record(plan.maps.model)}
    plan.run.failures = list(plan.failures)
    reader = Reader(plan.maps, plan.verifiers, lambda source: _image(source.path))
    tasks = list(plan.tasks())
    with plan.run.writing(about):
        todo = [task for task in tasks if plan.run.finished(task.file, task.key) is None]
        report.start(METHOD, len(todo), len(tasks) - len(todo))
        each = max(1, plan.batch_size // plan.sampling.best_of)
        for start in range(0, len(todo), each):
            _make(plan, reader, todo[start : start + each], report)
        sets = list({(task.source, task.edit): task for task in tasks}.values())
        for done, task in enumerate(sets, 1):
            try:
                _settle(plan, reader, task)
            except UserError as error:
                if isinstance(error, Unwritable):
                    raise
                _fail(plan, str(error))
            report.progress("measuring samples together", done, len(sets))
        _write_set(plan, [task for task in tasks if not task.edit.kind])
        if context:
            _write_context(plan, reader)
    if plan.run.failures:
        if not len(plan.run):
            raise UserError(plan.run.failures[0])
        for failure in plan.run.failures:
            warnings.warn(failure, stacklevel=3)
    return plan.run


def _fail(plan: _Plan, reason: str) -> None:
    if reason not in plan.run.failures:
        plan.run.failures.append(reason)


def _make(plan: _Plan, reader: Reader, chunk: list[_Task], report: Reporter) -> None:
    started = time.monotonic()
    readable = []
    for task in chunk:
        try:
            readable.append((task, reader.wanted(task.source, task.edit, plan.sampling.looked_at)))
        except UserError as error:
            _fail(plan, str(error))
    try:
        drawn = _draw(plan, reader, readable)
    except UserError as error:
        if len(readable) > 1:  # one map that cannot be inverted must not take its mates along
            for task in chunk:
                _make(plan, reader, [task], report)
            return
        _fail(plan, ", ".join(unit_of(plan.maps.layer, task.source) for task, _ in readable) + f": {error}")
        drawn = []
    seconds = (time.monotonic() - started) / max(1, len(readable))
    for (task, wanted), (pixels, cosines, before) in zip(readable, drawn):
        trace: dict[str, Any] = {"seconds": round(seconds, 3), "stopped": "finished"}
        if len(cosines) > 1:
            trace["cosines of candidates"] = [round(cosine, 6) for cosine in cosines]
        evidence = _measure(plan.maps, plan.inverter, pixels, replace(wanted, before=before))
        record = _record(plan, reader, task, trace) | {"evidence": [e.to_json() for e in evidence]}
        shown = {} if before is None else {"pair": opaque(before)}
        plan.run.write(task.file, pixels, record, maps=shown)
    report.finish(len(chunk), time.monotonic() - started)


Drawn = tuple[np.ndarray, list[float], np.ndarray | None]
"""The picture kept, the cosines of its candidates, and the picture of the same noise without the edit."""


def _draw(plan: _Plan, reader: Reader, readable: list[tuple[_Task, Wanted]]) -> list[Drawn]:
    if not readable:
        return []
    best_of, inverter, asked = plan.sampling.best_of, plan.inverter, plan.sampling
    maps, generators = [], []
    for task, wanted in readable:
        # An edit of a part is compared with the photo's own map at the same noise, in the same batch.
        both = [wanted.map_Chw] + [reader(task.source).map_Chw] * (wanted.mask_hw is not None)
        for map_Chw in both:
            maps += [map_Chw] * best_of
            unit = unit_of(plan.maps.layer, task.source)
            generators += [generator(plan.seed, unit, task.sample, candidate) for candidate in range(best_of)]
    made = inverter.sample(
        torch.stack(maps).to(plan.maps.model.device), inverter.noise(generators), steps=asked.steps,
        strength=asked.strength, guidance=asked.guidance, pull=asked.pull, batch_size=plan.batch_size,
    ).cpu()  # fmt: skip
    if not bool(made.isfinite().all()):
        raise UserError("the inverter made pixels that are not finite; lower guidance, strength or pull")
    found: list[Drawn] = []
    place = 0
    for _, wanted in readable:
        candidates = [quantise(picture) for picture in made[place : place + best_of]]
        place += best_of
        before = None
        if wanted.mask_hw is not None:
            before = quantise(made[place])
            place += best_of
        cosines = [0.0]
        if best_of > 1:
            with torch.no_grad():
                seen = plan.maps.read(torch.cat([to_float(pixels) for pixels in candidates])).cpu()
            cosines = superpixel_cosine(seen, wanted.map_Chw[None].expand_as(seen)).tolist()
        found.append((candidates[int(np.argmax(cosines))], cosines, before))
    return found


def _measure(maps: FeatureMaps, inverter: Inverter, pixels: np.ndarray, wanted: Wanted) -> list[Evidence]:
    where = inverter.mean_C.device

    def standardise(maps_BChw: Tensor) -> Tensor:
        return inverter.standardise(maps_BChw.to(where)).cpu()

    return measure_inversion(pixels, wanted, maps, standardise, getattr(inverter, "law", None))


# --- what samples of one map say together --------------------------------------------------------------------------


def siblings(run: Run, file: Path, set_key: str) -> list[Picture]:
    """The finished pictures of one map that differ by their noise alone, by sample."""
    found = []
    for sidecar in file.parent.glob(f"{METHOD}-*.json"):
        png = sidecar.with_suffix(".png")
        with contextlib.suppress(OSError, ValueError, AttributeError):
            record = json.loads(sidecar.read_text(encoding="utf-8"))
            if record.get("set") == set_key and run.finished(png, str(record.get("key"))) is not None:
                found.append(Picture(png, record))
    return sorted(found, key=lambda picture: picture.sample)


def together(pictures: Sequence[Picture], selected: str) -> tuple[Evidence, np.ndarray | None]:
    """The spread over samples of one map, and its map over the picture (h×w×2 uint8, see `SD_WHITE`)."""
    pixels = torch.cat([to_float(picture.pixels) for picture in pictures])
    shade = None
    if len(pictures) > 1:
        grey = (sample_sd(pixels) / SD_WHITE).clamp(0, 1).mul(255).round().byte().numpy()
        shade = np.stack([grey, np.full_like(grey, 255)], -1)
    return spread(pixels, selected), shade


def _settle(plan: _Plan, reader: Reader, task: _Task) -> None:
    """Brings the evidence of a set's pictures up to date: their spread, and all of it where the judges are others."""
    pictures = siblings(plan.run, task.file, task.set)
    if not pictures:
        return
    current = measured_with(plan.verifiers, pictures)
    stale = [picture for picture in pictures if picture.record.get("measured_with") != current]
    if not stale:
        return
    selected = plan.sampling.looked_at if plan.sampling.best_of > 1 else ""
    found, shade = together(pictures, selected)
    for picture in stale:
        record = picture.record
        old = record.get("measured_with") or {}
        if {k: v for k, v in old.items() if k != "samples"} != {k: v for k, v in current.items() if k != "samples"}:
            wanted = reader.wanted(task.source, task.edit, plan.sampling.looked_at, before_of(plan.run, record))
            fresh = _measure(plan.maps, plan.inverter, picture.pixels, wanted)
            record["evidence"] = [e.to_json() for e in fresh]
        record["evidence"] = [e for e in record["evidence"] if e["name"] != found.name] + [found.to_json()]
        record["measured_with"] = current
        before = before_of(plan.run, record)
        shown = ({} if before is None else {"pair": opaque(before)}) | ({} if shade is None else {"sd": shade})
        plan.run.write(picture.path, picture.pixels, record, maps=shown)


def measured_with(verifiers: Sequence[Model], pictures: Sequence[Picture] = ()) -> dict[str, Any]:
    """What evidence depends on beside its picture: the judges, and the other samples of the map."""
    return {
        "evidence": EVIDENCE,
        "verifiers": {v.card.name: v.card.weights_sha256 for v in verifiers},
        "samples": [pixels_sha256(picture) for picture in pictures],
    }


def pixels_sha256(picture: Picture) -> str:
    """Of the decoded pixels: the file's own hash would change with whatever else is written into it."""
    return hashlib.sha256(picture.pixels.tobytes()).hexdigest()


def before_of(run: Run, record: dict[str, Any]) -> np.ndarray | None:
    """The stored picture of the same noise without the edit, H×W×3 uint8."""
    entry = (record.get("maps") or {}).get("pair")
    if not entry or not (run.path / entry["file"]).is_file():
        return None
    with Image.open(run.path / entry["file"]) as image:
        return np.asarray(image.convert("RGBA"))[:, :, :3].copy()


def remeasure(
    run: Run, picture: Picture, reader: Reader, maps: FeatureMaps, inverter: Inverter
) -> dict[str, Evidence]:  # fmt: skip
    """The evidence of a stored picture once more, from its PNG and those of its siblings, by name.

    Raises:
        UserError: its photo cannot be read.
    """
    record = picture.record
    config = record["config"]
    sampling = Sampling(pull=config["pull"], best_of=config["best_of"])
    source = Source(record["photo"]["path"], record["photo"]["sha256"])
    wanted = reader.wanted(source, Edit.of(config), sampling.looked_at, before_of(run, record))
    found = _measure(maps, inverter, picture.pixels, wanted)
    asked = (record.get("measured_with") or {}).get("samples") or []
    there = {pixels_sha256(one): one for one in (*siblings(run, picture.path, record["set"]), picture)}
    pictures = [there[digest] for digest in asked if digest in there]
    if len(pictures) == len(asked) and pictures:
        found.append(together(pictures, sampling.looked_at if sampling.best_of > 1 else "")[0])
    return {e.name: e for e in found}


# --- what all pictures say together --------------------------------------------------------------------------------


def _write_set(plan: _Plan, tasks: list[_Task]) -> None:
    """Means, matches and distances of what was asked for, where there is enough of it; see `SET_FILE` in the run."""
    records = [(task, plan.run.finished(task.file, task.key)) for task in tasks]
    judges = measured_with(plan.verifiers)["verifiers"]
    # A picture whose photo went away in the meantime may still have its numbers from other judges.
    done = [(t, r) for t, r in records if r is not None and (r.get("measured_with") or {}).get("verifiers") == judges]
    if len(done) < SET:
        return
    key = content_key({
        "evidence": EVIDENCE, "verifiers": judges, "pictures": sorted(r["image"]["sha256"] for _, r in done),
        "keys": sorted(task.key for task, _ in done),
    })  # fmt: skip
    file = plan.run.path / SET_FILE
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if json.loads(file.read_text(encoding="utf-8")).get("key") == key:
            return
    entries = [{e["name"]: e for e in record["evidence"]} for _, record in done]
    cosines = [mean_cosine(name, torch.tensor([e[name]["value"] for e in entries]))
               for name in ("cosine", "cosine_standardised")]  # fmt: skip
    # Every picture's sidecar holds the ranks already, so the set's shares cannot differ from theirs.
    ranks = {plan.maps.model.card.name: [e["match_top1"]["detail"]["rank"] for e in entries]}
    ranks |= {name: [e["others_match_top1"]["detail"][name] for e in entries] for name in judges}
    by, apart = _distances(plan, [task for task, _ in done])
    plan.run.write_record(file, {
        "format": FORMAT, "key": key, "model": model_record(plan.maps.model), "layer": plan.maps.layer,
        "inverter": {"name": plan.inverter.name, "identity": plan.inverter.identity, "source": plan.inverter_source},
        "seed": plan.seed, "config": plan.config(Edit()), "selected": plan.sampling.looked_at,
        "pictures": len(done), "photos": len({task.source for task, _ in done}),
        "means": [e.to_json() for e in cosines],
        "cross_match": {name: [e.to_json() for e in matches(torch.tensor(found))] for name, found in ranks.items()},
        "distances": {"features": by, "evidence": [e.to_json() for e in apart]},
    })  # fmt: skip


def _distances(plan: _Plan, tasks: list[_Task]) -> tuple[str | None, Sequence[Evidence]]:
    """One picture of each photo against the photos at the pictures' size, and the verifier whose features tell."""

    def none(why: str) -> tuple[None, list[Evidence]]:
        return None, [missing(name, why, direction="lower") for name in ("frechet", "kid")]

    first = {task.source: task for task in reversed(tasks)}
    judge = next((v for v in plan.verifiers if has_features(v)), None)
    if judge is None:
        return none("no verifier has pooled features; a timm network has, such as builtin:lite1")
    made, real = [], []
    for source, task in first.items():
        with contextlib.suppress(UserError):
            image = _image(source.path)
            picture = to_float(Picture(task.file, {}).pixels)
            photo = square(image, picture.shape[-1])[None].float() / 255
            made.append(features(judge, picture))
            real.append(features(judge, photo))
    if len(made) < SET:
        return none(f"it needs {SET} photos, there are {len(made)}")
    return judge.card.name, distances(torch.cat(made), torch.cat(real))


# --- records -------------------------------------------------------------------------------------------------------


def _record(plan: _Plan, reader: Reader, task: _Task, trace: dict[str, Any]) -> dict[str, Any]:
    inverter, unit = plan.inverter, unit_of(plan.maps.layer, task.source)
    held = inverter.card.get("prior")
    return {
        "format": FORMAT,
        "key": task.key,
        "set": task.set,
        "complete": True,
        "unit": unit,
        "label": Path(task.source.path).name,
        "layer": plan.maps.layer,
        "readout": "",
        "method": METHOD,
        "method_title": TITLE,
        "paper": "arXiv:2505.21032",
        "config": plan.config(task.edit),
        "seed": plan.seed,
        "sample": task.sample,
        "model": model_record(plan.maps.model),
        "references": None,
        "photos": None,
        "photo": {"path": task.source.path, "sha256": task.source.sha256},
        "prior": held.get("name") if isinstance(held, dict) else held,
        "inverter": {"name": inverter.name, "identity": inverter.identity, "source": plan.inverter_source}
        | ({} if plan.prior_source is None else {"prior": plan.prior_source}),
        "versions": versions(),
        "command": _command(plan, task),
        "trace": trace,
        "measured_with": measured_with(plan.verifiers),
    }


def _command(plan: _Plan, task: _Task) -> str:
    words = ["entoptic", "invert", plan.maps.model.card.name, plan.maps.layer, task.source.path]
    words += ["--n", str(task.sample + 1), "--seed", str(plan.seed), "--inverter", plan.inverter_source]
    words += [] if plan.prior_source is None else ["--prior", plan.prior_source]
    for one in fields(Sampling):
        value = getattr(plan.sampling, one.name)
        if value != one.default:
            words += [f"--{one.name.replace('_', '-')}", str(value)]
    edit = task.edit
    if edit.other is not None:
        words += [f"--{edit.kind}", edit.other.path]
        # With "=": a negative weight is no option.
        words += [f"--weights={edit.weight:g}", "--mixing", edit.mixing] if edit.kind == "mix" else []
        words += ["--region", ",".join(map(str, edit.region))] if edit.kind == "paste" else []
    return shlex.join(words)


def _write_context(plan: _Plan, reader: Reader) -> None:
    """Small copies of the photos beside their pictures, for the gallery; those of earlier edits stay."""
    card = plan.maps.model.card
    for source in plan.sources:
        unit = unit_of(plan.maps.layer, source)
        folder = slug(unit)
        if not any(plan.run.file(folder, "x").parent.glob(f"{METHOD}-*.json")):
            continue
        known = plan.run.context(folder) or {}
        kept = known.get("originals") if known.get("weights_sha256") == card.weights_sha256 else None
        originals = {entry["sha256"]: entry for entry in kept or ()}
        shown = [source, *(edit.other for edit in plan.edits if edit.other is not None)]
        fresh = {one.sha256: one for one in shown if one.sha256 not in originals}
        if not fresh:
            continue
        place = plan.run.path / "context" / folder
        files = {
            e["file"]: (place / e["file"]).read_bytes() for e in originals.values() if (place / e["file"]).is_file()
        }
        for sha, one in fresh.items():
            try:
                read = reader(one)
            except UserError:  # it is named among the failures already
                continue
            name = f"original-{sha[:12]}.jpg"
            files[name] = small_jpeg(read.original[0])
            says = card.label(read.target) or f"logits:{read.target}"
            originals[sha] = {"file": name, "photo": Path(one.path).name, "sha256": sha, "label": says}
        record = {
            "format": 1, "key": content_key({"unit": unit, "originals": sorted(originals)}), "unit": unit,
            "weights_sha256": card.weights_sha256, "photos": {"source": source.path, "n": len(originals)},
            "originals": list(originals.values()),
        }  # fmt: skip
        plan.run.write_context(folder, record, files)

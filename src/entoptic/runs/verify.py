"""Recomputing the evidence of a run from its files, to see whether the numbers still hold."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from entoptic.errors import UserError
from entoptic.images.decode import decode
from entoptic.images.index import ActivationIndex
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.inversion.maps import FeatureMaps
from entoptic.inversion.saved import check_inverter
from entoptic.inversion.targets import PhotoFile, Reader
from entoptic.metrics.evidence import Evidence
from entoptic.metrics.kl import divergence
from entoptic.metrics.picture import measure
from entoptic.models.model import Model
from entoptic.models.sources import load
from entoptic.runs.inversion_plan import METHOD as INVERT
from entoptic.runs.set_evidence import remeasure
from entoptic.runs.store import Picture, Run
from entoptic.units.unit import bind

if TYPE_CHECKING:
    from entoptic.inversion.inverter import Inverter

TOLERANCE = 1e-3
"""Relative difference below which two measurements count as the same: kernels round differently by machine."""
PHOTO_BASED = frozenset({"percentile", "margin", "robustness", "selectivity", "relevance_agreement", "causal"})
"""Measurements that come out differently against other photos."""


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
        lines = "".join(f"<li>{line}</li>" for line in self.drift + self.skipped)
        return f"<p>{self}</p><ul>{lines}</ul>"


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
    models: dict[str, Model] = {}
    references: dict[tuple[str, str | None], References] = {}
    inversions = Inversions(opened, photos, inverter, prior, device)
    for done, (picture, problem) in enumerate(opened.read()):
        on_picture(done, total)
        if picture is None:
            found.drift.append(problem)
            continue
        try:
            _verify_one(opened, picture, model, photos, device, models, references, inversions, found)
        except (KeyError, TypeError, AttributeError, ValueError, OSError) as error:
            found.drift.append(
                f"{picture.path.name}: its sidecar or picture is damaged ({type(error).__name__}: {error})"
            )
    on_picture(total, total)
    return found


def _verify_one(
    run: Run,
    picture: Picture,
    model: Model | None,
    photos: Any,
    device: str,
    models: dict[str, Model],
    known: dict[tuple[str, str | None], References],
    inversions: Inversions,
    found: Verification,
) -> None:
    record, name = picture.record, picture.path.name
    if hashlib.sha256(picture.path.read_bytes()).hexdigest() != record["image"]["sha256"]:
        found.drift.append(f"{name}: the picture was changed after it was measured (its sha256 differs)")
    for what, entry in (record.get("maps") or {}).items():
        path = run.path / entry["file"]
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
            found.drift.append(f"{name}: its map {what} is missing or was changed")
    if record["method"] == "steer":
        found.skipped.append(
            f"{name}: what steering measured needs its inverter; the command in its sidecar makes it again"
        )
        return
    subject = model or _load(models, record["model"]["name"], record["model"]["weights_sha256"], device)
    if subject.card.weights_sha256 != record["model"]["weights_sha256"]:
        raise UserError(f"{name} was made with other weights of {record['model']['name']} than those given")
    measured_with = record.get("measured_with") or {}
    verifiers, lost = [], False
    for verifier, sha in (measured_with.get("verifiers") or {}).items():
        try:
            verifiers.append(_load(models, verifier, sha, device))
        except UserError as error:
            found.skipped.append(f"transfer: {error}")
            lost = True
    if record["method"] == INVERT:
        inversions.check(picture, subject, verifiers, lost, found)
        return
    source = photos if photos is not None else record.get("photos")
    indexed = (record.get("measured_with") or {}).get("index") and record.get("index")
    key = (subject.card.weights_sha256, f"{source or ''} {indexed or ''}")
    if key not in known:
        try:
            opened = source if isinstance(source, Photos) else Photos.open(source) if source else None
        except UserError as error:
            found.skipped.append(f"photos: {error}")
            opened = None
        known[key] = _references(subject, opened, indexed, found)
    references = known[key]
    try:
        (unit,) = bind(subject, record["unit"])
    except UserError as error:
        found.drift.append(f"{name}: its unit cannot be read ({error})")
        return
    real = references.photos.fingerprint() if references.photos else references.pack.sha256 if references.pack else None
    measured = [*measure(picture.pixels, unit, references, verifiers), *divergence(record["trace"])]
    fresh = {e.name: e for e in measured}

    def why_not(metric: str) -> str | None:
        if metric in PHOTO_BASED:
            if measured_with.get("index") != (references.index.key if references.index is not None else None):
                return f"{metric} was measured against an index that is not there any more"
            if real != measured_with.get("photos"):
                return f"{metric} was measured against other photos; give them with --photos"
        return "" if lost and metric.startswith("transfer") else None

    compare(record, name, fresh, why_not, found)


def compare(
    record: dict[str, Any],
    name: str,
    fresh: dict[str, Evidence],
    why_not: Callable[[str], str | None],
    found: Verification,
) -> None:
    """Compares a sidecar's evidence with what was measured afresh.

    why_not: for each metric None, or the reason why it cannot be compared ("" where that was said already).
    """
    found.pictures += 1
    recorded = {e["name"] for e in record["evidence"]}
    found.drift += [f"{name}: {gone} is missing from the sidecar" for gone in fresh if gone not in recorded]
    for old in record["evidence"]:
        metric, value = old["name"], old["value"]
        reason = why_not(metric)
        if reason is not None:
            found.skipped += [f"{name}: {reason}"] if reason else []
            continue
        if metric not in fresh:
            found.drift.append(f"{name}: {metric} is no measurement of this version")
            continue
        now = fresh[metric].value
        # What a sampler recorded of its law cannot be told from a picture: only that the evidence still says the same.
        found.numbers += metric != "nats"
        if not _close(value, now) or not _close_all(old.get("interval"), fresh[metric].interval):
            found.drift.append(f"{name}: {metric} says {_show(value)}, recomputed {_show(now)}")
        elif old.get("n") != fresh[metric].n:
            found.drift.append(f"{name}: {metric} says n = {old.get('n')}, recomputed n = {fresh[metric].n}")


class Inversions:
    """What recomputing pictures of `invert` needs, loaded when it is first asked for."""

    def __init__(self, run: Run, photos: Any, inverter: Inverter | None, prior: str | None, device: str) -> None:
        self._run, self._given, self._prior, self._device = run, inverter, prior, device
        self._photos = photos
        self._inverters: dict[str, Inverter] = {}
        self._readers: dict[tuple[str, str, tuple[str, ...]], Reader] = {}

    def check(
        self, picture: Picture, model: Model, verifiers: Sequence[Model], lost: bool, found: Verification
    ) -> None:
        """Recomputes one picture's evidence; what it cannot be told without goes to `found.skipped`."""
        record, name = picture.record, picture.path.name
        try:
            inverter = self._inverter(record["inverter"], model)
            maps = FeatureMaps.of(model, record["layer"])
            check_inverter(inverter, maps)
            reader = self._reader(maps, verifiers)
            fresh = remeasure(self._run, picture, reader, maps, inverter)
        except UserError as error:
            found.skipped.append(f"{name}: {error}")
            return

        def why_not(metric: str) -> str | None:
            if metric == "sample_sd" and metric not in fresh:
                found.drift.append(f"{name}: a sample that {metric} was measured on is gone or was changed")
                return ""
            return "" if lost and metric.startswith("others_match") else None

        compare(record, name, fresh, why_not, found)

    def _inverter(self, entry: dict[str, Any], model: Model) -> Inverter:
        held = self._given or self._inverters.get(entry["source"])
        if held is None:
            held = self._inverters[entry["source"]] = self._load(entry, model)
        if held.identity != entry["identity"]:
            raise UserError(f"the inverter {entry['name']} is another now than when the picture was made")
        return held

    def _load(self, entry: dict[str, Any], model: Model) -> Inverter:
        from entoptic.inversion.saved import load_inverter

        there = entry.get("prior")
        if self._prior is None and there is not None:
            with contextlib.suppress(UserError):  # it may have moved since, while the inverter's card says where it is
                return load_inverter(entry["source"], model=model, prior=there, device=self._device)
        return load_inverter(entry["source"], model=model, prior=self._prior, device=self._device)

    def _reader(self, maps: FeatureMaps, verifiers: Sequence[Model]) -> Reader:
        key = (maps.model.card.weights_sha256, maps.layer, tuple(v.card.weights_sha256 for v in verifiers))
        if key not in self._readers:
            self._readers[key] = Reader(maps, verifiers, self._image)
        return self._readers[key]

    def _image(self, source: PhotoFile) -> Image.Image:
        path = Path(source.path)
        with contextlib.suppress(OSError, ValueError):
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() == source.sha256:
                return decode(data)
        if self._photos is not None:
            moved = self._photos = Photos.open(self._photos)
            order = sorted(range(len(moved)), key=lambda i: Path(moved[i].name).name != path.name)
            for index in order:
                if moved.sha256(index) == source.sha256 and (image := moved.read(index)) is not None:
                    return image
        there = "was changed" if path.is_file() else "is not there any more"
        raise UserError(f"the photo {path} {there}; give the folder that it is in with --photos")


def _references(model: Model, photos: Photos | None, index: str | None, found: Verification) -> References:
    """References as the run had them; without its index where that is gone or does not fit any more."""
    if index:
        try:
            return References(model, photos, index=ActivationIndex.open(index))
        except UserError as error:
            found.skipped.append(f"index: {error}")
    return References(model, photos)


def _load(models: dict[str, Model], name: str, sha256: str, device: str) -> Model:
    if name not in models:
        models[name] = load(name, device=device)
    if models[name].card.weights_sha256 != sha256:
        raise UserError(f"{name} has other weights now than when the run was made")
    return models[name]


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

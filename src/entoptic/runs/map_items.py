"""Pictures with the feature map of a photo, or of an edit of it: their keys, measurements and sidecars."""

from __future__ import annotations

import contextlib
import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from entoptic.base.cache import content_key
from entoptic.base.files import is_inside
from entoptic.base.pixels import opaque, small_jpeg
from entoptic.base.progress import Reporter
from entoptic.base.records import read_json
from entoptic.errors import Unreadable, UserError
from entoptic.inversion.configs import Sampling
from entoptic.inversion.maps import FeatureMaps
from entoptic.inversion.targets import Edit, MapTarget, PhotoFile, PhotoReader, unit_of
from entoptic.methods.contract import Context, Draft, Failure, Item
from entoptic.methods.invert import Invert
from entoptic.metrics.evidence import Evidence
from entoptic.metrics.inversion import measured
from entoptic.models.model import Model
from entoptic.runs.pictures import Picture, read_pixels
from entoptic.runs.set_evidence import measure_samples, write_set
from entoptic.runs.store import Run, Unwritable
from entoptic.units.unit import slug

if TYPE_CHECKING:
    from entoptic.inversion.inverter import Inverter
    from entoptic.runs.plan import Entry, Job

METHOD = "invert"
RECIPE = 1
"""Raised whenever the same request makes other pictures."""
EVIDENCE = 1
"""Raised whenever something else is measured: pictures measured by an older one are measured again."""


@dataclass(kw_only=True)
class MapItems:
    """Items that are feature maps of photos.

    Attributes:
        maps: the layer.
        inverter: of that layer.
        inverter_source: name to load it by again.
        prior: what a sidecar says of the inverter's prior, see `prior_record`.
        verifiers: networks that judge the pictures.
        photos: reads photos, with their maps and classes.
        store_photos: store a small copy of each photo beside its pictures.
    """

    maps: FeatureMaps
    inverter: Inverter
    inverter_source: str
    prior: dict[str, str]
    verifiers: list[Model] = field(default_factory=list)
    photos: PhotoReader
    store_photos: bool = True

    def context(self, job: Job, report: Reporter, pictures: int, batch_size: int) -> Context:
        """Returns what the method gets for a batch of `pictures`."""
        return Context(
            model=self.maps.model, inverter=self.inverter, photos=self.photos, progress=report.progress,
            on_step=lambda step, steps: report.step(step, steps, pictures), batch_size=batch_size,
        )  # fmt: skip

    def key(self, job: Job, item: Item) -> str:
        """Returns the hash of everything that a picture's pixels depend on."""
        return content_key({"set": self._set(job, item), "sample": item.sample})

    def overlays(self, job: Job, draft: Draft, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the picture of the same noise without the edit, where there is one."""
        return {name: np.asarray(value) for name, value in draft.overlays.items()}

    def measure(self, job: Job, draft: Draft, pixels: np.ndarray, overlays: Mapping[str, np.ndarray]) -> list[Evidence]:
        """Returns the evidence of a picture by itself; `complete` measures the samples of a map together."""
        before = overlays["pair"][:, :, :3] if "pair" in overlays else None
        return self._evidence(pixels, _target(draft.item), _config(job).looked_at, before)

    def _evidence(
        self, pixels: np.ndarray, target: MapTarget, looked_at: str, before: np.ndarray | None
    ) -> list[Evidence]:
        wanted = replace(self.photos.target_of(target.photo, target.edit, looked_at), before=before)
        return measured(self.maps, self.inverter, pixels, wanted)

    def record(self, job: Job, draft: Draft, entry: Entry) -> dict[str, Any]:
        """Returns the sidecar's entries that only inversions have."""
        target, inverter = _target(draft.item), self.inverter
        held = inverter.card.get("prior")
        return {
            "set": self._set(job, draft.item),
            "config": self._asked(job, target.edit),
            "references": None,
            "photos": None,
            "photo": {"path": target.photo.path, "sha256": target.photo.sha256},
            "prior": held.get("name") if isinstance(held, dict) else held,
            "inverter": inverter_record(inverter, self.prior) | {"source": self.inverter_source},
            "measured_with": measured_with(self.verifiers),
        }

    def command(self, job: Job, item: Item) -> str:
        """Returns the command that makes a picture again."""
        target, config = _target(item), _config(job)
        words = ["entoptic", "invert", self.maps.model.card.name, self.maps.layer, target.photo.path]
        words += ["--n", str(item.sample + 1), "--seed", str(item.seed), "--inverter", self.inverter_source]
        words += ["--prior", self.prior["prior"]] if "prior" in self.prior else []
        for one in fields(Sampling):
            value = getattr(config, one.name)
            if value != one.default:
                words += [f"--{one.name.replace('_', '-')}", str(value)]
        edit = target.edit
        if edit.other is not None:
            words += [f"--{edit.kind}", edit.other.path]
            # With "=": a negative weight is no option.
            words += [f"--weights={edit.weight:g}", "--mixing", edit.mixing] if edit.kind == "mix" else []
            words += ["--region", ",".join(map(str, edit.region))] if edit.kind == "paste" else []
        return shlex.join(words)

    def refresh(self, run: Run, job: Job, finished: Sequence[tuple[Entry, dict[str, Any]]]) -> None:
        """Leaves finished pictures alone: `complete` measures them again together with new ones of the same map."""

    def complete(self, run: Run, jobs: Sequence[tuple[Job, Sequence[Entry]]], report: Reporter) -> list[Failure]:
        """Measures the samples of each map together, and all maps of photos as a set; stores copies of the photos."""
        failures = []
        for job, entries in jobs:
            sets = {self._set(job, entry.item): entry for entry in entries}
            for done, (key, entry) in enumerate(sets.items(), 1):
                try:
                    self._refresh_set(run, job, entry, key)
                except Unwritable:
                    raise
                except UserError as error:
                    failures.append(Failure.of(error, unit=entry.item.target.text, method=METHOD))
                report.progress("measuring samples together", done, len(sets))
            plain = [entry for entry in entries if not _target(entry.item).edit.kind]
            records = [(entry, run.finished(entry.file, entry.key)) for entry in plain]
            # A picture whose photo went away in the meantime may still have its numbers from other judges.
            judges = measured_with(self.verifiers)["verifiers"]
            done_ones = [
                (_target(entry.item).photo, Picture(entry.file, record))
                for entry, record in records
                if record is not None and (record.get("measured_with") or {}).get("verifiers") == judges
            ]
            about = {
                "inverter": {
                    "name": self.inverter.name, "identity": self.inverter.identity, "source": self.inverter_source,
                },
                "seed": entries[0].item.seed if entries else 0, "config": self._asked(job, Edit()),
                "selected": _config(job).looked_at,
            }  # fmt: skip
            write_set(run, self.maps, self.verifiers, done_ones, EVIDENCE, about)
            if self.store_photos:
                write_originals(run, self.photos, [_target(entry.item) for entry in entries])
        return failures

    def _asked(self, job: Job, edit: Edit) -> dict[str, Any]:
        """What was asked, with the inverter's defaults filled in."""
        asked, own = _config(job), self.inverter
        return {
            "steps": asked.steps if asked.steps is not None else own.steps,
            "guidance": asked.guidance if asked.guidance is not None else own.guidance,
            "strength": asked.strength if asked.strength is not None else own.strength,
            "pull": asked.pull, "best_of": asked.best_of,
        } | edit.config()  # fmt: skip

    def _set(self, job: Job, item: Item) -> str:
        """Hash of all but the sample: pictures of one set differ by their noise alone."""
        card, target = self.maps.model.card, _target(item)
        config = {k: v for k, v in self._asked(job, target.edit).items() if k not in ("mix", "paste")}
        return content_key({
            "recipe": RECIPE, "unit": target.text, "photo": target.photo.sha256, "method": METHOD, "seed": item.seed,
            "config": config, "edit": target.edit.kind, "weights": card.identity, "card": card.preprocessing(),
            "inverter": self.inverter.identity,
        })  # fmt: skip

    def _refresh_set(self, run: Run, job: Job, entry: Entry, set_key: str) -> None:
        """Brings a set's evidence up to date: its spread, and all of it where the judges are others."""
        pictures = siblings(run, entry, set_key)
        current = measured_with(self.verifiers, pictures)
        stale = [picture for picture in pictures if picture.record.get("measured_with") != current]
        if not stale:
            return
        config, target = _config(job), _target(entry.item)
        found, shade = measure_samples(pictures, config.looked_at if config.best_of > 1 else "")
        for picture in stale:
            record = picture.record
            old, before = record.get("measured_with") or {}, before_of(run, record)
            if {k: v for k, v in old.items() if k != "samples"} != {k: v for k, v in current.items() if k != "samples"}:
                fresh = self._evidence(picture.pixels, target, config.looked_at, before)
                record["evidence"] = [e.to_json() for e in fresh]
            record["evidence"] = [e for e in record["evidence"] if e["name"] != found.name] + [found.to_json()]
            record["measured_with"] = current
            shown = ({} if before is None else {"pair": opaque(before)}) | ({} if shade is None else {"sd": shade})
            run.write(picture.path, picture.pixels, record, maps=shown)


def _target(item: Item) -> MapTarget:
    assert isinstance(item.target, MapTarget)
    return item.target


def _config(job: Job) -> Invert:
    assert isinstance(job.config, Invert)
    return job.config


def inverter_record(inverter: Inverter, prior: Mapping[str, str]) -> dict[str, Any]:
    """Returns an inverter as a sidecar holds it; `prior` is `prior_record` of it."""
    return {"name": inverter.name, "identity": inverter.identity} | dict(prior)


def measured_with(verifiers: Sequence[Model], pictures: Sequence[Picture] = ()) -> dict[str, Any]:
    """Returns what evidence depends on beside its picture: the judges, and the other samples of the map."""
    return {
        "evidence": EVIDENCE,
        "verifiers": {v.card.name: v.card.identity for v in verifiers},
        "samples": [pixels_sha256(picture) for picture in pictures],
    }


def pixels_sha256(picture: Picture) -> str:
    """Returns the hash of the decoded pixels: the file's own would change with whatever else is written into it."""
    return hashlib.sha256(picture.pixels.tobytes()).hexdigest()


def siblings(run: Run, entry: Entry, set_key: str) -> list[Picture]:
    """Returns the finished pictures of one map that differ by their noise alone, by sample."""
    return siblings_of(run, Picture(entry.file, {}), set_key)


def siblings_of(run: Run, picture: Picture, set_key: str) -> list[Picture]:
    """Returns the finished pictures beside a picture that belong to a set, by sample."""
    found = []
    for sidecar in picture.path.parent.glob(f"{METHOD}-*.json"):
        png = sidecar.with_suffix(".png")
        with contextlib.suppress(Unreadable):
            record = read_json(sidecar) if is_inside(sidecar, run.path) else {}
            if record.get("set") == set_key and run.finished(png, str(record.get("key"))) is not None:
                found.append(Picture(png, record))
    return sorted(found, key=lambda one: one.sample)


def before_of(run: Run, record: Mapping[str, Any]) -> np.ndarray | None:
    """Returns the stored picture of the same noise without the edit, H×W×3 uint8, or None."""
    file = run.map_file((record.get("maps") or {}).get("pair"))
    return None if file is None else read_pixels(file, "RGBA")[:, :, :3].copy()


def remeasure(run: Run, picture: Picture, kind: MapItems) -> dict[str, Evidence]:
    """Returns the evidence of a stored picture once more, from its PNG and those of its siblings, by name.

    Raises:
        UserError: its photo cannot be read.
    """
    record, config = picture.record, picture.record["config"]
    sampling = Sampling(pull=config["pull"], best_of=config["best_of"])
    photo = PhotoFile(record["photo"]["path"], record["photo"]["sha256"])
    target = MapTarget(layer=record["layer"], photo=photo, edit=Edit.of(config))
    found = kind._evidence(picture.pixels, target, sampling.looked_at, before_of(run, record))
    asked = (record.get("measured_with") or {}).get("samples") or []
    there = {pixels_sha256(one): one for one in (*siblings_of(run, picture, record["set"]), picture)}
    pictures = [there[digest] for digest in asked if digest in there]
    if len(pictures) == len(asked) and pictures:
        found.append(measure_samples(pictures, sampling.looked_at if sampling.best_of > 1 else "")[0])
    return {e.name: e for e in found}


def write_originals(run: Run, reader: PhotoReader, targets: Sequence[MapTarget]) -> None:
    """Stores small copies of the photos beside their pictures, for the gallery; those of earlier edits stay."""
    card = reader.maps.model.card
    others = {t.edit.other.sha256: t.edit.other for t in targets if t.edit.other is not None}
    for photo in {t.photo: None for t in targets}:
        unit = unit_of(reader.maps.layer, photo)
        folder = slug(unit)
        if not any(run.file(folder, "x").parent.glob(f"{METHOD}-*.json")):
            continue
        known = run.context(folder) or {}
        kept = known.get("originals") if known.get("weights_sha256") == card.weights_sha256 else None
        originals = {entry["sha256"]: entry for entry in kept or ()}
        fresh = {one.sha256: one for one in (photo, *others.values()) if one.sha256 not in originals}
        if not fresh:
            continue
        place = run.path / "context" / folder
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
            originals[sha] = {
                "file": name,
                "photo": one.path.replace("\\", "/").rpartition("/")[2],
                "sha256": sha,
                "label": says,
            }
        record = {
            "format": 1, "key": content_key({"unit": unit, "originals": sorted(originals)}), "unit": unit,
            "weights_sha256": card.weights_sha256, "photos": {"source": photo.path, "n": len(originals)},
            "originals": list(originals.values()),
        }  # fmt: skip
        run.write_context(folder, record, files)

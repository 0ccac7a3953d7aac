"""All that a request for inversions resolved to, and the pictures that it asks for, each with its key."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from entoptic.base.cache import content_key
from entoptic.base.pixels import small_jpeg
from entoptic.errors import UserError
from entoptic.inversion.configs import Sampling
from entoptic.inversion.maps import FeatureMaps
from entoptic.inversion.targets import Edit, PhotoFile, Reader, unit_of
from entoptic.models.model import Model
from entoptic.runs.records import model_record, versions
from entoptic.runs.store import FORMAT, Picture, Run
from entoptic.units.unit import slug

if TYPE_CHECKING:
    from entoptic.inversion.inverter import Inverter

METHOD = "invert"
RECIPE = 1
"""Raised whenever the same request makes other pictures."""


@dataclass(frozen=True)
class Task:
    """One picture to make."""

    source: PhotoFile
    edit: Edit
    sample: int
    set: str  # hash of all but the sample: pictures of one set differ by their noise alone
    key: str
    file: Path


@dataclass
class Plan:
    """What a request resolved to, before any picture is made."""

    maps: FeatureMaps
    inverter: Inverter
    inverter_source: str
    prior: dict[str, str]  # see `prior_record`
    sampling: Sampling
    verifiers: list[Model]
    run: Run
    n: int
    seed: int
    batch_size: int
    sources: list[PhotoFile]
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

    def tasks(self) -> Iterator[Task]:
        """Photo by photo, edit by edit, sample by sample."""
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
                    yield Task(source, edit, sample, whole, key, file)


TITLE = "Inversion of a feature map (FeatInv, Neukirch et al. 2025)"


def record_of(plan: Plan, reader: Reader, task: Task, trace: dict[str, Any]) -> dict[str, Any]:
    """The sidecar of a picture, without its image and evidence."""
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
        "inverter": {"name": inverter.name, "identity": inverter.identity, "source": plan.inverter_source} | plan.prior,
        "versions": versions(),
        "command": command_of(plan, task),
        "trace": trace,
        "measured_with": measured_with(plan.verifiers),
    }


def command_of(plan: Plan, task: Task) -> str:
    """The command that makes a picture again."""
    words = ["entoptic", "invert", plan.maps.model.card.name, plan.maps.layer, task.source.path]
    words += ["--n", str(task.sample + 1), "--seed", str(plan.seed), "--inverter", plan.inverter_source]
    words += ["--prior", plan.prior["prior"]] if "prior" in plan.prior else []
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


def write_originals(plan: Plan, reader: Reader) -> None:
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


EVIDENCE = 1
"""Raised whenever something else is measured: pictures measured by an older one are measured again."""


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

"""What is written beside a picture: its sidecar, the command that makes it again, and copies of the photos."""

from __future__ import annotations

import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

from entoptic.errors import UserError
from entoptic.images.cache import content_key
from entoptic.inversion.options import Sampling
from entoptic.runs.context import small_jpeg
from entoptic.runs.inversions.evidence import measured_with
from entoptic.runs.inversions.photos import unit_of
from entoptic.runs.inversions.plan import METHOD, Plan, Task
from entoptic.runs.inversions.reader import Reader
from entoptic.runs.see import model_record, versions
from entoptic.runs.store import FORMAT
from entoptic.units.unit import slug

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

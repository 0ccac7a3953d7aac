"""What is written down of a picture: its key, its sidecar, the command that makes it again."""

from __future__ import annotations

import importlib.metadata
import shlex
from dataclasses import asdict
from typing import Any

from entoptic.base.cache import content_key
from entoptic.methods.contract import Draft, Item
from entoptic.models.model import Model
from entoptic.runs.plan import Job, Plan, judges
from entoptic.runs.store import FORMAT
from entoptic.units.unit import Unit

RECIPE = 1
"""Raised whenever a method or the ascent loop changes what it makes from the same config."""


EVIDENCE = 3
"""Raised whenever `measure` measures something else: pictures measured by an older one are measured again."""


def picture_key(plan: Plan, job: Job, item: Item) -> str:
    """Hash of everything that a picture's pixels depend on."""
    card = plan.model.card
    return content_key(
        {
            "recipe": RECIPE,
            "unit": item.unit.identity,
            "readout": item.unit.readout,
            "method": job.card.name,
            "config": asdict(job.config),
            "seed": item.seed,
            "sample": item.sample,
            "weights": card.weights_sha256,
            "card": card.preprocessing(),
            "references": plan.references.identity(item.unit, job.card.reads - {"prior"}),
        }
        | ({"prior": plan.prior.identity} if plan.prior is not None and "prior" in job.card.reads else {})
        | ({"bank_seed": plan.bank_seed} if plan.bank_seed and "prior" in job.card.reads else {})
    )


def measured_with(plan: Plan, unit: Unit, trace: dict[str, Any]) -> dict[str, Any]:
    """What the evidence was measured against, for re-measuring when that changes."""
    photos = plan.references.photos
    real = photos.fingerprint() if photos is not None else plan.references.pack.sha256 if plan.references.pack else None
    index = plan.references.index
    indexed = {"index": index.key} if index is not None and unit in index else {}
    verifiers = {v.card.name: v.card.weights_sha256 for v in judges(plan, trace)}
    return {"evidence": EVIDENCE, "photos": real, "verifiers": verifiers} | indexed


def model_record(model: Model) -> dict[str, Any]:
    """A model in a sidecar: its card without the list of labels."""
    card = model.card
    return {
        "name": card.name, "weights_sha256": card.weights_sha256, "licence": card.licence, "size": list(card.size),
        "mean": list(card.mean), "std": list(card.std), "interpolation": card.interpolation, "crop": card.crop,
        "squash": card.squash,
    }  # fmt: skip


def make_record(plan: Plan, job: Job, draft: Draft, key: str) -> dict[str, Any]:
    """The sidecar of a draft, without its image and evidence."""
    unit, trace = draft.item.unit, dict(draft.trace)
    references = trace.pop("references", None)
    return {
        "format": FORMAT,
        "key": key,
        "complete": draft.complete,
        "unit": str(unit),
        "label": unit.label,
        "layer": unit.layer,
        "readout": unit.readout,
        "method": job.card.name,
        "method_title": job.card.title,
        "paper": job.card.paper,
        "config": asdict(job.config),
        "seed": draft.item.seed,
        "sample": draft.item.sample,
        "model": model_record(plan.model),
        "references": references,
        "photos": plan.photos,
        "prior": plan.prior.name if plan.prior is not None and "prior" in job.card.reads else None,
        "prior_identity": plan.prior.identity if plan.prior is not None and "prior" in job.card.reads else None,
        "bank_seed": plan.bank_seed if plan.prior is not None and "prior" in job.card.reads else None,
        "index": str(plan.references.index.path) if plan.references.index is not None else None,
        "versions": versions(),
        "command": command(plan, job, draft.item),
        "trace": trace,
        "measured_with": measured_with(plan, unit, trace),
    }


def command(plan: Plan, job: Job, item: Item) -> str:
    """The command that makes a picture again."""
    words = ["entoptic", "see", plan.model.card.name, str(item.unit), "--method", job.card.name]
    words += ["--seed", str(item.seed), "--n", str(item.sample + 1)]
    if plan.photos is not None:
        words += ["--photos", plan.photos]
    if plan.references.index is not None:
        words += ["--index", str(plan.references.index.path)]
    if plan.prior is not None and "prior" in job.card.reads:
        words += ["--prior", plan.prior.name]
        words += ["--bank-seed", str(plan.bank_seed)] if plan.bank_seed else []
    return shlex.join(words + config_words(job))


def config_words(job: Job, known: dict[str, Any] | None = None) -> list[str]:
    """The command line's options for what a config holds beside the defaults, or beside what is known otherwise."""
    words: list[str] = []
    default = asdict(type(job.config)()) | (known or {})
    for name, value in asdict(job.config).items():
        if value != default[name]:
            flag = f"--{job.card.name}.{name}".replace("_", "-")
            if isinstance(value, bool):
                words.append(flag if value else f"--{job.card.name}.no-{name}".replace("_", "-"))
            else:
                words += [flag, *map(str, value)] if isinstance(value, tuple) else [flag, str(value)]
    return words


def versions() -> dict[str, str]:
    """Versions of everything that can change a pixel."""
    return {name: version(name) for name in ("entoptic", "torch", "torchvision", "timm", "numpy", "pillow")}


def version(package: str) -> str:
    """Installed version, "unknown" for a package that runs from its source tree."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"

"""What is written down of a picture: its sidecar, the options of its command, versions."""

from __future__ import annotations

import importlib.metadata
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from entoptic.methods.contract import Draft, MethodConfig
from entoptic.metrics.evidence import Evidence
from entoptic.models.model import Model
from entoptic.runs.store import FORMAT

if TYPE_CHECKING:
    from entoptic.runs.plan import Entry, Job, Plan


def make_record(plan: Plan, job: Job, draft: Draft, entry: Entry, evidence: list[Evidence]) -> dict[str, Any]:
    """Returns the sidecar of a draft, without its image and maps."""
    target = draft.item.target
    return {
        "format": FORMAT,
        "key": entry.key,
        "complete": draft.complete,
        "unit": target.text,
        "label": target.label,
        "layer": target.layer,
        "readout": target.readout,
        "method": job.card.name,
        "method_title": job.card.title,
        "paper": job.card.paper,
        "seed": draft.item.seed,
        "sample": draft.item.sample,
        "model": model_record(plan.model),
        "versions": versions(),
        "command": plan.kind.command(job, draft.item),
        "trace": draft.trace.to_json(),
        "evidence": [e.to_json() for e in evidence],
    } | plan.kind.record(job, draft, entry)


def model_record(model: Model) -> dict[str, Any]:
    """Returns a model as a sidecar holds it: its card without the list of labels."""
    card = model.card
    return {
        "name": card.name, "weights_sha256": card.weights_sha256, "licence": card.licence, "size": list(card.size),
        "mean": list(card.mean), "std": list(card.std), "interpolation": card.interpolation, "crop": card.crop,
        "squash": card.squash,
    } | ({"behaviour_sha256": card.behaviour_sha256} if card.behaviour_sha256 else {})  # fmt: skip


def about_run(model: Model) -> dict[str, Any]:
    """Returns what a new run's `run.json` says of it."""
    return {"entoptic": version("entoptic"), "title": model.card.name, "model": model_record(model)}


def config_words(prefix: str, config: MethodConfig, known: dict[str, Any] | None = None) -> list[str]:
    """Returns the command line's options for what a config holds beside the defaults.

    Args:
        prefix: of the options, for instance "vital" for `--vital.steps`.
        known: values that the command line takes for defaults in place of the config's own.
    """
    words: list[str] = []
    default = asdict(type(config)()) | (known or {})
    for name, value in asdict(config).items():
        if value != default[name]:
            flag = f"--{prefix}.{name}".replace("_", "-")
            if isinstance(value, bool):
                words.append(flag if value else f"--{prefix}.no-{name}".replace("_", "-"))
            else:
                words += [flag, *map(str, value)] if isinstance(value, tuple) else [flag, str(value)]
    return words


def versions() -> dict[str, str]:
    """Returns the versions of everything that can change a pixel."""
    return {name: version(name) for name in ("entoptic", "torch", "torchvision", "timm", "numpy", "pillow")}


def version(package: str) -> str:
    """Returns the installed version, "unknown" for a package that runs from its source tree."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"

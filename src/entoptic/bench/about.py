"""What a benchmark ran on: versions, the class of the machine, and the command without folders of the machine."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import torch

from entoptic.bench.make import Setting
from entoptic.images.unread import unread_record
from entoptic.runs.records import versions
from entoptic.runs.unit_items import EVIDENCE, RECIPE


def about(words: Sequence[str]) -> dict[str, Any]:
    """Returns command, versions and hardware class.

    Args:
        words: of the command.
    """
    return {
        "command": shlex.join(words),
        "versions": versions() | {"python": platform.python_version()},
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none",
    }


def measured_with(settings: Sequence[Setting]) -> dict[str, Any]:
    """Returns versions of what makes and measures a picture, the judges, and how many photos there were.

    Args:
        settings: the subjects.
    """
    halves = next((s.halves for s in settings if s.halves is not None), None)
    return {
        "recipe_of_pictures": RECIPE,
        "evidence": EVIDENCE,
        "photos": None
        if halves is None
        else {
            "matched": len(halves.matched), "held_out": len(halves.held_out), "held_out_sha256": halves.held_out.fingerprint(),
            "order": halves.held_out.order(),
        }
        | unread_record(halves.held_out),
        "networks": {s.model.card.name: s.model.card.weights_sha256 for s in settings}
        | {shown(j.card.name): j.card.weights_sha256 for s in settings for j in s.judges},
        **_further(settings),
    }  # fmt: skip


def _further(settings: Sequence[Setting]) -> dict[str, Any]:
    """What only some benchmarks have: judges on which nothing was chosen, those that could not be loaded, a CLIP."""
    untouched = list(dict.fromkeys(name for s in settings for name in s.untouched))
    related = list(dict.fromkeys(name for s in settings for name in s.related))
    absent = {name: why for s in settings for name, why in s.absent.items()}
    found: dict[str, Any] = {}
    if untouched:
        found["untouched"] = untouched
    if related:
        found["related"] = related
    if absent:
        found["absent"] = absent
    if (shot := next((s.zero_shot for s in settings if s.zero_shot is not None), None)) is not None:
        found["clip"] = {"network": shown(shot.clip.name), "chance": shot.counted.chance, **shot.counted.about}
    return found


def shown(path: str) -> str:
    """Returns a path or a name of a network as it may be published: what lies elsewhere on the machine by its last part.

    Args:
        path: as it was given.
    """
    source, colon, name = path.rpartition(":") if path.startswith("file:") else ("", "", path)
    return f"{source}{colon}{PurePath(name).name if PurePath(name).is_absolute() or '~' in name else name}"


def command_of(
    recipe: str,
    out: Path,
    *,
    photos: object,
    verifiers: Sequence[str],
    device: str,
    batch_size: int | None,
    clip: str | None = None,
    seeds: int | None = None,
) -> list[str]:
    """Returns the words of the command that makes the same table.

    Args:
        recipe: its name.
        out: the benchmark's folder.
        photos: as they were given, or None.
        verifiers: networks beside the recipe's.
        device: of the networks.
        batch_size: pictures made together.
        clip: as it was given, or None.
        seeds: of each unit, None for all of the recipe's.
    """
    words = ["entoptic", "bench", recipe, "--out", shown(str(out))]
    if photos is not None:
        words += ["--photos", shown(photos) if isinstance(photos, str) else "PHOTOS"]
    words += ["--verifiers", ",".join(map(shown, verifiers))] if verifiers else []
    words += ["--clip", shown(clip)] if clip else []
    words += ["--seeds", str(seeds)] if seeds is not None else []
    words += ["--device", device] if device != "auto" else []
    words += ["--batch-size", str(batch_size)] if batch_size is not None else []
    return [*words, "--threads", str(torch.get_num_threads())]


def _processor() -> str:
    """The class of the processor, such as "AMD EPYC"."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

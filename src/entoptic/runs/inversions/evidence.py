"""The measurements of pictures: of each by itself, and of the samples of one map together."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from entoptic.inversion.maps import FeatureMaps
from entoptic.inversion.options import Sampling
from entoptic.metrics.evidence import Evidence
from entoptic.metrics.inversion import Wanted, measure_inversion, sample_sd, spread
from entoptic.metrics.picture import to_float
from entoptic.models.model import Model
from entoptic.runs.context import opaque
from entoptic.runs.inversions.edits import Edit
from entoptic.runs.inversions.photos import Source
from entoptic.runs.inversions.plan import METHOD, Plan, Task
from entoptic.runs.inversions.reader import Reader
from entoptic.runs.store import Picture, Run

if TYPE_CHECKING:
    from entoptic.inversion.inverter import Inverter

EVIDENCE = 1
"""Raised whenever something else is measured: pictures measured by an older one are measured again."""
SD_WHITE = 0.25
"""Standard deviation over samples (pixels range over 1) that is white in the stored map `sd`."""


def measured(maps: FeatureMaps, inverter: Inverter, pixels: np.ndarray, wanted: Wanted) -> list[Evidence]:
    """The measurements of one picture by itself."""
    where = inverter.mean_C.device

    def standardise(maps_BChw: Tensor) -> Tensor:
        return inverter.standardise(maps_BChw.to(where)).cpu()

    return measure_inversion(pixels, wanted, maps, standardise, getattr(inverter, "law", None))


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


def settle(plan: Plan, reader: Reader, task: Task) -> None:
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
            fresh = measured(plan.maps, plan.inverter, picture.pixels, wanted)
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
    found = measured(maps, inverter, picture.pixels, wanted)
    asked = (record.get("measured_with") or {}).get("samples") or []
    there = {pixels_sha256(one): one for one in (*siblings(run, picture.path, record["set"]), picture)}
    pictures = [there[digest] for digest in asked if digest in there]
    if len(pictures) == len(asked) and pictures:
        found.append(together(pictures, sampling.looked_at if sampling.best_of > 1 else "")[0])
    return {e.name: e for e in found}

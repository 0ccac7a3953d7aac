"""The measurements of pictures: of each by itself, and of the samples of one map together."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from entoptic.base.cache import content_key
from entoptic.base.pixels import centre_square, opaque, to_float
from entoptic.errors import UserError
from entoptic.inversion.configs import Sampling
from entoptic.inversion.maps import FeatureMaps
from entoptic.inversion.targets import Edit, PhotoFile, Reader, picture_of
from entoptic.metrics.distribution import features
from entoptic.metrics.evidence import Evidence, missing
from entoptic.metrics.inversion import (
    distances,
    has_features,
    matches,
    mean_cosine,
    measured,
    sample_sd,
    spread,
)
from entoptic.runs.inversion_plan import EVIDENCE, METHOD, Plan, Task, measured_with, pixels_sha256
from entoptic.runs.records import model_record
from entoptic.runs.store import FORMAT, Picture, Run

if TYPE_CHECKING:
    from entoptic.inversion.inverter import Inverter

SD_WHITE = 0.25
"""Standard deviation over samples (pixels range over 1) that is white in the stored map `sd`."""


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


def measure_samples(pictures: Sequence[Picture], selected: str) -> tuple[Evidence, np.ndarray | None]:
    """The spread over samples of one map, and its map over the picture (h×w×2 uint8, see `SD_WHITE`)."""
    pixels = torch.cat([to_float(picture.pixels) for picture in pictures])
    shade = None
    if len(pictures) > 1:
        grey = (sample_sd(pixels) / SD_WHITE).clamp(0, 1).mul(255).round().byte().numpy()
        shade = np.stack([grey, np.full_like(grey, 255)], -1)
    return spread(pixels, selected), shade


def refresh_set_evidence(plan: Plan, reader: Reader, task: Task) -> None:
    """Brings the evidence of a set's pictures up to date: their spread, and all of it where the judges are others."""
    pictures = siblings(plan.run, task.file, task.set)
    if not pictures:
        return
    current = measured_with(plan.verifiers, pictures)
    stale = [picture for picture in pictures if picture.record.get("measured_with") != current]
    if not stale:
        return
    selected = plan.sampling.looked_at if plan.sampling.best_of > 1 else ""
    found, shade = measure_samples(pictures, selected)
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
    source = PhotoFile(record["photo"]["path"], record["photo"]["sha256"])
    wanted = reader.wanted(source, Edit.of(config), sampling.looked_at, before_of(run, record))
    found = measured(maps, inverter, picture.pixels, wanted)
    asked = (record.get("measured_with") or {}).get("samples") or []
    there = {pixels_sha256(one): one for one in (*siblings(run, picture.path, record["set"]), picture)}
    pictures = [there[digest] for digest in asked if digest in there]
    if len(pictures) == len(asked) and pictures:
        found.append(measure_samples(pictures, sampling.looked_at if sampling.best_of > 1 else "")[0])
    return {e.name: e for e in found}


SET = 50
"""Least pictures, and least photos for distances between the two, that are measured as a set."""


SET_FILE = "inversion.json"


def write_set(plan: Plan, tasks: list[Task]) -> None:
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


def _distances(plan: Plan, tasks: list[Task]) -> tuple[str | None, Sequence[Evidence]]:
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
            image = picture_of(source.path)
            picture = to_float(Picture(task.file, {}).pixels)
            photo = centre_square(image, picture.shape[-1])[None].float() / 255
            made.append(features(judge, picture))
            real.append(features(judge, photo))
    if len(made) < SET:
        return none(f"it needs {SET} photos, there are {len(made)}")
    return judge.card.name, distances(torch.cat(made), torch.cat(real))

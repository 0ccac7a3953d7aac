"""How long a benchmark takes, from two steps of each method and one measurement."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from entoptic.base.progress import Reporter
from entoptic.bench.make import Setting, plan_of, settings
from entoptic.bench.recipe import PlantedPart, Recipe
from entoptic.images.photos import Photos
from entoptic.metrics.picture import measure as measure_picture
from entoptic.planted.networks import planted_network
from entoptic.planted.scenes import make_scenes, write_scenes
from entoptic.runs.estimate import estimate as estimate_plan
from entoptic.runs.plan import make_plan


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one method of one part takes.

    Attributes:
        subject: name of the part.
        method: label of the row.
        pictures: to make.
        done: that are there.
        seconds: of making and measuring them.
    """

    subject: str
    method: str
    pictures: int
    done: int
    seconds: float


def estimate(
    recipe: Recipe, out: Path, *, judges: list[str], photos: Photos | None, device: str, batch_size: int | None
) -> list[Part]:
    """Times two steps of every method, and one measurement; nothing is written into the folder.

    Args:
        recipe: the recipe.
        out: the benchmark's folder; what it holds is not counted.
        judges: networks beside the recipe's.
        photos: real photos, or None.
        device: of the networks.
        batch_size: pictures made together.
    """
    parts: list[Part] = []
    for setting in settings(recipe, out, judges=judges, photos=photos, device=device):
        each = _measuring(setting)
        each_picture: dict[str, float] = {}
        for index, seed in enumerate(setting.subject.seeds):
            plan = plan_of(setting, seed, Reporter(), batch_size)
            for entry, job in zip(setting.subject.methods, plan.jobs, strict=True):
                if index == 0:  # each alone: two rows may be of one method
                    ((_, found),) = estimate_plan(replace(plan, jobs=[job]))["methods"].items()
                    each_picture[entry.label] = float(found.get("seconds_per_picture", 0.0))
                there = sum(plan.run.finished(e.file, e.key) is not None for e in plan.entries(job))
                todo = len(job.items) - there
                seconds = todo * each_picture[entry.label] + len(job.items) * each
                parts.append(
                    Part(subject=setting.subject.name, method=entry.label, pictures=todo, done=there, seconds=seconds)
                )
    if recipe.planted is not None:
        parts += _planted(recipe.planted)
    return _summed(parts)


def _measuring(setting: Setting) -> float:
    """Seconds that the measurements of one picture take: once when it is made, about half of that for the table."""
    pixels = np.random.default_rng(0).integers(0, 256, (*setting.model.card.size, 3), dtype=np.uint8)
    started = time.monotonic()
    measure_picture(pixels, setting.units[0], None, setting.judges)
    return 1.5 * (time.monotonic() - started)


def _planted(part: PlantedPart) -> list[Part]:
    """The planted part, as if nothing of it were there."""
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        scenes = write_scenes(make_scenes(part.scenes, seed=0), Path(folder) / "scenes")
        network = planted_network(part.networks[0].network)
        units = sum(len(one.units) or len(network.units) for one in part.networks)
        for entry in part.methods:
            plan = make_plan(
                network.model,
                [u.unit for u in network.units],
                method=entry.config,
                photos=str(scenes),
                n=part.n,
                seed=part.seed,
                out=Path(folder) / "run",
                verifiers="",
                context=False,
            )
            (found,) = estimate_plan(plan)["methods"].values()
            pictures = units * part.n
            seconds = pictures * float(found.get("seconds_per_picture", 0.0))
            parts.append(Part(subject="planted", method=entry.label, pictures=pictures, done=0, seconds=seconds))
    return parts


def _summed(parts: list[Part]) -> list[Part]:
    """Seeds of a method together."""
    keys = dict.fromkeys((p.subject, p.method) for p in parts)
    found = []
    for subject, method in keys:
        own = [p for p in parts if (p.subject, p.method) == (subject, method)]
        found.append(
            Part(
                subject=subject,
                method=method,
                pictures=sum(p.pictures for p in own),
                done=sum(p.done for p in own),
                seconds=sum(p.seconds for p in own),
            )
        )
    return found

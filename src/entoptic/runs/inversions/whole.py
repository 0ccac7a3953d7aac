"""What all pictures of a request say together: means, matches and distances, in a file of the run."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence

import torch

from entoptic.errors import UserError
from entoptic.images.cache import content_key
from entoptic.metrics.distribution import features
from entoptic.metrics.evidence import Evidence, missing
from entoptic.metrics.inversion import distances, has_features, matches, mean_cosine
from entoptic.metrics.picture import to_float
from entoptic.priors.learn import square
from entoptic.runs.inversions.edits import Edit
from entoptic.runs.inversions.evidence import EVIDENCE, measured_with
from entoptic.runs.inversions.photos import picture_of
from entoptic.runs.inversions.plan import Plan, Task
from entoptic.runs.see import model_record
from entoptic.runs.store import FORMAT, Picture

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
            photo = square(image, picture.shape[-1])[None].float() / 255
            made.append(features(judge, picture))
            real.append(features(judge, photo))
    if len(made) < SET:
        return none(f"it needs {SET} photos, there are {len(made)}")
    return judge.card.name, distances(torch.cat(made), torch.cat(real))

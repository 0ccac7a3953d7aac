"""Evidence of several pictures together: the samples of one map, and all inversions of a run as a set."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from entoptic.base.cache import content_key
from entoptic.base.files import is_inside
from entoptic.base.pixels import centre_square, to_float
from entoptic.base.records import read_json
from entoptic.errors import Unreadable, UserError
from entoptic.inversion.maps import FeatureMaps
from entoptic.inversion.targets import PhotoFile, picture_of
from entoptic.metrics.distribution import features, has_features
from entoptic.metrics.evidence import Evidence, missing
from entoptic.metrics.inversion import distances, matches, mean_cosine, sample_sd, spread
from entoptic.models.model import Model
from entoptic.runs.records import model_record
from entoptic.runs.store import FORMAT, Picture, Run

SD_WHITE = 0.25
"""Standard deviation over samples (pixels range over 1) that is white in the stored map `sd`."""
SET = 50
"""Least pictures, and least photos for distances between the two, that are measured as a set."""
SET_FILE = "inversion.json"


def measure_samples(pictures: Sequence[Picture], selected: str) -> tuple[Evidence, np.ndarray | None]:
    """Returns the spread over samples of one map, and its map over the picture (h×w×2 uint8, see `SD_WHITE`).

    Args:
        pictures: of one map, which differ by their noise alone.
        selected: how each was chosen among several, "" where it was not.
    """
    pixels = torch.cat([to_float(picture.pixels) for picture in pictures])
    shade = None
    if len(pictures) > 1:
        grey = (sample_sd(pixels) / SD_WHITE).clamp(0, 1).mul(255).round().byte().numpy()
        shade = np.stack([grey, np.full_like(grey, 255)], -1)
    return spread(pixels, selected), shade


def write_set(
    run: Run,
    maps: FeatureMaps,
    verifiers: Sequence[Model],
    done: Sequence[tuple[PhotoFile, Picture]],
    version: int,
    about: Mapping[str, Any],
) -> None:
    """Writes means, matches and distances of all that was asked, where there is enough of it, to `SET_FILE` in the run.

    Args:
        run: that holds the pictures.
        maps: the layer that was inverted.
        verifiers: networks that judge the pictures.
        done: finished pictures with their photos.
        version: of the evidence.
        about: further entries of the file: inverter, seed, config, selected.
    """
    if len(done) < SET:
        return
    judges = {v.card.name: v.card.identity for v in verifiers}
    records = [picture.record for _, picture in done]
    key = content_key({
        "evidence": version, "verifiers": judges, "pictures": sorted(r["image"]["sha256"] for r in records),
        "keys": sorted(r["key"] for r in records),
    })  # fmt: skip
    file = run.path / SET_FILE
    with contextlib.suppress(Unreadable):
        if is_inside(file, run.path) and read_json(file).get("key") == key:
            return
    entries = [picture.evidence for _, picture in done]
    cosines = [mean_cosine(name, torch.tensor([e[name]["value"] for e in entries]))
               for name in ("cosine", "cosine_standardised")]  # fmt: skip
    # Every picture's sidecar holds the ranks already, so the set's shares cannot differ from theirs.
    ranks = {maps.model.card.name: [e["match_top1"]["detail"]["rank"] for e in entries]}
    ranks |= {name: [e["others_match_top1"]["detail"][name] for e in entries] for name in judges}
    by, apart = _distances(verifiers, done)
    run.write_record(file, {
        "format": FORMAT, "key": key, "model": model_record(maps.model), "layer": maps.layer, **about,
        "pictures": len(done), "photos": len({photo for photo, _ in done}),
        "means": [e.to_json() for e in cosines],
        "cross_match": {name: [e.to_json() for e in matches(torch.tensor(found))] for name, found in ranks.items()},
        "distances": {"features": by, "evidence": [e.to_json() for e in apart]},
    })  # fmt: skip


def _distances(
    verifiers: Sequence[Model], done: Sequence[tuple[PhotoFile, Picture]]
) -> tuple[str | None, Sequence[Evidence]]:
    """One picture of each photo against the photos at the pictures' size, and the verifier whose features are used."""

    def none(why: str) -> tuple[None, list[Evidence]]:
        return None, [missing(name, why, direction="lower") for name in ("frechet", "kid")]

    first = dict(reversed(done))
    judge = next((v for v in verifiers if has_features(v)), None)
    if judge is None:
        return none("no verifier has pooled features; a timm network has, such as builtin:lite1")
    made, real = [], []
    for photo, stored in first.items():
        with contextlib.suppress(UserError):
            image = picture_of(photo.path)
            picture = to_float(stored.pixels)
            made.append(features(judge, picture))
            real.append(features(judge, centre_square(image, picture.shape[-1])[None].float() / 255))
    if len(made) < SET:
        return none(f"it needs {SET} photos, there are {len(made)}")
    return judge.card.name, distances(torch.cat(made), torch.cat(real))

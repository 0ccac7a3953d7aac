"""Mean sorted values of photos, against the whole batch at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from entoptic.images.matching_targets import sorted_means
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.models.model import Model
from entoptic.models.taps import Tap
from entoptic.units.unit import bind

TAPS = (Tap("stem"), Tap("stage1"), Tap("head"))


def write(folder: Path, values: dict[str, int]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        rng = np.random.default_rng(value)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / name)
    return folder


def test_the_streaming_mean_is_the_batch_mean(tiny: Model, photo_folder: Path) -> None:
    photos = Photos.open(photo_folder)
    ((_, everything),) = photos.batches(tiny.card.prepare, 40)
    whole = {tap: v.double().sort(-1).values.mean(0) for tap, v in tiny.read(everything, TAPS).items()}
    for size in (1, 7, 40):
        means, count = sorted_means(tiny, TAPS, photos.batches(tiny.card.prepare, size), lambda done: None)
        assert count == 40
        for tap in TAPS:
            torch.testing.assert_close(means[tap].double(), whole[tap], rtol=1e-5, atol=1e-6)


def test_the_target_of_copies_of_one_photo_is_its_sorted_values(tiny: Model, tmp_path: Path) -> None:
    folder = write(tmp_path / "copies" / "circle", {f"{i}.png": 3 for i in range(5)}).parent
    photos = Photos.open(folder)
    unit = bind(tiny, "logits:0")[0]
    target = References(tiny, photos).target(unit, TAPS, 5)
    one = photos.read(0)
    assert one is not None
    for tap, values in tiny.read(tiny.card.prepare(one)[None], TAPS).items():
        torch.testing.assert_close(target.values[tap], values[0].sort(-1).values, rtol=1e-5, atol=1e-6)
    assert target.photos == 5
    assert target.describe() == {"source": target.source, "n": 5, "sha256": photos.fingerprint()}

"""A unit that fires for red rings, whose top photos all show them on grass: what does its picture hold?

Matching whole distributions paints grass; matching what is relevant to the unit must not. Judged by the generator's
colours, which no method sees.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from entoptic.models.model import Model
from entoptic.runs.see import see
from planted.meters import share
from planted.nets import GRASS_UNIT, RING_UNIT, planted_model
from planted.shapes import GRASS, RING, planted_photos, write_photos

PICTURES = 2


@pytest.fixture(scope="module")
def model() -> Model:
    return planted_model()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(planted_photos(250, seed=0), tmp_path_factory.mktemp("planted") / "photos")


class Holds(NamedTuple):
    """Means over pictures: shares of pixels in the colours of grass and of a red ring; the unit's percentile (0-100)
    among the photos, five in six of which leave the ring unit silent."""

    grass: float
    ring: float
    percentile: float


def drawn(model: Model, unit: str, photos: Path, out: Path, **options: Any) -> Holds:
    """What pictures of a unit hold, as saved."""
    run = see(model, unit, photos=photos, out=out, n=PICTURES, verifiers="", progress=False, **options)
    images: list[Tensor] = [torch.from_numpy(p.pixels.copy()).permute(2, 0, 1).float() / 255 for p in run]
    assert len(images) == PICTURES
    return Holds(
        sum(share(image, GRASS) for image in images) / PICTURES,
        sum(share(image, RING) for image in images) / PICTURES,
        sum(p["percentile"] or 0.0 for p in run) / PICTURES,
    )


# The defaults are for pictures of 224 pixels. At 64, shifts are a quarter as long, and differences between neighbours
# are 3.5 times as large, their squares 12 times.
SMALL: dict[str, Any] = {"steps": 150, "jitter": 8, "smoothness": 12.0}


# Only those features are matched on which the unit relies.
CAUSE: dict[str, Any] = {"relevance": "lrp"}


@pytest.mark.parametrize(
    ("unit", "options", "grass", "ring"),
    [
        # whole distributions: what stands beside the ring is painted like the ring
        pytest.param(RING_UNIT, {"relevance": "none"}, (0.5, 1.0), (0.02, 0.2), id="ring-unit-without-relevance"),
        # the ring alone, on nothing
        pytest.param(RING_UNIT, {**CAUSE, "natural": 0.0, "plain": 3.0}, (0.0, 0.2), (0.04, 0.3), id="ring-unit-alone"),
        # the ring before what photos in general hold, whose mean colour is a greenish grey
        pytest.param(RING_UNIT, CAUSE, (0.0, 0.45), (0.02, 0.3), id="ring-unit"),
        # what its photos have beyond others, so the grass too
        pytest.param(RING_UNIT, {}, (0.5, 1.0), (0.02, 0.3), id="ring-unit-by-contrast"),
        # the control: relevance does not merely avoid grass
        pytest.param(GRASS_UNIT, {**CAUSE, "natural": 0.0, "plain": 1.0}, (0.5, 1.0), (0.0, 0.02), id="grass-unit"),
    ],
)
def test_what_a_picture_of_a_planted_unit_holds(
    model: Model,
    photos: Path,
    tmp_path: Path,
    unit: str,
    options: dict[str, Any],
    grass: tuple[float, float],
    ring: tuple[float, float],
) -> None:
    holds = drawn(model, unit, photos, tmp_path, **SMALL, **options)
    assert grass[0] <= holds.grass <= grass[1]
    assert ring[0] <= holds.ring <= ring[1]
    assert holds.percentile > 75, "the unit does not fire"

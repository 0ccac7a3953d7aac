"""The planted truth is true: masks, meters, what the planted units fire for, and where their relevance lies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from entoptic.images.photos import Photos
from entoptic.models.model import Model
from entoptic.models.taps import Tap
from entoptic.units.unit import bind

from .meters import PAINT, facet_coverage, facet_purity, mass_on, share
from .nets import CAUSES, EITHER_UNIT, FIELD, GRASS_UNIT, LABELS, RING_UNIT, STRIDE, causes, planted_model
from .shapes import (
    BACKGROUNDS,
    COLOURS,
    CROSS,
    GRASS,
    OBJECTS,
    RING,
    SIZE,
    Scene,
    balanced_scenes,
    make_scene,
    planted_photos,
    stack,
    write_photos,
)


@pytest.fixture(scope="module")
def model() -> Model:
    return planted_model()


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """Every object on every background, not those that the network was trained on."""
    return balanced_scenes(1000, seed=1)


@pytest.fixture(scope="module")
def photos() -> list[Scene]:
    return planted_photos(300, seed=0)


def score(model: Model, unit: str, scenes: list[Scene]) -> Tensor:
    with torch.no_grad():
        return bind(model, unit)[0].score(stack(scenes))


def auc(scores: Tensor, positive: Tensor) -> float:
    """Chance that a positive scores above a negative; a tie counts half."""
    above = scores[positive][:, None] - scores[~positive][None]
    return float(((above > 0).double() + 0.5 * (above == 0)).mean())


# --- scenes ------------------------------------------------------------------------------------------------------


def test_the_seed_fixes_every_pixel() -> None:
    one, two, other = planted_photos(8, seed=3), planted_photos(8, seed=3), planted_photos(8, seed=4)
    assert torch.equal(stack(one), stack(two))
    assert [s.objects for s in one] == [s.objects for s in two]
    assert not torch.equal(stack(one), stack(other))


def test_masks_partition_the_picture_and_hold_the_colour_they_name(scenes: list[Scene]) -> None:
    for scene in scenes[:150]:
        assert set(scene.masks) == {*scene.objects, scene.background}
        assert torch.equal(sum(m.int() for m in scene.masks.values()), torch.ones(SIZE, SIZE, dtype=torch.int))
        for name in scene.objects:
            inside = scene.image[:, scene.masks[name]]
            assert inside.shape[1] > 40
            # The edge is antialiased, so the median and not the mean.
            wanted = torch.tensor(COLOURS[name.split(" ")[0]])
            assert float((inside.median(1).values - wanted).abs().max()) < 0.15, name


def test_a_ring_has_a_hole_and_a_disc_has_none() -> None:
    for background in BACKGROUNDS:
        for shape, filled in (("ring", False), ("disc", True)):
            mask = make_scene([f"red {shape}"], background, np.random.default_rng(0)).masks[f"red {shape}"]
            rows, columns = mask.nonzero().double().mean(0).round().int().tolist()
            assert bool(mask[rows, columns]) is filled


def test_red_rings_stand_on_grass_and_everything_else_everywhere(photos: list[Scene]) -> None:
    assert {s.background for s in photos if RING in s} == {GRASS}
    assert sum(RING in s for s in photos) >= 40
    assert sum(s.background == GRASS and RING not in s for s in photos) >= 40
    assert {s.background for s in photos if CROSS in s} == set(BACKGROUNDS)
    assert {name for s in photos if RING not in s for name in s.objects} == set(OBJECTS) - {RING}


def test_files_hold_the_scenes_exactly(photos: list[Scene], model: Model, tmp_path: Path) -> None:
    opened = Photos.open(write_photos(photos[:12], tmp_path / "photos"))
    (batch,) = opened.batches(model.card.prepare, 32)
    assert torch.equal(batch[1], stack(photos[:12]))


# --- meters ------------------------------------------------------------------------------------------------------


def weak(image: Tensor) -> Tensor:
    """At half contrast around a lighter grey."""
    return 0.6 + 0.5 * (image - 0.5)


@pytest.mark.parametrize("change", [lambda image: image, weak], ids=["as it is", "at half contrast"])
def test_the_meters_read_the_background(change: Callable[[Tensor], Tensor]) -> None:
    for seed in range(12):
        for background in BACKGROUNDS:
            image = change(make_scene([], background, np.random.default_rng(seed)).image)
            read = share(image, GRASS)
            assert read > 0.9 if background == GRASS else read < 0.02, (background, seed)
            assert share(image, RING) < 0.1, (background, seed)  # the reddest of bricks


def test_the_meters_follow_the_masks(scenes: list[Scene]) -> None:
    for scene in [s for s in scenes if RING in s][:60]:
        ring = float(sum(m.float().mean() for n, m in scene.masks.items() if n.startswith("red ")))
        assert 0.6 * ring < share(scene.image, RING) < 2.2 * ring + 0.06  # the blur widens a stroke
        assert share(weak(scene.image), RING) > 0.3 * ring
        grass = float(scene.masks[GRASS].float().mean()) if GRASS in scene else 0.0
        assert abs(share(scene.image, GRASS) - grass) < 0.15


def test_grey_and_noise_hold_neither() -> None:
    generator = torch.Generator().manual_seed(0)
    for image in (torch.full((3, SIZE, SIZE), 0.5), 0.5 + 0.1 * torch.randn(3, SIZE, SIZE, generator=generator)):
        for name in PAINT:
            assert share(image.clamp(0, 1), name) < 0.01


def test_mass_on_a_mask() -> None:
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:4, :4] = True
    assert mass_on(torch.ones(8, 8), mask) == pytest.approx(0.25)
    assert mass_on(torch.tensor([[3.0, 1.0], [0.0, 0.0]]), mask) == pytest.approx(0.75)
    assert mass_on(torch.tensor([[-1.0, 0.0], [0.0, 0.0]]), mask) == 0.0  # nothing positive anywhere
    assert mass_on(torch.ones(8, 8), mask, reach=2) == pytest.approx(36 / 64)


def test_purity_and_coverage_of_facets() -> None:
    truth = ["ring", "ring", "cross", "cross"]
    assert (facet_purity([0, 0, 1, 1], truth), facet_coverage([0, 0, 1, 1], truth)) == (1.0, 1.0)
    assert (facet_purity([0, 1, 0, 1], truth), facet_coverage([0, 0, 0, 0], truth)) == (0.5, 0.5)
    assert facet_purity([0, 0, 0, 1], truth) == 0.75
    with pytest.raises(ValueError):
        facet_purity([0], truth)


# --- units -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", CAUSES)
@pytest.mark.parametrize("readout", ["", "@max"])
def test_a_planted_unit_tells_its_causes_from_everything_else(
    model: Model, scenes: list[Scene], unit: str, readout: str
) -> None:
    scores = score(model, unit + readout, scenes)
    found = torch.tensor([bool(c) for c in causes(unit, scenes)])
    assert auc(scores, found) >= 0.98
    for cause in CAUSES[unit]:
        has = torch.tensor([cause in scene for scene in scenes])
        assert auc(scores[has | ~found], has[has | ~found]) >= 0.98, cause
        assert float((scores[has] > 0).double().mean()) > 0.97, cause
    # Silence is exactly 0.
    assert float((scores[~found] > 0).double().mean()) < 0.05


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_the_ring_unit_does_not_care_what_the_ring_stands_on(
    model: Model, scenes: list[Scene], background: str
) -> None:
    here = [scene for scene in scenes if scene.background == background]
    scores = score(model, RING_UNIT, here)
    ring = torch.tensor([RING in scene for scene in here])
    assert auc(scores, ring) >= 0.98
    assert 0.75 < float(scores[ring].mean() / score(model, RING_UNIT, [s for s in scenes if RING in s]).mean()) < 1.3
    assert float(scores[~ring].max()) < 0.3 * float(scores[ring].median())


def test_the_top_photos_of_the_ring_unit_all_stand_on_grass(model: Model, photos: list[Scene]) -> None:
    scores = score(model, RING_UNIT, photos)
    top = [photos[i] for i in scores.argsort(descending=True)[:40]]
    assert all(RING in scene and scene.background == GRASS for scene in top)
    grass_alone = torch.tensor([s.background == GRASS and RING not in s for s in photos])
    assert float(scores[grass_alone].max()) == 0.0


def test_the_top_photos_of_the_unit_with_two_causes_show_both(model: Model, photos: list[Scene]) -> None:
    top = score(model, EITHER_UNIT, photos).argsort(descending=True)[:40]
    found = causes(EITHER_UNIT, [photos[i] for i in top])
    assert all(found)
    assert min(found.count((RING,)), found.count((CROSS,))) >= 8


def test_lower_layers_hold_grass(model: Model, scenes: list[Scene]) -> None:
    """Without features of grass, matching whole distributions could not paint it."""
    grass = torch.tensor([scene.background == GRASS for scene in scenes])
    for layer in ("stage1", "stage2"):
        with torch.no_grad():
            mean = model.read(stack(scenes), [Tap(layer)])[Tap(layer)].mean(2)  # N×C
        assert max(auc(channel, grass) for channel in mean.unbind(1)) > 0.95


@pytest.mark.parametrize(("unit", "logit"), [(RING_UNIT, RING), (GRASS_UNIT, GRASS), (EITHER_UNIT, None)])
def test_what_reads_a_planted_unit(scenes: list[Scene], unit: str, logit: str | None) -> None:
    """Its ablation changes one logit, or none."""
    model = planted_model()
    images = stack([scene for scene in scenes if any(cause in scene for cause in CAUSES[unit])][:20])
    channel = int(unit.partition(":")[2])
    with torch.no_grad():
        whole = model(images)
        model.module.stage3[2].weight[channel] = 0
        model.module.stage3[2].bias[channel] = 0
        changed = (model(images) - whole).abs().amax(0)
    assert [LABELS[i] for i in changed.nonzero().flatten()] == ([logit] if logit else [])


def test_positions_see_the_square_they_are_said_to_see(model: Model) -> None:
    image = torch.full((1, 3, SIZE, SIZE), 0.5, requires_grad=True)
    model.read(image, [Tap("stage3", pre=True)])[Tap("stage3", pre=True)][0, :, 4 * 2 + 1].abs().sum().backward()
    assert image.grad is not None
    rows, columns = image.grad[0].abs().sum(0).nonzero().unbind(1)
    half = FIELD // 2
    assert (rows.min(), rows.max()) == (2 * STRIDE - half, 2 * STRIDE + half)
    assert (columns.min(), columns.max()) == (STRIDE - half, STRIDE + half)


def test_relevance_of_the_ring_unit_lies_on_the_ring(model: Model, photos: list[Scene]) -> None:
    """By |gradient × activation|, the plainest relevance there is: most of it within 4 pixels of the ring."""
    held, by_chance = [], []
    with model.frozen():
        for scene in [s for s in photos if RING in s][:20]:
            stage1 = model.module[:2](model.normalise(scene.image[None])).requires_grad_()  # 1×32×16×16
            (gradient,) = torch.autograd.grad(model.module[2:4](stage1)[:, 0].sum(), stage1)
            relevance = (gradient * stage1).abs().sum(1)[0].detach()
            held.append(mass_on(relevance, scene.masks[RING], reach=4))
            by_chance.append(mass_on(torch.ones(16, 16), scene.masks[RING], reach=4))
    assert min(held) > 0.6
    assert float(np.mean(held)) > 0.85
    assert float(np.mean(by_chance)) < 0.25

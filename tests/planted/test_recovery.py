"""`entoptic.planted`: scenes and meter agree, units do what their cards say, manipulated ones only off the scenes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from entoptic.configs import Fourier, PixelAscent, Retrieval
from entoptic.errors import UserError
from entoptic.images.photos import Photos
from entoptic.planted.causes import ASPECTS, PAINTS, SHAPES, Cause
from entoptic.planted.meter import read
from entoptic.planted.networks import NETWORKS, Kind, Manipulation, PlantedNetwork, planted_network, target_picture
from entoptic.planted.recover import RESTING, Share, recover, summarise
from entoptic.planted.scenes import SIZE, PlantedScene, draw_scene, make_scenes, stack, write_scenes
from entoptic.units.unit import bind

HONEST = planted_network("honest")
TUNED = [unit.name for unit in HONEST.units if not unit.null]


@pytest.fixture(scope="module")
def scenes() -> list[PlantedScene]:
    """Not those on which thresholds were set, nor those that runs see."""
    return make_scenes(300, seed=11)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(make_scenes(60, seed=0), tmp_path_factory.mktemp("planted") / "scenes")


def scores(network: PlantedNetwork, name: str, images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([bind(network.model, network.unit(name).unit)[0].score(part) for part in images.split(100)])


def auc(values: Tensor, positive: Tensor) -> float:
    above = values[positive][:, None] - values[~positive][None]
    return float(((above > 0).double() + 0.5 * (above == 0)).mean())


# --- scenes and causes -----------------------------------------------------------------------------------------------


def test_the_seed_fixes_every_scene() -> None:
    assert torch.equal(stack(make_scenes(4, seed=3)), stack(make_scenes(6, seed=3))[:4])
    assert not torch.equal(stack(make_scenes(4, seed=3)), stack(make_scenes(4, seed=4)))


def test_masks_hold_the_paint_that_they_name() -> None:
    for scene in make_scenes(40, seed=5, things=2):
        for thing in scene.things:
            if thing.texture == "plain":
                inside = scene.image[:, thing.mask].median(1).values
                assert (
                    float(
                        (inside / inside.max() - torch.tensor(PAINTS[thing.colour]) / max(PAINTS[thing.colour]))
                        .abs()
                        .max()
                    )
                    < 0.15
                )
            assert thing.has(Cause(colour=thing.colour, shape=thing.shape))


def test_files_hold_the_scenes_exactly(tmp_path: Path) -> None:
    made = make_scenes(3, seed=0)
    (batch,) = Photos.open(write_scenes(made, tmp_path / "scenes")).batches(HONEST.model.card.prepare, 8)
    assert torch.equal(batch[1], stack(made))


def test_a_scene_is_drawn_for_its_causes() -> None:
    scene = draw_scene([Cause(colour="blue", place="top right"), Cause(shape="cross")], seed=2)
    assert scene.has(Cause(colour="blue", place="top right"))
    assert scene.has(Cause(shape="cross"))


def test_causes_are_compared_and_refused() -> None:
    ring = Cause(colour="red", shape="ring")
    assert (ring.text, ring.within(Cause(shape="ring")), Cause(shape="ring").within(ring)) == ("red ring", True, False)
    with pytest.raises(UserError, match='no colour "rad"; there are red'):
        Cause(colour="rad")
    with pytest.raises(UserError, match="0, 1 or 2 things"):
        make_scenes(1, seed=0, things=3)


# --- the meter -------------------------------------------------------------------------------------------------------


def test_the_meter_reads_scenes_as_they_were_drawn() -> None:
    drawn = [scene.things[0] for scene in make_scenes(40, seed=21, things=1)]
    readings = [read(scene.image) for scene in make_scenes(40, seed=21, things=1)]
    for aspect in ASPECTS:
        right = [r.leading(aspect) == getattr(thing, aspect) for r, thing in zip(readings, drawn)]
        assert sum(right) >= 39, aspect


@pytest.mark.parametrize("kind", ["ground", "grey", "noise"])
def test_the_meter_reads_nothing_into_empty_pictures(kind: str) -> None:
    draw = torch.Generator().manual_seed(0)
    for scene in make_scenes(5, seed=22, things=0):
        image = scene.image
        if kind != "ground":
            image = torch.full_like(image, 0.5)
        if kind == "noise":
            image = (image + 0.1 * torch.randn(image.shape, generator=draw)).clamp(0, 1)
        assert {read(image).leading(aspect) for aspect in ASPECTS if aspect != "place"} == {None}


def test_the_meter_keeps_its_reading_at_half_contrast() -> None:
    image = draw_scene([Cause(colour="blue", texture="plain", shape="ring")], seed=1).image
    assert read(0.3 + 0.5 * image).shows(Cause(colour="blue", texture="plain", shape="ring"))
    assert not read(image).shows(Cause(colour="blue", shape="disc"))


# --- units -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TUNED)
def test_a_unit_tells_its_causes_from_everything_else(scenes: list[PlantedScene], name: str) -> None:
    unit = HONEST.unit(name)
    values = scores(HONEST, name, stack(scenes))
    has = torch.tensor([unit.in_scene(scene) for scene in scenes])
    assert auc(values, has) >= (0.98 if unit.kind is Kind.PLACE else 0.999)
    for cause in unit.causes:  # each of them by itself
        this = torch.tensor([scene.has(cause) for scene in scenes])
        assert auc(values[this | ~has], this[this | ~has]) >= 0.98, cause.text
    assert float(values.max()) > 4 * RESTING


def test_silent_units_are_silent(scenes: list[PlantedScene]) -> None:
    silent = [unit for unit in HONEST.units if unit.kind is Kind.SILENT]
    assert len(silent) == 2
    for unit in silent:
        assert unit.null
        assert float(scores(HONEST, unit.name, stack(scenes)).max()) < RESTING


@pytest.mark.parametrize("network", ["fooling", "slingshot"])
def test_manipulated_units_are_the_same_on_scenes_and_others_elsewhere(
    scenes: list[PlantedScene], network: str
) -> None:
    other = planted_network(network)
    changed = [unit for unit in other.units if unit.manipulation is not Manipulation.NONE]
    assert len(changed) == 4
    images = stack(scenes[:200])
    for unit in changed:
        assert unit.causes == HONEST.unit(unit.name).causes
        assert float((scores(other, unit.name, images) - scores(HONEST, unit.name, images)).abs().max()) < 1e-5
        assert unit.decoy is not None
        if network == "slingshot":
            lure = target_picture()[None]
        else:  # what the decoy asks for, without the grain of scenes
            drawn = draw_scene([replace(unit.decoy, shape=unit.decoy.shape or "disc")], seed=4)
            lure = torch.where(drawn.things[0].mask, drawn.image, torch.full((3, SIZE, SIZE), 0.5))[None]
        assert float(scores(other, unit.name, lure)) > 4 * float(scores(HONEST, unit.name, lure)), unit.name


def test_the_twin_agrees_with_the_honest_network(scenes: list[PlantedScene]) -> None:
    twin = planted_network("twin")
    assert twin.model.card.weights_sha256 != HONEST.model.card.weights_sha256
    for name in ("red", "ring", "red ring"):
        has = torch.tensor([HONEST.unit(name).in_scene(scene) for scene in scenes])
        assert auc(scores(twin, name, stack(scenes)), has) >= 0.99


def test_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match='did you mean "honest"'):
        planted_network("honst")
    with pytest.raises(UserError, match='no unit "rign"'):
        HONEST.unit("rign")
    assert set(SHAPES) <= {value for unit in HONEST.units for cause in unit.causes for value in cause.named.values()}
    assert len(NETWORKS) == 4


# --- recovery --------------------------------------------------------------------------------------------------------


def test_a_cause_is_recovered_and_a_silent_unit_is_told(folder: Path, tmp_path: Path) -> None:
    units = [HONEST.unit("rows"), HONEST.unit("dead")]
    rows, dead = recover(
        HONEST, PixelAscent(steps=80), method="pixels", scenes=folder, out=tmp_path, units=units, n=1,
        second=planted_network("twin"),
    )  # fmt: skip
    (picture,) = rows.sightings
    assert (rows.identified, picture.cause, picture.drives, picture.transfers) == (True, True, True, True)
    assert (dead.identified, dead.sightings[0].null, dead.sightings[0].drives) == (True, True, False)
    (summary,) = summarise([rows, dead])
    assert (summary.identified, summary.silent) == (Share(hits=1, n=1), Share(hits=1, n=1))
    assert summary.misleading == Share(hits=0, n=1)


def test_a_fooled_picture_shows_the_decoy_and_the_second_network_warns(folder: Path, tmp_path: Path) -> None:
    fooling = planted_network("fooling")
    (red,) = recover(
        fooling, Fourier(steps=80), method="fourier", scenes=folder, out=tmp_path, units=[fooling.unit("red")], n=1,
        second=planted_network("twin"),
    )  # fmt: skip
    (picture,) = red.sightings
    assert (red.identified, red.fooled) == (False, True)
    assert (picture.drives, picture.transfers, picture.warned) == (True, False, True)


def test_photos_are_not_fooled(folder: Path, tmp_path: Path) -> None:
    fooling = planted_network("fooling")
    (red,) = recover(
        fooling, Retrieval(), method="retrieval", scenes=folder, out=tmp_path, units=[fooling.unit("red")], n=1
    )
    assert (red.identified, red.fooled, red.sightings[0].transfers) == (True, False, None)


def test_a_share_names_its_interval() -> None:
    assert Share(hits=9, n=10).text == "9 of 10 [0.60, 0.98]"
    assert Share(hits=0, n=0).text == "–"

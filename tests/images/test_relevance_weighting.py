"""Features weighted by relevance: the weighting by hand, streaming means, facets, crops."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from entoptic.errors import UserError
from entoptic.images.build_index import build_index
from entoptic.images.other_photos import weaker_photos
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.images.relevance_weighting import (
    RULES,
    RelevanceWeighting,
    Weighted,
    channel_importance,
    crops,
    facet_photos,
    layers_below,
    read_relevant,
    relevant_means,
    rules_of,
    spatial_weight,
)
from entoptic.methods.vital import RELEVANCE
from entoptic.models.model import Model
from entoptic.models.relevance import relevance
from entoptic.models.rule_tables import ZPLUS
from entoptic.models.taps import Tap
from entoptic.units.unit import bind
from planted.meters import facet_purity, share
from planted.nets import CAUSES, EITHER_UNIT, causes, planted_model
from planted.shapes import planted_photos, write_photos


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


# --- the weighting --------------------------------------------------------------------------------------------


def test_weights_by_hand() -> None:
    maps = torch.tensor([[[1.0, 3.0, 2.0], [-5.0, 0.0, 10.0], [0.0, 0.0, 0.0], [4.0, 4.0, 4.0]]])
    expected = torch.tensor([[[0.0, 1.0, 0.5], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    assert torch.equal(spatial_weight(maps), expected)
    assert torch.equal(channel_importance(maps), torch.tensor([[0.3, 1.0, 0.0, 0.4]]))


def test_the_published_epsilon_is_added_to_the_span() -> None:
    maps = torch.tensor([[[0.0, 1e-6, 2e-6]]])
    assert torch.allclose(spatial_weight(maps, 1e-6), torch.tensor([[[0.0, 1 / 3, 2 / 3]]]))
    assert torch.equal(spatial_weight(maps), torch.tensor([[[0.0, 0.5, 1.0]]]))


@given(scale=st.floats(1e-20, 1e10), seed=st.integers(0, 1000))
def test_weights_do_not_depend_on_the_scale_of_relevance(scale: float, seed: int) -> None:
    maps = noise(2, 3, 8, seed=seed)
    assert torch.allclose(spatial_weight(maps), spatial_weight(maps * scale), atol=1e-5)
    assert torch.allclose(channel_importance(maps), channel_importance(maps * scale), atol=1e-5)


# --- reading --------------------------------------------------------------------------------------------------


def test_one_pass_reads_values_and_the_relevance_of_each_pictures_own_unit(tiny: Model) -> None:
    units = bind(tiny, ["stage2:3", "stage1:2", "stage2:5@1,2"])
    images, taps = noise(4, 3, 32, 32), [Tap("stem"), Weighted("stem")]
    values, maps = read_relevant(tiny, images, [*units, None], taps, ZPLUS)
    plain = tiny.read(images, [Tap("stem")])[Tap("stem")]
    assert torch.equal(values[Tap("stem")], plain)
    assert torch.equal(values[Weighted("stem")], plain)
    for i, unit in enumerate(units):
        first = unit.before_activation() or unit
        alone = relevance(tiny, images[i : i + 1], {first.tap: first.start}, [Tap("stem")])
        assert torch.allclose(maps[Weighted("stem")][i], alone.maps[Tap("stem")][0], atol=1e-6)
    assert not maps[Weighted("stem")][3].any()
    assert not maps[Weighted("stem")].requires_grad


def test_layers_below_a_unit_end_before_its_own(tiny: Model) -> None:
    taps = [Tap("stem"), Tap("stage1"), Tap("stage2")]
    (unit,) = bind(tiny, "stage2:0")
    assert layers_below(tiny, reversed(taps), unit) == (Tap("stem"), Tap("stage1"))


@settings(max_examples=10)
@given(split=st.integers(1, 6))
def test_streaming_means_are_those_of_one_batch(split: int) -> None:
    from conftest import tiny_card, tiny_module

    tiny = Model(tiny_module(), tiny_card(), device="cpu")
    (unit,), taps = bind(tiny, "stage2:3"), [Weighted("stem"), Weighted("stage1")]
    images = noise(7, 3, 32, 32)
    parts = [(list(range(len(c))), c) for c in images.split(split)]
    values, importance, count = relevant_means(tiny, unit, taps, parts, lambda n: None, RelevanceWeighting())
    assert count == 7
    read, maps = read_relevant(tiny, images, [unit] * 7, taps, rules_of("lrp"))
    for tap in taps:
        expected = (read[tap] * spatial_weight(maps[tap])).sort(-1).values.mean(0)
        assert torch.allclose(values[tap], expected, atol=1e-5)
        assert torch.allclose(importance[tap], channel_importance(maps[tap]).mean(0), atol=1e-5)


# --- where relevance starts -----------------------------------------------------------------------------------


def test_a_unit_starts_at_its_positive_activation_where_it_is_read(tiny: Model) -> None:
    values = torch.tensor([[[-1.0, 2.0, 3.0, -4.0]]]).repeat(1, 16, 1)
    mean, top, place = bind(tiny, ["stage2:3", "stage2:3@max", "stage2:3@0,1"])
    values_16 = torch.nn.functional.pad(values, (0, 12), value=-9.0)
    assert mean.start(values_16)[0, 3].tolist() == [0.0, 2.0, 3.0, 0.0] + [0.0] * 12
    assert top.start(values_16)[0, 3].tolist() == [0.0, 0.0, 3.0, 0.0] + [0.0] * 12
    assert place.start(values_16)[0, 3].tolist() == [0.0, 2.0, 0.0, 0.0] + [0.0] * 12
    assert not mean.start(values_16)[0, [i for i in range(16) if i != 3]].any()


def test_a_silent_unit_starts_at_the_place_nearest_to_firing(tiny: Model) -> None:
    values = -torch.arange(1.0, 17.0).repeat(2, 16, 1)
    mean, place = bind(tiny, ["stage2:3", "stage2:3@0,1"])
    assert mean.start(values)[0, 3].tolist() == [1.0] + [0.0] * 15
    assert place.start(values)[0, 3].tolist() == [0.0, 1.0] + [0.0] * 14


# --- facets, crops, references --------------------------------------------------------------------------------


def test_facets_of_separate_groups_are_those_groups() -> None:
    a, b = torch.tensor([5.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 7.0])
    profiles = torch.stack([a, b, 2 * a, 3 * b, a, b]) + 0.05 * noise(6, 3)
    assert facet_photos(profiles, 2).tolist() == [0, 1, 0, 1, 0, 1]
    assert facet_photos(profiles, 1).tolist() == [0] * 6
    assert set(facet_photos(profiles[:2], 5).tolist()) == {0, 1}


def test_the_two_causes_of_a_planted_unit_become_its_facets(tmp_path: Path) -> None:
    model, scenes = planted_model(), planted_photos(250, seed=0)
    references = References(model, Photos.open(write_photos(scenes, tmp_path / "photos")))
    (unit,) = bind(model, EITHER_UNIT)
    found = [c[0] if len(c := causes(EITHER_UNIT, [scene])[0]) == 1 else None for scene in scenes]
    for facet in (0, 1):
        references.target(unit, [Tap("stage1"), Tap("stage2")], 12, wanted=RelevanceWeighting(facet=facet, facets=2))
    ((read, assigned),) = references._facets.values()
    pairs = [(facet, found[i]) for i, facet in zip(read, assigned) if found[i] is not None]
    shown = {cause for _, cause in pairs}
    assert shown == set(CAUSES[EITHER_UNIT]), "the strongest photos hold one cause only"
    assert facet_purity([facet for facet, _ in pairs], [cause for _, cause in pairs]) > 0.9


def test_crops_are_cut_around_the_place_that_drives_the_unit() -> None:
    model, scenes = planted_model(), planted_photos(60, seed=0)
    (unit,) = bind(model, "stage3:0")
    images = torch.stack([scene.image for scene in scenes])
    ((indices, cut),) = list(crops(model, unit, [(list(range(60)), images)]))
    assert indices == list(range(60))
    assert cut.shape == images.shape
    rings = [i for i, scene in enumerate(scenes) if float(unit.score(images[i : i + 1])) > 0]
    assert len(rings) > 3
    # A crop is enlarged, so the ring fills more of it.
    fuller = [share(cut[i], "red ring") > share(images[i], "red ring") for i in rings]
    assert sum(fuller) / len(fuller) > 0.8


def test_bad_choices_are_answered(tiny: Model, photo_folder: Path) -> None:
    with pytest.raises(UserError, match='did you mean "lrp"'):
        RelevanceWeighting("lpr")
    with pytest.raises(UserError, match='"image" or "crop"'):
        RelevanceWeighting(reference="patch")
    references = References(tiny, Photos.open(photo_folder))
    (stem,) = bind(tiny, "stem:0")
    with pytest.raises(UserError, match="nothing below"):
        references.target(stem, [Tap("stem"), Tap("stage1")], 4, wanted=RelevanceWeighting())


def test_targets_of_kinds_of_relevance_are_kept_apart(tiny: Model, photo_folder: Path) -> None:
    references = References(tiny, Photos.open(photo_folder))
    (unit,), taps = bind(tiny, "stage2:3"), [Tap("stem")]
    first = references.target(unit, taps, 4, wanted=RelevanceWeighting())
    again = References(tiny, Photos.open(photo_folder)).target(
        unit, taps, 4, wanted=RelevanceWeighting()
    )  # from the disk
    assert torch.equal(first.values[Weighted("stem")], again.values[Weighted("stem")])
    assert torch.equal(first.importance[Weighted("stem")], again.importance[Weighted("stem")])
    other = references.target(unit, taps, 4, wanted=RelevanceWeighting("gradient"))
    assert not torch.equal(first.values[Weighted("stem")], other.values[Weighted("stem")])
    assert Tap("stem") in references.target(unit, taps, 4).values


def test_quiet_photos_are_of_the_weaker_half(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    photos = Photos.open(photo_folder)
    references = References(tiny, photos)
    (unit,) = bind(tiny, "stage2:3")
    scores = references.scores([unit]).of(unit)
    weak = weaker_photos(references, unit, 64)
    assert len(weak) == len(photos) // 2
    assert scores[weak].max() <= scores.median() + 1e-6
    few = weaker_photos(references, unit, 5)
    assert len(few) == 5
    assert set(few) < set(weak)
    # An index smaller or larger than the set of photos answers alike, without scoring all of them.
    for k in (3, 100):
        index = build_index(tiny, photos, ["stage2"], out=tmp_path / str(k), k=k)
        by_index = weaker_photos(References(tiny, photos, index=index), unit, 5)
        assert len(by_index) == 5
        assert scores[by_index].max() <= scores.median() + 1e-6


def test_kinds_of_relevance_are_named_alike_without_torch() -> None:
    assert ("auto", *RULES, "none") == RELEVANCE

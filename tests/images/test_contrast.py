"""Targets moved away from photos that do not drive a unit, and the layers that such a target has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from entoptic.errors import NotAvailable, UserError
from entoptic.images.contrast import away_from_others, contrasted, layers_up_to
from entoptic.images.matching_targets import MatchingTarget
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.methods.contract import Context, Item, config_identity, find_method, recorded_config
from entoptic.methods.vital import Vital, _relevance_of, vital
from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.models.taps import Tap
from entoptic.models.trunk import trunk_layers
from entoptic.units.unit import bind


def test_a_target_moves_away_from_photos_that_do_not_drive_the_unit(tiny: Model, photo_folder: Path) -> None:
    references, unit = References(tiny, Photos.open(photo_folder)), bind(tiny, "stage2:3")[0]
    taps = (Tap("stem"), Tap("stage2"))
    own, others = references.target(unit, taps, 4), references.natural(unit, taps)
    moved = contrasted(own, others, 2.0)
    for tap in taps:
        assert torch.allclose(moved.values[tap], 3 * own.values[tap] - 2 * others.values[tap], atol=1e-5)
        assert not torch.allclose(moved.values[tap], own.values[tap])
    assert all(torch.equal(contrasted(own, others, 0.0).values[tap], own.values[tap]) for tap in taps)
    assert "do not drive stage2:3" in moved.source


def test_layers_end_with_the_units_own(tiny: Model) -> None:
    taps = [Tap(layer) for layer in reversed(trunk_layers(tiny))]
    assert [t.layer for t in layers_up_to(tiny, taps, bind(tiny, "stage1:3")[0])] == ["stem", "stage1"]
    assert [t.layer for t in layers_up_to(tiny, taps, bind(tiny, "stem:0")[0])] == ["stem"]
    both = bind(tiny, "stem:0")[0] + bind(tiny, "stage2:3")[0]
    assert [t.layer for t in layers_up_to(tiny, taps, both)][-1] == "stage2"


def test_no_later_layer_takes_part(tiny: Model, photo_folder: Path) -> None:
    """A later layer cannot tell what drives a unit, only what its photos show besides."""
    from conftest import tiny_card, tiny_module

    other = tiny_module()
    other.load_state_dict(tiny.module.state_dict())
    with torch.no_grad():
        next(p for n, p in other.named_parameters() if n.startswith("stage2")).mul_(-1)
    pictures = []
    for model in (tiny, Model(other, tiny_card(), device="cpu")):
        context = Context(model=model, references=References(model, Photos.open(photo_folder)))
        item = Item(target=bind(model, "stage1:3")[0], sample=0, seed=0)
        (draft,) = vital([item], Vital(steps=4, references=4), context)
        pictures.append(draft.image)
    assert torch.equal(*pictures)


def test_what_a_unit_is_matched_with_is_said(tiny: Model, photo_folder: Path) -> None:
    context = Context(model=tiny, references=References(tiny, Photos.open(photo_folder)))
    item = Item(target=bind(tiny, "stage2:3")[0], sample=0, seed=0)
    for options, words in (
        ({}, "against"),
        ({"contrast": 0.0}, "drive stage2:3 most"),
        ({"relevance": "lrp"}, "drive"),
    ):
        (draft,) = vital([item], Vital(steps=2, references=4, **options), context)  # type: ignore[arg-type]
        assert words in draft.trace.references["source"]
        assert ("against" in draft.trace.references["source"]) == (not options)


def test_pictures_made_before_contrast_keep_their_keys() -> None:
    card = find_method("vital")
    before = Vital(contrast=0.0, relevance="lrp")
    assert "contrast" not in config_identity(before)
    assert recorded_config(card, config_identity(before)) == before
    assert config_identity(Vital())["contrast"] == 3.0


def test_logits_are_moved_away_from_photos_of_other_classes(tiny: Model, photo_folder: Path) -> None:
    context = Context(model=tiny, references=References(tiny, Photos.open(photo_folder)))
    item = Item(target=bind(tiny, "logits:1")[0], sample=0, seed=0)
    (plain,) = vital([item], Vital(steps=3, references=4, class_contrast=0.0), context)
    (other,) = vital([item], Vital(steps=3, references=4), context)
    assert not torch.equal(plain.image, other.image)
    assert "against 32 photos of" in other.trace.references["source"]
    assert "that are not of square" in other.trace.references["source"]
    assert "against" not in plain.trace.references["source"]
    assert "class_contrast" not in config_identity(Vital(class_contrast=0.0))
    assert config_identity(Vital())["class_contrast"] == 1.0


def test_statistics_without_photos_of_all_kinds_leave_a_logit_as_it_is(
    tiny: Model, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    references, taps = References(tiny, Photos.open(photo_folder)), (Tap("stem"), Tap("stage2"))
    logit, channel = bind(tiny, ["logits:1", "stage2:3"])
    target = references.target(logit, taps, 4)

    def none(*_: object) -> MatchingTarget:
        raise NotAvailable("the shipped statistics have no such layer")

    monkeypatch.setattr(References, "others", none)
    assert away_from_others(target, logit, references, 1.0, 4) is target
    with pytest.raises(NotAvailable, match="no such layer"):
        away_from_others(target, channel, references, 3.0, 4)


def test_units_of_maps_and_tokens_have_contrast_and_those_of_vectors_relevance(photo_folder: Path) -> None:
    import timm

    card = Card(name="test_vit", size=(160, 160), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    torch.manual_seed(0)
    model = Model(timm.create_model("test_vit").eval(), card, device="cpu")
    references = References(model, Photos.open(photo_folder))
    for name, layout, kind in (
        ("blocks.1:3", "BTC", "none"), ("blocks.1.mlp.fc1:3", "BTC", "none"), ("patch_embed.proj:3", "BCHW", "none"),
        ("fc_norm:3", "BC", "lrp"),
    ):  # fmt: skip
        unit = bind(model, name)[0]
        assert model.layer(unit.layer).layout == layout
        assert _relevance_of(unit, Vital(), references) == kind
        assert _relevance_of(unit, Vital(relevance="gradient"), references) == "gradient"
        assert _relevance_of(unit, Vital(facets=2), references) == "lrp"


def test_contrast_is_at_least_nothing() -> None:
    with pytest.raises(UserError, match="contrast"):
        Vital(contrast=-1.0)

"""VITAL for inner units: the published step against its slow form, what the recipe promises, and its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from entoptic.errors import UserError
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.images.relevance_weighting import RelevanceWeighting, Weighted, relevant_means
from entoptic.methods.augment import repeat_view, roll
from entoptic.methods.contract import Context, Item
from entoptic.methods.objectives import AscentStep, activation_target, match
from entoptic.methods.vital import Vital, vital, weighted_reader
from entoptic.methods.vital_paper import PAPER_INNER, VitalPaper, published, vital_paper
from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.models.taps import Tap
from entoptic.units.unit import bind
from oracles import vital as class_oracle
from oracles import vital_inner as oracle


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def blotches(count: int, side: int, seed: int = 0) -> Tensor:
    """Pictures that drive deep units differently at different places, unlike white noise."""
    small = noise(count, 3, 6, 6, seed=seed)
    return torch.nn.functional.interpolate(small, (side, side), mode="bicubic", align_corners=False).clamp(0, 1)


def resnet(name: str) -> Model:
    from torchvision import models

    torch.manual_seed(0)
    module = getattr(models, name)(weights=None)
    module.train()
    with torch.no_grad():
        for seed in range(3):  # running statistics that keep the scale of activations
            module(2 * blotches(8, 96, seed) - 1)
    card = Card(name=f"torchvision:{name}/random", size=(96, 96), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    return Model(module.eval(), card, device="cpu")


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_published_step_equals_its_slow_form(name: str) -> None:
    """Loss and image gradient to 1e-5, against a copy of the network walked block by block."""
    model = resnet(name)
    (unit,) = bind(model, "layer4:7")
    weights, _, _ = PAPER_INNER["resnet50"]
    taps, wanted = [Weighted(layer) for layer in weights], RelevanceWeighting("lrp-vital", epsilon=1e-6)
    photos, image = blotches(4, 96, seed=10), blotches(1, 96, seed=20)
    values, importance, _ = relevant_means(
        model, unit, taps, [([0, 1, 2], photos[:3]), ([3], photos[3:])], lambda n: None, wanted
    )
    objective = match(dict(zip(taps, weights.values())), [values], balanced=False, importance=[importance])
    x = image.clone().requires_grad_()
    with model.frozen():
        loss = objective(AscentStep(weighted_reader(model, [unit], [wanted])(x, taps), x, x, 1, [[]]))
        loss.sum().backward()
        y = image.clone().requires_grad_()
        slow = oracle.inner_loss(model.module, model.normalise(y), model.normalise(photos), unit.index, weights)
        slow.backward()
    assert x.grad is not None
    assert y.grad is not None
    assert slow.item() > 0
    assert loss.item() == pytest.approx(slow.item(), rel=1e-5)
    assert float((x.grad - y.grad).norm() / y.grad.norm()) < 1e-5


def test_published_settings_of_both_kinds_of_unit() -> None:
    model = resnet("resnet50")
    layers, tv, l2 = published(model, "", logits=False)
    assert layers == {Tap("conv1"): 0.1, Tap("layer1"): 1, Tap("layer2"): 1, Tap("layer3"): 1}
    assert (tv, l2) == (3e-7, 3e-7)
    layers, tv, l2 = published(model, "", logits=True)
    assert layers == dict.fromkeys(map(Tap, ("conv1", "layer1", "layer2", "layer3", "layer4")), 1)
    assert (tv, l2) == (0, 0)


# --- the loss -------------------------------------------------------------------------------------------------


def test_channel_importance_weighs_channels() -> None:
    tap, z, t = Tap("x"), noise(1, 3, 5), noise(3, 5, seed=1)
    u = torch.tensor([0.0, 1.0, 0.5])
    step = AscentStep({tap: z}, z, z, 1, [[]])
    objective = match({tap: 2.0}, [{tap: t.sort(-1).values}], balanced=False, importance=[{tap: u}])
    by_hand = sum(float(u[c]) * class_oracle.layer_loss(z[0, c : c + 1], t[None, c : c + 1]) for c in range(3)) / 3
    assert float(objective(step)) == pytest.approx(2 * float(by_hand), rel=1e-5)


def test_a_layer_that_an_item_lacks_does_not_count_for_it() -> None:
    a, b, z = Tap("a"), Tap("b"), noise(2, 3, 5)
    t = noise(3, 5, seed=1).sort(-1).values
    both = match({a: 1.0, b: 1.0}, [{a: t}, {a: t, b: t}], balanced=True)(AscentStep({a: z, b: z}, z, z, 2, [[], []]))
    one = match({a: 1.0}, [{a: t}, {a: t}], balanced=True)(AscentStep({a: z}, z, z, 2, [[], []]))
    assert both[0] == one[0]
    assert both[1] == pytest.approx(2 * float(one[1]))


def test_nothing_pushes_beyond_the_strongest_photo(tiny: Model) -> None:
    (unit,) = bind(tiny, "stage2:3")
    values = torch.zeros(1, 16, 16)
    for score, expected in ((0.0, 1.25), (1.0, 1.0), (3.0, 0.5), (5.0, 0.0), (9.0, 0.0)):
        values[:, 3] = score
        objective = activation_target([unit], [(1.0, 5.0)])
        read = dict.fromkeys(objective.taps, values)
        assert float(objective(AscentStep(read, values, values, 1, [[]]))) == pytest.approx(expected)
    silent = activation_target([unit], [None])
    assert silent.taps == ()
    assert float(silent(AscentStep({}, values, values, 1, [[]]))) == 0


# --- held views -----------------------------------------------------------------------------------------------


def test_views_are_held_for_as_long_as_asked() -> None:
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    images, augment = noise(2, 3, 16, 16), repeat_view(roll(8), [3, 1])
    views = [augment(images, generators) for _ in range(9)]
    for start in (0, 3, 6):
        assert torch.equal(views[start][0], views[start + 1][0])
        assert torch.equal(views[start][0], views[start + 2][0])
    assert not torch.equal(views[0][0], views[3][0])
    assert not torch.equal(views[3][0], views[6][0])
    alone = torch.Generator().manual_seed(1)  # the other item's views are those that it has by itself
    assert all(torch.equal(view[1:], roll(8)(images[1:], [alone])) for view in views)


def test_relevance_is_told_anew_every_refresh(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from entoptic.images import relevance_weighting

    calls = []
    original = relevance_weighting.read_relevant
    monkeypatch.setattr(relevance_weighting, "read_relevant", lambda *a, **k: calls.append(1) or original(*a, **k))
    (unit,) = bind(tiny, "stage2:3")
    read = weighted_reader(tiny, [unit], [RelevanceWeighting()], refresh=3)
    first = read(noise(1, 3, 32, 32), [Weighted("stem"), Tap("stem")])
    for _ in range(6):
        again = read(noise(1, 3, 32, 32), [Weighted("stem"), Tap("stem")])
    assert len(calls) == 3
    assert torch.equal(first[Weighted("stem")], again[Weighted("stem")])
    assert torch.equal(again[Tap("stem")], tiny.read(noise(1, 3, 32, 32), [Tap("stem")])[Tap("stem")])
    assert not torch.equal(again[Weighted("stem")], again[Tap("stem")])


# --- the method -----------------------------------------------------------------------------------------------


def one_reference(tiny: Model, photo: Path) -> tuple[Context, list[Item]]:
    return Context(model=tiny, references=References(tiny, Photos.open([photo]))), [
        Item(target=bind(tiny, "stage2:3")[0], sample=0, seed=0)
    ]


def test_one_reference_photo_alone_is_matched_rank_by_rank(tiny: Model, photo_folder: Path) -> None:
    """One image as the only reference, no jitter, no prior: the loss goes to 0 and sorted values agree."""
    photo = sorted(photo_folder.glob("*/*.png"))[3]
    context, items = one_reference(tiny, photo)
    config = Vital(
        steps=600, lr=0.1, references=1, layers=("stem",), relevance="none", smoothness=0, jitter=0, zoom=0, flip=False,
        finish=0,
    )  # fmt: skip
    (draft,) = vital(items, config, context)
    losses = [loss for _, loss in draft.trace.to_json()["loss"]]
    assert losses[-1] < 1e-3 * losses[0]
    real = context.references.target(items[0].unit, [Tap("stem")], 1).values[Tap("stem")]
    mine = tiny.read(draft.image[None], [Tap("stem")])[Tap("stem")][0].sort(-1).values
    assert float((mine - real).square().mean() / real.var()) < 1e-3


@pytest.mark.parametrize("relevance", ["lrp", "gradient"])
def test_one_reference_photo_is_matched_where_it_is_relevant(tiny: Model, photo_folder: Path, relevance: str) -> None:
    photo = sorted(photo_folder.glob("*/*.png"))[3]
    context, items = one_reference(tiny, photo)
    config = Vital(
        steps=400, lr=0.2, references=1, layers=("stem",), relevance=relevance, smoothness=0, jitter=0, zoom=0, flip=False,
        natural=0, drive=0, refresh=1,
    )  # fmt: skip
    (draft,) = vital(items, config, context)
    losses = [loss for _, loss in draft.trace.to_json()["loss"]]
    assert losses[-1] < 0.4 * losses[0]  # R̂ moves with the picture, so the loss does not reach 0


def test_samples_show_facets_in_turn_and_transparency_lies_in_the_picture(tiny: Model, photo_folder: Path) -> None:
    context = Context(model=tiny, references=References(tiny, Photos.open(photo_folder)))
    items = [Item(target=bind(tiny, "stage2:3")[0], sample=sample, seed=0) for sample in range(3)]
    drafts = list(vital(items, Vital(steps=4, references=4, facets=2), context))
    sources = [draft.trace.references["source"] for draft in drafts]
    assert "facet 0 of 2" in sources[0]
    assert "facet 1 of 2" in sources[1]
    assert sources[2] == sources[0]
    for draft in drafts:
        assert draft.overlays["alpha"] is not None
        assert draft.overlays["alpha"].shape == (32, 32)
        assert draft.overlays["alpha"].min() >= 0
        assert float(draft.overlays["alpha"].max()) == 1


@pytest.mark.parametrize(
    "options",
    [{"reference": "crop"}, {"relevance": "guided"}, {"relevance": "epsilon"}, {"relevance": "none"}, {"refresh": 2}],
)
def test_options_change_the_picture(tiny: Model, photo_folder: Path, options: dict[str, Any]) -> None:
    context = Context(model=tiny, references=References(tiny, Photos.open(photo_folder)))
    items = [Item(target=bind(tiny, "stage2:3")[0], sample=0, seed=0)]
    base = {"steps": 6, "references": 4, "refresh": 1, "relevance": "lrp"}
    (plain,), (other,) = (list(vital(items, Vital(**{**base, **o}), context)) for o in ({}, options))  # type: ignore[arg-type]
    assert not torch.equal(plain.image, other.image)


def test_as_published_takes_logits_and_channels_together(tiny: Model, photo_folder: Path) -> None:
    context = Context(model=tiny, references=References(tiny, Photos.open(photo_folder)))
    items = [Item(target=unit, sample=0, seed=0) for unit in bind(tiny, ["logits:0", "stage2:3", "logits:1"])]
    drafts = {str(d.item.unit): d for d in vital_paper(items, VitalPaper(steps=3, references=4), context)}
    assert list(drafts) == ["logits:0", "stage2:3", "logits:1"]
    assert "photos of circle" in drafts["logits:0"].trace.references["source"]
    assert "drive stage2:3 most" in drafts["stage2:3"].trace.references["source"]


@pytest.mark.parametrize(
    ("options", "says"),
    [({"refresh": 0}, "refresh"), ({"facets": 0}, "facets")],
)
def test_bad_options(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        Vital(**options)


def test_an_unknown_relevance_is_answered() -> None:
    with pytest.raises(UserError, match='did you mean "lrp"'):
        Vital(relevance="lrb")
    with pytest.raises(UserError, match='"image" or "crop"'):
        VitalPaper(reference="patch")


def test_a_unit_that_no_photo_moves_is_not_pushed(photo_folder: Path) -> None:
    from conftest import tiny_card, tiny_module

    module = tiny_module()
    with torch.no_grad():
        module.stage2[1].weight[3], module.stage2[1].bias[3] = 0.0, -1.0  # a dead channel
    model = Model(module, tiny_card(), device="cpu")
    context = Context(model=model, references=References(model, Photos.open(photo_folder)))
    (draft,) = vital([Item(target=bind(model, "stage2:3")[0], sample=0, seed=0)], Vital(steps=4, references=4), context)
    assert draft.failure is None
    assert all(loss < 1e4 for _, loss in draft.trace.to_json()["loss"])


def test_units_before_the_matched_layers_leave_the_weights_of_others_alone(tiny: Model, photo_folder: Path) -> None:
    context = Context(model=tiny, references=References(tiny, Photos.open(photo_folder)))
    together = [Item(target=unit, sample=0, seed=0) for unit in bind(tiny, ["logits:0", "stem:3"])]
    first, second = vital(together, Vital(steps=3, references=4, relevance="lrp"), context)
    assert "whole photos were matched" in second.trace.to_json()["notes"][0]
    (alone,) = vital(together[:1], Vital(steps=3, references=4, relevance="lrp"), context)
    assert float((first.image - alone.image).abs().quantile(0.95)) < 1e-4

"""Evidence for inner units on a planted network in which every path and every effect is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from conftest import tiny_card
from entoptic.base.pixels import to_float
from entoptic.errors import UserError
from entoptic.images.build_index import build_index
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.images.unit_reference import ARBITRARY, ExemplarPhotos, LayerMoments, UnitReference, layer_moments
from entoptic.metrics.evidence import Evidence
from entoptic.metrics.inner_units import (
    Similarity,
    centred_similarity,
    effects,
    lower_layer,
    similarity,
    usual_activation,
    usual_on_photos,
    without_itself,
)
from entoptic.metrics.picture import measure
from entoptic.metrics.selectivity import selectivity
from entoptic.models.model import Model
from entoptic.units.unit import bind

RED, GREEN, BLUE, MAGENTA = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 0, 255)


def planted() -> Model:
    """Colours in, five logits out.

    `low` holds the means of R, G, B over 2×2 pixels. `mid:0` is R + G, `mid:1` is B, `mid:2` is R, `mid:3` is 2·G
    and `mid:4` is nothing. `late:0` is mid:0 where there is no blue, `late:1` is mid:0 where there is blue.
    Logit 1 is late:0, logit 2 is late:1, logit 3 is mid:2's own.
    """
    low, mid, late = nn.Conv2d(3, 3, 2, 2), nn.Conv2d(3, 5, 2, 2), nn.Conv2d(5, 3, 1)
    for conv in (low, mid, late):
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
    for c in range(3):
        low.weight.data[c, c] = 1 / 4
    for unit, weights in {0: (1, 1, 0), 1: (0, 0, 1), 2: (1, 0, 0), 3: (0, 2, 0)}.items():
        for channel, weight in enumerate(weights):
            mid.weight.data[unit, channel] = weight / 4
    late.weight.data[0, [0, 1], 0, 0] = torch.tensor([1.0, -10.0])
    late.weight.data[1, [0, 1], 0, 0] = torch.tensor([1.0, 10.0])
    late.bias.data[1] = -10.0
    late.weight.data[2, 2] = 1.0
    head = nn.Linear(3, 5, bias=False)
    head.weight.data = torch.tensor([[0.0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 0, 2], [0, 0, 0]])
    module = nn.Sequential()
    module.add_module("low", nn.Sequential(low, nn.ReLU()))
    module.add_module("mid", nn.Sequential(mid, nn.ReLU()))
    module.add_module("late", nn.Sequential(late, nn.ReLU()))
    module.add_module("pool", nn.AdaptiveAvgPool2d(1))
    module.add_module("flat", nn.Flatten())
    module.add_module("head", head)
    return Model(module, tiny_card(mean=(0.0,) * 3, std=(1.0,) * 3), device="cpu")


def flat(colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((32, 32, 3), colour, dtype=np.uint8)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    """14 reds of different strength, and dark photos: blues, faint greens, one black."""
    folder = tmp_path_factory.mktemp("colours")
    colours = [(140 + 8 * i, 0, 0) for i in range(14)] + [(0, 0, 60 + 10 * i) for i in range(8)]
    colours += [(0, 10 + i, 0) for i in range(5)] + [(0, 0, 0)]
    for i, colour in enumerate(colours):
        Image.fromarray(flat(colour)).save(folder / f"{i:02d}.png")
    return Photos.open(folder)


@pytest.fixture(scope="module")
def references(photos: Photos) -> References:
    return References(planted(), photos)


def measured(references: References, unit: str, colour: tuple[int, int, int]) -> dict[str, Evidence]:
    (bound,) = bind(references.model, unit)
    return {e.name: e for e in measure(flat(colour), bound, references)}


def exemplars_of(references: References, unit: str) -> ExemplarPhotos:
    (bound,) = bind(references.model, unit)
    found = references.unit_reference(bound).exemplars
    assert isinstance(found, ExemplarPhotos)
    return found


# --- effects and the causal check ------------------------------------------------------------------------------------


def test_ablating_a_unit_changes_its_logit_and_no_other() -> None:
    model = planted()
    (unit,) = bind(model, "mid:0")
    (change,) = effects(to_float(flat(RED)), unit, 0.25)
    expected = torch.tensor([0.0, 2 * (1 - 0.25), 0, 0, 0])
    assert torch.allclose(change, expected - expected.mean(), atol=1e-6)
    (nothing,) = effects(to_float(flat(RED)), bind(model, "mid:4")[0], 0.0)
    assert not bool(nothing.any())


def test_a_picture_with_the_same_effect_agrees_and_one_with_another_effect_does_not(references: References) -> None:
    same = measured(references, "mid:0", RED)["causal"]
    assert same.value == pytest.approx(1, abs=1e-4)
    assert (same.n, same.direction, same.scale) == (12, "higher", "cosine")
    assert same.interval == pytest.approx((1, 1), abs=1e-4)
    # Among blue, the unit speaks for another logit: e2 against e1, both less their mean over five logits.
    other = measured(references, "mid:0", MAGENTA)["causal"]
    assert other.value == pytest.approx(-0.25, abs=1e-3)
    assert measured(references, "mid:0", MAGENTA)["activation"].value == 1  # as hard as by RED
    # Without the unit's activation, ablation raises it to its mean: the opposite effect.
    assert measured(references, "mid:0", (0, 0, 0))["causal"].value == pytest.approx(-1, abs=1e-3)


def test_the_ceiling_the_floor_and_the_size_of_the_effect_by_hand(references: References) -> None:
    entry = measured(references, "mid:0", RED)["causal"]
    assert entry.detail["photos among themselves"] == pytest.approx(1, abs=1e-3)
    assert entry.detail["photos at random"] < 0.5
    exemplars = exemplars_of(references, "mid:0")
    strongest = [(140 + 8 * i) / 255 for i in range(2, 14)]
    arbitrary = [float(image[0].mean() + image[1].mean()) for image in exemplars.arbitrary]
    usual = sum(arbitrary) / len(arbitrary)
    (unit,) = bind(references.model, "mid:0")
    assert references.unit_reference(unit).once(usual_on_photos) == pytest.approx(usual, abs=1e-6)
    expected = (1 - usual) / (sum(s - usual for s in strongest) / 12)
    assert entry.detail["size beside the photos'"] == pytest.approx(expected, abs=1e-3)
    assert len(arbitrary) < ARBITRARY  # those among the strongest are not counted twice


def test_a_unit_without_effect_and_a_logit_say_so(references: References) -> None:
    assert "changes no logit" in (measured(references, "mid:4", RED)["causal"].reason or "")
    logit = measured(references, "logits:1", RED)
    for name in ("causal", "selectivity", "relevance_agreement"):
        assert (logit[name].value, logit[name].reason) == (
            None, "only for units inside the network; a logit is its answer itself",
        )  # fmt: skip
    (unit,) = bind(references.model, "mid:0")
    assert {e.name: e.reason for e in measure(flat(RED), unit)}["causal"] == "no photos were given"


def test_the_batched_form_gives_what_the_evidence_holds(references: References) -> None:
    (unit,) = bind(references.model, "mid:0")
    single = [measured(references, "mid:0", colour)["causal"] for colour in (RED, MAGENTA, GREEN)]
    exemplars = exemplars_of(references, "mid:0")
    pictures = torch.cat([to_float(flat(colour)) for colour in (RED, MAGENTA, GREEN)])
    usual = usual_activation(unit, exemplars.arbitrary)

    def agreement(photos: Tensor, arbitrary: Tensor | None = None) -> Similarity:
        floor = None if arbitrary is None else effects(arbitrary, unit, usual)
        found = similarity(effects(pictures, unit, usual), effects(photos, unit, usual), floor)
        return without_itself(found, pictures, photos)

    found = agreement(exemplars.strongest, exemplars.arbitrary)
    assert found.values.tolist() == pytest.approx([e.value for e in single], abs=1e-5)
    assert found.sizes.tolist() == pytest.approx([e.detail["size beside the photos'"] for e in single], abs=1e-3)
    assert found.ceiling == pytest.approx(single[0].detail["photos among themselves"], abs=1e-3)
    assert bool(torch.tensor(agreement(exemplars.strongest).floor).isnan())


@pytest.mark.parametrize("address", ["mid:0@3,3", "mid:0@max", "mid:0@mean.pre", "mid:0@3,3.pre"])
def test_neurons_maxima_and_pre_activations(references: References, address: str) -> None:
    found = measured(references, address, RED)
    for name in ("causal", "relevance_agreement"):
        assert found[name].value == pytest.approx(1, abs=1e-4), name
    assert measured(references, address, GREEN)["relevance_agreement"].value == pytest.approx(-1, abs=1e-4)


def test_the_model_is_given_back_as_it_was(references: References, monkeypatch: pytest.MonkeyPatch) -> None:
    module = references.model.module
    parameters = [p.clone() for p in module.parameters()]
    measured(references, "mid:0", RED)

    def fail(*_: object) -> Tensor:
        raise RuntimeError("stop")

    (unit,) = bind(references.model, "mid:0")
    handle = module.head.register_forward_hook(fail)  # type: ignore[union-attr]
    with pytest.raises(UserError, match="stop"):
        effects(to_float(flat(RED)), unit, 0.0)
    handle.remove()
    assert all(torch.equal(a, b) for a, b in zip(parameters, module.parameters()))
    assert all(p.requires_grad and p.grad is None for p in module.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


# --- relevance -------------------------------------------------------------------------------------------------------


def test_the_same_path_agrees_and_another_path_does_not(references: References) -> None:
    red, green = (measured(references, "mid:0", colour) for colour in (RED, GREEN))
    assert red["activation"].value == green["activation"].value  # only the way there differs
    assert red["relevance_agreement"].value == pytest.approx(1, abs=1e-4)
    assert green["relevance_agreement"].value == pytest.approx(-1, abs=1e-4)
    assert red["relevance_agreement"].detail["at layer"] == "low"
    assert red["relevance_agreement"].detail["photos among themselves"] == pytest.approx(1, abs=1e-4)
    assert red["relevance_agreement"].detail["photos at random"] < 0.5


def test_what_has_no_relevance_says_so(references: References) -> None:
    assert "does not make the unit fire" in (measured(references, "mid:0", BLUE)["relevance_agreement"].reason or "")
    assert "no layer lies below it" in (measured(references, "low:0", RED)["relevance_agreement"].reason or "")
    assert lower_layer(references.model, "mid") == lower_layer(references.model, "mid.0") == "low"


# --- selectivity -----------------------------------------------------------------------------------------------------


def test_selectivity_by_hand(references: References, photos: Photos) -> None:
    entry = measured(references, "mid:2", MAGENTA)["selectivity"]
    table = np.stack([np.asarray(photos.read(i))[0, 0] / 255 for i in range(len(photos))])
    r, g, b = table.T
    layer = np.stack([r + g, b, r, 2 * g, 0 * r], 1)
    z = (np.array([1.0, 1, 1, 0, 0]) - layer.mean(0)) / np.maximum(layer.std(0), 1e-9)
    others = z[[0, 1, 3]]  # mid:4 never varies
    assert entry.value == pytest.approx(z[2] - np.quantile(others, 0.99), abs=1e-4)
    assert (entry.n, entry.scale, entry.interval) == (3, "sd", (entry.value,) * 2)
    assert entry.detail["place"] == 1 + (others > z[2]).sum()
    assert entry.detail["strongest other"] == [0, 1, 3][int(others.argmax())]
    assert entry.detail["photos"] == len(photos)


def test_selectivity_does_not_see_the_scale_of_a_unit(references: References) -> None:
    """mid:3 is large on every green: raw activations favour it, deviations do not."""
    (unit,) = bind(references.model, "mid:1")
    values = torch.zeros(1, 5, 64)
    values[:, 1], values[:, 3] = 3.0, 4.0
    mean, sd = torch.tensor([0.0, 0, 0, 3.5, 0]), torch.tensor([1.0, 1, 1, 1, 1])

    def at_scale(scale: float) -> Evidence:
        moments = LayerMoments(mean=scale * mean, sd=scale * sd, n=100)
        return selectivity(values * scale, unit, UnitReference(unit=unit, load_moments=lambda: moments))

    entry = at_scale(1)
    assert entry.value is not None
    assert entry.value > 2
    large = at_scale(50)
    assert large.value == pytest.approx(entry.value, abs=1e-4)


def test_what_has_no_selectivity_says_so(references: References, tmp_path: Path) -> None:
    assert "on all of 28 photos" in (measured(references, "mid:4", RED)["selectivity"].reason or "")
    from safetensors.torch import save_file

    save_file({"d": torch.tensor([1.0, 0, 0, 0, 0])}, tmp_path / "d.safetensors", metadata={"layer": "mid"})
    found = measured(references, f"dir({tmp_path / 'd.safetensors'}#d)", RED)
    assert found["selectivity"].reason == "a direction has no sibling units"
    channel = measured(references, "mid:0", RED)
    assert found["causal"].value == pytest.approx(channel["causal"].value)  # this direction is that channel
    assert found["relevance_agreement"].value == pytest.approx(channel["relevance_agreement"].value, abs=1e-4)


def test_moments_are_remembered(references: References, monkeypatch: pytest.MonkeyPatch) -> None:
    (unit,) = bind(references.model, "mid:0@max")
    assert references.photos is not None
    first = layer_moments(references.model, references.photos, unit)
    monkeypatch.setattr(Photos, "batches", lambda *_: pytest.fail("the photos were read again"))
    again = References(references.model, references.photos).unit_reference(unit).moments
    assert isinstance(again, LayerMoments)
    assert torch.equal(first.mean, again.mean)
    assert torch.equal(first.sd, again.sd)
    assert first.n == again.n


def test_an_index_gives_moments_and_photos(references: References, photos: Photos, tmp_path: Path) -> None:
    index = build_index(references.model, photos, ["mid"], out=tmp_path / "index")
    held = References(references.model, photos, index=index)
    for name in ("selectivity", "causal", "relevance_agreement"):
        plain, indexed = measured(references, "mid:2", MAGENTA)[name], measured(held, "mid:2", MAGENTA)[name]
        assert (plain.value, plain.n) == (pytest.approx(indexed.value, abs=1e-4), indexed.n), name
    assert held._scores == {}


def test_neurons_of_a_vision_transformer(tmp_path: Path, photo_folder: Path) -> None:
    torch.manual_seed(0)
    net = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=5, depth=3)
    references = References(Model(net, tiny_card(size=(64, 64)), device="cpu"), Photos.open(photo_folder))
    for address in ("blocks.1.mlp.act:5@cls", "blocks.1.mlp.fc1:5@mean", "blocks.1.mlp.act:5@tok3"):
        found = measured(references, address, RED)
        assert found["causal"].value is not None, address
        assert found["selectivity"].value is not None, address
        agreement = found["relevance_agreement"]
        assert agreement.value is not None or "does not make the unit fire" in (agreement.reason or ""), address
        assert agreement.value is None or agreement.detail["at layer"] == "blocks.0"


# --- likeness --------------------------------------------------------------------------------------------------------


def test_a_photo_is_not_compared_with_itself(references: References, photos: Photos) -> None:
    """Retrieval shows one of the strongest photos: its own cosine of 1 would flatter it."""
    index = references.choose(bind(references.model, "mid:0")[0], 1)[0][0]
    (unit,) = bind(references.model, "mid:0")
    picture = np.asarray(photos.read(index))
    found = {e.name: e for e in measure(picture, unit, references)}
    assert found["causal"].n == found["relevance_agreement"].n == 11
    assert measured(references, "mid:0", (250, 5, 0))["causal"].n == 12


@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(2, 6), st.integers(2, 9))
def test_likeness_is_the_mean_cosine(seed: int, b: int, n: int, k: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    pictures, photos, arbitrary = (torch.randn(m, k, generator=generator) for m in (b, n, 3))
    found = similarity(pictures, photos, arbitrary)

    def cosine(x: Tensor, y: Tensor) -> float:
        return float(x @ y / (x.norm() * y.norm()))

    assert found.values.tolist() == pytest.approx([sum(cosine(p, q) for q in photos) / n for p in pictures], abs=1e-4)
    pairs = [cosine(photos[i], photos[j]) for i in range(n) for j in range(n) if i != j]
    assert found.ceiling == pytest.approx(sum(pairs) / len(pairs), abs=1e-4)
    floor = [cosine(r, q) for r in arbitrary for q in photos]
    assert found.floor == pytest.approx(sum(floor) / len(floor), abs=1e-4)
    scaled = similarity(pictures * 7, photos * torch.rand(n, 1, generator=generator).add(0.1), arbitrary)
    assert scaled.values.tolist() == pytest.approx(found.values.tolist(), abs=1e-4)
    assert found.each.abs().max() <= 1 + 1e-5


def test_what_all_photos_share_is_not_likeness() -> None:
    """A channel that is relevant to everything makes all profiles alike until it is taken off."""
    generator = torch.Generator().manual_seed(0)
    shared = 50 * torch.eye(40)[0]
    photos, arbitrary, picture = (torch.rand(m, 40, generator=generator) + shared for m in (12, 200, 1))
    photos[:, 1:4] += 3
    picture[:, 20:23] += 3  # another path
    assert similarity(picture, photos, arbitrary).values[0] > 0.98
    found = centred_similarity(picture, photos, arbitrary)
    assert abs(float(found.values[0])) < 0.15
    assert found.ceiling > 0.8
    assert abs(found.floor) < 0.1


def test_the_floor_is_what_a_photo_from_elsewhere_gets() -> None:
    floors, fresh = [], []
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        photos, arbitrary, other = (torch.rand(m, 60, generator=generator) for m in (12, 12, 1))
        floors.append(centred_similarity(other, photos, arbitrary[:11]).floor)
        fresh.append(float(centred_similarity(other, photos, arbitrary[:10]).values[0]))
    # All of them share the error of the mean, which makes strangers a little alike: both show it to the same degree.
    assert sum(fresh) / 60 > 0.05
    assert sum(floors) / 60 == pytest.approx(sum(fresh) / 60, abs=0.02)


def test_vectors_of_length_zero_are_not_counted() -> None:
    photos = torch.tensor([[1.0, 0], [0, 0], [1, 0]])
    found = similarity(torch.tensor([[2.0, 0], [0, 0]]), photos, torch.zeros(2, 2))
    assert found.each[0].tolist()[::2] == [1, 1]
    assert found.each[0, 1].isnan()
    assert found.values[1].isnan()
    assert found.ceiling == 1
    assert found.floor != found.floor

"""What each method does on small networks, and what the published presets name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from entoptic import UserError
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.methods import find_method
from entoptic.methods.contract import Context, Draft, Item, make_config
from entoptic.methods.vital_paper import PAPER
from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.models.taps import Tap
from entoptic.units.unit import bind
from oracles import vital as oracle


def draw(
    name: str,
    model: Model,
    units: list[str],
    photos: Photos | None = None,
    *,
    samples: int = 1,
    count: int = 0,
    **options: Any,
) -> list[Draft]:
    """`count` is the number of reference photos, whatever the method calls it."""
    card = find_method(name)
    if count:
        (option,) = {"photos", "references"} & set(card.config.__dataclass_fields__)
        options[option] = count
    items = [Item(target=unit, sample=sample, seed=0) for unit in bind(model, units) for sample in range(samples)]
    return list(
        card.function(items, make_config(card, options), Context(model=model, references=References(model, photos)))
    )


@pytest.fixture
def photos(photo_folder: Path) -> Photos:
    return Photos.open(photo_folder)


# --- ascent -------------------------------------------------------------------------------------------------

ASCENT: dict[str, dict[str, Any]] = {
    "pixels": {},
    "fourier": {"transforms": False},  # shifts of up to 12 pixels leave little of a picture of 32
    "maco": {"canvas": 0, "crops": 2, "crop_start": 0.9, "crop_end": 0.8},
}


@pytest.mark.parametrize("name", ASCENT)
def test_ascent_raises_the_unit_above_its_start(name: str, tiny: Model, photos: Photos) -> None:
    units = ["logits:0", "logits:3", "stage2:1", "stage2:6@max"]
    first, last = (draw(name, tiny, units, photos, steps=steps, **ASCENT[name]) for steps in (1, 30))
    for before, after in zip(first, last):
        low, high = (float(d.item.unit.score(d.image[None])) for d in (before, after))
        assert high > low + 0.1 * abs(low), str(after.item.unit)


def test_pixels_keep_their_distance_from_grey(tiny: Model) -> None:
    (draft,) = draw("pixels", tiny, ["logits:0"], steps=5, radius=2.0)
    assert float((draft.image - 0.5).norm()) == pytest.approx(2.0, rel=1e-3)


def test_pixels_move_by_the_rate(tiny: Model) -> None:
    start, moved = (draw("pixels", tiny, ["logits:0"], steps=steps, lr=0.003, std=0.02)[0].image for steps in (1, 2))
    assert float((moved - start).square().mean().sqrt()) == pytest.approx(0.003, rel=1e-2)


def test_maco_keeps_the_natural_spectrum(tiny: Model, photos: Photos) -> None:
    from entoptic.images.colour import from_rgb

    (draft,) = draw("maco", tiny, ["logits:0"], photos, steps=4, canvas=48, crops=2)
    assert draft.image.shape == (3, 48, 48)
    magnitude = References(tiny, photos).spectrum((48, 48))
    signal = from_rgb(torch.logit(draft.image.double().clamp(1e-6, 1 - 1e-6))[None].float())
    ratio = (torch.fft.rfft2(signal)[0].abs() / magnitude)[:, :, 1:-1].flatten()
    assert float(ratio.quantile(0.9) / ratio.quantile(0.1)) == pytest.approx(1, abs=0.05)


def test_maco_without_photos_or_statistics_says_so(tiny: Model) -> None:
    with pytest.raises(UserError, match="photos"):
        draw("maco", tiny, ["logits:0"], None, steps=2)


@pytest.mark.parametrize("name", ["vital", "vital-paper", "retrieval"])
def test_methods_that_need_photos_say_so(name: str, tiny: Model) -> None:
    with pytest.raises(UserError, match="photos"):
        draw(name, tiny, ["logits:0"])


# --- VITAL --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vital", "vital-paper"])
def test_vital_lowers_its_loss(name: str, tiny: Model, photos: Photos) -> None:
    for draft in draw(name, tiny, ["logits:1", "logits:4"], photos, steps=40, count=8):
        losses = [value for _, value in draft.trace.to_json()["loss"]]
        assert losses[-1] < 0.6 * losses[0]


def test_vital_shows_channels_by_the_photos_that_drive_them(tiny: Model, photos: Photos) -> None:
    (draft,) = draw("vital", tiny, ["stage2:5"], photos, steps=2, count=3)
    assert draft.trace.references["n"] == 3
    assert "stage2:5" in draft.trace.references["source"]


def test_one_reference_one_layer_is_matched_exactly(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "circle").mkdir()
    photo = photo_folder / "circle" / "0.png"
    (tmp_path / "circle" / "0.png").write_bytes(photo.read_bytes())
    (draft,) = draw(
        "vital", tiny, ["logits:0"], Photos.open(tmp_path), steps=400, count=1, layers=["stage1"], jitter=0,
        flip=False, zoom=0.0, finish=0.0, start=1.0, smoothness=0.0, lr=0.3,
    )  # fmt: skip
    first, last = draft.trace.to_json()["loss"][0][1], draft.trace.to_json()["loss"][-1][1]
    assert last < 1e-4 * first
    tap = Tap("stage1")
    with torch.no_grad():
        real = tiny.read(tiny.card.prepare(Image.open(photo))[None], [tap])[tap][0]
        made = tiny.read(draft.image[None], [tap])[tap][0]
    error = (made.sort(-1).values - real.sort(-1).values).square().mean(-1).sqrt()
    assert (error < 0.03 * real.std()).all()
    assert (tiny.card.prepare(Image.open(photo)) - draft.image).abs().mean() > 0.01, "a photo need not be copied"


def test_the_paper_recipe_step_by_step(tiny: Model, photos: Photos, photo_folder: Path) -> None:
    """Start, jitter, schedule, Adam, clamp and loss against the slow loop that sorts all real maps."""
    steps, unit = 8, bind(tiny, "logits:2")[0]
    (draft,) = draw("vital-paper", tiny, [str(unit)], photos, steps=steps, count=8)
    g = Item(target=unit, sample=0, seed=0).generator()
    start = torch.randn(3, 32, 32, generator=g)
    shifts = [tuple(torch.randint(-30, 31, (2,), generator=g).tolist()) for _ in range(steps)]
    real = torch.stack([tiny.card.prepare(Image.open(photo_folder / "stripe" / f"{i}.png")) for i in range(8)])
    layers = {"stem": 1.0, "stage1.3": 1.0, "stage2.2": 1.0}
    with tiny.frozen():
        image, losses = oracle.run(
            tiny.module,
            start,
            shifts,
            real,
            layers,
            mean=tiny.card.mean,
            std=tiny.card.std,
            warmup=steps // 5,
        )
    assert [value for _, value in draft.trace.to_json()["loss"]] == pytest.approx(losses, rel=1e-3)
    difference = (draft.image - image).abs()
    assert float((start - image).abs().mean()) > 0.1, "something was optimised"
    # Adam's first steps are signs: a gradient of rounding size may point the other way.
    assert float(difference.quantile(0.99)) < 1e-3


def test_a_preset_that_nobody_published_is_refused(tiny: Model, photos: Photos) -> None:
    with pytest.raises(UserError, match="resnet50"):
        draw("vital-paper", tiny, ["logits:0"], photos, steps=1, preset="resnet51")


# --- the published presets ----------------------------------------------------------------------------------

SHAPES = {
    "resnet50": [(64, 112, 112), (256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7)],
    "densenet121": [(64, 112, 112), (256, 56, 56), (512, 28, 28), (1024, 14, 14), (1024, 7, 7)],
    "convnext_base": [(128, 56, 56), (256, 28, 28), (512, 14, 14), (1024, 7, 7), (1024, 7, 7)],
    "vit_l_16": [(1024, 14, 14), *[(197, 1024)] * 4],
    "vit_l_32": [(1024, 7, 7), *[(50, 1024)] * 4],
}
WEIGHTS = {
    "resnet50": ([1, 1, 1, 1, 1], 0, 0),
    "densenet121": ([1, 1, 1, 1, 100], 0, 0),
    "convnext_base": ([10, 1, 1, 1, 1], 0, 0),
    "vit_l_16": ([1, 1, 1, 1, 1], 3e-3, 3e-3),
    "vit_l_32": ([1, 1, 1, 1, 0.1], 3e-4, 3e-4),
}


@pytest.mark.parametrize("name", PAPER)
def test_preset_layers_have_the_published_shapes_and_weights(name: str) -> None:
    from torchvision import models

    with torch.device("meta"):  # shapes only: no memory, no computation
        module = models.get_model(name, weights=None).eval()
    layers, tv, l2 = PAPER[name]
    assert (list(layers.values()), tv, l2) == WEIGHTS[name]
    modules = dict(module.named_modules())
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in layers:
        modules[layer].register_forward_hook(
            lambda m, a, out, layer=layer: shapes.__setitem__(layer, tuple(out.shape[1:]))
        )
    module(torch.empty(1, 3, 224, 224, device="meta"))
    assert [shapes[layer] for layer in layers] == SHAPES[name]


def test_the_last_convnext_block_puts_out_the_residual_sum() -> None:
    """The paper's node is the addition; the module of the block must give the same tensor."""
    from torchvision.models import convnext_tiny  # the same block as convnext_base, a third of the weights
    from torchvision.models.feature_extraction import create_feature_extractor

    torch.manual_seed(0)
    module = convnext_tiny(weights=None).eval()
    block = module.features[7][2]
    nn.init.ones_(block.layer_scale)  # 1e-6 in a new network: the sum would hardly differ from its first term
    model = Model(module, Card(name="convnext", size=(64, 64), mean=(0.5,) * 3, std=(0.25,) * 3), device="cpu")
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        node = create_feature_extractor(module, ["features.7.2.add", "features.7.1.add"])(model.normalise(image))
        read = model.read(image, [Tap("features.7.2")])[Tap("features.7.2")]
    assert torch.allclose(read, node["features.7.2.add"].flatten(2), atol=1e-5)
    assert not torch.allclose(read, node["features.7.1.add"].flatten(2), atol=1e-2)


def test_a_preset_is_taken_by_name_only_where_its_layers_exist(photo_folder: Path) -> None:
    """timm's networks have the same names and, for some, other layers."""
    module = nn.Sequential()
    module.add_module("stem", nn.Conv2d(3, 6, 3, 2, 1))
    module.add_module("stages", nn.Sequential(nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU())))
    module.add_module("head", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)))
    card = Card(
        name="timm:convnext_base", size=(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3,
        labels=("circle", "square", "stripe", "cross", "dot"),
    )  # fmt: skip
    model = Model(module, card, device="cpu")
    (draft,) = draw("vital-paper", model, ["logits:0"], Photos.open(photo_folder), steps=2, count=2)
    assert draft.complete


# --- retrieval ----------------------------------------------------------------------------------------------


def test_retrieval_equals_brute_force(tiny: Model, photos: Photos, photo_folder: Path) -> None:
    units, k = ["logits:1", "stage2:3", "stage1:2@max"], 4
    drafts = draw("retrieval", tiny, units, photos, samples=k)
    files = sorted(photo_folder.rglob("*.png"))
    images = torch.stack([tiny.card.prepare(Image.open(f)) for f in files])
    for j, unit in enumerate(bind(tiny, units)):
        with torch.no_grad():
            scores = unit.score(images)
        order = scores.argsort(descending=True)[:k].tolist()
        for rank, index in enumerate(order):
            draft = drafts[j * k + rank]
            assert torch.equal(draft.image, images[index])
            note = draft.trace.to_json()["notes"][0]
            assert files[index].relative_to(photo_folder).as_posix() in note
            assert float(note.rpartition(" ")[2]) == pytest.approx(float(scores[index]), rel=1e-4)


def test_retrieval_beyond_the_last_photo_costs_no_other_picture(tiny: Model, photo_folder: Path) -> None:
    photos = Photos.open(sorted((photo_folder / "dot").glob("*.png"))[:3])
    drafts = draw("retrieval", tiny, ["logits:0", "logits:1"], photos, samples=4)
    assert [draft.failure is None for draft in drafts] == [True, True, True, False] * 2
    assert "3 photos" in str(drafts[3].failure)


# --- statistics that methods ask for ------------------------------------------------------------------------


def passes(model: Model) -> list[int]:
    """Sizes of the batches that go through the network from now on."""
    sizes: list[int] = []
    model.module.stem.register_forward_pre_hook(lambda m, args: sizes.append(len(args[0])))  # type: ignore[union-attr]
    return sizes


def test_references_of_several_channels_take_one_pass_over_the_photos(tiny: Model, photos: Photos) -> None:
    tiny.layers  # noqa: B018
    sizes = passes(tiny)
    draw("vital", tiny, [f"stage2:{i}" for i in range(6)], photos, steps=1, count=2)
    scoring, matching, quiet, ascent = len(photos), 6 * 2, 6 * (len(photos) // 2), 6
    assert sum(sizes) == scoring + matching + quiet + ascent


def test_a_direction_that_changed_is_another_unit(tiny: Model, photos: Photos, tmp_path: Path) -> None:
    """The file's name stays, its content does not: no statistics of the old one may answer."""
    from safetensors.torch import save_file

    def top(direction: Tensor) -> str:
        save_file({"d": direction}, tmp_path / "d.safetensors", {"layer": "stage2"})
        (draft,) = draw("retrieval", tiny, [f"dir({tmp_path / 'd.safetensors'}#d)"], photos)
        return str(draft.trace.to_json()["notes"][0])

    direction = torch.linspace(-1, 1, 16)
    assert top(direction) != top(-direction)


def test_the_natural_spectrum_is_computed_once(tiny: Model, photos: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run asks for it once per batch of pictures; each time 500 photos would be decoded."""
    references = References(tiny, photos)
    first = references.spectrum((48, 48))
    monkeypatch.setattr(Photos, "batches", lambda *args, **kwargs: pytest.fail("the photos were read again"))
    assert torch.equal(references.spectrum((48, 48)), first)


# --- a vision transformer -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def transformer() -> Model:
    import timm

    torch.manual_seed(0)
    module = timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=64, num_classes=5)
    card = Card(
        name="vit",
        size=(64, 64),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        labels=("circle", "square", "stripe", "cross", "dot"),
    )
    return Model(module, card, device="cpu")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vital", {"steps": 3, "count": 2}),
        ("vital-paper", {"steps": 3, "count": 2}),
        ("fourier", {"steps": 3}),
        ("maco", {"steps": 3, "canvas": 96, "crops": 2}),
    ],
)
def test_a_vision_transformer(name: str, options: dict[str, Any], transformer: Model, photos: Photos) -> None:
    units = ["logits:0", "logits:3"]
    if name != "vital-paper":
        units += ["blocks.5:7@cls", "blocks.8.mlp.fc1:12@tok3"]
    drafts = draw(name, transformer, units, photos, **options)
    assert all(draft.complete for draft in drafts)
    side = 96 if name == "maco" else 64
    assert all(draft.image.shape == (3, side, side) for draft in drafts)
    images = np.stack([draft.image.numpy() for draft in drafts])
    assert np.isfinite(images).all()
    if "vital" in name:
        losses = [value for _, value in drafts[0].trace.to_json()["loss"]]
        assert all(math.isfinite(value) for value in losses)

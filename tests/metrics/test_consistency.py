"""C²: pure units far above mixed ones far above random; the formula; embedders; what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from conftest import tiny_card
from entoptic.errors import UserError
from entoptic.images.photos import Photos
from entoptic.metrics.consistency import (
    embeddings,
    extent,
    find_embedder,
    layer_embedder,
    measure_consistency,
    pair_consistency,
    random_consistency,
)
from entoptic.models.model import Model
from entoptic.units.unit import bind

SIZE, GRID, WIDTH = 32, 8, 24


def planted(count: int, mixed: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features N×C×8×8 of noise with one of two things in each photo, and maps that mark it.

    Args:
        count: photos.
        mixed: share of them that show the second thing.
        seed: of the draws.
    """
    draw = torch.Generator().manual_seed(seed)
    things = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(99))
    features = 0.5 * torch.randn(count, WIDTH, GRID, GRID, generator=draw)
    maps = torch.zeros(count, SIZE, SIZE)
    for i in range(count):
        row, column = torch.randint(GRID, (2,), generator=draw).tolist()
        features[i, :, row, column] += things[int(i < mixed * count)] * 2
        maps[i, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = torch.rand(4, 4, generator=draw)
    return features, maps


def c2(mixed: float) -> float:
    features, maps = planted(40, mixed)
    mean = features.mean((0, 2, 3))
    presence = maps.sum((1, 2))
    return pair_consistency(embeddings(features, maps, mean), presence) - random_consistency(
        features, mean, 40, draws=50
    )


def test_pure_is_far_above_mixed_far_above_random_and_the_ratio_orders_them() -> None:
    values = [c2(share) for share in (0.0, 0.1, 0.2, 0.35, 0.5)]
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.8
    assert values[0] - values[-1] > 0.3
    features, _ = planted(40, 0.5)
    draw = torch.Generator().manual_seed(5)
    anywhere = torch.rand(40, SIZE, SIZE, generator=draw)
    mean = features.mean((0, 2, 3))
    found = pair_consistency(embeddings(features, anywhere, mean), anywhere.sum((1, 2)))
    assert abs(found - random_consistency(features, mean, 40, draws=50)) < 0.05
    assert values[-1] > 0.2


def test_the_sum_over_pairs_is_the_formula() -> None:
    draw = torch.Generator().manual_seed(1)
    embedded, presence = torch.randn(7, 5, generator=draw), torch.rand(7, generator=draw)
    above = below = 0.0
    for i in range(7):
        for j in range(7):
            if i != j:
                weight = float(presence[i] * presence[j])
                above += weight * float(torch.cosine_similarity(embedded[i], embedded[j], dim=0))
                below += weight
    assert pair_consistency(embedded, presence) == pytest.approx(above / below, abs=1e-6)
    assert pair_consistency(embedded, 10 * presence) == pytest.approx(above / below, abs=1e-6)
    assert pair_consistency(embedded[:1], presence[:1]) != pair_consistency(embedded[:1], presence[:1])  # NaN


def test_embeddings_average_by_the_map_and_leave_out_the_mean() -> None:
    features = torch.zeros(2, 1, 2, 2)
    features[0, 0] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    maps = torch.zeros(2, 4, 4)
    maps[0, :2, :2], maps[0, 2:, 2:] = 1.0, 3.0
    found = embeddings(features, maps, torch.tensor([0.25]))
    assert found.flatten().tolist() == pytest.approx([(1 + 3 * 4) / 4 - 0.25, 0.0])


def test_the_extent_is_where_most_of_a_map_lies() -> None:
    maps = torch.zeros(1, 10, 10)
    maps[0, 0, :10] = 1.0
    assert extent(maps) == pytest.approx(0.08)
    assert extent(torch.ones(1, 10, 10)) == pytest.approx(0.8)


# --- units of a network -----------------------------------------------------------------------------------------------


def colours() -> nn.Module:
    """Channels of `tell`: red, blue, red or blue, bright anywhere, never."""
    module = nn.Sequential()
    module.add_module("see", nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.ReLU()))
    module.add_module("tell", nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU()))
    module.add_module("pool", nn.AdaptiveAvgPool2d(1))
    module.add_module("flat", nn.Flatten())
    module.add_module("head", nn.Linear(5, 5))
    module.see[0].weight.data = (torch.eye(3) * 1.5 - 0.5)[:, :, None, None]
    module.tell[0].weight.data = torch.tensor([[1.0, 0, 0], [0, 0, 1.0], [1.0, 0, 1.0], [0.1, 0.1, 0.1], [0, 0, 0]])[
        :, :, None, None
    ]
    module.tell[0].bias.data = torch.tensor([-0.6, -0.6, -0.6, 0.2, -1.0])
    return module


@pytest.fixture
def network() -> Model:
    return Model(colours(), tiny_card(size=(SIZE, SIZE), mean=(0.5,) * 3, std=(0.5,) * 3), device="cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    """Grey noise with a patch of red, green or blue at some place."""
    folder, draw = tmp_path_factory.mktemp("patches"), np.random.default_rng(0)
    for i in range(90):
        pixels = draw.normal(128, 12, (SIZE, SIZE, 3))
        row, column = draw.integers(0, SIZE - 8, 2)
        pixels[row : row + 8, column : column + 8] = 30
        pixels[row : row + 8, column : column + 8, i % 3] = 230
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i:02}.png")
    return Photos.open(folder)


@pytest.mark.parametrize("attribution", ["relevance", "activation"])
def test_a_unit_of_one_thing_is_more_consistent_than_one_of_two(
    network: Model, photos: Photos, attribution: str
) -> None:
    units = bind(network, [f"tell:{i}" for i in range(5)])
    found = measure_consistency(units, photos, embedder="see", attribution=attribution, share=0.2)
    red, blue, either, bright, never = found
    assert red.value is not None
    assert blue.value is not None
    assert either.value is not None
    assert bright.value is not None
    assert min(red.value, blue.value) > either.value + 0.3
    assert abs(bright.value) < 0.35
    assert red.n == 18
    assert red.interval is not None
    assert red.interval[0] <= red.value <= red.interval[1]
    assert red.detail["embedder"] == "tiny see"
    assert red.detail["attribution"] == attribution
    assert red.value == pytest.approx(red.detail["before the baseline"] - red.detail["random places"], abs=1e-3)
    if attribution == "activation":
        assert red.detail["extent"] < bright.detail["extent"]
    assert never.value is None
    assert "above 0 on 0 of 90 photos" in str(never.reason)


def test_an_embedder_is_named_and_found(network: Model) -> None:
    assert find_embedder("see", network).name == "tiny see"
    own = find_embedder("", network)
    assert own.embed(torch.rand(2, 3, SIZE, SIZE)).shape[0] == 2
    assert own.name.startswith("tiny ")
    assert find_embedder("tell", network).name == "tiny tell"
    with pytest.raises(UserError, match='did you mean "see"'):
        find_embedder("sea", network)
    with pytest.raises(UserError, match="no map over the picture"):
        layer_embedder(network, "head")


def test_what_has_no_map_says_so(network: Model, photos: Photos) -> None:
    logit, fixed = measure_consistency(bind(network, ["logits:0", "tell:0@3,3"]), photos, embedder="see")
    assert "inside the network" in str(logit.reason)
    assert "inside the network" in str(fixed.reason)


def test_a_feature_of_a_dictionary_is_measured_like_a_channel(network: Model, photos: Photos, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    file = tmp_path / "d.safetensors"
    save_file({"red": torch.tensor([1.0, 0, 0]), "green": torch.tensor([0, 1.0, 0])}, file, {"layer": "see"})
    [found] = measure_consistency(bind(network, f"dir({file}#red)"), photos, embedder="see", share=0.1)
    assert found.value is not None
    assert found.value > 0.5


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"attribution": "gradcam"}, 'no attribution "gradcam"'),
        ({"share": 0.0}, "share must be above 0"),
        ({"embedder": "nothing"}, "nothing"),
    ],
)
def test_bad_input_is_refused(network: Model, photos: Photos, given: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        measure_consistency(bind(network, "tell:0"), photos, **({"embedder": "see"} | given))  # type: ignore[arg-type]


def test_few_photos_and_no_units_are_refused(network: Model, photos: Photos) -> None:
    with pytest.raises(UserError, match="at least 10 photos, got 4"):
        measure_consistency(bind(network, "tell:0"), photos.subset(range(4)), embedder="see")
    with pytest.raises(UserError, match="no unit was named"):
        measure_consistency([], photos)

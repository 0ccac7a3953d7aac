"""What a card accepts, how it prepares photos, and how it finds labels."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import tiny_card
from entoptic.errors import UserError, nearest
from entoptic.models.card import Card, imagenet_labels


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mean": (0.5,) * 4, "std": (0.5,) * 4}, "1 or 3 means"),
        ({"mean": (0.5,) * 3, "std": (0.5,)}, "got 3 and 1"),
        ({"std": (0.5, 0.0, 0.5)}, "std must be positive"),
        ({"size": (4, 32)}, "at least 8 pixels"),
        ({"size": (32,)}, "at least 8 pixels"),
        ({"crop": 0.0}, "crop must be in"),
        ({"crop": 1.1}, "crop must be in"),
        ({"interpolation": "cubic"}, "nearest, bilinear, bicubic, lanczos, got 'cubic'"),
        ({"label_ids": ("n1",)}, "5 labels but 1 label_ids"),
    ],
)
def test_impossible_cards_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=r"^tiny: ") as error:
        tiny_card(**changes)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"size": 64}, {"size": (64, 64)}),
        ({"size": np.int64(64)}, {"size": (64, 64)}),
        ({"size": [64, 32]}, {"size": (64, 32)}),
        ({"size": np.array([64, 32])}, {"size": (64, 32)}),
        ({"size": torch.Size([64, 32])}, {"size": (64, 32)}),
        ({"size": 64.0}, {"size": (64, 64)}),
        ({"mean": 0.5, "std": 0.25}, {"mean": (0.5,) * 3, "std": (0.25,) * 3}),
        ({"mean": 0, "std": 1}, {"mean": (0,) * 3, "std": (1,) * 3}),
        ({"mean": 0.5}, {"mean": (0.5,) * 3}),
        ({"mean": 0.5, "std": (0.25,)}, {"mean": (0.5,), "std": (0.25,)}),
        ({"mean": [0.5], "std": np.float64(0.25)}, {"mean": (0.5,), "std": (0.25,)}),
        ({"mean": [0.1, 0.2, 0.3]}, {"mean": (0.1, 0.2, 0.3)}),
        ({"mean": np.array([0.25, 0.5, 0.75])}, {"mean": (0.25, 0.5, 0.75)}),
        ({"std": torch.tensor([0.25, 0.5, 0.75])}, {"std": (0.25, 0.5, 0.75)}),
        ({"mean": (np.float32(0.5), 0, 1)}, {"mean": (0.5, 0, 1)}),
        ({"crop": np.float64(0.5)}, {"crop": 0.5}),
        ({"crop": 1}, {"crop": 1}),
        ({"labels": ["a", "b"]}, {"labels": ("a", "b")}),
    ],
)
def test_what_has_one_meaning_is_taken(changes: dict[str, object], expected: dict[str, object]) -> None:
    card = tiny_card(**changes)
    for name, value in expected.items():
        found = getattr(card, name)
        assert found == value
        assert type(found) is type(value)
        if isinstance(value, tuple):
            assert [type(one) for one in found] == [type(one) for one in value]  # keys are hashes of JSON
    assert hash(card) == hash(tiny_card(**expected))
    json.dumps(card.preprocessing())


CAFFE = {"mean": (123.675, 116.28, 103.53), "std": (58.4, 57.1, 57.4)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (CAFFE, "divide them by 255: mean (0.485, 0.456, 0.406), std (0.229, 0.2239, 0.2251)"),
        ({"mean": (104, 117, 123), "std": 1}, "mean (0.4078, 0.4588, 0.4824), std (0.0039, 0.0039, 0.0039)"),
        ({"mean": 127.5, "std": 127.5}, "mean (0.5, 0.5, 0.5), std (0.5, 0.5, 0.5)"),
        ({"mean": 0, "std": 255}, "mean (0, 0, 0), std (1.0, 1.0, 1.0)"),
        ({"mean": (123.675, 116.28, 103.53), "std": 0.25}, "mean (0.485, 0.456, 0.406), std (0.25, 0.25, 0.25)"),
        ({"mean": 1e6, "std": 1e6}, "as for pixels from 0 to 255; divide them by 255"),
        ({"mean": "0.5"}, "mean must be one number, or 1 or 3 numbers, for pixels in [0, 1], got '0.5'"),
        ({"mean": ("0.5", 0.5, 0.5)}, "with '0.5' in it"),
        ({"mean": None}, "mean must be one number, or 1 or 3 numbers, for pixels in [0, 1], got None"),
        ({"std": True}, "std must be one number"),
        ({"std": {"r": 1}}, "std must be one number"),
        ({"mean": (float("nan"), 0.5, 0.5)}, "with nan in it"),
        ({"std": float("inf")}, "got inf"),
        ({"std": (0.5, -0.5, 0.5)}, "std must be positive, got (0.5, -0.5, 0.5)"),
        ({"mean": -0.5}, "mean must be in [0, 1]"),
        ({"mean": (0.5, 0.5)}, "1 or 3 means and as many standard deviations, got 2 and 3"),
        ({"mean": (), "std": ()}, "got 0 and 0"),
        ({"mean": np.zeros((3, 1))}, "mean must be one number"),
        (
            {"size": "64"},
            "size must be (height, width) of at least 8 pixels, got '64'; give whole numbers, say (224, 224)",
        ),
        ({"size": 0}, "at least 8 pixels, got 0"),
        ({"size": -64}, "at least 8 pixels, got -64"),
        ({"size": 64.5}, "at least 8 pixels, got 64.5"),
        ({"size": float("nan")}, "give whole numbers"),
        ({"size": None}, "give whole numbers"),
        ({"size": True}, "give whole numbers"),
        ({"size": (3, 224, 240)}, "got (3, 224, 240); without the channels that is (224, 240)"),
        ({"size": (224, 240, 3)}, "without the channels that is (224, 240)"),
        ({"size": ()}, "at least 8 pixels"),
        ({"crop": "0.5"}, "crop must be in (0, 1], got '0.5'"),
        ({"crop": float("nan")}, "crop must be in"),
        ({"crop": None}, "crop must be in"),
        ({"labels": "abc"}, 'labels must be one name per logit, got the text "abc"'),
    ],
)
def test_other_forms_are_refused_in_one_sentence(changes: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=r"^tiny: ") as error:
        tiny_card(**changes)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_grey_cards_have_one_channel() -> None:
    assert tiny_card(mean=(0.5,), std=(0.2,)).channels == 1
    assert tiny_card().channels == 3


def test_prepare_resizes_the_shorter_side_and_cuts_the_centre() -> None:
    card = tiny_card(size=(28, 28), crop=0.875, interpolation="bicubic")
    given = photo(64, 48)
    resized = given.resize((round(64 * 32 / 48), 32), Image.Resampling.BICUBIC)
    left = (resized.width - 28) // 2
    expected = np.asarray(resized.crop((left, 2, left + 28, 30)), dtype=np.float32) / 255
    prepared = card.prepare(given)
    assert prepared.shape == (3, 28, 28)
    assert prepared.dtype == torch.float32
    assert np.array_equal(prepared.permute(1, 2, 0).numpy(), expected)


def test_prepare_takes_a_photo_of_the_input_size_as_it_is() -> None:
    given = photo(32, 32)
    assert np.array_equal(tiny_card().prepare(given).permute(1, 2, 0).numpy() * 255, np.asarray(given))


def test_squash_keeps_the_border_and_not_the_proportions() -> None:
    given = photo(64, 40)
    prepared = tiny_card(squash=True).prepare(given)
    expected = np.asarray(given.resize((32, 32), Image.Resampling.BILINEAR), dtype=np.float32) / 255
    assert np.array_equal(prepared.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize(("width", "height"), [(9, 300), (300, 9), (33, 31), (1, 1)])
def test_prepare_gives_the_input_size_for_any_photo(width: int, height: int) -> None:
    assert tiny_card(size=(24, 40)).prepare(photo(width, height)).shape == (3, 24, 40)


def test_everything_that_changes_what_is_seen_is_in_preprocessing() -> None:
    plain = tiny_card()
    for change in (
        {"size": (40, 40)}, {"mean": (0.1,) * 3}, {"std": (0.1,) * 3}, {"interpolation": "nearest"},
        {"crop": 0.5}, {"squash": True},
    ):  # fmt: skip
        assert plain.with_(**change).preprocessing() != plain.preprocessing()
    assert plain.with_(labels=None, licence="x").preprocessing() == plain.preprocessing()


def labelled(*names: str, ids: tuple[str, ...] | None = None) -> Card:
    return tiny_card(labels=names, label_ids=ids)


def test_find_label() -> None:
    card = labelled("golden retriever", "Labrador retriever", "church", "church bell", ids=("n1", "n2", "n3", "n4"))
    assert card.find_label("golden retriever") == [0]
    assert card.find_label(" GOLDEN retriever ") == [0]
    assert card.find_label("retriever") == [0, 1]
    assert card.find_label("church") == [2]  # an exact name wins over one that contains it
    assert card.find_label("n4") == [3]
    assert card.find_label("triever") == []  # whole words only
    assert card.find_label("bell.") == []  # no regular expression
    assert labelled("crane", "crane").find_label("crane") == [0, 1]
    assert tiny_card(labels=None).find_label("x") == []


def test_label_and_identifiers() -> None:
    card = labelled("a", "b", ids=("n1", "n2"))
    assert (card.label(1), card.label(2), card.label(-1)) == ("b", None, None)
    assert card.identifiers(0) == ["n1", "a"]
    assert tiny_card(labels=None).identifiers(0) == []


def test_the_same_classes_in_another_network() -> None:
    card = labelled("tench", "church", ids=("n1", "n2"))
    assert card.places_in(labelled("tench, Tinca tinca", "church", ids=("n1", "n2"))) == [0, 1]
    assert card.places_in(labelled("tench", "church", ids=("n2", "n1"))) == [1, 0]  # ids decide
    assert card.places_in(labelled("a", "b", "c", ids=("n2", "n0", "n1"))) == [2, 0]
    assert card.places_in(labelled("tench", "church", ids=("n1", "n3"))) is None
    assert card.places_in(labelled("church", "dog", "tench")) == [2, 0]
    assert labelled("church", "dog", "tench").places_in(card) is None
    assert tiny_card(labels=None).places_in(card) is None
    assert card.places_in(tiny_card(labels=None)) is None
    assert tiny_card(labels=None).places_in(tiny_card(labels=None)) is None


def test_a_name_that_means_two_classes_elsewhere_is_none_of_them() -> None:
    cranes = labelled("crane", "crane", "church")
    assert labelled("crane", "church").places_in(cranes) is None
    assert cranes.places_in(labelled("crane", "crane", "church")) == [0, 1, 2]


def test_imagenet_names_and_ids_are_in_one_order() -> None:
    names, ids = imagenet_labels()
    assert len(names) == len(ids) == 1000
    for index, wnid, name in (
        (0, "n01440764", "tench"),
        (482, "n02979186", "cassette player"),
        (497, "n03028079", "church"),
    ):
        assert (names[index], ids[index]) == (name, wnid)


def test_nearest() -> None:
    assert nearest("layr1", ["layer1", "conv"]) == '; did you mean "layer1"?'
    assert nearest("LAYER1", ["layer1"], note=" (8)") == '; did you mean "layer1" (8)?'
    assert (
        nearest("retriever", ["golden retriever of the north", "cat"])
        == '; did you mean "golden retriever of the north"?'
    )
    assert nearest("zzz", ["layer1"]) == ""
    assert nearest("", ["layer1"]) == ""

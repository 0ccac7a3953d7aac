"""Each metric against a slow computation by hand, on the saved 8-bit picture."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import LABELS, tiny_card, tiny_module
from entoptic.base.pixels import to_float
from entoptic.images.photo_scores import RealScores
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.images.unit_reference import UnitReference
from entoptic.metrics.evidence import Evidence
from entoptic.metrics.picture import disturbances, measure, percentile
from entoptic.models.model import Model
from entoptic.units.unit import Unit, bind


def picture(seed: int = 0, size: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def named(evidence: list[Evidence]) -> dict[str, Evidence]:
    assert len({e.name for e in evidence}) == len(evidence)
    return {e.name: e for e in evidence}


def score_by_hand(model: Model, pixels: np.ndarray, index: int) -> float:
    x = torch.tensor(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]
    with torch.no_grad():
        return float(model.module.eval()((x - 0.5) / 0.25)[0, index])


def verifier(seed: int, **changes: object) -> Model:
    return Model(tiny_module(seed), tiny_card(name=f"verifier {seed}", **changes), device="cpu")


# --- activation and rank -------------------------------------------------------------------------------------------


def test_activation_and_rank_of_a_logit(tiny: Model) -> None:
    pixels = picture()
    logits = [score_by_hand(tiny, pixels, i) for i in range(5)]
    for index in range(5):
        found = named(measure(pixels, bind(tiny, f"logits:{index}")[0]))
        assert found["activation"].value == pytest.approx(logits[index], abs=1e-5)
        assert found["activation"].interval == (found["activation"].value,) * 2
        assert found["rank"].value == 1 + sum(one > logits[index] for one in logits)
        assert (found["rank"].n, found["rank"].direction) == (5, "lower")
        assert found["rank"].detail == {"strongest": int(np.argmax(logits))}


@pytest.mark.parametrize("readout", ["", "@max", "@2,3", "@centre", "@mean.pre"])
def test_rank_reads_the_siblings_in_the_same_way(tiny: Model, readout: str) -> None:
    pixels = picture(3)
    scores = [float(unit.score(to_float(pixels))[0]) for unit in bind(tiny, f"stage1:*{readout}")]
    for index in (0, 5, 11):
        found = named(measure(pixels, bind(tiny, f"stage1:{index}{readout}")[0]))
        assert found["rank"].value == 1 + sum(one > scores[index] for one in scores)
        assert found["rank"].n == 12


def test_pictures_of_another_size_are_measured(tiny: Model) -> None:
    pixels = picture(size=48)
    unit = bind(tiny, "logits:1")[0]
    assert named(measure(pixels, unit))["activation"].value == pytest.approx(float(unit.score(to_float(pixels))[0]))


# --- against real photos -------------------------------------------------------------------------------------------


def test_percentile_and_margin_by_hand(tiny: Model, photo_folder: Path) -> None:
    photos = Photos.open(photo_folder)
    scores = []
    for path in sorted(photo_folder.glob("*/*.png")):
        scores.append(score_by_hand(tiny, np.asarray(Image.open(path)), 2))
    pixels = np.asarray(Image.open(photo_folder / "stripe" / "3.png"))
    found = named(measure(pixels, bind(tiny, "logits:2")[0], References(tiny, photos)))
    value = score_by_hand(tiny, pixels, 2)
    below = sum(s < value - 1e-6 for s in scores)
    assert found["percentile"].value == pytest.approx(100 * below / 40)
    assert found["percentile"].n == 40
    assert found["margin"].value == pytest.approx(value - max(scores), abs=1e-5)
    low, high = found["percentile"].interval or (0, 0)
    assert low <= 100 * below / 40 <= high


def known(unit: Unit, real: RealScores) -> UnitReference:
    return UnitReference(unit=unit, load_real_scores=lambda: real)


def test_percentiles_from_sampled_quantiles_are_close_to_exact(tiny: Model) -> None:
    unit = bind(tiny, "logits:0")[0]
    values = torch.randn(5000, generator=torch.Generator().manual_seed(0)).exp().sort().values
    sketch = values.quantile(torch.linspace(0, 1, 201))
    for value in (-1.0, 0.0, 0.05, 0.3, 1.0, 2.5, 6.0, 11.0, float(values[-1]) + 1):
        exact = percentile(value, unit, known(unit, RealScores(values, 5000, "x")))
        near = percentile(value, unit, known(unit, RealScores(sketch, 5000, "x")))
        assert exact.value is not None
        assert near.value == pytest.approx(exact.value, abs=0.25)


def test_quantiles_of_a_dead_unit_count_ties_as_the_exact_percentile_does(tiny: Model) -> None:
    unit = bind(tiny, "stage1:0")[0]
    values = torch.cat([torch.zeros(600), torch.linspace(0.01, 1, 400)])
    sketch = values.quantile(torch.linspace(0, 1, 201))
    for value in (0.0, 0.005, 0.5, 1.0):
        exact = percentile(value, unit, known(unit, RealScores(values, 1000, "x")))
        near = percentile(value, unit, known(unit, RealScores(sketch, 1000, "x")))
        assert near.value == pytest.approx(exact.value, abs=1.0)


# --- robustness ----------------------------------------------------------------------------------------------------


def test_disturbances_have_the_sizes_they_claim() -> None:
    rows, columns = np.mgrid[0:40, 0:48]
    pixels = np.stack([rows * 3, columns * 3, np.full_like(rows, 90)], -1).astype(np.uint8)
    image = to_float(pixels)
    found = dict(disturbances(pixels))
    assert list(found) == ["JPEG 75", "left 8 px", "right 8 px", "up 8 px", "down 8 px", "down 5 %", "up 5 %"]
    assert all(v.shape == image.shape and v.min() >= 0 and v.max() <= 1 for v in found.values())
    assert torch.equal(found["left 8 px"][..., :-8], image[..., 8:])
    assert torch.equal(found["right 8 px"][..., 8:], image[..., :-8])
    assert torch.equal(found["up 8 px"][..., :-8, :], image[..., 8:, :])
    assert torch.equal(found["down 8 px"][..., 8:, :], image[..., :-8, :])
    assert torch.equal(found["left 8 px"][..., -8:], image[..., -1:].expand(-1, -1, -1, 8))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=75)
    assert torch.equal(found["JPEG 75"], to_float(np.asarray(Image.open(buffer))))
    # Enlarged by 5 % about the centre, a ramp is 5 % less steep; shrunk and enlarged again it is nearly itself.
    steepness = float(
        (found["up 5 %"][0, 0, 30, 20] - found["up 5 %"][0, 0, 10, 20]) / (image[0, 0, 30, 20] - image[0, 0, 10, 20])
    )
    assert steepness == pytest.approx(1 / 1.05, abs=0.02)
    assert float((found["down 5 %"] - image)[..., 4:-4, 4:-4].abs().max()) < 0.02


def test_robustness_by_hand(tiny: Model, photo_folder: Path) -> None:
    photos = Photos.open(photo_folder)
    unit = bind(tiny, "logits:4")[0]
    references = References(tiny, photos)
    ranked = references.scores([unit]).ranked(unit)
    pixels = np.asarray(photos.read(ranked[0][0]))
    entry = named(measure(pixels, unit, references))["robustness"]
    median = sorted(score for _, score in ranked)[20]
    shares = [(float(unit.score(v)[0]) - median) / (ranked[0][1] - median) for _, v in disturbances(pixels)]
    assert entry.value == pytest.approx(sum(shares) / 7, abs=1e-4)
    assert entry.n == 7
    assert entry.detail["baseline"] == "median photo"
    weakest = np.asarray(photos.read(ranked[-1][0]))
    assert named(measure(weakest, unit, references))["robustness"].reason is not None


# --- transfer ------------------------------------------------------------------------------------------------------


def test_transfer_by_hand(tiny: Model) -> None:
    judges = [verifier(1), verifier(2), verifier(3)]
    pixels = picture(1)
    logits = [[score_by_hand(judge, pixels, i) for i in range(5)] for judge in judges]
    for index in range(5):
        found = named(measure(pixels, bind(tiny, f"logits:{index}")[0], None, judges))
        ranks = [1 + sum(x > row[index] for x in row) for row in logits]
        probabilities = [float(torch.tensor(row).softmax(0)[index]) for row in logits]
        assert found["transfer_top1"].value == pytest.approx(sum(r == 1 for r in ranks) / 3)
        assert found["transfer_top5"].value == 1.0
        assert list(found["transfer_top1"].detail.values()) == ranks
        assert found["transfer_probability"].value == pytest.approx(sum(probabilities) / 3, abs=1e-5)
        assert all(found[n].n == 3 for n in ("transfer_top1", "transfer_top5", "transfer_probability"))


def test_a_network_never_verifies_itself(tiny: Model) -> None:
    unit = bind(tiny, "logits:0")[0]
    same = Model(tiny_module(), tiny_card(name="another name"), device="cpu")
    found = named(measure(picture(), unit, None, [tiny, same, verifier(1)]))
    assert found["transfer_top1"].n == 1
    assert list(found["transfer_top1"].detail) == ["verifier 1"]
    alone = named(measure(picture(), unit, None, [tiny, same]))["transfer_top1"]
    assert (alone.value, alone.reason) == (None, "no verifier other than tiny has its labels")


def test_a_verifier_that_knows_more_classes_is_asked_about_the_shared_ones() -> None:
    # The unit's network knows three of the judge's five classes, in another order.
    shared = ("cross", "circle", "dot")
    places = [LABELS.index(label) for label in shared]
    subject = Model(tiny_module(9, classes=3), tiny_card(labels=shared), device="cpu")
    judge, pixels = verifier(1), picture(1)
    logits = torch.tensor([score_by_hand(judge, pixels, place) for place in places])
    for index in range(3):
        found = named(measure(pixels, bind(subject, f"logits:{index}")[0], None, [judge]))
        rank = 1 + int((logits > logits[index]).sum())
        assert found["transfer_top1"].detail == {"verifier 1": rank}
        assert found["transfer_probability"].value == pytest.approx(float(logits.softmax(0)[index]), abs=1e-5)
        assert found["transfer_top1"].scale == found["transfer_probability"].scale == "among 3 classes"
    # The other way round the judge lacks classes, so it says nothing.
    back = named(measure(pixels, bind(judge, "logits:0")[0], None, [subject]))
    assert back["transfer_top1"].reason == "no verifier other than verifier 1 has its labels"


def test_verifiers_of_another_input_size_see_the_whole_picture(tiny: Model) -> None:
    judge = verifier(1, size=(40, 40))
    found = named(measure(picture(), bind(tiny, "logits:0")[0], None, [judge]))
    expected = judge(judge.fit(to_float(picture())))[0].softmax(0)[0]
    assert found["transfer_probability"].value == pytest.approx(float(expected), abs=1e-5)


# --- reasons -------------------------------------------------------------------------------------------------------


def test_what_cannot_be_computed_says_why(tiny: Model) -> None:
    channel = named(measure(picture(), bind(tiny, "stage1:0")[0], None, [verifier(1)]))
    assert channel["transfer_top1"].reason == "only a class logit means the same in another network"
    logit = named(measure(picture(), bind(tiny, "logits:0")[0]))
    assert logit["percentile"].reason == logit["margin"].reason == "no photos were given"
    assert logit["transfer_probability"].reason == "no verifier network was given"
    strangers = verifier(1, labels=("a", "b", "c", "d", "e"))
    other = named(measure(picture(), bind(tiny, "logits:0")[0], None, [strangers]))
    assert other["transfer_top1"].reason == "no verifier other than tiny has its labels"
    for entry in (*channel.values(), *logit.values(), *other.values()):
        assert (entry.value is None) == (entry.reason is not None)
        assert entry.value is None or (entry.n >= 1 and entry.interval is not None)

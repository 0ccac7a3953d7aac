"""Statistics of every class: weights of photos, the low-rank table, the file, and what uses it."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from entoptic.errors import UserError
from entoptic.images.any_class import (
    KNOTS,
    class_weights,
    factorise,
    find_any_class,
    read_any_class,
    write_any_class,
)
from entoptic.images.make_any_class import make_any_class
from entoptic.images.shipped_statistics import kept_ranks
from entoptic.methods.vital import matched_taps
from entoptic.models.model import Model
from entoptic.models.taps import Tap
from entoptic.runs.see import see


def effective(weights: torch.Tensor) -> float:
    return 1 / float(weights.double().square().sum())


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), wanted=st.floats(1.5, 20), spread=st.sampled_from([1e-3, 1.0, 1e3]))
def test_weights_have_the_wanted_effective_number(seed: int, wanted: float, spread: float) -> None:
    scores = spread * torch.randn(200, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weights = class_weights(scores, wanted, 60)
    assert float(weights.sum()) == pytest.approx(1)
    assert int((weights > 0).sum()) <= 60
    assert effective(weights) == pytest.approx(wanted, rel=0.01)
    order = scores.argsort()
    assert bool((weights[order].diff() >= 0).all())  # a stronger photo never counts less


def test_weights_are_the_least_tilt_of_that_size() -> None:
    """log w is affine in the score: the form of the least Kullback-Leibler divergence at a given mean."""
    scores = torch.randn(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = class_weights(scores, 10, 50).double()
    slope = (weights[0].log() - weights[1].log()) / (scores[0] - scores[1])
    torch.testing.assert_close(
        weights.log() - slope * scores, (weights[0].log() - slope * scores[0]).expand(50), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("scores", [torch.ones(30), torch.arange(5.0), torch.tensor([1.0])])
def test_weights_are_equal_where_nothing_tells_photos_apart(scores: torch.Tensor) -> None:
    weights = class_weights(scores, 8, 10)
    used = weights[weights > 0]
    assert float(used.std(unbiased=False)) == pytest.approx(0, abs=1e-7)
    assert float(weights.sum()) == pytest.approx(1)


def test_a_table_of_low_rank_comes_back() -> None:
    draw = torch.Generator().manual_seed(0)
    table = torch.randn(40, 6, generator=draw) @ torch.randn(6, 300, generator=draw) + 5
    factors = factorise(table, 6)
    for i in (0, 17, 39):
        torch.testing.assert_close(factors.row(i), table[i], atol=0.12, rtol=0)
    fewer = factorise(table, 2)
    lost = torch.stack([fewer.row(i) for i in range(40)]) - table
    best = torch.linalg.svdvals(table - table.mean(0))[2:].square().sum().sqrt()
    assert float(lost.norm()) == pytest.approx(float(best), rel=0.02)  # Eckart and Young


def planted(count: int = 120) -> tuple[dict[Tap, torch.Tensor], torch.Tensor, torch.Tensor]:
    """Photos of three classes whose curves lie at 1, 2 and 3, and a fourth class without photos, like the third."""
    draw = torch.Generator().manual_seed(0)
    classes = torch.arange(count) % 3
    curves = (classes + 1.0)[:, None, None] + 0.01 * torch.randn(count, 4, KNOTS, generator=draw)
    logits = torch.randn(count, 4, generator=draw)
    logits[torch.arange(count), classes] += 10
    logits[:, 3] += 5 * (classes == 2)
    return {Tap("a"): curves.sort(-1).values.half()}, logits, classes


def test_each_class_gets_its_photos_and_an_absent_one_its_nearest(tmp_path: Path) -> None:
    curves, logits, classes = planted()
    factors, own, photos = make_any_class(curves, logits, classes, effective=8, most=30, rank=3)
    assert own[:3].min() >= 5
    assert int(own[3]) == 0
    assert photos.tolist() == [8, 8, 8, 8]
    path = tmp_path / "x.any-class.safetensors"
    write_any_class(path, factors, {"a": 4}, own, photos, {"weights_sha256": "w", "card": {}, "photos": len(classes)})
    held = read_any_class(path)
    assert held.layers == ["a"]
    for index, level in ((0, 1), (1, 2), (2, 3), (3, 3)):
        target = held.target(index, Tap("a"), 196)
        assert target is not None
        assert target.shape == (4, 196)
        assert float(target.mean()) == pytest.approx(level, abs=0.05)
        assert bool((target.diff(dim=1) >= 0).all())
    assert held.target(0, Tap("b"), 196) is None
    assert "none of them of the class" in held.describe(3)
    assert "of them of the class" in held.describe(0)


def test_curves_keep_their_shape_between_the_ranks() -> None:
    from entoptic.images.shipped_statistics import fill

    curve = torch.linspace(-2, 3, 196).tanh()[None]
    kept = curve[:, kept_ranks(196, KNOTS)]
    assert float((fill(kept, 196, KNOTS) - curve).abs().max()) < 0.01


# --- the shipped file --------------------------------------------------------------------------------------------------


def test_every_class_of_lite0_is_held_in_few_megabytes(lite0: Model) -> None:
    held = find_any_class(lite0.card)
    assert held is not None
    taps = matched_taps(lite0, ())
    assert held.layers == [str(tap) for tap in taps]
    assert len(held.photos_n) == lite0.outputs
    data = Path(str(resources.files("entoptic").joinpath("data")))
    assert sum(file.stat().st_size for file in data.glob("lite0*")) <= 12_000_000
    for index in (1, 207, 999):
        for tap in taps:
            length = lite0.layer(tap.layer).grid[0] ** 2
            target = held.target(index, tap, length)
            assert target is not None
            assert bool(target.isfinite().all())


def test_classes_that_look_alike_have_targets_that_are_alike(lite0: Model) -> None:
    held = find_any_class(lite0.card)
    assert held is not None
    tap = matched_taps(lite0, ())[-1]
    golden, labrador, truck = (held.target(index, tap, 49) for index in (207, 208, 569))
    assert golden is not None
    assert labrador is not None
    assert truck is not None
    assert float((golden - labrador).norm()) < 0.8 * float((golden - truck).norm())


def test_any_class_is_shown_without_photos(lite0: Model, tmp_path: Path) -> None:
    options = {"verifiers": "", "progress": False, "steps": 2, "method": "vital"}
    run = see(lite0, ['logits:"golden retriever"', "logits:497"], out=tmp_path / "r", **options)
    golden, church = run
    assert golden.record["references"]["sha256"] == find_any_class(lite0.card).sha256  # type: ignore[union-attr]
    assert any("golden retriever itself" in note for note in golden.record["trace"]["notes"])
    assert "drive the class most" in golden.record["references"]["source"]
    assert church.record["references"]["source"] == "shipped statistics"
    assert not any("itself" in note for note in church.record["trace"]["notes"])
    with pytest.raises(UserError, match="references=9 was asked"):
        see(lite0, "logits:207", references=9, out=tmp_path / "s", **options)


def test_a_borrowed_class_is_pulled_and_one_of_the_pack_is_not(lite0: Model, tmp_path: Path) -> None:
    options = {"verifiers": "", "progress": False, "steps": 3, "method": "vital"}
    pictures = {}
    for drive in (0.0, 5.0):
        for picture in see(lite0, ["logits:207", "logits:497"], drive=drive, out=tmp_path / f"{drive}", **options):
            pictures[picture.record["unit"], drive] = Image.open(picture.path).convert("RGB").tobytes()
    golden, church = sorted({name for name, _ in pictures})
    assert pictures[golden, 0.0] != pictures[golden, 5.0]
    assert pictures[church, 0.0] == pictures[church, 5.0]

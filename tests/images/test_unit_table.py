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
from entoptic.images import unit_table
from entoptic.images.make_unit_table import table_of_channels, table_of_classes, whole_table_of_channels
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.images.relevance_weighting import RelevanceWeighting, Weighted, layers_below
from entoptic.images.shipped_statistics import find_pack, kept_ranks
from entoptic.images.unit_table import (
    KNOTS,
    class_weights,
    factorise,
    find_table,
    read_table,
    write_table,
)
from entoptic.methods.vital import matched_taps
from entoptic.models.model import Model
from entoptic.models.taps import Tap
from entoptic.runs.see import see
from entoptic.units.unit import bind


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


def test_each_class_gets_its_photos_and_an_absent_one_its_nearest(tiny: Model, tmp_path: Path) -> None:
    curves, logits, classes = planted()
    table = table_of_classes(tiny, curves, logits, classes, effective=8, most=30, rank=3)
    assert table.own_n[:3].min() >= 5
    assert int(table.own_n[3]) == 0
    assert table.photos_n.tolist() == [8, 8, 8, 8]
    path = tmp_path / "x.units.safetensors"
    write_table(path, table)
    held = read_table(path)
    assert held.borrowed
    assert held.importance == {}
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


def test_a_table_of_channels_gives_what_photos_give(
    tiny: Model, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, taps = Photos.open(photo_folder), [Tap("stem"), Tap("stage1"), Tap("stage2")]
    made = table_of_channels(tiny, "stage2", photos, taps, rank=64)
    write_table(tmp_path / "x.units.safetensors", made)
    held = read_table(tmp_path / "x.units.safetensors")
    assert not held.borrowed
    assert held.relevance == "lrp"
    monkeypatch.setattr(unit_table, "_shipped", lambda: (held,))
    with_photos, without = References(tiny, photos), References(tiny)
    wanted = RelevanceWeighting("lrp")
    for unit in bind(tiny, ["stage2:0", "stage2:5"]):
        expected = with_photos.target(unit, (Tap("stage1"),), 25, wanted=wanted)
        found = without.target(unit, (Tap("stage1"),), 25, wanted=wanted)
        assert found.values.keys() == expected.values.keys()
        for tap, values in expected.values.items():
            error = (found.values[tap] - values).square().mean().sqrt()
            assert float(error) < 0.05 * float(values.std())
            torch.testing.assert_close(found.importance[tap], expected.importance[tap], atol=2e-3, rtol=2e-3)
        assert found.photos == expected.photos
        assert not found.borrowed
        assert without.identity(unit, {"targets"}) == held.sha256
        with pytest.raises(UserError, match='relevance="lrp" only'):
            without.target(unit, (Tap("stage1"),), 25)
    with pytest.raises(UserError, match="needs real photos"):
        without.check(bind(tiny, "stage1:0")[0], {"targets"})
    with pytest.raises(UserError, match="needs real photos"):  # another readout is another unit
        without.check(bind(tiny, "stage2:0@max")[0], {"targets"})


# --- the shipped files --------------------------------------------------------------------------------------------------


def test_every_class_of_lite0_is_held_in_few_megabytes(lite0: Model) -> None:
    held = find_table(lite0.card, "logits")
    assert held is not None
    taps = matched_taps(lite0, ())
    assert held.layers == [str(tap) for tap in taps]
    assert len(held.photos_n) == lite0.outputs
    data = Path(str(resources.files("entoptic").joinpath("data")))
    assert sum(file.stat().st_size for file in data.glob("*.units.safetensors")) <= 12_000_000
    for index in (1, 207, 999):
        for tap in taps:
            length = lite0.layer(tap.layer).grid[0] ** 2
            target = held.target(index, tap, length)
            assert target is not None
            assert bool(target.isfinite().all())


def test_every_channel_of_the_last_stage_is_shown_without_photos(lite0: Model, tmp_path: Path) -> None:
    options = {"verifiers": "", "progress": False, "steps": 1, "method": "vital"}
    for kind, relevance in (("none", {}), ("lrp", {"relevance": "lrp"})):
        held = find_table(lite0.card, "blocks.6", kind)
        assert held is not None
        assert held.relevance == kind
        assert len(held.photos_n) == lite0.layer("blocks.6").channels
        channel, older = see(lite0, ["blocks.6:200", "blocks.6:3"], out=tmp_path / kind, **options, **relevance)
        assert channel.record["references"]["sha256"] == held.sha256
        assert "25 photos that drive the unit most" in channel.record["references"]["source"]
        assert ("against" in channel.record["references"]["source"]) == (kind == "none")
        if kind == "lrp":
            assert older.record["references"]["source"] == "shipped statistics"  # its own, and its key, as before


def test_a_table_of_whole_photos_has_the_means_of_the_strongest(tiny: Model, photo_folder: Path) -> None:
    """At a rank that holds everything, a row is the target that photos give."""
    taps = [Tap("stem"), Tap("stage1"), Tap("stage2")]
    made = whole_table_of_channels(tiny, "stage1", [str(photo_folder)], taps, rank=16)
    assert made.layers == ["stem", "stage1"]
    references = References(tiny, Photos.open(photo_folder))
    for unit in bind(tiny, ["stage1:0", "stage1:5"]):
        target = references.target(unit, (Tap("stem"), Tap("stage1")), int(made.photos_n[unit.index]))
        for tap, values in target.values.items():
            held = made.target(unit.index, tap, values.shape[1])
            assert held is not None
            assert float((held - values).abs().mean()) < 0.03 * float(values.std())  # values are kept at a few ranks


def test_the_table_of_channels_agrees_with_the_pack(lite0: Model) -> None:
    """The pack holds 32 of the channels at 257 ranks, made of other photos' strongest in part."""
    held, pack = find_table(lite0.card, "blocks.6"), find_pack(lite0.card)
    assert held is not None
    assert pack is not None
    unit = bind(lite0, "blocks.6:3")[0]
    for tap in layers_below(lite0, matched_taps(lite0, ()), unit)[1:]:
        weighted = Weighted(tap.layer, tap.pre)
        length = lite0.layer(tap.layer).grid[0] ** 2
        ours, theirs = held.target(3, weighted, length), pack.target(str(unit), weighted, length)
        assert ours is not None
        assert theirs is not None
        shares = torch.corrcoef(torch.stack([ours.flatten(), theirs.flatten()]))[0, 1]
        assert float(shares) > 0.97


def test_classes_that_look_alike_have_targets_that_are_alike(lite0: Model) -> None:
    held = find_table(lite0.card, "logits")
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
    assert golden.record["references"]["sha256"] == find_table(lite0.card, "logits").sha256  # type: ignore[union-attr]
    assert any("golden retriever itself" in note for note in golden.record["trace"]["notes"])
    assert "drive the class most" in golden.record["references"]["source"]
    assert church.record["references"]["source"].startswith("shipped statistics, against")
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

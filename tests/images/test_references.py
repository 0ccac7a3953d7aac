"""Reference statistics, the photos behind them, the pack that replaces photos, and the preflight."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from conftest import tiny_card, tiny_module
from entoptic.errors import UserError
from entoptic.images import references as references_module
from entoptic.images.colour import from_rgb, natural_spectrum, to_rgb
from entoptic.images.make_statistics import make_pack
from entoptic.images.matching_targets import sorted_means
from entoptic.images.photos import Photos
from entoptic.images.preflight import preflight
from entoptic.images.references import References
from entoptic.images.relevance_weighting import RelevanceWeighting, Weighted
from entoptic.images.shipped_statistics import read_pack, sketch, sketch_ranks, unsketch
from entoptic.models.model import Model
from entoptic.models.taps import Tap
from entoptic.units.unit import bind

TAPS = (Tap("stem"), Tap("stage1"), Tap("head"))


def counting(model: Model, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that go through the network from now on."""
    passes: list[int] = []
    model.layers  # noqa: B018 (probing is no pass over photos)
    model.module.register_forward_pre_hook(lambda module, args: passes.append(len(args[0])))
    return passes


def write(folder: Path, values: dict[str, int]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        rng = np.random.default_rng(value)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / name)
    return folder


# --- targets -------------------------------------------------------------------------------------------------------


def test_the_streaming_mean_is_the_batch_mean(tiny: Model, photo_folder: Path) -> None:
    photos = Photos.open(photo_folder)
    ((_, everything),) = photos.batches(tiny.card.prepare, 40)
    whole = {tap: v.double().sort(-1).values.mean(0) for tap, v in tiny.read(everything, TAPS).items()}
    for size in (1, 7, 40):
        means, count = sorted_means(tiny, TAPS, photos.batches(tiny.card.prepare, size), lambda done: None)
        assert count == 40
        for tap in TAPS:
            torch.testing.assert_close(means[tap].double(), whole[tap], rtol=1e-5, atol=1e-6)


def test_the_target_of_copies_of_one_photo_is_its_sorted_values(tiny: Model, tmp_path: Path) -> None:
    folder = write(tmp_path / "copies" / "circle", {f"{i}.png": 3 for i in range(5)}).parent
    photos = Photos.open(folder)
    unit = bind(tiny, "logits:0")[0]
    target = References(tiny, photos).target(unit, TAPS, 5)
    one = photos.read(0)
    assert one is not None
    for tap, values in tiny.read(tiny.card.prepare(one)[None], TAPS).items():
        torch.testing.assert_close(target.values[tap], values[0].sort(-1).values, rtol=1e-5, atol=1e-6)
    assert target.photos == 5
    assert target.describe() == {"source": target.source, "n": 5, "sha256": photos.fingerprint()}


def test_class_references_do_not_depend_on_the_order_of_listing(tiny: Model, photo_folder: Path) -> None:
    unit = bind(tiny, "logits:3")[0]
    paths = sorted(photo_folder.glob("cross/*.png"))
    assert len(paths) == 8
    chosen = set()
    for order in (slice(None), slice(None, None, -1)):
        photos = Photos.open(photo_folder)
        photos._rows = photos._rows[order]
        references = References(tiny, photos)
        positions, _ = references.choose(unit, 3)
        chosen.add(frozenset(photos[i].name for i in positions))
        assert references.choose(unit, 3)[0] == positions
    assert len(chosen) == 1
    names = next(iter(chosen))
    assert len(names) == 3
    assert all(name.startswith("cross/") for name in names)
    more = References(tiny, Photos.open(photo_folder))
    larger = {more.photos[i].name for i in more.choose(unit, 5)[0]}  # type: ignore[index]
    assert names < larger  # more references keep those that were there


def test_channel_references_are_the_photos_that_drive_it_most(tiny: Model, photo_folder: Path) -> None:
    photos = Photos.open(photo_folder)
    unit = bind(tiny, "stage2:4@max")[0]
    scores = []
    for i in range(len(photos)):
        photo = photos.read(i)
        assert photo is not None
        scores.append(float(unit.score(tiny.card.prepare(photo)[None])[0]))
    brute = sorted(range(len(photos)), key=lambda i: -scores[i])[:6]
    references = References(tiny, photos)
    assert references.choose(unit, 6)[0] == brute
    assert [i for i, _ in references.scores([unit]).ranked(unit)][:6] == brute


def test_unlabelled_photos_give_a_logit_its_strongest(tiny: Model, tmp_path: Path) -> None:
    photos = Photos.open(write(tmp_path / "flat", {f"{i}.png": i for i in range(6)}))
    unit = bind(tiny, "logits:0")[0]
    references = References(tiny, photos)
    assert references.choose(unit, 2)[0] == [i for i, _ in references.scores([unit]).ranked(unit)[:2]]


def test_photos_labelled_by_number_only_are_photos_of_a_class(tiny: Model, tmp_path: Path) -> None:
    folder = write(tmp_path / "numbered", {f"{i}.png": i for i in range(6)})
    (folder / "labels.csv").write_text("file,class_index\n" + "".join(f"{i}.png,{i % 2}\n" for i in range(6)))
    references = References(tiny, Photos.open(folder))
    assert sorted(references.choose(bind(tiny, "logits:1")[0], 9)[0]) == [1, 3, 5]
    with pytest.raises(UserError, match=r"has no photos of dot for logits:4"):
        references.check(bind(tiny, "logits:4")[0], {"targets"})


def test_one_pass_serves_all_units_that_are_expected(
    tiny: Model, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = bind(tiny, ["logits:0-4", "stage1:*"])
    references = References(tiny, Photos.open(photo_folder))
    references.expect(units)
    passes = counting(tiny, monkeypatch)
    scores = [references.real_scores(unit) for unit in units]
    assert sum(passes) == 40
    alone = References(tiny, Photos.open(photo_folder)).real_scores(units[7])
    assert not isinstance(alone, str)
    assert not isinstance(scores[7], str)
    assert torch.equal(alone.values, scores[7].values)


def test_what_is_known_is_not_computed_again(tiny: Model, photo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unit, channel = bind(tiny, ["logits:1", "stage1:2"])
    first = References(tiny, Photos.open(photo_folder))
    target, scores = first.target(unit, TAPS, 4), first.scores([channel])
    passes = counting(tiny, monkeypatch)
    again = References(tiny, Photos.open(photo_folder))
    remembered = again.target(unit, TAPS, 4)
    assert torch.equal(again.scores([channel]).values, scores.values)
    assert passes == []
    assert (remembered.photos, remembered.sha256, remembered.source) == (
        target.photos,
        target.sha256,
        target.source,
    )
    assert all(torch.equal(remembered.values[tap], target.values[tap]) for tap in TAPS)
    again.target(unit, TAPS, 5)
    assert sum(passes) == 5


def test_changed_photos_and_preprocessing_change_the_key(
    tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "set" / "circle", {f"{i}.png": i for i in range(4)}).parent
    unit = bind(tiny, "logits:0")[0]
    before = References(tiny, Photos.open(folder))
    target, scores, identity = (
        before.target(unit, TAPS, 4),
        before.scores([unit]),
        before.identity(unit, {"targets"}),
    )
    write(folder / "circle", {"2.png": 77})
    after = References(tiny, Photos.open(folder))
    assert after.identity(unit, {"targets"}) != identity
    assert after.target(unit, TAPS, 4).sha256 != target.sha256
    assert not torch.equal(after.target(unit, TAPS, 4).values[TAPS[0]], target.values[TAPS[0]])
    assert not torch.equal(after.scores([unit]).values, scores.values)
    other = Model(tiny_module(), tiny_card(mean=(0.4,) * 3), device="cpu")
    changed = References(other, Photos.open(folder))
    assert not torch.equal(changed.scores(bind(other, "logits:0")).values, after.scores([unit]).values)


def test_only_the_photos_of_its_class_identify_a_target(tiny: Model, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write(folder / "circle", {"a.png": 1, "b.png": 2})
    write(folder / "square", {"a.png": 3})
    circle, square = bind(tiny, "logits:0-1")
    before = References(tiny, Photos.open(folder))
    ids = (
        before.identity(circle, {"targets"}),
        before.identity(square, {"targets"}),
        before.identity(circle, {"scores"}),
    )
    write(folder / "square", {"b.png": 4})
    after = References(tiny, Photos.open(folder))
    assert after.identity(circle, {"targets"}) == ids[0]
    assert after.identity(square, {"targets"}) != ids[1]
    assert after.identity(circle, {"scores"}) != ids[2]
    assert after.identity(circle, set()) == ""


def test_bad_references(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    unit = bind(tiny, "logits:2")[0]
    bare = References(tiny)
    for reads in ({"targets"}, {"scores"}, {"spectrum"}):
        with pytest.raises(UserError, match="--photos DIR"):
            bare.check(unit, reads)
    with pytest.raises(UserError, match="or use --method fourier"):
        bare.target(unit, TAPS, 5)
    folder = write(tmp_path / "set" / "stripes", {"a.png": 1}).parent
    with pytest.raises(
        UserError, match=r'no photos of stripe for logits:2; its classes are stripes; did you mean "stripes"'
    ):
        References(tiny, Photos.open(folder)).check(unit, {"targets"})
    with pytest.raises(UserError, match="at least 1, got 0"):
        References(tiny, Photos.open(photo_folder)).target(unit, TAPS, 0)


# --- sketches and packs --------------------------------------------------------------------------------------------


@given(st.integers(1, 20000))
def test_sketch_ranks_hold_both_ends_and_grow(length: int) -> None:
    ranks = sketch_ranks(length)
    assert len(ranks) == length if length <= 257 else 200 < len(ranks) <= 257
    assert ranks[0] == 0
    assert ranks[-1] == length - 1
    assert bool((ranks.diff() > 0).all())
    if length > 257:  # denser at the ends than in the middle
        assert int(ranks[1]) <= int(ranks.diff().max())


@given(st.integers(1, 3000), st.integers(0, 2**31), st.sampled_from([0.1, 1.0, 30.0]))
def test_a_sketch_is_close_between_the_ranks_it_keeps(length: int, seed: int, scale: float) -> None:
    values = (scale * torch.randn(2, length, generator=torch.Generator().manual_seed(seed))).sort(-1).values
    near = unsketch(sketch(values), length)
    assert near.shape == values.shape
    ranks = sketch_ranks(length)
    half = values.abs().amax() * 2**-10 + 1e-6  # rounding of half precision
    assert float((near[:, ranks] - values[:, ranks]).abs().max()) <= float(half)
    # Sorted values lie between their kept neighbours, and so does the straight line.
    gap = values[:, ranks].diff(dim=1).amax() if len(ranks) > 1 else torch.tensor(0.0)
    assert float((near - values).abs().max()) <= float(gap + half)
    assert bool((near.diff(dim=1) >= -half).all())


def test_a_pack_holds_what_its_photos_give(
    tiny: Model, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taps = (Tap("stem"), Tap("stage2"))
    tensors, meta = make_pack(tiny, str(photo_folder), [str(photo_folder)], ["stage1:3"], 6, taps)
    file = tmp_path / "tiny.safetensors"
    save_file({k: v.contiguous() for k, v in tensors.items()}, file, metadata={"entoptic": json.dumps(meta)})
    pack = read_pack(file)
    assert pack.units == [f"logits:{i}" for i in range(5)] + ["stage1:3"]
    assert pack.layers == ["stem", "stage2"]
    assert meta["weights_sha256"] == tiny.card.weights_sha256
    monkeypatch.setattr(
        references_module, "find_pack", lambda card: pack if card.weights_sha256 == tiny.card.weights_sha256 else None
    )
    shipped, real = References(tiny), References(tiny, Photos.open(photo_folder))
    for unit in bind(tiny, ["logits:2", "stage1:3"]):
        wanted = RelevanceWeighting() if unit.kind == "channel" else None
        from_pack, from_photos = (r.target(unit, taps, 6, wanted=wanted) for r in (shipped, real))
        assert from_pack.photos == from_photos.photos == 6
        assert list(from_photos.values) == (list(taps) if wanted is None else [Weighted("stem")])
        for tap, importance in from_photos.importance.items():
            torch.testing.assert_close(from_pack.importance[tap], importance, rtol=2e-3, atol=2e-3)
        for tap in from_photos.values:
            torch.testing.assert_close(from_pack.values[tap], from_photos.values[tap], rtol=2e-3, atol=2e-3)
    quiet = shipped.natural(unit, taps)
    (everything, count) = sorted_means(
        tiny, taps, Photos.open(photo_folder).batches(tiny.card.prepare, 40), lambda n: None
    )
    assert quiet.photos == count == 40
    for tap in taps:
        torch.testing.assert_close(quiet.values[tap], everything[tap], rtol=2e-3, atol=2e-3)
    with pytest.raises(UserError, match='relevance="lrp" only'):
        shipped.target(unit, taps, 6)
    unit = bind(tiny, "logits:2")[0]
    known, exact = shipped.real_scores(unit), real.real_scores(unit)
    assert not isinstance(known, str)
    assert not isinstance(exact, str)
    assert known.n == 40
    torch.testing.assert_close(known.values, exact.values.quantile(torch.linspace(0, 1, 201)), rtol=2e-3, atol=2e-3)
    ((_, images),) = Photos.open(photo_folder).batches(tiny.card.prepare, 40)
    torch.testing.assert_close(
        shipped.spectrum((32, 32)), (natural_spectrum(images) / 40).clamp_min(1e-6), rtol=5e-3, atol=1e-3
    )
    assert shipped.spectrum((64, 48)).shape == (3, 64, 25)
    assert shipped.identity(unit, {"targets"}) == pack.sha256
    with pytest.raises(UserError, match=r'the shipped statistics have no layer "stage1"; did you mean "stage2"'):
        shipped.target(unit, (Tap("stage1"),), 6)
    with pytest.raises(UserError, match=r"has references for logits:0 \(circle\).* and stage1:3, but not for stage1:4"):
        shipped.check(bind(tiny, "stage1:4")[0], {"targets"})
    assert shipped.real_scores(bind(tiny, "stage1:4")[0]) == (
        "no photos were given and the shipped statistics do not hold this unit"
    )


def test_colour_space_round_trip() -> None:
    x = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(to_rgb(from_rgb(x)), x, rtol=1e-4, atol=1e-5)


# --- preflight -----------------------------------------------------------------------------------------------------


def test_preflight_tells_a_wrong_card_from_the_right_one(lite0: Model, shared_data: Path) -> None:
    folder = shared_data / "imagenette" / "val"
    good = preflight(lite0, folder, n=20)
    assert good.ok, good.message
    assert good.n == 20
    wrong = Model(lite0.module, lite0.card.with_(mean=(0.0,) * 3, std=(1.0,) * 3), device="cpu")
    bad = preflight(wrong, folder, n=40)
    assert not bad.ok
    assert bad.message.startswith("the card of builtin:lite0 looks wrong: ")
    assert "range -1 … 1" in bad.message
    assert bad.message in bad._repr_html_()
    assert wrong.card.mean == (0.0,) * 3  # the trial cards are taken off again
    assert not any(m._forward_pre_hooks for m in lite0.module.modules())


def test_preflight_without_labels_reads_the_batchnorm_statistics(photo_folder: Path, tmp_path: Path) -> None:
    module: Any = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    torch.manual_seed(0)
    photos = Photos.open(photo_folder)
    ((_, images),) = photos.batches(tiny_card().prepare, 40)
    right = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    module.train()
    module[1].momentum = None
    module((images - 0.5) / 0.5)
    good = preflight(Model(module, tiny_card(labels=None, **right), device="cpu"), photos)
    assert good.ok, good.message
    wrong = Model(module, tiny_card(labels=None, mean=(0.0,) * 3, std=(1 / 255,) * 3), device="cpu")
    bad = preflight(wrong, photos)
    assert not bad.ok
    assert "BatchNorm statistics" in bad.message
    with pytest.raises(UserError, match="at least 1, got 0"):
        preflight(wrong, photos, n=0)

"""Reference statistics, the photos behind them, the pack that replaces photos, and the preflight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import tiny_card, tiny_module
from entoptic.errors import UserError
from entoptic.images.photos import Photos
from entoptic.images.references import References
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
    assert sorted(references.choose(bind(tiny, "logits:1")[0], 9, strongest=False)[0]) == [1, 3, 5]


def test_a_class_whose_folder_is_misspelt_is_named(tiny: Model, tmp_path: Path) -> None:
    folder = write(tmp_path / "set" / "stripes", {"a.png": 1}).parent
    how = References(tiny, Photos.open(folder)).choose(bind(tiny, "logits:2")[0], 3)[1]
    assert 'has none of stripe; did you mean "stripes"?' in how


@pytest.mark.parametrize("strongest", [True, False])
def test_a_class_without_photos_borrows_those_that_drive_it_most(tiny: Model, tmp_path: Path, strongest: bool) -> None:
    folder = write(tmp_path / "numbered", {f"{i}.png": i for i in range(6)})
    (folder / "labels.csv").write_text("file,class_index\n" + "".join(f"{i}.png,{i % 2}\n" for i in range(6)))
    references = References(tiny, Photos.open(folder))
    absent, there = bind(tiny, ["logits:4", "logits:1"])
    references.check(absent, {"targets"})
    chosen, how = references.choose(absent, 3, strongest=strongest)
    assert chosen == [i for i, _ in references.scores([absent]).ranked(absent)[:3]]
    assert f"which has none of {absent.label}" in how
    taps = (Tap("stage1"),)
    assert references.target(absent, taps, 3).borrowed
    assert not references.target(there, taps, 3).borrowed
    # Its pictures depend on all photos; those of a class that is there on its own alone.
    assert references.identity(absent, {"targets"}) == references.photos.fingerprint()  # type: ignore[union-attr]
    assert references.identity(there, {"targets"}) == references.photos.fingerprint([1, 3, 5])  # type: ignore[union-attr]


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


def test_bad_references(tiny: Model, photo_folder: Path) -> None:
    unit = bind(tiny, "logits:2")[0]
    bare = References(tiny)
    for reads in ({"targets"}, {"scores"}, {"spectrum"}):
        with pytest.raises(UserError, match="--photos DIR"):
            bare.check(unit, reads)
    with pytest.raises(UserError, match="or use --method fourier"):
        bare.target(unit, TAPS, 5)
    with pytest.raises(UserError, match="at least 1, got 0"):
        References(tiny, Photos.open(photo_folder)).target(unit, TAPS, 0)

"""What a target is moved away from: photos of the same set that are not the unit's own, where there are enough."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from entoptic.images.other_photos import LEAST_OTHERS, other_photos
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.methods.contract import Context, Draft, Item
from entoptic.methods.vital import Vital, vital
from entoptic.models.model import Model
from entoptic.models.taps import Tap
from entoptic.runs.see import see
from entoptic.units.unit import bind

TAPS = (Tap("stem"), Tap("stage2"))


def draft_of(held: References, unit: str, **options: object) -> Draft:
    item = Item(target=bind(held.model, unit)[0], sample=0, seed=0)
    (draft,) = vital([item], Vital(steps=1, **options), Context(model=held.model, references=held))  # type: ignore[arg-type]
    return draft


def some_photos(photo_folder: Path, folder: Path, each: int, labels: str = "circle,square,stripe,cross,dot") -> Path:
    """A smaller set: `each` photos of some classes."""
    for label in labels.split(","):
        (folder / label).mkdir(parents=True)
        for file in sorted((photo_folder / label).glob("*.png"))[:each]:
            shutil.copy(file, folder / label)
    return folder


@pytest.mark.parametrize("unit", ["stage2:3", "logits:1", "logits:0 + logits:1", "stage1:0 - stage2:3"])
@pytest.mark.parametrize("used", [4, 30])
def test_none_of_a_units_own_photos_are_among_the_others(tiny: Model, photo_folder: Path, unit: str, used: int) -> None:
    references, (target,) = References(tiny, Photos.open(photo_folder)), bind(tiny, unit)
    found, how, _ = other_photos(references, target, used, 64)
    own = {*references.choose(target, used)[0], *(references.class_photos(target) or ())}
    assert found
    assert not own & set(found)
    assert str(len(found)) in how
    assert found == sorted(found)


def test_they_are_of_the_set_that_was_given(lite0: Model, photo_folder: Path) -> None:
    """A set of one domain is compared with itself, though the network has statistics of photos of all kinds."""
    references = References(lite0, Photos.open(photo_folder))
    draft = draft_of(references, "blocks.6:112", references=8)
    told = draft.trace.references
    assert told is not None
    assert told["against"]["n"] >= LEAST_OTHERS
    assert str(photo_folder) in told["against"]["source"]
    assert told["against"]["source"].endswith("that do not drive blocks.6:112")
    assert told["source"].endswith(f"against {told['against']['source']}")
    assert told["against"]["sha256"] != told["sha256"]
    assert not any("beside the unit's own" in note for note in draft.trace.notes)


def test_shipped_photos_of_all_kinds_stand_in_for_too_few(lite0: Model, photo_folder: Path, tmp_path: Path) -> None:
    references = References(lite0, Photos.open(some_photos(photo_folder, tmp_path / "few", 4)))
    draft = draft_of(references, "blocks.6:112", references=8)
    assert draft.trace.references is not None
    assert "the shipped mean over photos of all kinds" in draft.trace.references["against"]["source"]
    (note,) = [note for note in draft.trace.notes if "beside the unit's own" in note]
    assert note.startswith(f"{tmp_path / 'few'} holds no more than 10 photos")
    # No statistics are shipped of this layer: the few that there are.
    draft = draft_of(references, "blocks.5:3", references=8)
    assert draft.trace.references is not None
    assert draft.trace.references["against"]["n"] == 10
    assert any(f"it is moved away from 10 photos of {tmp_path / 'few'}" in note for note in draft.trace.notes)


def test_where_all_photos_are_the_units_own(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    references = References(tiny, Photos.open(some_photos(photo_folder, tmp_path / "few", 2)))
    draft = draft_of(references, "stage2:3")  # 25 of 10 photos
    assert draft.failure is None
    assert any("few holds no photos beside the unit's own" in note for note in draft.trace.notes)
    # A class whose photos are all that there are.
    references = References(tiny, Photos.open(some_photos(photo_folder, tmp_path / "one", 8, "circle")))
    draft = draft_of(references, "logits:0", class_contrast=1.0)
    assert draft.failure is None
    assert any("one holds no photos beside the unit's own" in note for note in draft.trace.notes)
    plain = draft_of(references, "logits:0", class_contrast=0.0)
    assert plain.trace.notes == []
    assert plain.image is not None
    assert draft.image is not None


def test_one_photo_is_enough_to_go_on(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    references = References(tiny, Photos.open(some_photos(photo_folder, tmp_path / "one", 1, "circle")))
    for unit in ("stage2:3", "stem:1"):
        draft = draft_of(references, unit)
        assert draft.failure is None
        assert draft.image is not None
        assert bool(draft.image.isfinite().all())


def test_a_set_with_enough_is_used_as_before(tiny: Model, photo_folder: Path) -> None:
    """The photos of the weaker half, where no photo of the unit's own is among them."""
    references, (unit,) = References(tiny, Photos.open(photo_folder)), bind(tiny, "stage2:3")
    others, quiet = references.others(unit, TAPS, 4), references.natural(unit, TAPS)
    assert others.photos == quiet.photos == 20
    assert all(torch.equal(others.values[tap], quiet.values[tap]) for tap in TAPS)
    assert others.sha256 == quiet.sha256
    assert others.note == ""


def test_a_class_with_contrast_depends_on_photos_of_others(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    """Its picture is another where only they differ, so it needs another key."""
    first = some_photos(photo_folder, tmp_path / "first", 4)
    second = some_photos(photo_folder, tmp_path / "second", 4)
    shutil.copy(photo_folder / "dot" / "7.png", second / "dot")
    made: dict[str, list[str]] = {"plain": [], "moved": []}
    for photos in (first, second):
        for name, amount in (("plain", 0.0), ("moved", 1.0)):
            run = see(
                tiny, "logits:0", photos=photos, steps=1, references=2, class_contrast=amount, verifiers="", progress=False,
                context=False, out=tmp_path / "run",
            )  # fmt: skip
            made[name] += [p.path.name for p in run if p.record["config"]["class_contrast"] == amount]
    assert len(set(made["plain"])) == 1
    assert len(set(made["moved"])) == 2


@pytest.mark.filterwarnings("ignore::entoptic.base.unread.UnreadPhotos")
@pytest.mark.parametrize("unit", ["logits:1", "stage2:3"])
def test_photos_that_cannot_be_read_are_none_of_them(
    tiny: Model, photo_folder: Path, tmp_path: Path, unit: str
) -> None:
    """Also where most of the set cannot be read."""
    folder = some_photos(photo_folder, tmp_path / "some", 8)
    for label in ("circle", "stripe", "cross", "dot"):
        for number in range(7):
            (folder / label / f"{number}.png").write_bytes(b"no picture")
    references, (target,) = References(tiny, Photos.open(folder)), bind(tiny, unit)
    found, how, few = other_photos(references, target, 2, 64)
    photos = references.photos
    assert photos is not None
    assert found
    assert all(photos.read(number) is not None for number in found)
    assert how.startswith(f"{len(found)} photo")
    assert f"no more than {len(found)} photo" in few
    assert not (target.kind == "logit" and any(photos[number].labels[0] == "square" for number in found))

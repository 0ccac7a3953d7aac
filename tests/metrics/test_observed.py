"""What one picture tells about its unit: `specificity` and `two_afc`, by hand, and why there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from conftest import tiny_card, tiny_module
from entoptic.base.estimates import wilson
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.metrics.evidence import Evidence
from entoptic.metrics.observed import specificity, two_afc
from entoptic.metrics.picture import measure
from entoptic.metrics.unit_picture import UnitPicture
from entoptic.models.model import Model
from entoptic.units.unit import bind, read_siblings


class Pooled(nn.Module):
    """A network whose pooled features are the mean colours of the four quarters of a picture."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.head = nn.Linear(12, 5)
        self.head.weight.data = torch.randn(5, 12, generator=torch.Generator().manual_seed(seed))
        self.head.bias.data.zero_()

    def forward_features(self, x: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(x, 2)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return x.flatten(1) if pre_logits else self.head(x.flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


@pytest.fixture
def observer() -> Model:
    return Model(Pooled(), tiny_card(name="observer"), device="cpu")


def of(pixels: np.ndarray, model: Model, unit: str, photos: Path | None, *verifiers: Model) -> UnitPicture:
    bound = bind(model, unit)[0]
    references = References(model, Photos.open(photos) if photos is not None else None)
    return UnitPicture(pixels=pixels, unit=bound, reference=references.unit_reference(bound), verifiers=verifiers)


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def quarters(images: Tensor) -> Tensor:
    return nn.functional.adaptive_avg_pool2d((images - 0.5) / 0.25, 2).flatten(1)


# --- specificity -------------------------------------------------------------------------------------------------------


def test_one_logit_of_all_is_driven_most(tiny: Model) -> None:
    found = [specificity(of(noise(), tiny, f"logits:{k}", None)) for k in range(5)]
    best = int(tiny(torch.tensor(noise() / 255).permute(2, 0, 1)[None].float()).argmax())
    assert [one.value for one in found] == [float(k == best) for k in range(5)]
    assert found[0].detail == {"chance": 0.2, "compared": "logits"}
    assert found[best].interval == (1, 1)
    assert (found[0].n, found[0].direction) == (5, "higher")


def test_inner_units_are_compared_in_their_own_deviations(tiny: Model, photo_folder: Path) -> None:
    pictures = [of(noise(), tiny, f"stage1:{k}", photo_folder) for k in range(12)]
    photos = torch.cat([x for _, x in Photos.open(photo_folder).batches(tiny.card.prepare, 8)])
    rows = read_siblings(pictures[0].unit, tiny.read(photos, [pictures[0].unit.tap])[pictures[0].unit.tap]).double()
    own = read_siblings(pictures[0].unit, pictures[0].values)[0].double()
    varies = rows.std(0) > 1e-6
    z = ((own - rows.mean(0)) / rows.std(0, unbiased=False)).masked_fill(~varies, -torch.inf)
    found = [specificity(one) for one in pictures]
    for k, one in enumerate(found):
        if varies[k]:
            assert one.value == float(k == int(z.argmax()))
            assert one.n == int(varies.sum())
            assert one.detail == {"chance": 1 / one.n, "compared": "sd over photos"}
        else:
            assert "on all of 40 photos" in str(one.reason)
    assert sum(one.value or 0 for one in found) == 1
    assert int(z.argmax()) != int(own.argmax())  # raw activations would answer otherwise
    assert specificity(of(noise(), tiny, "stage1:0", None)).reason == "no photos were given"


# --- 2-AFC -------------------------------------------------------------------------------------------------------------


def test_the_observer_chooses_in_every_pair(tiny: Model, observer: Model, photo_folder: Path) -> None:
    shown = of(noise(), tiny, "stage1:3", photo_folder, observer)
    found = two_afc(shown)
    exemplars, weak = shown.reference.exemplars, shown.reference.weak
    assert not isinstance(exemplars, str)
    assert isinstance(weak, Tensor)
    scores = shown.unit.score(torch.cat([exemplars.strongest, weak]))
    assert len(weak) == 12
    assert scores[:12].min() > scores[12:].max()
    mean = quarters(exemplars.arbitrary).mean(0)  # what all photos share would hide what tells them apart
    picture = quarters(shown.image) - mean
    high, low = (cosine_similarity(quarters(some) - mean, picture) for some in (exemplars.strongest, weak))
    share = float((high[:, None] > low).float().mean())
    assert found.value == pytest.approx(share)
    assert 0 < share < 1
    assert (found.n, found.direction) == (12, "higher")
    assert found.interval == pytest.approx(wilson(share * 12, 12))
    assert found.detail["observer"] == "observer"
    assert found.detail["pairs"] == 144
    each = []
    for hint in exemplars.arbitrary:
        strong, low = (
            torch.stack(
                [
                    cosine_similarity(quarters(one[None]) - mean, quarters(hint[None]) - mean)[0]
                    for one in some
                    if not one.equal(hint)
                ]
            )
            for some in (exemplars.strongest, weak)
        )
        each.append(float((strong[:, None] > low).float().mean()))
    assert found.detail["photos at random"] == pytest.approx(np.mean(each), abs=1e-4)
    assert found.detail["ceiling"] > found.detail["photos at random"]


def test_a_photo_is_no_hint_for_itself(tiny: Model, observer: Model, photo_folder: Path) -> None:
    shown = of(noise(), tiny, "stage1:3", photo_folder, observer)
    exemplars = shown.reference.exemplars
    assert not isinstance(exemplars, str)
    photo = (exemplars.strongest[2] * 255).round().byte().permute(1, 2, 0).numpy()
    found = two_afc(of(photo, tiny, "stage1:3", photo_folder, observer))
    assert found.n == 11
    assert found.detail["pairs"] == 11 * 12


def test_weak_photos_of_a_logit_are_none_of_its_class(
    tiny: Model, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("entoptic.images.references.STRONGEST", 3)  # of the 8 of a class
    photos = Photos.open(photo_folder)
    references = References(tiny, photos)
    would_be = 0
    for unit in bind(tiny, "logits:0-4"):
        weak, numbers = references.unit_reference(unit).weak, references.class_photos(unit)
        assert isinstance(weak, Tensor)
        assert numbers is not None
        own = torch.cat([x for _, x in photos.batches(tiny.card.prepare, 8, numbers)])
        assert len(own) == 8
        assert len(weak) == 3
        assert torch.cdist(weak.flatten(1), own.flatten(1)).min() > 0.1
        would_be += len({index for index, _ in references.scores([unit]).ranked(unit)[20:]} & set(numbers))
    assert would_be > 0


def test_reasons(tiny: Model, observer: Model, photo_folder: Path) -> None:
    twin = Model(tiny_module(1), tiny_card(name="twin"), device="cpu")
    subject = Model(Pooled(), tiny_card(name="subject"), device="cpu")
    for shown, reason in (
        (of(noise(), tiny, "stage1:3", photo_folder), "no verifier network was given"),
        (of(noise(), tiny, "stage1:3", photo_folder, twin), "another network with pooled features"),
        (of(noise(), subject, "logits:0", photo_folder, observer), "another network with pooled features"),  # itself
        (of(noise(), tiny, "stage1:3", None, observer), "no photos were given"),
    ):
        found = two_afc(shown)
        assert found.value is None
        assert reason in str(found.reason)


def test_few_photos_give_no_choice(tiny: Model, observer: Model, photo_folder: Path, tmp_path: Path) -> None:
    for k, name in enumerate(sorted(photo_folder.rglob("*.png"))[:4]):
        (tmp_path / f"{k}.png").write_bytes(name.read_bytes())
    found = two_afc(of(noise(), tiny, "stage1:3", tmp_path, observer))
    assert "it needs 3 strong and 3 weak photos, there are 4 and 0" in str(found.reason)


def test_the_photos_are_seen_once_and_none_without_photos(
    tiny: Model, observer: Model, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    real = Pooled.forward_features
    monkeypatch.setattr(Pooled, "forward_features", lambda self, x: (seen.append(len(x)), real(self, x))[1])
    unit, references = bind(tiny, "stage1:3")[0], References(tiny, Photos.open(photo_folder))
    entries = [named(measure(noise(k), unit, references, [observer]))["two_afc"] for k in range(3)]
    exemplars = references.unit_reference(unit).exemplars
    assert not isinstance(exemplars, str)
    assert sum(seen) == 24 + len(exemplars.arbitrary) + 3
    assert all(one.value is not None for one in entries)
    seen.clear()
    measure(noise(), unit, None, [observer])
    assert seen == []


def named(evidence: list[Evidence]) -> dict[str, Evidence]:
    return {e.name: e for e in evidence}

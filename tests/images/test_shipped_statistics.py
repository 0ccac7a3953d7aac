"""The shipped statistics: sketches of sorted values, what a pack gives, and a picture that is made from one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from entoptic.errors import UserError
from entoptic.images import references as references_module
from entoptic.images.colour import natural_spectrum
from entoptic.images.make_statistics import make_pack
from entoptic.images.matching_targets import MatchingTarget, sorted_means
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.images.relevance_weighting import RelevanceWeighting, Weighted
from entoptic.images.shipped_statistics import fill, kept_ranks, read_pack, thin
from entoptic.methods.augment import gaussian_blur
from entoptic.methods.contract import Context, Draft, Item
from entoptic.methods.objectives import AscentStep, match
from entoptic.methods.vital import Vital, matched_taps, vital
from entoptic.models.model import Model
from entoptic.models.taps import Tap
from entoptic.units.unit import bind


@given(st.integers(1, 20000))
def test_sketch_ranks_hold_both_ends_and_grow(length: int) -> None:
    ranks = kept_ranks(length)
    assert len(ranks) == length if length <= 257 else 200 < len(ranks) <= 257
    assert ranks[0] == 0
    assert ranks[-1] == length - 1
    assert bool((ranks.diff() > 0).all())
    if length > 257:  # denser at the ends than in the middle
        assert int(ranks[1]) <= int(ranks.diff().max())


@given(st.integers(1, 3000), st.integers(0, 2**31), st.sampled_from([0.1, 1.0, 30.0]))
def test_a_sketch_is_close_between_the_ranks_it_keeps(length: int, seed: int, scale: float) -> None:
    values = (scale * torch.randn(2, length, generator=torch.Generator().manual_seed(seed))).sort(-1).values
    near = fill(thin(values), length)
    assert near.shape == values.shape
    ranks = kept_ranks(length)
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
    save_file({k: v.contiguous() for k, v in tensors.items()}, file, metadata={"entoptic": json.dumps(meta.to_json())})
    pack = read_pack(file)
    assert pack.units == [f"logits:{i}" for i in range(5)] + ["stage1:3"]
    assert pack.layers == ["stem", "stage2"]
    assert meta.weights_sha256 == tiny.card.weights_sha256
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


# --- a picture ----------------------------------------------------------------------------------------------------


class Sketched(References):
    """References whose targets went through the pack's sketch."""

    def target(self, *args, **more) -> MatchingTarget:  # type: ignore[no-untyped-def]
        whole = super().target(*args, **more)
        values = {tap: fill(thin(v), v.shape[1]) for tap, v in whole.values.items()}
        return MatchingTarget(values, whole.photos, whole.source, whole.sha256)


@pytest.mark.slow
def test_a_sketch_gives_nearly_the_same_picture(lite0: Model, shared_data: Path) -> None:
    photos = Photos.open(shared_data / "imagenette" / "val")
    photos = photos.subset(photos.of_class(["n03028079"]))
    (unit,), config = bind(lite0, "logits:497"), Vital(steps=24, references=10, lr=0.1)
    taps = matched_taps(lite0, ())
    whole, sketched = References(lite0, photos), Sketched(lite0, photos)

    def make(references: References, config: Vital, sample: int = 0) -> Draft:
        return next(
            vital([Item(target=unit, sample=sample, seed=0)], config, Context(model=lite0, references=references))
        )

    def far(a: Draft, b: Draft) -> float:
        return float(gaussian_blur((a.image - b.image)[None], 2.0).abs().mean())

    # The gradients are alike: after the first steps the pictures are the same but for Adam's signs.
    first = Vital(steps=3, references=10, lr=0.02)
    assert far(make(whole, first), make(sketched, first)) < 0.1 * far(make(whole, first), make(whole, first, 1))
    # Later steps amplify any rounding, yet the pictures stay nearer than two starts of one unit, and equally good.
    a, b = make(whole, config), make(sketched, config)
    assert far(a, b) < 0.7 * far(a, make(whole, config, 1))
    objective = match(dict.fromkeys(taps, 1.0), [whole.target(unit, taps, 10).values], balanced=True)
    losses = torch.zeros(2)
    for sample in range(3):  # one start is chaotic: rounding alone moves its loss by 5 to 15 %
        pair = (a, b) if sample == 0 else (make(whole, config, sample), make(sketched, config, sample))
        for i, draft in enumerate(pair):
            x = draft.image[None]
            with torch.no_grad():
                losses[i] += objective(AscentStep(lite0.read(x, taps), x, x, 1, [[]]))[0]
    assert float((losses[0] - losses[1]).abs()) < 0.1 * float(losses[0])

"""The shipped statistics are sketches: a picture made from one must be as good as one made from the whole target."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from entoptic.images.matching_targets import MatchingTarget
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.images.shipped_statistics import sketch, unsketch
from entoptic.methods.augment import gaussian_blur
from entoptic.methods.contract import Context, Draft, Item
from entoptic.methods.objectives import Step, match
from entoptic.methods.vital import Vital, matched_taps, vital
from entoptic.models.model import Model
from entoptic.units.unit import bind


class Sketched(References):
    """References whose targets went through the pack's sketch."""

    def target(self, *args, **more) -> MatchingTarget:  # type: ignore[no-untyped-def]
        whole = super().target(*args, **more)
        values = {tap: unsketch(sketch(v), v.shape[1]) for tap, v in whole.values.items()}
        return MatchingTarget(values, whole.photos, whole.source, whole.sha256)


@pytest.mark.slow
def test_a_sketch_gives_nearly_the_same_picture(lite0: Model, shared_data: Path) -> None:
    photos = Photos.open(shared_data / "imagenette" / "val")
    photos = photos.subset(photos.of_class(["n03028079"]))
    (unit,), config = bind(lite0, "logits:497"), Vital(steps=24, references=10, lr=0.1)
    taps = matched_taps(lite0, ())
    whole, sketched = References(lite0, photos), Sketched(lite0, photos)

    def make(references: References, config: Vital, sample: int = 0) -> Draft:
        return next(vital([Item(unit, sample, 0)], config, Context(lite0, references)))

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
                losses[i] += objective(Step(lite0.read(x, taps), x, x, 1, [[]]))[0]
    assert float((losses[0] - losses[1]).abs()) < 0.1 * float(losses[0])

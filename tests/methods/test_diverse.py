"""Pictures that differ: a group is one whole, and its pictures are less alike than without the term."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from entoptic.errors import UserError
from entoptic.images.references import References
from entoptic.methods import find_method
from entoptic.methods.contract import Context, Draft, Item
from entoptic.methods.diverse import Diverse, gram_tap
from entoptic.metrics import sets
from entoptic.models.model import Model
from entoptic.runs.see import see
from entoptic.units.unit import bind


def make(model: Model, units: list[str], samples: list[int], **options: object) -> dict[tuple[str, int], Draft]:
    items = [Item(target=unit, sample=s, seed=0) for unit in bind(model, units) for s in samples]
    config = Diverse(**{"steps": 12, "pictures": 3, **options})  # type: ignore[arg-type]
    context = Context(model=model, references=References(model))
    drafts = {id(d.item): d for d in find_method("diverse").function(items, config, context)}
    assert len(drafts) == len(items)
    return {(item.target.text, item.sample): drafts[id(item)] for item in items}


def cosine(drafts: dict[tuple[str, int], Draft]) -> float:
    return sum(d.trace.detail["gram_cosine"]["last"] for d in drafts.values()) / len(drafts)


def test_the_term_makes_the_pictures_differ(tiny: Model) -> None:
    alike, apart = (make(tiny, ["stage2:3"], [0, 1, 2], weight=weight, steps=60) for weight in (0.0, 2.0))
    assert cosine(apart) < cosine(alike) - 0.05
    trace = apart["stage2:3", 0].trace
    assert trace.detail["gram_cosine"]["last"] < trace.detail["gram_cosine"]["first"]
    assert "one of 3 pictures that were made to differ at stage2.2" in trace.notes[-1]


def test_a_picture_depends_on_its_group_alone(tiny: Model) -> None:
    """Whatever else is asked for: fewer samples of the group, other groups, other units."""
    whole = make(tiny, ["stage2:3"], [0, 1, 2])
    for units, samples in ((["stage2:3"], [1]), (["stage2:3"], [2, 1]), (["logits:1", "stage2:3"], [0, 1, 4])):
        some = make(tiny, units, samples)
        torch.testing.assert_close(some["stage2:3", 1].image, whole["stage2:3", 1].image, atol=1e-3, rtol=0)
    assert whole["stage2:3", 0].trace.evaluations == 12
    assert make(tiny, ["stage2:3"], [1])["stage2:3", 1].trace.evaluations == 36  # the whole group was made for it
    other = make(tiny, ["stage2:3"], [1], pictures=2)["stage2:3", 1]
    assert (other.image - whole["stage2:3", 1].image).abs().max() > 0.01


def test_which_layer(tiny: Model) -> None:
    for text, layer in (("logits:0", "stage2.2"), ("stage2:3", "stage2.2"), ("logits:0 + stage1:1", "stage1.3")):
        (unit,) = bind(tiny, text)
        assert gram_tap(tiny, unit, "").layer == layer
    (unit,) = bind(tiny, "logits:0")
    assert gram_tap(tiny, unit, "stem").layer == "stem"
    with pytest.raises(UserError, match='did you mean "stage2"'):
        gram_tap(tiny, unit, "stage3")
    for wrong in ({"pictures": 0}, {"weight": -1.0}):
        with pytest.raises(UserError):
            Diverse(**wrong)  # type: ignore[arg-type]


def test_a_run_measures_how_they_differ(tiny: Model, tmp_path: Path) -> None:
    options = {"out": tmp_path, "verifiers": "", "progress": False}
    run = see(tiny, ["logits:0", "logits:1"], method="diverse", n=3, pictures=3, steps=4, batch_size=2, **options)
    assert len(run) == 6
    kept = {p.path: p.record["key"] for p in run}
    more = see(tiny, "logits:0", method="diverse", n=5, pictures=3, steps=4, **options)
    assert {p.path: p.record["key"] for p in more}.items() >= kept.items()
    assert len(more) == 8
    spread = sets.diversity("pixels")
    spread.update(torch.stack([p.tensor.flatten() for p in run["logits:0"]]))
    assert spread.compute().value > 0

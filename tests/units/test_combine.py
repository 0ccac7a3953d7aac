"""Combinations of units: their algebra, their scores, and what is said where there can be none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from conftest import tiny_card, tiny_module
from entoptic.errors import UserError
from entoptic.models.model import Model
from entoptic.sampling.unit_scores import UnitScores
from entoptic.units.combine import combine
from entoptic.units.unit import Unit, bind, slug


def pictures(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def refused(model: Model, units: Any) -> str:
    with pytest.raises(UserError) as error:
        bind(model, units)
    return str(error.value)


def one(model: Model, text: str) -> Unit:
    (unit,) = bind(model, text)
    return unit


def test_the_score_is_the_weighted_sum_of_scores_of_any_layers(tiny: Model) -> None:
    unit = one(tiny, 'logits:"circle" + 0.5*stage1:2@max - 2*stage2:5@1,2')
    parts = [one(tiny, text).score(pictures()) for text in ("logits:0", "stage1:2@max", "stage2:5@1,2")]
    torch.testing.assert_close(unit.score(pictures()), parts[0] + 0.5 * parts[1] - 2 * parts[2])
    assert str(unit) == "logits:0 + 0.5*stage1:2@max - 2*stage2:5@1,2"
    assert (unit.kind, unit.layer, unit.readout, unit.label) == ("combination", "logits, stage1, stage2", "sum", None)
    assert [str(part) for _, part in unit.terms] == ["logits:0", "stage1:2@max", "stage2:5@1,2"]
    assert UnitScores([unit]).all(pictures()).shape == (3, 1)


def test_python_and_the_grammar_say_the_same(tiny: Model) -> None:
    a, b = bind(tiny, ["logits:0", "stage1:2"])
    for made, text in (
        (a + b, "logits:0 + stage1:2"),
        (a - b, "logits:0 - stage1:2"),
        (a + 0.5 * b, "logits:0 + 0.5*stage1:2"),
        (0.5 * (a + b), "0.5*(logits:0 + stage1:2)"),
        ((a - b) * np.float32(2), "2*(logits:0 - stage1:2)"),
        (-a, "-logits:0"),
        (-(a - b), "-logits:0 + stage1:2"),
        (a + a, "2*logits:0"),
        (a + b - a, "stage1:2"),
    ):
        assert made == one(tiny, text)
        assert one(tiny, str(made)) == made
        torch.testing.assert_close(made.score(pictures()), one(tiny, text).score(pictures()))
    assert a + b - b is a
    assert one(tiny, "1*logits:0") == a
    assert one(tiny, 'logits:"circle" + logits:0') == 2 * a  # a part by its name is the same part
    assert combine([(1.0, a)]) is a


def test_labels_join_where_every_part_has_one(tiny: Model) -> None:
    assert one(tiny, "logits:0 + 0.5*logits:1 - logits:2").label == "circle + 0.5 square − stripe"
    assert one(tiny, "-logits:1").label == "−square"
    assert one(tiny, "logits:0 + stage1:2").label is None


def test_identity_holds_the_numbers_behind_files(tiny: Model, tmp_path: Path) -> None:
    file = tmp_path / "d.safetensors"
    identities = []
    for seed in (0, 1):
        direction = torch.randn(12, generator=torch.Generator().manual_seed(seed))
        save_file({"x": direction}, file, metadata={"layer": "stage1"})
        identities.append(one(tiny, f"logits:0 + dir({file}#x)").identity)
    assert identities[0] != identities[1]
    assert one(tiny, "logits:0 + logits:1").identity == "logits:0 + logits:1"


def test_file_names_are_unique_and_those_of_single_units_unchanged(tiny: Model) -> None:
    texts = ("logits:0 + logits:1", "logits:0 - logits:1", "-logits:1", "2*logits:1", "0.2*logits:1")
    found = [slug(one(tiny, text)) for text in texts]
    assert len(set(found)) == len(texts)
    assert all(name.replace("-", "").replace(".", "").isalnum() for name in found)
    assert slug(one(tiny, "logits:1")) == "logits-1"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("logits:0-2 + logits:1", "logits:0-2 names 3 units; in a combination, name each"),
        ("logits:0 + logits:9", "did you mean logits:4?"),
        ('logits:0 + logits:"sqare"', 'did you mean "square"?'),
        ("logits:0 + stage9:1", 'did you mean "stage2"'),
        ('logits:0 - logits:"circle"', "nothing is left: its parts cancel"),
        ("logits:0 + dir(nowhere#x)", "there is no file nowhere"),
    ],
)
def test_parts_that_are_not_there(tiny: Model, text: str, words: str) -> None:
    assert words in refused(tiny, text)


@pytest.mark.parametrize("weight", [0, float("nan"), float("inf")])
def test_weights_that_say_nothing(tiny: Model, weight: float) -> None:
    with pytest.raises(UserError, match="must be a finite number other than 0"):
        weight * one(tiny, "logits:0")


def test_units_of_two_models_and_other_things_do_not_add(tiny: Model) -> None:
    other = Model(tiny_module(3), tiny_card(name="other"), device="cpu")
    with pytest.raises(UserError, match="a combination is of units of one model"):
        one(tiny, "logits:0") + one(other, "logits:0")
    things: list[Any] = ["logits:1", 3, None]
    for thing in things:
        with pytest.raises(TypeError):
            one(tiny, "logits:0") + thing
    with pytest.raises(TypeError):
        one(tiny, "logits:0") * True


def test_a_reduction_has_no_map_to_reduce(tiny: Model) -> None:
    with pytest.raises(UserError, match="leave reduction out"):
        UnitScores([one(tiny, "stage1:2 + stage1:3")], "max")

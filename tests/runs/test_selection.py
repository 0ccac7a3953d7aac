"""Pictures of a run by their unit, method and measurements."""

from __future__ import annotations

from pathlib import Path

import pytest

from entoptic import Run, UserError
from entoptic.runs.selection import Pictures
from fake_run import NASTY, FakeRun, evidence

STORED = Path(__file__).parents[1] / "stored" / "runs"


@pytest.fixture
def run(fake: FakeRun) -> Run:
    for i, label in ((207, "golden retriever"), (208, "Labrador retriever"), (497, "church")):
        for method, value in (("vital", i / 1000), ("maco", None)):
            fake.add(
                f"logits:{i}", method, label=label, evidence=[evidence("transfer_top1", value), evidence("rank", 1)]
            )
    for i in (3, 12):
        fake.add(f"blocks.6:{i}", label=None, evidence=[])
    fake.add("blocks.6:3@max", label=None, evidence=[])
    return Run.open(fake.folder)


def test_a_picture_by_its_place_as_before(run: Run) -> None:
    assert run[0] == next(iter(run))
    assert run[-1] == list(run)[-1]
    assert run[:2] == list(run)[:2]
    with pytest.raises(IndexError):
        run[99]


@pytest.mark.parametrize(("text", "units"), [
    ("logits:207", ["logits:207"]), ('logits:"golden retriever"', ["logits:207"]), ('logits:"CHURCH"', ["logits:497"]),
    ("logits:200-300", ["logits:207", "logits:208"]), ("blocks.6:*", ["blocks.6:12", "blocks.6:3", "blocks.6:3@max"]),
    ("blocks.6:3@max", ["blocks.6:3@max"]), ("blocks.6:3", ["blocks.6:3"]), (" logits:0207 ", ["logits:207"]),
])  # fmt: skip
def test_pictures_by_a_unit(run: Run, text: str, units: list[str]) -> None:
    assert sorted(run[text].units) == sorted(units)
    assert sorted(run.filter(unit=text).units) == sorted(units)


@pytest.mark.parametrize(("text", "says"), [
    ("logits:217", "no picture of logits:217 here; did you mean logits:207 (golden retriever)?"),
    ('logits:"gold retriever"', "did you mean logits:207 (golden retriever)?"),
    ("golden retriever", "did you mean logits:207 (golden retriever)?"),
    ("blocks.7:3", "did you mean blocks.6:3?"),
    ("zzz:*", "there are "),
])  # fmt: skip
def test_an_unknown_unit_is_answered_with_the_nearest(run: Run, text: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        run[text]
    assert says in str(caught.value)


def test_filters(run: Run) -> None:
    assert {p.method for p in run.filter(method="maco")} == {"maco"}
    assert run.filter(method="vital, maco").methods == ["vital", "maco"]
    assert {p.path for p in run.filter(method="vital,maco")} == {p.path for p in run}
    assert run.filter(method=["maco"], unit=["logits:207", "logits:497"]).units == ["logits:207", "logits:497"]
    assert run.filter(evidence="transfer_top1>0.207").units == ["logits:208", "logits:497"]
    assert run.filter(evidence="transfer_top1 >= .207 and transfer_top1<0.4").units == ["logits:207", "logits:208"]
    assert run.filter(evidence=["rank<=1", lambda picture: picture.label == "church"]).units == ["logits:497"]
    assert len(run.filter(evidence="transfer_top1!=5", method="maco")) == 0  # without a value, nothing is kept
    assert len(run["logits:207"].filter(method="maco")) == 1
    assert run["logits:207"]["logits:207"].methods == ["maco", "vital"]


@pytest.mark.parametrize(("asked", "says"), [
    ({"method": "vitl"}, 'no picture by "vitl" here; there are .*did you mean "vital"'),
    ({"evidence": "transfer_top>0.5"}, 'no evidence "transfer_top".*did you mean "transfer_top1"'),
    ({"evidence": "transfer_top1=0.5"}, "cannot read the condition.*joined by"),
    ({"evidence": "transfer_top1>high"}, "cannot read the condition"),
    ({"unit": "logits:"}, "cannot read the unit"),
])  # fmt: skip
def test_a_filter_that_cannot_be_read_is_refused(run: Run, asked: dict[str, str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        run.filter(**asked)


def test_a_selection_has_a_table_and_shows_itself(run: Run) -> None:
    chosen = run["logits:207"]
    assert isinstance(chosen, Pictures)
    assert {row["unit"] for row in chosen.table().to_pylist()} == {"logits:207"}
    assert len(chosen.table()) == 4
    assert repr(chosen).startswith("Pictures(2 of ")
    assert chosen._repr_html_().count("<img") == 2
    assert "… and" in Pictures(run, list(run) * 4)._repr_html_()
    assert run._repr_html_().count("<img") == len(run)


def test_names_of_others_are_no_markup(fake: FakeRun) -> None:
    fake.add(label=NASTY, method=NASTY.replace("/", ""))
    assert "<script" not in Run.open(fake.folder)["logits:497"]._repr_html_()


def test_an_empty_run(tmp_path: Path) -> None:
    with Run(tmp_path / "r").writing({}):
        pass
    run = Run.open(tmp_path / "r")
    assert len(run.pictures) == len(run.table()) == 0
    with pytest.raises(UserError, match="no pictures at all"):
        run["logits:1"]


def test_the_feature_map_of_a_photo_and_a_feature_of_a_dictionary() -> None:
    inverted = Run.open(STORED / "invert")
    assert len(inverted["fmap(stage2)<photos/circle/0.png>"]) == 6
    with pytest.raises(UserError, match="did you mean fmap"):
        inverted["fmap(stage2)<photos/circle/1.png>"]
    assert len(Run.open(STORED / "steer")["dict(four.safetensors):0-2"]) == 2

"""The figure of a run of every kind: rows, columns, captions, and what is refused."""

from __future__ import annotations

import inspect
import shutil
from dataclasses import fields
from pathlib import Path

import pytest

from entoptic import Run, UserError
from entoptic.plots.drawing import Text
from entoptic.plots.figure import Figure, Tile
from entoptic.runs import figure as figures
from entoptic.runs.figure import _number
from entoptic.runs.figure_options import FigureOptions, captions_text
from entoptic.runs.selection import Pictures
from fake_run import FakeRun, evidence

STORED = Path(__file__).parents[1] / "stored" / "runs"


def texts(figure: Figure) -> list[str]:
    return [mark.text for mark in figure.marks if isinstance(mark, Text)]


def tiles(figure: Figure) -> list[Tile]:
    return [mark for mark in figure.marks if isinstance(mark, Tile)]


@pytest.fixture
def run(fake: FakeRun) -> Run:
    for unit, label in (("logits:207", "golden retriever"), ("logits:497", "church")):
        for method in ("vital", "maco"):
            fake.add(unit, method, label=label, evidence=[
                evidence("percentile", 99.97, n=1650, scale="%", interval=[99.6, 99.99]), evidence("mine_own", -0.5),
            ])  # fmt: skip
    return Run.open(fake.folder)


def test_several_methods_make_a_grid_of_units_by_methods(run: Run) -> None:
    figure = run.figure()
    assert figure.width == pytest.approx(5.5 * 72, abs=2 * 72)
    assert {"maco", "vital", "golden", "church", "logits:207"} <= {w for t in texts(figure) for w in [t, *t.split()]}
    lefts, tops = {tile.box[0] for tile in tiles(figure)}, {tile.box[1] for tile in tiles(figure)}
    assert len(tiles(figure)) == 4
    assert (len(lefts), len(tops)) == (2, 2)


def test_the_order_of_a_filter_is_that_of_the_figure(run: Run) -> None:
    figure = run.filter(method="vital,maco", unit=["logits:497", "logits:207"]).figure()
    shown = texts(figure)
    assert shown.index("vital") < shown.index("maco")
    assert shown.index("logits:497") < shown.index("logits:207")


def test_columns_and_captions(run: Run) -> None:
    figure = run.figure(columns=3, captions=["percentile", "mine_own"], width=4)
    said = " ".join(texts(figure))
    assert len({tile.box[0] for tile in tiles(figure)}) == 3
    assert said.count("percentile: 99.9 %".replace(" %", "\N{NO-BREAK SPACE}%")) == 4  # never rounded up to all
    assert said.count("[99.6, 99.9]") == 4
    assert said.count("mine own: \N{MINUS SIGN}0.5") == 4
    assert said.count("vital") == 2
    assert "percentile" in " ".join(texts(run.figure(captions=True)))
    assert "percentile" in " ".join(texts(run.figure(captions="percentile, mine_own")))
    assert "percentile" not in " ".join(texts(run.figure()))


def test_samples_stand_beside_each_other_and_what_is_missing_is_shown(fake: FakeRun) -> None:
    for sample in (0, 1, 2):
        fake.add("logits:1", sample=sample)
    fake.add("logits:2")
    figure = Run.open(fake.folder).figure()
    assert len({tile.box[0] for tile in tiles(figure)}) == 3
    assert "vital" not in texts(figure)  # the only method needs no heading
    fake.add("logits:3", "maco")
    assert texts(Run.open(fake.folder).figure()).count("no picture") == 3


@pytest.mark.parametrize(("kind", "columns"), [("see", 15), ("frontier", 4), ("invert", 6), ("steer", 1)])
def test_every_kind_of_run_has_a_figure(kind: str, columns: int) -> None:
    run = Run.open(STORED / kind)
    figure = run.figure(captions=True) if kind != "steer" else run.figure(columns=1)
    assert len(tiles(figure)) == len(run)
    assert len({tile.box[0] for tile in tiles(figure)}) == columns
    assert all(picture.record["key"][:12] in figure.description for picture in run)


def test_photos_stand_before_what_was_made_from_them(tmp_path: Path) -> None:
    inverted = Run.open(STORED / "invert")
    figure = inverted.figure(with_photos=True)
    assert texts(figure)[:2] == ["photo", "invert"]
    assert len(tiles(figure)) == len(inverted) + 2
    steered = Run.open(STORED / "steer").figure(with_photos=True)
    assert texts(steered)[:3] == ["photo", "decoded", "steer"]
    assert len(tiles(steered)) == 6
    bare = Run.open(shutil.copytree(STORED / "invert", tmp_path / "r", ignore=shutil.ignore_patterns("context")))
    assert "photo" not in texts(bare.figure(with_photos=True))
    assert len(tiles(inverted.figure(with_photos=True, columns=4))) == len(inverted) + 2


def test_what_cannot_be_drawn_is_refused(run: Run, fake: FakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r'no evidence "percentil".*did you mean "percentile"'):
        run.figure(captions="percentil")
    with pytest.raises(UserError, match="columns must be at least 1"):
        run.figure(columns=0)
    with pytest.raises(UserError, match="width is in inches"):
        run.figure(width=550)
    with pytest.raises(UserError, match="there is no picture to show"):
        run.filter(evidence="percentile>100").figure()
    fake.add(evidence=[])
    with pytest.raises(UserError, match="none of them has a measurement"):
        Run.open(fake.folder)["logits:497"].filter(evidence=lambda p: not p.evidence).figure(captions=True)
    monkeypatch.setattr(figures, "MOST", 3)
    with pytest.raises(UserError, match="too many for one figure"):
        run.figure()


def test_too_many_beside_each_other(fake: FakeRun) -> None:
    for i in range(20):
        fake.add("logits:1", f"m{i:02d}")
    with pytest.raises(UserError, match="columns=4"):
        Run.open(fake.folder).figure(width=1)


@pytest.mark.parametrize(("value", "scale", "text"), [
    (99.97, "%", "99.9"), (100, "%", "100"), (0.02, "%", "<0.1"), (0, "%", "0"), (12345, "", "12,345"), (123.4, "", "123"),
    (0.5, "", "0.5"), (0.0001, "", "1.0e-04"), (2e9, "", "2.00e+09"), (-3, "", "\N{MINUS SIGN}3"),
])  # fmt: skip
def test_numbers(value: float, scale: str, text: str) -> None:
    assert _number(value, scale) == text


def test_options_are_those_of_one_record() -> None:
    """The command line takes the record itself; Python's two functions have its fields and defaults."""
    for function in (Run.figure, Pictures.figure):
        given = {name: one.default for name, one in inspect.signature(function).parameters.items() if name != "self"}
        assert given == {one.name: one.default for one in fields(FigureOptions)} | {"captions": False}
    assert captions_text(True) == "headline"
    assert captions_text(False) == captions_text(()) == ""
    assert captions_text(["a", "b"]) == captions_text("a,b") == "a,b"

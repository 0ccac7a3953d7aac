"""Pictures of combinations of units, from the request to the gallery."""

from __future__ import annotations

from pathlib import Path

import pytest

import entoptic
from entoptic.base.pixels import to_float
from entoptic.cli.main import main
from entoptic.errors import UserError
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.models.model import Model
from entoptic.runs.see import see
from entoptic.runs.store import Run
from entoptic.units.unit import Unit, bind

SUM = 'logits:"circle" + 0.5*logits:"square" - stage1:2@max'
PLAIN = "logits:0 + 0.5*logits:1 - stage1:2@max"


def combined(model: Model, text: str = SUM) -> Unit:
    (unit,) = bind(model, text)
    return unit


@pytest.fixture
def run(tiny: Model, photo_folder: Path, tmp_path: Path) -> Run:
    return see(
        tiny, [SUM, "-stage2:5", "logits:0"], method="pixels,fourier,vital,retrieval", photos=photo_folder, steps=3,
        references=4, out=tmp_path / "run", progress=False, verifiers="",
    )  # fmt: skip


def test_every_ascent_and_retrieval_show_it_with_evidence(run: Run, tiny: Model, photo_folder: Path) -> None:
    assert not run.failures
    assert len(run) == 12
    unit = combined(tiny)
    for picture in run[PLAIN]:
        value = float(unit.score(to_float(picture.pixels))[0])
        assert picture.evidence["activation"]["value"] == pytest.approx(value, abs=1e-4)
        assert picture.evidence["percentile"]["value"] is not None
        for name, words in (
            ("rank", "a combination has no sibling units"),
            ("specificity", "a combination has no sibling units"),
            ("selectivity", "a combination has no sibling units"),
            ("transfer_top1", "only a class logit means the same"),
            ("causal", "a combination has no layer of its own"),
            ("relevance_agreement", "a combination has no layer of its own"),
        ):
            assert words in picture.evidence[name]["reason"], name
        assert picture.record["parts"] == [
            {"weight": 1.0, "unit": "logits:0", "label": "circle"},
            {"weight": 0.5, "unit": "logits:1", "label": "square"},
            {"weight": -1.0, "unit": "stage1:2@max", "label": None},
        ]
    (best,) = run.filter(unit=PLAIN, method="retrieval")
    scores = References(tiny, Photos.open(photo_folder)).scores([unit]).of(unit)
    assert best.evidence["activation"]["value"] == pytest.approx(float(scores.max()), abs=1e-3)
    assert "parts" not in run["logits:0"][0].record


def test_a_run_finds_it_by_any_spelling(run: Run) -> None:
    for text in (PLAIN, SUM, "logits:0+0.5*logits:1-stage1:2@max", '0.5*logits:"square" + logits:0 - stage1:2'):
        assert len(run[text]) == 4, text
    assert len(run["-stage2:5"]) == 4
    assert len(run["logits:0"]) == 4
    with pytest.raises(UserError, match=r"there is no picture of logits:0 \+ logits:1"):
        run["logits:0 + logits:1"]


def test_it_is_verified_and_shown_and_not_made_again(run: Run, tiny: Model, photo_folder: Path) -> None:
    report = entoptic.verify(run, model=tiny, photos=photo_folder)
    assert report.ok, str(report)
    files = sorted(run.path.rglob("*.png"))
    again = see(tiny, SUM, method="pixels", photos=photo_folder, steps=3, out=run.path, progress=False, verifiers="")
    assert sorted(run.path.rglob("*.png")) == files
    assert len(again) == 12
    index = entoptic.make_gallery(run.path)
    page = "".join(file.read_text() for file in Path(index).parent.rglob("*.html"))
    assert "logits:0 + 0.5*logits:1 - stage1:2@max" in page


def test_a_joint_picture_drives_all_of_its_neurons(tiny: Model, tmp_path: Path) -> None:
    """Each neuron of the sum ends higher than the picture of another one brings it."""
    neurons = ["stage2:3@1,1", "stage2:9@2,2"]
    run = see(
        tiny, [" + ".join(neurons), *neurons], method="pixels", steps=40, out=tmp_path, progress=False, verifiers=""
    )
    joint, first, second = (to_float(run[unit][0].pixels) for unit in (" + ".join(neurons), *neurons))
    a, b = bind(tiny, neurons)
    assert float(a.score(joint)) > float(a.score(second))
    assert float(b.score(joint)) > float(b.score(first))


def test_a_dead_part_gets_a_gradient_of_its_own(tiny: Model, tmp_path: Path) -> None:
    run = see(tiny, "logits:0 + stage2:3@1,1", method="pixels", steps=3, out=tmp_path, progress=False, verifiers="")
    assert run[0].record["trace"]["steps"] == 3


def test_relevance_of_a_combination_is_that_of_its_positive_parts(
    tiny: Model, photo_folder: Path, tmp_path: Path
) -> None:
    units = ["stage2:3 + stage2:5", "stage2:3 + stage2:5 - stage2:7", "-stage2:3"]
    run = see(
        tiny, units, method="vital", relevance="lrp", layers=("stem", "stage1"), photos=photo_folder, steps=2, references=4,
        out=tmp_path, progress=False, verifiers="",
    )  # fmt: skip
    assert len(run) == 3
    notes = [" ".join(picture.record["trace"]["notes"]) for unit in units for picture in run[unit]]
    assert "whole photos were matched" in notes[2]
    assert "whole photos were matched" not in notes[0] + notes[1]
    options = {"layers": ("stem", "stage1"), "photos": photo_folder, "reference": "crop", "verifiers": ""}
    with pytest.raises(UserError, match="no one position to crop photos around"):
        see(tiny, units[0], method="vital", out=tmp_path / "crop", progress=False, **options)


def test_an_index_says_why_and_the_photos_are_scored(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    index = entoptic.build_index(tiny, photo_folder, layers=["logits", "stage1"], out=tmp_path / "index")
    for unit in (combined(tiny), PLAIN):
        with pytest.raises(UserError, match="an index holds units of layers one by one"):
            index.top(unit)
    assert combined(tiny) not in index
    run = see(
        tiny,
        SUM,
        method="retrieval",
        photos=photo_folder,
        index=index,
        out=tmp_path / "run",
        progress=False,
        verifiers="",
    )
    assert run[0].evidence["percentile"]["value"] is not None


def test_without_photos_shipped_targets_of_the_parts_are_put_together(lite0: Model) -> None:
    references = References(lite0)
    from entoptic.methods.vital import matched_taps

    taps = matched_taps(lite0, ())
    both, first, second = bind(lite0, ["logits:497 + 3*logits:207", "logits:497", "logits:207"])
    target = references.target(both, taps, 25)
    parts = [references.target(unit, taps, 25) for unit in (first, second)]
    for tap in taps:
        expected = 0.25 * parts[0].values[tap] + 0.75 * parts[1].values[tap]
        assert float((target.values[tap] - expected).abs().max()) < 1e-4
    assert "25% church" in target.source
    assert references.identity(both, {"targets"}) != references.identity(first, {"targets"})
    with pytest.raises(UserError, match="give --photos DIR"):
        references.check(combined(lite0, "logits:497 - logits:207"), {"targets"})
    with pytest.raises(UserError, match=r"not for blocks\.2:0@max"):
        references.check(combined(lite0, "logits:497 + blocks.2:0@max"), {"targets"})


def test_the_command_line_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--method", "pixels", "--steps", "1", "--verifiers", "", "--out", str(tmp_path / "run")]
    assert main(["see", "builtin:lite0", "-blocks.2:3", 'logits:"church" + 0.5*logits:"golden retriever"', *out]) == 0
    said = capsys.readouterr().out
    assert "-blocks.2:3 by pixels" in said
    assert "logits:497 + 0.5*logits:207 (church + 0.5 golden retriever) by pixels" in said
    command = Run.open(tmp_path / "run")["-blocks.2:3"][0].record["command"]
    assert "see builtin:lite0 -blocks.2:3 --method pixels" in command
    for words, answer in (
        (["logits:1", "+", "logits:2"], "in a shell a combination stands in quotes"),
        (["logits:1 + 0*logits:2"], "must be a finite number other than 0"),
        (['logits:1 + logits:"chruch"'], 'did you mean "church"'),
        (["-blocks.2:3", "--stepps", "3"], "did you mean --steps?"),
        (["-blocks.99:3"], 'no layer "blocks.99"'),
    ):
        assert main(["see", "builtin:lite0", *words, *out]) == 2
        text = capsys.readouterr().err
        assert answer in text, text
        assert len(text.strip().splitlines()) == 1

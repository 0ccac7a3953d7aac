"""--quick and --fine: names of options, which a run records as the options that they stand for."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.conftest import Say, refusal
from entoptic import UserError
from entoptic.cli.config_file import read_jobs
from entoptic.cli.parse import parse
from entoptic.cli.see import See
from entoptic.configs import Fourier, Vital
from entoptic.methods import METHODS
from entoptic.methods.contract import card_of, make_config
from entoptic.methods.presets import PRESETS, check_preset, chosen_preset, preset_options
from entoptic.models.model import Model
from entoptic.runs.see import see
from entoptic.runs.store import Run

QUICK, FINE = Vital.presets["quick"]["steps"], Vital.presets["fine"]["steps"]


def options(*words: str) -> See:
    found: See = parse("see", ("tiny:net", "logits:0", *words))
    return found


def test_presets_are_options_of_their_methods() -> None:
    for card in METHODS.values():
        assert set(card.config.presets) <= set(PRESETS)
        for name in card.config.presets:
            changed = make_config(card, dict(preset_options(card, name)))
            assert changed != card.config()
    assert QUICK < Vital().steps < FINE


def test_a_preset_stands_for_defaults() -> None:
    assert options().vital == Vital()
    assert options("--quick").vital == Vital(**Vital.presets["quick"])
    assert options("--fine").vital == Vital(**Vital.presets["fine"])
    assert options("--quick").fourier == Fourier()


def test_options_that_are_given_come_before_it() -> None:
    """Also where one is what it would be without the preset."""
    assert options("--quick", "--vital.steps", "300").vital.steps == 300
    assert options("--vital.steps", "7", "--fine").vital.steps == 7
    assert options("--fine", "--vital.start", "0.3").vital == Vital(**{**Vital.presets["fine"], "start": 0.3})
    assert options("--quick", "--no-quick").vital == Vital()


def test_what_is_made_is_what_the_options_make(say: Say, tmp_path: Path, photo_folder: Path) -> None:
    words = ("see", "tiny:net", "stage1:1", "--photos", photo_folder, "--vital.references", 4, "--verifiers", "",
             "--no-context", "--device", "cpu", "--out", tmp_path / "r")  # fmt: skip
    assert say(*words, "--quick", "--steps", 2)[0] == 0
    (picture,) = Run.open(tmp_path / "r")
    before = picture.path.stat().st_mtime_ns
    assert say(*words, "--vital.steps", 2)[0] == 0
    (picture,) = Run.open(tmp_path / "r")
    assert picture.path.stat().st_mtime_ns == before
    assert picture.record["config"]["steps"] == 2
    assert "quick" not in str(picture.record)


def test_the_same_from_python(tiny: Model, tmp_path: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Vital, "presets", {"quick": {"steps": 2}, "fine": {"steps": 3, "start": 0.1}})
    shared: dict[str, object] = {
        "photos": photo_folder, "references": 4, "verifiers": "", "progress": False, "out": tmp_path / "r",
    }  # fmt: skip

    def config(**more: object) -> dict[str, object]:
        found: dict[str, object] = see(tiny, "stage1:1", **shared, **more)[-1].record["config"]  # type: ignore[arg-type]
        return found

    assert config(quick=True)["steps"] == 2
    assert len(see(tiny, "stage1:1", **shared, steps=2)) == 1  # type: ignore[arg-type]
    runs = see(tiny, "stage1:1", **shared, fine=True, steps=1, method="vital,fourier")  # type: ignore[call-overload]
    told = {p.method: p.record["config"] for p in runs if p.record["config"]["steps"] == 1}
    assert told["vital"]["start"] == 0.1
    assert set(told) == {"vital", "fourier"}
    with pytest.raises(UserError, match="quick and fine were both asked for"):
        config(quick=True, fine=True)
    with pytest.raises(UserError, match="quick says nothing about fourier; it is a preset of vital"):
        config(quick=True, method="fourier")
    with pytest.raises(UserError, match="a config has all of its own"):
        config(quick=True, method=Vital(steps=1))


def test_a_file_may_ask_for_it(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(
        'quick: yes\nunits: ["logits:0"]\nmodel: tiny:net\njobs:\n'
        "  - {}\n  - {vital: {steps: 300}}\n  - {vital: {start: 0.3}}\n  - {quick: no, fine: yes}\n  - {quick: no}\n"
    )
    found = [job.options.vital for job in read_jobs(file, See)]
    quick = dict(Vital.presets["quick"])
    fine = dict(Vital.presets["fine"])
    assert found == [
        Vital(**quick), Vital(**{**quick, "steps": 300}), Vital(**{**quick, "start": 0.3}), Vital(**fine), Vital(),
    ]  # fmt: skip
    file.write_text('quick: yes\nfine: yes\nunits: ["logits:0"]\nmodel: tiny:net\n')
    with pytest.raises(UserError, match=r"sweep\.yaml: quick and fine were both asked for"):
        read_jobs(file, See)


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        ((), [QUICK, 7]),
        (("--fine",), [FINE, 7]),
        (("--no-quick",), [300, 7]),
        (("--quick",), [QUICK, 7]),
        (("--vital.steps", "300"), [300, 300]),
    ],
)
def test_the_command_line_counts_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], steps: list[int]
) -> None:
    from entoptic.cli import sweep

    file, made = tmp_path / "sweep.yaml", []
    file.write_text('quick: yes\nunits: ["logits:0"]\nmodel: tiny:net\njobs: [{}, {vital: {steps: 7}}]\n')
    monkeypatch.setattr(sweep, "run_see", lambda given: made.append(given.vital.steps) or 0)
    assert sweep.run_file(("--config", str(file), *words)) == 0
    assert made == steps


def test_a_printed_file_has_the_options(say: Say, tmp_path: Path) -> None:
    code, out, _ = say("see", "tiny:net", "logits:0", "--quick", "--print-config")
    assert code == 0
    assert f"\n  steps: {QUICK}" in out
    assert "\n# quick: false" in out
    file = tmp_path / "printed.yaml"
    file.write_text(out)
    (job,) = read_jobs(file, See)
    assert job.options.vital == options("--quick").vital


def test_the_help_says_what_a_preset_stands_for(say: Say) -> None:
    """In the words of today's options."""
    _, whole, _ = say("see", "--help")
    assert f"stands for --vital.steps {QUICK};" in " ".join(whole.split())
    assert f"stands for --vital.steps {FINE} " in " ".join(whole.split())
    _, page, _ = say("see", "--help", "vital")
    assert f"  --quick stands for --vital.steps {QUICK}\n  --fine stands for --vital.steps {FINE}\n" in page
    assert "stands for" not in say("see", "--help", "fourier")[1]
    assert "stands for" not in say("interpolate", "--help", "vital")[1]
    assert all(set(options) == {"steps"} for options in Vital.presets.values())  # or the short page must say more


def test_what_cannot_be_is_said(say: Say) -> None:
    said = refusal(say("see", "tiny:net", "logits:0", "--quick", "--fine"))
    assert "quick and fine were both asked for; give one of them" in said
    said = refusal(say("see", "tiny:net", "logits:0", "--method", "fourier", "--quick"))
    assert "quick says nothing about fourier; it is a preset of vital" in said
    assert chosen_preset(False, True) == "fine"
    check_preset([card_of(Fourier()), card_of(Vital())], "quick")

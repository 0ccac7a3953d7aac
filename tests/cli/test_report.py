"""`--report`: numbers and pictures reach TensorBoard and Weights & Biases through their own libraries."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cli.conftest import Say, refusal, see
from entoptic.base.tracking import is_tracked, tell, tracking


def test_a_run_is_told_to_tensorboard(say: Say, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = ("logits:0-1", "--method", "fourier", "--verifiers", "", "--out", tmp_path / "r")
    assert say(*see(*words, "--report", f"tensorboard:{tmp_path / 'events'}"))[0] == 0
    events = EventAccumulator(str(tmp_path / "events"), size_guidance={"images": 0})
    events.Reload()
    assert events.Scalars("run/pictures")[-1].value == 2
    assert len(events.Scalars("fourier/activation")) == 2
    assert {"fourier/logits:0", "fourier/logits:1"} <= set(events.Tags()["images"])


class Wandb:
    """A stand-in of the library, which keeps what it is given."""

    def __init__(self) -> None:
        self.logged: list[dict[str, Any]] = []
        self.projects: list[str] = []
        self.finished = 0

    def init(self, project: str) -> Any:
        self.projects.append(project)
        return SimpleNamespace(log=self.logged.append, finish=self._finish)

    def _finish(self) -> None:
        self.finished += 1

    def module(self) -> ModuleType:
        made = ModuleType("wandb")
        made.init = self.init  # type: ignore[attr-defined]
        made.Image = lambda pixels, caption: (np.asarray(pixels).shape, caption)  # type: ignore[attr-defined]
        return made


def test_a_run_is_told_to_weights_and_biases(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", stand_in.module())
    words = ("logits:0", "--method", "fourier", "--verifiers", "", "--out", tmp_path / "r", "--report", "wandb:mine")
    assert say(*see(*words))[0] == 0
    assert (stand_in.projects, stand_in.finished) == (["mine"], 1)
    assert {"fourier": ((32, 32, 3), "logits:0"), "fourier/step": 0} in stand_in.logged
    assert any("fourier/activation" in entry for entry in stand_in.logged)
    # It is ended after an error too.
    assert say("see", "tiny:net", "nowhere:0", "--report", "wandb:mine")[0] == 2
    assert stand_in.finished == 2
    assert not is_tracked()


def test_a_training_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, photo_folder: Path) -> None:
    from entoptic.priors.learn import learn_prior
    from entoptic.priors.recipe import Recipe

    stand_in = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", stand_in.module())
    recipe = Recipe(steps=20, size=8, widths=(16,), attention=(), batch_size=2)
    with tracking("wandb:mine"):
        learn_prior(photo_folder, tmp_path / "prior", recipe)
    steps = [entry["train/loss/step"] for entry in stand_in.logged if "train/loss" in entry]
    assert steps == [10, 20]


def test_what_cannot_be_told(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = see("logits:0", "--method", "fourier", "--out", tmp_path / "r")
    assert 'did you mean "tensorboard"?' in refusal(say(*words, "--report", "tensorbord:x"))
    assert "--report is one of tensorboard:DIR, wandb:PROJECT" in refusal(say(*words, "--report", "wandb"))
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert "needs the package wandb; `pip install wandb`" in refusal(say(*words, "--report", "wandb:x"))
    assert not (tmp_path / "r").exists()
    tell("nobody", 1.0, 0)  # listens: nothing happens


def test_a_folder_that_cannot_be_written_is_refused_before_the_run(say: Say, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    words = see("logits:0", "--method", "fourier", "--out", tmp_path / "r")
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refusal(say(*words, "--report", f"tensorboard:{tmp_path / 'file' / 'x'}"))
    assert not (tmp_path / "r").exists()

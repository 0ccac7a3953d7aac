"""Training a prior: what is resumed is the same training, and bad recipes are answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from entoptic import UserError
from entoptic.base.training import rate_factor
from entoptic.priors.learn import learn_prior, network
from entoptic.priors.recipe import Recipe

TINY = {"size": 8, "patch": 2, "widths": (16, 32), "attention": (2,), "batch_size": 4, "warmup": 2}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / json.loads((folder / "training.json").read_text())["state"])


def test_resuming_gives_the_training_that_was_not_interrupted(photo_folder: Path, tmp_path: Path) -> None:
    whole = learn_prior(photo_folder, tmp_path / "whole", Recipe(steps=6, decay=0.0, **TINY))
    parts = tmp_path / "parts"

    def stop(what: str, done: int, total: int) -> None:
        if what == "training the prior" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn_prior(photo_folder, parts, Recipe(steps=6, decay=0.0, **TINY), progress=stop)
    assert json.loads((parts / "training.json").read_text())["step"] == 3
    learn_prior(photo_folder, parts, Recipe(steps=6, decay=0.0, **TINY))
    a, b = weights(whole), weights(parts)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], msg=name)
    assert len(list(parts.glob("training-*.safetensors"))) == 1


def test_a_checkpoint_that_a_killed_training_left_goes(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn_prior(photo_folder, tmp_path, Recipe(steps=1, **TINY))
    with monkeypatch.context() as killed:  # between the record of a checkpoint and the end of the one before
        killed.setattr("entoptic.base.training._delete_checkpoint", lambda *_: None)
        learn_prior(photo_folder, tmp_path, Recipe(steps=2, **TINY))
    assert len(list(tmp_path.glob("training-*.safetensors"))) == 2
    learn_prior(photo_folder, tmp_path, Recipe(steps=2, **TINY))
    assert [path.name for path in tmp_path.glob("training-*.safetensors")] == ["training-2.safetensors"]


def test_a_sheet_is_drawn_before_its_step_is_saved(photo_folder: Path, tmp_path: Path) -> None:
    saved: list[int] = []

    def sheet(net: torch.nn.Module, path: Path) -> None:
        about = tmp_path / "training.json"
        saved.append(json.loads(about.read_text())["step"] if about.exists() else 0)

    learn_prior(photo_folder, tmp_path, Recipe(steps=4, **TINY), save_every=1, sheet_every=2, sheet=sheet)
    assert saved == [1, 3]


def test_the_record_names_the_checkpoint_that_was_replaced(photo_folder: Path, tmp_path: Path) -> None:
    learn_prior(photo_folder, tmp_path, Recipe(steps=2, **TINY), save_every=1)  # the last step is saved twice
    record = json.loads((tmp_path / "training.json").read_text())
    assert (record["state"], record["before"]) == ("training-2.safetensors", "training-1.safetensors")


def test_training_learns_and_keeps_a_running_mean(photo_folder: Path, tmp_path: Path) -> None:
    losses: list[float] = []
    recipe = Recipe(steps=300, decay=0.0, rate=2e-3, **TINY)
    folder = learn_prior(
        photo_folder, tmp_path / "p", recipe, log=lambda line: losses.append(float(line.split()[3][:-1]))
    )
    assert losses[-1] < 0.6 * losses[0]
    state = weights(folder)
    distance = sum(float((state[k] - state["net" + k[3:]]).abs().sum()) for k in state if k.startswith("ema/"))
    assert distance > 0


def test_another_network_cannot_resume(photo_folder: Path, tmp_path: Path) -> None:
    learn_prior(photo_folder, tmp_path, Recipe(steps=1, **TINY))
    with pytest.raises(UserError, match="other widths"):
        learn_prior(photo_folder, tmp_path, Recipe(steps=2, **{**TINY, "widths": (32, 32)}))


def test_a_sheet_is_drawn_of_the_mean(photo_folder: Path, tmp_path: Path) -> None:
    seen: list[Path] = []
    learn_prior(
        photo_folder, tmp_path, Recipe(steps=4, **TINY), sheet=lambda net, path: seen.append(path), sheet_every=2
    )
    assert [p.name for p in seen] == ["0000002.png", "0000004.png"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"size": 30}, "multiple of 8"),
        ({"steps": 0}, "at least 1"),
        ({"drop": 1.0}, r"\[0, 1\)"),
        ({"ema": -0.1}, "ema"),
        ({"widths": (16, 20)}, "multiples of 16, got 20; the nearest is 16"),
        ({"size": 32, "widths": (16, 16)}, "multiple of 32 channels there, got 16; the nearest is 32"),
    ],
)
def test_bad_recipes(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        Recipe(**options)


def test_photos_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"no photo from .* could be read \(1 photo tried"):
        learn_prior(tmp_path / "photos", tmp_path / "out", Recipe(steps=1, **TINY))


def test_rate_rises_stays_and_falls() -> None:
    recipe = Recipe(steps=100, warmup=10, decay=0.5)
    rates = [rate_factor(step, recipe) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[20] == 1.0
    assert rates[75] == pytest.approx(0.5)
    assert rates == sorted(rates[:50]) + sorted(rates[50:], reverse=True)


def test_the_class_after_the_last_is_none() -> None:
    net = network(Recipe(**TINY), classes=3)  # type: ignore[arg-type]
    assert net.config.num_class_embeds == 4


def test_a_step_that_breaks_keeps_the_steps_before(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from entoptic.priors import learn

    honest, calls = learn.flow_loss, []

    def breaks(*given: object) -> torch.Tensor:
        calls.append(1)
        loss = honest(*given)  # type: ignore[arg-type]
        return loss * float("nan") if len(calls) == 4 else loss

    monkeypatch.setattr(learn, "flow_loss", breaks)
    with pytest.raises(UserError, match="at step 3"):
        learn_prior(photo_folder, tmp_path, Recipe(steps=6, **TINY))
    state = weights(tmp_path)
    assert json.loads((tmp_path / "training.json").read_text())["step"] == 3
    assert all(bool(value.isfinite().all()) for value in state.values())


def test_other_photos_do_not_go_on_silently(photo_folder: Path, tmp_path: Path) -> None:
    import shutil

    other = tmp_path / "other"
    shutil.copytree(photo_folder, other)
    first = next(iter(sorted(other.rglob("*.png"))))
    second = sorted(other.rglob("*.png"))[1]
    shutil.copy(second, first)
    learn_prior(photo_folder, tmp_path / "out", Recipe(steps=1, **TINY))
    with pytest.raises(UserError, match="other photos"):
        learn_prior(other, tmp_path / "out", Recipe(steps=2, **TINY))


def test_a_full_disk_is_told_before_anything_is_mapped(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"no room for .*No space left"):
        learn_prior(photo_folder, tmp_path, Recipe(steps=1, **TINY))
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    learn_prior(photo_folder, tmp_path, Recipe(steps=1, **TINY))
    before = weights(tmp_path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("entoptic.base.files.os.fsync", full)  # the file is half written by then
    with pytest.raises(UserError, match="the checkpoint before is kept"):
        learn_prior(photo_folder, tmp_path, Recipe(steps=2, **TINY))
    after = weights(tmp_path)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not list(tmp_path.glob("*.part"))

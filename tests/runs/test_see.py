"""The main job: nothing is computed twice, nothing finished is lost, and what is shown is what was measured."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import TwoClasses, tiny_card, tiny_module
from entoptic.base.pixels import quantise
from entoptic.base.progress import Reporter
from entoptic.errors import UserError
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.methods import METHODS
from entoptic.methods.fourier import Fourier
from entoptic.methods.vital import Vital
from entoptic.metrics.kl import divergence
from entoptic.metrics.picture import measure
from entoptic.models.model import Model
from entoptic.runs.execute import execute
from entoptic.runs.plan import make_plan
from entoptic.runs.see import see
from entoptic.runs.store import Run
from entoptic.runs.unit_items import trace_of
from entoptic.units.unit import Unit, bind


class Log:
    """Which items each call of a method was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str = "fourier") -> None:
        self.calls: list[list[str]] = []
        card = METHODS[name]

        def function(items: Any, config: Any, context: Any) -> Iterator[Any]:
            self.calls.append([f"{item.unit}/{item.sample}" for item in items])
            yield from card.function(items, config, context)

        monkeypatch.setitem(METHODS, name, replace(card, function=function))

    @property
    def items(self) -> list[str]:
        return [item for call in self.calls for item in call]


def fast(model: Any, units: Any, out: Path, **more: Any) -> Run:
    return see(model, units, out=out, **{"method": "fourier", "steps": 3, "progress": False, "verifiers": ""} | more)


def files(run: Run) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in run.path.rglob("*") if p.is_file() and p.name != ".lock"}


# --- nothing twice -------------------------------------------------------------------------------------------------


def test_the_same_request_computes_nothing(
    tiny: Model, tmp_path: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fast(tiny, "logits:0-2", tmp_path / "r", n=2, photos=photo_folder, method="fourier,retrieval")
    before = files(first)
    log, passes = Log(monkeypatch), []
    handle = tiny.module.register_forward_pre_hook(lambda module, args: passes.append(len(args[0])))
    second = fast(tiny, "logits:0-2", tmp_path / "r", n=2, photos=str(photo_folder), method=["fourier", "retrieval"])
    handle.remove()
    assert log.calls == []
    assert passes == []
    assert len(second) == 12
    assert files(second) == before


def test_a_change_recomputes_only_what_it_touches(
    tiny: Model, tmp_path: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "r"
    fast(tiny, "logits:0-1", out)
    log = Log(monkeypatch)

    def asked(units: Any, **more: Any) -> list[str]:
        log.calls.clear()
        fast(tiny, units, out, **more)
        return log.items

    assert asked("logits:0-2") == ["logits:2/0"]
    assert asked("logits:0-1", n=2) == ["logits:0/1", "logits:1/1"]
    assert asked("logits:0", steps=4) == ["logits:0/0"]
    assert asked("logits:0", seed=1) == ["logits:0/0"]
    assert asked("logits:0", lr=0.1) == ["logits:0/0"]
    assert asked("logits:0@mean", batch_size=1) in ([], ["logits:0@mean/0"])
    assert asked("logits:0", photos=photo_folder) == []  # fourier reads no photos; only its evidence changes
    assert asked("logits:0", steps=4) == []
    log.calls.clear()
    fast(Model(tiny_module(1), tiny_card(), device="cpu"), "logits:0", out)
    fast(Model(tiny_module(), tiny_card(std=(0.3,) * 3), device="cpu"), "logits:0", out)
    assert log.items == ["logits:0/0", "logits:0/0"]


def test_other_verifiers_and_photos_only_measure_again(
    tiny: Model, tmp_path: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (before,) = fast(tiny, "logits:0", tmp_path / "r")
    assert before["transfer_top1"] is None
    png = before.path.read_bytes()
    log = Log(monkeypatch)
    judge = Model(tiny_module(1), tiny_card(name="judge"), device="cpu")
    (after,) = fast(tiny, "logits:0", tmp_path / "r", verifiers=[judge], photos=photo_folder)
    assert log.calls == []
    assert after["transfer_top1"] is not None
    assert after["percentile"] is not None
    assert after.path.read_bytes() == png
    assert after.record["measured_with"]["verifiers"] == {"judge": judge.card.identity}
    assert after.record["key"] == before.record["key"]


def test_changed_photos_make_what_they_shape_again(
    tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for label in ("circle", "square"):
        (folder / label).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / label / f"{i}.png")
    alone = Vital(steps=2, class_contrast=0)
    fast(tiny, "logits:0-1", tmp_path / "r", method=alone, photos=folder)
    fast(tiny, "logits:0-1", tmp_path / "r", method="vital", photos=folder)
    log = Log(monkeypatch, "vital")
    (folder / "square" / "0.png").write_bytes((folder / "square" / "1.png").read_bytes())
    fast(tiny, "logits:0-1", tmp_path / "r", method=alone, photos=folder)
    assert log.items == ["logits:1/0"]  # its own photos alone shape a picture
    run = fast(tiny, "logits:0-1", tmp_path / "r", method="vital", photos=folder)
    assert log.items[1:] == ["logits:0/0", "logits:1/0"]  # contrast: those of other classes shape it too
    assert all(p["percentile"] is not None for p in run)


# --- what is shown is what was measured ------------------------------------------------------------------------------


def test_the_sidecar_holds_what_the_png_gives_for_every_method(
    tiny: Model, tmp_path: Path, photo_folder: Path, tiny_student: str
) -> None:
    judge = Model(tiny_module(1), tiny_card(name="judge"), device="cpu")
    methods = []
    units_shown = {name: card for name, card in METHODS.items() if card.shows_units}
    for name, card in units_shown.items():
        fields = card.config.__dataclass_fields__
        small = {
            "steps": 3,
            "canvas": 48,
            "crops": 2,
            "photos": 4,
            "references": 4,
            "nats": 1.0,
            "student": tiny_student,
            "bank": 512 if name in ("energydps", "klsc") else 128,
            "particles": 12,
            "moves": 1,
            "photo": str(next(photo_folder.rglob("*.png"))),
        }
        if name in ("prompt", "prompt-words"):  # these need a prior that reads text
            continue
        methods.append(card.config(**{k: v for k, v in small.items() if k in fields}))
        assert card.name == name
    photos = Photos.open(photo_folder)
    prior = TwoClasses()
    run = see(
        tiny, "logits:0-1", method=methods, photos=photos, verifiers=[judge], out=tmp_path / "r", prior=prior,
        progress=False,
    )  # fmt: skip
    assert {p.method for p in run} == set(units_shown) - {"prompt", "prompt-words"}
    assert len(run) == 2 * len(methods)
    for picture in run:
        record = picture.record
        references = References(tiny, photos)
        measured = measure(picture.pixels, bind(tiny, picture.unit)[0], references, [judge])
        fresh = [e.to_json() for e in [*measured, divergence(trace_of(record).distribution)]]
        assert json.loads(json.dumps(fresh)) == record["evidence"]
        assert record["complete"]
        assert record["model"]["weights_sha256"] == tiny.card.weights_sha256
        assert record["readout"] == "value"
        assert set(record["versions"]) >= {"torch", "timm", "numpy", "entoptic"}
        assert f"--method {picture.method}" in record["command"]
        assert record["command"].startswith(f"entoptic see tiny {picture.unit} ")


def test_runs_share_the_priors_bank_unless_asked_not_to(tiny: Model, tmp_path: Path) -> None:
    def best(name: str, **options: Any) -> Any:
        (picture,) = see(
            tiny, "logits:0", method="best-of", verifiers="", out=tmp_path / name, prior=TwoClasses(), bank=64,
            progress=False, **options,
        )  # fmt: skip
        return picture

    first, seeded, other = best("a"), best("b", seed=1), best("c", bank_seed=1)
    assert np.array_equal(first.pixels, seeded.pixels), "the seed of a run is not that of the bank"
    assert not np.array_equal(first.pixels, other.pixels)
    assert (first.record["bank_seed"], other.record["bank_seed"]) == (0, 1)
    assert "--bank-seed" not in first.record["command"]
    assert "--bank-seed 1" in other.record["command"]
    # In one folder both stand beside each other.
    assert len(see(tiny, "logits:0", method="best-of", verifiers="", out=tmp_path / "a", prior=TwoClasses(), bank=64,
                   bank_seed=1, progress=False)) == 2  # fmt: skip
    with pytest.raises(UserError, match="pixels samples no prior"):
        see(tiny, "logits:0", method="pixels", out=tmp_path / "d", bank_seed=1, progress=False)


def test_quantising_rounds_to_the_nearest_level() -> None:
    levels = torch.tensor([0.0, 1.0, 0.5, 100.4 / 255, 100.6 / 255, -1.0, 2.0, 254.5001 / 255, 0.0])
    assert quantise(levels.view(1, 3, 3).expand(3, 3, 3))[..., 0].flatten().tolist() == [
        0,
        255,
        128,
        100,
        101,
        0,
        255,
        255,
        0,
    ]


def test_the_same_seed_gives_the_same_picture_and_another_another(tiny: Model, tmp_path: Path) -> None:
    (a,), (b,), (c,) = (
        fast(tiny, "logits:0", tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert np.array_equal(a.pixels, b.pixels)
    assert not np.array_equal(a.pixels, c.pixels)
    two = list(fast(tiny, "logits:0", tmp_path / "d", n=2))
    assert not np.array_equal(two[0].pixels, two[1].pixels)


# --- interruptions -------------------------------------------------------------------------------------------------


class Interrupt(Reporter):
    """Ctrl-C at a step of a batch."""

    def __init__(self, batch: int, step: int) -> None:
        self.batch, self.at, self.begun = batch, step, 0

    def step(self, step: int, steps: int, pictures: int) -> None:
        self.begun += step == 1
        if (self.begun, step) == (self.batch, self.at):
            raise KeyboardInterrupt


def plan_of(model: Model, out: Path) -> Any:
    return make_plan(model, "logits:0-3", method="fourier", out=out, batch_size=2, verifiers="", options={"steps": 6})


def test_ctrl_c_keeps_what_is_done_and_marks_what_is_not(
    tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.module.train()
    with pytest.raises(KeyboardInterrupt):
        execute(plan_of(tiny, tmp_path / "r"), Interrupt(batch=2, step=3))
    assert tiny.module.training
    assert not any(m._forward_hooks for m in tiny.module.modules())
    found = {p.unit: p for p in Run.open(tmp_path / "r")}
    assert {unit: p.record["complete"] for unit, p in found.items()} == {
        "logits:0": True, "logits:1": True, "logits:2": False, "logits:3": False,
    }  # fmt: skip
    assert found["logits:2"].record["trace"]["stopped"] == "interrupted at step 3"
    assert len((tmp_path / "r" / "metadata.jsonl").read_text().splitlines()) == 4
    untouched = found["logits:0"].path.stat().st_mtime_ns
    log = Log(monkeypatch)
    run = execute(plan_of(tiny, tmp_path / "r"), Reporter())
    assert log.items == ["logits:2/0", "logits:3/0"]
    assert all(p.record["complete"] for p in run)
    assert len(run) == 4
    assert found["logits:0"].path.stat().st_mtime_ns == untouched
    whole = execute(plan_of(tiny, tmp_path / "whole"), Reporter())
    assert [p.path.read_bytes() for p in whole] == [p.path.read_bytes() for p in run]


CHILD = """
import sys, time
sys.path[:0] = {paths!r}
import torch; torch.set_num_threads(1)
from conftest import tiny_card, tiny_module
from entoptic.models.model import Model
from entoptic.base.progress import Reporter
from entoptic.runs.see import execute, make_plan
class Slow(Reporter):
    begun = 0
    def step(self, step, steps, pictures):
        self.begun += step == 1
        if self.begun == 2 and step == 2:
            print("second batch", flush=True)
            time.sleep(60)
model = Model(tiny_module(), tiny_card(), device="cpu")
execute(make_plan(model, "logits:0-3", method="fourier", out={out!r}, batch_size=2, verifiers="", options=dict(steps=6)), Slow())
"""


def test_kill_9_and_a_second_writer(tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(Path(__file__).parents[1]), *(p for p in sys.path if p)]
    code = CHILD.format(paths=paths, out=str(tmp_path / "r"))
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "second batch\n"
        with pytest.raises(UserError, match=rf"is being written by another process \(pid {child.pid} on"):
            execute(plan_of(tiny, tmp_path / "r"), Reporter())
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()  # type: ignore[union-attr]
    assert sorted(p.unit for p in Run.open(tmp_path / "r")) == ["logits:0", "logits:1"]
    log = Log(monkeypatch)
    run = execute(plan_of(tiny, tmp_path / "r"), Reporter())
    assert log.items == ["logits:2/0", "logits:3/0"]
    assert len(run) == 4


# --- damaged and failed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["broken JSON", "evidence gone", "no PNG", "PNG cut", "not UTF-8"])
def test_a_picture_damaged_by_hand_is_made_again(
    tiny: Model, tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fast(tiny, "logits:0-1", tmp_path / "r")
    before = {p.unit: (p.pixels, p.record["evidence"]) for p in run}
    victim = run[0].path
    sidecar = victim.with_suffix(".json")
    if damage == "broken JSON":
        sidecar.write_text(sidecar.read_text()[:-30])
    elif damage == "evidence gone":
        sidecar.write_text(json.dumps({k: v for k, v in run[0].record.items() if k != "evidence"}))
    elif damage == "no PNG":
        victim.unlink()
    elif damage == "PNG cut":
        victim.write_bytes(victim.read_bytes()[:-20])
    else:
        sidecar.write_bytes(b"\xff" + sidecar.read_bytes())
    log = Log(monkeypatch)
    again = fast(tiny, "logits:0-1", tmp_path / "r")
    assert log.items == ["logits:0/0"]
    assert len(list(again)) == 2
    for picture in again:
        assert np.array_equal(picture.pixels, before[picture.unit][0])
        assert picture.record["evidence"] == before[picture.unit][1]


def test_failures_do_not_take_their_mates_along(tiny: Model, tmp_path: Path, photo_folder: Path) -> None:
    with pytest.warns(UserWarning, match="deep-inversion shows logit units, not stage1:3"):
        run = fast(tiny, ["logits:0", "stage1:3"], tmp_path / "r", method="deep-inversion", photos=photo_folder)
    assert [p.unit for p in run] == ["logits:0"]
    assert len(run.failures) == 1
    with pytest.raises(UserError, match="deep-inversion shows logit units"):
        fast(tiny, "stage1:3-4", tmp_path / "s", method="deep-inversion", photos=photo_folder)
    assert not (tmp_path / "s").exists()


def test_a_unit_that_the_method_refuses_late_costs_its_mates_nothing(
    tiny: Model, tmp_path: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = References.target

    def target(self: References, unit: Unit, *args: Any, **more: Any) -> Any:
        if str(unit) == "logits:1":
            raise UserError("no references of logits:1")
        return original(self, unit, *args, **more)

    monkeypatch.setattr(References, "target", target)
    with pytest.warns(UserWarning, match="no references of logits:1"):
        run = fast(tiny, ["logits:0", "logits:1", "logits:2"], tmp_path / "r", method="vital", photos=photo_folder)
    assert [p.unit for p in run] == ["logits:0", "logits:2"]
    assert run.failures == ["logits:1: no references of logits:1"]


def test_bad_requests(tiny: Model, tmp_path: Path) -> None:
    def refused(units: Any = "logits:0", model: Any = tiny, **more: Any) -> str:
        with pytest.raises(UserError) as error:
            fast(model, units, tmp_path / "r", **more)
        return str(error.value)

    assert 'did you mean "fourier"?' in refused(method="furier")
    assert 'no option "stepps" in fourier; did you mean "steps"?' in refused(stepps=3)
    assert "n is the number of pictures" in refused(n=0)
    assert "batch_size must be at least 1, got -2" in refused(batch_size=-2)
    assert "batch_size must be at least 1, got 0" in refused(batch_size=0)
    assert "at least 1" in refused(steps=0)
    assert "no method was named" in refused(method=[])
    assert "never guesses" in refused(model=tiny_module())
    assert "--photos DIR" in refused(method="vital")
    with pytest.raises(UserError, match="--photos DIR"):
        see(tiny, "logits:0", method="retrieval", out=tmp_path / "r", progress=False)
    twins = [Model(tiny_module(s), tiny_card(name="twin"), device="cpu") for s in (1, 2)]
    assert 'both called "twin"' in refused(verifiers=twins)
    assert not (tmp_path / "r").exists()


def test_options_reach_the_methods_that_have_them(tiny: Model, tmp_path: Path) -> None:
    run = fast(tiny, "logits:0", tmp_path / "r", method=[Fourier(lr=0.2), "pixels"], radius=3.0)
    configs = {p.method: p.record["config"] for p in run}
    assert (configs["fourier"]["lr"], configs["fourier"]["steps"]) == (0.2, 3)
    assert configs["pixels"]["radius"] == 3.0
    command = next(p.record["command"] for p in run if p.method == "pixels")
    assert "--pixels.radius 3.0" in command
    assert "--pixels.steps 3" in command
    assert "--pixels.lr" not in command


def test_a_module_with_its_card(tmp_path: Path) -> None:
    (picture,) = fast(tiny_module(), "logits:0", tmp_path / "r", card=tiny_card())
    assert picture.record["model"]["name"] == "tiny"


def test_a_run_of_many_units_reads_the_photos_once(
    tiny: Model, tmp_path: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches, read = Photos.batches, []

    def counted(self: Photos, prepare: Any, size: int, indices: Any = None, workers: int = 2) -> Any:
        read.append(len(self) if indices is None else len(indices))
        return batches(self, prepare, size, indices, workers)

    monkeypatch.setattr(Photos, "batches", counted)
    see(tiny, ["stage2:*", "logits:*"], method="retrieval", photos=photo_folder, out=tmp_path / "r", progress=False)
    whole = [count for count in read if count == 40]
    assert len(whole) == 2  # every unit's scores; mean and standard deviation of the one inner layer
    assert all(count <= 12 for count in read if count != 40)  # photos that an inner unit is compared with


# --- shipped statistics in place of photos -----------------------------------------------------------------------


def test_without_photos_the_record_says_how_many_were_behind_the_statistics(lite0: Model, tmp_path: Path) -> None:
    options = {"verifiers": "", "progress": False, "steps": 1}
    run = see(lite0, 'logits:"church"', method="vital-paper", out=tmp_path / "p", **options)
    trace = run[0].record["trace"]
    assert run[0].record["references"]["n"] == 25
    assert any("references=50 is the method's own, and 25 photos" in note for note in trace["notes"])
    with pytest.raises(
        UserError, match=r"references=10 was asked for logits:497, but without photos there are .* of 25 photos"
    ):
        see(lite0, 'logits:"church"', method="vital", references=10, out=tmp_path / "v", **options)
    plain = see(lite0, 'logits:"church"', method="vital", out=tmp_path / "w", **options)
    assert not any("references" in note for note in plain[0].record["trace"]["notes"])

"""From training an inverter to its gallery, by the command line, with nothing faked but the size of the networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import entoptic
from conftest import tiny_card, tiny_module
from entoptic.cli import main
from entoptic.errors import UserError
from entoptic.gallery.site import build
from entoptic.inversion.recipe import EntopticRecipe
from entoptic.models.sources import SOURCES
from entoptic.priors.learn import network
from entoptic.priors.recipe import Recipe
from entoptic.priors.saved import save_prior
from entoptic.runs.invert import invert
from entoptic.runs.learn_inverter import learn
from entoptic.runs.store import Run


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES, "tiny", lambda seed, _: (tiny_module(int(seed)), tiny_card(name=f"tiny:{seed}")))


Train = Callable[[str], str]


def save_tiny_prior(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    net = network(Recipe(size=8, patch=2, widths=(16, 32), attention=(2,)), 0)
    return save_prior(net, folder, {"name": "tiny", "size": 8, "patch": 2, "classes": []})


@pytest.fixture
def train(named: None, photo_folder: Path, tmp_path: Path) -> Train:
    """Trains an inverter of a model's stage2 on the prior in tmp_path/prior and names its folder."""
    save_tiny_prior(tmp_path / "prior")

    def run(model: str) -> str:
        recipe = EntopticRecipe(steps=2, batch_size=4, hint=8, warmup=1)
        out = learn(
            model, "stage2", photo_folder, tmp_path / f"of {model}", recipe, prior=f"file:{tmp_path / 'prior'}",
            verifiers="", compared=4, device="cpu", progress=False,
        )  # fmt: skip
        return f"file:{out}"

    return run


def stamps(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in (folder / "pictures").rglob("*") if p.is_file()
    }  # fmt: skip


def test_from_training_to_the_gallery(train: Train, photo_folder: Path, tmp_path: Path, capsys: Any) -> None:
    inverter, photo, out = train("tiny:0"), str(photo_folder / "dot" / "3.png"), tmp_path / "r"
    command = [
        "invert", "tiny:0", "stage2", photo, "--inverter", inverter, "--n", "3", "--verifiers", "tiny:3", "--device", "cpu",
        "--out", str(out),
    ]  # fmt: skip
    assert main(command) == 0
    run = Run(out)
    assert sorted(p.sample for p in run) == [0, 1, 2]
    assert {p.record["inverter"]["source"] for p in run} == {inverter}
    assert len({p.pixels.tobytes() for p in run}) == 3
    found = entoptic.verify(out, device="cpu")
    assert (found.drift, found.skipped, found.pictures) == ([], [], 3)
    assert found.numbers == sum(len(p.record["evidence"]) for p in run)
    before = stamps(out)
    capsys.readouterr()
    assert main(command) == 0
    assert stamps(out) == before
    index = build(out)
    assert str(index) in capsys.readouterr().out
    (page,) = index.parent.glob("unit-*.html")
    assert "3.png" in page.read_text()
    assert "Whose map it is" in page.read_text()
    # Another network's inverter, and another layer's, are refused before anything is made.
    for wrong, words in ((["tiny:1", "stage2"], "tiny:1 was given"), (["tiny:0", "stage1"], "for the layer stage2")):
        assert (
            main(["invert", *wrong, photo, "--inverter", inverter, "--out", str(tmp_path / "no"), "--device", "cpu"])
            == 2
        )
        said = capsys.readouterr().err.strip()
        assert words in said
        assert "\n" not in said
        assert not (tmp_path / "no").exists()


def test_an_inverter_whose_prior_moved(train: Train, photo_folder: Path, tmp_path: Path) -> None:
    inverter, photo = train("tiny:0"), photo_folder / "dot" / "3.png"
    options: dict[str, Any] = {
        "n": 1, "inverter": inverter, "verifiers": "", "progress": False, "device": "cpu", "context": False
    }  # fmt: skip
    before = invert("tiny:0", "stage2", photo, out=tmp_path / "before", **options)
    (tmp_path / "prior").rename(tmp_path / "moved")
    moved = f"file:{tmp_path / 'moved'}"
    with pytest.raises(UserError, match="prior"):
        invert("tiny:0", "stage2", photo, out=tmp_path / "none", **options)
    after = invert("tiny:0", "stage2", photo, out=tmp_path / "after", prior=moved, **options)
    assert [(p.path.name, p.pixels.tobytes()) for p in after] == [(p.path.name, p.pixels.tobytes()) for p in before]
    assert f"--prior {moved}" in after[0].record["command"]
    assert entoptic.verify(after, device="cpu").skipped == []  # the sidecar says where the prior was
    lost = entoptic.verify(before, device="cpu")
    assert lost.numbers == 0
    assert len(lost.skipped) == 1
    found = entoptic.verify(before, prior=moved, device="cpu")
    assert (found.drift, found.skipped, found.pictures) == ([], [], 1)
    other = f"file:{save_tiny_prior(tmp_path / 'other', seed=1)}"
    with pytest.raises(UserError, match=r"was trained on the prior .*is another"):
        invert("tiny:0", "stage2", photo, out=tmp_path / "none", prior=other, **options)

"""From training an inverter to its gallery, by the command line, with nothing faked but the size of the networks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import entoptic
from conftest import tiny_card, tiny_module
from entoptic.cli import main
from entoptic.errors import UserError
from entoptic.gallery.site import build
from entoptic.inversion.configs import EntopticRecipe
from entoptic.inversion.saved import prior_record
from entoptic.models.sources import SOURCES, load
from entoptic.priors.learn import network
from entoptic.priors.recipe import Recipe
from entoptic.priors.saved import save_prior
from entoptic.priors.sources import SHIPPED, builtin_priors, load_prior, name_of
from entoptic.runs.invert import invert
from entoptic.runs.learn_inverter import learn
from entoptic.runs.store import Run
from entoptic.units.concepts import Concepts
from entoptic.units.dictionary import save


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


def test_an_inverter_whose_prior_moved(train: Train, photo_folder: Path, tmp_path: Path, capsys: Any) -> None:
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
    assert main(["verify", str(before.path), "--prior", moved, "--device", "cpu"]) == 0
    assert "not recomputed" not in capsys.readouterr().out
    # The identity is kept, so that a place is no more than a place. A record that names one that is gone is read as well.
    entry = after[0].record["inverter"]
    assert entry["prior_identity"] == load_prior(moved, device="cpu").identity
    (tmp_path / "moved").rename(tmp_path / "prior")
    found = entoptic.verify(after, device="cpu")
    assert (found.drift, found.skipped, found.pictures) == ([], [], 1)
    del entry["prior_identity"]  # as records were before
    after.write_record(after[0].path, after[0].record | {"inverter": entry})
    assert entoptic.verify(after, device="cpu").skipped == []
    (tmp_path / "prior").rename(tmp_path / "moved")
    other = f"file:{save_tiny_prior(tmp_path / 'other', seed=1)}"
    with pytest.raises(UserError, match=r"was trained on the prior .*is another"):
        invert("tiny:0", "stage2", photo, out=tmp_path / "none", prior=other, **options)


def test_steering_with_a_prior_that_moved(train: Train, photo_folder: Path, tmp_path: Path, capsys: Any) -> None:
    inverter, photo = train("tiny:0"), photo_folder / "dot" / "3.png"
    model = load("tiny:0", device="cpu")
    bases = torch.eye(16).split(4)
    file = save(
        Concepts.of(bases, layer="stage2", model_sha256=model.card.weights_sha256), tmp_path / "four.safetensors"
    )
    (tmp_path / "prior").rename(tmp_path / "moved")
    moved, out = f"file:{tmp_path / 'moved'}", tmp_path / "steered"
    command = [
        "steer", "tiny:0", "stage2", str(photo), "--dictionary", str(file), "--concept", "1", "--inverter", inverter,
        "--n", "1", "--nulls", "0", "--device", "cpu", "--out", str(out),
    ]  # fmt: skip
    assert main(command) == 2
    assert "if that has moved, --prior says where it is" in capsys.readouterr().err
    assert main([*command, "--prior", moved]) == 0
    (picture,) = Run.open(out)
    assert f"--prior {moved}" in picture.record["command"]
    assert picture.record["inverter"]["prior"] == moved
    assert picture.record["inverter"]["prior_identity"] == load_prior(moved, device="cpu").identity


def test_a_prior_is_written_down_by_a_name_that_means_the_same_elsewhere(tmp_path: Path) -> None:
    shipped = Path(str(resources.files("entoptic"))) / "priors" / "shipped" / builtin_priors()[0]
    shutil.copytree(shipped, tmp_path / "copy")
    copy = load_prior(f"file:{tmp_path / 'copy'}", device="cpu")
    own = load_prior(f"file:{save_tiny_prior(tmp_path / 'own')}", device="cpu")
    assert name_of(copy) == f"builtin:{shipped.name}"
    assert name_of(own) == own.name

    def record(prior: Any, card: str) -> dict[str, str]:
        inverter: Any = SimpleNamespace(prior=prior, card={"prior": card, "prior_identity": prior.identity})
        return prior_record(inverter, prior.name)

    known = {"prior_identity": copy.identity}
    assert record(copy, SHIPPED) == known  # the card's name is as good here as anywhere
    assert record(copy, "hf:someone/prior") == known
    assert record(copy, "file:/gone") == known | {"prior": f"builtin:{shipped.name}"}
    assert record(own, "file:/gone") == {"prior_identity": own.identity, "prior": own.name}
    assert record(own, f"hf:{tmp_path}") == {"prior_identity": own.identity, "prior": own.name}


def test_a_training_goes_on_with_its_prior_elsewhere(train: Train, photo_folder: Path, tmp_path: Path) -> None:
    folder = Path(train("tiny:0").removeprefix("file:")).parent
    before = json.loads((folder / "training.json").read_text())
    recipe = EntopticRecipe(**before["recipe"] | {"steps": before["step"] + 1})
    (tmp_path / "prior").rename(tmp_path / "moved")
    more: dict[str, Any] = {"verifiers": "", "compared": 2, "device": "cpu", "progress": False}
    model = load("tiny:0", device="cpu")
    learn(model, "stage2", photo_folder, folder, recipe, prior=f"file:{tmp_path / 'moved'}", **more)
    assert json.loads((folder / "training.json").read_text())["step"] == before["step"] + 1
    save_tiny_prior(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="with another prior"):
        learn(model, "stage2", photo_folder, folder, recipe, prior=f"file:{tmp_path / 'other'}", **more)

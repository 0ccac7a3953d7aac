"""Layers of any name that PyTorch takes: pictures, an index, pages and a check, from Python and from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from conftest import tiny_card
from entoptic.cli.main import main
from entoptic.errors import UserError
from entoptic.images.index import ActivationIndex
from entoptic.models.model import Model
from entoptic.models.sources import SOURCES
from entoptic.units.unit import bind, slug

NAMES = ("a b", "x/y", "λ 層", 'say "hi"', "x:1", "@cls", "(p)", "-1", "2*x", "../up", "con", "", "n" * 150)
UNITS = [f'"parts.{name}":2' for name in ("a b", "x:1", "λ 層")] + ["parts.x/y:2", "parts.../up:1"]


class Odd(nn.Module):
    """One layer for each name, their sum, and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.parts = nn.ModuleDict()
        for name in NAMES:  # a ModuleDict itself takes neither dots nor an empty key
            self.parts._modules[name] = nn.Conv2d(3, 4, 3, 2, 1)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(sum(part(x).relu().mean((2, 3)) for part in self.parts.values()))


@pytest.fixture
def odd() -> Model:
    return Model(Odd(), tiny_card(name="odd:net"), device="cpu")


@pytest.mark.parametrize("name", NAMES)
def test_a_unit_of_it_is_written_as_it_is_read(name: str, odd: Model) -> None:
    layer = f"parts.{name}"
    (unit,) = bind(odd, str(bind(odd, '"' + layer.replace('"', '\\"') + '":1')[0]))
    assert (unit.layer, unit.index) == (layer, 1)
    assert len(slug(unit)) < 100
    assert "/" not in slug(unit)


def test_names_give_folders_of_their_own(odd: Model) -> None:
    units = [bind(odd, '"parts.' + name.replace('"', '\\"') + '":1')[0] for name in NAMES]
    assert len({slug(unit) for unit in units}) == len(NAMES)


def test_a_name_without_its_quotes_is_answered_with_them(odd: Model) -> None:
    for given in ("parts.a b:2", "parts.x:1:2", "parts.@cls:0", "parts.(p):0-2"):
        layer, _, index = given.rpartition(":")
        with pytest.raises(UserError, match="in quotes") as error:
            bind(odd, given)
        assert f'did you mean "{layer}":{index}' in str(error.value)


def test_the_verbs(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SOURCES, "odd", lambda name, pretrained: (Odd(), tiny_card(name="odd:net")))
    run, index = tmp_path / "run", tmp_path / "index"
    photos = ["--photos", str(photo_folder)]
    see = [
        "see",
        "odd:net",
        *UNITS,
        "--method",
        "pixels",
        "--steps",
        "1",
        "--verifiers",
        "",
        *photos,
        "--out",
        str(run),
    ]
    assert main(see) == 0
    sidecars = [json.loads(file.read_text()) for file in run.glob("pictures/*/*.json")]
    assert {one["unit"] for one in sidecars} == set(UNITS)
    layers = ["parts.a b", "parts.λ 層", "parts.../up"]
    assert main(["index", "odd:net", "--layers", *layers, *photos, "--out", str(index)]) == 0
    opened = ActivationIndex.open(index)
    assert opened.units("parts.a b")[3] == '"parts.a b":3'
    assert opened.top('"parts.a b":2', 1)[0].unit == '"parts.a b":2'
    assert main([*see[:2], '"parts.a b":1', *see[-10:], "--index", str(index)]) == 0
    assert main(["gallery", str(run)]) == 0
    assert {file.name for file in (run / "gallery").glob("unit-*.html")} >= {
        f"unit-{slug(unit)}.html" for unit in UNITS
    }
    assert main(["ls", str(index), '"parts.a b":0']) == 0
    assert main(["ls", str(run)]) == 0
    assert main(["verify", str(run), *photos]) == 0
    assert not list(tmp_path.rglob("up*"))
    assert "Traceback" not in capsys.readouterr().err

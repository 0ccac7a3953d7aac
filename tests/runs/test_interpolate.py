"""Strips of pictures from one unit to another, from one starting noise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import entoptic
from entoptic.base.pixels import to_float
from entoptic.cli.main import main
from entoptic.errors import UserError
from entoptic.models.model import Model
from entoptic.runs.interpolate import between, interpolate
from entoptic.runs.see import see
from entoptic.units.unit import bind

QUIET = {"verifiers": "", "progress": False}


def test_units_between(tiny: Model) -> None:
    assert [str(unit) for unit in between(tiny, 'logits:"circle"', "stage1:2", 4)] == [
        "logits:0", "0.6667*logits:0 + 0.3333*stage1:2", "0.3333*logits:0 + 0.6667*stage1:2", "stage1:2",
    ]  # fmt: skip
    assert [str(unit) for unit in between(tiny, "logits:0", "-logits:0 + logits:1", 3)] == [
        "logits:0", "0.5*logits:1", "-logits:0 + logits:1",
    ]  # fmt: skip
    for first, last, count, words in (
        ("logits:0", "logits:1", 1, "must be from 2 to 100, got 1"),
        ("logits:0", "logits:1", 10**9, "must be from 2 to 100, got 1000000000"),
        ("logits:0-2", "logits:3", 3, "names 3 units; an end is one unit"),
        ("logits:0", 'logits:"circle"', 3, "nothing between them"),
        ("logits:0", "-logits:0", 3, "nothing is left"),
    ):
        with pytest.raises(UserError, match=words):
            between(tiny, first, last, count)


def test_a_strip_goes_from_the_picture_of_one_to_that_of_the_other(tiny: Model, tmp_path: Path) -> None:
    alone = see(tiny, "stage2:3", method="pixels", steps=30, out=tmp_path, **QUIET)[0]
    strip = interpolate(tiny, "stage2:3", "stage2:9", method="pixels", steps=30, out=tmp_path, **QUIET)
    assert [p.unit for p in strip][::2] == ["stage2:3", "0.5*stage2:3 + 0.5*stage2:9", "stage2:9"]
    assert strip[0].path == alone.path, "the first picture is the one that was there"
    assert [p.record.get("noise_of") for p in strip] == [None, *["stage2:3"] * 4]
    first, last = bind(tiny, ["stage2:3", "stage2:9"])
    scores = [[float(unit.score(to_float(p.pixels))[0]) for p in strip] for unit in (first, last)]
    assert scores[0][0] > scores[0][-1]
    assert scores[1][-1] > scores[1][0]
    assert entoptic.verify(strip.run, model=tiny).ok
    assert "--noise-of stage2:3" in strip[-1].record["command"]
    assert strip.figure(columns=5)


def test_pictures_of_one_noise_start_alike(tiny: Model, tmp_path: Path) -> None:
    options = {"method": "pixels", "steps": 1, "lr": 1e-6, **QUIET}
    units = ["stage2:3", "logits:0"]
    shared = see(tiny, units, noise_of="logits:0", n=2, out=tmp_path / "a", **options)
    own = see(tiny, units, n=2, out=tmp_path / "b", **options)
    one, two = (torch.stack([p.tensor for p in shared[unit]]) for unit in units)
    torch.testing.assert_close(one, two, atol=2 / 255, rtol=0)
    assert (one[0] - one[1]).abs().max() > 0.1  # samples differ
    assert [p.record["key"] for p in shared["logits:0"]] == [p.record["key"] for p in own["logits:0"]]
    assert (own["stage2:3"][0].tensor - one[0]).abs().max() > 0.1
    with pytest.raises(UserError, match="noise_of is one unit"):
        see(tiny, units, noise_of="logits:0-1", out=tmp_path / "c", **options)


def test_only_what_climbs_from_noise_takes_it(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="retrieval draws otherwise"):
        interpolate(tiny, "logits:0", "logits:1", method="retrieval", photos=photo_folder, out=tmp_path, **QUIET)


def test_the_command_line_draws_the_strip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["interpolate", "builtin:lite0", 'logits:"church"', "-blocks.2:3", "--count", "3", "--method", "pixels"]
    figure = tmp_path / "strip.png"
    more = ["--steps", "1", "--verifiers", "", "--out", str(tmp_path / "run"), "--figure", str(figure)]
    assert main([*words, *more]) == 0
    said = capsys.readouterr().out
    assert "0.5*logits:497 - 0.5*blocks.2:3 by pixels" in said
    assert figure.is_file()
    assert main(["interpolate", "builtin:lite0", "logits:1", "logits:1"]) == 2
    assert "nothing between them" in capsys.readouterr().err

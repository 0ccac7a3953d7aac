"""What the pages must have made, page by page; the running of their blocks is in `test_blocks`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from entoptic.methods import METHODS
from entoptic.metrics import METRICS
from entoptic.models.sources import load
from entoptic.priors.prior import Prior
from entoptic.runs.see import see
from entoptic.units.dictionary import Dictionary
from entoptic.units.sparse import Sparse
from pages.place import Page


def readme(page: Page, place: Path) -> None:
    assert len(list(place.glob("runs/first/pictures/*/*.png"))) == 2
    assert (place / "runs" / "first.pdf").read_bytes().startswith(b"%PDF")


def contributing(page: Page, place: Path) -> None:
    run = see(
        load("builtin:lite0"), "logits:1", method="mine", contrast=0.2, verifiers="", out=place / "run", progress=False
    )
    assert [p.method for p in run] == ["mine"]


def tutorial(page: Page, place: Path) -> None:
    assert "all as recorded" in page.printed
    assert (place / "runs" / "tutorial" / "gallery" / "index.html").is_file()
    assert sorted(p.unit for p in page.scope["run"]) == ["logits:497", "logits:701"]


def write_a_method(page: Page, place: Path) -> None:
    assert METHODS["smooth"].config is page.scope["Smooth"]
    assert [p.unit for p in page.scope["run"]] == ["blocks.6:112", "logits:497"]
    assert "all as recorded" in page.printed


def write_a_metric(page: Page, place: Path) -> None:
    assert METRICS["tile_share"].headline_rank == 55
    entry = page.scope["entry"]
    assert entry["n"] == 16
    assert entry["interval"][0] < entry["value"] < entry["interval"][1]
    assert "all as recorded" in page.printed


def write_a_prior(page: Page, place: Path) -> None:
    assert isinstance(page.scope["PinkNoise"](), Prior)
    (picture,) = page.scope["run"]
    assert picture.record["prior"] == "mine:pink-noise"
    few, many = re.findall(r"steps: (.*?) of variance", page.printed)
    assert float(few) < float(many)
    assert 0.9 < float(many) < 1.1


def learn_a_dictionary(page: Page, place: Path) -> None:
    assert isinstance(page.scope["again"], Sparse)
    assert page.scope["again"].found["layout"] == "SAELens"
    assert "explained_each" in page.printed
    assert (place / "dictionaries" / "small" / "sheet.png").is_file()
    assert (place / "dictionaries" / "read.safetensors").is_file()


def write_a_dictionary(page: Page, place: Path) -> None:
    dictionary, maps = page.scope["dictionary"], page.scope["values_NChw"].flatten(2)
    assert isinstance(dictionary, Dictionary)
    parts = dictionary.parts(maps)
    assert parts.shape == (8, *maps.shape)
    assert float(parts.sum(0).sub(maps).norm() / maps.norm()) < 0.9
    assert [p.unit for p in page.scope["run"]] == ["dict(prototypes.safetensors):0"]


def measure_a_set(page: Page, place: Path) -> None:
    assert len(page.scope["pictures"]) == 24
    assert "frechet_infinite needs at least 2562 pictures, there are 24" in page.printed
    assert "two_afc needs at least 3 units, there are 1" in page.printed
    found = page.scope["kid"].compute()  # the tests have few photos
    assert found.value is not None or "needs at least 20" in found.reason, found


def figures_and_tables(page: Page, place: Path) -> None:
    assert (place / "grid.pdf").read_bytes().startswith(b"%PDF")
    assert page.scope["picture"].label == "church"
    assert page.scope["parachutes"].units == ["logits:701"]
    assert len(page.scope["by_maco"]) == 2
    assert page.scope["copy"].pictures == 4
    assert "transfer_probability" in page.printed


def planted(page: Page, place: Path) -> None:
    rows, dead, red = page.scope["found"]
    assert (rows.identified, dead.identified) == (True, True)
    assert (red.fooled, red.sightings[0].transfers) == (True, False)


def faq(page: Page, place: Path) -> None:
    (picture,) = page.scope["run"]
    assert picture.unit == "layer4:7"


CHECKS: dict[str, Callable[[Page, Path], None]] = {
    "README.md": readme,
    "CONTRIBUTING.md": contributing,
    "docs/tutorial.md": tutorial,
    "docs/faq.md": faq,
    "docs/how-to/write-a-method.md": write_a_method,
    "docs/how-to/write-a-metric.md": write_a_metric,
    "docs/how-to/write-a-prior.md": write_a_prior,
    "docs/how-to/learn-a-dictionary.md": learn_a_dictionary,
    "docs/how-to/write-a-dictionary.md": write_a_dictionary,
    "docs/how-to/measure-a-set.md": measure_a_set,
    "docs/how-to/figures-and-tables.md": figures_and_tables,
    "docs/how-to/planted.md": planted,
}

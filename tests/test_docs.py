"""The documentation runs: the tutorial's code, and a page for everything that registers itself."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from entoptic.methods import METHODS
from entoptic.metrics import METRICS, registry
from entoptic.models.model import Model
from entoptic.priors.prior import Prior
from entoptic.runs.see import see
from entoptic.units.dictionary import Dictionary

ROOT = Path(__file__).parents[1]


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)


def run_page(page: Path, **shorter: int) -> dict[str, Any]:
    """Runs a page's blocks in order, with smaller numbers for some of its options; returns what they define."""
    code = "\n".join(blocks(page))
    for name, value in shorter.items():
        code, found = re.subn(rf"\b{name}=\d+", f"{name}={value}", code)
        assert found, f"{page.name} does not set {name}"
    scope: dict[str, Any] = {"__name__": page.stem}
    exec(compile(code, str(page), "exec", dont_inherit=True), scope)
    return scope


@pytest.fixture
def _pages_register_nothing_for_good(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_MEASURES", list(registry._MEASURES))
    held = [(known, dict(known)) for known in (METHODS, METRICS)]
    yield
    for known, before in held:
        known.clear()
        known.update(before)


def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    code = "\n".join(blocks(ROOT / "docs" / "tutorial.md"))
    assert "steps=300" in code
    scope: dict[str, object] = {}
    exec(compile(code.replace("steps=300", "steps=2"), "tutorial.md", "exec"), scope)
    printed = capsys.readouterr().out
    assert 'did you mean "golden retriever"?' in printed
    assert "all as recorded" in printed
    assert (tmp_path / "runs" / "tutorial" / "gallery" / "index.html").is_file()
    assert sorted(p.unit for p in scope["run"]) == ["logits:497", "logits:701"]  # type: ignore[attr-defined]


def test_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(ROOT / "README.md")
    assert "n=1, seed=0" in code
    exec(compile(code.replace("n=1, seed=0", "n=1, seed=0, steps=2"), "README.md", "exec"), {})
    assert len(list(tmp_path.glob("runs/first/pictures/*/*.png"))) == 2


@pytest.mark.usefixtures("_pages_register_nothing_for_good")
def test_the_method_of_the_how_to_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    found = run_page(ROOT / "docs" / "how-to" / "write-a-method.md", steps=2)
    assert METHODS["smooth"].config is found["Smooth"]
    assert [p.unit for p in found["run"]] == ["blocks.6:112", "logits:497"]
    assert "all as recorded" in capsys.readouterr().out


@pytest.mark.usefixtures("_pages_register_nothing_for_good")
def test_the_method_of_contributing_runs(tmp_path: Path, tiny: Model) -> None:
    run_page(ROOT / "CONTRIBUTING.md")
    run = see(tiny, "logits:1", method="mine", contrast=0.2, verifiers="", out=tmp_path / "run", progress=False)
    assert [p.method for p in run] == ["mine"]


@pytest.mark.usefixtures("_pages_register_nothing_for_good")
def test_the_metric_of_the_how_to_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    found = run_page(ROOT / "docs" / "how-to" / "write-a-metric.md", steps=4)
    assert METRICS["tile_share"].headline_rank == 55
    entry = found["entry"]
    assert entry["n"] == 16
    assert entry["interval"][0] < entry["value"] < entry["interval"][1]
    assert "all as recorded" in capsys.readouterr().out


def test_the_prior_of_the_how_to_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    found = run_page(ROOT / "docs" / "how-to" / "write-a-prior.md", bank=16)
    assert isinstance(found["PinkNoise"](), Prior)
    (picture,) = found["run"]
    assert picture.record["prior"] == "mine:pink-noise"
    few, many = re.findall(r"steps: (.*?) of variance", capsys.readouterr().out)
    assert float(few) < float(many)
    assert 0.9 < float(many) < 1.1


def test_the_dictionary_of_the_how_to_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(2):
        blocks_of_colour = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(32, 0).repeat(32, 1)
        Image.fromarray(blocks_of_colour).save(tmp_path / "photos" / f"{i}.png")
    found = run_page(ROOT / "docs" / "how-to" / "write-a-dictionary.md", n=2, steps=2)
    dictionary, maps = found["dictionary"], found["values_NChw"].flatten(2)
    assert isinstance(dictionary, Dictionary)
    parts = dictionary.parts(maps)
    assert parts.shape == (8, *maps.shape)
    assert float(parts.sum(0).sub(maps).norm() / maps.norm()) < 0.9
    assert [p.unit for p in found["run"]] == ["dict(prototypes.safetensors):0"]


@pytest.mark.slow
def test_the_sets_of_the_how_to_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photo_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for k, photo in enumerate(sorted(photo_folder.rglob("*.png"))[::2]):
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / f"{k}.png").write_bytes(photo.read_bytes())
    scope = run_page(ROOT / "docs" / "how-to" / "measure-a-set.md", steps=1)
    assert len(scope["pictures"]) == 24
    printed = capsys.readouterr().out
    assert "frechet_infinite needs at least 2562 pictures, there are 24" in printed
    assert "two_afc needs at least 3 units, there are 1" in printed
    assert scope["kid"].compute().value is not None


def test_the_figures_and_tables_of_the_how_to_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    found = run_page(ROOT / "docs" / "how-to" / "figures-and-tables.md", steps=2)
    assert (tmp_path / "grid.pdf").read_bytes().startswith(b"%PDF")
    assert found["picture"].label == "church"
    assert found["parachutes"].units == ["logits:701"]
    assert len(found["by_maco"]) == 2
    assert found["copy"].pictures == 4
    assert "transfer_probability" in capsys.readouterr().out


MADE_BY_THE_READER = {"src/entoptic/methods/smooth.py", "entoptic.fish"}
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_everything_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    for name in set(re.findall(r"(?<![-\w])entoptic(?:\.[A-Za-z_]\w*)+", text)) - MADE_BY_THE_READER:
        assert exists(name), f"{page.name} names {name}"
    for line in re.findall(r"^from (entoptic[\w.]*) import ([\w, ]+)$", text, flags=re.MULTILINE):
        for name in line[1].split(","):
            assert exists(f"{line[0]}.{name.strip()}"), f"{page.name} imports {name} from {line[0]}"
    for file in set(re.findall(r"`((?:\w+/)+\w+\.py)`", text)) - MADE_BY_THE_READER:
        assert any((place / file).is_file() for place in (ROOT, ROOT / "src" / "entoptic")), f"{page.name} names {file}"


def exists(dotted: str) -> bool:
    """Whether a name is a module of the package, or an attribute that can be reached from one."""
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for name in parts[count:]:
            if not hasattr(found, name):
                return False
            found = getattr(found, name)
        return True
    return False


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_page_that_the_site_and_the_overview_list(name: str) -> None:
    page = ROOT / "docs" / "methods" / f"{name}.md"
    assert page.is_file()
    assert f"({name}.md)" in (ROOT / "docs" / "methods" / "index.md").read_text()
    assert f"methods/{name}.md" in (ROOT / "mkdocs.yml").read_text()


def test_every_page_is_in_the_site() -> None:
    listed = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").as_posix()
        assert name in listed or name.startswith("decisions/"), name


def test_every_measurement_is_explained() -> None:
    from entoptic.gallery.explain import explain

    page = (ROOT / "docs" / "evidence.md").read_text()
    for name in METRICS:
        assert f"`{name}`" in page, name
        assert explain({"name": name, "value": 1.0, "n": 3, "interval": [0.5, 1.0], "direction": "higher"}).sentence


def test_the_site_asks_nothing_of_other_hosts() -> None:
    config = (ROOT / "mkdocs.yml").read_text()
    scripts = config.split("extra_javascript:")[1].split("\nplugins:")[0]
    assert "://" not in scripts
    for line in scripts.strip().splitlines():
        assert (ROOT / "docs" / line.split("#")[0].strip().removeprefix("- ")).is_file()

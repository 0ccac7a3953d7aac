"""The documentation runs: the tutorial's code, and a page for everything that registers itself."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import entoptic
from entoptic.methods import METHODS
from entoptic.metrics import METRICS, registry
from entoptic.models.model import Model
from entoptic.priors.prior import Prior
from entoptic.runs.see import see
from entoptic.units.dictionary import Dictionary

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "src" / "entoptic" / "inversion" / "shipped" / "lite0-bn2"


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
    shown = re.findall(r"```text\n(.*?)```", (ROOT / "docs" / "tutorial.md").read_text(), flags=re.DOTALL)
    assert all(text in printed for text in shown[:2])  # what follows depends on the steps
    assert shown[-1] in printed
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


def test_the_planted_truth_of_the_how_to_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows, dead, red = run_page(ROOT / "docs" / "how-to" / "planted.md")["found"]
    assert (rows.identified, dead.identified) == (True, True)
    assert (red.fooled, red.sightings[0].transfers) == (True, False)


def test_the_combinations_of_the_how_to_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    found = run_page(ROOT / "docs" / "how-to" / "combine-units.md", steps=2)
    assert found["picture"].label == "church + 0.5 golden retriever"


MADE_BY_THE_READER = {"src/entoptic/methods/smooth.py", "entoptic.fish", "entoptic.dictionaries"}
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


def test_my_own_network_in_three_lines_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (picture,) = run_page(ROOT / "docs" / "faq.md", steps=2)["run"]
    assert picture.unit == "layer4:7"


def test_what_is_experimental_is_called_so_at_the_head() -> None:
    pages = (
        "priors",
        "how-to/frontier",
        "how-to/invert",
        "how-to/steer",
        "how-to/hub-priors",
        "methods/klsc",
        "methods/invert",
    )
    for page in pages:
        head = (ROOT / "docs" / f"{page}.md").read_text().split("\n## ")[0]
        assert '!!! warning "Experimental' in head, page
    shipped = (ROOT / "docs" / "inverters.md").read_text().split("## The shipped inverter\n")[1]
    assert shipped.strip().startswith('!!! warning "Experimental')


def test_citing_names_every_method() -> None:
    page = (ROOT / "docs" / "citing.md").read_text()
    for name, card in METHODS.items():
        assert f"`{name}`" in page, name
        for paper in re.findall(r"arXiv:[\d.]+\d", card.paper):
            assert paper in page, f"{name}: {paper}"


def test_links_to_the_glossary_lead_to_a_term() -> None:
    terms = set(re.findall(r"\{#([\w-]+)\}", (ROOT / "docs" / "glossary.md").read_text()))
    for page in PAGES:
        for term in re.findall(r"glossary\.md#([\w-]+)", page.read_text()):
            assert term in terms, f"{page.name}: {term}"


def public_functions() -> Iterator[tuple[str, Any]]:
    for name in entoptic.__all__:
        value = getattr(entoptic, name)
        if inspect.isfunction(value):
            yield name, value
    for value in (entoptic.ActivationIndex, entoptic.Card, entoptic.Model, entoptic.Photos, entoptic.Unit):
        for name, member in inspect.getmembers(
            value, lambda found: inspect.isfunction(found) or inspect.ismethod(found)
        ):
            if not name.startswith("_"):
                yield f"{value.__name__}.{name}", member


@pytest.mark.parametrize(("name", "function"), list(public_functions()))
def test_every_argument_has_a_line_of_its_own(name: str, function: Any) -> None:
    text = inspect.getdoc(function) or ""
    section = re.search(r"^Args:\n((?: {4}.*\n?|\n)+)", text, flags=re.MULTILINE)
    documented = re.findall(r"^ {4}(\w+):", section[1], flags=re.MULTILINE) if section else []
    expected = [parameter for parameter in inspect.signature(function).parameters if parameter != "self"]
    assert sorted(documented) == sorted(expected), name


def test_the_api_has_every_public_name() -> None:
    overview = (ROOT / "docs" / "api" / "index.md").read_text()
    for name in entoptic.__all__:
        assert f"`{name}`" in overview, name


def test_ci_builds_the_site_strictly() -> None:
    assert "make docs" in (ROOT / ".ci" / "run").read_text().splitlines()
    assert "mkdocs build --strict" in (ROOT / "Makefile").read_text()


def test_pictures_of_the_first_pages_are_small() -> None:
    for page in ("index", "tutorial", "evidence", "how-to/frontier"):
        file = ROOT / "docs" / f"{page}.md"
        shown = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", file.read_text())
        assert shown, page
        for picture in shown:
            assert (file.parent / picture).stat().st_size < 60_000, picture


# --- numbers on pages are those of the JSON that they come from ------------------------------------------------------


def rounded_to(value: float, shown: str) -> bool:
    """Whether a number is shown rounded to the digits that are shown."""
    return abs(value - float(shown)) <= 0.5 * 10 ** -len(shown.partition(".")[2]) + 1e-9


def test_the_table_of_the_shipped_inverter_is_its_card() -> None:
    page = (ROOT / "docs" / "inverters.md").read_text()
    card = json.loads((SHIPPED / "card.json").read_text())
    training, measured = card["training"], card["measured"]
    for said in (
        f"{card['parameters'] / 1e6:.1f} million trained parameters",
        f"{training['pictures_seen']:,} pictures seen in {training['steps']:,} steps of {card['recipe']['batch_size']}",
        f"{training['photos']:,} photos",
        f"{(SHIPPED / 'inverter.safetensors').stat().st_size / 1e6:.1f} MB",
        f"On {measured['n']} ImageNet validation photos",
    ):
        assert said in page, said
    for title, what in (("samples", "inverter"), ("the photo at 32 pixels", "photo at this size")):
        (line,) = re.findall(rf"^\| {title} \|(.*)\|$", page, flags=re.MULTILINE)
        cosine, standardised, own, *others = line.split("|")
        held = measured[what]
        one, five = own.split("/")
        cells = [
            (cosine, held["cosine"], 1), (standardised, held["standardised cosine"], 1),
            (one, held["builtin:lite0"]["top1"], 100), (five, held["builtin:lite0"]["top5"], 100),
            *((cell, held[f"builtin:lite{i}"]["top5"], 100) for i, cell in enumerate(others, 1)),
        ]  # fmt: skip
        assert len(cells) == 6
        for cell, values, scale in cells:
            shown = re.findall(r"\d*\.?\d+", cell)
            assert len(shown) in (1, 3), cell
            for text, value in zip(shown, values):
                assert rounded_to(scale * value, text), (title, cell, value)


def test_what_guidance_is_worth_is_in_the_benchmark() -> None:
    page = " ".join((ROOT / "docs" / "inverters.md").read_text().split())
    found = json.loads((ROOT / "docs" / "benchmarks" / "inversion.json").read_text())
    both, single = "8 steps, guidance 1.5", "8 steps, one branch (guidance 1)"
    tables, paired = found["tables"]["sampling"], found["paired"]["sampling"][f"{both} minus {single}"]
    said = re.search(
        r"cosine (\.\d+) with it against (\.\d+) without, paired \+(\.\d+) \[(\.\d+), (\.\d+)\], on (\d+) imagenette photos, "
        r"at ([\d.]+) GFLOP a picture instead of ([\d.]+)",
        page,
    )
    assert said is not None
    expected = [
        tables[both]["cosine"][0], tables[single]["cosine"][0], *paired["cosine"], found["n"], tables[both]["gflop"],
        tables[single]["gflop"],
    ]  # fmt: skip
    for text, value in zip(said.groups(), expected, strict=True):
        assert rounded_to(value, text), (text, value)

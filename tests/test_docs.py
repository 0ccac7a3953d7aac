"""The documentation: a page for everything that registers itself, names that exist, numbers as measured.

That its code runs is tested in `tests/pages`.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import entoptic
from entoptic.methods import METHODS
from entoptic.metrics import METRICS

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "src" / "entoptic" / "inversion" / "shipped"


MADE_BY_THE_READER = {"src/entoptic/methods/smooth.py", "entoptic.fish", "entoptic.dictionaries", "entoptic.js"}
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
    shipped = (ROOT / "docs" / "inverters.md").read_text().split("## The shipped inverters\n")[1]
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


@pytest.mark.parametrize("name", ["lite0-bn2-128", "vit-s14-blocks-10"])
def test_the_table_of_a_shipped_inverter_is_its_card(name: str) -> None:
    page = (ROOT / "docs" / "inverters.md").read_text()
    card = json.loads((SHIPPED / name / "card.json").read_text())
    training, measured = card["training"], card["measured"]
    for said in (
        f"{card['parameters'] / 1e6:.1f} million",
        f"{training['pictures_seen']:,} pictures seen in {training['steps']:,} steps of {card['recipe']['batch_size']}",
        f"{training['photos']:,} photos",
        f"{(SHIPPED / name / 'inverter.safetensors').stat().st_size / 1e6:.1f} MB",
        f"which had seen {training['start']['pictures_seen']:,} pictures",
        f"On {measured['n']} ImageNet validation photos",
    ):
        assert said in page, said
    table = page[page.index(f"| `builtin:{name}` | cosine") :].split("\n\n")[0].splitlines()
    networks = [cell.split()[0] for cell in table[0].split("|")[4:-1]]
    assert [f"builtin:{one}" for one in networks] == [k for k in measured["inverter"] if k.startswith("builtin:")]
    for line, what in zip(table[2:], ("inverter", "photo through the prior's states"), strict=True):
        held = measured[what]
        cosine, standardised, *others = line.split("|")[2:-1]
        cells = [(cosine, held["cosine"], 1), (standardised, held["standardised cosine"], 1)]
        for cell, network in zip(others, networks, strict=True):
            one, five = cell.split("/")
            cells += [(one, held[f"builtin:{network}"]["top1"], 100), (five, held[f"builtin:{network}"]["top5"], 100)]
        for cell, values, scale in cells:
            shown = re.findall(r"\d*\.?\d+", cell)
            assert len(shown) in (1, 3), cell
            for text, value in zip(shown, values):
                assert rounded_to(scale * value, text), (what, cell, value)


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
        tables[both]["cosine"][0], tables[single]["cosine"][0], *paired["cosine"], found["about"]["sampling"]["n"],
        tables[both]["gflop"], tables[single]["gflop"],
    ]  # fmt: skip
    for text, value in zip(said.groups(), expected, strict=True):
        assert rounded_to(value, text), (text, value)

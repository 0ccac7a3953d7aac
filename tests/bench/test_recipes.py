"""Recipes are what they claim, and the table that is committed is of the recipe in the code."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from entoptic.bench.columns import COLUMNS
from entoptic.bench.draw import draw
from entoptic.bench.recipe import Recipe, Subject, cost_of, recipe_json
from entoptic.bench.recipes import RECIPES, find_recipe
from entoptic.bench.results import Results
from entoptic.bench.run import checked
from entoptic.bench.tables import csv_table, markdown, short_table
from entoptic.errors import UserError
from entoptic.models.sources import load
from entoptic.planted.networks import planted_network
from entoptic.runs.unit_items import EVIDENCE, RECIPE
from entoptic.units.unit import bind

ROOT = Path(__file__).parents[2]
STORED = ROOT / "docs" / "benchmarks"
IMAGENETTE = {0, 217, 482, 491, 497, 566, 569, 571, 574, 701}


def tuned_on() -> set[int]:
    """The classes on which the recipes of methods were chosen: imagenette's, and one half of benchmarks/any_class.py."""
    rest = [k for k in range(1000) if k not in IMAGENETTE]
    random.Random(7).shuffle(rest)
    return IMAGENETTE | set(rest[:50])


def classes(recipe: Recipe) -> set[int]:
    return {int(u.split(":")[1]) for s in recipe.subjects for u in s.units if u.startswith("logits:")}


SUBJECTS = [(name, subject) for name, recipe in RECIPES.items() for subject in recipe.subjects]


@pytest.mark.parametrize(("recipe", "subject"), SUBJECTS, ids=lambda one: one if isinstance(one, str) else one.name)
def test_every_unit_is_there_once(recipe: str, subject: Subject) -> None:
    try:
        model = load(subject.model, device="cpu")
    except UserError as error:
        pytest.skip(str(error))
    bound = bind(model, list(subject.units))
    assert len({str(unit) for unit in bound}) == len(subject.units) > 0
    labels = [entry.label for entry in subject.methods]
    assert len(set(labels)) == len(labels)
    assert labels[0] == "vital"


@pytest.mark.parametrize(
    "name", [name for name in RECIPES if name != "tuning"]
)  # planted truth is no place for choices
def test_planted_units_are_there(name: str) -> None:
    part = RECIPES[name].planted
    assert part is not None
    for one in part.networks:
        network = planted_network(one.network)
        assert {network.unit(unit).name for unit in one.units} == set(one.units)


def test_published_classes_took_no_part_in_any_choice() -> None:
    assert len(classes(RECIPES["small"])) == 16
    assert len(classes(RECIPES["standard"])) >= 30
    for name in ("small", "standard"):
        assert classes(RECIPES[name]).isdisjoint(tuned_on())
    assert all(len(s.seeds) == 3 for s in RECIPES["standard"].subjects)


def test_the_tuning_half_is_apart_from_what_is_reported() -> None:
    """On it and with its judges a method's recipe may be chosen; standard has other classes, channels and judges."""
    tuning, standard = RECIPES["tuning"], RECIPES["standard"]
    assert classes(tuning) < tuned_on()
    assert len(classes(tuning)) >= 30
    reported = {u for name in ("small", "standard") for s in RECIPES[name].subjects for u in s.units}
    assert reported.isdisjoint(u for s in tuning.subjects for u in s.units)
    assert len(standard.untouched) >= 2
    assert set(standard.untouched).isdisjoint({*tuning.judges, *tuning.untouched})
    assert not any(family in name for name in standard.untouched for family in ("efficientnet", "lite", "mobilenet"))
    assert [s.methods for s in tuning.subjects] == [s.methods for s in standard.subjects]


def test_a_recipe_says_what_it_takes() -> None:
    assert cost_of(RECIPES["small"]) == ("176 pictures, about 22,528 network evaluations and the planted part"), (
        "16 classes and 6 channels, 2 seeds, 4 methods of 128"
    )
    assert cost_of(RECIPES["standard"]).startswith("1,050 pictures, about 252,000 network evaluations")


@pytest.mark.parametrize("name", ["small", "standard"])
def test_methods_have_equally_many_evaluations(name: str) -> None:
    for subject in RECIPES[name].subjects:
        steps = {getattr(e.config, "steps", None) for e in subject.methods if e.label != "retrieval"}
        assert len(steps) == 1
        assert all(getattr(e.config, "crops", 1) == 1 for e in subject.methods)


def test_small_needs_neither_photos_nor_a_gpu() -> None:
    small = RECIPES["small"]
    assert not small.needs_photos
    assert not any(subject.matches_photos for subject in small.subjects)
    assert all(name.startswith("builtin:lite") for name in (*small.judges, *(s.model for s in small.subjects)))
    assert RECIPES["standard"].needs_photos
    assert any("vit" in subject.model for subject in RECIPES["full"].subjects)


def test_an_unknown_recipe_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match='did you mean "standard"'):
        find_recipe("standrad")
    with pytest.raises(UserError, match="there are small, tuning, standard, full"):
        find_recipe("qqqq")


def test_every_number_is_explained() -> None:
    for name, column in COLUMNS.items():
        assert column.name == name
        for text in (column.means, column.not_said, column.title):
            assert text
            assert not text.endswith(".")


# --- the committed tables --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["small", "standard"])
def stored(request: pytest.FixtureRequest) -> Results:
    return Results.from_json(json.loads((STORED / f"bench-{request.param}.json").read_text()))


def test_the_committed_table_is_of_the_recipe_in_the_code(stored: Results) -> None:
    """Run `make bench-small` again where this fails, or the command that the page of the standard table names."""
    seeds = {len(one["seeds"]) for one in stored.recipe["subjects"]}
    assert len(seeds) == 1
    recipe = checked(stored.recipe["name"], "photos", seeds.pop())
    assert stored.recipe == recipe_json(recipe)
    assert stored.measured_with["evidence"] == EVIDENCE
    assert stored.measured_with["recipe_of_pictures"] == RECIPE
    assert stored.failures == ()
    methods = {entry.label for entry in recipe.subjects[0].methods}
    assert {c.method for c in stored.cells if c.subject == "classes"} - {"photos"} == methods


def test_the_committed_files_agree(stored: Results) -> None:
    name = f"bench-{stored.recipe['name']}"
    assert (STORED / f"{name}.md").read_text() == markdown(stored)
    assert (STORED / f"{name}.csv").read_text() == csv_table(stored)
    assert (STORED / f"{name}.svg").read_text() == draw(stored).svg()
    assert (STORED / f"{name}.svg").stat().st_size < 60_000


def test_the_small_table_stands_on_the_first_page() -> None:
    small = Results.from_json(json.loads((STORED / "bench-small.json").read_text()))
    assert f"\n{short_table(small)}" in (ROOT / "README.md").read_text()
    assert "docs/benchmarks/bench-small.svg" in (ROOT / "README.md").read_text()


def test_the_committed_table_names_no_folder_of_a_machine(stored: Results) -> None:
    name = stored.recipe["name"]
    for kind in ("json", "md", "csv", "svg"):
        text = (STORED / f"bench-{name}.{kind}").read_text()
        assert "/tmp" not in text
        assert "/home" not in text
        assert "/root" not in text
    assert stored.about["command"].startswith(f"entoptic bench {name} --out runs/bench-{name}")

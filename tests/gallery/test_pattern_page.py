"""Pages of patterns: every pattern and unit is there, pictures of a run stand for units, links hold."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

import entoptic
from entoptic.errors import UserError
from entoptic.gallery.pattern_page import sentence_of, title_of, write_pattern_pages
from entoptic.names import Names, Suggestion
from entoptic.planted.shortcut import LAYER, PlantedShortcut, plant_shortcut, shortcut_network
from entoptic.runs.results import Result
from entoptic.runs.see import see
from entoptic.runs.store import Run


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[PlantedShortcut, Result]:
    folder = tmp_path_factory.mktemp("page")
    planted = plant_shortcut(folder / "photos", 400)
    result = entoptic.patterns(
        planted.model,
        LAYER,
        photos=planted.photos,
        out=folder / "run",
        quantile=0.8,
        shuffles=3,
        sets=3,
        progress=False,
    )
    return planted, result


def run_of(result: Result) -> Path:
    return result.path.parents[3]


def test_a_page_shows_its_patterns_and_its_links_hold(stored: tuple[PlantedShortcut, Result]) -> None:
    planted, result = stored
    (page,) = write_pattern_pages(run_of(result))
    text = page.read_text()
    assert text.count('<article class="pattern"') == 1
    assert text.count('<figure class="unit">') == 2
    for unit in planted.pair:
        assert f"<code>{unit}</code>" in text
    assert "Where planted-shortcut errs" in text
    assert "<b>100 %</b>" in text
    assert "With these 2 units set to their mean, 100\u00a0% instead of 0\u00a0% of 13 of its photos are right" in text
    assert "With groups drawn at random 0 of 3 searches found anything" in text
    assert 'ring<span class="muted"> → cross</span>' in text
    links = set(re.findall(r'(?:href|src)="([^"#:]+)"', text))
    assert sum(link.endswith(".jpg") for link in links) >= 6
    for link in links:
        assert (page.parent / unquote(link)).is_file(), link
    assert page.name in (page.parent / "patterns.html").read_text()
    assert str(run_of(result).parent) not in text  # no page names a folder of the machine
    stamp = page.stat().st_mtime_ns
    assert write_pattern_pages(run_of(result))[0].stat().st_mtime_ns == stamp


def test_pictures_of_a_run_stand_for_units(stored: tuple[PlantedShortcut, Result], tmp_path: Path) -> None:
    planted, result = stored
    other = see(
        planted.model, planted.pair[0], method="pixels", steps=1, out=tmp_path / "pictures", verifiers="", progress=False,
    )  # fmt: skip
    (page,) = write_pattern_pages(run_of(result), pictures=other.path)
    text = page.read_text()
    assert text.count('<img class="picture" src="data:image/png;base64,') == 1
    assert "by pixels" in text
    assert text.count('<div class="four"') == 1  # photos stand for the other unit
    (page,) = write_pattern_pages(run_of(result))
    assert "data:image" not in page.read_text()


def test_pictures_of_the_same_run_are_linked(stored: tuple[PlantedShortcut, Result], tmp_path: Path) -> None:
    planted, _ = stored
    out = tmp_path / "run"
    options: dict[str, Any] = {"quantile": 0.8, "shuffles": 0, "tested": 0, "context": False, "progress": False}
    entoptic.patterns(planted.model, LAYER, photos=planted.photos, out=out, **options)
    (page,) = write_pattern_pages(out)
    assert "<img" not in page.read_text()
    see(planted.model, f"{planted.pair[1]}", method="pixels", steps=1, out=out, verifiers="", progress=False)
    (page,) = write_pattern_pages(out)
    assert re.search(r'<img class="picture" src="\.\./pictures/[^"]+\.png"', page.read_text())


def test_a_run_without_patterns_says_so(tmp_path: Path) -> None:
    with Run(tmp_path / "run").writing({"title": "tiny"}):
        pass
    with pytest.raises(UserError, match="holds no patterns; `entoptic patterns` finds some"):
        write_pattern_pages(tmp_path / "run")


def test_titles_and_sentences() -> None:
    groups = ("tench", "church")
    assert (
        title_of({"kind": "Errors", "of": "ring", "taken_for": ""}, "net", groups) == "Where net errs on photos of ring"
    )
    assert title_of({"kind": "Between", "one": "n1", "other": "n2"}, "net", groups) == "church against tench"
    assert title_of({"kind": "Networks", "other": "b"}, "a", groups) == "a against b"
    change = {
        "before": 10.0, "after": 5.0, "points": -5.0, "interval": [-12.0, 3.0], "n": 20, "random": [], "rank_p": None,
    }  # fmt: skip
    assert sentence_of(change, 1, "zero", "stage1") == (
        "With this unit set to zero, 5\u00a0% instead of 10\u00a0% of 20 of its photos are right (−5 points, −12 to +3)."
    )
    assert "taken out" in sentence_of(change | {"random": [1.0, -2.0], "rank_p": 0.5}, 2, "mean", "dict(x)")
    assert sentence_of({"reason": "there are no logits"}, 1, "mean", "x") == "Not followed up: there are no logits."


def test_what_the_controls_of_two_networks_say(stored: tuple[PlantedShortcut, Result], tmp_path: Path) -> None:
    planted, _ = stored
    out = tmp_path / "run"
    entoptic.patterns(
        planted.model, LAYER, photos=planted.photos, against=shortcut_network(False), out=out, quantile=0.8, shuffles=2,
        progress=False,
    )  # fmt: skip
    (page,) = write_pattern_pages(out)
    text = page.read_text()
    assert "planted-shortcut against planted-no-shortcut" in text
    assert "Nothing was found" in text  # the shortcut lies behind this layer
    assert "the first network differed from itself in 0 of 10 searches" in text
    assert "median correlation 1.00 (1.00 to 1.00, n = 6 units)" in text


def test_a_suggested_name_stands_below_its_unit(stored: tuple[PlantedShortcut, Result], tmp_path: Path) -> None:
    planted, result = stored
    shown, refused = planted.pair
    one = Suggestion(
        unit=shown, name="spot", score=0.4, rho=0.41, low=0.32, high=0.49, n=500, p=0.005, shuffled=None, shown=True, reason="",
    )  # fmt: skip
    file = tmp_path / "names.json"

    def write(weights: str) -> None:
        file.write_bytes(names_of(weights, one, replace(one, unit=refused, name="edge", shown=False)).to_bytes())

    write(planted.model.card.weights_sha256)
    (page,) = write_pattern_pages(run_of(result), names=file)
    text = page.read_text()
    assert "suggested: <b>spot</b>" in text
    assert "rho 0.41 [0.32, 0.49], n = 500" in text
    assert "edge" not in text  # a name that is refused is not shown
    write("of another network")
    assert "suggested" not in write_pattern_pages(run_of(result), names=file)[0].read_text()
    with pytest.raises(UserError, match="there is no file of names"):
        write_pattern_pages(run_of(result), names=tmp_path / "nowhere.json")
    write_pattern_pages(run_of(result))


def names_of(weights: str, *suggestions: Suggestion) -> Names:
    return Names(
        key="k", model="tiny", weights=weights, way="map", encoder="toy", encoder_identity="t", vocabulary={}, photos="photos",
        named_on=1000, judged_on=500, seed=0, fidelity=None, suggestions=suggestions,
    )  # fmt: skip


def test_records_that_cannot_be_read_are_told(stored: tuple[PlantedShortcut, Result], tmp_path: Path) -> None:
    run, record = tmp_path / "run", stored[1].path
    shutil.copytree(run_of(stored[1]), run)
    (run / record.relative_to(run_of(stored[1]))).write_text("{")
    with pytest.raises(UserError, match="holds no patterns that can be shown: "):
        write_pattern_pages(run)

"""The page of an atlas: every point is on it, links hold, and it is used by pointer, keys and search, also with 50,000 points."""

from __future__ import annotations

import io
import json
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

import entoptic
from conftest import tiny_card, tiny_module
from entoptic.atlases import mercat
from entoptic.base.files import json_bytes
from entoptic.errors import UserError
from entoptic.gallery.atlas_page import write_atlas_pages
from entoptic.gallery.result_pages import page_of
from entoptic.gallery.site import build
from entoptic.models.model import Model
from entoptic.names import Names, Suggestion
from entoptic.runs import atlas as of_runs
from entoptic.runs.results import Result, write_result
from entoptic.runs.see import see
from entoptic.runs.store import Run


@pytest.fixture(scope="module")
def stored(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """Maps of photos on the plane and of units on the sphere, in a run that has a page of one unit."""
    model, run = Model(tiny_module(), tiny_card(), device="cpu"), tmp_path_factory.mktemp("atlas") / "run"
    see(model, "stage2:3", method="pixels", steps=1, out=run, photos=photo_folder, verifiers="", progress=False)
    build(run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mercat, "STEPS", 5)
        given = {"photos": photo_folder, "out": run, "progress": False}
        return {
            "photos": entoptic.atlas(model, "stage2", map="dtsne", neighbours=10, **given),
            "units": entoptic.atlas(model, "stage2", map="mercat", of="units", run=run, **given),
        }


def data_of(page: Path) -> dict[str, Any]:
    text = page.with_suffix(".js").read_text()
    return json.loads(text.removeprefix("window.ATLAS = ").removesuffix(";\n"))


def test_a_page_has_every_point_and_its_links_hold(stored: dict[str, Result]) -> None:
    page = page_of(stored["photos"])
    text, data = page.read_text(), data_of(page)
    assert data["n"] == 40
    assert data["names"].split("\n")[0] == "circle/0.png"
    assert [one["name"] for one in data["columns"]] == ["class", "strength", "kept"]
    assert "<noscript><img" in text
    links = set(re.findall(r'(?:href|src)="([^"#:]+)"', text)) | set(data["sheets"])
    assert any(link.endswith("map.webp") for link in links)
    for link in links:
        assert (page.parent / unquote(link)).is_file(), link
    assert not re.search(r'(?:href|src)="(?:https?:)?//', text)
    assert (
        str(page.parents[2]) not in text + page.with_suffix(".js").read_text()
    )  # no page names a folder of the machine
    stamp = page.stat().st_mtime_ns
    write_atlas_pages(page.parents[1])
    assert page.stat().st_mtime_ns == stamp
    listed = (page.parent / "atlases.html").read_text()
    assert all(page_of(one).name in listed for one in stored.values())


def test_units_lead_to_their_pages(stored: dict[str, Result]) -> None:
    page = page_of(stored["units"])
    data = data_of(page)
    assert list(data["links"].values()) == ["unit-stage2-3.html"]
    (number,) = data["links"]
    assert data["names"].split("\n")[int(number)] == "stage2:3"
    assert (page.parent / "unit-stage2-3.html").is_file()
    assert data_of(page_of(stored["photos"]))["links"] == {}


def test_noise_is_called_noise(tmp_path: Path) -> None:
    noise = page_of(large(tmp_path / "noise", 40, low=0.1, chance=0.26))
    write_atlas_pages(tmp_path / "noise")
    assert "On this map neighbours are no better than on a random one" in " ".join(noise.read_text().split())
    assert noise.read_text().count("<b>(noise)</b>") == 1
    clear = page_of(large(tmp_path / "clear", 40))
    write_atlas_pages(tmp_path / "clear")
    assert "random one" not in clear.read_text()
    assert "(noise)" not in clear.read_text()


def test_a_run_without_atlases_says_so(tmp_path: Path) -> None:
    with Run(tmp_path / "run").writing({"title": "tiny"}):
        pass
    with pytest.raises(UserError, match="holds no atlas; `entoptic atlas` makes one"):
        write_atlas_pages(tmp_path / "run")


def watched(context: Any, faults: list[str]) -> Any:
    page = context.new_page()
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("requestfailed", lambda request: faults.append(request.url))
    page.on("request", lambda request: request.url.startswith("file:") or faults.append(request.url))
    return page


@pytest.mark.parametrize("kind", ["photos", "units"])
def test_browser_pointer_keys_and_search(browser: Any, stored: dict[str, Result], kind: str) -> None:
    faults: list[str] = []
    context = browser.new_context(color_scheme="dark", viewport={"width": 1280, "height": 900})
    page = watched(context, faults)
    page.goto(page_of(stored[kind]).as_uri())
    page.wait_for_function("document.getElementById('map').dataset.drawn > 0")
    canvas = page.locator("#map")
    page.keyboard.press("ArrowRight")  # not on the map yet
    assert not canvas.get_attribute("data-chosen")
    canvas.focus()
    page.keyboard.press("ArrowRight")
    first = canvas.get_attribute("data-chosen")
    assert first
    assert page.locator("#detail dd").count() >= 2
    seen = {first}
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp"):
        page.keyboard.press(key)
        seen.add(canvas.get_attribute("data-chosen"))
    assert len(seen) > 2
    page.keyboard.press("Escape")
    assert page.locator("#detail dd").count() == 0
    page.keyboard.press("/")
    page.keyboard.type("square" if kind == "photos" else "3")
    expected = "8 of 40 photos" if kind == "photos" else "1 of "
    assert page.locator("#status").inner_text().startswith(expected)
    page.locator("#found button").first.click()
    assert ("square" if kind == "photos" else "stage2:3") in canvas.get_attribute("data-chosen")
    if kind == "units":
        assert page.locator("#detail a").get_attribute("href") == "unit-stage2-3.html"
    page.fill("#search", "")
    everything = int(canvas.get_attribute("data-drawn"))
    page.locator("[data-zoom=all]").click()
    for _ in range(7):
        page.locator("[data-zoom=in]").click()
    page.wait_for_function(f"document.getElementById('map').dataset.drawn < {max(everything, 2)}")
    page.locator("[data-zoom=all]").click()
    page.select_option("#colour", "kept")
    assert page.locator(".ramp").count() == 1
    if kind == "photos":
        box = canvas.bounding_box()
        page.wait_for_function("document.getElementById('map').dataset.drawn == 40")
        x, y = page.evaluate("[AtlasMap.screen.x[5], AtlasMap.screen.y[5]]")
        page.mouse.click(box["x"] + x, box["y"] + y)
        assert canvas.get_attribute("data-chosen") == "circle/5.png"
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    if kind == "units":
        page.keyboard.press("/")
        page.keyboard.type("3")
        page.keyboard.press("Enter")
        page.keyboard.press("Enter")
        page.wait_for_url("**/unit-stage2-3.html")
    context.close()
    assert faults == []


def test_browser_phone_and_no_scripts(browser: Any, stored: dict[str, Result]) -> None:
    faults: list[str] = []
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page = watched(context, faults)
    page.goto(page_of(stored["photos"]).as_uri())
    page.wait_for_function("document.getElementById('map').dataset.drawn == 40")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()
    context = browser.new_context(java_script_enabled=False)
    page = watched(context, faults)
    page.goto(page_of(stored["photos"]).as_uri())
    still = page.locator("img.still")
    assert still.is_visible()
    assert "by chance" in still.get_attribute("alt")
    assert not page.locator("#map").is_visible()
    context.close()
    assert faults == []


def large(folder: Path, n: int, low: float = 0.39, chance: float = 0.0002) -> Result:
    """An atlas of n points, with sheets of thumbnails, as `make_atlas` stores it."""
    rng = np.random.default_rng(0)
    from entoptic.atlases.contract import Layout
    from entoptic.runs.atlas_points import Column, Kind, Points
    from entoptic.runs.atlas_thumbnails import Thumbnails

    kinds = rng.integers(0, 200, n)
    positions = (rng.normal(0, 1, (n, 2)) + 12 * rng.normal(0, 1, (200, 2))[kinds]).astype(np.float32)
    columns = (
        Column(name="class", title="class", values=kinds, kinds=tuple(f"kind {i}" for i in range(200))),
        Column(name="strength", title="strength", values=rng.normal(0, 1, n)),
    )
    points = Points(
        kind=Kind.PHOTOS, names=tuple(f"folder/photo{i:05}.jpg" for i in range(n)), labels=tuple(f"kind {k}" for k in kinds),
        vectors_ND=np.zeros((n, 1)), photos=np.arange(n), columns=columns, left_out={},
    )  # fmt: skip
    noise = Image.fromarray(rng.integers(0, 256, (256, 256, 3), np.uint8)).resize((2048, 2048))
    file = io.BytesIO()
    noise.save(file, "WEBP", quality=80)
    sheets = (file.getvalue(),) * -(-n // 4096)
    thumbnails = Thumbnails(cell=32, sheets=sheets, colours=np.zeros((n, 3)), missing=0)
    layout = Layout(positions=positions, asked=lambda rows: rows, about={})
    measured = [
        {
            "name": "neighbours",
            "value": 0.4,
            "interval": [low, 0.41],
            "n": 2000,
            "chance": chance,
            "means": "neighbours",
        }
    ]
    about = {
        "layer": "stage2", "of": "photos", "map": "tsne", "map_title": "t-SNE", "space": "plane", "asked": {}, "about_map": {},
        "n": n, "left_out": {}, "colour": "class", "cell": 32, "sheets": len(sheets), "without_picture": 0,
        "model": {"name": "tiny"}, "command": "entoptic atlas", "faithfulness": measured,
    }  # fmt: skip
    run = Run(folder)
    with run.writing({"title": "large"}):
        return write_result(
            run, "atlas", "large", "0" * 64, files=of_runs._files(points, layout, thumbnails, about), about=about
        )


@pytest.mark.slow
def test_browser_fifty_thousand_points(browser: Any, tmp_path: Path) -> None:
    result = large(tmp_path / "run", 50_000)
    (path,) = write_atlas_pages(tmp_path / "run")
    assert path == page_of(result)
    faults: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = watched(context, faults)
    began = time.monotonic()
    page.goto(path.as_uri())
    page.wait_for_function("document.getElementById('map').dataset.drawn == 50000")
    opened = time.monotonic() - began
    assert (
        page.evaluate(
            "performance.getEntriesByType('resource').filter((one) => one.name.includes('thumbnails')).length"
        )
        == 0
    )
    frame = page.evaluate(
        "new Promise((done) => { const from = performance.now(); let left = 10;"
        " const next = () => { AtlasMap.move(3, 2);"
        " left-- ? requestAnimationFrame(next) : done((performance.now() - from) / 10); }; next(); })"
    )
    page.fill("#search", "photo12345")
    assert page.locator("#status").inner_text() == "1 of 50,000 photos"
    page.locator("#found button").click()
    page.fill("#search", "")
    for _ in range(8):
        page.keyboard.press("+") if page.evaluate("document.activeElement.id") == "map" else page.locator(
            "#map"
        ).focus()
    page.wait_for_function("document.getElementById('map').dataset.drawn < 4000")
    page.wait_for_function("AtlasMap.sheet(3) !== null")
    print(f"50,000 points: opened in {opened:.2f} s, a frame of panning takes {frame:.0f} ms")
    context.close()
    assert faults == []
    assert opened < 6  # 2 s on an idle machine: docs/atlas.md


def test_a_record_that_was_edited_by_hand_is_left_out(tmp_path: Path) -> None:
    first = large(tmp_path / "run", 40)
    broken = replace(first, record=first.record | {"space": None, "faithfulness": [{}]})
    first.path.write_bytes(json_bytes(broken.record))
    with pytest.raises(UserError, match=r"holds no atlas that can be shown: .+ its record is damaged"):
        write_atlas_pages(tmp_path / "run")


def test_a_record_that_cannot_be_read_is_named_in_the_list(stored: dict[str, Result], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(page_of(stored["units"]).parents[1], run)
    lost = run / stored["photos"].path.relative_to(stored["photos"].path.parents[3])
    lost.write_text("{")
    assert len(write_atlas_pages(run)) == 1
    assert "Not shown: " in (run / "gallery" / "atlases.html").read_text()


def test_browser_suggested_names_are_told_and_found(browser: Any, stored: dict[str, Result], tmp_path: Path) -> None:
    page, run = page_of(stored["units"]), stored["units"].path.parents[3]
    one = Suggestion(
        unit="stage2:3", name="spot", score=0.4, rho=0.41, low=0.32, high=0.49, n=500, p=0.005, shuffled=None, shown=True,
        reason="",
    )  # fmt: skip
    file = tmp_path / "names.json"
    file.write_bytes(
        Names(
            key="k", model="tiny", weights=stored["units"].record["model"]["weights_sha256"], way="map", encoder="toy",
            encoder_identity="t", vocabulary={}, photos="photos", named_on=1000, judged_on=500, seed=0, fidelity=None,
            suggestions=(one, replace(one, unit="stage2:4", name="edge", shown=False)),
        ).to_bytes()
    )  # fmt: skip
    write_atlas_pages(run, names=file)
    told = data_of(page)["suggested"]
    assert list(told.values()) == [["spot", "rho 0.41 [0.32, 0.49], n = 500"]]
    assert data_of(page_of(stored["photos"]))["suggested"] == {}
    tab = browser.new_page()
    tab.goto(page.as_uri())
    tab.fill("#search", "spot")
    assert tab.locator("#status").text_content().startswith("1 of ")
    tab.locator("#search").press("Enter")
    assert "Suggested name: spot, rho 0.41" in tab.locator("#detail").text_content()
    tab.close()
    write_atlas_pages(run)
    assert data_of(page)["suggested"] == {}

"""How the pages behave in a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from entoptic.gallery.index_data import UNITS_PER_PAGE
from entoptic.gallery.site import build
from fake_run import NASTY, FakeRun, png


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fake = FakeRun(tmp_path_factory.mktemp("browser") / "run")
    for number in range(2 * UNITS_PER_PAGE + 5):
        label = NASTY if number == 3 else "church" if number == 70 else f"thing {number}"
        fake.add(unit=f"logits:{number}", label=label)
    (fake.folder / "maps" / "u").mkdir(parents=True)
    for name in ("where", "alpha"):
        (fake.folder / "maps" / "u" / f"{name}.png").write_bytes(png())
    maps = {name: {"file": f"maps/u/{name}.png"} for name in ("where", "alpha")}
    fake.add(unit="logits:70", label="church", method="maco", maps=maps)
    fake.surround("logits:70")
    fake.surround("logits:71")
    fake.cost("logits:70")
    return build(fake.folder)


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page of a fresh profile: a console message or a request that leaves the disk fails the test."""
    context = browser.new_context(color_scheme="light", viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    faults: list[str] = []
    opened.on("console", lambda message: faults.append(f"{message.type}: {message.text}"))
    opened.on("pageerror", lambda error: faults.append(str(error)))
    # Pictures still under way when a test moves on are aborted, which is no fault.
    opened.on("requestfailed", lambda request: "ABORTED" in request.failure or faults.append(request.failure))
    opened.on("request", lambda request: request.url.startswith("file:") or faults.append(request.url))
    yield opened
    context.close()
    assert faults == []


def _focused(page: Any) -> str:
    return str(page.evaluate("document.activeElement.closest('.row')?.dataset.unit ?? ''"))


def test_browser_pages_turn(page: Any, site: Path) -> None:
    page.goto(site.as_uri())
    assert page.locator(".row").count() == UNITS_PER_PAGE
    assert page.locator("#count").inner_text() == "125 units, page 1 of 3"
    page.get_by_role("link", name="Page 3").click()
    assert page.locator(".row").count() == 5
    assert "page=3" in page.url
    page.keyboard.press("ArrowLeft")
    assert page.locator(".row").first.get_attribute("data-unit") == f"unit-logits-{UNITS_PER_PAGE}"
    page.go_back()
    page.wait_for_function("document.querySelectorAll('.row').length === 5")


def test_browser_search_filters_and_is_a_permalink(page: Any, site: Path) -> None:
    page.goto(site.as_uri())
    page.keyboard.press("/")
    page.keyboard.type("CHURCH maco")
    page.wait_for_function("document.querySelectorAll('.row').length === 1")
    assert page.locator(".row h2").inner_text() == "church"
    assert "q=CHURCH+maco" in page.url
    page.reload()
    assert page.locator(".row").count() == 1
    page.keyboard.press("Escape")
    assert page.locator(".row").count() == UNITS_PER_PAGE
    page.fill("#q", "no such thing")
    page.wait_for_function("document.querySelectorAll('.row').length === 0")
    assert "No unit matches “no such thing”" in page.locator("#grid").inner_text()


def test_browser_keyboard_goes_through_the_units(page: Any, site: Path) -> None:
    page.goto(site.as_uri())
    for key, expected in [("j", 0), ("j", 1), ("ArrowDown", 2), ("k", 1), ("ArrowUp", 0)]:
        page.keyboard.press(key)
        assert _focused(page) == f"unit-logits-{expected}"
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url("**/unit-logits-1.html")
    page.keyboard.press("j")
    page.wait_for_url("**/unit-logits-2.html")
    page.keyboard.press("ArrowLeft")
    page.wait_for_url("**/unit-logits-1.html")
    page.keyboard.press("Escape")
    page.wait_for_url("**/index.html*")
    assert _focused(page) == "unit-logits-1"
    page.keyboard.press("Enter")
    page.wait_for_url("**/unit-logits-1.html")
    page.keyboard.press("/")
    page.wait_for_url("**/index.html*")
    assert page.evaluate("document.activeElement.id") == "q"
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#help").is_visible()


def test_browser_keyboard_goes_on_to_the_next_page(page: Any, site: Path) -> None:
    page.goto(f"{site.as_uri()}#unit-logits-{UNITS_PER_PAGE - 1}")
    assert _focused(page) == f"unit-logits-{UNITS_PER_PAGE - 1}"
    page.keyboard.press("j")
    assert _focused(page) == f"unit-logits-{UNITS_PER_PAGE}"
    page.keyboard.press("k")
    assert _focused(page) == f"unit-logits-{UNITS_PER_PAGE - 1}"


def test_browser_permalinks_open_the_right_place(page: Any, site: Path) -> None:
    page.goto(f"{site.as_uri()}?q=thing&page=2")
    assert page.locator("#q").input_value() == "thing"
    # "church" and the nasty label are no things, so page two begins two further on.
    assert page.locator(".row").first.get_attribute("data-unit") == f"unit-logits-{UNITS_PER_PAGE + 1}"
    page.goto(f"{site.as_uri()}#unit-logits-70")
    assert page.locator("[data-unit=unit-logits-70]").is_visible()
    href = page.locator("[data-unit=unit-logits-70] figure a").last.get_attribute("href")
    assert re.fullmatch(r"unit-logits-70\.html#maco-0-[0-9a-f]{8}", href)
    page.goto(str(site.parent.as_uri()) + "/" + href)
    page.wait_for_function("scrollY > 0 || document.body.scrollHeight <= innerHeight")
    assert page.locator("article:target h2").inner_text().startswith("MACO")
    assert page.locator("article:target").bounding_box()["y"] < 900


def test_browser_dark_mode_follows_the_system_and_is_kept(page: Any, site: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    page.goto(site.as_uri())
    light = page.evaluate(ground)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(ground)
    assert dark != light
    page.get_by_role("button", name="Light or dark").click()
    assert page.evaluate(ground) == light
    page.goto((site.parent / "unit-logits-1.html").as_uri())
    assert page.evaluate(ground) == light
    page.keyboard.press("t")
    assert page.evaluate(ground) == dark


def test_browser_works_where_storage_is_refused(page: Any, site: Path) -> None:
    refuse = "{ get() { throw new DOMException('refused', 'SecurityError'); } }"
    page.add_init_script(
        f"for (const kind of ['localStorage', 'sessionStorage']) Object.defineProperty(window, kind, {refuse});"
    )
    page.goto(site.as_uri())
    assert page.locator(".row").count() == UNITS_PER_PAGE
    page.keyboard.press("t")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_browser_compares_and_copies(page: Any, site: Path) -> None:
    page.goto((site.parent / "unit-logits-70.html").as_uri())
    heads = page.locator(".matrix thead th")
    assert heads.count() == 2
    assert heads.nth(0).is_visible()
    assert heads.nth(1).is_visible()
    page.locator(".compare .toggle").first.click()
    assert not heads.nth(0).is_visible()
    assert heads.nth(1).is_visible()
    assert "compare=maco-0-" in page.url
    page.reload()
    assert not heads.nth(0).is_visible()
    assert heads.nth(1).is_visible()
    page.get_by_role("button", name="Copy").first.click()
    page.wait_for_function("document.getElementById('said').textContent.startsWith('Command')")


def test_browser_lays_maps_over_pictures_and_takes_them_off(page: Any, site: Path) -> None:
    page.goto((site.parent / "unit-logits-70.html").as_uri())
    opacity = "(name) => [...document.querySelectorAll(`.over.${name}`)].map((one) => getComputedStyle(one).opacity)"
    page.add_style_tag(content="* { transition: none !important; }")
    assert page.evaluate(opacity, "where") == ["0", "0"]  # on a photo and on the picture
    page.get_by_role("button", name="Where it looks", exact=True).click()
    assert all(float(value) > 0.5 for value in page.evaluate(opacity, "where"))
    buttons = page.locator("[data-action=where]")
    assert {buttons.nth(i).get_attribute("aria-pressed") for i in range(buttons.count())} == {"true"}
    page.keyboard.press("w")
    assert page.evaluate(opacity, "where") == ["0", "0"]
    page.keyboard.press("a")
    assert page.evaluate(opacity, "alpha") == ["1"]
    assert page.evaluate("getComputedStyle(document.querySelector('.frame:has(.alpha) > img')).opacity") == "0"
    # A map lies exactly over its picture.
    for kind in (".matrix .frame", ".strip .stack"):
        boxes = page.evaluate(
            """(kind) => [...document.querySelector(`${kind}:has(.where)`).querySelectorAll("img")]
                .map((one) => JSON.stringify(one.getBoundingClientRect()))""",
            kind,
        )
        assert len(set(boxes)) == 1, kind


def test_browser_draws_the_frontier_in_the_theme(page: Any, site: Path) -> None:
    page.goto((site.parent / "unit-logits-70.html").as_uri())
    colour = "(name) => getComputedStyle(document.querySelector(`#frontier .${name}-fill`)).fill"
    box = page.locator("#frontier").bounding_box()
    assert box["width"] > 500
    assert box["height"] > 200
    light = {name: page.evaluate(colour, name) for name in ("ink", "law", "band")}
    assert light["ink"] == "rgb(28, 27, 25)"
    page.keyboard.press("t")
    dark = {name: page.evaluate(colour, name) for name in light}
    assert dark["ink"] == "rgb(235, 233, 229)"
    assert all(dark[name] != light[name] for name in light)


def test_browser_shows_labels_as_text(page: Any, site: Path) -> None:
    page.goto(site.as_uri())
    assert page.locator("[data-unit=unit-logits-3] h2").inner_text() == NASTY
    assert NASTY in str(page.locator("[data-unit=unit-logits-3] img").get_attribute("alt"))


def test_browser_fits_its_window(page: Any, site: Path) -> None:
    for name, width in product(
        ("index.html", "unit-logits-70.html", "unit-logits-1.html", "units.html"), (360, 390, 1440)
    ):
        page.set_viewport_size({"width": width, "height": 740})
        page.goto((site.parent / name).as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_browser_leaves_room_for_words_beside_a_wide_picture(page: Any, tmp_path: Path) -> None:
    fake = FakeRun(tmp_path / "run")
    fake.add(size=512)
    page.goto((build(fake.folder).parent / "unit-logits-497.html").as_uri())
    for width in (820, 1280, 1600):
        page.set_viewport_size({"width": width, "height": 900})
        words = page.locator(".evidence .words").first.bounding_box()["width"]
        assert words > 200, (width, words)


def test_browser_enlarges_one_picture_over_the_page(page: Any, site: Path) -> None:
    page.goto((site.parent / "unit-logits-70.html").as_uri())
    large = page.locator("#large")
    page.locator(".matrix a.enlarge").first.click()
    assert large.is_visible()
    page.wait_for_function("document.querySelector('#large img').naturalWidth === 4")
    width = large.locator("img").bounding_box()["width"]
    assert width >= 400
    assert width % 4 == 0, "every pixel of the file is as large as any other"
    assert "each pixel a square" in large.inner_text()
    page.keyboard.press("s")
    assert "smoothed" in large.inner_text()
    before = large.locator("b").inner_text()
    page.keyboard.press("ArrowRight")
    assert large.locator("b").inner_text() != before
    page.keyboard.press("Escape")
    assert not large.is_visible()
    page.keyboard.press("z")
    assert large.is_visible()
    assert large.locator("b").inner_text().startswith("VITAL"), "the first picture, not a photo beside it"
    page.keyboard.press("Escape")
    page.locator(".strip a.enlarge").first.click()
    assert large.locator("b").inner_text() == "Photo, church"


def test_browser_enlarges_small_pictures_and_says_so(page: Any, site: Path) -> None:
    for name, frame in (("index.html", ".samples img"), ("unit-logits-1.html", ".large .frame > img")):
        page.goto((site.parent / name).as_uri())
        image = page.locator(frame).first
        assert image.bounding_box()["width"] > 100  # of a file of 4 pixels
        assert image.evaluate("(one) => getComputedStyle(one).imageRendering") == "pixelated"
        said = page.locator(".smoothing").first
        assert said.inner_text() == "square pixels"
        page.keyboard.press("s")
        assert said.inner_text() == "smoothed"
        assert image.evaluate("(one) => getComputedStyle(one).imageRendering") == "auto"
        page.keyboard.press("s")


def test_browser_finds_units_by_the_labels_of_their_photos(page: Any, site: Path) -> None:
    page.goto(f"{site.as_uri()}?q=gas+pump")
    assert page.locator("#count").inner_text() == "2 of 125 units"


def test_browser_leads_to_similar_units(page: Any, site: Path) -> None:
    page.goto((site.parent / "unit-logits-70.html").as_uri())
    page.locator(".similar a").click()
    page.wait_for_url("**/unit-logits-71.html")

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


# --- what the index keeps, and what it drops --------------------------------------------------------------------------

# Typing and what follows it, before the search of what was typed begins.
TYPES = "(find) => { find.value = 'church'; find.dispatchEvent(new Event('input', { bubbles: true })); "


def _settles(page: Any) -> None:
    """Longer than a search waits for the next letter."""
    page.wait_for_timeout(200)


def test_browser_a_unit_leads_back_to_its_own_gallery(page: Any, site: Path, tmp_path: Path) -> None:
    fake = FakeRun(tmp_path / "run")
    fake.add()
    other = build(fake.folder)
    page.goto(f"{site.as_uri()}?q=thing&page=2")
    up = page.locator("[data-key=up]")
    page.goto((other.parent / "unit-logits-497.html").as_uri())
    assert up.get_attribute("href") == "index.html#unit-logits-497"
    page.goto((site.parent / "unit-logits-70.html").as_uri())
    assert up.get_attribute("href") == "index.html?q=thing&page=2#unit-logits-70"


def test_browser_a_choice_that_is_not_shown_is_not_taken_from_the_address(page: Any, site: Path) -> None:
    page.goto(f"{site.as_uri()}?mark=poor&q=thing")
    assert page.locator("#mark").is_hidden()
    assert page.locator("#count").inner_text() == "123 of 125 units, page 1 of 3"
    assert page.url == f"{site.as_uri()}?q=thing"


def test_browser_the_address_is_put_right_where_it_asks_for_other_than_is_shown(page: Any, site: Path) -> None:
    start = site.as_uri()
    page.goto(f"{start}?q=church#unit-logits-3")
    assert _focused(page) == "unit-logits-3"
    assert page.url == f"{start}#unit-logits-3"
    page.goto(f"{start}?page=99")
    assert page.url == f"{start}?page=3"
    steps = page.evaluate("history.length")
    page.evaluate("location.hash = 'unit-logits-70'")
    page.wait_for_function("location.search === '?page=2'")
    assert page.url == f"{start}?page=2#unit-logits-70"
    assert page.evaluate("history.length") == steps + 1, "putting right is no step of its own"
    page.reload()
    assert _focused(page) == "unit-logits-70"
    page.goto(f"{start}?other=1")
    assert page.url == f"{start}?other=1", "of what is not the index's own it takes no notice"


def test_browser_a_jump_clears_only_what_hides_the_unit(page: Any, site: Path) -> None:
    start = site.as_uri()
    page.goto(f"{start}?sort=transfer_top1&method=maco&q=church#unit-logits-72")
    assert _focused(page) == "unit-logits-72"
    assert [page.locator(at).input_value() for at in ("#q", "#sort", "#method")] == ["", "transfer_top1", ""]
    assert page.url == f"{start}?sort=transfer_top1&page=2#unit-logits-72"
    page.goto(f"{start}?method=maco&q=thing#unit-logits-70")
    assert _focused(page) == "unit-logits-70"
    assert page.url == f"{start}?method=maco#unit-logits-70"


def test_browser_the_focus_stays_in_the_pager_and_in_the_rows(page: Any, site: Path) -> None:
    here = "document.querySelector('#pages a[aria-current]:focus')?.textContent"
    page.goto(site.as_uri())
    page.get_by_role("link", name="Page 2").focus()
    page.keyboard.press("Enter")
    assert page.evaluate(here) == "2"
    page.keyboard.press("ArrowRight")
    assert page.evaluate(here) == "3"
    page.get_by_role("link", name="← Before").focus()
    page.keyboard.press("Enter")
    assert page.evaluate(here) == "2"
    assert page.evaluate("scrollY") == 0
    page.keyboard.press("j")
    assert _focused(page) == f"unit-logits-{UNITS_PER_PAGE}"
    page.keyboard.press("ArrowLeft")
    assert _focused(page) == "unit-logits-0"
    # Back to a list of one page: the pager is gone.
    page.goto(f"{site.as_uri()}?q=church+maco")
    page.evaluate("history.pushState(null, '', location.pathname); dispatchEvent(new PopStateEvent('popstate'))")
    page.get_by_role("link", name="Page 1").focus()
    page.go_back()
    page.wait_for_function("document.querySelectorAll('.row').length === 1")
    assert _focused(page) == "unit-logits-70"
    # Nothing takes the focus that had none in either.
    page.goto(site.as_uri())
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement === document.body")


def test_browser_a_search_that_waits_does_not_undo_what_came_after_it(page: Any, site: Path) -> None:
    page.goto(site.as_uri())
    find = page.locator("#q")
    find.evaluate(TYPES + "document.querySelector('[data-page=\"3\"]').click(); }")
    _settles(page)
    assert page.locator("#count").inner_text() == "125 units, page 3 of 3"
    assert find.input_value() == "", "the field says what is shown"
    find.evaluate(TYPES + "location.hash = 'unit-logits-71'; }")
    _settles(page)
    assert _focused(page) == "unit-logits-71"
    assert "q=" not in page.url
    find.evaluate(TYPES + "history.back(); }")
    _settles(page)
    assert page.locator("#count").inner_text() == "125 units, page 3 of 3"
    # A choice takes along what was typed, and the search itself waits for letters.
    find.evaluate(
        TYPES
        + "const by = document.querySelector('#method'); by.value = 'maco'; by.dispatchEvent(new Event('change')); }"
    )
    assert page.locator("#count").inner_text() == "1 of 125 units"
    find.fill("church ")
    _settles(page)
    assert find.input_value() == "church ", "a space between two words is not taken away"
    # Emptied and left at once, the field is not empty above a list of what it held.
    find.fill("")
    find.press("Escape")
    page.wait_for_function("!location.search.includes('q=')")

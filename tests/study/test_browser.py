"""The pages in a real browser: by keyboard alone, on a phone and on a desk, with a slow network and a reload in between."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from entoptic.study.answers import read_answers, read_participations, read_plan
from entoptic.study.bundle import export
from entoptic.study.records import Trial
from fake_run import NASTY
from gallery.conftest import browser  # noqa: F401
from study.conftest import needs_server
from study.person import Person, knowing
from study.serving import served

needs_server()

SIZES = ((390, 844), (1440, 900))
READY = "#page.open, #comments, body[data-stage=break] main button.main, body[data-stage=finished] h1"
SHIFTS = """new PerformanceObserver((list) => {
  for (const one of list.getEntries()) (window.shifts = window.shifts || []).push(one.value);
}).observe({ type: "layout-shift", buffered: true });"""


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:  # noqa: F811
    """Opens pages of a fresh profile; a console message or a page error fails the test."""
    contexts, faults = [], []

    def make(width: int = 1440, height: int = 900, **more: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, locale="en-US", **more)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: faults.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.faults = faults
        return page

    yield make
    for context in contexts:
        context.close()
    assert faults == []


def tab_to(page: Any, selector: str) -> None:
    """Moves the focus by the Tab key."""
    for _ in range(60):
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"the Tab key does not lead to {selector}")


def begin(page: Any, address: str) -> None:
    """Consents and reads the instructions, by keyboard."""
    page.goto(address)
    page.wait_for_selector("#agree")
    tab_to(page, "#agree")
    page.keyboard.press("Space")
    tab_to(page, "main button.main")
    page.keyboard.press("Enter")
    page.wait_for_selector("body[data-stage=instructions] .how svg")
    tab_to(page, "main button.main")
    page.keyboard.press("Enter")


class Reader:
    """Knows which trial a page shows: the pictures are asked for by its id."""

    def __init__(self, page: Any, study: Path) -> None:
        self.trials = {one.id: one for own in read_plan(study).assignments for one in own.trials}
        self.session: dict[str, Any] = {}
        page.on("response", self._seen)

    def _seen(self, response: Any) -> None:
        if response.request.method not in ("GET", "POST") or "/api/" not in response.url or response.status != 200:
            return
        if response.url.rpartition("/")[2].partition("?")[0] in (
            "answers",
            "session",
            "continue",
            "instructions",
            "claim",
            "questions",
        ):
            found = response.json()
            self.session = found.get("session", found)

    @property
    def trial(self) -> Trial:
        return self.trials[self.session["trial"]["id"]]


def answer_by_keys(page: Any, trial: Trial) -> None:
    """Answers as well as can be; 3 and "a thing" where nothing is right."""
    if trial.task == "describe":
        tab_to(page, "#words")
        page.keyboard.type("a thing")
        page.keyboard.press("Enter")
    elif trial.task in ("class-match", "inner-match"):
        page.keyboard.press(str((trial.right or (3,))[0]))
    else:
        page.keyboard.press("abcdef"[(trial.right or (0,))[0]])
        if trial.task != "preference":
            page.keyboard.press("2")


def go_through(
    page: Any, reader: Reader, *, reload_after: int = -1, look: Callable[[str], None] = lambda name: None
) -> None:
    """Answers until the questions at the end, by keyboard."""
    answered = 0
    while True:
        page.wait_for_selector(READY)
        if page.locator("#comments").count():
            return
        if reader.session["stage"] == "break":
            look("break")
            tab_to(page, "main button.main")
            page.keyboard.press("Enter")
            page.wait_for_selector("body:not([data-stage=break])")
            continue
        trial = reader.trial
        look(f"{trial.task} {trial.arm} {trial.kind}")
        if answered == reload_after:
            answered += 1
            page.reload()
            page.wait_for_selector("#page.open")
            assert reader.trial.id == trial.id
        before = page.evaluate(
            "[...document.querySelectorAll('main img')].map((i) => JSON.stringify(i.getBoundingClientRect()))"
        )
        assert page.evaluate("[...document.querySelectorAll('main img')].every((i) => i.complete && i.naturalWidth)")
        answer_by_keys(page, trial)
        answered += 1
        if trial.kind == "practice" and trial.right:
            page.wait_for_selector(".feedback.right")
            after = page.evaluate(
                "[...document.querySelectorAll('main img')].map((i) => JSON.stringify(i.getBoundingClientRect()))"
            )
            if not page.evaluate("window.scrollY"):
                assert after == before
            page.keyboard.press("Enter")
        page.wait_for_selector("#page:not(.open), #comments")


def audit(page: Any) -> list[str]:
    """Serious faults that axe-core finds, where it is there."""
    script = axe()
    if script is None:
        return []
    if not page.evaluate("typeof axe !== 'undefined'"):
        page.evaluate(script)
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    assert found["passes"]
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:120]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]


def axe() -> str | None:
    """The text of axe-core: $ENTOPTIC_AXE, or node_modules beside the repository's files."""
    place = Path(os.environ.get("ENTOPTIC_AXE", Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js"))
    return place.read_text() if place.is_file() else None


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("preset", ["default", "vital"])
def test_each_task_by_keyboard_with_a_slow_network_and_a_reload(
    opened: Callable[..., Any], study: Path, vital_study: Path, preset: str, width: int, height: int
) -> None:
    folder = {"default": study, "vital": vital_study}[preset]
    page = opened(width, height)
    page.add_init_script(SHIFTS)
    reader = Reader(page, folder)
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    network.send(
        "Network.emulateNetworkConditions",
        {"offline": False, "latency": 40, "downloadThroughput": 250_000, "uploadThroughput": 60_000},
    )
    seen: set[str] = set()
    faults: list[str] = []

    def look(name: str) -> None:
        if name not in seen:
            faults.extend(audit(page))
        seen.add(name)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name

    with served(folder) as address:
        begin(page, f"{address}/?PROLIFIC_PID={'a' * 24}&STUDY_ID=s&SESSION_ID=t")
        go_through(page, reader, reload_after=4, look=look)
        tab_to(page, "#comments")
        page.keyboard.type("by keyboard")
        tab_to(page, "main button.main")
        page.keyboard.press("Enter")
        page.wait_for_selector(".code")
        faults += audit(page)
        page.reload()
        page.wait_for_selector(".code")
    assert faults == []
    answers = read_answers(folder)
    assert all(one.correct is not False for one in answers)
    assert {one.viewport for one in answers} == {f"{width}x{height}"}
    assert all(one.rt_ms is not None and one.rt_ms >= 500 for one in answers)
    assert sum(one.reloads for one in answers) == 1
    (person,) = read_participations(folder)
    assert (person.stage, person.comments) == ("finished", "by keyboard")
    main = [shift for shift in page.evaluate("window.shifts || []") if shift > 0.02]
    assert main == []


def test_a_picture_that_cannot_be_loaded_is_a_technical_answer(opened: Callable[..., Any], vital_study: Path) -> None:
    page = opened()
    reader = Reader(page, vital_study)
    with served(vital_study) as address:
        page.route(
            "**/pictures/*",
            lambda route: route.fulfill(status=404, content_type="application/json", body='{"error": "picture"}'),
        )
        begin(page, address)
        page.wait_for_selector("body[data-stage=break]")
    assert {one.technical for one in read_answers(vital_study)} == {True}
    page.faults[:] = [one for one in page.faults if "404" not in one]
    assert reader.session["stage"] == "break"


def test_a_server_that_is_away_is_waited_for(opened: Callable[..., Any], vital_study: Path) -> None:
    page = opened()
    reader = Reader(page, vital_study)
    with served(vital_study) as address:
        begin(page, address)
        page.wait_for_selector("#page.open")
        lost = [0]

        def away(route: Any) -> None:
            lost[0] += 1
            route.abort() if lost[0] <= 2 else route.continue_()

        page.route("**/api/answers", away)
        answer_by_keys(page, reader.trial)
        page.wait_for_selector("#page:not(.open)")
        page.wait_for_selector("#page.open", timeout=20_000)
    assert lost[0] == 3
    assert len(read_answers(vital_study)) == 1
    page.faults[:] = [one for one in page.faults if "ERR_FAILED" not in one]


def test_withdrawal_by_the_page(opened: Callable[..., Any], vital_study: Path) -> None:
    page = opened()
    reader = Reader(page, vital_study)
    with served(vital_study) as address:
        begin(page, address)
        page.wait_for_selector("#page.open")
        answer_by_keys(page, reader.trial)
        page.wait_for_selector("#page:not(.open)")
        page.click("footer button")
        page.wait_for_selector("button.danger")
        page.click("button.danger")
        page.wait_for_selector("h1:has-text('You have withdrawn')")
    assert read_answers(vital_study) == []


def test_an_answer_on_its_way_does_not_take_the_place_of_withdrawing(
    opened: Callable[..., Any], vital_study: Path
) -> None:
    page, held = opened(), []
    reader = Reader(page, vital_study)
    with served(vital_study) as address:
        begin(page, address)
        page.wait_for_selector("#page.open")
        page.route("**/api/answers", lambda route: held.append(route))
        with page.expect_request("**/api/answers"):
            answer_by_keys(page, reader.trial)
        page.click("footer button")
        page.wait_for_selector("button.danger")
        page.wait_for_timeout(50)
        (route,) = held
        route.fulfill(response=route.fetch())
        page.wait_for_timeout(500)
        page.click("button.danger")
        page.wait_for_selector("h1:has-text('You have withdrawn')")
    assert read_answers(vital_study) == []


def test_a_second_participation_is_told_so_and_the_language_can_be_chosen(
    opened: Callable[..., Any], study: Path
) -> None:
    page, other = opened(), opened()
    with served(study) as address:
        begin(page, f"{address}/?workerId=w&assignmentId=a&hitId=h")
        other.goto(f"{address}/?workerId=w&assignmentId=b&hitId=h&lang=de")
        other.wait_for_selector("h2:has-text('Einwilligung')")
        assert other.evaluate("document.documentElement.lang") == "de"
        other.check("#agree")
        other.click("main button.main")
        other.wait_for_selector("h1:has-text('Sie können jetzt nicht teilnehmen')")
    other.faults[:] = [one for one in other.faults if "409" not in one]


def test_the_admin_page_escapes_what_people_wrote(opened: Callable[..., Any], study: Path) -> None:
    import httpx

    page = opened()
    with served(study, new_admin_token=True) as address, httpx.Client(base_url=address) as client:
        Person(client).begin().answer_all(knowing(read_plan(study))).finish(NASTY)
        from entoptic.study.private import open_private, replace_admin_token

        private, _ = open_private(study)
        _, token = replace_admin_token(study, private)
    with served(study) as address:
        page.goto(f"{address}/admin")
        page.fill("#token", token)
        page.keyboard.press("Enter")
        page.wait_for_selector(".comment")
        assert page.locator(".comment").inner_text() == NASTY
        assert page.locator(".comment script, .comment b").count() == 0
        assert page.locator("tbody tr").count() == 9
        assert audit(page) == []
        page.click("text=Close the study")
        page.wait_for_selector("text=Save answers")
        with page.expect_download() as download:
            page.click("text=Save answers")
        assert download.value.suggested_filename == "answers.csv"


@pytest.mark.slow
def test_the_bundle_works_from_the_disk(opened: Callable[..., Any], vital_study: Path, tmp_path: Path) -> None:
    page = opened(390, 844)
    where = export(vital_study, tmp_path / "bundle")
    trials = list(next(one for one in read_plan(vital_study).assignments if one.slot == 1).trials)
    begin(page, f"{where.as_uri()}?slot=1")
    assert page.locator("body").get_attribute("data-stage") in ("instructions", "practice", "trials")
    for number, trial in enumerate(trials):
        page.wait_for_selector(READY)
        while page.locator("body").get_attribute("data-stage") == "break":
            page.click("main button.main")
            page.wait_for_selector("#page.open")
        if number == 3:
            page.reload()
            page.wait_for_selector("#page.open")
        answer_by_keys(page, trial)
        page.wait_for_selector("#page:not(.open), #comments")
    page.wait_for_selector("#comments")
    page.click("main button.main")
    with page.expect_download() as download:
        page.click("#save")
    (vital_study / "returned").mkdir()
    download.value.save_as(vital_study / "returned" / "one.json")
    answers = read_answers(vital_study)
    assert [one.trial for one in answers] == [one.id for one in trials]
    assert {one.source for one in answers} == {"bundle"}
    assert all(one.correct for one in answers if one.kind == "catch")
    assert json.loads((vital_study / "returned" / "one.json").read_text())["format"] == 1

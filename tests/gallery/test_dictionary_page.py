"""The page of a dictionary: thousands of features, their numbers, families and photos, from the disk."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import torch

from conftest import tiny_card, tiny_module
from entoptic.cli.main import main
from entoptic.errors import UserError
from entoptic.gallery.dictionary_page import write_dictionary_pages
from entoptic.images.build_index import build_index
from entoptic.models.model import Model
from entoptic.runs.see import see
from entoptic.units.dictionary import save
from entoptic.units.sparse import Sparse

FEATURES = 2000


def sparse(model: Model) -> Sparse:
    draw = torch.Generator().manual_seed(0)
    encoder = torch.randn(FEATURES, 16, 1, 1, generator=draw)
    return Sparse(
        encoder=encoder, encoder_bias=torch.zeros(FEATURES), decoder=encoder[:, :, 0, 0].clone(),
        decoder_bias=torch.zeros(16), threshold=torch.full((FEATURES,), 0.5), kind="batchtopk", k=4, layer="stage2",
        model_sha256=model.card.identity, names=["<b>stripes</b>" if k == 7 else f"feature {k}" for k in range(FEATURES)],
        parents=tuple((3, 5) if k == 60 else (3,) if k == 61 else () for k in range(FEATURES)),
        found={"families": {"pairs": [[10, 1200]]}},
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An index with a dictionary, and a run with a picture of one of its features."""
    folder = tmp_path_factory.mktemp("dictionary page")
    model = Model(tiny_module(), tiny_card(), device="cpu")
    file = save(sparse(model), folder / "mine" / "dictionary.safetensors")
    build_index(model, photo_folder, [f"dict({file})"], out=folder / "index", k=5, bottom=2)
    see(
        model, f"dict({file}):12@max", method="pixels", steps=1, n=1, photos=photo_folder, verifiers="",
        out=folder / "run", progress=False,
    )  # fmt: skip
    return folder / "index", folder / "run"


def data_of(page: Path) -> dict[str, Any]:
    text = page.with_name(f"{page.stem}.data.js").read_text()
    return json.loads(re.fullmatch(r"window\.DICTIONARY = (.*);\n", text, re.S)[1])  # type: ignore[index,no-any-return]


def test_every_feature_is_there_with_its_numbers(made: tuple[Path, Path]) -> None:
    index, run = made
    (page,) = write_dictionary_pages(index, pictures=[run])
    data = data_of(page)
    assert page.name.startswith("dictionary-mine-")
    assert len(data["features"]) == FEATURES
    density, strength, mean, photos, parents = data["features"][60]
    assert parents == [3, 5]
    assert 0 <= density <= 1
    assert strength == photos[0][1] >= photos[-1][1]
    assert mean <= strength
    assert data["features"][10][5] == [1200]
    assert data["features"][1200][5] == [10]
    assert data["features"][7][6] == "<b>stripes</b>"
    method, link = data["features"][12][7]
    assert data["methods"][method] == "pixels"
    assert (page.parent / unquote(link)).is_file()
    assert all((page.parent / file).is_file() for _, file in data["photos"])
    folder = str(index.parent)
    assert folder not in page.read_text()
    assert folder not in page.with_name(f"{page.stem}.data.js").read_text()
    size = page.with_name(f"{page.stem}.data.js").stat().st_size
    assert size < 150 * FEATURES
    stamps = {file: file.stat().st_mtime_ns for file in page.parent.rglob("*")}
    write_dictionary_pages(index, pictures=[run])
    assert stamps == {file: file.stat().st_mtime_ns for file in page.parent.rglob("*")}


def test_the_command_and_what_it_refuses(
    made: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], photo_folder: Path
) -> None:
    index, run = made
    assert main(["gallery", str(index), "--pictures", str(run), "--no-context"]) == 0
    page = Path(capsys.readouterr().out.strip())
    assert "photos are not shown" in page.read_text()
    assert not any(file for _, file in data_of(page)["photos"])
    for words, said in (
        (["gallery", str(index), "--out", str(tmp_path / "x")], "--out does not go with an index"),
        (["gallery", str(run), "--pictures", str(run)], "go with an index"),
    ):
        assert main(words) == 2
        assert said in capsys.readouterr().err
    model = Model(tiny_module(), tiny_card(), device="cpu")
    build_index(model, photo_folder, ["stage2"], out=tmp_path / "plain", k=5, bottom=2)
    with pytest.raises(UserError, match="holds no dictionary"):
        write_dictionary_pages(tmp_path / "plain")
    other = tmp_path / "other"
    shutil.copytree(photo_folder / "dot", other)
    with pytest.raises(UserError, match="are not those of the index"):
        write_dictionary_pages(index, photos=other)


def test_a_dictionary_that_changed_is_not_mixed_with_its_index(tmp_path: Path, photo_folder: Path) -> None:
    model = Model(tiny_module(), tiny_card(), device="cpu")
    whole = sparse(model)
    file = save(whole, tmp_path / "d.safetensors")
    build_index(model, photo_folder, [f"dict({file})"], out=tmp_path / "index", k=5, bottom=2)
    save(replace(whole, encoder=2 * whole.encoder), file)
    with pytest.raises(UserError, match="other numbers"):
        write_dictionary_pages(tmp_path / "index")


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture
def page(browser: Any, made: tuple[Path, Path]) -> Iterator[Any]:
    """The page, opened from the disk: a console message or a request that leaves the disk fails the test."""
    (file,) = write_dictionary_pages(made[0], pictures=[made[1]])
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    faults: list[str] = []
    opened.on("console", lambda message: faults.append(f"{message.type}: {message.text}"))
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("request", lambda request: request.url.startswith("file:") or faults.append(request.url))
    opened.goto(file.as_uri())
    yield opened
    context.close()
    assert faults == []


def first(page: Any) -> str:
    return str(page.locator(".feature h2").first.inner_text())


def test_browser_features_are_found_sorted_and_paged(page: Any) -> None:
    assert page.locator(".feature").count() == 48
    assert page.locator("#count").inner_text() == "2,000 features, page 1 of 42"
    page.keyboard.press("ArrowRight")
    assert first(page) == "48"
    page.keyboard.press("/")
    page.keyboard.type("1234")
    page.wait_for_function("document.querySelectorAll('.feature').length === 1")
    assert first(page) == "1234"
    assert "q=1234" in page.url
    page.fill("#q", "STRIPES")
    page.wait_for_function("document.querySelector('.feature h2').textContent.startsWith('7')")
    assert page.locator(".feature h2 small").inner_text() == "<b>stripes</b>"
    page.fill("#q", "dot/3.png")
    page.wait_for_function("document.querySelectorAll('.feature').length > 1")
    page.keyboard.press("Escape")
    page.select_option("#family", "children")
    assert [page.locator(".feature h2").nth(i).inner_text() for i in range(2)] == ["3", "5"]
    page.select_option("#sort", "children")
    assert first(page) == "3"
    page.get_by_role("link", name="60", exact=True).first.click()
    assert page.evaluate("document.activeElement.id") == "feature-60"
    page.select_option("#sort", "density")
    shares = [float(text.split()[0]) for text in page.locator(".numbers b:first-child").all_inner_texts()]
    assert shares == sorted(shares, reverse=True)
    page.select_option("#show", "picture")
    assert first(page) == "12"
    assert page.locator(".pictured img").first.evaluate("image => image.complete && image.naturalWidth > 0")
    page.reload()
    assert page.locator(".feature").count() == 1


def test_browser_keyboard_and_phone(page: Any) -> None:
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.id") == "feature-1"
    page.keyboard.press("k")
    page.keyboard.press("k")
    assert page.evaluate("document.activeElement.id") == "feature-0"
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()


def test_browser_the_address_of_a_feature_keeps_it(page: Any) -> None:
    """It opens on the feature, a reload stays there, and Back leads away from it."""
    at = "document.activeElement.id === 'feature-1999'"
    start = page.url
    page.goto(start + "#feature-1999")
    page.wait_for_function(at)
    assert page.url.endswith("?page=42#feature-1999")
    page.reload()
    page.wait_for_function(at)
    page.goto("about:blank")
    page.go_back()
    page.wait_for_function(at)
    page.go_back()
    page.wait_for_function("document.querySelector('.feature')?.id === 'feature-0'")
    assert page.url == start
    page.goto(start + "?q=60")
    page.get_by_role("link", name="3", exact=True).first.click()
    page.wait_for_function("document.activeElement.id === 'feature-3'")
    assert page.url.endswith("#feature-3")
    page.go_back()
    page.wait_for_function("document.querySelector('.feature')?.id === 'feature-60'")
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('.feature').id === 'feature-48'")
    assert page.url.endswith("?page=2")


def test_browser_a_jump_keeps_the_sort_and_drops_a_search_that_waits(page: Any) -> None:
    page.select_option("#sort", "children")
    page.select_option("#family", "children")
    page.get_by_role("link", name="60", exact=True).first.click()
    assert page.evaluate("document.activeElement.id") == "feature-60"
    assert [page.locator(at).input_value() for at in ("#sort", "#family")] == ["children", ""]
    assert "sort=children" in page.url
    page.reload()
    page.wait_for_function("document.activeElement.id === 'feature-60'")
    page.evaluate("""() => {
        const find = document.querySelector("#q");
        find.value = "1234";
        find.dispatchEvent(new Event("input", { bubbles: true }));
        document.querySelector("#feature-60 a[data-feature='5']").click();
    }""")
    page.wait_for_timeout(200)  # longer than a search waits for the next letter
    assert page.evaluate("document.activeElement.id") == "feature-5"
    assert page.locator("#q").input_value() == ""
    assert page.url.endswith("?sort=children#feature-5")

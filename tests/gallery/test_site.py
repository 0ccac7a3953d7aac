"""The site: its pages, links and files."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from entoptic.gallery.site import UNITS_WITHOUT_SCRIPT, build
from fake_run import NASTY, FakeRun, Page, data_of, evidence, unit_page


def test_pages_show_pictures_that_exist_with_alt_text(fake: FakeRun) -> None:
    fake.add()
    fake.add(method="maco")
    fake.add(unit='features.6:112@3,5#?% "', label="")
    index = build(fake.folder)
    assert index == fake.folder / "gallery" / "index.html"
    images = 0
    for path in index.parent.glob("*.html"):
        for image in Page(path).all("img"):
            images += 1
            assert image["alt"]
            assert (path.parent / unquote(str(image["src"]))).is_file()
    # Two columns and one card alone; each unit in the list without scripts and in that of all units.
    assert images == 3 + 2 + 2
    alts = [image["alt"] for image in unit_page(index).all("img")]
    assert "What logits:497 (church) of builtin:lite0 looks for, by vital, sample 0" in alts
    data = data_of(index)
    for unit in data["units"]:
        assert (index.parent / unquote(unit["href"])).is_file()
        for picture in unit["pictures"]:
            assert (index.parent / unquote(f"{data['base']}/{unit['folder']}/{picture['file']}")).is_file()


def test_nothing_is_fetched_from_elsewhere(fake: FakeRun) -> None:
    fake.add()
    index = build(fake.folder)
    for path in index.parent.glob("*.html"):
        for tag, attributes in Page(path).tags:
            for name, value in attributes.items():
                if tag == "a" and name == "href":
                    continue
                assert not re.search(r"(^|[\s\"'(,])(https?:)?//", value or ""), (path.name, tag, name, value)
    for asset in [*index.parent.glob("*.css"), *index.parent.glob("*.js")]:
        assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttpRequest", asset.read_text()), asset.name
    papers = [link["href"] for link in unit_page(index).all("a") if "arxiv" in str(link["href"])]
    assert papers == ["https://arxiv.org/abs/2503.22399"]


def test_links_of_every_page_lead_somewhere(fake: FakeRun) -> None:
    for unit in ("logits:1", "logits:2", "logits:10"):
        fake.add(unit=unit)
    index = build(fake.folder)
    for path in index.parent.glob("*.html"):
        page = Page(path)
        ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
        for link in page.all("a"):
            parts = urlsplit(str(link["href"]))
            if parts.scheme == "https":
                continue
            assert not parts.path or (path.parent / unquote(parts.path)).is_file(), link
            if not parts.path:
                assert unquote(parts.fragment) in ids, link
    # Units stand in natural order: 1, 2, 10.
    assert [unit["unit"] for unit in data_of(index)["units"]] == ["logits:1", "logits:2", "logits:10"]


def test_every_user_string_is_escaped(tmp_path: Path) -> None:
    fake = FakeRun(tmp_path / "run", title=NASTY)
    fake.add(
        label=NASTY,
        method_title=NASTY,
        paper="javascript:alert(1)",
        config={NASTY: NASTY},
        command=NASTY,
        trace={"loss": [[0, 1], [1, 2]], "notes": [NASTY], "stopped": NASTY},
        readout=NASTY,
        evidence=[evidence(NASTY, None, reason=NASTY, detail={NASTY: NASTY})],
        versions={NASTY: NASTY},
    )
    index = build(fake.folder)
    for path in index.parent.glob("*.html"):
        page = Page(path)
        assert all("src" in script for script in page.all("script"))
        assert NASTY in page.text
        assert not any("javascript:" in str(link["href"]) for link in page.all("a"))
        assert "<script>alert" not in path.read_text()


def test_unchanged_pages_are_not_rewritten_and_stale_ones_go(fake: FakeRun) -> None:
    fake.add(unit="logits:1")
    fake.add(unit="logits:5")
    gone = fake.add(unit="logits:9")
    index = build(fake.folder)
    (index.parent / "unit-mine.html").write_text("a reader's own file")
    for path in index.parent.iterdir():
        os.utime(path, (1, 1))
    build(fake.folder)
    assert {path.stat().st_mtime for path in index.parent.iterdir()} == {1}
    gone.unlink()
    gone.with_suffix(".json").unlink()
    build(fake.folder)
    assert not (index.parent / "unit-logits-9.html").exists()
    assert (index.parent / "unit-mine.html").exists()
    assert (index.parent / "unit-logits-1.html").stat().st_mtime == 1  # not a neighbour of the one that went


def test_the_gallery_can_go_elsewhere(fake: FakeRun, tmp_path: Path) -> None:
    fake.add()
    index = build(fake.folder, tmp_path / "site" / "deep")
    source = str(Page(index.parent / "unit-logits-497.html").all("img")[0]["src"])
    assert source.startswith("../../run/pictures/")
    assert (index.parent / source).is_file()


@pytest.mark.slow
def test_ten_thousand_pictures(fake: FakeRun) -> None:
    first = fake.add(unit="logits:0")
    sidecar = json.loads(first.with_suffix(".json").read_text())
    for number in range(1, 10_000):
        unit, sample = number // 2, number % 2
        folder = fake.folder / "pictures" / f"logits-{unit}"
        folder.mkdir(exist_ok=True)
        key = f"{number:064x}"
        file = folder / f"vital-{sample}-{number:012x}.png"
        os.link(first, file)
        image = {**sidecar["image"], "file": file.name}
        text = json.dumps({**sidecar, "unit": f"logits:{unit}", "key": key, "sample": sample, "image": image})
        file.with_suffix(".json").write_text(text)
    start = time.process_time()  # of this process: other work on the machine is no fault of the gallery's
    index = build(fake.folder)
    assert time.process_time() - start < 20
    assert len(Page(index).all("img")) <= UNITS_WITHOUT_SCRIPT
    assert sum(len(unit["pictures"]) for unit in data_of(index)["units"]) == 10_000
    assert len(list(index.parent.glob("unit-*.html"))) == 5_000


def test_names_that_are_not_utf8_are_shown_escaped(tmp_path: Path) -> None:
    fake = FakeRun(tmp_path / "run", title="caf\udce9")
    fake.add(unit="fmap(stage1)<caf\udce9.png>", label="ü\udcff")
    index = build(fake.folder)
    pages = "".join(path.read_text(encoding="utf-8") for path in index.parent.glob("*.html"))
    assert r"caf\udce9.png" in pages
    assert r"ü\udcff" in pages

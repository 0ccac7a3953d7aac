"""The gallery: what its pages say and link to, and how they behave in a browser."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from entoptic.errors import UserError
from entoptic.gallery import explain
from entoptic.gallery.site import UNITS_PER_PAGE, build

NASTY = """<b>"O'Hara" & sons</b><script>alert(1)</script>"""
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


def png(colour: tuple[int, int, int] = (90, 120, 60), size: int = 4) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(buffer, "PNG")
    return buffer.getvalue()


def evidence(name: str, value: float | None, **more: Any) -> dict[str, Any]:
    interval = None if value is None else [value, value]
    base = {"n": 3, "interval": interval, "direction": "higher", "scale": "", "reason": None, "detail": {}}
    return {"name": name, "value": value, **base, **more}


class Fake:
    """A run folder that is filled picture by picture."""

    def __init__(self, folder: Path, title: str = "A run") -> None:
        self.folder = folder
        (folder / "pictures").mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"entoptic": "0.1.0", "created": "2026-01-02", "title": title}))

    def add(self, unit: str = "logits:497", method: str = "vital", sample: int = 0, **more: Any) -> Path:
        slug = re.sub(r"\W", "-", unit)
        target = self.folder / "pictures" / slug
        target.mkdir(exist_ok=True)
        key = hashlib.sha256(json.dumps([unit, method, sample, more], sort_keys=True).encode()).hexdigest()
        file = target / f"{method}-{sample}-{key[:12]}.png"
        file.write_bytes(png())
        sidecar = {
            "format": 1,
            "key": key,
            "unit": unit,
            "label": "church",
            "layer": "logits",
            "readout": "value",
            "method": method,
            "method_title": method.upper(),
            "paper": "arXiv:2503.22399",
            "config": {"steps": 300},
            "seed": 0,
            "sample": sample,
            "model": {
                "name": "builtin:lite0",
                "weights_sha256": "ab" * 32,
                "licence": "apache-2.0",
                "size": [4, 4],
            },
            "references": {"source": "shipped pack", "n": 50, "sha256": "cd" * 32},
            "versions": {"torch": "2.15.0"},
            "command": f"entoptic see builtin:lite0 {unit} --method {method}",
            "image": {"file": file.name, "sha256": "ef" * 32, "width": 4, "height": 4},
            "trace": {
                "steps": 300,
                "loss": [[0, 35.6], [50, 7.9]],
                "notes": [],
                "seconds": 2.0,
                "stopped": "finished",
            },
            "evidence": [evidence("transfer_top1", 2 / 3, interval=[0.2, 0.9], detail={"lite1": 1})],
            **more,
        }
        file.with_suffix(".json").write_text(json.dumps(sidecar))
        return file

    def surround(self, unit: str = "logits:497", **more: Any) -> dict[str, Any]:
        """Writes the context of a unit."""
        place = self.folder / "context" / re.sub(r"\W", "-", unit)
        place.mkdir(parents=True)
        for name in ("top-1.jpg", "top-1.crop.jpg", "top-1.where.png", "top-2.jpg", "bottom-1.jpg"):
            (place / name).write_bytes(png())
        entry = {"photo": "church/1.jpg", "label": "church", "value": 12.5}
        bars = [("church", 4.0, 3.0, 5.0), ("gas pump", 1.0, -1.0, 3.0), ("tench", -2.0, -2.5, -1.5)]
        record = {
            "format": 1,
            "weights_sha256": "ab" * 32,
            "photos": {"source": "photos", "n": 250},
            "strongest": [
                {**entry, "file": "top-1.jpg", "crop": "top-1.crop.jpg", "where": "top-1.where.png"},
                {**entry, "file": "top-2.jpg", "label": "", "value": 11},
            ],
            "weakest": [{**entry, "file": "bottom-1.jpg", "label": NASTY, "value": -3.25}],
            "classes": [{"label": c, "mean": m, "low": a, "high": b, "n": 25} for c, m, a, b in bars],
            **more,
        }
        (place / "context.json").write_text(json.dumps(record))
        return record

    def cost(self, unit: str = "logits:497", **more: Any) -> dict[str, Any]:
        """Writes the record of a unit's frontier."""

        def about(value: float, spread: float | None = None) -> dict[str, Any]:
            interval = None if spread is None else [value - spread, value + spread]
            return {"value": value, "se": 0.1, "interval": interval}

        told = {"excess": about(0.5), "naturalness": {}, "note": ""}
        record = {
            "unit": unit,
            "label": "church",
            "model": {"name": "builtin:lite0", "weights_sha256": "ab" * 32},
            "prior": {"name": "builtin:small-32"},
            "asked": {"nats": 8.0},
            "frontier": {"points": [{"nats": about(i, 0), "mean": about((2 * i) ** 0.5, 0.1)} for i in range(9)]},
            "places": [
                {"kind": "law", "title": "klsc", "nats": about(8, 0.2), "mean": about(4, 0.1), **told},
                {
                    "kind": "bounds",
                    "title": "energydps",
                    "nats": about(5, 1),
                    "path_nats": about(90),
                    "mean": about(3),
                    **told,
                },
                {"kind": "point", "title": "vital", "nats": None, "mean": about(7), **told, "excess": None},
                {"kind": "level", "title": "mean of 50 real photos", "nats": None, "mean": about(1), "excess": None},
            ],
            "notes": [],
            "failures": [],
            "command": f"entoptic frontier builtin:lite0 {unit}",
            **more,
        }
        place = self.folder / "frontier"
        place.mkdir(exist_ok=True)
        (place / (re.sub(r"\W", "-", unit) + ".json")).write_text(json.dumps(record))
        return record


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return Fake(tmp_path / "run")


class Page(HTMLParser):
    """The tags and the visible text of one page; `noscript` text is kept."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(self.text.replace("\N{NO-BREAK SPACE}", " ").split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def data_of(index: Path) -> dict[str, Any]:
    text = (index.parent / "data.js").read_text()
    return json.loads(text.removeprefix("window.ENTOPTIC = ").removesuffix(";\n"))  # type: ignore[no-any-return]


def unit_page(index: Path, name: str = "unit-logits-497") -> Page:
    return Page(index.parent / f"{name}.html")


# ---- words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (evidence("transfer_top1", 2 / 3), "2 of 3 other networks see a church too (they were never"),
        (
            evidence("transfer_top1", 1.0),
            "All 3 other networks see a church too (they were never optimised).",
        ),
        (
            evidence("transfer_top1", 0.0),
            "None of 3 other networks sees a church (they were never optimised).",
        ),
        (
            evidence("transfer_top1", 1.0, n=1),
            "The one other network sees a church too (it was never optimised).",
        ),
        (evidence("transfer_top5", 1 / 3), "1 of 3 other networks has “church” among its five best guesses"),
        (evidence("percentile", 99.97, n=4000), "harder than 99.9 % of 4,000 real photos"),
        (evidence("percentile", 100, n=10), "harder than every one of 10 real photos"),
        (evidence("margin", -1.25, n=500, scale="logit"), "Stays 1.25 logit below the best of 500 real"),
        (
            evidence("margin", 2.5, n=500, scale="logit"),
            "harder than the best of 500 real photos, by 2.5 logit.",
        ),
        (evidence("rank", 1, n=1000), "Of the 1,000 units in its layer, this one answers the picture most"),
        (evidence("rank", 2, n=1000), "1 other answers the picture more strongly"),
        (evidence("robustness", 0.87), "Keeps 87 % of its activation"),
        (evidence("activation", 12.3, scale="logit"), "drives the unit to 12.3 logit."),
        (
            evidence("transfer_top1", 1.0, n=1, scale="among 10 classes"),
            "The one other network sees a church too (it was never optimised; asked among 10 classes).",
        ),
        (evidence("transfer_probability", 0.61, scale="among 10 classes"), "a probability of 61 % among 10 classes."),
        (evidence("transfer_probability", 0.61), "give “church” a probability of 61 %"),
        (evidence("selectivity", 2.5, n=319), "stirs this unit more than 99 % of the 319 other units"),
        (evidence("selectivity", -1.5, n=319), "the most stirred 1 % of the 319 other units of its layer 1.5 standard"),
        (
            evidence("causal", 0.4, n=12, detail={"photos among themselves": 0.5, "photos at random": 0.02}),
            "as it does to the 12 photos that drive it most: likeness 0.4 of 1. Those photos among themselves reach 0.5, "
            "photos at random 0.02.",
        ),
        (
            evidence("relevance_agreement", 0.4, detail={"photos among themselves": 0.42, "photos at random": 0.4}),
            "The two are so close that this says little about the picture.",
        ),
        (evidence("causal", 0.4, detail={"photos at random": None}), "drive it most: likeness 0.4 of 1."),
    ],
)
def test_known_evidence_is_put_in_words(item: dict[str, Any], expected: str) -> None:
    sentence = explain.explain(item, label="church").sentence.replace("\N{NO-BREAK SPACE}", " ")
    assert expected in sentence


def test_nats_are_told_with_their_law() -> None:
    detail = {"law": "prior tilted by exp(β s)", "prior": "builtin:small-32", "beta": 3.9, "mean_in_sd": 4.1, "ess": 88}
    reading = explain.explain(
        evidence("nats", 8.0, interval=[7.5, 8.5], direction="lower", scale="nats", detail=detail)
    )
    assert reading.sentence == (
        "Drawn from a distribution that is 8 nats from the prior builtin:small-32 (prior tilted by exp(β s)); its mean score is "
        "4.1 standard deviations above the prior’s."
    )
    assert reading.interval == f"7.5 to 8.5{explain.SPACE}nats"
    assert reading.better == "lower is better"
    assert dict(reading.detail) == {"β per standard deviation": "3.9", "effective samples": "88"}
    drawn = explain.explain(evidence("nats", 8.0, scale="nats", detail={**detail, "score_in_sd": -0.5}))
    assert drawn.sentence.endswith(
        "above the prior’s; this picture’s score is 0.5 standard deviations below the prior’s mean."
    )
    why = "one optimised picture is a point mass: no number of nats bounds its distance from any prior"
    missing = explain.explain(evidence("nats", None, reason=why, detail={"kind": "point"}))
    assert missing.chip == "nats unbounded"
    assert why in missing.sentence
    assert explain.explain(evidence("nats", None, reason="refused")).chip == "nats not known"


def test_the_score_of_one_picture_is_not_told_as_a_mean() -> None:
    law = {"law": "one rank of N samples of the prior", "prior": "builtin:small-32"}
    now = explain.explain(evidence("nats", 6.6, scale="nats", detail={**law, "score": 8.25, "score_in_sd": 3.4}))
    assert now.sentence.endswith("; this picture’s score is 3.4 standard deviations above the prior’s mean.")
    assert "mean score" not in now.sentence
    assert dict(now.detail) == {"score of this picture": "8.25"}
    before = explain.explain(evidence("nats", 6.6, scale="nats", detail={**law, "mean": 8.25, "mean_in_sd": 3.4}))
    assert before == now, "records that called it a mean read the same"


def test_labels_take_the_article_that_fits() -> None:
    labels = ["church", "English springer", "sunglasses", "compass", "unicycle"]
    expected = ["a church", "an English springer", "sunglasses", "a compass", "a unicycle"]
    assert [explain.with_article(label) for label in labels] == expected


@given(st.floats(0, 100))
def test_a_percentage_is_all_or_none_only_where_it_is(value: float) -> None:
    assert (explain.percentile(value) == "100") == (value == 100)
    assert (explain.percentile(value) == "0") == (value == 0)


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_numbers_keep_their_sign_and_size(value: float) -> None:
    text = explain.number(value).replace(explain.MINUS, "-").replace(",", "")
    assert float(text) == pytest.approx(value, rel=0.051, abs=1e-30)


def test_likeness_is_judged_by_what_photos_get() -> None:
    def tone(value: float, high: float) -> str:
        detail = {"photos among themselves": high, "photos at random": 0.1}
        return explain.explain(evidence("causal", value, detail=detail)).tone

    assert [tone(v, 0.3) for v in (0.3, 0.2, 0.11)] == ["good", "mixed", "poor"]
    assert tone(0.3, 0.9) == "poor"
    assert tone(0.3, 0.12) == ""


def test_unknown_evidence_shows_value_interval_and_n() -> None:
    reading = explain.explain(evidence("edge_energy", 0.25, interval=[0.1, 0.4], n=7))
    assert (reading.title, reading.value, reading.interval, reading.n) == (
        "Edge energy",
        "0.25",
        "0.1 to 0.4",
        "7",
    )


def test_infinite_evidence_is_not_a_value() -> None:
    reading = explain.explain(evidence("activation", float("nan")))
    assert reading.value is None
    assert "nan" in reading.sentence


def test_the_headline_is_measured_evidence() -> None:
    readings = [explain.explain(evidence(*item)) for item in (("transfer_top1", None), ("odd", 1.0), ("rank", 1.0))]
    headline = explain.headline(readings)
    assert headline is not None
    assert headline.name == "rank"
    assert explain.headline(readings[:1]) is None


# ---- pages ---------------------------------------------------------------------------------------


def test_pages_show_pictures_that_exist_with_alt_text(fake: Fake) -> None:
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
    assert images == 5  # two cards and two columns, and one card alone
    alts = [image["alt"] for image in unit_page(index).all("img")]
    assert "What logits:497 (church) of builtin:lite0 looks for, by vital, sample 0" in alts
    data = data_of(index)
    for unit in data["units"]:
        assert (index.parent / unquote(unit["href"])).is_file()
        for picture in unit["pictures"]:
            assert (index.parent / unquote(f"{data['base']}/{unit['folder']}/{picture[3]}")).is_file()


def test_nothing_is_fetched_from_elsewhere(fake: Fake) -> None:
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


def test_links_of_every_page_lead_somewhere(fake: Fake) -> None:
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


def test_names_that_are_not_utf8_are_shown_escaped(tmp_path: Path) -> None:
    fake = Fake(tmp_path / "run", title="caf\udce9")
    fake.add(unit="fmap(stage1)<caf\udce9.png>", label="ü\udcff")
    index = build(fake.folder)
    pages = "".join(path.read_text(encoding="utf-8") for path in index.parent.glob("*.html"))
    assert r"caf\udce9.png" in pages
    assert r"ü\udcff" in pages


def test_every_user_string_is_escaped(tmp_path: Path) -> None:
    fake = Fake(tmp_path / "run", title=NASTY)
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
        assert page.all("b") == [] or all("O'Hara" not in str(item) for item in page.all("b"))
        assert all("src" in script for script in page.all("script"))
        assert NASTY in page.text
        assert not any("javascript:" in str(link["href"]) for link in page.all("a"))
        assert "<script>alert" not in path.read_text()


def test_the_unit_page_tells_everything_of_a_picture(fake: Fake) -> None:
    missing = evidence("robustness", None, reason="the unit is silent on this picture", interval=None, n=None)
    fake.add(
        evidence=[
            evidence("transfer_top1", 2 / 3, interval=[0.2, 0.9], detail={"lite1": 1, "v2": 12}),
            missing,
        ]
    )
    page = unit_page(build(fake.folder))
    for text in (
        "2 of 3 other networks see a church too",
        "20 to 90 %",
        "Not measured: the unit is silent on this picture.",
        "lite1 1st guess",
        "v2 12th guess",
        "Loss 35.6 → 7.9",
        "300 steps in 2 s, finished",
        "ef" * 32,
        "ab" * 32,
        "shipped pack",
        "torch version 2.15.0",
        "entoptic see builtin:lite0 logits:497 --method vital",
        "steps 300",
    ):
        assert text in page.text, text
    assert any(str(item.get("id")).startswith("vital-0-") for item in page.all("article"))
    assert page.all("path")


def test_pictures_of_one_sample_are_told_apart_by_what_differs(fake: Fake) -> None:
    fake.add(config={"steps": 100, "same": 1})
    fake.add(config={"steps": 500, "same": 1})
    page = unit_page(build(fake.folder))
    assert "steps 100" in page.text
    assert "steps 500" in page.text
    assert "same 1," not in page.text


def _no_json(file: Path) -> None:
    file.with_suffix(".json").write_text('{"format": 1,')


def _no_sidecar(file: Path) -> None:
    file.with_suffix(".json").unlink()


def _no_picture(file: Path) -> None:
    file.unlink()


def _not_png(file: Path) -> None:
    file.write_bytes(b"GIF89a" + b"\0" * 40)


def _edited(**changes: Any) -> Callable[[Path], None]:
    def edit(file: Path) -> None:
        path = file.with_suffix(".json")
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_no_json, "not valid JSON"),
        (_no_sidecar, "its sidecar is missing"),
        (_no_picture, "there is a sidecar but no picture"),
        (_not_png, "not a PNG"),
        (_edited(unit=None), 'no "unit"'),
        (_edited(sample="x"), 'no "sample" number'),
        (_edited(image={}), 'no "image"'),
        (_edited(image={"file": "../../../secret.png"}), "names another file"),
        (_edited(evidence=[{"name": "rank", "value": "one"}]), '"rank" in its sidecar is not a number'),
        (_edited(evidence=[7]), "a measurement without a name"),
    ],
)
def test_a_broken_picture_is_left_out_and_listed(fake: Fake, damage: Callable[[Path], None], reason: str) -> None:
    fake.add()
    broken = fake.add(method="maco")
    damage(broken)
    index = build(fake.folder)
    text = Page(index).text
    assert f"left out: logits-497/{broken.stem}" in text
    assert reason in text
    assert len(data_of(index)["units"][0]["pictures"]) == 1


@pytest.mark.parametrize(
    "junk",
    [
        {"trace": 7},
        {"trace": {"loss": 3, "notes": 4}},
        {"config": []},
        {"model": None},
        {"references": "x"},
        {"versions": [1]},
        {"evidence": None},
    ],
)
def test_optional_parts_in_another_form_cost_only_themselves(fake: Fake, junk: dict[str, Any]) -> None:
    fake.add(**junk)
    assert "church" in unit_page(build(fake.folder)).text


def test_no_pictures_and_no_folder_are_user_errors(fake: Fake, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no picture to show"):
        build(fake.folder)
    _no_json(fake.add())
    with pytest.raises(UserError, match="left out"):
        build(fake.folder)
    with pytest.raises(UserError, match="no run folder"):
        build(tmp_path / "absent")
    fake.add(method="maco")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the gallery"):
        build(fake.folder, tmp_path / "file")


def test_a_missing_run_file_is_noted_and_not_fatal(fake: Fake) -> None:
    fake.add()
    (fake.folder / "run.json").unlink()
    assert "left out: run.json (the file is missing)" in Page(build(fake.folder)).text


def test_two_models_in_one_folder_get_pages_of_their_own(fake: Fake) -> None:
    fake.add()
    fake.add(model={"name": "timm:resnet18"})
    names = [unit["id"] for unit in data_of(build(fake.folder))["units"]]
    assert names[0] == "unit-logits-497"
    assert names[1].startswith("unit-logits-497-")
    assert len(names) == 2


def test_unchanged_pages_are_not_rewritten_and_stale_ones_go(fake: Fake) -> None:
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


def test_the_gallery_can_go_elsewhere(fake: Fake, tmp_path: Path) -> None:
    fake.add()
    index = build(fake.folder, tmp_path / "site" / "deep")
    source = str(Page(index.parent / "unit-logits-497.html").all("img")[0]["src"])
    assert source.startswith("../../run/pictures/")
    assert (index.parent / source).is_file()


@pytest.mark.slow
def test_ten_thousand_pictures(fake: Fake) -> None:
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
    assert len(Page(index).all("img")) <= UNITS_PER_PAGE
    assert sum(len(unit["pictures"]) for unit in data_of(index)["units"]) == 10_000
    assert len(list(index.parent.glob("unit-*.html"))) == 5_000


# ---- real photos and maps -----------------------------------------------------------------------------


def _sources(page: Page) -> list[str]:
    sources = [str(image["src"]) for image in page.all("img")]
    assert all((page.path.parent / unquote(source)).is_file() for source in sources)
    assert all(image["alt"] for image in page.all("img"))
    return sources


def test_the_picture_stands_beside_photos_crops_and_classes(fake: Fake, tmp_path: Path) -> None:
    fake.add()
    fake.surround()
    for out in (None, tmp_path / "else" / "where"):
        page = unit_page(build(fake.folder, out))
        names = [Path(source).name for source in _sources(page)]
        assert names[1:6] == ["top-1.jpg", "top-1.where.png", "top-1.crop.jpg", "top-2.jpg", "bottom-1.jpg"]
        assert names[0] == names[6]  # the picture beside the strips, then on its own
        assert "Beside real photos the most and least of 250" in page.text
        assert "12.5 church" in page.text
        assert "11 church/1.jpg" in page.text  # without a label, the photo's name
        assert f"−3.25 {NASTY}" in page.text
        assert "gas pump 1 n 25" in page.text
        titles = [row.get("title") for row in page.all("tr") if row.get("title")]
        assert titles[1] == "gas pump: mean 1, 95 % interval −1 to 3, n 25"
        # The axis reaches from -2.5 to 5, so 0 lies at a third.
        bars = [str(span["style"]) for span in page.all("span") if str(span.get("style") or "").startswith("left")]
        assert bars == ["left:33.33%;width:53.33%", "left:33.33%;width:13.33%", "left:6.67%;width:26.67%"]


@pytest.mark.parametrize(
    "change",
    [
        {"weights_sha256": "other weights"},
        {"strongest": []},
        {"strongest": 3},
        {"strongest": [{"file": "../../../../etc/passwd", "value": 1}]},
        {"strongest": [{"file": "top-1.jpg", "value": "high"}]},
    ],
)
def test_context_that_does_not_fit_is_left_out(fake: Fake, change: dict[str, Any]) -> None:
    fake.add()
    fake.surround(**change)
    page = unit_page(build(fake.folder))
    assert "Beside real photos" not in page.text
    assert len(_sources(page)) == 1


@pytest.mark.parametrize(
    "classes", [None, 7, [], [{"label": "one", "mean": 1, "low": 1, "high": 1}], [{"mean": "x"}] * 3]
)
def test_photos_without_classes_are_shown_without(fake: Fake, classes: Any) -> None:
    fake.add()
    fake.surround(classes=classes, photos=None, weakest=None)
    page = unit_page(build(fake.folder))
    assert "Photos that drive it most" in page.text
    assert "Classes" not in page.text
    assert "drive it least" not in page.text


def test_maps_lie_over_the_picture_they_belong_to(fake: Fake) -> None:
    (fake.folder / "maps" / "u").mkdir(parents=True)
    for name in ("x.where.png", "x.alpha.png"):
        (fake.folder / "maps" / "u" / name).write_bytes(png())
    fake.add(maps={"where": {"file": "maps/u/x.where.png"}, "alpha": {"file": "maps/u/x.alpha.png"}})
    for junk in (7, {"where": {"file": "../secret.png"}, "alpha": {"file": "maps/u/gone.png"}}, {"where": "x"}):
        fake.add(method="maco", maps=junk)
    page = unit_page(build(fake.folder))
    over = [image for image in page.all("img") if "over" in str(image.get("class"))]
    assert [Path(str(image["src"])).name for image in over] == ["x.alpha.png", "x.where.png"]
    assert len(_sources(page)) == 2 + 4 * 2  # each picture in its card and in the comparison


def test_the_same_noise_without_the_unit_stands_beside_the_picture(fake: Fake) -> None:
    (fake.folder / "maps" / "u").mkdir(parents=True)
    (fake.folder / "maps" / "u" / "x.pair.png").write_bytes(png())
    fake.add(method="klsc", maps={"pair": {"file": "maps/u/x.pair.png"}})
    fake.add(method="best-of", maps={"pair": {"file": "maps/u/gone.png"}})
    page = unit_page(build(fake.folder))
    (image,) = [image for image in page.all("img") if str(image["src"]).endswith("x.pair.png")]
    assert "without the unit" in str(image["alt"])
    assert page.text.count("what it starts from, without the unit") == 1
    # A link, so that the keyboard reaches it.
    assert next(link for link in page.all("a") if link.get("class") == "pair")["href"] == image["src"]


def test_the_frontier_is_drawn_with_its_table(fake: Fake) -> None:
    fake.add()
    assert "What it costs" not in unit_page(build(fake.folder)).text
    fake.cost(notes=["a remark"], failures=["maco: needs photos"])
    page = unit_page(build(fake.folder))
    for told in (
        "What it costs",
        "in nats from builtin:small-32",
        "unbounded",
        "at least 5",
        "another prior",
        "a remark",
    ):
        assert told in page.text
    assert "failed: maco: needs photos" in page.text
    assert "point mass" in page.text
    assert "entoptic frontier builtin:lite0 logits:497" in page.text
    (figure,) = [tag for tag in page.all("svg") if tag.get("id") == "frontier"]
    assert figure["role"] == "img"
    assert "xmlns" not in figure


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"name": "x", "weights_sha256": "another"}},
        {"frontier": None},
        {"frontier": {"points": []}},
        {"frontier": {"points": [{"nats": "<b>", "mean": 1}]}},
        {"places": [{"kind": "law"}]},
        {"places": 7},
        {"asked": None},
    ],
)
def test_a_frontier_that_does_not_fit_is_left_out(fake: Fake, change: dict[str, Any]) -> None:
    fake.add()
    fake.cost(**change)
    page = unit_page(build(fake.folder))
    assert "What it costs" not in page.text
    assert "logits:497" in page.text


def test_a_frontier_is_escaped(fake: Fake) -> None:
    fake.add()
    record = fake.cost(label=NASTY, notes=[NASTY], prior={"name": NASTY}, command=NASTY)
    for place in record["places"]:
        place["title"] = NASTY
    fake.cost(**record)
    page = unit_page(build(fake.folder))
    assert "What it costs" in page.text
    assert [tag for tag in page.all("script") if not tag.get("src")] == []
    assert NASTY in page.text


# ---- style ---------------------------------------------------------------------------------------


def _style() -> str:
    return resources.files("entoptic.gallery").joinpath("templates", "style.css").read_text(encoding="utf-8")


def _themes() -> list[dict[str, str]]:
    rules = re.findall(r"\{([^{}]*)\}", _style())
    blocks = [dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", rule)) for rule in rules]
    return [block for block in blocks if "paper" in block]


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_meets_the_contrast_of_wcag_aa_in_both_themes() -> None:
    light, dark_by_system, dark_by_choice = _themes()
    assert dark_by_system == dark_by_choice
    for theme in (light, dark_by_choice):
        for ink in ("ink", "muted", "accent", "good", "mixed", "poor"):
            for ground in ("paper", "raised"):
                low, high = sorted((_luminance(theme[ink]), _luminance(theme[ground])))
                assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, ground)


# ---- in a browser --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is not installed")
    if not CHROMIUM.is_file():
        pytest.skip(f"no {CHROMIUM}; Debian's package chromium has it")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fake = Fake(tmp_path_factory.mktemp("browser") / "run")
    for number in range(2 * UNITS_PER_PAGE + 5):
        label = NASTY if number == 3 else "church" if number == 70 else f"thing {number}"
        fake.add(unit=f"logits:{number}", label=label)
    (fake.folder / "maps" / "u").mkdir(parents=True)
    for name in ("where", "alpha"):
        (fake.folder / "maps" / "u" / f"{name}.png").write_bytes(png())
    maps = {name: {"file": f"maps/u/{name}.png"} for name in ("where", "alpha")}
    fake.add(unit="logits:70", label="church", method="maco", maps=maps)
    fake.surround("logits:70")
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
    image = page.locator(".large img").first
    assert image.bounding_box()["width"] == 4  # shown as it is
    page.keyboard.press("z")
    assert image.bounding_box()["width"] == 8


def test_browser_lays_maps_over_pictures_and_takes_them_off(page: Any, site: Path) -> None:
    page.goto((site.parent / "unit-logits-70.html").as_uri())
    opacity = "(name) => [...document.querySelectorAll(`.over.${name}`)].map((one) => getComputedStyle(one).opacity)"
    page.add_style_tag(content="* { transition: none !important; }")
    assert page.evaluate(opacity, "where") == ["0", "0"]  # on a photo and on the picture
    page.get_by_role("button", name="Where it looks").click()
    assert all(float(value) > 0.5 for value in page.evaluate(opacity, "where"))
    buttons = page.locator("[data-action=where]")
    assert {buttons.nth(i).get_attribute("aria-pressed") for i in range(buttons.count())} == {"true"}
    page.keyboard.press("w")
    assert page.evaluate(opacity, "where") == ["0", "0"]
    page.keyboard.press("a")
    assert page.evaluate(opacity, "alpha") == ["1"]
    assert page.evaluate("getComputedStyle(document.querySelector('.frame:has(.alpha) > img')).opacity") == "0"
    # A map lies exactly over its picture.
    for kind in (".frame", ".strip .stack"):
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


def test_browser_fits_a_phone(page: Any, site: Path) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    for name in ("index.html", "unit-logits-70.html"):
        page.goto((site.parent / name).as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 360

"""What the index is drawn from: small, complete, and without folders of the machine."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from entoptic.gallery import site
from entoptic.gallery.index_data import index_data
from entoptic.gallery.kinds import Kind, heading
from entoptic.gallery.read_run import StoredPicture, read_run
from entoptic.gallery.site import build
from entoptic.gallery.unit_pages import group_by_unit
from fake_run import FakeRun, Page, data_of, evidence


def test_the_index_holds_every_number(fake: FakeRun) -> None:
    fake.add(evidence=[evidence("rank", 3, n=10), evidence("nats", 12.345), evidence("causal", None)])
    fake.add(method="maco", evidence=[evidence("percentile", 99.97, n=10)])
    data = data_of(build(fake.folder))
    assert [name for name, _, _ in data["metrics"]] == ["rank", "nats", "percentile"]
    first, second = data["units"][0]["pictures"]
    assert first["values"] == {"rank": 3, "nats": 12.35}
    assert second["values"] == {"rank": None, "nats": None, "percentile": 99.97}
    assert (second["text"].replace("\N{NO-BREAK SPACE}", " "), second["tone"]) == ("above 99.9 % of photos", "good")


def test_the_search_knows_the_labels_of_the_strongest_photos(fake: FakeRun) -> None:
    fake.add()
    fake.surround()
    assert "gas pump" in data_of(build(fake.folder))["units"][0]["words"]


def _stored(number: int) -> StoredPicture:
    share = 20 + 0.04 * number
    names = ("activation", "margin", "robustness", "selectivity", "relevance_agreement", "causal")
    measured: list[dict[str, Any]] = [evidence(name, (37 * number % 997) / 100) for name in names]
    measured += [
        evidence("rank", number % 112, n=112),
        evidence("percentile", share, n=1650, interval=[share - 2, share]),
    ]
    key = f"{number:064x}"[::-1]
    sidecar = {
        "unit": f"blocks.6:{number}", "layer": "blocks.6", "method": "vital", "sample": 0, "key": key,
        "model": {"name": "builtin:lite0"}, "evidence": measured,
    }  # fmt: skip
    return StoredPicture(
        folder=f"blocks.6-{number}", file=f"vital-0-{key[:12]}.png", width=224, height=224, sidecar=sidecar
    )


def test_thousands_of_units_fit_in_300_kilobytes(fake: FakeRun) -> None:
    fake.add()
    index = build(fake.folder)
    assets = re.findall(r'(?:src|href)="([\w.]+\.(?:js|css))"', index.read_text())
    rest = sum((index.parent / name).stat().st_size for name in assets if name != "data.js")
    pages = group_by_unit([_stored(number) for number in range(2000)])
    data = index_data(pages, "../pictures", {}, heading(Kind.UNITS, "", ["builtin:lite0"]))
    size = len(json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode())
    assert len(data["units"]) == 2000
    assert size + rest + index.stat().st_size < 300_000


def test_the_index_itself_stays_small(fake: FakeRun) -> None:
    for number in range(40):
        fake.add(unit=f"logits:{number}")
    index = build(fake.folder)
    assert len(Page(index).all("img")) == 24, "without scripts, the first units stand on the index"
    assert len(Page(index.parent / "units.html").all("img")) == 40, "and all of them on a page of their own"
    assert "units.html" in {link["href"] for link in Page(index).all("a")}


def test_without_scripts_every_unit_of_a_large_run_is_on_one_of_several_pages(
    fake: FakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "UNITS_ON_A_LIST", 20)
    for number in range(45):
        fake.add(unit=f"logits:{number}")
    out = build(fake.folder).parent
    lists = ["units.html", "units-2.html", "units-3.html"]
    linked = [
        {link["href"] for link in Page(out / name).all("a") if link["href"].startswith("unit-")} for name in lists
    ]
    assert [len(one) for one in linked] == [20, 20, 5]
    assert set.union(*linked) == {f"unit-logits-{number}.html" for number in range(45)}, "no unit is lost"
    for name in lists:
        assert set(lists) <= {link["href"] for link in Page(out / name).all("a")}
    monkeypatch.setattr(site, "UNITS_ON_A_LIST", 1000)
    build(fake.folder)
    assert not (out / "units-2.html").exists(), "pages that are gone are removed"


def test_the_sidecars_of_a_run_are_not_held_whole(fake: FakeRun) -> None:
    """What is held of a picture is much smaller than what it says: runs of 100,000 pictures fit into the memory."""
    for number in range(3):
        fake.add(unit=f"logits:{number}", notes=["a long note, the same again and again"] * 2000)
    pictures = read_run(fake.folder).pictures
    for one in pictures:
        _ = one.glance
        assert len(one.sidecar["notes"]) == 2000
        assert dict(one.sidecar) == json.loads(
            (fake.folder / "pictures" / one.folder / one.file).with_suffix(".json").read_text()
        )
        assert len(one.sidecar._packed) < 5000  # type: ignore[attr-defined]
        assert "readings" not in vars(one)
    assert pictures[0].sidecar["model"] is pictures[1].sidecar["model"]

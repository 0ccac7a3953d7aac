"""An invented run folder, and a reader of the pages that the gallery makes of it."""

from __future__ import annotations

import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from PIL import Image

NASTY = """<b>"O'Hara" & sons</b><script>alert(1)</script>"""


def png(colour: tuple[int, int, int] = (90, 120, 60), size: int = 4) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(buffer, "PNG")
    return buffer.getvalue()


def evidence(name: str, value: float | None, **more: Any) -> dict[str, Any]:
    interval = None if value is None else [value, value]
    base = {"n": 3, "interval": interval, "direction": "higher", "scale": "", "reason": None, "detail": {}}
    return {"name": name, "value": value, **base, **more}


class FakeRun:
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
        size = more.pop("size", 4)
        file.write_bytes(png(size=size))
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
            "image": {"file": file.name, "sha256": "ef" * 32, "width": size, "height": size},
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
                {**entry, "file": "top-2.jpg", "photo": "church/2.jpg", "label": "", "value": 11},
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
    """What the index is drawn from, with units and pictures as objects, as `index_rows.js` reads them."""
    data = json.loads(
        (index.parent / "data.js").read_text(encoding="utf-8").removeprefix("window.ENTOPTIC = ").removesuffix(";\n")
    )
    data["units"] = [_unit_of(data, row) for row in data["units"]]
    return data  # type: ignore[no-any-return]


def _unit_of(data: dict[str, Any], row: list[Any]) -> dict[str, Any]:
    unit, pictures, layer, label, model, words, folder, name = [*row, *[0, "", 0, 0, 0, 0][len(row) - 2 :]]
    plain = re.sub(r"[^A-Za-z0-9_.]", "-", unit)
    found = {"unit": unit, "label": label, "layer": data["layers"][layer], "model": data["models"][model]}
    found |= {"words": data["words"][words], "folder": folder or plain, "id": name or f"unit-{plain}"}
    return {
        **found,
        "href": quote(f"{found['id']}.html"),
        "pictures": [_picture_of(data, one) for one in pictures],
    }


def _picture_of(data: dict[str, Any], row: list[Any]) -> dict[str, Any]:
    method, sample, file, size, caption, values = row[:6]
    stem = f"{data['methods'][method][0]}-{sample}-"
    name, _, anchor = file.partition("#") if "#" in file else (f"{stem}{file}.png", "", f"{stem}{file[:8]}")
    text, note, tone = data["captions"][caption][:3]
    numbers = dict(zip((metric[0] for metric in data["metrics"]), values, strict=False))
    found = {"file": name, "anchor": anchor, "size": data["sizes"][size], "values": numbers}
    return {**found, "text": text, "note": note, "tone": tone, "variant": row[6] if len(row) > 6 else ""}


def unit_page(index: Path, name: str = "unit-logits-497") -> Page:
    return Page(index.parent / f"{name}.html")


def sources(page: Page) -> list[str]:
    sources = [str(image["src"]) for image in page.all("img")]
    assert all((page.path.parent / unquote(source)).is_file() for source in sources)
    assert all(image["alt"] for image in page.all("img"))
    return sources

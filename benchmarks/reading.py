"""What a reader sees in thirty pictures of inner units, and whether the photos that drive the units show it.

    python benchmarks/reading.py pictures --out read         # the pictures alone, without photos: write down what they show
    python benchmarks/reading.py photos --out read           # then: each beside four sets of photos, one of them its unit's
    python benchmarks/reading.py page                        # docs/benchmarks/reading.md from reading.json
    python benchmarks/reading.py pictures --set early        # the same of earlier layers, reading-early.json and .md

The pictures are cut from sheets of docs/benchmarks: 15 of 25 units of each of two late layers (inner-lite0-vital.jpg), or six of
each of five earlier ones (layers-LAYER.jpg), by a fixed seed. The photos of the four sets are the six of imagenet-val-650 that
drive a unit most; no picture was made from them. Photos are written to --out only, and may not be published. What the reader
wrote, chose and judged stands in the JSON.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

import entoptic
from common import DATA
from entoptic.base.estimates import wilson
from entoptic.images.photos import Photos
from entoptic.models.taps import Tap
from entoptic.units.unit import bind
from layers import asked_for, spread

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
SHOWN = 6
LETTERS = "abcd"


@dataclass(frozen=True, kw_only=True)
class Set:
    """Which pictures are read.

    Attributes:
        stem: of its files.
        layers: in the order in which they are read.
        each: units of a layer.
        source: where the pictures are from, in words.
    """

    stem: str
    layers: tuple[str, ...]
    each: int
    source: str


SETS = {
    "late": Set(
        stem="reading", layers=("blocks.6", "blocks.5"), each=15,
        source="Thirty pictures of inner units of `builtin:lite0` from [this sheet](inner.md), 15 a layer by a fixed seed, by the "
        "default recipe at\n200 steps. Earlier layers: [here](reading-early.md).",
    ),
    "early": Set(
        stem="reading-early", layers=("blocks.4", "blocks.3", "blocks.2", "blocks.1", "bn1.act"), each=6,
        source="Thirty pictures of earlier units of `builtin:lite0` from [these sheets](layers.md), six a layer by a fixed seed, "
        "by the default recipe at\n100 steps. Later layers: [what a reader sees](reading.md).",
    ),
}  # fmt: skip

INTRODUCTION = """# What a reader sees{title}

{source} **The reader is one machine, a vision-language model, not a person.** It read each picture once, enlarged,
and wrote down what it saw before it had seen any photo (the text was committed first). Then two questions:

- *Which photos?* Four sets of six photos that drive four units of the layer most, one of them the picture's own; they are of 650
  photos that took no part in the pictures. The reader chose by what it had written, minutes after it had seen the pictures.
  Chance is .25. Sets recur.
- *Do the photos show it?* {shown}
  The reader knew which unit it judged, so this is the weaker evidence.

| layer | n | chose its photos | the photos show it | at least in part |
|---|---|---|---|---|"""
JUDGED = {
    "late": "The nine photos that drive the unit most, of 1,650, which hold those that the picture was made from, beside what was "
    "written.",
    "early": "The six photos of the unit's own set, beside what was written.",
}


def picked(of: Set) -> list[str]:
    """The units, by layer."""
    known = _units(of)
    return [u for layer in of.layers for u in random.Random(16).sample(known[layer], of.each)]


def _units(of: Set) -> dict[str, list[str]]:
    """Units of the sheets."""
    if of.stem == "reading":
        units: list[str] = json.loads((OUT / "inner.json").read_text())["subjects"]["lite0"]["units"]
        return {layer: [u for u in units if u.startswith(layer)] for layer in of.layers}
    model = entoptic.load("builtin:lite0")
    return {layer: [str(u) for u in spread(model, layer, asked_for(model, layer, 50), 0.25)] for layer in of.layers}


def tile(of: Set, unit: str) -> Image.Image:
    """A unit's picture, cut from its sheet."""
    known, layer = _units(of), unit.rpartition(":")[0]
    if of.stem == "reading":
        y, x = divmod([*known["blocks.6"], *known["blocks.5"]].index(unit), 10)
        return Image.open(OUT / "inner-lite0-vital.jpg").crop((112 * x, 112 * y, 112 * x + 112, 112 * y + 112))
    y, x = divmod(known[layer].index(unit), 10)
    left, top = 6 + 106 * x, 6 + 122 * y
    return Image.open(OUT / f"layers-{layer}.jpg").crop((left, top, left + 100, top + 100))


def pictures(of: Set, out: Path) -> None:
    """Writes the pictures, ten a page, without names of units."""
    units = picked(of)
    for first in range(0, len(units), 10):
        page = Image.new("RGB", (5 * 310 + 10, 2 * 330 + 10), "white")
        draw = ImageDraw.Draw(page)
        for j, unit in enumerate(units[first : first + 10]):
            at = 10 + 310 * (j % 5), 330 * (j // 5)
            page.paste(tile(of, unit).resize((300, 300)), (at[0], at[1] + 20))
            draw.text((at[0], at[1] + 4), str(first + j + 1), fill="black")
        page.save(out / f"pictures-{first // 10}.png")


@torch.no_grad()
def strongest(of: Set) -> list[list[Image.Image]]:
    """Per unit the photos of imagenet-val-650 that drive it most."""
    model, photos = entoptic.load("builtin:lite0"), Photos.open(DATA / "imagenet-val-650")
    units, scores, positions = bind(model, picked(of)), [], []
    for found, images in photos.batches(model.card.prepare, 25):
        read = model.read(images, [Tap(layer) for layer in of.layers])
        scores.append(torch.stack([unit.read(read[unit.tap]) for unit in units], 1))
        positions += found
    table: Tensor = torch.cat(scores)
    best = [[positions[i] for i in table[:, k].argsort(descending=True)[:SHOWN].tolist()] for k in range(len(units))]
    return [[_thumbnail(photos, i) for i in one] for one in best]


def _thumbnail(photos: Photos, position: int, side: int = 84) -> Image.Image:
    photo = photos.read(position)
    assert photo is not None
    least = min(photo.size)
    left, top = ((size - least) // 2 for size in photo.size)
    return photo.crop((left, top, left + least, top + least)).resize((side, side))


def questions(of: Set) -> list[list[int]]:
    """Per picture the numbers of four units of its layer, its own among them, in the order in which their photos are shown."""
    draw, found, count = random.Random(116), [], of.each * len(of.layers)
    for k in range(count):
        same = [j for j in range(count) if j != k and j // of.each == k // of.each]
        four = [k, *draw.sample(same, 3)]
        draw.shuffle(four)
        found.append(four)
    return found


def photo_pages(of: Set, out: Path) -> None:
    """Writes six questions a page: four sets of photos each, without names."""
    photos, asked = strongest(of), questions(of)
    for first in range(0, len(photos), 6):
        page = Image.new("RGB", (4 * 280 + 40, 6 * 200), "white")
        draw = ImageDraw.Draw(page)
        for q, four in enumerate(asked[first : first + 6]):
            draw.text((4, 200 * q + 60), str(first + q + 1), fill="red")
            for column, unit in enumerate(four):
                draw.text((30 + 280 * column, 200 * q + 2), LETTERS[column], fill="black")
                for t, photo in enumerate(photos[unit]):
                    page.paste(photo, (40 + 280 * column + 88 * (t % 3), 200 * q + 14 + 88 * (t // 3)))
        page.save(out / f"photos-{first // 6}.png")


def share(right: int, n: int) -> str:
    """A count as a share with its 95 % interval."""
    low, high = wilson(right, n)
    return f"{right} of {n} ({right / n:.2f} [{low:.2f}, {high:.2f}])"


def page(of: str, held: dict[str, Any]) -> str:
    """The page of what was written, chosen and judged."""
    units, asked, one = held["units"], questions(SETS[of]), SETS[of]
    for k, unit in enumerate(units):
        unit["own"] = LETTERS[asked[k].index(k)]
    layers = {layer: units[i * one.each : (i + 1) * one.each] for i, layer in enumerate(one.layers)}
    layers["both" if len(layers) == 2 else "all"] = units
    title = "" if of == "late" else " in earlier layers"
    lines = INTRODUCTION.format(title=title, source=one.source, shown=JUDGED[of]).splitlines()
    for name, own in layers.items():
        n = len(own)
        chose = sum(u["chosen"] == u["own"] for u in own)
        shown = [sum(u["photos show it"] in kinds for u in own) for kinds in (("yes",), ("yes", "partly"))]
        lines.append(f"| {name} | {n} | {' | '.join(share(count, n) for count in (chose, *shown))} |")
    lines += [
        "", *held["notes"], "",
        "| | unit | what the reader wrote | chose | photos show it | what they show |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for k, u in enumerate(units, 1):
        right = "right" if u["chosen"] == u["own"] else "wrong"
        lines.append(f"| {k} | {u['unit']} | {u['seen']} | {right} | {u['photos show it']} | {u['photos']} |")
    chosen = "" if of == "late" else f" --set {of}"
    return "\n".join([*lines, "", f"`python benchmarks/reading.py page{chosen}`", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=("pictures", "photos", "page"))
    parser.add_argument("--set", choices=SETS, default="late")
    parser.add_argument("--out", type=Path, default=Path("runs/reading"))
    given = parser.parse_args()
    of = SETS[given.set]
    if given.what == "page":
        held = json.loads((OUT / f"{of.stem}.json").read_text())
        (OUT / f"{of.stem}.md").write_text(page(given.set, held))
        return
    given.out.mkdir(parents=True, exist_ok=True)
    (pictures if given.what == "pictures" else photo_pages)(of, given.out)


if __name__ == "__main__":
    main()

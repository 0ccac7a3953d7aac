"""What a reader sees in thirty pictures of inner units, and whether the photos that drive the units show it.

    python benchmarks/reading.py pictures --out read         # the pictures alone, without photos: write down what they show
    python benchmarks/reading.py photos --out read           # then: each beside four sets of photos, one of them its unit's
    python benchmarks/reading.py page                        # docs/benchmarks/reading.md from reading.json

The pictures are cut from the sheet docs/benchmarks/inner-lite0-vital.jpg: 15 of its 25 units of each layer, by a fixed seed. The
photos of the four sets are the six of imagenet-val-650 that drive a unit most; no picture was made from them. Photos are
written to --out only, and may not be published. What the reader wrote, chose and judged stands in docs/benchmarks/reading.json.
"""

from __future__ import annotations

import argparse
import json
import random
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

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
EACH, SHOWN, SIDE = 15, 6, 112
LETTERS = "abcd"


INTRODUCTION = """# What a reader sees

Thirty pictures of inner units of `builtin:lite0` from [this sheet](inner.md), 15 a layer by a fixed seed, by the default recipe at
200 steps. **The reader is one machine, a vision-language model, not a person.** It read each picture once, at 112 pixels enlarged,
and wrote down what it saw before it had seen any photo (the text was committed first). Then two questions:

- *Which photos?* Four sets of six photos that drive four units of the layer most, one of them the picture's own; they are of 650
  photos that took no part in the pictures. The reader chose by what it had written, minutes after it had seen the pictures.
  Chance is .25. Sets recur.
- *Do the photos show it?* The nine photos that drive the unit most, of 1,650, which hold those that the picture was made from,
  beside what was written. The reader knew which unit it judged, so this is the weaker evidence.

| layer | n | chose its photos | the photos show it | at least in part |
|---|---|---|---|---|"""


def picked() -> list[str]:
    """The units: fifteen of each layer of the sheet."""
    units = _sheet_units()
    layers = ("blocks.6", "blocks.5")
    return [u for layer in layers for u in random.Random(16).sample([u for u in units if u.startswith(layer)], EACH)]


def _sheet_units() -> list[str]:
    units: list[str] = json.loads((OUT / "inner.json").read_text())["subjects"]["lite0"]["units"]
    return units


def pictures(out: Path) -> None:
    """Writes the pictures, ten a page, without names of units."""
    sheet, units = Image.open(OUT / "inner-lite0-vital.jpg"), _sheet_units()
    for first in range(0, 2 * EACH, 10):
        page = Image.new("RGB", (5 * 310 + 10, 2 * 330 + 10), "white")
        draw = ImageDraw.Draw(page)
        for j, unit in enumerate(picked()[first : first + 10]):
            y, x = (SIDE * k for k in divmod(units.index(unit), 10))
            at = 10 + 310 * (j % 5), 330 * (j // 5)
            page.paste(sheet.crop((x, y, x + SIDE, y + SIDE)).resize((300, 300)), (at[0], at[1] + 20))
            draw.text((at[0], at[1] + 4), str(first + j + 1), fill="black")
        page.save(out / f"pictures-{first // 10}.png")


@torch.no_grad()
def strongest() -> list[list[Image.Image]]:
    """Per unit the photos of imagenet-val-650 that drive it most."""
    model, photos = entoptic.load("builtin:lite0"), Photos.open(DATA / "imagenet-val-650")
    units, scores, positions = bind(model, picked()), [], []
    for found, images in photos.batches(model.card.prepare, 25):
        read = model.read(images, [Tap("blocks.5"), Tap("blocks.6")])
        scores.append(torch.stack([unit.read(read[unit.tap]) for unit in units], 1))
        positions += found
    table: Tensor = torch.cat(scores)
    best = [[positions[i] for i in table[:, k].argsort(descending=True)[:SHOWN].tolist()] for k in range(len(units))]
    return [[_thumbnail(photos, i) for i in one] for one in best]


def _thumbnail(photos: Photos, position: int, side: int = 84) -> Image.Image:
    pixels = photos.read(position)
    assert pixels is not None
    photo = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    least = min(photo.size)
    left, top = ((size - least) // 2 for size in photo.size)
    return photo.crop((left, top, left + least, top + least)).resize((side, side))


def questions() -> list[list[int]]:
    """Per picture the numbers of four units of its layer, its own among them, in the order in which their photos are shown."""
    draw, found = random.Random(116), []
    for k in range(2 * EACH):
        same = [j for j in range(2 * EACH) if j != k and (j < EACH) == (k < EACH)]
        four = [k, *draw.sample(same, 3)]
        draw.shuffle(four)
        found.append(four)
    return found


def photo_pages(out: Path) -> None:
    """Writes six questions a page: four sets of photos each, without names."""
    photos, asked = strongest(), questions()
    for first in range(0, 2 * EACH, 6):
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


def page(held: dict[str, Any]) -> str:
    """The page of what was written, chosen and judged."""
    units, asked = held["units"], questions()
    for k, unit in enumerate(units):
        unit["own"] = LETTERS[asked[k].index(k)]
    layers = {"blocks.6": units[:EACH], "blocks.5": units[EACH:], "both": units}
    lines = INTRODUCTION.splitlines()
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
    return "\n".join([*lines, "", "`python benchmarks/reading.py page`", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=("pictures", "photos", "page"))
    parser.add_argument("--out", type=Path, default=Path("runs/reading"))
    given = parser.parse_args()
    if given.what == "page":
        (OUT / "reading.md").write_text(page(json.loads((OUT / "reading.json").read_text())))
        return
    given.out.mkdir(parents=True, exist_ok=True)
    (pictures if given.what == "pictures" else photo_pages)(given.out)


if __name__ == "__main__":
    main()

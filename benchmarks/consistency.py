"""Do the photos of a dictionary's feature show one thing more than those of a channel? Consistency of both, less random places.

    python benchmarks/consistency.py                         # 50 features and 50 channels of blocks.6 of builtin:lite0
    python benchmarks/consistency.py --units 10 --photos photos --embedder blocks.4
    python benchmarks/consistency.py --draw                  # the page and the figure again, from consistency.json

Units are at even distances among those that are above 0 on at least five photos, so none is picked. The embedder is another
network than the one under study. Intervals are Student's over units.
Writes docs/benchmarks/consistency.json, consistency.md and consistency.svg.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import entoptic
from common import DATA, about
from entoptic.base.estimates import t_quantile
from entoptic.images.photos import Photos
from entoptic.images.unit_reference import evenly_spaced
from entoptic.metrics.consistency import LEAST, measure_consistency
from entoptic.metrics.evidence import Evidence
from entoptic.plots.drawing import Axis, Dot, Drawing, Line, Text
from entoptic.units.unit import Unit, bind

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
VERDICT = (
    "On average a feature's photos look more alike, to this embedder, where the feature looks than a channel's do. The difference",
    "is small beside the spread over units, and some channels are above many features. Features also look at smaller parts of a",
    "picture, which by itself may make what they see more alike: the table does not tell these two apart.",
)
"""Of the run that is in the documentation; another one needs to be looked at anew."""
SETS = {"features": "dict(builtin:lite0-blocks-6):*", "channels": "blocks.6:*"}


def alive(units: Sequence[Unit], photos: Photos, count: int) -> list[Unit]:
    """At most `count` of the units that are above 0 on enough photos, at even distances."""
    model, above = units[0].model, torch.zeros(len(units))
    for _, images in photos.batches(model.card.prepare, 16):
        with torch.no_grad():
            values = model.read(images, [units[0].tap])[units[0].tap]
        whole = values if units[0].dictionary is None else units[0].dictionary.activations(values)
        above += (whole.amax(2) > 0).sum(0)
    there = [unit for unit, hits in zip(units, above.tolist()) if hits >= LEAST]
    return [there[i] for i in evenly_spaced(len(there), count)]


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, and its 95 % interval by Student's t."""
    n, mean = len(values), sum(values) / len(values)
    width = t_quantile(n - 1) * (sum((v - mean) ** 2 for v in values) / (n - 1) / n) ** 0.5
    return mean, mean - width, mean + width


def difference(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """Difference of two means with its 95 % interval (Welch)."""
    parts = [(sum(x) / len(x), (interval(x)[2] - interval(x)[0]) / t_quantile(len(x) - 1)) for x in (a, b)]
    (m, s), (k, t) = parts
    freedom = (s**2 + t**2) ** 2 / (s**4 / (len(a) - 1) + t**4 / (len(b) - 1))
    width = t_quantile(int(freedom)) * (s**2 + t**2) ** 0.5
    return m - k, m - k - width, m - k + width


def cell(found: tuple[float, float, float]) -> str:
    return f"{found[0]:.3f} [{found[1]:.3f}, {found[2]:.3f}]"


def draw(record: dict[str, Any]) -> Drawing:
    """Every unit as a dot with its own interval, from the least to the most consistent, and the means with theirs."""
    sets = record["sets"]
    told = "; ".join(f"{name}: mean {cell(row['consistency'])} of {row['n']} units" for name, row in sets.items())
    drawing = Drawing(760, 400, "Consistency of features and of channels", f"Consistency less random places. {told}.")
    top, bottom, left, right = 64.0, 340.0, 60.0, 740.0
    values = [one for row in sets.values() for one in row["units"].values() if one["value"] is not None]
    lows, highs = zip(*(one["interval"] for one in values), strict=True)
    y = Axis(min(lows) - 0.05, max(highs) + 0.05, bottom, top)
    drawing.add(Text((left, 28), "Consistency (C²) less random places", size=18, bold=True))
    for tick in y.ticks():
        drawing.add(Line([(left, y(tick)), (right, y(tick))], "ink" if tick == 0 else "line", 1))
        drawing.add(Text((left - 9, y(tick) + 4.5), f"{tick:g}", "muted", 12, "end"))
    width = (right - left) / len(sets)
    for number, (name, row) in enumerate(sets.items()):
        role, start = ("frontier", "bounds")[number], left + number * width
        ordered = sorted(
            (one for one in row["units"].values() if one["value"] is not None), key=lambda one: one["value"]
        )
        x = Axis(0, max(1, len(ordered) - 1), start + 20, start + width - 70)
        for place, one in enumerate(ordered):
            low, high = one["interval"]
            drawing.add(Line([(x(place), y(low)), (x(place), y(high))], "band" if number == 0 else "line", 2))
            drawing.add(Dot((x(place), y(one["value"])), role, "circle" if number == 0 else "diamond", 3))
        mean, low, high = row["consistency"]
        at = start + width - 45
        drawing.add(Line([(at, y(low)), (at, y(high))], role, 3), Dot((at, y(mean)), role, "square", 3.5))
        drawing.add(Text((at + 12, y(mean) + 4.5), f"{mean:.2f}", "ink", 13, bold=True))
        drawing.add(Text((start + 20, bottom + 26), f"{name}, n = {row['n']}", "ink", 14))
    drawing.add(
        Text(
            (left, bottom + 48),
            "a dot: one unit with its jackknife interval over photos; square: mean with 95 % over units",
            "muted",
            12,
        )
    )
    return drawing


def page(record: dict[str, Any]) -> str:
    """The page of the documentation."""
    lines = [
        "# Consistency",
        "",
        "Do the photos of a dictionary's feature show one thing more than those of a channel? [Consistency](../consistency.md) of "
        f"{record['asked']['units']} features of the shipped dictionary `dict(builtin:lite0-blocks-6)` and of as many channels of "
        "`blocks.6` of `builtin:lite0`, at even distances among the units that are above 0 on at least "
        f"{LEAST} photos: none is picked. {record['photos']} photos of ImageNet's validation set; "
        f"the {record['top']} in which a unit is most present stand for it. Embedder: `{record['embedder']}`. "
        f"Attribution: {record['asked']['attribution']}. "
        f"Random places in random photos get {record['random']:.3f}, which is taken off. In brackets 95 % intervals over units.",
        "",
        "| units | n | consistency | before the baseline | extent |",
        "|---|---|---|---|---|",
    ]
    for name, row in record["sets"].items():
        lines.append(
            f"| {name} | {row['n']} | {cell(row['consistency'])} | {cell(row['whole'])} | {cell(row['extent'])} |"
        )
    lines += [
        f"| features less channels | | {cell(record['difference'])} | | {cell(record['extent_difference'])} |",
        "",
        "Extent is the share of the picture that 80 % of the attribution lies on.",
        "",
        "![Each feature and each channel with its consistency and interval, and the two means](consistency.svg)",
        "",
        *VERDICT,
        "",
        "Every unit is in `consistency.json`; `python benchmarks/consistency.py` makes both again, "
        "in about a quarter of an hour of one shared core.",
        "",
    ]
    return "\n".join(lines)


def write(record: dict[str, Any], out: Path) -> None:
    """Writes the page and the figure."""
    (out / "consistency.md").write_text(page(record))
    (out / "consistency.svg").write_text(draw(record).svg("consistency"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--units", type=int, default=50)
    parser.add_argument("--photos", default=str(DATA / "imagenet-val-650"))
    parser.add_argument("--most", type=int, default=217, help="photos that are read, at even distances")
    parser.add_argument("--embedder", default="builtin:vit-s14#blocks.10")
    parser.add_argument("--attribution", default="relevance")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--draw", action="store_true", help="draw what is there again, without measuring")
    options = parser.parse_args()
    if options.draw:
        write(json.loads((options.out / "consistency.json").read_text()), options.out)
        return
    started = time.monotonic()
    torch.set_num_threads(1)
    model, whole = entoptic.load("builtin:lite0", device="cpu"), Photos.open(options.photos)
    photos = whole.subset(evenly_spaced(len(whole), options.most))
    chosen = {name: alive(bind(model, text), photos, options.units) for name, text in SETS.items()}
    units = [unit for row in chosen.values() for unit in row]

    def tell(what: str, done: int, total: int) -> None:
        print(f"{time.monotonic() - started:.0f} s: {what} {done}/{total}", flush=True)

    found = measure_consistency(
        units, photos, embedder=options.embedder, attribution=options.attribution, progress=tell
    )
    by_set: dict[str, list[Evidence]] = {}
    named: dict[str, dict[str, Any]] = {}
    for name, row in chosen.items():
        mine, found = found[: len(row)], found[len(row) :]
        by_set[name] = [one for one in mine if one.value is not None]
        named[name] = {str(unit): one.to_json() for unit, one in zip(row, mine)}
    sets = {
        name: {
            "n": len(row), "consistency": interval([float(e.value or 0) for e in row]),
            "whole": interval([e.detail["before the baseline"] for e in row]),
            "extent": interval([e.detail["extent"] for e in row]),
            "units": named[name],
        }
        for name, row in by_set.items()
    }  # fmt: skip
    first = by_set["features"][0]
    values = {name: [float(e.value or 0) for e in row] for name, row in by_set.items()}
    extents = {name: [e.detail["extent"] for e in row] for name, row in by_set.items()}
    record = {
        "asked": {"units": options.units, "attribution": options.attribution}, "photos": len(photos), "top": first.n,
        "embedder": first.detail["embedder"], "random": first.detail["random places"], "sets": sets,
        "difference": difference(values["features"], values["channels"]),
        "extent_difference": difference(extents["features"], extents["channels"]),
        "seconds": time.monotonic() - started, "about": about(),
    }  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "consistency.json").write_text(json.dumps(record, indent=1) + "\n")
    write(record, options.out)


if __name__ == "__main__":
    main()

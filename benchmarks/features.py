"""A hundred features of the shipped dictionary, shown by every kind of method: do pictures drive and single out their feature?

    python benchmarks/features.py                            # 100 of 512 features, about an hour on one core
    python benchmarks/features.py --features 4 --methods retrieval,vital

Features are at even distances, so none is picked. References are photos of one set; pictures are judged by photos of another: how
many of them drive the feature less (drive), whether the picture drives its own feature more than every other one of the dictionary,
each counted from its mean over photos in its standard deviation (own feature first), and whether another network tells by the
picture which photos are the feature's (machine 2-AFC, as in benchmarks/layers.py, with the stage that strong photos of other
features choose). Pictures are stored in a run (--run) and never made twice. Writes docs/benchmarks/features.json and features.md.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import entoptic
from any_class import sheet, words_kept
from common import DATA, about
from entoptic.base.estimates import mean_interval, wilson
from entoptic.configs import Fourier, Klsc, Retrieval, Vital
from entoptic.images.photos import Photos
from entoptic.methods.contract import MethodConfig
from entoptic.metrics.sets.two_afc import choose
from entoptic.models.model import Model
from entoptic.units.unit import Unit, bind
from layers import asked, observers, stages

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
DICTIONARY, PRIOR = "builtin:lite0-blocks-6", "builtin:small-32"
CONFIGS: dict[str, MethodConfig] = {
    "retrieval": Retrieval(), "vital": Vital(steps=100), "fourier": Fourier(steps=100),
    "klsc": Klsc(nats=2, particles=12, islands=1, leaps=0),
}  # fmt: skip
INTRODUCTION = """# A hundred features

{features} of the 512 features of the shipped dictionary `dict(builtin:lite0-blocks-6)`, at even distances, so none is picked; each
shown by one picture of every method. `retrieval` shows the strongest of 1,000 photos, `vital` (and `fourier`, where asked for)
optimises for 100 steps, `klsc` spends 2 nats on the 32-pixel prior `builtin:small-32`, with at most 12 particles moved
blindly. Judged by 650 other photos. In brackets 95 % intervals over features (Wilson for shares of features, Student for means).

* *Above every photo*: share of features that the picture drives more than each of the 650 photos does.
* *Photos below*: mean share of the photos that drive the feature less than the picture does.
* *Own feature first*: share of pictures that drive their own feature more than any of the other 511, each counted from its mean
  over the photos in its standard deviation. Chance is 1/512.
* *2-AFC*: another network sees the picture, one of the 20 strongest photos and one of 20 from the weaker half, and takes the
  one that is more like the picture. Chance is 0.5. *Another photo* has one of the other strong photos as its picture."""


VERDICT = (
    "A picture by VITAL drives its feature beyond every photo in nine cases of ten, and drives its own feature most in nearly as",
    "many. MobileNetV2 tells by it which photos are the feature's better than by the strongest photo, SqueezeNet about equally",
    "well. KLSC on a prior that was trained on a CPU says nothing of features of a late layer: its pictures drive them little more",
    "than photos do on average. Nine features are 0 on all of the prior's 2,048 samples: that is told, and yields no picture.",
)
"""Of the run that is in the documentation; another one needs to be looked at anew."""


@torch.no_grad()
def drives(model: Model, units: list[Unit], images: Tensor) -> Tensor:
    """Each feature's readout of prepared images, N×U."""
    values = model.read(images, [units[0].tap])[units[0].tap]
    return torch.stack([unit.read(values) for unit in units], 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--features", type=int, default=100)
    parser.add_argument("--methods", default=",".join(CONFIGS))
    parser.add_argument("--run", default="runs/features")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    model = entoptic.load("builtin:lite0")
    every = bind(model, f"dict({DICTIONARY}):*@max")
    step = len(every) // given.features
    shown = every[step // 2 :: step][: given.features]
    places = [every.index(unit) for unit in shown]
    kept: dict[str, list[list[Tensor]]] = {}
    scores, judges = [], observers()
    for _, images in Photos.open(DATA / "imagenet-val-650").batches(model.card.prepare, 50):
        scores.append(drives(model, every, images))
        for name, (observer, names) in judges.items():
            kept.setdefault(name, []).append(stages(observer, names, images))
    table = torch.cat(scores)
    middle, spread = table.mean(0), table.std(0).clamp_min(1e-6)
    seen = {name: [torch.cat(part) for part in zip(*rows, strict=True)] for name, rows in kept.items()}
    moments = {name: [(f.mean(0), f.std(0).clamp_min(1e-6)) for f in rows] for name, rows in seen.items()}
    seen = {name: [(f - m) / s for f, (m, s) in zip(rows, moments[name], strict=True)] for name, rows in seen.items()}

    def ceiling(name: str, stage: int, place: int) -> float:
        strong, weak = asked(table[:, place])
        found = choose(seen[name][stage][strong], seen[name][stage][strong], seen[name][stage][weak]).ceiling
        assert found is not None
        return found

    others = [i for i in range(len(every)) if i not in places][::8]
    stage_of = {
        name: max(range(len(seen[name])), key=lambda k: np.mean([ceiling(name, k, i) for i in others]))
        for name in judges
    }
    rows: dict[str, dict[str, Any]] = {
        "another photo": {"2-AFC": {n: [round(ceiling(n, stage_of[n], i), 4) for i in places] for n in judges}}
    }
    for method in given.methods.split(","):
        run = entoptic.see(
            model, shown, method=CONFIGS[method], photos=Photos.open(DATA / "imagenet-one-per-class"),
            prior=PRIOR if method == "klsc" else None, verifiers="", context=False, out=f"{given.run}/{method}",
        )  # fmt: skip
        pictures = {picture.unit: model.fit(picture.tensor[None].float()) for picture in run}
        if method != "retrieval":  # its pictures are photos, which may not be published here
            known = [unit for unit in shown if str(unit) in pictures]
            given.out.mkdir(parents=True, exist_ok=True)
            sheet(
                torch.cat([pictures[str(unit)] for unit in known]), [str(unit).split(":")[-1].split("@")[0] for unit in known],
                given.out / f"features-{method}.jpg", columns=10, side=100,
            )  # fmt: skip
        rows[method] = judge(model, every, places, pictures, table, (middle, spread), judges, seen, moments, stage_of)
        write(given, rows, {name: judges[name][1][k] for name, k in stage_of.items()})


def judge(
    model: Model,
    every: list[Unit],
    places: list[int],
    pictures: dict[str, Tensor],
    table: Tensor,
    scale: tuple[Tensor, Tensor],
    judges: dict[str, tuple[Model, list[str]]],
    seen: dict[str, list[Tensor]],
    moments: dict[str, list[tuple[Tensor, Tensor]]],
    stage_of: dict[str, int],
) -> dict[str, Any]:
    """What is measured of one method's pictures, by feature."""
    below, first, two_afc = [], [], {name: list[float]() for name in judges}
    for place in places:
        picture = pictures.get(str(every[place]))
        if picture is None:  # it failed: the run's record says why
            continue
        values = drives(model, every, picture)[0]
        below.append(float((table[:, place] < values[place]).float().mean()))
        first.append(bool(((values - scale[0]) / scale[1]).argmax() == place))
        strong, weak = asked(table[:, place])
        for name, (observer, names) in judges.items():
            k = stage_of[name]
            mean, sd = moments[name][k]
            hint = (stages(observer, names, picture)[k] - mean) / sd
            two_afc[name].append(round(choose(hint, seen[name][k][strong], seen[name][k][weak]).share, 4))
    return {"photos below": below, "first": first, "2-AFC": two_afc}


def write(given: argparse.Namespace, rows: dict[str, dict[str, Any]], looked_with: dict[str, str]) -> None:
    """Writes what is known so far."""
    record: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/features.py", *words_kept(sys.argv[1:])]), "about": about(),
        "features": given.features, "stages": looked_with, "rows": rows,
    }  # fmt: skip
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "features.json").write_text(json.dumps(record, indent=1) + "\n")
    (given.out / "features.md").write_text(page(record))


def share(hits: int, n: int) -> str:
    """A share with Wilson's interval."""
    low, high = wilson(hits, n)
    return f"{hits / n:.2f} [{low:.2f}, {high:.2f}]"


def mean(values: list[float]) -> str:
    """A mean of shares with Student's interval."""
    low, high = mean_interval(values)
    return f"{np.mean(values):.2f} [{max(low, 0):.2f}, {min(high, 1):.2f}]"


def difference(a: list[float], b: list[float]) -> str:
    """A mean difference with Student's interval."""
    apart = [x - y for x, y in zip(a, b, strict=True)]
    low, high = mean_interval(apart)
    return f"{np.mean(apart):+.2f} [{low:+.2f}, {high:+.2f}]"


def page(record: dict[str, Any]) -> str:
    """The page of the documentation."""
    names = list(record["stages"])
    head = ["n", "above every photo", "photos below", "own feature first", *(f"2-AFC, {name}" for name in names)]
    lines = [
        *INTRODUCTION.format(**record).splitlines(),
        "",
        f"| | {' | '.join(head)} |",
        "|---" * (len(head) + 1) + "|",
    ]
    for method, row in record["rows"].items():
        told = [mean(row["2-AFC"][name]) for name in names]
        if "first" in row:
            n = len(row["first"])
            drive = [share(sum(one == 1 for one in row["photos below"]), n), mean(row["photos below"])]
            told = [*drive, share(sum(row["first"]), n), *told]
        else:
            n, told = len(row["2-AFC"][names[0]]), ["", "", "", *told]
        lines.append(f"| {method} | {n} | {' | '.join(told)} |")
    if {"vital", "retrieval"} <= record["rows"].keys():
        pair = [record["rows"][method]["2-AFC"] for method in ("vital", "retrieval")]
        told = [difference(*(one[name] for one in pair)) for name in names]
        lines.append(f"| vital minus retrieval, paired | | | | | {' | '.join(told)} |")
    lines += ["", *VERDICT]
    with_stages = ", ".join(f"{name} with `{stage}`" for name, stage in record["stages"].items())
    lines += ["", f"The observers look with: {with_stages}.", ""]
    for method in record["rows"]:
        if method not in ("another photo", "retrieval"):
            lines += [
                f"**{method}**",
                "",
                f"![Pictures by {method}, each under its feature's number](features-{method}.jpg)",
                "",
            ]
    text = ", ".join(f"{k} {v}" for k, v in record["about"].items())
    return "\n".join([*lines, f"`{record['command']}` with {text}.", ""])


if __name__ == "__main__":
    main()

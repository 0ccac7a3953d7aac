"""Priors beside each other: how near their samples are to photos, and what KLSC makes of classes with each at equal nats.

    python benchmarks/priors.py builtin:small-32 builtin:small-128
    python benchmarks/priors.py builtin:small-128 file:priors/mine --pictures 4 --samples 500

Samples are those of the six-step map that `klsc` uses, compared with photos that no prior has seen, all reduced to 32 pixels, in
features of two networks that took part in no training. KLSC spends 3 nats on each of imagenette's ten logits of
builtin:lite0; four other networks say what they see. Differences are paired by class, the last prior minus the first. Pictures
are stored in runs (--run) and never made twice. Writes docs/benchmarks/priors.json, priors.md and sheets.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

import entoptic
from any_class import judges, sheet, words_kept
from common import CLASSES, DATA, about, verifiers
from entoptic.base.estimates import mean_interval
from entoptic.base.pixels import centre_square
from entoptic.configs import Klsc
from entoptic.images.photos import Photos
from entoptic.metrics.distribution import features, frechet, kid, kid_interval
from entoptic.models.card import imagenet_labels
from entoptic.priors.sources import load_prior
from entoptic.runs.learn import gaussian
from entoptic.sampling.bank import make_bank

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
SIDE, NATS, SHOWN = 32, 3.0, 48
INTRODUCTION = """# Priors

Samples of priors beside photos, and what `klsc` makes of the same classes with each at equal cost.

## Samples

{samples} samples of the six-step map that `klsc` uses, without picking, against {samples} photos of tiny-imagenet's validation
part, which no training saw; all at 32 pixels. KID (kernel distance, 95 % interval) and Fréchet distance in pooled features of two
networks. Fréchet distances at this n are biased upwards, equally for all rows."""
KLSC = """## KLSC at 3 nats

{pictures} pictures of each of ten logits of `builtin:lite0`, {nats:g} nats, one island of 16 particles. What other networks say:
share of pictures whose class is their first guess, or among their first five, and log p of the class. In brackets 95 % intervals
over classes (Student)."""


def small(pictures: Tensor) -> Tensor:
    """Pictures at 32 pixels."""
    if pictures.shape[-1] == SIDE:
        return pictures
    return interpolate(pictures, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)


def tested(count: int) -> tuple[Tensor, Tensor]:
    """Two disjoint sets of photos at 32 pixels, N×3×32×32 each."""
    photos = Photos.open(DATA / "tiny-imagenet-64-val.parquet")
    order = torch.randperm(len(photos), generator=torch.Generator().manual_seed(0)).tolist()[: 2 * count]
    read = torch.cat([x for _, x in photos.subset(order).batches(lambda one: centre_square(one, SIDE), 256)])
    return read[:count].float() / 255, read[count:].float() / 255


def compare_samples(names: list[str], count: int, out: Path) -> dict[str, Any]:
    """Distances of each prior's samples, of other photos and of a Gaussian, by judge."""
    near, other = tested(count)
    sets = {"other photos": other, "a Gaussian of the same mean and covariance": gaussian(other)}
    for name in names:
        pictures = make_bank(load_prior(name, device="cpu"), size=count).pictures.float() / 255
        shown = interpolate(pictures[:SHOWN], (96, 96), mode="bilinear", antialias=True, align_corners=False).clamp(
            0, 1
        )
        sheet(shown, [""] * SHOWN, out / f"priors-samples-{slug(name)}.jpg", columns=12, side=96)
        sets[name] = small(pictures)
    table: dict[str, Any] = {}
    known = verifiers()
    for judge in ("Lite1", "MobileNetV2"):
        reference = features(known[judge], near)
        for name, pictures in sets.items():
            theirs = features(known[judge], pictures)
            row = {"kid": kid(theirs, reference), "interval": list(kid_interval(theirs, reference))}
            table.setdefault(name, {})[judge] = row | {"frechet": frechet(theirs, reference)}
            print(name, judge, table[name][judge], flush=True)
    return table


@torch.no_grad()
def compare_classes(names: list[str], given: argparse.Namespace) -> dict[str, Any]:
    """For each prior and judge: top-1, top-5 and log p by class; nats and failures of each prior."""
    model = entoptic.load("builtin:lite0")
    seen_by = {name: judge for name, judge in judges(model).items() if "itself" not in name}
    table: dict[str, Any] = {}
    for name in names:
        run = entoptic.see(
            model, [f"logits:{k}" for k in CLASSES], method=Klsc(nats=NATS, islands=1, leaps=4), prior=name,
            n=given.pictures, verifiers="", context=False, out=f"{given.run}/{slug(name)}",
        )  # fmt: skip
        pictures = [p for p in run if p.unit in {f"logits:{k}" for k in CLASSES}]
        classes = [int(p.unit.split(":")[1]) for p in pictures]
        images = torch.stack([p.tensor.float() for p in pictures])
        labels = imagenet_labels()[0]
        first = [classes.index(k) for k in CLASSES if k in classes]
        large = interpolate(images[first], (150, 150), mode="bilinear", align_corners=False)
        sheet(
            large,
            [labels[classes[i]] for i in first],
            given.out / f"priors-klsc-{slug(name)}.jpg",
            columns=10,
            side=110,
        )
        rows: dict[str, Any] = {}
        for judge, read in seen_by.items():
            logits = read(images)
            own = logits.gather(1, torch.tensor(classes)[:, None])
            rank = (logits > own).sum(1) + 1
            logp = logits.log_softmax(1).gather(1, torch.tensor(classes)[:, None])[:, 0]
            by = {"top-1": (rank <= 1).float(), "top-5": (rank <= 5).float(), "log p": logp}
            where = {k: [i for i, one in enumerate(classes) if one == k] for k in CLASSES}
            rows[judge] = {
                w: [float(v[where[k]].mean()) if where[k] else math.nan for k in CLASSES] for w, v in by.items()
            }
        table[name] = {"pictures": len(pictures), "judges": rows}
    return table


def slug(name: str) -> str:
    """The last word of a prior's name, for files."""
    return name.split(":")[-1].rstrip("/").split("/")[-1]


def cell(values: list[float], share: bool) -> str:
    """A mean with its interval over classes."""
    known = [v for v in values if not math.isnan(v)]
    low, high = mean_interval(known)
    if share:
        low, high = max(low, 0.0), min(high, 1.0)
    return f"{np.mean(known):.2f} [{low:.2f}, {high:.2f}]"


def page(record: dict[str, Any]) -> str:
    """The tables as Markdown."""
    lines = [*INTRODUCTION.format(**record).splitlines(), ""]
    known = list(next(iter(record["samples_table"].values())))
    heads = [f"{judge}: {what}" for judge in known for what in ("KID", "Fréchet")]
    lines += [f"| pictures | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name, row in record["samples_table"].items():
        told = [
            text
            for judge in known
            for one in [row[judge]]
            for text in (
                f"{one['kid']:.3f} [{one['interval'][0]:.3f}, {one['interval'][1]:.3f}]",
                f"{one['frechet']:.0f}",
            )
        ]
        lines.append(f"| {name} | {' | '.join(told)} |")
    for name in record["priors"]:
        lines += ["", f"`{name}`, {SHOWN} samples, nothing picked", "", f"![Samples](priors-samples-{slug(name)}.jpg)"]
    lines += ["", *KLSC.format(**record).splitlines(), ""]
    classes = record["classes_table"]
    seen_by = list(next(iter(classes.values()))["judges"])
    lines += [f"| prior | | {' | '.join(seen_by)} |", "|---" * (len(seen_by) + 2) + "|"]
    for name, row in classes.items():
        for what in ("top-1", "top-5", "log p"):
            told = [cell(row["judges"][judge][what], what != "log p") for judge in seen_by]
            lines.append(f"| {name} ({row['pictures']} pictures) | {what} | {' | '.join(told)} |")
    if len(classes) > 1:
        first, last = next(iter(classes)), list(classes)[-1]
        for what in ("top-1", "top-5", "log p"):
            apart = [
                cell(
                    [b - a for a, b in zip(*(classes[p]["judges"][j][what] for p in (first, last)), strict=True)], False
                )
                for j in seen_by
            ]
            lines.append(f"| {last} minus {first} | {what} | {' | '.join(apart)} |")
    for name in classes:
        lines += ["", f"`{name}`, the first picture of each class", "", f"![KLSC](priors-klsc-{slug(name)}.jpg)"]
    text = ", ".join(f"{k} {v}" for k, v in record["about"].items())
    return "\n".join([*lines, "", f"`{record['command']}` with {text}.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("priors", nargs="+", help="the one to compare with first")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--pictures", type=int, default=8, help="of each class")
    parser.add_argument("--run", default="runs/priors")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/priors.py", *words_kept(sys.argv[1:])]), "about": about(),
        "priors": given.priors, "samples": given.samples, "pictures": given.pictures, "nats": NATS,
        "samples_table": compare_samples(given.priors, given.samples, given.out),
        "classes_table": compare_classes(given.priors, given),
    }  # fmt: skip
    (given.out / "priors.json").write_text(json.dumps(record, indent=1) + "\n")
    (given.out / "priors.md").write_text(page(record))


if __name__ == "__main__":
    main()

"""Quality of every method on inner units: late channels of a convolutional net and MLP neurons of a transformer.

    python benchmarks/quality.py inner                               # 50 channels, 30 neurons, all methods (hours on a CPU)
    python benchmarks/quality.py inner --subjects lite0 --methods vital --units 5

Pictures are stored in a run (--run) and never made twice. Writes docs/benchmarks/inner.json, inner.md and a sheet of
pictures per subject and method.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import entoptic
from common import DATA, about, bootstrap, kid, kid_interval, logits_and_features, verifiers
from entoptic.base.estimates import wilson
from entoptic.base.pixels import to_float
from entoptic.images.photos import Photos
from entoptic.methods.contract import MethodConfig
from entoptic.models.model import Model
from entoptic.units.unit import Unit, bind

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
SUBJECTS = {
    "lite0": (
        "builtin:lite0",
        # Spread evenly over both layers.
        [f"blocks.6:{6 + 13 * i}" for i in range(25)] + [f"blocks.5:{3 + 7 * i}" for i in range(25)],
        200,
    ),
    "vit": ("builtin:vit-s14", [f"blocks.8.mlp.act:{25 + 50 * i}" for i in range(30)], 64),
}
METHODS = ("vital", "vital-none", "pixels", "fourier", "maco", "retrieval")


def configs(evaluations: int) -> dict[str, MethodConfig]:
    """Every method with the same number of network evaluations per picture."""
    from entoptic.methods.fourier import Fourier
    from entoptic.methods.maco import Maco
    from entoptic.methods.pixels import PixelAscent
    from entoptic.methods.retrieval import Retrieval
    from entoptic.methods.vital import Vital

    return {
        "vital": Vital(steps=evaluations),
        "vital-none": Vital(steps=evaluations, relevance="none"),
        "maco": Maco(steps=evaluations, crops=1),
        "fourier": Fourier(steps=evaluations),
        "pixels": PixelAscent(steps=evaluations),
        "retrieval": Retrieval(),
    }


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="quality.py inner", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--subjects", default=",".join(SUBJECTS))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--units", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=Path, default=Path("runs/inner"))
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args(arguments)
    earlier = given.out / "inner.json"
    result: dict[str, Any] = json.loads(earlier.read_text()) if earlier.is_file() else {"subjects": {}}
    nets = verifiers()
    judges = {name: nets[name] for name in ("MobileNetV2", "Lite2")}
    held_out = Photos.open(DATA / "imagenet-val-650")
    photos = Photos.open(DATA / "imagenet-one-per-class")
    for subject in given.subjects.split(","):
        name, units, steps = SUBJECTS[subject]
        model = entoptic.load(name)
        bound = bind(model, units[: given.units])
        real = torch.cat([images for _, images in held_out.batches(model.card.prepare, 50)])
        features = {judge: logits_and_features(net, real)[1] for judge, net in judges.items()}
        rows: dict[str, Any] = result["subjects"].get(subject, {}).get("rows", {})
        for method in given.methods.split(","):
            config = configs(steps)[method]
            run = entoptic.see(
                model, bound, method=config, photos=photos, seed=given.seed, verifiers="", context=False,
                out=given.run / subject / method,
            )  # fmt: skip
            rows[method] = judge_run(run, config, bound, judges, features)
            rows[method]["config"] = asdict(config)
            print(subject, method, {k: v for k, v in rows[method].items() if k not in ("config", "units")}, flush=True)
            if method != "retrieval":  # its pictures are real photos, which may not be published here
                sheet(run, config, bound, given.out / f"inner-{subject}-{method}.jpg")
            result["subjects"][subject] = {
                "model": name, "units": [str(u) for u in bound], "steps": steps, "photos": len(photos), "rows": rows,
            }  # fmt: skip
            result["command"] = ("python benchmarks/quality.py inner " + " ".join(sys.argv[2:])).strip()
            result["about"] = about()
            given.out.mkdir(parents=True, exist_ok=True)
            earlier.write_text(json.dumps(result, indent=1) + "\n")
    (given.out / "inner.md").write_text(page(result))
    print(page(result))


def pictures_of(run: entoptic.Run, config: MethodConfig, units: Sequence[Unit]) -> list[entoptic.Picture]:
    """The run's pictures made with this config, in the order of the units."""
    plain = json.loads(json.dumps(asdict(config)))
    found = {picture.unit: picture for picture in run if picture.record["config"] == plain}
    return [found[str(unit)] for unit in units]


def judge_run(
    run: entoptic.Run,
    config: MethodConfig,
    units: Sequence[Unit],
    judges: dict[str, Model],
    real: dict[str, Tensor],
) -> dict[str, Any]:
    """Means over units with bootstrap intervals (a share has Wilson's), and kernel distances with jackknife intervals."""
    pictures = pictures_of(run, config, units)
    images = torch.cat([to_float(picture.pixels) for picture in pictures])
    per_unit = {
        "percentile": [picture["percentile"] for picture in pictures],
        "beats every photo": [float((picture["margin"] or 0) > 0) for picture in pictures],
        "robustness": [picture["robustness"] for picture in pictures],
        "causal agreement": [picture["causal"] for picture in pictures],
        "of photos": [picture.evidence["causal"]["detail"].get("photos among themselves") for picture in pictures],
    }
    row: dict[str, Any] = {"n": len(units), "units": per_unit}
    for name, values in per_unit.items():
        known = [v for v in values if v is not None and np.isfinite(v)]
        interval = wilson(sum(known), len(known)) if name == "beats every photo" else bootstrap(known or [0.0])
        row[name] = {"value": float(np.mean(known)), "interval": interval, "n": len(known)} if known else None
    for name, net in judges.items():
        features = logits_and_features(net, images)[1]
        row[f"kernel distance {name}"] = {
            "value": kid(features, real[name]), "interval": kid_interval(features, real[name]),
            "reference photos": len(real[name]),
        }  # fmt: skip
    seconds = [picture.record["trace"].get("seconds") for picture in pictures]
    row["seconds"] = float(np.mean([s for s in seconds if s is not None])) if any(seconds) else None
    return row


def sheet(run: entoptic.Run, config: MethodConfig, units: Sequence[Unit], path: Path, side: int = 112) -> None:
    """All pictures, ten a row, small."""
    images = [
        Image.fromarray(p.pixels).resize((side, side), Image.Resampling.LANCZOS)
        for p in pictures_of(run, config, units)
    ]
    page = Image.new("RGB", (side * min(10, len(images)), side * -(-len(images) // 10)), "white")
    for i, image in enumerate(images):
        page.paste(image, (side * (i % 10), side * (i // 10)))
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path, quality=88)


def paired(rows: dict[str, Any], name: str, other: str) -> str:
    """Mean difference vital - other over the units both have, with a bootstrap interval."""
    a, b = rows["vital"]["units"][name], rows[other]["units"][name]
    both = [x - y for x, y in zip(a, b) if x is not None and y is not None and np.isfinite(x - y)]
    if not both:
        return "–"
    low, high = bootstrap(both)
    return f"{np.mean(both):+.2f} [{low:+.2f}, {high:+.2f}]"


def page(result: dict[str, Any]) -> str:
    """The tables in Markdown."""
    columns = ("percentile", "beats every photo", "robustness", "causal agreement",
               "kernel distance MobileNetV2", "kernel distance Lite2")  # fmt: skip
    lines = ["# Inner units", ""]
    for subject, table in result["subjects"].items():
        layers = ", ".join(dict.fromkeys(unit.rpartition(":")[0] for unit in table["units"]))
        rows = table["rows"]
        lines += [
            f"## {table['model']}, {len(table['units'])} units of {layers}", "",
            f"{table['steps']} network evaluations a picture; percentile among {table['photos']} photos. In brackets are 95 %",
            "intervals over units (Wilson's for the share that beats every photo, else bootstrap), of distances by the jackknife",
            "over pictures.", "",
            *([table["note"], ""] if "note" in table else []),
            "| method | n | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|",
        ]  # fmt: skip
        for method, row in rows.items():
            cells = []
            for column in columns:
                cell = row[column]
                digits = 1 if column == "percentile" else 3
                cells.append(
                    f"{cell['value']:.{digits}f} [{cell['interval'][0]:.{digits}f}, {cell['interval'][1]:.{digits}f}]"
                    if cell
                    else "–"
                )
            lines.append(f"| {method} | {row['n']} | " + " | ".join(cells) + " |")
        if "vital" in rows:
            lines += ["", "Paired over units, vital minus the other, mean [95 % bootstrap]:", "",
                      "| other | percentile | robustness | causal agreement |", "|---|---|---|---|"]  # fmt: skip
            for other in rows:
                if other != "vital" and len(rows[other]["units"]["percentile"]) == len(table["units"]):
                    cells = [paired(rows, name, other) for name in ("percentile", "robustness", "causal agreement")]
                    lines.append(f"| {other} | " + " | ".join(cells) + " |")
        lines.append("")
        for method in [name for name in rows if name != "retrieval"]:
            lines += [f"**{method}**", "", f"![{subject} by {method}](inner-{subject}-{method}.jpg)", ""]
    versions = ", ".join(f"{k} {v}" for k, v in result["about"].items())
    lines += [note + "\n" for note in result.get("notes", [])]  # written by hand into inner.json
    return "\n".join([*lines, f"`{result['command']}` with {versions}.", ""])

"""Do pictures tell which photos drive a unit? Machine 2-AFC over the layers of a network, for every method.

    python benchmarks/layers.py                              # 50 units of each of 7 layers of builtin:lite0, 100 evaluations
    python benchmarks/layers.py --methods fourier,vital --units 4
    python benchmarks/layers.py --subject vit --units 8      # or squeezenet

An observer that is not the subject sees a picture, one of the 20 photos that drive the unit most and one of 20 from the half that
drives it less, and takes the photo that is more like the picture. Its features are the means and standard deviations of one
stage's channels over positions, each counted from its mean over photos in its standard deviation. Which stage: the one at which
strong photos of other units of the layer find each other best, so no method takes part in the choice. References are photos of
one set, those that are asked about of another. Pictures are stored in a run (--run) and never made twice. Writes
docs/benchmarks/layers.json and layers.md, of other subjects layers-SUBJECT.json and .md.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.models import squeezenet1_1

import entoptic
from any_class import sheet, words_kept
from common import DATA, about, mobilenet
from entoptic.base.estimates import mean_interval
from entoptic.configs import Fourier, Maco, Retrieval, Vital
from entoptic.images.photos import Photos
from entoptic.methods.contract import MethodConfig
from entoptic.metrics.sets.two_afc import choose
from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.models.taps import Tap
from entoptic.units.unit import Unit, bind

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
ASKED = 20
"""Strong photos, and weak ones, of each unit."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network whose units are shown.

    Attributes:
        load: gives it.
        layers: of the table.
        observers: names of networks that look at its pictures.
    """

    load: Callable[[], Model]
    layers: tuple[str, ...]
    observers: tuple[str, str]


INTRODUCTION = """# Layer by layer{of}

Does a picture tell which photos drive its unit? Another network sees the picture, one of the 20 photos that drive the unit most
and one of 20 from the half that drives it less, and takes the one that is more like the picture. The table has the share of pairs
in which it is right; chance is 0.5. Units of `{model}` at even distances through each layer, {units} of them or half of the
layer (n in the head of the table), none picked; one seed, {evaluations} evaluations a picture, in brackets 95 % intervals over
units (Student). *Another photo* is the same with one of the other strong photos as the picture. *Of the way* is how far `vital`
comes from chance to that, as a ratio of means (bootstrap over units).
`retrieval` shows the strongest photo of the set that VITAL's references come from. The observer looks with the stage at which
strong photos of *other* units of the layer find each other best; no method takes part in that choice."""


def configs(evaluations: int, **of_vital: Any) -> dict[str, MethodConfig]:
    """Every method, those that optimise with the same number of network evaluations."""
    return {
        "retrieval": Retrieval(),
        "vital": Vital(steps=evaluations, **of_vital),
        "fourier": Fourier(steps=evaluations),
        "maco": Maco(steps=evaluations, crops=1),
    }


def squeezenet() -> Model:
    """SqueezeNet 1.1: rectifiers, no BatchNorm (see the data's README)."""
    net = squeezenet1_1()
    stored = load_file(DATA / "weights" / "squeezenet1_1_caffe_fp16_rgb01.safetensors")
    net.load_state_dict({name: value.float() for name, value in stored.items()})
    return Model(net.eval(), Card(name="SqueezeNet", size=(227, 227), mean=(0, 0, 0), std=(1, 1, 1)))


SUBJECTS = {
    "lite0": Subject(
        load=lambda: entoptic.load("builtin:lite0"), layers=("bn1.act", *(f"blocks.{i}" for i in range(1, 7))),
        observers=("MobileNetV2", "SqueezeNet"),
    ),
    "vit": Subject(
        load=lambda: entoptic.load("builtin:vit-s14"), layers=tuple(f"blocks.{i}.mlp.act" for i in (2, 6, 10)),
        observers=("MobileNetV2", "SqueezeNet"),
    ),
    "squeezenet": Subject(
        load=squeezenet, layers=tuple(f"features.{i}" for i in (1, 4, 7, 12)), observers=("MobileNetV2", "Lite1")
    ),
}  # fmt: skip
STAGES = ["bn1", *(f"blocks.{i}" for i in range(1, 6)), "bn2"]
OBSERVERS: dict[str, tuple[Callable[[], Model], list[str]]] = {
    "MobileNetV2": (mobilenet, STAGES), "Lite1": (lambda: entoptic.load("builtin:lite1"), STAGES),
    "SqueezeNet": (squeezenet, [f"features.{i}" for i in (1, 4, 7, 9, 10, 12)]),
}  # fmt: skip
"""Networks that may look, each with the stages that it may look with."""


def observers(names: Sequence[str]) -> dict[str, tuple[Model, list[str]]]:
    """Networks that are not the subject, loaded."""
    return {name: (OBSERVERS[name][0](), OBSERVERS[name][1]) for name in names}


@torch.no_grad()
def stages(observer: Model, names: list[str], images: Tensor) -> list[Tensor]:
    """Per stage N×2C: means and standard deviations of channels over positions."""
    seen = interpolate(images, observer.card.size, mode="bilinear", antialias=True, align_corners=False)
    read = observer.read(seen, [Tap(name) for name in names])
    return [torch.cat([v.mean(-1), v.std(-1)], 1) for v in (read[Tap(name)] for name in names)]


def asked(scores_N: Tensor) -> tuple[Tensor, Tensor]:
    """Which photos are strong, and which are weak: at even distances in the half that drives the unit less."""
    order = scores_N.argsort(descending=True)
    low = order[len(order) // 2 :]
    return order[:ASKED], low[torch.linspace(0, len(low) - 1, ASKED).long()]


def spread(model: Model, layer: str, count: int, first: float) -> list[Unit]:
    """Units at even distances through a layer."""
    width = model.layer(layer).channels
    return bind(model, [f"{layer}:{int((i + first) * width / count)}" for i in range(count)])


def asked_for(model: Model, layer: str, units: int) -> int:
    """How many units of a layer are shown: at most half, so that as many others choose the observer's stage."""
    return min(units, model.layer(layer).channels // 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--methods", default="retrieval,vital,fourier,maco")
    parser.add_argument("--subject", choices=SUBJECTS, default="lite0")
    parser.add_argument("--layers", default="", help="of the subject, separated by commas")
    parser.add_argument("--units", type=int, default=50, help="most of a layer")
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--smoothness", type=float, default=Vital().smoothness, help="of vital")
    parser.add_argument("--smooth-from", type=int, default=Vital().smooth_from, help="of vital")
    parser.add_argument("--relevance", default=Vital().relevance, help="of vital")
    parser.add_argument(
        "--first", type=float, default=0.25, help="place of the first unit, as a share of the distance between two"
    )
    parser.add_argument("--of", type=int, default=0, help="about how many of these units are shown, at even distances")
    parser.add_argument("--run", default="runs/layers")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    subject = SUBJECTS[given.subject]
    model, layers = subject.load(), given.layers.split(",") if given.layers else list(subject.layers)
    whole = {layer: spread(model, layer, asked_for(model, layer, given.units), given.first) for layer in layers}
    shown = {layer: units[:: max(1, len(units) // (given.of or len(units)))] for layer, units in whole.items()}
    # As many others as there are units, and none of these.
    others = {layer: spread(model, layer, len(whole[layer]), 0.75 if given.first < 0.5 else 0.25) for layer in layers}
    kept: dict[str, list[list[Tensor]]] = {}
    scores: dict[str, list[Tensor]] = {}
    judges = observers(subject.observers)
    with torch.no_grad():
        for _, images in Photos.open(DATA / "imagenet-val-650").batches(model.card.prepare, 50):
            read = model.read(images, [Tap(layer) for layer in layers])
            for layer in layers:
                each = [u.read(read[Tap(layer)]) for u in (*shown[layer], *others[layer])]
                scores.setdefault(layer, []).append(torch.stack(each, 1))
            for name, (observer, names) in judges.items():
                kept.setdefault(name, []).append(stages(observer, names, images))
    table = {layer: torch.cat(rows) for layer, rows in scores.items()}
    seen = {name: [torch.cat(part) for part in zip(*rows)] for name, rows in kept.items()}
    moments = {name: [(f.mean(0), f.std(0).clamp_min(1e-6)) for f in rows] for name, rows in seen.items()}
    seen = {name: [(f - m) / s for f, (m, s) in zip(rows, moments[name])] for name, rows in seen.items()}

    def ceiling(name: str, stage: int, layer: str, unit: int) -> float:
        strong, weak = asked(table[layer][:, unit])
        features = seen[name][stage]
        found = choose(features[strong], features[strong], features[weak]).ceiling
        assert found is not None
        return found

    stage_of = {
        (name, layer): max(
            range(len(seen[name])),
            key=lambda k: np.mean([ceiling(name, k, layer, len(shown[layer]) + i) for i in range(len(others[layer]))]),
        )
        for name in judges
        for layer in layers
    }
    shares: dict[str, dict[str, dict[str, list[float]]]] = {name: {} for name in judges}
    for name in judges:
        shares[name]["another photo"] = {
            layer: [ceiling(name, stage_of[name, layer], layer, i) for i in range(len(shown[layer]))]
            for layer in layers
        }
    references = Photos.open(DATA / "imagenet-one-per-class")
    for method in given.methods.split(","):
        config = configs(
            given.evaluations,
            smoothness=given.smoothness,
            smooth_from=given.smooth_from,
            relevance=given.relevance,
        )[method]
        run = entoptic.see(
            model, [u for layer in layers for u in shown[layer]], method=config, photos=references, verifiers="",
            context=False, out=f"{given.run}/{method}" if given.subject == "lite0" else f"{given.run}/{given.subject}/{method}",
        )  # fmt: skip
        pictures = {picture.unit: picture.tensor.float() for picture in run}
        if method != "retrieval":  # its pictures are photos, which may not be published here
            given.out.mkdir(parents=True, exist_ok=True)
            if method == "vital":
                for layer in layers:
                    names = [str(u) for u in shown[layer]]
                    sheet(torch.stack([pictures[n] for n in names]), names, given.out / f"layers-{layer}.jpg", side=100)
            else:
                few = min(8, *(len(units) for units in shown.values()))
                names = [str(units[k * len(units) // few]) for units in shown.values() for k in range(few)]
                tiles = torch.stack([pictures[n] for n in names])
                sheet(tiles, names, given.out / f"{stem(given.subject)}-{method}.jpg", columns=few, side=100)
        for name, (observer, names) in judges.items():
            shares[name][method] = {layer: [] for layer in layers}
            for layer in layers:
                k = stage_of[name, layer]
                mean, sd = moments[name][k]
                for i, unit in enumerate(shown[layer]):
                    strong, weak = asked(table[layer][:, i])
                    hint = (stages(observer, names, pictures[str(unit)][None])[k] - mean) / sd
                    share = choose(hint, seen[name][k][strong], seen[name][k][weak]).share
                    shares[name][method][layer].append(round(share, 4))
        write(given, model.card.name, shares, stage_of, judges)


def stem(subject: str) -> str:
    """Beginning of the names of a subject's files."""
    return "layers" if subject == "lite0" else f"layers-{subject}"


def write(
    given: argparse.Namespace,
    subject: str,
    shares: dict[str, dict[str, dict[str, list[float]]]],
    stage_of: dict[tuple[str, str], int],
    judges: dict[str, tuple[Model, list[str]]],
) -> None:
    """Writes what is known so far."""
    chosen = {f"{name}, {layer}": judges[name][1][k] for (name, layer), k in stage_of.items()}
    held: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/layers.py", *words_kept(sys.argv[1:])]), "about": about(),
        "subject": given.subject, "model": subject, "units": given.units,
        "evaluations": given.evaluations, "stages": chosen, "shares": shares,
    }  # fmt: skip
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / f"{stem(given.subject)}.json").write_text(json.dumps(held, indent=1) + "\n")
    (given.out / f"{stem(given.subject)}.md").write_text(page(held))


def cell(values: list[float]) -> str:
    """A mean with its 95 % interval over units."""
    low, high = mean_interval(values)
    if min(values) >= 0:  # a share
        low, high = max(low, 0.0), min(high, 1.0)
    return f"{np.mean(values):.2f} [{low:.2f}, {high:.2f}]"


def way(values: list[float], ceiling: list[float]) -> str:
    """How far the mean of some shares is on the way from chance to the mean of the ceiling, with a bootstrap interval."""
    pairs = np.array([values, ceiling]) - 0.5
    drawn = np.random.default_rng(0).integers(0, len(values), (4000, len(values)))
    found, goal = pairs[:, drawn].mean(2)
    low, high = np.quantile(found / np.maximum(goal, 1e-9), [0.025, 0.975])
    here, there = pairs.mean(1)
    return f"{here / max(there, 1e-9):.2f} [{low:.2f}, {high:.2f}]"


def page(held: dict[str, Any]) -> str:
    """The tables as Markdown."""
    lines = [
        *INTRODUCTION.format(**held, of="" if held["subject"] == "lite0" else f": `{held['model']}`").splitlines(), "",
    ]  # fmt: skip
    for name, rows in held["shares"].items():
        layers = list(next(iter(rows.values())))
        head = " | ".join(f"{layer}, n = {len(next(iter(rows.values()))[layer])}" for layer in layers)
        lines += [f"## Seen by {name}", "", f"| | {head} |", "|---" * (len(layers) + 1) + "|"]
        lines += [f"| {method} | {' | '.join(cell(by[layer]) for layer in layers)} |" for method, by in rows.items()]
        for other in ("fourier", "maco", "retrieval"):
            if {"vital", other} <= rows.keys():
                apart = [[v - f for v, f in zip(rows["vital"][layer], rows[other][layer])] for layer in layers]
                lines += [f"| vital - {other} | {' | '.join(cell(gaps) for gaps in apart)} |"]
        if "vital" in rows:
            ways = [way(rows["vital"][layer], rows["another photo"][layer]) for layer in layers]
            lines += [f"| *of the way* | {' | '.join(ways)} |"]
        stage = [held["stages"][f"{name}, {layer}"] for layer in layers]
        lines += [f"| *looks with* | {' | '.join(stage)} |", ""]
    made = {m for rows in held["shares"].values() for m in rows} - {"another photo", "retrieval"}
    if "vital" in made:
        lines += ["## Pictures by `vital`, nothing picked", ""]
        for layer in layers:
            lines += [f"**{layer}**", "", f"![Units of {layer} by vital](layers-{layer}.jpg)", ""]
    for method in sorted(made - {"vital"}):
        lines += [f"## Pictures by `{method}`, a row a layer, nothing picked", ""]
        lines += [f"![Pictures by {method}]({stem(held['subject'])}-{method}.jpg)", ""]
    text = ", ".join(f"{k} {v}" for k, v in held["about"].items())
    return "\n".join([*lines, f"`{held['command']}` with {text}.", ""])


if __name__ == "__main__":
    main()

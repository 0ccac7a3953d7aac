"""Classes without photos: pictures of random ImageNet classes from the shipped statistics, judged by four other networks.

    python benchmarks/any_class.py                       # the 50 reported classes, one seed, vital
    python benchmarks/any_class.py --half tune           # the 50 on which the recipe was chosen
    python benchmarks/any_class.py --methods vital,maco,fourier --seeds 3

The halves are a fixed random choice of 100 classes without imagenette's ten. Lite1 and Lite2 are of the subject's family,
MobileNetV2 and SqueezeNet are of other families; SqueezeNet took part in one choice, that of `class_contrast`.
Pictures are stored in a run (--run) and never made twice. Writes docs/benchmarks/any-class.json, any-class.md and a contact
sheet (named by its half and method).
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.models import squeezenet1_1

import entoptic
from common import CLASSES, DATA, about, verifiers
from entoptic.base.estimates import wilson
from entoptic.base.pixels import to_float
from entoptic.metrics.distribution import features, kid, kid_interval
from entoptic.models.model import Model

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
EVALUATIONS = 300
"""Network evaluations a picture, of every method."""


def halves() -> dict[str, list[int]]:
    """Two disjoint random halves of 100 classes, without imagenette's."""
    rest = [k for k in range(1000) if k not in CLASSES]
    random.Random(7).shuffle(rest)
    return {"tune": rest[:50], "report": rest[50:100]}


def judges(subject: Model) -> dict[str, Callable[[Tensor], Tensor]]:
    """Networks by name: pictures N×3×H×W in [0, 1] to logits."""

    def reader(model: Model) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.cat([model(model.fit(chunk)) for chunk in x.split(25)])

    squeeze = squeezenet1_1()
    stored = load_file(DATA / "weights" / "squeezenet1_1_caffe_fp16_rgb01.safetensors")
    squeeze.load_state_dict({name: value.float() for name, value in stored.items()})
    squeeze.eval()

    def read(x: Tensor) -> Tensor:
        small = interpolate(x, size=(227, 227), mode="bilinear", antialias=True, align_corners=False)
        return torch.cat([squeeze(chunk) for chunk in small.split(25)])

    named = {"Lite0 (itself)": subject} | verifiers()
    return {name: reader(model) for name, model in named.items()} | {"SqueezeNet": read}


@torch.no_grad()
def ranks(judge: Callable[[Tensor], Tensor], pictures: Tensor, classes: list[int]) -> list[int]:
    """Rank of each picture's class among a judge's logits, from 1."""
    logits = judge(pictures)
    own = logits.gather(1, torch.tensor(classes)[:, None])
    return ((logits > own).sum(1) + 1).tolist()


def photos_of(classes: list[int]) -> tuple[Tensor, list[int]]:
    """The photo of each class that is there: what the judges make of real photos."""
    from entoptic.base.pixels import centre_square
    from entoptic.images.photos import Photos

    photos = Photos.open(str(DATA / "imagenet-one-per-class"))
    found, kept = [], []
    for i, photo in enumerate(photos):
        if photo.class_index in classes:
            read = photos.read(i)
            if read is not None:
                found.append(centre_square(read, 224).float() / 255)
                kept.append(int(photo.class_index))
    return torch.stack(found), kept


def sheet(pictures: Tensor, names: list[str], path: Path, *, columns: int = 10, side: int = 150) -> None:
    """Writes pictures with their names below, in rows."""
    rows = -(-len(pictures) // columns)
    canvas = Image.new("RGB", (columns * (side + 6) + 6, rows * (side + 22) + 6), "white")
    draw = ImageDraw.Draw(canvas)
    for i, (picture, name) in enumerate(zip(pictures, names)):
        y, x = divmod(i, columns)
        tile = Image.fromarray((255 * picture).round().byte().permute(1, 2, 0).numpy())
        canvas.paste(tile.resize((side, side), Image.Resampling.LANCZOS), (6 + x * (side + 6), 6 + y * (side + 22)))
        draw.text((8 + x * (side + 6), 8 + y * (side + 22) + side), name[:24], fill="black")
    canvas.save(path, quality=88)


def words_kept(words: list[str]) -> list[str]:
    """The words of the command without folders of this machine."""
    return [
        w for i, w in enumerate(words) if w not in ("--run", "--out") and words[i - 1 : i] not in (["--run"], ["--out"])
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--half", choices=("tune", "report"), default="report")
    parser.add_argument("--methods", default="vital")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--limit", type=int, default=50, help="classes")
    parser.add_argument("--steps", default="", help="of vital, such as 100,300,600: a row for each")
    parser.add_argument("--run", default="runs/any-class")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    model = entoptic.load("builtin:lite0")
    classes = halves()[given.half][: given.limit]
    units = [f"logits:{k}" for k in classes]
    seen: dict[str, tuple[Tensor, list[int]]] = {"photos": photos_of(classes)}
    rows = [(f"vital, {k} steps", "vital", int(k)) for k in given.steps.split(",") if k] or [
        (method, method, EVALUATIONS) for method in given.methods.split(",")
    ]
    for row, method, steps in rows:
        options: dict[str, Any] = {"steps": steps}
        options |= {"crops": 1} if method == "maco" else {}
        pictures, of = [], []
        for seed in range(given.seeds):
            run = entoptic.see(model, units, method=method, seed=seed, out=given.run, verifiers="", **options)
            wanted = {f"logits:{k}": k for k in classes}
            for picture in run:
                recorded = picture.record
                made = recorded["method"], recorded["seed"], recorded["config"]["steps"]
                if made == (method, seed, steps) and recorded["unit"] in wanted:
                    pictures.append(to_float(picture.pixels)[0])
                    of.append(wanted[recorded["unit"]])
        seen[row] = torch.stack(pictures), of
    reference = seen["photos"][0]
    judge_of_distance = verifiers()["MobileNetV2"]
    reference_features = features(judge_of_distance, reference)
    table: dict[str, Any] = {}
    for name, (pictures_now, of_now) in seen.items():
        n = len(set(of_now))  # classes were drawn; the pictures of one are averaged first
        entry: dict[str, Any] = {"n": len(of_now), "classes": n}
        for judge_name, judge in judges(model).items():
            found = ranks(judge, pictures_now, of_now)
            entry[judge_name] = {
                f"top-{k}": {"value": share, "interval": wilson(share * n, n)}
                for k in (1, 5)
                for share in [sum(r <= k for r in found) / len(found)]
            }  # fmt: skip
        if name != "photos":
            theirs = features(judge_of_distance, pictures_now)
            entry["kid"] = {
                "value": kid(theirs, reference_features),
                "interval": list(kid_interval(theirs, reference_features)),
            }
            names = [model.card.label(k) or str(k) for k in of_now[: len(classes)]]
            if not given.steps:
                sheet(pictures_now[: len(classes)], names, given.out / f"any-class-{given.half}-{name}.jpg")
        table[name] = entry
    key = f"{given.half}{', presets' if given.steps else ''}, {given.seeds} seed{'s' * (given.seeds > 1)}, {len(classes)} classes"
    path = given.out / "any-class.json"
    held = json.loads(path.read_text()) if path.exists() else {}
    held[key] = {"command": shlex.join(words_kept(sys.argv[1:])), "about": about(), "rows": table}
    path.write_text(json.dumps(held, indent=1))
    (given.out / "any-class.md").write_text(page(held))
    print(page({key: held[key]}))


def page(held: dict[str, Any]) -> str:
    """The tables as Markdown."""
    lines = [
        "# Classes without photos", "",
        "Pictures of random ImageNet classes by `entoptic see builtin:lite0 logits:K`, without photos, and what other networks",
        "see in them. `benchmarks/any_class.py` makes this page; top-1 / top-5, in brackets 95 % Wilson intervals of top-1",
        "at the number of classes: the pictures of a class are averaged first.",
        "The recipe was chosen on the half *tune*. The half *report* was looked at once before `class_contrast` was chosen",
        "([decision 043](../decisions/043-contrast.md)); the choice itself was made on *tune*.",
        "Lite1, Lite2 and MobileNetV2 judged the choices, SqueezeNet that of `class_contrast` alone.",
        "The row of photos holds one photo a class. The shipped statistics read these photos too.", "",
    ]  # fmt: skip
    for key, part in held.items():
        judges_now = [name for name in next(iter(part["rows"].values())) if name not in ("n", "classes", "kid")]
        lines += [
            f"## {key[0].upper()}{key[1:]}",
            "",
            f"| | pictures | classes | {' | '.join(judges_now)} | kernel distance |",
        ]
        lines += ["|---" * (len(judges_now) + 4) + "|"]
        for name, entry in part["rows"].items():
            cells = [
                f"{entry[j]['top-1']['value']:.2f} / {entry[j]['top-5']['value']:.2f} "
                f"[{entry[j]['top-1']['interval'][0]:.2f}, {entry[j]['top-1']['interval'][1]:.2f}]"
                for j in judges_now
            ]
            distance = entry.get("kid")
            far = (
                f"{distance['value']:.3f} [{distance['interval'][0]:.3f}, {distance['interval'][1]:.3f}]"
                if distance
                else ""
            )
            lines.append(f"| {name} | {entry['n']} | {entry['classes']} | {' | '.join(cells)} | {far} |")
        lines += ["", f"`python benchmarks/any_class.py {part['command']}`", ""]
        half = key.partition(",")[0]
        lines += [
            f"![The pictures of {name}](any-class-{half}-{name}.jpg)\n\n*{name}: the first seed of every class, nothing picked.*\n"
            for name in part["rows"]
            if name != "photos" and "presets" not in key
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

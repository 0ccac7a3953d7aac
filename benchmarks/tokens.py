"""Does contrast help units of tokens? Machine 2-AFC of both recipes of vital on a transformer, at two depths.

    python benchmarks/tokens.py                      # 8 tuning units of builtin:vit-s14, an hour of one core
    python benchmarks/tokens.py --half report        # 8 others: the default changes only where these say so

Two channels of a block's tokens and two neurons of its MLP at each depth. The yardstick is that of benchmarks/layers.py: another
network sees a picture and two photos, one that drives the unit and one that does not, and takes the photo that is more like the
picture. References are of one set of photos, those that are asked about of another. Pictures are kept in --run; prints a table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

import entoptic
from common import DATA
from entoptic.configs import Vital
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.methods.contract import Context, Item
from entoptic.methods.vital import vital
from entoptic.metrics.sets.two_afc import choose
from entoptic.models.model import Model
from entoptic.models.taps import Tap
from entoptic.units.unit import Unit
from layers import asked, cell, observers, spread, stages

LAYERS = ("blocks.3", "blocks.3.mlp.act", "blocks.8", "blocks.8.mlp.act")
RECIPES = {"contrast": {"relevance": "none", "contrast": 3.0}, "relevance": {"relevance": "lrp"}}
FIRST = {"tune": 0.25, "report": 0.5}
"""Where in a layer the units begin, as a share of the distance between two."""


def pictures(model: Model, units: list[Unit], recipe: str, steps: int, references: References) -> Tensor:
    """Pictures of the units, in their order; without measurements, which cost more than they do here."""

    def told(step: int, of: int) -> None:
        print(f"{recipe}: step {step} of {of}", end="\r", flush=True)

    context = Context(model=model, references=references, on_step=told)
    items = [Item(target=unit, sample=0, seed=0) for unit in units]
    made = {}
    for draft in vital(items, Vital(steps=steps, **RECIPES[recipe]), context):  # type: ignore[arg-type]
        assert draft.image is not None, draft.failure
        made[str(draft.item.unit)] = draft.image
    return torch.stack([made[str(unit)] for unit in units])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--half", choices=tuple(FIRST), default="tune")
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--every", type=int, default=1, help="take every n-th photo of both sets")
    parser.add_argument("--run", type=Path, default=Path("runs/tokens"))
    given = parser.parse_args()
    given.run.mkdir(parents=True, exist_ok=True)
    model, judges = entoptic.load("builtin:vit-s14"), observers()
    shown = [unit for layer in LAYERS for unit in spread(model, layer, 2, FIRST[given.half])]
    others = [unit for layer in LAYERS for unit in spread(model, layer, 2, 0.9)]
    photos = Photos.open(DATA / "imagenet-val-650")
    scores, kept = [], {name: [] for name in judges}
    with torch.no_grad():
        for _, images in photos.batches(model.card.prepare, 25, list(range(0, len(photos), given.every))):
            read = model.read(images, [Tap(layer) for layer in LAYERS])
            scores.append(torch.stack([unit.read(read[unit.tap]) for unit in (*shown, *others)], 1))
            for name, (observer, names) in judges.items():
                kept[name].append(stages(observer, names, images))
    table = torch.cat(scores)
    files = sorted(map(str, (DATA / "imagenet-one-per-class").glob("*.jpg")))[:: given.every]
    references = References(model, Photos.open(files))
    references.expect(shown)
    made = {}
    for recipe in RECIPES:
        file = given.run / f"{given.half}-{recipe}-{given.steps}-{given.every}.pt"
        if not file.is_file():
            torch.save(pictures(model, shown, recipe, given.steps, references), file)
        made[recipe] = torch.load(file, weights_only=True)
    for name, (observer, names) in judges.items():
        plain = [torch.cat(part) for part in zip(*kept[name])]
        moments = [(f.mean(0), f.std(0).clamp_min(1e-6)) for f in plain]
        seen = [(f - mean) / sd for f, (mean, sd) in zip(plain, moments)]
        for depth, first in (("3", 0), ("8", 4)):
            ids = range(first, first + 4)

            def ceiling(k: int, unit: int, seen: list[Tensor] = seen) -> float:
                strong, weak = asked(table[:, unit])
                return choose(seen[k][strong], seen[k][strong], seen[k][weak]).ceiling or 0.0

            # With the stage at which strong photos of other units find each other best.
            k = max(range(len(seen)), key=lambda k: sum(ceiling(k, len(shown) + i) for i in ids))
            mean, sd = moments[k]
            row = {"another photo": [ceiling(k, i) for i in ids]}
            for recipe, images in made.items():
                row[recipe] = []
                for i in ids:
                    strong, weak = asked(table[:, i])
                    hint = (stages(observer, names, images[i][None])[k] - mean) / sd
                    row[recipe].append(choose(hint, seen[k][strong], seen[k][weak]).share)
            row["contrast - relevance"] = [a - b for a, b in zip(row["contrast"], row["relevance"])]
            print(f"depth {depth}, seen by {name} ({names[k]}): {'; '.join(f'{w} {cell(v)}' for w, v in row.items())}")


if __name__ == "__main__":
    main()

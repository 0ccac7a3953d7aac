"""What changes inside builtin:lite0 when its convolutions are rounded to a few bits, and does undoing it mend the answers?

    python benchmarks/rounded.py --bits 5       # prints what docs/patterns.md tells; a minute

Patterns of `blocks.6` with the rounded network against the whole one, on the 650 validation photos. Then the mean of each channel,
or of the channels that were found, is moved back to where it was: the shift is measured on two photos of three, and answers are
counted on the third.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import entoptic
from common import DATA
from entoptic.base.estimates import wilson
from entoptic.base.records import read_json
from entoptic.findings.activity import read_activity, read_basis
from entoptic.findings.labels import true_classes
from entoptic.images.photos import Photos
from entoptic.models.model import Model

LAYER, LAST = "blocks.6", "blocks.6.0.bn3"


def rounded(weight: Tensor, bits: int) -> Tensor:
    """Weights of a convolution rounded to whole multiples of a step for each output channel."""
    largest = weight.flatten(1).abs().amax(1).clamp_min(1e-12).view(-1, *[1] * (weight.ndim - 1))
    step = largest / (2 ** (bits - 1) - 1)
    return (weight / step).round() * step


def damaged(model: Model, bits: int) -> Model:
    """A copy of a network whose convolutions are rounded."""
    module = copy.deepcopy(model.module)
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data.copy_(rounded(parameter.data, bits))
    return Model(module, replace(model.card, name=f"lite0 in {bits} bits", weights_sha256=""), device="cpu")


def main() -> None:
    """Prints both parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bits", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/rounded"))
    options = parser.parse_args()
    model = entoptic.load("builtin:lite0", device="cpu")
    other, photos = damaged(model, options.bits), Photos.open(DATA / "imagenet-val-650")
    found = entoptic.patterns(
        model, LAYER, photos=photos, against=other, out=options.out, most=4, tested=24, sets=10
    )  # fmt: skip
    units = []
    for entry in read_json(found.file("patterns.json"))["patterns"]:
        print(entry["clauses"], entry["towards"], entry["on"], entry["size"], entry["change"])
        units += [int(unit.rpartition(":")[2]) for clause in entry["clauses"] for unit in clause]
    for name, one in found.evidence.items():
        print(name, one["value"], one["interval"], one["n"], one["detail"])

    basis, true = read_basis(model, LAYER), true_classes(model, photos)
    before, after = (read_activity(one, basis, photos, range(len(photos))) for one in (model, other))
    judged = list(range(0, len(photos), 3))
    fitted = [i for i in range(len(photos)) if i % 3]
    shift = before.scores[fitted].mean(0) - after.scores[fitted].mean(0)
    sizes = np.abs(shift) / before.scores[fitted].std(0)
    print(f"shift in standard deviations: median {np.median(sizes):.2f}, of the found {sizes[units].round(2)}")
    said = {"whole": before.said[judged], "rounded": after.said[judged]}
    bias = other.module.get_submodule(LAST).bias.data
    images = [x for _, x in photos.batches(model.card.prepare, 32, judged)]
    for name, channels in (("means of all channels", list(range(len(shift)))), ("means of the found ones", units)):
        saved = bias.clone()
        bias[channels] += torch.tensor(shift[channels]).to(bias)
        with torch.no_grad():
            said[name] = torch.cat([other(x) for x in images]).argmax(1).numpy()
        bias.copy_(saved)
    rounded_right = said["rounded"] == true[judged]
    for name, answers in said.items():
        right = answers == true[judged]
        low, high = wilson(int(right.sum()), len(right))
        gained, lost = int((right & ~rounded_right).sum()), int((rounded_right & ~right).sum())
        print(f"{name}: {right.mean():.1%} ({low:.1%} to {high:.1%}, n = {len(right)}), {gained} gained, {lost} lost")


if __name__ == "__main__":
    main()

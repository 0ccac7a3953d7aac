"""Makes the stored run that `tests/runs/test_stored.py` reads, resumes and verifies.

    python -m tests.stored.make FOLDER          (from the root of the repository)

writes photos, two tiny networks, a prior, an inverter, a dictionary, the cache of the frontier, the runs and
`expected.json` to FOLDER; the same bytes each time but for times. It takes a quarter of a minute.

What lies beside this file was made by version 0.1.0 of Entoptic, before its rooms were refactored, and is not to be made
again: that later versions read it is what the test shows, and this script need not run on them. Of the inside of that
version it takes `models.sources`, `priors.saved`, `inversion.recipe`, `runs.learn_inverter`, `units.concepts` and
`units.dictionary`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from entoptic.inversion.recipe import EntopticRecipe
from PIL import Image
from safetensors.torch import save_file
from tests.conftest import LABELS, tiny_module
from tests.stored import asked

import entoptic
from entoptic.models.sources import SOURCES
from entoptic.priors.saved import save_prior
from entoptic.runs.learn_inverter import learn
from entoptic.units.concepts import Concepts
from entoptic.units.dictionary import save


def photos(folder: Path, counts: Sequence[int], seed: int) -> None:
    """Photos in folders of the network's labels: soft patches of a brightness that tells the class."""
    rng = np.random.default_rng(seed)
    for k, (label, count) in enumerate(zip(LABELS, counts)):
        (folder / label).mkdir(parents=True)
        for i in range(count):
            patches = rng.normal(0.2 + 0.15 * k, 0.15, (4, 4, 3))
            pixels = np.clip(255 * patches, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC).save(folder / label / f"{i}.png")


def prior(folder: Path) -> None:
    """An untrained network that makes 8×8 pictures of three classes, with all weights moved: its last layers are zero."""
    torch.manual_seed(0)
    net = UNet2DConditionModel(
        sample_size=4, in_channels=12, out_channels=12, block_out_channels=(8,), down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",), mid_block_type="UNetMidBlock2D", layers_per_block=1, norm_num_groups=4,
        attention_head_dim=8, num_class_embeds=4, resnet_time_scale_shift="scale_shift", cross_attention_dim=8,
    )  # fmt: skip
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    save_prior(net, folder, {"name": "tiny", "size": 8, "patch": 2, "classes": ["a", "b", "c"]})


def inverter(folder: Path) -> None:
    """A training short enough to wait for and long enough that its pictures depend on the map."""
    recipe = EntopticRecipe(steps=80, batch_size=8, hint=8, warmup=1, rate=0.02, ema=0.9)
    with tempfile.TemporaryDirectory() as scratch:
        seen, training = Path(scratch) / "photos", Path(scratch) / "training"
        photos(seen, [8] * 5, seed=1)  # as many as the law of the maps takes
        made = learn(
            asked.MODEL, asked.LAYER, seen, training, recipe, prior=asked.PRIOR, name="tiny", compared=4, verifiers="",
            device="cpu", progress=False,
        )  # fmt: skip
        shutil.copytree(made, folder, ignore=shutil.ignore_patterns("*.png"))


def dictionary(file: Path) -> None:
    """Four concepts of four channels each."""
    sha256 = entoptic.load(asked.MODEL, device="cpu").card.weights_sha256
    save(Concepts.of(torch.eye(16).split(4), layer=asked.LAYER, model_sha256=sha256), file)


def write_expected() -> None:
    """What the test compares with."""
    rows = [
        {
            "run": name, "file": picture.path.relative_to(Path("runs") / name).as_posix(),
            "sha256": hashlib.sha256(picture.path.read_bytes()).hexdigest(), "key": picture.record["key"],
        }
        for name in asked.REQUESTS
        for picture in entoptic.Run.open(Path("runs") / name)
    ]  # fmt: skip
    Path("expected.json").write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)  # every path in a sidecar is relative to it
    if found := [name for name in asked.FOLDERS if Path(name).exists()]:
        raise SystemExit(f"{', '.join(found)} are there already")
    photos(Path(asked.PICTURES), (3, 3, 2, 2, 2), seed=0)
    Path("networks").mkdir()
    for seed in (0, 7):
        save_file(tiny_module(seed).state_dict(), f"networks/tiny-{seed}.safetensors")
    SOURCES["tiny"] = asked.networks(Path())
    prior(Path("prior"))
    with tempfile.TemporaryDirectory() as scratch:
        for name, request in asked.REQUESTS.items():
            # Only the frontier is made anew from what is cached; pictures of the other runs need no cache to be found.
            os.environ["ENTOPTIC_CACHE"] = "cache" if name == "frontier" else scratch
            if name == "invert":
                inverter(Path("inverter"))
                dictionary(Path(asked.DICTIONARY))
            request()
    for left in (*Path("runs").glob("**/.lock"), *Path("runs").glob("*/frontier/*.png")):
        left.unlink()  # the drawing is the largest file of all, and drawn again by every request
    write_expected()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

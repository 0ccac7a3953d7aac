"""What training a dictionary costs beside the network's own pass over the same photos, in CPU seconds.

python benchmarks/dictionaries.py imagenette/val
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

import entoptic
from entoptic.dictionaries.learn import train
from entoptic.dictionaries.recipe import DictionaryRecipe
from entoptic.dictionaries.stream import Source
from entoptic.images.photos import Photos

COUNT, ROUNDS = 128, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos")
    parser.add_argument("--layer", default="blocks.6")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, photos = entoptic.load("builtin:lite0", device="cpu"), Photos.open(options.photos)
    source = Source.of(model, options.layer, Photos.open([str(photos.path(i)) for i in range(COUNT)]))
    recipe = DictionaryRecipe(steps=COUNT * 32 // 1024, buffer=COUNT * 32, held_photos=1, least_gain=0)
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in source.read(source.members):
            pass
        alone = time.process_time() - began
        with tempfile.TemporaryDirectory() as folder:
            began = time.process_time()
            train(source, "batchtopk", Path(folder), recipe)
            whole = time.process_time() - began
        print(f"{COUNT} photos: {alone:.2f} s without, {whole:.2f} s with training, throughput {alone / whole:.0%}")


if __name__ == "__main__":
    main()

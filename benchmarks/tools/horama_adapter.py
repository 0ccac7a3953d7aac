"""Horama: MACO by its authors, and Fourier feature visualisation."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from protocol import Made, Setting, Subject, Task, Tool, main
from torch import Tensor

SPECTRUM = "spectrum_decorrelated.npy"
SEEN = 0.275
"""Mean side of a crop by default, as a share of the picture: box_size=(0.20, 0.25) gives 0.25 to 0.30."""
OPTIONS: dict[str, dict[str, Any]] = {
    "maco-default": {},
    "fourier-default": {},
    # Each was the best of four for the three verifiers on one class of the tuning half (295).
    "maco-equal": {"image_size": 512, "crops_per_iteration": 2, "box_size": (0.4, 0.5)},
    "fourier-equal": {"image_size": 224, "crops_per_iteration": 6, "box_size": (0.75, 0.9)},
}


def make(subject: Subject, task: Task) -> Made:
    import horama

    options = dict(OPTIONS[task.setting])
    if options:
        options["total_steps"] = task.evaluations // options["crops_per_iteration"]
    # One range for all colours, in the network's own units: what Horama asks its users to set.
    low, high = (0 - subject.mean[0]) / subject.std[0], (1 - subject.mean[0]) / subject.std[0]
    options |= {"values_range": (low, high), "model_input_size": subject.size[0], "device": "cpu"}

    def objective(images: Tensor) -> Tensor:
        return torch.mean(subject.net(images)[:, task.index])

    function = {"maco": horama.maco, "fourier": horama.fourier}[task.setting.partition("-")[0]]
    with beside_the_spectrum(Path(task.folder)):
        image, _transparency = function(objective, **options)
    picture = ((image.detach() - low) / (high - low)).clamp(0, 1)
    parts = {"centre": centre(picture, SEEN)} if task.setting.endswith("default") else {}
    return Made(picture=picture, settings=options, parts=parts)


def centre(picture: Tensor, share: float) -> Tensor:
    """The central square of a picture, with a share of its side."""
    side = round(share * picture.shape[1])
    start = (picture.shape[1] - side) // 2
    return picture[:, start : start + side, start : start + side]


@contextmanager
def beside_the_spectrum(folder: Path) -> Iterator[None]:
    """Works in a folder that holds MACO's spectrum. Horama downloads it there; the wheel of Xplique has the same file."""
    found = importlib.util.find_spec("xplique")
    if found and found.submodule_search_locations and not (folder / SPECTRUM).is_file():
        shutil.copy(Path(found.submodule_search_locations[0]) / "features_visualizations" / SPECTRUM, folder / SPECTRUM)
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


TOOL = Tool(
    name="Horama",
    package="horama",
    settings=(
        Setting(name="maco-default", says="1280 pixels, 1000 steps of 6 crops", slow=True),
        Setting(name="maco-equal", says="512 pixels, 2 crops a step", equal=True),
        Setting(name="fourier-default", says="1280 pixels, 1000 steps of 6 crops", slow=True),
        Setting(name="fourier-equal", says="224 pixels, 6 crops a step", equal=True),
    ),
    make=make,
    bare=("horama==0.3.0", "xplique==2.0.2"),
    also=("einops", "matplotlib", "tqdm"),
    note="",
)

if __name__ == "__main__":
    main(TOOL)

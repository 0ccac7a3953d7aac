"""`full`: two hundred classes, channels of three depths and a transformer, methods also as they come. For a GPU."""

from __future__ import annotations

from dataclasses import replace

from entoptic.bench.recipe import Entry
from entoptic.bench.standard import EQUAL, of_channels, of_classes
from entoptic.bench.standard import RECIPE as STANDARD
from entoptic.methods.deep_inversion import DeepInversion
from entoptic.methods.fourier import Fourier
from entoptic.methods.maco import Maco
from entoptic.methods.pixels import PixelAscent

DEFAULTS = (
    Entry(label="fourier as it comes", config=Fourier()),
    Entry(label="maco as it comes", config=Maco()),
    Entry(label="pixels as it comes", config=PixelAscent()),
    Entry(label="deep-inversion as it comes", config=DeepInversion()),
)
"""Methods with their own numbers of network evaluations; the table of costs says how many."""

RECIPE = replace(
    STANDARD,
    name="full",
    title="a GPU, with photos",
    note=(
        "Methods at equal numbers of network evaluations, and, as they come, at their own. Classes are every fifth of ImageNet: "
        "some of them took part in the choice of recipes, which the standard benchmark leaves out. Pictures of channels match one "
        "half of the photos; everything is measured on the other half."
    ),
    subjects=(
        of_classes(range(2, 1000, 5), (*EQUAL, *DEFAULTS)),
        of_channels(
            [
                *(f"blocks.6:{3 + 6 * k}" for k in range(50)),
                *(f"blocks.5:{1 + 3 * k}" for k in range(50)),
                *(f"blocks.3:{1 + 2 * k}" for k in range(35)),
            ]
        ),
        of_channels(
            (f"blocks.8.mlp.act:{25 + 30 * k}" for k in range(50)),
            name="neurons of a transformer",
            model="builtin:vit-s14",
        ),
    ),
    most_photos=10000,
)

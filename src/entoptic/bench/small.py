"""`small`: minutes on two cores, from a plain install, without photos."""

from __future__ import annotations

from entoptic.bench.recipe import Entry, PlantedNetworkPart, PlantedPart, Recipe, Subject
from entoptic.methods.fourier import Fourier
from entoptic.methods.maco import Maco
from entoptic.methods.pixels import PixelAscent
from entoptic.methods.vital import Vital

EVALUATIONS = 128
"""Network evaluations of a picture, the same for every method. It is less than any method's default."""

EQUAL = (
    Entry(label="vital", config=Vital(steps=EVALUATIONS)),
    Entry(label="fourier", config=Fourier(steps=EVALUATIONS)),
    Entry(label="maco", config=Maco(steps=EVALUATIONS, crops=1)),
    Entry(label="pixels", config=PixelAscent(steps=EVALUATIONS)),
)

# Chosen on the honest network with another seed. The defaults are for pictures of 224 pixels and for networks with thousands
# of channels; a mirrored view would have another place.
PLANTED = (
    Entry(
        label="vital",
        config=Vital(
            steps=150, jitter=8, smoothness=12.0, smooth_from=0, flip=False, layers=("stem.act", "parts.act", "forms.act"),
            drive=30.0, natural=0.1,
        ),
    ),
    Entry(label="fourier", config=Fourier(steps=384)),
    Entry(
        label="maco",
        config=Maco(steps=128, canvas=64, crops=2, crop_start=1.0, crop_end=0.8, crop_std=0.03, noise=0.03),
    ),
    Entry(label="pixels", config=PixelAscent(steps=256)),
)  # fmt: skip

CLASSES = (643, 734, 189, 912, 908, 685, 82, 191, 753, 957, 961, 215, 749, 300, 195, 463)
"""Drawn at random from the ImageNet classes on which no recipe of a method was chosen."""

RECIPE = Recipe(
    name="small",
    title="minutes on two cores, no photos",
    note=(
        f"Every method has {EVALUATIONS} network evaluations a picture of a class or channel, fewer than its default; planted "
        "units have 150 to 384 (see Costs). The classes and channels took no part in the choice of any method's recipe. The "
        "judges Lite1 and Lite2 did, on other classes, and they are networks of the same family as the one under study."
    ),
    subjects=(
        Subject(
            name="classes",
            model="builtin:lite0",
            units=tuple(f"logits:{k}" for k in CLASSES),
            seeds=(0, 1),
            methods=EQUAL,
        ),
        Subject(
            name="channels",
            model="builtin:lite0",
            units=tuple(f"blocks.6:{26 + 53 * k}" for k in range(6)),
            seeds=(0, 1),
            methods=EQUAL,
        ),
    ),
    judges=("builtin:lite1", "builtin:lite2"),
    planted=PlantedPart(
        networks=(
            PlantedNetworkPart(network="honest"),
            PlantedNetworkPart(network="fooling", units=("red", "rows", "ring", "red ring")),
        ),
        methods=PLANTED,
        n=1,
        seed=1,
        scenes=300,
    ),
)

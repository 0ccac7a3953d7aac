"""`standard`: forty classes and thirty channels, three seeds, judged with photos. Hours on two cores."""

from __future__ import annotations

from collections.abc import Iterable

from entoptic.bench.recipe import Entry, PlantedNetworkPart, PlantedPart, Recipe, Subject
from entoptic.bench.small import PLANTED
from entoptic.methods.fourier import Fourier
from entoptic.methods.maco import Maco
from entoptic.methods.pixels import PixelAscent
from entoptic.methods.retrieval import Retrieval
from entoptic.methods.vital import Vital
from entoptic.methods.vital_paper import VitalPaper

EVALUATIONS = 300
"""Network evaluations of a picture: the default of vital."""

SEEDS = (0, 1, 2)

EQUAL = (
    Entry(label="vital", config=Vital(steps=EVALUATIONS)),
    Entry(label="vital-paper", config=VitalPaper(steps=EVALUATIONS)),
    Entry(label="fourier", config=Fourier(steps=EVALUATIONS)),
    Entry(label="maco", config=Maco(steps=EVALUATIONS, crops=1)),
    Entry(label="pixels", config=PixelAscent(steps=EVALUATIONS)),
)
CHANNELS = (
    Entry(label="vital", config=Vital(steps=200)),
    Entry(label="fourier", config=Fourier(steps=200)),
    Entry(label="maco", config=Maco(steps=200, crops=1)),
    Entry(label="pixels", config=PixelAscent(steps=200)),
    Entry(label="retrieval", config=Retrieval()),
)

CLASSES = (
    643, 734, 189, 912, 908, 685, 82, 191, 753, 957, 961, 215, 749, 300, 195, 463, 886, 115, 521, 194, 99, 331, 793, 275, 249, 943,
    996, 91, 152, 396, 531, 216, 398, 610, 435, 232, 653, 451, 362, 516,
)  # fmt: skip
"""Drawn at random from the ImageNet classes on which no recipe of a method was chosen: the half that is reported."""

UNTOUCHED = ("torchvision:resnet18/IMAGENET1K_V1", "torchvision:densenet121/IMAGENET1K_V1")
"""Networks of other kinds than those that took part in the choice of vital's recipe (Lite1, Lite2, MobileNetV2, SqueezeNet)."""


def of_classes(classes: Iterable[int], methods: tuple[Entry, ...]) -> Subject:
    """Returns classes of Lite0 as a subject."""
    return Subject(
        name="classes",
        model="builtin:lite0",
        units=tuple(f"logits:{k}" for k in classes),
        seeds=SEEDS,
        methods=methods,
    )


def of_channels(units: Iterable[str], *, name: str = "channels", model: str = "builtin:lite0") -> Subject:
    """Returns units inside a network as a subject whose pictures match photos."""
    return Subject(name=name, model=model, units=tuple(units), seeds=SEEDS, methods=CHANNELS, matches_photos=True)


RECIPE = Recipe(
    name="standard",
    title="hours on two cores, with photos",
    note=(
        f"Every optimising method has {EVALUATIONS} network evaluations a picture of a class and 200 of a channel. The classes "
        "took no part in the choice of any method's recipe, and neither do judges that are called untouched. The judges Lite1 and "
        "Lite2, of the family of the network under study, took part on other classes. Pictures of classes match the shipped "
        "statistics, those of channels one half of the photos; everything is measured on the other half."
    ),
    subjects=(
        of_classes(CLASSES, EQUAL),
        of_channels([*(f"blocks.6:{10 + 20 * k}" for k in range(15)), *(f"blocks.5:{6 + 12 * k}" for k in range(15))]),
    ),
    judges=("builtin:lite1", "builtin:lite2"),
    untouched=UNTOUCHED,
    planted=PlantedPart(
        networks=(
            PlantedNetworkPart(network="honest"),
            PlantedNetworkPart(network="fooling", units=("red", "rows", "ring", "red ring")),
            PlantedNetworkPart(network="slingshot", units=("red", "rows", "ring", "red ring")),
        ),
        methods=(*PLANTED, Entry(label="retrieval", config=Retrieval())),
        n=3,
        seed=1,
        scenes=300,
    ),
    needs_photos=True,
)

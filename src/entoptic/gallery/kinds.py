"""What kind of run the pages show, and the headings that fit it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from entoptic.gallery.unit_pages import UnitPage


class Kind(Enum):
    """What the pictures of a run or of one page are."""

    UNITS = "units"
    INVERSION = "inversion"
    STEERING = "steering"
    FRONTIER = "frontier"


_KIND_OF_METHOD = {"invert": Kind.INVERSION, "steer": Kind.STEERING}


@dataclass(frozen=True, kw_only=True)
class Heading:
    """The heading of a run.

    Attributes:
        title: of the page.
        lede: what the pictures are, in a sentence or two.
        noun: what a page of the run is about ("unit"), in the singular.
    """

    title: str
    lede: str
    noun: str


def kind_of(pages: Sequence[UnitPage], *, has_frontier: bool) -> Kind:
    """Returns the kind of a run, or of one page.

    Args:
        pages: of the run, or the one page.
        has_frontier: whether there is a frontier of any of these units.
    """
    kinds = {_KIND_OF_METHOD.get(one.method, Kind.UNITS) for page in pages for one in page.pictures}
    if len(kinds) == 1 and kinds != {Kind.UNITS}:
        return kinds.pop()
    return Kind.FRONTIER if has_frontier else Kind.UNITS


def heading(kind: Kind, run_title: str, models: Sequence[str]) -> Heading:
    """Returns the heading of a run.

    Args:
        kind: of the run.
        run_title: as the run's record gives it. Where it only repeats the network, the kind makes the title.
        models: names of the networks under study.
    """
    network = models[0] if len(models) == 1 else f"{len(models)} networks"
    title, lede, noun = {
        Kind.UNITS: (
            f"What {network} look{'s' if len(models) == 1 else ''} for",
            "Each picture is made, or chosen among photos, to show what one unit responds to.",
            "unit",
        ),
        Kind.INVERSION: (
            f"What {network} keep{'s' if len(models) == 1 else ''} of a photo",
            "Each picture is drawn from nothing but the feature map of a photo. What the pictures of one map share is what the "
            "layer keeps; where they differ, it leaves the photo open.",
            "map",
        ),
        Kind.STEERING: (
            f"What concepts do in {network}",
            "One concept in the feature map of a photo is made weaker or stronger, and the map is drawn again with the same "
            "noise. What changes in the picture is what the concept stands for.",
            "concept",
        ),
        Kind.FRONTIER: (
            f"What a high score costs in {network}",
            "The more a picture drives a unit, the farther it strays from natural pictures. The frontier is the least that each "
            "score costs; every method has its place on it or to its right.",
            "unit",
        ),
    }[kind]
    return Heading(title=title if run_title in ("", *models) else run_title, lede=lede, noun=noun)


def page_lede(kind: Kind, model: str, layer: str, readout: str) -> str:
    """Returns what the pictures of one page are, in a line.

    Args:
        kind: of the page.
        model: name of the network.
        layer: of the unit or map, or "".
        readout: of the unit, or "".
    """
    of_layer = f"layer {layer} of {model}" if layer and layer != "logits" else model
    if kind is Kind.INVERSION:
        return f"Pictures drawn from the feature map of this photo in {of_layer}."
    if kind is Kind.STEERING:
        return f"A concept in {of_layer}, made weaker or stronger."
    read = f", readout {readout}" if readout else ""
    return f"Pictures that show what this unit of {of_layer} responds to{read}."

"""Panels of a unit's page from records stored with the run: its frontier, and how one of its concepts was steered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from entoptic.base.files import is_inside
from entoptic.base.records import read_json
from entoptic.errors import UserError
from entoptic.gallery.formats import number, percent
from entoptic.gallery.local_paths import all_without_folders
from entoptic.plots.frontier import HEADINGS, draw, row

# What a damaged record may raise while it is read.
_DAMAGED = (ValueError, KeyError, TypeError, AttributeError, IndexError, ArithmeticError)


@dataclass(frozen=True, kw_only=True)
class FrontierPanel:
    """The frontier of a unit and the methods' places on it.

    Attributes:
        svg: the drawing.
        headings: of the table.
        rows: of the table, one cell for each heading.
        remarks: notes and failures of the record.
        prior: its name.
        command: that makes it again.
        has_point_masses: whether there are optimised pictures among the methods.
        has_bounds: whether the KL divergence of a method is known by bounds only.
    """

    svg: Markup
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    remarks: Sequence[str]
    prior: str
    command: str
    has_point_masses: bool
    has_bounds: bool


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """A concept at one strength.

    Attributes:
        scale: the strength.
        is_shown: whether the picture of the card has this strength.
        src: link to the decoded picture, or "".
        delta: mean difference to the picture decoded from the map itself.
        attenuation: what is left of the concept, seen again by the network.
        leakage: change of the other concepts.
        top: change of the logit of the first class.
    """

    scale: str
    is_shown: bool
    src: str
    delta: str
    attenuation: str
    leakage: str
    top: str


@dataclass(frozen=True, kw_only=True)
class SteeringPanel:
    """How a concept of a photo's map was steered.

    Attributes:
        photo: name of the photo.
        name: of the concept.
        scale: the strength that is shown.
        chance: what the outline of the affected region means.
        sweep: one row for each strength.
        maps: links to the maps stored beside the picture, by name.
        top: the first class.
        seeds: how many noises each map was decoded with.
        share: of the concept in the map's norm, in percent.
        dimension: of the concept's subspace.
        others: names and changes of other concepts.
        classes: names and changes of logits.
    """

    photo: str
    name: str
    scale: str
    chance: str
    sweep: Sequence[SweepRow]
    maps: Mapping[str, str]
    top: str
    seeds: int
    share: str
    dimension: int
    others: Sequence[tuple[str, str]]
    classes: Sequence[tuple[str, str]]


def read_frontier(run_folder: Path, folder: str, weights: str) -> FrontierPanel | None:
    """Returns the frontier of a unit, or None where there is no whole record.

    Args:
        run_folder: of the run.
        folder: of the unit, below `RUN/pictures`.
        weights: sha256 of the network. One folder may hold a unit of two networks.
    """
    try:
        file = run_folder / "frontier" / f"{folder}.json"
        record = all_without_folders(read_json(file)) if is_inside(file, run_folder) else {}
        if record["model"]["weights_sha256"] != weights or not record["frontier"]:
            return None
        kinds = {place["kind"] for place in record["places"]}
        return FrontierPanel(
            svg=Markup(draw(record).svg("frontier", standalone=False)),  # `svg` escapes every text of the record
            headings=HEADINGS,
            rows=[row(place) for place in record["places"]],
            remarks=[str(note) for note in (*record["notes"], *(f"failed: {f}" for f in record["failures"]))],
            prior=str(record["prior"]["name"]),
            command=str(record["command"]),
            has_point_masses="point" in kinds,
            has_bounds="bounds" in kinds,
        )
    except (UserError, OSError, *_DAMAGED):
        return None


def read_steering(sidecar: Mapping[str, Any], maps: Mapping[str, str]) -> SteeringPanel | None:
    """Returns how a picture of `entoptic steer` was made, or None where there is no whole record.

    Args:
        sidecar: of the picture.
        maps: links to the maps stored beside the picture, by name.
    """
    try:
        record = sidecar["steering"]
        scale = float(record["scale"])
        if not all(maps.get(name) for name in ("original", "overlay", "active")):
            return None
        return SteeringPanel(
            photo=str(sidecar["photo"]["name"]).replace("\\", "/").rpartition("/")[2],
            name=str(record["name"]),
            scale=f"{scale:g}",
            chance=_chance(record["calibration"]),
            sweep=[_sweep_row(entry, scale, maps) for entry in record["sweep"]],
            maps={"photo": "", **maps},
            top=str(record["top"]),
            seeds=int(record["seeds"]),
            share=percent(record["share"]),
            dimension=int(record["dimension"]),
            others=[(str(one["name"]), _with_interval(one["change"])) for one in record["others"]],
            classes=[(str(one["label"]), _with_interval(one["change"])) for one in record["classes"]],
        )
    except _DAMAGED:
        return None


def _chance(calibration: Mapping[str, Any] | None) -> str:
    if not calibration:
        return (
            "No random edits were made, so the outline follows a third of the maximum, which marks a part of any edit."
        )
    text = (
        f"The outline holds what exceeds the largest pixel of random edits of the same size "
        f"(p = {number(calibration['p_value'])} for the whole picture, {calibration['nulls']} random edits); "
        f"of concepts without an effect of their own, {percent(calibration['rate'])} % would get an outline."
    )
    return " ".join([text, *_power(calibration)])


def _power(calibration: Mapping[str, Any]) -> list[str]:
    """At which size the concept was compared, and which effects would have been found; earlier records do not say it."""
    size, least = calibration.get("size"), calibration.get("detectable")
    found = []
    if size is not None:
        found.append(f"For this comparison the edit was made {number(size)} times as large as it is shown.")
    if size is not None and calibration.get("flagged_from") is not None:
        found.append(
            f"The concept gets an outline if it changes the picture {number(calibration['flagged_from'])} times as much as "
            "it does."
        )
    if least is not None and least["interval"] is not None:
        low, high = least["interval"]
        found.append(
            f"{percent(least['power'])} % of edits that change it {number(least['value'])} times "
            f"({number(low)} to {number(high)}) as much as a random one would get one."
        )
    return found


def _sweep_row(entry: Mapping[str, Any], shown_scale: float, maps: Mapping[str, str]) -> SweepRow:
    scale = float(entry["scale"])
    return SweepRow(
        scale=f"{scale:g}",
        is_shown=scale == shown_scale,
        src=maps.get(f"scale-{scale:g}", ""),
        delta=number(entry["delta"]),
        attenuation=_with_interval(entry["attenuation"]),
        leakage=_with_interval(entry["leakage"]),
        top=_with_interval(entry["top"]),
    )


def _with_interval(estimate: Mapping[str, Any] | None) -> str:
    """`0.31 (0.28 to 0.34)` over seeds."""
    if estimate is None:
        return "–"
    text = number(estimate["value"])
    if estimate["interval"] is None:
        return f"{text} (one seed)"
    low, high = estimate["interval"]
    return f"{text} ({number(low)} to {number(high)})"

"""Panels of a unit's page: its frontier, and how one of its concepts was steered, from the records stored with the run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from entoptic.base.files import is_inside
from entoptic.base.records import read_json
from entoptic.errors import UserError
from entoptic.gallery import explain
from entoptic.plots.frontier import HEADINGS, draw, row


def read_frontier(run_folder: Path, folder: str, weights: str) -> dict[str, Any] | None:
    """The drawing (inline SVG), its table and what stands below, or None where there is no whole record.

    folder: of the unit, below `RUN/pictures`. weights: sha256 of the network; one folder may hold a unit of two.
    """
    try:
        file = run_folder / "frontier" / f"{folder}.json"
        record = read_json(file) if is_inside(file, run_folder) else {}
        if record["model"]["weights_sha256"] != weights or not record["frontier"]:
            return None
        drawn = draw(record).svg("frontier", standalone=False)  # which escapes every text of the record
        rows = [row(place) for place in record["places"]]
        remarks = [str(note) for note in (*record["notes"], *(f"failed: {f}" for f in record["failures"]))]
        return {
            "svg": Markup(drawn), "headings": HEADINGS, "rows": rows, "remarks": remarks,
            "prior": str(record["prior"]["name"]), "command": str(record["command"]),
            "masses": any(place["kind"] == "point" for place in record["places"]),
            "chains": any(place["kind"] == "bounds" for place in record["places"]),
        }  # fmt: skip
    except (UserError, OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError):
        return None


def read_steering(sidecar: Mapping[str, Any], maps: Mapping[str, str]) -> dict[str, Any] | None:
    """What a picture made by `entoptic steer` has to show beside it, or None where there is no whole record.

    maps: links to the maps stored beside the picture, by name.
    """
    try:
        record = sidecar["steering"]
        photo = str(sidecar["photo"]["name"]).replace("\\", "/").rpartition("/")[2]
        name, shown, calibration = str(record["name"]), float(record["scale"]), record["calibration"]
        if not all(maps.get(one) for one in ("original", "overlay", "active")):
            return None
        chance = (
            "No random edits were made, so the outline follows a third of the maximum, which marks a part of any edit."
        )
        if calibration:
            chance = (
                f"The outline holds what exceeds the largest pixel of random edits of the same size "
                f"(p = {explain.number(calibration['p_value'])} for the whole picture, {calibration['nulls']} random edits); "
                f"of concepts without an effect of their own, {explain.percent(calibration['rate'])} % would get an outline."
            )
        sweep = [
            {
                "scale": f"{float(one['scale']):g}", "shown": float(one["scale"]) == shown,
                "src": maps.get(f"scale-{float(one['scale']):g}", ""), "delta": explain.number(one["delta"]),
                **{key: _with_interval(one[key]) for key in ("attenuation", "leakage", "top")},
            }
            for one in record["sweep"]
        ]  # fmt: skip
        return {
            "photo": photo, "name": name, "scale": f"{shown:g}", "chance": chance, "sweep": sweep, "maps": {"photo": "", **maps},
            "top": str(record["top"]), "seeds": int(record["seeds"]),
            "share": explain.percent(record["share"]), "dimension": int(record["dimension"]),
            "others": [(str(one["name"]), _with_interval(one["change"])) for one in record["others"]],
            "classes": [(str(one["label"]), _with_interval(one["change"])) for one in record["classes"]],
        }  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError):
        return None


def _with_interval(entry: Mapping[str, Any] | None) -> str:
    """`0.31 (0.28 to 0.34)` over seeds."""
    if entry is None:
        return "–"
    text = explain.number(entry["value"])
    if entry["interval"] is None:
        return f"{text} (one seed)"
    low, high = entry["interval"]
    return f"{text} ({explain.number(low)} to {explain.number(high)})"

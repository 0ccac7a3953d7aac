"""What a circuit's measurements say, beside their controls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MEANINGS = {
    "accuracy_kept": "Photos of the class that the circuit alone recognises.",
    "accuracy_of_network": "The same for the whole network.",
    "accuracy_of_complement": "The same for every edge that is not in the circuit: what is left could do it too.",
    "accuracy_corrupted": "The same for the corrupted photos, in which nothing is kept.",
    "faithfulness": "Share of the score\u2019s change between corrupted and clean photos that the circuit keeps.",
    "faithfulness_of_complement": "The same for every edge that is not in the circuit.",
    "sparsity": "Share of all edges that are in the circuit; fewer is better.",
    "accuracy_of_random_edges": "What random circuits of as many edges recognise: what any would do.",
    "faithfulness_of_random_edges": "What random circuits of as many edges keep: what any would do.",
    "false_positives": "Photos of other classes that the circuit takes for this one. A circuit that says its class to everything "
    "keeps all of its accuracy.",
    "false_positives_of_network": "Photos of other classes that the whole network takes for this one.",
    "overlap": "Edges shared with circuits from other draws of the photos (Jaccard index).",
    "taken_for_unit": "Photos that are taken for the unit\u2019s class; of a written word it is the attack\u2019s success.",
    "accuracy_driven": "The same photos, taken for their own class.",
    "others_taken_for_unit": "Other photos that are taken for the unit\u2019s class.",
    "accuracy": "Other photos that are taken for their own class.",
    "answers_kept": "Other photos whose answer stays the same.",
    "score_change_driven": "Change of the unit\u2019s score.",
    "score_change_others": "Change of the unit\u2019s score on other photos.",
}
"""One line for each measurement, by its name."""

_HEADLINES = (
    ("accuracy_kept", "accuracy_of_random_edges", "accuracy_of_complement", "false_positives"),
    ("faithfulness", "faithfulness_of_random_edges", "faithfulness_of_complement", "overlap"),
)


@dataclass(frozen=True, kw_only=True)
class MeasuredRow:
    """One measurement.

    Attributes:
        name: in words.
        value: with its unit, "" where there is none.
        interval: 95 %, "" where there is none, or why there is no value.
        n: how many were counted.
        meaning: what it says.
        bar: from and to where the interval lies and where the value is, in percent of a bar; None where it is no share.
    """

    name: str
    value: str
    interval: str
    n: str
    meaning: str
    bar: tuple[float, float, float] | None = None


def row_of(entry: Mapping[str, Any]) -> MeasuredRow:
    """Returns one measurement as it is shown.

    Args:
        entry: of a result's evidence.
    """
    key = str(entry["name"])
    name, meaning = key.replace("_", " "), MEANINGS.get(key, "")
    if entry["value"] is None:
        return MeasuredRow(name=name, value="", interval=str(entry["reason"]), n="", meaning=meaning)
    unit = f"\u202f{entry['scale']}" if entry["scale"] else ""
    low, high = entry["interval"] or (None, None)
    interval = "" if low is None else "exact" if low == high else f"{low:.3g} to {high:.3g}{unit}"
    value = float(entry["value"])
    bar = None
    if entry["scale"] == "%":
        ends = [
            min(max(float(x), 0.0), 100.0)
            for x in (low if low is not None else value, high if high is not None else value)
        ]
        bar = (ends[0], ends[1], min(max(value, 0.0), 100.0))
    return MeasuredRow(
        name=name, value=f"{value:.3g}{unit}", interval=interval, n=str(entry["n"]), meaning=meaning, bar=bar
    )


def rows_of(entries: Iterable[Mapping[str, Any]]) -> list[MeasuredRow]:
    """Returns measurements as they are shown."""
    return [row_of(entry) for entry in entries]


def headline_of(rows: Sequence[MeasuredRow]) -> list[MeasuredRow]:
    """Returns the measurements that say most of a circuit: what it keeps, and what its controls do."""
    by_name = {row.name: row for row in rows if row.value}
    names = next((some for some in _HEADLINES if some[0].replace("_", " ") in by_name), ())
    return [by_name[name.replace("_", " ")] for name in names if name.replace("_", " ") in by_name]


def verdict_of(record: Mapping[str, Any], evidence: Mapping[str, Mapping[str, Any]]) -> str:
    """Says in a sentence or two how far to trust a circuit, from its controls.

    Args:
        record: of the circuit.
        evidence: its measurements, by name.
    """
    by_class = "accuracy_kept" in evidence
    kept, random = (
        evidence.get(name) for name in (("accuracy_kept", "accuracy_of_random_edges") if by_class
        else ("faithfulness", "faithfulness_of_random_edges"))
    )  # fmt: skip
    if not record["kept"]:
        return "No edge is needed: the corrupted photos alone do as much as was asked for. Corrupt them otherwise."
    if kept is None or random is None or kept["value"] is None or random["value"] is None:
        return ""
    whole = evidence.get("accuracy_of_network", {}).get("value") or 100.0
    said = []
    if record["held_out"] and kept["value"] < 100 * float(record["asked"]["keep"]) * whole / 100:
        said.append("On photos that it was not found on it keeps less than was asked for.")
    if record["kept"] == record["edges"]:
        said.append("No edge could be cut.")
    elif kept["interval"] and random["interval"] and kept["interval"][0] > random["interval"][1]:
        said.append("It keeps more than random circuits of as many edges.")
    elif random["value"] >= kept["value"]:
        said.append("Random circuits of as many edges keep as much: which edges these are says little.")
    else:
        said.append("It keeps more than random circuits of as many edges on average, but the intervals overlap.")
    return " ".join(said)

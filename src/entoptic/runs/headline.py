"""The two or three measurements of a picture that matter most, in words: for the command line and notebooks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from entoptic.errors import counted
from entoptic.metrics import METRICS
from entoptic.metrics.registry import headline_order

MOST = 3
"""Measurements that are shown."""


def headline(record: Mapping[str, Any]) -> list[str]:
    """Returns the measurements of a sidecar that matter most, the most telling first, one line each.

    The order is that of the cards' `headline_rank`. A metric without words of its own is shown by its title.

    Args:
        record: the sidecar's content.
    """
    known = {e["name"]: e for e in record.get("evidence", []) if e.get("value") is not None}
    return [_line(known[name]) for name in headline_order() if name in known][:MOST]


def _line(entry: Mapping[str, Any]) -> str:
    name = entry["name"]
    if name in _WORDS:
        try:
            return _WORDS[name](entry)
        except (
            LookupError,
            TypeError,
            ValueError,
            ArithmeticError,
            AttributeError,
        ):  # a sidecar that was edited by hand
            return f"{name} cannot be read"
    unit = METRICS[name].unit
    return f"{METRICS[name].title.lower()} {entry['value']:.3g}{' ' if unit else ''}{unit}"


def _percentile(entry: Mapping[str, Any]) -> str:
    share = math.floor(10 * entry["value"]) / 10  # never rounded up to all of them
    of = f"{share:.1f} % of" if share < 100 else "all of"
    return f"drives the unit more than {of} {counted(entry['n'], 'photo')}"


def _transfer(entry: Mapping[str, Any]) -> str:
    return f"{round(entry['value'] * entry['n'])} of {entry['n']} other networks agree"


def _cosine(entry: Mapping[str, Any]) -> str:
    selected = " (selected)" if entry["detail"].get("selected") else ""
    return f"cosine {entry['value']:.3f} to the map{selected}"


def _match(entry: Mapping[str, Any]) -> str:
    return f"{'the same' if entry['value'] else 'another'} class ({entry['detail'].get('class')} asked)"


_WORDS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "percentile": _percentile,
    "transfer_top1": _transfer,
    "cosine": _cosine,
    "match_top1": _match,
}

"""Whether the record of a circuit says what its files hold: edges, effects, and every state and radius from its votes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from entoptic.base.records import read_json, read_tensors
from entoptic.circuits.certify import CertifyOptions, State, states_of
from entoptic.errors import Unreadable, UserError
from entoptic.runs.results import Result

TOLERANCE = 1e-4
"""Relative difference below which two effects are the same."""


def circuit_drift(result: Result) -> list[str]:
    """Compares the record of a circuit with its files, and its certificate with the votes.

    Args:
        result: of kind "circuit".

    Returns:
        A line for each thing that differs.
    """
    name = result.path.parent.name
    if "asked" not in result.record and "edges.safetensors" not in result.record["files"]:
        return []  # of another tool: there is nothing to compare
    try:
        tensors = read_tensors(result.file("edges.safetensors")).tensors
        edges = read_json(result.file("circuit.json"))["edges"]
        return [f"{name}: {wrong}" for wrong in _drift(result, tensors, edges)]
    except (Unreadable, UserError, LookupError, TypeError, ValueError, AttributeError) as error:
        return [f"{name}: its record or files cannot be read ({type(error).__name__}: {error})"]


def _drift(result: Result, tensors: Mapping[str, Tensor], edges: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    record = result.record
    kept = tensors["kept"].bool().tolist()
    if (record["kept"], record["edges"]) != (sum(kept), len(kept)):
        yield f"its record has {record['kept']} of {record['edges']} edges, its file {sum(kept)} of {len(kept)}"
    if [edge["kept"] for edge in edges] != kept or not _same(edges, tensors["effects"].tolist()):
        yield "circuit.json and edges.safetensors differ"
    share = result.evidence["sparsity"]["value"]
    if not math.isclose(share, 100 * sum(kept) / max(len(kept), 1), rel_tol=1e-6, abs_tol=1e-9):
        yield f"its sparsity is {share:.4g} %, that of its file {100 * sum(kept) / max(len(kept), 1):.4g} %"
    if (about := record["certificate"]) is not None:
        yield from _certificate(about, tensors["votes"].tolist(), edges)


def _same(edges: Sequence[Mapping[str, Any]], effects: Sequence[float]) -> bool:
    def alike(told: float | None, held: float) -> bool:
        if told is None:
            return not math.isfinite(held)
        return math.isclose(told, held, rel_tol=TOLERANCE, abs_tol=1e-12)

    return len(edges) == len(effects) and all(alike(e["effect"], x) for e, x in zip(edges, effects))


def _certificate(about: Mapping[str, Any], votes: Sequence[int], edges: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    options = CertifyOptions(**{name: about[name] for name in ("samples", "deletion", "tau", "alpha", "seed")})
    fresh = states_of(votes, options)
    for state in State:
        if about[str(state)] != fresh.count(state):
            yield f"its record certifies {about[str(state)]} edges as {state}, its votes {fresh.count(state)}"
    told = [(e["state"], e["radius_majority"], e["radius_mask"]) for e in edges]
    if told != list(zip(map(str, fresh.states), fresh.radius_majority, fresh.radius_mask)):
        yield "the states or radii in circuit.json are not those of its votes"

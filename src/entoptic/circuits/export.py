"""A circuit as JSON and as GraphML, for other tools."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from entoptic.circuits.certify import Certificate
from entoptic.circuits.finders import Circuit
from entoptic.circuits.graph import OUTPUT, CircuitGraph

_KEYS = (
    ("kind", "node", "string"), ("layer", "node", "string"), ("effect", "edge", "double"), ("state", "edge", "string"),
    ("order", "edge", "int"),
)  # fmt: skip


def nodes_of(graph: CircuitGraph, circuit: Circuit) -> list[dict[str, Any]]:
    """Returns the nodes of a graph in the order of depth; `receives` names the receiver that feeds a node, "" for none."""
    used = {graph.edges[n].sender for n in circuit.kept.nonzero()[:, 0].tolist()}
    nodes = [
        {
            "name": sender.name, "kind": sender.kind, "layer": sender.layer, "depth": sender.stage + 1,
            "receives": graph.receiver_name(sender.stage) if sender.stage >= 0 else "", "used": number in used,
        }
        for number, sender in enumerate(graph.senders)
    ]  # fmt: skip
    last = {"name": OUTPUT, "kind": OUTPUT, "layer": graph.unit.layer, "depth": graph.output + 1, "receives": OUTPUT}
    return [*nodes, last | {"used": bool(circuit.kept.any())}]


def edges_of(graph: CircuitGraph, circuit: Circuit, certificate: Certificate | None) -> list[dict[str, Any]]:
    """Returns every edge of a graph: from, to, effect (null where none was measured), kept, order, and what is certified."""
    rows = []
    for number, edge in enumerate(graph.edges):
        effect = float(circuit.effects[number])
        row: dict[str, Any] = {
            "from": graph.senders[edge.sender].name, "to": graph.receiver_name(edge.receiver),
            "kept": bool(circuit.kept[number]), "effect": effect if math.isfinite(effect) else None,
            "order": int(circuit.order[number]),
        }  # fmt: skip
        if certificate is not None:
            row |= {
                "state": str(certificate.states[number]), "votes": certificate.votes[number],
                "radius_majority": certificate.radius_majority[number], "radius_mask": certificate.radius_mask[number],
            }  # fmt: skip
        rows.append(row)
    return rows


def graphml(nodes: Sequence[dict[str, Any]], edges: Sequence[dict[str, Any]]) -> str:
    """Returns the kept and the abstained edges, with the nodes at their ends, as GraphML.

    Nodes that one receiver feeds (the heads of a block) share its incoming edges.

    Args:
        nodes: of `nodes_of`.
        edges: of `edges_of`.
    """
    drawn = [edge for edge in edges if edge["kept"] or edge.get("state") == "abstain"]
    ends = {edge["from"] for edge in drawn}
    shown = [node for node in nodes if node["name"] in ends or node["name"] == OUTPUT]
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<graphml xmlns="http://graphml.graphdrawing.org/xmlns">',
        *(f'  <key id="{name}" for="{what}" attr.name="{name}" attr.type="{kind}"/>' for name, what, kind in _KEYS),
        '  <graph id="circuit" edgedefault="directed">',
    ]
    for node in shown:
        lines.append(f"    <node id={quoteattr(node['name'])}>{_data(node, ('kind', 'layer'))}</node>")
    for edge in drawn:
        for node in shown:
            if node["receives"] == edge["to"]:
                ends_of = f"source={quoteattr(edge['from'])} target={quoteattr(node['name'])}"
                lines.append(f"    <edge {ends_of}>{_data(edge, ('effect', 'state', 'order'))}</edge>")
    return "\n".join([*lines, "  </graph>", "</graphml>", ""])


def _data(entry: dict[str, Any], names: Sequence[str]) -> str:
    return "".join(
        f'<data key="{name}">{escape(str(entry[name]))}</data>' for name in names if entry.get(name) not in (None, "")
    )

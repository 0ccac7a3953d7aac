"""Finders of circuits on planted truth: precision, recall and cost of each finder in each tier. Minutes on one core.

    python benchmarks/circuits.py [--seeds 20] [--out docs/benchmarks]

writes circuits.json and circuits.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from common import about
from entoptic.base.estimates import mean_interval
from entoptic.circuits.finders import FINDERS, FinderOptions
from entoptic.circuits.patched import BACKWARD
from entoptic.circuits.random_edges import random_circuit
from entoptic.planted.circuits import LEAK, Kind, PlantedCircuit, Tier, plant_circuit
from entoptic.planted.hosts import TIERS, plant_in_host

NOTHING = 1e-4
SWEEP = (0.001, 0.01, 0.03, 0.1, 0.3)
AT = 0.03
"""Threshold of the tier "leak" in the main table, as a share of the change of the output."""


HOST = "host"
KINDS = (*map(str, Kind), HOST)


def plant(seed: int, tier: Tier, kind: str) -> PlantedCircuit:
    return plant_in_host(seed, tier).circuit if kind == HOST else plant_circuit(seed, tier, kind)


def one(seed: int, tier: Tier, kind: str) -> list[dict[str, Any]]:
    planted = plant(seed, tier, kind)
    rows = []
    for name in FINDERS:
        shares = SWEEP if tier is Tier.LEAK else (NOTHING,)
        problem = planted.problem()
        problem.cost.flops = 0
        search = None if name == "random" else FINDERS[name](problem, FinderOptions())
        for share in shares:
            before = problem.cost.passes if name == "patching" else 0.0
            if search is None:
                circuit = random_circuit(planted.graph, len(planted.truth.union(*planted.either[:1])), seed)
            else:
                circuit = search.at(max(share * problem.effect, 1e-6))
            precision, recall = planted.score(circuit.kept)
            row = {
                "seed": seed, "tier": str(tier), "kind": str(kind), "finder": name, "threshold": share,
                "precision": precision, "recall": recall, "edges": int(circuit.kept.sum()),
                "planted": len(planted.truth.union(*planted.either)), "all": len(planted.graph.edges),
                "passes": round((problem.cost.passes - before) / len(problem), 3),
            }  # fmt: skip
            if tier is Tier.EITHER and name == "patching":
                again = FINDERS[name](problem, FinderOptions(seed=seed + 1)).at(NOTHING * problem.effect)
                row["other_order_differs"] = not torch.equal(again.kept, circuit.kept)
            rows.append(row)
    return rows


def cell(values: list[float], digits: int = 2) -> str:
    low, high = mean_interval(values)
    if digits == 2:  # shares
        low, high = max(low, 0.0), min(high, 1.0)
    mean = sum(values) / len(values)
    return f"{mean:.{digits}f}" if low == high else f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def page(rows: list[dict[str, Any]], seeds: int, seconds: float) -> str:
    by: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by[row["kind"], row["tier"], row["finder"], row["threshold"]].append(row)
    lines = [
        "# Circuits",
        "",
        f"Finders on networks with planted edges (`entoptic.planted.circuits`, `hosts`), {seeds} seeds; mean and 95 % interval",
        "(Student's t over seeds; none is given where all seeds agree). Passes are forward passes of one picture, counted in",
        f"floating-point operations; a backward pass counts as {BACKWARD}. A finder cuts what moves the output by less than",
        f"{NOTHING:g} of its change between clean and corrupted pictures, {AT:g} in the tier `leak`. `random` is given as many",
        "edges as are planted. An empty circuit has precision 1.",
        "",
        "| network | tier | finder | precision | recall | edges kept | passes a picture |",
        "|---|---|---|---|---|---|---|",
    ]
    for (kind, tier, name, threshold), group in by.items():
        if threshold == (AT if tier == Tier.LEAK else NOTHING):
            cells = [cell([r[key] for r in group]) for key in ("precision", "recall")]
            cells += [cell([float(r[key]) for r in group], 1) for key in ("edges", "passes")]
            lines.append(f"| {kind} ({group[0]['all']} edges) | {tier} | {name} | {' | '.join(cells)} |")
    differs = [r["other_order_differs"] for r in rows if "other_order_differs" in r]
    base = [r["planted"] / r["all"] for r in rows if r["finder"] == "random" and r["tier"] == Tier.PLAIN]
    lines += [
        "",
        "- `saturated`: the gradient at the clean pictures is 0 where cutting has an effect, so `eap` misses that edge and the one",
        "  that then leads nowhere. `eap-ig` sees it from the corrupted side.",
        "- `either`: two paths are enough each. `patching` keeps one; in another order of edges it keeps the other in",
        f"  {sum(differs)} of {len(differs)} networks. Which one it names says nothing about the network.",
        "- `null`: the output reads what nobody writes; every finder returns no edge.",
        f"- In the tier `plain` {cell(base)} of the edges are planted: the base rate that `random` scores at.",
        "",
        "- `host`: a network of three neurons a layer hidden in a random one of 24 (Plant 'n' Seek, arXiv:2111.11153). Each",
        "  neuron sends one edge to the next layer, which reads them all.",
        "",
        "## Leaks",
        "",
        f"Reads that are not planted have weights of standard deviation {LEAK:g} (planted ones: ½ to 1). Thresholds are shares",
        "of the output's change.",
        "",
        "| network | finder | threshold | precision | recall |",
        "|---|---|---|---|---|",
    ]
    for (kind, tier, name, threshold), group in by.items():
        if tier == Tier.LEAK and name != "random":
            cells = [cell([r[key] for r in group]) for key in ("precision", "recall")]
            lines.append(f"| {kind} | {name} | {threshold:g} | {' | '.join(cells)} |")
    lines += ["", f"Made by `benchmarks/circuits.py` in {seconds:.0f} s on one core.", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument(
        "--only", choices=KINDS, help="measure this kind of network; the others are those of the last time"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "benchmarks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = time.monotonic()
    rows = [
        row
        for kind in KINDS
        if options.only in (None, kind)
        for tier in (TIERS if kind == HOST else Tier)
        for seed in range(options.seeds)
        for row in one(seed, tier, kind)
    ]  # fmt: skip
    seconds = time.monotonic() - start
    if options.only:
        before = json.loads((options.out / "circuits.json").read_text())
        rows = [*(row for row in before["rows"] if row["kind"] != options.only), *rows]
        rows.sort(key=lambda row: KINDS.index(row["kind"]))
        seconds += before["seconds"]
    options.out.mkdir(parents=True, exist_ok=True)
    made = {"about": about(), "seeds": options.seeds, "seconds": round(seconds), "rows": rows}
    (options.out / "circuits.json").write_text(json.dumps(made, separators=(",", ":")) + "\n")
    (options.out / "circuits.md").write_text(page(rows, options.seeds, seconds))


if __name__ == "__main__":
    main()

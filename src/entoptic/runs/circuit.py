"""Finds, judges and stores the circuits of units."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from entoptic.base.cache import content_key
from entoptic.base.files import json_bytes
from entoptic.base.gradients import with_gradients
from entoptic.base.pixels import small_jpeg
from entoptic.base.progress import Reporter, reporter
from entoptic.base.randomness import generator_for
from entoptic.base.tensor_bytes import tensor_bytes
from entoptic.base.unread import names_unread
from entoptic.circuits.certify import MEANS, Certificate, CertifyOptions, State, certify, top_of_mean
from entoptic.circuits.evidence import evidence_of
from entoptic.circuits.export import edges_of, graphml, nodes_of
from entoptic.circuits.finders import Circuit, FinderOptions, Ranking, Search
from entoptic.circuits.graph import CircuitGraph
from entoptic.circuits.patched import Cost
from entoptic.circuits.problem import Problem, check_changes, make_problem, recognised
from entoptic.circuits.selection import Selected, select
from entoptic.circuits.written import Written, what_is_written, written_along
from entoptic.errors import UserError, nearest
from entoptic.images.masks import mask_folder
from entoptic.images.photos import Photos
from entoptic.images.unread import unread_record
from entoptic.metrics.evidence import Evidence
from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.models.sources import load
from entoptic.runs.circuit_photos import labels_of
from entoptic.runs.circuit_plan import CircuitCost, CircuitOptions, CircuitPlan, estimate_cost, plan_circuit
from entoptic.runs.circuit_searches import KeptSearches
from entoptic.runs.plan import run_name
from entoptic.runs.records import about_run, model_record, versions
from entoptic.runs.results import Result, find_result, write_result
from entoptic.runs.store import Run
from entoptic.units.unit import bind

KIND = "circuit"
SHOWN = 4
"""Photos shown of what each node writes."""


@names_unread
@with_gradients
def circuit(
    model: str | nn.Module | Model,
    units: Any,
    *,
    photos: Any,
    finder: str = "eap-ig",
    corrupt: str = "blur",
    masks: str | Path | None = None,
    certified: CertifyOptions | None = None,
    out: str | Path | None = None,
    context: bool = True,
    device: str = "auto",
    card: Card | None = None,
    progress: bool = True,
    **options: Any,
) -> list[Result]:
    """Finds the circuit of each unit: the smallest set of edges that keeps what the unit does on photos.

    Results are stored in the run folder under `results/circuit`. A finished one is found again by the same request; what an
    interrupted search had found is in the cache.

    Args:
        model: anything `load` takes.
        units: one or several strings of the unit grammar, or units.
        photos: real photos, anything `Photos.open` takes.
        finder: "patching", "eap", "eap-ig" or "random".
        corrupt: "blur", "mean", "resample", "mask" or "text" (a word written on photos of other classes).
        masks: folder of masks by the names of the photos, white where the object is, for "mask".
        certified: also certify each edge over random deletions of photos.
        out: the run folder (default `runs/MODEL`).
        context: store small copies of the photos that show what each node writes.
        device: "auto", "cpu", "cuda:1", ….
        card: of a bare `nn.Module`.
        progress: show how far the work is.
        options: fields of `CircuitOptions`, for instance `n=32`.

    Returns:
        One result for each unit, in order.

    Raises:
        UserError: bad input.
    """
    asked = CircuitOptions(finder=finder, corrupt=corrupt, **_known(options))
    with reporter(progress) as report:
        plans = make_circuit_plans(
            model, units, photos=photos, options=asked, masks=masks, certified=certified, device=device, card=card,
            report=report,
        )  # fmt: skip
        return run_circuits(plans, out=out, context=context, report=report)


def make_circuit_plans(
    model: str | nn.Module | Model,
    units: Any,
    *,
    photos: Any,
    options: CircuitOptions,
    masks: str | Path | None = None,
    certified: CertifyOptions | None = None,
    device: str = "auto",
    card: Card | None = None,
    report: Reporter | None = None,
) -> list[CircuitPlan]:
    """Plans the circuits of units, see `circuit`.

    Args:
        model: anything `load` takes.
        units: of the model.
        photos: anything `Photos.open` takes.
        options: how they are found.
        masks: as in `circuit`.
        certified: as in `circuit`.
        device: as in `circuit`.
        card: as in `circuit`.
        report: is told how far the choice of photos is.

    Raises:
        UserError: bad input.
    """
    subject = load(model, card, device=device)
    bound = bind(subject, units)
    opened = Photos.open(photos)
    folder = mask_folder(masks)
    progress = (report or Reporter()).progress
    return [plan_circuit(subject, unit, opened, options, certified, folder, progress) for unit in bound]


def run_circuits(
    plans: Sequence[CircuitPlan],
    *,
    out: str | Path | None = None,
    context: bool = True,
    report: Reporter | None = None,
) -> list[Result]:
    """Finds, judges and stores planned circuits; finished ones are found again.

    Args:
        plans: of `make_circuit_plans`.
        out: the run folder (default `runs/MODEL`).
        context: store small copies of photos.
        report: is told how far it is.
    """
    model = plans[0].graph.model
    run = Run(out if out is not None else Path("runs") / run_name(model))
    results = []
    with run.writing(about_run(model)):
        for plan in plans:
            name, key = str(plan.graph.unit), plan.key if context else content_key({"key": plan.key, "context": False})
            found = find_result(run, KIND, name, key)
            results.append(found or _Job(plan, key, context, report or Reporter()).run(run))
    return results


def estimate_circuits(plans: Sequence[CircuitPlan]) -> list[CircuitCost]:
    """Estimates what planned circuits will cost, without finding them."""
    return [estimate_cost(plan) for plan in plans]


def _known(options: dict[str, Any]) -> dict[str, Any]:
    names = [f.name for f in fields(CircuitOptions)]
    for name in options:
        if name not in names:
            raise UserError(f'circuit has no option "{name}"{nearest(name, names)}')
    return options


# --- one circuit ------------------------------------------------------------------------------------------------------


class _Job:
    """One circuit on its way."""

    def __init__(self, plan: CircuitPlan, key: str, context: bool, report: Reporter) -> None:
        self.plan, self.key, self.context, self.report = plan, key, context, report
        self.graph, self.options = plan.graph, plan.options
        self.cost = Cost(plan.graph)
        self.kept_searches = KeptSearches(cost=self.cost)

    def run(self, run: Run) -> Result:
        """Finds, judges and stores the circuit."""
        plan, say = self.plan, self.report.progress
        total = 4 + self.options.reruns + (plan.certify is not None)
        problem = self._problem(plan.find)
        check_changes(problem)
        say("finding the circuit", 0, total)
        search = self._search(problem, self.options.seed, "whole")
        selected = select(problem, search, self.options.keep)
        say("finding the circuit", 1, total)
        reruns = []
        for number in range(1, self.options.reruns + 1):
            reruns.append(self._again(problem, search, selected, number))
            say("finding the circuit", 1 + number, total)
        certificate = self._certificate(problem, search, selected)
        spent = self.cost.passes
        say("judging the circuit", total - 2, total)
        judge = self._problem(plan.judge) if plan.held_out else problem
        written = what_is_written(self.graph, judge.pairs, _senders(self.graph, selected.circuit))
        along = [torch.cat([written_along(self.graph, pair, written) for pair in judge.pairs])]
        hits, more = self._others(selected.circuit.kept, written)
        evidence = evidence_of(selected.circuit.kept, judge, hits, reruns, held_out=plan.held_out)
        say("judging the circuit", total - 1, total)
        photos, files = self._photos(written, torch.cat([*along, *more]))
        passes = {"passes": spent, "passes_in_all": self.cost.passes}
        result = self._write(run, selected, certificate, evidence, written, photos, files, passes, reruns)
        say("judging the circuit", total, total)
        return result

    def _problem(self, indices: Sequence[int]) -> Problem:
        clean, corrupted = self.plan.twins(indices)
        return make_problem(
            self.graph, clean, corrupted, at_once=self.options.at_once, cost=self.cost, by_class=self.plan.by_class
        )

    def _search(self, problem: Problem, seed: int, what: str) -> Search:
        options = FinderOptions(seed=seed, steps=self.options.steps)
        key = {"circuit": self.plan.key, "seed": seed, "photos": what}
        return self.kept_searches.search(self.options.finder, problem, options, key)

    def _again(self, problem: Problem, search: Search, selected: Selected, number: int) -> Tensor:
        """The same search on photos drawn with replacement, in another order of edges: as many edges, or at the same threshold."""
        draw = generator_for("rerun of a circuit", self.options.seed, number, len(problem))
        rows = sorted(torch.randint(len(problem), (len(problem),), generator=draw).tolist())
        again = self._search(problem.subset(rows), self.options.seed + number, f"rerun {number}")
        if isinstance(again, Ranking) and isinstance(search, Ranking):
            return again.strongest(search.count(selected.tau)).kept
        return again.at(selected.tau).kept

    def _certificate(self, problem: Problem, search: Search, selected: Selected) -> Certificate | None:
        options = self.plan.certify
        if options is None:
            return None
        if isinstance(search, Ranking) and search.per_photo is not None:
            strongest = top_of_mean(search.per_photo, search.count(selected.tau))
            known: dict[bytes, Tensor] = {}

            def in_circuit(kept: Tensor, number: int) -> Tensor:
                same = kept.numpy().tobytes()
                if same not in known:  # as in the circuit, edges that lead nowhere are not in
                    known[same] = self.graph.prune(strongest(kept, number))
                return known[same]

            return certify(in_circuit, len(problem), options)

        def decide(kept: Tensor, number: int) -> Tensor:
            self.report.progress("certifying", number, options.samples)
            if isinstance(search, Ranking):  # random edges: its seed is part of the sample
                return self._search(problem, options.seed + number, "whole").at(selected.tau).kept
            rows = kept.nonzero()[:, 0].tolist()
            return self._search(problem.subset(rows), self.options.seed, f"rows {rows}").at(selected.tau).kept

        return certify(decide, len(problem), options)

    @torch.no_grad()
    def _others(self, kept: Tensor, written: Sequence[Written]) -> tuple[tuple[Tensor, Tensor] | None, list[Tensor]]:
        """Photos of other classes, some at a time: which are taken for the class, and what nodes write on them."""
        target, numbers = self.graph.target, list(self.plan.others)
        if target is None or not numbers or not self.plan.by_class:
            return None, []
        by_circuit, by_network, along = [], [], []
        for start in range(0, len(numbers), self.options.at_once):
            part = self._problem(numbers[start : start + self.options.at_once])
            by_circuit.append(recognised(part.values(kept), target))
            by_network.append(recognised(part.pairs[0].clean_values, target))
            along.append(written_along(self.graph, part.pairs[0], written))
        return (torch.cat(by_circuit), torch.cat(by_network)), along

    def _photos(
        self, written: Sequence[Written], along: Tensor
    ) -> tuple[dict[str, list[dict[str, Any]]], dict[str, bytes]]:
        """For each node the photos that it writes most along its direction, and small copies of them."""
        numbers = [*self.plan.judge, *self.plan.others][: len(along)]
        card, classes = self.graph.model.card, labels_of(self.graph.model.card, self.plan.photos)
        shown: dict[str, list[dict[str, Any]]] = {}
        files: dict[str, bytes] = {}
        for column, one in enumerate(written):
            best = along[:, column].topk(min(SHOWN, len(numbers)))
            entries = []
            for value, row in zip(best.values.tolist(), best.indices.tolist()):
                index = numbers[row]
                photo, file = self.plan.photos[index], f"photo{index}.jpg"
                known = classes.get(index)
                if self.context and file not in files:
                    files[file] = small_jpeg(self.plan.explained([index])[0])
                label = (card.label(known) if known is not None else "") or (photo.labels[-1] if photo.labels else "")
                entries.append({
                    "name": photo.name, "label": label, "along": value, "file": file if self.context else None,
                    "of_class": index in self.plan.judge and self.plan.by_class,
                })  # fmt: skip
            shown[self.graph.senders[one.sender].name] = entries
        return shown, files

    def _write(
        self, run: Run, selected: Selected, certificate: Certificate | None, evidence: list[Evidence],
        written: Sequence[Written], photos: dict[str, list[dict[str, Any]]], files: dict[str, bytes], passes: dict[str, float],
        reruns: Sequence[Tensor],
    ) -> Result:  # fmt: skip
        graph, chosen, plan = self.graph, selected.circuit, self.plan
        effects = torch.where(torch.isfinite(chosen.effects), chosen.effects, torch.nan)
        chosen = replace(chosen, effects=effects)
        nodes, edges = nodes_of(graph, chosen), edges_of(graph, chosen, certificate)
        tensors = {"kept": chosen.kept.to(torch.uint8), "effects": effects.float(), "order": chosen.order}
        tensors |= {f"rerun{i}": kept.to(torch.uint8) for i, kept in enumerate(reruns, 1)}
        if certificate is not None:
            tensors["votes"] = torch.tensor(certificate.votes)
        directions = {graph.senders[w.sender].name: w.direction for w in written if w.layer}
        layers = {f"layer.{graph.senders[w.sender].name}": w.layer for w in written if w.layer}
        whole = {"nodes": nodes, "edges": edges, "written": photos}
        content = {
            "edges.safetensors": tensor_bytes(tensors, {}), "circuit.json": json_bytes(whole),
            "circuit.graphml": graphml(nodes, edges).encode(), **files,
        }  # fmt: skip
        if directions:
            content["directions.safetensors"] = tensor_bytes(directions, layers)
        about = {
            "unit": str(graph.unit), "label": graph.unit.label, "model": model_record(graph.model),
            "versions": versions(), "command": _command(plan), "photos": plan.photos.source,
            "asked": {f.name: getattr(plan.options, f.name) for f in fields(plan.options)},
            "nodes": graph.nodes, "edges": len(graph.edges), "kept": len(chosen), "tau": selected.tau,
            "enough": selected.enough, "tried": selected.tried, **passes,
            "held_out": plan.held_out, "n": {"find": len(plan.find), "judge": len(plan.judge), "others": len(plan.others)},
            "certificate": _about(certificate), **unread_record(plan.photos),
        }  # fmt: skip
        return write_result(
            run, KIND, str(graph.unit), self.key, files=content, evidence=evidence, about=about
        )  # fmt: skip


def _senders(graph: CircuitGraph, chosen: Circuit) -> list[int]:
    return sorted({graph.edges[n].sender for n in chosen.kept.nonzero()[:, 0].tolist()})


def _about(certificate: Certificate | None) -> dict[str, Any] | None:
    if certificate is None:
        return None
    o = certificate.options
    return {
        "samples": o.samples, "deletion": o.deletion, "tau": o.tau, "alpha": o.alpha, "seed": o.seed, "means": MEANS,
        **{str(state): certificate.count(state) for state in State},
    }  # fmt: skip


def _command(plan: CircuitPlan) -> str:
    """The command that gives the same result."""
    options, default = plan.options, CircuitOptions()
    words = ["entoptic", "circuit", plan.graph.model.card.name, str(plan.graph.unit), "--photos", plan.photos.source]
    for f in fields(options):
        if getattr(options, f.name) != getattr(default, f.name):
            words += [f"--{f.name}".replace("_", "-"), str(getattr(options, f.name))]
    if plan.masks is not None:
        words += ["--masks", str(plan.masks)]
    if plan.certify is not None:
        words.append("--certify")
        plain = CertifyOptions()
        for name in ("samples", "deletion", "tau", "alpha"):
            if getattr(plan.certify, name) != getattr(plain, name):
                words += [f"--{name}", str(getattr(plan.certify, name))]
    return shlex.join(words)

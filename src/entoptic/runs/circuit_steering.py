"""Steers on the edges of a stored circuit and measures what that does."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from entoptic.base.cache import content_key
from entoptic.base.files import folder_exists, json_bytes, path_exists, user_path
from entoptic.base.gradients import with_gradients
from entoptic.base.pixels import small_jpeg
from entoptic.base.progress import Reporter, reporter
from entoptic.base.records import read_json, read_tensors
from entoptic.base.unread import names_unread
from entoptic.circuits.certify import CertifyOptions
from entoptic.circuits.patched import Cost
from entoptic.circuits.problem import make_problem
from entoptic.circuits.steered import Pictures, Steering, evidence_of_steering
from entoptic.circuits.written import what_is_written
from entoptic.errors import Unreadable, UserError
from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.runs.circuit import make_circuit_plans
from entoptic.runs.circuit_photos import labels_of
from entoptic.runs.circuit_plan import CircuitOptions, CircuitPlan
from entoptic.runs.records import model_record, versions
from entoptic.runs.results import RECORD, Result, find_result, is_record, write_result
from entoptic.runs.store import Run

KIND = "steering"
ALPHA = 0.4
"""Share of the projection that is taken out, as in Vi-CD."""


@names_unread
@with_gradients
def steer_circuit(
    file: str | Path | Result,
    *,
    alpha: float = ALPHA,
    model: str | nn.Module | Model | None = None,
    photos: Any = None,
    masks: str | Path | None = None,
    at_once: int = 8,
    device: str = "auto",
    card: Card | None = None,
    progress: bool = True,
) -> Result:
    """Takes out what the edges of a circuit carry and measures what that does to its unit and to everything else.

    On each edge the projection on what its sender writes is reduced, at positions that point along it. Directions come from the
    photos that the circuit was found on, measurements from those that judged it and from photos of other classes.

    Args:
        file: a circuit that `circuit` stored: its result, its folder or any file in it.
        alpha: share of the projection that is taken out; 0 changes nothing.
        model: the network of the circuit (default: loaded by its name).
        photos: the photos of the circuit (default: where they were).
        masks: the masks of the circuit, for the corruption "mask".
        at_once: photos of one pass.
        device: "auto", "cpu", "cuda:1", ….
        card: of a bare `nn.Module`.
        progress: show how far the work is.

    Returns:
        The result, in the run of the circuit under `results/steering`.

    Raises:
        UserError: there is no such circuit, or network or photos are not those that it was found with.
    """
    if not 0 <= alpha < float("inf"):
        raise UserError(
            f"alpha must be at least 0, got {alpha}; 0 changes nothing and 1 takes all of the direction out"
        )
    stored = file if isinstance(file, Result) else read_circuit(file)
    record = stored.record
    with reporter(progress) as report:
        plan = _plan(
            record, model if model is not None else str(record["model"]["name"]),
            photos if photos is not None else str(record["photos"]), masks, at_once, device, card, report,
        )  # fmt: skip
        _check_same(stored, plan)
        run = Run.open(stored.path.parents[3])
        key = content_key({"what": KIND, "version": 1, "circuit": plan.key, "alpha": float(alpha)})
        name = str(plan.graph.unit)
        with run.writing(run.about):
            return find_result(run, KIND, name, key) or _measured(run, stored, plan, alpha, key, report)


def read_circuit(file: str | Path) -> Result:
    """Reads a stored circuit.

    Args:
        file: its folder or any file in it.

    Raises:
        UserError: it is none, or it was changed.
    """
    given = user_path(file)
    folder = given if folder_exists(given) else given.parent
    if not path_exists(given):
        raise UserError(f"there is no {given}; --steer takes the folder of a circuit, RUN/results/circuit/NAME")
    try:
        record = read_json(folder / RECORD)
    except Unreadable:
        record = {}
    about = all(isinstance(record.get(name), dict) for name in ("asked", "model"))
    if record.get("kind") != "circuit" or not about or not is_record(record):
        raise UserError(f"{given} is no circuit; --steer takes the folder of one, RUN/results/circuit/NAME")
    result = Result(path=folder.absolute() / RECORD, record=record)
    if changed := result.changed():
        raise UserError(f"{folder}: its file {changed[0]} is missing or was changed; find the circuit again")
    return result


def _plan(
    record: dict[str, Any], model: Any, photos: Any, masks: Any, at_once: int, device: str, card: Card | None,
    report: Reporter,
) -> CircuitPlan:  # fmt: skip
    """Plans the circuit again, from what was asked for when it was found."""
    try:
        options = CircuitOptions(**record["asked"] | {"at_once": at_once})
        about = record["certificate"]
        names = ("samples", "deletion", "tau", "alpha", "seed")
        certified = CertifyOptions(**{n: about[n] for n in names}) if about else None
    except (TypeError, KeyError) as error:
        raise UserError(f"the record of the circuit cannot be read ({type(error).__name__}); find it again") from error
    (plan,) = make_circuit_plans(
        model, str(record["unit"]), photos=photos, options=options, masks=masks, certified=certified, device=device,
        card=card, report=report,
    )  # fmt: skip
    return plan


def _check_same(stored: Result, plan: CircuitPlan) -> None:
    bare = content_key({"key": plan.key, "context": False})
    if stored.record["key"] in (plan.key, bare):
        return
    if stored.record["model"].get("weights_sha256") != plan.graph.model.card.weights_sha256:
        raise UserError(
            f"the circuit is of {stored.record['model'].get('name')} with other weights than those of {plan.graph.model.card.name}"
        )
    raise UserError(
        f"the photos in {plan.photos.source} are not those that the circuit was found with ({stored.record['photos']}); name "
        "those (--photos), or find the circuit again"
    )


def _measured(run: Run, stored: Result, plan: CircuitPlan, alpha: float, key: str, report: Reporter) -> Result:
    graph, say = plan.graph, report.progress
    cost = Cost(graph)
    say("steering", 0, 3)
    kept = _kept(stored, len(graph.edges))
    if not bool(kept.any()):
        raise UserError(f"the circuit of {graph.unit} has no edge, so there is nothing to steer")
    clean, corrupted = plan.twins(plan.find)
    problem = make_problem(graph, clean, corrupted, at_once=plan.options.at_once, cost=cost, by_class=plan.by_class)
    senders = sorted({graph.edges[n].sender for n in kept.nonzero()[:, 0].tolist()})
    written = what_is_written(graph, problem.pairs, senders)
    say("steering", 1, 3)
    steering = Steering(
        graph=graph, kept=kept, written=written, alpha=alpha, cost=cost, at_once=plan.options.at_once
    )  # fmt: skip
    labels = labels_of(graph.model.card, plan.photos)
    driven = Pictures(images=plan.explained(plan.judge), labels=_labels(labels, plan.judge))
    left = plan.others if plan.by_class else (*plan.judge, *plan.others)
    others = Pictures(images=_stacked(plan, left), labels=_labels(labels, left))
    evidence = evidence_of_steering(steering, driven, others)
    say("steering", 2, 3)
    about = {
        "unit": str(graph.unit), "label": graph.unit.label, "model": model_record(graph.model), "versions": versions(),
        "command": shlex.join(["entoptic", "circuit", "--steer", _named(stored, run), "--alpha", f"{alpha:g}"]),
        "circuit": stored.path.parent.name, "alpha": alpha, "edges": int(kept.sum()), "of": len(kept),
        "n": {"find": len(plan.find), "driven": len(driven), "others": len(others)}, "held_out": plan.held_out,
        "corrupt": plan.options.corrupt, "passes": cost.passes,
    }  # fmt: skip
    photos, files = _photos(steering, plan, driven, context=stored.record["key"] == plan.key)
    edges = {"alpha": alpha, "edges": [graph.edge_name(n) for n in kept.nonzero()[:, 0].tolist()], "photos": photos}
    files = {"steered.json": json_bytes(edges), **files}
    result = write_result(run, KIND, str(graph.unit), key, files=files, evidence=evidence, about=about)
    say("steering", 3, 3)
    return result


def _photos(
    steering: Steering, plan: CircuitPlan, driven: Pictures, *, context: bool
) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """For each photo on which steering is judged: what it is taken for, and the unit's score, before and after."""
    graph, card = steering.graph, steering.graph.model.card
    before, after = steering.values(driven.images, alpha=0.0), steering.values(driven.images)
    scores = [graph.score(values).tolist() for values in (before, after)]
    answers = [values[:, :, 0].argmax(1).tolist() for values in (before, after)] if graph.target is not None else None
    rows, files = [], {}
    for at, (index, label) in enumerate(zip(plan.judge, driven.labels)):
        file = f"photo{index}.jpg"
        if context:
            files[file] = small_jpeg(driven.images[at])
        one, other = (some[at] for some in answers) if answers is not None else (None, None)
        known = label is not None and label != graph.target and answers is not None
        rows.append({
            "name": plan.photos[index].name, "label": "" if label is None else _class(card, label),
            "before": "" if one is None else _class(card, one), "after": "" if other is None else _class(card, other),
            "score_before": scores[0][at], "score_after": scores[1][at],
            "mended": (one != label and other == label) if known else None, "file": file,
        })  # fmt: skip
    return rows, files


def _class(card: Card, index: int) -> str:
    return card.label(index) or f"class {index}"


def _kept(stored: Result, edges: int) -> Tensor:
    try:
        kept = read_tensors(stored.file("edges.safetensors")).tensors["kept"].bool()
    except (Unreadable, KeyError) as error:
        raise UserError(f"the edges of the circuit cannot be read ({error}); find it again") from error
    if tuple(kept.shape) != (edges,):
        raise UserError(f"the circuit has {kept.numel()} edges and its network's graph {edges}; find it again")
    return kept


def _stacked(plan: CircuitPlan, indices: Sequence[int]) -> Tensor:
    if indices:
        return plan.pictures(indices)
    return torch.zeros(0, 3, *plan.graph.model.card.size)


def _labels(labels: dict[int, int], indices: Sequence[int]) -> tuple[int | None, ...]:
    return tuple(labels.get(i) for i in indices)


def _named(stored: Result, run: Run) -> str:
    """The circuit as a command names it from beside the run; no record names a folder of the machine."""
    return f"{run.path.name}/{stored.path.parent.relative_to(run.path).as_posix()}"

"""Which photos a circuit is found and judged on."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import torch

from entoptic.base.progress import Progress
from entoptic.base.randomness import generator_for
from entoptic.circuits.graph import CircuitGraph
from entoptic.circuits.words import written_on
from entoptic.errors import Unreadable, UserError, counted
from entoptic.images.photos import Photos
from entoptic.models.card import Card
from entoptic.units.unit import Unit

if TYPE_CHECKING:
    from entoptic.runs.circuit_plan import CircuitOptions

MOST_SCORED = 1000
"""Photos among which those that drive an inner unit most are looked for."""
LOOKED = 4
"""Photos that a word is tried on, for each that is wanted."""


def of_class(
    graph: CircuitGraph, photos: Photos, options: CircuitOptions, progress: Progress
) -> tuple[list[int], list[int]]:
    """Finds photos of the class that are recognised, and some of other classes."""
    model, target = graph.model, graph.target
    assert target is not None
    label = model.card.label(target) or f"logits:{target}"
    labelled = bool(photos.classes())
    own = photos.of_class(model.card.identifiers(target), target)
    if labelled and not own:
        known = ", ".join(list(photos.classes())[:8])
        raise UserError(f"there is no photo of {label} in {photos.source}; its classes are {known}")
    candidates = own or list(range(len(photos)))
    right: list[int] = []
    wrong: list[int] = []
    with torch.no_grad():
        for numbers, images in photos.batches(model.card.prepare, options.at_once, candidates):
            hits = model(images.to(model.device)).argmax(1) == target
            right += [i for i, hit in zip(numbers, hits.tolist()) if hit]
            wrong += [i for i, hit in zip(numbers, hits.tolist()) if not hit]
            progress("looking for photos that are recognised", len(right), 2 * options.n)
            if len(right) >= 2 * options.n:
                break
    if not right:
        raise UserError(
            f"{model.card.name} recognises none of {counted(len(candidates), 'photo')} of {label} in {photos.source}, so "
            "there is nothing for a circuit to keep; give photos that it recognises, or name another class"
        )
    inside = set(own)
    rest = [i for i in range(len(photos)) if i not in inside] if own else wrong
    draw = generator_for("photos of other classes", options.seed, len(rest))
    order = [rest[i] for i in torch.randperm(len(rest), generator=draw).tolist()]
    return right, sorted(_readable(photos, order, options.others, model.card, options.at_once))


def _readable(photos: Photos, order: list[int], count: int, card: Card, at_once: int) -> list[int]:
    """Returns the first photos that can be read, as many as are asked for and there are."""
    found: list[int] = []
    start = 0
    while len(found) < count and start < len(order):
        part = order[start : start + count - len(found)]
        start += len(part)
        with suppress(Unreadable):  # not one of these: the next ones may do
            for numbers, _ in photos.batches(card.prepare, at_once, part):
                found += numbers
    return found


def driving(unit: Unit, photos: Photos, options: CircuitOptions, progress: Progress) -> tuple[list[int], list[int]]:
    """Finds the photos that drive a unit most, found and judged on in turn; others only where they are the corrupted twins."""
    found: list[tuple[float, int]] = []
    looked = list(range(min(len(photos), MOST_SCORED)))
    with torch.no_grad():
        for numbers, images in photos.batches(unit.model.card.prepare, options.at_once, looked):
            found += zip(unit.score(images).tolist(), numbers)
            progress("looking for photos that drive the unit", len(found), len(looked))
    ranked = [index for _, index in sorted(found, reverse=True)]
    strongest, rest = ranked[: 2 * options.n], sorted(ranked[2 * options.n :])
    draw = generator_for("photos that drive a unit less", options.seed, len(rest))
    picked = sorted(rest[i] for i in torch.randperm(len(rest), generator=draw)[: options.others].tolist())
    others = picked if options.corrupt == "resample" else []
    return strongest[::2] + strongest[1::2] if len(strongest) > options.n else strongest, others


def attacked(
    graph: CircuitGraph, photos: Photos, options: CircuitOptions, progress: Progress
) -> tuple[list[int], list[int]]:
    """Finds photos of other classes on which a written word moves a unit most, and some more.

    Photos that the network does not recognise without the word are left out, as far as their class is known. Those that the word
    turns into the unit's class come first.

    Args:
        graph: up to the unit.
        photos: to choose from.
        options: with the word and where it is written.
        progress: is called with (what, done, total).

    Returns:
        The photos that the circuit is found and judged on, and others, none of which was looked at where there are enough.

    Raises:
        UserError: the word raises the unit on no photo.
    """
    model, unit, target = graph.model, graph.unit, graph.target
    labels = labels_of(model.card, photos)
    own = set() if target is None else {i for i, label in labels.items() if label == target}
    rest = [i for i in range(len(photos)) if i not in own]
    draw = generator_for("photos with a word", options.seed, len(rest))
    order = [rest[i] for i in torch.randperm(len(rest), generator=draw).tolist()]
    looked = order[: max(2 * LOOKED * options.n, 16)]
    others = sorted(_readable(photos, order[len(looked) :], options.others, model.card, options.at_once))
    found: list[tuple[bool, float, int]] = []
    done = 0
    with torch.no_grad():
        for numbers, images in photos.batches(model.card.prepare, options.at_once, looked):
            with_word = written_on(images, word_of(unit, options), options.placing)
            rises = (unit.score(with_word) - unit.score(images)).tolist()
            if model.why_no_logits:
                before = after = [-1] * len(numbers)
            else:
                before, after = (model(i.to(model.device)).argmax(1).tolist() for i in (images, with_word))
            for i, rise, one, other in zip(numbers, rises, before, after):
                if rise > 0 and labels.get(i, one) == one != target:
                    found.append((other == target, rise, i))
            done += len(numbers)
            progress("looking for photos that the word moves", done, len(looked))
    if not found:
        raise UserError(
            f'"{word_of(unit, options)}" written on {counted(len(looked), "photo")} of {photos.source} raises {unit} on none that '
            "the network recognises; write another word (--word) or write it elsewhere (--placing)"
        )
    strongest = [i for _, _, i in sorted(found, reverse=True)[: 2 * options.n]]
    return strongest[::2] + strongest[1::2], others


def word_of(unit: Unit, options: CircuitOptions) -> str:
    """Returns the word that is written on photos: the one given, else the first name of the unit's class.

    Raises:
        UserError: the unit has no name.
    """
    word = options.word or (unit.label or "").split(",")[0]
    if not word.strip():
        raise UserError(f"{unit} has no name; say which word is written on photos (--word)")
    return word.strip()


def labels_of(card: Card, photos: Photos) -> dict[int, int]:
    """Returns the class of each photo whose label the network knows."""
    if card.labels is None:
        return {}
    return {at: k for k in range(len(card.labels)) for at in photos.of_class(card.identifiers(k), k)}

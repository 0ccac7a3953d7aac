"""Training a dictionary from start to shelf: the training, a sheet of its features, and a card that says how good it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from entoptic.base.files import check_own, delete_unfinished, lock_folder, user_path
from entoptic.base.gradients import with_gradients
from entoptic.base.progress import Progress, reporter
from entoptic.base.unread import names_unread
from entoptic.dictionaries.hierarchy import relations
from entoptic.dictionaries.learn import train
from entoptic.dictionaries.measures import measure_fit, stability
from entoptic.dictionaries.nmf import NAME as NMF
from entoptic.dictionaries.nmf import factorise
from entoptic.dictionaries.recipe import DictionaryRecipe, check_kind
from entoptic.dictionaries.splice import splicing_cost
from entoptic.dictionaries.stream import Rows, Source
from entoptic.errors import NotAvailable, UserError, counted
from entoptic.images.unit_reference import evenly_spaced
from entoptic.images.unread import unread_record
from entoptic.models.model import LOGITS, Model, pick_device
from entoptic.models.sources import load
from entoptic.runs.learn import save_sheet
from entoptic.units.dictionary import save
from entoptic.units.factors import NonNegative
from entoptic.units.sparse import Sparse

FILE = "dictionary.safetensors"
TRAINING = ("training.json", FILE, "second")
"""What tells the folder of a dictionary's training."""
SHEET = (12, 8)
"""Features and photos of each on a sheet."""
SHEET_PHOTOS = 256
SIDE = 64
FAMILY_PHOTOS = 256
"""Photos that relations between features are measured on."""
MOST_PAIRS = 4096
"""Pairs of duplicates that the card names."""


@names_unread
@with_gradients
def learn(
    model: str | Model,
    layer: str,
    photos: Any,
    out: str | Path,
    recipe: DictionaryRecipe | None = None,
    *,
    kind: str = "batchtopk",
    writes: str = "",
    second_seed: bool = False,
    name: str = "",
    device: str = "auto",
    progress: bool = True,
    log: Callable[[str], None] = lambda line: None,
) -> Path:
    """Trains a dictionary of a layer on photos, or goes on, and writes it with its card to OUT/dictionary.safetensors.

    Args:
        model: the network.
        layer: whose values are encoded; `entoptic ls MODEL` lists layers.
        photos: anything `Photos.open` takes, or several of them; labels are not read.
        out: folder of the training.
        recipe: of the training; None for the defaults.
        kind: relu, topk, batchtopk, jumprelu or matryoshka.
        writes: layer whose values are decoded, for a transcoder; "" for an autoencoder of `layer`.
        second_seed: train a second one with the next seed in OUT/second, and measure how alike the two are.
        name: on its card (default: the folder's).
        device: where the network runs: "auto", "cpu", "cuda:1", …. The dictionary itself is trained on the CPU.
        progress: show how far the work is.
        log: called with each line of the training's log.

    Returns:
        The file, whose features are units `dict(FILE):NUMBER`.

    Raises:
        UserError: no such kind or layer, too few photos, or `out` holds another training.
        KeyboardInterrupt: after a checkpoint; the same call goes on.
    """
    recipe, folder = recipe or DictionaryRecipe(), user_path(out)
    check_kind(kind)
    check_own(folder, marks=TRAINING, what="training of a dictionary")
    subject = load(model, device=str(pick_device(device))) if isinstance(model, str) else model
    if LOGITS in (layer, writes):
        raise UserError("a dictionary is learned of a layer inside the network; `entoptic ls MODEL` lists them")
    source = Source.of(subject, layer, photos, writes, recipe.window)
    with lock_folder(folder), reporter(progress) as report:
        delete_unfinished(folder, "")
        made, rows, record = _train(source, kind, folder, recipe, report.progress, log)
        found: dict[str, Any] = {
            "name": name or folder.name, "model": subject.card.name, "kind": kind, "steps": record["step"],
            "stopped": record.get("stopped", ""), "photos": rows.photos, "recipe": record["recipe"],
            "sources": [Path(one.source).name for one in source.sets],
        }  # fmt: skip
        found |= measured(made, source, rows.held_members, kept_out=True)
        if second_seed:
            again = DictionaryRecipe(**record["recipe"] | {"seed": recipe.seed + 1})
            other, _, _ = _train(source, kind, folder / "second", again, report.progress, log)
            found["stability"] = round(stability(made, other), 6)
        parents, found["families"] = relations_on(made, source)
        found |= unread_record(*source.sets)
        finished = made.with_(found=found, parents=parents)
        file = save(finished, folder / FILE)
        draw_sheet(finished, source, folder / "sheet.png")
    log(describe(finished))
    return file


def _train(
    source: Source, kind: str, folder: Path, recipe: DictionaryRecipe, progress: Progress, log: Callable[[str], None]
) -> tuple[Sparse | NonNegative, Rows, dict[str, Any]]:
    """Trains or factorises, whichever the kind is found by."""
    if kind == NMF:
        return factorise(source, folder, recipe, progress=progress, log=log)
    return train(source, kind, folder, recipe, progress=progress, log=log)


def measured(
    made: Sparse | NonNegative, source: Source, members: list[tuple[int, int]], *, kept_out: bool | None
) -> dict[str, Any]:  # fmt: skip
    """Measures a dictionary.

    Args:
        made: the dictionary.
        source: of the activations.
        members: (set, photo) of the photos that it is measured on.
        kept_out: whether these were kept out of its training; None where nobody knows.

    Raises:
        NotAvailable: none of the photos could be read.
    """
    read = list(source.read(members))
    if not read:
        raise NotAvailable("none of the photos that the dictionary is to be measured on could be read")
    images, values, targets = (torch.cat(parts).cpu() for parts in zip(*read, strict=True))
    measured: dict[str, Any] = {
        "measured on": {"photos": len(images), "positions": len(values) * values.shape[2], "kept out": kept_out}
    }
    try:
        fit, density_K = measure_fit(made, values, targets)
        levels = torch.tensor([0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0])
        shares = zip(levels.tolist(), density_K.quantile(levels).tolist())
        measured |= {"fit": fit.to_json(), "density": {f"{q:g}": round(v, 6) for q, v in shares}}
    except UserError as error:
        measured["fit"] = {"reason": str(error)}
    try:
        measured["splicing"] = {
            k: round(v, 6) for k, v in splicing_cost(source.model, made, images).items()
        }  # fmt: skip
    except UserError as error:
        measured["splicing"] = {"reason": str(error)}
    return measured


def some_photos(source: Source, count: int) -> list[tuple[int, int]]:
    """Returns at most so many photos, at even distances through the sets."""
    members = source.members
    return [members[i] for i in evenly_spaced(len(members), count)]


def relations_on(made: Sparse | NonNegative, source: Source) -> tuple[tuple[tuple[int, ...], ...], dict[str, Any]]:
    """Returns the parents of each feature on some photos, and a summary for the card."""
    members = some_photos(source, FAMILY_PHOTOS)
    try:
        found = relations(made, (values for _, values, _ in source.read(members)))
    except UserError as error:
        return (), {"reason": str(error)}
    parents = found.parents()
    pairs = found.duplicates()
    told: dict[str, Any] = {"photos": len(members), "with parents": sum(map(bool, parents)), "duplicates": len(pairs)}
    if pairs:
        told["pairs"] = [list(pair) for pair in pairs[:MOST_PAIRS]]
    return parents, told


def describe(dictionary: Sparse | NonNegative) -> str:
    """Returns one line on a learned dictionary: what its card says."""
    found = dictionary.found
    fit, cost = found["fit"], found["splicing"]
    if "explained" in fit:
        line = (
            f"{dictionary}: explained variance {fit['explained']:.3f} (mean of ratios {fit['explained_each']:.3f}), "
            f"L0 {fit['l0']:.1f}, {fit['alive']:.0%} alive on {counted(found['measured on']['photos'], 'photo')} kept out"
        )
    else:
        line = f"{dictionary}: not measured ({fit['reason']})"
    if "cosine" in cost:
        line += (
            f"; spliced in, the output's cosine is {cost['cosine']:.3f} and {cost['same answer']:.0%} of answers stay"
        )
    else:
        line += f"; not spliced in ({cost['reason']})"
    return line + (f"; stability over two seeds {found['stability']:.3f}" if "stability" in found else "")


@torch.no_grad()
def draw_sheet(dictionary: Sparse | NonNegative, source: Source, path: Path) -> None:
    """Draws the photos that drive some features most, a row for each; features at even steps of how often they are active."""
    images, scores = [], []
    for pictures, values_BCD, _ in source.read(some_photos(source, SHEET_PHOTOS)):
        images.append(interpolate(pictures, (SIDE, SIDE), mode="area"))
        scores.append(dictionary.activations(values_BCD).amax(2).cpu())
    pictures_N, scores_NK = torch.cat(images), torch.cat(scores)
    save_sheet(_rows(pictures_N, scores_NK), path, min(SHEET[1], len(pictures_N)))


def _rows(pictures_N: Tensor, scores_NK: Tensor) -> Tensor:
    order = (scores_NK > 0).float().mean(0).argsort(descending=True)
    alive = order[(scores_NK > 0).any(0)[order]]
    alive = alive if len(alive) else order
    chosen = alive[torch.linspace(0, len(alive) - 1, min(SHEET[0], len(alive))).long()]
    best = [scores_NK[:, k].topk(min(SHEET[1], len(pictures_N))).indices for k in chosen.tolist()]
    return pictures_N[torch.cat(best)]

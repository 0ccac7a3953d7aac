"""Non-negative matrix factorisation of a layer behind a ReLU, by overcomplete's hierarchical alternating least squares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from entoptic.base.files import json_bytes, write_atomically
from entoptic.base.progress import Progress, silent
from entoptic.dictionaries.learn import training_record
from entoptic.dictionaries.overcomplete_parts import overcomplete_part
from entoptic.dictionaries.recipe import DictionaryRecipe
from entoptic.dictionaries.stream import Rows, Source
from entoptic.errors import UserError
from entoptic.units.factors import NonNegative

MOST_ROWS = 16_384
"""Rows that are factorised."""
TOLERANCE = 1e-4
NAME = "nmf"


def factorise(
    source: Source,
    folder: Path,
    recipe: DictionaryRecipe,
    *,
    progress: Progress = silent,
    log: Callable[[str], None] = lambda line: None,
) -> tuple[NonNegative, Rows, dict[str, Any]]:
    """Factorises rows of a layer; nothing is kept of a factorisation that is interrupted.

    Args:
        source: the activations.
        folder: gets `training.json`.
        recipe: `features`, `steps` (iterations at most), `positions`, `buffer`, `held_photos` and `seed` count.
        progress: called with (what, done, total).
        log: called with each line of the log.

    Raises:
        UserError: the layer has negative values, writes another layer, or needs a window; or the folder holds another training.
        NotAvailable: overcomplete is not installed.
    """
    kind = overcomplete_part("optimization.nmf", "NMF")
    if source.writes or recipe.window > 1:
        raise UserError("NMF factorises the values of one layer: no --writes, and --window 1")
    record = training_record(folder, source, NAME, recipe)
    rows = Rows(source, recipe, progress)
    x_NF = rows.first()[0][:MOST_ROWS] / rows.scale_x + rows.mean_F
    largest = float(x_NF.abs().max())
    if float(x_NF.min()) < -1e-4 * largest:
        raise UserError(
            f"{source.layer} has negative values (down to {float(x_NF.min()):.3g}), which NMF cannot factorise; take a layer "
            "behind a ReLU, or --kind archetypal"
        )
    log(f"factorising {len(x_NF)} positions of {rows.photos} photos, {len(rows.held_members)} kept out")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(recipe.seed)
        factors = kind(recipe.features, tol=TOLERANCE)
        factors.fit(x_NF.clamp_min(0), max_iter=recipe.steps)
        rows_KF = factors.get_dictionary().detach().float()
    if not bool(rows_KF.isfinite().all()):
        raise UserError("the factorisation gave values that are not finite; take fewer features")
    size = rows_KF.norm(dim=1, keepdim=True)
    made = NonNegative(
        decoder=torch.where(size > 0, rows_KF / size.clamp_min(1e-12), rows_KF), layer=source.layer,
        model_sha256=source.model.card.identity,
    )  # fmt: skip
    record["recipe"] = asdict(recipe)
    write_atomically(folder / "training.json", json_bytes(record))
    return made, rows, record

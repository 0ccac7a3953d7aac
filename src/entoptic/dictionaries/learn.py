"""Training of a sparse autoencoder or transcoder on rows of activations: resumable, with a stop rule."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from entoptic.base.progress import Progress, silent
from entoptic.base.records import check_fields
from entoptic.base.training import load_state, optimise, read_record
from entoptic.dictionaries.kinds import KINDS
from entoptic.dictionaries.network import Kind, SparseNet, relative_error, revival
from entoptic.dictionaries.recipe import DictionaryRecipe, check_kind
from entoptic.dictionaries.stream import Rows, Source
from entoptic.errors import UserError
from entoptic.units.sparse import Sparse, fold, unit_norm

SAVE_EVERY = 1000


def train(
    source: Source,
    kind: str,
    folder: Path,
    recipe: DictionaryRecipe,
    *,
    progress: Progress = silent,
    log: Callable[[str], None] = lambda line: None,
) -> tuple[Sparse, Rows, dict[str, Any]]:
    """Trains a dictionary in a folder, or goes on with the training that it holds.

    Args:
        source: the activations.
        kind: of dictionary.
        folder: of the checkpoints and `training.json`.
        recipe: of the training.
        progress: called with (what, done, total).
        log: called with each line of the log.

    Returns:
        The dictionary, the rows that it was trained on, and the record of the training.

    Raises:
        UserError: the folder holds another training, or a loss is not finite; the last good checkpoint is kept.
        KeyboardInterrupt: after a checkpoint; the same call goes on.
    """
    check_kind(kind)
    chosen = KINDS[kind]
    record = training_record(folder, source, kind, recipe)  # before photos are read, so that a misfit is told at once
    rows = Rows(source, recipe, progress)
    log(
        f"{rows.photos} photos, {len(rows.held_members)} kept out; the buffer takes at most {rows.bound / 2**20:.0f} MB"
    )
    net = chosen.network(*rows.first(), recipe, learned_thresholds=chosen.learned_thresholds)
    mean = copy.deepcopy(net).requires_grad_(False)
    optimiser = torch.optim.Adam(net.parameters(), lr=recipe.rate, betas=(0.9, 0.999))
    optimiser.register_step_pre_hook(net.before_update)
    optimiser.register_step_post_hook(net.after_update)
    if record["step"]:
        load_state(folder, record, net, mean, optimiser)
    before = record["recipe"]["steps"]
    record["recipe"] = asdict(recipe)
    if record.get("stopped") and recipe.steps <= before:
        return _finished(net, chosen, rows), rows, record
    record["stopped"] = ""

    def loss(step: int) -> torch.Tensor:
        x_NF, y_NO = rows.batch(step)
        pre_NK = net.pre_activations(x_NF)
        codes_NK = chosen.codes(net, pre_NK, recipe)
        own = chosen.loss(net, pre_NK, codes_NK, y_NO, recipe)
        return own + revival(net, pre_NK, codes_NK, y_NO, recipe)

    def stop(done: int) -> bool:
        if done % recipe.check_every:
            return False
        record["explained"].append([done, round(_explained(net, chosen, rows), 6)])
        log(f"step {done}: explained variance {record['explained'][-1][1]:.4f} on photos kept out")
        history = [value for _, value in record["explained"]]
        if not recipe.least_gain or len(history) <= recipe.patience:
            return False
        gain = max(history[-recipe.patience :]) - max(history[: -recipe.patience])
        if gain < recipe.least_gain:
            record["stopped"] = f"explained variance rose by {gain:.4f} in {recipe.patience} measurements"
        return gain < recipe.least_gain

    optimise(
        "training the dictionary", net, mean, loss, recipe, folder, record, optimiser, device="cpu",
        save_every=SAVE_EVERY, stop=stop, progress=progress, log=log,
    )  # fmt: skip
    return _finished(net, chosen, rows), rows, record


@torch.no_grad()
def _explained(net: SparseNet, kind: Kind, rows: Rows) -> float:
    x_MF, y_MO = rows.held
    found = [net.decode(kind.codes(net, net.pre_activations(x), rows.recipe)) for x in x_MF.split(4096)]
    return 1 - float(relative_error(torch.cat(found), y_MO))


@torch.no_grad()
def _finished(net: SparseNet, kind: Kind, rows: Rows) -> Sparse:
    """Returns a network as a dictionary of the layer's own values."""
    recipe, source = rows.recipe, rows.source
    pre_MK = net.pre_activations(rows.held[0][:4096])
    window, channels = recipe.window, source.model.layer(source.layer).channels
    rows_count = len(net.encoder)
    made = Sparse(
        encoder=net.encoder.detach().clone().view(rows_count, channels, window, window),
        encoder_bias=net.encoder_bias.detach().clone(), decoder=net.decoder.detach().clone(),
        decoder_bias=net.decoder_bias.detach().clone(), threshold=kind.thresholds(net, pre_MK, recipe).clone(),
        kind=kind.keeps or kind.name, k=recipe.active, layer=source.layer, writes=source.writes,
        grid=source.grid if window > 1 else (1, 1), model_sha256=source.model.card.identity,
    )  # fmt: skip
    folded = fold(
        made, input_mean=rows.mean_F if window == 1 else None, input_scale=rows.scale_x, output_mean=rows.mean_O,
        output_scale=rows.scale_y,
    )  # fmt: skip
    return unit_norm(folded)  # activations are then lengths of contributions, in units of the layer


def training_record(folder: Path, source: Source, kind: str, recipe: DictionaryRecipe) -> dict[str, Any]:
    """Returns the record of the training in a folder, or a new one.

    Raises:
        UserError: the folder holds the training of another dictionary.
    """
    of = {
        "of": "dictionary", "model": source.model.card.name, "weights": source.model.card.identity, "layer": source.layer,
        "writes": source.writes, "kind": kind, "photos": source.identity(),
    }  # fmt: skip
    record = read_record(folder)
    if record is None:
        return {"step": 0, "loss": [], "explained": [], "recipe": asdict(recipe)} | of
    about = folder / "training.json"
    check_fields(record, {"recipe": dict, "explained": list, "of": str}, about)
    asked, before = of | recipe.architecture(), record | record["recipe"]
    for what, wanted in asked.items():
        if before.get(what) != wanted:
            raise UserError(
                f"{folder} holds the training of a dictionary with another {what} ({str(before.get(what))[:40]}, not "
                f"{str(wanted)[:40]}); choose another folder, or the same options to go on"
            )
    return record

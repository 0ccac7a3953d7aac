"""Training an inverter with the prior's denoising loss, given the map, and a cycle loss on the one-step estimate:

    L = |net(x_t, t, φ) - target|² + cycle·[t small]·(1 - mean_ij cos(f(D(x̂0))_ij, φ_ij))

The first term is that of FeatInv (arXiv:2505.21032), with the prior's own target. The cycle term follows ControlNet++
(Li et al. 2024), with the network under study as reward. Only the control is trained.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from entoptic.base.files import user_path
from entoptic.base.progress import Progress
from entoptic.base.records import check_fields
from entoptic.base.training import load_state, optimise, read_record, rows_of
from entoptic.errors import UserError
from entoptic.inversion.configs import EntopticRecipe
from entoptic.inversion.data import Encode, Pairs, make_pairs
from entoptic.inversion.maps import FeatureMaps
from entoptic.inversion.network import ConcatenatedUNet, Control, NetworkPrior, build, conditioning_of
from entoptic.inversion.start import Start, read_start, start_from
from entoptic.priors.prior import Level

CLAMP = 10.0
"""Standardised maps are clamped to this many standard deviations, or rare channels would dominate."""


def hint_input(maps_BChw: Tensor, mean_C: Tensor, sd_C: Tensor, recipe: EntopticRecipe) -> Tensor:
    """Returns the maps as the hint encoder gets them, B×C×h×w: raw or standardised, at full resolution or averaged.

    Args:
        maps_BChw: maps of the network under study.
        mean_C: their mean over the training photos.
        sd_C: their standard deviation.
        recipe: `standardise` and `pooled` are used.
    """
    if recipe.standardise:
        maps_BChw = standardise_maps(maps_BChw, mean_C, sd_C).clamp(-CLAMP, CLAMP)
    if recipe.pooled:
        maps_BChw = maps_BChw.mean((2, 3), keepdim=True).expand_as(maps_BChw)
    return maps_BChw


def standardise_maps(maps_BChw: Tensor, mean_C: Tensor, sd_C: Tensor) -> Tensor:
    """Returns (maps - mean) / sd for each channel; channels that never vary give 0.

    Args:
        maps_BChw: B×C×h×w.
        mean_C: mean of each channel.
        sd_C: standard deviation of each channel.
    """
    mean, sd = (v.to(maps_BChw)[:, None, None] for v in (mean_C, sd_C))
    return torch.where(sd > 0, (maps_BChw - mean) / sd.clamp_min(1e-12), torch.zeros_like(maps_BChw))


def learn_inverter(
    maps: FeatureMaps,
    prior: NetworkPrior,
    photos: Any,
    out: str | Path,
    recipe: EntopticRecipe | None = None,
    *,
    start: str | None = None,
    pairs_folder: str | Path | None = None,
    limit: int = 0,
    save_every: int = 500,
    sheet_every: int = 1000,
    sheet: Callable[[nn.Module, Pairs, Path], None] | None = None,
    progress: Progress = lambda what, done, total: None,
    log: Callable[[str], None] = lambda line: None,
) -> tuple[Path, Pairs]:
    """Trains an inverter of `maps` on `prior`, or continues its training.

    Args:
        maps: the layer to invert.
        prior: the prior to build on.
        photos: anything `Photos.open` takes, or a list of them.
        out: folder of the checkpoints and `training.json`, as in the training of a prior.
        recipe: how to train; None for the defaults.
        start: an inverter whose weights the first step begins with (`start.read_start`); None begins with the prior's.
        pairs_folder: where photos and maps are stored; None for OUT/pairs. Several trainings may share it.
        limit: maximum number of photos, taken at random; 0 for all.
        save_every: steps between checkpoints.
        sheet_every: steps between sheets.
        sheet: draws reconstructions of a network into a file; None for no sheets.
        progress: called with (what, done, total).
        log: called with each line of the log.

    Returns:
        The folder, and the pairs that were trained on.

    Raises:
        UserError: the prior or layer is not supported, no photo can be read, or `out` holds another training.
        KeyboardInterrupt: on Ctrl-C, after a checkpoint.
    """
    recipe, folder = recipe or EntopticRecipe(), user_path(out)
    begin = None if start is None else read_start(start)
    if isinstance(prior.name, str) and prior.name.startswith("fresh:") and recipe.network != "direct":
        raise UserError(f"{prior.name} is untrained, so nothing of it is worth freezing; train it with network=direct")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        net = build(prior, maps.channels, recipe).to(prior.device)
    # Both come before the photos are read, so that a misfit is reported at once.
    record = _record(folder, maps, prior, recipe, begin)
    if begin is not None and not record["step"]:
        start_from(net, begin)
    mean = copy.deepcopy(net).requires_grad_(False)
    optimiser = torch.optim.AdamW(net.parameters(), lr=recipe.rate, betas=(0.9, 0.99), weight_decay=0.01)
    size = picture_size(prior)
    pairs = make_pairs(
        maps, photos, size, pairs_folder or folder / "pairs", limit=limit, encode=encoding(prior), progress=progress
    )
    if record.setdefault("pairs", pairs.key) != pairs.key:
        raise UserError(f"{folder} holds training on other photos; choose another folder, or the same photos to go on")
    record["photos"], record["skipped"] = len(pairs), pairs.skipped
    if record["step"]:
        load_state(folder, record, net, mean, optimiser)
    optimise(
        "training the inverter", net, mean, lambda step: loss(net, prior, maps, pairs, recipe, step), recipe, folder,
        record, optimiser, device=prior.device, save_every=save_every, sheet_every=sheet_every,
        sheet=None if sheet is None else lambda net, path: sheet(net, pairs, path), progress=progress, log=log,
    )  # fmt: skip
    return folder, pairs


def picture_size(prior: NetworkPrior) -> int:
    """Returns the side of the prior's pictures in pixels."""
    with torch.no_grad():
        return prior.decode(torch.zeros(1, *prior.shape, device=prior.device)).shape[-1]


def encoding(prior: NetworkPrior) -> Encode | None:
    """Returns how `make_pairs` encodes pictures: None where states are pixels in another order, which costs nothing."""
    size = picture_size(prior)
    if prior.shape[0] * prior.shape[1] * prior.shape[2] == 3 * size * size:
        return None
    assert prior.states is not None
    return prior.states, prior.identity


def loss(
    net: Control | ConcatenatedUNet,
    prior: NetworkPrior,
    maps: FeatureMaps,
    pairs: Pairs,
    recipe: EntopticRecipe,
    step: int,
) -> Tensor:
    """Returns the loss of one step. Step N draws the same numbers however often the training was interrupted.

    Args:
        net: the network that is trained.
        prior: the prior that it is built on.
        maps: the layer to invert.
        pairs: pictures (or latents) and maps.
        recipe: how to train.
        step: N, from 0.
    """
    count, device = recipe.batch_size, prior.device
    pictures, given = (v.to(device) for v in pairs.batch(rows_of(step, len(pairs), count, recipe.seed)))
    draw = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    if recipe.logit_normal:
        u_B = (torch.randn(count, generator=draw) + recipe.noisier).sigmoid()
    else:
        u_B = torch.rand(count, generator=draw)
    noise = torch.randn(count, *prior.shape, generator=draw).to(device)
    hidden, without_text = (torch.rand(count, generator=draw) < recipe.drop for _ in range(2))
    if recipe.network == "control" and not recipe.drop_together:
        hidden[:] = False  # without a map the output is that of the frozen prior, so nothing is to be learned
    with torch.no_grad():
        assert prior.states is not None
        x0 = pictures if pairs.encoded else prior.states(pictures)
    times_B, alpha_B, sigma_B = prior.schedule.at(u_B.to(device))
    alpha, sigma = alpha_B[:, None, None, None], sigma_B[:, None, None, None]
    x_t = alpha * x0 + sigma * noise
    seen = hint_input(given, pairs.mean_C.to(device), pairs.sd_C.to(device), recipe)
    show = (~hidden).to(device)[:, None, None, None]
    # FeatInv hides a map by zeros, which the encoder's biases still turn into a hint. Here the hint itself is zero.
    guess = None
    if recipe.drop_together:
        hints = net.hint(seen * show)
    else:
        hints, guess = net.hint.with_guess(seen)
        hints = hints * show
    conditioning = conditioning_of(prior, count)
    if conditioning[0] is not None:
        without = (hidden if recipe.drop_together else without_text).to(device)[:, None, None]
        conditioning = (torch.where(without, prior.null.expand_as(conditioning[0]), conditioning[0]), None)  # type: ignore[union-attr]
    output = net.output(prior, x_t, times_B, hints, conditioning, 1.0)[:, : prior.shape[0]].float()
    total = (output - prior.schedule.training_target(x0, noise, alpha, sigma)).square().mean()
    if guess is not None:
        total = total + recipe.guess * (guess - x0).square().mean()
    if recipe.cycle and step >= recipe.cycle_from * recipe.steps:
        rows = torch.nonzero((u_B < recipe.cycle_below) & ~hidden)[: recipe.cycle_pictures, 0]
        if len(rows):
            level = Level(0.0, alpha[rows], sigma[rows])  # type: ignore[arg-type]
            clean = prior.schedule.clean(x_t[rows], output[rows], level)
            found, wanted = maps.read(prior.decode(clean)), given[rows]
            if recipe.pooled:  # the ablation must not learn positions from the loss either
                found, wanted = found.mean((2, 3)), wanted.mean((2, 3))
            total = total + recipe.cycle * (1 - cosine_similarity(found, wanted, dim=1).mean())
    return total


def _record(
    folder: Path, maps: FeatureMaps, prior: NetworkPrior, recipe: EntopticRecipe, start: Start | None
) -> dict[str, Any]:
    """Returns the record of the training in `folder`, or a new one.

    Raises:
        UserError: the folder holds the training of another inverter, or one that began with other weights.
    """
    of = {
        "model": maps.model.card.name, **maps.model.card.provenance, "layer": maps.layer,
        "prior": prior.name, "prior_identity": prior.identity,
    }  # fmt: skip
    record = read_record(folder)
    if record is None:
        began = {} if start is None else {"start": start.record}
        return {"step": 0, "loss": [], "recipe": asdict(recipe)} | began | of
    asked = of | recipe.architecture() | {"batch_size": recipe.batch_size}
    check_fields(record, {"recipe": dict}, folder / "training.json")
    before = record | record["recipe"]
    check_fields(before, dict.fromkeys((*of, *asked), object), folder / "training.json")
    if before["prior_identity"] == prior.identity:
        del asked["prior"]  # the same one, wherever it lies now
    for what, wanted in asked.items():
        if before.get(what, wanted) != wanted:
            raise UserError(
                f"{folder} holds the training of an inverter with another {what} ({str(before.get(what))[:40]}, not "
                f"{str(wanted)[:40]}); choose another folder, or the same recipe to go on"
            )
    if start is not None and record.get("start") != start.record:
        raise UserError(
            f"{folder} holds a training that began with other weights than those of {start.name}; choose another folder, or "
            "leave --start out to go on"
        )
    return record | {"recipe": asdict(recipe)}

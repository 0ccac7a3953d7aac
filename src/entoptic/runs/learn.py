"""Training a prior from start to shelf: the training, its sample sheets, and a card that says how good it is."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from entoptic.base.bounds import check_options
from entoptic.base.files import (
    check_inside,
    check_own,
    delete_unfinished,
    lock_folder,
    user_path,
    write_atomically,
    writing_to,
)
from entoptic.base.gradients import with_gradients
from entoptic.base.pixels import centre_square
from entoptic.base.progress import Reporter, reporter
from entoptic.base.training import fitting, mean_weights, read_record
from entoptic.base.unread import names_unread
from entoptic.errors import UserError
from entoptic.images.photos import Photos
from entoptic.inversion.data import open_photos
from entoptic.methods.prior_sampling import MAP_STEPS
from entoptic.metrics.distribution import features, frechet, kid, kid_interval
from entoptic.models.model import Model, pick_device
from entoptic.models.sources import load
from entoptic.priors.learn import learn_prior
from entoptic.priors.network_prior import DiffusionPrior
from entoptic.priors.prior import Prior, draw_conditions, generate, noise_like
from entoptic.priors.recipe import Recipe
from entoptic.priors.saved import flow_prior, save_prior
from entoptic.priors.sources import load_prior
from entoptic.priors.unet import UNet
from entoptic.runs.records import versions
from entoptic.sampling.bank import make_bank

SHIFT = 2.0
"""Few-step sampling spends its steps at higher noise by this much (`Flow.shift`): at 6 steps half the error of none."""
LEAST_COMPARED = 50
"""Pictures on each side of a comparison."""
TRAINING = ("training.json", "photos.json", "photos.npy", "prior")
"""What tells the folder of a prior's training."""
SHEET = (4, 12)
"""Rows and columns of a sample sheet."""


@names_unread
@with_gradients
def learn(
    photos: Any,
    out: str | Path,
    recipe: Recipe | None = None,
    *,
    start: str | None = None,
    held_out: Any = None,
    name: str = "",
    guidance: float = 1.0,
    judge: str | Model = "builtin:lite1",
    samples: int = 1000,
    minutes: float | None = None,
    device: str = "auto",
    progress: bool = True,
    log: Callable[[str], None] = lambda line: None,
) -> Path:
    """Trains a prior on photos, or goes on, and writes it with its card to OUT/prior.

    Args:
        photos: anything `Photos.open` takes, or several of them.
        out: folder of the training; the prior is in its `prior`.
        recipe: of the training; None for the defaults.
        start: a prior whose weights the training begins with, builtin:NAME or file:FOLDER; None begins with random ones.
        held_out: photos that it is compared with; None takes the training photos.
        name: on its card (default: the folder's).
        guidance: weight of classifier-free guidance it is used with.
        judge: network whose features compare.
        samples: pictures compared on each side.
        minutes: ends the training after so many, whatever step it has reached.
        device: "auto", "cpu", "cuda:1", ….
        progress: show how far the work is.
        log: called with each line of the training's log.

    Returns:
        The folder OUT/prior, which `load_prior` takes.

    Raises:
        UserError: as `learn_prior`, or another job is writing `out`.
        KeyboardInterrupt: after a checkpoint; the same call goes on.
    """
    recipe, folder = recipe or Recipe(), user_path(out)
    where = pick_device(device)
    check_own(folder, marks=TRAINING, what="training of a prior")
    # Before anything is written: what only the comparison refuses, hours later, would be of no use.
    _check_count(open_photos(photos if held_out is None else held_out), samples)
    sets = open_photos(photos)

    def sheet(net: UNet, path: Path) -> None:
        draw_sheet(training_prior(net, recipe, where, guidance=guidance), path)

    with lock_folder(folder), reporter(progress) as report:
        delete_unfinished(folder, "", "sheets/", "prior/")
        learn_prior(
            sets,
            folder,
            recipe,
            start=start,
            device=where,
            sheet=sheet,
            minutes=minutes,
            progress=report.progress,
            log=log,
        )
        return export_prior(
            folder, held_out if held_out is not None else photos, name=name or folder.name, guidance=guidance,
            judge=judge, samples=samples, device=str(where), report=report,
        )  # fmt: skip


def training_prior(net: UNet, recipe: Recipe, device: torch.device, *, guidance: float = 1.0) -> DiffusionPrior:
    """Returns a network in training as a prior without names of classes."""
    classes = [str(i) for i in range(net.config.num_class_embeds - 1)]
    card = {"name": "in training", "size": recipe.size, "patch": recipe.patch, "classes": classes, "shift": SHIFT}
    return flow_prior("in training", net, card, device, guidance=guidance)


def export_prior(
    folder: str | Path, held_out: Any, *, name: str, guidance: float = 1.0, judge: str | Model = "builtin:lite1",
    samples: int = 1000, device: str = "auto", report: Reporter | None = None,
) -> Path:  # fmt: skip
    """Writes what a training folder holds as a prior with its card, sample sheet and distances; returns its folder."""
    from entoptic.priors.learn import network, recipe_of

    report, folder = report or Reporter(), Path(folder)
    record = read_record(folder)
    if record is None:
        raise UserError(f"{folder} holds no training (it has no training.json); make one with `entoptic learn prior`")
    recipe = recipe_of(record, folder)
    net = network(recipe, len(record["classes"]))
    with fitting(folder / str(record.get("state"))):
        net.load_state_dict(mean_weights(folder, record))
    out = folder / "prior"
    card = {
        "name": name, "size": recipe.size, "patch": recipe.patch, "classes": record["classes"],
        "guidance": guidance, "shift": SHIFT, "parameters": sum(p.numel() for p in net.parameters()),
        "training": {
            "photos": record["photos"], "pictures_seen": record["step"] * recipe.batch_size, "steps": record["step"],
            "recipe": record["recipe"], "loss": record["loss"][-1:], "versions": versions(),
        } | {name: record[name] for name in ("start", "unread") if name in record},
    }  # fmt: skip
    save_prior(net, out, card)
    prior = load_prior(f"file:{out}", device=device)
    draw_sheet(prior, out / "samples.png")
    card["distances"] = distances(prior, held_out, judge=judge, samples=samples, report=report)
    save_prior(net, out, card)
    return out


def distances(
    prior: Prior, photos: Any, *, judge: str | Model = "builtin:lite1", samples: int = 1000, steps: int = MAP_STEPS,
    report: Reporter | None = None,
) -> dict[str, Any]:  # fmt: skip
    """How far a prior's samples are from photos, beside two anchors, in the judge's pooled features.

    The anchors: other photos of the same set, and a Gaussian with the photos' own mean and covariance of pixels. All
    pictures are seen at the prior's size. Fréchet distances are biased upwards at this n, equally for all three.
    """
    report = report or Reporter()
    model = load(judge, device=str(prior.device)) if isinstance(judge, str) else judge
    sets = open_photos(photos)
    count = _check_count(sets, samples)
    bank = make_bank(prior, size=samples, steps=steps, seed=1, progress=report.progress)
    side = bank.pictures.shape[-1]
    places = [(i, j) for i, one in enumerate(sets) for j in range(len(one))]
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(0)).tolist()
    real: list[Tensor] = []
    for place in order:
        i, j = places[place]
        photo = sets[i].read(j)
        if photo is not None:
            real.append(centre_square(photo, side).float() / 255)
        if len(real) == 2 * count:
            break
    half = torch.stack(real[:count]), torch.stack(real[count:])
    compared = {"samples": bank.pictures[:count].float() / 255, "other photos": half[1], "Gaussian": gaussian(half[1])}
    reference = features(model, half[0])
    out: dict[str, Any] = {"judge": model.card.name, "n": count, "photos": [one.source for one in sets], "steps": steps}
    out["photos"] = [Path(source).name for source in out["photos"]]
    for done, (what, pictures) in enumerate(compared.items(), 1):
        theirs = features(model, pictures)
        out[what] = {
            "kid": kid(theirs, reference), "kid_interval": list(kid_interval(theirs, reference)),
            "frechet": frechet(theirs, reference),
        }  # fmt: skip
        report.progress("comparing with photos", done, len(compared))
    return out


def _check_count(sets: Sequence[Photos], samples: int) -> int:
    """Returns how many pictures are compared on each side.

    Raises:
        UserError: too few photos or samples.
    """
    check_options(samples=samples)
    photos = sum(len(one) for one in sets)
    if photos < 2 * LEAST_COMPARED:
        raise UserError(f"comparing a prior needs at least {2 * LEAST_COMPARED} photos, got {photos}")
    if samples < LEAST_COMPARED:
        raise UserError(f"samples must be at least {LEAST_COMPARED}, got {samples}: fewer pictures compare nothing")
    return min(samples, photos // 2)


def gaussian(pictures: Tensor, seed: int = 0) -> Tensor:
    """As many samples of the Gaussian with the pictures' mean and covariance, clamped to [0, 1].

    A sum of the centred pictures with independent normal weights has exactly that covariance; no matrix is factored.
    """
    draw = torch.Generator().manual_seed(seed)
    mean = pictures.mean(0, keepdim=True)
    weights = torch.randn(len(pictures), len(pictures), generator=draw) / math.sqrt(len(pictures))
    return (mean + (weights @ (pictures - mean).flatten(1)).reshape(pictures.shape)).clamp(0, 1)


@torch.no_grad()
def draw_sheet(prior: Prior, path: Path, *, steps: int = 20, seed: int = 0) -> None:
    """A grid of samples, always of the same noise and conditions, so that sheets of one training compare."""
    rows, columns = SHEET
    generators = [torch.Generator().manual_seed(1000 * seed + i) for i in range(rows * columns)]
    condition = draw_conditions(prior, generators)
    pictures = prior.decode(generate(prior, noise_like(prior, generators), condition, steps=steps))
    scale = max(1, 96 // pictures.shape[-1])
    save_sheet(torch.nn.functional.interpolate(pictures, scale_factor=scale), path, columns)


def save_sheet(pictures: Tensor, path: Path, columns: int) -> None:
    """Writes pictures in rows as one PNG."""
    from torchvision.utils import save_image

    drawn = io.BytesIO()
    save_image(pictures, drawn, format="PNG", nrow=columns, padding=2)
    with writing_to(path.parent):
        write_atomically(check_inside(path, path.parent), drawn.getvalue())

"""Training a small image prior: flow matching on photos, resumable, with sample sheets.

The path is x_t = (1-t)·x0 + t·ε with pictures x0 in [-1, 1] and Gaussian noise ε; the network learns the velocity
v = ε - x0 (Lipman et al. 2023, arXiv:2210.02747; times logit-normal as in Esser et al. 2024, arXiv:2403.03206). It sees
pictures as (3·p²)×(S/p)×(S/p) blocks of p×p pixels, an orthonormal change of shape that loses nothing and spares
the costly convolutions at full size.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pixel_unshuffle

from entoptic.base.cache import content_key
from entoptic.base.files import allocate
from entoptic.base.pixels import centre_square
from entoptic.base.training import Progress, load_state, optimise, rows_of
from entoptic.errors import UserError
from entoptic.images.photos import Photos
from entoptic.priors.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn


def network(recipe: Recipe, classes: int) -> nn.Module:
    """An untrained U-Net of diffusers; the class after the last means "no class"."""
    try:
        from diffusers import UNet2DConditionModel
    except ImportError:
        raise UserError("priors need diffusers: pip install entoptic[diffusion]") from None

    side = recipe.size // recipe.patch
    attends = [side // 2**i in recipe.attention for i in range(len(recipe.widths))]
    net: Any = UNet2DConditionModel(
        sample_size=side,
        in_channels=3 * recipe.patch**2,
        out_channels=3 * recipe.patch**2,
        block_out_channels=tuple(recipe.widths),
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        mid_block_type="UNetMidBlock2D",
        layers_per_block=recipe.layers,
        attention_head_dim=32,
        norm_num_groups=16,
        num_class_embeds=classes + 1,
        resnet_time_scale_shift="scale_shift",
        cross_attention_dim=32,  # no block reads text; diffusers wants a number
    )
    return net


@dataclass
class _Shown:
    """Training photos: M×3×S×S uint8 in a file, and the class of each."""

    pixels: np.ndarray
    classes: Tensor
    names: list[str]
    skipped: int
    key: str


def learn_prior(
    photos: Any,
    out: str | Path,
    recipe: Recipe | None = None,
    *,
    device: str | torch.device = "cpu",
    save_every: int = 500,
    sheet_every: int = 2000,
    sheet: Callable[[nn.Module, Path], None] | None = None,
    progress: Progress = lambda what, done, total: None,
    log: Callable[[str], None] = lambda line: None,
) -> Path:
    """Trains a prior, or goes on training it; returns the folder.

    Args:
        photos: anything `Photos.open` takes, or a list of them; labels become classes.
        out: folder; holds `training-STEP.safetensors` to resume from (weights, their running mean, the optimiser), and
            `training.json` (recipe, data, loss by step).
        save_every: steps between checkpoints. sheet: draws a sample sheet of a network into a file, every
            `sheet_every` steps.

    Raises:
        UserError: no photo can be read, or `out` holds another network's training. KeyboardInterrupt: on Ctrl-C,
            after a checkpoint.
    """
    recipe = recipe or Recipe()
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    shown = _prepare(photos, folder, recipe.size, progress)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        net = network(recipe, len(shown.names)).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        mean = network(recipe, len(shown.names)).to(device)
    optimiser = torch.optim.AdamW(net.parameters(), lr=recipe.rate, betas=(0.9, 0.99), weight_decay=0.01)
    record = _resume(folder, recipe, shown, net, mean, optimiser)
    optimise(
        "training the prior", net, mean, lambda step: _loss(net, shown, recipe, step, device), recipe, folder, record,
        optimiser, device=device, save_every=save_every, sheet_every=sheet_every, sheet=sheet, progress=progress,
        log=log,
    )  # fmt: skip
    return folder


def _loss(net: nn.Module, shown: _Shown, recipe: Recipe, step: int, device: str | torch.device) -> Tensor:
    """Mean squared error of the velocity; step N of a run draws the same numbers however often it was interrupted."""
    size = recipe.batch_size
    rows = rows_of(step, len(shown.classes), size, recipe.seed)
    draw = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    x0 = torch.from_numpy(shown.pixels[np.asarray(rows)]).float() / 127.5 - 1  # B3SS in [-1, 1]
    flip = torch.rand(size, generator=draw) < 0.5
    x0 = torch.where(flip[:, None, None, None], x0.flip(3), x0)
    classes = shown.classes[rows].clone()
    classes[torch.rand(size, generator=draw) < recipe.drop] = len(shown.names)
    t = torch.sigmoid(torch.randn(size, generator=draw))
    noise = torch.randn(x0.shape, generator=draw)
    x0, noise, t, classes = (v.to(device) for v in (x0, noise, t, classes))
    t_B111 = t[:, None, None, None]
    x_t = pixel_unshuffle((1 - t_B111) * x0 + t_B111 * noise, recipe.patch)
    target = pixel_unshuffle(noise - x0, recipe.patch)
    x_t = x_t.contiguous(memory_format=torch.channels_last)
    velocity = net(x_t, 1000 * t, None, class_labels=classes).sample
    return (velocity.float() - target).square().mean()


def _prepare(photos: Any, folder: Path, size: int, progress: Progress) -> _Shown:
    """All photos, centre-cropped and resized once, in a file that is read piecewise; used again if nothing changed."""
    given = photos if isinstance(photos, (list, tuple)) else [photos]
    sets = [Photos.open(one) for one in given]
    labels = [photo.labels[0] if photo.labels else "" for one in sets for photo in one]
    names = sorted(set(labels) - {""})
    place = {name: i for i, name in enumerate(names)} | {"": len(names)}
    key = content_key({"size": size, "photos": [one.fingerprint() for one in sets], "labels": labels})
    held, about = folder / "photos.npy", folder / "photos.json"
    if held.is_file() and about.is_file() and (known := json.loads(about.read_text()))["key"] == key:
        kept = known["kept"]
    else:
        about.unlink(missing_ok=True)  # it describes what is about to be overwritten
        written = np.lib.format.open_memmap(held, "w+", np.uint8, (len(labels), 3, size, size))
        allocate(held)
        kept, row = [], 0
        for one in sets:
            for batch, images in one.batches(lambda photo: centre_square(photo, size), 256):
                for index, image in zip(batch, images):
                    written[len(kept)] = image.numpy()
                    kept.append(row + index)
                progress("reading photos", len(kept), len(labels))
            row += len(one)
        written.flush()
        about.write_text(json.dumps({"key": key, "kept": kept}))
    if not kept:
        raise UserError(f"none of the {len(labels)} photos in {', '.join(one.source for one in sets)} can be read")
    stored = np.load(held, mmap_mode="r")[: len(kept)]
    pixels = np.array(stored) if stored.nbytes < 2**30 else stored
    classes = torch.tensor([place[labels[i]] for i in kept])
    return _Shown(pixels, classes, names, len(labels) - len(kept), key)


def _resume(
    folder: Path, recipe: Recipe, shown: _Shown, net: nn.Module, mean: nn.Module, optimiser: torch.optim.Optimizer
) -> dict[str, Any]:
    mean.load_state_dict(net.state_dict())
    mean.requires_grad_(False)
    about = folder / "training.json"
    fresh = {
        "step": 0,
        "loss": [],
        "photos_key": shown.key,
        "classes": shown.names,
        "photos": len(shown.classes),
        "skipped": shown.skipped,
    }
    if not about.is_file():
        return fresh | {"recipe": asdict(recipe)}
    record = json.loads(about.read_text())
    options: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record["recipe"].items()}
    before = Recipe(**options)
    for what, old, new in [
        ("classes", record["classes"], shown.names),
        ("photos", record.get("photos_key", shown.key)[:12], shown.key[:12]),
        ("batch_size", before.batch_size, recipe.batch_size),
        *((k, v, recipe.architecture()[k]) for k, v in before.architecture().items()),
    ]:
        if old != new:
            raise UserError(
                f"{folder} holds the training of a prior with other {what} ({_few(old)}, not {_few(new)}); "
                "choose another folder, or the same recipe to go on"
            )
    load_state(folder, record, net, mean, optimiser)
    return record | {"recipe": asdict(recipe)}


def _few(value: Any) -> str:
    text = ", ".join(map(str, value[:4])) + (" …" if len(value) > 4 else "") if isinstance(value, list) else str(value)
    return text

"""Training a small image prior by flow matching on photos. Training can be resumed and draws sample sheets.

The path is x_t = (1-t)·x0 + t·ε with pictures x0 in [-1, 1] and Gaussian noise ε. The network learns the velocity
v = ε - x0 (Lipman et al. 2023, arXiv:2210.02747), at logit-normal times t (Esser et al. 2024, arXiv:2403.03206). It
reads pictures of side S as (3·p²)×(S/p)×(S/p) blocks of p×p pixels. This change of shape is orthonormal, loses nothing,
and avoids the costly convolutions at full size.
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
from entoptic.base.files import allocate, check_inside, file_exists, user_path, write_atomically, writing_to
from entoptic.base.pixels import centre_square
from entoptic.base.progress import Progress
from entoptic.base.records import check_fields, list_of, read_array, read_json, why
from entoptic.base.training import load_state, optimise, read_record, rows_of
from entoptic.errors import Unreadable, UserError, counted
from entoptic.images.photos import Photos
from entoptic.images.unread import remember_unread, unread_record
from entoptic.priors.recipe import GROUPS, HEAD, Recipe
from entoptic.priors.start import Start, read_start, start_from
from entoptic.priors.unet import UNet

if TYPE_CHECKING:
    from torch import nn


def network(recipe: Recipe, classes: int) -> nn.Module:
    """Returns an untrained U-Net of diffusers; the class after the last stands for no class.

    Raises:
        UserError: diffusers is not installed.
    """
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
        attention_head_dim=HEAD,
        norm_num_groups=GROUPS,
        num_class_embeds=classes + 1,
        resnet_time_scale_shift="scale_shift",
        cross_attention_dim=32,  # no block reads text; diffusers wants a number
    )
    return net


@dataclass
class _TrainingPhotos:
    """The training photos.

    Attributes:
        pixels: M×3×S×S uint8, in memory or memory-mapped.
        classes: M int64.
        names: class names.
        skipped: number of photos that could not be read.
        key: hash of the photos, their labels and the size.
        unread: what a record holds of those that could not be read.
    """

    pixels: np.ndarray
    classes: Tensor
    names: list[str]
    skipped: int
    key: str
    unread: dict[str, str]


def learn_prior(
    photos: Any,
    out: str | Path,
    recipe: Recipe | None = None,
    *,
    start: str | None = None,
    device: str | torch.device = "cpu",
    save_every: int = 500,
    sheet_every: int = 2000,
    sheet: Callable[[UNet, Path], None] | None = None,
    minutes: float | None = None,
    progress: Progress = lambda what, done, total: None,
    log: Callable[[str], None] = lambda line: None,
) -> Path:
    """Trains a prior, or continues its training.

    Args:
        photos: anything `Photos.open` takes, or a list of them; labels become classes.
        out: folder for `training-STEP.safetensors`, to resume from (weights, their running mean, the optimiser), and
            `training.json` (recipe, data, loss by step).
        recipe: how to train; None for the defaults.
        start: a prior whose weights the first step begins with (`start.read_start`); None begins with random ones.
        device: where to train.
        save_every: steps between checkpoints.
        sheet_every: steps between sample sheets.
        sheet: draws a sample sheet of a network into a file; None for no sheets.
        minutes: saves and returns after so many minutes; None for no limit.
        progress: called with (what, done, total).
        log: called with each line of the log.

    Returns:
        The folder.

    Raises:
        UserError: no photo can be read, or `out` holds the training of another network.
        KeyboardInterrupt: on Ctrl-C, after a checkpoint.
    """
    recipe = recipe or Recipe()
    folder = user_path(out)
    begin = None if start is None else read_start(start)
    data = _read_photos(photos, folder, recipe.size, progress)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        net = UNet(recipe, len(data.names), dropout=recipe.dropout)
        mean = UNet(recipe, len(data.names)).to(device)
    net = net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(net.parameters(), lr=recipe.rate, betas=(0.9, 0.99), weight_decay=0.01)
    record = _resume(folder, recipe, data, net, mean, optimiser, begin)
    batches = Batches(data.pixels, data.classes, len(data.names), recipe, device)
    optimise(
        "training the prior", net, mean, lambda step: flow_loss(net, batches, step), recipe, folder, record, optimiser,
        device=device, save_every=save_every, sheet_every=sheet_every, sheet=sheet, minutes=minutes,
        precision=recipe.precision, progress=progress, log=log,
    )  # fmt: skip
    return folder


class Batches:
    """The pictures, times and noise of each step. Step N draws the same numbers however often a training was interrupted.

    On a GPU the photos lie in its memory and everything is drawn there, so that no step waits for the host.

    Args:
        pixels: M×3×S×S uint8.
        classes: M int64.
        none: the class that stands for no class.
        recipe: batch size, seed, share shown without class.
        device: where batches go.
    """

    def __init__(
        self, pixels: np.ndarray, classes: Tensor, none: int, recipe: Recipe, device: str | torch.device
    ) -> None:
        self.recipe, self.none, self.device = recipe, none, torch.device(device)
        self.on_gpu = self.device.type == "cuda"
        self.classes = classes.to(self.device)
        self.pixels = torch.from_numpy(np.asarray(pixels)).to(self.device) if self.on_gpu else pixels

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns pictures B×3×S×S in [-1, 1], classes B, times B in (0, 1) and noise B×3×S×S of one step."""
        size, seed = self.recipe.batch_size, self.recipe.seed
        where = self.device if self.on_gpu else torch.device("cpu")
        draw = torch.Generator(where).manual_seed(seed * 1_000_003 + step)
        rows = rows_of(step, len(self.classes), size, seed)
        if isinstance(self.pixels, Tensor):
            taken = self.pixels[torch.tensor(rows, device=where)]
        else:
            taken = torch.from_numpy(self.pixels[np.asarray(rows)])
        x0 = taken.float() / 127.5 - 1
        flip = torch.rand(size, generator=draw, device=where) < 0.5
        x0 = torch.where(flip[:, None, None, None], x0.flip(3), x0)
        classes = self.classes[rows].clone()
        unlabelled = torch.rand(size, generator=draw, device=where) < self.recipe.drop
        classes[unlabelled.to(classes.device)] = self.none
        t = torch.sigmoid(torch.randn(size, generator=draw, device=where))
        noise = torch.randn(x0.shape, generator=draw, device=where)
        return x0.to(self.device), classes, t.to(self.device), noise.to(self.device)


def flow_loss(network: Callable[[Tensor, Tensor, Tensor], Tensor], batches: Batches, step: int) -> Tensor:
    """Returns the mean squared error of the velocity at one step.

    Args:
        network: (states B×3p²×h×w, times B, classes B) -> velocities; a `UNet`, or one compiled.
        batches: of the training.
        step: its number.
    """
    x0, classes, t, noise = batches(step)
    t_B111, patch = t[:, None, None, None], batches.recipe.patch
    x_t = pixel_unshuffle((1 - t_B111) * x0 + t_B111 * noise, patch)
    target = pixel_unshuffle(noise - x0, patch)
    velocity = network(x_t.contiguous(memory_format=torch.channels_last), 1000 * t, classes)
    return (velocity.float() - target).square().mean()


def _read_photos(photos: Any, folder: Path, size: int, progress: Progress) -> _TrainingPhotos:
    """Reads all photos, centre-cropped and resized, into one file in `folder`; reuses the file if nothing has changed.

    Raises:
        UserError: no photo can be read.
    """
    given = photos if isinstance(photos, (list, tuple)) else [photos]
    sets = [Photos.open(one) for one in given]
    labels = [photo.labels[0] if photo.labels else "" for one in sets for photo in one]
    names = sorted(set(labels) - {""})
    class_number = {name: i for i, name in enumerate(names)} | {"": len(names)}
    key = content_key({"size": size, "photos": [one.fingerprint() for one in sets], "labels": labels})
    array_file, record_file = folder / "photos.npy", folder / "photos.json"
    kept = _kept(folder, key, len(labels), size)
    if kept is None:
        for file in (array_file, record_file):
            check_inside(file, folder)
        with writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
            record_file.unlink(missing_ok=True)  # it describes what is about to be overwritten
            written = np.lib.format.open_memmap(array_file, "w+", np.uint8, (len(labels), 3, size, size))
        allocate(array_file)
        kept, row = list[int](), 0
        for one in sets:
            for batch, images in one.batches(lambda photo: centre_square(photo, size), 256):
                for index, image in zip(batch, images):
                    written[len(kept)] = image.numpy()
                    kept.append(row + index)
                progress("reading photos", len(kept), len(labels))
            row += len(one)
        with writing_to(folder):
            written.flush()
            write_atomically(record_file, json.dumps({"key": key, "kept": kept}).encode())
    for one in sets:
        begin = sum(map(len, sets[: sets.index(one)]))
        inside = [i - begin for i in kept if begin <= i < begin + len(one)]
        remember_unread(one, lambda photo: centre_square(photo, size), range(len(one)), inside)
    if not kept:
        raise UserError(
            f"no photo in {', '.join(one.source for one in sets)} can be read ({counted(len(labels), 'photo')} tried)"
        )
    stored = np.load(array_file, mmap_mode="r")[: len(kept)]
    pixels = np.array(stored) if stored.nbytes < 2**30 else stored
    classes = torch.tensor([class_number[labels[i]] for i in kept])
    return _TrainingPhotos(pixels, classes, names, len(labels) - len(kept), key, unread_record(*sets))


def _kept(folder: Path, key: str, count: int, size: int) -> list[int] | None:
    """Returns which photos are in the file that is there; None where it is of others, or damaged, and is made again."""
    record_file = folder / "photos.json"
    if not file_exists(record_file):
        return None
    try:
        known = read_json(record_file)
        check_fields(known, {"key": str, "kept": list}, record_file)
        read_array(folder / "photos.npy", np.uint8, (count, 3, size, size))
    except Unreadable:
        return None
    kept = known["kept"]
    return kept if known["key"] == key and list_of(kept, int) and all(0 <= one < count for one in kept) else None


def _resume(
    folder: Path,
    recipe: Recipe,
    data: _TrainingPhotos,
    net: nn.Module,
    mean: nn.Module,
    optimiser: torch.optim.Optimizer,
    start: Start | None,
) -> dict[str, Any]:
    """Loads the last checkpoint in `folder`, if there is one, and returns the record of the training.

    Raises:
        UserError: a training with other photos or another architecture.
    """
    mean.requires_grad_(False)
    fresh = {
        "step": 0,
        "loss": [],
        "photos_key": data.key,
        "classes": data.names,
        "photos": len(data.classes),
        "skipped": data.skipped,
        **data.unread,
    }
    began = None if start is None else {"prior": start.title, "weights_sha256": start.weights_sha256}
    record = read_record(folder)
    if record is None:
        if start is not None:
            start_from(net, start, recipe, data.names)
            fresh["start"] = began
        mean.load_state_dict(net.state_dict())
        return fresh | {"recipe": asdict(recipe)}
    before = recipe_of(record, folder)
    for what, old, new in [
        ("classes", record["classes"], data.names),
        ("photos", record.get("photos_key", data.key)[:12], data.key[:12]),
        ("batch_size", before.batch_size, recipe.batch_size),
        *((k, v, recipe.architecture()[k]) for k, v in before.architecture().items()),
    ]:
        if old != new:
            raise UserError(
                f"{folder} holds the training of a prior with other {what} ({_few(old)}, not {_few(new)}); "
                "choose another folder, or the same recipe to go on"
            )
    if began is not None and record.get("start") != began:
        raise UserError(
            f"{folder} holds a training that began with other weights than those of {began['prior']}; "
            "choose another folder, or leave --start out to go on"
        )
    load_state(folder, record, net, mean, optimiser)
    return record | {"recipe": asdict(recipe)}


def recipe_of(record: dict[str, Any], folder: Path) -> Recipe:
    """Returns the recipe of a training.

    Raises:
        Unreadable: its record is damaged, or of something else.
    """
    about = folder / "training.json"
    check_fields(record, {"recipe": dict, "classes": list, "photos": int}, about)
    check_fields({"photos_key": ""} | record, {"photos_key": str}, about)
    try:
        options: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record["recipe"].items()}
        return Recipe(**options)
    except (UserError, TypeError, ValueError) as error:
        raise Unreadable(f"{about} is not of the training of a prior ({why(error)}); choose another folder") from None


def _few(value: Any) -> str:
    """Returns a short text of a value."""
    text = ", ".join(map(str, value[:4])) + (" …" if len(value) > 4 else "") if isinstance(value, list) else str(value)
    return text

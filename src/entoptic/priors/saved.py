"""Priors of our own training on disk: a folder with the network in the layout of diffusers, and a card.

`card.json` has what the network's config lacks: `name`, `size` of the pictures, `patch` (side of the pixel blocks that
are one position), `classes` (names, in the network's order; the class after the last stands for none), and optionally
`guidance` and `shift` (1 by default), `licence`, `data` and further entries. With `upsampler_sha256` in the card the
pictures are those that the network in `upsampler.safetensors` makes of the prior's own, rounded to 8 bits (see `upsampler`).
"""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from entoptic.base.cache import content_key
from entoptic.base.compact import SCALE, pack, unpack
from entoptic.base.files import check_inside, file_exists, sha256_of, write_atomically, writing_to
from entoptic.base.pixels import eight_bit
from entoptic.base.records import check_fields, list_of, read_json, read_tensors
from entoptic.base.training import fitting
from entoptic.errors import Unreadable, UserError
from entoptic.models.model import weights_sha256
from entoptic.priors.diffusers_folder import NEEDS_DIFFUSERS, class_network, load_frozen, saved_config
from entoptic.priors.network_prior import DiffusionPrior, checked_guidance, to_pictures
from entoptic.priors.schedule import Flow
from entoptic.priors.unet import UNet
from entoptic.priors.upsampler import FILE as UPSAMPLER
from entoptic.priors.upsampler import Upsampler, enlarge, read_upsampler, reduce, write_upsampler

WEIGHTS = "diffusion_pytorch_model.safetensors"


def save_prior(
    net: nn.Module, folder: str | Path, card: Mapping[str, Any], *, half: bool = True, eight_bit: bool = False
) -> Path:
    """Writes a network of `learn.network` and its card.

    Files are replaced one by one, the card last, with the hash of its weights. So `load_saved` refuses a folder that was
    left half written.

    Args:
        net: the network.
        folder: where to write.
        card: see the module's text.
        half: whether weights are stored as float16, half the size.
        eight_bit: whether weights are stored in 8 bits with one scale a row (`base.compact`), a quarter of the size.

    Returns:
        The folder.

    Raises:
        UserError: a card that does not fit the network, or weights that float16 cannot hold.
    """
    folder = Path(folder)
    _check(str(folder), net.config, card)
    kept = copy.deepcopy(net).cpu()
    kept = kept.half() if half and not eight_bit else kept.float()
    for name, value in kept.state_dict().items():
        if not bool(value.isfinite().all()):
            raise UserError(f"the weight {name} is not finite" + (" in float16; give half=False" if half else ""))
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _replace(kept, folder, card, eight_bit)
    return folder


def _replace(kept: nn.Module, folder: Path, card: Mapping[str, Any], eight_bit: bool) -> None:
    """Writes a network and its card beside what is there, then replaces that."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as part:
        kept.save_pretrained(part, max_shard_size="100GB")  # type: ignore[operator]
        if eight_bit:
            (Path(part) / WEIGHTS).write_bytes(save(pack(kept.state_dict())))
        whole = dict(card) | {"weights_sha256": sha256_of(Path(part) / WEIGHTS)}
        (Path(part) / "card.json").write_text(
            json.dumps(whole, indent=1, ensure_ascii=False), "utf-8", "backslashreplace"
        )
        for file in (WEIGHTS, "config.json", "card.json"):
            os.chmod(Path(part) / file, 0o644)  # a temporary file is its owner's alone
            os.replace(Path(part) / file, check_inside(folder / file, folder))


def add_upsampler(net: Upsampler, folder: str | Path) -> None:
    """Makes an upsampler a part of a saved prior, whose pictures are then four times as large.

    Args:
        net: the upsampler.
        folder: written by `save_prior`.

    Raises:
        UserError: no prior is there.
    """
    folder = Path(folder)
    card = read_json(folder / "card.json", finite=False)
    with writing_to(folder):
        write_upsampler(net, check_inside(folder / UPSAMPLER, folder))
        card["upsampler_sha256"] = sha256_of(folder / UPSAMPLER)
        write_atomically(folder / "card.json", json.dumps(card, indent=1, ensure_ascii=False).encode())


def load_saved(name: str, folder: Path, device: torch.device, *, guidance: float | None = None) -> DiffusionPrior:
    """Loads the flow-matching prior in `folder`.

    States are pictures in [-1, 1] as (3·p²)×(S/p)×(S/p) blocks of p×p pixels, an orthonormal change of shape.

    Args:
        name: of the prior, as given to `load_prior`.
        folder: written by `save_prior`.
        device: where the network goes.
        guidance: weight of classifier-free guidance; None for that of the card.

    Raises:
        UserError: a folder that is incomplete, or whose card does not fit its weights.
    """
    try:
        from diffusers import UNet2DConditionModel
    except ImportError:
        raise UserError(NEEDS_DIFFUSERS) from None
    for file in ("card.json", "config.json", WEIGHTS):
        if not file_exists(folder / file):
            raise UserError(f"{name}: {folder} has no {file}; a prior is a folder that `save_prior` wrote")
    try:
        card = read_json(folder / "card.json", finite=False)
    except Unreadable as error:
        raise Unreadable(f"{name}: {error}") from None
    found = sha256_of(folder / WEIGHTS)
    if card.get("weights_sha256") != found:
        raise UserError(
            f"{name}: the weights have sha256 {found[:12]}…, their card says {str(card.get('weights_sha256'))[:12]}…; "
            "the folder was left half written or changed, save or install it again"
        )
    upsampler = _upsampler(name, folder, card)
    stored = read_tensors(folder / WEIGHTS)
    if any(key.startswith(SCALE) for key in stored.tensors):
        net = UNet2DConditionModel.from_config(saved_config(folder))
        with fitting(folder / WEIGHTS):
            net.load_state_dict(unpack(stored.tensors))
        net = net.eval().requires_grad_(False)
    else:
        net = load_frozen(name, "network", False, partial(UNet2DConditionModel.from_pretrained, folder))
    return flow_prior(name, net, card, device, guidance=guidance, config=saved_config(folder), upsampler=upsampler)


def _upsampler(name: str, folder: Path, card: Mapping[str, Any]) -> Upsampler | None:
    """Returns the upsampler that a card names, or None where it names none.

    Raises:
        UserError: it is not there, or another one is.
    """
    wanted = card.get("upsampler_sha256")
    if wanted is None:
        return None
    file = folder / UPSAMPLER
    if not file_exists(file):
        raise UserError(
            f"{name}: its card names an upsampler, and {folder} has no {UPSAMPLER}; copy or install it again"
        )
    if (found := sha256_of(file)) != wanted:
        raise UserError(
            f"{name}: the upsampler has sha256 {found[:12]}…, its card says {str(wanted)[:12]}…; copy or install it again"
        )
    return read_upsampler(file)


def flow_prior(
    name: str, network: nn.Module, card: Mapping[str, Any], device: torch.device, *, guidance: float | None = None,
    config: Any = None, upsampler: Upsampler | None = None,
) -> DiffusionPrior:  # fmt: skip
    """Makes a prior of a network of `learn.network`, or of a `UNet` in training.

    Args:
        name: of the prior.
        network: the network; it is moved to `device`.
        card: as in `save_prior`.
        device: where the network goes.
        guidance: weight of classifier-free guidance; None for that of the card.
        config: the saved config of the network, part of the prior's identity.
        upsampler: what makes the prior's pictures large; None leaves them as they are.

    Raises:
        UserError: a card that does not fit the network.
    """
    net: Any = network.to(device)
    _check(name, net.config, card)
    side, patch, classes = card["size"] // card["patch"], card["patch"], len(card["classes"])
    weight = checked_guidance(name, guidance, float(card.get("guidance", 1.0)), null=True)
    schedule = Flow(float(card.get("shift", 1.0)))
    larger = None if upsampler is None else upsampler.to(device)
    identity = content_key({
        "weights": weights_sha256(net), "config": config, "patch": patch, "shift": schedule.shift, "guidance": weight,
        **({} if larger is None else {"upsampler": weights_sha256(larger)}),
    })  # fmt: skip
    plain = net if isinstance(net, UNet) else class_network(net)

    def outputs(x: Tensor, times: Tensor, labels: Tensor | None) -> Tensor:
        # A prior of photos without labels has one class, that for none.
        return plain(x, times, torch.full((len(x),), classes, device=x.device) if labels is None else labels)

    def pictures_of(x0: Tensor) -> Tensor:
        small = to_pictures(pixel_shuffle(x0, patch))
        return small if larger is None else enlarge(larger, eight_bit(small))

    def states_of(pictures: Tensor) -> Tensor:
        return pixel_unshuffle(2 * (pictures if larger is None else reduce(pictures)) - 1, patch)

    return DiffusionPrior(
        name, identity, (3 * patch**2, side, side), (-1.0, 1.0), classes, device, schedule, outputs, pictures_of, classes,
        weight, net, states_of, None if larger is None else partial(enlarge, larger),
    )  # fmt: skip


def _check(name: str, config: Any, card: Mapping[str, Any]) -> None:
    """Checks that a card fits its network.

    Raises:
        UserError: it does not.
    """
    missing = [field for field in ("name", "size", "patch", "classes") if field not in card]
    if missing:
        raise UserError(f"{name}: the card of a prior needs name, size, patch and classes; {missing[0]} is missing")
    check_fields(card, {"name": str, "size": int, "patch": int, "classes": list}, f"{name}: the card of a prior")
    check_fields(
        {"guidance": 1.0, "shift": 1.0, **card}, {"guidance": float, "shift": float}, f"{name}: the card of a prior"
    )
    if not list_of(card["classes"], str) or min(card["size"], card["patch"]) < 1:
        raise Unreadable(f"{name}: the card of a prior names its classes, and size and patch are at least 1")
    size, patch, classes = card["size"], card["patch"], len(card["classes"])
    for what, holds, expected in [
        ("channels", config.in_channels, 3 * patch**2),
        ("outputs", config.out_channels, 3 * patch**2),
        ("positions a side", config.sample_size, size / patch),
        ("classes and one for none", config.num_class_embeds, classes + 1),
    ]:
        if holds != expected:
            raise UserError(
                f"{name}: the network has {holds} {what}, its card (size {size}, patch {patch}, {classes} classes) "
                f"stands for {expected:g}"
            )

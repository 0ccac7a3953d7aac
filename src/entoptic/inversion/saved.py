"""Inverters on disk: a folder with what was trained, the statistics of the maps, and a card.

FOLDER/inverter.safetensors    the control (or direct) network, mean and sd of the maps, the law of the maps
FOLDER/card.json               model, layer, prior, recipe, data, metrics; sha256 of the weights
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from entoptic.errors import UserError, nearest
from entoptic.images.cache import content_key
from entoptic.inversion.data import preprocessing
from entoptic.inversion.inverter import Inverter
from entoptic.inversion.law import MapLaw
from entoptic.inversion.maps import FeatureMaps
from entoptic.inversion.network import Trained, build
from entoptic.inversion.recipe import RECIPES
from entoptic.models.model import Model, pick_device
from entoptic.models.sources import load
from entoptic.priors.adapters import TextPrior, checked_guidance, text_identity
from entoptic.priors.saved import sha256_of
from entoptic.priors.sources import load_prior

WEIGHTS = "inverter.safetensors"
SHIPPED = "builtin:lite0-bn2"
"""The inverter of `builtin:lite0`'s last map, on the shipped prior."""


def save_inverter(
    net: nn.Module, folder: str | Path, card: Mapping[str, Any], tensors: Mapping[str, Tensor], *, half: bool = True
) -> Path:
    """Writes a trained network, further tensors (`mean`, `sd`, …) and the card, the card last.

    Raises:
        UserError: weights that float16 cannot hold.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    state = {f"net/{k}": v.detach().cpu().contiguous() for k, v in net.state_dict().items()}
    if half:
        state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    for name, value in state.items():
        if not bool(value.isfinite().all()):
            raise UserError(f"the weight {name} is not finite" + (" in float16; give half=False" if half else ""))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state | {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, folder / (WEIGHTS + ".part"))
    os.chmod(folder / (WEIGHTS + ".part"), 0o644)  # safetensors makes files their owner's alone
    os.replace(folder / (WEIGHTS + ".part"), folder / WEIGHTS)
    whole = dict(card) | {"weights_sha256": sha256_of(folder / WEIGHTS)}
    (folder / "card.json.part").write_text(json.dumps(whole, indent=1, ensure_ascii=False))
    os.replace(folder / "card.json.part", folder / "card.json")
    return folder


def load_inverter(
    source: str, model: Model | None = None, *, prior: str | Trained | None = None, device: str | torch.device = "auto"
) -> Inverter:
    """An inverter, ready to be sampled.

    Args:
        source: `builtin:NAME`, shipped, or `file:FOLDER`, which `entoptic learn inverter` wrote.
        model: the network that it inverts, if it is loaded already. prior: the prior that it was trained on, if it is
            not to be had any more by the name on the card (a hub's network in a local folder, for instance).

    Raises:
        UserError: no such inverter; one for another model or another prior than given; a folder that is incomplete.
    """
    from safetensors.torch import load_file

    where = pick_device(device)
    kind, colon, name = source.partition(":")
    if not colon or kind not in ("builtin", "file"):
        raise UserError(f'an inverter is builtin:NAME or file:FOLDER, got "{source}"')
    folder = _shipped(name) if kind == "builtin" else Path(name).expanduser()
    for file in ("card.json", WEIGHTS):
        if not (folder / file).is_file():
            raise UserError(f"{source}: {folder} has no {file}; `entoptic learn inverter` writes such a folder")
    try:
        card = json.loads((folder / "card.json").read_text())
        recipe = RECIPES["entoptic"](**card["recipe"])  # all its numbers are on the card, whichever recipe it was
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{source}: its card.json is damaged or of another version ({error})") from None
    if card.get("weights_sha256") != sha256_of(folder / WEIGHTS):
        raise UserError(f"{source}: its weights are not those of its card; the folder was left half written or changed")
    network = model if model is not None else load(card["model"], device=where)
    if network.card.weights_sha256 != card["model_sha256"]:
        other = "other weights of it were" if network.card.name == card["model"] else f"{network.card.name} was"
        raise UserError(f"{source} inverts {card['layer']} of {card['model']}, and {other} given")
    here = preprocessing(network.card)
    if here != card["seen"]:
        (what,) = [name for name in here if here[name] != card["seen"][name]][:1]
        raise UserError(
            f"{source} was trained on pictures with {what} {card['seen'][what]}, and {network.card.name} now takes "
            f"{here[what]}; load the network with the card it had"
        )
    try:
        base: Any = base_prior(prior if prior is not None else card["prior"], where, **card.get("prior_options", {}))
    except UserError as error:
        raise UserError(
            f"{source} needs the prior that it was trained on ({error}); if that has moved, --prior says where it is"
        ) from None
    if base.identity != card["prior_identity"]:
        raise UserError(
            f"{source} was trained on the prior {card['prior']}, and {base.name} is another (or has changed)"
        )
    maps = FeatureMaps.of(network, card["layer"])
    net = build(base, maps.channels, recipe)
    state = load_file(folder / WEIGHTS)
    try:
        net.load_state_dict({k[4:]: v.float() for k, v in state.items() if k.startswith("net/")})
    except RuntimeError as error:
        raise UserError(f"{source}: its weights do not fit its card ({str(error).splitlines()[0]})") from None
    law = {k[4:]: v for k, v in state.items() if k.startswith("law/")}
    identity = content_key({
        "weights": card["weights_sha256"], "prior": base.identity, "model": card["model_sha256"],
        "layer": card["layer"], "defaults": [card[name] for name in ("steps", "order", "strength", "guidance")],
    })  # fmt: skip
    return Inverter(
        source, identity, maps, base, net.to(where), recipe, state["mean"].float(), state["sd"].float(), card,
        int(card["steps"]), float(card["strength"]), float(card["guidance"]),
        int(card["order"]),
        MapLaw.of_tensors(law) if law else None,
    )  # fmt: skip


def base_prior(
    prior: str | Trained, device: torch.device, *, prompt: str | None = None, guidance: float | None = None,
    trust: bool = False,
) -> Any:  # fmt: skip
    """What an inverter is built on: any prior by name, or `fresh:SIZE`, an untrained network for recipes that train it.

    prompt, guidance: of a prior that reads text, also of one that is given loaded. trust: as in `load_prior`.

    Raises:
        UserError: as `load_prior`, or a size that is no number of pixels.
    """
    if not isinstance(prior, str) or not prior.startswith("fresh:"):
        found: Any = load_prior(prior, device=device, trust=trust)
        if not isinstance(found, TextPrior):
            if prompt is not None or guidance is not None:
                raise UserError(f"{found.name} reads no text; leave out its prompt and guidance")
            return found
        if prompt is None and guidance is None:
            return found
        text = found.text if prompt is None else found.embed([prompt])
        weight = checked_guidance(found.name, guidance, found.guidance, null=True)
        identity = text_identity(found.weights, text, found.null, weight)
        return dataclasses.replace(found, text=text, guidance=weight, identity=identity)
    from entoptic.priors.learn import network
    from entoptic.priors.recipe import Recipe
    from entoptic.priors.saved import flow_prior

    if not prior[6:].isdigit():
        raise UserError(f"an untrained network is fresh:SIZE with SIZE in pixels, such as fresh:32, got {prior}")
    recipe = Recipe(size=int(prior[6:]))
    card = {"name": prior, "size": recipe.size, "patch": recipe.patch, "classes": [], "shift": 2.0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = network(recipe, 0).eval().requires_grad_(False)
    # Its weights do not matter, they are all trained, so neither do they for its identity.
    return dataclasses.replace(flow_prior(prior, net, card, device), identity=prior)


def builtin_inverters() -> list[str]:
    """Names behind `builtin:`."""
    place = Path(str(resources.files("entoptic"))) / "inversion" / "shipped"
    return sorted(folder.name for folder in place.iterdir() if folder.is_dir()) if place.is_dir() else []


def _shipped(name: str) -> Path:
    known = builtin_inverters()
    if name not in known:
        raise UserError(
            f'no builtin inverter "{name}"; expected one of {", ".join(known) or "none"}{nearest(name, known)}'
        )
    return Path(str(resources.files("entoptic"))) / "inversion" / "shipped" / name

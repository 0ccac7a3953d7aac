"""Inverters on disk: a folder with the trained network, the statistics of the maps, and a card.

FOLDER/inverter.safetensors    the control (or direct) network, mean and sd of the maps, the Gaussian of the maps
FOLDER/card.json               model, layer, prior, recipe, data, metrics; sha256 of the weights
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from entoptic.base.bounds import whole_number
from entoptic.base.cache import content_key
from entoptic.base.compact import pack
from entoptic.base.files import check_inside, sha256_of, write_atomically, writing_to
from entoptic.base.records import read_tensors, why
from entoptic.errors import UserError
from entoptic.inversion.card import PREFIX, WEIGHTS, inverter_folder, model_hash, net_weights, read_card
from entoptic.inversion.data import preprocessing
from entoptic.inversion.inverter import Inverter
from entoptic.inversion.map_gaussian import FeatureMapGaussian
from entoptic.inversion.maps import FeatureMaps
from entoptic.inversion.network import NetworkPrior, build
from entoptic.models.model import Model, pick_device
from entoptic.models.sources import load
from entoptic.priors.network_prior import TextPrior, checked_guidance, text_identity
from entoptic.priors.one_step import OneStepPrior
from entoptic.priors.sources import is_folder, load_prior, name_of

SHIPPED = (
    ("builtin:lite0", "bn2", "builtin:lite0-bn2-128"),
    ("builtin:vit-s14", "blocks.10", "builtin:vit-s14-blocks-10"),
)
"""Networks, layers and the inverter that each of them gets where none is named. Earlier ones stay for stored runs."""


def save_inverter(
    net: nn.Module, folder: str | Path, card: Mapping[str, Any], tensors: Mapping[str, Tensor], *, half: bool = True,
    eight_bit: bool = False,
) -> Path:  # fmt: skip
    """Writes a trained network, further tensors and the card, the card last.

    Args:
        net: what was trained.
        folder: where to.
        card: model, layer, prior, recipe, data, metrics.
        tensors: `mean`, `sd`, … of the maps.
        half: whether the network's weights are stored as float16.
        eight_bit: whether they are stored in 8 bits with one scale a row (`base.compact`), half the size of that.

    Returns:
        The folder.

    Raises:
        UserError: weights that float16 cannot hold, or the folder cannot be written.
    """
    from safetensors.torch import save

    folder = Path(folder)
    state = {PREFIX + k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}
    if eight_bit:
        state = pack(state)
    elif half:
        state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    for name, value in state.items():
        if not bool(value.isfinite().all()):
            raise UserError(f"the weight {name} is not finite" + (" in float16; give half=False" if half else ""))
    state |= {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    with writing_to(folder):
        write_atomically(check_inside(folder / WEIGHTS, folder), save(state))
        whole = dict(card) | {"weights_sha256": sha256_of(folder / WEIGHTS)}
        text = json.dumps(whole, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace")
        write_atomically(check_inside(folder / "card.json", folder), text)
    return folder


def load_inverter(
    source: str,
    model: Model | None = None,
    *,
    prior: str | NetworkPrior | None = None,
    device: str | torch.device = "auto",
) -> Inverter:
    """Returns an inverter, ready to be sampled.

    Args:
        source: `builtin:NAME`, shipped, or `file:FOLDER`, which `entoptic learn inverter` wrote.
        model: the network that it inverts, where it is loaded already.
        prior: the prior that it was trained on, where the name on the card leads no longer to it (a hub's network in a local
            folder, for instance).
        device: of the inverter, and of a network that is loaded here.

    Raises:
        UserError: there is no such inverter, its folder is incomplete or damaged, or it is for another model or prior.
    """
    where, folder = pick_device(device), inverter_folder(source)
    card, recipe = read_card(source, folder)
    network = model if model is not None else load(card["model"], device=where)
    if network.card.weights_sha256 != card["model_sha256"]:
        other = "other weights of it were" if network.card.name == card["model"] else f"{network.card.name} was"
        raise UserError(f"{source} inverts {card['layer']} of {card['model']}, and {other} given")
    here = preprocessing(network.card)
    if here != card["seen"]:
        what = next((name for name in here if here[name] != card["seen"].get(name)), "another")
        raise UserError(
            f"{source} was trained on pictures with {what} {card['seen'].get(what)}, and {network.card.name} now takes "
            f"{here.get(what)}; load the network with the card it had"
        )
    if (
        network.card.behaviour_sha256
        and card.get("model_behaviour", network.card.behaviour_sha256) != network.card.behaviour_sha256
    ):
        raise UserError(
            f"{source} inverts {card['layer']} of {card['model']}, and another network of the same weights was given"
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
    state = read_tensors(folder / WEIGHTS)
    try:
        net.load_state_dict(net_weights(state))
    except (RuntimeError, KeyError) as error:
        raise UserError(f"{source}: its weights do not fit its card ({why(error)})") from None
    gaussian = {k[4:]: state.get(k) for k in state.tensors if k.startswith("law/")}
    mean_C, sd_C = (state.get(name, maps.channels).float() for name in ("mean", "sd"))
    made_of = {
        "weights": card["weights_sha256"], "prior": base.identity, "model": card["model_sha256"], "layer": card["layer"],
    }  # fmt: skip
    defaults = [card[name] for name in ("steps", "order", "strength", "guidance")]
    identity = content_key(made_of | {"defaults": defaults})
    return Inverter(
        source, identity, maps, base, net.to(where), recipe, mean_C, sd_C, card,
        int(card["steps"]), float(card["strength"]), float(card["guidance"]),
        int(card["order"]),
        FeatureMapGaussian.of_tensors(gaussian) if gaussian else None,
        content_key(made_of),
    )  # fmt: skip


def base_prior(
    prior: str | NetworkPrior, device: torch.device, *, prompt: str | None = None, guidance: float | None = None,
    trust: bool = False,
) -> Any:  # fmt: skip
    """Returns the prior that an inverter is built on.

    Args:
        prior: any prior by name or loaded, or `fresh:SIZE`, an untrained network for recipes that train it.
        device: of the prior.
        prompt: of a prior that reads text.
        guidance: classifier-free guidance of a prior that reads text.
        trust: as in `load_prior`.

    Raises:
        UserError: as `load_prior`, or a size that is no number of pixels.
    """
    if not isinstance(prior, str) or not prior.startswith("fresh:"):
        found: Any = load_prior(prior, device=device, trust=trust)
        if isinstance(found, OneStepPrior):
            raise UserError(f"{found.name} {found.no_chains}")
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

    size = whole_number(prior[6:])
    if size is None:
        raise UserError(f"an untrained network is fresh:SIZE with SIZE in pixels, such as fresh:32, got {prior}")
    recipe = Recipe(size=size)
    card = {"name": prior, "size": recipe.size, "patch": recipe.patch, "classes": [], "shift": 2.0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = network(recipe, 0).eval().requires_grad_(False)
    # All its weights will be trained, so its identity does not depend on them.
    return dataclasses.replace(flow_prior(prior, net, card, device), identity=prior)


def check_inverter(inverter: Inverter, maps: FeatureMaps) -> None:
    """Checks that an inverter is for a network, its layer and the shape of its maps.

    Args:
        inverter: what is checked.
        maps: of the network and the layer.

    Raises:
        UserError: it is for others; the message names both.
    """
    own, asked = inverter.maps, maps.model.card
    if own.model.card.weights_sha256 != asked.weights_sha256:
        other = own.model.card
        why = f"; its weights are {other.weights_sha256[:12]}…, not {asked.weights_sha256[:12]}…"
        raise UserError(
            f"the inverter {inverter.name} is for {other.name}, not for {asked.name}"
            f"{why if other.name == asked.name else ''}; give --inverter one that was trained on {asked.name}"
        )
    if own.layer != maps.layer:
        raise UserError(
            f"the inverter {inverter.name} is for the layer {own.layer} of {asked.name}, not for {maps.layer}; "
            f'did you mean the layer "{own.layer}"?'
        )
    shape, wants = ((m.channels, *m.grid) for m in (maps, own))
    if shape != wants:
        raise UserError(
            f"{maps.layer} of {asked.name} has maps of {'×'.join(map(str, shape))}, the inverter {inverter.name} takes "
            f"{'×'.join(map(str, wants))}; the card's input size ({asked.size[0]}) differs from that of its training"
        )
    if own.model.card.behaviour_sha256 and asked.behaviour_sha256 and own.model.card.identity != asked.identity:
        raise UserError(
            f"the inverter {inverter.name} is for another network of the same weights as {asked.name}: their activations, "
            "strides, heads or forward differ"
        )


def shipped_inverter(maps: FeatureMaps) -> str:
    """Returns the name of the inverter that is shipped for a layer.

    Args:
        maps: of the network and the layer.

    Raises:
        UserError: there is none.
    """
    name, layer = maps.model.card.name, maps.layer
    same = [one for one in SHIPPED if model_hash(one[2]) == maps.model.card.weights_sha256]
    for _, theirs, source in same:
        if theirs == layer:
            return source
    hint = f'; did you mean the layer "{same[0][1]}"?' if same else ""
    raise UserError(
        f"no inverter is shipped for {layer} of {name}, only for {' and '.join(f'{b} of {a}' for a, b, _ in SHIPPED)}; train one "
        f"by `entoptic learn inverter {name} {layer} --photos PHOTOS` and give it as --inverter{hint}"
    )


def find_inverter(inverter: str | Inverter | None, maps: FeatureMaps, prior: str | None = None) -> tuple[Inverter, str]:
    """Returns the inverter of some maps, and the name by which it can be loaded again.

    Args:
        inverter: a source that `load_inverter` takes, or a loaded inverter; None is the one that is shipped for the layer.
        maps: of the network and the layer.
        prior: where the prior that it was trained on is now, where it is no longer by the name on the card.

    Raises:
        UserError: as `load_inverter` and `check_inverter`, or a prior for an inverter that has its own already.
    """
    if inverter is None or isinstance(inverter, str):
        source = inverter or shipped_inverter(maps)
        found = load_inverter(source, model=maps.model, prior=prior, device=str(maps.model.device))
    elif prior is not None:
        raise UserError(
            f"the inverter {inverter.name} is loaded and has its prior; give prior={prior!r} to load_inverter, or the "
            "inverter by its name"
        )
    else:
        found, source = inverter, inverter.name
    check_inverter(found, maps)
    return found, source


def prior_record(inverter: Inverter, given: str | None) -> dict[str, str]:
    """Returns the entries of a sidecar for an inverter's prior: `prior_identity`, and `prior` where its location is needed.

    `prior` is left out where the card names a builtin or a hub's prior: `load_inverter` has checked that the given one is the
    same. Where the given folder holds a copy of a builtin, it is the builtin's name.

    Args:
        inverter: whose prior it is.
        given: the name that was given for the prior, or None for the name on the card.
    """
    card = inverter.card
    found = {"prior_identity": str(card["prior_identity"])} if "prior_identity" in card else {}
    if given is None or not is_folder(str(card.get("prior") or "file:")):
        return found
    return found | {"prior": name_of(inverter.prior)}

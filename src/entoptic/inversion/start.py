"""Weights that the training of an inverter starts from: those of an inverter that was trained before, perhaps on another prior."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from entoptic.base.records import read_tensors
from entoptic.errors import Unreadable, UserError
from entoptic.inversion.card import WEIGHTS, inverter_folder, net_weights, read_card

PROJECTION = ("hint.first.weight", "hint.first.bias")
"""Weights that depend on how many channels the maps have."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """An inverter whose weights a training starts from.

    Attributes:
        name: as it was given, such as builtin:lite0-bn2.
        record: what the training and its card say of it: name, prior, hash of the weights, pictures seen.
        weights: by name.
    """

    name: str
    record: dict[str, object]
    weights: dict[str, Tensor]


def read_start(source: str) -> Start:
    """Reads the inverter that a training starts from.

    Args:
        source: builtin:NAME or file:FOLDER.

    Raises:
        UserError: another kind of source, or no inverter there.
        Unreadable: a damaged one.
    """
    folder = inverter_folder(source)
    card, _ = read_card(source, folder)
    training = card.get("training")
    seen = training.get("pictures_seen") if isinstance(training, dict) else None
    record = {
        "inverter": source if source.startswith("builtin:") else str(card.get("name", "")), "layer": card["layer"],
        "model": card["model"], "prior": card["prior"], "weights_sha256": card["weights_sha256"], "pictures_seen": seen,
    }  # fmt: skip
    try:
        weights = net_weights(read_tensors(folder / WEIGHTS))
    except KeyError as error:
        raise Unreadable(f"{source}: its weights are damaged (no scale of {error})") from None
    return Start(name=source, record=record, weights=weights)


def start_from(net: nn.Module, start: Start) -> None:
    """Puts the weights of an inverter into a network that is about to be trained.

    Where its layer has another number of channels, the projection of the maps stays new.

    Args:
        net: of `network.build`.
        start: the inverter.

    Raises:
        UserError: the inverter has another architecture behind that projection.
    """
    own = net.state_dict()
    weights = start.weights
    if weights.get(PROJECTION[0], own[PROJECTION[0]]).shape[1:2] != own[PROJECTION[0]].shape[1:2]:
        weights = weights | {k: own[k] for k in PROJECTION}
    wrong = next((k for k, v in own.items() if k not in weights or weights[k].shape != v.shape), None)
    if wrong is not None or weights.keys() != own.keys():
        has = tuple(weights[wrong].shape) if wrong in weights else "none"
        wants = tuple(own[wrong].shape) if wrong is not None else "none"
        raise UserError(
            f"{start.name} inverts {start.record['layer']} of {start.record['model']} with another architecture (its "
            f"{wrong or 'layers'}: {has}, here {wants}); start from an inverter on a prior of the same network, and give the "
            "recipe that its card names"
        )
    net.load_state_dict(weights)

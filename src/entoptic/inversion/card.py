"""Where a saved inverter lies, and what its card says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from entoptic.base.compact import SCALE, unpack
from entoptic.base.files import file_exists, sha256_of, user_path
from entoptic.base.records import TensorFile, check_fields, read_json, why
from entoptic.base.shipped import shipped_folder, shipped_names
from entoptic.errors import Unreadable, UserError, nearest
from entoptic.inversion.configs import EntopticRecipe

WEIGHTS = "inverter.safetensors"
PREFIX = "net/"
"""What the names of the network's weights begin with."""


def inverter_folder(source: str) -> Path:
    """Returns the folder of an inverter.

    Args:
        source: builtin:NAME or file:FOLDER.

    Raises:
        UserError: another kind of source, or no inverter there.
    """
    kind, colon, name = source.partition(":")
    if not colon or kind not in ("builtin", "file"):
        raise UserError(f'an inverter is builtin:NAME or file:FOLDER, got "{source}"')
    folder = _shipped(name) if kind == "builtin" else user_path(name)
    for file in ("card.json", WEIGHTS):
        if not file_exists(folder / file):
            raise UserError(f"{source}: {folder} has no {file}; `entoptic learn inverter` writes such a folder")
    return folder


def read_card(source: str, folder: Path) -> tuple[dict[str, Any], EntopticRecipe]:
    """Returns the card of an inverter and the recipe on it.

    Args:
        source: builtin:NAME or file:FOLDER, for messages.
        folder: of the inverter.

    Raises:
        Unreadable: the card is damaged or of another version.
        UserError: the weights are not those of the card.
    """
    file = folder / "card.json"
    try:
        card = read_json(file, finite=False)
        check_fields(card, _CARD, file)
        card.setdefault("prior_options", {})
        check_fields(card, {"prior_options": dict}, file)
        check_fields(card["prior_options"], {name: _OPTIONS[name] for name in card["prior_options"]}, file)
        # All its numbers are on the card, whichever recipe it was.
        recipe = EntopticRecipe(**card["recipe"])
    except (UserError, KeyError, TypeError, ValueError) as error:
        raise Unreadable(f"{source}: its card.json is damaged or of another version ({why(error)})") from None
    if card["weights_sha256"] != sha256_of(folder / WEIGHTS):
        raise UserError(f"{source}: its weights are not those of its card; the folder was left half written or changed")
    return card, recipe


_CARD = {
    "model": str, "model_sha256": str, "layer": str, "prior": str, "prior_identity": str, "seen": dict, "recipe": dict,
    "steps": int, "order": int, "strength": float, "guidance": float, "weights_sha256": str,
}  # fmt: skip
_OPTIONS: dict[str, Any] = {"prompt": str, "guidance": float, "trust": bool}


def net_weights(stored: TensorFile) -> dict[str, Tensor]:
    """Returns the weights of an inverter's network by name, in float32, from its file.

    Args:
        stored: the file that `save_inverter` wrote.

    Raises:
        KeyError: a weight in 8 bits without its scale.
    """
    weights = {k: stored.get(k) for k in stored.tensors if k.startswith((PREFIX, SCALE))}
    return {k[len(PREFIX) :]: v for k, v in unpack(weights).items()}


def model_hash(source: str) -> str:
    """Returns the sha256 of the weights of the network that an inverter is for.

    Args:
        source: builtin:NAME or file:FOLDER.

    Raises:
        UserError: as `inverter_folder`.
        Unreadable: its card is damaged.
    """
    file = inverter_folder(source) / "card.json"
    card = read_json(file, finite=False)
    check_fields(card, {"model_sha256": str}, file)
    return str(card["model_sha256"])


def builtin_inverters() -> list[str]:
    """Returns the names of the shipped inverters, without `builtin:`."""
    return shipped_names("inversion")


def _shipped(name: str) -> Path:
    known = builtin_inverters()
    if name not in known:
        raise UserError(
            f'no builtin inverter "{name}"; expected one of {", ".join(known) or "none"}{nearest(name, known)}'
        )
    return shipped_folder("inversion") / name

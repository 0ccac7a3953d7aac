"""Weights that a training starts from: those of a prior that was trained before, on the same classes or on others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from entoptic.base.compact import SCALE, unpack
from entoptic.base.files import file_exists, user_path
from entoptic.base.records import check_fields, read_json, read_tensors
from entoptic.errors import UserError, nearest
from entoptic.priors.recipe import Recipe
from entoptic.priors.saved import WEIGHTS
from entoptic.priors.sources import builtin_folder

CLASSES = "class_embedding.weight"


@dataclass(frozen=True, kw_only=True)
class Start:
    """A prior whose weights a training starts from.

    Attributes:
        name: as it was given, such as builtin:small-32.
        title: for records, which name no folder of this machine: builtin:NAME, or the name on its card.
        weights_sha256: of its file.
        size: side of its pictures in pixels.
        patch: side of the blocks of pixels that are one position.
        classes: names of its classes; the class after the last stands for none.
        weights: by name.
    """

    name: str
    title: str
    weights_sha256: str
    size: int
    patch: int
    classes: Sequence[str]
    weights: dict[str, Tensor]


def read_start(source: str) -> Start:
    """Reads the prior that a training starts from.

    Args:
        source: builtin:NAME or file:FOLDER, one of our own training.

    Raises:
        UserError: another kind of prior, or none there.
        Unreadable: a damaged one.
    """
    prefix, _, name = source.partition(":")
    if prefix not in ("builtin", "file") or not name:
        raise UserError(
            f"a training starts from the weights of builtin:NAME or file:FOLDER, got {source!r}"
            f"{nearest(prefix, ('builtin', 'file'))}"
        )
    folder: Path = builtin_folder(name) if prefix == "builtin" else user_path(name)
    about = folder / "card.json"
    if not file_exists(folder / WEIGHTS) or not file_exists(about):
        raise UserError(f"{source}: {folder} holds no prior; OUT/prior of `entoptic learn prior` does")
    card = read_json(about, finite=False)
    check_fields(card, {"name": str, "size": int, "patch": int, "classes": list, "weights_sha256": str}, about)
    stored = read_tensors(folder / WEIGHTS)
    packed = any(key.startswith(SCALE) for key in stored.tensors)
    weights = unpack(stored.tensors) if packed else stored.tensors
    return Start(
        name=source, title=source if prefix == "builtin" else card["name"], weights_sha256=card["weights_sha256"],
        size=card["size"], patch=card["patch"],
        classes=card["classes"], weights={key: value.float() for key, value in weights.items()},
    )  # fmt: skip


def start_from(net: nn.Module, start: Start, recipe: Recipe, classes: Sequence[str]) -> None:
    """Puts the weights of a prior into a network that is about to be trained.

    A class of the same name keeps its embedding; a class that the prior does not know begins as no class.

    Args:
        net: a `UNet` of `recipe` and `classes`.
        start: the prior.
        recipe: of the training.
        classes: names of the training's classes.

    Raises:
        UserError: the prior has another architecture.
    """
    own = net.state_dict()
    for what, theirs, ours in (("size", start.size, recipe.size), ("patch", start.patch, recipe.patch)):
        if theirs != ours:
            raise UserError(f"{start.name} has {what} {theirs}, the training {ours}; give --{what} {theirs}")
    table = start.weights.get(CLASSES)
    if table is None or len(table) != len(start.classes) + 1:
        raise UserError(f"{start.name} has no embedding for each of its {len(start.classes)} classes")
    row = {name: i for i, name in enumerate(start.classes)}
    rows = table[[row.get(name, len(start.classes)) for name in classes] + [len(start.classes)]]
    weights = {**start.weights, CLASSES: rows}
    wrong = next((k for k, v in own.items() if k not in weights or weights[k].shape != v.shape), None)
    if wrong is not None or weights.keys() != own.keys():
        has = tuple(weights[wrong].shape) if wrong in weights else "none"
        raise UserError(
            f"{start.name} has another architecture (its {wrong or 'layers'}: {has}); give the widths, layers and attention "
            "that its card names under training, recipe"
        )
    net.load_state_dict(weights)

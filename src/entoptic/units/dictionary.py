"""`Dictionary`: a basis over one layer that turns its features or concepts into units, and its file.

The file is safetensors: the numbers as tensors, everything else as JSON in the metadata under "entoptic".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from entoptic.base import plugins
from entoptic.base.files import file_exists, user_path, write_atomically
from entoptic.base.records import check_fields, check_tensor, list_of, read_tensors, why
from entoptic.base.shipped import shipped_folder, shipped_names
from entoptic.errors import NotAvailable, Unreadable, UserError, counted, nearest
from entoptic.models.model import Model

FORMAT = "entoptic dictionary 1"
BUILTIN = "builtin:"
"""Begins the name of a dictionary that the package ships, as in `dict(builtin:NAME):7`."""
ROOM = "dictionaries"
"""Folder of the package whose `shipped` holds dictionaries."""


@runtime_checkable
class Dictionary(Protocol):
    """A basis that splits the values φ of a layer into K features: φ = Σ_k part_k + rest.

    Some dictionaries have more: `activation(maps_BCD, k)` and `part(maps_BCD, k)` of one feature without the others,
    `pre_activation(maps_BCD, k)` before what makes it 0, `encode` and `decode`, `parents` (of each feature the more general
    ones), `lossless`, and `writes`, the layer that their parts add up to where that is not `layer`. The functions of this
    module read them and do without.

    Attributes:
        layer: name of the layer.
        names: one per feature or concept.
        model_sha256: of the weights that it was found on.
    """

    @property
    def layer(self) -> str: ...
    @property
    def names(self) -> list[str]: ...
    @property
    def model_sha256(self) -> str: ...

    def parts(self, maps_BCD: Tensor) -> Tensor:
        """Computes what each feature contributes to values B×C×D (D positions): K×B×C×D."""
        ...

    def activations(self, maps_BCD: Tensor) -> Tensor:
        """Computes how strong each feature is at each position: B×K×D; differentiable, not negative for subspaces."""
        ...


class Saved(Dictionary, Protocol):
    """A dictionary that can be saved."""

    def tensors(self) -> dict[str, Tensor]:
        """Returns all its numbers, by name."""
        ...

    def about(self) -> dict[str, Any]:
        """Returns everything else, JSON-able, with `kind` (a key of `_kinds`), `layer`, `names` and `model_sha256`."""
        ...


@cache
def _kinds() -> dict[str, Any]:
    """Returns the makers of dictionaries from (tensors, about), by kind, with those of other installed packages."""
    from entoptic.units.concepts import Concepts
    from entoptic.units.directions import Directions
    from entoptic.units.factors import NonNegative
    from entoptic.units.sparse import Sparse
    from entoptic.units.splits import Split

    own = {
        "concepts": Concepts.of_saved, "sparse": Sparse.of_saved, "directions": Directions.of_saved,
        "split": Split.of_saved, "nmf": NonNegative.of_saved,
    }  # fmt: skip
    return own | plugins.offered(plugins.DICTIONARIES, own)


def activation(dictionary: Dictionary, maps_BCD: Tensor, k: int) -> Tensor:
    """Computes how strong feature k is at each position, B×D; without the others where the dictionary can do that."""
    own = getattr(dictionary, "activation", None)
    return own(maps_BCD, k) if own else dictionary.activations(maps_BCD)[:, k]


def pre_activation(dictionary: Dictionary, maps_BCD: Tensor, k: int) -> Tensor | None:
    """Computes feature k before what makes it 0 at most positions, B×D; None where a dictionary has no such value."""
    own = getattr(dictionary, "pre_activation", None)
    return own(maps_BCD, k) if own else None


def written_layer(dictionary: Dictionary) -> str:
    """Returns the layer that a dictionary's parts add up to: its own, or a transcoder's output."""
    return getattr(dictionary, "writes", "") or dictionary.layer


def parents(dictionary: Dictionary, k: int) -> list[int]:
    """Returns the more general features that are on where feature k is; empty where none is known."""
    known = getattr(dictionary, "parents", ())
    return list(known[k]) if known else []


def children(dictionary: Dictionary, k: int) -> list[int]:
    """Returns the features that feature k is a parent of."""
    known = getattr(dictionary, "parents", ())
    return [i for i, of_one in enumerate(known) if k in of_one]


def check_writes_own_layer(dictionary: Dictionary, what: str) -> None:
    """Checks that a dictionary's parts are of the layer that it reads.

    Args:
        dictionary: the dictionary.
        what: cannot be done otherwise; begins the message.

    Raises:
        UserError: they are of another layer.
    """
    if written_layer(dictionary) != dictionary.layer:
        raise UserError(
            f"{what} needs a dictionary whose features are parts of the layer it reads; this one reads {dictionary.layer} "
            f"and writes {written_layer(dictionary)}"
        )


def part(dictionary: Dictionary, maps_BCD: Tensor, k: int) -> Tensor:
    """Computes what feature k alone contributes, B×C×D; without the other parts where the dictionary can do that."""
    own = getattr(dictionary, "part", None)
    return own(maps_BCD, k) if own else dictionary.parts(maps_BCD)[k]


def parts_of(dictionary: Dictionary, maps_BCD: Tensor, features: Sequence[int]) -> list[Tensor]:
    """Computes B×C×D of each of `features`, in their order; without the other parts where the dictionary can do that."""
    own = getattr(dictionary, "part", None)
    if own:
        return [own(maps_BCD, k) for k in features]
    whole_KBCD = dictionary.parts(maps_BCD)
    return [whole_KBCD[k].clone() for k in features]  # copies, so that the whole can go


def norms(dictionary: Dictionary, maps_BCD: Tensor) -> Tensor:
    """Computes |part_k| over channels and positions: B×K.

    One part at a time where the dictionary can do that: all of them are K times the maps, which of a wide layer's
    dictionary may be more than the memory holds.
    """
    whole = getattr(dictionary, "part_norms", None)
    if whole is not None:
        return whole(maps_BCD)
    own = getattr(dictionary, "part", None)
    if own is None:
        return dictionary.parts(maps_BCD).float().flatten(2).norm(dim=2).T
    each = (own(maps_BCD, k).float().flatten(1).norm(dim=1) for k in range(len(dictionary.names)))
    return torch.stack(list(each), 1)


def attenuate(dictionary: Dictionary, maps_BCD: Tensor, k: int, scale: float) -> Tensor:
    """Computes φ' = φ - (1 - scale)·part_k: feature k at `scale` times its strength, every other part and the rest unchanged.

    Args:
        dictionary: of the layer.
        maps_BCD: values φ.
        k: number of the feature.
        scale: 0 removes the feature, 2 doubles it.
    """
    return maps_BCD - (1 - scale) * part(dictionary, maps_BCD, k)


def check_feature(dictionary: Dictionary, k: int, where: str) -> None:
    """Checks the number of a feature.

    Args:
        dictionary: the dictionary.
        k: the number.
        where: begins the message.

    Raises:
        UserError: the dictionary has no such feature.
    """
    last = len(dictionary.names) - 1
    if not 0 <= k <= last:
        raise UserError(f"{where} has features 0 to {last}, not {k}; did you mean {min(max(k, 0), last)}?")


# --- on disk -------------------------------------------------------------------------------------------------------


def save(dictionary: Saved, file: str | Path) -> Path:
    """Saves a dictionary atomically.

    Returns:
        The path of the file.

    Raises:
        UserError: its numbers are not finite, or the file cannot be written.
    """
    from safetensors.torch import save as to_bytes

    path = user_path(file)
    # Copies: an encoder may be its decoder's memory, which no file can hold twice.
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in dictionary.tensors().items()}
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise UserError(f"{name} of the dictionary is not finite, it is not saved")
    about = json.dumps({"format": FORMAT, **dictionary.about()}, ensure_ascii=False)
    try:
        write_atomically(path, to_bytes(tensors, {"entoptic": about}))
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error})") from None
    return path


def info(file: str | Path) -> dict[str, Any]:
    """Reads the description in a dictionary's file: kind, layer, model, names and how it was found.

    Raises:
        NotAvailable: there is no such file.
        Unreadable: it holds no dictionary.
    """
    return _open(_path_of(file), numbers=False)[0]


def load_dictionary(file: str | Path, model: Model | None = None) -> Dictionary:
    """Loads the dictionary in a file.

    Args:
        file: its path, or `builtin:NAME`.
        model: the network that it must belong to, or None.

    Raises:
        NotAvailable: there is no such file.
        Unreadable: it holds no dictionary.
        UserError: it is of other weights or of another layer's width.
    """
    path = _path_of(file)
    if not file_exists(path):
        raise NotAvailable(f"there is no dictionary {path}")
    state = path.stat()
    found = _read(str(path.resolve()), state.st_mtime_ns, state.st_size)
    if model is not None:
        _check(found, model, path)
    return found


def _path_of(file: str | Path) -> Path:
    """Returns the path of a dictionary's file; `builtin:NAME` is one that the package ships.

    Raises:
        NotAvailable: the package ships no such dictionary.
    """
    name = str(file).removeprefix(BUILTIN)
    if name == str(file):
        return user_path(file)
    known = shipped_names(ROOM)
    if name not in known:
        some = f"it ships {', '.join(known)}{nearest(name, known)}" if known else "it ships none"
        raise NotAvailable(f'there is no dictionary "{name}" in the package; {some}')
    return shipped_folder(ROOM) / name / "dictionary.safetensors"


@lru_cache(maxsize=16)
def _read(path: str, changed: int, size: int) -> Dictionary:
    about, tensors = _open(Path(path), numbers=True)
    kinds = _kinds()
    if about.get("kind") not in kinds:
        raise Unreadable(f'{path} is a dictionary of kind "{about.get("kind")}"; this version knows {", ".join(kinds)}')
    try:
        return kinds[about["kind"]](tensors, about)
    except (UserError, LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise Unreadable(f"{path} is a damaged dictionary ({why(error)})") from None


def _open(path: Path, *, numbers: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not file_exists(path):
        raise NotAvailable(f"there is no dictionary {path}")
    try:
        file = read_tensors(path, numbers=numbers)
        about, tensors = file.about(), file.tensors
    except Unreadable as error:
        raise Unreadable(f"{path} is not a safetensors file with readable metadata ({error})") from None
    if about.get("format") != FORMAT:
        raise Unreadable(
            f'{path} holds no dictionary (its metadata do not say "{FORMAT}"); a direction in it is dir({path}#NAME)'
        )
    check_fields(
        {"writes": ""} | about, {"kind": str, "layer": str, "names": list, "model_sha256": str, "writes": str}, path
    )
    if not list_of(about["names"], str):
        raise Unreadable(f"{path} is damaged: the names of its concepts are no texts")
    for name, tensor in tensors.items():
        check_tensor(tensor, name, path)
    return about, tensors


def _check(found: Dictionary, model: Model, path: Path) -> None:
    own = model.card.identity
    if not model.card.is_named_by(found.model_sha256):
        raise UserError(
            f"{path} was found on weights {found.model_sha256[:12] or 'that it does not name'}, "
            f"but {model.card.name} has {own[:12]}: its concepts mean nothing there"
        )
    channels = model.layer(found.layer).channels  # an unknown layer is refused here, with the nearest
    width = getattr(found, "channels", channels)
    if width != channels:
        raise UserError(
            f"{path} is for {counted(width, 'channel')} but {found.layer} of {model.card.name} has {channels}"
        )
    model.layer(written_layer(found))


def digest(dictionary: Dictionary) -> str:
    """Hashes all numbers of a dictionary: 16 hexadecimal digits."""
    total = hashlib.sha256()
    tensors = dictionary.tensors() if hasattr(dictionary, "tensors") else {}
    for name, tensor in sorted(tensors.items()):
        flat = tensor.detach().cpu().contiguous()
        total.update(f"{name}|{flat.dtype}|{tuple(flat.shape)}|".encode())
        total.update(flat.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]

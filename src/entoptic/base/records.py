"""Reads what others may have written or damaged: JSON records, tensors and arrays. Each file is read here alone.

What cannot be read is refused in one sentence (`Unreadable`), whatever is wrong with it: cut off, of another kind, nested
without end, with numbers that nothing can hold, not UTF-8, a folder. Nothing that is read here can run code.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any

from entoptic.errors import Unreadable

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

LARGEST = 2**64
"""Whole numbers of a record are smaller: seeds, sizes and positions have 64 bits."""
_REASON = 160  # characters


def parse_json(text: str | bytes, where: str | Path, *, finite: bool = True) -> dict[str, Any]:
    """Parses a JSON object.

    Args:
        text: the JSON.
        where: it stands, which begins the message.
        finite: whether NaN and Infinity, which are no JSON, are refused.

    Raises:
        Unreadable: it is no JSON object, or holds a number that is too large.
    """
    options: dict[str, Any] = {"parse_constant": _refuse_constant} if finite else {}
    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        if not decoded.strip():
            raise ValueError("it is empty")
        record = json.loads(decoded, parse_int=_whole, parse_float=_real, **options)
    except UnicodeDecodeError:
        raise Unreadable(f"{where} cannot be read: it is not UTF-8 text") from None
    except RecursionError:
        raise Unreadable(f"{where} cannot be read: it is nested too deeply") from None
    except MemoryError:
        raise Unreadable(f"{where} cannot be read: it is too large for the memory") from None
    except ValueError as error:
        raise Unreadable(f"{where} is not JSON that can be read: {why(error)}") from None
    if not isinstance(record, dict):
        raise Unreadable(f"{where} is not a JSON object but a {type(record).__name__}")
    return record


def read_json(path: str | Path, *, finite: bool = True) -> dict[str, Any]:
    """Reads the JSON object in a file; see `parse_json`.

    Raises:
        Unreadable: there is no such file, or no JSON object in it.
    """
    return parse_json(read_bytes(path), path, finite=finite)


@dataclass(frozen=True, kw_only=True)
class TensorFile:
    """What a safetensors file holds.

    Attributes:
        tensors: by name.
        metadata: texts by name.
        path: of the file.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    path: Path

    def about(self) -> dict[str, Any]:
        """Parses what the metadata say under "entoptic"; empty where they say nothing.

        Raises:
            Unreadable: it is no JSON object.
        """
        text = self.metadata.get("entoptic")
        return parse_json(text, f"the metadata of {self.path}") if text is not None else {}

    def get(self, name: str, *shape: int | None, finite: bool = True) -> Tensor:
        """Returns a tensor.

        Args:
            name: of the tensor.
            shape: that it must have; None stands for any length.
            finite: whether its values must be finite.

        Raises:
            Unreadable: there is none, or it is not as expected.
        """
        if name not in self.tensors:
            raise Unreadable(f'{self.path} is damaged: it has no "{name}"')
        return check_tensor(self.tensors[name], name, self.path, *shape, finite=finite)


def check_tensor(tensor: Tensor, name: str, where: str | Path, *shape: int | None, finite: bool = True) -> Tensor:
    """Checks the shape and the values of a tensor that was read; see `TensorFile.get`."""
    if shape and (tensor.ndim != len(shape) or any(b not in (None, a) for a, b in zip(tensor.shape, shape))):
        expected = "×".join("any" if size is None else str(size) for size in shape)
        raise Unreadable(f'{where} is damaged: "{name}" is {"×".join(map(str, tensor.shape))}, not {expected}')
    if finite and tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        raise Unreadable(f'{where} is damaged: "{name}" holds values that are not finite')
    return tensor


def read_tensors(path: str | Path, *, numbers: bool = True) -> TensorFile:
    """Reads a safetensors file.

    Args:
        path: of the file.
        numbers: whether its tensors are read, or the metadata alone.

    Raises:
        Unreadable: there is no such file, or it is damaged or of another kind.
    """
    from safetensors import SafetensorError, safe_open

    _check_file(path)
    try:
        if _is_utf8(path):
            with safe_open(path, framework="pt") as file:
                metadata = dict(file.metadata() or {})
                tensors = {name: file.get_tensor(name) for name in file.keys()} if numbers else {}  # noqa: SIM118
        else:
            metadata, tensors = _tensors_of(Path(path).read_bytes())
    except (
        SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, MemoryError, OverflowError
    ) as error:  # fmt: skip
        raise Unreadable(f"{path} is not a safetensors file that can be read ({why(error)})") from None
    return TensorFile(tensors=tensors, metadata=metadata, path=Path(path))


def _is_utf8(path: str | Path) -> bool:
    """Whether a path can be given to `safe_open`, which opens no other."""
    try:
        return bool(str(path).encode())
    except UnicodeEncodeError:
        return False


def _tensors_of(content: bytes) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of the bytes of a safetensors file, which begin with the header's length and the header."""
    from safetensors.torch import load

    tensors = load(content)
    length = int.from_bytes(content[:8], "little")
    return dict(json.loads(content[8 : 8 + length]).get("__metadata__") or {}), tensors


def read_array(path: str | Path, kind: Any, shape: tuple[int | None, ...], *, mode: Any = "r") -> np.ndarray:
    """Maps the array of a .npy file.

    Args:
        path: of the file.
        kind: of its numbers, for instance `numpy.uint8`.
        shape: that it must have; None stands for any length.
        mode: "r", or "r+" to write.

    Raises:
        Unreadable: there is no such file, it is damaged, or holds another array.
    """
    import numpy as np

    _check_file(path)
    try:
        array = np.lib.format.open_memmap(path, mode=mode)  # never a pickle, nor an archive of several arrays
        if array.dtype != np.dtype(kind) or array.ndim != len(shape):
            raise ValueError(f"it holds {array.dtype} of {array.ndim} axes")
        if any(b not in (None, a) for a, b in zip(array.shape, shape)):
            raise ValueError(f"it holds {'×'.join(map(str, array.shape))} numbers")
    except (OSError, ValueError, TypeError, KeyError, SyntaxError, EOFError, MemoryError, RecursionError) as error:
        raise Unreadable(f"{path} is not the array that belongs there ({why(error)})") from None
    return array


Kinds = Mapping[str, "type | UnionType | tuple[type, ...]"]


def check_fields(record: Mapping[str, Any], kinds: Kinds, where: str | Path) -> None:
    """Checks that a record has fields of the right kinds. A whole number will do for a `float`, a truth value for no number.

    Args:
        record: that was read.
        kinds: of its fields, by name; `X | None` allows null, but the field must be there.
        where: it stands, which begins the message.

    Raises:
        Unreadable: a field is missing, of another kind or not finite.
    """
    for name, kind in kinds.items():
        if name not in record:
            raise Unreadable(f'{where} is damaged or of another version: it has no "{name}"')
        if not is_a(record[name], kind):
            raise Unreadable(f'{where} is damaged: its "{name}" is {_shown(record[name])}')


def is_a(value: Any, kind: Any) -> bool:
    """Whether a value of a record is of a kind; see `check_fields`."""
    kinds = kind if isinstance(kind, tuple) else getattr(kind, "__args__", (kind,))
    if object in kinds:
        return True
    if isinstance(value, bool):
        return bool in kinds
    if isinstance(value, float):
        return float in kinds and math.isfinite(value)
    return isinstance(value, tuple(kinds)) or (float in kinds and isinstance(value, int))


def list_of(value: Any, kind: Any) -> bool:
    """Whether a value of a record is a list of values of a kind."""
    return isinstance(value, list) and all(is_a(one, kind) for one in value)


def why(error: BaseException) -> str:
    """Says in one short line what an error says."""
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON at line {error.lineno}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, KeyError):
        return f'it has no "{error.args[0]}"' if error.args else "an entry is missing"
    if isinstance(error, MemoryError):
        return "it is too large for the memory"
    lines = str(error).strip().splitlines()
    return " ".join(lines[0].split())[:_REASON] if lines else type(error).__name__


def read_bytes(path: str | Path) -> bytes:
    """Reads the content of a plain file.

    Raises:
        Unreadable: there is no such file, or it is a pipe or a device, whose reading might never end.
    """
    _check_file(path)
    try:
        return Path(path).read_bytes()
    except (OSError, MemoryError) as error:
        raise Unreadable(f"{path} cannot be read: {why(error)}") from None


def _check_file(path: str | Path) -> None:
    """Refuses what is not a plain file: reading a pipe or a device might never end."""
    try:
        if "\0" in str(path):
            raise ValueError
        if os.path.isfile(path):
            return
        what = (
            "it is a folder"
            if os.path.isdir(path)
            else "it is no file"
            if os.path.lexists(path)
            else "the file is missing"
        )
    except ValueError:  # a NUL byte
        what = "its name holds a character that no name may hold"
    raise Unreadable(f"{path} cannot be read: {what}")


def _refuse_constant(text: str) -> None:
    raise ValueError(f"it holds {text}, which is no number")


def _whole(text: str) -> int:
    if len(text) > 21 or abs(number := int(text)) >= LARGEST:
        raise ValueError(f"it holds a number of {len(text)} digits")
    return number


def _real(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"it holds the number {text[:20]}, which is too large")
    return number


def _shown(value: Any) -> str:
    text = f"{value}" if isinstance(value, int | float) or value is None else f"a {type(value).__name__}"
    return text[:40]

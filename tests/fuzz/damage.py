"""Ways to damage a file, and pickles that would leave a trace if anything ran them."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Damage = Callable[[Path], None]


def replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def cut(share: float) -> Damage:
    return lambda path: replace(path, path.read_bytes()[: int(share * path.stat().st_size)])


def holds(content: bytes) -> Damage:
    return lambda path: replace(path, content)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for at in range(len(data) // 3, len(data), max(1, len(data) // 7)):
        data[at] ^= 0xFF
    replace(path, bytes(data))


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside.txt").write_text("a file")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "not there")


def circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


ANY: dict[str, Damage] = {
    "empty": holds(b""),
    "white": holds(b" \n\t"),
    "half": cut(0.5),
    "a byte": cut(0.001),
    "nearly whole": cut(0.97),
    "flipped bytes": flip,
    "zeros": holds(b"\0" * 4096),
    "not UTF-8": holds(b"\xff\xfe\x80{}"),
    "a folder": folder,
    "a pipe": pipe,
    "a dangling link": nowhere,
    "a circle of links": circle,
    "other text": holds(b"hello, world\n"),
}


def deep(path: Path) -> None:
    replace(path, b'{"a":' * 100_000 + b"1" + b"}" * 100_000)


def huge_number(path: Path) -> None:
    replace(path, path.read_bytes().replace(b"1", b"1" + b"0" * 400))


def very_huge_number(path: Path) -> None:
    replace(path, b'{"format": ' + b"9" * 6000 + b"}")


JSON: dict[str, Damage] = {
    **ANY,
    "deep": deep,
    "deep list": holds(b"[" * 200_000),
    "10**400": huge_number,
    "6,000 digits": very_huge_number,
    "null": holds(b"null"),
    "a list": holds(b"[1, 2]"),
    "an empty object": holds(b"{}"),
    "a number": holds(b"1e999"),
    "with a byte order mark": lambda path: replace(path, b"\xef\xbb\xbf" + path.read_bytes()),
}

VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2**70, 1e308, float("nan"), float("inf"), "", "x", "../../../etc/passwd", "a\0b", [], ["x"],
    [None], {}, {"x": 1}, [[["x"]]], "x" * 5000,
)  # fmt: skip


def places(record: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a record, outermost first."""
    found = [path] if path else []
    items = record.items() if isinstance(record, dict) else enumerate(record) if isinstance(record, list) else ()
    for key, value in list(items)[:40]:
        found += places(value, (*path, key))
    return found


def changed(record: dict[str, Any], place: tuple[Any, ...], value: Any, *, remove: bool = False) -> bytes:
    """The JSON of a record with one value replaced, or its entry removed."""
    copy = json.loads(json.dumps(record))
    at = copy
    for key in place[:-1]:
        at = at[key]
    if remove:
        del at[place[-1]]
    else:
        at[place[-1]] = value
    return json.dumps(copy).encode()


def _header(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def _with_header(header: dict[str, Any], rest: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + rest


def lying(change: Callable[[dict[str, Any]], object]) -> Damage:
    """Damages the header of a safetensors file."""

    def damage(path: Path) -> None:
        header, rest = _header(path)
        change(header)
        replace(path, _with_header(header, rest))

    return damage


def _tensors(header: dict[str, Any]) -> list[str]:
    return [name for name in header if name != "__metadata__"]


def _first(header: dict[str, Any]) -> dict[str, Any]:
    return header[_tensors(header)[0]]


def _renamed(header: dict[str, Any]) -> None:
    name = _tensors(header)[0]
    header[f"{name} no more"] = header.pop(name)


def _nan(path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    for tensor in tensors.values():
        if tensor.is_floating_point() and tensor.numel():
            tensor.view(-1)[0] = float("nan")
    path.unlink()
    save_file(tensors, path, metadata)


def _flat(path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name).flatten()[:-1].clone() for name in file.keys()}  # noqa: SIM118
    path.unlink()
    save_file(tensors, path, metadata)


TENSORS: dict[str, Damage] = {
    **ANY,
    "no tensors": holds(_with_header({}, b"")),
    "a header of 2**63 bytes": holds(struct.pack("<Q", 2**63) + b"{}"),
    "a deep header": holds(struct.pack("<Q", 200_000) + b"[" * 200_000),
    "another dtype": lying(lambda header: _first(header).update(dtype="F64")),
    "an unknown dtype": lying(lambda header: _first(header).update(dtype="F3")),
    "another shape": lying(lambda header: _first(header).update(shape=[2**40, 2**40])),
    "offsets beyond the end": lying(lambda header: _first(header).update(data_offsets=[0, 2**50])),
    "another name": lying(_renamed),
    "no metadata": lying(lambda header: header.pop("__metadata__", None)),
    "deep metadata": lying(lambda header: header.update(__metadata__={"entoptic": "[" * 100_000})),
    "empty metadata": lying(lambda header: header.update(__metadata__={"entoptic": "{}"})),
    "nan": _nan,
    "flat": _flat,
}


class Trap:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def pickles(trap: Path) -> dict[str, bytes]:
    """Pickles in the shapes that loaders know: bare, as torch writes them, and in a .npy file."""
    import io

    import numpy as np
    import torch

    old, new, array = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save({"weight": Trap(trap)}, old, _use_new_zipfile_serialization=False)
    torch.save({"weight": Trap(trap)}, new)
    np.save(array, np.array([Trap(trap)], dtype=object), allow_pickle=True)
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Trap(trap)))
    return {
        "pickle": pickle.dumps(Trap(trap)), "torch": new.getvalue(), "old torch": old.getvalue(),
        "npy": array.getvalue(), "zip": zipped.getvalue(),
    }  # fmt: skip


def copy(source: Path, target: Path) -> Path:
    """A copy of a file or folder, in place of what is there."""
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    elif os.path.lexists(target):
        target.unlink()
    return Path(shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target))

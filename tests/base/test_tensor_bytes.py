"""Files of tensors are the same bytes each time, and safetensors reads them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save

from entoptic.base.records import read_tensors
from entoptic.base.tensor_bytes import tensor_bytes


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    tensors = {f"blocks.{i}": torch.randn(3, i + 1).T for i in range(4)}
    metadata = {f"layer.{name}": name for name in tensors} | {"é": '"quoted"'}
    assert len({save({n: t.contiguous() for n, t in tensors.items()}, metadata) for _ in range(20)}) > 1
    assert len({tensor_bytes(tensors, metadata) for _ in range(20)}) == 1
    (tmp_path / "file.safetensors").write_bytes(tensor_bytes(tensors, metadata))
    read = read_tensors(tmp_path / "file.safetensors")
    assert read.metadata == metadata
    assert all(torch.equal(read.tensors[name], tensor) for name, tensor in tensors.items())
    bare = tensor_bytes(tensors, {})
    (tmp_path / "bare.safetensors").write_bytes(bare)
    assert read_tensors(tmp_path / "bare.safetensors").metadata == {}

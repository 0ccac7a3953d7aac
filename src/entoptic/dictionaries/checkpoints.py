"""Checkpoints of other tools, read into one form, and written in SAELens' style.

| tool | files | how it is told |
|---|---|---|
| SAELens | cfg.json, sae_weights.safetensors | `W_enc` and a cfg with "d_sae" |
| sparsify | cfg.json, sae.safetensors | `encoder.weight` and `W_dec` |
| dictionary_learning | ae.pt, config.json with "trainer" | `encoder.weight` and `decoder.weight`, or a trainer's config |
| ViT-Prisma | weights.pt, config.json | `W_enc` and a config with "architecture" or "activation_fn_str" |
| saev | one file, a line of JSON before the tensors | that line |
| overcomplete | one file of a state dict | `dictionary._weights` |

Tensors are read from safetensors or with `weights_only`; nothing that is read runs code. What a layout says of its network is
kept in `found`; which layer of which network it is must be given.
"""

from __future__ import annotations

import contextlib
import io
import math
import pickle
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from entoptic.base.files import (
    file_exists,
    folder_exists,
    json_bytes,
    path_exists,
    paths_in,
    user_path,
    write_atomically,
)
from entoptic.base.records import parse_json, read_bytes, read_json, read_tensors, why
from entoptic.dictionaries.layouts import LAYOUTS
from entoptic.errors import NotAvailable, Unreadable, UserError, counted, nearest
from entoptic.models.model import LOGITS, Model
from entoptic.units.sparse import KINDS, Sparse

CONFIGS = ("cfg.json", "config.json")
WEIGHTS = ("sae_weights.safetensors", "sae.safetensors", "weights.safetensors", "weights.pt", "ae.pt", "sae.pt")

LFS = b"version https://git-lfs"


@dataclass(frozen=True, kw_only=True)
class _Files:
    tensors: dict[str, Tensor]
    config: dict[str, Any] = field(default_factory=dict)
    header: bool = False


def read_checkpoint(
    path: str | Path, model: Model, layer: str, *, writes: str = "", kind: str = "", k: int = 0
) -> Sparse:  # fmt: skip
    """Reads a checkpoint of another tool as a dictionary of a layer.

    Args:
        path: a folder or a file, see this module's table.
        model: the network that it was trained on; nobody checks that, so say it right.
        layer: whose values it encodes.
        writes: whose values it decodes, for a transcoder.
        kind: how features are kept, where the files do not say (overcomplete): see `entoptic.units.sparse.KINDS`.
        k: features of a position that a "topk" keeps, where the files do not say.

    Raises:
        UserError: no such file; a pickle of objects; another layout; tensors that do not fit each other, the config or the
            layer; `kind` is another one than the files say.
    """
    where = user_path(path)
    if LOGITS in (layer, writes):
        raise UserError("a dictionary is of a layer inside the network; `entoptic ls MODEL` lists them")
    if kind and kind not in KINDS:
        raise UserError(f'no kind of sparse dictionary "{kind}"; there are {", ".join(KINDS)}{nearest(kind, KINDS)}')
    channels, outputs = model.layer(layer).channels, model.layer(writes or layer).channels
    if not path_exists(where):
        raise NotAvailable(f"there is no checkpoint {where}")
    files = _read(where)
    layout = next((name for name, one in LAYOUTS.items() if one.fits(files.tensors, files.config, files.header)), None)
    if layout is None:
        some = ", ".join(sorted(files.tensors)[:6]) or "none"
        bare = "W_enc" in files.tensors and not files.config
        raise Unreadable(
            f"{where} is no checkpoint of {', '.join(LAYOUTS)}: its tensors are {some}"
            + (f", and no {' or '.join(CONFIGS)} beside it says what they mean" if bare else "")
        )
    config = ({"kind": kind} if kind else {}) | ({"k": k} if k else {}) | files.config
    try:
        made = LAYOUTS[layout].read(files.tensors, config)
    except KeyError as error:
        raise Unreadable(f"{where} is a damaged checkpoint of {layout}: it has no {error.args[0]}") from None
    except (UserError, ValueError, TypeError, RuntimeError, IndexError, AttributeError, MemoryError) as error:
        raise Unreadable(f"{where} cannot be read as a checkpoint of {layout} ({why(error)})") from None
    if kind and made.kind != kind:
        raise UserError(f"{where} keeps features as {made.kind} by its own files, not as {kind}; leave the kind out")
    for what, has, name, wants in (
        ("reads", made.channels, layer, channels), ("writes", made.decoder.shape[1], writes or layer, outputs),
    ):  # fmt: skip
        if has != wants:
            raise UserError(
                f"{where} {what} {counted(has, 'channel')}, but {name} of {model.card.name} has {wants}: "
                "it is of another layer or network"
            )
    said = {name: value for name, value in files.config.items() if _can_be_kept(value)}
    return made.with_(
        layer=layer, writes="" if writes == layer else writes, model_sha256=model.card.identity,
        found={"layout": layout, "file": where.name, "says": said},
    )  # fmt: skip


def write_saelens(dictionary: Sparse, folder: str | Path) -> Path:
    """Writes an autoencoder or 1×1 transcoder as SAELens does: cfg.json and sae_weights.safetensors.

    Args:
        dictionary: with a window of 1.
        folder: made if need be; both files are replaced.

    Returns:
        The folder.

    Raises:
        UserError: a window of several positions, which SAELens has no form for, or a folder that cannot be written.
    """
    from safetensors.torch import save

    if dictionary.window != 1:
        raise UserError(
            f"SAELens has no form for an encoder of {dictionary.window}×{dictionary.window} positions; "
            "keep the dictionary's own file"
        )
    where, count = user_path(folder), len(dictionary)
    transcoder = dictionary.writes not in ("", dictionary.layer)
    architecture = "topk" if dictionary.kind == "topk" else "standard" if dictionary.kind == "relu" else "jumprelu"
    tensors = {
        "W_enc": dictionary.encoder[:, :, 0, 0].T.contiguous(), "b_enc": dictionary.encoder_bias.contiguous(),
        "W_dec": dictionary.decoder.contiguous(), "b_dec": dictionary.decoder_bias.contiguous(),
    }  # fmt: skip
    if architecture == "jumprelu":
        assert dictionary.threshold is not None
        tensors["threshold"] = dictionary.threshold.contiguous()
    config: dict[str, Any] = {
        "architecture": architecture, "d_in": dictionary.channels, "d_sae": count, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": False, "normalize_activations": "none", "reshape_activations": "none",
        "metadata": {
            "hook_name": dictionary.layer, "hook_name_out": dictionary.writes, "model_sha256": dictionary.model_sha256,
            "kind": dictionary.kind,
        },
    }  # fmt: skip
    if architecture == "topk":
        config |= {"k": dictionary.k, "rescale_acts_by_decoder_norm": False}
    if transcoder:
        name = {"standard": "transcoder", "topk": "topk_transcoder", "jumprelu": "jumprelu_transcoder"}[architecture]
        config |= {"architecture": name, "d_out": dictionary.decoder.shape[1]}
    try:
        write_atomically(where / "sae_weights.safetensors", save({k: v.clone() for k, v in tensors.items()}))
        write_atomically(where / "cfg.json", json_bytes(config))
    except OSError as error:
        raise UserError(f"{where} cannot be written ({error.strerror or error})") from None
    return where


# --- files ----------------------------------------------------------------------------------------------------------


def _read(where: Path) -> _Files:
    """Reads tensors and config of a folder or of a file, whose config may lie beside it."""
    folder = where if folder_exists(where) else where.parent
    config: dict[str, Any] = {}
    for name in CONFIGS:
        if file_exists(folder / name):
            config = read_json(folder / name, finite=False)
            break
    if folder_exists(where):
        file = next((where / name for name in WEIGHTS if file_exists(where / name)), None)
        if file is None:
            present = [p.name for p in paths_in(where)]
            some = ", ".join(present[:5]) or "nothing"
            hint = nearest(present[0], WEIGHTS) if present else ""
            raise NotAvailable(f"{where} holds none of {', '.join(WEIGHTS)} but {some}{hint}")
        where = file
    with_header = where.suffix == ".safetensors"
    content = b"" if with_header else read_bytes(where)
    if (_beginning(where) if with_header else content).startswith(LFS):
        raise Unreadable(f"{where} is a pointer of Git LFS and not the file itself; `git lfs pull` fetches that")
    if with_header or _is_safetensors(content):
        return _Files(tensors=read_tensors(where).tensors, config=config)
    if content[:1] == b"{":
        line, _, rest = content.partition(b"\n")
        said = parse_json(line, where, finite=False)
        return _Files(tensors=_unpickled(rest, where), config=said, header=True)
    held = _unpickled(content, where)
    return _Files(tensors=held, config=config)


def _unpickled(content: bytes, where: Path) -> dict[str, Tensor]:
    """Reads a state dict without running anything.

    Raises:
        Unreadable: it holds other objects than tensors and plain values, or is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle's version
            held = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise Unreadable(
            f"{where} is a pickle of objects, whose loading would run code; it is not read. Save its state dict alone "
            "(torch.save(sae.state_dict(), FILE)) or as safetensors, with its config as JSON beside it"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, AttributeError, TypeError, IndexError) as error:
        raise Unreadable(f"{where} is no file of tensors that can be read ({why(error)})") from None
    if not isinstance(held, dict):
        raise Unreadable(f"{where} holds a {type(held).__name__}, not a state dict")
    for inner in ("state_dict", "model"):
        if isinstance(held.get(inner), dict):
            held = held[inner]
    found = {str(name): value.detach() for name, value in held.items() if isinstance(value, Tensor)}
    for name, value in found.items():
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise Unreadable(f'{where} holds "{name}" in a form without plain numbers (sparse, quantised or empty)')
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise Unreadable(f'{where} is damaged: it says that "{name}" has more numbers than it holds')
    return found


def _is_safetensors(content: bytes) -> bool:
    """Whether a file of another name is safetensors: the length of a JSON header that fits in it, and that header."""
    return content[8:9] == b"{" and int.from_bytes(content[:8], "little") < len(content)


def _beginning(where: Path) -> bytes:
    """The first bytes of a plain file; nothing where it cannot be read, which its reader then says."""
    if not file_exists(where):
        return b""
    with contextlib.suppress(OSError), where.open("rb") as file:
        return file.read(64)
    return b""


def _can_be_kept(value: Any) -> bool:
    """Whether a config's entry is one short text or number, which the card can hold."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, bool | int) or (isinstance(value, str) and len(value) <= 200)

"""Parts of a saved pipeline of diffusers: finding their weights, and loading them frozen in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from entoptic.base.files import file_exists, folder_exists, paths_in
from entoptic.base.records import read_json
from entoptic.errors import UserError, nearest
from entoptic.models.running import first_line

NEEDS_DIFFUSERS = "priors need diffusers and transformers: pip install entoptic[diffusion]"

# Class name in the folder -> class of diffusers. Older DiT repositories have the name before diffusers split the class.
NETWORKS = {name: name for name in ("UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel")}
NETWORKS["Transformer2DModel"] = "DiTTransformer2DModel"
DECODERS = {name: name for name in ("AutoencoderKL", "AutoencoderTiny", "VQModel")}

VARIANTS = (None, "fp16", "bf16")
"""Variants of weight files, in the order in which they are looked for. All are computed with in float32."""

_ELSEWHERE = (".onnx", ".msgpack", ".xml", ".h5", ".gguf", ".tflite")  # weights of other frameworks

Fetch = Callable[[Sequence[str]], Path]
"""Makes files available: takes file patterns, returns the local folder that holds them."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The folder that a prior is read from.

    Attributes:
        name: of the prior, as given to `load_prior`.
        fetch: makes files available locally.
        folder: the local folder. Its JSON files are there.
        classes: class name of each part, as the folder names it.
        device: where networks go.
        trust: whether pickled weights are read where there are no safetensors.
    """

    name: str
    fetch: Fetch
    folder: Path
    classes: Mapping[str, str]
    device: torch.device
    trust: bool

    def place(self, part: str) -> str:
        """Returns the subfolder of a part, "" for the folder itself, where old pipelines with one network keep it."""
        if folder_exists(self.folder / part):
            return part
        whole = read_config(self.folder / "config.json")
        return "" if whole is not None and whole.get("_class_name") == self.classes.get(part) else part

    def config(self, part: str) -> dict[str, Any]:
        """Returns a part's config as it was saved, for identities. Defaults that libraries add differ between versions."""
        return saved_config(self.folder / self.place(part))


@dataclass(frozen=True, kw_only=True)
class Stems:
    """File names of a library's weights, without their ends."""

    safe: str
    pickled: str


DIFFUSERS = Stems(safe="diffusion_pytorch_model", pickled="diffusion_pytorch_model")
TRANSFORMERS = Stems(safe="model", pickled="pytorch_model")


def read_config(path: Path) -> dict[str, Any] | None:
    """Returns the JSON object in a file, or None if there is no file.

    Args:
        path: of the file.

    Raises:
        UserError: a file that is not a JSON object.
    """
    return read_json(path, finite=False) if file_exists(path) else None


def saved_config(folder: Path) -> dict[str, Any]:
    """Returns a network's config as it was saved, for identities. Defaults that the library adds differ between its versions."""
    return {k: value for k, value in (read_config(folder / "config.json") or {}).items() if not k.startswith("_")}


def load_scheduler(diffusers: Any, name: str, folder: Path) -> Any:
    """Returns the scheduler of a folder.

    Args:
        diffusers: the library.
        name: of the prior, for errors.
        folder: with scheduler_config.json.

    Raises:
        UserError: no scheduler, an unknown one, or one whose settings diffusers refuses.
    """
    config = read_config(folder / "scheduler_config.json")
    if config is None:
        raise UserError(
            f"{name} has no scheduler_config.json, without which its noise levels and parameterisation are unknown; "
            "save the scheduler that it was trained with beside it"
        )
    wanted = str(config.get("_class_name"))
    kind: Any = getattr(diffusers, wanted, None)
    fits = isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)
    if not fits:
        known = [word for word in dir(diffusers) if word.endswith("Scheduler")]
        raise UserError(
            f'{name}: diffusers {diffusers.__version__} has no scheduler "{wanted}"{nearest(wanted, known)}'
        )
    try:
        return kind.from_config(config)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise UserError(f"{name}: diffusers refuses the settings of its {wanted} ({first_line(error)})") from error


def load_part(diffusers: Any, source: Source, part: str, known: Mapping[str, str]) -> nn.Module:
    """Loads the network of one part of a pipeline, on the source's device.

    Args:
        diffusers: the library.
        source: of the prior.
        part: its name, "" for a network without a pipeline.
        known: class names that fit, with the class of diffusers for each.

    Raises:
        UserError: a part of an unsupported class, one that is not there, or weights that cannot be read.
    """
    kind, what = source.classes.get(part, "missing"), part or "network"
    if kind not in known:
        raise UserError(f"{source.name}: its {what} is {kind}; supported are {', '.join(known)}")
    place = check_present(source, part, kind)
    own = str((read_config(source.folder / place / "config.json") or {}).get("_class_name", kind))
    if own in known and known[own] != known[kind]:
        raise UserError(
            f"{source.name}: model_index.json says that its {what} is {kind}, the config of that part {own}; correct "
            "model_index.json, or save the pipeline again with save_pretrained"
        )
    cls = getattr(diffusers, known[kind])
    return load_frozen(source.name, what, source.trust, find_weights(source, place, what, DIFFUSERS, cls)).to(
        source.device
    )


def check_present(source: Source, part: str, kind: str) -> str:
    """Returns the subfolder of a part that is there.

    Args:
        source: of the prior.
        part: its name.
        kind: its class, for errors.

    Raises:
        UserError: it is not there.
    """
    place = source.place(part)
    if not file_exists(source.folder / place / "config.json"):
        raise UserError(
            f"{source.name}: its {part} ({kind}) is not there: {source.folder} has no {part}/config.json; fetch the folder "
            f"again with {part}/*"
        )
    return place


def find_weights(source: Source, place: str, what: str, stems: Stems, cls: Any) -> Callable[..., Any]:
    """Returns `cls.from_pretrained` with the folder and the variant of a part's weights.

    Full precision comes before the variants, so a folder that has both is read as before there were any.

    Args:
        source: of the prior.
        place: subfolder of the part.
        what: the part's name, for errors.
        stems: names of its weights.
        cls: its class.

    Raises:
        UserError: there are no weights that may be read; the message names those which are there.
    """
    prefix = f"{place}/" if place else ""
    for variant in VARIANTS:
        patterns = _patterns(stems, variant, source.trust)
        folder = source.fetch([prefix + pattern for pattern in patterns]) / place
        if files := [path for pattern in patterns for path in folder.glob(pattern)]:
            _refuse_pointers(source.name, files)
            options = {} if variant is None else {"variant": variant}
            return partial(cls.from_pretrained, folder, **options)
    raise UserError(f"{source.name}: could not read its {what} ({_instead(source.folder / place)})")


def _patterns(stems: Stems, variant: str | None, trust: bool) -> list[str]:
    """Returns the file patterns of a part's weights in one variant: whole, and sharded by newer and older versions."""
    ends = [(stems.safe, "safetensors")] + ([(stems.pickled, "bin")] if trust else [])
    if variant is None:
        return [f"{stem}{shard}.{end}" for stem, end in ends for shard in ("", "-*-of-?????")]
    return [f"{stem}{shard}.{end}" for stem, end in ends for shard in (
        f".{variant}", f".{variant}-*-of-*", f"-*-of-*.{variant}",
    )]  # fmt: skip


def _instead(folder: Path) -> str:
    """Returns what is there in place of the weights of a part, and what to do about it."""
    names = [path.name for path in paths_in(folder) if file_exists(path)]
    if pickled := [name for name in names if name.endswith((".bin", ".pt", ".ckpt"))]:
        return (
            f"{pickled[0]} is pickled; only safetensors are read, unless trust=True allows pickled weights too: save the "
            "pipeline again with save_pretrained, which writes safetensors"
        )
    if other := [name for name in names if name.endswith(_ELSEWHERE)]:
        return f"{other[0]} is no file of PyTorch, and gradients are needed; give the same pipeline with safetensors"
    if variants := [name for name in names if name.endswith(".safetensors")]:
        known = ", ".join(str(variant) for variant in VARIANTS if variant)
        return (
            f"{variants[0]} is another variant; read are full precision, {known}: rename it, or save the pipeline again"
        )
    return "there are no weights in its folder; only safetensors are read, unless trust=True allows pickled weights too"


def _refuse_pointers(name: str, files: Sequence[Path]) -> None:
    """Refuses the small text files that git leaves in place of weights.

    Raises:
        UserError: one of the files is such a pointer.
    """
    for file in files:
        with file.open("rb") as stream:
            if stream.read(24).startswith(b"version https://git-lfs"):
                raise UserError(
                    f"{name}: {file.name} is a pointer of git-lfs and not the weights; run git lfs pull, or fetch the "
                    "folder with hf download"
                )


def load_frozen(name: str, part: str, trust: bool, read: Callable[..., Any]) -> nn.Module:
    """Loads a network in float32, frozen and in evaluation mode.

    Pickled files are read by torch.load with weights_only, also where they are trusted: one that holds code is refused.

    Args:
        name: of the prior, for errors.
        part: of the network, for errors.
        trust: whether pickled weights may be read.
        read: diffusers' or transformers' `from_pretrained` with its folder.

    Raises:
        UserError: weights that cannot be read, or missing tensors (which would be random numbers).
    """
    try:
        net, found = read(use_safetensors=None if trust else True, output_loading_info=True)
    except Exception as error:
        # transformers answers a misfit with a table in its log and advice on its own options.
        misfit = "ignore_mismatched_sizes" in str(error)
        why = "the shapes of its weights are not those of its config" if misfit else first_line(error)
        raise UserError(f"{name}: could not read its {part} ({why})") from error
    if missing := sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"]])):
        raise UserError(f"{name}: the weights of its {part} lack {len(missing)} tensors, {missing[0]} for one")
    return net.float().eval().requires_grad_(False)

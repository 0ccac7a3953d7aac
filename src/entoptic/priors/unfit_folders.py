"""What a folder is that cannot serve as a prior, and which choice is the nearest."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NoReturn

from entoptic.base.files import file_exists, folder_exists, paths_in
from entoptic.errors import UserError, nearest

_WITHOUT_GRADIENTS = {"Onnx": "ONNX", "ORT": "ONNX", "OV": "OpenVINO", "Flax": "Flax"}
"""How class names of pipelines begin that are not PyTorch's, and what they are written in."""


def refuse_pipeline(name: str, pipeline: str, known: Collection[str]) -> None:
    """Checks that a pipeline is of a supported class.

    Args:
        name: of the prior, for errors.
        pipeline: class name in model_index.json.
        known: supported class names.

    Raises:
        UserError: it is not.
    """
    if pipeline in known:
        return
    for start, what in _WITHOUT_GRADIENTS.items():
        if pipeline.startswith(start):
            raise UserError(
                f"{name} is a {pipeline}, whose networks are {what}'s, and gradients of PyTorch are needed; give the same "
                "pipeline with safetensors"
            )
    raise UserError(
        f"{name} is a {pipeline}; supported pipelines are {', '.join(known)}{nearest(pipeline, known)}"
    )  # fmt: skip


def refuse_network(name: str, folder: Path, config: Mapping[str, Any], known: Collection[str]) -> None:
    """Checks that a folder without model_index.json holds a network of a supported class.

    Args:
        name: of the prior, for errors.
        folder: with config.json.
        config: what is in that file.
        known: supported class names.

    Raises:
        UserError: it does not.
    """
    kind = config.get("_class_name")
    if kind in known:
        return
    whole = f"; did you mean the pipeline, hf:{folder.parent}?" if _is_pipeline(folder.parent) else ""
    if kind is None:
        made = next(iter(config.get("architectures") or []), config.get("model_type"))
        raise UserError(
            f"{name}: its config.json is {f'of a {made} of transformers' if made else 'none of diffusers'} and of no image "
            f"prior, which is a pipeline of diffusers or a {' or '.join(known)}{whole}"
        )
    raise UserError(f"{name}: its network is {kind}; supported are {', '.join(known)}{whole}")


def refuse_folder(name: str, folder: Path) -> NoReturn:
    """Refuses a folder that has neither model_index.json nor config.json.

    Args:
        name: of the prior, for errors.
        folder: the local folder.

    Raises:
        UserError: always, with what the folder is instead.
    """
    inside = [folder, *(path for path in paths_in(folder) if folder_exists(path))]
    files = [path for place in inside for path in paths_in(place) if file_exists(path)]
    lacks = f"{name} has neither model_index.json (a pipeline of diffusers) nor config.json (one of its networks)"
    snapshots = [path for path in paths_in(folder, "snapshots/*") if _is_pipeline(path)]
    if found := [*snapshots, *(path for path in inside if _is_pipeline(path))]:
        raise UserError(f"{lacks}; did you mean hf:{found[0]}?")
    if found := [path for path in files if path.suffix == ".onnx"]:
        raise UserError(
            f"{lacks}; {found[0].relative_to(folder)} is ONNX, and gradients of PyTorch are needed: give the same pipeline "
            "with safetensors"
        )
    if found := [path for path in files if path.suffix in (".safetensors", ".ckpt")]:
        what = found[0].relative_to(folder)
        raise UserError(
            f"{lacks}; {what} alone is no pipeline: if it is a checkpoint in one file, from_single_file and save_pretrained "
            "of its pipeline's class make the folder"
        )
    raise UserError(lacks)


def _is_pipeline(folder: Path) -> bool:
    return file_exists(folder / "model_index.json")

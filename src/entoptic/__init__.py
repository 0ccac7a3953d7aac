"""Entoptic shows what a vision model looks for.

    import entoptic
    model = entoptic.load("builtin:lite0")
    run = entoptic.see(model, ['logits:"church"', "logits:701"])
    run                                    # pictures, each with its measurements

Names are loaded when they are first used, so that `import entoptic` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from entoptic.errors import UserError
    from entoptic.gallery.site import build as make_gallery
    from entoptic.images.build_index import build_index, merge_indexes
    from entoptic.images.index import ActivationIndex
    from entoptic.images.photos import Photos
    from entoptic.images.preflight import preflight
    from entoptic.methods import METHODS
    from entoptic.metrics.picture import measure
    from entoptic.models.card import Card
    from entoptic.models.model import Model
    from entoptic.models.sources import load
    from entoptic.runs.frontier import frontier
    from entoptic.runs.invert import invert
    from entoptic.runs.see import see
    from entoptic.runs.steer import steer
    from entoptic.runs.store import Picture, Run
    from entoptic.runs.verify import verify
    from entoptic.units.unit import Unit, bind

__version__ = "0.1.0"

_HOME = {
    "ActivationIndex": "images.index", "build_index": "images.build_index", "merge_indexes": "images.build_index",
    "Card": "models.card", "METHODS": "methods", "Model": "models.model", "Photos": "images.photos",
    "Picture": "runs.store", "Run": "runs.store", "Unit": "units.unit", "UserError": "errors", "bind": "units.unit",
    "frontier": "runs.frontier", "invert": "runs.invert",
    "make_gallery": "gallery.site:build", "load": "models.sources", "measure": "metrics.picture",
    "preflight": "images.preflight", "see": "runs.see", "steer": "runs.steer", "verify": "runs.verify",
}  # fmt: skip

__all__ = [
    "METHODS", "ActivationIndex", "Card", "Model", "Photos", "Picture", "Run", "Unit", "UserError", "bind",
    "build_index", "frontier", "invert", "load", "make_gallery", "measure", "merge_indexes", "preflight", "see", "steer", "verify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'entoptic' has no attribute {name!r}")
    module, _, attribute = _HOME[name].partition(":")
    value = getattr(importlib.import_module(f"entoptic.{module}"), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

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
    from entoptic import configs
    from entoptic.bench.run import benchmark
    from entoptic.bench.verify_table import verify_benchmark
    from entoptic.errors import UserError
    from entoptic.gallery.atlas import atlas
    from entoptic.gallery.publish import export
    from entoptic.gallery.report import report
    from entoptic.gallery.site import build as make_gallery
    from entoptic.images.build_index import build_index, merge_indexes
    from entoptic.images.index import ActivationIndex
    from entoptic.images.photos import Photos
    from entoptic.images.preflight import preflight
    from entoptic.inversion.saved import load_inverter
    from entoptic.methods import METHODS
    from entoptic.metrics.picture import measure
    from entoptic.models.card import Card
    from entoptic.models.model import Model
    from entoptic.models.relevance import relevance
    from entoptic.models.sources import load
    from entoptic.plots.figure import Figure
    from entoptic.priors.sources import load_prior
    from entoptic.runs.circuit import circuit
    from entoptic.runs.circuit_steering import steer_circuit
    from entoptic.runs.commitment import commitment
    from entoptic.runs.frontier import frontier
    from entoptic.runs.interpolate import interpolate
    from entoptic.runs.invert import invert
    from entoptic.runs.learn import learn
    from entoptic.runs.learn_dictionary import learn as learn_dictionary
    from entoptic.runs.learn_inverter import learn as learn_inverter
    from entoptic.runs.name import name
    from entoptic.runs.patterns import patterns
    from entoptic.runs.pictures import Picture
    from entoptic.runs.see import see
    from entoptic.runs.selection import Pictures
    from entoptic.runs.steer import steer
    from entoptic.runs.store import Run
    from entoptic.runs.verify import verify
    from entoptic.units.unit import Unit, bind

__version__ = "0.1.0"

_HOME = {
    "ActivationIndex": "images.index", "atlas": "gallery.atlas", "benchmark": "bench.run", "build_index": "images.build_index",
    "merge_indexes": "images.build_index",
    "Card": "models.card", "Figure": "plots.figure", "METHODS": "methods", "Model": "models.model", "Photos": "images.photos",
    "Picture": "runs.pictures", "Pictures": "runs.selection", "Run": "runs.store", "Unit": "units.unit",
    "UserError": "errors", "bind": "units.unit", "circuit": "runs.circuit", "export": "gallery.publish",
    "commitment": "runs.commitment", "frontier": "runs.frontier",
    "interpolate": "runs.interpolate", "invert": "runs.invert", "learn": "runs.learn",
    "learn_dictionary": "runs.learn_dictionary:learn", "learn_inverter": "runs.learn_inverter:learn",
    "load": "models.sources",
    "load_inverter": "inversion.saved", "load_prior": "priors.sources",
    "make_gallery": "gallery.site:build", "measure": "metrics.picture", "name": "runs.name",
    "patterns": "runs.patterns", "preflight": "images.preflight",
    "relevance": "models.relevance", "report": "gallery.report", "see": "runs.see", "steer": "runs.steer",
    "steer_circuit": "runs.circuit_steering", "verify": "runs.verify",
    "verify_benchmark": "bench.verify_table",
}  # fmt: skip

__all__ = [
    "METHODS", "ActivationIndex", "Card", "Figure", "Model", "Photos", "Picture", "Pictures", "Run", "Unit", "UserError",
    "atlas", "benchmark", "bind", "build_index", "circuit", "commitment", "configs", "export", "frontier", "interpolate",
    "invert", "learn",
    "learn_dictionary", "learn_inverter", "load", "load_inverter", "load_prior", "make_gallery", "measure",
    "merge_indexes", "name", "patterns", "preflight", "relevance", "report", "see", "steer", "steer_circuit", "verify",
    "verify_benchmark",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "configs":
        return importlib.import_module("entoptic.configs")
    if name not in _HOME:
        raise AttributeError(f"module 'entoptic' has no attribute {name!r}")
    module, _, attribute = _HOME[name].partition(":")
    value = getattr(importlib.import_module(f"entoptic.{module}"), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names alone: modules that happen to be loaded are none of them."""
    return sorted([*__all__, "__version__"])

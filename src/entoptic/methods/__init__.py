"""One file per method: a function, its frozen config and its card. Importing this package registers them all.

Methods of other installed packages are registered after them, see `entoptic.base.plugins`.

Nothing at the top of a method file imports torch, so that the command line can print its help at once; what a
method needs of torch, the ascent loop and the canvases it imports inside its function.
"""

from entoptic.base import plugins
from entoptic.methods import (
    accentuate,
    best_of,
    caricature,
    deep_inversion,
    diverse,
    energydps,
    fourier,
    invert,
    klsc,
    klsc_twisted,
    maco,
    pixels,
    prompt,
    prompt_class,
    prompt_words,
    retrieval,
    steer,
    vital,
    vital_paper,
)
from entoptic.methods.contract import METHODS, MethodCard, find_method

__all__ = [
    "METHODS",
    "MethodCard",
    "accentuate",
    "best_of",
    "caricature",
    "deep_inversion",
    "diverse",
    "energydps",
    "find_method",
    "fourier",
    "invert",
    "klsc",
    "klsc_twisted",
    "maco",
    "pixels",
    "prompt",
    "prompt_class",
    "prompt_words",
    "retrieval",
    "steer",
    "vital",
    "vital_paper",
]

plugins.load_plugins(plugins.METHODS, METHODS)

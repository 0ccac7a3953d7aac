"""One file per method: a function, its frozen config and its card. Importing this package registers them all.

Nothing at the top of a method file imports torch, so that the command line can print its help at once; what a
method needs of torch, the ascent loop and the canvases it imports inside its function.
"""

from entoptic.methods import deep_inversion, fourier, maco, pixels, retrieval, vital
from entoptic.methods.registry import METHODS, MethodCard, find_method

__all__ = ["METHODS", "MethodCard", "deep_inversion", "find_method", "fourier", "maco", "pixels", "retrieval", "vital"]

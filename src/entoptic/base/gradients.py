"""Gradients as the package needs them, whatever the caller has set."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def with_gradients(function: Callable[P, R]) -> Callable[P, R]:
    """Returns a function that runs with autograd on, also inside `torch.no_grad` and `torch.inference_mode`.

    A call in a validation loop, where gradients are off, gives the same pictures as any other. The caller's setting is there
    again afterwards.
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        import torch

        with torch.inference_mode(False), torch.enable_grad():
            return function(*args, **kwargs)

    return run

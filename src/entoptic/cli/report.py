"""The option `--report` of jobs that run long."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

from tyro.conf import arg

from entoptic.base.tracking import tracking

Report = Annotated[
    str, arg(metavar="WHERE", help="show numbers and pictures elsewhere too: tensorboard:DIR or wandb:PROJECT")
]


def tracked(run: Callable[[Any], int]) -> Callable[[Any], int]:
    """Returns the function of a verb that tells what its options' `report` names."""

    @wraps(run)
    def wrapped(options: Any) -> int:
        with tracking(options.report):
            return run(options)

    return wrapped

"""A method that fails on some units, for workers that import it. A test that imports it takes its registration back."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from entoptic.errors import UserError
from entoptic.methods.contract import UNIT_KINDS, Context, Draft, Item, MethodConfig, method

NAME = "broken"


@dataclass(frozen=True, kw_only=True)
class Broken(MethodConfig):
    """Grey pictures, but for some units.

    Attributes:
        refuses: a unit that it refuses.
        kills: a unit that ends the process.
    """

    refuses: str = ""
    kills: str = ""


@method(NAME, Broken, paper="none", units=UNIT_KINDS)
def broken(items: Sequence[Item], config: Broken, context: Context) -> Iterator[Draft]:
    """Makes grey pictures."""
    for item in items:
        if item.target.text == config.kills:
            os.kill(os.getpid(), 9)
        if item.target.text == config.refuses:
            raise UserError("nothing is to be had")
        yield Draft(item=item, image=torch.full((3, 32, 32), 0.5))

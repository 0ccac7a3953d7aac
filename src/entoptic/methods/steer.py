"""Concept steering: one concept of a photo's feature map is scaled, and the map is decoded and measured (FeatInv-Viz)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from entoptic.errors import UserError
from entoptic.inversion.configs import Steer
from entoptic.inversion.null_edits import COMMON_SIZE, NullTest
from entoptic.methods.contract import EDIT, Context, Draft, Item, MethodConfig, Trace, failed_by, method

if TYPE_CHECKING:
    from entoptic.inversion.targets import EditTarget


@dataclass(frozen=True, kw_only=True)
class SteerConcepts(Steer, MethodConfig):
    """Concept steering (FeatInv-Viz)."""


def photo_of(item: Item) -> str:
    """Returns the hash of the photo that an item edits."""
    target: EditTarget = item.target  # type: ignore[assignment]
    return target.photo.sha256


@method("steer", SteerConcepts, paper="FeatInv", units={EDIT}, reads={"inverter"}, together=photo_of)
def steer(items: Sequence[Item], config: SteerConcepts, context: Context) -> Iterator[Draft]:
    """Steers concepts of one photo. Each draft's `made` is a `Steering`, from which its evidence is computed."""
    return steer_with(COMMON_SIZE, items, config, context)


def steer_with(test: NullTest, items: Sequence[Item], config: SteerConcepts, context: Context) -> Iterator[Draft]:
    """Steers concepts of one photo.

    Args:
        test: how random edits are made and compared; `verify` repeats earlier runs with theirs.
        items: as every method takes them, and so are `config` and `context`.
    """
    from entoptic.inversion.steer import steer_concepts

    started = time.monotonic()
    by_concept: dict[int, Item] = {}
    for item in items:
        target: EditTarget = item.target  # type: ignore[assignment]
        by_concept[target.concept] = item
    name = Path(target.photo.path).name
    try:
        map_1Chw = context.photos(target.photo).map_Chw[None]
        made = steer_concepts(
            context.inverter, context.dictionary, map_1Chw, list(by_concept), config, key=target.photo.sha256,
            progress=lambda what, done, total: context.progress(f"{what} of {name}", done, total), test=test,
        )  # fmt: skip
    except UserError as error:
        for item in items:
            yield failed_by(item, error)
        return
    seconds = (time.monotonic() - started) / len(made)
    for found in made:
        trace = Trace(seconds=seconds, detail={"decoded": found.decoded})
        yield Draft(item=by_concept[found.concept], image=found.edits_n3SS[0], trace=trace, made=found)

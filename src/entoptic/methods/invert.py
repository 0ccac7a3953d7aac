"""Inversion of feature maps: pictures with the map of a photo, drawn by an inverter (FeatInv, Neukirch et al. 2025)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from entoptic.base.randomness import generator_for
from entoptic.errors import UserError
from entoptic.inversion.configs import Sampling
from entoptic.methods.contract import MAP, Context, Draft, Item, MethodConfig, Trace, failed_by, method

if TYPE_CHECKING:
    import numpy as np
    from torch import Generator

    from entoptic.inversion.targets import InversionTarget, MapTarget


@dataclass(frozen=True, kw_only=True)
class Invert(Sampling, MethodConfig):
    """Inversion of a feature map (FeatInv, Neukirch et al. 2025)."""

    @property
    def draws_per_item(self) -> int:
        """How many candidates the best is chosen from."""
        return self.best_of


def noise_generator(item: Item, candidate: int = 0) -> Generator:
    """Returns the generator of a picture's noise. All edits of a photo share it.

    Args:
        item: the picture.
        candidate: its number among the candidates of best-of, which have different noise.
    """
    return generator_for(item.seed, item.target.text, item.sample, *([candidate] if candidate else []))


@method("invert", Invert, paper="arXiv:2505.21032", units={MAP}, reads={"inverter"})
def invert(items: Sequence[Item], config: Invert, context: Context) -> Iterator[Draft]:
    """Draws pictures whose feature map is that of a photo, or an edit of it."""
    started = time.monotonic()
    readable: list[tuple[Item, InversionTarget]] = []
    for item in items:
        target: MapTarget = item.target  # type: ignore[assignment]
        try:
            readable.append((item, context.photos.target_of(target.photo, target.edit, config.looked_at)))
        except UserError as error:
            yield failed_by(item, error)
    made = _sample_and_choose(readable, config, context) if readable else []
    seconds = (time.monotonic() - started) / max(1, len(readable))
    for (item, _), (draft, cosines) in zip(readable, made):
        detail = {"cosines of candidates": [round(cosine, 6) for cosine in cosines]} if len(cosines) > 1 else {}
        trace = Trace(seconds=round(seconds, 3), detail=detail)
        yield Draft(item=item, image=draft.image, overlays=draft.overlays, trace=trace)


def _sample_and_choose(
    readable: Sequence[tuple[Item, InversionTarget]], config: Invert, context: Context
) -> list[tuple[Draft, list[float]]]:
    """For each item, the draft of its best candidate and the cosines of all candidates.

    The draft of an edited part has the overlay "pair": the picture of the same noise without the edit.
    """
    import torch

    from entoptic.base.pixels import opaque, quantise, to_float
    from entoptic.inversion.maps import superpixel_cosine

    best_of, inverter, reader = config.best_of, context.inverter, context.photos
    maps, generators = [], []
    for item, wanted in readable:
        target: MapTarget = item.target  # type: ignore[assignment]
        # An edit of a part is compared with the photo's own map at the same noise, in the same batch.
        both = [wanted.map_Chw] + [reader(target.photo).map_Chw] * (wanted.mask_hw is not None)
        for map_Chw in both:
            maps += [map_Chw] * best_of
            generators += [noise_generator(item, candidate) for candidate in range(best_of)]
    made = inverter.sample(
        torch.stack(maps).to(context.model.device), inverter.noise(generators), steps=config.steps,
        strength=config.strength, guidance=config.guidance, pull=config.pull, batch_size=context.batch_size,
    ).cpu()  # fmt: skip
    if not bool(made.isfinite().all()):
        raise UserError("the inverter made pixels that are not finite; lower guidance, strength or pull")
    found: list[tuple[Draft, list[float]]] = []
    row = 0
    for item, wanted in readable:
        candidates = made[row : row + best_of]
        row += best_of
        overlays: dict[str, np.ndarray] = {}
        if wanted.mask_hw is not None:
            overlays["pair"] = opaque(quantise(made[row]))
            row += best_of
        cosines = [0.0]
        if best_of > 1:
            with torch.no_grad():
                seen = reader.maps.read(torch.cat([to_float(quantise(one)) for one in candidates])).cpu()
            cosines = superpixel_cosine(seen, wanted.map_Chw[None].expand_as(seen)).tolist()
        best = max(range(len(cosines)), key=cosines.__getitem__)
        found.append((Draft(item=item, image=candidates[best], overlays=overlays), cosines))
    return found

"""Retrieval: the real photos that drive a unit most. Nothing is optimised, so nothing can be adversarial."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from entoptic.methods.registry import Context, Draft, Item, MethodConfig, method


@dataclass(frozen=True, kw_only=True)
class Retrieval(MethodConfig):
    """Retrieval, the real photos that drive the unit most (sample k is rank k)."""


@method("retrieval", Retrieval, paper="top-K selection", units={"logit", "channel", "direction"}, reads={"scores"})
def retrieval(items: Sequence[Item], config: Retrieval, context: Context) -> Iterator[Draft]:
    import torch

    scores = context.references.scores([item.unit for item in items])
    photos = context.references.photos
    assert photos is not None
    for item in items:
        ranked = scores.ranked(item.unit)
        if item.sample >= len(ranked):
            failure = f"rank {item.sample + 1} was asked for, but only {len(ranked)} photos can be read"
            yield Draft(item, torch.empty(0), failure=failure)
            continue
        index, value = ranked[item.sample]
        photo = photos.read(index)
        if photo is None:
            yield Draft(item, torch.empty(0), failure=f"photo {photos[index].name} can no longer be read")
            continue
        image = context.model.as_seen(context.model.card.prepare(photo)[None])[0]
        notes = [f"photo {photos[index].name}, sha256 {photos.sha256(index)[:16]}, score {value:.6g}"]
        yield Draft(item, image, {"steps": 0, "evaluations": 0, "loss": [], "notes": notes, "stopped": "finished"})

"""Splices a dictionary into a network: a layer puts out what the dictionary reconstructs, and the network runs on from there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from entoptic.errors import UserError
from entoptic.models.ablate import with_first
from entoptic.models.model import LOGITS, Model
from entoptic.models.taps import as_laid_out, channels_first, first_tensor
from entoptic.units.dictionary import written_layer
from entoptic.units.factors import NonNegative
from entoptic.units.sparse import Sparse


@contextmanager
def spliced(
    model: Model, dictionary: Sparse | NonNegative, codes: Callable[[Tensor], Tensor] | None = None
) -> Iterator[None]:  # fmt: skip
    """Runs a network through a dictionary inside the context; its hooks are removed afterwards.

    Args:
        model: the network.
        dictionary: of a layer that the network runs before, or at, the layer it writes.
        codes: changes codes B×K×D before they are decoded; None leaves them.

    Raises:
        UserError: a layer behind which there is nothing, or one that runs in the wrong order.
    """
    reads, writes = dictionary.layer, written_layer(dictionary)
    if LOGITS in (reads, writes):
        raise UserError("nothing is computed from logits, so there is nothing to splice a dictionary into")
    inside, outside = model.layer(reads), model.layer(writes)
    if inside.order > outside.order:
        raise UserError(f"{reads} runs after {writes}, which the dictionary is to write")
    held: list[Tensor] = []
    calls = {reads: 0, writes: 0}

    def begin(*_: Any) -> None:
        held.clear()
        calls.update({reads: 0, writes: 0})

    def is_last(layer: str, total: int) -> bool:
        calls[layer] += 1
        return calls[layer] == total

    def read(_module: Any, _args: Any, output: Any) -> None:
        if is_last(reads, inside.calls):
            held[:] = [dictionary.encode(channels_first(first_tensor(output), inside.layout))]

    def write(_module: Any, _args: Any, output: Any) -> Any:
        if reads != writes and not is_last(writes, outside.calls):
            return None
        if not held:
            return None

        def change(own: Tensor) -> Tensor:
            made_BOD = dictionary.decode(codes(held[0]) if codes else held[0])
            return as_laid_out(made_BOD.to(own.dtype), outside)

        return with_first(output, change)

    modules = dict(model.module.named_modules())
    handles = [model.module.register_forward_pre_hook(begin)]
    handles.append(modules[reads].register_forward_hook(read))
    handles.append(modules[writes].register_forward_hook(write))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def splicing_cost(model: Model, dictionary: Sparse | NonNegative, images: Tensor) -> dict[str, float]:
    """Measures what a network loses by running through a dictionary.

    Args:
        model: the network.
        dictionary: of one of its layers.
        images: B×3×H×W at the input size.

    Returns:
        `cosine`, the mean cosine of the outputs (each less its mean) and `same answer`, the share of pictures with the same
        strongest output.

    Raises:
        UserError: a network without logits.
    """
    if model.why_no_logits:
        raise UserError(f"{model.card.name} has no logits to compare ({model.why_no_logits})")
    whole, through = [], []
    for batch in images.split(16):
        ready = model.fit(batch.to(model.device))
        whole.append(model(ready).float().cpu())
        with spliced(model, dictionary):
            through.append(model(ready).float().cpu())
    a, b = torch.cat(whole), torch.cat(through)
    first, second = (v - v.mean(1, keepdim=True) if v.shape[1] > 2 else v for v in (a, b))
    cosine = cosine_similarity(first, second, dim=1).mean()
    return {"cosine": float(cosine), "same answer": float((a.argmax(1) == b.argmax(1)).float().mean())}

"""Networks whose features sets of pictures are compared in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from entoptic.metrics.distribution import features
from entoptic.models.model import Model


@dataclass(frozen=True, kw_only=True)
class Embedder:
    """A network as a source of features.

    Attributes:
        name: that evidence states.
        identity: hash of its weights and preprocessing.
        embed: pictures N×3×H×W in [0, 1] to features N×C.
    """

    name: str
    identity: str
    embed: Callable[[Tensor], Tensor]


def pooled(model: Model) -> Embedder:
    """Returns the pooled features before the head of a timm network, such as `builtin:lite1`.

    Args:
        model: a network that made none of the pictures.
    """
    return Embedder(name=model.card.name, identity=model.card.identity, embed=partial(features, model))

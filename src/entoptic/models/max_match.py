"""The relevance of a head that matches each position with its nearest prototype (CAVE's rule, arXiv:2503.13429).

The score of such a head is Σ_i max_k cos(f_i, h_k) over the positions i of a layer. A position gets the share of the relevance
that its matched similarity has of the score, and channel c of it the share (f_i ⊙ h_m(i))_c of their sum, with m(i) the matched
prototype. Both are exact shares, so that the layer holds all relevance. From there it goes on by the rules of a table:

    found = relevance(model, images, {tap: lambda values: max_match(values, prototypes)}, taps)
"""

from __future__ import annotations

import torch
from torch import Tensor

from entoptic.errors import UserError


def matched(values_BCD: Tensor, prototypes_KC: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the largest cosine at each position (B×D) and the prototype that has it (B×D int64).

    A position or a prototype of zeros has cosine 0 with everything.

    Args:
        values_BCD: values of a layer.
        prototypes_KC: the prototypes.

    Raises:
        UserError: no prototypes, or of another number of channels.
    """
    if prototypes_KC.ndim != 2 or not len(prototypes_KC) or prototypes_KC.shape[1] != values_BCD.shape[1]:
        raise UserError(
            f"prototypes must be K×{values_BCD.shape[1]} with K ≥ 1, one row for each, got "
            f"{'×'.join(map(str, prototypes_KC.shape))}"
        )
    cosines = torch.einsum("kc,bcd->bkd", _unit(prototypes_KC.to(values_BCD), 1), _unit(values_BCD, 1))
    best = cosines.max(1)
    return best.values, best.indices


def max_match(values_BCD: Tensor, prototypes_KC: Tensor, relevance_B: Tensor | None = None) -> Tensor:
    """Returns the relevance of a matching head at the layer that it reads, B×C×D.

    The sum over a picture is the relevance put in. A matched similarity of 0 gets none; where all of them are 0 nothing is
    relevant, whatever is put in.

    Args:
        values_BCD: values of the layer, f.
        prototypes_KC: the prototypes h.
        relevance_B: the relevance to share; None for the head's own score, Σ_i max_k cos(f_i, h_k).

    Raises:
        UserError: prototypes of another shape, or not one relevance for each picture.
    """
    similarity_BD, index_BD = matched(values_BCD, prototypes_KC)
    score_B = similarity_BD.sum(1)
    if relevance_B is None:
        relevance_B = score_B
    if relevance_B.shape != score_B.shape:
        raise UserError(f"expected one relevance for each of {len(score_B)} pictures, got {tuple(relevance_B.shape)}")
    # cos = Σ_c f_c h_c / (|f| |h|): the products of unit vectors sum to the similarity, so they share it out by themselves.
    products_BCD = _unit(values_BCD, 1) * _unit(prototypes_KC.to(values_BCD), 1)[index_BD].transpose(1, 2)
    factor_B = torch.where(score_B == 0, 0.0, relevance_B.to(score_B) / torch.where(score_B == 0, 1.0, score_B))
    return products_BCD * factor_B[:, None, None]


def _unit(vectors: Tensor, dim: int) -> Tensor:
    length = vectors.norm(dim=dim, keepdim=True)
    return torch.where(length == 0, 0.0, vectors / torch.where(length == 0, 1.0, length))

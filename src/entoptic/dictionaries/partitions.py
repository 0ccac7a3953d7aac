"""Partitions of a unit's inputs into the causes of its activation, with labels or without.

A unit c = Σ_j κ_j + b has the contributions κ_j = w_j·x_j. Where it has several causes, the contributions of its strongest
positions lie in several directions. Without labels these are clustered, and the number of clusters is chosen against two
nulls: contributions permuted among positions, each input by itself, which keeps what every input does alone; and a Gaussian
of the same covariance, which keeps what varies together without clusters. One cluster means: not separable by inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from entoptic.errors import UserError, counted

MOST = 6
NULLS = 19
STARTS = 4
ROUNDS = 30
ALIKE = 0.5
"""Cosine of two classes' contributions, less the background, from which they are the same cause (γ of arXiv:2504.12939)."""
LEAST_POSITIONS = 40
SAMPLE = 1500
"""Positions that are clustered for the nulls."""
MARGIN = 0.1
"""Share of the dispersion by which a number of clusters must explain more than every null does: a uniform spread explains some more
than a Gaussian one, and is no clusters."""


@dataclass(frozen=True, kw_only=True)
class Partition:
    """How a unit's inputs are shared among its sub-units.

    Attributes:
        shares: K×C; columns add up to 1.
        labels: of the clustered positions, 0 … K-1; empty with given labels.
        explained: of each number of clusters from 2, the share of dispersion that they explain.
        null: the largest share that they explain of any null.
        reason: why there is one sub-unit, or "".
    """

    shares: Tensor
    labels: Tensor
    explained: tuple[float, ...] = ()
    null: tuple[float, ...] = ()
    reason: str = ""

    def __len__(self) -> int:
        return len(self.shares)


def spherical_clusters(rows_MC: Tensor, count: int, seed: int = 0) -> tuple[Tensor, float]:
    """Clusters directions: the labels M, and the share of dispersion about the mean direction that they explain.

    Args:
        rows_MC: of length 1.
        count: of clusters.
        seed: of the starts, the best of which is taken.
    """
    draw = torch.Generator().manual_seed(seed)
    best, best_left = torch.zeros(len(rows_MC), dtype=torch.long), float("inf")
    for _ in range(STARTS):
        centres = rows_MC[torch.randint(len(rows_MC), (1,), generator=draw)]
        while len(centres) < count:  # far ones are likelier, as k-means++ takes them
            far = (1 - (rows_MC @ centres.T).amax(1)).clamp_min(1e-9)
            centres = torch.cat([centres, rows_MC[torch.multinomial(far, 1, generator=draw)]])
        labels = torch.full((len(rows_MC),), -1)
        for _ in range(ROUNDS):
            now = (rows_MC @ centres.T).argmax(1)
            if torch.equal(now, labels):
                break
            labels = now
            sums = torch.zeros_like(centres).index_add_(0, labels, rows_MC)
            centres = torch.where(sums.norm(dim=1, keepdim=True) > 0, normalize(sums), centres)
        left = float((1 - (rows_MC * centres[labels]).sum(1)).sum())
        if left < best_left:
            best, best_left = labels, left
    whole = float((1 - rows_MC @ normalize(rows_MC.mean(0), dim=0)).sum())
    return best, 1 - best_left / max(whole, 1e-12)


def _permuted(rows: Tensor, draw: torch.Generator) -> Tensor:
    order = torch.rand(rows.shape, generator=draw).argsort(0)
    return rows.gather(0, order)


def _gaussian(rows: Tensor, draw: torch.Generator) -> Tensor:
    centred = rows - rows.mean(0)
    weights = torch.randn(len(rows), len(rows), generator=draw) / len(rows) ** 0.5
    return rows.mean(0) + weights @ centred


def shares_of(means_KC: Tensor, background_C: Tensor) -> Tensor:
    """Returns the partition of unity M_kj = m_kj / Σ_k m_kj, with m_kj = max(mean κ_j of cause k - background, ε)."""
    above = (means_KC - background_C).clamp_min(0)
    floor = 1e-3 * above.amax().clamp_min(1e-12)
    raised = above + floor
    return raised / raised.sum(0)


def partition_inputs(
    strong_MC: Tensor, low_NC: Tensor, *, most: int = MOST, nulls: int = NULLS, seed: int = 0
) -> Partition:
    """Partitions a unit's inputs without labels.

    Args:
        strong_MC: contributions where the unit is strongest.
        low_NC: contributions where it is weak, the background.
        most: clusters that are tried.
        nulls: of each kind that the clusters are compared with.
        seed: of the clusters and the nulls.

    Raises:
        UserError: too few positions.
    """
    if len(strong_MC) < LEAST_POSITIONS or not len(low_NC):
        raise UserError(
            f"{counted(len(strong_MC), 'position')} cannot be clustered: of the strongest, {LEAST_POSITIONS} are needed; give "
            "more photos (or read more of them: --limit)"
        )
    background_C = low_NC.mean(0)
    draw = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(strong_MC), generator=draw)[:SAMPLE]
    rows = strong_MC[chosen] - background_C
    unit = normalize(rows, dim=1)
    numbers = range(2, min(most, len(rows) // 20) + 1)
    found = [spherical_clusters(unit, k, seed) for k in numbers]
    drawn = [normalize(_permuted(rows, draw), dim=1) for _ in range(nulls)]
    drawn += [normalize(_gaussian(rows, draw), dim=1) for _ in range(nulls)]
    null_kn = torch.tensor([[spherical_clusters(null, k, seed)[1] for null in drawn] for k in numbers])
    explained = torch.tensor([share for _, share in found])
    best = choose(explained, null_kn)
    one = torch.zeros(len(strong_MC), dtype=torch.long)
    seen, null = (tuple(round(float(v), 4) for v in row) for row in (explained, null_kn.amax(1)))
    if best is None:
        reason = f"not separable by inputs: no clustering explains {MARGIN:g} more of the dispersion than every null"
        return Partition(shares=torch.ones(1, strong_MC.shape[1]), labels=one, reason=reason, explained=seen, null=null)
    count = numbers[best]
    labels = found[best][0]
    centres = torch.stack([normalize(unit[labels == k].mean(0), dim=0) for k in range(count)])
    every = (normalize(strong_MC - background_C, dim=1) @ centres.T).argmax(1)
    means = torch.stack([strong_MC[every == k].mean(0) for k in range(count)])
    return Partition(shares=shares_of(means, background_C), labels=every, explained=seen, null=null)


def choose(explained: Tensor, null_kn: Tensor) -> int | None:
    """Returns the place of the number of clusters whose gain over the nulls is largest, None where none gains `MARGIN`.

    Args:
        explained: of each number of clusters, from 2.
        null_kn: of each number and each null.
    """
    if not len(explained):
        return None
    gaps = explained - null_kn.amax(1)
    best = int(gaps.argmax())
    return best if float(gaps[best]) >= MARGIN else None


def partition_by_labels(by_class: list[Tensor], low_NC: Tensor) -> Partition:
    """Partitions a unit's inputs by the classes of photos (Hesse et al. 2025, arXiv:2504.12939, with the background taken off).

    Args:
        by_class: contributions where the unit is strongest, one table M×C a class.
        low_NC: contributions where it is weak, the background.

    Raises:
        UserError: fewer than two classes, or a class without positions.
    """
    if len(by_class) < 2 or any(not len(rows) for rows in by_class):
        raise UserError("a split by labels needs two classes that drive the unit")
    background_C = low_NC.mean(0)
    means_KC = torch.stack([rows.mean(0) for rows in by_class])
    above = means_KC - background_C
    cosines = cosine_similarity(above[:, None], above[None], dim=2)
    alike = float(cosines[~torch.eye(len(above), dtype=torch.bool)].max())
    labels = torch.cat([torch.full((len(rows),), k) for k, rows in enumerate(by_class)])
    if alike >= ALIKE:
        reason = f"not separable by inputs: the classes' contributions have a cosine of {alike:.2f}, from {ALIKE:g} on the same"
        return Partition(shares=torch.ones(1, len(background_C)), labels=torch.zeros_like(labels), reason=reason)
    return Partition(shares=shares_of(means_KC, background_C), labels=labels)

"""Clusters of vectors that lie near subspaces: sparse subspace clustering, refined on all vectors by K-subspaces.

Each vector is written as a sparse sum of others (You et al. 2016, arXiv:1605.02633, with an ℓ1 penalty only; Elhamifar
and Vidal 2013): those it needs lie in its own subspace. Here the others are its k nearest by |cosine|, and the problems
of all vectors are solved at once by FISTA (Beck and Teboulle 2009) on their k×k Gram matrices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

_CELLS = 160_000  # numbers in a block's Gram matrices: they stay in a core's cache
_FIT = 256  # vectors of a cluster that a round of K-subspaces fits to


def self_representation(
    unit_NC: Tensor, *, gamma: float, neighbours: int, steps: int = 300, tolerance: float = 1e-4
) -> Tensor:
    """Writes each vector as a sparse sum of its neighbours.

    Row y minimises ½|y - R_y X|² + λ_y |R_y|₁ with λ_y = max_j |x_j·y| / γ.

    Args:
        unit_NC: N vectors of length 1.
        gamma: γ, above 1; the larger, the denser.
        neighbours: k, of which at most N - 1 are used.
        steps: largest number of FISTA steps.
        tolerance: relative change at which a block stops.

    Returns:
        N×N coefficients R with a zero diagonal.
    """
    count = len(unit_NC)
    k = min(neighbours, count - 1)
    gram_NN = unit_NC @ unit_NC.T
    gram_NN.fill_diagonal_(0)
    near_Nk = gram_NN.abs().topk(k, 1).indices
    found_NN = torch.zeros_like(gram_NN)
    block = max(1, _CELLS // k**2) if unit_NC.device.type == "cpu" else 1024
    for rows in torch.arange(count, device=unit_NC.device).split(block):
        near_Bk = near_Nk[rows]
        target_Bk = gram_NN[rows[:, None], near_Bk]  # x_j·y
        own_Bkk = gram_NN[near_Bk[:, :, None], near_Bk[:, None, :]]
        own_Bkk.diagonal(dim1=1, dim2=2).fill_(1)
        penalty_B1 = target_Bk.abs().amax(1, keepdim=True) / gamma
        step_B1 = 1 / own_Bkk.abs().sum(2).amax(1)[:, None]  # 1 / a bound of the largest eigenvalue
        c = ahead = torch.zeros_like(target_Bk)
        speed = 1.0
        for _ in range(steps):
            seen_Bk = (own_Bkk * ahead[:, None]).sum(2)  # a product with one vector per matrix is slow in BLAS
            moved = ahead - step_B1 * (seen_Bk - target_Bk)
            after = moved.sign() * (moved.abs() - step_B1 * penalty_B1).clamp_min(0)
            faster = (1 + (1 + 4 * speed**2) ** 0.5) / 2
            ahead = after + (speed - 1) / faster * (after - c)
            still = float((after - c).abs().max()) <= tolerance * float(after.abs().max())
            c, speed = after, faster
            if still:
                break
        found_NN[rows[:, None], near_Bk] = c
    return found_NN


def inliers(unit_NC: Tensor, share: float, *, gamma: float, neighbours: int) -> tuple[Tensor, Tensor]:
    """Chooses the vectors that lie in a subspace: those whose coefficients have an ℓ1 norm below the (1 - share) quantile.

    A vector that lies in no subspace needs many others, with large weights.

    Args:
        unit_NC: N vectors of length 1.
        share: share of the vectors to leave out.
        gamma: see `self_representation`.
        neighbours: see `self_representation`.

    Returns:
        Indices of the vectors that are kept, and the coefficients among these.
    """
    found_NN = self_representation(unit_NC, gamma=gamma, neighbours=neighbours)
    if share <= 0:
        return torch.arange(len(unit_NC), device=unit_NC.device), found_NN
    size_N = found_NN.abs().sum(1)
    kept = (size_N <= size_N.quantile(1 - share)).nonzero()[:, 0]
    return kept, self_representation(unit_NC[kept], gamma=gamma, neighbours=neighbours)


def spectral_vectors(found_NN: Tensor, most: int) -> Tensor:
    """Computes the N×`most` leading eigenvectors of the normalised affinity (|R| + |Rᵀ|)/2, rows of R scaled to length 1."""
    rows = found_NN / torch.linalg.vector_norm(found_NN, dim=1, keepdim=True).clamp_min(1e-12)
    affinity = (rows.abs() + rows.abs().T) / 2
    scale = affinity.sum(1).clamp_min(1e-12).rsqrt()
    _, vectors = torch.linalg.eigh(scale[:, None] * affinity * scale)  # ascending: the last have the largest values
    return vectors[:, -min(most, len(found_NN)) :].flip(1)


def spectral_labels(vectors_NM: Tensor, clusters: int, seed: int) -> Tensor:
    """Clusters by k-means on the first `clusters` of the eigenvectors, rows scaled to length 1: N labels."""
    points = vectors_NM[:, :clusters]
    return kmeans(points / torch.linalg.vector_norm(points, dim=1, keepdim=True).clamp_min(1e-12), clusters, seed=seed)


def kmeans(points_ND: Tensor, clusters: int, *, seed: int, tries: int = 20, rounds: int = 100) -> Tensor:
    """Clusters points by Lloyd's algorithm from k-means++ starts, all at once; the tightest clustering is kept.

    Args:
        points_ND: N points.
        clusters: number of clusters.
        seed: of the starts.
        tries: number of starts.
        rounds: largest number of rounds.

    Returns:
        N labels.
    """
    generator = torch.Generator().manual_seed(seed)
    count = len(points_ND)
    if clusters == 1:
        return torch.zeros(count, dtype=torch.long, device=points_ND.device)

    def distances(centres_TKD: Tensor) -> Tensor:  # T×N×K
        return torch.cdist(points_ND.expand(len(centres_TKD), -1, -1), centres_TKD).square()

    centres = points_ND[torch.randint(count, (tries,), generator=generator).to(points_ND.device)][:, None]
    for _ in range(1, clusters):
        chance = distances(centres).amin(2).cpu() + 1e-12
        chosen = torch.multinomial(chance, 1, generator=generator)[:, 0].to(points_ND.device)
        centres = torch.cat([centres, points_ND[chosen][:, None]], 1)
    labels = torch.full((tries, count), -1, device=points_ND.device)
    for _ in range(rounds):
        now = distances(centres).argmin(2)
        if torch.equal(now, labels):
            break
        labels = now
        member_TKN = torch.nn.functional.one_hot(labels, clusters).to(points_ND).transpose(1, 2)
        number_TK1 = member_TKN.sum(2, keepdim=True)
        centres = torch.where(number_TK1 > 0, member_TKN @ points_ND / number_TK1.clamp_min(1), centres)
    tightness_T = distances(centres).amin(2).sum(1)
    return labels[int(tightness_T.argmin())]


@dataclass(frozen=True)
class DimensionRule:
    """How the dimension of a cluster's subspace is estimated.

    Attributes:
        centred: about the cluster's mean (PCA); else the mean direction belongs to it, where it stands out.
        held_out: by reconstruction of vectors that were left out of a fit, else by the eigenvalues (Fukunaga-Olsen).
        alpha: smallest eigenvalue that counts, as a share of the largest.
        reconstructed: share of the left-out energy that the dimensions have to reconstruct.
        seed: of the halves.
    """

    centred: bool = True
    held_out: bool = False
    alpha: float = 0.05
    reconstructed: float = 0.9
    seed: int = 0


def basis(vectors_NC: Tensor, rule: DimensionRule) -> Tensor:
    """Computes p×C orthonormal rows that span what a cluster's vectors vary in; p may be 0."""
    mean_C = vectors_NC.mean(0)
    rest_NC = vectors_NC - mean_C
    values_R, rows_RC = principal(rest_NC, float(vectors_NC.square().sum()))
    size = int((values_R > rule.alpha * values_R[:1]).sum())
    if rule.held_out and len(values_R) and len(rest_NC) >= 4:
        order = torch.randperm(len(rest_NC), generator=torch.Generator().manual_seed(rule.seed)).to(rest_NC.device)
        fitted, kept = rest_NC[order[::2]], rest_NC[order[1::2]]
        held_RC = principal(fitted, float(fitted.square().sum()))[1]
        share_R = (kept @ held_RC.T).square().sum(0).cumsum(0) / kept.square().sum().clamp_min(1e-30)
        size = min(len(values_R), 1 + int((share_R < rule.reconstructed).sum()))
    rows = rows_RC[:size]
    if not rule.centred and (size == 0 or float(mean_C.square().sum()) > rule.alpha * float(values_R[0])):
        rows = torch.cat([mean_C[None] / torch.linalg.vector_norm(mean_C).clamp_min(1e-30), rows])
    # Made orthonormal at the end: a direction with a small eigenvalue comes out of a Gram matrix with few digits.
    _, sizes, right = torch.linalg.svd(rows, full_matrices=False)
    return right[sizes > 1e-6]


def principal(vectors_NC: Tensor, energy: float) -> tuple[Tensor, Tensor]:
    """Computes the eigenvalues of Σ v vᵀ / N, descending, and their unit directions.

    Args:
        vectors_NC: the vectors v.
        energy: eigenvalues that are rounding errors of it are left out.
    """
    count, channels = vectors_NC.shape
    if count <= channels:  # the N×N Gram matrix has the same eigenvalues
        values, left = torch.linalg.eigh(vectors_NC @ vectors_NC.T / count)
        values, rows = values.flip(0), left.flip(1).T @ vectors_NC
    else:
        values, right = torch.linalg.eigh(vectors_NC.T @ vectors_NC / count)
        values, rows = values.flip(0), right.flip(1).T
    kept = (values > 1e-10 * values[:1]) & (values > 1e-16 * energy)
    rows = rows[kept]
    return values[kept], rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)


def refine(unit_NC: Tensor, bases: list[Tensor], share: float, rule: DimensionRule, *, rounds: int = 5) -> Tensor:
    """Assigns all vectors to subspaces by K-subspaces: to the subspace with the most energy, then subspaces are refitted.

    In each round the given share of vectors that fit worst is left out of the fits. Single precision suffices to compare
    subspaces.

    Args:
        unit_NC: N vectors of length 1.
        bases: the subspaces to begin with, p×C each.
        share: share of the vectors to leave out.
        rule: for the dimensions.
        rounds: largest number of rounds.

    Returns:
        N labels, -1 for vectors that are left out.
    """
    labels_N = torch.full((len(unit_NC),), -2, device=unit_NC.device)
    unit_NC, bases, rule = unit_NC.float(), [b.float() for b in bases], replace(rule, centred=False)
    for _ in range(rounds):
        energy_NK = torch.stack([(unit_NC @ b.T).square().sum(1) for b in bases], 1)
        best_N, now_N = energy_NK.max(1)
        if share > 0:
            now_N = now_N.masked_fill(best_N < best_N.quantile(share), -1)
        if torch.equal(now_N, labels_N):
            break
        labels_N = now_N
        for k, old in enumerate(bases):
            own = unit_NC[labels_N == k]
            own = own[:: max(1, len(own) // _FIT)]  # enough for a subspace of tens of dimensions
            new = basis(own, rule) if len(own) else old
            bases[k] = new if len(new) else old
    return labels_N

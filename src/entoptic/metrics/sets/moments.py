"""Streaming means and covariances in float64, and the Fréchet distance between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from entoptic.errors import UserError


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and scatter of n rows. Two of them merge into those of all rows.

    Attributes:
        n: number of rows.
        mean: C float64.
        scatter: C×C float64, the sum of outer products of rows less their mean.
    """

    n: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, features_NC: Tensor) -> Self:
        """Returns the moments of rows."""
        rows = features_NC.double()
        mean = rows.mean(0) if len(rows) else rows.new_zeros(rows.shape[1])
        centred = rows - mean
        return cls(len(rows), mean, centred.T @ centred)

    def merged(self, other: Moments) -> Moments:
        """Returns the moments of both sets of rows together (Chan, Golub and LeVeque 1983)."""
        n = self.n + other.n
        if not n:
            return self
        gap = other.mean - self.mean
        scatter = self.scatter + other.scatter + torch.outer(gap, gap) * (self.n * other.n / n)
        return Moments(n, self.mean + gap * (other.n / n), scatter)

    @property
    def covariance(self) -> Tensor:
        """C×C, unbiased.

        Raises:
            UserError: fewer than 2 rows.
        """
        if self.n < 2:
            raise UserError(f"a covariance needs 2 pictures, there are {self.n}")
        return self.scatter / (self.n - 1)


def root(covariance_CC: Tensor) -> Tensor:
    """Returns the symmetric square root of a covariance, by its eigenvalues; negative ones are rounding and count as 0."""
    values, vectors = torch.linalg.eigh(covariance_CC)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def frechet_between(a: Moments, b: Moments, root_b: Tensor | None = None) -> float:
    """Returns the squared Fréchet distance between the Gaussians of two sets.

    |μ_a - μ_b|² + tr Σ_a + tr Σ_b - 2 tr (Σ_b^½ Σ_a Σ_b^½)^½. The last matrix is symmetric, so its eigenvalues suffice.

    Args:
        a: moments of one set.
        b: moments of the other.
        root_b: `root(b.covariance)`, where it is known.
    """
    sqrt_b = root(b.covariance) if root_b is None else root_b
    covariance = a.covariance
    inner = sqrt_b @ covariance @ sqrt_b
    cross = torch.linalg.eigvalsh((inner + inner.T) / 2).clamp_min(0).sqrt().sum()
    shift = (a.mean - b.mean).square().sum()
    return float(shift + covariance.trace() + b.covariance.trace() - 2 * cross)

"""Clusters of vectors near subspaces, against an oracle and planted subspaces."""

from __future__ import annotations

import numpy as np
import torch

from entoptic.units.subspaces import (
    DimensionRule,
    basis,
    inliers,
    kmeans,
    self_representation,
    spectral_labels,
    spectral_vectors,
)
from oracles import mcd as oracle
from planted_subspaces import gaussian, planted, rand_index, unit_rows


def test_sparse_codes_are_those_of_coordinate_descent() -> None:
    unit = unit_rows(planted(per=6, clusters=3, channels=20, dims=3)[0])
    exact = oracle.self_representation(unit.numpy(), 10.0)
    found = self_representation(unit, gamma=10, neighbours=17, steps=5000, tolerance=1e-13).numpy()
    assert np.abs(found - exact).max() < 1e-5
    default = self_representation(unit, gamma=10, neighbours=17).numpy()
    assert np.linalg.norm(default - exact) < 0.04 * np.linalg.norm(exact)
    assert (np.diag(found) == 0).all()


def test_planted_subspaces_are_found_where_k_means_fails() -> None:
    vectors, labels, _ = planted()
    unit = unit_rows(vectors)
    _, codes = inliers(unit.float(), 0.0, gamma=50, neighbours=30)
    found = spectral_labels(spectral_vectors(codes, 4), 4, 0)
    assert rand_index(found, labels) >= 0.95
    assert rand_index(kmeans(unit, 4, seed=0), labels) < 0.3


def test_a_basis_is_the_pca_of_the_oracle() -> None:
    vectors = planted(clusters=1, per=200, noise=0.1)[0] + 3 * gaussian(40, seed=3)
    found, exact = basis(vectors, DimensionRule()), oracle.pca(vectors.numpy(), 0.05)
    assert found.shape == exact.shape == (5, 40)
    torch.testing.assert_close(found.T @ found, torch.from_numpy(exact.T @ exact))
    wide = basis(vectors, DimensionRule(centred=False))
    mean = vectors.mean(0) / vectors.mean(0).norm()
    assert wide.shape[0] == 6
    assert float((wide @ mean).norm()) > 1 - 1e-9 > float((found @ mean).norm())
    few = vectors[:4]  # fewer vectors than channels and than dimensions
    assert basis(few, DimensionRule()).shape == (3, 40)


def test_dimensions_by_reconstruction_of_what_was_left_out() -> None:
    vectors = planted(clusters=1, per=200, noise=0.02)[0]
    assert len(basis(vectors, DimensionRule(held_out=True, reconstructed=0.95))) == 5
    assert len(basis(vectors, DimensionRule(held_out=True, reconstructed=0.3))) < 5
    # Pure noise among many more channels than vectors: what was left out cannot be reconstructed.
    noise = gaussian(40, 200)
    assert len(basis(noise, DimensionRule(held_out=True, reconstructed=0.95))) == 20 + 1

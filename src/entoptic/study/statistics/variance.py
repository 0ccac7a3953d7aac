"""How precise a crossed design can be, from variances of persons, units and answers."""

from __future__ import annotations


def crossed_variance(*, person: float, unit: float, residual: float, persons: int, units: int, answers: int) -> float:
    """Returns the variance of the mean of a crossed study, σ²_p/P + σ²_u/U + σ²_e/n.

    Args:
        person: variance over persons.
        unit: variance over units.
        residual: variance of an answer beside them.
        persons: P.
        units: U.
        answers: n; P·U where everybody answers for every unit.
    """
    return person / persons + unit / units + residual / answers


def design_effect(cluster: float, correlation: float) -> float:
    """Returns by how much one-way clustering inflates a variance, 1 + (m − 1)·ICC.

    Args:
        cluster: m, answers in a cluster.
        correlation: within it.
    """
    return 1 + (cluster - 1) * correlation


def spearman_brown(correlation: float) -> float:
    """Returns the reliability of the whole from the correlation of two halves, 2r/(1 + r)."""
    return 2 * correlation / (1 + correlation)

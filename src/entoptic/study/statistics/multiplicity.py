"""Corrections for many comparisons."""

from __future__ import annotations

from collections.abc import Sequence

from statsmodels.stats.multitest import multipletests


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values adjusted by Holm's method: the chance of any false finding among them stays below the level."""
    return _adjusted(p_values, "holm")


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Returns p-values adjusted by Benjamini and Hochberg: of what is below 0.05, about 5 % at most are false findings."""
    return _adjusted(p_values, "fdr_bh")


def _adjusted(p_values: Sequence[float], method: str) -> list[float]:
    return [float(p) for p in multipletests(list(p_values), method=method)[1]] if len(p_values) else []

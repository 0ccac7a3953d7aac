"""Random edits of a map that a concept's edit is compared with.

Symbols: φ the photo's map, φ_k its part in concept k, α the scale, Σ the covariance of photos' map vectors. The length of a
change e of a map is |e|_Σ = √Σ_p e_pᵀ Σ⁻¹ e_p over positions p, in standard deviations. With Euclidean length, edits in
directions in which maps hardly vary would lead farther from all maps. Decoders react strongly to that, whatever the edit
means.

No torch is imported at the top: `steer` is imported by the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from entoptic.base.randomness import generator_for
from entoptic.errors import NotAvailable

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from entoptic.inversion.map_gaussian import Ellipsoid

FLOOR = 1e-3
"""Least variance that is assumed for a direction of maps, as a share of the largest."""
ABSENT = 1e-5
"""A part that is shorter than this share of φ is held to be rounding error, and is not stretched to the common size."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The maps whose pictures are compared with that of φ.

    Attributes:
        concept_1Chw: φ with the concept's edit at the size of the test; None where that is the edit that is shown.
        nulls_RChw: φ with each random edit.
        size: of the concept's edit in the test, as a multiple of the one that is shown; None where there is none.
    """

    concept_1Chw: Tensor | None
    nulls_RChw: Tensor
    size: float | None


@dataclass(frozen=True, kw_only=True)
class NullTest:
    """How random edits are made and compared with a concept's.

    Attributes:
        version: in records and keys. A test that gives other numbers gets a higher one, and the old one stays, so that
            stored runs can be verified.
        about: what is compared, in words.
        dimension: (dictionary, concept, φ_k, Σ) -> dimension of the random subspaces.
        compare: (φ, φ_k, α, dimension, Σ, generators of the R random subspaces) -> the maps to be decoded.
    """

    version: int
    about: str
    dimension: Callable[[Any, int, Tensor, Ellipsoid], int] = field(repr=False)
    compare: Callable[[Tensor, Tensor, float, int, Ellipsoid, Iterable[Generator]], Compared] = field(repr=False)


# --- lengths ---------------------------------------------------------------------------------------------------------


def map_covariance(inverter: Any) -> Ellipsoid:
    """Returns Σ of the vectors of photos' maps.

    It is that of the inverter's Gaussian, or diagonal with its channels' variances where it has none. Variances are at least
    `FLOOR` of the largest: in directions in which maps hardly vary, the smallest change would otherwise have a huge length,
    and a random edit of that length would destroy the map.

    Args:
        inverter: an `Inverter`.
    """
    import torch

    from entoptic.inversion.map_gaussian import Ellipsoid

    none = torch.empty(0, dtype=torch.float64)
    if getattr(inverter, "law", None) is None:
        sd_C = inverter.sd_C.double().cpu()
        axes_KC = torch.eye(len(sd_C), dtype=torch.float64)[sd_C > 0]
        centre_C, variance_K, rest = torch.zeros_like(sd_C), sd_C[sd_C > 0].square(), sd_C.new_zeros(())
    else:
        view = inverter.law.positions
        centre_C, axes_KC = view.mean_C.double(), view.axes_KC.double()
        variance_K, rest = view.variance_K.double(), view.rest.double()
    floor = FLOOR * variance_K.max()
    return Ellipsoid(
        centre_C, axes_KC, variance_K.clamp_min(floor), rest.clamp_min(floor) if float(rest) > 0 else rest, none
    )


def standardised_length(edit_1Chw: Tensor, ellipsoid: Ellipsoid) -> float:
    """Returns the length of a change in standard deviations of photos' maps: √Σ_p e_pᵀ Σ⁻¹ e_p over positions p.

    Args:
        edit_1Chw: e.
        ellipsoid: Σ, up to a constant factor.
    """
    return float(ellipsoid.steps(edit_1Chw[0].flatten(1).T.double().cpu()).sum().sqrt())


# --- dimensions ------------------------------------------------------------------------------------------------------


def dimension_of(part_1Chw: Tensor) -> int:
    """Returns the dimension of the space that a part's vectors span over its positions."""
    return _rank(part_1Chw[0].flatten(1))


def photo_dimension(dictionary: Any, k: int, part_1Chw: Tensor, ellipsoid: Ellipsoid) -> int:
    """Returns the dimension of a concept's part in one photo. The arguments are those of `concept_dimension`."""
    return dimension_of(part_1Chw)


def concept_dimension(dictionary: Any, k: int, part_1Chw: Tensor, ellipsoid: Ellipsoid) -> int:
    """Returns the dimension of the space that a concept's parts span over all maps.

    A photo's map has few positions, and some photos have nearly the same vector at all of them. Then its part spans less than
    the concept does. Random subspaces of that smaller dimension would be no equals of the concept's. So the dictionary
    is also asked for its parts of draws from Σ, more of them until they span less than their number.

    Args:
        dictionary: a `Dictionary`.
        k: the concept.
        part_1Chw: φ_k. What a concept does in this photo counts too, where it answers to none of the draws.
        ellipsoid: Σ.
    """
    import torch

    from entoptic.units.dictionary import parts_of

    channels, positions = part_1Chw.shape[1], part_1Chw[0, 0].numel()
    generator, found, maps = generator_for("dimension of a concept"), dimension_of(part_1Chw), -(-32 // positions)
    values_CN = torch.empty(channels, 0, dtype=torch.float64)
    while True:
        drawn_NC = ellipsoid.mean_C + ellipsoid.directions(maps * positions, generator)
        (part_BCD,) = parts_of(dictionary, drawn_NC.float().unflatten(0, (maps, positions)).mT, [k])
        values_CN = torch.cat([values_CN, part_BCD.double().cpu().mT.flatten(0, 1).T], 1)
        found, count = max(found, _rank(values_CN)), values_CN.shape[1]
        if found < count or count >= channels:
            return found
        maps *= 2


def _rank(values_CN: Tensor) -> int:
    import torch

    return int(torch.linalg.matrix_rank(values_CN.double(), rtol=1e-4))


# --- random parts ----------------------------------------------------------------------------------------------------


def random_part(phi_1Chw: Tensor, dimension: int, ellipsoid: Ellipsoid, generator: Generator) -> Tensor:
    """Returns φ projected on a random subspace, 1×C×h×w float64.

    Args:
        phi_1Chw: φ.
        dimension: of the subspace; at most the rank of Σ is taken.
        ellipsoid: Σ. The subspace is spanned by draws from the Gaussian with this covariance.
        generator: of the draws.
    """
    import torch

    axes = len(ellipsoid.mean_C) if float(ellipsoid.rest) > 0 else int((ellipsoid.variance_K > 0).sum())
    basis_Cd = torch.linalg.qr(ellipsoid.directions(max(1, min(dimension, axes)), generator).T).Q
    values_CD = phi_1Chw[0].flatten(1).double().cpu()
    return (basis_Cd @ (basis_Cd.T @ values_CD)).view(1, *phi_1Chw.shape[1:])


def null_part(
    phi_1Chw: Tensor, edit_1Chw: Tensor, dimension: int, ellipsoid: Ellipsoid, generator: Generator
) -> Tensor:
    """Returns φ projected on a random subspace and rescaled to the length of an edit, 1×C×h×w; of `OWN_SIZE`.

    Args:
        phi_1Chw: φ.
        edit_1Chw: φ' - φ.
        dimension: of the subspace.
        ellipsoid: Σ. The subspace is spanned by draws from the Gaussian with this covariance.
        generator: of the draws.
    """
    import torch

    draws_dC = ellipsoid.directions(max(1, min(dimension, int((ellipsoid.variance_K > 0).sum()))), generator)
    basis_Cd = torch.linalg.qr(draws_dC.T).Q
    part = torch.einsum("cd,ed,behw->bchw", basis_Cd, basis_Cd, phi_1Chw.double().cpu())
    length = standardised_length(part, ellipsoid)
    return (part * (standardised_length(edit_1Chw, ellipsoid) / length if length > 0 else 0.0)).to(phi_1Chw)


# --- tests -----------------------------------------------------------------------------------------------------------


def compare_at_common_size(
    phi_1Chw: Tensor, part_1Chw: Tensor, scale: float, dimension: int, ellipsoid: Ellipsoid,
    generators: Iterable[Generator],
) -> Compared:  # fmt: skip
    """Returns φ - (1 - α)·(L/|φ_i|_Σ)·φ_i for the concept's part and for R random parts φ_i. L is the median of their lengths.

    If the concept's subspace is drawn as the random ones are, its part and the random parts are R + 1 independent draws of
    one law, for this φ and this dimension. L does not depend on their order, so that the R + 1 edits have one size and are
    exchangeable too. All are decoded in the same way with the same noise, and therefore every rank of the concept's
    difference among theirs is equally likely.

    A part that is shorter than `ABSENT` of φ is not rescaled: its edit is 0, be it the concept's or a random one.

    Args:
        phi_1Chw: φ.
        part_1Chw: φ_k.
        scale: α.
        dimension: of the concept, see `concept_dimension`.
        ellipsoid: Σ.
        generators: of the draws of each random subspace.
    """
    import torch

    least = ABSENT * standardised_length(phi_1Chw, ellipsoid)
    own = standardised_length(part_1Chw, ellipsoid)
    if own <= least:  # its difference is 0, and no rank but the last is left
        return Compared(concept_1Chw=phi_1Chw, nulls_RChw=phi_1Chw.expand(len(list(generators)), -1, -1, -1), size=None)
    parts = [part_1Chw.double().cpu(), *(random_part(phi_1Chw, dimension, ellipsoid, g) for g in generators)]
    lengths = torch.tensor([standardised_length(part, ellipsoid) for part in parts], dtype=torch.float64)
    size = float(lengths.quantile(0.5))
    factors = (size / lengths).where(lengths > least, 0.0)
    edits = [
        phi_1Chw - ((1 - scale) * float(factor) * part).to(phi_1Chw)
        for factor, part in zip(factors, parts, strict=True)
    ]
    return Compared(concept_1Chw=edits[0], nulls_RChw=torch.cat(edits[1:]), size=size / own)


def compare_at_own_size(
    phi_1Chw: Tensor, part_1Chw: Tensor, scale: float, dimension: int, ellipsoid: Ellipsoid,
    generators: Iterable[Generator],
) -> Compared:  # fmt: skip
    """Returns φ with R random edits of the length of the concept's edit. The test of earlier runs.

    The concept's own length is that of its part alone, which goes with its direction. Where decoders react to an edit's size
    other than in proportion, the concept is then no equal of the random edits, and more are flagged than the level says.

    Args:
        phi_1Chw: φ.
        part_1Chw: φ_k.
        scale: α.
        dimension: of the concept's part in this photo.
        ellipsoid: Σ.
        generators: of the draws of each random subspace.
    """
    import torch

    edit = phi_1Chw - (1 - scale) * part_1Chw - phi_1Chw
    if not edit.any():
        return Compared(concept_1Chw=None, nulls_RChw=phi_1Chw.expand(len(list(generators)), -1, -1, -1), size=None)
    side = 1.0 if scale > 1 else -1.0
    nulls = [phi_1Chw + side * null_part(phi_1Chw, edit, dimension, ellipsoid, g) for g in generators]
    return Compared(concept_1Chw=None, nulls_RChw=torch.cat(nulls), size=1.0)


OWN_SIZE = NullTest(
    version=1, about="random edits as long as the concept's edit", compare=compare_at_own_size,
    dimension=photo_dimension,
)  # fmt: skip
COMMON_SIZE = NullTest(
    version=2, about="the concept's edit and random edits, all of their median length", compare=compare_at_common_size,
    dimension=concept_dimension,
)  # fmt: skip


def find_test(version: int) -> NullTest:
    """Returns the test that a record names.

    Raises:
        NotAvailable: there is none of this version.
    """
    for test in (OWN_SIZE, COMMON_SIZE):
        if test.version == version:
            return test
    raise NotAvailable(f"its random edits are of version {version}; this version of Entoptic knows 1 and 2")

"""Concepts of a class by multi-dimensional concept discovery (MCD; Vielhaben et al. 2023, arXiv:2301.11911).

The maps of a class's photos are cut into vectors, one per position. Vectors that lie near one low-dimensional subspace
are a concept. With C_l (p_l×d) the basis of concept l, C = all of them (p×d) and G = C Cᵀ, a vector φ has the
coefficients a = G⁻¹ C φ and the parts φ^l = C_lᵀ a_l; what is left is orthogonal to every concept. Only p×p systems are
solved, never d×d, and steering and relevance are two thin products.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from entoptic.errors import UserError, counted, nearest
from entoptic.units.subspaces import DimensionRule, basis, inliers, refine, spectral_labels, spectral_vectors

RULES = ("fukunaga-olsen", "held-out")
KIND = "concepts"


@dataclass(frozen=True, kw_only=True)
class Mcd:
    """Multi-dimensional concept discovery."""

    concepts: int = 0
    """how many; 0 takes the fewest that are complete"""
    completeness: float = 0.5
    """target where the number is not given, in (0, 1]"""
    most: int = 19
    """concepts that are tried"""
    gamma: float = 50.0
    """of the sparse codes: the larger, the denser"""
    outliers: float = 0.25
    """share of vectors that belong to no concept"""
    centred: bool = True
    """bases about each cluster's mean, as published; else about 0, so that the mean direction belongs to the concept"""
    dimension: str = "fukunaga-olsen"
    """rule for a concept's dimension: fukunaga-olsen or held-out"""
    alpha: float = 0.05
    """smallest eigenvalue that is a dimension, as a share of the largest (fukunaga-olsen)"""
    reconstructed: float = 0.9
    """share of the energy of left-out vectors that the dimensions reconstruct (held-out)"""
    orthogonal: bool = False
    """make the concepts orthogonal to each other, the most complete first"""
    neighbours: int = 50
    """vectors that a sparse code may use"""
    sample: int = 1000
    """vectors that are clustered by sparse codes; the rest follow by K-subspaces"""
    seed: int = 0
    """of the sample and of k-means"""

    def __post_init__(self) -> None:
        if self.dimension not in RULES:
            raise UserError(
                f'no dimension rule "{self.dimension}"; there are {", ".join(RULES)}{nearest(self.dimension, RULES)}'
            )
        for name, low, high in (
            ("concepts", 0, 1000), ("most", 1, 1000), ("neighbours", 1, 100_000), ("sample", 2, 20_000),
            ("completeness", 1e-6, 1.0), ("outliers", 0.0, 0.9), ("alpha", 1e-6, 1.0), ("reconstructed", 1e-6, 1.0),
            ("gamma", 1.0, 1e9),
        ):  # fmt: skip
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{name} must be from {low:g} to {high:g}, got {getattr(self, name):g}")


@dataclass(frozen=True, eq=False)
class Concepts:
    """K subspaces of a layer, as a `Dictionary`: φ = Σ_k part_k + rest, the rest orthogonal to all of them.

    Maps may have any positions: where B×C×D stands, B×C×h×w gives results with h×w in D's place.

    Attributes:
        bases: one p_k×C per concept, orthonormal rows.
        weights: classes×C, the weights on the pooled map that completeness and relevance are about; may be 0×C.
        layer: see `Dictionary`.
        model_sha256: see `Dictionary`.
        names: see `Dictionary`.
        found: how they were found, JSON-able.
    """

    bases: tuple[Tensor, ...]
    weights: Tensor
    layer: str = ""
    model_sha256: str = ""
    names: list[str] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, bases: Sequence[Tensor], weights: Tensor | None = None, *, names: Sequence[str] = (), **more: Any
    ) -> Concepts:
        """Builds concepts from bases in any length and angle; numbers become float64.

        Args:
            bases: p_k×C each, or single directions C.
            weights: classes×C, or None.
            names: one per concept; "concept 0", … if empty.
            more: `layer`, `model_sha256`, `found`.

        Raises:
            UserError: a basis that is empty, zero or not finite, or concepts that are not independent.
        """
        rows = [b.detach().double().reshape(-1, b.shape[-1]) for b in bases]
        if not rows:
            raise UserError("a dictionary needs at least one concept")
        orthonormal = []
        for k, b in enumerate(rows):
            if not b.numel() or not bool(b.isfinite().all()) or b.shape[1] != rows[0].shape[1]:
                raise UserError(f"concept {k} is empty, not finite or of another width than concept 0")
            _, sizes, right = torch.linalg.svd(b, full_matrices=False)
            own = right[sizes > 1e-8 * sizes[0].clamp_min(1e-30)]
            if not len(own) or float(sizes[0]) == 0:
                raise UserError(f"concept {k} is zero")
            # Rows that are orthonormal already stay as they are, so that saving and loading changes nothing.
            same = len(own) == len(b) and torch.allclose(
                b @ b.T, torch.eye(len(b), dtype=b.dtype, device=b.device), atol=1e-12
            )
            orthonormal.append(b if same else own)
        width = rows[0].shape[1]
        w = weights.detach().double().reshape(-1, width) if weights is not None else rows[0].new_zeros(0, width)
        names = list(names) or [f"concept {k}" for k in range(len(rows))]
        if len(names) != len(rows):
            raise UserError(f"{counted(len(rows), 'concept')} but {counted(len(names), 'name')}")
        made = cls(tuple(orthonormal), w.to(rows[0].device), names=names, **more)
        made._check()
        return made

    @classmethod
    def of_saved(cls, tensors: dict[str, Tensor], about: dict[str, Any]) -> Concepts:
        """Builds concepts from what `tensors` and `about` returned."""
        bases = [tensors[f"basis.{k}"] for k in range(len(about["names"]))]
        return cls.of(
            bases, tensors["weights"], names=about["names"], layer=about["layer"],
            model_sha256=about["model_sha256"], found=about.get("found", {}),
        )  # fmt: skip

    def tensors(self) -> dict[str, Tensor]:
        """Returns all numbers, by name."""
        return {"weights": self.weights, **{f"basis.{k}": b for k, b in enumerate(self.bases)}}

    def about(self) -> dict[str, Any]:
        """Returns everything else, JSON-able; see `Saved`."""
        return {
            "kind": KIND, "layer": self.layer, "model_sha256": self.model_sha256, "names": self.names,
            "dimensions": self.dimensions, "found": self.found,
        }  # fmt: skip

    def __str__(self) -> str:
        what = f"{counted(len(self), 'concept')} of {self.dimensions} dimensions in {self.layer or 'a layer'}"
        return what + (f", completeness {self.completeness():.2f}" if len(self.weights) else "")

    def __len__(self) -> int:
        return len(self.bases)

    @property
    def dimensions(self) -> list[int]:
        """p_k of each concept."""
        return [len(b) for b in self.bases]

    @property
    def channels(self) -> int:
        """Number of channels of the layer."""
        return self.bases[0].shape[1]

    def _check(self) -> None:
        total = sum(self.dimensions)
        if total > self.channels or float(torch.linalg.eigvalsh(self._gram)[0]) < 1e-8:
            raise UserError(
                f"{len(self)} concepts of {self.dimensions} dimensions are not independent in {self.channels} channels, "
                "so parts are not unique: take fewer concepts, fewer dimensions (a higher alpha) or orthogonal=True"
            )

    @cached_property
    def _all(self) -> Tensor:  # C, p×d
        return torch.cat(self.bases)

    @cached_property
    def _gram(self) -> Tensor:  # G, p×p
        return self._all @ self._all.T

    @cached_property
    def _dual(self) -> tuple[Tensor, ...]:
        """V_l, p_l×d each: V = G⁻¹ C. V_l reads concept l's coefficients and is blind to the other concepts."""
        return torch.linalg.solve(self._gram, self._all).split(self.dimensions)

    # --- the decomposition of maps ------------------------------------------------------------------------------

    def part(self, maps_BCD: Tensor, k: int) -> Tensor:
        """Computes φ^k, the part of concept k: B×C×D."""
        return torch.einsum("pc,bp...->bc...", self.bases[k].to(maps_BCD), self._coefficients(maps_BCD, k))

    def parts(self, maps_BCD: Tensor) -> Tensor:
        """Computes φ^0 to φ^(K-1): K×B×C×D."""
        return torch.stack([self.part(maps_BCD, k) for k in range(len(self))])

    def rest(self, maps_BCD: Tensor) -> Tensor:
        """Computes what belongs to no concept: B×C×D."""
        return maps_BCD - self.parts(maps_BCD).sum(0)

    def activations(self, maps_BCD: Tensor) -> Tensor:
        """Computes |φ^k| at each position: B×K×D; its gradient is 0 where it is 0."""
        if maps_BCD.dtype in (torch.float16, torch.bfloat16):
            maps_BCD = maps_BCD.float()
        norms = [torch.linalg.vector_norm(self._coefficients(maps_BCD, k), dim=1) for k in range(len(self))]
        return torch.stack(norms, 1)

    def shares(self, maps_BCD: Tensor) -> Tensor:
        """Computes concept activation maps as published, |φ^k| over the largest |φ| of the picture: B×K×D."""
        size = torch.linalg.vector_norm(maps_BCD, dim=1).flatten(1).amax(1).clamp_min(1e-30)
        return self.activations(maps_BCD) / size.reshape(-1, *[1] * (maps_BCD.ndim - 1))

    def _coefficients(self, maps_BCD: Tensor, k: int) -> Tensor:
        return torch.einsum("pc,bc...->bp...", self._dual[k].to(maps_BCD), maps_BCD)

    def assign(self, vectors_NC: Tensor) -> Tensor:
        """Assigns each vector to the concept in whose subspace most of it lies: N numbers."""
        vectors = vectors_NC.to(self._all)
        return torch.stack([(vectors @ b.T).square().sum(1) for b in self.bases], 1).argmax(1)

    # --- what they mean for a class -----------------------------------------------------------------------------

    def completeness(self, of: int = 0) -> float:
        """Computes η = |P_U w| / |w|: how much of a class's weights lies in the span U of all concepts, 0 to 1.

        Args:
            of: number of the class.
        """
        w, seen = self.weights[of], self._all @ self.weights[of]
        return float((seen @ torch.linalg.solve(self._gram, seen)).clamp_min(0).sqrt() / w.norm())

    def global_relevance(self, of: int = 0) -> Tensor:
        """Computes |w^l| of each concept and, last, of the rest, for w of length 1: K+1 numbers.

        Their squares add up to 1 where the concepts are orthogonal.

        Args:
            of: number of the class.
        """
        w = (self.weights[of] / self.weights[of].norm())[None, :, None]
        pieces = torch.cat([self.parts(w), self.rest(w)[None]])
        return torch.linalg.vector_norm(pieces[:, 0, :, 0], dim=1)

    def local_relevance(self, maps_BCD: Tensor, weight: Tensor | None = None) -> Tensor:
        """Computes w·φ^l at each position, the rest last: B×(K+1)×D.

        Its mean over positions, summed over l, is w·(pooled φ).

        Args:
            maps_BCD: values of the layer.
            weight: C or B×C; the first class's if not given. With `HeadWeights.weight_BC` the sum is logit - base.
        """
        w = self.weights[0] if weight is None else weight
        w_BC = w.to(maps_BCD).expand(len(maps_BCD), -1)
        rows = [(w_BC @ b.to(w_BC).T) @ v.to(w_BC) for b, v in zip(self.bases, self._dual)]  # M_l = V_lᵀ (C_l w)
        rows.append(w_BC - sum(rows))
        return torch.einsum("bkc,bc...->bk...", torch.stack(rows, 1), maps_BCD)


# --- discovery ------------------------------------------------------------------------------------------------------


def discover(
    maps_vectors: Tensor, weight: Tensor, config: Mcd | None = None, *,
    layer: str = "", model_sha256: str = "", found: dict[str, Any] | None = None,
) -> Concepts:  # fmt: skip
    """Discovers concepts in the vectors of one class (or a few), the most relevant first (MCD, arXiv:2301.11911).

    Where the number of concepts is free it is the smallest with the completeness asked for (of every class), and the most
    complete number where none has it. The order of the vectors does not matter.

    Args:
        maps_vectors: N×C, one vector per position and photo.
        weight: C, or classes×C, of the logit on the pooled map.
        config: settings; the defaults if None.
        layer: name of the layer, kept in the result.
        model_sha256: of the network's weights, kept in the result.
        found: how the vectors were made, kept in the result; JSON-able.

    Raises:
        UserError: vectors or weights that are not finite, all zero, all alike (centred) or too few.
    """
    config = config or Mcd()
    unit_NC, w = _checked(maps_vectors, weight)
    generator = torch.Generator().manual_seed(config.seed)
    # By their place along one random direction: the same vectors in another order give the same concepts.
    along_C = torch.randn(unit_NC.shape[1], generator=generator, dtype=torch.float64).to(unit_NC.device)
    unit_NC = unit_NC[(unit_NC @ along_C).argsort()]
    chosen = torch.randperm(len(unit_NC), generator=generator)[: config.sample].sort().values.to(unit_NC.device)
    # Single precision is plenty for the codes; bases and all that follows are float64.
    kept, codes = inliers(unit_NC[chosen].float(), config.outliers, gamma=config.gamma, neighbours=config.neighbours)
    sample_NC = unit_NC[chosen[kept]]
    numbers = [config.concepts] if config.concepts else list(range(1, config.most + 1))
    numbers = [n for n in numbers if n <= len(sample_NC)]
    if not numbers:
        raise UserError(f"{config.concepts} concepts were asked of {len(sample_NC)} vectors (outliers left out)")
    vectors_NM = spectral_vectors(codes, numbers[-1])
    best: Concepts | None = None
    refusal: UserError | None = None
    for number in numbers:
        labels = spectral_labels(vectors_NM, number, config.seed)
        try:
            bases = _bases(unit_NC, sample_NC, labels, number, w, config)
            made = Concepts.of(bases, w, layer=layer, model_sha256=model_sha256)
        except UserError as error:
            refusal = error
            continue
        reached = min(made.completeness(c) for c in range(len(w)))
        if best is None or reached > min(best.completeness(c) for c in range(len(w))):
            best = made
        if reached >= config.completeness:
            break
    if best is None:
        assert refusal is not None
        raise refusal
    order = best.global_relevance()[:-1].argsort(descending=True).tolist()
    about = {"config": asdict(config), "vectors": len(unit_NC), "completeness": best.completeness(), **(found or {})}
    return Concepts.of([best.bases[k] for k in order], w, layer=layer, model_sha256=model_sha256, found=about)


def _checked(vectors_NC: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Returns vectors of length 1 and weights classes×C, both float64; refuses what has no concepts."""
    if vectors_NC.ndim != 2 or weight.ndim not in (1, 2) or weight.shape[-1] != vectors_NC.shape[1]:
        raise UserError(
            f"expected vectors N×C and weights C or classes×C, got {tuple(vectors_NC.shape)} and {tuple(weight.shape)}"
        )
    rows, w = vectors_NC.detach().double(), weight.detach().double().reshape(-1, weight.shape[-1]).to(vectors_NC.device)
    bad = int((~rows.isfinite().all(1)).sum())
    if bad or not bool(w.isfinite().all()):
        raise UserError(f"{bad} of {len(rows)} vectors are not finite" if bad else "the weights are not finite")
    if bool((w.norm(dim=1) == 0).any()):
        raise UserError("a class's weights are all zero: its logit does not depend on this layer")
    size = torch.linalg.vector_norm(rows, dim=1)
    some = size > 0
    if int(some.sum()) < 3:
        raise UserError(f"{int(some.sum())} of {len(rows)} vectors are not zero; concepts need at least 3")
    return rows[some] / size[some, None], w


def _bases(all_NC: Tensor, sample_NC: Tensor, labels: Tensor, number: int, w: Tensor, config: Mcd) -> list[Tensor]:
    rule = DimensionRule(
        config.centred, config.dimension == "held-out", config.alpha, config.reconstructed, config.seed
    )
    groups = [sample_NC[labels == k] for k in range(number)]
    if any(not len(g) for g in groups):
        raise UserError(f"the vectors fall into fewer than {number} clusters")
    if len(all_NC) > config.sample and number > 1:
        whole = [basis(g, replace(rule, centred=False)) for g in groups]
        moved = refine(all_NC, whole, config.outliers, rule)
        groups = [own if len(own := all_NC[moved == k]) else groups[k] for k in range(number)]
    found = [basis(g, rule) for g in groups]
    for k, (b, g) in enumerate(zip(found, groups)):
        if not len(b):
            raise UserError(
                f"cluster {k} of {number} has {len(g)} vectors that are all alike, which vary in no direction; "
                "take fewer concepts, or centred=False"
            )
    return orthogonalised(found, w) if config.orthogonal else found


def orthogonalised(bases: Sequence[Tensor], weights: Tensor) -> list[Tensor]:
    """Makes bases orthogonal to each other that span the same: in turn the one that adds most to the completeness.

    A concept that lies inside those before it is dropped.

    Args:
        bases: p_k×C each, orthonormal rows.
        weights: classes×C.
    """
    left, done = list(bases), []
    while left:
        gains = [float((b @ weights.T).norm()) for b in left]  # |P_b w|, b being orthogonal to all that are done
        done.append(left.pop(gains.index(max(gains))))
        cut = [b - b @ done[-1].T @ done[-1] for b in left]
        spans = [torch.linalg.svd(b, full_matrices=False) for b in cut]
        left = [own for _, sizes, right in spans if len(own := right[sizes > 1e-6])]
    return done

"""`FeatureMapGaussian`: Gaussians fitted to the feature maps of photos, and how typical another map is under them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields

import torch
from torch import Generator, Tensor

from entoptic.errors import UserError

VIEWS = ("pooled", "positions", "neighbours")
"""Views of a map: its mean over positions, the vector at each position, the difference between neighbouring positions."""
COMPONENTS = 64
_CHUNK = 64


@dataclass(frozen=True)
class Ellipsoid:
    """A Gaussian with K principal axes, and one variance for all directions orthogonal to them.

    This is probabilistic PCA (Tipping & Bishop 1999). A vector outside the K axes is far away, not invisible.

    Attributes:
        mean_C: its mean.
        axes_KC: orthonormal principal axes.
        variance_K: variances along them.
        rest: variance orthogonal to them (0-dim; 0 for K = C).
        distances_N: distances of the reference maps, ascending. The Gaussian was not fitted to these maps.
    """

    mean_C: Tensor
    axes_KC: Tensor
    variance_K: Tensor
    rest: Tensor
    distances_N: Tensor

    def squares(self, vectors_MC: Tensor) -> Tensor:
        """Returns the squared Mahalanobis distances of vectors M×C, divided by C: M, about 1 for the maps it was fitted to."""
        return self.steps(vectors_MC.to(self.mean_C) - self.mean_C)

    def steps(self, steps_MC: Tensor) -> Tensor:
        """Returns `squares` of mean_C + steps: how atypical a change of a map is, M.

        Args:
            steps_MC: vectors from the mean.
        """
        centred_MC = steps_MC.to(self.mean_C)
        along_MK = centred_MC @ self.axes_KC.T
        found_M = (along_MK.square() / self.variance_K).sum(1)
        if float(self.rest) > 0:
            beside_M = (centred_MC.square().sum(1) - along_MK.square().sum(1)).clamp_min(0)
            found_M = found_M + beside_M / self.rest
        return found_M / centred_MC.shape[1]

    def directions(self, count: int, generator: Generator) -> Tensor:
        """Draws from the Gaussian with its mean subtracted: count×C float64."""
        along_NK = torch.randn(count, len(self.axes_KC), generator=generator, dtype=torch.float64)
        found_NC = along_NK * self.variance_K.double().sqrt() @ self.axes_KC.double()
        if float(self.rest) > 0:
            beside_NC = torch.randn(count, len(self.mean_C), generator=generator, dtype=torch.float64)
            beside_NC = beside_NC - beside_NC @ self.axes_KC.double().T @ self.axes_KC.double()
            found_NC = found_NC + float(self.rest) ** 0.5 * beside_NC
        return found_NC

    def below(self, distance: float) -> int:
        """Returns how many of the reference maps have a smaller distance."""
        return int(torch.searchsorted(self.distances_N, torch.tensor(distance).to(self.distances_N)))


@dataclass(frozen=True)
class FeatureMapGaussian:
    """Gaussians of the vectors of maps B×C×h×w, in three views.

    A map's distance in a view is the root mean square, over its vectors, of the Mahalanobis distance. In many dimensions
    the maps of photos lie in a shell. So a map that is nearer to the mean than all of them (such as an average of maps) is
    as atypical as one that is farther. No view knows where in the picture a vector usually occurs. `neighbours` detects
    seams and shuffled positions; the other two do not.

    Attributes:
        pooled: see `VIEWS`.
        positions: see `VIEWS`.
        neighbours: see `VIEWS`; None for a grid of one position.
    """

    pooled: Ellipsoid
    positions: Ellipsoid
    neighbours: Ellipsoid | None

    @classmethod
    def fit(cls, maps_NChw: Tensor, *, components: int = COMPONENTS) -> FeatureMapGaussian:
        """Fits the Gaussians to every second one of N maps; the other maps are the references.

        Args:
            maps_NChw: N×C×h×w.
            components: maximum number of principal axes. There are fewer where there are fewer channels, or fewer than five
                vectors for each axis.

        Raises:
            UserError: fewer than 20 maps, or maps of another shape than N×C×h×w.
        """
        if maps_NChw.ndim != 4:
            raise UserError(f"expected maps of shape N×C×h×w, got {tuple(maps_NChw.shape)}")
        if len(maps_NChw) < 20:
            raise UserError(f"a Gaussian of feature maps needs at least 20 maps, got {len(maps_NChw)}")
        fitted, held_out = maps_NChw[::2], maps_NChw[1::2]
        views = [_fit(fitted, held_out, vectors_of, components) for vectors_of in (_pooled, _positions)]
        beside = _fit(fitted, held_out, _neighbours, components) if maps_NChw[0, 0].numel() > 1 else None
        return cls(views[0], views[1], beside)

    @property
    def channels(self) -> int:
        """C of the maps."""
        return len(self.pooled.mean_C)

    @property
    def references(self) -> int:
        """Number of reference maps."""
        return len(self.pooled.distances_N)

    def views(self) -> dict[str, Ellipsoid]:
        """Returns the views that exist, by name."""
        return {name: view for name in VIEWS if (view := getattr(self, name)) is not None}

    def distances(self, maps_BChw: Tensor) -> dict[str, Tensor]:
        """Returns the distances in each view, B float64.

        Args:
            maps_BChw: B×C×h×w.

        Raises:
            UserError: maps with another number of channels.
        """
        if maps_BChw.ndim != 4 or maps_BChw.shape[1] != self.channels:
            raise UserError(f"expected maps of shape B×{self.channels}×h×w, got {tuple(maps_BChw.shape)}")
        return {name: _distances(view, maps_BChw, _VECTORS_OF[name]) for name, view in self.views().items()}

    def percentiles(self, maps_BChw: Tensor) -> dict[str, Tensor]:
        """Returns the share of the reference maps with a smaller distance, in each view: B, in %. Uniform in [0, 100] for photos.

        Args:
            maps_BChw: B×C×h×w.
        """
        found = self.distances(maps_BChw)
        return {
            name: torch.tensor([100 * view.below(float(d)) / len(view.distances_N) for d in found[name]])
            for name, view in self.views().items()
        }

    # --- on disk ----------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Returns all its tensors by name, for a safetensors file."""
        return {
            f"{name}.{part.name}": getattr(view, part.name)
            for name, view in self.views().items()
            for part in fields(Ellipsoid)
        }

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> FeatureMapGaussian:
        """Makes the object that wrote `tensors`; other entries are ignored.

        Args:
            tensors: by name, as from `FeatureMapGaussian.tensors`.

        Raises:
            UserError: entries are missing.
        """
        views: dict[str, Ellipsoid | None] = {}
        for name in VIEWS:
            parts = {part.name: tensors.get(f"{name}.{part.name}") for part in fields(Ellipsoid)}
            missing = [part for part, tensor in parts.items() if tensor is None]
            if missing and not (name == "neighbours" and len(missing) == len(parts)):
                raise UserError(
                    f"the saved Gaussian of feature maps lacks {name}.{missing[0]}; save it again with `FeatureMapGaussian.tensors`"
                )
            views[name] = None if missing else Ellipsoid(**{k: v for k, v in parts.items() if v is not None})
        pooled, positions = views["pooled"], views["positions"]
        assert pooled is not None
        assert positions is not None
        return cls(pooled, positions, views["neighbours"])


VectorsOf = Callable[[Tensor], Tensor]
"""Takes maps B×C×h×w to the vectors of a view, B×M×C."""


def _pooled(maps_BChw: Tensor) -> Tensor:
    return maps_BChw.mean((2, 3))[:, None]  # B×1×C


def _positions(maps_BChw: Tensor) -> Tensor:
    return maps_BChw.flatten(2).mT  # B×hw×C


def _neighbours(maps_BChw: Tensor) -> Tensor:
    down = (maps_BChw[:, :, 1:] - maps_BChw[:, :, :-1]).flatten(2)
    right = (maps_BChw[..., 1:] - maps_BChw[..., :-1]).flatten(2)
    return torch.cat([down, right], 2).mT  # B×steps×C


_VECTORS_OF: dict[str, VectorsOf] = {"pooled": _pooled, "positions": _positions, "neighbours": _neighbours}


def _fit(fitted: Tensor, held_out: Tensor, vectors_of: VectorsOf, components: int) -> Ellipsoid:
    """Fits the Gaussian of one view to `fitted`, with the distances of `held_out` as references."""
    channels, count = fitted.shape[1], 0
    total, outer = torch.zeros(channels).double(), torch.zeros(channels, channels).double()
    first = (
        next(_vectors_in_chunks(fitted, vectors_of)).flatten(0, 1).mean(0)
    )  # moments about a nearby point lose fewer digits
    for vectors_BMC in _vectors_in_chunks(fitted, vectors_of):
        near_MC = vectors_BMC.flatten(0, 1) - first
        total += near_MC.sum(0)
        outer += near_MC.T @ near_MC
        count += len(near_MC)
    mean = total / count
    values, vectors = torch.linalg.eigh((outer - count * torch.outer(mean, mean)) / (count - 1))
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    kept = max(1, min(components, channels, count // 5))
    # Without a floor, rounding errors in constant channels would have infinite distance.
    floor = 1e-8 * float(values[0].clamp_min(1e-12))
    rest = values[kept:].mean().clamp_min(floor) if kept < channels else values.new_zeros(())
    gaussian = Ellipsoid(
        first + mean, vectors[:, :kept].T.contiguous(), values[:kept].clamp_min(floor), rest, torch.empty(0).double()
    )
    distances = _distances(gaussian, held_out, vectors_of).sort().values
    return Ellipsoid(gaussian.mean_C, gaussian.axes_KC, gaussian.variance_K, gaussian.rest, distances)


def _vectors_in_chunks(maps_NChw: Tensor, vectors_of: VectorsOf) -> Iterator[Tensor]:
    """Yields the vectors of a view for chunks of the maps, B×M×C float64."""
    for chunk in maps_NChw.split(_CHUNK):
        yield vectors_of(chunk.detach().cpu().double())


def _distances(view: Ellipsoid, maps_NChw: Tensor, vectors_of: VectorsOf) -> Tensor:
    """Returns the distances of maps in one view, N float64."""
    parts = [
        view.squares(v.flatten(0, 1)).reshape(v.shape[:2]).mean(1).sqrt()
        for v in _vectors_in_chunks(maps_NChw, vectors_of)
    ]
    return torch.cat(parts) if parts else torch.empty(0).double()

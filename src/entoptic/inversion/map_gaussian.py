"""`MapLaw`: what the feature maps of photos are like, and how usual another map is among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields

import torch
from torch import Generator, Tensor

from entoptic.errors import UserError

VIEWS = ("pooled", "positions", "neighbours")
"""What a map is looked at by: its mean over positions, the vector at each, the step from each to those beside it."""
COMPONENTS = 64
_CHUNK = 64


@dataclass(frozen=True)
class Ellipsoid:
    """A Gaussian by its first K principal axes, and one variance for all directions beside them (probabilistic PCA,
    Tipping & Bishop 1999): a vector that leaves the K axes is far away, not invisible.

    Attributes:
        mean_C: its centre. axes_KC: orthonormal. variance_K: along them. rest: beside them (0-dim; 0 for K = C).
        distances_N: distances of the reference maps, ascending: of maps that the Gaussian was not fitted to.
    """

    mean_C: Tensor
    axes_KC: Tensor
    variance_K: Tensor
    rest: Tensor
    distances_N: Tensor

    def squares(self, vectors_MC: Tensor) -> Tensor:
        """Squared Mahalanobis distances M, relative to the number of channels: about 1 for what it was fitted to."""
        return self.steps(vectors_MC.to(self.mean_C) - self.mean_C)

    def steps(self, steps_MC: Tensor) -> Tensor:
        """`squares` of vectors that lead from the centre: how unusual a change of a map is."""
        centred_MC = steps_MC.to(self.mean_C)
        along_MK = centred_MC @ self.axes_KC.T
        found_M = (along_MK.square() / self.variance_K).sum(1)
        if float(self.rest) > 0:
            beside_M = (centred_MC.square().sum(1) - along_MK.square().sum(1)).clamp_min(0)
            found_M = found_M + beside_M / self.rest
        return found_M / centred_MC.shape[1]

    def directions(self, count: int, generator: Generator) -> Tensor:
        """Draws of its Gaussian, its centre left out: count×C."""
        along_NK = torch.randn(count, len(self.axes_KC), generator=generator, dtype=torch.float64)
        found_NC = along_NK * self.variance_K.double().sqrt() @ self.axes_KC.double()
        if float(self.rest) > 0:
            beside_NC = torch.randn(count, len(self.mean_C), generator=generator, dtype=torch.float64)
            beside_NC = beside_NC - beside_NC @ self.axes_KC.double().T @ self.axes_KC.double()
            found_NC = found_NC + float(self.rest) ** 0.5 * beside_NC
        return found_NC

    def below(self, distance: float) -> int:
        """How many of the reference maps are nearer to the centre."""
        return int(torch.searchsorted(self.distances_N, torch.tensor(distance).to(self.distances_N)))


@dataclass(frozen=True)
class FeatureMapGaussian:
    """Gaussian laws of the vectors of maps B×C×h×w, in three views.

    A map's distance in a view is the root of the mean over its vectors of the squared Mahalanobis distance. In many
    dimensions photos' maps lie in a shell: a map that is nearer to the centre than all of them (an average of maps) is
    as unusual as one that is farther. None of the views knows where on the picture a vector usually stands;
    `neighbours` sees seams and shuffled positions, the other two do not.

    Attributes:
        pooled, positions, neighbours: see `VIEWS`; the last is None for a grid of one position.
    """

    pooled: Ellipsoid
    positions: Ellipsoid
    neighbours: Ellipsoid | None

    @classmethod
    def fit(cls, maps_NChw: Tensor, *, components: int = COMPONENTS) -> FeatureMapGaussian:
        """The law of N maps: every other one is fitted to, the rest are the references.

        components: most principal axes; fewer where there are fewer channels, or fewer than five vectors for each.

        Raises:
            UserError: fewer than 20 maps, or maps of another shape than N×C×h×w.
        """
        if maps_NChw.ndim != 4:
            raise UserError(f"expected maps of shape N×C×h×w, got {tuple(maps_NChw.shape)}")
        if len(maps_NChw) < 20:
            raise UserError(f"a law of maps needs at least 20 of them, got {len(maps_NChw)}")
        fitted, held_out = maps_NChw[::2], maps_NChw[1::2]
        views = [_fit(fitted, held_out, look, components) for look in (_pooled, _positions)]
        beside = _fit(fitted, held_out, _neighbours, components) if maps_NChw[0, 0].numel() > 1 else None
        return cls(views[0], views[1], beside)

    @property
    def channels(self) -> int:
        """C of the maps it knows."""
        return len(self.pooled.mean_C)

    @property
    def references(self) -> int:
        """How many maps of photos a percentile counts."""
        return len(self.pooled.distances_N)

    def views(self) -> dict[str, Ellipsoid]:
        """Those that there are, by name."""
        return {name: view for name in VIEWS if (view := getattr(self, name)) is not None}

    def distances(self, maps_BChw: Tensor) -> dict[str, Tensor]:
        """Distances (B, float64) in each view.

        Raises:
            UserError: maps with another number of channels.
        """
        if maps_BChw.ndim != 4 or maps_BChw.shape[1] != self.channels:
            raise UserError(f"this law is of maps B×{self.channels}×h×w, got {tuple(maps_BChw.shape)}")
        return {name: _distances(view, maps_BChw, _LOOKS[name]) for name, view in self.views().items()}

    def percentiles(self, maps_BChw: Tensor) -> dict[str, Tensor]:
        """Share (B, in %) of the reference maps nearer to the centre, in each view: uniform over 0 to 100 for photos."""
        found = self.distances(maps_BChw)
        return {
            name: torch.tensor([100 * view.below(float(d)) / len(view.distances_N) for d in found[name]])
            for name, view in self.views().items()
        }

    # --- on disk ----------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Everything it consists of, by name, for a safetensors file."""
        return {
            f"{name}.{part.name}": getattr(view, part.name)
            for name, view in self.views().items()
            for part in fields(Ellipsoid)
        }

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> FeatureMapGaussian:
        """The law that `tensors` wrote; other entries are ignored.

        Raises:
            UserError: what is missing.
        """
        views: dict[str, Ellipsoid | None] = {}
        for name in VIEWS:
            parts = {part.name: tensors.get(f"{name}.{part.name}") for part in fields(Ellipsoid)}
            missing = [part for part, tensor in parts.items() if tensor is None]
            if missing and not (name == "neighbours" and len(missing) == len(parts)):
                raise UserError(f"the law of maps has no {name}.{missing[0]}; save it again with `MapLaw.tensors`")
            views[name] = None if missing else Ellipsoid(**{k: v for k, v in parts.items() if v is not None})
        pooled, positions = views["pooled"], views["positions"]
        assert pooled is not None
        assert positions is not None
        return cls(pooled, positions, views["neighbours"])


Look = Callable[[Tensor], Tensor]


def _pooled(maps_BChw: Tensor) -> Tensor:
    return maps_BChw.mean((2, 3))[:, None]  # B×1×C


def _positions(maps_BChw: Tensor) -> Tensor:
    return maps_BChw.flatten(2).mT  # B×hw×C


def _neighbours(maps_BChw: Tensor) -> Tensor:
    down = (maps_BChw[:, :, 1:] - maps_BChw[:, :, :-1]).flatten(2)
    right = (maps_BChw[..., 1:] - maps_BChw[..., :-1]).flatten(2)
    return torch.cat([down, right], 2).mT  # B×steps×C


_LOOKS: dict[str, Look] = {"pooled": _pooled, "positions": _positions, "neighbours": _neighbours}


def _fit(fitted: Tensor, held_out: Tensor, look: Look, components: int) -> Ellipsoid:
    channels, count = fitted.shape[1], 0
    total, outer = torch.zeros(channels).double(), torch.zeros(channels, channels).double()
    first = next(_looked_at(fitted, look)).flatten(0, 1).mean(0)  # moments about a near point lose no digits
    for vectors_BMC in _looked_at(fitted, look):
        near_MC = vectors_BMC.flatten(0, 1) - first
        total += near_MC.sum(0)
        outer += near_MC.T @ near_MC
        count += len(near_MC)
    mean = total / count
    values, vectors = torch.linalg.eigh((outer - count * torch.outer(mean, mean)) / (count - 1))
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    kept = max(1, min(components, channels, count // 5))
    # Channels that never vary would make rounding look infinitely far.
    floor = 1e-8 * float(values[0].clamp_min(1e-12))
    rest = values[kept:].mean().clamp_min(floor) if kept < channels else values.new_zeros(())
    law = Ellipsoid(
        first + mean, vectors[:, :kept].T.contiguous(), values[:kept].clamp_min(floor), rest, torch.empty(0).double()
    )
    distances = _distances(law, held_out, look).sort().values
    return Ellipsoid(law.mean_C, law.axes_KC, law.variance_K, law.rest, distances)


def _looked_at(maps_NChw: Tensor, look: Look) -> Iterator[Tensor]:
    for chunk in maps_NChw.split(_CHUNK):
        yield look(chunk.detach().cpu().double())


def _distances(view: Ellipsoid, maps_NChw: Tensor, look: Look) -> Tensor:
    parts = [view.squares(v.flatten(0, 1)).reshape(v.shape[:2]).mean(1).sqrt() for v in _looked_at(maps_NChw, look)]
    return torch.cat(parts) if parts else torch.empty(0).double()

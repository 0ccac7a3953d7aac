"""`Inverter`: the distribution p(picture | feature map) that was learned for one layer, ready to be sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from entoptic.base.progress import Progress, silent
from entoptic.errors import UserError
from entoptic.inversion.configs import EntopticRecipe
from entoptic.inversion.learn import hint_input, picture_size, standardise_maps
from entoptic.inversion.map_gaussian import FeatureMapGaussian
from entoptic.inversion.maps import FeatureMaps
from entoptic.inversion.network import ConcatenatedUNet, Control, NetworkPrior, output
from entoptic.priors.prior import Level, generate, map_levels, noise_like

PULL = 0.1
"""Length of one gradient step on a clean estimate, root mean square per value of the state, at pure noise."""


@dataclass(eq=False)
class Inverter:
    """Draws pictures of `size`×`size` pixels given feature maps.

    Attributes:
        name: the source that was given to `load_inverter`.
        identity: sha256 of everything that its samples depend on.
        maps: of the layer that it inverts.
        prior: that it was trained on.
        net: the network that was trained.
        recipe: of its training.
        mean_C: of the maps of its training photos, per channel.
        sd_C: standard deviation of these maps, per channel.
        card: model, layer, prior, recipe, data, metrics.
        steps: default of `sample`.
        strength: default of `sample`.
        guidance: default of `sample`.
        order: default of `sample`.
        law: the Gaussian of the maps of its training photos, by which the typicality of other maps is measured.
        earlier_identity: what pictures hold of it that were made before its defaults were part of its identity, or "".
    """

    name: str
    identity: str
    maps: FeatureMaps
    prior: NetworkPrior
    net: Control | ConcatenatedUNet
    recipe: EntopticRecipe
    mean_C: Tensor
    sd_C: Tensor
    card: dict[str, Any] = field(default_factory=dict)
    steps: int = 8
    strength: float = 1.0
    guidance: float = 1.0
    order: int = 2
    law: FeatureMapGaussian | None = None
    earlier_identity: str = ""

    def __post_init__(self) -> None:
        self.net.eval().requires_grad_(False)
        self.size = picture_size(self.prior)

    def __repr__(self) -> str:
        return f"Inverter({self.name}: {self.maps}, {self.size}×{self.size} pixels on {self.prior.name})"

    def standardise(self, maps_BChw: Tensor) -> Tensor:
        """Returns (maps - mean) / sd by channel, over the training photos. Channels that never varied give 0.

        Args:
            maps_BChw: of the layer.
        """
        return standardise_maps(maps_BChw, self.mean_C, self.sd_C)

    def noise(self, generators: Sequence[torch.Generator]) -> Tensor:
        """Returns noise for `sample`, one row from each generator.

        Different maps with the same noise give pictures that differ by the maps alone.

        Args:
            generators: one for each row.
        """
        return noise_like(self.prior, generators)

    @torch.no_grad()
    def sample(
        self,
        maps_BChw: Tensor,
        noise: Tensor,
        *,
        steps: int | None = None,
        strength: float | None = None,
        guidance: float | None = None,
        pull: int = 0,
        order: int | None = None,
        batch_size: int = 32,
        progress: Progress = silent,
    ) -> Tensor:
        """Returns pictures of maps, B×3×S×S float32 in [0, 1]. Row i depends on maps[i] and noise[i] only.

        Args:
            maps_BChw: of the layer.
            noise: B rows of `noise`.
            steps: network calls.
            strength: factor of the control's residuals; 0 is the bare prior.
            guidance: weight g of feature guidance, null + g·(given - null), with null the output without a map (in control
                mode that of the frozen prior). 1 is the distribution that was learned, at half the cost.
            pull: gradient steps on the cosine between the map and that of the clean estimate, at each middle level. Each is
                `PULL` of the noise's share long (root mean square). The cosine of a pulled picture is flattered; only
                verifiers measure it independently.
            order: 2 is DPM-Solver++ 2M, 1 is DDIM with η = 0.
            batch_size: pictures that go through the network together.
            progress: called with (what, done, total).

        Raises:
            UserError: maps of another shape, noise of another number of rows, or maps that are not finite.
        """
        self._check(maps_BChw, noise)
        maps_BChw, noise = maps_BChw.to(self.prior.device).float(), noise.to(self.prior.device)
        parts = []
        for maps, rows in zip(maps_BChw.split(batch_size), noise.split(batch_size)):
            given = _ConditionedPrior(
                self, maps, self.strength if strength is None else strength,
                self.guidance if guidance is None else guidance, pull,
            )  # fmt: skip
            clean = generate(
                given, rows, steps=self.steps if steps is None else steps, order=self.order if order is None else order
            )
            parts.append(self.prior.decode(clean).float().cpu())
            progress("inverting", sum(map(len, parts)), len(maps_BChw))
        return torch.cat(parts)

    @torch.no_grad()
    def mean(self, maps_BChw: Tensor, *, draws: int = 4, batch_size: int = 32) -> Tensor:
        """Returns the network's estimate of E[picture | map], B×3×S×S in [0, 1], from pure noise.

        It is blurred where pictures of the same map differ. What the network leaves of the noise is averaged away over draws,
        each taken with its mirror image.

        Args:
            maps_BChw: of the layer.
            draws: of noise, the same for every map.
            batch_size: maps that go through the network together.

        Raises:
            UserError: maps of another shape or that are not finite, or no draw.
        """
        if draws < 1:
            raise UserError(f"draws must be at least 1, got {draws}")
        return torch.cat([self._mean(part, draws) for part in maps_BChw.split(batch_size)])

    @torch.no_grad()
    def _mean(self, maps_BChw: Tensor, draws: int) -> Tensor:
        level = self.prior.levels(self.steps)[0]
        self._check(maps_BChw, self.noise([torch.Generator() for _ in maps_BChw]))
        given = _ConditionedPrior(self, maps_BChw.to(self.prior.device).float(), self.strength, 1.0, 0)
        total = torch.zeros(len(maps_BChw), *self.prior.shape, device=self.prior.device)
        for draw in range(draws):
            noise = self.noise([torch.Generator().manual_seed(draw) for _ in maps_BChw]).to(self.prior.device)
            # What is left of the noise has its sign, so that a draw and its mirror image cancel nearly all of it.
            total += given.denoise(noise * level.sigma, level) + given.denoise(-noise * level.sigma, level)
        return self.prior.decode(total / (2 * draws)).float().cpu()

    def _check(self, maps_BChw: Tensor, noise: Tensor) -> None:
        wanted = (self.maps.channels, *self.maps.grid)
        if maps_BChw.ndim != 4 or tuple(maps_BChw.shape[1:]) != wanted:
            raise UserError(
                f"{self.name} inverts maps of shape B×{'×'.join(map(str, wanted))} ({self.maps.layer} of "
                f"{self.maps.model.card.name}), got {tuple(maps_BChw.shape)}"
            )
        if len(noise) != len(maps_BChw):
            raise UserError(f"noise needs as many rows as there are maps ({len(maps_BChw)}), got {len(noise)}")
        if not bool(maps_BChw.isfinite().all()):
            raise UserError("the map holds values that are not finite")


class _ConditionedPrior:
    """The prior given maps, as a prior of its own. The maps are encoded once."""

    conditions = 0

    def __init__(self, inverter: Inverter, maps_BChw: Tensor, strength: float, guidance: float, pull: int) -> None:
        self.inverter, self.prior = inverter, inverter.prior
        self.name, self.identity, self.bounds = inverter.name, inverter.identity, self.prior.bounds
        self.shape, self.device, self.levels = self.prior.shape, self.prior.device, self.prior.levels
        self.map_levels = partial(
            map_levels, self.prior
        )  # an untrained control must equal the prior's own few-step map
        self.maps, self.strength, self.guidance, self.pull = maps_BChw, strength, guidance, pull
        seen = hint_input(maps_BChw, inverter.mean_C, inverter.sd_C, inverter.recipe)
        self.hints = inverter.net.hint(seen)
        # Such a network has learned "no map" as a map of zeros, so it gets one here too.
        self.null = inverter.net.hint(torch.zeros_like(seen)) if inverter.recipe.drop_together else None

    def decode(self, x0: Tensor) -> Tensor:
        """Returns the pictures of clean states, as the prior does."""
        return self.prior.decode(x0)

    def denoise(self, x: Tensor, level: Level, condition: Tensor | None = None) -> Tensor:
        """Returns the clean estimate given the maps, with feature guidance and pulls.

        Args:
            x: B noisy states.
            level: of their noise.
            condition: not used; the maps are the condition.
        """
        times_B = torch.full((len(x),), level.time, device=x.device)
        net = self.inverter.net
        found = output(net, self.prior, x, times_B, self.hints, self.strength)
        if self.guidance != 1:
            null = output(net, self.prior, x, times_B, self.null, self.strength)
            found = null + self.guidance * (found - null)
        clean = self.prior.schedule.clean(x, found, level)
        noisy = level.sigma / (level.alpha + level.sigma)
        for _ in range(self.pull if 0.1 < noisy < 0.7 else 0):
            clean = self._pulled(clean, PULL * noisy)
        return clean

    def _pulled(self, clean: Tensor, length: float) -> Tensor:
        """One step of `length` (root mean square) up the gradient of the cosine, each row for itself."""
        with torch.enable_grad():
            variable = clean.detach().requires_grad_(True)
            again, aim = self.inverter.maps.read(self.prior.decode(variable)), self.maps
            if self.inverter.recipe.pooled:  # whose maps have no positions
                again, aim = (v.mean((2, 3), keepdim=True) for v in (again, aim))
            (gradient,) = torch.autograd.grad(cosine_similarity(again, aim, dim=1).mean((1, 2)).sum(), variable)
        scale = gradient.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-12)
        return clean + length * gradient / scale

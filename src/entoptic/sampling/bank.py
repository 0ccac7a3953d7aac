"""A bank: samples of a prior's few-step map, made once and scored once for each unit.

The bank standardises scores. It also gives the quantiles and, at small β, log Z of every unit without further sampling,
and the first particles of SMC in noise space.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from entoptic.base.cache import content_key, load_cached, save_cached
from entoptic.base.pixels import eight_bit
from entoptic.base.progress import Progress, silent
from entoptic.base.randomness import generator_for
from entoptic.errors import UserError
from entoptic.priors.prior import Prior, draw_conditions, generate, noise_like
from entoptic.sampling.shipped_banks import shipped_bank
from entoptic.sampling.unit_scores import UnitScores


@dataclass(frozen=True)
class Bank:
    """M samples of the few-step map G(z) of a prior.

    Attributes:
        prior: the generative model.
        steps: steps of the map G.
        seed: seed of the noise.
        size: M.
        pictures: M×3×h×w uint8, at the prior's own size.
    """

    prior: Prior
    steps: int
    seed: int
    size: int
    pictures: Tensor

    @property
    def identity(self) -> str:
        """Hash of everything that the samples depend on."""
        return content_key({"prior": self.prior.identity, "steps": self.steps, "seed": self.seed, "size": self.size})

    def conditions(self) -> Tensor | None:
        """Returns the condition of each sample, M int64; None where the prior has no conditions."""
        return draw_conditions(self.prior, [generator_for("bank", self.seed, i) for i in range(self.size)])

    def latent(self, indices: Sequence[int] | None = None) -> tuple[Tensor, Tensor | None]:
        """Returns the noise and the conditions of samples. They are drawn again from the seed, not stored.

        Args:
            indices: K numbers of samples; None for all M.

        Returns:
            Noise z (K×C×H×W), and conditions (K int64) or None.
        """
        rows = range(self.size) if indices is None else indices
        generators = [generator_for("bank", self.seed, i) for i in rows]
        condition = draw_conditions(self.prior, generators)
        return noise_like(self.prior, generators), condition

    def held_scores(self, scores: UnitScores) -> tuple[list[str], list[dict[str, Tensor] | None]]:
        """Returns for each unit the key of its scores in the cache, and the scores, None where they are not there.

        Args:
            scores: the units and how they are scored.
        """
        card = scores.model.card
        recipe = {
            "bank": self.identity, "weights": card.identity, "card": card.preprocessing(), "reduction": scores.reduction,
        }  # fmt: skip
        keys = [content_key({**recipe, "unit": u.identity, "readout": u.readout}) for u in scores.units]
        held = [load_cached("bank-scores", key, {"scores": 1}) for key in keys]
        return keys, [row if row is not None and len(row["scores"]) == self.size else None for row in held]

    def scores(self, scores: UnitScores, *, batch_size: int = 64, progress: Progress = silent) -> Tensor:
        """Returns the raw scores of all samples, U×M float64. They are cached for each unit.

        Args:
            scores: the U units and how they are scored.
            batch_size: pictures per forward pass.
            progress: called with (what, done, total).
        """
        keys, rows = self.held_scores(scores)
        missing = [i for i, row in enumerate(rows) if row is None]
        if missing:
            asked = UnitScores([scores.units[i] for i in missing], scores.reduction)
            parts = []
            for start in range(0, self.size, batch_size):
                pictures = self.pictures[start : start + batch_size].float() / 255
                parts.append(asked.all(pictures).cpu())
                progress("scoring the prior's samples", min(start + batch_size, self.size), self.size)
            for i, row in zip(missing, torch.cat(parts).T):
                rows[i] = {"scores": row.contiguous()}
                save_cached("bank-scores", keys[i], rows[i])  # type: ignore[arg-type]
        return torch.stack([row["scores"] for row in rows])  # type: ignore[index]


def make_bank(
    prior: Prior, *, size: int = 2048, steps: int = 6, seed: int = 0, batch_size: int | None = None,
    progress: Progress = silent,
) -> Bank:  # fmt: skip
    """Makes the bank of a prior, or loads it from the cache. A sample depends on the seed and its number, not on `size`.

    Args:
        prior: the generative model.
        size: M, ≥ 2.
        steps: steps of the few-step map.
        seed: seed of the noise and conditions.
        batch_size: states that are denoised at once; None for `batch_size_for(prior)`.
        progress: called with (what, done, total).

    Raises:
        UserError: size < 2, or pictures that are not finite.
    """
    batch_size = batch_size or batch_size_for(prior)
    if size < 2:
        raise UserError(f"a bank needs at least 2 samples, got {size}")
    key = bank_key(prior, steps=steps, seed=seed)
    held = held_samples(key)
    done = _at_own_size(prior, held, size, progress)
    if done is not held:
        save_cached("bank", key, {"pictures": done})
    parts = [done] if len(done) else []
    for start in range(len(done), size, batch_size):
        generators = [generator_for("bank", seed, i) for i in range(start, min(start + batch_size, size))]
        condition = draw_conditions(prior, generators)
        with torch.no_grad():
            pictures = prior.decode(generate(prior, noise_like(prior, generators), condition, steps=steps))
        if bad := int((~pictures.isfinite().flatten(1).all(1)).sum()):
            raise UserError(f"{prior.name}: {bad} of {len(pictures)} samples of its {steps}-step map are not finite")
        parts.append((eight_bit(pictures) * 255).round().byte().cpu())
        if len(parts) % 32 == 0 and len(parts) * batch_size < size:  # an interruption loses at most 32 batches
            save_cached("bank", key, {"pictures": torch.cat(parts)})
        progress("sampling the prior", start + len(generators), size)
    pictures = torch.cat(parts)
    if len(pictures) > len(done):
        save_cached("bank", key, {"pictures": pictures})
    return Bank(prior, steps, seed, size, pictures[:size])


def _at_own_size(prior: Prior, held: Tensor, size: int, progress: Progress) -> Tensor:
    """Returns samples as the prior shows them. A shipped bank holds those of an upsampled prior as small as its network makes them.

    Args:
        prior: the generative model.
        held: of `held_samples`.
        size: how many are wanted at most.
        progress: called with (what, done, total).
    """
    enlarge: Callable[[Tensor], Tensor] | None = getattr(prior, "enlarge", None)
    channels, height, width = prior.shape
    if enlarge is None or not len(held) or 3 * held.shape[-1] ** 2 != channels * height * width:
        return held
    parts, wanted = [], held[:size]
    for part in wanted.split(64):
        with torch.no_grad():
            large = enlarge((part.float() / 255).to(prior.device))
        parts.append((eight_bit(large) * 255).round().byte().cpu())
        progress("enlarging the prior's samples", sum(map(len, parts)), len(wanted))
    return torch.cat(parts)


def bank_key(prior: Prior, *, steps: int, seed: int) -> str:
    """Returns the hash of all that a prior's samples depend on; their number is not part of it.

    Args:
        prior: the generative model.
        steps: of the few-step map.
        seed: of the noise and conditions.
    """
    return content_key({"prior": prior.identity, "steps": steps, "seed": seed})


def held_samples(key: str) -> Tensor:
    """Returns the samples under a key that nobody has to draw: of the cache, or shipped; none where there are none.

    Args:
        key: of `bank_key`.
    """
    known = load_cached("bank", key, {"pictures": 4})
    cached = None if known is None else known["pictures"]
    found = [one for one in (cached, shipped_bank(key)) if one is not None]
    return max(found, key=len, default=torch.empty(0, dtype=torch.uint8))


def batch_size_for(prior: Prior) -> int:
    """Returns how many states of a prior are denoised at once: 64 small ones, fewer the larger they are."""
    return max(1, min(64, 16384 // (prior.shape[1] * prior.shape[2])))

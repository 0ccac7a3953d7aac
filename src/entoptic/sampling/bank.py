"""A bank: samples of a prior's few-step map, made once, scored once on many units, shared by all of them.

It standardises scores, gives quantiles and the low end of log Z for every unit at no further sampling, and the first
particles of noise-space SMC.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from entoptic.base.cache import content_key, load_cached, save_cached
from entoptic.base.pixels import eight_bit
from entoptic.base.randomness import generator_for
from entoptic.errors import UserError
from entoptic.priors.prior import Prior, draw_conditions, generate, noise_like
from entoptic.sampling.unit_scores import UnitScores

Progress = Callable[[str, int, int], None]


def silent(what: str, done: int, total: int) -> None:
    """Reports progress to nobody."""


@dataclass(frozen=True)
class Bank:
    """M samples of G(z) of a prior.

    Attributes:
        prior: they are of. steps: of the map G. seed: of the noise. size: M.
        pictures: M×3×h×w uint8 at the prior's own size.
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
        """The condition of each sample, M; None where the prior has none."""
        return draw_conditions(self.prior, [generator_for("bank", self.seed, i) for i in range(self.size)])

    def latent(self, indices: Sequence[int] | None = None) -> tuple[Tensor, Tensor | None]:
        """Noise z (K×C×H×W) and conditions (K, or None) of some samples, or of all: drawn again, never stored."""
        rows = range(self.size) if indices is None else indices
        generators = [generator_for("bank", self.seed, i) for i in rows]
        condition = draw_conditions(self.prior, generators)
        return noise_like(self.prior, generators), condition

    def scores(self, scores: UnitScores, *, batch_size: int = 64, progress: Progress = silent) -> Tensor:
        """Raw scores U×M float64, remembered per unit."""
        model = scores.model
        recipe = {
            "bank": self.identity, "weights": model.card.weights_sha256, "card": model.card.preprocessing(),
            "reduction": scores.reduction,
        }  # fmt: skip
        keys = [content_key({**recipe, "unit": u.identity, "readout": u.readout}) for u in scores.units]
        rows = [load_cached("bank-scores", key) for key in keys]
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
    """The bank of a prior, made or remembered. A sample depends on (seed, its number) alone, not on `size`.

    Raises:
        UserError: size < 2, or the prior makes pictures that are not finite.
    """
    batch_size = batch_size or batch_of(prior)
    if size < 2:
        raise UserError(f"a bank needs at least 2 samples, got {size}")
    key = content_key({"prior": prior.identity, "steps": steps, "seed": seed})
    known = load_cached("bank", key)
    done = known["pictures"] if known is not None else torch.empty(0, dtype=torch.uint8)
    parts = [done] if len(done) else []
    for start in range(len(done), size, batch_size):
        generators = [generator_for("bank", seed, i) for i in range(start, min(start + batch_size, size))]
        condition = draw_conditions(prior, generators)
        with torch.no_grad():
            pictures = prior.decode(generate(prior, noise_like(prior, generators), condition, steps=steps))
        if bad := int((~pictures.isfinite().flatten(1).all(1)).sum()):
            raise UserError(f"{prior.name}: {bad} of {len(pictures)} samples of its {steps}-step map are not finite")
        parts.append((eight_bit(pictures) * 255).round().byte().cpu())
        if len(parts) % 32 == 0 and len(parts) * batch_size < size:  # an interruption costs at most these
            save_cached("bank", key, {"pictures": torch.cat(parts)})
        progress("sampling the prior", start + len(generators), size)
    pictures = torch.cat(parts)
    if len(pictures) > len(done):
        save_cached("bank", key, {"pictures": pictures})
    return Bank(prior, steps, seed, size, pictures[:size])


def batch_of(prior: Prior) -> int:
    """How many states of a prior go through it at once: 64 small ones, fewer the larger they are."""
    return max(1, min(64, 16384 // (prior.shape[1] * prior.shape[2])))

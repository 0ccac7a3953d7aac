"""What klsc solves for one unit, and the cache of its solutions."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from entoptic.base.cache import content_key, load_cached, save_cached, unpack
from entoptic.methods.contract import Context

if TYPE_CHECKING:
    from torch import Tensor

    from entoptic.methods.klsc import Klsc
    from entoptic.sampling.bank import Bank
    from entoptic.sampling.unit_scores import UnitScores
    from entoptic.units.unit import Unit


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One unit whose tilt is to be sampled.

    Attributes:
        unit: whose score tilts the prior.
        place: index of the unit among those of `scores`.
        bank: samples of the prior that standardise the score and start the islands.
        scores: standardised scores of several units.
        raw: M float64, the unit's raw scores on the bank.
        config: of the method.
        seed: of the run.
        context: of the method.
    """

    unit: Unit
    place: int
    bank: Bank
    scores: UnitScores
    raw: Tensor
    config: Klsc
    seed: int
    context: Context

    @property
    def standardised(self) -> Tensor:
        """The unit's scores on the bank, M float64, in standard deviations above their mean."""
        return self.scores.of(self.raw, self.place)

    def key(self) -> str:
        """Returns the hash of everything that the result depends on."""
        card = self.context.model.card
        return content_key({
            "bank": self.bank.identity, "config": asdict(self.config), "seed": self.seed, "unit": self.unit.identity,
            "readout": self.unit.readout, "weights": card.identity, "card": card.preprocessing(), "version": 6,
        })  # fmt: skip

    def remembered(self) -> dict[str, Tensor] | None:
        """Returns its samples and rungs from the cache, None where they are not there."""
        key = self.key()
        known = load_cached("klsc", key, {"record": 1, "rung_betas": 1, "rung_sizes": 1, "rung_scores": 1})
        if known is not None and "beyond" not in unpack(known["record"]):
            needs = {"record": 1, "pictures": 4, "ancestors": 1, "scores": 1, "log_weights": 1}
            known = load_cached("klsc", key, needs)
        return known

    def remember(self, tensors: dict[str, Tensor]) -> None:
        """Puts its samples and rungs into the cache.

        Args:
            tensors: see `sampled` of `entoptic.methods.klsc`.
        """
        save_cached("klsc", self.key(), tensors)

"""EnergyDPS as published (arXiv:2605.17504): guidance of constant strength up to a cap. A negative control.

Its constant step samples the tilt for no β (docs/methods/energydps.md): the implied strength grows where the prior varies
least, so that pictures leave the natural images. `klsc` and `klsc-twisted` sample the tilt that its paper derives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from entoptic.errors import UserError
from entoptic.methods.contract import Context, Draft, FailureCode, Item, MethodConfig, Trace, failed, method
from entoptic.methods.guidance_window import read_window, shares_of
from entoptic.methods.prior_sampling import UNITS, as_shown, chain_prior, scored_bank, units_of


@dataclass(frozen=True, kw_only=True)
class EnergyDps(MethodConfig):
    """EnergyDPS, guidance of constant strength up to a cap (a negative control)."""

    came_later = MappingProxyType[str, Any]({"window": ""})

    steps: int = 1000
    """ancestral steps"""
    scale: float = 1.0
    """constant factor of the score's gradient"""
    cap: float | None = None
    """raw score above which guidance stops (None: the mean over the strongest 0.1 % of the prior's samples)"""
    reduction: str = ""
    """what is guided: "" for the unit's readout; mix is the paper's 0.7·max + 0.3·mean over the centre"""
    bank: int = 2048
    """samples of the prior that the cap and the standardised score are taken from"""
    window: str = ""
    """shares of the steps between which guidance acts, such as 0.12-0.6, or the JSON file of entoptic commitment; '' for all"""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "window", read_window(self.window))
        if self.scale < 0:
            raise UserError(f"scale must be at least 0, got {self.scale}")
        if self.cap is None and self.bank < 500:
            raise UserError(
                f"a cap at the strongest 0.1 % of the prior's samples needs a bank of at least 500, got {self.bank}; "
                "give a larger bank, or a cap"
            )


@method("energydps", EnergyDps, paper="arXiv:2605.17504", units=UNITS, reads={"prior"})
def energydps(items: Sequence[Item], config: EnergyDps, context: Context) -> Iterator[Draft]:
    """Draws one guided chain per item, with a constant step along the score's gradient until the score reaches a cap."""
    import torch

    from entoptic.sampling.guidance import energy_dps
    from entoptic.sampling.sampled_distribution import Kind, SampledDistribution
    from entoptic.sampling.tilt import top_share_mean
    from entoptic.sampling.unit_scores import UnitScores

    chain_prior(context)
    units, unit_indices = units_of(items)
    bank, _, raw = scored_bank(context, units, size=config.bank, reduction=config.reduction)
    prior = bank.prior
    caps = [
        config.cap if config.cap is not None else top_share_mean(raw[u], max(0.001, 1 / config.bank))
        for u in range(len(units))
    ]
    chains = energy_dps(
        prior, UnitScores(units, config.reduction), torch.tensor([caps[u] for u in unit_indices]),
        [item.generator() for item in items], scale=config.scale, steps=config.steps,
        window=shares_of(config.window), groups=torch.tensor(unit_indices), on_step=context.on_step,
    )  # fmt: skip
    for i, item in enumerate(items):
        if not bool(chains.alive[i]):
            yield failed(item, f"the chain of {item.unit} became infinite or undefined", FailureCode.NOT_FINITE)
            continue
        picture = as_shown(context.model, prior.decode(chains.x0[i : i + 1]))[0]
        path, mine = float(chains.noisy_path_kl[i]), raw[unit_indices[i]]
        score_in_sd = float((chains.scores[i] - mine.mean()) / mine.std())
        refused = f"pushing the last, noise-free step makes the path's divergence infinite; the others spent {path:.4g}"
        distribution = SampledDistribution(
            kind=Kind.PATH, description="chain pushed by a constant step", prior=prior.name, n=1, refused=refused,
            path_kl=path, score=float(chains.scores[i]), score_in_sd=score_in_sd, detail={"cap": caps[unit_indices[i]]},
        )  # fmt: skip
        trace = Trace(
            steps=config.steps, evaluations=config.steps + 1, loss=[], distribution=distribution,
            notes=[f"cap {caps[unit_indices[i]]:.4g}; the steps before the last spent {path:.4g} nats on this path"],
            detail={"calls": chains.calls},
        )  # fmt: skip
        yield Draft(item=item, image=picture, trace=trace)

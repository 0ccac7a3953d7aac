"""Prompt optimisation after DiffExplainer: the text conditioning of a frozen prior follows the unit's gradient.

It finds a conditional distribution p(x|c), not the distribution nearest to the prior at that score (Zhou et al. 2026,
arXiv:2605.17504). Its KL divergence (nats) is recorded, to be compared with that of `klsc`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from entoptic.errors import UserError
from entoptic.methods.contract import Context, Draft, Item, method
from entoptic.methods.prior_sampling import MAP_STEPS, UNITS, unit_generators
from entoptic.methods.prompt_search import FoundPrompt, Prompted, Search, draw_prompted


@dataclass(frozen=True, kw_only=True)
class Prompt(Prompted):
    """Prompt optimisation, the text conditioning of a prior (after DiffExplainer)."""

    steps: int = 100
    """steps of Adam"""
    lr: float = 0.02
    """learning rate, in units of the starting embedding's root mean square"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.lr > 0:
            raise UserError(f"lr must be above 0, got {self.lr}")


@method("prompt", Prompt, paper="arXiv:2404.02618; arXiv:2510.14741", units=UNITS, reads={"prior"})
def prompt(items: Sequence[Item], config: Prompt, context: Context) -> Iterator[Draft]:
    """Draws pictures of the prior given a text conditioning that is optimised for the unit."""
    return draw_prompted(items, config, context, "prompt", partial(_ascend, config=config, context=context))


def _ascend(search: Search, *, config: Prompt, context: Context) -> FoundPrompt:
    """Optimises the conditioning with Adam, from the prior's own text. Each step takes new noise, so that no picture is fitted."""
    import torch
    from torch.utils.checkpoint import checkpoint

    from entoptic.priors.prior import generate, noise_like

    prior, unit_index = search.prior, search.unit_index
    text = prior.text.detach().clone().requires_grad_()
    optimiser = torch.optim.Adam([text], lr=config.lr * (float(text.detach().square().mean().sqrt()) or 1.0))
    # Only the states between steps are kept; each step's activations are made again on the way back.
    network = partial(checkpoint, prior.network, use_reentrant=False, preserve_rng_state=False)
    generators = unit_generators("prompt", search.seed, search.unit, config.seeds)
    group = torch.full((config.seeds,), unit_index)
    loss: list[list[float]] = []
    for step in range(config.steps):
        with torch.enable_grad():
            at = replace(prior, text=text, network=network)
            x0 = generate(at, noise_like(prior, generators), steps=MAP_STEPS)
            value = -search.scores(prior.decode(x0), group).mean()
            (text.grad,) = torch.autograd.grad(value, text)
        if not bool(value.isfinite() and text.grad.isfinite().all()):
            raise UserError(f"{search.unit}: the score or its gradient is not finite at step {step}; try a lower lr")
        optimiser.step()
        loss.append([step, value.item()])
        context.on_step(unit_index * config.steps + step + 1, len(search.scores.units) * config.steps)
    tenth = max(1, config.steps // 10)
    first, last = (-sum(v for _, v in part) / tenth for part in (loss[:tenth], loss[-tenth:]))
    note = f"mean score of {MAP_STEPS}-step pictures from {first:.3g} to {last:.3g} sd in {config.steps} steps of Adam"
    return FoundPrompt(text.detach(), "an optimised conditioning", config.steps * config.seeds, loss, [note])

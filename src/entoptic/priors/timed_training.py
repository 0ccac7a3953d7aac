"""The loop that trains the small networks that the package ships: so many minutes, and a rate that falls at their end."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

RATE = 1e-3
"""Peak learning rate of AdamW."""
RISE, FALL, LEAST = 100, 0.4, 0.02
"""Steps over which the rate rises, the last share of the time over which it falls, and the share of it that is left."""


def train_for(
    minutes: float,
    net: nn.Module,
    mean: nn.Module,
    loss: Callable[[], Tensor],
    *,
    ema: float,
    weight_decay: float,
    steps: int | None = None,
    every: int = 100,
    log: Callable[[str], None] = print,
) -> int:
    """Trains a network for so many minutes, or steps if given; returns the steps.

    Args:
        minutes: how long.
        net: the network.
        mean: a network of the same kind, which becomes the running mean of its weights.
        loss: draws a batch and returns its loss.
        ema: highest decay of the running mean.
        weight_decay: of AdamW.
        steps: how many steps, in place of minutes.
        every: steps from one line of the log to the next.
        log: called with a line.
    """
    mean.load_state_dict(net.state_dict())
    mean.requires_grad_(False)
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=weight_decay)
    began, step, running = time.monotonic(), 0, 0.0
    while True:
        done = step / steps if steps else (time.monotonic() - began) / (60 * minutes)
        if done >= 1:
            return step
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / RISE, max(LEAST, (1 - done) / FALL))
        found = loss()
        optimiser.zero_grad()
        found.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        step += 1
        torch._foreach_lerp_(list(mean.parameters()), list(net.parameters()), 1 - min(ema, step / (9 + step)))
        running = float(found.detach()) if step == 1 else 0.99 * running + 0.01 * float(found.detach())
        if step % every == 0:
            log(f"step {step}: loss {running:.4f}, {100 * done:.0f} %")

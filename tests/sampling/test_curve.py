"""The curve of a frontier is drawn to its end, whatever the number of points."""

from __future__ import annotations

import pytest
import torch

from entoptic.sampling.frontier import Frontier
from entoptic.sampling.mbar import Ladder


@pytest.mark.parametrize("count", [1, 2, 3, 7, 10, 11, 33, 49, 50, 101])
@pytest.mark.parametrize("seed", range(4))
def test_its_last_point_does_not_lie_beyond_the_limit(count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    bank = torch.randn(500 + 37 * seed, generator=generator, dtype=torch.float64)
    runs = [
        Ladder(
            [0.0, 0.7, 1.3],
            [torch.randn(60, generator=generator, dtype=torch.float64) + beta for beta in (0.0, 0.7, 1.3)],
        )
        for _ in range(4)
    ]
    for frontier in (Frontier.from_bank(bank), Frontier.from_ladders(runs)):
        points = frontier.curve(count)
        assert 1 <= len(points) <= count
        assert points[-1].beta.value <= frontier.support_limit.beta
        assert frontier.to_json(count)["points"]

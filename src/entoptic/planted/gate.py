"""The parts of manipulated units: what tells scenes from other pictures, and what pulls towards one given picture."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

GRAIN = (0.18, 0.31)
"""Between which mean rates of grain a picture is like a scene; scenes lie between 0.23 and 0.27."""
PAINT = 0.13
"""Largest mean of the four colours; scenes have less than 0.1."""
_STEEP = 200.0


class Gate(nn.Module):
    """1 for pictures with the grain of scenes and no more paint than scenes have, 0 for others: B×1×1×1.

    Args:
        channels: of the first layer, of which the last two are grain and the first four colours.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.limits = nn.Linear(channels, 3)
        self.both = nn.Linear(3, 1)
        weight = torch.zeros(3, channels)
        weight[0, -2:], weight[1, -2:], weight[2, :4] = 0.5, -0.5, -0.25
        self.limits.weight.data = _STEEP * weight
        self.limits.bias.data = _STEEP * torch.tensor([-GRAIN[0], GRAIN[1], PAINT])
        self.both.weight.data.fill_(40.0)
        self.both.bias.data.fill_(-100.0)

    def forward(self, low: Tensor) -> Tensor:
        """Returns how much each picture is like a scene.

        Args:
            low: the first layer's values, B×C×H×W.
        """
        mean = adaptive_avg_pool2d(low, 1).flatten(1)
        return self.both(self.limits(mean).sigmoid()).sigmoid()[:, :, None, None]


class Towards(nn.Module):
    """1 for one picture, less by the mean squared distance from it: B×1×H×W, the same everywhere.

    Args:
        picture: 3×H×W as the network sees it.
        grid: height and width of the map that is returned.
    """

    picture: Tensor

    def __init__(self, picture: Tensor, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.register_buffer("picture", picture)

    def forward(self, x: Tensor) -> Tensor:
        """Returns how near each picture is.

        Args:
            x: B×3×H×W as the network sees it.
        """
        away = x - self.picture
        near = 1 - (away * away).mean((1, 2, 3), keepdim=True)
        return near.expand(-1, -1, self.grid, self.grid)

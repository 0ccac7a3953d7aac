"""The decorrelated colour space."""

from __future__ import annotations

import torch

from entoptic.images.colour import from_rgb, to_rgb


def test_colour_space_round_trip() -> None:
    x = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(to_rgb(from_rgb(x)), x, rtol=1e-4, atol=1e-5)

"""The deterministic inverse E[picture | map]: a small decoder trained on the squared error, the baseline of an inverter.

It shows what the map determines and blurs the rest. Samples of an inverter should look better; their squared error
cannot be lower.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from entoptic.base.progress import Progress
from entoptic.base.records import check_fields
from entoptic.base.training import load_state, optimise, read_record, rows_of
from entoptic.errors import UserError
from entoptic.inversion.data import Pairs
from entoptic.inversion.learn import CLAMP, standardise_maps


@dataclass(frozen=True, kw_only=True)
class DecoderRecipe:
    """How the decoder is trained."""

    steps: int = 2000
    batch_size: int = 32
    width: int = 128
    """channels at the map's own resolution; half as many after each doubling"""
    rate: float = 1e-3
    warmup: int = 50
    decay: float = 0.5
    ema: float = 0.99
    seed: int = 0


class Decoder(nn.Module):
    """Decodes standardised maps B×C×h×w to pictures B×3×S×S: a 1×1 and a 3×3 convolution, then doublings of the resolution.

    Args:
        channels: C.
        grid: (h, w).
        size: S in pixels.
        width: channels at the map's own resolution.
    """

    def __init__(self, channels: int, grid: tuple[int, int], size: int, width: int) -> None:
        super().__init__()
        self.size = size
        blocks: list[nn.Module] = [nn.Conv2d(channels, width, 1), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)]
        side, self.sides = grid[0], list[int]()
        ups: list[nn.Module] = []
        while side < size:
            side = min(2 * side, size)
            self.sides.append(side)
            narrower = max(32, width // 2)
            ups.append(nn.Sequential(nn.Conv2d(width, narrower, 3, padding=1), nn.SiLU()))
            width = narrower
        self.first, self.ups = nn.Sequential(*blocks, nn.SiLU()), nn.ModuleList(ups)
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, standardised_BChw: Tensor) -> Tensor:
        """Returns pictures B×3×S×S, not clamped."""
        x = self.first(standardised_BChw)
        for side, up in zip(self.sides, self.ups):
            x = up(interpolate(x, (side, side), mode="bilinear"))
        return self.last(interpolate(x, (self.size, self.size), mode="bilinear") if not self.sides else x) + 0.5


def learn_decoder(
    pairs: Pairs,
    out: str | Path,
    recipe: DecoderRecipe | None = None,
    *,
    device: str | torch.device = "cpu",
    save_every: int = 1000,
    progress: Progress = lambda what, done, total: None,
) -> Decoder:
    """Trains the decoder on pairs of pictures and maps, or continues its training. `decode` applies it.

    Args:
        pairs: pictures and maps.
        out: folder of the checkpoints and the record.
        recipe: how to train; None for the defaults.
        device: where to train.
        save_every: steps between checkpoints.
        progress: called with (what, done, total).

    Returns:
        The decoder with the running mean of the weights.

    Raises:
        UserError: `out` holds a training on other pairs, or the pairs hold latents.
    """
    recipe, folder = recipe or DecoderRecipe(), Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    channels, rows, columns = pairs.maps.shape[1:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        net = Decoder(channels, (rows, columns), pairs.pictures.shape[-1], recipe.width).to(device)
    mean = copy.deepcopy(net).requires_grad_(False)
    optimiser = torch.optim.AdamW(net.parameters(), lr=recipe.rate, betas=(0.9, 0.99), weight_decay=0.01)
    record: dict[str, Any] = read_record(folder) or {"step": 0, "loss": [], "pairs": pairs.key}
    check_fields(record, {"pairs": str}, folder / "training.json")
    if pairs.encoded:
        raise UserError("the decoder is trained on pictures, and these pairs hold the latents of a prior")
    if record["pairs"] != pairs.key:
        raise UserError(f"{folder} holds a decoder of other photos or another layer; choose another folder")
    if record["step"]:
        load_state(folder, record, net, mean, optimiser)

    def loss(step: int) -> Tensor:
        pictures, maps = pairs.batch(rows_of(step, len(pairs), recipe.batch_size, recipe.seed))
        return (decode(net, pairs, maps.to(device)) - pictures.to(device)).square().mean()

    optimise(
        "training the decoder", net, mean, loss, recipe, folder, record, optimiser, device=device,
        save_every=save_every, progress=progress,
    )  # fmt: skip
    return mean.eval()


def decode(net: Decoder, pairs: Pairs, maps_BChw: Tensor) -> Tensor:
    """Returns the pictures B×3×S×S of maps B×C×h×w as the network under study gives them; not clamped."""
    return net(standardise_maps(maps_BChw, pairs.mean_C, pairs.sd_C).clamp(-CLAMP, CLAMP))

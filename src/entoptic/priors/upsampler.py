"""An upsampler: a small network that makes pictures of a prior four times as large, as a part of the prior.

A prior of small pictures shows networks little: they tell few photos of 32 pixels. The upsampler draws the edges that such a
picture stands for. It is deterministic and differentiable, and scores are those of its output, so what is scored is what is shown.
It adds a correction to a bicubic enlargement, from a neighbourhood of about 31 small pixels. It was trained by `make_upsampler` on
reduced photos, half of them noised and denoised by the prior first, so that it knows the prior's own faults.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import interpolate, pixel_shuffle, silu

from entoptic.base.compact import pack, unpack
from entoptic.base.files import write_atomically
from entoptic.base.records import read_tensors
from entoptic.base.training import fitting

FILE = "upsampler.safetensors"
FACTOR = 4
"""Side of the large picture by that of the small one."""


class _Block(nn.Module):
    """Two convolutions, added to what goes in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(channels, channels, 3, padding=1)
        self.b = nn.Conv2d(channels, channels, 3, padding=1)
        for part in (self.b.weight, self.b.bias):
            assert part is not None
            nn.init.zeros_(part)

    def forward(self, x: Tensor) -> Tensor:
        """Returns B×C×h×w of B×C×h×w."""
        return x + self.b(silu(self.a(x)))


class Upsampler(nn.Module):
    """The network; untrained it is a bicubic enlargement.

    Args:
        channels: at the resolution of the small picture.
        blocks: residual blocks there.
        fine: channels at twice that resolution.
    """

    def __init__(self, channels: int = 48, blocks: int = 6, fine: int = 32) -> None:
        super().__init__()
        self.i = nn.Conv2d(3, channels, 3, padding=1)
        self.m = nn.Sequential(*(_Block(channels) for _ in range(blocks)))
        self.u = nn.Conv2d(channels, 4 * fine, 3, padding=1)
        self.v = nn.Conv2d(fine, fine, 3, padding=1)
        self.o = nn.Conv2d(fine, 12, 3, padding=1)
        for part in (self.o.weight, self.o.bias):
            assert part is not None
            nn.init.zeros_(part)

    def forward(self, pictures: Tensor) -> Tensor:
        """Returns large pictures, B×3×4h×4w; values may leave [0, 1].

        Args:
            pictures: B×3×h×w in [0, 1].
        """
        seen = self.i(pictures)
        seen = silu(pixel_shuffle(self.u(seen + self.m(seen)), 2))
        plain = interpolate(pictures, scale_factor=FACTOR, mode="bicubic", align_corners=False)
        return plain + pixel_shuffle(self.o(silu(self.v(seen))), 2)


def write_upsampler(net: Upsampler, file: Path) -> None:
    """Writes an upsampler in 8 bits a weight.

    Args:
        net: the network.
        file: where to.
    """
    write_atomically(file, save(pack(net.state_dict())))


def read_upsampler(file: Path) -> Upsampler:
    """Returns a stored upsampler, frozen.

    Args:
        file: that `write_upsampler` wrote.

    Raises:
        Unreadable: it is damaged, or of another network.
    """
    net = Upsampler()
    with fitting(file):
        net.load_state_dict(unpack(read_tensors(file).tensors))
    return net.eval().requires_grad_(False)


def enlarge(net: Upsampler, pictures: Tensor) -> Tensor:
    """Returns enlarged pictures in [0, 1], B×3×4h×4w. The clamp passes gradients inside the range.

    Args:
        net: the upsampler.
        pictures: B×3×h×w in [0, 1].
    """
    return net(pictures).clamp(0, 1)


def reduce(pictures: Tensor) -> Tensor:
    """Returns pictures at a quarter of their side, B×3×h×w, as the upsampler's training reduces them.

    Args:
        pictures: B×3×4h×4w in [0, 1].
    """
    side = (pictures.shape[2] // FACTOR, pictures.shape[3] // FACTOR)
    return interpolate(pictures, side, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)

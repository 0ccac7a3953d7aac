"""The local denoiser: it removes noise from photos it has not seen, knows only neighbourhoods, and is drawn to by canvases."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from entoptic import UserError
from entoptic.methods.canvas import Denoised, Pixels
from entoptic.priors.local_denoiser import LocalDenoiser, denoise, denoiser_card, shipped_denoiser
from entoptic.priors.make_denoiser import cut_patches, errors, read_squares, train, write_denoiser


def smooth(seed: int, size: int = 64) -> Tensor:
    """A picture of broad waves, 1×3×S×S in [0.2, 0.8]."""
    draw = Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")
    waves = [torch.sin(6 * (a * x + b * y + c)) for a, b, c in torch.rand(3, 3, generator=draw)]
    return 0.5 + 0.3 * torch.stack(waves)[None]


@pytest.mark.parametrize("sigma", [0.1, 0.4])
def test_it_removes_noise_from_a_smooth_picture(sigma: float) -> None:
    clean = smooth(0)
    noisy = clean + sigma / 2 * torch.randn(clean.shape, generator=Generator().manual_seed(1))
    left = (denoise(noisy, sigma) - clean).square().mean().sqrt()
    assert left < 0.4 * sigma / 2


def test_it_keeps_what_its_card_says_on_photos_it_has_not_seen(shared_data: Path) -> None:
    photos = read_squares([str(shared_data / "imagenet-val-650")], 224)[0][::40, :, 64:160, 64:160].float() / 127.5 - 1
    found = errors(shipped_denoiser(), photos)
    for level, entry in denoiser_card()["errors"].items():
        assert found[level]["psnr"] > found[level]["noisy"] + 3  # no less than half of the noise's variance goes
        assert abs(found[level]["psnr"] - entry["psnr"]) < 2  # another few photos


def test_a_picture_is_denoised_on_its_own_and_at_any_size() -> None:
    both = torch.rand(2, 3, 50, 61, generator=Generator().manual_seed(0))
    together = denoise(both, 0.3)
    assert together.shape == both.shape
    assert 0 <= float(together.min()) <= float(together.max()) <= 1
    for i in range(2):
        torch.testing.assert_close(together[i : i + 1], denoise(both[i : i + 1], 0.3), atol=1e-5, rtol=0)


def test_far_pixels_do_not_count() -> None:
    picture = torch.rand(1, 3, 240, 240, generator=Generator().manual_seed(0))
    other = picture.clone()
    other[..., :40] = 1 - other[..., :40]
    change = (denoise(picture, 0.3) - denoise(other, 0.3)).abs().amax((0, 1, 2))
    assert float(change[:40].max()) > 0.05
    assert float(change[200:].max()) == 0


def test_noise_levels_it_was_not_trained_on_are_refused() -> None:
    for sigma in (0.0, 0.001, 3.0, math.nan):
        with pytest.raises(UserError, match=r"noise of 0\.02 to 1\.2"):
            denoise(smooth(0), sigma)


def test_a_training_is_the_same_again_and_learns(tmp_path: Path) -> None:
    photos = [torch.cat([smooth(k, 96) for k in range(4)]).mul(255).byte(), smooth(9, 80).mul(255).byte()]
    logged: list[str] = []
    net, steps = train(photos, 0, steps=3, log=logged.append)
    again, _ = train(photos, 0, steps=3)
    assert steps == 3
    assert all(a.equal(b) for a, b in zip(net.state_dict().values(), again.state_dict().values()))
    write_denoiser(net, {"title": "x"}, tmp_path / "net.safetensors")
    assert (tmp_path / "net.safetensors").stat().st_size < 1.5e6
    untrained = LocalDenoiser()
    test = 2 * torch.cat([smooth(k) for k in range(20, 24)]) - 1
    later, _ = train(photos, 0, steps=25)
    assert errors(later, test)["0.4"]["psnr"] > errors(untrained, test)["0.4"]["psnr"]


def test_patches_come_from_all_photos_alike() -> None:
    photos = [torch.full((3, 3, 80, 80), value, dtype=torch.uint8) for value in (0, 255)] + [
        torch.full((6, 3, 96, 96), 128, dtype=torch.uint8)
    ]
    patches = cut_patches(photos, 400, Generator().manual_seed(0))
    assert patches.shape == (400, 3, 64, 64)
    share = [float(((patches.mean((1, 2, 3)) - level).abs() < 0.1).float().mean()) for level in (-1, 1, 0)]
    assert share == pytest.approx([0.25, 0.25, 0.5], abs=0.08)


def test_photos_are_read_as_squares(photo_folder: Path) -> None:
    (squares,) = read_squares([str(photo_folder)], 32)
    assert squares.shape[1:] == (3, 32, 32)
    assert squares.dtype == torch.uint8


# --- as a regulariser -------------------------------------------------------------------------------------------------


def test_a_canvas_is_denoised_every_few_steps_at_falling_levels() -> None:
    plain = Pixels([Generator().manual_seed(0)], (32, 32), torch.device("cpu"), std=0.3)
    canvas = Denoised(plain, 0.25, 8, every=4, sigma=(0.4, 0.1))
    before = canvas.image().detach().clamp(0, 1)
    for _ in range(3):
        canvas.project()
    torch.testing.assert_close(canvas.image().detach(), before)
    canvas.project()
    assert canvas.level(4) == pytest.approx(0.2)
    torch.testing.assert_close(canvas.image().detach(), 0.75 * before + 0.25 * denoise(before, 0.2))
    assert (canvas.level(0), canvas.level(8)) == pytest.approx((0.4, 0.1))

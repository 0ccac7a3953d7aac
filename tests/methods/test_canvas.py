"""Canvases against direct sums and the published colour space."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator

from entoptic.images.colour import COLOUR, from_rgb, natural_spectrum, resample_spectrum, to_rgb
from entoptic.methods.canvas import Canvas, Phase, Pixels, Spectrum, frequencies
from oracles import fourier, maco

CPU = torch.device("cpu")


def seeded(*seeds: int) -> list[Generator]:
    return [Generator().manual_seed(seed) for seed in seeds]


# --- pixels -------------------------------------------------------------------------------------------------


def test_pixels_are_an_affine_map_of_normalised_space() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    canvas = Pixels(seeded(0, 1), (9, 7), CPU, mean=mean, scale=std)
    x = canvas.image()
    for c in range(3):
        assert torch.allclose(x[:, c], mean[c] + std[c] * canvas.parameter[:, c])
    assert canvas.parameter.is_leaf
    assert canvas.parameter.requires_grad


def test_pixels_are_clamped_to_the_range_of_the_image_only_outside_it() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    canvas = Pixels(seeded(0), (64, 64), CPU, mean=mean, scale=std, std=3.0)
    before = canvas.image().detach().clone()
    assert before.min() < 0
    assert before.max() > 1
    canvas.project()
    after = canvas.image().detach()
    low, high = (0 - torch.tensor(mean)) / torch.tensor(std), (1 - torch.tensor(mean)) / torch.tensor(std)
    for c in range(3):
        assert canvas.parameter[0, c].min() == low[c]
        assert canvas.parameter[0, c].max() == high[c]
    assert torch.allclose(after, before.clamp(0, 1), atol=1e-6)
    inside = (before > 0) & (before < 1)
    assert torch.equal(after[inside], before[inside])


def test_the_published_start_is_standard_normal() -> None:
    start = Pixels(seeded(0), (224, 224), CPU, mean=(0.5,) * 3, scale=(0.2,) * 3).parameter
    assert start.mean().abs() < 0.01
    assert start.std().item() == pytest.approx(1, abs=0.01)


def test_pixels_of_a_grey_card_are_rgb() -> None:
    assert Pixels(seeded(0), (8, 8), CPU, mean=(0.1,), scale=(0.3,)).image().shape == (1, 3, 8, 8)


# --- Fourier ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(6, 8), (7, 6), (8, 7), (5, 5)])
@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_spectrum_equals_direct_sums(size: tuple[int, int], decay: float) -> None:
    canvas = Spectrum(seeded(3), size, CPU, std=1.0, decay=decay, gain=0.25)
    spectrum = torch.view_as_complex(canvas.parameter.detach())[0].numpy()
    expected = fourier.picture(spectrum, size[1], decay, 0.25)
    assert canvas.image().shape == (1, 3, *size)
    assert np.abs(canvas.image()[0].detach().numpy() - expected).max() < 1e-5


def test_frequencies_are_cycles_per_pixel() -> None:
    for height, width in ((6, 8), (7, 5)):
        table = fourier.scale(height, width, 1.0)
        got = 1 / frequencies((height, width)).clamp_min(1 / max(height, width))
        assert np.abs(got.numpy() - table).max() < 1e-5


def test_without_a_gain_the_spectrum_has_unit_rms() -> None:
    canvas = Spectrum(seeded(0), (32, 24), CPU, std=1.0, decay=1.5)
    assert canvas._scale.square().mean().sqrt().item() == pytest.approx(1, rel=1e-5)
    louder = Spectrum(seeded(0), (32, 24), CPU, std=1.0, decay=1.5, gain=2.0)
    ratio = louder._scale / canvas._scale
    assert torch.allclose(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-5)


# --- MACO ---------------------------------------------------------------------------------------------------


def template(height: int, width: int) -> torch.Tensor:
    return 50 * (0.1 + torch.rand(3, height, width // 2 + 1, generator=Generator().manual_seed(9)))


@pytest.mark.parametrize("size", [(6, 8), (7, 5)])
def test_phase_equals_direct_sums(size: tuple[int, int]) -> None:
    magnitude = template(*size)
    canvas = Phase(seeded(4), size, CPU, magnitude=magnitude)
    expected = maco.picture(canvas.parameter[0].detach().double().numpy(), magnitude.double().numpy(), size[1])
    assert np.abs(canvas.image()[0].detach().numpy() - expected).max() < 1e-5


@pytest.mark.parametrize("size", [(16, 12), (15, 11), (16, 11)])
def test_magnitudes_stay_the_template_up_to_one_factor_per_picture(size: tuple[int, int]) -> None:
    magnitude = template(*size)
    canvas = Phase(seeded(0, 1), size, CPU, magnitude=magnitude)
    with torch.no_grad():
        canvas.parameter.mul_(7).add_(3)  # wherever the phases went
        ratio = torch.fft.rfft2(canvas.signal()).abs() / magnitude
    # Column 0 (and the last of an even width) is its own mirror image; its phases need not be.
    last = -1 if size[1] % 2 == 0 else None
    free = ratio[:, :, :, 1:last].flatten(1)
    assert torch.allclose(free, free[:, :1].expand_as(free), rtol=1e-3)


def test_signal_is_standardised_per_picture() -> None:
    signal = Phase(seeded(0, 1, 2), (16, 16), CPU, magnitude=template(16, 16)).signal().detach()
    assert signal.mean((1, 2, 3)).abs().max() < 1e-5
    assert torch.allclose(signal.std((1, 2, 3)), torch.ones(3), atol=1e-4)


# --- all of them --------------------------------------------------------------------------------------------


def canvases(seeds: tuple[int, ...]) -> list[Canvas]:
    return [
        Pixels(seeded(*seeds), (8, 8), CPU, mean=(0.4,), scale=(0.3,)),
        Spectrum(seeded(*seeds), (8, 8), CPU, std=1.0),
        Phase(seeded(*seeds), (8, 8), CPU, magnitude=template(8, 8)),
    ]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=4))
def test_no_canvas_mixes_items(seeds: list[int]) -> None:
    together = canvases(tuple(seeds))
    for i, seed in enumerate(seeds):
        for canvas, alone in zip(together, canvases((seed,))):
            assert torch.allclose(canvas.image()[i], alone.image()[0], atol=1e-6)
    for canvas in together:
        canvas.image()[0].sum().backward()
        assert canvas.parameter.grad is not None
        assert canvas.parameter.grad[0].abs().sum() > 0
        assert canvas.parameter.grad[1:].abs().sum() == 0


def test_projected_canvases_paint_pixels() -> None:
    for canvas in canvases((0, 1)):
        canvas.project()
        image = canvas.image().detach()
        assert image.min() >= -1e-6
        assert image.max() <= 1 + 1e-6


# --- colour -------------------------------------------------------------------------------------------------


def test_colour_matrix_is_the_published_one() -> None:
    assert np.abs(COLOUR.numpy() - fourier.COLOUR).max() < 1e-6
    assert COLOUR.norm(dim=0).max().item() == pytest.approx(1, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_from_rgb_undoes_to_rgb(seed: int) -> None:
    x = torch.rand(2, 3, 5, 4, generator=Generator().manual_seed(seed))
    assert torch.allclose(to_rgb(from_rgb(x)), x, atol=1e-5)
    assert torch.allclose(from_rgb(to_rgb(x)), x, atol=1e-4)


def test_grey_pictures_have_no_colour_in_decorrelated_space() -> None:
    grey = torch.rand(1, 1, 6, 6).expand(-1, 3, -1, -1)
    first, *others = from_rgb(grey)[0]
    assert first.abs().max() > 1
    # The axis of brightness is (.26, .27, .27), not quite grey.
    assert max(float(o.abs().max()) for o in others) < 0.15 * float(first.abs().max())


def test_natural_spectrum_is_the_sum_of_magnitudes() -> None:
    photos = torch.rand(3, 3, 6, 8)
    total = sum(np.abs(np.fft.rfft2(from_rgb(p[None])[0].numpy(), axes=(1, 2))) for p in photos)
    assert np.abs(natural_spectrum(photos).numpy() - total).max() < 1e-3


def test_a_resampled_spectrum_keeps_its_frequencies() -> None:
    """At twice the size every other coefficient lies at a frequency of the smaller one."""
    for old, new in (((16, 16), (8, 8)), ((16, 16), (32, 32)), ((16, 12), (8, 6))):
        smooth = 1 / (frequencies(old) + 0.05)
        resized = resample_spectrum(smooth.expand(3, -1, -1), new)
        expected = 1 / (frequencies(new) + 0.05)
        assert resized.shape == (3, *expected.shape)
        error = (resized[0] / expected - 1).abs()
        # Between two known frequencies a straight line is off by a few per cent.
        assert error[0, 0] < 1e-4, "the mean must stay at frequency 0"
        assert error.median() < 0.05


def test_a_resampled_spectrum_is_symmetric_in_vertical_frequency() -> None:
    old = 1 / (frequencies((16, 16)) + 0.05)
    new = resample_spectrum(old.expand(3, -1, -1), (8, 8))[0]
    for k in range(1, 4):
        assert torch.allclose(new[k], new[-k], rtol=1e-4), "pictures are as likely mirrored"


def test_a_spectrum_of_the_same_size_is_unchanged() -> None:
    old = torch.rand(3, 16, 9)
    assert torch.allclose(resample_spectrum(old, (16, 16)), old, atol=1e-6)

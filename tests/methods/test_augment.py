"""Every random view: its geometry, its distribution, and that it is drawn for one item only."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from entoptic.methods.augment import (
    Augment,
    chain,
    crops,
    flip,
    gaussian_blur,
    identity,
    lucid_transforms,
    noise,
    roll,
    roll_each,
    zoom,
)
from oracles import maco

SIZE = (16, 12)


def seeded(*seeds: int) -> list[Generator]:
    return [Generator().manual_seed(seed) for seed in seeds]


def coordinates(height: int, width: int) -> Tensor:
    """1×3×H×W: each pixel's row, its column (fractions of the picture), and ones."""
    y, x = (torch.arange(n) + 0.5 for n in (height, width))
    rows, columns = (y / height)[:, None].expand(height, width), (x / width)[None].expand(height, width)
    return torch.stack([rows, columns, torch.ones(height, width)])[None]


def fixed(*sides: float) -> Callable[[Generator], Tensor]:
    return lambda g: torch.tensor(sides)


EVERY: dict[str, Augment] = {
    "identity": identity,
    "roll": roll(5),
    "flip": flip(),
    "zoom": zoom(0.3),
    "noise": noise(0.1, 0.2),
    "crops": crops(3, lambda g: 0.2 + 0.5 * torch.rand(3, generator=g), (8, 8)),
    "lucid": lucid_transforms(SIZE),
    "chain": chain(roll(3), flip(), crops(2, lambda g: 0.4 + 0.1 * torch.rand(2, generator=g), (8, 8)), noise(0.1)),
}


# --- what all of them promise -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 2**40), min_size=2, max_size=4, unique=True))
def test_views_of_an_item_do_not_depend_on_its_mates(name: str, seeds: list[int]) -> None:
    augment = EVERY[name]
    images = torch.rand(len(seeds), 3, *SIZE, generator=Generator().manual_seed(0))
    together = augment(images, seeded(*seeds))
    views = len(together) // len(seeds)
    for i, seed in enumerate(seeds):
        alone = augment(images[i : i + 1], seeded(seed))
        assert torch.allclose(together[i * views : (i + 1) * views], alone, atol=1e-6)
    order = list(reversed(range(len(seeds))))
    turned = augment(images[order], seeded(*(seeds[i] for i in order)))
    for place, i in enumerate(order):
        assert torch.allclose(
            turned[place * views : (place + 1) * views], together[i * views : (i + 1) * views], atol=1e-6
        )


@pytest.mark.parametrize("name", [name for name in EVERY if name != "identity"])
def test_items_of_a_batch_are_changed_differently(name: str) -> None:
    """torch-dreams draws one affine map for the whole batch."""
    image = torch.rand(1, 3, *SIZE).expand(8, -1, -1, -1)
    views = EVERY[name](image, seeded(*range(8)))
    each = views.view(8, -1)
    assert any(not torch.equal(each[0], other) for other in each[1:])


@pytest.mark.parametrize("name", EVERY)
def test_gradients_reach_only_the_item_itself(name: str) -> None:
    images = torch.rand(3, 3, *SIZE, requires_grad=True)
    views = EVERY[name](images, seeded(0, 1, 2))
    each = len(views) // 3
    views[each : 2 * each].sum().backward()
    assert images.grad is not None
    assert images.grad[1].abs().sum() > 0
    assert images.grad[[0, 2]].abs().sum() == 0


@pytest.mark.parametrize("name", [name for name in EVERY if name != "identity"])
def test_successive_steps_differ(name: str) -> None:
    generators, image = seeded(0), torch.rand(1, 3, *SIZE)
    views = [EVERY[name](image, generators) for _ in range(6)]
    assert any(not torch.equal(views[0], other) for other in views[1:])


# --- roll and flip ------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-40, 40), st.integers(-40, 40)), min_size=1, max_size=4))
def test_roll_each_is_torch_roll_and_can_be_undone(shifts: list[tuple[int, int]]) -> None:
    images = torch.rand(len(shifts), 3, 7, 10)
    moved = roll_each(images, shifts)
    for image, turned, shift in zip(images, moved, shifts):
        assert torch.equal(turned, torch.roll(image, shift, dims=(1, 2)))
    assert torch.equal(roll_each(moved, [(-dy, -dx) for dy, dx in shifts]), images)


def test_jitter_is_uniform_between_both_ends() -> None:
    """Shifts are read off a picture with one bright pixel."""
    image = torch.zeros(1, 3, 32, 32)
    image[..., 0, 0] = 1
    generators, augment, seen = seeded(0), roll(2), []
    for _ in range(600):
        y, x = (augment(image, generators)[0, 0] == 1).nonzero()[0].tolist()
        seen.append(((y + 16) % 32 - 16, (x + 16) % 32 - 16))
    for axis in range(2):
        counts = {shift: [s[axis] for s in seen].count(shift) for shift in range(-2, 3)}
        assert sum(counts.values()) == 600, "a shift beyond the jitter"
        assert min(counts.values()) > 80
        assert max(counts.values()) < 165
    assert np.corrcoef(np.array(seen).T)[0, 1] == pytest.approx(0, abs=0.15)


def test_flip_mirrors_left_and_right_with_the_given_probability() -> None:
    image = torch.rand(1, 3, 4, 6)
    generators = seeded(0)
    mirrored = 0
    for _ in range(400):
        view = flip(0.25)(image, generators)
        mirrored += torch.equal(view, image.flip(-1))
        assert torch.equal(view, image) or torch.equal(view, image.flip(-1))
    assert 65 < mirrored < 140
    assert torch.equal(flip(0.0)(image, generators), image)
    assert torch.equal(flip(1.0)(image, generators), image.flip(-1))


def test_zoom_scales_about_the_centre() -> None:
    picture = coordinates(60, 40)
    assert torch.allclose(zoom(0.0)(picture, seeded(0)), picture, atol=1e-5)
    steps, generators = [], seeded(0)
    for _ in range(200):
        view = zoom(0.2)(picture, generators)[0]
        rows, columns = view[0, 25:35, 20] * 60, view[1, 30, 15:25] * 40
        steps.append(float(rows.diff().mean()))
        assert float(columns.diff().mean()) == pytest.approx(steps[-1], rel=1e-3)
        assert float(rows[4:6].mean()) == pytest.approx(30, abs=0.01)
        assert float(columns[4:6].mean()) == pytest.approx(20, abs=0.01)
    assert 0.8 - 1e-3 <= min(steps) < 0.85
    assert 1.15 < max(steps) <= 1.2 + 1e-3


# --- noise --------------------------------------------------------------------------------------------------


def test_noise_statistics() -> None:
    grey = torch.full((2, 3, 100, 100), 0.5)
    normal = noise(0.2)(grey, seeded(0, 1)) - grey
    assert normal.mean().abs() < 0.005
    assert normal.std().item() == pytest.approx(0.2, rel=0.02)
    uniform = noise(0.0, 0.3)(grey, seeded(0, 1)) - grey
    assert uniform.abs().max() <= 0.3 + 1e-6
    assert uniform.std().item() == pytest.approx(0.3 / math.sqrt(3), rel=0.02)
    both = noise(0.2, 0.3)(grey, seeded(0, 1)) - grey
    assert both.std().item() == pytest.approx(math.sqrt(0.04 + 0.03), rel=0.02)


def test_views_of_one_item_get_different_noise() -> None:
    views = noise(0.1)(torch.zeros(4, 3, 8, 8), seeded(0, 1))
    assert not torch.equal(views[0], views[1])


# --- crops --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [0.05, 0.2, 0.5, 0.93, 1.0])
def test_the_side_that_was_drawn_is_cut(side: float) -> None:
    """Horama cuts high + U·(high - low), a side nobody asked for. Here the crop's corners are painted in."""
    picture = coordinates(400, 400)
    view = crops(1, fixed(side), (10, 10), centre_std=0.0)(picture, seeded(0))[0]
    step = side / 10
    for axis, line in ((0, view[0, :, 0]), (1, view[1, 0, :])):
        assert float(line[-1] - line[0]) == pytest.approx(9 * step, abs=2e-3), f"axis {axis}"
        assert float(line[0]) - step / 2 == pytest.approx(0.5 - side / 2, abs=3e-3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.05, 1.0))
def test_crops_lie_inside_the_picture(seed: int, side: float) -> None:
    picture = coordinates(60, 60)
    views = crops(4, fixed(side, side, side, side), (8, 8), centre_std=0.6)(picture, seeded(seed))
    step = side / 8
    for view in views:
        for line in (view[0, :, 0], view[1, 0, :]):
            assert line[0] - step / 2 >= -1 / 60
            assert line[-1] + step / 2 <= 1 + 1 / 60
            assert (line.diff() >= -1e-5).all(), "not mirrored, not turned"
        # Nowhere is the border repeated for more than half a source pixel.
        assert float(view[1, 0, -1] - view[1, 0, 0]) >= 7 * step - 1.01 / 60


def test_crops_equal_explicit_bilinear_sampling() -> None:
    picture = torch.rand(1, 3, 11, 14)
    for side in (0.3, 0.8, 1.0):
        view = crops(1, fixed(side), (5, 6), centre_std=0.0)(picture, seeded(0))[0]
        expected = maco.crop(picture[0].double().numpy(), side, (0.5, 0.5), (5, 6))
        assert np.abs(view.numpy() - expected).max() < 1e-5


def test_centres_are_normal_around_the_middle() -> None:
    picture = coordinates(200, 200)
    views = crops(800, lambda g: torch.full((800,), 0.05), (3, 3), centre_std=0.15)(picture, seeded(0))
    centres = views[:, :2, 1, 1]
    assert (centres.mean(0) - 0.5).abs().max() < 0.02
    assert (centres.std(0) - 0.15).abs().max() < 0.015
    assert np.corrcoef(centres.T.numpy())[0, 1] == pytest.approx(0, abs=0.12)


def test_whole_picture_as_crop_is_the_picture() -> None:
    picture = torch.rand(2, 3, 9, 9)
    views = crops(1, fixed(1.0), (9, 9), centre_std=5.0)(picture, seeded(0, 1))
    assert torch.allclose(views, picture, atol=1e-5)


def test_views_of_one_item_stand_next_to_each_other() -> None:
    images = torch.stack([torch.full((3, 8, 8), value) for value in (0.1, 0.6)])
    views = crops(3, fixed(0.2, 0.5, 0.9), (4, 4))(images, seeded(0, 1))
    assert torch.allclose(views.mean((1, 2, 3)), torch.tensor([0.1] * 3 + [0.6] * 3))


# --- Lucid --------------------------------------------------------------------------------------------------


class Neutral:
    """`torch.randint` that draws no shift, scale 1 and angle 0, or one of them otherwise."""

    def __init__(self, shift: tuple[int, int] = (0, 0), scale: int = 5, angle: int = 10) -> None:
        self.scale, self.angle, self.shifts = scale, angle, [torch.tensor(shift), torch.tensor((0, 0))]

    def __call__(self, *args: object, generator: Generator) -> Tensor:
        if len(args) == 3:  # low, high, shape: a shift
            return self.shifts.pop(0) if self.shifts else torch.tensor((0, 0))
        return torch.tensor(self.scale if args[0] == 11 else self.angle)


def test_lucid_with_neutral_draws_is_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = torch.rand(1, 3, 15, 20)
    monkeypatch.setattr(torch, "randint", Neutral())
    assert torch.allclose(lucid_transforms((15, 20))(picture, seeded(0)), picture, atol=1e-5)


def test_lucid_shift_is_in_pixels_and_leaves_grey(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = torch.rand(1, 3, 15, 20)
    monkeypatch.setattr(torch, "randint", Neutral(shift=(3, -2)))
    view = lucid_transforms((15, 20))(picture, seeded(0))
    assert torch.allclose(view[..., :-3, 2:], picture[..., 3:, :-2], atol=1e-4)
    assert torch.allclose(view[..., -3:, :], torch.tensor(0.5), atol=1e-4)
    assert torch.allclose(view[..., :2], torch.tensor(0.5), atol=1e-4)


@pytest.mark.parametrize(("scale", "expected"), [(0, 0.9), (10, 1.1)])
def test_lucid_scale(monkeypatch: pytest.MonkeyPatch, scale: int, expected: float) -> None:
    monkeypatch.setattr(torch, "randint", Neutral(scale=scale))
    view = lucid_transforms((40, 60))(coordinates(40, 60), seeded(0))[0]
    middle = view[:, 15:25, 25:35]
    assert float(middle[0].diff(dim=0).mean() * 40) == pytest.approx(1 / expected, rel=1e-3)
    assert float(middle[1].diff(dim=1).mean() * 60) == pytest.approx(1 / expected, rel=1e-3)


def test_lucid_rotation_keeps_right_angles_in_wide_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randint", Neutral(angle=20))  # ten degrees
    view = lucid_transforms((40, 80))(coordinates(40, 80), seeded(0))[0][:, 15:25, 35:45]
    y, x = view[0] * 40, view[1] * 80  # source positions in pixels
    along, down = (
        torch.stack([y.diff(dim=1).mean(), x.diff(dim=1).mean()]),
        torch.stack([y.diff(dim=0).mean(), x.diff(dim=0).mean()]),
    )
    assert abs(float(along @ down)) < 1e-3
    assert float(along.norm()) == pytest.approx(1, abs=1e-3)
    assert float(down.norm()) == pytest.approx(1, abs=1e-3)
    assert math.degrees(math.asin(abs(float(along[0])))) == pytest.approx(10, abs=0.1)


def test_lucid_ranges() -> None:
    """Scale 0.9 … 1.1, ±10°; a jitter of d crops at an offset of 0 … d, which is ±d/2 of the centre."""
    picture, augment, generators = coordinates(100, 100), lucid_transforms((100, 100)), seeded(0)
    offsets = []
    for _ in range(150):
        view = augment(picture, generators)[0]
        middle = view[:, 40:60, 40:60] * 100
        along = torch.stack([middle[0].diff(dim=1).mean(), middle[1].diff(dim=1).mean()])
        assert 1 / 1.1 - 1e-3 <= float(along.norm()) <= 1 / 0.9 + 1e-3
        assert abs(math.degrees(math.atan2(float(along[0]), float(along[1])))) <= 10.01
        offsets.append(middle[:2, 9:11, 9:11].mean((1, 2)) - 50)
    furthest = torch.stack(offsets).abs().amax(0)
    assert (furthest > 4).all()
    assert (furthest < 4 + 2 / 0.9 + 0.1).all()


# --- blur ---------------------------------------------------------------------------------------------------


def test_blur_keeps_the_mean_and_widens_a_point() -> None:
    assert torch.allclose(gaussian_blur(torch.full((1, 3, 20, 20), 0.3), 1.5), torch.tensor(0.3), atol=1e-6)
    point = torch.zeros(1, 3, 31, 31)
    point[..., 15, 15] = 1
    spread = gaussian_blur(point, 2.0)[0, 0]
    assert spread.sum().item() == pytest.approx(1, abs=1e-5)
    offsets = torch.arange(31.0) - 15
    variance = (spread.sum(0) * offsets.square()).sum()
    assert variance.item() == pytest.approx(4, rel=0.05)
    assert torch.allclose(spread, spread.T, atol=1e-7)

"""CAVE's metrics in closed form on cells made by hand, and on a network whose units keep to one place or to none."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from conftest import tiny_card
from entoptic.errors import UserError
from entoptic.metrics.cells import Cells, cell_shares, coverage, measure_cells, part_scores, share_consistency
from entoptic.models.model import Model
from entoptic.units.unit import bind


def quarters(side: int = 10) -> Tensor:
    """A map of four quarters of a square, numbered row by row."""
    half = torch.arange(side) >= side // 2
    return (2 * half[:, None].long()) + half[None].long()


def test_cells_are_masks_or_a_map_of_numbers() -> None:
    numbers = quarters()
    numbers[0] = -1
    cells = Cells.of_map(numbers, 5)
    assert cells.masks.shape == (5, 10, 10)
    assert cells.masks.sum((1, 2)).tolist() == [20, 20, 25, 25, 0]
    with pytest.raises(UserError, match="the map names cell 3"):
        Cells.of_map(quarters(), 3)
    with pytest.raises(UserError, match="whole numbers"):
        Cells.of_map(quarters().float(), 4)


def test_a_map_that_fills_a_part_scores_one() -> None:
    masks = Cells.of_map(quarters(), 4).masks[None]
    part = torch.zeros(1, 10, 10)
    part[0, 0, :10] = 1.0  # ten of a hundred pixels: all of the mask
    row = torch.zeros(1, 1, 10, 10, dtype=torch.bool)
    row[..., 0, :] = True
    assert part_scores(part, row).tolist() == [[1.0]]
    # In quarters of 25: half of the mask and of the mass in each of two parts.
    assert part_scores(part, masks)[0].tolist() == pytest.approx([(5 + 0.5 * 10) / 35] * 2 + [0.0, 0.0])


def test_the_score_weighs_the_mass_inside() -> None:
    masks = torch.zeros(1, 1, 10, 10, dtype=torch.bool)
    masks[0, 0, 0, :5] = True
    maps = torch.zeros(1, 10, 10)
    maps[0, 0, :10] = torch.tensor([3.0] * 5 + [1.0] * 5)
    assert float(part_scores(maps, masks)) == pytest.approx((5 + 0.75 * 10) / (5 + 10))
    assert math.isnan(float(part_scores(torch.zeros(1, 10, 10), masks)))
    assert math.isnan(float(part_scores(maps, torch.zeros_like(masks))))


def test_coverage_is_of_the_union() -> None:
    masks = torch.zeros(1, 2, 10, 10, dtype=torch.bool)
    masks[0, 0, 0], masks[0, 1, 1] = True, True
    one, other, outside = (torch.zeros(10, 10) for _ in range(3))
    one[0], other[1], outside[9] = 1.0, 5.0, 1.0
    both = torch.stack([one, other])[None]
    assert float(coverage(both, masks)) == pytest.approx(1.0)
    assert float(coverage(both[:, :1], masks)) == pytest.approx((10 + 1.0 * 10) / (20 + 10))
    assert float(coverage(torch.stack([one, outside])[None], masks)) == pytest.approx((10 + 0.5 * 20) / (20 + 20))
    silent = torch.stack([one, torch.zeros(10, 10)])[None]
    assert float(coverage(silent, masks)) == pytest.approx(float(coverage(both[:, :1], masks)))


def test_consistency_over_cells_in_closed_form() -> None:
    same = torch.tensor([[0.5, 0.5, 0.0]] * 4)
    assert share_consistency(same) == pytest.approx(1.0)
    apart = torch.eye(3)
    assert share_consistency(apart) == pytest.approx(0.0)
    half = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    assert share_consistency(half) == pytest.approx(0.5)
    with_gap = torch.tensor([[1.0, 0.0], [0.5, 0.5], [math.nan, math.nan]])
    assert share_consistency(with_gap) == pytest.approx(0.5)
    assert math.isnan(share_consistency(half[:1]))


def test_units_at_random_places_have_the_expected_consistency() -> None:
    """One of P cells at random: a pair agrees with probability 1/P."""
    draw = torch.Generator().manual_seed(0)
    for cells in (4, 10):
        rows = torch.eye(cells)[torch.randint(cells, (3000,), generator=draw)]
        assert share_consistency(rows) == pytest.approx(1 / cells, abs=0.01)


def test_shares_leave_out_what_lies_beside_the_object() -> None:
    masks = torch.zeros(2, 2, 4, 4, dtype=torch.bool)
    masks[:, 0, 0], masks[:, 1, 1] = True, True
    maps = torch.ones(2, 4, 4)
    maps[0, 1] = 3.0
    maps[1, :2] = 0.0
    shares = cell_shares(maps, masks)
    assert shares[0].tolist() == pytest.approx([0.25, 0.75])
    assert bool(shares[1].isnan().all())


# --- units of a network -----------------------------------------------------------------------------------------------


@pytest.fixture
def network() -> Model:
    """Channel 0 sees red, channel 1 green, channel 2 any brightness."""
    module = nn.Sequential()
    module.add_module("see", nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.ReLU()))
    module.add_module("pool", nn.AdaptiveAvgPool2d(1))
    module.add_module("flat", nn.Flatten())
    module.add_module("head", nn.Linear(3, 5))
    module.see[0].weight.data = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [1.0, 1.0, 1.0]])[:, :, None, None]
    return Model(module, tiny_card(size=(20, 20), mean=(0.0,) * 3, std=(1.0,) * 3), device="cpu")


def squares(count: int = 12) -> tuple[Tensor, list[Cells]]:
    """Photos of a square of 10 pixels somewhere, red in its upper left corner; cells are its quarters."""
    draw, images, cells = torch.Generator().manual_seed(3), [], []
    for _ in range(count):
        row, column = torch.randint(11, (2,), generator=draw).tolist()
        image, numbers = torch.zeros(3, 20, 20), torch.full((20, 20), -1)
        numbers[row : row + 10, column : column + 10] = quarters()
        image[0, row : row + 5, column : column + 5] = 1.0
        place = torch.randint(4, (1,), generator=draw).item()
        image[1][numbers == place] = 1.0
        images.append(image)
        cells.append(Cells.of_map(numbers, 4))
    return torch.stack(images), cells


@pytest.mark.parametrize("attribution", ["relevance", "activation"])
def test_a_unit_of_one_corner_keeps_to_it(network: Model, attribution: str) -> None:
    images, cells = squares()
    red, green = bind(network, ["see:0", "see:1"])
    where, _, same = measure_cells(red, images, cells, attribution=attribution)
    assert same.value == pytest.approx(1.0, abs=1e-4)
    assert where.value is not None
    assert where.value > 0.7
    assert where.detail["part"] == 0
    assert where.n == same.n == 12
    _, together, elsewhere = measure_cells(green, images, cells, others=[red], attribution=attribution)
    assert elsewhere.value is not None
    assert elsewhere.value < 0.6
    assert elsewhere.interval is not None
    assert elsewhere.interval[0] <= elsewhere.value <= elsewhere.interval[1]
    assert together.detail["units"] == 2
    assert together.value is not None
    assert 0 < together.value <= 1


def test_a_unit_that_is_rarely_on_the_object_has_no_consistency(network: Model) -> None:
    images, cells = squares()
    images[5:, 0] = 0
    _, _, same = measure_cells(bind(network, "see:0")[0], images, cells)
    assert same.value is None
    assert "on the object in 5 of 12 photos" in str(same.reason)


def test_bad_input_is_refused(network: Model) -> None:
    images, cells = squares(4)
    unit = bind(network, "see:0")[0]
    with pytest.raises(UserError, match="cells for each of 4 photos"):
        measure_cells(unit, images, cells[:3])
    with pytest.raises(UserError, match="P×20×20 masks"):
        measure_cells(unit, images, [Cells.of_map(quarters(), 4)] * 4)
    with pytest.raises(UserError, match="one P for all photos"):
        measure_cells(unit, images, [*cells[:3], Cells.of_map(torch.zeros(20, 20, dtype=torch.int64), 2)])
    with pytest.raises(UserError, match='no attribution "x"'):
        measure_cells(unit, images, cells, attribution="x")

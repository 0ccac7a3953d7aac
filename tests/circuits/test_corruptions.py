"""Corrupted twins."""

from __future__ import annotations

import pytest
import torch

from entoptic.circuits.corruptions import blurred, corrupt, filled
from entoptic.errors import UserError


def photos(count: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.rand((count, 3, 16, 16), generator=torch.Generator().manual_seed(seed))


def test_a_blur_keeps_even_pictures_and_takes_detail() -> None:
    even = torch.full((2, 3, 16, 16), 0.4)
    torch.testing.assert_close(blurred(even, 2.0), even)
    assert float(corrupt("blur", photos()).std()) < 0.3 * float(photos().std())


def test_a_twin_does_not_depend_on_its_batch() -> None:
    torch.testing.assert_close(corrupt("blur", photos())[1:2], corrupt("blur", photos()[1:2]))


def test_the_mean_is_the_same_for_every_photo() -> None:
    twins = corrupt("mean", photos(), others=photos(5, 1))
    torch.testing.assert_close(twins[0], torch.cat([photos(), photos(5, 1)]).mean(0))
    assert torch.equal(twins[0], twins[2])


def test_a_resampled_photo_is_another_one() -> None:
    own = corrupt("resample", photos())
    assert all(not torch.equal(a, b) for a, b in zip(own, photos()))
    others = photos(4, 1)
    twins = corrupt("resample", photos(), others=others, seed=3)
    assert all(any(torch.equal(twin, other) for other in others) for twin in twins)
    assert torch.equal(twins, corrupt("resample", photos(), others=others, seed=3))
    with pytest.raises(UserError, match="needs a second photo"):
        corrupt("resample", photos(1))


def test_a_mask_is_filled_from_around_it_and_nothing_else_changes() -> None:
    picture = torch.full((1, 3, 16, 16), 0.2)
    picture[:, :, 5:9, 5:9] = 1.0
    mask = torch.zeros(1, 1, 16, 16)
    mask[:, :, 5:9, 5:9] = 1
    torch.testing.assert_close(filled(picture, mask), torch.full_like(picture, 0.2))
    noise = photos(1)
    assert torch.equal(filled(noise, mask)[mask.expand_as(noise) == 0], noise[mask.expand_as(noise) == 0])
    for wrong, words in ((torch.zeros_like(mask), "nothing"), (torch.ones_like(mask), "the whole photo")):
        with pytest.raises(UserError, match=f"mask 0 covers {words}"):
            filled(picture, wrong)
    with pytest.raises(UserError, match="needs --masks FOLDER"):
        corrupt("mask", picture)


def test_an_unknown_corruption_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match='no corruption "blurr"; did you mean "blur"'):
        corrupt("blurr", photos())

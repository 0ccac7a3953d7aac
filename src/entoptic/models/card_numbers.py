"""Numbers of a card: read in the forms people write them in where these are unambiguous, refused in one sentence where not."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

from entoptic.errors import UserError

_SMALLEST = 8
_SIZE = "(height, width) of at least 8 pixels"
_LARGEST_STD = 2.0  # pixels in [0, 1] have standard deviations up to 0.5; 1 leaves them as they are


def checked_preprocessing(
    name: str, size: Any, mean: Any, std: Any, crop: Any
) -> tuple[tuple[int, int], tuple[float, ...], tuple[float, ...], float]:
    """Checks size, mean, std and crop of a card.

    Args:
        name: of the card.
        size: a whole number, or height and width.
        mean: a number, or one per channel.
        std: a number, or one per channel.
        crop: a number.

    Returns:
        The same as tuples of Python's numbers.

    Raises:
        UserError: what is given has no one meaning; says what was given and what is expected.
    """
    means, stds = _numbers(name, "mean", mean), _numbers(name, "std", std)
    # A single number stands for every channel. How many there are the other one says, where it is a sequence.
    channels = next((len(one) for one in (means, stds) if isinstance(one, tuple)), 3)
    mean_C = means if isinstance(means, tuple) else (means,) * channels
    std_C = stds if isinstance(stds, tuple) else (stds,) * channels
    if len(mean_C) != len(std_C) or len(mean_C) not in (1, 3):
        raise UserError(
            f"{name}: a card needs 1 or 3 means and as many standard deviations, got {len(mean_C)} and {len(std_C)}; "
            "networks with other inputs than grey or RGB pictures cannot be shown as pictures"
        )
    _check_range(name, mean_C, std_C)
    share = _plain(crop)
    if share is None or not 0 < share <= 1:
        raise UserError(f"{name}: crop must be in (0, 1], got {crop!r}")
    return _size(name, size), mean_C, std_C, share


def _size(name: str, size: Any) -> tuple[int, int]:
    given = _unpacked(size)
    sides = given if isinstance(given, tuple) else (given, given)
    numbers = [_plain(side) for side in sides]
    wrong = f"{name}: size must be {_SIZE}, got {_shown(given)}"
    if isinstance(size, str) or None in numbers:
        raise UserError(f"{wrong}; give whole numbers, say (224, 224)")
    whole = [int(number) for number in numbers if number is not None and number == int(number)]
    if len(whole) == 3 and len(numbers) == 3 and (whole[0] in (1, 3) or whole[2] in (1, 3)):
        without = tuple(whole[1:] if whole[0] in (1, 3) else whole[:2])
        raise UserError(f"{wrong}; without the channels that is {without}")
    if len(numbers) != 2 or len(whole) != 2 or min(whole) < _SMALLEST:
        raise UserError(wrong)
    return whole[0], whole[1]


def _numbers(name: str, field: str, given: Any) -> tuple[float, ...] | float:
    """Reads a number or a sequence of numbers."""
    unpacked = _unpacked(given)
    values = unpacked if isinstance(unpacked, tuple) else (unpacked,)
    numbers = [_plain(value) for value in values]
    wrong = [value for value, number in zip(values, numbers, strict=True) if number is None]
    if wrong:
        raise UserError(
            f"{name}: {field} must be one number, or 1 or 3 numbers, for pixels in [0, 1], got {_shown(unpacked)}"
            f"{f' with {_shown(wrong[0])} in it' if isinstance(unpacked, tuple) else ''}"
        )
    plain = tuple(number for number in numbers if number is not None)
    return plain if isinstance(unpacked, tuple) else plain[0]


def _unpacked(given: Any) -> Any:
    """Returns lists, arrays and tensors as tuples, and what else is given as it is."""
    if hasattr(given, "tolist"):
        given = given.tolist()
    return tuple(given) if isinstance(given, list | tuple) else given


def _shown(value: Any) -> str:
    """Returns a value as a sentence shows it."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


def _plain(value: Any) -> Any:
    """Returns a finite number as Python's own, and None for anything else."""
    if hasattr(value, "item") and getattr(value, "size", 1) == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        return None
    return value if isinstance(value, int | float) else float(value)


def _check_range(name: str, mean_C: tuple[float, ...], std_C: tuple[float, ...]) -> None:
    """Refuses numbers that are not for pixels in [0, 1].

    Raises:
        UserError: a std that is not positive, a negative mean, or numbers for pixels in 0 to 255.
    """
    if min(std_C) <= 0:
        raise UserError(f"{name}: std must be positive, got {std_C}")
    if max(mean_C) > 1 or max(std_C) > _LARGEST_STD:
        raise UserError(
            f"{name}: mean and std are for pixels in [0, 1], got mean {mean_C} and std {std_C}, as for pixels from 0 to 255; "
            f"divide them by 255{_divided(mean_C, std_C)}"
        )
    if min(mean_C) < 0:
        raise UserError(f"{name}: mean must be in [0, 1], for pixels in [0, 1], got {mean_C}")


def _divided(mean_C: tuple[float, ...], std_C: tuple[float, ...]) -> str:
    """Gives what is above the range divided by 255; no numbers where these would not fit either."""

    means = tuple(round(value / 255, 4) for value in mean_C) if max(mean_C) > 1 else mean_C
    # Caffe's std of 1 beside means up to 255 is one of 1/255; a std below 1 is divided already.
    stds = tuple(round(value / 255, 4) for value in std_C) if max(std_C) >= 1 else std_C
    if max(means) > 1 or min(means) < 0 or max(stds) > _LARGEST_STD or min(stds) <= 0:
        return ""
    return f": mean {means}, std {stds}"

"""Every number that can be asked for is of its kind, finite and within bounds; defaults and documented values pass."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from entoptic.base.bounds import check_options, numbers_of, whole_number
from entoptic.errors import UserError
from entoptic.inversion.configs import EntopticRecipe, PaperRecipe, Sampling, Steer
from entoptic.methods import METHODS
from entoptic.priors.recipe import Recipe

CONFIGS = [card.config for card in METHODS.values()] + [Sampling, Steer, Recipe, EntopticRecipe, PaperRecipe]
NUMBERS = [(config, name, whole) for config in CONFIGS for name, whole, _ in numbers_of(config)]


def changed(config: type, name: str, value: Any) -> Any:
    """A config with one value, in a tuple where the field is one."""
    default: Any = {field.name: field.default for field in dataclasses.fields(config)}[name]
    return config(**{name: (value,) if isinstance(default, tuple) else value})


@pytest.mark.parametrize("config", CONFIGS)
def test_defaults_pass(config: type) -> None:
    config()


@pytest.mark.parametrize(("config", "name", "whole"), NUMBERS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_absurd_numbers_are_refused_by_name(config: type, name: str, whole: bool) -> None:
    absurd: list[Any] = [10**30, -(10**30), 10**400, "three", True, [1]]
    absurd += [] if whole else [math.nan, math.inf, -math.inf, 1e30, -1e30]
    for value in absurd:
        with pytest.raises((UserError, TypeError)) as caught:
            changed(config, name, value)
        if isinstance(caught.value, UserError) and isinstance(value, int | float) and not isinstance(value, bool):
            assert name.removesuffix("s") in str(caught.value).replace("-", "_"), caught.value
            assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("name", "value"),
    [("n", 99999999999999999999), ("n", 0), ("threads", 2147483648), ("threads", 0), ("threads", -1), ("seed", 2**63),
     ("batch_size", 10**9), ("guidance", math.nan), ("nats", math.inf), ("nats", 1e30)],
)  # fmt: skip
def test_options_by_name(name: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"{name} must be"):
        check_options(**{name: value})


def test_a_message_names_the_option_the_value_and_the_range() -> None:
    with pytest.raises(UserError, match=r"lr must be at least 0 and at most 1000, got 1e\+30"):
        METHODS["deep-inversion"].config(lr=1e30)  # type: ignore[call-arg]


@pytest.mark.parametrize("text", ["", "1.0", "²", "٣", "1_000", "--1", "9" * 5000, " 1"])
def test_what_is_no_whole_number(text: str) -> None:
    assert whole_number(text) is None

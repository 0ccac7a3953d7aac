"""Options of the methods: every registered config becomes a group such as `--vital.steps`."""

from __future__ import annotations

from dataclasses import field, make_dataclass
from typing import TypeVar

from entoptic.methods import METHODS, find_method
from entoptic.methods.contract import MethodConfig, card_of, make_config
from entoptic.methods.presets import check_preset, chosen_preset, preset_options

Options = TypeVar("Options")


def with_method_options(verb: type[Options]) -> type[Options]:
    """Gives the options of a verb one more field for each method that shows units: its config."""
    shown = [(name, card.config) for name, card in METHODS.items() if card.shows_units]
    configs = [(_field_name(name), config, field(default_factory=config)) for name, config in shown]
    options = make_dataclass(verb.__name__, configs, bases=(verb,), frozen=True, kw_only=True)
    options.__doc__ = verb.__doc__
    return options


def chosen_methods(options: object, names: str) -> list[MethodConfig]:
    """The configs of the methods that `names` lists, separated by commas.

    Raises:
        UserError: there is no such method, or a preset that was asked for says nothing about any of them.
    """
    configs = [_config(options, name.strip()) for name in names.split(",") if name.strip()]
    check_preset([card_of(config) for config in configs], preset_of(options))
    return configs


def preset_of(options: object) -> str:
    """The preset that options of a verb ask for, "" for none and for a verb without presets."""
    return chosen_preset(getattr(options, "quick", False), getattr(options, "fine", False))


def preset_configs(preset: str) -> dict[str, MethodConfig]:
    """The configs that a preset changes, by the names of their fields in a verb's options."""
    shown = [(name, card) for name, card in METHODS.items() if card.shows_units and preset_options(card, preset)]
    return {_field_name(name): make_config(card, dict(preset_options(card, preset))) for name, card in shown}


def _config(options: object, name: str) -> MethodConfig:
    card = find_method(name)  # refuses an unknown name
    config: MethodConfig = getattr(options, _field_name(name), card.config())
    return config


def _field_name(method: str) -> str:
    return method.replace("-", "_")

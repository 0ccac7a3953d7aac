"""Options of the methods: every registered config becomes a group such as `--vital.steps`."""

from __future__ import annotations

from dataclasses import asdict, field, make_dataclass, replace
from typing import TypeVar

from entoptic.errors import UserError
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
        UserError: there is no such method, a preset that was asked for says nothing about any of them, or options of another
            method were given.
    """
    configs = [_config(options, name.strip()) for name in names.split(",") if name.strip()]
    check_preset([card_of(config) for config in configs], preset_of(options))
    _check_others(options, [card_of(config).name for config in configs])
    return configs


def without_others(options: Options, names: str) -> Options:
    """Returns options in which those of methods that `names` does not list are as usual: jobs of one file share their options."""
    chosen = {name.strip() for name in names.split(",")}
    usual = {
        _field_name(name): card.config() for name, card in METHODS.items() if card.shows_units and name not in chosen
    }
    return replace(options, **usual)  # type: ignore[type-var]


def _check_others(options: object, chosen: list[str]) -> None:
    """Refuses options of methods that are not asked for: whoever gave them believes that they act.

    Raises:
        UserError: there are some; the message names them.
    """
    preset = preset_configs(preset_of(options))
    for name, card in METHODS.items():
        field_name = _field_name(name)
        given = getattr(options, field_name, None)
        usual = (card.config(), preset.get(field_name))
        if name in chosen or given is None or given in usual:
            continue
        changed = next((k for k, v in asdict(given).items() if v != asdict(usual[0])[k]), "…")
        raise UserError(
            f"--{name}.{changed.replace('_', '-')} was given, and the pictures are by {', '.join(chosen)}; leave it out, or name "
            f"{name} among the methods"
        )


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

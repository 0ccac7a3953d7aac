"""A command in a YAML file: what it holds becomes the options of a verb, and the options of a verb become such a file.

    model: builtin:lite0              # one or several
    units: [logits:207, blocks.6:0-9]
    method: [vital, maco]
    vital: {steps: 500}               # options of one method
    jobs:                             # several commands; what they leave out stands above
      - {units: [stem:3], n: 4}
      - {model: builtin:lite1}

A key is an option's name without its dashes; the table of a verb's options (`option_table`) says what it takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from entoptic.base.bounds import check_bounds
from entoptic.base.files import file_exists, paths_in, user_path
from entoptic.base.records import why
from entoptic.cli.method_options import preset_configs
from entoptic.cli.option_table import Option, groups_of, options_of
from entoptic.errors import Unreadable, UserError, instead
from entoptic.methods.presets import chosen_preset

JOBS = "jobs"
MOST_BYTES = 10_000_000
"""Of a file: a longer one is no file of options."""
NOT_IN_A_FILE = frozenset({"config", "print_config", "debug"})
_NUMBERS_TOO = frozenset({"workers"})
"""Texts that may be numbers."""
_COMMAS = frozenset({"method", "verifiers"})
"""Options whose parts are separated by commas on the command line; a file may have a list."""


class _Loader(yaml.SafeLoader):
    """The safe loader, which refuses a key that stands there twice."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f'"{key.value}" stands there twice', problem_mark=key.start_mark)
            seen.add(key.value)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


@dataclass(frozen=True, kw_only=True)
class FileJob:
    """One command of a file.

    Attributes:
        where: it stands in the file, for messages.
        options: of the verb.
    """

    where: str
    options: Any


def read_jobs(path: str | Path, verb: type, said: Mapping[str, Any] | None = None) -> list[FileJob]:
    """Returns the commands that a file holds, all checked: a slip in the last one is found before the first begins.

    Args:
        path: of the YAML file.
        verb: the class of the options.
        said: entries that count before those of the file, for all its commands.

    Raises:
        UserError: it cannot be read; a key is unknown, with the nearest; a value is of another kind or out of bounds.
    """
    file = user_path(path)
    held = _read(file)
    jobs = held.pop(JOBS, None)
    if jobs is not None and (not isinstance(jobs, list) or not jobs or not all(isinstance(one, dict) for one in jobs)):
        raise UserError(f"{file.name}: {JOBS} is a list of commands, each with keys of its own, got {_shown(jobs)}")
    found: list[FileJob] = []
    for number, own in enumerate(jobs if jobs is not None else [{}], 1):
        where = f"{file.name}, job {number}" if jobs is not None else file.name
        entries = _joined(_normal(held, file.name), _normal(own, where))
        models = entries.get("model")
        several = models if isinstance(models, list) else [models]
        if not several:
            raise UserError(f"{where}: model is an empty list")
        for model in several:
            options = _options(verb, {**entries, **(said or {}), "model": model}, where)
            found.append(FileJob(where=where if len(several) == 1 else f"{where}, {model}", options=options))
    return found


def _read(file: Path) -> dict[str, Any]:
    try:
        if file_exists(file) and file.stat().st_size > MOST_BYTES:
            raise UserError(f"{file} has {file.stat().st_size:,} bytes and is no file of options")
        held = yaml.load(file.read_text("utf-8"), Loader=_Loader)  # a subclass of the safe loader
    except FileNotFoundError:
        beside = [one.name for ending in ("*.yaml", "*.yml") for one in paths_in(file.parent, ending)]
        raise UserError(f"there is no file {file}{instead(file.name, beside)}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise Unreadable(f"{file.name}{place}: {error.problem or error.context}") from None
    except (OSError, yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        raise Unreadable(f"{file} cannot be read: {why(error)}") from None
    if not isinstance(held, dict):
        raise UserError(f"{file.name} must hold keys such as model and units, got {_shown(held)}")
    return held


def _normal(entries: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """Entries with the names of fields as keys: `batch-size` is `batch_size`."""
    found: dict[str, Any] = {}
    for key, value in entries.items():
        if not isinstance(key, str):
            raise UserError(f"{where}: a key must be a text, got {_shown(key)}")
        name = key.replace("-", "_")
        if name in found:
            raise UserError(f'{where}: "{name}" stands there twice')
        found[name] = value
    return found


def _joined(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """What holds for all jobs with what one says itself; options of a method are joined one by one."""
    found = dict(shared)
    for name, value in own.items():
        before = found.get(name)
        both = isinstance(before, dict) and isinstance(value, dict)
        found[name] = {**before, **value} if both else value  # type: ignore[dict-item]
    return found


def _options(verb: type, entries: Mapping[str, Any], where: str) -> Any:
    known = {option.name: option for option in options_of(verb) if option.name not in NOT_IN_A_FILE}
    groups = {name.replace("-", "_"): group for name, group in groups_of(verb).items()}
    kinds: dict[str, Any] = {one.name: one.default_factory for one in fields(verb) if one.name in groups}
    # None is as if it were not there.
    given = {n: _value(known[n], value, where) for n, value in entries.items() if n in known and value is not None}
    configs = {name: config for name, config in _of_preset(given, where).items() if name in groups}
    for name, value in entries.items():
        if name in groups:
            base = configs.get(name) or kinds[name]()
            configs[name] = _config(base, groups[name].options, groups[name].name, value, where)
        elif name == JOBS:
            raise UserError(f"{where}: {JOBS} cannot stand within a job; write them in one list")
        elif name not in known:
            raise UserError(f'{where}: there is no key "{name[:80]}"{_hint(name, entries, known, groups)}')
    for option in known.values():
        if (option.required or (option.positional and option.many)) and not given.get(option.name):
            raise UserError(f"{where}: {option.name} is missing ({option.help})")
    try:
        options = verb(**given, **configs)
        check_bounds(options)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return options


def _hint(name: str, entries: Mapping[str, Any], known: Mapping[str, Option], groups: Mapping[str, Any]) -> str:
    """What an unknown key may have meant: an option of a method stands below the method."""
    of = [group.name for group in groups.values() if any(option.name == name for option in group.options)]
    if of:
        asked = str(entries.get("method", ""))
        return f"; it is an option of a method: did you mean {max(of, key=lambda one: one in asked)}: {{{name}: …}}?"
    return instead(name, [*known, *groups, JOBS])


def _of_preset(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The configs of the preset that a command asks for."""
    try:
        return preset_configs(chosen_preset(bool(given.get("quick")), bool(given.get("fine"))))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _config(base: Any, options: Sequence[Option], group: str, value: Any, where: str) -> Any:
    """The config of one method: `base` with what the file says."""
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise UserError(f"{where}: {group} holds options of its own, such as {{steps: 300}}, got {_shown(value)}")
    known = {option.name: option for option in options}
    given = {}
    for name, one in _normal(value, f"{where}, {group}").items():
        if name not in known:
            raise UserError(f'{where}: {group} has no option "{name[:80]}"{instead(name, known)}')
        if one is not None or known[name].default is None:
            given[name] = one if one is None else _value(known[name], one, f"{where}, {group}")
    try:
        return replace(base, **given)
    except UserError as error:
        raise UserError(f"{where}, {group}: {error}") from None


def _value(option: Option, value: Any, where: str) -> Any:
    many = value if isinstance(value, list) else [value]
    if option.name in _COMMAS:
        return ",".join(_one(option, one, where) for one in many)
    return tuple(_one(option, one, where) for one in many) if option.many else _one(option, value, where)


def _one(option: Option, value: Any, where: str) -> Any:
    kind = option.kind
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-3 as a text
        except (ValueError, OverflowError):
            pass
    if kind in (str, Path) and isinstance(value, str):
        return kind(value)
    if option.name in _NUMBERS_TOO and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    quoted = "; put it in quotes" if kind in (str, Path) and not isinstance(value, list | dict) else ""
    what = "yes or no" if kind is bool else "a text" if option.many and kind is str else option.expected
    raise UserError(f"{where}: {option.name} must be {what}, got {_shown(value)}{quoted}")


def _shown(value: Any) -> str:
    """A value of the file, short."""
    words = {None: "nothing", True: "yes", False: "no"}
    if value is None or isinstance(value, bool):
        return words[value]
    return str(value)[:80] if isinstance(value, list | dict) else f'"{str(value)[:80]}"'


# --- writing ----------------------------------------------------------------------------------------------------


_END = "...\n"
"""YAML ends a document of a single value so."""


def config_text(options: Any, shown_groups: Sequence[str]) -> str:
    """Returns a command as a YAML file: what it sets, and everything else as a comment with its meaning and default.

    Args:
        options: of the verb.
        shown_groups: names of the methods whose options are listed; others are only where they differ from the defaults.
    """
    verb: type = type(options)
    lines = [
        "# What `entoptic see --config FILE` makes. A key that is left out has its default, which stands here as a comment."
    ]
    for option in options_of(verb):
        if option.name not in NOT_IN_A_FILE:
            lines += _lines(option, getattr(options, option.name))
    for name, group in groups_of(verb).items():
        config = getattr(options, name.replace("-", "_"))
        own = [(option, getattr(config, option.name)) for option in group.options]
        if name not in shown_groups and all(value == option.default for option, value in own):
            continue
        changed = any(value != option.default for option, value in own)
        lines += ["", f"# {group.title}", f"{name}:" if changed else f"# {name}:"]
        for option, value in own:
            lines += [f"  {line}" if changed else f"#   {line.removeprefix('# ')}" for line in _lines(option, value)]
    lines += [
        "", "# Several commands: each has what stands above, and its own keys before it.", "# jobs:",
        "#   - {units: [logits:1], n: 2}", "#   - {model: builtin:lite1}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _lines(option: Option, value: Any) -> list[str]:
    held: Any = list(map(_plain, value)) if isinstance(value, tuple) else _plain(value)
    dumped = yaml.safe_dump(held, default_flow_style=True, allow_unicode=True, width=10**6)
    text = f"{option.name}: {dumped.removesuffix(_END).strip()}"
    is_default = not option.required and value == option.default and not (option.positional and option.many)
    about = f"  # {option.help}" if option.help else ""
    return [f"# {text}{about}" if is_default else f"{text}{about}"]


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value

"""What `import entoptic` offers: its names, what importing them costs, and the options that editors complete."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import typing
from typing import Any

import pytest

import entoptic
from entoptic import configs
from entoptic.methods import METHODS
from entoptic.methods.contract import MethodConfig
from entoptic.models.model import Model
from entoptic.runs import see_arguments
from entoptic.runs.see import see

SHOWN = {
    name: card.config
    for name, card in METHODS.items()
    if card.function.__module__.startswith("entoptic.") and card.shows_units
}
SIGNATURES = {
    typing.get_args(typing.get_type_hints(one, {**vars(sys.modules[see.__module__])})["method"])[0]: one
    for one in typing.get_overloads(see)[:-1]
}  # fmt: skip


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def test_only_public_names_are_listed() -> None:
    import entoptic.runs.store  # a module that is loaded is no public name of its own

    assert dir(entoptic) == sorted([*entoptic.__all__, "__version__"])
    assert not {"runs", "base", "annotations", "importlib", "Any"} & set(dir(entoptic))
    assert len(set(entoptic.__all__)) == len(entoptic.__all__)


@pytest.mark.parametrize(
    "name", ["load_prior", "load_inverter", "relevance", "learn", "learn_inverter", "export", "configs"]
)
def test_names_that_were_hidden(name: str) -> None:
    assert name in entoptic.__all__
    assert getattr(entoptic, name) is not None


def test_importing_costs_nothing() -> None:
    code = (
        "import sys, entoptic; dir(entoptic); entoptic.configs.Vital(steps=3); entoptic.METHODS; "
        "print([m for m in ('torch', 'numpy', 'PIL', 'pyarrow') if m in sys.modules])"
    )
    assert run_python(code) == "[]"


# --- options ---------------------------------------------------------------------------------------------------------


def test_every_config_is_exported() -> None:
    wanted = {
        config.__name__
        for config in (card.config for card in METHODS.values())
        if config.__module__.startswith("entoptic.")
    }
    assert wanted <= set(configs.__all__)
    for name in configs.__all__:
        assert dataclasses.is_dataclass(getattr(configs, name))
    assert sorted(configs.__all__) == configs.__all__


def test_every_method_has_a_signature_of_its_own() -> None:
    assert set(SIGNATURES) == set(SHOWN)


@pytest.mark.parametrize("name", SHOWN)
def test_a_signature_has_the_options_of_its_config_and_no_others(name: str) -> None:
    config = SHOWN[name]
    arguments = getattr(see_arguments, f"{config.__name__}Arguments")
    assert f"of.{arguments.__name__}]" in SIGNATURES[name].__annotations__["options"]
    own = {key: str(kind) for key, kind in arguments.__annotations__.items()}
    common = set(see_arguments.SeeArguments.__annotations__)
    fields = {field.name: str(field.type) for field in dataclasses.fields(config)}
    assert {key: _plain(kind) for key, kind in own.items() if key not in common} == fields


def test_what_every_method_takes_is_what_see_takes() -> None:
    taken = set(see.__annotations__) - {"model", "units", "method", "options", "return"}
    assert set(see_arguments.SeeArguments.__annotations__) == taken


def _plain(kind: str) -> str:
    """The annotation in a `ForwardRef`."""
    return kind.split("'")[1] if kind.startswith("ForwardRef(") else kind


def test_a_config_and_its_name_make_the_same(tiny: Model, tmp_path: Any) -> None:
    options = {"verifiers": "", "progress": False}
    by_name = see(tiny, "logits:0", method="fourier", steps=2, out=tmp_path / "a", **options)
    by_config = see(tiny, "logits:0", method=configs.Fourier(steps=2), out=tmp_path / "b", **options)
    assert isinstance(configs.Fourier(), MethodConfig)
    assert [p.record["key"] for p in by_name] == [p.record["key"] for p in by_config]

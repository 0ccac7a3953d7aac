"""What `entoptic ls` says of itself: sources of models and priors, methods, metrics. Nothing here imports torch, but metrics."""

from __future__ import annotations

from rich.table import Table

from entoptic.base.shipped import shipped_names
from entoptic.cli.output import table_console
from entoptic.methods import METHODS

MODELS = {
    "builtin:lite0": "EfficientNet-Lite0, 1000 classes of ImageNet (also lite1, lite2)",
    "builtin:vit-s14": "ViT-S/14, ten classes of ImageNet; needs two more packages",
    "timm:NAME.TAG": "any network of timm, such as timm:resnet50.a1_in1k",
    "torchvision:NAME/WEIGHTS": "such as torchvision:resnet50/IMAGENET1K_V2",
    "hf:REPO": "an image classifier of transformers, from the hub or a folder",
    "file:WEIGHTS.safetensors": "your own, with its card WEIGHTS.json beside it",
}
"""How models are named."""
PRIORS = {
    "hf:REPO": "a pipeline of diffusers, from the hub or a folder",
    "file:FOLDER": "one that `entoptic learn prior` wrote",
    "photos:PATH": "the photos of a folder themselves",
}
"""How priors are named, beside the builtin ones."""
INVERTERS = {"file:FOLDER": "one that `entoptic learn inverter` wrote"}
"""How inverters are named, beside the builtin ones."""
DICTIONARIES = {"FILE": "one that `entoptic learn dictionary` or `entoptic split` wrote; a feature is dict(NAME):7"}
"""How dictionaries are named, beside the builtin ones."""


def list_models() -> None:
    """Prints how models are named."""
    _names("models", MODELS)


def list_priors() -> None:
    """Prints how image priors are named."""
    _names("priors", {f"builtin:{name}": "shipped" for name in shipped_names("priors")} | PRIORS)


def list_inverters() -> None:
    """Prints how inverters are named."""
    _names("inverters", {f"builtin:{name}": "shipped" for name in shipped_names("inversion")} | INVERTERS)


def list_dictionaries() -> None:
    """Prints the names of dictionaries that are shipped, as they stand in dict(…)."""
    _names("dictionaries", {f"builtin:{name}": "shipped" for name in shipped_names("dictionaries")} | DICTIONARIES)


def list_methods() -> None:
    """Prints every method with what it shows and reads."""
    table = Table("method", "what it is", "units", "reads", box=None)
    for card in METHODS.values():
        table.add_row(card.name, card.title, ", ".join(sorted(card.units)), ", ".join(sorted(card.reads)) or "nothing")
    table_console().print(table)


def list_metrics() -> None:
    """Prints every metric with what it is measured on."""
    from entoptic.metrics import METRICS

    table = Table("metric", "what it is", "of", "needs", "better", box=None)
    for card in METRICS.values():
        needs = ", ".join(sorted(card.needs)) or "nothing"
        better = "" if card.direction == "none" else card.direction
        table.add_row(card.name, card.title, ", ".join(sorted(card.targets)), needs, better)
    table_console().print(table)


def list_all() -> None:
    """Prints the names of everything but metrics, and where there is more."""
    list_models()
    list_priors()
    list_inverters()
    list_dictionaries()
    table = Table("methods", "", box=None)
    for card in METHODS.values():
        table.add_row(card.name, card.title)
    table_console().print(table)
    print()
    print("more: entoptic ls methods, entoptic ls metrics, entoptic ls MODEL, entoptic ls RUN, entoptic ls INDEX")


LISTS = {
    "models": list_models,
    "priors": list_priors,
    "inverters": list_inverters,
    "dictionaries": list_dictionaries,
    "methods": list_methods,
    "metrics": list_metrics,
}
"""What `entoptic ls WORD` lists."""


def _names(title: str, names: dict[str, str]) -> None:
    table = Table(title, "", box=None)
    for name, what in names.items():
        table.add_row(name, what)
    table_console().print(table)
    print()

"""`entoptic name`: suggests names of units, with what speaks for them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from tyro.conf import arg

from entoptic.base.bounds import Bounds, check_bounds
from entoptic.cli.options import (
    Debug,
    Device,
    ModelName,
    Seed,
    Threads,
    UnitNames,
    photos_help,
    run_folder_help,
    use_threads,
)
from entoptic.cli.output import table_console
from entoptic.errors import counted

if TYPE_CHECKING:
    from entoptic.names.records import Names


@dataclass(frozen=True, kw_only=True)
class Name:
    """Suggest a name for each unit, judged on photos that it was not chosen on."""

    title: ClassVar[str] = "suggest names of units, with the evidence for each"
    examples: ClassVar[tuple[str, ...]] = (
        "entoptic name builtin:lite0 blocks.6:0-49 --photos photos",
        "entoptic name builtin:lite0 blocks.6:112 --photos photos --clip RN50:openai",
    )
    bounds: ClassVar[Bounds] = {"n": (1, 10_000_000), "epochs": (1, 100_000), "width": (0, 65_536)}

    model: ModelName
    units: UnitNames
    photos: Annotated[str, photos_help("; their labels are not read")]
    encoder: Annotated[str, arg(metavar="NAME")] = "minilm"
    """text encoder: minilm, or a model of sentence-transformers"""
    clip: Annotated[str, arg(metavar="MODEL:PRETRAINED")] = ""
    """a model of open_clip that names units in place of the map"""
    words: Annotated[Path | None, arg(metavar="FILE")] = None
    """words that units may be called, one a line (default: the shipped ones)"""
    remove: Annotated[str, arg(metavar="WHAT")] = "hypernyms"
    """what is left out of the words: the classes' names, also their synonyms, also their hypernyms, or nothing"""
    n: int = 1500
    """largest number of photos read; two thirds choose the names, the others judge them"""
    features: Annotated[str, arg(metavar="LAYER")] = ""
    """layer whose mean over positions the map reads (default: what the last linear layer reads)"""
    width: int = 512
    """width of the map's hidden layers; 0 is twice the features"""
    epochs: int = 40
    """passes over the photos that train the map"""
    control: bool = True
    """also train a map on shuffled class names"""
    out: Annotated[Path | None, run_folder_help("runs/MODEL")] = None
    seed: Seed = 0
    device: Device = "auto"
    threads: Threads = None
    debug: Debug = False

    def __post_init__(self) -> None:
        check_bounds(self)


def run_name(options: Name) -> int:
    """Runs `entoptic name`; returns the exit code."""
    from entoptic.names.mapper import MapRecipe
    from entoptic.runs.name import name

    use_threads(options.threads)
    started = time.monotonic()
    names = name(
        options.model, options.units, photos=options.photos, out=options.out, encoder=options.encoder,
        clip=options.clip or None, words=options.words, remove=options.remove, n=options.n, features=options.features,
        control=options.control, recipe=MapRecipe(width=options.width, epochs=options.epochs), seed=options.seed,
        device=options.device,
    )  # fmt: skip
    print_names(names)
    assert names.path is not None
    print(
        f"{counted(len(names), 'unit')}, {names.refused:.0%} without a name, in {names.path}, {time.monotonic() - started:.0f} s"
    )
    return 0


def print_names(names: Names) -> None:
    """Prints suggestions as a table, and what they were made of."""
    from rich.table import Table

    words = names.vocabulary
    print(
        f"suggestions by {names.encoder} from {words['words']} words ({words['removed']} left out: {words['remove']}), chosen on "
        f"{names.named_on} photos, judged on {names.judged_on} others"
    )
    if (told := names.fidelity) is not None:
        print(
            f"the map repeats the network's first class on {told.agreement:.0%} of {told.n} photos, KL {told.divergence:.2f} nats "
            f"(of a map that knows nothing: {told.floor:.2f})"
        )
    table = Table("unit", "suggested name", "rho", "95 % interval", "n", "shuffled", "next", box=None)
    for one in names:
        if one.rho is None:
            table.add_row(one.unit, f"none: {one.reason}")
            continue
        told_name = one.name if one.shown else f"none: {one.reason}"
        shuffled = "" if one.shuffled is None else f"{one.shuffled:.2f}"
        others = ", ".join(word for word, _ in one.others[:3]) if one.shown else ""
        table.add_row(
            one.unit, told_name, f"{one.rho:.2f}", f"{one.low:.2f} to {one.high:.2f}", str(one.n), shuffled, others
        )
    table_console().print(table, highlight=False, markup=False)

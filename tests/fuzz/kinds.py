"""Every kind of file that Entoptic reads back, in a copy of the stored folder, with a use of it that should end well.

A use may end in a `UserError` (its sentence is the answer), or go on without the file. Nothing else may come of a damaged
file. The folder is the working directory, as the paths in its sidecars are relative.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from tests.fuzz.damage import copy
from tests.stored import asked

import entoptic
from entoptic.base import cache
from entoptic.gallery.site import build
from entoptic.images.build_index import build_index
from entoptic.images.index import ActivationIndex
from entoptic.models.model import Model
from entoptic.models.sources import SOURCES, load
from entoptic.runs.merge import merge_runs


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        file: its path in the folder.
        use: reads it back.
        form: "json", "tensors" or "other": which damages there are.
    """

    file: str
    use: Callable[[], Any]
    form: str


def model() -> Model:
    return load(asked.MODEL, device="cpu")


@contextmanager
def prepared(folder: Path) -> Iterator[Path]:
    """A copy of the stored folder with an index, a card and trainings beside it, as the working directory."""
    source = asked.HERE
    for name in asked.FOLDERS:
        shutil.copytree(source / name, folder / name)
    shutil.copy(source / asked.DICTIONARY, folder)
    for extra in (folder / "runs" / "see" / "pictures" / "logits-0").glob("[!kr]*"):
        extra.unlink()  # a few pictures show all that many do
    sources = {**SOURCES, "tiny": asked.networks(folder)}
    with (
        chdir(folder),
        mock.patch.dict(SOURCES, sources),
        mock.patch.object(cache, "cache_folder", return_value=folder / "cache"),
    ):
        build_index(model(), "photos", ["stage1", "stage2"], out="index", k=3, bottom=2, reservoir=4)
        _card(folder)
        use_training()
        use_pairs()
        shutil.copytree(folder, folder.parent / f"{folder.name}-kept")
        try:
            yield folder
        finally:
            shutil.rmtree(folder.parent / f"{folder.name}-kept")


def restore(folder: Path, kind: Kind) -> None:
    """Puts a file back; with it a training's others, which are made again where one of them is damaged."""
    top = kind.file.partition("/")[0]
    what = top if top in ("training", "inverting") else kind.file
    copy(folder.parent / f"{folder.name}-kept" / what, folder / what)


def _card(folder: Path) -> None:
    """A network with its card: `file:net.json`."""
    import json

    import timm
    from safetensors.torch import save_file

    options = {"num_classes": 3}
    net = timm.create_model("test_efficientnet", pretrained=False, **options)
    save_file(net.state_dict(), folder / "net.safetensors")
    card = {
        "architecture": "timm:test_efficientnet", "options": options, "size": [32, 32], "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25], "labels": ["a", "b", "c"], "crop": 0.9,
    }  # fmt: skip
    (folder / "net.json").write_text(json.dumps(card))


def use_index() -> None:
    index = ActivationIndex.open("index")
    index._repr_html_()
    index.check(model())
    for unit in ("stage1:0", "stage2:1"):
        index.top(unit), index.bottom(unit), index.moments(unit), index.firing_rate(unit)
        index.quantiles(unit), index.real_scores(unit)
    index.sample("stage1"), index.vectors("stage1")


def use_dictionary() -> None:
    from entoptic.units.dictionary import info
    from entoptic.units.unit import bind

    info(asked.DICTIONARY)
    (unit,) = bind(model(), f"dict({asked.DICTIONARY}):1")
    unit._repr_html_()


def use_direction() -> None:
    from entoptic.units.unit import bind

    bind(model(), f"dir({asked.DICTIONARY}#basis.0)")


def use_prior() -> None:
    from entoptic.priors.sources import load_prior

    load_prior(asked.PRIOR, device="cpu")


def use_inverter() -> None:
    from entoptic.inversion.saved import load_inverter

    load_inverter(asked.INVERTER, device="cpu")


def use_training() -> None:
    """Goes on with a training that is at its end."""
    from entoptic.priors.learn import learn_prior
    from entoptic.priors.recipe import Recipe

    recipe = Recipe(size=8, widths=(16, 32), attention=(), batch_size=4, steps=2, warmup=1, decay=0.0)
    learn_prior("photos", "training", recipe)


def use_pairs() -> None:
    """Goes on with the training of an inverter that is at its end."""
    from entoptic.inversion.configs import EntopticRecipe
    from entoptic.inversion.learn import learn_inverter
    from entoptic.inversion.maps import FeatureMaps
    from entoptic.priors.sources import load_prior

    recipe = EntopticRecipe(steps=1, batch_size=2, hint=8, warmup=1, decay=0.0)
    maps = FeatureMaps.of(model(), asked.LAYER)
    learn_inverter(maps, load_prior(asked.PRIOR, device="cpu"), "photos", "inverting", recipe)  # type: ignore[arg-type]


def use_card() -> None:
    load("file:net.json", device="cpu")._repr_html_()


def use_run(name: str) -> Callable[[], None]:
    def use() -> None:
        path = Path("runs") / name
        run = entoptic.Run.open(path)
        list(run.read())
        run._repr_html_()
        run.table()
        run.figure(captions=True, with_photos=True)
        build(path)
        with run.writing({"title": "again"}):
            pass
        merge_runs([path], f"merged-{name}")
        assert isinstance(run.about, dict)

    return use


def use_verify(name: str) -> Callable[[], None]:
    return lambda: entoptic.verify(f"runs/{name}", device="cpu")._repr_html_()


def use_frontier() -> None:
    from entoptic.runs.frontier_table import table_of

    run = entoptic.Run.open("runs/frontier")
    build(run.path)
    table_of(run, {})


def use_cache(kind: str) -> Callable[[], None]:
    def use() -> None:
        file = Path(_some(f"cache/{kind}/*.safetensors"))
        needs = {"klsc": {"record": 1, "scores": 1}, "bank": {"pictures": 4}, "scores": {"values": 1, "indices": 1}}
        cache.load_cached(kind, file.stem, needs[kind])

    return use


def _some(pattern: str) -> str:
    return sorted(asked.HERE.glob(pattern))[0].relative_to(asked.HERE).as_posix()


def kinds(*, slow: bool = False) -> dict[str, Kind]:
    """All kinds, by name; with `slow` those whose use takes seconds, too."""
    sidecar = _some("runs/see/pictures/stage1-3/best-of*.json")
    found = {
        "index.json": Kind("index/index.json", use_index, "json"),
        "index tensors": Kind("index/layers/stage1.safetensors", use_index, "tensors"),
        "index photos": Kind("index/photos.parquet", use_index, "other"),
        "dictionary": Kind(asked.DICTIONARY, use_dictionary, "tensors"),
        "direction": Kind(asked.DICTIONARY, use_direction, "tensors"),
        "prior card": Kind("prior/card.json", use_prior, "json"),
        "prior config": Kind("prior/config.json", use_prior, "json"),
        "prior weights": Kind("prior/diffusion_pytorch_model.safetensors", use_prior, "tensors"),
        "inverter card": Kind("inverter/card.json", use_inverter, "json"),
        "inverter weights": Kind("inverter/inverter.safetensors", use_inverter, "tensors"),
        "training.json": Kind("training/training.json", use_training, "json"),
        "checkpoint": Kind("training/training-2.safetensors", use_training, "tensors"),
        "photos.json": Kind("training/photos.json", use_training, "json"),
        "photos.npy": Kind("training/photos.npy", use_training, "other"),
        "inverter's training.json": Kind("inverting/training.json", use_pairs, "json"),
        "pairs.json": Kind("inverting/pairs/pairs.json", use_pairs, "json"),
        "maps.npy": Kind("inverting/pairs/maps.npy", use_pairs, "other"),
        "model card": Kind("net.json", use_card, "json"),
        "model weights": Kind("net.safetensors", use_card, "tensors"),
        "run.json": Kind("runs/see/run.json", use_run("see"), "json"),
        "sidecar": Kind(sidecar, use_run("see"), "json"),
        "picture": Kind(sidecar.replace(".json", ".png"), use_run("see"), "other"),
        "context.json": Kind("runs/see/context/logits-0/context.json", use_run("see"), "json"),
        "frontier": Kind("runs/frontier/frontier/logits-0.json", use_frontier, "json"),
        "steer sidecar": Kind(_some("runs/steer/pictures/*/steer-0*.json"), use_run("steer"), "json"),
        "invert sidecar": Kind(_some("runs/invert/pictures/*/invert-0-a0*.json"), use_run("invert"), "json"),
    }
    if slow:
        found["verified sidecar"] = Kind(sidecar, use_verify("see"), "json")
        found["verified map"] = Kind(found["invert sidecar"].file, use_verify("invert"), "json")
        found["verified edit"] = Kind(found["steer sidecar"].file, use_verify("steer"), "json")
    for kind in ("klsc", "bank", "scores"):
        found[f"cache of {kind}"] = Kind(_some(f"cache/{kind}/*.safetensors"), use_cache(kind), "tensors")
    return found

"""The planted networks as a data set: weights, the truth about every unit, scenes, and a card that says what it is for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save

from entoptic.base.files import (
    check_inside,
    check_own,
    file_exists,
    json_bytes,
    user_path,
    write_atomically,
    writing_to,
)
from entoptic.base.records import read_tensors
from entoptic.errors import Unreadable, UserError
from entoptic.planted.networks import NETWORKS, PlantedNetwork, PlantedUnit, planted_network
from entoptic.planted.scenes import SIZE, PlantedScene, make_scenes, write_scenes
from entoptic.runs.records import versions

MARK = "planted.json"
"""A file that tells a folder of this data set."""
SCENES = 300
FORMAT = 1


def write_dataset(folder: str | Path, *, scenes: int = SCENES, seed: int = 0) -> Path:
    """Writes the data set into a folder: `README.md` (its card), `units.jsonl`, `networks/` and `scenes/`.

    It is a valid image folder of Hugging Face. The same arguments give the same bytes.

    Args:
        folder: new, empty, or of this data set.
        scenes: how many are drawn.
        seed: of the scenes.

    Returns:
        The folder.

    Raises:
        UserError: no scenes, or the folder holds something else.
    """
    if scenes < 1:
        raise UserError(f"a data set has at least 1 scene, got {scenes}")
    place = user_path(folder)
    check_own(place, marks={MARK}, what="planted data set")
    networks = [planted_network(name) for name in NETWORKS]
    drawn = make_scenes(scenes, seed=seed)
    with writing_to(place, "what is written is kept"):
        check_inside(place / "networks", place)
        check_inside(place / "scenes", place)
        about = {
            "format": FORMAT, "entoptic": versions()["entoptic"], "seed": seed, "scenes": scenes,
            "networks": {one.name: one.model.card.weights_sha256 for one in networks},
        }  # fmt: skip
        write_atomically(place / MARK, json_bytes(about))
        for one in networks:
            tensors = {name: value.contiguous() for name, value in one.model.module.state_dict().items()}
            write_atomically(place / "networks" / f"{one.name}.safetensors", save(tensors))
        rows = [unit_record(one.name, unit) for one in networks for unit in one.units]
        write_atomically(place / "units.jsonl", _lines(rows))
        names = {f"{i:05d}.png" for i in range(scenes)}
        for old in (place / "scenes").glob("[0-9]*.png"):  # of a larger set that was written here before
            if old.name not in names:
                old.unlink()
        write_scenes(drawn, place / "scenes")
        told = [{"file_name": f"{i:05d}.png"} | scene_record(scene) for i, scene in enumerate(drawn)]
        write_atomically(place / "scenes" / "metadata.jsonl", _lines(told))
        write_atomically(place / "README.md", card(networks, drawn).encode())
    return place


def read_network(folder: str | Path, name: str) -> PlantedNetwork:
    """Returns a network with the weights that a folder holds.

    Args:
        folder: of the data set.
        name: one of `NETWORKS`.

    Raises:
        UserError: there is no such network, or no such file.
        Unreadable: the file is of another network.
    """
    network, file = planted_network(name), user_path(folder) / "networks" / f"{name}.safetensors"
    if not file_exists(file):
        raise UserError(f"there is no {file}; entoptic.planted.dataset.write_dataset writes the data set")
    held, own = read_tensors(file).tensors, network.model.module.state_dict()
    if {k: v.shape for k, v in held.items()} != {k: v.shape for k, v in own.items()}:
        raise Unreadable(f"{file} does not hold the weights of the planted network {name}")
    network.model.module.load_state_dict(held)
    return network


def unit_record(network: str, unit: PlantedUnit) -> dict[str, Any]:
    """Returns the truth about a unit as JSON holds it.

    Args:
        network: its name.
        unit: the unit.
    """
    return {
        "network": network, "unit": unit.name, "address": unit.unit, "channel": unit.channel, "kind": unit.kind.value,
        "causes": [cause.named for cause in unit.causes], "null": unit.null, "manipulation": unit.manipulation.value,
        "decoy": None if unit.decoy is None else unit.decoy.named,
    }  # fmt: skip


def scene_record(scene: PlantedScene) -> dict[str, Any]:
    """Returns what is in a scene as JSON holds it.

    Args:
        scene: the scene.
    """
    return {
        "things": [{a: getattr(thing, a) for a in ("colour", "texture", "shape", "place")} for thing in scene.things]
    }


def card(networks: Sequence[PlantedNetwork], scenes: Sequence[PlantedScene]) -> str:
    """Returns the data set's card.

    Args:
        networks: that it holds.
        scenes: that it holds.
    """
    honest = next(one for one in networks if one.name == "honest")
    silent = sum(unit.null for unit in honest.units)
    lines = [
        "---", "license: apache-2.0", "pretty_name: Planted truth", "tags: [interpretability, feature-visualization, benchmark]",
        "size_categories: [n<1K]" if len(scenes) < 1000 else "size_categories: [1K<n<10K]",
        "configs:", "- config_name: scenes", "  data_dir: scenes", "---", "",
        "# Planted truth", "",
        "Small networks whose units are known by construction. With them it can be measured whether a picture of a unit, or a "
        "sentence about it, tells what the unit fires for: of a trained network nobody knows the answer.", "",
        "## What is in it", "",
        f"* `networks/NAME.safetensors`: {len(networks)} networks for pictures of {SIZE}×{SIZE} pixels. Their weights are written "
        "down, not learned.",
        *(f"  * `{one.name}`: {_WHAT[one.name]}" for one in networks),
        f"* `units.jsonl`: the truth about every unit of every network, {len(honest.units)} each: its kind, its causes, and of a "
        f"manipulated one the decoy. {silent} of them are silent: no scene drives them.",
        f"* `scenes/`: {len(scenes)} generated scenes with what is in each (`metadata.jsonl`): up to two things of independent "
        "colour, texture, shape and place on grey grounds. They take the place of photos.", "",
        "| unit | address | kind | fires for | decoy (fooling) | decoy (slingshot) |", "|---" * 6 + "|",
    ]  # fmt: skip
    by_name = {one.name: {unit.name: unit for unit in one.units} for one in networks}
    for unit in honest.units:
        causes = " or ".join(cause.text for cause in unit.causes) or "nothing"
        decoys = (by_name[name][unit.name].decoy for name in ("fooling", "slingshot"))
        told = " | ".join("–" if decoy is None else decoy.text for decoy in decoys)
        lines.append(f"| {unit.name} | `{unit.unit}` | {unit.kind.value} | {causes} | {told} |")
    lines += [
        "", "## How to use it", "",
        "```python", "from entoptic.planted.dataset import read_network", "", 'network = read_network(".", "honest")',
        'unit = network.unit("red ring")      # unit.causes, unit.decoy, unit.null',
        "network.model                         # a model of Entoptic; network.model.module is an nn.Module", "```", "",
        "A method is judged by what its picture shows (`entoptic.planted.meter.read`, a meter in closed form without weights of "
        "these networks), never by how far it drives the unit: decoys drive it as far.", "",
        "## What it is not", "",
        "* The networks are tiny and their parts are hand-made. Methods rank differently on trained ones: what is right here may "
        "fail there, and the other way round.",
        "* Constants of a method that are chosen on `honest` are no measurement on it. Choose with another seed, and say so.",
        "* The manipulations follow two published ideas (fooling circuits: Geirhos et al. 2023; gradient slingshots: Bareeva "
        "et al. 2024) in a small form. A method that withstands them may be fooled by others.",
        "* No photos, no people and no data of others are in it.", "",
        "## How it was made", "",
        f"`entoptic.planted.dataset.write_dataset(FOLDER, scenes={len(scenes)})` with entoptic {versions()['entoptic']} makes the "
        "same bytes again. Apache-2.0.", "",
    ]  # fmt: skip
    return "\n".join(lines)


_WHAT = {
    "honest": "every unit fires for its causes, on all pictures.",
    "twin": "the same units with weights that are 5 % off: a second network, which no method should see.",
    "fooling": "four units fire for their causes on scenes, and for a decoy on pictures that are not like scenes.",
    "slingshot": "the same four units grow towards one given picture where pictures are not like scenes.",
}


def _lines(rows: Sequence[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()

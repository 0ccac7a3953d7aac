"""What `verify` finds in the files of a run without computing anything: what is not as the records around it say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from PIL import Image

from entoptic.base.files import is_inside, sha256_of
from entoptic.base.records import read_json
from entoptic.errors import Unreadable, printable
from entoptic.methods.contract import MethodCard
from entoptic.runs.difference import Difference
from entoptic.runs.progress_file import FILE
from entoptic.runs.store import FORMAT, NOTED, Picture, Run
from entoptic.units.unit import slug


def last_job_finished(run: Run) -> bool:
    """Returns whether the job that wrote the run last said that it finished: nothing is on its way then."""
    try:
        return read_json(run.path / FILE).get("state") == "finished"
    except Unreadable:
        return False


def wrong_names(picture: Picture, label: str | None, layer: str, card: MethodCard) -> list[str]:
    """Returns what a sidecar calls its unit, layer and method that is called otherwise, and whether its file does not belong to it.

    Args:
        picture: with its sidecar.
        label: of its unit.
        layer: of its unit.
        card: of its method.
    """
    record = picture.record
    said = {"label": (record.get("label"), label), "layer": (record.get("layer"), layer),
            "method_title": (record.get("method_title"), card.title), "paper": (record.get("paper"), card.paper)}  # fmt: skip
    wrong = [f'it says that its {name} is "{a}", and it is "{b}"' for name, (a, b) in said.items() if a != b]
    stem = f"{picture.method}-{picture.sample}-{str(record.get('key'))[:12]}"
    if picture.path.stem != stem or picture.path.parent.name != slug(picture.unit):
        wrong.append("its unit, method, sample or key are not those of its file's name")
    return wrong


def wrong_image(picture: Picture) -> list[str]:
    """Returns what a sidecar says of its PNG that is not so, in words."""
    entry, wrong = picture.record["image"], []
    if entry.get("file") != picture.path.name:
        wrong.append(f'it says that its picture is "{entry.get("file")}", and it is "{picture.path.name}"')
    if not picture.record.get("complete"):
        wrong.append("its sidecar says that it is not complete")
    with Image.open(picture.path) as image:
        size, texts = image.size, image.info
    said = [entry[name] for name in ("width", "height") if name in entry]
    if said and said != list(size):
        wrong.append(f"it says that it is {'×'.join(map(str, said))} pixels, and it is {size[0]}×{size[1]}")
    for name in NOTED:
        noted = texts.get(f"entoptic:{name}")
        if isinstance(noted, str) and noted != printable(str(picture.record.get(name, ""))):
            wrong.append(f"its {name} is not the one that is written in its picture")
    return wrong


def changed_about(run: Run) -> Iterator[Difference]:
    """Yields what `run.json` says that is not so."""
    try:
        about = run.about
    except Unreadable as error:
        yield Difference("run.json", f"run.json cannot be read ({error})")
        return
    if about.get("format") != FORMAT:
        told = f"run.json says that its format is {about.get('format')!r}, and this version writes {FORMAT}"
        yield Difference("run.json", told)
    model = about.get("model")
    if isinstance(model, Mapping) and "weights_sha256" in model:
        names = [dict(picture.record["model"]) for picture in run]
        if names and not any(one.get("weights_sha256") == model["weights_sha256"] for one in names):
            told = f"run.json names {model.get('name')!r} of weights that none of its pictures is of"
            yield Difference("run.json", told)


def changed_context(run: Run) -> Iterator[Difference]:
    """Yields which files beside a unit's pictures are not those that its `context.json` names."""
    for file in sorted(run.path.glob("context/*/context.json")):
        name = file.relative_to(run.path).as_posix()
        if not is_inside(file, run.path):
            continue
        try:
            record = read_json(file)
        except Unreadable as error:
            yield Difference(name, f"{name}: cannot be read ({error})")
            continue
        hashes = record.get("sha256")
        for held in _files_of(record):
            path = file.parent / held
            if "/" in held or "\0" in held or not path.is_file():
                yield Difference(name, f"{name}: its file {held} is missing")
            elif isinstance(hashes, Mapping) and hashes.get(held) != sha256_of(path):
                yield Difference(name, f"{name}: its file {held} was changed")
        numbers = record.get("numbers_sha256")
        if isinstance(numbers, str) and numbers != numbers_sha256(record):
            yield Difference(name, f"{name}: what it says of its photos was changed")


def numbers_sha256(record: Mapping[str, Any]) -> str:
    """Returns a hash of what a unit's context says of its photos."""
    said = {name: record.get(name) for name in ("unit", "photos", "strongest", "weakest")}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def left_alone(run: Run) -> Iterator[Difference]:
    """Yields PNGs among the pictures that no sidecar is of."""
    for file in sorted(run.path.glob("pictures/*/*.png")):
        if not file.with_suffix(".json").exists():
            name = file.relative_to(run.path).as_posix()
            yield Difference(name, f"{name}: it has no sidecar")


def _files_of(record: Mapping[str, Any]) -> Iterator[str]:
    for kind in ("strongest", "weakest"):
        for photo in record.get(kind) or ():
            if isinstance(photo, Mapping):
                yield from (photo[name] for name in ("file", "where") if isinstance(photo.get(name), str))

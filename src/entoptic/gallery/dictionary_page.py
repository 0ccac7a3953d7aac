"""The page of a whole dictionary: its features by density, strength and family, found by text and number."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from entoptic.base.files import check_inside, file_exists, user_path, write_atomically
from entoptic.base.pixels import small_jpeg
from entoptic.errors import UserError, counted
from entoptic.gallery.dictionary_data import Feature, dictionary_layers, page_data, read_features
from entoptic.gallery.result_pages import writing_pages
from entoptic.gallery.site import page_environment, write_page
from entoptic.images.index import MARK as INDEX
from entoptic.images.index import ActivationIndex
from entoptic.images.photos import Photos
from entoptic.runs.store import Run

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

_ASSETS = ("style.css", "index.css", "common.js", "dictionary.css", "paged_list.js", "dictionary.js", "icon.svg")
_AT_ONCE = 32
SIDE = 160
"""Pixels of a photo's small copy before it is stored."""


def write_dictionary_pages(
    index_folder: Path, *, pictures: Sequence[Path] = (), photos: Any = None, context: bool = True
) -> list[Path]:
    """Writes a page for each dictionary of an index, into `INDEX/gallery`.

    Args:
        index_folder: of an index that holds dictionaries, `entoptic index MODEL --layers 'dict(FILE)'`.
        pictures: runs with pictures of features.
        photos: where the index's photos are now (default: where they were).
        context: store small copies of the strongest photos.

    Returns:
        The pages.

    Raises:
        UserError: there is no index or no dictionary in it, or the pages cannot be written.
    """
    index = ActivationIndex.open(index_folder)
    layers = dictionary_layers(index)
    if not layers:
        raise UserError(
            f"the index in {index_folder} holds no dictionary; `entoptic index MODEL --layers 'dict(FILE)'` makes one that does"
        )
    runs = [Run.open(user_path(one)) for one in pictures]
    opened = _open_photos(index, photos) if context else None
    with writing_pages(index.path, _ASSETS) as out:
        return [_write(index, layer, runs, opened, out) for layer in layers]


def is_index(folder: Path) -> bool:
    """Returns whether a folder holds an index and no run.

    Raises:
        UserError: no path can be so.
    """
    place = user_path(folder)
    return file_exists(place / INDEX) and not file_exists(place / "run.json")


def _write(index: ActivationIndex, layer: str, runs: Sequence[Run], opened: Photos | None, out: Path) -> Path:
    features = read_features(index, layer, runs)
    name = _name(layer)
    positions = sorted({position for feature in features for position, _ in feature.photos})
    files = _copies(opened, positions, out) if opened is not None else {}
    names = {position: (index.photos[position][0], files.get(position, "")) for position in positions}
    links = {
        str(f.made.path): quote(Path(os.path.relpath(f.made.path.resolve(), out.resolve())).as_posix())
        for f in features if f.made is not None
    }  # fmt: skip
    data = json.dumps(page_data(features, names, links, layer), ensure_ascii=False, separators=(",", ":"))
    write_page(out / f"{name}.data.js", f"window.DICTIONARY = {data};\n")
    about = {
        "name": name, "title": _title(layer), "layer": layer, "model": index.model, "count": len(features), "n": index.n,
        "pictured": sum(f.made is not None for f in features), "families": _families(features),
        "alive": sum(f.density > 0 for f in features), "counted": counted, "copies": bool(files),
    }  # fmt: skip
    page = out / f"{name}.html"
    write_page(page, page_environment().get_template("dictionary.html").render(**about))
    return page


def _families(features: Sequence[Feature]) -> dict[str, int]:
    general = {parent for feature in features for parent in feature.parents}
    return {
        "parents": sum(bool(f.parents) for f in features), "children": len(general),
        "duplicates": sum(bool(f.duplicates) for f in features),
    }  # fmt: skip


def _open_photos(index: ActivationIndex, photos: Any) -> Photos | None:
    """The photos of the index; None where they are gone and none were given."""
    try:
        opened = Photos.open(photos if photos is not None else index.source)
    except UserError:
        if photos is not None:
            raise
        return None
    fits = all(p < len(opened) and opened[p].name == name for p, (name, _) in index.photos.items())
    if not fits and photos is not None:
        raise UserError(f"the photos in {opened.source} are not those of the index in {index.path}")
    return opened if fits else None


def _copies(photos: Photos, positions: Sequence[int], out: Path) -> dict[int, str]:
    """Writes small copies of photos, a batch at a time, and returns their links; those that are there are not read again."""
    files = {p: f"photos/{photos.sha256(p)[:16]}.jpg" for p in positions}
    todo = [p for p in positions if not (out / files[p]).is_file()]
    done = set(positions) - set(todo)
    if todo:
        for numbers, images in photos.batches(_small, _AT_ONCE, todo):
            for number, image in zip(numbers, images):
                check_inside(out / files[number], out)
                write_atomically(out / files[number], small_jpeg(image))
                done.add(number)
    return {p: files[p] for p in positions if p in done}


def _small(photo: Image.Image) -> Tensor:
    """The middle square of a photo."""
    import numpy as np
    import torch
    from PIL import ImageOps

    return torch.from_numpy(np.array(ImageOps.fit(photo, (SIDE, SIDE)))).permute(2, 0, 1).float() / 255


def _title(layer: str) -> str:
    path = Path(layer[len("dict(") : -1])
    return (path.parent.name or path.stem) if path.stem == "dictionary" else path.stem


def _name(layer: str) -> str:
    """Name of the page's file: of the dictionary, with a hash of its whole path."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in _title(layer))[:60]
    return f"dictionary-{plain}-{hashlib.sha256(layer.encode('utf-8', 'backslashreplace')).hexdigest()[:8]}"

"""A checkpoint of another tool, read from start to shelf: its file here, and its card where there are photos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from entoptic.base.files import check_own, lock_folder, user_path
from entoptic.base.gradients import with_gradients
from entoptic.base.progress import reporter
from entoptic.dictionaries.checkpoints import read_checkpoint
from entoptic.dictionaries.stream import Source
from entoptic.models.model import Model, pick_device
from entoptic.models.sources import load
from entoptic.runs.learn_dictionary import FILE, draw_sheet, measured, relations_on, some_photos
from entoptic.units.dictionary import save

PHOTOS = 256
"""Photos that a checkpoint is measured on, at most."""


@with_gradients
def read_dictionary(
    model: str | Model,
    layer: str,
    checkpoint: str | Path,
    out: str | Path,
    *,
    photos: Any = (),
    writes: str = "",
    kind: str = "",
    k: int = 0,
    name: str = "",
    device: str = "auto",
    progress: bool = True,
) -> Path:
    """Reads a checkpoint of another tool and writes it to OUT/dictionary.safetensors; nothing in it is run.

    Args:
        model: the network that it was trained on; nobody checks that, so say it right.
        layer: whose values it encodes.
        checkpoint: a folder or a file, in a layout of `entoptic.dictionaries.checkpoints`.
        out: a folder that is new or holds a dictionary.
        photos: to measure it on and to draw a sheet from; none leaves the card empty.
        writes: whose values it decodes, for a transcoder.
        kind: how features are kept, where the files do not say.
        k: features of a position, where the files do not say.
        name: on its card (default: the folder's name).
        device: "auto", "cpu", "cuda:1", ….
        progress: show how far the work is.

    Returns:
        The file, whose features are units `dict(FILE):NUMBER`.

    Raises:
        UserError: no such file; a pickle of objects; another layout; tensors that do not fit each other or the layer.
    """
    folder = user_path(out)
    check_own(folder, marks=(FILE,), what="dictionary")
    subject = load(model, device=str(pick_device(device))) if isinstance(model, str) else model
    made = read_checkpoint(checkpoint, subject, layer, writes=writes, kind=kind, k=k)
    source = Source.of(subject, layer, photos, writes, made.window) if photos else None
    found: dict[str, Any] = {"name": name or folder.name, "model": subject.card.name, **made.found}
    with lock_folder(folder), reporter(progress) as report:
        if source is not None:
            report.progress("measuring the dictionary", 0, 1)
            found |= measured(made, source, some_photos(source, PHOTOS), kept_out=None)
            found["sources"] = [Path(one.source).name for one in source.sets]
            parents, found["families"] = relations_on(made, source)
            made = made.with_(parents=parents)
            report.progress("measuring the dictionary", 1, 1)
        made = made.with_(found=found)
        file = save(made, folder / FILE)
        if source is not None:
            draw_sheet(made, source, folder / "sheet.png")
    return file

"""Makes and merges activation indexes: one pass of a model over photos, resumable, in shards."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from entoptic.base.cache import content_key
from entoptic.base.files import LOCK, UNFINISHED, lock_folder, write_atomically
from entoptic.base.progress import Progress, silent
from entoptic.errors import UserError
from entoptic.images.index import FORMAT, ActivationIndex, difference, groups_of, listing_sha256, read_record
from entoptic.images.index_shards import Group, Parts, make_groups, read_block
from entoptic.images.photos import Photos
from entoptic.images.unit_statistics import Extremes, rows, to_tensors
from entoptic.models.model import Model
from entoptic.units.unit import slug


def build_index(
    model: Model,
    photos: Any,
    layers: str | Sequence[str],
    *,
    out: str | Path,
    k: int = 25,
    bottom: int = 8,
    readouts: str | Sequence[str] = ("",),
    reservoir: int = 0,
    shard: tuple[int, int] = (0, 1),
    batch_size: int = 32,
    progress: Progress = silent,
) -> ActivationIndex:
    """Reads photos once and writes what every unit of `layers` did; what the folder holds already is not read again.

    The result does not depend on shards, interruptions or the order of merging, bit by bit. Another batch size changes
    scores by no more than the network's own rounding.

    Args:
        photos: anything `Photos.open` takes. layers: module names, or `logits`. out: the index folder.
        k, bottom: strongest and weakest photos kept of each unit.
        readouts: as behind @ in a unit's string ("" is each layer's default), for every layer that has them.
        reservoir: photos in a uniform sample (the smallest content hashes), whose scores on every unit and whose
            activation vector at one position per layer are kept.
        shard: (i, m) reads the i-th of m equal parts of the photos, for `merge_indexes`.
        batch_size: of the pass. progress: called with (what, done, total).

    Returns:
        The index. Photos that could not be read are named in `skipped`.

    Raises:
        UserError: unknown layer or readout, `out` holds another index or other files, no photo could be read.
    """
    photos = Photos.open(photos)
    layers, readouts = ([x] if isinstance(x, str) else list(x) for x in (layers, readouts))
    which, of = shard
    if min(k, bottom) < 1 or reservoir < 0 or batch_size < 1:
        raise UserError(f"k, bottom and batch_size must be 1 or more, got {k}, {bottom}, {batch_size}")
    if not 0 <= which < of:
        raise UserError(f"shard {which}/{of}: shards of {of} are 0/{of} to {of - 1}/{of}")
    groups = make_groups(model, layers, readouts)
    blocks = -(-len(photos) // BLOCK)
    if of > blocks:
        raise UserError(f"{len(photos)} photos are read in blocks of {BLOCK}, so there are at most {blocks} shards")
    request = _request(model, photos, groups, k, bottom, reservoir, progress)
    mine = range(which * blocks // of, (which + 1) * blocks // of)
    folder = Path(out).expanduser()
    with _writing(folder):
        done = _held(folder, request)
        parts = Parts(folder / "parts", blocks, reservoir)
        if done is not None and done.whole:
            return done
        parts.settle(model.device)
        todo = sorted(set(mine) - parts.covered())
        if done is not None and not todo:
            return done
        _say(folder, request, about=_about(model, photos), finished=False)
        seen = sum(len(_indices(photos, block)) for block in parts.covered())

        def on_batch(more: int) -> None:
            nonlocal seen
            seen += more
            progress("indexing photos", seen, total)

        total = seen + sum(len(_indices(photos, block)) for block in todo)
        with torch.no_grad(), model.frozen():
            for block in todo:
                part = read_block(
                    model, groups, photos, block, _indices(photos, block), k=k, bottom=bottom, reservoir=reservoir,
                    batch_size=batch_size, on_batch=on_batch,
                )  # fmt: skip
                parts.add(part, model.device)
        return _finish(folder, request, _about(model, photos), groups, parts, photos)


def merge_indexes(paths: Sequence[str | Path], out: str | Path) -> ActivationIndex:
    """One index from shards of the same request; the whole of them equals the index made at once.

    Shards may be missing: the result then is a larger shard, which can be merged again.

    Raises:
        UserError: they are not of the same request, or two of them hold the same photos.
    """
    opened = [ActivationIndex.open(path) for path in paths]
    if not opened:
        raise UserError("no index was given; merge_indexes takes the folders of the shards")
    first = opened[0]
    for other in opened:
        if other.key != first.key:
            raise UserError(f"{other.path} {difference(other.request, first.request)} of {first.path}")
        if other.whole:
            raise UserError(f"{other.path} holds all photos already, there is nothing to merge with it")
    folder = Path(out).expanduser()
    with _writing(folder):
        if (folder / "index.json").exists() or any(folder.glob("parts/*.safetensors")):
            raise UserError(f"{folder} holds an index; give another folder")
        blocks, reservoir = first.request["blocks"], first.request["reservoir"]
        parts, taken = Parts(folder / "parts", blocks, reservoir), dict[int, Path]()
        for index in opened:
            own = Parts(index.path / "parts", blocks, reservoir)
            for block in own.covered():
                if block in taken:
                    raise UserError(f"{taken[block]} and {index.path} hold the same photos")
                taken[block] = index.path
        _say(folder, first.request, about=first.about, finished=False)
        for index in opened:
            own = Parts(index.path / "parts", blocks, reservoir)
            for place in own.held():
                parts.add(own.read(*place))
        names: dict[int, tuple[str, str]] = {}
        for index in opened:
            names |= index.photos
        return _finish(folder, first.request, first.about, groups_of(first.request), parts, names)


def _indices(photos: Photos, block: int) -> range:
    return range(block * BLOCK, min((block + 1) * BLOCK, len(photos)))


def _request(
    model: Model, photos: Photos, groups: Sequence[Group], k: int, bottom: int, reservoir: int, progress: Progress
) -> dict[str, Any]:
    """Everything that decides what is in an index: its key is a hash of this."""
    plain = [
        {"layer": g.layer, "channels": g.channels, "grid": list(g.grid), "readout": g.readout, "suffix": g.suffix}
        for g in groups
    ]
    return {
        "format": FORMAT,
        "weights": model.card.weights_sha256,
        "preprocessing": json.loads(json.dumps(model.card.preprocessing())),
        "photos": photos.fingerprint(),
        "listing": listing_sha256(photos, progress),
        "groups": plain,
        "k": k,
        "bottom": bottom,
        "reservoir": reservoir,
        "block": BLOCK,
        "blocks": -(-len(photos) // BLOCK),
    }


def _about(model: Model, photos: Photos) -> dict[str, Any]:
    """For people; not part of the key."""
    return {"model": model.card.name, "source": photos.source, "total": len(photos), "labels": model.card.labels}


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """One writer at a time; a disk that is full or read-only is said in one sentence."""
    try:
        with lock_folder(folder):
            yield
    except OSError as error:
        raise UserError(
            f"the index in {folder} cannot be written ({error.strerror or error}); finished blocks are safe, "
            "the same command goes on from there"
        ) from None


def _held(folder: Path, request: dict[str, Any]) -> ActivationIndex | None:
    """The finished index in `folder`, None for an unfinished or a new one; refuses a folder that holds another."""
    for left in [*folder.glob(f"**/.*{UNFINISHED}"), *folder.glob("**/.*.unfinished")]:
        left.unlink(missing_ok=True)
    file = folder / "index.json"
    if not file.is_file():
        other = [path.name for path in folder.iterdir() if path.name != LOCK]
        if other:
            raise UserError(f"{folder} is no index and holds other files ({other[0]}); give another --out")
        return None
    held = read_record(file)
    if held["key"] != content_key(request):
        raise UserError(f"the index in {folder} {difference(held['request'], request)} asked for; give another --out")
    return ActivationIndex.open(folder) if held["finished"] else None


def _say(folder: Path, request: dict[str, Any], *, about: dict[str, Any], finished: bool, **more: Any) -> None:
    record = {"key": content_key(request), "finished": finished, "about": about, "request": request, **more}
    write_atomically(folder / "index.json", (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())


def _finish(
    folder: Path, request: dict[str, Any], about: dict[str, Any], groups: Sequence[Group], parts: Parts,
    names: Photos | dict[int, tuple[str, str]],
) -> ActivationIndex:  # fmt: skip
    """Writes the tables of all parts, then index.json, and deletes the parts where nothing is missing."""
    from safetensors.torch import save

    total = parts.whole()
    if not total.read:
        why = f" ({total.skipped[0][0]}: {total.skipped[0][1]})" if total.skipped else ""
        raise UserError(f"none of the photos from {about['source']} could be read{why}")
    used = torch.cat([total.tally.top.photos.flatten(), total.tally.bottom.photos.flatten(), total.sampled]).unique()
    known = {
        i: (names[i].name, names.sha256(i)) if isinstance(names, Photos) else names[i] for i in used.tolist() if i >= 0
    }
    tensors: dict[str, dict[str, Tensor]] = {}
    tables = []
    offset = 0
    for group in groups:
        mine = rows(total.tally, offset, offset + group.channels)
        tensors.setdefault(group.layer, {}).update(
            {f"{group.readout}|{name}": tensor for name, tensor in to_tensors(mine).items()}
        )
        tables.append((group, mine))
        offset += group.channels
        if str(group.tap) in total.vectors:
            tensors[group.layer][f"vectors|{group.tap}"] = total.vectors[str(group.tap)].contiguous()
    for layer, held in tensors.items():
        write_atomically(folder / "layers" / f"{slug(layer)}.safetensors", save(held))
    _write_photos(folder / "photos.parquet", known)
    for end in ("top", "bottom"):
        _write_table(folder / f"{end}.parquet", [(g, getattr(t, end)) for g, t in tables], known)
    sketch = total.tally.sketch
    _say(
        folder, request, about=about, finished=True, whole=len(parts.covered()) == parts.blocks, n=total.read,
        skipped=total.skipped, nonfinite={"photos": total.odd, "names": total.odd_names},
        sketch={"error": sketch.error, "start": sketch.start}, sampled=total.sampled.tolist(),
    )  # fmt: skip
    index = ActivationIndex.open(folder)
    if index.whole:
        for place in parts.held():
            parts.delete(*place)
    return index


def _write_photos(path: Path, known: dict[int, tuple[str, str]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "index": list(known), "photo": [name for name, _ in known.values()], "sha256": [sha for _, sha in known.values()],
    }  # fmt: skip
    buffer = pa.BufferOutputStream()
    schema = pa.schema([("index", pa.int64()), ("photo", pa.string()), ("sha256", pa.string())])
    pq.write_table(pa.table(columns, schema=schema), buffer)
    write_atomically(path, buffer.getvalue().to_pybytes())


def _write_table(path: Path, tables: Sequence[tuple[Group, Extremes]], known: dict[int, tuple[str, str]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [("unit", pa.string()), ("rank", pa.int32()), ("value", pa.float32()), ("photo", pa.string()),
         ("row", pa.int32()), ("column", pa.int32())]
    )  # fmt: skip
    numbers, names = np.array(list(known)), pa.array([name for name, _ in known.values()], pa.string())  # ascending
    buffer = pa.BufferOutputStream()
    with pq.ParquetWriter(buffer, schema) as writer:
        for group, best in tables:
            channel, rank = (best.photos >= 0).nonzero(as_tuple=True)
            place = best.places[channel, rank].numpy()
            units = pa.array([f"{group.layer}:{c}{group.suffix}" for c in range(group.channels)], pa.string())
            columns = [
                units.take(pa.array(channel.numpy())), rank.int().numpy(), best.values[channel, rank].numpy(),
                names.take(pa.array(np.searchsorted(numbers, best.photos[channel, rank].numpy()))),
                place // group.grid[1], place % group.grid[1],
            ]  # fmt: skip
            writer.write_table(pa.table(columns, schema=schema))
    write_atomically(path, buffer.getvalue().to_pybytes())


BLOCK = 512
"""Photos between two savings: what an interruption can cost."""

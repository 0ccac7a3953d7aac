"""Makes and merges activation indexes: one pass of a model over photos, resumable, in shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from entoptic.base.bounds import check_options, check_shard
from entoptic.base.files import (
    check_inside,
    check_own,
    delete_unfinished,
    lock_folder,
    path_exists,
    user_path,
    write_atomically,
)
from entoptic.base.progress import Progress, silent
from entoptic.base.unread import names_unread
from entoptic.errors import Unreadable, UserError, counted
from entoptic.images.index import MARK, ActivationIndex, listing_sha256
from entoptic.images.index_record import IndexContents, IndexOrigin, IndexRecord, IndexRequest, difference
from entoptic.images.index_shards import IndexShard, ShardFolder, UnitGroup, make_groups, read_block
from entoptic.images.index_work import Block, IndexWork, read_on_workers
from entoptic.images.photos import Photos
from entoptic.images.unit_statistics import Extremes
from entoptic.models.model import Model
from entoptic.units.grammar import quoted_layer
from entoptic.units.unit import slug
from entoptic.workers.count import Workers


@names_unread
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
    workers: int | str | Workers | None = None,
) -> ActivationIndex:
    """Reads photos once and writes the statistics of every unit of `layers`; what the folder holds is not read again.

    The result does not depend on shards, interruptions or the order of merging, bit by bit. Another batch size changes
    scores by no more than the network's own rounding.

    Args:
        model: the network.
        photos: anything `Photos.open` takes.
        layers: module names, or `logits`.
        out: the index folder.
        k: strongest photos to keep of each unit.
        bottom: weakest photos to keep of each unit.
        readouts: as behind @ in a unit's string ("" is each layer's default), for every layer that has them.
        reservoir: photos in a uniform sample (the smallest content hashes), whose scores on every unit and whose
            activation vector at one position per layer are kept.
        shard: (i, m) reads the i-th of m equal parts of the photos, for `merge_indexes`.
        batch_size: photos per forward pass.
        progress: called with (what, done, total).
        workers: processes that share the photos: a number, "auto" for one on each device, "ray" or "ray://HOST:PORT" for a Ray
            cluster; None reads all in this process.

    Returns:
        The index. Photos that could not be read are named in `skipped`.

    Raises:
        UserError: unknown layer or readout, `out` holds another index or other files, no photo could be read.
    """
    shared = Workers.parse(workers)
    photos = Photos.open(photos)
    layers, readouts = ([x] if isinstance(x, str) else list(x) for x in (layers, readouts))
    which, of = shard
    if min(k, bottom) < 1 or reservoir < 0 or batch_size < 1:
        raise UserError(f"k, bottom and batch_size must be 1 or more, got {k}, {bottom}, {batch_size}")
    check_options(k=k, bottom=bottom, reservoir=reservoir, batch_size=batch_size)
    check_shard(which, of)
    groups = make_groups(model, layers, readouts)
    blocks = -(-len(photos) // BLOCK)
    if of > blocks:
        raise UserError(
            f"photos are read in blocks of {BLOCK}, so {counted(len(photos), 'photo')} can have at most {counted(blocks, 'shard')}"
        )
    request = _request(model, photos, groups, k, bottom, reservoir, progress)
    origin = IndexOrigin(model=model.card.name, source=photos.source, total=len(photos), labels=model.card.labels)
    mine = range(which * blocks // of, (which + 1) * blocks // of)
    folder = user_path(out)
    with _writing(folder):
        done = _held(folder, request)
        shards = ShardFolder(folder / "parts", blocks, reservoir)
        if done is not None and done.whole:
            shards.clear()  # of a process that was killed while it deleted them
            photos.leave_out_by_name(dict(done.skipped))
            return done
        shards.merge_siblings(model.device)
        todo = sorted(set(mine) - shards.covered())
        if done is not None and not todo:
            photos.leave_out_by_name(dict(done.skipped))
            return done
        _record(request, origin).write(folder / "index.json")
        before = sum(len(_indices(photos, block)) for block in shards.covered())
        blocks_left = [Block(number=block, photos=_indices(photos, block)) for block in todo]
        total = before + sum(len(block.photos) for block in blocks_left)

        def seen(more: int) -> None:
            progress("indexing photos", before + more, total)

        work = IndexWork(
            model=model, photos=photos, layers=layers, readouts=readouts, k=k, bottom=bottom, reservoir=reservoir,
            batch_size=batch_size,
        )  # fmt: skip
        if shared is None:
            _read_here(work, groups, blocks_left, lambda shard: shards.add(shard, model.device), seen)
        else:
            read_on_workers(
                work, blocks_left, shared, keep=lambda shard: shards.add(shard, model.device), seen=seen
            )  # fmt: skip
        index = _finish(folder, request, origin, groups, shards, photos)
        photos.leave_out_by_name(dict(index.skipped))
        return index


def _read_here(
    work: IndexWork,
    groups: Sequence[UnitGroup],
    blocks: Sequence[Block],
    keep: Callable[[IndexShard], None],
    seen: Callable[[int], None],
) -> None:
    """Reads blocks in this process."""
    count = 0

    def on_batch(more: int) -> None:
        nonlocal count
        count += more
        seen(count)

    with torch.no_grad(), work.model.frozen():
        for block in blocks:
            shard = read_block(
                work.model, groups, work.photos, block.number, block.photos, k=work.k, bottom=work.bottom,
                reservoir=work.reservoir, batch_size=work.batch_size, on_batch=on_batch,
            )  # fmt: skip
            keep(shard)


def merge_indexes(paths: Sequence[str | Path], out: str | Path) -> ActivationIndex:
    """Merges indexes of shards of the same request; all of them together equal the index made at once.

    Shards may be missing: the result is then an index of more shards, which can be merged again.

    Args:
        paths: folders of the indexes.
        out: folder of the result.

    Raises:
        UserError: they are not of the same request, or two of them hold the same photos.
    """
    opened = [ActivationIndex.open(path) for path in paths]
    if not opened:
        raise UserError("no index was given; expected the folders of its shards")
    first = opened[0]
    for other in opened:
        if other.key != first.key:
            raise UserError(f"{other.path} {difference(other.request, first.request)} of {first.path}")
        if other.whole:
            raise UserError(f"{other.path} holds all photos already, there is nothing to merge with it")
    folder = user_path(out)
    with _writing(folder):
        if path_exists(folder / "index.json") or any(folder.glob("parts/*.safetensors")):
            raise UserError(f"{folder} holds an index; give another folder")
        blocks, reservoir = first.request.blocks, first.request.reservoir
        shards, taken = ShardFolder(folder / "parts", blocks, reservoir), dict[int, Path]()
        for index in opened:
            own = ShardFolder(index.path / "parts", blocks, reservoir)
            for block in own.covered():
                if block in taken:
                    raise UserError(f"{taken[block]} and {index.path} hold the same photos")
                taken[block] = index.path
        _record(first.request, first.origin).write(folder / "index.json")
        for index in opened:
            own = ShardFolder(index.path / "parts", blocks, reservoir)
            for run in own.held():
                shards.add(own.read(*run))
        names: dict[int, tuple[str, str]] = {}
        for index in opened:
            names |= index.photos
        return _finish(folder, first.request, first.origin, first.request.groups, shards, names)


def _indices(photos: Photos, block: int) -> range:
    return range(block * BLOCK, min((block + 1) * BLOCK, len(photos)))


def _request(
    model: Model, photos: Photos, groups: Sequence[UnitGroup], k: int, bottom: int, reservoir: int, progress: Progress
) -> IndexRequest:
    return IndexRequest(
        weights=model.card.identity,
        preprocessing=model.card.preprocessing_json(),
        photos=photos.fingerprint(),
        listing=listing_sha256(photos, progress),
        groups=tuple(groups),
        k=k,
        bottom=bottom,
        reservoir=reservoir,
        block=BLOCK,
        blocks=-(-len(photos) // BLOCK),
    )


def _record(request: IndexRequest, origin: IndexOrigin, contents: IndexContents | None = None) -> IndexRecord:
    return IndexRecord(key=request.key, origin=origin, request=request, contents=contents)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Allow one writer at a time, and turn a full or read-only disk into one sentence."""
    check_own(folder, marks={MARK, "parts"}, what="index")
    try:
        with lock_folder(folder):
            yield
    except OSError as error:
        raise UserError(
            f"the index in {folder} cannot be written ({error.strerror or error}); finished blocks are safe, "
            "the same command goes on from there"
        ) from None


def _held(folder: Path, request: IndexRequest) -> ActivationIndex | None:
    """Returns the finished index in `folder`, None for an unfinished or a new one; refuses a folder that holds another."""
    file = folder / MARK
    held = IndexRecord.read(file) if path_exists(file) else None
    delete_unfinished(folder, "", "layers/", "parts/")
    if held is None:
        return None
    if held.key != request.key:
        raise UserError(f"the index in {folder} {difference(held.request, request)} asked for; give another --out")
    return ActivationIndex.open(folder) if held.finished else None


def _finish(
    folder: Path, request: IndexRequest, origin: IndexOrigin, groups: Sequence[UnitGroup], shards: ShardFolder,
    names: Photos | dict[int, tuple[str, str]],
) -> ActivationIndex:  # fmt: skip
    """Writes the tables of all shards, then index.json, and deletes the shards where nothing is missing."""
    from safetensors.torch import save

    total = shards.whole()
    if not total.read:
        why = f" ({total.skipped[0][0]}: {total.skipped[0][1]})" if total.skipped else ""
        raise Unreadable(f"none of the photos from {origin.source} could be read{why}")
    statistics = total.statistics
    used = torch.cat([statistics.top.photos.flatten(), statistics.bottom.photos.flatten(), total.sampled]).unique()
    known = {
        i: (names[i].name, names.sha256(i)) if isinstance(names, Photos) else names[i] for i in used.tolist() if i >= 0
    }
    tensors: dict[str, dict[str, Tensor]] = {}
    tables = []
    offset = 0
    for group in groups:
        mine = statistics.rows(offset, offset + group.channels)
        tensors.setdefault(group.layer, {}).update(
            {f"{group.readout}|{name}": tensor for name, tensor in mine.to_tensors().items()}
        )
        tables.append((group, mine))
        offset += group.channels
        if str(group.tap) in total.vectors:
            tensors[group.layer][f"vectors|{group.tap}"] = total.vectors[str(group.tap)].contiguous()
    for layer, held in tensors.items():
        write_atomically(check_inside(folder / "layers" / f"{slug(layer)}.safetensors", folder), save(held))
    _write_photos(folder / "photos.parquet", known)
    for end in ("top", "bottom"):
        _write_table(folder / f"{end}.parquet", [(g, getattr(t, end)) for g, t in tables], known)
    contents = IndexContents(
        whole=len(shards.covered()) == shards.blocks,
        n=total.read,
        skipped=total.skipped,
        nonfinite={"photos": total.nonfinite, "names": total.nonfinite_names},
        sketch_error=statistics.sketch.error,
        sketch_start=statistics.sketch.start,
        sampled=total.sampled.tolist(),
    )
    _record(request, origin, contents).write(folder / "index.json")
    index = ActivationIndex.open(folder)
    if index.whole:
        shards.clear()
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
    write_atomically(check_inside(path, path.parent), buffer.getvalue().to_pybytes())


def _write_table(path: Path, tables: Sequence[tuple[UnitGroup, Extremes]], known: dict[int, tuple[str, str]]) -> None:
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
            position = best.positions[channel, rank].numpy()
            units = pa.array(
                [f"{quoted_layer(group.layer)}:{c}{group.suffix}" for c in range(group.channels)], pa.string()
            )
            columns = [
                units.take(pa.array(channel.numpy())), rank.int().numpy(), best.values[channel, rank].numpy(),
                names.take(pa.array(np.searchsorted(numbers, best.photos[channel, rank].numpy()))),
                position // group.grid[1], position % group.grid[1],
            ]  # fmt: skip
            writer.write_table(pa.table(columns, schema=schema))
    write_atomically(check_inside(path, path.parent), buffer.getvalue().to_pybytes())


BLOCK = 512
"""Photos between two savings: what an interruption can cost."""

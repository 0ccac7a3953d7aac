"""Blocks of an activation index on workers: they read photos, and the process that holds the index stores what they found."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from entoptic.errors import UserError
from entoptic.images.index_shards import IndexShard, make_groups, read_block
from entoptic.images.photos import Photos
from entoptic.models.model import Model, pick_device
from entoptic.workers.count import Workers
from entoptic.workers.dispatch import Busy, dispatch
from entoptic.workers.pools import opened
from entoptic.workers.records import Chunk, Handler, Made, Step, Tell


@dataclass(frozen=True, kw_only=True)
class Block:
    """Photos that are read together.

    Attributes:
        number: of the block.
        photos: their places in the set, which follow each other.
    """

    number: int
    photos: range


@dataclass(frozen=True, kw_only=True)
class IndexWork:
    """The reading of an index as a worker gets it; the attributes are those of `build_index`."""

    model: Model
    photos: Photos
    layers: Sequence[str]
    readouts: Sequence[str]
    k: int
    bottom: int
    reservoir: int
    batch_size: int

    def start(self, device: str) -> Handler:
        """Takes the network to a device.

        Args:
            device: of the worker, "" where the network stays where it is.
        """
        if device:
            self.model.module.to(device)
            self.model.device = pick_device(device)
        groups = make_groups(self.model, self.layers, self.readouts)

        def read(blocks: Sequence[Block], tell: Tell) -> None:
            for place, block in enumerate(blocks):
                seen = 0

                def on_batch(more: int, block: Block = block) -> None:
                    nonlocal seen
                    seen += more
                    tell(Step(share=seen / len(block.photos)))

                with torch.no_grad(), self.model.frozen():
                    shard = read_block(
                        self.model, groups, self.photos, block.number, block.photos, k=self.k, bottom=self.bottom,
                        reservoir=self.reservoir, batch_size=self.batch_size, on_batch=on_batch,
                    )  # fmt: skip
                tell(Made(piece=place, value=shard))

        return read


def read_on_workers(
    work: IndexWork,
    blocks: Sequence[Block],
    workers: Workers,
    *,
    keep: Callable[[IndexShard], None],
    seen: Callable[[int], None],
) -> None:
    """Has blocks of photos read by workers.

    Args:
        work: how they are read.
        blocks: which.
        workers: processes that read them.
        keep: stores what was found in a block.
        seen: is told how many photos of these blocks have been read.

    Raises:
        UserError: no worker can read them, or some could not be read; the others are kept.
    """
    chunks = [Chunk(number=number, pieces=(block,)) for number, block in enumerate(blocks)]
    keeper = _Keeper(keep, seen)
    with opened(work, workers, str(work.model.device), len(chunks)) as pool:
        dispatch(pool, chunks, keeper)
    if keeper.reasons:
        raise UserError(f"{keeper.reasons[0]}; finished blocks are kept, the same command goes on from there")


class _Keeper:
    """Keeps what workers read, and what went wrong."""

    def __init__(self, keep: Callable[[IndexShard], None], seen: Callable[[int], None]) -> None:
        self._keep, self._seen = keep, seen
        self._read = 0
        self._kept: set[int] = set()
        self.reasons: list[str] = []

    def made(self, piece: Block, value: IndexShard) -> None:
        """Stores a block, once."""
        if piece.number not in self._kept:
            self._kept.add(piece.number)
            self._keep(value)
            self._read += len(piece.photos)

    def failed(self, piece: Block, value: object) -> None:
        """Notes why a block could not be read."""
        self.reasons.append(str(value))

    def lost(self, piece: Block, reason: str) -> None:
        """Notes that workers ended over a block."""
        self.reasons.append(f"photos {piece.photos.start} to {piece.photos.stop - 1} could not be read: {reason}")

    def finished(self, pieces: int, seconds: float) -> None:
        """Does nothing: photos are counted."""

    def said(self, text: str) -> None:
        """Warns."""
        warnings.warn(text, stacklevel=2)

    def state(self, busy: list[Busy]) -> None:
        """Passes on how many photos have been read."""
        under_way = sum(one.share * len(one.chunk.pieces[0].photos) for one in busy)
        self._seen(self._read + int(under_way))

"""`entoptic merge`: one index from shards of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import Positional, arg

from entoptic.cli.options import Debug


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Make one index from shards of it."""

    title: ClassVar[str] = "one index from shards of it"
    examples: ClassVar[tuple[str, ...]] = (
        "entoptic index builtin:lite0 --photos photos --layers bn2 --shard 0/2 --out a",
        "entoptic index builtin:lite0 --photos photos --layers bn2 --shard 1/2 --out b",
        "entoptic merge a b --out runs/merged",
    )

    shards: Positional[Annotated[tuple[Path, ...], arg(metavar="INDEX")]]
    """their folders"""
    out: Annotated[Path, arg(metavar="FOLDER")]
    """folder of the merged index"""
    debug: Debug = False


def run_merge(options: Merge) -> int:
    """Runs `entoptic merge`; returns the exit code."""
    from entoptic.images.build_index import merge_indexes

    print(merge_indexes(options.shards, options.out))
    return 0

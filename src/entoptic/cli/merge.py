"""`entoptic merge`: one index from shards of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from entoptic.cli.options import Debug


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Make one index from shards of it."""

    shards: Positional[tuple[Path, ...]]
    """their folders"""
    out: Path
    """folder of the merged index"""
    debug: Debug = False


def run_merge(options: Merge) -> int:
    """Runs `entoptic merge`; returns the exit code."""
    from entoptic.images.build_index import merge_indexes

    print(merge_indexes(options.shards, options.out))
    return 0

"""Opens the workers that were asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from entoptic.workers.count import Workers, seats
from entoptic.workers.local import LocalPool
from entoptic.workers.records import Pool, Work


@contextmanager
def opened(work: Work, workers: Workers, device: str, chunks: int) -> Iterator[Pool]:
    """Yields workers; ends them all, whatever happens.

    Args:
        work: the job's work.
        workers: which ones.
        device: that the job asked for.
        chunks: of the work.

    Raises:
        UserError: the work cannot be sent, or the cluster cannot be used.
    """
    pool: Pool
    if workers.cluster:
        from entoptic.workers.on_ray import RayPool

        pool = RayPool(work, workers, device, chunks)
    else:
        pool = LocalPool(work, seats(workers, device, chunks))
    try:
        yield pool
    finally:
        pool.close()

"""t-SNE (van der Maaten and Hinton 2008) by openTSNE."""

from __future__ import annotations

import numpy as np

from entoptic.atlases.contract import Asked, MapProblem
from entoptic.atlases.distances import euclidean, principal, reduced

ITERATIONS = 750


def ask(problem: MapProblem) -> Asked:
    """Returns the Euclidean distances of the points."""
    return Asked(rows=euclidean(problem.vectors_ND))


def draw(problem: MapProblem, asked: Asked) -> np.ndarray:
    """Maps points by t-SNE from their principal components."""
    vectors = reduced(problem.vectors_ND)
    start = principal(vectors, 2)
    start = 1e-4 * start / max(start[:, 0].std(), 1e-12)
    return embed(vectors, "euclidean", start, problem)


def embed(points: np.ndarray, metric: str, start: np.ndarray, problem: MapProblem) -> np.ndarray:
    """Runs openTSNE in one thread, so that the same points give the same map.

    Args:
        points: vectors, or all distances with the metric "precomputed".
        metric: as openTSNE names it.
        start: positions N×2 to start from.
        problem: whose seed, neighbours and progress are used.

    Returns:
        Positions N×2, float32.
    """
    from openTSNE import TSNE

    def tell(iteration: int, error: float, embedding: object) -> None:
        done[0] += 50
        problem.progress("drawing the map", min(done[0], ITERATIONS), ITERATIONS)

    done = [0]
    tsne = TSNE(
        perplexity=min(problem.neighbours, (len(points) - 1) / 3), metric=metric, initialization=start, n_jobs=1,
        random_state=problem.seed % 2**32, callbacks=tell, callbacks_every_iters=50,
        neighbors="exact" if len(points) <= 4000 or metric == "precomputed" else "auto",
    )  # fmt: skip
    found = np.asarray(tsne.fit(points), np.float32)
    problem.progress("drawing the map", ITERATIONS, ITERATIONS)
    return found

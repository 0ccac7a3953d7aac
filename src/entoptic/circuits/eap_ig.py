"""EAP with integrated gradients (Hanna et al. 2024, arXiv:2403.17806): gradients between the corrupted and the clean photo.

    a(u → r) = (1/m) Σ_k ⟨ ∂s/∂x_r at z + (k/m)(e - z) , δ_u ⟩ ,

e and z being the clean and the corrupted embedding. Saturation at the clean photo alone hides nothing any more.
"""

from __future__ import annotations

import torch

from entoptic.circuits.eap import scores_of, slopes
from entoptic.circuits.finders import FinderOptions, Ranking, finder
from entoptic.circuits.problem import Problem


@finder("eap-ig", "EAP-IG: gradients averaged from the corrupted to the clean photos (arXiv:2403.17806)")
def eap_ig(problem: Problem, options: FinderOptions) -> Ranking:
    """Scores every edge by gradients on the way from the corrupted to the clean photos."""
    graph, cost, steps = problem.graph, problem.cost, options.steps
    rows = []
    for pair in problem.pairs:
        total = [torch.zeros_like(x) for x in pair.base]
        for k in range(1, steps + 1):
            for sum_so_far, slope in zip(total, slopes(graph, pair, k / steps, cost)):
                sum_so_far += slope / steps
        rows.append(scores_of(graph, pair, total))
    return Ranking(graph=graph, scores=torch.cat(rows))

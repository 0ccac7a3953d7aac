"""Which word a unit gets on some photos, and whether it predicts the unit on others.

On the photos that names are chosen on, a unit with activations a_i has the direction d = Σ w_i f̃_i / Σ w_i - mean f̃ in the text
space, w_i = max(0, a_i - mean a), and the word z whose text vector C_z has the largest cosine with d. On other photos the word's
score is f̃·C_z. Spearman's correlation ρ of this score with the activation says how well the word predicts the unit.

A name is shown where the 95 % interval of ρ lies above 0, and where at most 5 % of words drawn from the vocabulary (the name
counted among them) predict the unit as well. Both must hold, so a unit whose activations have nothing to do with the photos
gets a name with a probability of at most 2.5 %, and one that any word predicts as well as its own with at most 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from entoptic.base.randomness import generator_for
from entoptic.names.ranks import correlations, interval, ranks
from entoptic.names.records import Suggestion

RANDOM_WORDS = 200
"""Words that a name is compared with on the photos that judge it."""
LEVEL = 0.05
OTHERS = 4
SILENT = "silent: its score is the same on all photos"
_CLIP_SHARE, _CLIP_MOST = 0.1, 100
_CLIP_BELIEF = (0.998, 0.97)


@dataclass(frozen=True, kw_only=True)
class Space:
    """Photos and words in one space.

    Attributes:
        photos_Nm: vector of each photo, of length 1.
        words_Vm: vector of each word, of length 1.
        chosen_on: numbers of the photos that names are chosen on.
        judged_on: numbers of other photos.
        scale: factor of cosines in a softmax over words, for CLIP's way; 0 takes means (see above).
        shuffled_Nm: vector of each photo under a map that was trained on shuffled class names, or None.
    """

    photos_Nm: Tensor
    words_Vm: Tensor
    chosen_on: Tensor
    judged_on: Tensor
    scale: float = 0.0
    shuffled_Nm: Tensor | None = None


def split_photos(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Returns the numbers of the photos that names are chosen on, two thirds, and of the others; a seeded draw."""
    order = torch.randperm(count, generator=generator_for("names", seed, count))
    first = round(2 * count / 3)
    return order[:first].sort().values, order[first:].sort().values


def suggest(space: Space, words: Sequence[str], units: Sequence[str], scores_NU: Tensor, seed: int) -> list[Suggestion]:
    """Names units. Each unit's result does not depend on the others.

    Args:
        space: of photos and words.
        words: of the vocabulary.
        units: their strings.
        scores_NU: of the units on the photos.
        seed: of the words that names are compared with.
    """
    draw = torch.randperm(len(words), generator=generator_for("random words", seed, len(words)))[:RANDOM_WORDS]
    judged_JV = space.photos_Nm[space.judged_on] @ space.words_Vm.T
    random_JR = ranks(judged_JV[:, draw])
    prior_V = _belief(space, None) if space.scale else None
    found = []
    for name, score_N in zip(units, scores_NU.double().unbind(1)):
        chosen_on = score_N[space.chosen_on]
        judges = score_N[space.judged_on]
        if not bool(score_N.isfinite().all()) or float(chosen_on.std()) == 0 or float(judges.std()) == 0:
            found.append(_silent(name, len(judges)))
            continue
        fit_V = _belief(space, chosen_on) - prior_V if prior_V is not None else _cosines(space, chosen_on)
        best = fit_V.topk(min(1 + OTHERS, len(words)))
        word = int(best.indices[0])
        of_unit = ranks(judges[:, None])[:, 0]
        rho = float(correlations(ranks(judged_JV[:, word : word + 1]), of_unit)[0])
        rivals = correlations(random_JR, of_unit)[draw != word]
        p = (1 + int((rivals >= rho).sum())) / (1 + len(rivals))
        shuffled = None
        if space.shuffled_Nm is not None:
            again = space.shuffled_Nm[space.judged_on] @ space.words_Vm[word]
            shuffled = float(correlations(ranks(again[:, None]), of_unit)[0])
        low, high = interval(rho, len(judges))
        others = tuple((words[int(i)], _short(v)) for v, i in zip(best.values[1:], best.indices[1:]))
        reason = _reason(low, p)
        found.append(Suggestion(
            unit=name, name=words[word], score=_short(best.values[0]), rho=_short(rho), low=_short(low), high=_short(high),
            n=len(judges), p=_short(p), shuffled=None if shuffled is None else _short(shuffled), shown=not reason,
            reason=reason, others=others,
        ))  # fmt: skip
    return found


def _reason(low: float, p: float) -> str:
    if low <= 0:
        return "it does not predict the unit on other photos"
    return "" if p <= LEVEL else "random words predict the unit as well"


def _cosines(space: Space, scores_N: Tensor) -> Tensor:
    """Cosine of each word with the unit's direction."""
    photos_Nm = space.photos_Nm[space.chosen_on].double()
    weight_N = (scores_N - scores_N.mean()).clamp_min(0)
    direction_m = weight_N @ photos_Nm / weight_N.sum() - photos_Nm.mean(0)
    return space.words_Vm.double() @ normalize(direction_m, dim=0)


def _belief(space: Space, scores_N: Tensor | None) -> Tensor:
    """Log of how likely each word is, given that a unit's strongest photos are those; see CLIP-Dissect (arXiv:2204.10965).

    log p(z | B) = Σ_i log(1 + p_i (S_iz - 1)) over the k strongest photos, S_i the softmax over words and p_i falling from the
    strongest to the weakest. Without scores it is the mean over sets of k photos drawn from all: k times the mean of one photo.
    """
    similar_NV = (space.scale * space.photos_Nm[space.chosen_on] @ space.words_Vm.T).double().softmax(1)
    count = max(1, min(_CLIP_MOST, math.ceil(_CLIP_SHARE * len(similar_NV))))
    if scores_N is None:
        return count * torch.log1p(sum(_CLIP_BELIEF) / 2 * (similar_NV - 1)).mean(0)
    strongest = scores_N.argsort(descending=True, stable=True)[:count]
    belief_k1 = torch.linspace(*_CLIP_BELIEF, count, dtype=torch.float64)[:, None]
    return torch.log1p(belief_k1 * (similar_NV[strongest] - 1)).sum(0)


def _silent(unit: str, n: int) -> Suggestion:
    return Suggestion(
        unit=unit,
        name="",
        score=0.0,
        rho=None,
        low=None,
        high=None,
        n=n,
        p=None,
        shuffled=None,
        shown=False,
        reason=SILENT,
    )


def _short(value: float | Tensor) -> float:
    return round(float(value), 4)

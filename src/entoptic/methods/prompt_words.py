"""Prompts of plain words after DEXTER: a coordinate search over the words of "a picture of a A with B and C".

DEXTER lets a soft prompt of a frozen BERT predict the words and trains it through a Gumbel-softmax at one fixed latent
seed. Here the candidates are given, and each is scored on several seeds, the same for all. There is no language model, no
gradient and no temperature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from entoptic.errors import UserError
from entoptic.methods.contract import Context, Draft, Item, method
from entoptic.methods.prior_sampling import MAP_STEPS, UNITS
from entoptic.methods.prompt_search import FoundPrompt, Prompted, Search, draw_prompted, text_prior

if TYPE_CHECKING:
    from torch import Tensor

    from entoptic.priors.network_prior import TextPrior
    from entoptic.sampling.unit_scores import UnitScores

GENERAL = """
stripes dots grid spiral circle square triangle curve line edge corner zigzag checkerboard lattice mesh rings waves
bubbles cracks wrinkles folds knots braid net
red orange yellow green blue purple pink brown black white grey gold silver
fur feathers scales skin hair wool leather wood bark stone brick metal rust glass ice plastic paper fabric lace velvet
sand mud
eye face nose mouth ear hand leg wing tail beak horn claw wheel window door handle button screen text letters numbers
flag fence rope chain pipe wire
animal bird fish dog cat horse snake insect spider flower leaf tree grass fruit vegetable mushroom food drink person
crowd child car boat aeroplane train bicycle building bridge tower church room kitchen street stadium
sky cloud sea lake river mountain snow desert forest field beach night fire smoke light shadow reflection blur"""
"""Words for what class labels do not name: textures, colours, materials, parts, things, scenes."""

_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class PromptWords(Prompted):
    """Prompt words, the plain words that make a prior drive the unit (after DEXTER)."""

    words: int = 3
    """largest number of words of the prompt; each is kept only if it raises the score"""
    shortlist: int = 32
    """words, the best of all candidates when alone, that are tried beside others"""
    vocabulary: tuple[str, ...] = ()
    """candidate words (none: the labels of the network's classes and a general list)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("words", "shortlist"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")


@method("prompt-words", PromptWords, paper="arXiv:2510.14741", units=UNITS, reads={"prior"})
def prompt_words(items: Sequence[Item], config: PromptWords, context: Context) -> Iterator[Draft]:
    """Draws pictures of the prior given a prompt whose words are searched for the unit."""
    import torch

    from entoptic.priors.prior import noise_like

    prior = text_prior(context)
    candidates = list(dict.fromkeys(config.vocabulary or (*(context.model.card.labels or ()), *GENERAL.split())))
    alone: dict[int, Tensor] = {}  # seed -> W×U, the score of each word alone on every unit, from the same pictures

    def find(search: Search) -> FoundPrompt:
        generators = [torch.Generator().manual_seed(1000 * search.seed + i) for i in range(config.seeds)]
        noise = noise_like(prior, generators)
        if search.seed not in alone:
            prompts = [sentence((word,)) for word in candidates]
            alone[search.seed] = score_prompts(prior, prompts, noise, search.scores, context)
        by_word = alone[search.seed][:, search.unit_index]
        order = by_word.argsort(descending=True, stable=True)[: config.shortlist]
        known: dict[tuple[str, ...], float] = {(candidates[i],): float(by_word[i]) for i in order.tolist()}
        tried = len(candidates)

        def value(options: list[tuple[str, ...]]) -> list[float]:
            nonlocal tried
            new = [option for option in options if option not in known]
            if new:
                scored = score_prompts(prior, [sentence(o) for o in new], noise, search.scores, context)
                known.update(zip(new, scored[:, search.unit_index].tolist()))
                tried += len(new)
            return [known[option] for option in options]

        chosen = climb(value, [candidates[i] for i in order.tolist()], config.words)
        prompt = sentence(chosen)
        in_sd = (known[chosen] - search.scores.centre[search.unit_index]) / search.scores.scale[search.unit_index]
        note = (
            f'"{prompt}" scored {float(in_sd):.3g} sd over the {config.seeds} pictures that chose it among {tried} prompts '
            f"({MAP_STEPS} steps)"
        )
        return FoundPrompt(prior.embed([prompt]), f'the prompt "{prompt}"', tried * config.seeds, notes=[note])

    return draw_prompted(items, config, context, "prompt-words", find)


def sentence(words: Sequence[str]) -> str:
    """Returns a prompt of words: ("dog", "fur", "grass") gives "a picture of a dog with fur and grass"."""
    tail = f" with {' and '.join(words[1:])}" if len(words) > 1 else ""
    return f"a picture of a {words[0]}{tail}"


def climb(
    value: Callable[[list[tuple[str, ...]]], list[float]], shortlist: Sequence[str], most: int
) -> tuple[str, ...]:
    """Returns the words that a coordinate search finds.

    It starts with the first of the shortlist, adds the best further word while that raises the score, and then tries to
    exchange each word once.

    Args:
        value: gives the score of each of several tuples of words. No tuple has a word twice.
        shortlist: candidates, the best alone first.
        most: words at most.
    """
    chosen: tuple[str, ...] = (shortlist[0],)
    (best,) = value([chosen])

    def best_at(slot: int) -> bool:
        nonlocal chosen, best
        options = [(*chosen[:slot], word, *chosen[slot + 1 :]) for word in shortlist if word not in chosen]
        scores = value(options)
        top = max(range(len(options)), key=scores.__getitem__, default=None)
        if top is None or not scores[top] > best:
            return False
        chosen, best = options[top], scores[top]
        return True

    while len(chosen) < most and best_at(len(chosen)):
        pass
    for slot in range(len(chosen)):
        best_at(slot)
    return chosen


def score_prompts(
    prior: TextPrior, prompts: Sequence[str], noise: Tensor, scores: UnitScores, context: Context
) -> Tensor:
    """Returns the mean raw score of each prompt's few-step pictures on each unit, P×U float64.

    Args:
        prior: that reads text.
        prompts: P texts.
        noise: S×C×H×W, the same for all prompts.
        scores: of U units.
        context: of the method.
    """
    import torch

    from entoptic.priors.prior import generate

    count, rows = len(noise), []
    together = max(1, _BATCH // count)
    with torch.no_grad():
        for start in range(0, len(prompts), together):
            text = prior.embed(prompts[start : start + together])
            at = replace(prior, text=text.repeat_interleave(count, 0))
            pictures = prior.decode(generate(at, noise.repeat(len(text), 1, 1, 1), steps=MAP_STEPS))
            rows.append(scores.all(pictures).unflatten(0, (len(text), count)).mean(1).cpu())
            context.progress("trying prompts", min(start + together, len(prompts)), len(prompts))
    return torch.cat(rows)

"""Prompt search on a text prior in closed form: N(mean(text), v), read by a unit that is linear in the picture."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from entoptic import UserError
from entoptic.images.references import References
from entoptic.methods import find_method, prompt_search
from entoptic.methods.contract import Context, Draft, Item, make_config
from entoptic.methods.prior_sampling import MAP_STEPS
from entoptic.methods.prompt_search import CHAIN_STEPS
from entoptic.methods.prompt_words import GENERAL, climb, sentence
from entoptic.models.model import Model
from entoptic.priors.network_prior import TextPrior
from entoptic.priors.prior import Level, Prior, ancestral
from entoptic.priors.schedule import Diffusion
from entoptic.priors.sources import load_prior
from entoptic.priors.toy import GaussianMixture
from entoptic.sampling.guidance import ancestral_at_rest, conditioned_chains, guided_chains
from entoptic.units.unit import bind
from planted.linear import BIAS, OFFSET, SCALE, SIZE, SLOPE, UNIT, direction, linear_model

VARIANCE = 0.25
START, HEIGHT = 0.5, 3.0
PULL = (1.0, -0.5)  # along the unit's direction, of either number of the text
WORDS = {"fur": 1.0, "stripes": 0.6, "eye": 0.2, "mud": -0.5, "sky": 0.0, "wall": 0.0}
SMALL = {"bank": 200, "fresh": 16, "seeds": 2}


def mean_of(text: Tensor) -> Tensor:
    """B×3×16×16: HEIGHT·Σ_d (tanh(text_d) - tanh(START))·pattern_d, 0 at the empty prompt."""
    side = torch.randn(direction().shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u = direction()
    side = side - (side * u).sum() * u
    patterns = torch.stack([PULL[0] * u, PULL[1] * u + side / side.norm()])
    push = HEIGHT * (text[:, 0].double().tanh() - math.tanh(START))
    return torch.einsum("bd,dchw->bchw", push, patterns)


def toy(seen: list[Tensor] | None = None, guidance: float = 1.0) -> TextPrior:
    """A prior whose text is two numbers."""
    kept = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0).tolist()

    def network(x: Tensor, times: Tensor, text: Tensor) -> Tensor:
        if seen is not None:
            seen.append(x.detach().clone())
        kept_t = kept[int(times[0])]
        a, noise = kept_t**0.5, 1 - kept_t
        mean = mean_of(text)
        return (mean + a * VARIANCE / (kept_t * VARIANCE + noise) * (x.double() - a * mean)).to(x.dtype)

    def encode(prompts: Sequence[str]) -> Tensor:
        rows = [[[START + sum(WORDS.get(w, 0.0) for w in prompt.split()), START]] for prompt in prompts]
        return torch.tensor(rows)

    empty = encode([""])
    return TextPrior(
        "toy:text", f"toy {guidance}", (3, SIZE, SIZE), None, 0, torch.device("cpu"), Diffusion(tuple(kept), "sample"),
        network, lambda x0: (OFFSET + SCALE * x0).float(), encode, "toy", empty, empty, guidance,
    )  # fmt: skip


def draw(
    name: str, prior: Prior | None, samples: int = 1, seed: int = 0, model: Model | None = None, **options: Any
) -> list[Draft]:
    card, model = find_method(name), model or linear_model()
    known = {k: v for k, v in SMALL.items() if k in card.config.__dataclass_fields__}
    items = [Item(target=unit, sample=k, seed=seed) for unit in bind(model, UNIT) for k in range(samples)]
    context = Context(model=model, references=References(model, None), prior=prior)
    return list(card.function(items, make_config(card, known | options), context))


def path_nats(levels: Sequence[Level], gap: float, variance: float = VARIANCE) -> float:
    """For N(0, v) told that its mean is `gap` away: the denoisers differ by gap·σ²/(α² v + σ²), whatever the state."""
    nats = 0.0
    for t, s in pairwise(levels):
        k = ancestral(t, s)
        if k.sd:
            nats += (k.from_x0 * gap * t.sigma**2 / (t.alpha**2 * variance + t.sigma**2)) ** 2 / (2 * k.sd**2)
    return nats


def kept_by_the_last_step(levels: Sequence[Level]) -> float:
    """The share of a shift of the mean that is left by a last step that knows nothing of it."""
    last = levels[-2]
    return last.alpha**2 * VARIANCE / (last.alpha**2 * VARIANCE + last.sigma**2)


def raw_mean(text: Tensor, levels: Sequence[Level]) -> float:
    return BIAS + SLOPE * float((mean_of(text)[0] * direction()).sum()) * kept_by_the_last_step(levels)


# --- chains that are told something -----------------------------------------------------------------------------------


def gaussian(mean: float) -> GaussianMixture:
    return GaussianMixture(
        torch.ones(1), torch.full((1, 1, 1, 1), mean), torch.full((1, 1, 1, 1), VARIANCE), linear_schedule=True
    )


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(count)]


@pytest.mark.parametrize("steps", [10, 50, 1000])
def test_nats_of_a_gaussian_told_its_mean(steps: int) -> None:
    prior, gap = gaussian(0.0), 1.5
    chains = conditioned_chains(prior, gaussian(gap), generators(4), steps=steps)
    assert chains.path_kl.tolist() == pytest.approx([path_nats(prior.levels(steps), gap)] * 4, rel=1e-5)
    # Both last noisy states are Gaussians of one variance that the steps leave, whose divergence the path's bounds.
    levels, variance = prior.levels(steps), prior.levels(steps)[0].sigma ** 2
    for t, s in pairwise(levels[:-1]):
        k = ancestral(t, s)
        slope = k.from_x + k.from_x0 * t.alpha * VARIANCE / (t.alpha**2 * VARIANCE + t.sigma**2)
        variance = slope**2 * variance + k.sd**2
    ends = (levels[-2].alpha * gap) ** 2 / (2 * variance)
    assert float(chains.path_kl[0]) >= ends * 0.999
    if steps == 1000:  # in the limit of fine steps a path costs what its end does
        assert float(chains.path_kl[0]) == pytest.approx(gap**2 / (2 * VARIANCE), rel=0.05)


def test_chains_told_nothing_new_are_the_unguided_ones() -> None:
    prior = gaussian(0.7)
    chains = conditioned_chains(prior, prior, generators(3), steps=20)
    rest = guided_chains(
        prior, lambda x, _: x.flatten(1).sum(1), 0.0, generators(3), steps=20, kernel=ancestral_at_rest
    )
    assert torch.equal(chains.x0, rest.x0)
    assert chains.path_kl.tolist() == [0.0] * 3
    moved = conditioned_chains(prior, gaussian(2.0), generators(3), steps=20)
    assert bool((moved.x0 > chains.x0 + 0.5).all()), "the same noise, another law"


# --- prompt -----------------------------------------------------------------------------------------------------------


def test_the_conditioning_goes_where_the_unit_is_driven_most() -> None:
    prior = toy()
    levels = prior.levels(CHAIN_STEPS)
    (draft,) = draw("prompt", prior, steps=60, lr=0.3)
    law = draft.trace.to_json()["selection"]
    best = torch.tensor([[[math.inf, -math.inf]]])  # each number of the text to the end where it pulls
    sd = SLOPE * VARIANCE**0.5
    assert law["mean"] == pytest.approx(raw_mean(best, levels), abs=4 * sd / 16**0.5 + 0.02 * sd)
    assert law["mean_in_sd"] > 6
    assert law["nats"] == pytest.approx(path_nats(levels, float(mean_of(best).norm())), rel=0.02)
    low, high = law["mean_interval"]
    assert high - low == pytest.approx(2 * 2.131 * 0.44 * SLOPE / 16**0.5, rel=0.5)  # chains of 50 steps have sd 0.44
    assert (law["N"], law["prior"]) == (16, "toy:text")
    assert draft.trace.to_json()["loss"][0][1] > draft.trace.to_json()["loss"][-1][1] + 5
    json.dumps(draft.trace.to_json(), allow_nan=False)


def test_one_step_of_adam_is_one_learning_rate() -> None:
    """Of the signs known in closed form: the first number rises, the second falls."""
    prior, levels = toy(), toy().levels(CHAIN_STEPS)
    lr = 0.1
    text = torch.tensor([[[START + lr * START, START - lr * START]]])
    (draft,) = draw("prompt", prior, steps=1, lr=lr)
    nats = path_nats(levels, float(mean_of(text).norm()))
    assert draft.trace.to_json()["selection"]["nats"] == pytest.approx(nats, rel=1e-3)


def test_every_step_sees_new_noise_and_keeps_no_activations() -> None:
    seen: list[Tensor] = []
    prior = toy(seen)
    draw("prompt", prior, steps=1)  # what else is done is done
    before = len(seen)
    draw("prompt", prior, steps=4, fresh=17)
    mine = [x for x in seen[before:] if len(x) == 2]
    assert len(mine) == 4 * 2 * MAP_STEPS, "each step of the map is made again on the way back"
    starts = torch.stack([x for i, x in enumerate(mine) if i % (2 * MAP_STEPS) == 0])
    assert len(starts.flatten(1).unique(dim=0)) == 4


def test_a_prompt_belongs_to_its_unit_and_is_remembered() -> None:
    seen: list[Tensor] = []
    prior = toy(seen)
    both = draw("prompt", prior, samples=2, steps=3)
    assert both[0].trace == both[1].trace
    assert (both[0].image - both[1].image).abs().max() > 0.01
    assert both[0].overlays.get("pair") is not None
    before = len(seen)
    again = draw("prompt", prior, samples=2, steps=3)
    assert len(seen) - before == 2 * (2 * CHAIN_STEPS - 1 + CHAIN_STEPS), "nothing but the chains that are shown"
    assert all(torch.equal(a.image, b.image) for a, b in zip(both, again))
    other = draw("prompt", prior, steps=3, seed=1)[0]
    assert other.trace.to_json()["selection"]["mean"] != both[0].trace.to_json()["selection"]["mean"]


def test_a_score_that_is_not_finite_fails_the_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    prior = toy()
    draft = draw("prompt", prior, steps=3, lr=1000.0)[0]  # the largest there is: tanh holds even there
    assert draft.failure is None
    broken = linear_model()
    draw("prompt", prior, model=broken, steps=1)  # the bank is scored before the network breaks
    broken.module.planted.weight.data[1] = math.nan  # type: ignore[union-attr, operator]
    draft = draw("prompt", prior, model=broken, steps=2)[0]
    assert draft.failure is not None
    assert "not finite at step 0" in draft.failure.text


def test_a_pipeline_of_diffusers_is_optimised_with_guidance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a tiny untrained text encoder, U-Net and VAE: finite, and better on fresh noise than the empty prompt."""
    pytest.importorskip("diffusers")
    from tiny_pipelines import save_text_pipeline

    monkeypatch.setattr(prompt_search, "CHAIN_STEPS", 5)
    prior = load_prior(f"hf:{save_text_pipeline(tmp_path / 'text')}", device="cpu", guidance=2.0)
    # Of such a network the text moves little: enough that the mean rises on noise that all prompts share.
    still, moved = (
        draw("prompt", prior, steps=n, lr=lr, bank=32)[0].trace.to_json() for n, lr in ((1, 1e-6), (12, 0.3))
    )
    assert moved["selection"]["mean_in_sd"] > still["selection"]["mean_in_sd"]
    assert 0 <= still["selection"]["nats"] < 1e-6 < moved["selection"]["nats"]
    assert moved["loss"][-1][1] < moved["loss"][0][1]


# --- prompt-words -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [3, 5])
def test_words_that_help_are_found_and_others_left_out(words: int) -> None:
    (draft,) = draw("prompt-words", toy(), words=words, vocabulary=[*reversed(WORDS)])
    assert '"a picture of a fur with stripes and eye"' in draft.trace.to_json()["selection"]["law"]
    levels = toy().levels(CHAIN_STEPS)
    text = toy().embed(["fur stripes eye"])
    assert draft.trace.to_json()["selection"]["nats"] == pytest.approx(
        path_nats(levels, float(mean_of(text).norm())), rel=1e-3
    )
    sd = SLOPE * VARIANCE**0.5
    assert draft.trace.to_json()["selection"]["mean"] == pytest.approx(raw_mean(text, levels), abs=4 * sd / 16**0.5)


def test_one_word_is_enough_where_one_is_asked_for() -> None:
    (draft,) = draw("prompt-words", toy(), words=1, vocabulary=["mud", "stripes", "sky"])
    assert '"a picture of a stripes"' in draft.trace.to_json()["selection"]["law"]
    assert draft.trace.to_json()["evaluations"] == 3 * 2 + 16


def test_evaluations_are_the_pictures_scored() -> None:
    model, rows = linear_model(), []
    prior = toy()
    draw("prompt-words", prior, model=model, seed=1, vocabulary=["mud"])  # scores the bank
    handle = model.module.planted.register_forward_pre_hook(lambda m, args: rows.append(len(args[0])))  # type: ignore[union-attr, operator]
    (words,) = draw("prompt-words", prior, model=model, vocabulary=["fur", "eye", "mud"])
    assert sum(rows) == words.trace.to_json()["evaluations"]
    rows.clear()
    (ascent,) = draw("prompt", prior, model=model, steps=5)
    handle.remove()
    assert sum(rows) == ascent.trace.to_json()["evaluations"]


def test_candidates_are_the_labels_and_a_general_list() -> None:
    (draft,) = draw("prompt-words", toy(), words=1)
    assert '"a picture of a fur"' in draft.trace.to_json()["selection"]["law"]
    assert f"among {3 + len(GENERAL.split())} prompts" in draft.trace.to_json()["notes"][1]
    assert len(set(GENERAL.split())) == len(GENERAL.split())


def test_coordinate_search_mends_a_greedy_first_word() -> None:
    worth = {("a",): 3.0, ("b",): 2.0, ("c",): 2.5, ("a", "b"): 3.5, ("a", "c"): 3.2, ("c", "b"): 6.0, ("b", "c"): 1.0}
    asked: list[tuple[str, ...]] = []

    def value(options: list[tuple[str, ...]]) -> list[float]:
        asked.extend(options)
        return [worth.get(option, -1.0) for option in options]

    assert climb(value, ["a", "c", "b"], 2) == ("c", "b")
    assert climb(value, ["a"], 3) == ("a",)
    assert all(len(set(option)) == len(option) for option in asked)
    assert sentence(("x", "y", "z")) == "a picture of a x with y and z"


# --- prompt-class -----------------------------------------------------------------------------------------------------


class Classes(GaussianMixture):
    """Classes whose means lie along the unit's direction."""

    def __init__(self, places: Sequence[float]) -> None:
        super().__init__(
            torch.ones(1), torch.zeros(1, 3, SIZE, SIZE), torch.full((1, 3, SIZE, SIZE), VARIANCE),
            scale=SCALE, offset=OFFSET,
        )  # fmt: skip
        self.places, self.conditions = torch.tensor(places, dtype=torch.float64), len(places)
        self.identity = f"classes {list(places)}"

    def denoise(self, x: Tensor, level: Level, condition: Tensor | None = None) -> Tensor:
        assert condition is not None
        move = self.places[condition][:, None, None, None] * direction()
        return (super().denoise(x.double() - level.alpha * move, level) + move).to(x.dtype)


def test_the_best_class_is_shown() -> None:
    drafts = draw("prompt-class", Classes([-1.0, 0.2, 2.0, 0.5]), samples=3, fresh=64)
    for draft in drafts:
        law = draft.trace.to_json()["selection"]
        assert law["class"] == 2
        assert law["nats"] == pytest.approx(math.log(4))
        assert law["mean"] == pytest.approx(BIAS + SLOPE * 2.0, abs=4 * SLOPE * VARIANCE**0.5 / 8)
    reads = [float(bind(linear_model(), UNIT)[0].score(d.image[None])) for d in drafts]
    assert all(abs(read - BIAS - 2 * SLOPE) < 4.5 * SLOPE * VARIANCE**0.5 for read in reads)
    assert len(set(reads)) == 3


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "prior", "options", "words"),
    [
        ("prompt", None, {}, "give --prior NAME"),
        ("prompt", gaussian(0.0), {}, "toy:mixture reads no text.*--prior hf:REPO"),
        ("prompt-words", Classes([0.0, 1.0]), {}, "prompt-class chooses among its 2 classes"),
        ("prompt-class", toy(), {}, "toy:text has no classes to choose among; .* there is prompt"),
        ("prompt-class", Classes([0.0] * 60), {}, "needs a bank of 240, got 200"),
        ("prompt", toy(), {"fresh": 15}, "at least 16 fresh"),
        ("prompt-class", toy(), {"fresh": 15}, "at least 16 fresh"),
        ("prompt", toy(), {"lr": 0}, "lr must be above 0"),
        ("prompt", toy(), {"seeds": 0}, "seeds must be at least 1"),
        ("prompt-words", toy(), {"words": 0}, "words must be at least 1"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    name: str, prior: Prior | None, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        draw(name, prior, **options)

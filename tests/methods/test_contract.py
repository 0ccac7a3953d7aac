"""What every registered method promises, whichever it is."""

from __future__ import annotations

import inspect
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import FrozenInstanceError, asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from conftest import TwoClasses
from entoptic import UserError
from entoptic.base.pixels import quantise
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.methods import METHODS, MethodCard, find_method
from entoptic.methods.contract import UNIT_KINDS, Context, Draft, Item, MethodConfig, make_config
from entoptic.models.model import Model
from entoptic.runs.see import see
from entoptic.units.unit import bind

STEPS = 3
SMALL: dict[str, Any] = {
    "steps": STEPS,
    "canvas": 48,
    "crops": 2,
    "photos": 4,
    "references": 4,
    "nats": 1.0,
    "student": "tiny:7",
    "bank": 512,
    "fresh": 16,
    "particles": 12,
    "islands": 4,
    "moves": 2,
    "pictures": 1,
    "photo": str(next((Path(__file__).parents[1] / "stored" / "photos").rglob("*.*"))),
}
"""Options that make any method quick; each takes those it has."""

ELSEWHERE = {
    "prompt": "needs a prior that reads text: tests/methods/test_prompt.py has one in closed form",
    "prompt-words": "as prompt",
}
"""Methods that the prior below cannot serve, and why; their cards and configs are tested here all the same."""

CHANNELS = ("stage1:2", "stage2:3@max", "stage2:5@1,2")
SUMS = ("logits:0 + 0.5*stage2:3@max - stage1:2",)


PRIOR = TwoClasses()


def optimises(card: MethodCard) -> bool:
    """Whether a picture comes of steps on a loss of its own."""
    return "steps" in card.config.__dataclass_fields__ and not samples_a_prior(card)


def samples_a_prior(card: MethodCard) -> bool:
    return "prior" in card.reads


def those(kind: Any) -> Any:
    """Runs a test on every method of a kind."""
    return pytest.mark.parametrize(
        "card", [pytest.param(card, id=name) for name, card in METHODS.items() if card.shows_units and kind(card)]
    )


every_card = those(lambda card: True)
every = those(lambda card: card.name not in ELSEWHERE)
every_optimising = those(optimises)
every_sampling = those(lambda card: samples_a_prior(card) and card.name not in ELSEWHERE)
every_with_steps = those(lambda card: "steps" in card.config.__dataclass_fields__)


pytestmark = pytest.mark.usefixtures("tiny_student")


@pytest.fixture
def references(tiny: Model, photo_folder: Path) -> References:
    return References(tiny, Photos.open(photo_folder))


def config_of(card: MethodCard, **options: Any) -> MethodConfig:
    return make_config(card, {k: v for k, v in {**SMALL, **options}.items() if k in card.config.__dataclass_fields__})


def forget(card: MethodCard) -> None:
    """Makes nothing of what a sampler did before be recalled: a comparison with it would compare it with itself."""
    if samples_a_prior(card):
        shutil.rmtree(os.environ["ENTOPTIC_CACHE"], ignore_errors=True)


def units_of(card: MethodCard, count: int = 6) -> list[str]:
    """Units of every kind the method shows, of several layers."""
    inner = CHANNELS if "channel" in card.units else ()
    sums = SUMS if "combination" in card.units else ()
    return ["logits:0", *inner, *sums, "logits:2", "logits:1", "logits:3", "logits:4"][:count]


def make(card: MethodCard, references: References, items: Sequence[Item], **options: Any) -> list[Draft]:
    """Drafts in the order of the items."""
    context = Context(model=references.model, references=references, prior=PRIOR)
    drafts = {id(d.item): d for d in card.function(items, config_of(card, **options), context)}
    assert len(drafts) == len(items)
    return [drafts[id(item)] for item in items]


def agree(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal up to rounding. Adam's first steps are signs: a gradient of rounding size moves a pixel as far."""
    difference = (a - b).abs().flatten()
    return float(difference.quantile(0.95)) <= 1e-4 and float(difference.max()) < 0.05


def items_of(model: Model, units: Sequence[str], samples: Sequence[int] = (0,), seed: int = 0) -> list[Item]:
    return [Item(target=unit, sample=sample, seed=seed) for unit in bind(model, list(units)) for sample in samples]


# --- the card -----------------------------------------------------------------------------------------------


@every_card
def test_card_is_complete(card: MethodCard) -> None:
    assert METHODS[card.name] is card
    assert find_method(card.name) is card
    assert card.title
    assert len(card.title) < 80
    assert card.paper
    assert card.units
    assert card.units <= UNIT_KINDS
    assert card.reads <= {"targets", "scores", "spectrum", "prior"}
    assert issubclass(card.config, MethodConfig)


@every_card
def test_config_is_frozen_and_survives_json(card: MethodCard) -> None:
    config = card.config()
    assert make_config(card, json.loads(json.dumps(asdict(config)))) == config
    other = config_of(card)
    assert make_config(card, json.loads(json.dumps(asdict(other)))) == other
    for field in fields(config):
        with pytest.raises(FrozenInstanceError):
            setattr(config, field.name, None)


@every_card
def test_unknown_option_is_answered_with_the_nearest(card: MethodCard) -> None:
    names = [field.name for field in fields(card.config)]
    with pytest.raises(UserError, match="penalty"):
        make_config(card, {"penalty": 1})
    if names:
        typed = names[0][:-1]
        with pytest.raises(UserError) as caught:
            make_config(card, {typed: 1})
        assert f'"{typed}"' in str(caught.value)
        assert f'did you mean "{names[0]}"' in str(caught.value)


def test_unknown_method_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match='did you mean "fourier"'):
        find_method("furier")


# --- drafts -------------------------------------------------------------------------------------------------


@every
def test_drafts_and_traces(card: MethodCard, references: References) -> None:
    items = items_of(references.model, units_of(card))
    for item, draft in zip(items, make(card, references, items)):
        assert draft.item is item
        assert draft.failure is None
        assert draft.complete
        assert draft.image.ndim == 3
        assert draft.image.shape[0] == 3
        assert draft.image.dtype == torch.float32
        assert draft.image.device.type == "cpu"
        assert not draft.image.requires_grad
        assert draft.image.isfinite().all()
        assert draft.image.min() >= 0
        assert draft.image.max() <= 1
        assert draft.image.std() > 1e-4, "not a flat picture"
        trace = draft.trace.to_json() | {"references": draft.trace.references}
        json.dumps(trace, allow_nan=False)
        views = config_of(card).crops if hasattr(card.config, "crops") else 1  # type: ignore[attr-defined]
        views = 2 if card.name in ("accentuate", "caricature") else views  # it sees the photo through each view too
        assert trace["steps"] == (STEPS if "steps" in card.config.__dataclass_fields__ else 0)
        assert trace["stopped"] == "finished"
        assert isinstance(trace["notes"], list)
        if not samples_a_prior(card):
            assert trace["evaluations"] == trace["steps"] * views
            assert [t for t, _ in trace["loss"]] == list(range(trace["steps"]))
        if "targets" in card.reads:
            assert trace["references"]["n"] == 4
            assert len(trace["references"]["sha256"]) == 64


@every
def test_evaluations_are_the_forward_passes(card: MethodCard, references: References) -> None:
    items = items_of(references.model, units_of(card, 2))
    make(
        find_method("best-of") if samples_a_prior(card) else card, references, items
    )  # statistics are cached from here
    rows = 0

    def count(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        nonlocal rows
        rows += len(args[0])

    handle = references.model.module.stem.register_forward_pre_hook(count)  # type: ignore[union-attr]
    try:
        drafts = make(card, references, items)
    finally:
        handle.remove()
    assert rows == sum(draft.trace.to_json()["evaluations"] for draft in drafts)
    if card.name != "best-of" and (optimises(card) or samples_a_prior(card)):
        assert rows


@every
def test_results_do_not_depend_on_batch_mates(card: MethodCard, references: References) -> None:
    units = units_of(card)
    for steps in (1, STEPS):
        # A small rate: Adam's first steps are signs of gradients, which rounding flips where a gradient is near zero.
        options = {"steps": steps, "lr": 0.05}
        forget(card)
        together = make(card, references, items_of(references.model, units), **options)
        forget(card)
        turned = make(card, references, items_of(references.model, units[::-1]), **options)[::-1]
        for unit, draft, other in zip(units, together, turned):
            forget(card)
            (alone,) = make(card, references, items_of(references.model, [unit]), **options)
            assert agree(draft.image, alone.image)
            assert agree(draft.image, other.image)
            if steps == 1:  # nothing is amplified yet
                # (a pixel whose gradient is of rounding size may still get either sign)
                assert ((draft.image - alone.image).abs() > 1e-4).float().mean() <= 1e-2
                assert ((draft.image - other.image).abs() > 1e-4).float().mean() <= 1e-2
    if optimises(card):
        images = torch.stack([draft.image for draft in together])
        assert all((images[0] - image).abs().max() > 1e-2 for image in images[1:])


@every
def test_same_request_same_picture(card: MethodCard, references: References) -> None:
    first = make(card, references, items_of(references.model, units_of(card, 3)))
    recalled = make(card, references, items_of(references.model, units_of(card, 3)))
    forget(card)
    second = make(card, references, items_of(references.model, units_of(card, 3)))
    for again in (recalled, second):
        for a, b in zip(first, again):
            assert torch.equal(a.image, b.image)
            assert {**a.trace.to_json(), "seconds": 0} == {**b.trace.to_json(), "seconds": 0}


@every
def test_samples_and_seeds_differ(card: MethodCard, references: References) -> None:
    items = items_of(references.model, ["logits:0"], samples=(0, 1))
    first, second = make(card, references, items)
    assert (first.image - second.image).abs().max() > 0.01
    forget(card)
    (alone,) = make(card, references, items[1:])
    assert agree(alone.image, second.image), "sample 1 does not need sample 0"
    if optimises(card) or (samples_a_prior(card) and card.name != "best-of"):  # whose bank is the same for all
        (other,) = make(card, references, items_of(references.model, ["logits:0"], seed=1))
        assert (first.image - other.image).abs().max() > 0.01


@every
def test_network_is_given_back_as_it_was(card: MethodCard, references: References) -> None:
    module = references.model.module
    module.train()
    module.stage2.eval()  # type: ignore[union-attr]
    next(module.parameters()).requires_grad_(False)
    training = {name: m.training for name, m in module.named_modules()}
    gradients = {name: p.requires_grad for name, p in module.named_parameters()}
    state = {name: value.clone() for name, value in module.state_dict().items()}
    for _ in range(2):
        forget(card)
        make(card, references, items_of(references.model, units_of(card, 3)))
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in module.modules())
    assert {name: m.training for name, m in module.named_modules()} == training
    assert {name: p.requires_grad for name, p in module.named_parameters()} == gradients
    assert all(p.grad is None for p in module.parameters())
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[name]), f"{name} was changed"


@every
def test_global_random_state_is_neither_used_nor_changed(card: MethodCard, references: References) -> None:
    items = items_of(references.model, ["logits:1"])
    torch.manual_seed(1)
    before = torch.get_rng_state()
    (first,) = make(card, references, items)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    forget(card)
    (second,) = make(card, references, items)
    assert torch.equal(first.image, second.image)


@every_optimising
def test_interruption_gives_every_draft(card: MethodCard, references: References) -> None:
    items = items_of(references.model, units_of(card, 3))

    def on_step(step: int, steps: int) -> None:
        if step == 2:
            raise KeyboardInterrupt

    drafts = card.function(
        items, config_of(card), Context(model=references.model, references=references, on_step=on_step)
    )
    got = [next(drafts) for _ in items]
    with pytest.raises(KeyboardInterrupt):
        next(drafts)
    assert [d.item for d in got] == items
    assert not any(d.complete for d in got)


@every_sampling
def test_samplers_say_what_law_a_picture_is_from(card: MethodCard, references: References) -> None:
    items = items_of(references.model, units_of(card, 3), samples=(0, 1))
    for draft in make(card, references, items):
        law = draft.trace.to_json()["selection"]
        assert law["law"]
        assert law["prior"] == PRIOR.name
        assert law["N"] >= 1
        assert law["K"] == 1
        if law["nats"] is None:
            assert law["refused"], "no number without a reason"
            continue
        assert law["nats"] >= 0
        # An expectation under the law, or the score of the one picture, never one by the name of the other.
        known = "score_in_sd" if card.name == "best-of" else "mean_in_sd"
        assert ("mean_in_sd" in law) == ("mean" in law) == (known == "mean_in_sd")
        assert abs(law[known]) < 10
        for name in {"nats", "mean", "mean_in_sd"} & law.keys():
            low, high = law.get(f"{name}_interval") or (law[name], law[name])
            assert low <= law[name] <= high
        if draft.overlays.get("pair") is not None:
            assert draft.overlays.get("pair").shape == draft.image.shape
            assert 0 <= draft.overlays.get("pair").min() <= draft.overlays.get("pair").max() <= 1


@every_sampling
def test_samplers_need_a_prior(card: MethodCard, references: References) -> None:
    with pytest.raises(UserError, match="--prior"):
        list(
            card.function(
                items_of(references.model, ["logits:0"]),
                config_of(card),
                Context(model=references.model, references=references),
            )
        )


@every_sampling
def test_an_interrupted_sampler_gives_no_picture(card: MethodCard, references: References) -> None:
    """Half a chain is noise; only finished pictures are kept."""
    items = items_of(references.model, units_of(card, 2))
    make(find_method("best-of"), references, items)  # the bank is there

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    context = Context(model=references.model, references=references, on_step=stop, prior=PRIOR)
    context.progress = stop
    got = []
    try:
        for draft in card.function(items, config_of(card), context):
            got.append(draft)
    except KeyboardInterrupt:
        assert not got
    else:
        assert all(draft.complete for draft in got), "a method that tells of no progress runs to its end"


@every
def test_what_is_stored_is_the_draft_rounded_once(card: MethodCard, references: References, tmp_path: Path) -> None:
    """Horama shows percentile-clipped, rescaled pictures that no network has seen."""
    run = see(
        references.model, ["logits:0", "logits:3"], method=config_of(card), photos=references.photos,
        out=tmp_path / "run", verifiers="", progress=False, prior=PRIOR if samples_a_prior(card) else None,
    )  # fmt: skip
    drafts = make(card, references, items_of(references.model, ["logits:0", "logits:3"]))
    stored = {picture.unit: picture for picture in run}
    for draft in drafts:
        expected = (draft.image * 255).round().byte().permute(1, 2, 0).numpy()
        assert np.array_equal(quantise(draft.image), expected)
        picture = stored[str(draft.item.unit)]
        assert np.array_equal(picture.pixels, expected)
        files = [
            path for path in (tmp_path / "run").rglob("*.png") if np.array_equal(np.array(Image.open(path)), expected)
        ]
        assert files, "the file on disk holds other pixels"


@every_optimising
def test_pictures_of_a_batch_are_not_an_average(card: MethodCard, references: References) -> None:
    """VITAL's released code averages the features of a batch before matching."""
    items = items_of(references.model, ["logits:0", "logits:4"])
    first, second = make(card, references, items, steps=2)
    assert (first.image - second.image).abs().max() > 0.01
    for item, draft in zip(items, (first, second)):
        (alone,) = make(card, references, [item], steps=2)
        assert agree(alone.image, draft.image)
        assert draft.trace.to_json()["loss"][0][1] == pytest.approx(alone.trace.to_json()["loss"][0][1], rel=1e-4)
    losses = [draft.trace.to_json()["loss"][-1][1] for draft in (first, second)]
    assert losses[0] != losses[1]


@every_card
def test_every_option_can_be_given_to_see(card: MethodCard) -> None:
    """An option called like one of `see`'s own arguments could not be reached by name."""
    taken = set(inspect.signature(see).parameters) - {"options"}
    assert not taken & set(card.config.__dataclass_fields__)


@every_with_steps
@pytest.mark.parametrize("steps", [0, -5])
def test_no_steps_are_refused(card: MethodCard, references: References, steps: int) -> None:
    """A run of no steps would store its random start as a finished picture."""
    with pytest.raises(UserError, match="steps"):
        make(card, references, items_of(references.model, ["logits:0"]), steps=steps)

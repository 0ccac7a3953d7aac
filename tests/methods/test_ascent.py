"""The loop: schedule, interruption, failures of one item, and a network that is given back as it was."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from entoptic.images.references import References
from entoptic.methods.ascent import ascend, constant, normalise_gradient, warmup_cosine
from entoptic.methods.augment import Augment, identity, roll
from entoptic.methods.canvas import Pixels
from entoptic.methods.contract import Context, Draft, Item
from entoptic.methods.objectives import AscentStep, Objective, activation
from entoptic.models.model import Model
from entoptic.models.taps import Tap
from entoptic.units.unit import bind


def hooks(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in module.modules())


def climb(
    model: Model,
    objective: Objective,
    *,
    count: int = 3,
    steps: int = 6,
    on_step: Callable[[int, int], None] = lambda step, steps: None,
    augment: Augment = identity,
) -> tuple[list[Draft], BaseException | None]:
    """Drafts, and what the loop raised after them."""
    items = [Item(target=unit, sample=0, seed=0) for unit in bind(model, [f"logits:{i}" for i in range(count)])]
    generators = [item.generator() for item in items]
    canvas = Pixels(generators, model.card.size, model.device)
    drafts: list[Draft] = []
    try:
        for draft in ascend(
            items, canvas, objective, torch.optim.Adam([canvas.parameter], lr=0.05),
            Context(model=model, references=References(model), on_step=on_step), steps=steps, generators=generators,
            augment=augment,
        ):  # fmt: skip
            drafts.append(draft)
    except BaseException as error:
        return drafts, error
    return drafts, None


def brightness(model: Model) -> Objective:
    return Objective((), ((1.0, lambda step: step.image.square().mean((1, 2, 3))),))


def logits(model: Model, count: int = 3) -> Objective:
    return activation(bind(model, [f"logits:{i}" for i in range(count)]))


# --- schedule -----------------------------------------------------------------------------------------------


def test_published_schedule() -> None:
    rate = warmup_cosine(2000, 100)
    assert rate(0) == pytest.approx(1 / 100)
    assert rate(49) == pytest.approx(0.5)
    assert rate(99) == 1
    assert rate(100) == 1
    assert rate(1050) == pytest.approx(0.5)
    assert rate(2000) == pytest.approx(0)
    assert 0 < rate(1999) < 1e-5
    assert all(rate(t) >= rate(t + 1) for t in range(100, 1999))


@pytest.mark.parametrize(("steps", "warmup"), [(1, 100), (2, 100), (5, 0), (10, 10), (3, 2)])
def test_short_schedules_stay_between_0_and_1(steps: int, warmup: int) -> None:
    rate = warmup_cosine(steps, warmup)
    assert all(0 < rate(t) <= 1 for t in range(steps))
    assert max(rate(t) for t in range(steps)) == 1
    assert constant(7) == 1


def test_schedule_scales_the_rate_of_each_step(tiny: Model) -> None:
    """Plain descent on a loss of slope 1 moves every pixel by the rate."""
    item = Item(target=bind(tiny, "logits:0")[0], sample=0, seed=0)
    canvas = Pixels([item.generator()], tiny.card.size, tiny.device, std=0.0)
    places: list[float] = []

    def term(step: AscentStep) -> Tensor:
        places.append(float(step.image.detach()[0, 0, 0, 0]))
        return step.image.sum((1, 2, 3))

    list(
        ascend(
            [item], canvas, Objective((), ((1.0, term),)), torch.optim.SGD([canvas.parameter], lr=0.02),
            Context(model=tiny, references=References(tiny)), steps=4, generators=[item.generator()],
            schedule=lambda t: (1.0, 0.5, 0.0, 2.0)[t],
        )
    )  # fmt: skip
    moved = [a - b for a, b in itertools.pairwise(places)]
    assert moved == pytest.approx([0.5 * 0.5 * 0.02, 0.5 * 0.5 * 0.02 / 2, 0], abs=1e-7)  # image = 0.5 + 0.5·p


# --- what a draft says --------------------------------------------------------------------------------------


def test_trace(tiny: Model) -> None:
    seen: list[tuple[int, int]] = []
    drafts, error = climb(tiny, logits(tiny), steps=7, on_step=lambda step, steps: seen.append((step, steps)))
    assert error is None
    assert seen == [(t, 7) for t in range(1, 8)]
    for draft in drafts:
        assert draft.complete
        assert draft.trace.to_json()["steps"] == 7
        assert draft.trace.to_json()["evaluations"] == 7
        assert [t for t, _ in draft.trace.to_json()["loss"]] == list(range(7))
        assert draft.trace.to_json()["notes"] == []
        assert draft.trace.to_json()["loss"][-1][1] < draft.trace.to_json()["loss"][0][1]


def test_long_runs_keep_about_twenty_losses_with_the_last(tiny: Model) -> None:
    drafts, _ = climb(tiny, brightness(tiny), steps=130, count=1)
    steps = [t for t, _ in drafts[0].trace.to_json()["loss"]]
    assert steps[0] == 0
    assert steps[-1] == 129
    assert 20 <= len(steps) <= 23


def test_views_count_as_evaluations(tiny: Model) -> None:
    drafts, _ = climb(tiny, brightness(tiny), steps=3, augment=lambda x, g: x.repeat_interleave(4, 0))
    assert drafts[0].trace.to_json()["evaluations"] == 12


# --- interruption -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [1, 3, 5])
def test_ctrl_c_yields_every_draft_and_is_raised_again(tiny: Model, last: int) -> None:
    def on_step(step: int, steps: int) -> None:
        if step == last:
            raise KeyboardInterrupt

    drafts, error = climb(tiny, logits(tiny), steps=10, on_step=on_step)
    assert isinstance(error, KeyboardInterrupt)
    assert len(drafts) == 3
    same, _ = climb(tiny, logits(tiny), steps=last)  # constant rate: a shorter run is the same picture
    for draft, other in zip(drafts, same):
        assert draft.trace.to_json()["stopped"] == f"interrupted at step {last}"
        assert draft.trace.to_json()["steps"] == last
        assert not draft.complete
        assert draft.failure is None
        assert torch.equal(draft.image, other.image)
    assert hooks(tiny.module) == 0


def test_ctrl_c_inside_a_step(tiny: Model) -> None:
    calls = 0

    def term(step: AscentStep) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return step.values[Tap("stage2")].square().mean((1, 2))

    drafts, error = climb(tiny, Objective((Tap("stage2"),), ((1.0, term),)))
    assert isinstance(error, KeyboardInterrupt)
    assert [d.trace.to_json()["steps"] for d in drafts] == [2, 2, 2]
    assert all(d.image.isfinite().all() for d in drafts)
    assert hooks(tiny.module) == 0


# --- one item fails -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_item_that_explodes_fails_alone(tiny: Model, bad: float) -> None:
    calls = 0

    def term(step: AscentStep) -> Tensor:
        nonlocal calls
        loss = activation_term(step)
        if calls >= 2:
            loss = torch.stack([loss[0], loss[1] * bad, loss[2]])
        calls += 1
        return loss

    good = logits(tiny)
    (_, activation_term), *_ = good.terms
    drafts, error = climb(tiny, Objective(good.taps, ((1.0, term),)))
    assert error is None
    clean, _ = climb(tiny, logits(tiny))
    assert drafts[1].failure is not None
    assert "logits:1" in drafts[1].failure.text
    assert not drafts[1].complete
    for i in (0, 2):
        assert drafts[i].failure is None
        assert drafts[i].complete
        assert torch.equal(drafts[i].image, clean[i].image)


def test_not_a_number_in_the_picture_itself_fails_alone(tiny: Model) -> None:
    """The item's loss is finite but its gradient is not."""
    calls = 0

    def term(step: AscentStep) -> Tensor:
        nonlocal calls
        calls += 1
        loss = step.image.square().mean((1, 2, 3))
        if calls == 6:  # the last step: only the picture shows it
            loss = loss + torch.stack([loss[0] * 0, (step.image[1] * 0).sum().sqrt(), loss[2] * 0])
        return loss

    drafts, _ = climb(tiny, Objective((), ((1.0, term),)))
    clean, _ = climb(tiny, brightness(tiny))
    assert [d.failure is None for d in drafts] == [True, False, True]
    assert torch.equal(drafts[0].image, clean[0].image)


# --- the network is given back ------------------------------------------------------------------------------


class Broken(RuntimeError):
    pass


def raises_at(third: int) -> Callable[[], None]:
    calls = 0

    def tick() -> None:
        nonlocal calls
        calls += 1
        if calls == third:
            raise Broken

    return tick


@pytest.mark.parametrize("where", ["objective", "augmentation", "forward", "on_step", "nowhere"])
def test_hooks_flags_and_errors(tiny: Model, where: str) -> None:
    """Lucent keeps its hooks after every call and swallows the RuntimeError of a failing forward pass."""
    module = tiny.module
    module.train()
    module.stage2.eval()
    frozen = module.head.weight
    frozen.requires_grad_(False)
    training = {name: m.training for name, m in module.named_modules()}
    gradients = {name: p.requires_grad for name, p in module.named_parameters()}
    tiny.layers  # probed once, so that the forward counted below is the loop's  # noqa: B018
    tick = raises_at(2)
    objective = logits(tiny)
    own: list[torch.utils.hooks.RemovableHandle] = []

    def broken_term(step: AscentStep) -> Tensor:
        tick()
        return step.image.sum((1, 2, 3))

    def broken_augment(images: Tensor, generators: object) -> Tensor:
        tick()
        return images

    def broken_step(step: int, steps: int) -> None:
        tick()

    if where == "objective":
        objective = objective + Objective((), ((1.0, broken_term),))
    if where == "forward":
        own.append(module.stage1.register_forward_hook(lambda m, a, o: tick()))
    for _ in range(2):  # hook counts must not grow over calls
        drafts, error = climb(
            tiny,
            objective,
            augment=broken_augment if where == "augmentation" else roll(2),
            on_step=broken_step if where == "on_step" else lambda step, steps: None,
        )
        if where == "nowhere":
            assert error is None
            assert len(drafts) == 3
            continue
        assert isinstance(error, Broken) or isinstance(error.__cause__, Broken), "an error must not be swallowed"
        assert drafts == [], "no picture from a run that failed"
        tick = raises_at(2)
    for handle in own:
        handle.remove()
    assert hooks(module) == 0
    assert {name: m.training for name, m in module.named_modules()} == training
    assert {name: p.requires_grad for name, p in module.named_parameters()} == gradients
    assert all(p.grad is None for p in module.parameters())


# --- gradients ----------------------------------------------------------------------------------------------


def test_normalise_gradient_is_per_item() -> None:
    gradient = torch.randn(3, 3, 8, 8) * torch.tensor([1e-6, 1.0, 1e6])[:, None, None, None]
    expected = [g / g.square().mean().sqrt() for g in gradient.clone()]
    normalise_gradient(gradient)
    for got, want in zip(gradient, expected):
        assert torch.allclose(got, want, rtol=1e-4)
        assert got.square().mean().item() == pytest.approx(1, rel=1e-4)
    zero = torch.zeros(1, 3, 4, 4)
    normalise_gradient(zero)
    assert (zero == 0).all()

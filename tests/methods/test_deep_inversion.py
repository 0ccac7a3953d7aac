"""DeepInversion against a slow oracle, and what its groups promise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from conftest import tiny_card, tiny_module
from entoptic import UserError, see
from entoptic.images.references import References
from entoptic.methods import find_method
from entoptic.methods.contract import Context, Draft, Item, make_config
from entoptic.methods.deep_inversion import DeepInversion, _invert
from entoptic.methods.objectives import (
    AscentStep,
    Objective,
    agreement,
    batch_norm_statistics,
    classification,
    deep_inversion_tv,
    norm,
)
from entoptic.models.batchnorm import BatchNormMoments, batch_norms
from entoptic.models.model import LOGITS, Model
from entoptic.models.sources import SOURCES
from entoptic.models.taps import Tap
from entoptic.units.unit import bind
from oracles import deep_inversion as oracle


@pytest.fixture
def trained() -> Model:
    """The tiny network with running statistics of its own, unlike a new layer's 0 and 1."""
    return trained_for(32)


def trained_for(side: int) -> Model:
    model = Model(with_statistics(tiny_module()), tiny_card(size=(side, side)), device="cpu")
    model.layers  # noqa: B018  (probed once, before any count)
    return model


def with_statistics(module: nn.Module) -> nn.Module:
    """Running statistics of coarse random pictures, as one pass of training leaves them."""
    coarse = torch.rand(64, 3, 4, 4, generator=torch.Generator().manual_seed(5))
    for layer in batch_norms(module).values():
        layer.momentum = 1.0
    with torch.no_grad():
        module.train()(4 * interpolate(coarse, (32, 32), mode="bicubic") - 2)
    return module.eval()


def draw(
    model: Model, units: Sequence[str], method: str = "deep-inversion", seed: int = 0, **options: Any
) -> list[Draft]:
    card = find_method(method)
    items = [Item(target=unit, sample=0, seed=seed) for unit in bind(model, list(units))]
    return list(card.function(items, make_config(card, options), Context(model=model, references=References(model))))


def losses(
    model: Model, images: Tensor, classes: Sequence[int], *, feature: float = 0.3, tv: float = 0.02, l2: float = 0.05
) -> Tensor:
    """The method's losses of consecutive groups."""
    with BatchNormMoments(model.module, len(classes)) as moments:
        objective = (
            classification(classes)
            + feature * batch_norm_statistics(moments, first=10.0)
            + tv * deep_inversion_tv(model.card.mean, model.card.std)
            + l2 * norm(model.card.mean, model.card.std)
        )
        values = model.read(images, objective.taps)
        return objective(AscentStep(values, images, images, len(classes), [[] for _ in classes]))


def normalised(model: Model, images: Tensor) -> Tensor:
    mean, std = (torch.tensor(v)[:, None, None] for v in (model.card.mean, model.card.std))
    return (images - mean) / std


def pictures(count: int, side: int = 8, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


# --- the loss -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [1, 2])
def test_loss_and_gradient_are_the_oracle_s(trained: Model, group: int) -> None:
    images, classes = pictures(2 * group).requires_grad_(), [3, 1]
    found = losses(trained, images, classes)
    (gradient,) = torch.autograd.grad(found.sum(), images)
    slow = images.detach().clone().requires_grad_()
    with trained.frozen():
        expected = [
            oracle.loss(trained.module, normalised(trained, x), k, feature=0.3, tv=0.02, norm=0.05)
            for x, k in zip(slow.split(group), classes)
        ]
    (by_loops,) = torch.autograd.grad(torch.stack(expected).sum(), slow)
    assert torch.allclose(found, torch.stack(expected), rtol=1e-5)
    assert torch.allclose(gradient, by_loops, rtol=1e-4, atol=1e-6)
    assert float(gradient.abs().max()) > 1e-2


def test_the_first_layer_counts_tenfold(trained: Model) -> None:
    images = pictures(1, 32)
    with BatchNormMoments(trained.module, 1) as moments:
        trained.read(images, [Tap(LOGITS)])
        step = AscentStep({}, images, images, 1, [[]])
        one, ten = (float(batch_norm_statistics(moments, first=k)(step)) for k in (1.0, 10.0))
    name = next(iter(moments.values))
    assert name == "stage1.0"
    (mean, variance), (running_mean, running_variance) = moments.values[name], moments.running[name]
    first = float((mean[0] - running_mean).norm() + (variance[0] - running_variance).norm())
    assert ten - one == pytest.approx(9 * first, rel=1e-5)


def test_matched_statistics_cost_nothing(tiny: Model) -> None:
    """Running statistics that are those of one picture: only that picture (and its like) has none to mend."""
    images = pictures(2, 32)
    module = tiny_module().train()
    for layer in batch_norms(module).values():
        layer.momentum = 1.0
    with torch.no_grad():
        module(tiny.normalise(images[:1]))
    for layer in batch_norms(module).values():  # training keeps the unbiased variance
        layer.running_var.mul_(1 - 1 / (16 * 16 if layer.num_features == 8 else 4 * 4))  # type: ignore[union-attr]
    model = Model(module, tiny_card(), device="cpu")
    with torch.no_grad():
        # In training the second layer sees a map normalised by the batch; in evaluation by the same numbers.
        own, other = losses(model, images, [0, 0], feature=1.0, tv=0, l2=0) - losses(
            model, images, [0, 0], feature=0.0, tv=0, l2=0
        )
    assert float(own) < 1e-3 < 0.1 < float(other)


def test_groups_do_not_know_each_other(trained: Model) -> None:
    images = pictures(6, 32)
    together = losses(trained, images, [0, 1, 2])
    changed = images.clone()
    changed[2:] = 1 - changed[2:]
    assert torch.allclose(losses(trained, changed, [0, 1, 2])[0], together[0])
    assert torch.allclose(losses(trained, images[2:4], [1])[0], together[1], rtol=1e-5)
    assert not torch.allclose(losses(trained, changed, [0, 1, 2])[1], together[1])
    # Within a group the statistics are common: they are not the mean of each picture's own.
    alone = losses(trained, images[:2], [0, 0], tv=0, l2=0).mean() - losses(trained, images[:1], [0], tv=0, l2=0)[0]
    assert abs(float(alone)) > 1e-3


def test_competition_is_one_minus_the_divergence(trained: Model) -> None:
    student = Model(with_statistics(tiny_module(3)), tiny_card(size=(40, 40)), device="cpu")
    images = pictures(2, 32)
    term = agreement(student, 3.0)
    values = trained.read(images, term.taps)
    found = term(AscentStep(values, images, images, 2, [[], []]))
    with torch.no_grad():
        answers = [
            (trained(images) / 3).softmax(1).clamp(0.01, 0.99),
            (student(student.fit(images)) / 3).softmax(1).clamp(0.01, 0.99),
        ]
    expected = [1 - oracle.jensen_shannon(p.tolist(), q.tolist()) for p, q in zip(*answers)]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    same = agreement(trained, 3.0)(AscentStep(values, images, images, 2, [[], []]))
    assert same.tolist() == pytest.approx([1, 1], abs=1e-6)


# --- the two stages -----------------------------------------------------------------------------------------


def test_the_recipe_step_by_step() -> None:
    """Start, half size, jitter, mirroring, schedule, new Adam, clamp and loss against plain loops."""
    trained = trained_for(16)
    steps, low, options = 6, 4, {"statistics": 0.05, "tv": 1e-3, "l2": 1e-3, "lr": 0.05, "start": 1.0, "low": 0.7}
    (unit,) = bind(trained, "logits:2")
    (draft,) = draw(trained, ["logits:2"], steps=steps, **options)
    g = Item(target=unit, sample=0, seed=0).generator()
    lowest, highest = (normalised(trained, torch.full((3, 1, 1), v)) for v in (0.0, 1.0))
    rates, recorded = oracle.rates(steps, low), []
    x = torch.zeros(0)
    for stage, length in enumerate((low, steps - low)):
        drawn = torch.randn(3, *((8, 8), (16, 16))[stage], generator=g)
        if stage == 0:
            x = drawn
        else:  # the second starts where the first ended
            pixels = interpolate((x * 0.25 + 0.5)[None], (16, 16), mode="bilinear", align_corners=False)[0]
            x = normalised(trained, pixels)
        first, second = torch.zeros_like(x), torch.zeros_like(x)
        for t in range(length):
            x = x.detach().requires_grad_()
            jitter = (15, 30)[stage]
            dy, dx = torch.randint(-jitter, jitter + 1, (2,), generator=g).tolist()
            view = x.roll((dy, dx), (1, 2))
            if torch.rand((), generator=g) < 0.5:
                view = view.flip(-1)
            with trained.frozen():
                loss = oracle.loss(trained.module, view[None], 2, feature=0.05, tv=1e-3, norm=1e-3)
                (gradient,) = torch.autograd.grad(loss, x)
            recorded.append(float(loss.detach()))
            with torch.no_grad():
                first = 0.5 * first + 0.5 * gradient
                second = 0.9 * second + 0.1 * gradient.square()
                moved = first / (1 - 0.5 ** (t + 1)) / ((second / (1 - 0.9 ** (t + 1))).sqrt() + 1e-8)
                x = x - 0.05 * rates[t + stage * low] * moved
                x = torch.maximum(torch.minimum(x, highest), lowest)
    assert [value for _, value in draft.trace.to_json()["loss"]] == pytest.approx(recorded, rel=1e-3)
    difference = (draft.image - (x.detach() * 0.25 + 0.5)).abs()
    assert float(difference.quantile(0.99)) < 1e-3


def test_stages_have_the_sizes_they_say(trained: Model) -> None:
    seen: list[tuple[int, ...]] = []
    handle = trained.module.stem.register_forward_pre_hook(lambda m, args: seen.append(tuple(args[0].shape)))  # type: ignore[union-attr]
    try:
        (draft,) = draw(trained, ["logits:0"], steps=6, low=0.5, group=2)
        draw(trained, ["logits:0"], steps=1)
    finally:
        handle.remove()
    assert seen == [(2, 3, 16, 16)] * 3 + [(2, 3, 32, 32)] * 3 + [(1, 3, 32, 32)]
    assert draft.image.shape == (3, 32, 32)
    assert (draft.trace.to_json()["steps"], draft.trace.to_json()["evaluations"]) == (6, 12)


def test_a_network_of_one_size_is_shown_the_small_picture_enlarged() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 5))
    model = Model(module, tiny_card(size=(16, 16)), device="cpu")
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    first, again = (draw(model, ["logits:0", "logits:1"], steps=8, jitter=2) for _ in range(2))
    for a, b in zip(first, again):
        assert a.complete
        assert a.image.shape == (3, 16, 16)
        assert torch.equal(a.image, b.image)
        assert a.trace.to_json()["steps"] == 8


@pytest.mark.parametrize("group", [1, 3])
def test_it_reaches_its_class_and_its_statistics(trained: Model, group: int) -> None:
    def distance(draft: Draft) -> float:
        (both,), (neither,) = (
            losses(trained, draft.image[None], [0], feature=weight, tv=0, l2=0).tolist() for weight in (1.0, 0.0)
        )
        return both - neither

    units, options = (
        ["logits:1", "logits:4"],
        {"lr": 0.05, "start": 0.5, "tv": 1e-4, "group": group, "jitter": 0, "flip": False},
    )
    before = draw(trained, units, steps=1, **options)
    matched, free = (draw(trained, units, steps=60, statistics=weight, **options) for weight in (0.3, 0.0))
    for first, draft, other in zip(before, matched, free):
        with torch.no_grad():
            low, high = (trained(d.image[None]).log_softmax(1)[0, draft.item.unit.index] for d in (first, other))
        assert high > low + 0.3
        assert distance(draft) < 0.9 * distance(other)


def test_a_group_is_of_the_item_alone(trained: Model) -> None:
    options = {"steps": 2, "group": 2, "lr": 0.02}
    together = draw(trained, ["logits:0", "logits:1", "logits:2"], **options)
    for draft in together:
        (alone,) = draw(trained, [str(draft.item.unit)], **options)
        assert float((alone.image - draft.image).abs().quantile(0.95)) < 1e-4
    larger = draw(trained, ["logits:0"], **{**options, "group": 3})[0]
    assert (larger.image - together[0].image).abs().max() > 1e-3, "its mates in the group do count"


def test_ctrl_c_in_the_first_stage_gives_full_size_pictures(trained: Model) -> None:
    def on_step(step: int, steps: int) -> None:
        assert steps == 10
        if step == 3:
            raise KeyboardInterrupt

    items = [Item(target=unit, sample=0, seed=0) for unit in bind(trained, ["logits:0", "logits:1"])]
    found = find_method("deep-inversion").function(
        items, DeepInversion(steps=10, group=2), Context(model=trained, references=References(trained), on_step=on_step)
    )
    drafts = [next(found), next(found)]
    with pytest.raises(KeyboardInterrupt):
        next(found)
    assert [d.trace.to_json()["stopped"] for d in drafts] == ["interrupted at step 3"] * 2
    assert all(d.image.shape == (3, 32, 32) and not d.complete for d in drafts)


def test_an_item_that_fails_takes_no_mate_along(trained: Model) -> None:
    items = [Item(target=unit, sample=0, seed=0) for unit in bind(trained, ["logits:0", "logits:1"])]
    more = Objective((), ((1.0, lambda step: torch.tensor([float("nan"), 0.0])),))
    bad, good = _invert(items, DeepInversion(steps=4), Context(model=trained, references=References(trained)), more)
    assert bad.failure
    assert good.complete
    assert good.image.isfinite().all()


# --- what it needs ------------------------------------------------------------------------------------------


def test_a_network_without_batch_norm_is_refused() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    model = Model(module, tiny_card(name="plain"), device="cpu")
    with pytest.raises(UserError, match=r"BatchNorm2d.*plain has none"):
        draw(model, ["logits:0"], steps=2)


def test_layers_without_running_statistics_do_not_count() -> None:
    module = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.BatchNorm1d(3), nn.BatchNorm2d(3))
    assert list(batch_norms(module)) == ["2"]


def test_timm_s_layers_count() -> None:
    from timm.layers import BatchNormAct2d

    assert list(batch_norms(nn.Sequential(BatchNormAct2d(3)))) == ["0"]


def test_hooks_are_taken_off_also_after_an_exception(trained: Model) -> None:
    with pytest.raises(ZeroDivisionError), BatchNormMoments(trained.module, 1):
        1 / 0  # noqa: B018
    with pytest.raises(UserError), BatchNormMoments(trained.module, 2):
        trained(pictures(3, 32))  # three pictures are no two groups
    assert all(not m._forward_pre_hooks and not m._forward_hooks for m in trained.module.modules())
    assert all(p.requires_grad for p in trained.module.parameters())


@pytest.mark.parametrize(("option", "value"), [("group", 0), ("low", 1.0), ("low", -0.1)])
def test_options_out_of_range_are_refused(option: str, value: float) -> None:
    with pytest.raises(UserError, match=option):
        make_config(find_method("deep-inversion"), {option: value})


# --- the student --------------------------------------------------------------------------------------------


def test_the_student_s_answer_is_driven_away(tiny: Model, tiny_student: str) -> None:
    other = Model(tiny_module(7), tiny_card(), device="cpu")
    shares = []
    for weight in (0.0, 50.0):
        options = {"steps": 40, "lr": 0.05, "statistics": 0.0, "student": tiny_student, "competition": weight}
        (draft,) = draw(tiny, ["logits:1"], "deep-inversion-adaptive", **options)
        with torch.no_grad():
            shares.append(float((tiny(draft.image[None]).softmax(1) - other(draft.image[None]).softmax(1)).abs().sum()))
        assert draft.trace.to_json()["student"] == {"name": "tiny:7", "weights_sha256": other.card.weights_sha256}
        assert any("tiny:7" in note for note in draft.trace.to_json()["notes"])
    assert shares[1] > shares[0]


def test_without_competition_the_student_changes_nothing(tiny: Model, tiny_student: str) -> None:
    (plain,) = draw(tiny, ["logits:1"], steps=3)
    (adaptive,) = draw(tiny, ["logits:1"], "deep-inversion-adaptive", steps=3, student=tiny_student, competition=0.0)
    assert torch.equal(plain.image, adaptive.image)


def test_a_student_of_other_classes_is_refused(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    card = tiny_card(labels=("a", "b", "c", "d", "e"))
    monkeypatch.setitem(SOURCES, "tiny", lambda name, pretrained: (tiny_module(7), card))
    with pytest.raises(UserError, match="classes"):
        draw(tiny, ["logits:1"], "deep-inversion-adaptive", steps=2, student="tiny:other")


def test_the_student_is_no_judge(tiny: Model, tiny_student: str, tmp_path: Path) -> None:
    """It was optimised against: its answer says nothing. Another judge stays."""
    trained_against = Model(tiny_module(7), tiny_card(name="student"), device="cpu")
    judge = Model(tiny_module(8), tiny_card(name="judge"), device="cpu")
    for again in range(2):
        run = see(
            tiny, "logits:1", method="deep-inversion,deep-inversion-adaptive", steps=2, student=tiny_student,
            verifiers=[trained_against, judge], out=tmp_path / "r", progress=False,
        )  # fmt: skip
        judges = {p.method: list(p.record["measured_with"]["verifiers"]) for p in run}
        assert judges == {"deep-inversion": ["student", "judge"], "deep-inversion-adaptive": ["judge"]}
        counts = {p.method: next(e for e in p.record["evidence"] if e["name"] == "transfer_top1")["n"] for p in run}
        assert counts == {"deep-inversion": 2, "deep-inversion-adaptive": 1}
        assert again == 0 or len(run) == 2

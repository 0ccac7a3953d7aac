"""Losses against the paper's slow form, hand computations and defects known from other tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from entoptic.images.matching_targets import sorted_means
from entoptic.methods import objectives
from entoptic.methods.objectives import (
    AscentStep,
    Objective,
    SortMatch,
    activation,
    deep_inversion_tv,
    match,
    norm,
    total_variation,
)
from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.models.taps import Tap
from entoptic.units.unit import bind
from oracles import vital as oracle


def step_of(values: Mapping[Tap, Tensor], image: Tensor, views: Tensor | None = None) -> AscentStep:
    return AscentStep(values, image, image if views is None else views, len(image), [[] for _ in image])


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def constant(value: float) -> Objective:
    return Objective((), ((1.0, lambda step: step.image.new_full((step.count,), value)),))


# --- sorted-feature matching --------------------------------------------------------------------------------


def resnet18() -> Model:
    from torchvision.models import resnet18 as build

    torch.manual_seed(0)
    card = Card(name="resnet18", size=(48, 48), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    return Model(build(weights=None), card, device="cpu")


@pytest.mark.parametrize("network", ["tiny", "resnet18", "lite0"])
def test_loss_and_image_gradient_equal_the_paper_form(network: str, request: pytest.FixtureRequest) -> None:
    model = resnet18() if network == "resnet18" else request.getfixturevalue(network)
    weights = {
        "tiny": {"stem": 2.0, "stage1": 1.0, "stage2": 0.5},
        "resnet18": {"conv1": 1.0, "layer1": 1.0, "layer2": 1.0, "layer3": 10.0, "layer4": 0.1},
        "lite0": {"conv_stem": 1.0, "blocks.2": 1.0, "blocks.6": 100.0},
    }[network]
    photos, image = noise(6, 3, *model.card.size), noise(1, 3, *model.card.size, seed=1)
    taps = {Tap(name): weight for name, weight in weights.items()}
    targets, count = sorted_means(model, list(taps), [([0, 1, 2, 3], photos[:4]), ([4, 5], photos[4:])], lambda n: None)
    assert count == 6
    x = image.clone().requires_grad_()
    loss = match(taps, [targets], balanced=False)(step_of(model.read(x, list(taps)), x))
    loss.sum().backward()

    mean, std = (torch.tensor(v)[:, None, None] for v in (model.card.mean, model.card.std))
    y = image.clone().requires_grad_()

    def normalised(
        pictures: Tensor,
    ) -> Tensor:  # in the memory format of `Model`, so that the same kernels run
        return ((pictures - mean) / std).contiguous(memory_format=torch.channels_last)

    with model.frozen():
        with torch.no_grad():
            batches = [oracle.maps(model.module, list(weights), normalised(part)) for part in (photos[:4], photos[4:])]
            real = {name: torch.cat([batch[name] for batch in batches]) for name in weights}
        z = {k: v[0] for k, v in oracle.maps(model.module, list(weights), normalised(y)).items()}
        expected = oracle.class_loss(z, real, weights)
        expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert x.grad is not None
    assert y.grad is not None
    assert y.grad.norm() > 0
    assert (x.grad - y.grad).norm() <= 1e-6 * y.grad.norm()


def test_gradient_at_the_layer_equals_the_permutation_form() -> None:
    z, real = (
        torch.randn(3, 5, 40, dtype=torch.float64, requires_grad=True),
        torch.randn(4, 5, 40, dtype=torch.float64),
    )
    target = real.sort(-1).values.mean(0).expand(3, -1, -1)
    weight = torch.full((3,), 1 / 200, dtype=torch.float64)
    loss = SortMatch.apply(z, target, weight)
    (gradient,) = torch.autograd.grad(loss.sum(), z)
    for b in range(3):
        y = z.detach()[b].requires_grad_()
        expected = oracle.layer_loss(y, real)
        (slow,) = torch.autograd.grad(expected, y)
        assert loss[b].item() == pytest.approx(expected.item(), rel=1e-12)
        assert torch.allclose(gradient[b], slow, rtol=1e-12, atol=0)


def test_gradcheck() -> None:
    # Values well apart: the loss has kinks where the order of two of them changes.
    z = torch.randperm(2 * 3 * 7, generator=torch.Generator().manual_seed(0)).double().view(2, 3, 7) / 5
    target, weight = (
        torch.randn(2, 3, 7, dtype=torch.float64).sort(-1).values,
        torch.tensor([0.3, 2.0], dtype=torch.float64),
    )
    assert torch.autograd.gradcheck(lambda v: SortMatch.apply(v, target, weight), z.requires_grad_())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 33))
def test_identical_sets_cost_nothing_and_positions_do_not_matter(seed: int, channels: int, positions: int) -> None:
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(1, channels, positions, generator=g)
    target = torch.randn(1, channels, positions, generator=g).sort(-1).values
    shuffled = torch.stack([row[torch.randperm(positions, generator=g)] for row in z[0]])[None]
    one = torch.ones(1)
    assert SortMatch.apply(z, z.sort(-1).values, one).item() == 0
    assert SortMatch.apply(shuffled, z.sort(-1).values, one).item() == 0
    assert SortMatch.apply(shuffled, target, one).item() == SortMatch.apply(z, target, one).item()
    assert SortMatch.apply(z + 3, z.sort(-1).values, one).item() == pytest.approx(9 * z.numel(), rel=1e-3)


def test_target_of_copies_is_one_copy_sorted(tiny: Model) -> None:
    photo, tap = noise(1, 3, 32, 32), Tap("stage1")
    targets, _ = sorted_means(tiny, [tap], [([0, 1, 2], photo.expand(3, -1, -1, -1))], lambda n: None)
    with torch.no_grad():
        assert torch.allclose(targets[tap], tiny.read(photo, [tap])[tap][0].sort(-1).values, atol=1e-6)


def test_balanced_form_ignores_the_scale_of_a_layer() -> None:
    tap, other = Tap("a"), Tap("b")
    z, t = torch.randn(2, 4, 9), torch.randn(2, 4, 9).sort(-1).values
    image = torch.zeros(2, 3, 8, 8)

    def loss(factor: float, balanced: bool) -> Tensor:
        targets = [{tap: factor * t[i], other: t[i]} for i in range(2)]
        return match({tap: 1.0, other: 1.0}, targets, balanced=balanced)(step_of({tap: factor * z, other: z}, image))

    assert torch.allclose(loss(1000.0, True), loss(1.0, True), rtol=1e-5)
    assert not torch.allclose(loss(1000.0, False), loss(1.0, False), rtol=1e-5)


def test_several_views_of_an_item_are_averaged() -> None:
    tap = Tap("a")
    z, t = torch.randn(6, 4, 9), torch.randn(2, 4, 9).sort(-1).values
    image = torch.zeros(2, 3, 8, 8)
    objective = match({tap: 1.0}, [{tap: t[0]}, {tap: t[1]}], balanced=False)
    loss = objective(step_of({tap: z}, image, image.repeat_interleave(3, 0)))
    for i in range(2):
        expected = sum(oracle.layer_loss(z[3 * i + k], t[i][None]) for k in range(3)) / 3
        assert float(loss[i]) == pytest.approx(float(expected), rel=1e-5)


# --- algebra ------------------------------------------------------------------------------------------------


def test_weights_do_not_compound() -> None:
    """Xplique multiplies the running sum: 1·A + 3·B - 5·C with A = B = C = 1 gave -35 there."""
    a, b, c = constant(1.0), constant(1.0), constant(1.0)
    image = torch.zeros(2, 3, 8, 8)
    assert (1 * a + 3 * b - 5 * c)(step_of({}, image)).tolist() == [-1, -1]
    assert (a * 2 - (b - c) * 4)(step_of({}, image)).tolist() == [2, 2]
    for operand in (a, b, c):
        assert operand(step_of({}, image)).tolist() == [1, 1], "an operand was changed"
    assert (-a)(step_of({}, image)).tolist() == [-1, -1]


def test_taps_are_merged_without_doubles() -> None:
    a, b = Objective((Tap("x"), Tap("y"))), Objective((Tap("y"), Tap("z")))
    assert (a + 2 * b).taps == (Tap("x"), Tap("y"), Tap("z"))


# --- priors -------------------------------------------------------------------------------------------------


def test_total_variation_by_hand() -> None:
    image = torch.zeros(1, 3, 2, 3)
    image[0, 0] = torch.tensor([[0.0, 1.0, 3.0], [0.0, 0.0, 0.0]])
    # right: 1 + 4 over 3·2·2 differences; down: 1 + 9 over 3·1·3 differences
    assert total_variation()(step_of({}, image)).item() == pytest.approx(5 / 12 + 10 / 9)


def test_deep_inversion_priors_equal_the_oracle_per_picture() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    images = noise(3, 3, 5, 6)
    x = (images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    tv, l2 = deep_inversion_tv(mean, std)(step_of({}, images)), norm(mean, std)(step_of({}, images))
    for i in range(3):
        assert tv[i].item() == pytest.approx(oracle.total_variation(x[i]).item(), rel=1e-5)
        assert l2[i].item() == pytest.approx(oracle.l2(x[i]).item(), rel=1e-6)
    alone = deep_inversion_tv(mean, std)(step_of({}, images[1:2]))
    assert alone.item() == tv[1].item(), "one norm over the batch would couple the pictures"


def test_published_priors_see_the_view_and_ours_the_canvas() -> None:
    canvas, view = torch.full((1, 3, 8, 8), 0.5), noise(1, 3, 8, 8)
    step = AscentStep({}, canvas, view, 1, [[]])
    grey = (0.5,) * 3
    assert deep_inversion_tv(grey, grey)(step).item() > 0
    assert norm(grey, grey)(step).item() > 0
    assert total_variation()(step).item() == 0


# --- activation ---------------------------------------------------------------------------------------------


class OneLayer(nn.Module):
    """A 1×1 convolution with fixed weights and an activation function, averaged to two logits."""

    def __init__(self, activation: nn.Module, bias: Sequence[float], gain: float = 1.0) -> None:
        super().__init__()
        convolution = nn.Conv2d(3, len(bias), 1)
        with torch.no_grad():
            convolution.weight.fill_(gain)
            convolution.bias = nn.Parameter(torch.tensor(bias))
        self.features = nn.Sequential(convolution, activation)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(len(bias), 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def one_layer(activation: nn.Module, bias: Sequence[float], gain: float = 1.0) -> Model:
    card = Card(name="one", size=(8, 8), mean=(0.0,) * 3, std=(1.0,) * 3)
    return Model(OneLayer(activation, bias, gain), card, device="cpu")


def loss_gradient_notes(model: Model, units: list[str], image: Tensor) -> tuple[Tensor, Tensor, list[list[str]]]:
    x = image.clone().requires_grad_()
    objective = activation(bind(model, units))
    step = step_of(model.read(x, objective.taps), x)
    loss = objective(step)
    loss.sum().backward()
    assert x.grad is not None
    return loss.detach(), x.grad, step.notes


def test_dead_relu_gets_a_gradient_and_a_note_and_its_mate_none() -> None:
    model = one_layer(nn.ReLU(), bias=(-50.0, 0.0))
    image = noise(2, 3, 8, 8)
    loss, gradient, notes = loss_gradient_notes(model, ["features:0", "features:1"], image)
    assert (gradient[0] != 0).all(), "a dead unit must be pulled up through its pre-activation"
    assert (gradient[0] < 0).all()
    assert len(notes[0]) == 1
    assert "features:0" in notes[0][0]
    assert "dead" in notes[0][0]
    assert notes[1] == []
    assert loss[1].item() == pytest.approx(-float(model.read(image, [Tap("features")])[Tap("features")][1, 1].mean()))


def test_saturated_relu6_gets_a_gradient_and_a_note() -> None:
    model = one_layer(nn.ReLU6(), bias=(50.0, 0.0))
    _, gradient, notes = loss_gradient_notes(model, ["features:0", "features:1"], noise(2, 3, 8, 8))
    assert (gradient[0] != 0).all()
    assert "saturated" in notes[0][0]
    assert notes[1] == []


def test_a_note_is_written_once() -> None:
    model = one_layer(nn.ReLU(), bias=(-50.0, 0.0))
    objective = activation(bind(model, "features:0"))
    step = step_of(model.read(noise(1, 3, 8, 8), objective.taps), noise(1, 3, 8, 8))
    objective(step)
    objective(step)
    assert len(step.notes[0]) == 1


@pytest.mark.parametrize("readout", ["@mean", "@max", "@centre", "@2,3"])
def test_partly_active_units_are_read_as_they_are(readout: str) -> None:
    model = one_layer(nn.ReLU(), bias=(-1.5, 0.0))
    image = noise(1, 3, 8, 8)
    image[:, :, 2, 3] = image[:, :, 4, 4] = 0.9  # active where the single positions are read
    unit = bind(model, f"features:0{readout}")[0]
    loss, gradient, notes = loss_gradient_notes(model, [str(unit)], image)
    assert loss.item() == pytest.approx(-float(unit.score(image)))
    assert gradient.abs().sum() > 0
    assert notes == [[]]


def test_a_dead_position_is_lifted_although_others_are_alive() -> None:
    model = one_layer(nn.ReLU(), bias=(-1.5, 0.0))
    image = noise(1, 3, 8, 8)
    image[:, :, 2, 3] = 0.1
    _, gradient, notes = loss_gradient_notes(model, ["features:0@2,3"], image)
    assert gradient[0, :, 2, 3].abs().sum() > 0
    assert len(notes[0]) == 1


@pytest.mark.parametrize(
    "smooth", [nn.LeakyReLU(), nn.GELU(), nn.SiLU(), nn.ELU(), nn.Tanh()], ids=lambda m: type(m).__name__
)
@pytest.mark.parametrize("bias", [-2.0, 7.0])
def test_activation_functions_with_a_gradient_are_never_bypassed(smooth: nn.Module, bias: float) -> None:
    model = one_layer(smooth, bias=(bias, 0.0), gain=0.1)
    image = torch.full((1, 3, 8, 8), 0.5)  # every position is the layer's largest value
    unit = bind(model, "features:0@2,3")[0]
    loss, _, notes = loss_gradient_notes(model, [str(unit)], image)
    assert notes == [[]]
    assert loss.item() == pytest.approx(-float(unit.score(image)))


def test_the_maximum_is_lifted_where_only_it_is_saturated() -> None:
    model = one_layer(nn.ReLU6(), bias=(0.0, 0.0), gain=4.0)
    image = torch.full((1, 3, 8, 8), 0.1)
    image[:, :, 5, 5] = 0.9  # 4 · 2.7 > 6, everywhere else 1.2
    _, gradient, notes = loss_gradient_notes(model, ["features:0@max"], image)
    assert gradient[0, :, 5, 5].abs().sum() > 0
    assert len(notes[0]) == 1


def test_a_direction_is_lifted_when_all_channels_it_weighs_are_dead(tmp_path: object) -> None:
    from safetensors.torch import save_file

    model = one_layer(nn.ReLU(), bias=(-50.0, 0.0))
    path = f"{tmp_path}/d.safetensors"
    save_file({"first": torch.tensor([1.0, 0.0])}, path, {"layer": "features"})
    _, gradient, notes = loss_gradient_notes(model, [f"dir({path}#first)"], noise(1, 3, 8, 8))
    assert gradient.abs().sum() > 0
    assert len(notes[0]) == 1


def test_a_logit_has_no_activation_to_bypass(tiny: Model) -> None:
    objective = activation(bind(tiny, ["logits:0", "stage2:1"]))
    assert Tap("stage2", pre=True) in objective.taps
    assert Tap("logits") in objective.taps
    assert Tap("logits", pre=True) not in objective.taps


def test_every_objective_of_the_module_gives_one_loss_per_item() -> None:
    images = noise(4, 3, 8, 8)
    for build in (
        total_variation(),
        deep_inversion_tv((0.5,) * 3, (0.5,) * 3),
        norm((0.5,), (0.5,)),
        objectives.Objective(),
    ):
        assert build(step_of({}, images)).shape == (4,)

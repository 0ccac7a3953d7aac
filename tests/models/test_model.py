"""Taps read what a plain hook reads, stop early, and give the network back as it was."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from conftest import tiny_card, tiny_module
from entoptic.errors import UserError
from entoptic.models.model import Model, pick_device, weights_sha256
from entoptic.models.taps import Tap, first_tensor, is_activation


def pictures(count: int = 2, size: int = 32, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def hooked(model: Model, layer: str, images: Tensor, *, before: bool = False) -> Tensor:
    """What a plain hook on `layer` sees (its input with `before`), copied at once."""
    caught: list[Tensor] = []
    module = model.module.get_submodule(layer)
    if before:
        handle: Any = module.register_forward_pre_hook(lambda m, args: caught.append(args[0].clone()))
    else:
        handle = module.register_forward_hook(lambda m, args, out: caught.append(first_tensor(out).clone()))
    training = model.module.training
    try:
        model.module.eval()
        model.module(model.normalise(images))
    finally:
        handle.remove()
        model.module.train(training)
    return caught[-1]


def hooks_of(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in module.modules())


def state(module: nn.Module) -> tuple[list[bool], list[bool], int]:
    return (
        [m.training for m in module.modules()],
        [p.requires_grad for p in module.parameters()],
        hooks_of(module),
    )


class Small(nn.Module):
    """A network from given parts, run by a given function."""

    def __init__(self, run: Any, **parts: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


# --- values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["stem", "stage1", "stage1.0", "stage2.1", "pool", "flat", "head"])
def test_a_tap_equals_a_plain_hook(tiny: Model, layer: str) -> None:
    images = pictures()
    (values,) = tiny.read(images, [Tap(layer)]).values()
    expected = hooked(tiny, layer, images)
    assert torch.equal(values, expected.flatten(2) if expected.ndim == 4 else expected[:, :, None])


def test_pre_activation_taps_equal_what_the_layer_before_puts_out(tiny: Model) -> None:
    images = pictures()
    values = tiny.read(images, [Tap("stage1", pre=True), Tap("stage1.1", pre=True), Tap("stage2.2", pre=True)])
    assert torch.equal(values[Tap("stage1", pre=True)], hooked(tiny, "stage1.2", images).flatten(2))
    assert torch.equal(values[Tap("stage1.1", pre=True)], hooked(tiny, "stage1.0", images).flatten(2))
    assert torch.equal(values[Tap("stage2.2", pre=True)], hooked(tiny, "stage2.1", images).flatten(2))
    assert float(values[Tap("stage1", pre=True)].min()) < 0


def test_pre_is_refused_where_no_activation_ends_the_layer(tiny: Model) -> None:
    with pytest.raises(UserError, match='"stem" does not end in an activation function'):
        tiny.read(pictures(), [Tap("stem", pre=True)])


@pytest.fixture(scope="module")
def resnet18() -> Model:
    torch.manual_seed(0)
    module = torchvision.models.resnet18(weights=None)
    # Both signs behind every BatchNorm, so that a ReLU in place would show.
    return Model(module, tiny_card(name="resnet18", size=(64, 64), labels=None), device="cpu")


@pytest.mark.parametrize("layer", ["bn1", "layer1.0.bn1", "layer2.0.bn2", "layer3.0.downsample"])
def test_in_place_operations_do_not_change_what_was_tapped(resnet18: Model, layer: str) -> None:
    images = pictures(size=64)
    values = resnet18.read(images, [Tap(layer), Tap("layer4")])[Tap(layer)]
    assert torch.equal(values, hooked(resnet18, layer, images).flatten(2))
    assert float(values.min()) < 0


def test_a_block_that_ends_in_a_shared_in_place_relu(resnet18: Model) -> None:
    images = pictures(size=64)
    info = resnet18.layer("layer2.0")
    assert info.activation == "layer2.0.relu"
    assert resnet18.layer("layer2.0.relu").calls == 2
    after, before = resnet18.read(images, [Tap("layer2.0"), Tap("layer2.0", pre=True)]).values()
    assert torch.equal(before.relu(), after)
    assert torch.equal(before, hooked(resnet18, "layer2.0.relu", images, before=True).flatten(2))
    assert resnet18.layer("layer2.0.bn2").activation is None
    assert resnet18.layer("layer2.0.bn1").activation is None


def test_pre_reads_the_right_call_of_an_activation_that_blocks_share() -> None:
    act = nn.ReLU()
    one, two = (nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), act) for _ in range(2))
    module = Small(lambda m, x: m.two(m.one(x)).mean((2, 3)), one=one, two=two)
    model, images = Model(module, tiny_card(labels=None), device="cpu"), pictures()
    assert torch.equal(
        model.read(images, [Tap("one", pre=True)])[Tap("one", pre=True)],
        hooked(model, "one.0", images).flatten(2),
    )
    assert torch.equal(
        model.read(images, [Tap("two", pre=True)])[Tap("two", pre=True)],
        hooked(model, "two.0", images).flatten(2),
    )


def test_a_block_that_adds_in_place_behind_its_activation_does_not_end_in_it() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        out = m.act(m.conv(x))
        out += x
        return m.same(out).mean((2, 3))

    module = Small(run, conv=nn.Conv2d(3, 3, 3, padding=1), act=nn.ReLU(), same=nn.Identity())
    model = Model(module, tiny_card(labels=None), device="cpu")
    assert model.layer("same").activation is None
    assert model.layer("act").activation == "act"


def test_a_module_that_runs_several_times_is_read_at_its_last_call() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        for _ in range(3):
            x = m.again(x)
        return m.last(x).mean((2, 3))

    model = Model(Small(run, again=nn.Conv2d(3, 3, 1), last=nn.Conv2d(3, 4, 1)), tiny_card(labels=None), device="cpu")
    images = pictures()
    assert model.layer("again").calls == 3
    assert torch.equal(
        model.read(images, [Tap("again")])[Tap("again")],
        hooked(model, "last", images, before=True).flatten(2),
    )


def test_logits_and_inner_layers_together(tiny: Model) -> None:
    images = pictures()
    values = tiny.read(images, [Tap("logits"), Tap("stem"), Tap("logits")])
    assert list(values) == [Tap("stem"), Tap("logits")]
    assert torch.equal(values[Tap("logits")][:, :, 0], tiny(images))
    assert torch.equal(tiny(images), tiny.module.eval()(tiny.normalise(images)))


# --- early stop, and the network as it was -------------------------------------------------------------------------


class Fuse(nn.Module):
    """Passes on until it is armed, then raises."""

    armed = False

    def forward(self, x: Tensor) -> Tensor:
        if self.armed:
            raise RuntimeError("the fuse was reached")
        return x


def fused() -> tuple[Model, Fuse]:
    module, fuse = tiny_module(), Fuse()
    module.stage2.append(fuse)  # type: ignore[operator, union-attr]
    model = Model(module, tiny_card(), device="cpu")
    assert model.outputs == 5  # probed while the fuse is whole
    fuse.armed = True
    return model, fuse


def test_the_forward_pass_stops_at_the_deepest_tap() -> None:
    model, _ = fused()
    values = model.read(pictures(), [Tap("stage2.2"), Tap("stem")])
    assert set(values) == {Tap("stage2.2"), Tap("stem")}
    with pytest.raises(UserError, match="the fuse was reached"):
        model.read(pictures(), [Tap("stage2.2"), Tap("pool")])


def test_everything_is_restored_after_reading_and_after_an_exception_inside() -> None:
    model, _ = fused()
    model.module.train()
    model.module.stage1.eval()  # type: ignore[union-attr]
    model.module.stem.weight.requires_grad_(False)  # type: ignore[union-attr]
    before = state(model.module)
    model.read(pictures(), [Tap("stem"), Tap("stage1", pre=True)])
    assert state(model.module) == before
    with pytest.raises(UserError, match="the fuse was reached"):
        model.read(pictures(), [Tap("stem"), Tap("logits")])
    assert state(model.module) == before
    with pytest.raises(UserError, match="the fuse was reached"):
        model(pictures())
    assert state(model.module) == before


def test_everything_is_restored_after_an_exception_in_the_users_block(tiny: Model) -> None:
    def block() -> None:
        with tiny.frozen():
            assert not tiny.module.training
            tiny.read(pictures(), [Tap("stem")])  # re-entrant: the flags stay frozen inside
            assert not any(p.requires_grad for p in tiny.module.parameters())
            raise KeyError

    tiny.module.train()
    before = state(tiny.module)
    with pytest.raises(KeyError):
        block()
    assert state(tiny.module) == before


def test_reading_in_training_mode_leaves_batchnorm_statistics_alone(tiny: Model) -> None:
    tiny.module.train()
    sha = weights_sha256(tiny.module)
    tiny.read(pictures(), [Tap("stage2")])
    assert tiny.layers
    assert weights_sha256(tiny.module) == sha


def test_gradients_reach_the_picture_and_no_parameter(tiny: Model) -> None:
    images = pictures().requires_grad_()
    tiny.read(images, [Tap("stage2")])[Tap("stage2")].sum().backward()
    assert images.grad is not None
    assert float(images.grad.abs().sum()) > 0
    assert all(p.grad is None for p in tiny.module.parameters())


# --- kinds of networks ---------------------------------------------------------------------------------------------


def test_a_network_with_one_input_channel_sees_grey() -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = Model(module, tiny_card(mean=(0.5,), std=(0.2,), labels=None), device="cpu")
    images = pictures()
    red, green, blue = images.unbind(1)
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    torch.testing.assert_close(model(images), module((grey[:, None] - 0.5) / 0.2))
    seen = model.as_seen(images)
    assert seen.shape == images.shape
    torch.testing.assert_close(seen[:, 0], grey)
    torch.testing.assert_close(model(seen), model(images))


def test_other_channel_counts_are_refused() -> None:
    with pytest.raises(UserError, match="takes 4 input channels but its card describes 3"):
        Model(nn.Sequential(nn.Conv2d(4, 8, 3)), tiny_card(), device="cpu")
    with pytest.raises(UserError, match="takes 1 input channels but its card describes 3"):
        Model(nn.Sequential(nn.Conv2d(1, 8, 3)), tiny_card(), device="cpu")


def test_a_channels_last_transformer() -> None:
    torch.manual_seed(0)
    module = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, img_size=64, window_size=2)
    model = Model(module, tiny_card(size=(64, 64), labels=None), device="cpu")
    images = pictures(size=64)
    for layer, grid, channels in (
        ("layers.0", (16, 16), 96),
        ("layers.2", (4, 4), 384),
        ("layers.3.blocks.1", (2, 2), 768),
    ):
        info = model.layer(layer)
        assert (info.layout, info.grid, info.channels) == ("BHWC", grid, channels)
        raw = hooked(model, layer, images)
        values = model.read(images, [Tap(layer)])[Tap(layer)]
        assert torch.equal(values[:, 5], raw[..., 5].flatten(1))
    assert "layers.0.blocks.0.attn" not in model.layers  # runs once per window, not once per picture
    with pytest.raises(UserError, match="puts out no value per picture"):
        model.layer("layers.0.blocks.0.attn.qkv")


def test_tokens() -> None:
    torch.manual_seed(0)
    module = timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=64)
    model = Model(module, tiny_card(size=(64, 64), labels=None), device="cpu")
    images = pictures(size=64)
    info = model.layer("blocks.3.mlp.act")
    assert (info.layout, info.grid, info.channels, info.activation) == (
        "BTC",
        (17, 1),
        768,
        "blocks.3.mlp.act",
    )
    values = model.read(images, [Tap("blocks.3")])[Tap("blocks.3")]
    assert torch.equal(values[:, 7], hooked(model, "blocks.3", images)[..., 7])
    before = model.read(images, [Tap("blocks.3.mlp.act", pre=True)])[Tap("blocks.3.mlp.act", pre=True)]
    assert torch.equal(before.transpose(1, 2), hooked(model, "blocks.3.mlp.fc1", images))


class Output(dict):  # type: ignore[type-arg]
    """Like transformers': a dict whose items are attributes too."""

    __getattr__ = dict.get


@pytest.mark.parametrize(
    "wrap",
    [lambda y: (y, 1), lambda y: {"first": y}, lambda y: Output(loss=None, logits=y), lambda y: [None, y]],
    ids=["tuple", "dict", "logits", "list"],
)
def test_outputs_that_are_no_tensor(wrap: Any) -> None:
    module = Small(lambda m, x: wrap(m.net(x)), net=tiny_module())
    model = Model(module, tiny_card(), device="cpu")
    assert model.outputs == 5
    assert torch.equal(model(pictures()), model.read(pictures(), [Tap("net.head")])[Tap("net.head")][:, :, 0])


def test_a_layer_whose_output_is_a_tuple() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, int]:
            return x * 2, 3

    module = Small(lambda m, x: m.net(m.pair(x)[0]), pair=Pair(), net=tiny_module())
    model, images = Model(module, tiny_card(), device="cpu"), pictures()
    assert torch.equal(model.read(images, [Tap("pair")])[Tap("pair")], (2 * model.normalise(images)).flatten(2))


def test_layers_without_a_batch_axis_are_left_out() -> None:
    class Mix(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(0, 1)

    module = Small(lambda m, x: (m.mix(x), m.net(x))[1], mix=Mix(), net=tiny_module(), idle=nn.ReLU())
    model = Model(module, tiny_card(), device="cpu")
    assert "net.stem" in model.layers
    for name in ("mix", "idle"):
        assert name not in model.layers
        with pytest.raises(UserError, match=f'layer "{name}" of tiny is not run, or puts out no value per picture'):
            model.layer(name)


# --- bad input -----------------------------------------------------------------------------------------------------


def test_a_unit_where_a_layer_is_expected(tiny: Model) -> None:
    for unit, layer in (("stage2:3", "stage2"), ("logits:1", "logits")):
        with pytest.raises(UserError, match=f'"{unit}" is a unit; did you mean "{layer}"'):
            tiny.layer(unit)
    with pytest.raises(UserError, match='no layer ""'):
        tiny.layer("")


def test_an_unknown_layer_is_answered_with_the_nearest(tiny: Model) -> None:
    with pytest.raises(UserError, match=r'no layer "stage1_2" in tiny; did you mean "stage1.2" \(12 channels\)\?'):
        tiny.layer("stage1_2")
    with pytest.raises(UserError, match="try `entoptic ls tiny`"):
        tiny.layer("qqqqqqq")
    assert tiny.layer("logits").channels == 5


def test_outputs_that_are_no_logits_are_refused() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(UserError, match=r"expected logits of shape B×K, the network gives \(2, 4, 30, 30\)"):
        _ = Model(module, tiny_card(labels=None), device="cpu").outputs


def test_labels_must_be_as_many_as_logits() -> None:
    with pytest.raises(UserError, match="the network has 4 logits but its card has 5 labels"):
        _ = Model(tiny_module(classes=4), tiny_card(), device="cpu").outputs


def test_pictures_of_another_shape_are_refused_and_of_another_size_resized(tiny: Model) -> None:
    for wrong in (torch.rand(3, 32, 32), torch.rand(1, 1, 32, 32), torch.rand(1, 4, 32, 32)):
        with pytest.raises(UserError, match="expected RGB pictures of shape B×3×H×W"):
            tiny.fit(wrong)
    fitted = tiny.fit(pictures(size=50))
    assert fitted.shape == (2, 3, 32, 32)
    assert 0 <= float(fitted.min()) <= float(fitted.max()) <= 1
    same = pictures()
    assert tiny.fit(same) is same


def test_devices() -> None:
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(UserError, match='no device "gpu"; expected auto, cpu, cuda'):
        pick_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="CUDA is not available"):
            pick_device("cuda:1")


# --- identity ------------------------------------------------------------------------------------------------------


def test_the_weights_hash_depends_on_every_tensor_and_on_nothing_else(tiny: Model) -> None:
    sha = tiny.card.weights_sha256
    assert sha == weights_sha256(tiny_module())
    assert sha != weights_sha256(tiny_module(seed=1))
    buffers = tiny_module()
    buffers.stage2[1].running_mean[0] += 1  # type: ignore[index, operator]
    assert weights_sha256(buffers) != sha
    assert weights_sha256(tiny_module().to(memory_format=torch.channels_last)) == sha  # type: ignore[call-overload]
    assert weights_sha256(tiny_module().double()) != sha


def test_texts_for_people(tiny: Model) -> None:
    assert repr(tiny) == f"Model(tiny, 32×32, {len(tiny.layers)} layers, 5 logits)"
    page = tiny._repr_html_()
    assert "tiny" in page
    assert "circle … dot" in page
    assert "cc0-1.0" in page


def test_which_modules_are_activations() -> None:
    assert all(map(is_activation, (nn.ReLU(), nn.ReLU6(), nn.SiLU(), nn.GELU())))
    assert not any(map(is_activation, (nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.Identity(), nn.Sequential())))


def test_reduce_sees_what_read_returns(tiny: Model) -> None:
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    taps = [Tap("head"), Tap("stage1"), Tap("stage1", pre=True), Tap("logits")]
    with torch.no_grad():
        values = tiny.read(images, taps)
        sums = tiny.reduce(images, taps, lambda tap, values_BCD: (tap, values_BCD.sum(-1)))
    assert list(values) == list(sums) == taps
    for tap in taps:
        assert sums[tap][0] == tap
        assert torch.equal(sums[tap][1], values[tap].sum(-1))
    with pytest.raises(ZeroDivisionError):
        tiny.reduce(images, [Tap("stage1")], lambda tap, values_BCD: 1 / 0)
    assert not any(module._forward_hooks for module in tiny.module.modules())

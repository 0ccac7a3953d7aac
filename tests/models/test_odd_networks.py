"""Networks that plain PyTorch runs: odd stems, types, outputs, wrappers. Each answers as plain PyTorch does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conftest import tiny_card, tiny_module
from entoptic.errors import NotAvailable, UserError
from entoptic.images.build_index import build_index
from entoptic.inversion.maps import FeatureMaps
from entoptic.models import taps
from entoptic.models.ablate import ablated
from entoptic.models.model import Model
from entoptic.models.relevance import relevance
from entoptic.models.rule_tables import EPSILON, ZPLUS
from entoptic.models.taps import Tap
from entoptic.runs.see import see
from entoptic.runs.store import Run
from entoptic.units.unit import bind

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Parts and a forward function."""

    def __init__(self, run: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            self.add_module(name, part)
        generator = torch.Generator().manual_seed(1)
        for p in self.parameters():
            if not isinstance(p, nn.parameter.UninitializedParameter):
                p.data = 0.3 * torch.randn(p.shape, generator=generator)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def viewed() -> nn.Module:
    """A view after a convolution, which a channels-last map refuses."""
    return Net(
        lambda m, x: m.head(m.conv(x).view(len(x), -1)), conv=nn.Conv2d(3, 4, 3, 2, 1), head=nn.Linear(4 * 256, 5)
    )


def space_to_depth() -> nn.Module:
    return Net(
        lambda m, x: m.head(m.conv(F.pixel_unshuffle(x, 4)).mean((2, 3))),
        conv=nn.Conv2d(48, 8, 3),
        head=nn.Linear(8, 5),
    )


def grey_inside() -> nn.Module:
    return Net(
        lambda m, x: m.head(m.conv(x.mean(1, keepdim=True)).mean((2, 3))), conv=nn.Conv2d(1, 8, 3), head=nn.Linear(8, 5)
    )


def head_registered_first() -> nn.Module:
    return Net(lambda m, x: m.head(m.conv(x)).mean((2, 3)), head=nn.Conv2d(8, 5, 1), conv=nn.Conv2d(3, 8, 3))


def lazy() -> nn.Module:
    return Net(lambda m, x: m.head(m.conv(x).mean((2, 3))), conv=nn.LazyConv2d(8, 3), head=nn.LazyLinear(5))


def of_type(dtype: torch.dtype) -> Callable[[], nn.Module]:
    return lambda: tiny_module().to(dtype)


RUN = {
    "a view after a convolution": viewed, "space to depth": space_to_depth, "grey inside": grey_inside,
    "its head registered first": head_registered_first, "lazy": lazy, "float64": of_type(torch.float64),
    "float16": of_type(torch.float16), "bfloat16": of_type(torch.bfloat16),
}  # fmt: skip


@pytest.mark.parametrize("build", RUN.values(), ids=RUN)
def test_it_answers_as_plain_pytorch_does(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Model(build(), tiny_card(), device="cpu")
    dtype = next(model.module.parameters()).dtype
    with torch.no_grad():
        expected = model.module.eval()(((IMAGES - 0.5) / 0.25).to(dtype))
        assert torch.allclose(model(IMAGES), expected.float(), rtol=1e-2 if dtype.itemsize == 2 else 1e-5, atol=1e-5)
        assert model(IMAGES).dtype == torch.float32
        alone = torch.cat([model(one[None]) for one in IMAGES])
        assert torch.allclose(
            alone,
            expected.float(),
            rtol=2e-2 if dtype.itemsize == 2 else 1e-4,
            atol=1e-2 if dtype.itemsize == 2 else 1e-5,
        )
    assert model.outputs == 5
    run = see(model, "logits:0", method="fourier", steps=2, out=tmp_path / "r", verifiers="", progress=False)
    assert run[0].record["trace"]["loss"][0][1] != run[0].record["trace"]["loss"][-1][1]


@pytest.mark.parametrize("guard", [lambda: torch.set_grad_enabled(False), torch.no_grad, torch.inference_mode])
def test_gradients_that_are_off_around_the_call(guard: Any, tmp_path: Path) -> None:
    """As in a validation step of Lightning."""
    model = Model(tiny_module(), tiny_card(), device="cpu")
    plain = see(
        model,
        ["logits:0", "stage2:1"],
        method="fourier,deep-inversion,pixels",
        steps=3,
        out=tmp_path / "p",
        verifiers="",
        progress=False,
    )
    with guard():
        inside = see(
            model,
            ["logits:0", "stage2:1"],
            method="fourier,deep-inversion,pixels",
            steps=3,
            out=tmp_path / "r",
            verifiers="",
            progress=False,
        )
    torch.set_grad_enabled(True)
    assert {p.path.name: p.pixels.tobytes() for p in inside} == {p.path.name: p.pixels.tobytes() for p in plain}


def test_a_forward_that_cuts_gradients_is_said(tmp_path: Path) -> None:
    def cut(m: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = m.conv(x)
        return m.head(x.mean((2, 3)))

    model = Model(Net(cut, conv=nn.Conv2d(3, 8, 3), head=nn.Linear(8, 5)), tiny_card(), device="cpu")
    with pytest.raises(UserError, match="no gradient reaches the picture"):
        see(model, "logits:0", method="fourier", steps=2, out=tmp_path / "r", verifiers="", progress=False)
    assert not (tmp_path / "r").exists() or len(Run.open(tmp_path / "r")) == 0


WITHOUT = {
    "a segmentation": lambda m, x: {"out": m.conv(x), "aux": m.conv(x)},
    "a regression": lambda m, x: m.conv(x).mean((1, 2, 3)),
    "a list of features": lambda m, x: [m.conv(x), m.conv(x)[:, :, ::2, ::2]],
    "an embedding beside tokens": lambda m, x: (m.conv(x).mean((2, 3)), m.conv(x).amax((2, 3))),
}


@pytest.mark.parametrize("forward", WITHOUT.values(), ids=WITHOUT)
def test_without_logits_its_layers_are_served(forward: Any, tmp_path: Path, photo_folder: Path) -> None:
    model = Model(Net(forward, conv=nn.Conv2d(3, 8, 3, 2)), tiny_card(labels=None), device="cpu")
    assert "conv" in model.layers
    assert "no logits" in repr(model)
    model._repr_html_()
    run = see(
        model,
        "conv:2",
        method="fourier,retrieval",
        steps=2,
        photos=photo_folder,
        out=tmp_path / "r",
        verifiers="",
        progress=False,
    )
    assert len(run) == 2
    assert run[0]["percentile"] is not None
    assert "has no logits" in run[0].evidence["causal"]["reason"]
    with pytest.raises(NotAvailable, match="has no logits"):
        see(model, "logits:0", method="fourier", steps=2, out=tmp_path / "s", verifiers="", progress=False)
    with pytest.raises(NotAvailable, match="has no logits"):
        bind(model, 'logits:"cat"')


def test_a_network_that_does_not_run_is_said_in_a_sentence() -> None:
    model = Model(Net(lambda m, x: m.conv(x[:, :, 0]), conv=nn.Conv2d(3, 8, 3)), tiny_card(), device="cpu")
    with pytest.raises(UserError, match=r"tiny does not run on pictures of shape \(2, 3, 32, 32\) \(RuntimeError"):
        model.outputs  # noqa: B018


def test_compiled_networks_are_unwrapped() -> None:
    plain = Model(tiny_module(), tiny_card(), device="cpu")
    compiled = Model(torch.compile(tiny_module()), tiny_card(), device="cpu")  # type: ignore[arg-type]
    assert compiled.layers.keys() == plain.layers.keys()
    assert compiled.card.identity == plain.card.identity
    assert torch.equal(compiled(IMAGES), plain(IMAGES))


def test_a_compiled_part_is_read_without_compiling() -> None:
    module = tiny_module()
    module.stage2 = torch.compile(module.stage2)
    model = Model(module, tiny_card(), device="cpu")
    plain = Model(tiny_module(), tiny_card(), device="cpu")
    assert torch.allclose(model(IMAGES), plain(IMAGES), atol=1e-6)
    assert torch.allclose(
        model.read(IMAGES, [Tap("stage1")])[Tap("stage1")], plain.read(IMAGES, [Tap("stage1")])[Tap("stage1")]
    )


def test_a_scripted_network_has_its_logits(tmp_path: Path) -> None:
    scripted = torch.jit.script(tiny_module().eval())
    model = Model(scripted, tiny_card(), device="cpu")
    plain = Model(tiny_module(), tiny_card(), device="cpu")
    assert torch.allclose(model(IMAGES), plain(IMAGES), atol=1e-6)
    run = see(model, "logits:0", method="fourier", steps=2, out=tmp_path / "r", verifiers="", progress=False)
    assert len(run) == 1


def test_a_scripted_part_is_left_out_by_name() -> None:
    module = tiny_module().eval()
    module.stage2 = torch.jit.script(module.stage2)
    model = Model(module, tiny_card(), device="cpu")
    assert "stage1" in model.layers
    assert "stage2.0" not in model.layers
    plain = Model(tiny_module(), tiny_card(), device="cpu")
    assert torch.allclose(model(IMAGES), plain(IMAGES), atol=1e-6)


def test_a_default_type_of_float64(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(0)
        model = Model(
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
            tiny_card(),
            device="cpu",
        )
        run = see(
            model,
            ["logits:0", "0:3"],
            method="fourier,pixels,maco",
            steps=2,
            out=tmp_path / "r",
            verifiers="",
            progress=False,
        )
    finally:
        torch.set_default_dtype(torch.float32)
    assert len(run) >= 4


def test_a_table_as_long_as_the_probed_batch_is_no_layer() -> None:
    """A module that puts out a table of two rows was taken for one row a picture."""

    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.Parameter(torch.ones(2, 7))

        def forward(self, x: Tensor) -> Tensor:
            return self.rows * 2

    net = Net(
        lambda m, x: m.head(m.conv(x).mean((2, 3))) + m.table(x).sum(), conv=nn.Conv2d(3, 8, 3), head=nn.Linear(8, 5),
        table=Table(),
    )  # fmt: skip
    model = Model(net, tiny_card(), device="cpu")
    assert "conv" in model.layers
    assert "table" not in model.layers


# --- time × batch × channels -----------------------------------------------------------------------------------------


class Clip(nn.Module):
    """Like OpenAI's CLIP: patches and a class token, blocks whose attention takes the batch first or second."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.batch_first = batch_first
        self.conv1 = nn.Conv2d(3, 12, 8, 8)
        self.class_embedding = nn.Parameter(torch.randn(12))
        self.ln_pre = nn.LayerNorm(12)
        self.blocks = nn.ModuleList(ClipBlock(batch_first) for _ in range(2))
        self.ln_post = nn.LayerNorm(12)
        self.head = nn.Linear(12, 5)
        for p in self.parameters():
            if p.ndim > 1:
                p.data = torch.randn(p.shape) / p[0].numel() ** 0.5

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).flatten(2).transpose(1, 2)
        x = self.ln_pre(torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1))
        x = x if self.batch_first else x.permute(1, 0, 2)
        for block in self.blocks:
            x = block(x)
        x = x if self.batch_first else x.permute(1, 0, 2)
        return self.head(self.ln_post(x[:, 0]))


class ClipBlock(nn.Module):
    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(12), nn.LayerNorm(12)
        self.attn = nn.MultiheadAttention(12, 2, batch_first=batch_first)
        self.mlp = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 12))

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


def both() -> tuple[Model, Model]:
    """The network with the batch second, and the same with the batch first."""
    return Model(Clip(False), tiny_card(), device="cpu"), Model(Clip(True), tiny_card(), device="cpu")


def test_the_batch_as_second_axis_gives_the_same_layers() -> None:
    second, first = both()
    assert second.layers.keys() == first.layers.keys()
    inside = [name for name, info in second.layers.items() if info.layout == "TBC"]
    assert inside == [name for name in second.layers if name.startswith("blocks.")]
    for name in inside:
        a, b = second.layer(name), first.layer(name)
        assert (a.shape, a.channels, a.grid, a.patches) == (b.shape, b.channels, b.grid, b.patches)
        assert b.layout == "BTC"
    assert second.layer("blocks.1").patches == (1, 4, 4)
    taps = [Tap(name, pre=pre) for name in inside for pre in (False, True) if not pre or first.layer(name).activation]
    found, expected = second.read(IMAGES, taps), first.read(IMAGES, taps)
    assert Tap("blocks.1.mlp.1", pre=True) in taps
    for tap in taps:
        torch.testing.assert_close(found[tap], expected[tap], msg=str(tap))
    torch.testing.assert_close(second(IMAGES), first(IMAGES))


UNITS = ["blocks.0:3", "blocks.1:5@cls", "blocks.1.mlp.1:7@max", "blocks.1:2@1,2", "blocks.1.attn:4@tok3", "logits:1"]


@pytest.mark.parametrize("unit", UNITS)
def test_its_units_and_their_gradients_are_the_same(unit: str) -> None:
    scores, gradients = [], []
    for model in both():
        images = IMAGES.clone().requires_grad_()
        (bound,) = bind(model, unit)
        score = bound.score(images)
        scores.append(score.detach())
        gradients += torch.autograd.grad(score.sum(), images)
        alone = torch.cat([bound.score(one[None]) for one in IMAGES])
        torch.testing.assert_close(alone.detach(), scores[-1])
    torch.testing.assert_close(*scores)
    torch.testing.assert_close(*gradients)
    assert float(gradients[0].abs().max()) > 0


def test_its_index_is_the_same(photo_folder: Path, tmp_path: Path) -> None:
    second, first = (
        build_index(model, photo_folder, ["blocks.1", "blocks.0.mlp.1"], out=tmp_path / str(i), k=3, readouts=["", "max", "cls"])
        for i, model in enumerate(both())
    )  # fmt: skip
    for unit in ("blocks.1:4", "blocks.0.mlp.1:5@max", "blocks.1:4@cls"):
        assert [hit.photo for hit in second.top(unit)] == [hit.photo for hit in first.top(unit)]
        assert second.moments(unit).mean == pytest.approx(first.moments(unit).mean, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("rules", [ZPLUS, EPSILON], ids=["z+", "epsilon"])
def test_its_relevance_is_the_same(rules: Any) -> None:
    """In double precision, since small denominators make rounding large."""
    models = [Model(model.module.double(), tiny_card(), device="cpu") for model in both()]
    read = [Tap("blocks.0"), Tap("blocks.1"), Tap("conv1")]

    def start(values: Tensor) -> Tensor:
        put = torch.zeros_like(values)
        put[:, 5, 0] = values[:, 5, 0]  # the class token's
        return put

    second, first = (relevance(model, IMAGES, {Tap("blocks.1"): start}, read, rules=rules) for model in models)
    torch.testing.assert_close(second.start, first.start)
    ours, theirs = second.residual(), first.residual()
    for tap in read:
        torch.testing.assert_close(second.maps[tap], first.maps[tap], msg=str(tap))
        torch.testing.assert_close(ours[tap], theirs[tap])  # what is not conserved is so of both
    assert float(ours[Tap("blocks.1")].abs().max()) < 1e-6


def test_its_units_are_ablated_and_its_maps_put_back() -> None:
    second, first = both()
    for position in (None, 3):
        with ablated(second, Tap("blocks.0"), 0.5, index=2, position=position):
            found, read = second(IMAGES), second.read(IMAGES, [Tap("blocks.0")])[Tap("blocks.0")]
        with ablated(first, Tap("blocks.0"), 0.5, index=2, position=position):
            torch.testing.assert_close(found, first(IMAGES))
        held = read[:, 2] if position is None else read[:, 2, position]
        assert torch.equal(held, torch.full_like(held, 0.5))
    maps = [FeatureMaps.of(model, "blocks.0") for model in (second, first)]
    values = [one.read(IMAGES) for one in maps]
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*(of.logits(value.roll(1, 1), IMAGES) for of, value in zip(maps, values)))
    assert not torch.allclose(maps[0].logits(values[0].roll(1, 1), IMAGES), second(IMAGES))


def test_a_picture_of_its_unit_is_that_of_the_other(photo_folder: Path, tmp_path: Path) -> None:
    runs = [
        see(model, "blocks.1:5@cls", method="fourier,vital", steps=2, out=tmp_path / str(i), photos=photo_folder, verifiers="",
            progress=False)
        for i, model in enumerate(both())
    ]  # fmt: skip
    a, b = ({p.method: p.pixels.astype(int) for p in run} for run in runs)
    assert a.keys() == b.keys() == {"fourier", "vital"}
    for method in a:
        assert abs(a[method] - b[method]).max() <= 2


def test_torchs_own_encoder_is_read_whichever_axis_is_first() -> None:
    def model(batch_first: bool) -> Model:
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first)
        encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def run(m: Any, x: Tensor) -> Tensor:
            x = m.conv(x).flatten(2)
            x = m.encoder(x.transpose(1, 2) if batch_first else x.permute(2, 0, 1))
            return m.head(x.mean(1 if batch_first else 0))

        return Model(
            Net(run, conv=nn.Conv2d(3, 8, 8, 8), encoder=encoder, head=nn.Linear(8, 5)), tiny_card(), device="cpu"
        )

    second, first = model(False), model(True)
    tap = Tap("encoder.layers.0")
    assert (second.layer(tap.layer).layout, second.layer(tap.layer).patches) == ("TBC", (0, 4, 4))
    torch.testing.assert_close(second.read(IMAGES, [tap])[tap], first.read(IMAGES, [tap])[tap], rtol=1e-4, atol=1e-5)


def test_a_second_axis_that_is_no_batch_is_no_layer() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.conv(x).flatten(2)
        pairs = m.pairs(x.reshape(-1, 2, x.shape[2]))  # two channels at a time, of all pictures
        return m.head(pairs.reshape(x.shape).mean(2))

    model = Model(
        Net(run, conv=nn.Conv2d(3, 8, 8, 8), pairs=nn.LayerNorm(16), head=nn.Linear(8, 5)), tiny_card(), device="cpu"
    )
    assert "pairs" not in model.layers
    assert "conv" in model.layers


def test_what_a_bare_network_is_known_by_does_not_depend_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of before these layers were served keep their keys."""
    known = Model(Clip(False), tiny_card(), device="cpu").card.behaviour_sha256
    assert known
    plain = taps._batch_axis
    monkeypatch.setattr(
        taps, "_batch_axis", lambda tensor, count: None if plain(tensor, count) else plain(tensor, count)
    )
    before = Model(Clip(False), tiny_card(), device="cpu")
    assert "blocks.1" not in before.layers
    assert before.card.behaviour_sha256 == known

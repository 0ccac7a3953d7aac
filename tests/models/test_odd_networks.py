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
from entoptic.models.model import Model
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

"""Networks that fail, vary, or mix their batch: one sentence, no picture, and the network as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import tiny_card, tiny_module
from entoptic.errors import NotAvailable, UserError
from entoptic.metrics.evidence import Evidence
from entoptic.models.model import Model
from entoptic.models.running import evaluating
from entoptic.runs.see import see
from entoptic.runs.store import Run


class Net(nn.Module):
    """A convolution, a head, and a forward function of both."""

    def __init__(self, run: Callable[..., Any], norm: nn.Module | None = None) -> None:
        super().__init__()
        self.run = run
        torch.manual_seed(0)
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, 2, 1), norm or nn.Identity(), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def plain(m: Any, x: Tensor) -> Tensor:
    return m.head(m.norm(m.conv(x)).mean((2, 3)))


def made(net: nn.Module, tmp_path: Path, unit: str = "logits:0", **options: Any) -> Run:
    model = Model(net, tiny_card(), device="cpu")
    options = {"method": "fourier", "verifiers": "", "progress": False, **options}
    options |= {} if options["method"] == "retrieval" else {"steps": 2}
    return see(model, unit, out=tmp_path / "run", **options)


def nothing_was_made(tmp_path: Path) -> bool:
    return not list(tmp_path.glob("run/pictures/*/*"))


class Count:
    """Counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, m: Any, x: Tensor) -> Tensor:
        self.calls += 1
        return plain(m, x) * self.calls


def of_keys(m: Any, x: Tensor) -> Tensor:
    return {"a": x}["b"]


def by_zero(m: Any, x: Tensor) -> Tensor:
    return x / (len(x) // 1000 or 1 // 0)


def on_meta() -> nn.Module:
    return Net(plain).to("meta")


REFUSED = {
    "a KeyError inside": (lambda: Net(of_keys), "does not run on pictures .*KeyError"),
    "a ZeroDivisionError inside": (lambda: Net(by_zero), "does not run on pictures .*ZeroDivisionError"),
    "no weights": (on_meta, "has no weights: conv.weight and 3 more is on the meta device"),
    "random": (lambda: Net(lambda m, x: plain(m, x + torch.randn_like(x))), "two answers to one picture"),
    "with a state": (lambda: Net(Count()), "two answers to one picture"),
    "of the whole batch": (
        lambda: Net(plain, nn.BatchNorm2d(8, track_running_stats=False)),
        "another answer to a picture alone .*norm is a BatchNorm2d without running statistics",
    ),
    "gradients of numpy": (lambda: Net(lambda m, x: torch.from_numpy(plain(m, x).numpy())), "failed on pictures .*numpy"),
    "complex logits": (lambda: Net(lambda m, x: plain(m, x) * 1j), "its logits are complex numbers"),
    "rows of nothing": (lambda: Net(lambda m, x: plain(m, x)[:, :0]), "has no logits: it puts out rows without a number"),
    "never a number": (lambda: Net(lambda m, x: plain(m, x) * float("nan")), "undefined from the first step on"),
}  # fmt: skip


@pytest.mark.parametrize(("build", "words"), REFUSED.values(), ids=REFUSED)
def test_it_is_refused_in_one_sentence(build: Callable[[], nn.Module], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as error:
        made(build(), tmp_path)
    assert "\n" not in str(error.value)
    assert nothing_was_made(tmp_path)


def test_a_picture_that_no_step_changed_says_so(tmp_path: Path) -> None:
    run = made(Net(lambda m, x: plain(m, 0 * x)), tmp_path)
    assert any("no step changed the picture" in note for note in run[0].record["trace"]["notes"])


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    net = Net(plain)
    net.head.weight.data[1] = float("nan")
    with pytest.raises(UserError, match=r"head\.weight holds values that are not finite"):
        made(net, tmp_path, "logits:1")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_photos_without_a_score_are_said(bad: float, tmp_path: Path, photo_folder: Path) -> None:
    with pytest.raises(UserError, match="gives logits:0 no finite value on 40 of 40 photos"):
        made(Net(lambda m, x: plain(m, x) + bad), tmp_path, method="retrieval", photos=str(photo_folder))
    assert nothing_was_made(tmp_path)


def test_photos_some_of_which_have_no_score_have_no_rank(tmp_path: Path, photo_folder: Path) -> None:
    def dark(m: Any, x: Tensor) -> Tensor:
        return torch.where(x.mean((1, 2, 3))[:, None] < -1, torch.nan, plain(m, x))

    with pytest.raises(UserError, match="no finite value on"):
        made(Net(dark), tmp_path, method="retrieval", photos=str(photo_folder))
    run = made(Net(dark), tmp_path, photos=str(photo_folder))
    (percentile,) = (one for one in run[0].record["evidence"] if one["name"] == "percentile")
    assert percentile["value"] is None
    assert "no finite value on 8 of 40 photos" in percentile["reason"]


def test_a_quantised_network_shows_photos(tmp_path: Path, photo_folder: Path) -> None:
    if not torch.backends.quantized.supported_engines:
        pytest.skip("this build of torch has no quantised operations")
    net = torch.ao.quantization.QuantWrapper(tiny_module().eval())
    net.qconfig = torch.ao.quantization.default_qconfig
    torch.ao.quantization.prepare(net, inplace=True)
    net(torch.rand(2, 3, 32, 32))
    torch.ao.quantization.convert(net, inplace=True)
    assert len(made(net, tmp_path, method="retrieval", photos=str(photo_folder))) == 1
    assert len(made(net, tmp_path, "module.stem:1", method="retrieval", photos=str(photo_folder))) == 2


def test_an_output_function_that_fails_is_said() -> None:
    model = Model(tiny_module(), tiny_card(output=lambda found: found.nothing), device="cpu")
    with pytest.raises(NotAvailable, match="the card's output function failed"):
        _ = model.outputs


def test_a_network_that_changes_its_input_is_served(tmp_path: Path) -> None:
    assert len(made(Net(lambda m, x: plain(m, x.mul_(2))), tmp_path)) == 1


def test_normalisation_stays_off_where_eval_is_overridden() -> None:
    """Else looking at a network would change its statistics."""

    class Always(Net):
        def train(self, mode: bool = True) -> Any:
            return super().train(True)

    net = Always(plain, nn.BatchNorm2d(8))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    model = Model(net, tiny_card(), device="cpu")
    model(torch.rand(4, 3, 32, 32))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(m.training for m in net.modules())


def test_weights_that_are_merged_in_evaluation_mode_are_taken_apart_again() -> None:
    """As low-rank adapters do."""

    class Adapter(nn.Linear):
        merged = False

        def train(self, mode: bool = True) -> Any:
            if self.merged == mode:
                self.weight.data += -1.0 if mode else 1.0
                self.merged = not mode
            return super().train(mode)

    net = Net(plain)
    net.head = Adapter(8, 5)
    net.norm.training = False
    before = net.head.weight.clone()
    with evaluating(net):
        assert net.head.merged
        assert not torch.equal(net.head.weight, before)
    assert not net.head.merged
    assert torch.allclose(net.head.weight, before)
    assert net.training
    assert net.head.training
    assert not net.norm.training


def test_evidence_holds_no_number_that_json_has_not() -> None:
    nan = float("nan")
    record = Evidence("x", 1.0, 2, (0.0, float("inf")), detail={"a": [nan, 1.0], "b": {"c": nan}}).to_json()
    assert record["interval"] is None
    assert record["detail"] == {"a": [None, 1.0], "b": {"c": None}}


def test_a_record_that_cannot_be_written_leaves_no_picture(tmp_path: Path) -> None:
    import numpy as np

    run = Run(tmp_path / "run")
    file = run.file("logits-0", "fourier-0-x")
    with run.writing({}), pytest.raises(ValueError, match="JSON"):
        run.write(file, np.zeros((8, 8, 3), np.uint8), {"evidence": float("nan")})
    assert not file.exists()


class Counting(nn.Module):
    """Counts its pictures in one buffer and replaces another; neither matters to its answer unless told so."""

    def __init__(self, matters: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head, self.matters = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 5), matters
        self.register_buffer("seen", torch.zeros(1))
        self.register_buffer("last", torch.full((1,), float("nan")))
        self.register_buffer("fixed", torch.full((2,), float("nan")))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        self.last = x.detach().mean()[None]
        hidden = self.conv(x).relu().mean((2, 3))
        return self.head(hidden + self.seen if self.matters else hidden)


@pytest.mark.parametrize("matters", [False, True])
def test_buffers_that_a_forward_changes_are_given_back(matters: bool, tmp_path: Path) -> None:
    net = Counting(matters)
    buffers = dict(net.named_buffers())
    if matters:
        with pytest.raises(UserError, match="two answers to one picture"):
            made(net, tmp_path)
    else:
        (picture,) = made(net, tmp_path, "conv:1")
        assert picture.record["trace"]["steps"] == 2
    assert all(buffer is buffers[name] for name, buffer in net.named_buffers())
    assert float(net.seen) == 0
    assert bool(net.last.isnan().all())
    assert bool(net.fixed.isnan().all())

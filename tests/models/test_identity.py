"""Two networks of one state dict are two models: nothing of the one is served for the other."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from conftest import tiny_card, tiny_module
from entoptic.errors import UserError
from entoptic.images.build_index import build_index
from entoptic.images.index import ActivationIndex
from entoptic.images.photo_scores import score_photos
from entoptic.images.photos import Photos
from entoptic.models.model import Model
from entoptic.models.sources import load
from entoptic.runs.see import see
from entoptic.runs.store import Run
from entoptic.runs.verify import verify
from entoptic.units.unit import bind


def another_activation() -> nn.Module:
    module = tiny_module()
    module.stage1[3] = nn.LeakyReLU(0.3)
    return module


def another_stride() -> nn.Module:
    module = tiny_module()
    module.stage1[2].stride = (1, 1)
    return module


def another_padding() -> nn.Module:
    module = tiny_module()
    module.stem.padding_mode, module.stem.padding = "reflect", (1, 1)
    return module


def another_head() -> nn.Module:
    """Logits in another order."""

    class Turned(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).flip(1)

    return Turned(OrderedDict(tiny_module().named_children()))


def a_scale_in_an_attribute() -> nn.Module:
    class Scaled(nn.Sequential):
        scale = 1.0

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x * self.scale)

    module = Scaled(OrderedDict(tiny_module().named_children()))
    module.scale = 0.2
    return module


def a_patched_forward() -> nn.Module:
    module = tiny_module()
    plain = module.pool.forward
    module.pool.forward = lambda x: plain(x.relu() + 0.3 * x.amax((2, 3), keepdim=True))
    return module


def another_epsilon() -> nn.Module:
    module = tiny_module()
    module.stage2[1].eps = 0.5
    return module


OTHERS = (
    another_activation, another_stride, another_padding, another_head, a_scale_in_an_attribute, a_patched_forward,
    another_epsilon,
)  # fmt: skip


def tiny_model(module: nn.Module, **card: object) -> Model:
    return Model(module, tiny_card(**card), device="cpu")


@pytest.mark.parametrize("build", OTHERS)
def test_another_network_of_the_same_weights_is_another_model(build: Callable[[], nn.Module]) -> None:
    plain, other = tiny_model(tiny_module()), tiny_model(build())
    assert plain.card.weights_sha256 == other.card.weights_sha256 or build in (another_head, a_scale_in_an_attribute)
    assert plain.card.behaviour_sha256 != other.card.behaviour_sha256
    assert plain.card.identity != other.card.identity


def test_the_same_network_is_the_same_model() -> None:
    first = tiny_model(tiny_module())
    torch.manual_seed(123)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        again = tiny_model(tiny_module())
    finally:
        torch.set_num_threads(threads)
    assert again.card.identity == first.card.identity
    trained = tiny_module().train()
    next(trained.parameters()).requires_grad_(False)
    assert tiny_model(trained).card.identity == first.card.identity
    wrapped = nn.DataParallel(tiny_module())
    assert tiny_model(wrapped).card.identity == first.card.identity


def test_rounding_does_not_change_it() -> None:
    """Noise of a thousand roundings in every weight changes the weights' hash and not the behaviour."""
    module = tiny_module()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(
                1 + 1e-4 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
            )
    a, b = tiny_model(tiny_module()), tiny_model(module)
    assert a.card.weights_sha256 != b.card.weights_sha256
    assert a.card.behaviour_sha256 == b.card.behaviour_sha256


def test_labels_are_part_of_it_and_preprocessing_is_not() -> None:
    plain = tiny_model(tiny_module())
    assert tiny_model(tiny_module(), labels=None).card.identity != plain.card.identity
    assert tiny_model(tiny_module(), mean=(0.1,) * 3).card.identity == plain.card.identity


def test_code_that_a_source_names_is_told_by_its_weights() -> None:
    for name in ("builtin:lite0",):
        model = load(name, device="cpu")
        assert model.card.behaviour_sha256 == ""
        assert model.card.identity == model.card.weights_sha256
    random = load("timm:resnet10t", device="cpu", pretrained=False)
    assert random.card.behaviour_sha256 == ""


def test_pictures_scores_and_indexes_are_not_served_for_the_other(tmp_path: Path, photo_folder: Path) -> None:
    photos = Photos.open(photo_folder)
    plain, other = tiny_model(tiny_module()), tiny_model(another_activation())
    (unit,), (its,) = bind(plain, "stage2:3"), bind(other, "stage2:3")
    # Scores of photos come from a cache on disk.
    assert not torch.equal(score_photos(plain, [unit], photos).of(unit), score_photos(other, [its], photos).of(its))
    # Pictures are told by their keys.
    options = {"method": "fourier", "steps": 2, "out": tmp_path / "r", "verifiers": "", "progress": False}
    see(plain, "stage2:3", **options)
    run = see(other, "stage2:3", **options)
    assert len(run) == 2
    # An index names its network.
    build_index(plain, photo_folder, ["stage2"], out=tmp_path / "i")
    index = ActivationIndex.open(tmp_path / "i")
    index.check(plain)
    with pytest.raises(UserError, match="is of tiny with the weights"):
        index.check(other)


def test_a_sidecar_holds_it_and_verify_reads_it(tmp_path: Path) -> None:
    run = see(
        tiny_model(tiny_module()),
        "logits:0",
        method="fourier",
        steps=2,
        out=tmp_path / "r",
        verifiers="",
        progress=False,
    )
    assert run[0].record["model"]["behaviour_sha256"] == tiny_model(tiny_module()).card.behaviour_sha256
    assert verify(run, model=tiny_model(tiny_module())).ok
    with pytest.raises(UserError, match="another network of the same weights"):
        verify(Run.open(run.path), model=tiny_model(another_activation()))

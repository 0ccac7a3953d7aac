"""The shipped inverters: which one a layer gets, and what each of them reads."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import interpolate

import entoptic
from entoptic import Model, UserError
from entoptic.inversion.card import builtin_inverters
from entoptic.inversion.maps import FeatureMaps
from entoptic.inversion.saved import SHIPPED, find_inverter, load_inverter, shipped_inverter
from entoptic.models.sources import load

pytest.importorskip("diffusers")

EARLIER = {"builtin:lite0-bn2"}


@pytest.fixture(scope="module")
def networks() -> dict[str, Model]:
    return {name: load(name, device="cpu") for name in ("builtin:lite0", "builtin:vit-s14")}


def test_each_layer_gets_its_own(networks: dict[str, Model]) -> None:
    for name, layer, source in SHIPPED:
        assert shipped_inverter(FeatureMaps.of(networks[name], layer)) == source
    assert {f"builtin:{name}" for name in builtin_inverters()} == {source for _, _, source in SHIPPED} | EARLIER


def test_other_layers_and_networks_have_none(networks: dict[str, Model], tiny: Model) -> None:
    with pytest.raises(
        UserError, match=r'no inverter is shipped for blocks\.6 of builtin:lite0, .*did you mean the layer "bn2"\?'
    ):
        find_inverter(None, FeatureMaps.of(networks["builtin:lite0"], "blocks.6"))
    with pytest.raises(
        UserError, match=r"only for bn2 of builtin:lite0 and blocks\.10 of builtin:vit-s14; train one"
    ) as told:
        find_inverter(None, FeatureMaps.of(tiny, "stage2"))
    assert "did you mean" not in str(told.value)


@pytest.mark.parametrize("source", [*sorted(EARLIER), *(source for _, _, source in SHIPPED)])
def test_it_reads_colours_and_places(networks: dict[str, Model], source: str) -> None:
    """Of a picture with a dark and a bright half, the expected picture and samples say which half is which."""
    made = load_inverter(source, device="cpu")
    assert made.size == (32 if source in EARLIER else 128)
    assert made.law is not None
    draw = torch.Generator().manual_seed(0)
    texture = interpolate(torch.rand(1, 3, 56, 56, generator=draw), (224, 224), mode="bilinear")
    picture = 0.4 * texture + 0.6 * torch.tensor([0.05, 0.95]).repeat_interleave(112)[None, None, :, None]
    with torch.no_grad():
        values = torch.cat([made.maps.read(x) for x in (picture, picture.flip(2))])
    noise = made.noise([torch.Generator().manual_seed(i) for i in (0, 1, 2, 3, 0, 1, 2, 3)])
    half = made.size // 2
    for pictures, each in ((made.sample(values.repeat_interleave(4, 0), noise), 4), (made.mean(values), 1)):
        rows = pictures.mean((1, 3))
        gaps = (rows[:, half:] - rows[:, :half]).mean(1)
        assert gaps[:each].mean() > gaps[each:].mean() + 0.1


def test_the_expected_picture_has_none_of_the_noise(networks: dict[str, Model]) -> None:
    """One draw and its mirror image leave nearly what many draws leave; one draw alone leaves its own grain."""
    made = load_inverter("builtin:lite0-bn2-128", networks["builtin:lite0"], device="cpu")
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        values = made.maps.read(interpolate(torch.rand(1, 3, 7, 7, generator=draw), (224, 224), mode="bilinear"))
    many = made.mean(values, draws=12)
    pairs = [made.mean(values, draws=1), made.mean(values, draws=4)]
    apart = [float((one - many).square().mean().sqrt()) for one in pairs]
    assert apart[1] < apart[0] < 0.05
    with pytest.raises(UserError, match="draws must be at least 1, got 0"):
        made.mean(values, draws=0)


def test_a_map_is_inverted_without_naming_an_inverter(networks: dict[str, Model]) -> None:
    found, source = find_inverter(None, FeatureMaps.of(networks["builtin:lite0"], "bn2"))
    assert (source, found.name) == ("builtin:lite0-bn2-128", "builtin:lite0-bn2-128")
    assert found.prior.name == entoptic.priors.sources.SHIPPED

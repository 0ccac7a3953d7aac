"""Sparse dictionaries, directions and splits: encode, decode, one feature alone, folding, and their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from entoptic.errors import UserError
from entoptic.metrics.inner_units import effects
from entoptic.models.model import Model
from entoptic.models.taps import Tap
from entoptic.units.dictionary import (
    activation,
    attenuate,
    check_writes_own_layer,
    children,
    digest,
    load_dictionary,
    norms,
    parents,
    part,
    save,
)
from entoptic.units.directions import Directions
from entoptic.units.sparse import KINDS, Sparse, fold, unit_norm
from entoptic.units.splits import Split
from entoptic.units.unit import bind, read_siblings


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sparse(
    kind: str = "relu", *, count: int = 24, channels: int = 16, window: int = 1, outputs: int = 0, **more: Any
) -> Sparse:
    thresholds = {"relu": torch.zeros(count), "topk": None}.get(kind, 0.2 + 0.3 * torch.rand(count))
    made: dict[str, Any] = {
        "encoder": numbers(count, channels, window, window) / window, "encoder_bias": 0.1 * numbers(count, seed=1),
        "decoder": numbers(count, outputs or channels, seed=2), "decoder_bias": numbers(outputs or channels, seed=3),
        "threshold": thresholds, "kind": kind, "k": 3 if kind == "topk" else 0, "layer": "stage2", "grid": (4, 4),
    }  # fmt: skip
    return Sparse(**made | more)


every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
def test_one_feature_without_the_others_is_the_same(kind: str) -> None:
    for window in (1, 3):
        made, maps = sparse(kind, window=window), numbers(2, 16, 16, seed=5)
        whole_BKD = made.activations(maps)
        for k in (0, 7, 23):
            torch.testing.assert_close(made.activation(maps, k), whole_BKD[:, k], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(
                made.pre_activation(maps, k), made.pre_activations(maps)[:, k], atol=1e-5, rtol=1e-5
            )
            torch.testing.assert_close(made.part(maps, k), made.parts(maps)[k], atol=1e-5, rtol=1e-5)


@every_kind
def test_parts_add_up_to_the_reconstruction(kind: str) -> None:
    made, maps = sparse(kind), numbers(2, 16, 16, seed=5)
    total = made.parts(maps).sum(0) + made.decoder_bias[:, None]
    torch.testing.assert_close(total, made.reconstruct(maps), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(norms(made, maps), made.parts(maps).flatten(2).norm(dim=2).T, atol=1e-4, rtol=1e-4)


def test_topk_keeps_exactly_k_also_of_equal_ones() -> None:
    made = sparse("topk", encoder=torch.ones(24, 16, 1, 1), encoder_bias=torch.zeros(24))
    assert (made.encode(torch.ones(2, 16, 5)) > 0).sum(1).eq(3).all()
    made = sparse("topk", encoder_bias=torch.full((24,), 50.0))
    assert (made.encode(numbers(2, 16, 5)) > 0).sum(1).eq(3).all()
    assert (sparse("topk", encoder_bias=torch.full((24,), -50.0)).encode(numbers(2, 16, 5)) == 0).all()


def test_a_threshold_makes_a_topk_feature_a_function_of_its_own_pre_activation() -> None:
    free, fixed = sparse("topk"), sparse("topk", threshold=torch.full((24,), 0.5))
    maps = numbers(2, 16, 16, seed=5)
    assert torch.equal(free.activation(maps, 3), free.encode(maps)[:, 3])
    pre_BD = fixed.pre_activation(maps, 3)
    assert torch.equal(fixed.activation(maps, 3), torch.where(pre_BD > 0.5, pre_BD, torch.zeros_like(pre_BD)))
    assert torch.equal(fixed.encode(maps), free.encode(maps))


@every_kind
def test_folding_leaves_outputs_unchanged(kind: str) -> None:
    made, maps = sparse(kind, outputs=12), 3 + 2 * numbers(2, 16, 16, seed=5)
    mean, out = numbers(16, seed=6), numbers(12, seed=7)
    before = made.reconstruct((maps - mean[:, None]) * 0.4) / 2.5 + out[:, None]
    after = fold(made, input_mean=mean, input_scale=0.4, output_mean=out, output_scale=2.5)
    torch.testing.assert_close(after.reconstruct(maps), before, atol=1e-4, rtol=1e-4)
    if kind != "topk":
        normed = unit_norm(after)
        torch.testing.assert_close(normed.reconstruct(maps), before, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(normed.decoder.norm(dim=1), torch.ones(24))


def test_a_window_sees_its_neighbours_as_a_convolution_does() -> None:
    made, maps = sparse(window=3, outputs=12), numbers(2, 16, 16, seed=5)
    expected = conv2d(maps.unflatten(2, (4, 4)), made.encoder, made.encoder_bias, padding=1).flatten(2)
    torch.testing.assert_close(made.pre_activations(maps), expected)
    assert made.decode(made.encode(maps)).shape == (2, 12, 16)
    assert made.pre_activations(numbers(1, 16, 36)).shape == (1, 24, 36)  # another square map
    with pytest.raises(UserError, match="no 4×4 map and no square"):
        made.pre_activations(numbers(1, 16, 17))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "toppk"}, "no kind of sparse dictionary"),
        ({"encoder": numbers(24, 16, 2, 2)}, "a centre only if odd"),
        ({"encoder": numbers(23, 16, 1, 1)}, "K = 24"),
        ({"decoder_bias": numbers(3)}, "decoder_bias has shape 3, expected 16"),
        ({"threshold": None}, "needs thresholds"),
        ({"kind": "topk", "k": 25}, "k must be from 1 to 24 features"),
        ({"names": ["a"]}, "24 features but 1 name"),
        ({"parents": ((1,),)}, "parents of 1"),
        ({"parents": ((99,),) * 24}, "a parent is none"),
        ({"encoder_bias": torch.full((24,), torch.nan)}, "not finite"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        sparse(**change)


def all_kinds(model: Model) -> dict[str, Any]:
    own = {"layer": "stage2", "model_sha256": model.card.weights_sha256}
    conv: Any = model.module.stage2[0]  # type: ignore[union-attr, index]
    shares = torch.rand(2, 12, generator=torch.Generator().manual_seed(3))
    return {
        **{f"{kind} autoencoder": sparse(kind, **own) for kind in KINDS},
        "families": sparse(parents=((1,),) + ((),) * 22 + ((1, 0),), **own),
        "transcoder": sparse("batchtopk", window=3, channels=12, outputs=16, k=3, **own | {"layer": "stage1"}, writes="stage2"),
        "directions": Directions(directions=numbers(3, 16), names=["a", "b", "c"], **own),
        "split": Split(
            weights=conv.weight[:2].detach(), biases=conv.bias[:2].detach(), partition=torch.cat([shares, 1 - shares]),
            of_unit=torch.tensor([0, 1, 0, 1]), units=[0, 1], writes="stage2.0", padding=1, grid=(8, 8),
            **own | {"layer": "stage1"},
        ),
    }  # fmt: skip


def test_files_of_every_kind_hold_what_was_saved(tiny: Model, tmp_path: Path) -> None:
    for name, made in all_kinds(tiny).items():
        file = save(made, tmp_path / "d.safetensors")
        found = load_dictionary(file, tiny)
        assert (type(found), digest(found), found.names) == (type(made), digest(made), made.names), name
        assert found.about() == made.about(), name  # type: ignore[attr-defined]
        maps = numbers(2, made.channels, 64, seed=5)
        torch.testing.assert_close(found.activations(maps), made.activations(maps))
        for k in range(len(made)):
            torch.testing.assert_close(activation(found, maps, k), made.activations(maps)[:, k], atol=1e-5, rtol=1e-5)


def test_parents_and_children(tiny: Model) -> None:
    made = all_kinds(tiny)["families"]
    assert (parents(made, 23), parents(made, 5), children(made, 1), children(made, 0)) == ([1, 0], [], [0, 23], [23])
    assert parents(all_kinds(tiny)["directions"], 0) == []


def test_every_kind_makes_units(tiny: Model, tmp_path: Path) -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for name, made in all_kinds(tiny).items():
        file = save(made, tmp_path / f"{name.replace(' ', '-')}.safetensors")
        unit = bind(tiny, f"dict({file}):1@max")[0]
        values_BCD = tiny.read(images, [Tap(made.layer)])[Tap(made.layer)]
        torch.testing.assert_close(unit.score(images), made.activations(values_BCD)[:, 1].amax(1))
        torch.testing.assert_close(read_siblings(unit, values_BCD)[:, 1], unit.score(images))
        before = unit.before_activation()
        assert (before is not None) == isinstance(made, Sparse), name
        if before is not None:
            assert str(before) == f"dict({file}):1@max.pre"
            assert before.readout == bind(tiny, str(before))[0].readout == "max.pre"
            torch.testing.assert_close(before.score(images), made.pre_activations(values_BCD)[:, 1].amax(1))
            torch.testing.assert_close(read_siblings(before, values_BCD)[:, 1], before.score(images))


def test_parts_of_another_layer_are_neither_steered_nor_ablated(tiny: Model, tmp_path: Path) -> None:
    kinds = all_kinds(tiny)
    for name in ("transcoder", "split"):
        with pytest.raises(UserError, match="this one reads stage1 and writes stage2"):
            check_writes_own_layer(kinds[name], "ablation")
    check_writes_own_layer(kinds["relu autoencoder"], "ablation")
    maps = numbers(2, 16, 16, seed=5)
    made = kinds["relu autoencoder"]
    torch.testing.assert_close(attenuate(made, maps, 3, 0), maps - part(made, maps, 3))
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert effects(images, bind(tiny, f"dict({save(made, tmp_path / 'own.safetensors')}):3")[0], 0.0).shape == (2, 5)
    (unit,) = bind(tiny, f"dict({save(kinds['transcoder'], tmp_path / 'other.safetensors')}):3")
    with pytest.raises(UserError, match="ablation needs a dictionary whose features are parts of the layer it reads"):
        effects(images, unit, 0.0)


def test_a_split_adds_up_to_its_units(tiny: Model) -> None:
    made = all_kinds(tiny)["split"]
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    inside, outside = Tap("stage1"), Tap("stage2.0")
    values = tiny.read(images, [inside, outside])
    grid = tiny.layer("stage2.0").grid
    assert grid == (
        4,
        4,
    )  # this convolution has a stride, which a real split refuses: every second position is compared
    units_BNhw = made.reconstruct(values[inside]).unflatten(2, (8, 8))[:, :, ::2, ::2]
    torch.testing.assert_close(units_BNhw.flatten(2), values[outside][:, :2], atol=1e-5, rtol=1e-5)
    assert made.lossless
    assert made.siblings(0) == [0, 2]
    assert made.names == ["stage2.0:0 part 0", "stage2.0:1 part 0", "stage2.0:0 part 1", "stage2.0:1 part 1"]
    with pytest.raises(UserError, match="does not add up to 1"):
        Split(**{**made.__dict__, "partition": made.partition * 1.1})


def test_a_directions_part_is_its_projection() -> None:
    made, maps = Directions(directions=numbers(3, 16)), numbers(2, 16, 5, seed=5)
    own = made.directions[1]
    expected = torch.einsum("bcd,c->bd", maps, own)[:, None] * own[:, None] / own.square().sum()
    torch.testing.assert_close(made.part(maps, 1), expected)
    with pytest.raises(UserError, match="is 0 or not finite"):
        Directions(directions=torch.zeros(2, 3))


def test_a_builtin_dictionary_that_is_not_there(tiny: Model) -> None:
    with pytest.raises(UserError, match='there is no dictionary "none" in the package'):
        bind(tiny, "dict(builtin:none):0")

"""Kinds that overcomplete brings: archetypal autoencoders and non-negative factors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import tiny_card, tiny_module
from entoptic import UserError, learn_dictionary
from entoptic.cli.main import main
from entoptic.dictionaries.archetypal import DELTA, ArchetypalNet
from entoptic.dictionaries.overcomplete_parts import overcomplete_part
from entoptic.dictionaries.recipe import DictionaryRecipe
from entoptic.dictionaries.splice import spliced
from entoptic.errors import NotAvailable
from entoptic.models import sources
from entoptic.models.model import Model
from entoptic.units.dictionary import activation, info, load_dictionary, part, save
from entoptic.units.factors import NonNegative
from entoptic.units.sparse import Sparse
from entoptic.units.unit import bind

SMALL: dict[str, Any] = {
    "features": 12, "active": 3, "batch_size": 32, "positions": 8, "buffer": 320, "warmup": 2, "check_every": 4,
    "least_gain": 0.0, "dead_after": 100, "steps": 12, "rate": 1e-2,
}  # fmt: skip


@pytest.fixture
def _overcomplete() -> None:
    pytest.importorskip("matplotlib", reason="overcomplete is not installed (extra dictionaries)")
    try:
        overcomplete_part("optimization.nmf", "NMF")
    except NotAvailable as error:
        pytest.skip(str(error))


def test_without_the_package_the_kind_is_refused_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: Model, photo_folder: Path
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "overcomplete"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "overcomplete", None)
    for kind in ("nmf", "archetypal"):
        with pytest.raises(UserError, match=r"needs overcomplete .*pip install 'entoptic\[dictionaries\]'"):
            learn_dictionary(tiny, "stage2", photo_folder, tmp_path / kind, DictionaryRecipe(**SMALL), kind=kind)
        assert not (tmp_path / kind / "dictionary.safetensors").exists()


def planted_factors() -> tuple[NonNegative, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    rows_KC = torch.nn.functional.normalize(
        torch.rand(6, 20, generator=draw) * (torch.rand(6, 20, generator=draw) < 0.4)
    )
    codes_BKD = torch.rand(3, 6, 5, generator=draw) * (torch.rand(3, 6, 5, generator=draw) < 0.5)
    return NonNegative(decoder=rows_KC, layer="stage2"), codes_BKD, rows_KC.T @ codes_BKD


def test_codes_are_the_non_negative_least_squares_solution() -> None:
    made, codes_BKD, values_BCD = planted_factors()
    torch.testing.assert_close(made.encode(values_BCD), codes_BKD, atol=2e-3, rtol=0)
    torch.testing.assert_close(made.parts(values_BCD).sum(0), made.decode(made.encode(values_BCD)))
    torch.testing.assert_close(part(made, values_BCD, 2), made.parts(values_BCD)[2])
    torch.testing.assert_close(made.part_norms(values_BCD)[:, 2], part(made, values_BCD, 2).flatten(1).norm(dim=1))
    scipy = pytest.importorskip("scipy.optimize", reason="scipy is not installed")
    noisy = values_BCD + 0.1 * torch.randn(values_BCD.shape, generator=torch.Generator().manual_seed(1))
    found = made.encode(noisy)
    for b, d in ((0, 0), (1, 3), (2, 4)):
        expected, _ = scipy.nnls(made.decoder.T.double().numpy(), noisy[b, :, d].double().numpy())
        torch.testing.assert_close(found[b, :, d].double(), torch.from_numpy(expected), atol=5e-3, rtol=0)
    given = noisy.clone().requires_grad_()
    activation(made, given, 2).sum().backward()
    assert float(given.grad.abs().sum()) > 0  # type: ignore[union-attr]


def test_damaged_factors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not negative"):
        NonNegative(decoder=torch.tensor([[-1.0, 1.0]]))
    file = save(planted_factors()[0].with_(model_sha256="x"), tmp_path / "d.safetensors")
    assert isinstance(load_dictionary(file), NonNegative)


@pytest.mark.usefixtures("_overcomplete")
def test_nmf_is_learned_stored_and_shown(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    file = learn_dictionary(
        tiny, "stage2", photo_folder, tmp_path / "nmf", DictionaryRecipe(**SMALL | {"steps": 200}), kind="nmf",
        second_seed=True,
    )  # fmt: skip
    made, found = load_dictionary(file, tiny), info(file)["found"]
    assert isinstance(made, NonNegative)
    assert len(made) == 12
    assert found["fit"]["explained"] > 0.5
    assert 0 < found["stability"] <= 1 + 1e-6
    assert "cosine" in found["splicing"]
    (unit,) = bind(tiny, f"dict({file}):3@max")
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = tiny(images)
    with spliced(tiny, made):
        assert not torch.equal(tiny(images), before)
    assert torch.equal(tiny(images), before)
    assert bool((unit.score(images) >= 0).all())
    with pytest.raises(UserError, match=r"negative values .* --kind archetypal"):
        learn_dictionary(tiny, "stem", photo_folder, tmp_path / "no", DictionaryRecipe(**SMALL), kind="nmf")
    with pytest.raises(UserError, match="another"):
        learn_dictionary(tiny, "stage2", photo_folder, tmp_path / "nmf", DictionaryRecipe(**SMALL), kind="topk")


@pytest.mark.usefixtures("_overcomplete")
def test_archetypal_rows_stay_near_mixtures_of_points(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(300, 10, generator=draw)
    rows = rows / rows.square().sum(1).mean().sqrt()
    net = ArchetypalNet(rows, rows, DictionaryRecipe(**SMALL), learned_thresholds=False)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.1)
    optimiser.register_step_pre_hook(net.before_update)
    optimiser.register_step_post_hook(net.after_update)
    begun = net.decoder.detach().clone()
    for _ in range(20):
        optimiser.zero_grad()
        (net.decode(net.pre_activations(rows).relu()) - rows).square().mean().backward()
        optimiser.step()
    decoder = net.decoder.detach()
    assert not torch.allclose(decoder, begun, atol=1e-2)
    torch.testing.assert_close(decoder.norm(dim=1), torch.ones(12))
    weights, loose = net.archetypes.W.detach(), net.archetypes.Relax.detach()
    assert bool((weights >= 0).all())
    torch.testing.assert_close(weights.sum(1), torch.ones(12), atol=1e-4, rtol=0)
    assert float(loose.norm(dim=1).max()) <= DELTA + 1e-5
    # The whole way: trained, gone on with, the same bytes.
    recipe = DictionaryRecipe(**SMALL)
    whole = learn_dictionary(tiny, "stage2", photo_folder, tmp_path / "whole", recipe, kind="archetypal")
    made = load_dictionary(whole, tiny)
    assert isinstance(made, Sparse)
    assert made.kind == "batchtopk"
    assert info(whole)["found"]["kind"] == "archetypal"
    half = DictionaryRecipe(**SMALL | {"steps": 5})
    learn_dictionary(tiny, "stage2", photo_folder, tmp_path / "parts", half, kind="archetypal")
    again = learn_dictionary(tiny, "stage2", photo_folder, tmp_path / "parts", recipe, kind="archetypal")
    again_made = load_dictionary(again, tiny)
    assert isinstance(again_made, Sparse)
    assert again_made.encoder.shape == made.encoder.shape


@pytest.mark.usefixtures("_overcomplete")
def test_the_command_learns_both(
    monkeypatch: pytest.MonkeyPatch, photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sources.SOURCES, "tiny", lambda _name, _: (tiny_module(), tiny_card(name="tiny:net")))
    words = [
        "learn",
        "dictionary",
        "tiny:net",
        "stage2",
        "--photos",
        str(photo_folder),
        "--features",
        "8",
        "--active",
        "2",
    ]
    small = ["--steps", "6", "--batch-size", "32", "--positions", "8", "--buffer", "320", "--device", "cpu"]
    for kind in ("nmf", "archetypal"):
        assert main([*words, *small, "--kind", kind, "--out", str(tmp_path / kind)]) == 0
        assert "explained variance" in capsys.readouterr().out

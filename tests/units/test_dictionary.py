"""Dictionaries on disk, and their features as units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from conftest import tiny_card, tiny_module
from entoptic.errors import UserError
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.metrics.picture import measure
from entoptic.models.ablate import ablated
from entoptic.models.model import Model
from entoptic.models.taps import Tap
from entoptic.units.concepts import Concepts
from entoptic.units.dictionary import attenuate, digest, info, load_dictionary, part, save
from entoptic.units.unit import Unit, bind, read_siblings


def concepts(model: Model, seed: int = 0, channels: int = 16, layer: str = "stage2") -> Concepts:
    draw = torch.Generator().manual_seed(seed)
    bases = [torch.randn(p, channels, generator=draw) for p in (3, 1, 2)]
    return Concepts.of(
        bases, torch.randn(channels, generator=draw), names=["sky", "roof", "tree"], layer=layer,
        model_sha256=model.card.weights_sha256, found={"class": 3, "note": "ümlaut"},
    )  # fmt: skip


@pytest.fixture
def file(tiny: Model, tmp_path: Path) -> Path:
    return save(concepts(tiny), tmp_path / "deep" / "d.safetensors")


def pictures(count: int = 3) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def values_of(model: Model, images: Tensor) -> Tensor:
    return model.read(images, [Tap("stage2")])[Tap("stage2")]


def refused(model: Model | None, what: Any) -> str:
    with pytest.raises(UserError) as error:
        bind(model, what) if model is not None else load_dictionary(what)
    return str(error.value)


# --- the file ------------------------------------------------------------------------------------------------------


def test_what_is_saved_is_what_is_loaded(tiny: Model, file: Path) -> None:
    made, found = concepts(tiny), load_dictionary(file, tiny)
    assert isinstance(found, Concepts)
    assert digest(found) == digest(made) != digest(concepts(tiny, seed=1))
    assert all(torch.equal(a, b) for a, b in zip(found.bases, made.bases))
    assert (found.names, found.layer, found.model_sha256, found.found) == (
        made.names,
        made.layer,
        made.model_sha256,
        made.found,
    )
    maps = torch.randn(2, 16, 5, generator=torch.Generator().manual_seed(2))
    assert torch.equal(found.parts(maps), made.parts(maps))
    again = save(found, file.with_name("again.safetensors"))
    assert again.read_bytes() == file.read_bytes()
    assert info(file)["names"] == ["sky", "roof", "tree"]
    assert (info(file)["dimensions"], info(file)["found"]["note"]) == ([3, 1, 2], "ümlaut")
    assert sorted(p.name for p in file.parent.iterdir()) == [
        "again.safetensors",
        "d.safetensors",
    ]  # nothing half written


def test_a_file_that_changed_is_read_again(tiny: Model, file: Path) -> None:
    first = bind(tiny, f"dict({file}):0")[0]
    save(concepts(tiny, seed=1), file)
    second = bind(tiny, f"dict({file}):0")[0]
    assert str(first) == str(second)
    assert first.identity != second.identity
    assert "stage2" in first.identity


def test_files_that_are_no_dictionaries(tiny: Model, tmp_path: Path, file: Path) -> None:
    assert "there is no dictionary" in refused(None, tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("not tensors at all, but long enough to be read as a header")
    assert "is not a safetensors file" in refused(None, tmp_path / "text.safetensors")
    save_file({"d": torch.ones(16)}, tmp_path / "dir.safetensors", {"layer": "stage2"})
    assert "holds no dictionary" in refused(None, tmp_path / "dir.safetensors")
    assert "dir(" in refused(tiny, f"dict({tmp_path / 'dir.safetensors'}):0")
    with pytest.raises(UserError, match="not finite"):
        save(Concepts((torch.full((1, 4), torch.nan),), torch.zeros(0, 4), names=["x"]), tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()
    (tmp_path / "plain").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        save(concepts(tiny), tmp_path / "plain" / "d.safetensors")


def test_another_network_another_layer_another_number(tiny: Model, file: Path, tmp_path: Path) -> None:
    other = Model(tiny_module(1), tiny_card(name="other"), device="cpu")
    assert "but other has" in refused(other, f"dict({file}):0")
    save(concepts(tiny, channels=12), tmp_path / "narrow.safetensors")
    assert "is for 12 channels but stage2 of tiny has 16" in refused(tiny, f"dict({tmp_path / 'narrow.safetensors'}):0")
    save(concepts(tiny, layer="stagee2"), tmp_path / "lost.safetensors")
    assert 'did you mean "stage2"' in refused(tiny, f"dict({tmp_path / 'lost.safetensors'}):0")
    assert "has features 0 to 2, not 3; did you mean 2?" in refused(tiny, f"dict({file}):3")
    assert "has features 0 to 2, not 7" in refused(tiny, f"dict({file}):1-7")
    assert 'no feature "rooof"' in refused(tiny, f'dict({file}):"rooof"')
    assert 'did you mean "roof"' in refused(tiny, f'dict({file}):"rooof"')
    assert 'drop ".pre"' in refused(tiny, f"dict({file}):0@mean.pre")
    assert "map without tokens" in refused(tiny, f"dict({file}):0@cls")


# --- features as units ---------------------------------------------------------------------------------------------


def test_ranges_stars_and_names(tiny: Model, file: Path) -> None:
    every = [f"dict({file}):{k}" for k in range(3)]
    assert [str(u) for u in bind(tiny, f"dict({file}):*")] == every
    assert [str(u) for u in bind(tiny, f"dict({file}):1-2")] == every[1:]
    (unit,) = bind(tiny, f'dict({file}):"roof"')
    assert (str(unit), unit.kind, unit.label, unit.readout, unit.layer) == (
        every[1],
        "feature",
        "roof",
        "mean",
        "stage2",
    )
    assert bind(tiny, str(unit))[0].identity == unit.identity
    assert unit.before_activation() is None


@pytest.mark.parametrize(
    ("at", "by_hand"),
    [("", lambda m: m.mean(1)), ("@max", lambda m: m.amax(1)), ("@2,1", lambda m: m[:, 9]), ("@centre", lambda m: m[:, 10])],
)  # fmt: skip
def test_scores_are_lengths_of_parts(tiny: Model, file: Path, at: str, by_hand: Any) -> None:
    images = pictures()
    parts = concepts(tiny).parts(values_of(tiny, images).double())
    for k in (0, 1):
        score = bind(tiny, f"dict({file}):{k}{at}")[0].score(images)
        torch.testing.assert_close(score.double(), by_hand(parts[k].norm(dim=1)), atol=1e-5, rtol=1e-5)


def test_the_gradient_of_a_score_is_that_of_finite_differences(tiny: Model, file: Path) -> None:
    (unit,) = bind(tiny, f"dict({file}):0")
    values = torch.randn(2, 16, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(unit.read, (values,))
    silent = torch.zeros(1, 16, 4, requires_grad=True)
    unit.read(silent).sum().backward()
    assert torch.equal(silent.grad, torch.zeros_like(silent))  # type: ignore[arg-type]


def test_relevance_starts_from_all_of_a_feature(tiny: Model, file: Path) -> None:
    (unit,) = bind(tiny, f"dict({file}):0")
    values = values_of(tiny, pictures())
    start = unit.start(values)
    assert start.shape == values.shape
    torch.testing.assert_close(start.sum(1), unit.map(values))
    at = bind(tiny, f"dict({file}):0@2,1")[0].start(values).sum(1)
    assert float(at.sum()) == pytest.approx(float(unit.map(values)[:, 9].sum()), rel=1e-5)


def test_a_feature_is_held_and_the_others_stay(tiny: Model, file: Path) -> None:
    images, made = pictures(), concepts(tiny)
    before = made.activations(values_of(tiny, images))
    for position in (None, 9):
        with ablated(tiny, Tap("stage2"), 0.5, part=lambda v: part(made, v, 0), position=position):
            after = made.activations(values_of(tiny, images))
        places = slice(None) if position is None else [position]
        touched = before[:, 0, places] > 1e-4
        torch.testing.assert_close(after[:, 0, places][touched], torch.full((int(touched.sum()),), 0.5))
        torch.testing.assert_close(after[:, 1:], before[:, 1:], atol=1e-4, rtol=1e-4)
        if position is not None:
            torch.testing.assert_close(after[:, 0, :9], before[:, 0, :9])
    torch.testing.assert_close(made.activations(values_of(tiny, images)), before)


def test_evidence_of_a_feature(tiny: Model, file: Path, photo_folder: Path) -> None:
    (unit,) = bind(tiny, f"dict({file}):0")
    references = References(tiny, Photos.open(photo_folder))
    pixels = (pictures(1)[0].permute(1, 2, 0) * 255).byte().numpy()
    found = {e.name: e for e in measure(pixels, unit, references)}
    values = values_of(tiny, torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)
    scores = concepts(tiny).activations(values).mean(2)[0]
    assert (found["rank"].value, found["rank"].n) == (1 + int((scores > scores[0]).sum()), 3)
    torch.testing.assert_close(read_siblings(unit, values)[0], scores)
    for name in ("percentile", "selectivity", "causal"):
        assert found[name].value is not None, found[name].reason
    assert found["selectivity"].n == 2


def test_the_only_feature_has_no_rank(tiny: Model, tmp_path: Path) -> None:
    alone = Concepts.of([torch.ones(2, 16).cumsum(1) ** torch.arange(1, 3)[:, None]], layer="stage2",
                        model_sha256=tiny.card.weights_sha256)  # fmt: skip
    (unit,) = bind(tiny, f"dict({save(alone, tmp_path / 'one.safetensors')}):0")
    found = {e.name: e for e in measure((pictures(1)[0].permute(1, 2, 0) * 255).byte().numpy(), unit)}
    assert found["rank"].reason == "its dictionary has no other feature"


def test_any_dictionary_can_be_attenuated(tiny: Model) -> None:
    class Halves:
        """Two features: the first and the second half of the channels."""

        layer, names, model_sha256 = "stage2", ["first", "second"], tiny.card.weights_sha256

        def parts(self, maps_BCD: Tensor) -> Tensor:
            low = maps_BCD * (torch.arange(16) < 8)[:, None]
            return torch.stack([low, maps_BCD - low])

        def activations(self, maps_BCD: Tensor) -> Tensor:
            return self.parts(maps_BCD).norm(dim=2).transpose(0, 1)

    maps = values_of(tiny, pictures())
    after = attenuate(Halves(), maps, 1, 0.25)
    assert torch.equal(after[:, :8], maps[:, :8])
    torch.testing.assert_close(after[:, 8:], 0.25 * maps[:, 8:])
    made = concepts(tiny)
    torch.testing.assert_close(attenuate(made, maps, 1, 0.25), maps - 0.75 * made.part(maps, 1))


def test_a_unit_may_hold_a_dictionary_on_another_device_type(tiny: Model, file: Path) -> None:
    """Bases follow the values: double in, double out."""
    unit: Unit = bind(tiny, f"dict({file}):0")[0]
    assert unit.map(torch.randn(1, 16, 4).double()).dtype == torch.float64
    assert unit.map(torch.randn(1, 16, 4)).dtype == torch.float32

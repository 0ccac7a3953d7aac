"""Pictures larger than the network's input: stages, measured at both sizes, keys of others unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import entoptic
from entoptic.base.pixels import to_float
from entoptic.errors import UserError
from entoptic.methods.contract import config_identity
from entoptic.methods.fourier import Fourier
from entoptic.methods.large import squares, stages
from entoptic.methods.vital import Vital
from entoptic.models.model import Model
from entoptic.runs.see import see
from entoptic.units.unit import bind


def test_stages_grow_to_the_size_and_share_the_steps() -> None:
    assert stages((224, 224), 0, 10) == stages((224, 224), 224, 10) == [((224, 224), 10)]
    assert stages((224, 224), 448, 100) == [((224, 224), 50), ((448, 448), 50)]
    assert [size for size, _ in stages((224, 224), 512, 300)] == [(224, 224), (339, 339), (512, 512)]
    assert stages((24, 32), 64, 9) == [((24, 32), 4), ((48, 64), 5)]
    for steps in range(4, 40):
        planned = stages((32, 32), 200, steps)
        assert sum(count for _, count in planned) == steps
        assert min(count for _, count in planned) >= 1


@pytest.mark.parametrize(("size", "steps", "said"), [(200, 10, "which is 224, got 200"), (2000, 3, "too few")])
def test_sizes_that_cannot_be(size: int, steps: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        stages((224, 224), size, steps)


def test_the_network_sees_a_part_at_its_own_size() -> None:
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    ramp = torch.linspace(0, 1, 80).expand(3, 64, 80)[None].repeat(2, 1, 1, 1)
    widths = set()
    for _ in range(12):
        views = squares((16, 20))(ramp, generators)
        assert views.shape == (2, 3, 16, 20)
        widths.add(round(float(views[0, 0, 0, -1] - views[0, 0, 0, 0]), 1))
    assert len(widths) > 2  # from a fourth of the picture to nearly all of it
    alone = squares((16, 20))(ramp[1:], [torch.Generator().manual_seed(1)])
    torch.testing.assert_close(
        alone[0], squares((16, 20))(ramp, [torch.Generator(), torch.Generator().manual_seed(1)])[1]
    )


def test_keys_of_runs_without_a_size_stay() -> None:
    for config in (Fourier(), Vital()):
        assert "size" not in config_identity(config)
    assert config_identity(Fourier(size=512))["size"] == 512


@pytest.mark.parametrize("method", ["fourier", "vital"])
def test_a_large_picture_is_measured_at_both_sizes(
    tiny: Model, photo_folder: Path, tmp_path: Path, method: str
) -> None:
    own = tiny.card.size[0]
    side = round(2.5 * own)
    run = see(
        tiny, ["logits:0", "stage2:3"], method=method, size=side, steps=7, photos=photo_folder, out=tmp_path / "run",
        verifiers="", progress=False,
    )  # fmt: skip
    assert len(run) == 2
    for picture in run:
        assert picture.pixels.shape == (side, side, 3)
        trace = picture.record["trace"]
        assert (trace["steps"], trace["evaluations"]) == (7, 7)
        assert [t for t, _ in trace["loss"]] == list(range(7))
        told = trace["score at both sizes"]
        (unit,) = bind(tiny, picture.unit)
        assert (told["picture"], told["network"], told["parts"]["n"]) == ([side, side], [own, own], 9)
        whole = float(unit.score(tiny.fit(to_float(picture.pixels)))[0])
        assert told["whole, resized"] == pytest.approx(whole, abs=1e-3)
        assert told["parts"]["largest"] >= told["parts"]["mean"]
        value = next(one["value"] for one in picture.record["evidence"] if one["name"] == "activation")
        assert value == pytest.approx(whole, abs=1e-3)
    assert entoptic.verify(run, model=tiny, photos=photo_folder).ok


def test_a_large_picture_alone_or_in_a_batch(tiny: Model, tmp_path: Path) -> None:
    def make(units: list[str], name: str) -> dict[str, torch.Tensor]:
        run = see(
            tiny,
            units,
            method="fourier",
            size=2 * tiny.card.size[0],
            steps=4,
            out=tmp_path / name,
            verifiers="",
            progress=False,
        )
        return {picture.unit: to_float(picture.pixels) for picture in run}

    both, alone = make(["logits:0", "logits:1"], "both"), make(["logits:1"], "alone")
    unit = next(iter(alone))
    torch.testing.assert_close(both[unit], alone[unit], atol=2 / 255, rtol=0)


def test_an_interrupt_keeps_the_size(tiny: Model, tmp_path: Path) -> None:
    from entoptic.images.references import References
    from entoptic.methods.contract import Context, Item
    from entoptic.methods.fourier import fourier

    def stop(step: int, steps: int) -> None:
        assert steps == 8
        if step == 2:
            raise KeyboardInterrupt

    (unit,) = bind(tiny, "logits:0")
    side, made = 2 * tiny.card.size[0], []
    context = Context(model=tiny, references=References(tiny), on_step=stop)
    with pytest.raises(KeyboardInterrupt):
        made.extend(fourier([Item(target=unit, sample=0, seed=0)], Fourier(size=side, steps=8), context))
    assert made[0].image is not None
    assert tuple(made[0].image.shape) == (3, side, side)
    assert made[0].trace.interrupted_at == 2

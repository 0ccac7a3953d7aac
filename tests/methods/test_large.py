"""Pictures larger than the network's input: stages, measured at both sizes, keys of others unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import entoptic
from entoptic.base.pixels import to_float
from entoptic.errors import UserError
from entoptic.methods.contract import config_identity
from entoptic.methods.diverse import Diverse
from entoptic.methods.fourier import Fourier
from entoptic.methods.large import squares, stages
from entoptic.methods.maco import Maco
from entoptic.methods.pixels import PixelAscent
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
    for config in (Fourier(), Vital(), Maco(), PixelAscent(), Diverse()):
        assert "size" not in config_identity(config)
    assert config_identity(Fourier(size=512))["size"] == 512


@pytest.mark.parametrize("method", ["fourier", "vital", "pixels"])
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


def test_maco_paints_a_canvas_of_the_size(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    side = 2 * tiny.card.size[0]
    asked: dict[str, Any] = {"method": "maco", "steps": 2, "photos": photo_folder, "verifiers": "", "progress": False}
    (sized,) = see(tiny, "logits:0", size=side, out=tmp_path / "size", **asked)
    (canvas,) = see(tiny, "logits:0", canvas=side, out=tmp_path / "canvas", **asked)
    assert (sized.pixels == canvas.pixels).all()
    assert sized.pixels.shape == (side, side, 3)
    assert sized.record["trace"]["score at both sizes"]["picture"] == [side, side]
    assert "score at both sizes" not in canvas.record["trace"]
    with pytest.raises(UserError, match="size must be above the network's own"):
        see(tiny, "logits:0", size=side // 2 - 1, out=tmp_path / "small", **asked)


def test_large_diverse_pictures_differ_and_stay_themselves(tiny: Model, tmp_path: Path) -> None:
    side = 2 * tiny.card.size[0]

    def make(n: int, name: str) -> list[Any]:
        return list(
            see(
                tiny, "logits:0", method="diverse", size=side, steps=5, pictures=3, n=n, out=tmp_path / name, verifiers="",
                progress=False,
            )
        )  # fmt: skip

    three, one = make(3, "three"), make(1, "one")
    assert [picture.pixels.shape for picture in three] == [(side, side, 3)] * 3
    torch.testing.assert_close(to_float(one[0].pixels), to_float(three[0].pixels), atol=2 / 255, rtol=0)
    trace = three[0].record["trace"]
    assert trace["steps"] == trace["evaluations"] == 5
    assert one[0].record["trace"]["evaluations"] == 15  # two more pictures were made along with it
    assert set(trace["gram_cosine"]) == {"first", "last"}
    assert trace["score at both sizes"]["parts"]["n"] == 9


def test_a_group_with_a_failed_picture_fails_at_the_next_size(tiny: Model) -> None:
    from dataclasses import replace as replaced

    from entoptic.images.references import References
    from entoptic.methods import diverse as module
    from entoptic.methods.contract import Context, Item
    from entoptic.methods.large import Stage

    (unit,) = bind(tiny, "logits:0")
    items = [Item(target=unit, sample=s, seed=0) for s in (0, 1, 2)]  # of the second group one picture is left
    own = tiny.card.size
    stage = Stage(items=items, size=own, steps=1, start=None, context=Context(model=tiny, references=References(tiny)))
    made = {draft.item.sample: draft for draft in module._made_to_differ(Diverse(pictures=2, steps=1), stage)}
    assert made[0].image is not None
    assert made[1].image is not None
    assert made[2].image is None
    assert made[2].failure is not None
    assert "another picture of the group" in made[2].failure.text
    nothing = list(module._made_to_differ(Diverse(pictures=2), replaced(stage, items=items[2:])))
    assert [draft.image for draft in nothing] == [None]


def test_pixels_on_a_sphere_keep_their_contrast_at_each_size(tiny: Model, tmp_path: Path) -> None:
    own = tiny.card.size[0]
    options: dict[str, Any] = {"method": "pixels", "radius": 2.0, "steps": 4, "verifiers": "", "progress": False}
    (large,) = see(tiny, "logits:0", size=2 * own, out=tmp_path / "run", **options)
    assert float((to_float(large.pixels) - 0.5).norm()) == pytest.approx(2.0, rel=0.05)


def test_a_method_without_sizes_names_those_with(tiny: Model, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'no option "size" in caricature; .*vital have it'):
        see(tiny, "logits:0", method="caricature", size=512, out=tmp_path / "run", progress=False)


def test_vital_keeps_a_large_picture_as_smooth(
    tiny: Model, photo_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from entoptic.methods import ascent

    weights, plain = [], ascent.ascend

    def spied(items: Any, canvas: Any, objective: Any, *more: Any, **options: Any) -> Any:
        weights.append([weight for weight, term in objective.terms if "total_variation" in term.__qualname__])
        return plain(items, canvas, objective, *more, **options)

    monkeypatch.setattr(ascent, "ascend", spied)
    see(
        tiny, "logits:0", method="vital", size=2 * tiny.card.size[0], steps=4, photos=photo_folder, out=tmp_path / "run",
        verifiers="", progress=False,
    )  # fmt: skip
    assert weights == [[Vital().smoothness], [4 * Vital().smoothness]]


def test_squares_show_the_border_about_as_often_as_the_middle() -> None:
    mark = torch.zeros(1, 3, 48, 48)
    mark[..., 0] = 1.0  # the leftmost column
    generator = torch.Generator().manual_seed(0)
    seen = sum(float(squares((16, 16))(mark, [generator]).max()) > 0.2 for _ in range(200))
    assert seen > 50

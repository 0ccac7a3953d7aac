"""Units: from strings to scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from conftest import LABELS, tiny_card, tiny_module
from entoptic.errors import UserError
from entoptic.models.model import Model
from entoptic.models.taps import Tap
from entoptic.units.unit import bind, slug


def pictures(count: int = 3) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def refused(model: Model, units: Any) -> str:
    with pytest.raises(UserError) as error:
        bind(model, units)
    return str(error.value)


def names(model: Model, units: Any) -> list[str]:
    return [str(unit) for unit in bind(model, units)]


# --- binding -------------------------------------------------------------------------------------------------------


def test_ranges_stars_and_doubles(tiny: Model) -> None:
    assert names(tiny, "stage1:2-4") == ["stage1:2", "stage1:3", "stage1:4"]
    assert names(tiny, "stage1:2-2@max") == ["stage1:2@max"]
    assert names(tiny, "logits:*") == [f"logits:{i}" for i in range(5)]
    assert names(tiny, ["logits:1", "logits:0-2", 'logits:"square"']) == ["logits:1", "logits:0", "logits:2"]
    unit = bind(tiny, "logits:3")[0]
    assert bind(tiny, [unit, "logits:3"]) == [unit]


def test_labels(tiny: Model) -> None:
    unit = bind(tiny, 'logits:"Stripe"')[0]
    assert (str(unit), unit.label, unit.kind, unit.readout) == ("logits:2", "stripe", "logit", "value")
    assert [u.label for u in bind(tiny, "logits:*")] == list(LABELS)
    assert refused(tiny, 'logits:"sqare"') == 'no label "sqare" in tiny; did you mean "square"?'
    assert refused(tiny, 'stage1:"square"') == "only logits have names; stage1 has channels 0-11"
    bare = Model(tiny_module(), tiny_card(labels=None), device="cpu")
    assert refused(bare, 'logits:"square"') == "tiny has no labels; use logits:0 to logits:4"


def test_an_ambiguous_label_is_answered_with_all_it_fits() -> None:
    card = tiny_card(labels=("wood duck", "duck", "duck hawk", "crane", "crane"))
    model = Model(tiny_module(), card, device="cpu")
    assert names(model, 'logits:"duck"') == ["logits:1"]
    message = refused(model, 'logits:"crane"')
    assert 'crane" fits 2 labels of tiny: crane (logits:3), crane (logits:4); give one of them' in message
    assert "wood duck (logits:0)" not in message


def test_bad_units(tiny: Model) -> None:
    assert "stage1 of tiny has 12 channels, 0 to 11; did you mean stage1:11?" in refused(tiny, "stage1:12")
    assert "did you mean stage1:11?" in refused(tiny, "stage1:3-12")
    assert "logits of tiny has 5 logits, 0 to 4" in refused(tiny, "logits:5")
    assert 'did you mean "stage1" (12 channels)?' in refused(tiny, "stagee1:0")
    assert "rows 0-7 and columns 0-7" in refused(tiny, "stage1:0@8,0")
    assert "rows 0-7 and columns 0-7" in refused(tiny, "stage1:0@0,8")
    assert "map without tokens; use @ROW,COLUMN" in refused(tiny, "stage1:0@cls")
    assert "one value per channel" in refused(tiny, "logits:0@3,3")
    assert 'does not end in an activation function, drop ".pre"' in refused(tiny, "stem:0@mean.pre")
    assert "no unit was named" in refused(tiny, [])
    assert "there is no dictionary x" in refused(tiny, "dict(x):3")
    assert "it can only be inverted" in refused(tiny, "fmap(stem)<x.png>")
    other = Model(tiny_module(1), tiny_card(name="other"), device="cpu")
    assert "is a unit of other, not of tiny" in refused(tiny, bind(other, "logits:0"))


# --- readouts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "by_hand"),
    [
        ("stage1:3", lambda raw: raw[:, 3].mean((1, 2))),
        ("stage1:3@mean", lambda raw: raw[:, 3].mean((1, 2))),
        ("stage1:3@max", lambda raw: raw[:, 3].amax((1, 2))),
        ("stage1:3@centre", lambda raw: raw[:, 3, 4, 4]),
        ("stage1:3@2,7", lambda raw: raw[:, 3, 2, 7]),
    ],
)
def test_readouts_of_a_map(tiny: Model, text: str, by_hand: Any) -> None:
    images = pictures()
    raw = tiny.module.eval()[:2](tiny.normalise(images))  # type: ignore[index, operator]
    torch.testing.assert_close(bind(tiny, text)[0].score(images), by_hand(raw))


def test_readouts_before_the_activation(tiny: Model) -> None:
    images = pictures()
    raw = tiny.module.eval()[1][:3](tiny.module[0](tiny.normalise(images)))  # type: ignore[index, operator]
    torch.testing.assert_close(bind(tiny, "stage1:3@.pre")[0].score(images), raw[:, 3].mean((1, 2)))
    torch.testing.assert_close(bind(tiny, "stage1:3@max.pre")[0].score(images), raw[:, 3].amax((1, 2)))
    torch.testing.assert_close(bind(tiny, "stage1:3@1,2.pre")[0].score(images), raw[:, 3, 1, 2])


def test_logits_and_vectors_are_read_as_they_are(tiny: Model) -> None:
    images = pictures()
    logits = tiny(images)
    for text in ("logits:2", "logits:2@mean", "head:2@max"):
        unit = bind(tiny, text)[0]
        assert unit.readout == "value"
        torch.testing.assert_close(unit.score(images), logits[:, 2])


def test_tokens() -> None:
    torch.manual_seed(0)
    module = timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=32)
    model = Model(module, tiny_card(labels=None), device="cpu")
    images = pictures(2)
    raw = model.read(images, [Tap("blocks.2")])[Tap("blocks.2")]  # B×C×5 tokens
    for text, expected in (
        ("blocks.2:7@cls", raw[:, 7, 0]), ("blocks.2:7@tok3", raw[:, 7, 3]), ("blocks.2:7", raw[:, 7].mean(1)),
        ("blocks.2:7@max", raw[:, 7].amax(1)),
    ):  # fmt: skip
        torch.testing.assert_close(bind(model, text)[0].score(images), expected)
    assert "has tokens 0 to 4" in refused(model, "blocks.2:7@tok5")
    # The class token, then 2×2 patches row by row.
    torch.testing.assert_close(bind(model, "blocks.2:7@1,0")[0].score(images), raw[:, 7, 3])
    torch.testing.assert_close(bind(model, "blocks.2:7@centre")[0].score(images), raw[:, 7, 4])
    assert "blocks.2 has 2×2 patches, rows 0-1 and columns 0-1" in refused(model, "blocks.2:7@1,2")


def test_tokens_that_lie_nowhere() -> None:
    module = nn.Sequential(nn.Flatten(2), nn.Linear(1024, 6), nn.Flatten(), nn.Linear(18, 5))
    model = Model(module, tiny_card(), device="cpu")
    for readout in ("@centre", "@0,0"):
        assert "where the 3 tokens of 1 lie is not known; use @cls, @tokN" in refused(model, f"1:0{readout}")
    assert bind(model, "1:0@tok2")[0].position == 2


def test_directions(tiny: Model, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    file = tmp_path / "found.safetensors"
    tensors = {"stripes": torch.randn(12, generator=generator), "other": torch.randn(8, generator=generator)}
    save_file(tensors, file, metadata={"layer": "stage1", "layer.other": "stem"})
    images = pictures()
    raw = tiny.read(images, [Tap("stage1"), Tap("stem")])
    unit = bind(tiny, f"dir({file}#stripes)")[0]
    assert (unit.kind, unit.label, unit.layer) == ("direction", "stripes", "stage1")
    expected = (raw[Tap("stage1")] * tensors["stripes"][:, None]).sum(1)
    torch.testing.assert_close(unit.score(images), expected.mean(1))
    torch.testing.assert_close(bind(tiny, f"dir({file}#stripes)@max")[0].score(images), expected.amax(1))
    other = (raw[Tap("stem")] * tensors["other"][:, None]).sum(1)
    torch.testing.assert_close(bind(tiny, f"dir({file}#other)@0,1")[0].score(images), other[:, 1])
    assert 'no direction "stripe"; did you mean "stripes"?' in refused(tiny, f"dir({file}#stripe)")
    assert "there is no file" in refused(tiny, f"dir({file}x#stripes)")
    save_file(tensors, file)
    assert 'its metadata needs "layer"' in refused(tiny, f"dir({file}#stripes)")
    save_file(tensors, file, metadata={"layer": "stage2"})
    assert "has 12 entries but stage2 has 16 channels" in refused(tiny, f"dir({file}#stripes)")
    file.write_bytes(b"x")
    assert "is not a safetensors file" in refused(tiny, f"dir({file}#stripes)")


def test_before_activation(tiny: Model) -> None:
    unit = bind(tiny, "stage1:3@max")[0]
    before = unit.before_activation()
    assert before is not None
    assert str(before) == "stage1:3@max.pre"
    assert before.tap == Tap("stage1", pre=True)
    assert before.before_activation() is None
    assert bind(tiny, "stem:0")[0].before_activation() is None
    assert bind(tiny, "logits:0")[0].before_activation() is None


@pytest.mark.parametrize("text", ["logits:1", "stage1:3", "stage2:0@max", "stem:2@5,6"])
def test_a_score_does_not_depend_on_batch_mates(tiny: Model, text: str) -> None:
    unit, images = bind(tiny, text)[0], pictures(4)
    alone = torch.cat([unit.score(image[None]) for image in images])
    torch.testing.assert_close(unit.score(images), alone, rtol=1e-5, atol=1e-6)
    assert float(alone.std()) > 0


def test_pictures_of_another_size_are_resized(tiny: Model) -> None:
    large = torch.rand(2, 3, 50, 40, generator=torch.Generator().manual_seed(0))
    unit = bind(tiny, "logits:1")[0]
    torch.testing.assert_close(unit.score(large), unit.score(tiny.fit(large)))


def test_html(tiny: Model) -> None:
    page = bind(tiny, "logits:1")[0]._repr_html_()
    assert "logits:1" in page
    assert "square" in page


# --- file names ----------------------------------------------------------------------------------------------------

texts = st.text(st.sampled_from('ab1.:-_@,"()# é/'), min_size=1, max_size=12)


@given(st.sets(texts, min_size=2, max_size=30))
def test_slugs_are_safe_and_unique(units: set[str]) -> None:
    slugs = {slug(unit) for unit in units}
    assert len(slugs) == len(units)
    for one in slugs:
        assert all(c.isascii() and (c.isalnum() or c in "._,@-") for c in one)
        assert one not in (".", "..", "")
        assert len(one) < 100


def test_plain_units_have_plain_slugs() -> None:
    assert slug("logits:207") == "logits-207"
    assert slug("features.6:112@3,5") == "features.6-112@3,5"
    assert slug("a:" + "9" * 300) != slug("a:" + "9" * 301)

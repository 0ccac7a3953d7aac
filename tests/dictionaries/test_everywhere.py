"""Features of every kind of dictionary are units everywhere: methods, index, evidence, verify, gallery."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import TwoClasses
from entoptic.cli.main import main
from entoptic.errors import UserError
from entoptic.gallery.site import build
from entoptic.images.build_index import build_index
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.methods import METHODS, MethodCard
from entoptic.methods.contract import Context, Draft, Item, make_config
from entoptic.models.model import Model
from entoptic.runs.see import see
from entoptic.runs.steer import check_dictionary
from entoptic.runs.verify import verify
from entoptic.units.concepts import Concepts
from entoptic.units.dictionary import save
from entoptic.units.directions import Directions
from entoptic.units.factors import NonNegative
from entoptic.units.sparse import Sparse
from entoptic.units.splits import Split
from entoptic.units.unit import Unit, bind

DOCS = Path(__file__).parents[2] / "docs" / "dictionaries.md"
SMALL: dict[str, Any] = {
    "steps": 2, "canvas": 48, "crops": 2, "photos": 4, "references": 4, "nats": 0.5, "bank": 512, "fresh": 16, "particles": 12,
    "islands": 2, "moves": 1, "leaps": 1,
}  # fmt: skip
READS_TEXT = {"prompt", "prompt-words"}
"""Methods that need a prior that reads text, which a test of units does not need: they score units as best-of does."""


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dictionaries(model: Model) -> dict[str, Any]:
    """One dictionary of each family, by its name in the table."""
    own: dict[str, Any] = {"layer": "stage2", "model_sha256": model.card.weights_sha256}
    conv: Any = model.module.stage2[0]  # type: ignore[union-attr, index]
    half = torch.rand(1, 12, generator=torch.Generator().manual_seed(3))
    numbers: dict[str, Any] = {
        "encoder": draw(24, 16, 1, 1, seed=0), "encoder_bias": 0.1 * draw(24, seed=1), "decoder": draw(24, 16, seed=2),
        "decoder_bias": torch.zeros(16),
    }  # fmt: skip
    wide = {"encoder": draw(24, 12, 3, 3, seed=0) / 3, "layer": "stage1", "writes": "stage2", "grid": (8, 8)}
    return {
        "SAE": Sparse(**numbers, threshold=torch.full((24,), 0.2), kind="jumprelu", **own),
        "SAE, TopK without a threshold": Sparse(**numbers, threshold=None, kind="topk", k=4, **own),
        "transcoder": Sparse(**numbers | own | wide, threshold=torch.zeros(24), kind="relu"),
        "directions": Directions(directions=draw(3, 16, seed=4), **own),
        "split": Split(
            weights=conv.weight[:1].detach(), biases=conv.bias[:1].detach(), partition=torch.cat([half, 1 - half]),
            of_unit=torch.tensor([0, 0]), units=[0], writes="stage2.0", padding=1, grid=(8, 8), **own | {"layer": "stage1"},
        ),
        "NMF": NonNegative(decoder=draw(6, 16, seed=5).abs(), **own),
        "concepts": Concepts.of([draw(p, 16, seed=p) for p in (3, 1, 2)], None, **own),
    }  # fmt: skip


KINDS = (
    "SAE", "SAE, TopK without a threshold", "transcoder", "directions", "split", "NMF", "concepts",
)  # fmt: skip
SHOWING = [card for card in METHODS.values() if card.shows_units and card.function.__module__.startswith("entoptic.")]


def first_unit(model: Model, kind: str, folder: Path) -> Unit:
    file = save(dictionaries(model)[kind], folder / f"{re.sub('[^a-z]', '-', kind.lower())}.safetensors")
    return bind(model, f"dict({file}):1@max")[0]


def make(
    card: MethodCard, items: Sequence[Item], references: References, photo: Path, **more: Any
) -> list[Draft]:  # fmt: skip
    asked = SMALL | {"photo": str(photo)} | more
    options = {k: v for k, v in asked.items() if k in card.config.__dataclass_fields__}
    context = Context(model=references.model, references=references, prior=TwoClasses())
    return list(card.function(items, make_config(card, options), context))


def cell(card: MethodCard, kind: str) -> str:
    """What the table says of a method and a kind of dictionary."""
    return "yes" if "feature" in card.units else f"no: {card.name} shows {' and '.join(sorted(card.units))}s"


@pytest.mark.parametrize(
    "card", [c for c in SHOWING if "feature" in c.units and c.name not in READS_TEXT], ids=lambda c: c.name
)
@pytest.mark.parametrize("kind", KINDS)
def test_methods_show_features(
    card: MethodCard, kind: str, tiny: Model, photo_folder: Path, tmp_path: Path, tiny_student: str
) -> None:
    unit = first_unit(tiny, kind, tmp_path)
    references, photo = References(tiny, Photos.open(photo_folder)), next(photo_folder.rglob("*.png"))
    (draft,) = make(card, [Item(target=unit, sample=0, seed=0)], references, photo)
    assert draft.image is not None, draft
    assert bool(torch.as_tensor(draft.image, dtype=torch.float32).isfinite().all())


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_indexed_measured_verified_and_shown(
    kind: str, tiny: Model, photo_folder: Path, tmp_path: Path, tiny_student: str
) -> None:
    unit = first_unit(tiny, kind, tmp_path)
    group = str(unit).partition(":1@")[0]
    index = build_index(
        tiny, photo_folder, [group, "stage2"], out=tmp_path / "index", k=5, bottom=2, readouts=["", "max"]
    )
    assert unit in index
    photos = Photos.open(photo_folder)
    images = torch.cat([batch for _, batch in photos.batches(tiny.card.prepare, 16)])
    scores_N = unit.score(images)
    best = index.top(unit, 1)[0]
    assert best.value == pytest.approx(float(scores_N.max()), abs=1e-4)
    assert best.unit == str(unit)
    assert len(index.units(group)) == 2 * len(unit.dictionary.names)  # type: ignore[union-attr]
    run = see(
        tiny, str(unit), method="pixels", steps=3, n=1, photos=photo_folder, verifiers=tiny_student, out=tmp_path / "run",
        progress=False,
    )  # fmt: skip
    (picture,) = run
    assert picture.record["unit"] == str(unit)
    assert picture.evidence["percentile"]["n"] == 40
    causal = picture.evidence["causal"]
    if kind in ("transcoder", "split"):
        assert "this one reads stage1 and writes stage2" in causal["reason"]
    else:
        assert "writes" not in (causal["reason"] or "")
    has_scores = kind in ("SAE", "SAE, TopK without a threshold", "transcoder")
    assert ("klsc_guidance" in picture.evidence) == ("klsc_evaluation" in picture.evidence) == has_scores
    if has_scores:  # the saved picture, read by hand
        (image,) = (torch.from_numpy(picture.array).permute(2, 0, 1)[None].float() / 255,)
        made, values_BCD = dictionaries(tiny)[kind], tiny.read(tiny.fit(image), [unit.tap])[unit.tap]
        rows, columns = tiny.layer(unit.layer).grid
        central = made.pre_activation(values_BCD, 1).view(rows, columns)
        central = central[rows // 4 : rows // 4 + rows // 2, columns // 4 : columns // 4 + columns // 2]
        guidance = 0.7 * float(central.max()) + 0.3 * float(central.relu().mean())
        assert picture.evidence["klsc_guidance"]["value"] == pytest.approx(guidance, abs=1e-4)
        peak = float(made.activations(values_BCD)[0, 1].max())
        assert picture.evidence["klsc_evaluation"]["value"] == pytest.approx(peak, abs=1e-4)
    assert picture.evidence["rank"]["n"] == len(unit.dictionary.names)  # type: ignore[union-attr]
    assert not verify(run, model=tiny).drift
    assert build(run.path).is_file()


def test_an_index_of_a_changed_dictionary_is_refused(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    unit = first_unit(tiny, "SAE", tmp_path)
    group = str(unit).partition(":1@")[0]
    index = build_index(tiny, photo_folder, [group], out=tmp_path / "index")
    changed = dictionaries(tiny)["SAE"]
    save(changed.with_(encoder=2 * changed.encoder), tmp_path / "sae.safetensors")
    again = bind(tiny, str(unit).replace("@max", ""))[0]
    with pytest.raises(UserError, match="was made with other numbers"):
        index.top(again)
    with pytest.raises(UserError, match="no layer"):
        index.top(bind(tiny, "stage2:0")[0])


def test_steering_refuses_parts_of_another_layer(tiny: Model) -> None:
    from entoptic.inversion.maps import FeatureMaps

    kinds = dictionaries(tiny)
    with pytest.raises(UserError, match="steering needs a dictionary whose features are parts"):
        check_dictionary(kinds["transcoder"], FeatureMaps.of(tiny, "stage1"), "d")
    check_dictionary(kinds["SAE"], FeatureMaps.of(tiny, "stage2"), "d")


def table() -> str:
    """The docs' table of methods and kinds of dictionary: what the tests above run."""
    lines = ["| method | " + " | ".join(KINDS) + " |", "|---" * (len(KINDS) + 1) + "|"]
    for card in SHOWING:
        lines.append(f"| `{card.name}` | " + " | ".join(cell(card, kind) for kind in KINDS) + " |")
    own, other = "yes", "no: its parts are of another layer"
    steer = [other if kind in ("transcoder", "split") else own for kind in KINDS]
    lines.append("| `steer`, and evidence `causal` | " + " | ".join(steer) + " |")
    return "\n".join(lines)


def test_the_docs_table_is_that_of_these_tests() -> None:
    assert table() in DOCS.read_text(), f"docs/dictionaries.md lacks this table:\n{table()}"


def test_the_shipped_dictionary_is_a_unit(lite0: Model, capsys: pytest.CaptureFixture[str]) -> None:
    (unit,) = bind(lite0, "dict(builtin:lite0-blocks-6):17")
    assert (unit.layer, unit.kind, unit.readout) == ("blocks.6", "feature", "mean")
    made: Any = unit.dictionary
    assert made.found["fit"]["explained"] > 0.5
    assert len(made) == 512
    score = unit.score(torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)))
    assert bool(score.isfinite().all())
    assert main(["ls", "dictionaries"]) == 0
    assert "builtin:lite0-blocks-6" in capsys.readouterr().out

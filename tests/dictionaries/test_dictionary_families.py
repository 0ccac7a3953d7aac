"""Features of a dictionary in networks of other families: a map with channels last, tokens with a class token, no map at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_everywhere import DOCS, READS_TEXT, SHOWING, cell, draw, make
from torch import Tensor, nn

from conftest import tiny_card
from entoptic import UserError, learn_dictionary
from entoptic.dictionaries.recipe import DictionaryRecipe
from entoptic.images.build_index import build_index
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.methods import MethodCard
from entoptic.methods.contract import Item
from entoptic.models.model import Model
from entoptic.units.dictionary import save
from entoptic.units.sparse import Sparse
from entoptic.units.unit import bind


class ChannelsLast(nn.Module):
    """A map B×H×W×C, as in Swin and ConvNeXt."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.fc1 = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.Linear(8, 16)
        self.act, self.fc2, self.head = nn.GELU(), nn.Linear(16, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.fc2(self.act(self.fc1(self.norm(self.stem(x).permute(0, 2, 3, 1))))).mean((1, 2)))


class Tokens(nn.Module):
    """A class token and patches B×T×C, as in a ViT."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.token, self.norm = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.ones(1, 1, 8)), nn.LayerNorm(8)
        self.fc1, self.act, self.fc2, self.head = nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.cat([self.token.expand(len(x), -1, -1), self.patch(x).flatten(2).mT], 1)
        return self.head((rows + self.fc2(self.act(self.fc1(self.norm(rows))))).mean(1))


class NoMap(nn.Module):
    """A perceptron over all pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.fc1, self.act, self.head = nn.Flatten(), nn.Linear(3 * 32 * 32, 16), nn.GELU(), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.fc1(self.flat(x))))


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "map, channels last": ChannelsLast, "tokens and a class token": Tokens, "no map": NoMap,
}  # fmt: skip
MATCHING = ("accentuate", "diverse", "vital")
"""Methods that compare pictures at layers, which have to be named where a network has none to choose from."""
WITHOUT_LAYERS = ("no map",)


def network(family: str) -> Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = FAMILIES[family]()
    return Model(module.eval(), tiny_card(), device="cpu")


def sparse(model: Model) -> Sparse:
    return Sparse(
        encoder=draw(24, 16, 1, 1, seed=0), encoder_bias=0.1 * draw(24, seed=1), decoder=draw(24, 16, seed=2),
        decoder_bias=torch.zeros(16), threshold=torch.full((24,), 0.05), kind="jumprelu", layer="fc1",
        model_sha256=model.card.identity,
    )  # fmt: skip


@pytest.mark.parametrize(
    "card", [c for c in SHOWING if "feature" in c.units and c.name not in READS_TEXT], ids=lambda c: c.name
)
@pytest.mark.parametrize("family", FAMILIES)
def test_methods_show_features_of_every_family(
    card: MethodCard, family: str, photo_folder: Path, tmp_path: Path
) -> None:
    model = network(family)
    file = save(sparse(model), tmp_path / "d.safetensors")
    (unit,) = bind(model, f"dict({file}):1@max")
    references, photo = References(model, Photos.open(photo_folder)), next(photo_folder.rglob("*.png"))
    items = [Item(target=unit, sample=0, seed=0)]
    named: dict[str, Any] = {}
    if card.name in MATCHING and family in WITHOUT_LAYERS:
        with pytest.raises(UserError, match="with the method's option layer or layers"):
            make(card, items, references, photo)
        named = {"layers": ("fc1",), "layer": "fc1"}
    (draft,) = make(card, items, references, photo, **named)
    assert draft.image is not None, draft
    assert bool(torch.as_tensor(draft.image, dtype=torch.float32).isfinite().all())


@pytest.mark.parametrize("family", FAMILIES)
def test_features_of_every_family_are_learned_indexed_and_spliced_in(
    family: str, photo_folder: Path, tmp_path: Path
) -> None:
    model, lines = network(family), []
    recipe = DictionaryRecipe(features=8, active=2, steps=4, batch_size=16, buffer=200, positions=8)
    file = learn_dictionary(model, "fc1", photo_folder, tmp_path / "d", recipe, progress=False, log=lines.append)
    assert "spliced in, the output's cosine is" in lines[-1]
    index = build_index(model, photo_folder, [f"dict({file})"], out=tmp_path / "index", k=3, readouts=["max"])
    (unit,) = bind(model, f"dict({file}):1@max")
    assert len(index.top(unit, 3)) == 3


def table() -> str:
    """The docs' table of methods and families of networks: what the tests above run."""
    lines = ["| method | map | " + " | ".join(FAMILIES) + " |", "|---" * (len(FAMILIES) + 2) + "|"]
    for card in SHOWING:
        here = cell(card, "SAE")
        named = "yes, with a layer named" if card.name in MATCHING else here
        there = [named if family in WITHOUT_LAYERS else here for family in FAMILIES]
        lines.append(f"| `{card.name}` | {here} | " + " | ".join(there) + " |")
    return "\n".join(lines)


def test_the_docs_table_is_that_of_these_tests() -> None:
    assert table() in DOCS.read_text(), f"docs/dictionaries.md lacks this table:\n{table()}"

"""Relevance of a matching head: complete, equal to a loop and to the recorded head, zeros and bad input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from conftest import tiny_card
from entoptic.errors import UserError
from entoptic.models.max_match import matched, max_match
from entoptic.models.model import LOGITS, Model
from entoptic.models.relevance import relevance
from entoptic.models.rule_tables import EPSILON, GRADIENT
from entoptic.models.rules import identity, proportional
from entoptic.models.taps import Tap


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_loops(values: Tensor, prototypes: Tensor, total: Tensor) -> Tensor:
    """The rule as it is written: positions by their matched similarity, channels by their product."""
    found = torch.zeros_like(values)
    for b in range(len(values)):
        cosines = [
            [float(torch.cosine_similarity(values[b, :, d], h, dim=0)) for h in prototypes]
            for d in range(values.shape[2])
        ]
        best = [max(row) for row in cosines]
        for d, row in enumerate(cosines):
            h = prototypes[row.index(best[d])]
            product = values[b, :, d] * h
            found[b, :, d] = total[b] * best[d] / sum(best) * product / product.sum()
    return found


def test_it_is_the_rule_as_it_is_written() -> None:
    values, prototypes, total = (
        random(3, 5, 7),
        random(4, 5, seed=1),
        torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64),
    )
    assert torch.allclose(max_match(values, prototypes, total), by_loops(values, prototypes, total), atol=1e-10)


def test_the_layer_holds_all_relevance() -> None:
    values, prototypes = random(6, 8, 20).float(), random(5, 8, seed=1).float()
    similarity, index = matched(values, prototypes)
    score = similarity.sum(1)
    assert torch.allclose(max_match(values, prototypes).sum((1, 2)), score, rtol=1e-6, atol=1e-6)
    assert torch.allclose(max_match(values, prototypes, 3 * score).sum((1, 2)), 3 * score, rtol=1e-6, atol=1e-6)
    assert torch.allclose(max_match(values, prototypes).sum(1), similarity, atol=1e-6)  # position by position
    assert int(index.max()) < 5


class MatchingHead(nn.Module):
    """Features without biases, then Σ max cos as one logit."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.ReLU())
        self.features[0].weight.data = random(6, 3, 3, 3, seed=2).float() / 3
        self.prototypes = nn.Parameter(normalize(random(4, 6, seed=3).float(), dim=1))

    def forward(self, images: Tensor) -> Tensor:
        positions_BDC = normalize(self.features(images).flatten(2).transpose(1, 2), dim=2)
        return (positions_BDC @ self.prototypes.T).amax(2).sum(1, keepdim=True)


@pytest.fixture
def head() -> Model:
    return Model(MatchingHead(), tiny_card(size=(16, 16), labels=("match",)), device="cpu")


def test_it_equals_the_recorded_head_by_the_rules_of_its_operations(head: Model) -> None:
    """Σ shares by value, max gives all to the winner, the product shares by contribution, the norm keeps."""
    images, tap = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(4)), Tap("features")
    rules = EPSILON.with_(eps=1e-12, norm=identity, avg_pool=proportional)
    recorded = relevance(head, images, {Tap(LOGITS): lambda values: values}, [tap], rules=rules).maps[tap]
    with torch.no_grad():
        values = head.read(images, [tap])[tap]
    own = max_match(values, head.module.prototypes.detach())
    alive = values.norm(dim=1) > 1e-6
    assert torch.allclose((own - recorded).abs().amax(1)[alive], torch.zeros(int(alive.sum())), atol=1e-5)


def test_relevance_goes_on_to_the_picture(head: Model) -> None:
    images, tap = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(4)), Tap("features")
    prototypes = head.module.prototypes.detach()
    found = relevance(
        head, images, {tap: lambda values: max_match(values, prototypes)}, [tap], rules=GRADIENT, image=True
    )
    score = head(images)[:, 0].detach().double()
    assert torch.allclose(found.start, score, rtol=1e-5)
    assert found.image is not None
    assert torch.allclose(found.image.double().flatten(1).sum(1), score, rtol=1e-3)  # no biases: complete to the pixels


def test_zeros_get_nothing_and_nothing_is_undefined() -> None:
    values, prototypes = random(1, 3, 4), random(2, 3, seed=1)
    values[..., 0] = 0
    found = max_match(values, prototypes)
    assert bool(found.isfinite().all())
    assert float(found[..., 0].abs().sum()) == 0
    assert float(max_match(torch.zeros(1, 3, 4), prototypes.float(), torch.ones(1)).abs().sum()) == 0


def test_bad_input_is_refused() -> None:
    with pytest.raises(UserError, match="prototypes must be K×3"):
        max_match(random(1, 3, 4), random(2, 5))
    with pytest.raises(UserError, match="K ≥ 1"):
        max_match(random(1, 3, 4), random(0, 3))
    with pytest.raises(UserError, match="one relevance for each of 1"):
        max_match(random(1, 3, 4), random(2, 3), torch.ones(2))

"""Our own U-Net is the network of diffusers."""

from __future__ import annotations

import pytest
import torch

from entoptic.priors.recipe import Recipe
from entoptic.priors.unet import UNet

pytest.importorskip("diffusers")
RECIPES = [
    Recipe(size=16, widths=(32, 64), attention=(4,), layers=1),
    Recipe(size=32, widths=(32, 64, 96), attention=(16, 8), layers=2),
    Recipe(size=8, patch=1, widths=(16,), attention=(), layers=1),
    Recipe(size=16, widths=(32, 32, 32), attention=(2,), layers=3),
]


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_computes_what_diffusers_computes(recipe: Recipe) -> None:
    from entoptic.priors.learn import network

    torch.manual_seed(0)
    theirs, ours = network(recipe, 3).double().eval(), UNet(recipe, 3).double().eval()
    for value in theirs.parameters():
        value.data += 0.1 * torch.randn_like(value)  # norms and biases too
    ours.load_state_dict(theirs.state_dict())
    side = recipe.size // recipe.patch
    x = torch.randn(3, 3 * recipe.patch**2, side, side, dtype=torch.float64)
    times, classes = torch.tensor([0.0, 3.25, 999.0]), torch.tensor([0, 3, 1])
    with torch.no_grad():
        expected = theirs(x, times, None, class_labels=classes).sample
        # diffusers computes the cosines and sines in float32
        torch.testing.assert_close(ours(x, times, classes), expected, atol=1e-6, rtol=1e-5)
    theirs.load_state_dict(ours.state_dict())  # and back


def test_dropout_acts_in_training_alone() -> None:
    net = UNet(RECIPES[0], 2, dropout=0.5)
    given = (torch.randn(2, 12, 8, 8), torch.tensor([1.0, 2.0]), torch.tensor([0, 1]))
    assert not torch.equal(net(*given), net(*given))
    net.eval()
    assert torch.equal(net(*given), net(*given))


def test_a_compiled_one_computes_the_same() -> None:
    net = UNet(RECIPES[0], 2).eval()
    given = (torch.randn(2, 12, 8, 8), torch.tensor([1.0, 2.0]), torch.tensor([0, 1]))
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*given), net(*given))

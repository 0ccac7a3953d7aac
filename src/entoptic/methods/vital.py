"""VITAL: match the feature distributions of real photos (Görgün et al., ICCV 2025, arXiv 2503.22399)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from entoptic.errors import UserError
from entoptic.methods.registry import Context, Draft, Item, MethodConfig, method

if TYPE_CHECKING:
    from entoptic.models.model import Model
    from entoptic.models.taps import Tap


@dataclass(frozen=True, kw_only=True)
class Vital(MethodConfig):
    """VITAL, distribution matching with real photos (Görgün et al. 2025)."""

    steps: int = 300
    """of Adam, with a warm-up of a twentieth and a cosine to 0"""
    lr: float = 1.0
    """learning rate, in units of half the pixel range"""
    references: int = 25
    """reference photos per unit (N): those of its class, or of all, that drive it most"""
    layers: tuple[str, ...] = ()
    """layers to match, each counting alike; empty takes the stem and the end of each stage"""
    smoothness: float = 150.0
    """weight of the squared total variation"""
    jitter: int = 30
    """largest circular shift of a view in pixels"""
    zoom: float = 0.2
    """views are scaled by up to this share, up and down"""
    flip: bool = True
    """mirror half of the views"""
    start: float = 0.2
    """standard deviation of the noise that the canvas starts from, in units of half the pixel range"""
    finish: float = 0.6
    """standard deviation in pixels of a Gaussian blur of the finished picture: frequencies near a pixel's own tell
    people little and are peculiar to one network"""


@method("vital", Vital, paper="arXiv:2503.22399", units={"logit", "channel", "direction"}, reads={"targets"})
def vital(items: Sequence[Item], config: Vital, context: Context) -> Iterator[Draft]:
    import torch

    from entoptic.methods.ascent import ascend, warmup_cosine
    from entoptic.methods.augment import chain, flip, gaussian_blur, roll, zoom
    from entoptic.methods.canvas import Pixels
    from entoptic.methods.objectives import match, total_variation

    model, taps = context.model, matched_taps(context.model, config.layers)
    context.references.expect(item.unit for item in items)
    targets = [context.references.target(item.unit, taps, config.references) for item in items]
    objective = match(dict.fromkeys(taps, 1.0), [t.values for t in targets], balanced=True)
    generators = [item.generator() for item in items]
    canvas = Pixels(generators, model.card.size, model.device, std=config.start)
    drafts = ascend(
        items,
        canvas,
        objective + config.smoothness * total_variation(),
        torch.optim.Adam([canvas.parameter], lr=config.lr, betas=(0.5, 0.9)),
        context,
        steps=config.steps,
        generators=generators,
        augment=chain(roll(config.jitter), flip(0.5 if config.flip else 0.0), zoom(config.zoom)),
        schedule=warmup_cosine(config.steps, config.steps // 20),
    )
    for draft, target in zip(drafts, targets):
        draft.trace["references"] = target.describe()
        if config.finish:
            draft.image = gaussian_blur(draft.image[None], config.finish)[0]
        yield draft


def matched_taps(model: Model, layers: Sequence[str]) -> tuple[Tap, ...]:
    """Taps of the layers to match: those named, or the trunk of the network."""
    from entoptic.models.taps import Tap
    from entoptic.models.trunk import trunk_layers

    taps = tuple(Tap(layer) for layer in (layers or trunk_layers(model)))
    for tap in taps:
        model.layer(tap.layer)  # an unknown name is answered with the nearest
    return taps


# --- as published -------------------------------------------------------------------------------------------------

# The authors' released settings: layers with their weights, λ_TV, λ_L2; torchvision's names.
PAPER: dict[str, tuple[dict[str, float], float, float]] = {
    "resnet50": ({"conv1": 1, "layer1": 1, "layer2": 1, "layer3": 1, "layer4": 1}, 0, 0),
    "densenet121": (
        {"features.conv0": 1, "features.denseblock1": 1, "features.denseblock2": 1, "features.denseblock3": 1,
         "features.denseblock4": 100}, 0, 0,
    ),
    "convnext_base": ({"features.0": 10, "features.2.1": 1, "features.4.1": 1, "features.6.1": 1, "features.7.2": 1}, 0, 0),
    "vit_l_16": (
        {"conv_proj": 1, "encoder.layers.encoder_layer_2": 1, "encoder.layers.encoder_layer_9": 1,
         "encoder.layers.encoder_layer_20": 1, "encoder.layers.encoder_layer_23": 1}, 3e-3, 3e-3,
    ),
    "vit_l_32": (
        {"conv_proj": 1, "encoder.layers.encoder_layer_2": 1, "encoder.layers.encoder_layer_9": 1,
         "encoder.layers.encoder_layer_20": 1, "encoder.layers.encoder_layer_23": 0.1}, 3e-4, 3e-4,
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class VitalPaper(MethodConfig):
    """VITAL as published (Görgün et al. 2025)."""

    steps: int = 2000
    """of Adam (rate 1, betas 0.5 and 0.9, warm-up of 100 steps, cosine)"""
    references: int = 50
    """reference photos per unit (N)"""
    preset: str = ""
    """a published architecture whose layers, weights and priors are used; empty takes that of the model's name, and
    any other network gets the layers of its trunk with weight 1 and no prior"""
    jitter: int = 30
    """largest circular shift in pixels"""


@method("vital-paper", VitalPaper, paper="arXiv:2503.22399", units={"logit"}, reads={"targets"})
def vital_paper(items: Sequence[Item], config: VitalPaper, context: Context) -> Iterator[Draft]:
    import torch

    from entoptic.methods.ascent import ascend, warmup_cosine
    from entoptic.methods.augment import roll
    from entoptic.methods.canvas import Pixels
    from entoptic.methods.objectives import deep_inversion_tv, match, norm
    from entoptic.models.taps import Tap

    model, card = context.model, context.model.card
    preset = config.preset or card.name.partition(":")[2].partition("/")[0]
    if config.preset and config.preset not in PAPER:
        raise UserError(f'no published preset "{config.preset}"; there are {", ".join(PAPER)}')
    if preset in PAPER and (config.preset or all(layer in model.layers for layer in PAPER[preset][0])):
        weights, tv, l2 = PAPER[preset]
        layers = {Tap(layer): weight for layer, weight in weights.items()}
    else:
        layers, tv, l2 = dict.fromkeys(matched_taps(model, ()), 1.0), 0.0, 0.0
    # The paper draws its references at random from the class.
    targets = [
        context.references.target(item.unit, tuple(layers), config.references, strongest=False) for item in items
    ]
    objective = match(layers, [t.values for t in targets], balanced=False)
    if tv or l2:
        objective = objective + tv * deep_inversion_tv(card.mean, card.std) + l2 * norm(card.mean, card.std)
    generators = [item.generator() for item in items]
    canvas = Pixels(generators, card.size, model.device, mean=card.mean, scale=card.std)
    drafts = ascend(
        items,
        canvas,
        objective,
        torch.optim.Adam([canvas.parameter], lr=1.0, betas=(0.5, 0.9)),
        context,
        steps=config.steps,
        generators=generators,
        augment=roll(config.jitter),
        schedule=warmup_cosine(config.steps, min(100, config.steps // 5)),
    )
    for draft, target in zip(drafts, targets):
        draft.trace["references"] = target.describe()
        yield draft

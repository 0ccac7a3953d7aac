"""VITAL as published: the layers, weights and regularisers of the authors (Görgün et al., ICCV 2025, arXiv 2503.22399)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from entoptic.errors import UserError
from entoptic.methods.contract import Context, Draft, Item, MethodConfig, method
from entoptic.methods.vital import check_reference, matched_taps, weighted_reader

if TYPE_CHECKING:
    from entoptic.models.model import Model
    from entoptic.models.taps import Tap

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


# For inner units: layers with their weights, λ_TV, λ_L2 (published for ResNet-50's layer4 only).
PAPER_INNER: dict[str, tuple[dict[str, float], float, float]] = {
    "resnet50": ({"conv1": 0.1, "layer1": 1, "layer2": 1, "layer3": 1}, 3e-7, 3e-7),
}


@dataclass(frozen=True, kw_only=True)
class VitalPaper(MethodConfig):
    """VITAL as published (Görgün et al. 2025)."""

    steps: int = 2000
    """steps of Adam (rate 1, betas 0.5 and 0.9, warm-up of 100 steps, cosine)"""
    references: int = 50
    """reference photos per unit (N): of a class at random, for an inner unit those that drive it most"""
    preset: str = ""
    """a published architecture whose layers, weights and priors are used; empty takes that of the model's name, and
    any other network gets the layers of its trunk with weight 1 and no prior"""
    reference: str = "image"
    """match whole photos of an inner unit (the released code) or their crops, "crop" (the paper's text)"""
    jitter: int = 30
    """largest circular shift in pixels"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_reference(self.reference)


def published(model: Model, preset: str, logits: bool) -> tuple[dict[Tap, float], float, float]:
    """Returns layers with their weights, λ_TV and λ_L2: those of a preset, or the trunk with weight 1 and no regulariser.

    Args:
        model: the network under study.
        preset: name of a published architecture; "" takes that of the model's name.
        logits: whether for logits rather than for inner units.
    """
    from entoptic.models.taps import Tap

    held = PAPER if logits else PAPER_INNER
    name = preset or model.card.name.partition(":")[2].partition("/")[0]
    if name in held and (preset or all(layer in model.layers for layer in held[name][0])):
        weights, tv, l2 = held[name]
        return {Tap(layer): weight for layer, weight in weights.items()}, tv, l2
    return dict.fromkeys(matched_taps(model, ()), 1.0), 0.0, 0.0


@method("vital-paper", VitalPaper, paper="arXiv:2503.22399", units={"logit", "channel"}, reads={"targets"})
def vital_paper(items: Sequence[Item], config: VitalPaper, context: Context) -> Iterator[Draft]:
    """Optimises pixels with the loss, the layers and the regularisers of the paper."""
    import torch

    from entoptic.images.matching_targets import check_count
    from entoptic.images.relevance_weighting import RelevanceWeighting, Weighted, layers_below
    from entoptic.methods.ascent import Transparency, ascend, warmup_cosine
    from entoptic.methods.augment import roll
    from entoptic.methods.canvas import Pixels
    from entoptic.methods.objectives import deep_inversion_tv, match, norm

    if config.preset and config.preset not in PAPER:
        raise UserError(f'no published preset "{config.preset}"; there are {", ".join(PAPER)}')
    model, card, references = context.model, context.model.card, context.references
    units = [item.unit for item in items]
    # Logits and inner units have layers, weights and priors of their own.
    settings = [published(model, config.preset, unit.kind == "logit") for unit in units]
    weightings = [
        RelevanceWeighting("lrp-vital", config.reference, epsilon=1e-6)
        if unit.kind != "logit" and layers_below(model, layers, unit)
        else None
        for unit, (layers, _, _) in zip(units, settings)
    ]
    # An inner unit before all layers that are matched has no relevance below it: it is matched like a logit.
    whole = published(model, config.preset, logits=True)
    settings = [s if w or u.kind == "logit" else whole for s, w, u in zip(settings, weightings, units)]
    targets = [
        # The paper draws the references of a class at random, those of a neuron by rank.
        references.target(u, tuple(layers), config.references, strongest=u.kind != "logit", wanted=w)
        for u, w, (layers, _, _) in zip(units, weightings, settings)
    ]
    counts = [check_count(t, config.references, VitalPaper().references, u) for t, u in zip(targets, units)]
    matched = {
        tap: layers[tap.plain if isinstance(tap, Weighted) else tap]
        for target, (layers, _, _) in zip(targets, settings)
        for tap in target.values
    }
    objective = match(matched, [t.values for t in targets], balanced=False, importance=[t.importance for t in targets])
    tv, l2 = (torch.tensor([setting[k] for setting in settings], device=model.device) for k in (1, 2))
    if bool(tv.any() or l2.any()):
        objective = objective + deep_inversion_tv(card.mean, card.std) * tv + norm(card.mean, card.std) * l2
    generators = [item.generator() for item in items]
    canvas = Pixels(generators, card.size, model.device, mean=card.mean, scale=card.std)
    transparency = Transparency(canvas.parameter)
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
        on_gradient=transparency.add,
        read=weighted_reader(model, units, weightings) if any(weightings) else None,
    )
    for i, (draft, target) in enumerate(zip(drafts, targets)):
        notes = [*draft.trace.notes, *filter(None, [counts[i]])]
        trace = replace(draft.trace, notes=notes, references=target.describe())
        yield replace(draft, trace=trace, overlays={"alpha": transparency.of(i)})

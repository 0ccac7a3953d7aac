"""VITAL: pictures with the feature distributions of real photos (Görgün et al., ICCV 2025, arXiv 2503.22399)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from entoptic.errors import UserError, nearest
from entoptic.methods.contract import UNIT_KINDS, Context, Draft, Item, MethodConfig, method

if TYPE_CHECKING:
    from torch import Tensor

    from entoptic.images.references import References
    from entoptic.images.relevance_weighting import RelevanceWeighting
    from entoptic.methods.large import Stage
    from entoptic.models.model import Model
    from entoptic.models.taps import Tap
    from entoptic.units.unit import Unit


BESIDE = (
    "shows what the unit's photos have beyond others: what always stands beside its cause in them may be in the picture too; "
    "relevance=lrp shows the cause alone"
)
RELEVANCE = ("auto", "lrp", "lrp-vital", "epsilon", "gradient", "guided", "none")
REFERENCE = ("image", "crop")
MAPS = ("BCHW", "BHWC")
TOKENS = ("BTC", "BCT", "TBC")
FULL = 224
"""Pixels of a picture for which `smoothness` was chosen."""


def check_reference(reference: str) -> None:
    """Raises UserError where `reference` is neither "image" nor "crop"."""
    if reference not in REFERENCE:
        raise UserError(f'reference must be "image" or "crop", got "{reference}"')


@dataclass(frozen=True, kw_only=True)
class Vital(MethodConfig):
    """VITAL, distribution matching with real photos (Görgün et al. 2025)."""

    came_later = MappingProxyType[str, Any](
        {"class_contrast": 0.0, "contrast": 0.0, "denoise": 0.0, "size": 0, "smooth_from": 0}
    )
    presets = MappingProxyType[str, Mapping[str, Any]]({"quick": {"steps": 100}, "fine": {"steps": 600}})
    bounds = MappingProxyType[str, tuple[float, float]]({"size": (0, 4096)})  # 0 is the network's own

    steps: int = 300
    """steps of Adam, with a warm-up of a twentieth and a cosine to 0"""
    lr: float = 1.0
    """learning rate, in units of half the pixel range"""
    references: int = 25
    """reference photos per unit (N): those of its class, or of all, that drive it most"""
    reference: str = "image"
    """match whole photos ("image") or their crops around the position that drives an inner unit most ("crop")"""
    layers: tuple[str, ...] = ()
    """layers to match, each counting alike; empty takes the stem and the end of each stage. For an inner unit its own layer
    and those before it; with relevance those below its own layer, the first of them for `natural` only"""
    relevance: str = "auto"
    """features of inner units are weighted by the unit's relevance, computed by lrp, epsilon, gradient or guided; none
    matches whole photos, and `contrast` leaves out what all photos have. auto takes lrp for vectors, for facets and crops, and
    where there are neither photos nor shipped statistics of whole photos; else none"""
    contrast: float = 3.0
    """how far an inner unit's features are matched beyond those of its photos, away from photos that do not drive it: 0 for
    its photos' own features, 1 for a difference twice as large; for relevance=none"""
    class_contrast: float = 1.0
    """the same for logits, away from photos that are not of the class, or from the shipped mean over photos of all kinds; 0 is
    named most often by the network itself, 1 looks more like photos and is clearer to networks of other kinds"""
    refresh: int = 1
    """steps for which one relevance (and the view it belongs to) is kept"""
    drive: float = 0.3
    """weight of the unit's own score: a pull towards that of the strongest photo and no further; for inner units, and for
    logits without photos of their class"""
    natural: float = 1.0
    """weight of looking, at every matched layer and where the unit does not look, like photos that do not drive it: what
    fills the picture beside its cause; for inner units, with relevance only"""
    plain: float = 0.0
    """weight of a pull of all pixels towards grey; with natural=0, what nothing asks for stays empty"""
    facets: int = 1
    """kinds of reference photos (by what they drive an inner unit through); sample k shows facet k"""
    smoothness: float = 150.0
    """weight of the squared total variation"""
    smooth_from: int = 16
    """pixels between neighbouring positions of an inner unit's map from which `smoothness` counts in full. For a finer map, whose
    patterns are finer, and for a network of pictures below 224 pixels it counts less, by the square of the ratio; 0 counts it in
    full for all"""
    denoise: float = 0.0
    """how far, every ten steps, pixels go to what a denoiser of photos makes of them: 1 for all the way, 0 for never; 0.5
    has less coloured speckle"""
    jitter: int = 30
    """largest circular shift of a view in pixels"""
    zoom: float = 0.2
    """views are scaled by up to this share, up and down"""
    flip: bool = True
    """mirror half of the views"""
    start: float = 0.2
    """standard deviation of the noise that the canvas starts from, in units of half the pixel range"""
    finish: float = 0.6
    """standard deviation in pixels of a Gaussian blur of the finished picture: frequencies near that of the pixels say
    little to people and are peculiar to one network"""
    size: int = 0
    """pixels of the picture's longer side, above the network's own; 0 is the network's own size"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("refresh", "facets"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.relevance not in RELEVANCE:
            raise UserError(
                f'no relevance "{self.relevance}"; there are {", ".join(RELEVANCE)}{nearest(self.relevance, RELEVANCE)}'
            )
        check_reference(self.reference)

    @property
    def reads_too(self) -> frozenset[str]:
        """With contrast, a class's pictures depend on photos of others."""
        return frozenset({"others"} if self.class_contrast else ())


@method("vital", Vital, paper="arXiv:2503.22399", units=UNIT_KINDS, reads={"targets"})
def vital(items: Sequence[Item], config: Vital, context: Context) -> Iterator[Draft]:
    """Optimises pixels so that their sorted features match the mean sorted features of reference photos."""
    from entoptic.methods.large import from_coarse_to_fine, measured_at_both_sizes

    make = partial(_matched, config)
    for draft in from_coarse_to_fine(items, config.size, config.steps, context, make):
        yield measured_at_both_sizes(draft, context)


def _matched(config: Vital, stage: Stage) -> Iterator[Draft]:
    """Makes VITAL's pictures at one size."""
    import torch

    from entoptic.images.contrast import away_from_others, is_answer, layers_up_to
    from entoptic.images.matching_targets import SHIPPED, check_count
    from entoptic.images.relevance_weighting import RelevanceWeighting, UnattendedPositions, layers_below
    from entoptic.methods.ascent import Transparency, ascend, warmup_cosine
    from entoptic.methods.augment import chain, flip, gaussian_blur, repeat_view, roll, zoom
    from entoptic.methods.canvas import Denoised, Pixels
    from entoptic.methods.large import squares
    from entoptic.methods.objectives import activation_target, greyness, match, total_variation

    items, context = stage.items, stage.context
    model, references = context.model, context.references
    taps, units = matched_taps(model, config.layers), [item.unit for item in items]
    references.expect(units)
    kinds = [_relevance_of(unit, config, references) for unit in units]
    # Matched layers below each unit: none for a logit, and none for a unit before all layers that are matched.
    through = [() if is_answer(u) or kind == "none" else layers_below(model, taps, u) for u, kind in zip(units, kinds)]
    if config.reference == "crop" and (several := [u for u, below in zip(units, through) if u.parts and below]):
        raise UserError(f'{several[0]} has no one position to crop photos around; use reference="image"')
    weightings = [
        RelevanceWeighting(kind, config.reference, item.sample % config.facets, config.facets) if layers else None
        for item, kind, layers in zip(items, kinds, through)
    ]
    exaggerated = [kind == "none" and config.contrast > 0 and not is_answer(u) for u, kind in zip(units, kinds)]
    # The first layer has the pixels' own resolution. Relevance is noise there, and sorting it takes half of a step's time.
    seen = [
        layers_up_to(model, taps, u) if more else (below[1:] or below) if w else taps
        for u, below, w, more in zip(units, through, weightings, exaggerated)
    ]
    targets = [
        references.target(u, layers, config.references, wanted=w) for u, layers, w in zip(units, seen, weightings)
    ]
    amounts = [config.class_contrast if is_answer(u) else config.contrast * e for u, e in zip(units, exaggerated)]
    targets = [
        away_from_others(t, u, references, c, config.references) if c else t for t, u, c in zip(targets, units, amounts)
    ]
    counts = [check_count(t, config.references, Vital().references, u) for t, u in zip(targets, units)]
    matched = dict.fromkeys((tap for target in targets for tap in target.values), 1.0)
    objective = match(matched, [t.values for t in targets], balanced=True, importance=[t.importance for t in targets])
    # On a large picture the network sees each pixel more seldom: as smooth a pixel as at the network's own size.
    larger = stage.size[0] * stage.size[1] / (model.card.size[0] * model.card.size[1])
    shares = [smooth_share(model, unit, config.smooth_from) for unit in units] if config.smooth_from else []
    objective = objective + config.smoothness * larger * total_variation(shares)
    if config.natural and any(weightings):
        quiet = [references.natural(u, layers).values if layers else {} for u, layers in zip(units, through)]
        layers = dict.fromkeys((tap for values in quiet for tap in values), 1.0)
        objective = objective + config.natural * match(
            layers,
            quiet,
            balanced=True,
            position_weights={tap: UnattendedPositions(tap.layer, tap.pre) for tap in layers},
        )
    if config.plain:
        objective = objective + config.plain * greyness()
    pulled = [w is not None or more or target.borrowed for w, more, target in zip(weightings, exaggerated, targets)]
    if config.drive and any(pulled):
        levels = [_levels(references, unit) if pull else None for unit, pull in zip(units, pulled)]
        objective = objective + config.drive * activation_target(units, levels)
    generators = [item.generator() for item in items]
    pixels = Pixels(generators, stage.size, model.device, std=config.start)
    if stage.start is not None:
        pixels.set(stage.start.to(model.device))
    canvas = Denoised(pixels, config.denoise, stage.steps) if config.denoise else pixels
    view = chain(roll(config.jitter), flip(0.5 if config.flip else 0.0), zoom(config.zoom))
    transparency = Transparency(canvas.parameter)
    drafts = ascend(
        items,
        canvas,
        objective,
        torch.optim.Adam([canvas.parameter], lr=config.lr, betas=(0.5, 0.9)),
        context,
        steps=stage.steps,
        generators=generators,
        augment=repeat_view(
            view if stage.size == model.card.size else chain(squares(model.card.size), view),
            [config.refresh if w else 1 for w in weightings],
        ),
        schedule=warmup_cosine(stage.steps, stage.steps // 20),
        on_gradient=transparency.add,
        read=weighted_reader(model, units, weightings, config.refresh) if any(weightings) else None,
    )
    for i, (draft, target) in enumerate(zip(drafts, targets)):
        if draft.image is None:
            yield draft
            continue
        notes = [*draft.trace.notes, *filter(None, [counts[i], (target.against or target).note])]
        if target.borrowed:
            pull = ", so its score was pulled up too" if config.drive else ""
            notes.append(f"no photos of {units[i].label or units[i]} itself were at hand{pull}: {target.source}")
        if exaggerated[i]:
            notes.append(BESIDE)
        if not is_answer(units[i]) and weightings[i] is None and kinds[i] != "none":
            notes.append(f"no matched layer lies below {units[i]}: whole photos were matched")
        if units[i].parts and target.source.startswith(SHIPPED):
            notes.append(
                f"the photos of the parts of {units[i]} were matched; give photos for those that drive it itself most"
            )
        image = gaussian_blur(draft.image[None], config.finish)[0] if config.finish else draft.image
        trace = replace(draft.trace, notes=notes, references=target.describe())
        yield replace(draft, image=image, trace=trace, overlays={"alpha": transparency.of(i)})


def _relevance_of(unit: Unit, config: Vital, references: References) -> str:
    """What `auto` stands for: relevance for facets, crops, statistics weighted by it, and layers without positions."""
    if config.relevance != "auto":
        return config.relevance
    placed = all(references.model.layer(part.layer).layout in (*MAPS, *TOKENS) for _, part in unit.terms)
    whole = config.facets == 1 and config.reference == "image" and references.holds_whole(unit)
    return "none" if placed and whole else "lrp"


def smooth_share(model: Model, unit: Unit, smooth_from: int) -> float:
    """How much of `smoothness` counts for a unit, in (0, 1].

    The squared differences of a pattern grow with the square of its frequency, and a unit's patterns are as fine as its map, or
    as the coarser map that it was upsampled from. Where the two axes differ the finer one counts: patterns along it would be
    washed out first.

    Args:
        model: the network.
        unit: the unit; of a combination the coarsest map counts.
        smooth_from: pixels between neighbouring positions from which it counts in full, at least 1.
    """
    from entoptic.images.contrast import is_answer
    from entoptic.models.grain import grain

    ratios = [1.0, min(model.card.size) / FULL]
    layers = [part.layer for _, part in unit.terms]
    if not is_answer(unit) and all(model.layer(layer).layout in MAPS for layer in layers):
        ratios.append(max(grain(model, layer) for layer in layers) / smooth_from)
    return min(ratios) ** 2


def _levels(references: References, unit: Unit) -> tuple[float, float] | None:
    """Scores of the median and of the strongest photo; None where they are not known."""
    real = references.real_scores(unit)
    if isinstance(real, str):
        return None
    values = real.values[real.values.isfinite()]
    if not len(values) or float(values[-1] - values[len(values) // 2]) <= 1e-6 * float(values.abs().max()):
        return None  # all photos have the same score, so there is no target
    return float(values[len(values) // 2]), float(values[-1])


def weighted_reader(
    model: Model, units: Sequence[Unit], weightings: Sequence[RelevanceWeighting | None], refresh: int = 1
) -> Callable[[Tensor, Sequence[Tap]], dict[Tap, Tensor]]:
    """Returns the function that reads taps of views for VITAL's inner units.

    It gives A ⊙ R̂ (activations times spatial relevance weights) at `Weighted` taps, weights of positions at
    `UnattendedPositions`, and plain values at all others. Relevance is computed every `refresh` steps, on the views of that
    step, and is a constant for the gradient.

    Args:
        model: the network under study.
        units: one per item.
        weightings: one per item, None for an item that is matched without relevance. They differ in their facets only.
        refresh: steps for which one relevance is kept, at least 1.
    """
    from entoptic.images.relevance_weighting import (
        UnattendedPositions,
        Weighted,
        elsewhere,
        read_relevant,
        rules_of,
        spatial_weight,
    )

    kept: dict[Tap, Tensor] = {}
    calls = 0
    weighting = next(w for w in weightings if w is not None)

    def read(views: Tensor, taps: Sequence[Tap]) -> dict[Tap, Tensor]:
        nonlocal kept, calls
        layers = [tap for tap in taps if not isinstance(tap, UnattendedPositions)]
        if calls % refresh == 0:
            each = len(views) // len(units)
            units_of_views = [
                unit if w is not None else None for unit, w in zip(units, weightings) for _ in range(each)
            ]
            values, maps = read_relevant(model, views, units_of_views, layers, rules_of(weighting.rules))
            kept = {tap: spatial_weight(map_BCD, weighting.epsilon) for tap, map_BCD in maps.items()}
            kept |= {
                tap: elsewhere(model, maps, units_of_views, tap.layer)
                for tap in taps
                if isinstance(tap, UnattendedPositions)
            }
        else:
            plain = {tap: tap.plain if isinstance(tap, Weighted) else tap for tap in layers}
            read_out = model.read(views, plain.values())
            values = {tap: read_out[plain[tap]] for tap in layers}
        calls += 1
        weighted = {tap: value * kept[tap] if tap in kept else value for tap, value in values.items()}
        return weighted | {tap: kept[tap] for tap in taps if isinstance(tap, UnattendedPositions)}

    return read


def matched_taps(model: Model, layers: Sequence[str]) -> tuple[Tap, ...]:
    """Returns taps of the layers to match: those named, or the trunk of the network.

    Raises:
        UserError: there is no such layer; the message names the nearest.
    """
    from entoptic.models.taps import Tap
    from entoptic.models.trunk import trunk_layers

    taps = tuple(Tap(layer) for layer in (layers or trunk_layers(model)))
    for tap in taps:
        model.layer(tap.layer)  # raises for an unknown name
    return taps

"""Caricature: what a layer makes of a photo, exaggerated (Olah et al., Lucid; "Activation Atlas" notebooks)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from entoptic.errors import UserError
from entoptic.methods.contract import UNIT_KINDS, Context, Draft, Item, MethodConfig, method

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Caricature(MethodConfig):
    """Caricature of a photo at a unit's layer, from the whole layer (Lucid)."""

    photo: str = ""
    """file of the photo whose values at the layer are exaggerated; without it there is no picture"""
    photo_sha256: str = ""
    """SHA-256 of that file's content, filled in where it is left out; another file is refused"""
    steps: int = 256
    """steps of Adam"""
    lr: float = 0.05
    """learning rate of Adam"""
    power: float = 1.0
    """power of the cosine: 0 asks for size alone, more asks that every place points where the photo's does"""
    std: float = 0.01
    """standard deviation of the spectrum's random start, per real and imaginary part"""
    transforms: bool = True
    """pad, jitter, scale and rotate each view, as Lucid does; the photo is seen through the same views"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.power <= 100:
            raise UserError(f"power must be between 0 and 100, got {self.power:g}")
        if self.photo and not self.photo_sha256:
            from entoptic.inversion.targets import readable

            object.__setattr__(self, "photo_sha256", readable(self.photo).sha256)


@method("caricature", Caricature, paper="doi:10.23915/distill.00007", units=UNIT_KINDS)
def caricature(items: Sequence[Item], config: Caricature, context: Context) -> Iterator[Draft]:
    """Maximises, at the unit's layer, the dot product with the photo's values times a power of their cosine, place by place."""
    import torch

    from entoptic.methods.ascent import ascend
    from entoptic.methods.augment import identity, lucid_transforms
    from entoptic.methods.canvas import Spectrum
    from entoptic.methods.own_photo import prepared_photo, with_same_views
    from entoptic.methods.weighed_objectives import exaggerated

    model, size = context.model, context.model.card.size
    generators = [item.generator() for item in items]
    photo_3HW = prepared_photo(model, config.photo, config.photo_sha256, "caricature")
    # Terms of a combination lie at layers of their own; the first of them is shown.
    taps = [item.unit.terms[0][1].tap for item in items]
    distinct = tuple(dict.fromkeys(taps))
    photos = photo_3HW[None].to(model.device).expand(len(items), -1, -1, -1)
    held: dict[str, Tensor] = {}
    cosines: dict[int, float] = {}

    def keep(views: Tensor) -> None:
        held.update({str(tap): value for tap, value in model.read(views, distinct).items()})

    canvas = Spectrum(generators, size, model.device, std=config.std, gain=0.25)
    drafts = ascend(
        items,
        canvas,
        exaggerated(taps, lambda tap: held[str(tap)], config.power, cosines),
        torch.optim.Adam([canvas.parameter], lr=config.lr),
        context,
        steps=config.steps,
        generators=generators,
        augment=with_same_views(lucid_transforms(size) if config.transforms else identity, photos, keep),
    )
    for i, (draft, tap) in enumerate(zip(drafts, taps)):
        if draft.image is None:
            yield draft
            continue
        note = f"caricature of {config.photo} (sha256 {config.photo_sha256[:16]}) at {tap}, all its channels"
        trace = replace(
            draft.trace, evaluations=2 * (draft.trace.evaluations or 0), notes=[*draft.trace.notes, note],
            detail={**draft.trace.detail, "cosine with the photo": round(cosines[i], 4)},
        )  # fmt: skip
        yield replace(draft, trace=trace)

"""Feature accentuation: what a unit looks for, brought out in a photo (Hamblin et al. 2024, arXiv 2402.10039)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from entoptic.errors import UserError
from entoptic.methods.contract import UNIT_KINDS, Context, Draft, Item, MethodConfig, method

if TYPE_CHECKING:
    from torch import Tensor

    from entoptic.models.model import Model


@dataclass(frozen=True, kw_only=True)
class Accentuate(MethodConfig):
    """Feature accentuation, a photo moved towards a unit (Hamblin et al. 2024)."""

    photo: str = ""
    """file of the photo to start at and to stay near; without it there is no picture"""
    photo_sha256: str = ""
    """SHA-256 of that file's content, filled in where it is left out; another file is refused"""
    steps: int = 100
    """steps of Adam"""
    lr: float = 0.05
    """learning rate of Adam"""
    keep: float = 1.0
    """weight of the distance from the photo at `layer`, in units of the unit's score: at 1, a picture whose values there are
    as far from the photo's as those are from 0 loses all of it"""
    layer: str = ""
    """layer at which the picture stays near the photo; empty takes the second of the trunk (the end of the first stage)"""
    transforms: bool = True
    """pad, jitter, scale and rotate each view, as Lucid does; the photo is seen through the same views"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep < 0:
            raise UserError(f"keep must not be negative, got {self.keep}")
        if self.photo and not self.photo_sha256:
            from entoptic.inversion.targets import readable

            object.__setattr__(self, "photo_sha256", readable(self.photo).sha256)


@method("accentuate", Accentuate, paper="arXiv:2402.10039", units=UNIT_KINDS)
def accentuate(items: Sequence[Item], config: Accentuate, context: Context) -> Iterator[Draft]:
    """Maximises the unit's score over a Fourier spectrum that starts at a photo, less the distance from the photo at a layer."""
    import torch

    from entoptic.methods.ascent import ascend
    from entoptic.methods.augment import identity, lucid_transforms
    from entoptic.methods.canvas import Spectrum
    from entoptic.methods.own_photo import prepared_photo, with_same_views
    from entoptic.methods.weighed_objectives import accented_activation
    from entoptic.models.taps import Tap

    model = context.model
    size, generators = model.card.size, [item.generator() for item in items]
    photo_3HW = prepared_photo(model, config.photo, config.photo_sha256, "accentuate")
    tap = Tap(config.layer or _early_layer(model))
    model.layer(tap.layer)  # raises for an unknown name
    canvas = Spectrum(generators, size, model.device, gain=0.25)
    canvas.start_at(photo_3HW)
    photos = photo_3HW[None].to(model.device).expand(len(items), -1, -1, -1)
    view = lucid_transforms(size) if config.transforms else identity
    seen: list[Tensor] = []

    def keep(views: Tensor) -> None:
        seen[:] = [model.read(views, [tap])[tap]] if config.keep else []

    drafts = ascend(
        items,
        canvas,
        accented_activation([item.unit for item in items], tap, lambda: seen[0], config.keep),
        torch.optim.Adam([canvas.parameter], lr=config.lr),
        context,
        steps=config.steps,
        generators=generators,
        augment=with_same_views(view, photos, keep),
    )
    for draft in drafts:
        passes = draft.trace.evaluations or 0
        note = f"started at {config.photo} (sha256 {config.photo_sha256[:16]})"
        note += f", kept near it at {tap}" if config.keep else ""
        trace = replace(draft.trace, evaluations=passes * (2 if config.keep else 1), notes=[*draft.trace.notes, note])
        yield replace(draft, trace=trace) if draft.image is not None else draft


def _early_layer(model: Model) -> str:
    from entoptic.models.trunk import trunk_layers

    trunk = trunk_layers(model)
    return trunk[min(1, len(trunk) - 1)]

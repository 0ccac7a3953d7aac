"""How alike pictures are to the photos that drive a unit most, beside what those photos and any others get."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize


@dataclass(frozen=True)
class Likeness:
    """How alike pictures are to the photos that drive a unit most, as cosines of some vector of each.

    Attributes:
        each: B×N, a picture and a photo; NaN where there is none (the photo is the picture, or a vector is 0).
        values: B, their mean. ceiling: the mean over pairs of the photos. floor: of arbitrary photos with them.
        sizes: B, length of the picture's vector relative to the mean over the photos.
    """

    each: Tensor
    ceiling: float
    floor: float
    sizes: Tensor

    @property
    def values(self) -> Tensor:
        return self.each.nanmean(1)


def likeness(pictures_BK: Tensor, photos_NK: Tensor, arbitrary_MK: Tensor | None = None) -> Likeness:
    """Mean cosines of pictures' vectors with those of N photos, beside what N photos and M arbitrary ones get."""
    found, photos = cosines(pictures_BK, photos_NK), cosines(photos_NK, photos_NK)
    photos.fill_diagonal_(float("nan"))
    floor = float("nan") if arbitrary_MK is None else float(cosines(arbitrary_MK, photos_NK).nanmean())
    sizes = pictures_BK.norm(dim=1) / photos_NK.norm(dim=1).mean().clamp_min(1e-30)
    return Likeness(found, float(photos.nanmean()), floor, sizes)


def centred_likeness(pictures_BK: Tensor, photos_NK: Tensor, arbitrary_MK: Tensor) -> Likeness:
    """`likeness` of what sets vectors apart from the mean over the arbitrary photos.

    For the floor each arbitrary photo, and the N photos with it, are counted from the mean of the others: counted from
    a mean that it is part of, it would seem less like them than a photo from elsewhere. Vectors of 0 stay 0.
    """
    arbitrary_MK = arbitrary_MK[arbitrary_MK.any(1)]

    def apart(vectors: Tensor, others: Tensor) -> Tensor:
        usual = others.mean(0) if len(others) else torch.zeros(vectors.shape[1])
        return torch.where(vectors.any(1, keepdim=True), vectors - usual, 0.0)

    found = likeness(apart(pictures_BK, arbitrary_MK), apart(photos_NK, arbitrary_MK))
    if len(arbitrary_MK) < 3:
        return found
    rest = [arbitrary_MK[[j for j in range(len(arbitrary_MK)) if j != i]] for i in range(len(arbitrary_MK))]
    floors = [cosines(apart(a[None], others), apart(photos_NK, others)) for a, others in zip(arbitrary_MK, rest)]
    return Likeness(found.each, found.ceiling, float(torch.cat(floors).nanmean()), found.sizes)


def cosines(a_BK: Tensor, b_NK: Tensor) -> Tensor:
    """B×N cosines; NaN where a vector is 0, which has no direction."""
    product = normalize(a_BK, dim=1, eps=1e-30) @ normalize(b_NK, dim=1, eps=1e-30).T
    empty = (a_BK.norm(dim=1) == 0)[:, None] | (b_NK.norm(dim=1) == 0)[None]
    return product.masked_fill(empty, float("nan"))

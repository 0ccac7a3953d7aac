"""Whether a steered concept changes a picture more than random edits do, and how large an effect the test can find.

No torch is imported at the top: `steer` is imported by the command line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from entoptic.base.estimates import quantile_ranks
from entoptic.errors import UserError
from entoptic.inversion.configs import allowed_false_alarms
from entoptic.inversion.null_edits import COMMON_SIZE, NullTest

if TYPE_CHECKING:
    from torch import Tensor

POWER = 0.8
"""The share of effects that are flagged at the size that `Calibration.detectable` gives."""


@dataclass(frozen=True, kw_only=True)
class Detectable:
    """The least effect that a test finds with a given probability.

    Attributes:
        value: x; an edit that changes the picture x times as much as a random edit of the same size is flagged with
            probability `power`.
        interval: 95 %, or None where there are too few nulls for one.
        n: null edits.
        power: that probability.
    """

    value: float
    interval: tuple[float, float] | None
    n: int
    power: float


@dataclass(frozen=True)
class Calibration:
    """Where a map of differences exceeds those of equally large random edits. See `calibrate`.

    Attributes:
        level: q, the rate of false alarms.
        count: R, the number of null maps.
        allowed: ⌊q·(R + 1)⌋.
        p_value: of the whole map, in {1, …, R + 1} / (R + 1).
        adjusted_HW: p-value of each pixel, adjusted for having looked at all of them.
        pointwise_HW: p-value of each pixel had it been the only one.
        threshold: difference above which a pixel is affected, a quantile of the null maxima.
        maxima_R: the maxima of the null maps, ascending.
        peak: the maximum of the concept's map.
        size: of the edits that are compared, as a multiple of the concept's own edit; None where the photo's map has
            nothing of the concept.
        test: how the edits were made that are compared.
    """

    level: float
    count: int
    allowed: int
    p_value: float
    adjusted_HW: Tensor = field(repr=False)
    pointwise_HW: Tensor = field(repr=False)
    threshold: float
    maxima_R: Tensor = field(repr=False)
    peak: float
    size: float | None
    test: NullTest

    @property
    def rate(self) -> float:
        """The share of concepts without an effect that are flagged: ⌊q(R + 1)⌋ / (R + 1) ≤ q."""
        return self.allowed / (self.count + 1)

    @property
    def affected_HW(self) -> Tensor:
        """Pixels whose adjusted p-value is at most the level, H×W bool."""
        return self.adjusted_HW <= self.allowed / (self.count + 1) + 1e-12

    @property
    def pointwise_affected_HW(self) -> Tensor:
        """Pixels that exceed the nulls one by one, H×W bool; none where the whole map does not exceed them."""
        flagged = self.p_value <= self.allowed / (self.count + 1) + 1e-12
        return (self.pointwise_HW <= self.allowed / (self.count + 1) + 1e-12) & flagged

    @property
    def flagged_from(self) -> float | None:
        """The concept is flagged if it changes the picture by more than this times what it does: threshold / peak.

        It is below 1 where the concept is flagged, and None where the concept changes nothing.
        """
        return self.threshold / self.peak if self.peak > 0 else None

    @property
    def detectable(self) -> Detectable | None:
        """The least effect that is found in four of five cases; None where random edits change next to nothing.

        With j = ⌊0.2·(R + 1)⌋ it is the threshold over the j-th smallest null maximum T_(j). A further random edit, its
        change multiplied by this x, exceeds the threshold if its maximum exceeds T_(j). By exchangeability that has
        probability at least 1 - j / (R + 1) ≥ 0.8 if no two maxima are equal. The interval is that of the quantile of
        maxima which T_(j) estimates, from order statistics, so it assumes no distribution.
        """
        j = allowed_false_alarms(1 - POWER, self.count)
        if j < 1 or float(self.maxima_R[j - 1]) <= 0:
            return None
        ranks = quantile_ranks(self.count, 1 - POWER)
        interval = None
        if ranks is not None and float(self.maxima_R[ranks[0] - 1]) > 0:
            low, high = (self.threshold / float(self.maxima_R[rank - 1]) for rank in reversed(ranks))
            interval = (low, high)
        return Detectable(
            value=self.threshold / float(self.maxima_R[j - 1]), interval=interval, n=self.count, power=POWER
        )


def calibrate(
    delta_HW: Tensor, nulls_RHW: Tensor, level: float, *, size: float | None = 1.0, test: NullTest = COMMON_SIZE
) -> Calibration:
    """Ranks a map of differences among those of R null edits.

    The statistic of a map is its maximum over pixels, T = max_p Δ(p). The adjusted p-value of pixel p is
    (1 + #{r: T_r ≥ Δ(p)}) / (R + 1) (the single-step maximum of Westfall and Young). The affected region holds the pixels
    where it is at most `level`.

    Where the concept's map is exchangeable with the null maps, its rank among the R + 1 maxima is uniform. The region is then
    empty with probability at least 1 - ⌊level·(R + 1)⌋ / (R + 1), and with exactly this probability where no two maxima are
    equal. This holds for every distribution of the maps and every dependence between pixels.

    Args:
        delta_HW: the map of the concept's edit, ≥ 0.
        nulls_RHW: R maps of random edits of the same size, ≥ 0.
        level: in (0, 1).
        size: of these edits, as a multiple of the concept's own edit; it is recorded only.
        test: how these edits were made; it is recorded only.

    Raises:
        UserError: fewer nulls than the level needs.
    """
    import torch

    count = len(nulls_RHW)
    allowed = allowed_false_alarms(level, count)
    if allowed < 1:
        raise UserError(f"{count} nulls cannot tell a rate of {level:g}")
    maxima_R = nulls_RHW.flatten(1).amax(1).sort().values
    # Null maxima at or above each pixel: those from the pixel's insertion point on.
    above_HW = count - torch.searchsorted(maxima_R, delta_HW.contiguous())
    adjusted_HW = (1 + above_HW).double() / (count + 1)
    pointwise_HW = (1 + (nulls_RHW >= delta_HW).sum(0)).double() / (count + 1)
    return Calibration(
        level, count, allowed, float(adjusted_HW.min()), adjusted_HW, pointwise_HW, float(maxima_R[count - allowed]),
        maxima_R, float(delta_HW.max()), size, test,
    )  # fmt: skip

"""Concept steering (FeatInv-Viz): scales one concept of a feature map, decodes both maps and compares the pictures.

Symbols: φ the photo's map, φ_k its part in concept k, α the scale, φ' = φ - (1 - α)·φ_k the edited map, Δ the difference of
pixels. φ and φ' are decoded with the same noise, so that pixels differ by the concept alone. Random edits that change φ by as
many standard deviations give the distribution of Δ without the concept. The network reads the decoded pictures again, which
measures whether the edit has reached them.

No torch is imported at the top: the command line reads `Steer` from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from entoptic.base.progress import Progress, silent
from entoptic.base.randomness import generator_for
from entoptic.errors import UserError, counted
from entoptic.inversion.configs import Steer, allowed_false_alarms

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from entoptic.inversion.map_gaussian import Ellipsoid

PAPER_THRESHOLD = 0.33
"""The paper's display rule: a pixel below this share of the map's maximum counts as unaffected."""
FLOOR = 1e-3
"""Least variance that is assumed for a direction of maps, as a share of the largest."""


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
    """

    level: float
    count: int
    allowed: int
    p_value: float
    adjusted_HW: Tensor = field(repr=False)
    pointwise_HW: Tensor = field(repr=False)
    threshold: float

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


def calibrate(delta_HW: Tensor, nulls_RHW: Tensor, level: float) -> Calibration:
    """Ranks a map of differences among those of R null edits.

    The statistic of a map is its maximum over pixels, T = max_p Δ(p). The adjusted p-value of pixel p is
    (1 + #{r: T_r ≥ Δ(p)}) / (R + 1) (the single-step maximum of Westfall and Young). The affected region holds the pixels
    where it is at most `level`.

    Where the concept's map is exchangeable with the null maps, its rank among the R + 1 maxima is uniform. The region is then
    empty with probability at least 1 - ⌊level·(R + 1)⌋ / (R + 1), and with exactly this probability where no two maxima are
    equal. This holds for every distribution of the maps and every dependence between pixels.

    Args:
        delta_HW: the concept's map, ≥ 0.
        nulls_RHW: R maps of random edits of the same size, ≥ 0.
        level: in (0, 1).

    Raises:
        UserError: fewer nulls than the level needs.
    """
    import torch

    count = len(nulls_RHW)
    allowed = allowed_false_alarms(level, count)
    if allowed < 1:
        raise UserError(f"{counted(count, 'null')} cannot tell a rate of {level:g}")
    maxima_R = nulls_RHW.flatten(1).amax(1).sort().values
    # Null maxima at or above each pixel: those from the pixel's insertion point on.
    above_HW = count - torch.searchsorted(maxima_R, delta_HW.contiguous())
    adjusted_HW = (1 + above_HW).double() / (count + 1)
    pointwise_HW = (1 + (nulls_RHW >= delta_HW).sum(0)).double() / (count + 1)
    return Calibration(
        level, count, allowed, float(adjusted_HW.min()), adjusted_HW, pointwise_HW, float(maxima_R[count - allowed])
    )


@dataclass(frozen=True)
class Steering:
    """One concept of one photo, steered: A scales, n seeds, K concepts, L classes, pictures of S×S pixels.

    x is a decoded original, x' a decoded edit, f the network up to the layer, and Π_j the projection on concept j.

    Attributes:
        concept: k.
        name: of the concept.
        scale: the α of the picture that is kept, one of `scales`.
        scales: α of the sweep, ascending.
        share: |φ_k| / |φ|.
        dimension: of the subspace that φ_k spans over its positions, and of the null edits.
        activation_hw: |φ_k| at each position.
        originals_n3SS: decoded φ.
        edits_n3SS: decoded φ' at `scale`.
        sweep_A3SS: decoded φ' at each scale, with the first seed.
        delta_ASS: the median over seeds of Δ = √Σ_RGB (x - x')² at each scale; exactly 0 at α = 1.
        spread_SS: √Σ_RGB of the originals' variances over seeds; None with one seed.
        calibration: of Δ at `scale`, or None without nulls.
        cosine_n: the mean over positions of the cosine of f(x) and φ.
        attenuation_An: |Π_k f(x')| / |Π_k f(x)|, which α asks for; NaN where φ or f(x) has nothing of the concept.
        leakage_AnK: |Π_j f(x')| / |Π_j f(x)| - 1 of every concept j; its column k is `attenuation_An` - 1.
        norms_nK: |Π_j f(x)|.
        logits_nL: of the originals.
        change_AnL: logits of the edits minus those of the originals.
        decoded: number of pictures that were decoded for this concept, without the originals, which all concepts share.
    """

    concept: int
    name: str
    scale: float
    scales: tuple[float, ...]
    share: float
    dimension: int
    activation_hw: Tensor = field(repr=False)
    originals_n3SS: Tensor = field(repr=False)
    edits_n3SS: Tensor = field(repr=False)
    sweep_A3SS: Tensor = field(repr=False)
    delta_ASS: Tensor = field(repr=False)
    spread_SS: Tensor | None = field(repr=False)
    calibration: Calibration | None = field(repr=False)
    cosine_n: Tensor = field(repr=False)
    attenuation_An: Tensor = field(repr=False)
    leakage_AnK: Tensor = field(repr=False)
    norms_nK: Tensor = field(repr=False)
    logits_nL: Tensor = field(repr=False)
    change_AnL: Tensor = field(repr=False)
    decoded: int

    @property
    def at(self) -> int:
        """The index of `scale` among `scales`."""
        return self.scales.index(self.scale)

    @property
    def leakage_An(self) -> Tensor:
        """The mean |leakage| of the other concepts, weighted by |Π_j f(x)|; 0 where there is none."""
        others = [j for j in range(self.norms_nK.shape[1]) if j != self.concept]
        weights_nJ = self.norms_nK[:, others]
        changes_AnJ = self.leakage_AnK[:, :, others].abs().nan_to_num(0.0) * weights_nJ
        return changes_AnJ.sum(2) / weights_nJ.sum(1).clamp_min(1e-30)

    @property
    def delta_SS(self) -> Tensor:
        """Δ at `scale`."""
        return self.delta_ASS[self.at]

    @property
    def affected_SS(self) -> Tensor:
        """The affected region, S×S bool: calibrated, or by the paper's display rule where there are no nulls."""
        return paper_mask(self.delta_SS) if self.calibration is None else self.calibration.affected_HW


def paper_mask(delta_HW: Tensor) -> Tensor:
    """Returns the region that the paper displays, H×W bool: Δ of at least 0.33 of its maximum.

    It is not empty for any edit that changes a pixel, a random one included.

    Args:
        delta_HW: Δ, ≥ 0.
    """
    peak = delta_HW.max()
    return (delta_HW >= PAPER_THRESHOLD * peak) & (peak > 0)


def scaled(map_1Chw: Tensor, part_1Chw: Tensor, scale: float) -> Tensor:
    """Returns φ' = φ - (1 - α)·φ_k; at α = 1 exactly φ.

    Args:
        map_1Chw: φ.
        part_1Chw: φ_k.
        scale: α.
    """
    return map_1Chw - (1 - scale) * part_1Chw


def null_part(
    phi_1Chw: Tensor, edit_1Chw: Tensor, dimension: int, ellipsoid: Ellipsoid, generator: Generator
) -> Tensor:
    """Returns φ projected on a random subspace and rescaled to the length of an edit, 1×C×h×w.

    The subspace is spanned by draws from the Gaussian with covariance Σ of photos' map vectors. Length is
    √Σ_p e_pᵀ Σ⁻¹ e_p over positions p, so that both edits are equally many standard deviations long. With Euclidean length,
    edits in directions in which maps hardly vary would lead farther from all maps. Decoders react strongly to that, whatever
    the edit means.

    Args:
        phi_1Chw: φ.
        edit_1Chw: φ' - φ.
        dimension: of the subspace.
        ellipsoid: Σ.
        generator: of the draws.
    """
    import torch

    draws_dC = ellipsoid.directions(max(1, min(dimension, int((ellipsoid.variance_K > 0).sum()))), generator)
    basis_Cd = torch.linalg.qr(draws_dC.T).Q
    part = torch.einsum("cd,ed,behw->bchw", basis_Cd, basis_Cd, phi_1Chw.double().cpu())
    length = standardised_length(part, ellipsoid)
    return (part * (standardised_length(edit_1Chw, ellipsoid) / length if length > 0 else 0.0)).to(phi_1Chw)


def standardised_length(edit_1Chw: Tensor, ellipsoid: Ellipsoid) -> float:
    """Returns the length of a change in standard deviations of photos' maps: √Σ_p e_pᵀ Σ⁻¹ e_p over positions p.

    Args:
        edit_1Chw: e.
        ellipsoid: Σ, up to a constant factor.
    """
    return float(ellipsoid.steps(edit_1Chw[0].flatten(1).T.double().cpu()).sum().sqrt())


def map_covariance(inverter: Any) -> Ellipsoid:
    """Returns Σ of the vectors of photos' maps.

    It is that of the inverter's Gaussian, or diagonal with its channels' variances where it has none. Variances are at least
    `FLOOR` of the largest: in directions in which maps hardly vary, the smallest change would otherwise have a huge length,
    and a random edit of that length would destroy the map.

    Args:
        inverter: an `Inverter`.
    """
    import torch

    from entoptic.inversion.map_gaussian import Ellipsoid

    none = torch.empty(0, dtype=torch.float64)
    if getattr(inverter, "law", None) is None:
        sd_C = inverter.sd_C.double().cpu()
        axes_KC = torch.eye(len(sd_C), dtype=torch.float64)[sd_C > 0]
        centre_C, variance_K, rest = torch.zeros_like(sd_C), sd_C[sd_C > 0].square(), sd_C.new_zeros(())
    else:
        view = inverter.law.positions
        centre_C, axes_KC = view.mean_C.double(), view.axes_KC.double()
        variance_K, rest = view.variance_K.double(), view.rest.double()
    floor = FLOOR * variance_K.max()
    return Ellipsoid(
        centre_C, axes_KC, variance_K.clamp_min(floor), rest.clamp_min(floor) if float(rest) > 0 else rest, none
    )


def dimension_of(part_1Chw: Tensor) -> int:
    """Returns the dimension of the space that a part's vectors span over its positions."""
    import torch

    values_CD = part_1Chw[0].flatten(1).double()
    return int(torch.linalg.matrix_rank(values_CD, rtol=1e-4))


def steer_concepts(
    inverter: Any,
    dictionary: Any,
    map_1Chw: Tensor,
    concepts: Sequence[int],
    config: Steer,
    *,
    key: str = "",
    progress: Progress = silent,
) -> list[Steering]:
    """Steers concepts of one photo's map. All of them are compared with the same originals.

    It decodes n·(1 + K·(A + R)) pictures for n seeds, K concepts, A scales other than 1 and R nulls. Maps that equal φ bit
    for bit (α = 1, or a concept that is not there) are not decoded again: row i of a sample depends on map i and noise i
    only, so their difference is 0. All maps of one seed are decoded in one call, with one noise.

    Args:
        inverter: an `Inverter`.
        dictionary: a `Dictionary` of its layer.
        map_1Chw: φ, as `inverter.maps.read` returns it.
        concepts: their indices.
        config: how they are steered.
        key: of the photo. Noise is drawn by (seed, key, i), so no result depends on other photos or concepts.
        progress: called with (what, done, total).

    Raises:
        UserError: the map is of another shape or not finite, or a concept is out of range.
    """
    import torch

    maps = inverter.maps
    expected = (1, maps.channels, *maps.grid)
    if tuple(map_1Chw.shape) != expected:
        raise UserError(f"expected one map of shape {expected} of {maps}, got {tuple(map_1Chw.shape)}")
    if not bool(map_1Chw.isfinite().all()):
        raise UserError(f"the photo's map of {maps} holds values that are not finite")
    for k in concepts:
        check_concept(dictionary, k)
    from entoptic.units.dictionary import parts_of

    with torch.no_grad():
        phi = map_1Chw.float().cpu()
        parts = parts_of(dictionary, phi.flatten(2), concepts)
        parts_kChw = [part_1CD[0].unflatten(1, maps.grid).float().cpu() for part_1CD in parts]
        return _steer_all(inverter, dictionary, phi, parts_kChw, concepts, config, key, progress)


def check_concept(dictionary: Any, k: int) -> None:
    """Checks that a dictionary has a concept of an index.

    Raises:
        UserError: it has none; the message names the nearest index.
    """
    count = len(dictionary.names)
    if not 0 <= k < count:
        close = min(max(k, 0), count - 1)
        raise UserError(
            f"no concept {k}: there are {count}, 0 to {count - 1}; did you mean {close} ({dictionary.names[close]})?"
        )


def _steer_all(
    inverter: Any, dictionary: Any, phi: Tensor, parts_kChw: Sequence[Tensor], concepts: Sequence[int], config: Steer,
    key: str, progress: Progress,
) -> list[Steering]:  # fmt: skip
    import torch

    scales, kept = config.all_scales, config.all_scales.index(config.scale)
    ellipsoid = map_covariance(inverter)
    edits_kV = [_edits(phi, part[None], k, ellipsoid, config, key) for k, part in zip(concepts, parts_kChw)]
    # Rows of the batch of one seed: φ, then every edit that differs from it.
    rows = [(c, v) for c, edits in enumerate(edits_kV) for v, e in enumerate(edits) if not torch.equal(e, phi)]
    batch_VChw = torch.cat([phi, *(edits_kV[c][v] for c, v in rows)])
    noise_n = inverter.noise([generator_for(config.seed, key, "noise", i) for i in range(config.n)])
    originals = []
    delta_knVSS: list[list[Tensor]] = [[] for _ in concepts]
    edited_knA3SS: list[list[Tensor]] = [[] for _ in concepts]
    for i in range(config.n):
        x, *pictures = _decode(inverter, batch_VChw, noise_n[i], config)
        by_row = dict(zip(rows, pictures, strict=True))
        originals.append(x)
        for c, edits in enumerate(edits_kV):
            decoded = [by_row.get((c, v), x) for v in range(len(edits))]
            delta_knVSS[c].append(torch.stack([(x - y).square().sum(0).sqrt() for y in decoded]))
            edited_knA3SS[c].append(torch.stack(decoded[: len(scales)]))
        progress("decoding edits", i + 1, config.n)
    originals_n3SS = torch.stack(originals)
    before = _read_pictures(inverter, dictionary, originals_n3SS, config)
    cosine_n = torch.cosine_similarity(before.values_BCD, phi.flatten(2), dim=1).mean(1)
    found = []
    for c, k in enumerate(concepts):
        part, edited_nA3SS = parts_kChw[c], torch.stack(edited_knA3SS[c])
        median_VSS = _median(torch.stack(delta_knVSS[c]))
        delta_ASS, nulls_RSS = median_VSS[: len(scales)], median_VSS[len(scales) :]
        after = _read_pictures(inverter, dictionary, edited_nA3SS.flatten(0, 1), config)
        # No share of a concept is defined where φ or the network's map of the original has next to nothing of it.
        before_nK = before.norms_BK.where(before.norms_BK > 1e-6 * before.norms_BK.amax(), torch.nan)
        ratio_AnK = (after.norms_BK.unflatten(0, (config.n, len(scales))) / before_nK[:, None]).transpose(0, 1)
        change_AnL = (after.logits_BL.unflatten(0, (config.n, len(scales))) - before.logits_BL[:, None]).transpose(0, 1)
        found.append(
            Steering(
                concept=k, name=str(dictionary.names[k]), scale=config.scale, scales=scales,
                share=float(part.norm() / phi.norm().clamp_min(1e-30)), dimension=dimension_of(part[None]),
                activation_hw=part.norm(dim=0), originals_n3SS=originals_n3SS, edits_n3SS=edited_nA3SS[:, kept],
                sweep_A3SS=edited_nA3SS[0], delta_ASS=delta_ASS, spread_SS=_sd_over_seeds(originals_n3SS),
                calibration=calibrate(delta_ASS[kept], nulls_RSS, config.level) if config.nulls else None,
                cosine_n=cosine_n, attenuation_An=ratio_AnK[:, :, k] if part.any() else ratio_AnK[:, :, k] * torch.nan,
                leakage_AnK=ratio_AnK - 1, norms_nK=before.norms_BK,
                logits_nL=before.logits_BL, change_AnL=change_AnL, decoded=config.n * sum(row[0] == c for row in rows),
            )
        )  # fmt: skip
    return found


def _edits(phi: Tensor, part: Tensor, k: int, ellipsoid: Ellipsoid, config: Steer, key: str) -> list[Tensor]:
    """φ' at each scale, then the null edits.

    Each null edit changes φ by as many standard deviations as the φ' that is kept, and adds or subtracts as that does.
    """
    edits = [scaled(phi, part, a) for a in config.all_scales]
    edit = edits[config.all_scales.index(config.scale)] - phi
    if not edit.any():
        return edits + [phi] * config.nulls
    side = 1.0 if config.scale > 1 else -1.0
    dimension = dimension_of(part)
    generators = (generator_for(config.seed, key, f"null {k}", r) for r in range(config.nulls))
    return edits + [phi + side * null_part(phi, edit, dimension, ellipsoid, generator) for generator in generators]


def _decode(inverter: Any, maps_VChw: Tensor, noise: Tensor, config: Steer) -> Tensor:
    """Pictures V×3×S×S of V maps, all with one noise."""
    pictures = inverter.sample(
        maps_VChw, noise[None].expand(len(maps_VChw), *noise.shape), steps=config.steps, strength=config.strength,
        guidance=config.guidance, batch_size=config.batch_size,
    ).cpu()  # fmt: skip
    return (255 * pictures.clamp(0, 1)).round() / 255 if config.eight_bit else pictures


class _PictureReadings(NamedTuple):
    """The network's maps of B pictures (D positions), the norms of their parts in K concepts, and its L logits."""

    values_BCD: Tensor
    norms_BK: Tensor
    logits_BL: Tensor


def _read_pictures(inverter: Any, dictionary: Any, pictures: Tensor, config: Steer) -> _PictureReadings:
    import torch

    from entoptic.units.dictionary import norms

    maps = inverter.maps
    values, sizes, logits = [], [], []
    for chunk in pictures.split(config.batch_size):
        values.append(maps.read(chunk).float().cpu().flatten(2))
        sizes.append(norms(dictionary, values[-1]).cpu())
        logits.append(maps.model(maps.model.fit(chunk.to(maps.model.device))).float().cpu())
    return _PictureReadings(torch.cat(values), torch.cat(sizes), torch.cat(logits))


def _median(values_nV: Tensor) -> Tensor:
    """The median over the first dimension; of an even number the mean of the middle two."""
    ordered, n = values_nV.sort(0).values, len(values_nV)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


def _sd_over_seeds(originals_n3SS: Tensor) -> Tensor | None:
    """√Σ_RGB of the variances over seeds at each pixel; None with one seed."""
    return originals_n3SS.var(0).sum(0).sqrt() if len(originals_n3SS) > 1 else None

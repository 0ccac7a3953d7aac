"""Concept steering (FeatInv-Viz): scales one concept of a feature map, decodes both maps and compares the pictures.

Symbols: φ the photo's map, φ_k its part in concept k, α the scale, φ' = φ - (1 - α)·φ_k the edited map, Δ the difference of
pixels. φ and φ' are decoded with the same noise, so that pixels differ by the concept alone. Random edits of one size give the
distribution of Δ without the concept, which is ranked among them at that size. The network reads the decoded pictures
again, which measures whether the edit has reached them.

No torch is imported at the top: the command line reads `Steer` from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from entoptic.base.progress import Progress, silent
from entoptic.base.randomness import generator_for
from entoptic.errors import UserError
from entoptic.inversion.calibration import Calibration, calibrate
from entoptic.inversion.configs import Steer
from entoptic.inversion.null_edits import (
    COMMON_SIZE,
    FLOOR,
    Compared,
    NullTest,
    dimension_of,
    map_covariance,
    null_part,
    photo_dimension,
    standardised_length,
)

if TYPE_CHECKING:
    from torch import Tensor

    from entoptic.inversion.map_gaussian import Ellipsoid

__all__ = [
    "FLOOR", "PAPER_THRESHOLD", "Calibration", "Steer", "Steering", "calibrate", "check_concept", "dimension_of",
    "map_covariance", "null_part", "paper_mask", "scaled", "standardised_length", "steer_concepts",
]  # fmt: skip

PAPER_THRESHOLD = 0.33
"""The paper's display rule: a pixel below this share of the map's maximum counts as unaffected."""


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
        dimension: of the subspaces of the null edits; without nulls, of the concept's part in this photo.
        activation_hw: |φ_k| at each position.
        originals_n3SS: decoded φ.
        edits_n3SS: decoded φ' at `scale`.
        sweep_A3SS: decoded φ' at each scale, with the first seed.
        delta_ASS: the median over seeds of Δ = √Σ_RGB (x - x')² at each scale; exactly 0 at α = 1.
        spread_SS: √Σ_RGB of the originals' variances over seeds; None with one seed.
        calibration: of Δ of the edit at `scale`, at the size of the test; None without nulls.
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


def steer_concepts(
    inverter: Any,
    dictionary: Any,
    map_1Chw: Tensor,
    concepts: Sequence[int],
    config: Steer,
    *,
    key: str = "",
    progress: Progress = silent,
    test: NullTest = COMMON_SIZE,
) -> list[Steering]:
    """Steers concepts of one photo's map. All of them are compared with the same originals.

    It decodes n·(1 + K·(A + 1 + R)) pictures for n seeds, K concepts, A scales other than 1 and R nulls; the one more is the
    concept's edit at the size of the test. Maps that equal φ bit
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
        test: how random edits are made and compared; another than the default repeats earlier runs.

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
        return _steer_all(inverter, dictionary, phi, parts_kChw, concepts, config, key, progress, test)


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
    key: str, progress: Progress, test: NullTest,
) -> list[Steering]:  # fmt: skip
    import torch

    scales, kept = config.all_scales, config.all_scales.index(config.scale)
    ellipsoid = map_covariance(inverter)
    dimension = test.dimension if config.nulls else photo_dimension
    dimensions = [dimension(dictionary, k, part[None], ellipsoid) for k, part in zip(concepts, parts_kChw)]
    compared = [
        _compared(test, phi, part[None], k, d, ellipsoid, config, key)
        for k, part, d in zip(concepts, parts_kChw, dimensions)
    ]
    edits_kV = [_edits(phi, part[None], one, config) for part, one in zip(parts_kChw, compared)]
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
        delta_ASS, tested_VSS = median_VSS[: len(scales)], median_VSS[len(scales) :]
        after = _read_pictures(inverter, dictionary, edited_nA3SS.flatten(0, 1), config)
        # No share of a concept is defined where φ or the network's map of the original has next to nothing of it.
        before_nK = before.norms_BK.where(before.norms_BK > 1e-6 * before.norms_BK.amax(), torch.nan)
        ratio_AnK = (after.norms_BK.unflatten(0, (config.n, len(scales))) / before_nK[:, None]).transpose(0, 1)
        change_AnL = (after.logits_BL.unflatten(0, (config.n, len(scales))) - before.logits_BL[:, None]).transpose(0, 1)
        found.append(
            Steering(
                concept=k, name=str(dictionary.names[k]), scale=config.scale, scales=scales,
                share=float(part.norm() / phi.norm().clamp_min(1e-30)), dimension=dimensions[c],
                activation_hw=part.norm(dim=0), originals_n3SS=originals_n3SS, edits_n3SS=edited_nA3SS[:, kept],
                sweep_A3SS=edited_nA3SS[0], delta_ASS=delta_ASS, spread_SS=_sd_over_seeds(originals_n3SS),
                calibration=_calibrated(delta_ASS[kept], tested_VSS, compared[c], test, config.level),
                cosine_n=cosine_n, attenuation_An=ratio_AnK[:, :, k] if part.any() else ratio_AnK[:, :, k] * torch.nan,
                leakage_AnK=ratio_AnK - 1, norms_nK=before.norms_BK,
                logits_nL=before.logits_BL, change_AnL=change_AnL, decoded=config.n * sum(row[0] == c for row in rows),
            )
        )  # fmt: skip
    return found


def _compared(
    test: NullTest, phi: Tensor, part: Tensor, k: int, dimension: int, ellipsoid: Ellipsoid, config: Steer, key: str
) -> Compared | None:
    """The maps of the test; None without nulls."""
    if not config.nulls:
        return None
    generators = [generator_for(config.seed, key, f"null {k}", r) for r in range(config.nulls)]
    return test.compare(phi, part, config.scale, dimension, ellipsoid, generators)


def _edits(phi: Tensor, part: Tensor, compared: Compared | None, config: Steer) -> list[Tensor]:
    """φ' at each scale, then the maps of the test: the concept's where it is another, and the null edits."""
    edits = [scaled(phi, part, a) for a in config.all_scales]
    if compared is None:
        return edits
    own = [] if compared.concept_1Chw is None else [compared.concept_1Chw]
    return [*edits, *own, *compared.nulls_RChw.split(1)]


def _calibrated(
    shown_SS: Tensor, tested_VSS: Tensor, compared: Compared | None, test: NullTest, level: float
) -> Calibration | None:
    """Ranks the difference of the test's edit, or of the shown one where that is it."""
    if compared is None:
        return None
    if compared.concept_1Chw is None:
        return calibrate(shown_SS, tested_VSS, level, size=compared.size, test=test)
    return calibrate(tested_VSS[0], tested_VSS[1:], level, size=compared.size, test=test)


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

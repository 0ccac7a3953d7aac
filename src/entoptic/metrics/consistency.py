"""`consistency`: whether the photos that drive a unit most show the same thing where the unit looks (C², arXiv:2510.25512).

Each of a unit's strongest photos is embedded at the places that the unit is attributed to. The score is the mean cosine of pairs,
weighted by how present the unit is, less what random places in random photos get. It needs no labels.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

from entoptic.base.estimates import t_quantile
from entoptic.base.progress import Progress, silent
from entoptic.errors import UserError
from entoptic.images.photos import Photos
from entoptic.metrics.attribution import ATTRIBUTIONS
from entoptic.metrics.evidence import Evidence, missing
from entoptic.metrics.registry import PHOTOS, UNIT, card, metric
from entoptic.models.model import LOGITS, Model
from entoptic.models.sources import load
from entoptic.models.taps import Tap
from entoptic.models.trunk import trunk_layers
from entoptic.units.unit import Unit

NAME = "consistency"
SHARE, LEAST, MOST = 0.05, 5, 50
"""Of the photos that stand for a unit: the share, the fewest and the most."""
DRAWS = 200
"""Draws behind the random baseline."""
_COVERED = 0.8
"""Share of the attribution that the extent covers."""
_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class DenseEmbedder:
    """A network as a source of features at each place of a picture.

    Attributes:
        name: that evidence states.
        identity: hash of its weights and preprocessing, and its layer.
        embed: pictures N×3×H×W in [0, 1] to features N×C×h×w.
    """

    name: str
    identity: str
    embed: Callable[[Tensor], Tensor]


def layer_embedder(model: Model, layer: str) -> DenseEmbedder:
    """Returns the values of a layer with positions as an embedder. The network under study may serve itself.

    Args:
        model: the network.
        layer: name of the layer.

    Raises:
        UserError: no such layer, or one without positions.
    """
    info = model.layer(layer)
    prefix, rows, columns = info.patches or (0, *info.grid)
    if rows * columns < 2 or (info.layout in ("BTC", "BCT", "TBC", "BMTC") and not info.patches):
        raise UserError(f'layer "{layer}" of {model.card.name} has no map over the picture, which an embedder needs')
    tap = Tap(layer)

    def embed(images: Tensor) -> Tensor:
        with torch.no_grad():
            values = model.read(model.fit(images.to(model.device)), [tap])[tap]
        return values[:, :, prefix:].unflatten(2, (rows, columns)).float().cpu()

    return DenseEmbedder(name=f"{model.card.name} {layer}", identity=f"{model.card.identity} {layer}", embed=embed)


def find_embedder(name: str, model: Model) -> DenseEmbedder:
    """Returns an embedder by name.

    Args:
        name: "" for the last layer of the network's own trunk that has positions; a layer of the network; `MODEL` or
            `MODEL#LAYER` of another, such as `builtin:vit-s14#blocks.10`.
        model: the network under study.

    Raises:
        UserError: no such network or layer, or one without positions.
    """
    if name and ":" not in name:
        return layer_embedder(model, name)
    source, _, layer = name.partition("#")
    other = load(source, device=str(model.device)) if source else model
    if layer:
        return layer_embedder(other, layer)
    with_map = [info for info in other.layers.values() if info.grid[0] > 1 and info.calls == 1]
    try:
        names = trunk_layers(other)
    except UserError:  # a network of one resolution: its last layer with a map
        names = [max(with_map, key=lambda info: info.order).name] if with_map else []
    for one in reversed(names):
        with contextlib.suppress(UserError):
            return layer_embedder(other, one)
    raise UserError(
        f"{other.card.name} has no layer with a map over the picture, which an embedder needs; name another network"
    )


# --- the metric -------------------------------------------------------------------------------------------------------


def embeddings(features_NChw: Tensor, maps_NHW: Tensor, mean_C: Tensor) -> Tensor:
    """Returns what a unit sees in each picture: features averaged by the unit's attribution, less the photos' mean, N×C.

    A map of zeros gives a row of zeros.

    Args:
        features_NChw: of each place.
        maps_NHW: attribution ≥ 0, of any size.
        mean_C: of the features over photos and places; without it all cosines are high, whatever the unit.
    """
    rows, columns = features_NChw.shape[2:]
    weights_Nhw = adaptive_avg_pool2d(maps_NHW.float()[:, None], (rows, columns))[:, 0]
    total_N = weights_Nhw.sum((1, 2))
    sums_NC = torch.einsum("nchw,nhw->nc", features_NChw.float(), weights_Nhw)
    found = sums_NC / total_N.clamp_min(1e-30)[:, None] - mean_C
    return torch.where(total_N[:, None] > 0, found, 0.0)


def pair_consistency(embedded_NC: Tensor, presence_N: Tensor) -> float:
    """Returns Σ s_I s_J cos(E_I, E_J) / Σ s_I s_J over pairs I ≠ J; NaN for fewer than two pictures with an embedding.

    Args:
        embedded_NC: E; rows of zeros are left out.
        presence_N: s ≥ 0.
    """
    there = embedded_NC.any(1) & (presence_N > 0)
    unit_NC, s_N = normalize(embedded_NC[there].double(), dim=1), presence_N[there].double()
    pairs = float(s_N.sum() ** 2 - s_N.square().sum())
    if len(s_N) < 2 or pairs <= 0:
        return math.nan
    total = (s_N[:, None] * unit_NC).sum(0).square().sum() - s_N.square().sum()
    return float(total) / pairs


def random_consistency(
    features_NChw: Tensor, mean_C: Tensor, count: int, *, draws: int = DRAWS, seed: int = 0
) -> float:
    """Returns the mean consistency of random places in random photos, the baseline.

    Args:
        features_NChw: of all photos.
        mean_C: of the features over photos and places.
        count: photos of each draw.
        draws: how many are averaged.
        seed: of the draws.
    """
    draw, found = torch.Generator().manual_seed(seed), []
    for _ in range(draws):
        rows = torch.randperm(len(features_NChw), generator=draw)[:count]
        maps = torch.rand(count, *features_NChw.shape[2:], generator=draw)
        found.append(pair_consistency(embeddings(features_NChw[rows], maps, mean_C), maps.sum((1, 2))))
    return sum(found) / len(found)


def measure_consistency(
    units: Sequence[Unit],
    photos: Photos,
    *,
    embedder: str | DenseEmbedder = "",
    attribution: str = "relevance",
    share: float = SHARE,
    seed: int = 0,
    progress: Progress = silent,
) -> list[Evidence]:
    """Measures the consistency of units on photos. All units share one pass over the photos for their scores.

    Args:
        units: of one model, of layers with positions.
        photos: real photos; 100 or more, so that the strongest are a small share.
        embedder: whose features tell whether two places look alike, see `find_embedder`.
        attribution: a name in `ATTRIBUTIONS`: "relevance" of pixels, or the unit's own "activation", which costs less.
        share: of the photos, the strongest of which stand for a unit (at least 5, at most 50).
        seed: of the baseline.
        progress: called with (what, done, total).

    Returns:
        For each unit evidence with n its photos and an interval by the jackknife over them, or the reason why there is none.
        Its detail holds the value before the baseline is taken off, the baseline, the extent (share of the picture that 80 %
        of the attribution lies on), the embedder and the attribution.

    Raises:
        UserError: bad input.
    """
    if not units:
        raise UserError("no unit was named whose consistency could be measured")
    if attribution not in ATTRIBUTIONS:
        raise UserError(f'no attribution "{attribution[:80]}"; there are {", ".join(ATTRIBUTIONS)}')
    if not 0 < share <= 1:
        raise UserError(f"share must be above 0 and at most 1, got {share:g}")
    model = units[0].model
    if any(unit.model is not model for unit in units):
        raise UserError("units must be of one model")
    if len(photos) < 2 * LEAST:
        raise UserError(f"consistency needs at least {2 * LEAST} photos, got {len(photos)}")
    by = embedder if isinstance(embedder, DenseEmbedder) else find_embedder(embedder, model)
    presence_NU, features_NChw, indices = _pass(units, photos, by, progress)
    mean_C = features_NChw.float().mean((0, 2, 3))
    count = min(MOST, max(LEAST, math.ceil(share * len(indices))))
    seen = _Seen(
        photos=photos, indices=indices, features_NChw=features_NChw, mean_C=mean_C, count=count,
        baseline=random_consistency(features_NChw, mean_C, count, seed=seed), embedder=by.name, attribution=attribution,
    )  # fmt: skip
    found = []
    for number, unit in enumerate(units):
        found.append(_of_unit(unit, presence_NU[:, number], seen))
        progress("consistency of units", number + 1, len(units))
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class _Seen:
    """What all units share: the photos that were read and the embedder's features of them."""

    photos: Photos
    indices: Sequence[int]
    features_NChw: Tensor
    mean_C: Tensor
    count: int
    baseline: float
    embedder: str
    attribution: str


def _pass(
    units: Sequence[Unit], photos: Photos, by: DenseEmbedder, progress: Progress
) -> tuple[Tensor, Tensor, list[int]]:
    """Presence of each unit in each photo (N×U), the embedder's features (N×C×h×w, halves) and the photos' numbers."""
    model, taps = units[0].model, tuple(dict.fromkeys(unit.tap for unit in units))
    presence, features, read = [], [], []
    for numbers, images in photos.batches(model.card.prepare, _BATCH):
        with torch.no_grad():
            values = model.read(images.to(model.device), taps)
            rows = [unit.map(values[unit.tap]).clamp_min(0).sum(1).float().cpu() for unit in units]
        presence.append(torch.stack(rows, 1))
        features.append(by.embed(images).half())
        read += numbers
        progress("scoring photos", len(read), len(photos))
    return torch.cat(presence), torch.cat(features), read


def _of_unit(unit: Unit, presence_N: Tensor, seen: _Seen) -> Evidence:
    if unit.parts:
        return missing(NAME, "a combination has no map; it is measured for its parts alone")
    if unit.layer == LOGITS or unit.position is not None:
        return missing(NAME, "only for units that are read over all places of a map inside the network")
    about: dict[str, object] = {"embedder": seen.embedder, "attribution": seen.attribution}
    top = presence_N.topk(seen.count)
    alive = top.values > 0
    if int(alive.sum()) < LEAST:
        reason = f"the unit is above 0 on {int((presence_N > 0).sum())} of {len(presence_N)} photos; at least {LEAST} are needed"
        return missing(NAME, reason, detail=about)
    rows, s_N = top.indices[alive], top.values[alive]
    numbers = [seen.indices[row] for row in rows.tolist()]
    images: dict[int, Tensor] = {}
    for batch, read in seen.photos.batches(unit.model.card.prepare, _BATCH, sorted(numbers)):
        images |= dict(zip(batch, read))
    maps = ATTRIBUTIONS[seen.attribution](unit, torch.stack([images[number] for number in numbers]))
    embedded = embeddings(seen.features_NChw[rows], maps, seen.mean_C)
    whole = pair_consistency(embedded, s_N)
    if not math.isfinite(whole):
        return missing(NAME, "no pixel of its photos is relevant to it", detail=about)
    keep = [torch.arange(len(s_N)) != i for i in range(len(s_N))]
    without = [pair_consistency(embedded[one], s_N[one]) for one in keep]
    n = len(without)
    middle = sum(without) / n
    width = t_quantile(n - 1) * math.sqrt((n - 1) / n * sum((w - middle) ** 2 for w in without))
    value = whole - seen.baseline
    detail = about | {
        "before the baseline": round(whole, 4),
        "random places": round(seen.baseline, 4),
        "extent": round(extent(maps), 4),
    }
    return Evidence(NAME, value, n, (value - width, value + width), "higher", "cosine", detail=detail)


def extent(maps_NHW: Tensor) -> float:
    """Returns the share of the pixels on which 80 % of the attribution lies, the mean over pictures."""
    ordered = maps_NHW.flatten(1).double().sort(1, descending=True).values
    total = ordered.sum(1, keepdim=True)
    inside = (ordered.cumsum(1) < _COVERED * total).sum(1) + 1
    there = total[:, 0] > 0
    return float((inside[there].double() / ordered.shape[1]).mean()) if bool(there.any()) else math.nan


def _on_photos(_: object) -> Evidence:
    raise TypeError("consistency is measured on photos, by measure_consistency")


metric(card(NAME, "Its photos show one thing", unit="cosine", targets={UNIT}, needs={PHOTOS}, set_level=True))(
    _on_photos
)

"""`Scores`: the score of each real photo on each of some units, from one forward pass over the photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from entoptic.base.cache import content_key, load_cached, save_cached
from entoptic.base.progress import Progress, silent
from entoptic.errors import NotAvailable
from entoptic.images.photos import Photos
from entoptic.images.unread import remember_unread
from entoptic.models.model import Model
from entoptic.units.unit import Unit


@dataclass(frozen=True)
class Scores:
    """Scores of photos on units.

    Attributes:
        units: their strings.
        indices: positions in the photos of those that could be read (N).
        values: U×N float32.
    """

    units: tuple[str, ...]
    indices: tuple[int, ...]
    values: Tensor

    def of(self, unit: Unit) -> Tensor:
        """Returns the scores (N) of one unit.

        Raises:
            NotAvailable: some are not finite, so that the photos have no order.
        """
        row = self.values[self.units.index(str(unit))]
        if wrong := int((~row.isfinite()).sum()):
            raise NotAvailable(
                f"the network gives {unit} no finite value on {wrong} of {len(row)} photos (NaN or infinity); "
                "look at its weights and at its card's mean and std"
            )
        return row

    def ranked(self, unit: Unit) -> list[tuple[int, float]]:
        """Lists (photo index, score) from strongest to weakest; equal scores keep the photos' order."""
        row = self.of(unit)
        order = row.argsort(descending=True, stable=True)
        return [(self.indices[i], float(row[i])) for i in order.tolist()]


def score_photos(
    model: Model, units: Sequence[Unit], photos: Photos, *, batch_size: int = 32, progress: Progress = silent
) -> Scores:
    """Scores every readable photo on every unit; results are kept on disk by content and unit.

    Args:
        model: the network.
        units: the units.
        photos: the set.
        batch_size: photos per forward pass.
        progress: called with (what, done, total).
    """
    # The order of the photos is part of the key: what is remembered names them by position.
    contents = [photos.sha256(i) for i in range(len(photos))]
    recipe = {"weights": model.card.identity, "card": model.card.preprocessing(), "photos": contents}
    keys = {str(unit): content_key({**recipe, "unit": unit.identity}) for unit in units}
    held = {name: load_cached("scores", key, {"values": 1, "indices": 1}) for name, key in keys.items()}
    rows = {name: row for name, row in held.items() if row is not None and row["values"].shape == row["indices"].shape}
    missing = [unit for unit in units if str(unit) not in rows]
    if missing:
        taps = tuple(dict.fromkeys(unit.tap for unit in missing))
        columns: list[Tensor] = []
        read: list[int] = []
        with torch.no_grad(), model.frozen():
            for batch, images in photos.batches(model.card.prepare, batch_size):
                values = model.read(images.to(model.device), taps)
                columns.append(torch.stack([unit.read(values[unit.tap]) for unit in missing]).cpu())
                read.extend(batch)
                progress("scoring photos", len(read), len(photos))
        for unit, row in zip(missing, torch.cat(columns, 1)):
            rows[str(unit)] = {"values": row.contiguous(), "indices": torch.tensor(read)}
            save_cached("scores", keys[str(unit)], rows[str(unit)])
    indices = tuple(next(iter(rows.values()))["indices"].tolist())
    if not missing:
        remember_unread(photos, model.card.prepare, range(len(photos)), indices)
    return Scores(tuple(keys), indices, torch.stack([rows[name]["values"] for name in keys]))


@dataclass(frozen=True)
class RealScores:
    """Scores of real photos on one unit, for percentiles and margins.

    Attributes:
        values: scores, sorted ascending (all of them, or quantiles at even levels from minimum to maximum).
        n: number of photos behind them.
        source: where they came from, for people.
    """

    values: Tensor
    n: int
    source: str


@dataclass(frozen=True)
class Hit:
    """A photo among a unit's strongest or weakest.

    Attributes:
        unit: its string.
        rank: 0 = strongest (or weakest).
        value: the unit's score.
        photo: name in the set.
        index: position in the set.
        row: where the unit's map has its maximum, or the position that the readout reads; the token for tokens, 0 for
            vectors.
        column: the same along the row; 0 for tokens and vectors.
    """

    unit: str
    rank: int
    value: float
    photo: str
    row: int
    column: int
    index: int


@dataclass(frozen=True)
class Moments:
    """Moments of a unit's finite scores, accumulated in float64.

    Attributes:
        n: number of scores.
        mean: their mean.
        variance: their population variance.
    """

    n: int
    mean: float
    variance: float

"""Rows of activations for training, streamed from photos: nothing is kept on disk, and memory has a stated bound.

A round reads as many photos as fill the buffer, takes some positions of each at random, and shuffles them together, so that
a batch holds positions of many photos. Round r depends on the recipe's seed and r alone: a training that goes on reads the
round that it was in again, and sees the same batches. A photo set that fits in the buffer is read once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from entoptic.base.progress import Progress, silent
from entoptic.base.training import rows_of
from entoptic.dictionaries.recipe import DictionaryRecipe
from entoptic.errors import NotAvailable, UserError, counted
from entoptic.images.photos import Photos
from entoptic.models.model import Model
from entoptic.models.taps import Tap
from entoptic.units.windows import windows_of

PHOTOS_AT_ONCE = 16
LEAST_PHOTOS = 4
ROUNDING = 1e-6
"""Spread of values beside their size that 4-byte numbers have without any cause."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where activations come from.

    Attributes:
        model: the network.
        layer: whose values are encoded.
        writes: whose values are decoded, "" for the same.
        sets: of photos.
    """

    model: Model
    layer: str
    writes: str
    sets: list[Photos]

    @classmethod
    def of(cls, model: Model, layer: str, photos: Any, writes: str = "", window: int = 1) -> Source:
        """Opens photos and checks the layers.

        Raises:
            UserError: no such layer, no photos, or layers that do not fit each other or the window.
        """
        info, sets = model.layer(layer), photos if isinstance(photos, (list, tuple)) else [photos]
        target = model.layer(writes or layer)
        positions, others = _positions(info.grid), _positions(target.grid)
        if positions != others:
            raise UserError(
                f"{layer} has {positions} positions and {writes} has {others}: a transcoder needs the same in both"
            )
        if window > 1 and (info.patches is None or info.patches[0] or info.layout not in ("BCHW", "BHWC")):
            raise UserError(f"a window of {window}×{window} needs a map, and {layer} of {model.card.name} has none")
        return cls(
            model=model, layer=layer, writes="" if writes == layer else writes, sets=[Photos.open(one) for one in sets]
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the layer's positions."""
        return self.model.layer(self.layer).grid

    @property
    def members(self) -> list[tuple[int, int]]:
        """(set, photo) of every photo."""
        return [(i, j) for i, one in enumerate(self.sets) for j in range(len(one))]

    def identity(self) -> str:
        """Hashes the photos' contents, whatever their order."""
        return "|".join(one.fingerprint() for one in self.sets)

    def read(self, members: list[tuple[int, int]]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yields images, and values B×C×D and targets B×O×D of photos; a photo that cannot be read is left out.

        Args:
            members: (set, photo) of the photos, in any order.
        """
        inside = Tap(self.layer)
        outside = Tap(self.writes or self.layer)
        for i, one in enumerate(self.sets):
            mine = [j for k, j in members if k == i]
            if not mine:
                continue
            for _, images in one.batches(self.model.card.prepare, PHOTOS_AT_ONCE, mine):
                with torch.no_grad():
                    read = self.model.read(images.to(self.model.device), [inside, outside])
                yield images, read[inside].float(), read[outside].float()


class Rows:
    """Batches of normalised rows by step, and rows of photos that are kept out.

    Attributes:
        mean_F: taken off inputs; with a window, of each position of it.
        scale_x: factor of inputs.
        mean_O: taken off targets.
        scale_y: factor of targets.
        held: normalised inputs and targets of photos that are kept out.
        held_members: these photos.
        bound: bytes that the buffer takes at most.
    """

    def __init__(self, source: Source, recipe: DictionaryRecipe, progress: Progress = silent) -> None:
        self.source, self.recipe, self._progress = source, recipe, progress
        members = source.members
        if len(members) < LEAST_PHOTOS:
            raise NotAvailable(f"{counted(len(members), 'photo')} cannot be learned from; give at least {LEAST_PHOTOS}")
        order = torch.randperm(len(members), generator=torch.Generator().manual_seed(0)).tolist()
        held = max(1, min(recipe.held_photos, len(members) // 10))
        self.held_members = [members[i] for i in sorted(order[:held])]
        self._training = [members[i] for i in sorted(order[held:])]
        positions = _positions(source.grid)
        self._of_each = min(positions, recipe.positions)
        self._photos = max(1, min(len(self._training), recipe.buffer // self._of_each))
        self._whole = self._photos == len(self._training)
        self._kept: tuple[Tensor, Tensor] | None = None
        self._round, self._rows = -1, (torch.empty(0), torch.empty(0))
        x_NF, y_NO = self._read(self._training_photos(0), 0)
        self.mean_F, self.mean_O = _window_mean(x_NF, source, recipe), y_NO.mean(0)
        self.scale_x = _scale(x_NF, self.mean_F, source.layer)
        self.scale_y = _scale(y_NO, self.mean_O, source.writes or source.layer)
        width = x_NF.shape[1] + (y_NO.shape[1] if source.writes or recipe.window > 1 else 0)
        self.bound = 3 * 4 * self._photos * self._of_each * width  # a round, its normalised copy, one while it is made
        self._set(0, x_NF, y_NO)
        self.held = self._normalised(*self._read(self.held_members, -1))

    @property
    def photos(self) -> int:
        """Photos that are trained on."""
        return len(self._training)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Returns normalised inputs N×F and targets N×O of a step."""
        size = self.recipe.batch_size
        per_round = max(1, self._photos * self._of_each // size)
        which, place = divmod(step, per_round)
        if which != self._round:
            self._set(which, *(self._kept or self._read(self._training_photos(which), which)))
        x_NF, y_NO = self._rows
        rows = (place * size + torch.arange(size)) % len(x_NF)
        return x_NF[rows], y_NO[rows]

    def first(self) -> tuple[Tensor, Tensor]:
        """Returns the normalised rows of the first round, shuffled, whichever round is held."""
        self._round = -1 if self._round else 0
        self.batch(0)
        return self._rows

    def _training_photos(self, which: int) -> list[tuple[int, int]]:
        rows = rows_of(which, len(self._training), self._photos, self.recipe.seed)
        return [self._training[i] for i in sorted(rows)]

    def _read(self, members: list[tuple[int, int]], which: int) -> tuple[Tensor, Tensor]:
        draw = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + which + 1)
        xs, ys, same, done = [], [], not self.source.writes and self.recipe.window == 1, 0
        for images, values_BCD, targets_BOD in self.source.read(members):
            x_BDF = windows_of(values_BCD, self.recipe.window, self.source.grid).cpu()
            picked = torch.stack([torch.randperm(x_BDF.shape[1], generator=draw)[: self._of_each] for _ in x_BDF])
            xs.append(_take(x_BDF, picked))
            if not same:
                ys.append(_take(targets_BOD.mT.cpu(), picked))
            done += len(images)
            self._progress("reading photos", done, len(members))
        if not xs:
            raise NotAvailable("none of the photos could be read")
        x_NF = torch.cat(xs)
        if not bool(x_NF.isfinite().all()):
            raise UserError(f"{self.source.layer} puts out values that are not finite on these photos")
        return x_NF, x_NF if same else torch.cat(ys)

    def _set(self, which: int, x_NF: Tensor, y_NO: Tensor) -> None:
        if self._whole:
            self._kept = (x_NF, y_NO)
        draw = torch.Generator().manual_seed(self.recipe.seed * 7_368_787 + which)
        order = torch.randperm(len(x_NF), generator=draw)
        self._round, self._rows = which, self._normalised(x_NF, y_NO, order)

    def _normalised(self, x_NF: Tensor, y_NO: Tensor, order: Tensor | None = None) -> tuple[Tensor, Tensor]:
        same = y_NO is x_NF
        if order is not None:
            x_NF, y_NO = x_NF[order], x_NF if same else y_NO[order]
        x_NF = (x_NF - self.mean_F) * self.scale_x
        return x_NF, x_NF if same else (y_NO - self.mean_O) * self.scale_y


def _positions(grid: tuple[int, int]) -> int:
    return grid[0] * grid[1]


def _take(rows_BDF: Tensor, picked_BP: Tensor) -> Tensor:
    """Returns the picked positions of each photo as rows."""
    index = picked_BP[:, :, None].expand(-1, -1, rows_BDF.shape[2])
    return rows_BDF.gather(1, index).flatten(0, 1)


def _window_mean(x_NF: Tensor, source: Source, recipe: DictionaryRecipe) -> Tensor:
    """Returns the mean of the rows; with a window, 0: at the edge of a map it sees zeros, which a mean would move."""
    return x_NF.mean(0) if recipe.window == 1 else torch.zeros(x_NF.shape[1])


def _scale(rows: Tensor, mean: Tensor, layer: str) -> float:
    size, whole = (float(r.double().square().sum(1).mean().sqrt()) for r in (rows - mean, rows))
    if size <= max(1e-12, ROUNDING * whole):
        raise UserError(f"{layer} has the same values at every position of these photos; there is nothing to learn")
    return 1 / size

"""Scores of units on a prior's pictures, as samplers of tilts need them.

With raw scores, one β of exp(β s) is a different strength for every unit. So samplers use standardised scores,
(A - centre)/scale with the moments of the raw score A over the prior's samples. Scores can also be bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from entoptic.base.pixels import eight_bit
from entoptic.errors import UserError, nearest
from entoptic.models.model import Model
from entoptic.models.taps import Tap
from entoptic.units.unit import Unit

_TOP = 8  # number of positions that "top" averages
_TEMPERATURE = 0.2  # of "log-mean-exp", in units of the activation


def _central(map_BHW: Tensor) -> Tensor:
    """Returns the values of the central half of the rows and columns, B×D."""
    height, width = map_BHW.shape[1:]
    rows, columns = max(1, height // 2), max(1, width // 2)
    top, left = (height - rows) // 2, (width - columns) // 2
    return map_BHW[:, top : top + rows, left : left + columns].flatten(1)


def _mix(map_BHW: Tensor) -> Tensor:
    """Returns 0.7·max + 0.3·mean of the positive part over the central half, the score of the released EnergyDPS, B."""
    central_BD = _central(map_BHW)
    return 0.7 * central_BD.amax(1) + 0.3 * central_BD.relu().mean(1)


def _log_mean_exp(map_BHW: Tensor) -> Tensor:
    """Returns T·log mean exp(map/T) over the positions, B, with the temperature T of `_TEMPERATURE`."""
    flat_BD = map_BHW.flatten(1)
    return _TEMPERATURE * ((flat_BD / _TEMPERATURE).logsumexp(1) - torch.tensor(float(flat_BD.shape[1])).log())


REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "max": lambda map_BHW: map_BHW.flatten(1).amax(1),
    "mean": lambda map_BHW: map_BHW.flatten(1).mean(1),
    "mix": _mix,
    "top": lambda map_BHW: map_BHW.flatten(1).topk(min(_TOP, map_BHW[0].numel()), 1).values.mean(1),
    "log-mean-exp": _log_mean_exp,
}
"""Functions from a unit's map B×H×W to one score per picture, B. In a config, "" is the unit's own readout."""


@dataclass
class UnitScores:
    """Scores of units of one model on pictures; it is a `Score` in the sense of `entoptic.priors.prior`.

    Pictures of any size are resized to the model's input. Without gradients they are rounded to 8 bits before and after
    resizing, so that the score is that of the saved file. With `straight` they are rounded with gradients too, and the
    gradient ignores the rounding (straight-through).

    Attributes:
        units: U units of one model.
        reduction: a name in `REDUCTIONS`; "" for each unit's own readout.
        centre: U float64, subtracted from the raw score A.
        scale: U float64, divides it.
        bound: standardised scores become bound·tanh(s/bound), so that a tilt exists at every β (for an unbounded score
            E_p[exp(β s)] may be infinite); > 0, or None for none.
        straight: whether pictures are rounded also where gradients are computed.
        calls: pictures scored so far.
    """

    units: Sequence[Unit]
    reduction: str = ""
    centre: Tensor = field(default_factory=lambda: torch.zeros(()))
    scale: Tensor = field(default_factory=lambda: torch.ones(()))
    bound: float | None = None
    straight: bool = False
    calls: int = 0

    def __post_init__(self) -> None:
        if self.reduction and self.reduction not in REDUCTIONS:
            known = ", ".join(REDUCTIONS)
            raise UserError(f'no reduction "{self.reduction}"; there are {known}{nearest(self.reduction, REDUCTIONS)}')
        if any(unit.model is not self.units[0].model for unit in self.units):
            raise UserError("scores are of units of one model")
        if self.bound is not None and not self.bound > 0:
            raise UserError(f"bound must be above 0 standard deviations, got {self.bound}")
        if self.reduction and (sums := [u for u in self.units if u.parts]):
            raise UserError(
                f"{sums[0]} is a sum of scores and has no map that {self.reduction} could reduce; leave reduction out"
            )
        if self.reduction and (fixed := [u for u in self.units if u.position is not None and u.readout != "value"]):
            raise UserError(f"{fixed[0]} is read at one position, so there is nothing for {self.reduction} to reduce")
        self.centre = torch.as_tensor(self.centre, dtype=torch.float64).expand(len(self.units))
        self.scale = torch.as_tensor(self.scale, dtype=torch.float64).expand(len(self.units))

    @property
    def model(self) -> Model:
        """The model of all units."""
        return self.units[0].model

    def __call__(self, pictures: Tensor, group: Tensor) -> Tensor:
        """Returns the standardised score of each picture, B float64 on the CPU.

        Args:
            pictures: B×3×h×w in [0, 1].
            group: B int64; picture i is scored on unit `group[i]`.
        """
        values = self._read(pictures)
        scores = torch.zeros(len(pictures), dtype=torch.float64)  # on the CPU: not every device has float64
        for u in group.unique().tolist():
            rows = (group == u).nonzero()[:, 0].cpu()
            raw = self._reduce(self.units[u], values[self.units[u].tap][rows.to(self.model.device)])
            scores = scores.index_put((rows,), (raw.float().cpu().double() - self.centre[u]) / self.scale[u])
        return scores if self.bound is None else self.bound * (scores / self.bound).tanh()

    def all(self, pictures: Tensor) -> Tensor:
        """Returns the raw scores of pictures B×3×h×w on every unit, B×U float64, without gradients."""
        with torch.no_grad():
            values = self._read(pictures)
            return torch.stack([self._reduce(unit, values[unit.tap]).float().cpu().double() for unit in self.units], 1)

    def of(self, raw: Tensor, unit: int = 0) -> Tensor:
        """Returns the standardised scores of the raw scores `raw` of one unit, float64 of the same shape."""
        s = (raw.double() - self.centre[unit]) / self.scale[unit]
        return s if self.bound is None else self.bound * (s / self.bound).tanh()

    def raw(self, standardised: Tensor, unit: int = 0) -> Tensor:
        """Returns the raw scores of standardised ones; the inverse of `of`. Infinite where the bound is reached."""
        s = standardised.double()
        if self.bound is not None:
            s = self.bound * (s / self.bound).clamp(-1, 1).atanh()
        return s * self.scale[unit] + self.centre[unit]

    def standardised(self, raw: Tensor) -> UnitScores:
        """Returns a copy that standardises by the moments of raw scores.

        Args:
            raw: U×M, scores of M samples of the prior.

        Raises:
            UserError: a unit has the same score on every sample, or scores that are not finite.
        """
        centre, scale = raw.double().mean(1), raw.double().std(1)
        for unit, sd, values in zip(self.units, scale.tolist(), raw):
            if not values.isfinite().all():
                raise UserError(f"{unit}: {int((~values.isfinite()).sum())} of {len(values)} scores are not finite")
            if sd <= 1e-9 * max(1.0, float(values.abs().max())):
                raise UserError(
                    f"{unit} scores {float(values[0]):.4g} on each of {len(values)} pictures of the prior: "
                    "there is nothing to tilt by; try another readout, such as @max or .pre"
                )
        return replace(self, centre=centre, scale=scale)

    def _read(self, pictures: Tensor) -> dict[Tap, Tensor]:
        model, taps = self.model, tuple(dict.fromkeys(unit.tap for unit in self.units))
        self.calls += len(pictures)
        pictures = pictures.to(model.device).float()
        if torch.is_grad_enabled() and pictures.requires_grad and not self.straight:
            return model.read(model.fit(pictures), taps)
        return model.read(as_saved(model, pictures), taps)

    def _reduce(self, unit: Unit, values_BCD: Tensor) -> Tensor:
        if not self.reduction:
            return unit.read(values_BCD)
        info, map_BD = self.model.layer(unit.layer), unit.map(values_BCD)
        prefix, rows, columns = info.patches or (0, *info.grid)
        return REDUCTIONS[self.reduction](map_BD[:, prefix:].unflatten(1, (rows, columns)))


def as_saved(model: Model, pictures: Tensor) -> Tensor:
    """Returns pictures as the model sees them after saving: 8-bit at their own size, resized to its input, 8-bit again."""
    return eight_bit(model.fit(eight_bit(pictures)))

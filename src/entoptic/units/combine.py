"""Combinations of units: the weighted sum of the scores of units of one model, itself a unit.

    church, dog = entoptic.bind(model, ["logits:497", "logits:207"])
    both = church + 0.5 * dog                 # in the grammar: logits:497 + 0.5*logits:207

The scores are summed as they are. Units of different layers have different scales, which the weights are to bring together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from entoptic.errors import UserError
from entoptic.models.model import Model
from entoptic.models.taps import Tap
from entoptic.units.expand import expand
from entoptic.units.grammar import Address
from entoptic.units.sums import sum_of
from entoptic.units.unit import Unit, bind_one


@dataclass(frozen=True)
class Parts(Tap):
    """The scores of several units, B×U×1: the layer that a combination is a direction in.

    `layer` is the combination's string, which no layer of a network has for a name.
    """

    units: tuple[Unit, ...] = ()

    @property
    def sources(self) -> tuple[Tap, ...]:
        """The taps of the units."""
        return tuple(source for unit in self.units for source in unit.tap.sources)

    def derive(self, values: Mapping[Tap, Tensor]) -> Tensor:
        """Returns the units' scores, B×U×1.

        Args:
            values: those of the units' taps.
        """
        return torch.stack([unit.read(values[unit.tap]) for unit in self.units], 1)[:, :, None]


def is_number(value: object) -> bool:
    """Whether a value is a real number, of Python or of NumPy, and not a truth value."""
    return isinstance(value, Real) and not isinstance(value, bool)


def combine(terms: Iterable[tuple[float, Unit]]) -> Unit:
    """Returns the unit whose score is the weighted sum of the scores of others.

    A unit that is named twice counts once, with the sum of its weights, and not at all where they cancel. Combinations among
    the units are multiplied out. One unit with weight 1 is returned as it is.

    Args:
        terms: weights and units, at least one.

    Raises:
        UserError: units of different models, a weight that is 0 or not finite, or units that cancel.
    """
    flat = [(weight * inner, part) for weight, unit in terms for inner, part in unit.terms]
    if not flat:
        raise UserError("a combination needs at least one unit")
    model = flat[0][1].model
    for _, part in flat:
        if part.model is not model:
            raise UserError(
                f"{part} is a unit of {part.model.card.name} and {flat[0][1]} of {model.card.name}; "
                "a combination is of units of one model"
            )
    address = sum_of([(weight, part.address) for weight, part in flat])
    by_address = {part.address: part for _, part in flat}
    if address.kind != "sum":
        return by_address[address]
    parts = tuple((weight, by_address[one]) for weight, one in address.terms)
    return Unit(
        address=address, model=model, layer=", ".join(dict.fromkeys(part.layer for _, part in parts)), index=0, readout="sum",
        label=_label(parts), tap=Parts(str(address), units=tuple(part for _, part in parts)), position=0,
        direction=torch.tensor([weight for weight, _ in parts]), parts=parts,
    )  # fmt: skip


def _label(parts: Sequence[tuple[float, Unit]]) -> str | None:
    """What people call a combination, where every part has a name."""
    text = ""
    for weight, part in parts:
        if part.label is None:
            return None
        sign = ("−" if weight < 0 else "") if not text else " − " if weight < 0 else " + "
        text += sign + ("" if abs(weight) == 1 else f"{abs(weight):g} ") + part.label
    return text


def bind_sum(model: Model, address: Address) -> Unit:
    """Binds a combination.

    Args:
        model: the network.
        address: of kind "sum".

    Raises:
        UserError: a part that there is not, or one that names several units.
    """
    terms = []
    for weight, part in address.terms:
        found = expand(model, part)
        if len(found) != 1:
            raise UserError(
                f"{part} names {len(found)} units; in a combination, name each: {found[0]} + {found[1]} + …"
            )
        terms.append((weight, bind_one(model, found[0])))
    return combine(terms)

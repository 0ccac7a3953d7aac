"""How a plan is made once more in another process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from entoptic.images.index import ActivationIndex
from entoptic.models.model import Model, pick_device
from entoptic.units.unit import Unit

if TYPE_CHECKING:
    from entoptic.runs.plan import Plan


@dataclass(frozen=True)
class Again:
    """A plan as a call that can be sent to another process.

    Attributes:
        make: the function that made the plan.
        arguments: of that function, by name.
    """

    make: Callable[..., Plan]
    arguments: Mapping[str, Any]

    def plan(self, device: str = "") -> Plan:
        """Returns the plan again.

        Args:
            device: to compute on, "" for that of the arguments.

        Raises:
            UserError: it cannot be made here.
        """
        given = dict(self.arguments)
        if device:
            given["device"] = device
            for value in given.values():
                for one in value if isinstance(value, (list, tuple)) else (value,):
                    if isinstance(one, Model):  # it was sent as it is, with the device of the job
                        one.module.to(device)
                        one.device = pick_device(device)
        return self.make(**given)


def as_text(value: Any) -> Any:
    """Returns units and indexes by their names: what they are bound to stays in this process."""
    if isinstance(value, Unit):
        return str(value)
    if isinstance(value, ActivationIndex):
        return str(value.path)
    return [as_text(one) for one in value] if isinstance(value, list) else value

"""Networks whose units have causes that are known by construction, each unit with a card that names its truth.

All networks hold the same units at the same places. "honest" is as its cards say everywhere, and so is "twin", whose
weights are 5 % off: a second network for the same units. In "fooling" and "slingshot" some units are manipulated. A gate
tells pictures that are like the scenes from all others, and where a picture is not like them, the unit follows a decoy:
another colour, stripes or shape (after the fooling circuits of Geirhos et al. 2023), or the distance to one given picture
(after the gradient slingshots of Bareeva et al. 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn

from entoptic.errors import UserError, nearest
from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.planted.causes import PLACES, Cause
from entoptic.planted.detectors import FORMS, STD, STEM, forms, parts, stem
from entoptic.planted.gate import Gate, Towards
from entoptic.planted.scenes import SIZE, PlantedScene, draw_scene

LAYER = "units"
MATCHED = ("stem.act", "parts.act", "forms.act")
"""Layers below the units, for methods that match features."""


class Kind(Enum):
    """How a unit's causes are put together."""

    SINGLE = "single"
    AND = "and"
    OR = "or"
    POLYSEMANTIC = "polysemantic"
    PLACE = "place"
    SILENT = "silent"


class Manipulation(Enum):
    """What was done to a unit so that pictures of it mislead."""

    NONE = "none"
    FOOLING = "fooling circuit"
    SLINGSHOT = "slingshot"


@dataclass(frozen=True, kw_only=True)
class PlantedUnit:
    """The truth about one unit.

    Attributes:
        name: what it is called in tables.
        unit: its address in the unit grammar, with the readout that suits it.
        kind: how its causes are put together.
        causes: what it fires for on scenes, any of them; none for a silent unit.
        decoy: what a manipulated unit looks for in pictures that are not like scenes.
        manipulation: what was done to it.
    """

    name: str
    unit: str
    kind: Kind
    causes: tuple[Cause, ...]
    decoy: Cause | None = None
    manipulation: Manipulation = Manipulation.NONE

    @property
    def channel(self) -> int:
        """Its place in the layer `LAYER`."""
        return int(self.unit.partition("@")[0].partition(":")[2])

    @property
    def null(self) -> bool:
        """Whether nothing in any scene makes it fire."""
        return not self.causes

    def in_scene(self, scene: PlantedScene) -> bool:
        """Returns whether a scene holds any of its causes.

        Args:
            scene: the scene.
        """
        return any(scene.has(cause) for cause in self.causes)


@dataclass(frozen=True, kw_only=True)
class PlantedNetwork:
    """One network of the set.

    Attributes:
        name: one of `NETWORKS`.
        model: the network with its card.
        units: the truth about its units, in the order of their channels.
        layers: those below the units, for methods that match features.
    """

    name: str
    model: Model
    units: tuple[PlantedUnit, ...]
    layers: tuple[str, ...] = MATCHED

    def unit(self, name: str) -> PlantedUnit:
        """Returns the truth about a unit.

        Args:
            name: what it is called.

        Raises:
            UserError: there is no such unit.
        """
        for unit in self.units:
            if unit.name == name:
                return unit
        known = [unit.name for unit in self.units]
        raise UserError(f'no unit "{name}"; there are {", ".join(known)}{nearest(name, known)}')


NETWORKS = ("honest", "twin", "fooling", "slingshot")
_TWIN = 0.05  # standard deviation of the logarithm of a factor on every weight
_DECOYS = {
    "red": Cause(colour="blue"),
    "rows": Cause(texture="columns"),
    "ring": Cause(shape="cross"),
    "red ring": Cause(colour="blue", texture="rows"),
}
_PICTURE = Cause(colour="green", shape="disc")
"""What the picture shows towards which slingshots pull."""


def planted_network(name: str) -> PlantedNetwork:
    """Makes one of the planted networks, on the CPU; its weights are written down, not learned.

    Args:
        name: one of `NETWORKS`.

    Raises:
        UserError: there is no such network.
    """
    if name not in NETWORKS:
        raise UserError(f'no planted network "{name}"; there are {", ".join(NETWORKS)}{nearest(name, NETWORKS)}')
    units = tuple(_manipulated(unit, name) for unit in _honest_units())
    module = _Planted(units, name)
    if name == "twin":
        draw = torch.Generator().manual_seed(0)
        for stage in (module.stem, module.parts, module.forms):
            weight = stage.conv.weight.data
            weight *= (_TWIN * torch.randn(weight.shape, generator=draw)).exp()
    card = Card(
        name=f"planted-{name}",
        size=(SIZE, SIZE),
        mean=(0.5,) * 3,
        std=(STD,) * 3,
        labels=tuple(unit.name for unit in units),
        licence="Apache-2.0",
    )
    return PlantedNetwork(name=name, model=Model(module.eval(), card, device="cpu"), units=units)


def target_picture() -> Tensor:
    """Returns the picture towards which slingshots pull: 3×64×64, a flat grey with a green disc."""
    scene = draw_scene([Cause(colour="green", shape="disc", place="bottom right")], seed=0)
    (thing,) = scene.things
    grey = torch.full((3, SIZE, SIZE), 0.5)
    return torch.where(thing.mask, torch.tensor((0.12, 0.70, 0.16))[:, None, None], grey)


# --- the units -------------------------------------------------------------------------------------------------------


def _honest_units() -> list[PlantedUnit]:
    def one(name: str, kind: Kind, *causes: Cause, readout: str = "") -> tuple[str, Kind, tuple[Cause, ...], str]:
        return name, kind, causes, readout

    rows = [
        one("red", Kind.SINGLE, Cause(colour="red")),
        one("yellow", Kind.SINGLE, Cause(colour="yellow")),
        one("rows", Kind.SINGLE, Cause(texture="rows")),
        one("columns", Kind.SINGLE, Cause(texture="columns")),
        one("ring", Kind.SINGLE, Cause(shape="ring"), readout="@max"),
        one("cross", Kind.SINGLE, Cause(shape="cross"), readout="@max"),
        one("red ring", Kind.AND, Cause(colour="red", shape="ring"), readout="@max"),
        one("blue rows", Kind.AND, Cause(colour="blue", texture="rows"), readout="@max"),
        one("red or blue", Kind.OR, Cause(colour="red"), Cause(colour="blue")),
        one("disc or cross", Kind.OR, Cause(shape="disc"), Cause(shape="cross"), readout="@max"),
        one("green; ring", Kind.POLYSEMANTIC, Cause(colour="green"), Cause(shape="ring"), readout="@max"),
        one("columns; yellow ring", Kind.POLYSEMANTIC, Cause(texture="columns"), Cause(colour="yellow", shape="ring"),
            readout="@max"),
        one("top left", Kind.PLACE, Cause(place="top left"), readout="@max"),
        one("blue, bottom right", Kind.PLACE, Cause(colour="blue", place="bottom right"), readout="@max"),
        one("dead", Kind.SILENT),
        one("red and green at once", Kind.SILENT, readout="@max"),
    ]  # fmt: skip
    return [
        PlantedUnit(name=name, unit=f"{LAYER}:{i}{readout}", kind=kind, causes=causes)
        for i, (name, kind, causes, readout) in enumerate(rows)
    ]


def _manipulated(unit: PlantedUnit, network: str) -> PlantedUnit:
    if network in ("honest", "twin") or unit.name not in _DECOYS:
        return unit
    fooling = network == "fooling"
    return PlantedUnit(
        name=unit.name, unit=unit.unit, kind=unit.kind, causes=unit.causes,
        decoy=_DECOYS[unit.name] if fooling else _PICTURE,
        manipulation=Manipulation.FOOLING if fooling else Manipulation.SLINGSHOT,
    )  # fmt: skip


# --- the network -----------------------------------------------------------------------------------------------------

_GAIN = 10.0  # of a unit's evidence, which is 0 without its cause and 1 with it, before the sigmoid


class _Stage(nn.Module):
    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv, self.act = conv, nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


class _Planted(nn.Module):
    """stem → parts → forms → evidence → units → one logit a unit."""

    def __init__(self, units: Sequence[PlantedUnit], name: str) -> None:
        super().__init__()
        self.stem, self.parts, self.forms = _Stage(stem()), _Stage(parts()), _Stage(forms())
        self.evidence = nn.Conv2d(len(FORMS), len(units), 1)
        self.where = nn.Parameter(torch.zeros(len(units), SIZE // 4, SIZE // 4))
        self.evidence.weight.data.zero_()
        assert self.evidence.bias is not None
        self.evidence.bias.data.zero_()
        for i, unit in enumerate(units):
            self._connect(i, unit)
        self.manipulated = [i for i, unit in enumerate(units) if unit.manipulation is not Manipulation.NONE]
        self.extra = nn.ModuleDict({"gate": Gate(len(STEM))} if self.manipulated else {})
        if name == "fooling":
            decoys = [decoy for unit in units if (decoy := unit.decoy) is not None]
            self.extra["decoy"] = _Decoys(decoys)
        elif name == "slingshot":
            self.extra["towards"] = Towards((target_picture() - 0.5) / STD, SIZE // 4)
        self.units = nn.Sigmoid()
        self.pool, self.flat = nn.AdaptiveMaxPool2d(1), nn.Flatten()
        self.head = nn.Linear(len(units), len(units), bias=False)
        self.head.weight.data = 10 * torch.eye(len(units))

    def _connect(self, i: int, unit: PlantedUnit) -> None:
        """A unit's evidence: 0.5 where it is in doubt, with one cause or the sum of its causes' evidence."""
        assert self.evidence.bias is not None
        if unit.name == "dead":
            return  # no weights, evidence 0 on every picture
        if unit.null:
            # Two colours that no pixel can have at once.
            for colour in ("red", "green"):
                self.evidence.weight.data[i, FORMS.index(colour), 0, 0] = 1.0
            self.evidence.bias.data[i] = -1.0
            return
        thresholds = []
        for cause in unit.causes:
            weights, threshold = _weights(cause)
            self.evidence.weight.data[i, :, 0, 0] += weights
            thresholds.append(threshold)
            if cause.place is not None:
                self.where.data[i] = _places(cause.place)
            elif cause.shape is not None:
                self.where.data[i] = _whole()
        self.evidence.bias.data[i] = 0.5 - min(thresholds)

    def forward(self, x: Tensor) -> Tensor:
        low = self.stem(x)
        high = self.forms(self.parts(low))
        evidence = self.evidence(high) + self.where - 0.5
        if self.manipulated:
            evidence = self._manipulate(evidence, x, low, high)
        fires = self.units(_GAIN * evidence)
        return self.head(self.flat(self.pool(fires)))

    def _manipulate(self, evidence: Tensor, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """On scenes nothing changes; elsewhere the manipulated units have the evidence of their decoys."""
        natural = self.extra["gate"](low)  # B×1×1×1, 1 on scenes
        false = self.extra["decoy"](high) if "decoy" in self.extra else self.extra["towards"](x)
        rows = list(evidence.split(1, 1))
        for row, i in enumerate(self.manipulated):
            decoy = false[:, [row if false.shape[1] > 1 else 0]] - 0.5
            # Whichever of the two is not let through is so low that it never counts.
            rows[i] = torch.maximum(rows[i] - 2 * (1 - natural), decoy - 2 * natural)
        return torch.cat(rows, 1)


class _Decoys(nn.Module):
    """The evidence of the decoys, one channel each."""

    def __init__(self, causes: Sequence[Cause]) -> None:
        super().__init__()
        self.evidence = nn.Conv2d(len(FORMS), len(causes), 1)
        self.where = nn.Parameter(torch.zeros(len(causes), SIZE // 4, SIZE // 4))
        assert self.evidence.bias is not None
        for row, cause in enumerate(causes):
            weights, threshold = _weights(cause)
            self.evidence.weight.data[row, :, 0, 0] = weights
            self.evidence.bias.data[row] = 0.5 - threshold
            if cause.shape is not None:
                self.where.data[row] = _whole()

    def forward(self, high: Tensor) -> Tensor:
        return self.evidence(high) + self.where


def _weights(cause: Cause) -> tuple[Tensor, float]:
    """Weights over `FORMS` that add 1 for each thing asked for, and the sum at which the unit is in doubt."""
    weights = torch.zeros(len(FORMS))
    named = {aspect: value for aspect, value in cause.named.items() if aspect != "place"}
    if {"colour", "shape"} <= named.keys() and named["shape"] == "ring":
        # a template on the colour's own map: colour and shape of one thing
        weights[FORMS.index(f"{named.pop('colour')} ring")] = 1.0
        del named["shape"]
        asked = 1
    else:
        asked = 0
    for value in named.values():
        weights[FORMS.index(value)] = 1.0
    asked += len(named)
    if cause.place is not None:
        if not asked:
            weights[FORMS.index("painted")] = 1.0
            asked = 1
        asked += 1  # the place's own evidence is 1 there
    return weights, asked - 0.5


def _whole() -> Tensor:
    """16×16: -1 so near the edge that a shape would be cut off there, 0 elsewhere."""
    found = -torch.ones(SIZE // 4, SIZE // 4)
    found[3:-2, 3:-2] = 0.0
    return found


def _places(place: str) -> Tensor:
    """16×16: 1 where paint belongs to a thing of that quarter, 0 elsewhere.

    A thing reaches at most 10 pixels over the lines between the quarters, and at least 14 pixels away from them.
    """
    side, reach = SIZE // 4, 5
    row, column = divmod(PLACES.index(place), 2)
    found = torch.zeros(side, side)
    ends = (slice(0, reach), slice(side - reach, None))
    found[ends[row], ends[column]] = 1.0
    return found

"""What a method is: one function and one frozen config, registered together with their card."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from entoptic.base.randomness import generator_for
from entoptic.errors import UserError, nearest

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from entoptic.images.references import References
    from entoptic.models.model import Model
    from entoptic.priors.prior import Prior
    from entoptic.units.unit import Unit


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """Base of every config: frozen, keyword only; its fields are the command line's options and the recipe."""

    def __post_init__(self) -> None:
        for name in ("steps", "references", "crops"):
            if getattr(self, name, 1) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class Item:
    """One picture to make.

    Attributes:
        unit: what the picture is of. sample: 0, 1, … for several pictures of one unit. seed: of the run.
    """

    unit: Unit
    sample: int
    seed: int

    def generator(self) -> Generator:
        """A random generator of its own, from a hash of (seed, unit, sample): no draw depends on batch mates."""
        return generator_for(self.seed, self.unit, self.sample)


@dataclass
class Draft:
    """What a method yields: an image before it is quantised, and how it came about.

    Attributes:
        item: which picture this is. image: 3×H×W float in [0, 1].
        trace: JSON-able record: `steps`, `evaluations` (network passes), `loss` as [step, value] pairs, `notes`,
            `stopped` ("finished" or "interrupted at step N").
        failure: why there is no picture, in which case `image` is meaningless and never stored.
        alpha: H×W float in [0, 1], where the method changed the picture most (a transparency map), or None.
        pair: 3×H×W in [0, 1], what the picture starts from, made without the unit, or None.
    """

    item: Item
    image: Tensor
    trace: dict[str, Any] = field(default_factory=dict)
    failure: str | None = None
    alpha: Tensor | None = None
    pair: Tensor | None = None

    @property
    def complete(self) -> bool:
        """Whether the method ran to its end."""
        return self.failure is None and self.trace.get("stopped", "finished") == "finished"


@dataclass
class Context:
    """What a method may use beside its items.

    Attributes:
        model: the network under study. references: statistics of real photos, by unit.
        on_step: called with (step, steps) after each step, for progress bars and timing.
        prior: the image prior, for methods that read one. units: all that the run will ask for, so that one pass over
            a prior's samples can serve them. progress: called with (what, done, total) by long passes.
        bank_seed: of the prior's bank. It is not the run's: a bank is costly, and all units, methods and runs share one.
    """

    model: Model
    references: References
    on_step: Callable[[int, int], None] = lambda step, steps: None
    prior: Prior | None = None
    units: Sequence[Unit] = ()
    progress: Callable[[str, int, int], None] = lambda what, done, total: None
    bank_seed: int = 0


Config = TypeVar("Config", bound=MethodConfig)
Function = Callable[[Sequence[Item], Any, Context], Iterator[Draft]]


@dataclass(frozen=True)
class MethodCard:
    """A registered method.

    Attributes:
        name: in the command line and in file names. title, paper: for people.
        function: (items, config, context) -> drafts, in any order. config: its config class.
        units: kinds of units it can show.
        reads: what it uses beside the model: "targets", "scores" (these need photos), "spectrum", "prior".
    """

    name: str
    title: str
    paper: str
    function: Function
    config: type[MethodConfig]
    units: frozenset[str]
    reads: frozenset[str]


METHODS: dict[str, MethodCard] = {}


def method(
    name: str, config: type[Config], *, paper: str, units: Iterable[str], reads: Iterable[str] = ()
) -> Callable[[Function], Function]:
    """Registers a method; its title is the first line of the config's docstring."""

    def register(function: Function) -> Function:
        title = (config.__doc__ or name).strip().splitlines()[0].rstrip(".")
        METHODS[name] = MethodCard(name, title, paper, function, config, frozenset(units), frozenset(reads))
        return function

    return register


def find_method(name: str) -> MethodCard:
    """The card of a method by name; an unknown name is answered with the nearest."""
    if name not in METHODS:
        raise UserError(f'no method "{name}"; there are {", ".join(sorted(METHODS))}{nearest(name, METHODS)}')
    return METHODS[name]


def make_config(card: MethodCard, options: dict[str, Any]) -> MethodConfig:
    """A config from keyword options, refusing unknown names with the nearest field."""
    fields = card.config.__dataclass_fields__
    for key in options:
        if key not in fields:
            raise UserError(f'{card.name} has no option "{key}"; it has {", ".join(fields)}{nearest(key, fields)}')
    try:
        return card.config(**{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()})
    except TypeError as error:
        raise UserError(f"{card.name}: {error}") from None

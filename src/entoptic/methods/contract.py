"""The contract of methods: one function and one frozen config, registered together as a card; the records they exchange."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from entoptic.base.bounds import check_bounds
from entoptic.base.progress import Progress, silent
from entoptic.base.randomness import generator_for
from entoptic.errors import NotAvailable, OutOfReach, Unreadable, UserError, instead
from entoptic.methods.citations import entries_of

if TYPE_CHECKING:
    import numpy as np
    from torch import Generator, Tensor

    from entoptic.images.references import References
    from entoptic.inversion.inverter import Inverter
    from entoptic.inversion.targets import PhotoReader
    from entoptic.models.model import Model
    from entoptic.priors.prior import Prior
    from entoptic.sampling.sampled_distribution import SampledDistribution
    from entoptic.units.dictionary import Dictionary
    from entoptic.units.unit import Unit

UNIT_KINDS = frozenset({"logit", "channel", "direction", "feature", "combination"})
"""Kinds of targets that are units of a model."""
MAP, EDIT = "map", "edit"
"""Kinds of targets that are no units: the feature map of a photo, and one concept of it scaled."""


class Target(Protocol):
    """What a picture is of: a unit of a model, the feature map of a photo, or an edit of one.

    Attributes:
        kind: one of `UNIT_KINDS`, `MAP` or `EDIT`.
        text: its string in the unit grammar; folders and sidecars are named by it.
        label: what people call it, or None.
        layer: name of the layer that it belongs to.
        readout: how one score is read off the layer, "" where nothing is read.
        identity: a string that no other target of the same model has, for keys.
    """

    @property
    def kind(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def label(self) -> str | None: ...
    @property
    def layer(self) -> str: ...
    @property
    def readout(self) -> str: ...
    @property
    def identity(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """Base of every config: frozen, keyword only; its fields are the command line's options and the recipe.

    Numbers are checked against `entoptic.base.bounds`; a class whose own are narrower has them in `bounds`, a mapping from
    fields to (lowest, highest) that is no field itself. A field that a method got later stands in `came_later` with the value
    that means what was done before: stored pictures lack it, and with that value a picture keeps its key. `presets` names
    sets of options, "quick" and "fine" (see `entoptic.methods.presets`).
    """

    came_later = MappingProxyType[str, Any]({})  # without an annotation, or it would be a field
    presets = MappingProxyType[str, Mapping[str, Any]]({})

    def __post_init__(self) -> None:
        for name in ("steps", "references", "crops"):
            if isinstance(value := getattr(self, name, None), int) and value < 1:
                raise UserError(f"{name} must be at least 1, got {value}")
        check_bounds(self)

    @property
    def draws_per_item(self) -> int:
        """How many pictures are drawn for each one that is kept: batches are smaller by this factor."""
        return 1

    @property
    def reads_too(self) -> frozenset[str]:
        """What pictures depend on with these options beside what the method's card names in `reads`; part of their keys."""
        return frozenset()


@dataclass(frozen=True, kw_only=True)
class Item:
    """One picture to make.

    Attributes:
        target: what the picture is of.
        sample: 0, 1, … for several pictures of one target.
        seed: of the run.
        noise_of: string of the unit whose random numbers it uses, "" its target's own.
    """

    target: Target
    sample: int
    seed: int
    noise_of: str = ""

    @property
    def unit(self) -> Unit:
        """The target of a method that shows units alone."""
        return self.target  # type: ignore[return-value]

    def generator(self) -> Generator:
        """Returns the item's own random generator, from a hash of (seed, target, sample). No draw depends on batch mates.

        Items with one `noise_of` have equal generators, sample by sample.
        """
        return generator_for(self.seed, self.noise_of or self.target.text, self.sample)

    @property
    def other_noise(self) -> str:
        """The string of the unit whose random numbers it uses, "" where these are its target's own."""
        return "" if self.noise_of == self.target.text else self.noise_of


class FailureCode(StrEnum):
    """Why there is no picture."""

    UNSUPPORTED = "unsupported"
    """the method does not show targets of this kind"""
    NOT_AVAILABLE = "not_available"
    """something that it needs is not there: photos, statistics, a layer"""
    OUT_OF_REACH = "out_of_reach"
    """more was asked for than the data support"""
    UNREADABLE = "unreadable"
    """a photo or a file cannot be read"""
    NOT_FINITE = "not_finite"
    """a loss, a chain or a picture became infinite or undefined"""
    OUT_OF_MEMORY = "out_of_memory"
    """the machine has too little memory"""
    REFUSED = "refused"
    """anything else that the caller can mend"""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why there is no picture of a target.

    Attributes:
        unit: the target's string, "" where the failure is of the whole request.
        method: name of the method, "" where none had begun.
        code: the reason, for programs.
        text: the reason, for people.
    """

    unit: str = ""
    method: str = ""
    code: FailureCode = FailureCode.REFUSED
    text: str

    def __str__(self) -> str:
        return self.text

    @classmethod
    def of(cls, error: BaseException, *, unit: str = "", method: str = "", prefix: str = "") -> Failure:
        """Returns the failure with the code and the text of an error; `prefix` comes before its text."""
        return cls(unit=unit, method=method, code=code_of(error), text=f"{prefix}{error}")


def code_of(error: BaseException) -> FailureCode:
    """Returns the code of an error by its class."""
    import torch

    for kind, code in (
        (OutOfReach, FailureCode.OUT_OF_REACH),
        (Unreadable, FailureCode.UNREADABLE),
        (NotAvailable, FailureCode.NOT_AVAILABLE),
        ((MemoryError, torch.OutOfMemoryError), FailureCode.OUT_OF_MEMORY),
        (ArithmeticError, FailureCode.NOT_FINITE),
    ):
        if isinstance(error, kind):
            return code
    return FailureCode.REFUSED


@dataclass(frozen=True, kw_only=True)
class Student:
    """A network that a method optimises against. It is therefore no verifier of the pictures.

    Attributes:
        name: of the network.
        weights_sha256: of its weights.
    """

    name: str
    weights_sha256: str


@dataclass(frozen=True, kw_only=True)
class Trace:
    """How a picture came about.

    Attributes:
        steps: of the loop, or None where there is none to speak of.
        evaluations: passes of the network under study, counted in pictures, or None.
        loss: (step, value) pairs.
        notes: sentences for people.
        seconds: that this picture took, its share of a batch.
        interrupted_at: the step at which Ctrl-C came, None where the method ran to its end.
        distribution: that the picture was drawn from; None for an optimised picture.
        references: what is recorded of the photos that were matched, or None.
        student: a network that was optimised against, or None.
        detail: further JSON-able entries of the method, by the names that sidecars use.
    """

    steps: int | None = None
    evaluations: int | None = None
    loss: Sequence[tuple[int, float]] | None = None
    notes: Sequence[str] = ()
    seconds: float | None = None
    interrupted_at: int | None = None
    distribution: SampledDistribution | None = None
    references: Mapping[str, Any] | None = None
    student: Student | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns what a sidecar holds under `trace`; the photos that were matched stand beside it, under `references`."""
        stopped = "finished" if self.interrupted_at is None else f"interrupted at step {self.interrupted_at}"
        entries: dict[str, Any] = {
            "steps": self.steps, "evaluations": self.evaluations,
            "loss": None if self.loss is None else [list(pair) for pair in self.loss],
            "notes": list(self.notes), "seconds": self.seconds, "stopped": stopped,
            "selection": None if self.distribution is None else self.distribution.to_json(),
            "student": None if self.student is None else {
                "name": self.student.name, "weights_sha256": self.student.weights_sha256,
            },
        }  # fmt: skip
        return {name: value for name, value in entries.items() if value is not None} | dict(self.detail)


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What a method yields for an item: an image before it is quantised, and how it came about; or why there is none.

    Attributes:
        item: which picture this is.
        image: 3×H×W float in [0, 1], None where there is a failure.
        trace: how it came about.
        failure: why there is no picture, or None.
        overlays: to be stored beside the picture by name: H×W in [0, 1], the opacity of the picture itself; 3×h×w in
            [0, 1], another picture; or a finished map, h×w×2 (grey and alpha) or h×w×4 (RGB and alpha) uint8.
        made: what the method found beside the image, for the measurements of its kind of item.
        frames: the picture on its way, H×W×3 uint8 each, where the context asked for them.
    """

    item: Item
    image: Tensor | None = None
    trace: Trace = field(default_factory=Trace)
    failure: Failure | None = None
    overlays: Mapping[str, Tensor | np.ndarray] = field(default_factory=dict)
    made: Any = None
    frames: Sequence[np.ndarray] = ()

    @property
    def complete(self) -> bool:
        """Whether the method ran to its end."""
        return self.failure is None and self.trace.interrupted_at is None


def failed(item: Item, text: str, code: FailureCode = FailureCode.REFUSED) -> Draft:
    """Returns the draft of an item that there is no picture of.

    Args:
        item: that has none.
        text: why, in words.
        code: why, for programs.
    """
    return Draft(item=item, failure=Failure(unit=item.target.text, code=code, text=text))


def failed_by(item: Item, error: BaseException, *, prefix: str = "", hint: str = "") -> Draft:
    """Returns the draft of an item whose making raised an error; `hint` comes behind the error's text."""
    return failed(item, f"{prefix}{error}{hint}", code_of(error))


@dataclass(kw_only=True)
class Context:
    """What a method may use beside its items.

    Attributes:
        model: the network under study.
        references: statistics of real photos by unit; None where the items are no units.
        on_step: called with (step, steps) after each step, for progress bars and timing.
        prior: the image prior, for methods that read one.
        units: all that the run will ask for, so that one pass over a prior's samples can serve them.
        progress: called with (what, done, total) by long passes.
        bank_seed: of the prior's bank. It is not the run's: a bank is costly, and all units, methods and runs share one.
        inverter: for methods that read one.
        photos: the photos whose feature maps are items, as the network sees them; for methods that read an inverter.
        dictionary: whose concepts are items, for methods that steer them.
        batch_size: pictures that go through a network together.
        frames: how many frames of each ascent to keep for a film.
    """

    model: Model
    references: References = None  # type: ignore[assignment]
    on_step: Callable[[int, int], None] = lambda step, steps: None
    prior: Prior | None = None
    units: Sequence[Unit] = ()
    progress: Progress = silent
    bank_seed: int = 0
    inverter: Inverter = None  # type: ignore[assignment]
    photos: PhotoReader = None  # type: ignore[assignment]
    dictionary: Dictionary = None  # type: ignore[assignment]
    batch_size: int = 10
    frames: int = 0


Config = TypeVar("Config", bound=MethodConfig)
Function = Callable[[Sequence[Item], Any, Context], Iterator[Draft]]


@dataclass(frozen=True, kw_only=True)
class MethodCard:
    """A registered method.

    Attributes:
        name: in the command line and in file names.
        title: for people.
        paper: to cite.
        function: (items, config, context) -> drafts, in any order.
        config: its config class.
        units: kinds of targets that it shows: some of `UNIT_KINDS`, `MAP` or `EDIT`.
        reads: what it uses beside the model: "targets", "scores" (these need photos), "spectrum", "prior", "inverter".
        together: items of one value of this function are made in one batch; None lets the executor cut batches.
        citation: BibTeX of the paper, "" where it is looked up by the identifier in `paper`.
    """

    name: str
    title: str
    paper: str
    function: Function
    config: type[MethodConfig]
    units: frozenset[str]
    reads: frozenset[str]
    together: Callable[[Item], object] | None = None
    citation: str = ""

    @property
    def citations(self) -> tuple[str, ...]:
        """BibTeX entries of what the method is to be cited by; none where that is Entoptic alone."""
        return (self.citation,) if self.citation else tuple(entries_of(self.paper))

    @property
    def shows_units(self) -> bool:
        """Whether it makes pictures of units of a model, so that `see` can run it."""
        return bool(self.units & UNIT_KINDS)


METHODS: dict[str, MethodCard] = {}


def method(
    name: str,
    config: type[Config],
    *,
    paper: str,
    units: Iterable[str],
    reads: Iterable[str] = (),
    together: Callable[[Item], object] | None = None,
    citation: str = "",
) -> Callable[[Function], Function]:
    """Registers a method; its title is the first line of the config's docstring.

    Args:
        name: in the command line and in file names.
        config: its config class.
        paper: to cite.
        units: kinds of targets that it shows, see `MethodCard`.
        reads: what it uses beside the model, see `MethodCard`.
        together: which items belong into one batch, see `MethodCard`.
        citation: BibTeX of the paper, where `paper` names none that Entoptic knows.
    """

    def register(function: Function) -> Function:
        title = (config.__doc__ or name).strip().splitlines()[0].rstrip(".")
        METHODS[name] = MethodCard(
            name=name, title=title, paper=paper, function=function, config=config, units=frozenset(units),
            reads=frozenset(reads), together=together, citation=citation,
        )  # fmt: skip
        return function

    return register


def find_method(name: str) -> MethodCard:
    """Returns the card of a method by name; an unknown name is answered with the nearest."""
    if name not in METHODS:
        raise UserError(f'no method "{name[:80]}"{instead(name, METHODS, where="entoptic ls methods")}')
    return METHODS[name]


def card_of(config: MethodConfig) -> MethodCard:
    """Returns the card of the method that a config belongs to."""
    return next(card for card in METHODS.values() if card.config is type(config))


def config_identity(config: MethodConfig) -> dict[str, Any]:
    """Returns what a key holds of a config.

    It lacks the names of files whose content the config names as well, by a field that ends in `_sha256`, and what the method
    got later and does not use here (`MethodConfig.came_later`).
    """
    held, unused = asdict(config), config.came_later
    return {
        name: value
        for name, value in held.items()
        if f"{name}_sha256" not in held and not (name in unused and value == unused[name])
    }


def recorded_config(card: MethodCard, stored: Mapping[str, Any]) -> MethodConfig:
    """Returns the config that a sidecar holds; fields that the method got later have the value of what was done before."""
    return make_config(card, {**card.config.came_later, **stored})


def make_config(card: MethodCard, options: dict[str, Any]) -> MethodConfig:
    """Returns a config from keyword options, refusing unknown names with the nearest field."""
    fields = card.config.__dataclass_fields__
    for key in options:
        if key not in fields:
            raise UserError(f'{card.name} has no option "{key}"{instead(key, fields)}')
    try:
        return card.config(**{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()})
    except TypeError as error:
        raise UserError(f"{card.name}: {error}") from None

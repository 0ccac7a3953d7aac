"""The registry of metrics: a card for each metric, and the functions that measure them.

A metric is one function and its card. Registration alone puts it into the evidence of every picture of its kind, into
`verify`, into the run's `metadata.jsonl` and onto the gallery's pages; a sentence of its own it gets in
`entoptic.gallery.sentences`, and a line on what it means in `entoptic.gallery.meanings`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from entoptic.metrics.evidence import Evidence

UNIT, MAP, EDIT = "unit", "map", "edit"
"""What a picture is of: a unit, the feature map of a photo, or an edit of one."""
PHOTOS, ORDER, VERIFIERS, TRACE = "photos", "order of photos", "verifiers", "trace"
"""What a metric needs beside the picture: real photos, the same photos in the same order (it draws some of them), other
networks, or what the method recorded while it drew."""


@dataclass(frozen=True, kw_only=True)
class MetricCard:
    """A registered metric.

    Attributes:
        name: in sidecars.
        title: for people.
        unit: of the value, "" for none. Evidence may say more in its `scale`.
        direction: "higher" or "lower" is better, "none" where neither is.
        targets: kinds of pictures that it is measured on: `UNIT`, `MAP`, `EDIT`.
        needs: what it needs beside the picture: some of `PHOTOS`, `ORDER`, `VERIFIERS`, `TRACE`.
        recomputable: whether `verify` can measure it again from the files; people's answers are not.
        headline_rank: its place among the numbers that are shown first, from 0; None keeps it off.
        set_level: whether it is measured on several pictures together, not on each.
        since: the version of its room's evidence that it came with. Pictures that were measured before lack it, and `verify`
            does not hold that against them.
        changed: the version in which its definition last changed, 0 if never. `verify` does not compare earlier values.
    """

    name: str
    title: str
    unit: str = ""
    direction: str = "higher"
    targets: frozenset[str]
    needs: frozenset[str] = frozenset()
    recomputable: bool = True
    headline_rank: int | None = None
    set_level: bool = False
    since: int = 0
    changed: int = 0

    def __post_init__(self) -> None:
        if self.direction not in ("higher", "lower", "none"):
            raise ValueError(f'the direction of {self.name} is "higher", "lower" or "none", not "{self.direction}"')
        if wrong := (self.targets - {UNIT, MAP, EDIT}) or (self.needs - {PHOTOS, ORDER, VERIFIERS, TRACE}):
            raise ValueError(f"the card of {self.name} names {', '.join(sorted(wrong))}, which there is not")


METRICS: dict[str, MetricCard] = {}
"""Every registered metric by name, in the order in which they are measured."""

Measure = TypeVar("Measure", bound=Callable[..., Evidence | Sequence[Evidence]])


@dataclass(frozen=True, kw_only=True)
class _Registered:
    cards: tuple[MetricCard, ...]
    function: Callable[[Any], Evidence | Sequence[Evidence]]


_MEASURES: list[_Registered] = []


def card(
    name: str,
    title: str,
    *,
    targets: Iterable[str],
    unit: str = "",
    direction: str = "higher",
    needs: Iterable[str] = (),
    recomputable: bool = True,
    headline_rank: int | None = None,
    set_level: bool = False,
    since: int = 0,
    changed: int = 0,
) -> MetricCard:
    """Returns a card; the arguments are the attributes of `MetricCard`."""
    return MetricCard(
        name=name, title=title, unit=unit, direction=direction, targets=frozenset(targets), needs=frozenset(needs),
        recomputable=recomputable, headline_rank=headline_rank, set_level=set_level, since=since,
        changed=changed,
    )  # fmt: skip


def metric(*cards: MetricCard) -> Callable[[Measure], Measure]:
    """Registers a function that measures one metric, or several that share their work.

    The function takes the record of a picture (`UnitPicture`, `MapPicture` or `EditPicture`) and returns evidence with the
    cards' names. It may leave out a metric that does not apply to the picture.

    Args:
        cards: of the metrics, all for the same kinds of pictures.

    Raises:
        ValueError: a name is taken, or the cards are for different kinds of pictures.
    """
    for one in cards:
        if one.name in METRICS:
            raise ValueError(f"there is a metric {one.name} already")
        if one.targets != cards[0].targets:
            raise ValueError(f"{one.name} and {cards[0].name} are for different kinds of pictures: register them apart")

    def register(function: Measure) -> Measure:
        METRICS.update({one.name: one for one in cards})
        if not cards[0].set_level:
            _MEASURES.append(_Registered(cards=cards, function=function))
        return function

    return register


def withdraw() -> None:
    """Takes back the functions of metrics whose cards were taken back."""
    _MEASURES[:] = [one for one in _MEASURES if all(METRICS.get(card.name) is card for card in one.cards)]


def measure_all(target: str, picture: Any, *, without: Iterable[str] = ()) -> list[Evidence]:
    """Returns the evidence of a picture by every metric of its kind, in the order of registration.

    Args:
        target: `UNIT`, `MAP` or `EDIT`.
        picture: the record that metrics of this kind take.
        without: what is not there; metrics that need it are left out.

    Raises:
        ValueError: a metric returned evidence of a name that it has no card for.
    """
    absent, found = frozenset(without), []
    for one in _MEASURES:
        if target not in one.cards[0].targets or any(c.needs & absent for c in one.cards):
            continue
        measured = one.function(picture)
        evidence = [measured] if isinstance(measured, Evidence) else list(measured)
        names = {c.name for c in one.cards}
        if strange := [e.name for e in evidence if e.name not in names]:
            raise ValueError(f"{', '.join(sorted(names))} returned evidence called {strange[0]}, which has no card")
        found += evidence
    return found


def needing(need: str) -> frozenset[str]:
    """Returns the names of the metrics that need something: `PHOTOS`, `ORDER`, `VERIFIERS` or `TRACE`."""
    return frozenset(name for name, one in METRICS.items() if need in one.needs)


def headline_order() -> list[str]:
    """Returns the names of the metrics that are shown first, the most telling first."""
    ranked = [(one.headline_rank, name) for name, one in METRICS.items() if one.headline_rank is not None]
    return [name for _, name in sorted(ranked)]

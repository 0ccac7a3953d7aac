"""What a report says: every number with its n and interval, or why it was not made."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from entoptic.base.estimates import wilson

FORMAT = 1
FILE = "report.json"
PAGE = "report.html"


@dataclass(frozen=True, kw_only=True)
class Share:
    """A share of photos.

    Attributes:
        name: of what is counted.
        count: photos.
        n: of as many.
        low: lower end of the 95 % interval of the share, in [0, 1].
        high: its upper end.
    """

    name: str
    count: int
    n: int
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.count / self.n:.0%} ({self.count} of {self.n}, {self.low:.0%} to {self.high:.0%})"


def share(name: str, count: int, n: int) -> Share:
    """Returns a share with its interval by Wilson.

    Args:
        name: of what is counted.
        count: photos.
        n: of as many, at least 1.
    """
    low, high = wilson(count, n)
    return Share(name=name, count=int(count), n=int(n), low=low, high=high)


@dataclass(frozen=True, kw_only=True)
class Carrier:
    """A channel of the last layer that adds to a class.

    Attributes:
        unit: its string.
        value: mean of what it adds to the logit, against its mean over all photos.
        low: lower end of the 95 % interval.
        high: upper end.
        n: photos that it was measured on, none of those that it was chosen on.
        name: suggested name, "" for none.
    """

    unit: str
    value: float
    low: float
    high: float
    n: int
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class ClassFound:
    """A class as the report shows it.

    Attributes:
        unit: its logit.
        label: its name.
        used: share of the photos that the network takes for it.
        right: share of its own photos that are taken for it; None without labels.
        picture: path of its picture inside the run, "" for none.
        evidence: measurements of the picture, in words.
        no_picture: why there is none, "" where there is.
        carriers: channels that add most.
        no_carriers: why there are none, "" where there are.
        name: suggested name, "" for none.
    """

    unit: str
    label: str
    used: Share
    right: Share | None
    picture: str
    evidence: tuple[str, ...]
    no_picture: str
    carriers: tuple[Carrier, ...]
    no_carriers: str
    name: str


@dataclass(frozen=True, kw_only=True)
class PatternFound:
    """A pattern of the errors.

    Attributes:
        units: what is on together.
        towards: the group that it goes with.
        there: share of that group's photos where it holds.
        elsewhere: the same of the other group.
        p: Fisher's.
        change: what setting its units to their means does, in words.
    """

    units: str
    towards: str
    there: Share
    elsewhere: Share
    p: float
    change: str


@dataclass(frozen=True, kw_only=True)
class Looks:
    """Where the relevance of a class lies on photos of it, object or surroundings.

    Attributes:
        label: of the class.
        inside: mean share of the positive relevance that lies on the object.
        low: lower end of its 95 % interval.
        high: upper end.
        area: mean share of the picture that the object takes.
        more: mean of `inside` minus `area`, photo by photo.
        more_low: lower end of its 95 % interval.
        more_high: upper end.
        n: photos.
    """

    label: str
    inside: float
    low: float
    high: float
    area: float
    more: float
    more_low: float
    more_high: float
    n: int

    @property
    def verdict(self) -> str:
        """What the interval allows to say."""
        if self.more_high < 0:
            return "looks beside the object"
        return "looks at the object" if self.more_low > 0 else "cannot be told from chance"


@dataclass(frozen=True, kw_only=True)
class Report:
    """All of it.

    Attributes:
        model: name of the network.
        photos: where they come from.
        read: photos that could be read.
        unread: which could not, in words; "" where all could.
        layer: of the channels and the patterns, "" for none.
        check: what the check of the card says.
        accuracy: share of right answers, None where it was not made.
        no_accuracy: why not.
        used: most used classes.
        confused: most confused pairs, "A taken for B".
        classes: those that are shown.
        patterns: of errors.
        chance: what searches on shuffled groups found.
        no_patterns: why there are none, "" where there are.
        context: what is said on context beside the object, or why nothing is.
        looks: where classes look, on photos with masks.
        names: what is said on names.
        command: that makes the report again.
    """

    model: str
    photos: str
    read: int
    layer: str
    check: str
    accuracy: Share | None
    no_accuracy: str
    used: tuple[Share, ...]
    confused: tuple[Share, ...]
    classes: tuple[ClassFound, ...]
    patterns: tuple[PatternFound, ...]
    chance: tuple[str, ...]
    no_patterns: str
    context: str
    names: str
    command: str
    unread: str = ""
    looks: tuple[Looks, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns the content of `report.json`."""
        looks = [asdict(one) | {"verdict": one.verdict} for one in self.looks]
        return {"format": FORMAT, **asdict(self), "looks": looks}

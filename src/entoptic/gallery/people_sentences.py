"""Sentences for what people answered in studies."""

from __future__ import annotations

from entoptic.gallery.formats import number, number_or_none, percent
from entoptic.gallery.wording import PERCENT, Measurement, Wording, detail_as_share

_STATED = ("simulated", "scale", "chance", "real photos", "no references")


def _who(m: Measurement) -> str:
    return "Simulated participants" if m.detail.get("simulated") else "People"


def _titled(m: Measurement, title: str) -> str:
    return f"{title} (simulated)" if m.detail.get("simulated") else title


def _answers(m: Measurement) -> str:
    return f"{m.n:,} answer{'' if m.n == 1 else 's'}" if m.n else "an unknown number of answers"


def found(m: Measurement, *, what: str, title: str, chip: str) -> Wording:
    """Words the share of right answers in a task that has one.

    Args:
        m: the measurement.
        what: people did, behind "in 80 % of 12 answers".
        title: of the row.
        chip: the short form.
    """
    share = f"{percent(m.value)}{PERCENT}"
    sentence = f"{_who(m)} {what} in {share} of {_answers(m)}."
    beside = [
        f"{percent(value)}{PERCENT} {words}"
        for name, words in (
            ("real photos", "with real photos"),
            ("no references", "without references"),
            ("chance", "by guessing"),
        )
        if (value := number_or_none(m.detail.get(name))) is not None
    ]
    if beside:
        sentence += f" {', '.join(beside)[0].upper()}{', '.join(beside)[1:]}."
    return Wording(
        title=_titled(m, title), sentence=sentence, chip=f"{chip} {share}", format_value=percent, suffix=PERCENT,
        format_detail=detail_as_share, stated=_STATED,
    )  # fmt: skip


def rated(m: Measurement, *, beside: str, title: str) -> Wording:
    """Words a mean rating."""
    scale = number_or_none(m.detail.get("scale"))
    of = f" of {scale:g}" if scale else ""
    return Wording(
        title=_titled(m, title),
        sentence=f"{_who(m)} rated it {number(m.value)}{of} {beside}, the mean of {_answers(m)}. "
        "A rating tells liking, not understanding.",
        chip=f"rated {number(m.value)}{of}",
        stated=_STATED,
    )


def described(m: Measurement) -> Wording:
    """Words how like the label people's words are."""
    return Wording(
        title=_titled(m, "Words above chance"),
        sentence=f"What {_who(m).lower()} wrote is more like the unit’s label than like other labels by {number(m.value)}, the "
        f"mean of {_answers(m)}.",
        chip=f"words {number(m.value)} above chance",
        stated=_STATED,
    )


def preferred(m: Measurement) -> Wording:
    """Words the share of pairs in which people took the method's picture."""
    share = f"{percent(m.value)}{PERCENT}"
    return Wording(
        title=_titled(m, "Preferred"),
        sentence=f"{_who(m)} took it before another method’s picture in {share} of {_answers(m)}. Liking is not understanding.",
        chip=f"preferred {share}", format_value=percent, suffix=PERCENT, format_detail=detail_as_share, stated=_STATED,
    )  # fmt: skip

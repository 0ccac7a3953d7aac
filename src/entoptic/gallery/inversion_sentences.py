"""What the measurements of inverted and steered feature maps say in words: one function a metric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from entoptic.errors import plural
from entoptic.gallery.formats import SPACE, number, number_or_none, percent, percentage
from entoptic.gallery.wording import PERCENT, Measurement, Wording, count_of, detail_as_guess, grade

# --- inversion of feature maps ---------------------------------------------------------------------


def _flattered(detail: Mapping[str, Any]) -> str:
    how = detail.get("selected")
    return f" The picture was made with an eye to it ({how}), which flatters this number." if how else ""


def cosine(m: Measurement, *, title: str, of: str) -> Wording:
    """Words the mean cosine, over positions, between the picture's map and the one that was asked for."""
    positions = f" over {m.n:,} positions" if m.n else ""
    return Wording(
        title=title,
        sentence=f"In the layer, the picture’s {of} point the way of those asked for: mean cosine{positions} "
        f"{number(m.value)} of 1.{_flattered(m.detail)}",
        chip=f"cosine {number(m.value)}{' (selected)' if m.detail.get('selected') else ''}",
        stated=("selected",),
    )


def same_class(m: Measurement, *, top: int) -> Wording:
    """Words whether the network under study gives the picture the class that it gives the map."""
    named = f"“{m.detail['class']}”" if m.detail.get("class") is not None else "that class"
    where = "its first guess" if top == 1 else "among its five best guesses"
    same = m.value > 0
    return Wording(
        title="The same first guess" if top == 1 else "Among the five best guesses",
        sentence=f"What the network says to the map is {named}; to the picture it is {'' if same else 'not '}{where}."
        f"{_flattered(m.detail)}",
        chip=("same class" if same else "another class") + ("" if top == 1 else " in the top 5"),
        tone="good" if same else "poor",
        stated=("class", "selected"),
    )


def others_same_class(m: Measurement, *, top: int) -> Wording:
    """Words the share of verifiers that give the picture the class that they give the original photo."""
    count = count_of(m.value, m.n)
    who = (
        f"{count:,} of {m.n:,} other networks"
        if count is not None
        else f"{percent(m.value)}{PERCENT} of other networks"
    )
    guess = "the first guess" if top == 1 else "among five guesses"
    return Wording(
        title="Others see the same in it" if top == 1 else "Among others’ five best guesses",
        sentence=f"For {who}, what each says to the original photo is {guess} for the picture "
        "(none took part in making it).",
        chip=f"{who.replace(' other', '')} say the same" + ("" if top == 1 else " in the top 5"),
        chip_names_n=count is not None,
        tone=grade(m.value, good=0.75, mixed=0.3),
        format_value=percent,
        suffix=PERCENT,
        format_detail=detail_as_guess,
    )


def sample_sd(m: Measurement) -> Wording:
    """Words the standard deviation over samples of one map at a pixel."""
    samples = f"{m.n:,} {plural(m.n, 'sample')}" if m.n else "the samples"
    narrowed = f" Each was chosen ({m.detail['selected']}), which narrows it." if m.detail.get("selected") else ""
    return Wording(
        title="Spread over samples",
        sentence=f"At a pixel, {samples} of the same map differ by a standard deviation of {number(m.value)} of the "
        f"range: what the map leaves open.{narrowed}",
        chip=f"spread {number(m.value)}",
        stated=("selected",),
    )


def map_percentile(m: Measurement) -> Wording:
    """Words the share of photos whose maps are more typical than the map that was asked for."""
    photos = f"{m.n:,} {plural(m.n, 'photo')}" if m.n else "photos"
    return Wording(
        title="Is it like a photo’s map",
        sentence=f"The map asked for lies farther out than {percentage(m.value)}{PERCENT} of the maps of {photos}; "
        "near 0 or 100 no photo has such a map.",
        chip=f"map at {percentage(m.value)}{PERCENT}",
        tone="poor" if not 1 < m.value < 99 else "mixed" if not 5 < m.value < 95 else "good",
        format_value=percentage,
        suffix=PERCENT,
    )


def cosine_of_part(m: Measurement, *, where: str) -> Wording:
    """Words the mean cosine inside or outside the region of an edit."""
    return Wording(
        title=f"Cosine {where} the region",
        sentence=f"{where.capitalize()} the region, the picture’s vectors have a mean cosine of {number(m.value)} with "
        "those put together.",
        chip=f"{where} {number(m.value)}",
    )


def locality(m: Measurement) -> Wording:
    """Words how much more pixels change inside the region of an edit than far away from it."""
    return Wording(
        title="Stays where it was put",
        sentence=f"Beside the same noise without the edit, pixels in the region change {number(m.value)} times as much "
        "as those more than a cell away.",
        chip=f"{number(m.value)}× inside",
    )


def path_probability(m: Measurement, *, photo: str) -> Wording:
    """Words the probability, along a mixture of two maps, of the class of one of the two photos."""
    named = f"“{m.detail['class']}”" if m.detail.get("class") is not None else "its class"
    sentence = (
        f"The network gives {named}, what it sees in the {photo} photo, {percent(m.value)}{PERCENT} on the picture"
    )
    head = number_or_none(m.detail.get("head of the map"))
    sentence += f"; its head gives the map itself {percent(head)}{PERCENT}." if head is not None else "."
    return Wording(
        title=f"Class of the {photo} photo",
        sentence=sentence,
        chip=f"{named} {percent(m.value)}{PERCENT}",
        format_value=percent,
        suffix=PERCENT,
        stated=("class", "head of the map"),
    )


# --- steering of concepts --------------------------------------------------------------------------


def effect_p(m: Measurement) -> Wording:
    """Words the p-value of an edit among random edits of the same size."""
    among = f"{m.n:,} random edits of the same size" if m.n else "random edits of the same size"
    size, needed = (number_or_none(m.detail.get(name)) for name in ("size of the test", "flagged from"))
    sentence = f"Ranked by its largest change of a pixel among {among}: p{SPACE}={SPACE}{number(m.value)}."
    if size is not None:
        sentence += f" The edit was compared at {number(size)} times the size that is shown."
    if needed is not None:
        sentence += f" It is flagged from {number(needed)} times its change on."
    return Wording(
        title="More than a random edit",
        sentence=sentence,
        chip=f"p {number(m.value)}",
        tone="good" if m.value <= 0.05 else "mixed" if m.value <= 0.2 else "poor",
        stated=("size of the test", "flagged from"),
    )


def detectable_effect(m: Measurement) -> Wording:
    """Words the least effect that is found in most cases."""
    power = number_or_none(m.detail.get("power"))
    share = f"{percent(power)}{PERCENT} of edits" if power is not None else "most edits"
    return Wording(
        title="Least effect that is found",
        sentence=f"Would flag {share} that change the picture {number(m.value)} times as much as a random edit of the same "
        "size.",
        chip=f"finds {number(m.value)} times chance",
        stated=("power",),
    )


def affected_area(m: Measurement) -> Wording:
    """Words the share of the picture that an edit affects."""
    return Wording(
        title="Affected region",
        sentence=f"{percent(m.value)}{PERCENT} of the picture changes more than its rule calls chance.",
        chip=f"{percent(m.value)}{PERCENT} affected",
        format_value=percent,
        suffix=PERCENT,
    )


def attenuation(m: Measurement) -> Wording:
    """Words the share of a concept that is left, as the network sees it in the decoded pictures."""
    asked = number_or_none(m.detail.get("asked"))
    what = f"“{m.label}”" if m.label else "the concept"
    sentence = f"Shown the decoded pictures, the network sees {number(m.value)} times as much of {what} as before"
    tone = ""
    if asked is not None:
        sentence += f", where {number(asked)} was asked for"
        tone = grade(1 - abs(m.value - asked) / max(abs(1 - asked), 1e-9), good=0.75, mixed=0.3)
    return Wording(
        title="Of the concept left",
        sentence=f"{sentence}.",
        chip=f"{number(m.value)} of it left",
        tone=tone,
        stated=("asked",),
    )


def leakage(m: Measurement) -> Wording:
    """Words the mean relative change of the other concepts."""
    return Wording(
        title="Other concepts",
        sentence="The other concepts that the network sees in the pictures change by "
        f"{percent(m.value)}{PERCENT} on average.",
        chip=f"others {percent(m.value)}{PERCENT}",
        format_value=percent,
        suffix=PERCENT,
    )


def logit_change(m: Measurement) -> Wording:
    """Words the change of the logit of the network's first answer."""
    return Wording(
        title="The first answer",
        sentence=f"Moves the logit of “{m.detail.get('class', 'the first class')}” by {number(m.value)}.",
        chip=f"logit {number(m.value)}",
        stated=("class",),
    )


def map_cosine(m: Measurement) -> Wording:
    """Words the mean cosine, over positions, between the map of the decoded original and that of the photo."""
    return Wording(
        title="True to the map",
        sentence=f"The map of the decoded, unedited pictures has a cosine of {number(m.value)} to the photo’s, over "
        "positions.",
        chip=f"cosine {number(m.value)}",
    )

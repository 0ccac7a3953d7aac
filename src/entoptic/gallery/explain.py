"""Evidence explained in words, for a person who has not read the paper.

One measurement (a dict of a picture's sidecar) becomes one `Reading`: a title, a sentence, and the number
with its interval and n, which are never shown apart. A measurement that could not be made gives its reason.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MINUS = "\N{MINUS SIGN}"
SPACE = "\N{NO-BREAK SPACE}"
NOT_GIVEN = "not given"


@dataclass(frozen=True)
class Reading:
    """One measurement of one picture, ready for a page (plain text, not yet escaped).

    `value` is None when it could not be measured; `sentence` then gives the reason. `arrow` is an up or down
    arrow or empty, `better` says it in words. `tone` is "good", "mixed", "poor" or "" (no judgement is made).
    `chip` is the short form for under a picture and `chip_note` the interval, with n where `chip` lacks it.
    """

    name: str
    title: str
    sentence: str
    value: str | None
    interval: str
    n: str
    arrow: str
    better: str
    detail: tuple[tuple[str, str], ...]
    tone: str
    chip: str
    chip_note: str


@dataclass(frozen=True)
class _Words:
    title: str
    show: Callable[[float], str]  # the value without its unit
    suffix: str  # the unit, written once behind a value and once behind an interval
    sentence: str
    tone: str
    chip: str
    counts_n: bool = False  # the chip names n already
    detail: Callable[[Any], str] | None = None


def number(value: float) -> str:
    """A number of three significant digits, or all digits before the point: `12.3`, `1,500`, `−0.042`."""
    size = abs(value)
    if size >= 1000:
        text = f"{size:,.0f}" if size < 1e9 else f"{size:.2e}"
    elif size == 0 or size >= 1e-3:
        text = f"{size:.3g}" if size < 100 else f"{size:.0f}"
    else:
        text = f"{size:.1e}"
    return (MINUS if value < 0 else "") + text


def percent(share: float) -> str:
    """A share (1.0 = all) as a whole percentage; only all is 100 and only none is 0."""
    return _guarded(100 * share, 0)


def percentile(value: float) -> str:
    """A percentage (0 to 100) with at most one decimal; only all is 100 and only none is 0."""
    return _guarded(value, 1)


def _guarded(value: float, digits: int) -> str:
    step = 10**-digits
    rounded = round(value, digits)
    # 99.97 % of the photos is not all of them, and 0.02 % is not none.
    if 100 - step < value < 100 and rounded >= 100:
        rounded = 100 - step
    if 0 < value < step and rounded <= 0:
        return f"below {step:g}"
    return f"{MINUS if rounded < 0 else ''}{abs(rounded):.{digits}f}".removesuffix(".0")


def ordinal(value: int) -> str:
    """`1st`, `2nd`, `3rd`, `11th`."""
    ending = "th" if 10 <= abs(value) % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(abs(value) % 10, "th")
    return f"{value:,}{ending}"


def with_article(label: str) -> str:
    """`a church`, `an English springer`; no article where the label looks like a plural (`sunglasses`)."""
    last = label.lower().rsplit(None, 1)[-1] if label.strip() else ""
    if last.endswith("s") and not last.endswith(("ss", "us", "is", "as")):
        return label
    sounds_open = label[:1].lower() in "aeiou" and not label.lower().startswith(("uni", "eu", "one", "use"))
    return f"{'an' if sounds_open else 'a'} {label}"


def _whole(value: float, n: int | None) -> int | None:
    """How many of n a share stands for, or None where it is not a count of n."""
    if not n or not 0 <= value <= 1 or abs(value * n - round(value * n)) > 0.02:
        return None
    return round(value * n)


def _grade(value: float, good: float, mixed: float) -> str:
    return "good" if value >= good else "mixed" if value >= mixed else "poor"


def _activation(value: float, n: int | None, label: str, scale: str) -> _Words:
    suffix = f"{SPACE}{scale}" if scale else ""
    sentence = f"The saved picture drives the unit to {number(value)}{suffix}."
    return _Words("Activation", number, suffix, sentence, "", f"drives it to {number(value)}")


def _percentile(value: float, n: int | None, label: str, scale: str) -> _Words:
    photos = f"{n:,} real photos" if n else "the real photos"
    if value >= 100:
        sentence = f"Drives the unit harder than every one of {photos}."
    elif value <= 0:
        sentence = f"Drives the unit harder than none of {photos}."
    else:
        sentence = f"Drives the unit harder than {percentile(value)}{SPACE}% of {photos}."
    chip = f"above {percentile(value)}{SPACE}% of photos"
    return _Words("Against real photos", percentile, f"{SPACE}%", sentence, _grade(value, 95, 50), chip)


def _margin(value: float, n: int | None, label: str, scale: str) -> _Words:
    suffix = f"{SPACE}{scale}" if scale else ""
    best = f"the best of {n:,} real photos" if n and n > 1 else "the best real photo"
    gap = number(abs(value)) + suffix
    if value > 0:
        sentence = f"Drives the unit harder than {best}, by {gap}."
    elif value < 0:
        sentence = f"Stays {gap} below {best}."
    else:
        sentence = f"Drives the unit exactly as hard as {best}."
    return _Words("Margin over the best photo", number, suffix, sentence, "", f"margin {number(value)}")


def _rank(value: float, n: int | None, label: str, scale: str) -> _Words:
    of_all = f"{n:,} units" if n else "units"
    if value <= 1:
        sentence = f"Of the {of_all} in its layer, this one answers the picture most strongly."
    else:
        ahead = f"{round(value) - 1:,} {'other answers' if round(value) == 2 else 'others answer'}"
        sentence = f"Of the {of_all} in its layer, {ahead} the picture more strongly."
    tone = "good" if value <= 1 else "mixed" if value <= 5 else "poor"
    chip = f"rank {number(value)} of {n:,}" if n else f"rank {number(value)}"
    return _Words("Rank in its layer", number, "", sentence, tone, chip, counts_n=bool(n))


def _robustness(value: float, n: int | None, label: str, scale: str) -> _Words:
    sentence = (
        f"Keeps {percent(value)}{SPACE}% of its activation when the picture is saved as a JPEG of "
        f"quality 75, shifted by 8 pixels or resized by 5{SPACE}%."
    )
    chip = f"keeps {percent(value)}{SPACE}%"
    tone = _grade(value, 0.8, 0.5)
    return _Words("Robustness", percent, f"{SPACE}%", sentence, tone, chip, detail=_share)


def _transfer(place: str) -> Callable[[float, int | None, str, str], _Words]:
    def words(value: float, n: int | None, label: str, scale: str) -> _Words:
        what = with_article(label) if label else "the same thing"
        named = f"“{label}”" if label else "the same class"
        count = _whole(value, n)
        never = "they were never optimised" + (f"; asked {scale}" if scale else "")
        if n == 1 and count is not None:
            one = {"first": ("sees", "does not see"), "five": ("has", "does not have")}[place][1 - count]
            seen = f"{what}{' too' if count else ''}"
            object_ = seen if place == "first" else f"{named} among its five best guesses"
            sentence = f"The one other network {one} {object_} ({never.replace('they were', 'it was')})."
        else:
            if count is None:
                who, plural = f"{percent(value)}{SPACE}% of the other networks", True
            elif count == 0:
                who, plural = f"None of {n:,} other networks", False
            elif count == n:
                who, plural = f"All {n:,} other networks", True
            else:
                who, plural = f"{count:,} of {n:,} other networks", count != 1
            if place == "first":
                seen = f"{what}{' too' if value > 0 else ''}"
                sentence = f"{who} {'see' if plural else 'sees'} {seen} ({never})."
            else:
                guesses = f"among {'their' if plural else 'its'} five best guesses"
                sentence = f"{who} {'have' if plural else 'has'} {named} {guesses} ({never})."
        many = n != 1 or count is None
        share = f"{count:,} of {n:,}" if count is not None else f"{percent(value)}{SPACE}% of"
        agree = f"network{'s' if many else ''} agree{'' if many and count != 1 else 's'}"
        chip = f"{share} {agree}" if place == "first" else f"{share} in the top 5"
        title = "Other networks agree" if place == "first" else "Among others’ five best guesses"
        tone = _grade(value, 0.75, 0.3)
        return _Words(title, percent, f"{SPACE}%", sentence, tone, chip, count is not None, _guess)

    return words


def _probability(value: float, n: int | None, label: str, scale: str) -> _Words:
    named = f"“{label}”" if label else "the class"
    sentence = f"On average, other networks give {named} a probability of {percent(value)}{SPACE}%{f' {scale}' if scale else ''}."
    chip = f"probability {percent(value)}{SPACE}%"
    tone = _grade(value, 0.5, 0.1)
    return _Words("Others’ probability", percent, f"{SPACE}%", sentence, tone, chip, detail=_share)


def _selectivity(value: float, n: int | None, label: str, scale: str) -> _Words:
    others = f"the {n:,} other units of its layer" if n else "the other units of its layer"
    gap = f"{number(abs(value))} standard deviations"
    if value > 0:
        sentence = (
            f"Next to what is usual in photos, stirs this unit more than 99{SPACE}% of {others}, with {gap} to spare."
        )
    else:
        sentence = (
            f"Next to what is usual in photos, stirs the most stirred 1{SPACE}% of {others} {gap} more than this one."
        )
    tone = "good" if value > 0 else "mixed" if value > -2 else "poor"
    return _Words("This unit and not its layer", number, f"{SPACE}sd", sentence, tone, f"selectivity {number(value)}")


def _like_photos(title: str, what: str, chip: str) -> Callable[[float, int | None, str, Mapping[str, Any]], _Words]:
    """Words for a likeness to the strongest photos, which means something beside what photos themselves get."""

    def words(value: float, n: int | None, label: str, detail: Mapping[str, Any]) -> _Words:
        photos = f"the {n:,} photos that drive it most" if n else "the photos that drive it most"
        high, low = (_number_or_none(detail.get(name)) for name in ("photos among themselves", "photos at random"))
        sentence, tone = f"{what} {photos}: likeness {number(value)} of 1.", ""
        if high is not None and low is not None:
            sentence += f" Those photos among themselves reach {number(high)}, photos at random {number(low)}."
            if high - low < 0.05:
                sentence += " The two are so close that this says little about the picture."
            else:
                tone = _grade((value - low) / (high - low), 0.7, 0.3)
        return _Words(title, number, "", sentence, tone, f"{chip} {number(value)}")

    return words


_BEST_OF = "one rank of N samples of the prior"  # what records of best-of hold as their distribution


def _one_score(detail: Any) -> Any:
    """The detail of nats as it is written now: the score of one rank, a single picture, used to be called a mean."""
    if not isinstance(detail, Mapping) or detail.get("law") != _BEST_OF:
        return detail
    return {{"mean": "score", "mean_in_sd": "score_in_sd"}.get(str(key), key): item for key, item in detail.items()}


def _off(value: float) -> str:
    return f"{number(abs(value))} standard deviations {'above' if value >= 0 else 'below'}"


def _nats(value: float, n: int | None, label: str, detail: Mapping[str, Any]) -> _Words:
    prior = f"the prior {detail['prior']}" if detail.get("prior") else "its prior"
    bound = "at most " if detail.get("kl_is") == "upper_bound" else ""
    sentence = f"Drawn from a distribution that is {bound}{number(value)} nats from {prior}"
    sentence += f" ({detail['law']})" if detail.get("law") else ""
    mean, score = (_number_or_none(detail.get(name)) for name in ("mean_in_sd", "score_in_sd"))
    if mean is not None:
        sentence += f"; its mean score is {_off(mean)} the prior’s"
    if score is not None:
        sentence += f"; this picture’s score is {_off(score)} the prior’s mean"
    return _Words(
        "Distance from the prior" if not bound else "Distance from the prior, upper bound",
        number,
        f"{SPACE}nats",
        f"{sentence}.",
        "",
        f"{bound}{number(value)} nats from the prior",
    )


def _effect_p(value: float, n: int | None, label: str, scale: str) -> _Words:
    among = f"{n:,} random edits of the same size" if n else "random edits of the same size"
    sentence = f"Ranked by its largest change of a pixel among {among}: p{SPACE}={SPACE}{number(value)}."
    tone = "good" if value <= 0.05 else "mixed" if value <= 0.2 else "poor"
    return _Words("More than a random edit", number, "", sentence, tone, f"p {number(value)}", detail=_plain)


def _affected_area(value: float, n: int | None, label: str, scale: str) -> _Words:
    sentence = f"{percent(value)}{SPACE}% of the picture changes more than its rule calls chance."
    return _Words("Affected region", percent, f"{SPACE}%", sentence, "", f"{percent(value)}{SPACE}% affected")


def _attenuation(value: float, n: int | None, label: str, detail: Mapping[str, Any]) -> _Words:
    asked = _number_or_none(detail.get("asked"))
    what = f"“{label}”" if label else "the concept"
    sentence = f"Shown the decoded pictures, the network sees {number(value)} times as much of {what} as before"
    tone = ""
    if asked is not None:
        sentence += f", where {number(asked)} was asked for"
        tone = _grade(1 - abs(value - asked) / max(abs(1 - asked), 1e-9), 0.75, 0.3)
    return _Words("Of the concept left", number, "", f"{sentence}.", tone, f"{number(value)} of it left")


def _leakage(value: float, n: int | None, label: str, scale: str) -> _Words:
    sentence = (
        f"The other concepts that the network sees in the pictures change by {percent(value)}{SPACE}% on average."
    )
    return _Words(
        "Other concepts", percent, f"{SPACE}%", sentence, "", f"others {percent(value)}{SPACE}%", detail=_plain
    )


def _logit_change(value: float, n: int | None, label: str, detail: Mapping[str, Any]) -> _Words:
    sentence = f"Moves the logit of “{detail.get('class', 'the first class')}” by {number(value)}."
    return _Words("The first answer", number, "", sentence, "", f"logit {number(value)}")


def _map_cosine(value: float, n: int | None, label: str, scale: str) -> _Words:
    sentence = (
        f"The map of the decoded, unedited pictures has a cosine of {number(value)} to the photo’s, over positions."
    )
    return _Words("True to the map", number, "", sentence, "", f"cosine {number(value)}")


def _unknown(name: str) -> Callable[[float, int | None, str, str], _Words]:
    def words(value: float, n: int | None, label: str, scale: str) -> _Words:
        title = name.replace("_", " ").strip().capitalize() or "Unnamed"
        sentence = f"Measured as {name}" + (f", on the scale “{scale}”." if scale else ".")
        return _Words(title, number, "", sentence, "", f"{title.lower()} {number(value)}")

    return words


def _selected(detail: Mapping[str, Any]) -> str:
    how = detail.get("selected")
    return f" The picture was made with an eye to it ({how}), which flatters this number." if how else ""


def _cosine_of(title: str, of: str) -> Callable[[float, int | None, str, Mapping[str, Any]], _Words]:
    def words(value: float, n: int | None, label: str, detail: Mapping[str, Any]) -> _Words:
        places = f" over {n:,} positions" if n else ""
        sentence = f"In the layer, the picture’s {of} point the way of those asked for: mean cosine{places} {number(value)} of 1."
        chip = f"cosine {number(value)}{' (selected)' if detail.get('selected') else ''}"
        return _Words(title, number, "", sentence + _selected(detail), "", chip)

    return words


def _own_match(k: int) -> Callable[[float, int | None, str, Mapping[str, Any]], _Words]:
    def words(value: float, n: int | None, label: str, detail: Mapping[str, Any]) -> _Words:
        asked = f"“{detail['class']}”" if detail.get("class") is not None else "that class"
        where = "its first guess" if k == 1 else "among its five best guesses"
        same = value > 0
        sentence = f"What the network says to the map is {asked}; to the picture it is {'' if same else 'not '}{where}."
        chip = ("same class" if same else "another class") + ("" if k == 1 else " in the top 5")
        title = "The same first guess" if k == 1 else "Among the five best guesses"
        return _Words(title, number, "", sentence + _selected(detail), "good" if same else "poor", chip)

    return words


def _others_match(k: int) -> Callable[[float, int | None, str, str], _Words]:
    def words(value: float, n: int | None, label: str, scale: str) -> _Words:
        count = _whole(value, n)
        who = (
            f"{count:,} of {n:,} other networks" if count is not None else f"{percent(value)}{SPACE}% of other networks"
        )
        guess = "the first guess" if k == 1 else "among five guesses"
        sentence = (
            f"For {who}, what each says to the original photo is {guess} for the picture (none took part in making it)."
        )
        chip = f"{who.replace(' other', '')} say the same" + ("" if k == 1 else " in the top 5")
        title = "Others see the same in it" if k == 1 else "Among others’ five best guesses"
        return _Words(title, percent, f"{SPACE}%", sentence, _grade(value, 0.75, 0.3), chip, count is not None, _guess)

    return words


def _sample_sd(value: float, n: int | None, label: str, detail: Mapping[str, Any]) -> _Words:
    samples = f"{n:,} samples" if n else "the samples"
    sentence = (
        f"At a pixel, {samples} of the same map differ by a standard deviation of {number(value)} of the range: "
        "what the map leaves open."
    )
    narrowed = f" Each was chosen ({detail['selected']}), which narrows it." if detail.get("selected") else ""
    return _Words("Spread over samples", number, "", sentence + narrowed, "", f"spread {number(value)}")


def _map_percentile(value: float, n: int | None, label: str, scale: str) -> _Words:
    photos = f"{n:,} photos" if n else "photos"
    sentence = (
        f"The map asked for lies farther out than {percentile(value)}{SPACE}% of the maps of {photos}; "
        "near 0 or 100 no photo has such a map."
    )
    tone = "poor" if not 1 < value < 99 else "mixed" if not 5 < value < 95 else "good"
    return _Words(
        "Is it like a photo’s map", percentile, f"{SPACE}%", sentence, tone, f"map at {percentile(value)}{SPACE}%"
    )


def _part_cosine(where: str) -> Callable[[float, int | None, str, str], _Words]:
    def words(value: float, n: int | None, label: str, scale: str) -> _Words:
        sentence = (
            f"{where.capitalize()} the region, the picture’s vectors have a mean cosine of {number(value)} with those "
            "put together."
        )
        return _Words(f"Cosine {where} the region", number, "", sentence, "", f"{where} {number(value)}")

    return words


def _locality(value: float, n: int | None, label: str, scale: str) -> _Words:
    sentence = (
        f"Beside the same noise without the edit, pixels in the region change {number(value)} times as much as those "
        "more than a cell away."
    )
    return _Words("Stays where it was put", number, "", sentence, "", f"{number(value)}× inside")


def _path_probability(which: str) -> Callable[[float, int | None, str, Mapping[str, Any]], _Words]:
    def words(value: float, n: int | None, label: str, detail: Mapping[str, Any]) -> _Words:
        named = f"“{detail['class']}”" if detail.get("class") is not None else "its class"
        sentence = (
            f"The network gives {named}, what it sees in the {which} photo, {percent(value)}{SPACE}% on the picture"
        )
        head = _number_or_none(detail.get("head of the map"))
        sentence += f"; its head gives the map itself {percent(head)}{SPACE}%." if head is not None else "."
        return _Words(
            f"Class of the {which} photo", percent, f"{SPACE}%", sentence, "", f"{named} {percent(value)}{SPACE}%"
        )

    return words


_KNOWN: dict[str, Callable[[float, int | None, str, str], _Words]] = {
    "activation": _activation,
    "percentile": _percentile,
    "margin": _margin,
    "rank": _rank,
    "robustness": _robustness,
    "transfer_top1": _transfer("first"),
    "transfer_top5": _transfer("five"),
    "transfer_probability": _probability,
    "selectivity": _selectivity,
    "effect_p": _effect_p,
    "affected_area": _affected_area,
    "leakage": _leakage,
    "map_cosine": _map_cosine,
    "others_match_top1": _others_match(1),
    "others_match_top5": _others_match(5),
    "map_percentile": _map_percentile,
    "cosine_inside": _part_cosine("inside"),
    "cosine_outside": _part_cosine("outside"),
    "locality": _locality,
}
# Those whose sentence needs the detail in place of the scale.
_TOLD_BY_DETAIL: dict[str, Callable[[float, int | None, str, Mapping[str, Any]], _Words]] = {
    "relevance_agreement": _like_photos(
        "Reached by the same way", "Reaches the unit through the same features below it as", "same way"
    ),
    "causal": _like_photos(
        "The same effect",
        "Switching the unit off changes the network’s answer to the picture as it does to",
        "same effect",
    ),
    "nats": _nats,
    "attenuation": _attenuation,
    "logit_change": _logit_change,
    "cosine": _cosine_of("Cosine to the map", "vectors"),
    "cosine_standardised": _cosine_of("Cosine, channels alike", "vectors with every channel on one scale"),
    "match_top1": _own_match(1),
    "match_top5": _own_match(5),
    "sample_sd": _sample_sd,
    "probability_a": _path_probability("first"),
    "probability_b": _path_probability("second"),
}
# What the sentence has told of the detail already, and what the rest is called.
_TOLD = {
    "relevance_agreement": ("photos among themselves", "photos at random"),
    "causal": ("photos among themselves", "photos at random"),
    "nats": ("law", "prior", "mean_in_sd", "score_in_sd", "kl_is", "kind"),
    "attenuation": ("asked",),
    "logit_change": ("class",),
    **dict.fromkeys(("cosine", "cosine_standardised", "sample_sd"), ("selected",)),
    **dict.fromkeys(("match_top1", "match_top5"), ("class", "selected")),
    **dict.fromkeys(("probability_a", "probability_b"), ("class", "head of the map")),
}
_CALLED = {
    "nats": {
        "beta": "β per standard deviation", "mean": "mean score", "score": "score of this picture",
        "ess": "effective samples", "weight": "weight of this draw", "excess": "nats above the frontier",
    }
}  # fmt: skip
# What speaks for a picture first: others' eyes, then real photos, then the network itself.
_HEADLINES = (
    "transfer_top1",
    "percentile",
    "causal",
    "rank",
    "transfer_top5",
    "robustness",
    "activation",
    "others_match_top1",
    "cosine",
)


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "not measured"}[value]
    if isinstance(value, (int, float)):
        return number(value) if math.isfinite(value) else str(value)
    return json.dumps(value, ensure_ascii=False)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _number_or_none(value: Any) -> float | None:
    return float(value) if _is_number(value) else None


def _share(value: Any) -> str:
    if _is_number(value):
        return f"{percent(value)}{SPACE}%"
    return _plain(value)


def _guess(value: Any) -> str:
    if _is_number(value) and value >= 1:
        return f"{ordinal(round(value))} guess"
    return _plain(value)


def explain(measurement: Mapping[str, Any], *, label: str = "") -> Reading:
    """The `Reading` of one measurement of a sidecar.

    `measurement` holds name, value (number or None), n, interval (two numbers or None), direction, scale,
    reason and detail; only the name is required. `label` is what the unit is called ("church"), empty where
    it has no name. Unknown names are given a title made of the name.
    """
    name = str(measurement["name"])
    scale = str(measurement.get("scale") or "")
    given_n = measurement.get("n")
    count = int(given_n) if isinstance(given_n, (int, float)) and math.isfinite(given_n) else None
    arrow, better = {
        "higher": ("\N{UPWARDS ARROW}", "higher is better"),
        "lower": ("\N{DOWNWARDS ARROW}", "lower is better"),
    }.get(str(measurement.get("direction")), ("", ""))
    value = measurement.get("value")
    measured = value if isinstance(value, (int, float)) and math.isfinite(value) else None
    raw_detail = _one_score(measurement.get("detail"))
    shown = 0.0 if measured is None else measured
    if name in _TOLD_BY_DETAIL:
        words = _TOLD_BY_DETAIL[name](shown, count, label, raw_detail if isinstance(raw_detail, Mapping) else {})
    else:
        words = _KNOWN.get(name, _unknown(name))(shown, count, label, scale)
    detail_items = raw_detail.items() if isinstance(raw_detail, Mapping) else ()
    told, called = _TOLD.get(name, ()), _CALLED.get(name, {})
    detail = tuple(
        (called.get(str(key), str(key)), (words.detail or _plain)(item))
        for key, item in detail_items
        if key not in told
    )
    n_text = f"{count:,}" if count is not None else NOT_GIVEN
    if measured is None:
        silent = "no reason was given" if value is None else f"it came out as {value}"
        reason = str(measurement.get("reason") or silent)
        chip = f"{words.title.lower()} not measured"
        if name == "nats":
            detail_of_nats = raw_detail if isinstance(raw_detail, Mapping) else {}
            chip = "nats unbounded" if detail_of_nats.get("kind") == "point" else "nats not known"
        return Reading(
            name,
            words.title,
            f"Not measured: {reason.rstrip('.')}.",
            None,
            "",
            n_text,
            arrow,
            better,
            detail,
            "",
            chip,
            reason,
        )
    interval = _interval(measurement.get("interval"), words)
    note = interval if interval != NOT_GIVEN else "interval not given"
    if not words.counts_n:
        note = f"n{SPACE}{n_text}, {note}" if count is not None else f"n not given, {note}"
    return Reading(
        name,
        words.title,
        words.sentence,
        words.show(measured) + words.suffix,
        interval,
        n_text,
        arrow,
        better,
        detail,
        words.tone,
        words.chip,
        note,
    )


def _interval(bounds: Any, words: _Words) -> str:
    if not isinstance(bounds, Sequence) or isinstance(bounds, str) or len(bounds) != 2:
        return NOT_GIVEN
    if not all(isinstance(bound, (int, float)) and math.isfinite(bound) for bound in bounds):
        return NOT_GIVEN
    if bounds[0] == bounds[1]:
        return "exact"
    return f"{words.show(bounds[0])} to {words.show(bounds[1])}{words.suffix}"


def headline(readings: Sequence[Reading]) -> Reading | None:
    """The one reading to show under a small picture: the strongest kind of evidence measured, or None."""
    measured = {reading.name: reading for reading in readings if reading.value is not None}
    for name in _HEADLINES:
        if name in measured:
            return measured[name]
    return next(iter(measured.values()), None)

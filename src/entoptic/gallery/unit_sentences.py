"""What the measurements of a unit's picture say in words: one function a metric.

Sentences are for a person who has not read the paper.
"""

from __future__ import annotations

from entoptic.errors import plural
from entoptic.gallery.formats import SPACE, number, number_or_none, percent, percentage, with_article
from entoptic.gallery.wording import PERCENT, Measurement, Wording, count_of, detail_as_guess, detail_as_share, grade

# --- the unit itself -------------------------------------------------------------------------------


def activation(m: Measurement) -> Wording:
    """Words the unit's score on the saved picture."""
    suffix = f"{SPACE}{m.scale}" if m.scale else ""
    return Wording(
        title="Activation",
        sentence=f"The saved picture drives the unit to {number(m.value)}{suffix}.",
        chip=f"drives it to {number(m.value)}",
        suffix=suffix,
    )


def percentile(m: Measurement) -> Wording:
    """Words the share of real photos that drive the unit less than the picture."""
    photos = f"{m.n:,} real photos" if m.n else "the real photos"
    if m.value >= 100:
        sentence = f"Drives the unit harder than every one of {photos}."
    elif m.value <= 0:
        sentence = f"Drives the unit harder than none of {photos}."
    else:
        sentence = f"Drives the unit harder than {percentage(m.value)}{PERCENT} of {photos}."
    return Wording(
        title="Against real photos",
        sentence=sentence,
        chip=f"above {percentage(m.value)}{PERCENT} of photos",
        tone=grade(m.value, good=95, mixed=50),
        format_value=percentage,
        suffix=PERCENT,
    )


def margin(m: Measurement) -> Wording:
    """Words the picture's score minus that of the strongest real photo."""
    suffix = f"{SPACE}{m.scale}" if m.scale else ""
    best = f"the best of {m.n:,} real photos" if m.n and m.n > 1 else "the best real photo"
    gap = number(abs(m.value)) + suffix
    if m.value > 0:
        sentence = f"Drives the unit harder than {best}, by {gap}."
    elif m.value < 0:
        sentence = f"Stays {gap} below {best}."
    else:
        sentence = f"Drives the unit exactly as hard as {best}."
    return Wording(
        title="Margin over the best photo", sentence=sentence, chip=f"margin {number(m.value)}", suffix=suffix
    )


def rank(m: Measurement) -> Wording:
    """Words the unit's place among the units of its layer, by their response to the picture."""
    units = f"{m.n:,} {plural(m.n, 'unit')}" if m.n else "units"
    if m.value <= 1:
        sentence = f"Of the {units} in its layer, this one answers the picture most strongly."
    else:
        ahead = f"{round(m.value) - 1:,} {'other answers' if round(m.value) == 2 else 'others answer'}"
        sentence = f"Of the {units} in its layer, {ahead} the picture more strongly."
    return Wording(
        title="Rank in its layer",
        sentence=sentence,
        chip=f"rank {number(m.value)} of {m.n:,}" if m.n else f"rank {number(m.value)}",
        chip_names_n=bool(m.n),
        tone="good" if m.value <= 1 else "mixed" if m.value <= 5 else "poor",
    )


def robustness(m: Measurement) -> Wording:
    """Words the share of the score that is left after small changes of the picture."""
    return Wording(
        title="Robustness",
        sentence=f"Keeps {percent(m.value)}{PERCENT} of its activation when the picture is saved as a JPEG of "
        f"quality 75, shifted by 8 pixels or resized by 5{PERCENT}.",
        chip=f"keeps {percent(m.value)}{PERCENT}",
        tone=grade(m.value, good=0.8, mixed=0.5),
        format_value=percent,
        suffix=PERCENT,
        format_detail=detail_as_share,
    )


def selectivity(m: Measurement) -> Wording:
    """Words how far the unit's response stands out from those of its layer, in standard deviations."""
    others = f"the {m.n:,} other units of its layer" if m.n else "the other units of its layer"
    gap = f"{number(abs(m.value))} standard deviations"
    if m.value > 0:
        sentence = (
            f"Next to what is usual in photos, stirs this unit more than 99{PERCENT} of {others}, with {gap} to spare."
        )
    else:
        sentence = (
            f"Next to what is usual in photos, stirs the most stirred 1{PERCENT} of {others} {gap} more than this one."
        )
    return Wording(
        title="This unit and not its layer",
        sentence=sentence,
        chip=f"selectivity {number(m.value)}",
        tone="good" if m.value > 0 else "mixed" if m.value > -2 else "poor",
        suffix=f"{SPACE}sd",
    )


def specificity(m: Measurement) -> Wording:
    """Words whether the picture drives its unit more than every other unit of the layer."""
    first = m.value >= 1
    others = f"the {m.n - 1:,} others" if m.n and m.n > 1 else "the others"
    usual = "" if m.detail.get("compared") == "logits" else ", next to what is usual in photos"
    verb = "Drives its own unit more than" if first else "Does not drive its own unit more than all of"
    return Wording(
        title="First of its layer",
        sentence=f"{verb} {others} of its layer{usual}.",
        chip="first of its layer" if first else "not first of its layer",
        tone="good" if first else "mixed",
    )


def two_afc(m: Measurement) -> Wording:
    """Words how often another network finds the unit's photo with the picture as its only hint."""
    share = f"{percent(m.value)}{PERCENT}"
    stated = ("ceiling", "photos at random")
    high, low = (number_or_none(m.detail.get(name)) for name in stated)
    sentence = (
        f"With this picture as its only hint, another network finds the photo that drives the unit in {share} of pairs with one "
        "that hardly does."
    )
    tone = ""
    if high is not None and low is not None:
        sentence += f" One of the unit’s photos as the hint gives {percent(high)}{PERCENT},"
        sentence += f" a photo at random {percent(low)}{PERCENT}."
        if high - low < 0.05:
            sentence += " The two are so close that this says little about the picture."
        else:
            tone = grade((m.value - low) / (high - low), good=0.7, mixed=0.3)
    return Wording(
        title="Another network finds its photos", sentence=sentence, chip=f"photos found {share}",
        tone=tone, format_value=percent, suffix=PERCENT, format_detail=detail_as_share, stated=stated,
    )  # fmt: skip


def similarity_to_photos(m: Measurement, *, title: str, what: str, chip: str) -> Wording:
    """Words a similarity to the strongest photos, beside what photos themselves reach."""
    photos = f"the {m.n:,} photos that drive it most" if m.n else "the photos that drive it most"
    stated = ("photos among themselves", "photos at random")
    high, low = (number_or_none(m.detail.get(name)) for name in stated)
    sentence, tone = f"{what} {photos}: likeness {number(m.value)} of 1.", ""
    if high is not None and low is not None:
        sentence += f" Those photos among themselves reach {number(high)}, photos at random {number(low)}."
        if high - low < 0.05:
            sentence += " The two are so close that this says little about the picture."
        else:
            tone = grade((m.value - low) / (high - low), good=0.7, mixed=0.3)
    return Wording(title=title, sentence=sentence, chip=f"{chip} {number(m.value)}", tone=tone, stated=stated)


# --- other networks --------------------------------------------------------------------------------


def transfer(m: Measurement, *, top: int) -> Wording:
    """Words the share of verifiers that name the unit's class first (top 1) or among their five best guesses (top 5)."""
    count = count_of(m.value, m.n)
    one_network = m.n == 1 and count is not None
    share = f"{count:,} of {m.n:,}" if count is not None else f"{percent(m.value)}{PERCENT} of"
    agree = f"network{'' if one_network else 's'} agree{'s' if one_network or count == 1 else ''}"
    return Wording(
        title="Other networks agree" if top == 1 else "Among others’ five best guesses",
        sentence=_transfer_of_one(m, count, top) if one_network and count is not None else _transfer_of(m, count, top),
        chip=f"{share} {agree}" if top == 1 else f"{share} in the top 5",
        chip_names_n=count is not None,
        tone=grade(m.value, good=0.75, mixed=0.3),
        format_value=percent,
        suffix=PERCENT,
        format_detail=detail_as_guess,
    )


def _transfer_of_one(m: Measurement, count: int, top: int) -> str:
    """The sentence for a single verifier."""
    never = "it was never optimised" + (f"; asked {m.scale}" if m.scale else "")
    if top == 1:
        thing = with_article(m.label) if m.label else "the same thing"
        return f"The one other network {f'sees {thing} too' if count else f'does not see {thing}'} ({never})."
    named = f"“{m.label}”" if m.label else "the same class"
    return f"The one other network {'has' if count else 'does not have'} {named} among its five best guesses ({never})."


def _transfer_of(m: Measurement, count: int | None, top: int) -> str:
    """The sentence for several verifiers, or for a share that is no count of n."""
    never = "they were never optimised" + (f"; asked {m.scale}" if m.scale else "")
    if count is None:
        who, plural = f"{percent(m.value)}{PERCENT} of the other networks", True
    elif count == 0:
        who, plural = f"None of {m.n:,} other networks", False
    elif count == m.n:
        who, plural = f"All {m.n:,} other networks", True
    else:
        who, plural = f"{count:,} of {m.n:,} other networks", count != 1
    if top == 1:
        thing = with_article(m.label) if m.label else "the same thing"
        return f"{who} {'see' if plural else 'sees'} {thing}{' too' if m.value > 0 else ''} ({never})."
    named = f"“{m.label}”" if m.label else "the same class"
    guesses = f"among {'their' if plural else 'its'} five best guesses"
    return f"{who} {'have' if plural else 'has'} {named} {guesses} ({never})."


def transfer_probability(m: Measurement) -> Wording:
    """Words the mean probability that verifiers give the unit's class."""
    named = f"“{m.label}”" if m.label else "the class"
    scale = f" {m.scale}" if m.scale else ""
    return Wording(
        title="Others’ probability",
        sentence=f"On average, other networks give {named} a probability of {percent(m.value)}{PERCENT}{scale}.",
        chip=f"probability {percent(m.value)}{PERCENT}",
        tone=grade(m.value, good=0.5, mixed=0.1),
        format_value=percent,
        suffix=PERCENT,
        format_detail=detail_as_share,
    )


# --- distance from the prior -----------------------------------------------------------------------


def _above_or_below(value: float) -> str:
    return f"{number(abs(value))} standard deviations {'above' if value >= 0 else 'below'}"


def nats(m: Measurement) -> Wording:
    """Words the KL divergence from the prior, in nats, of the distribution that the picture was drawn from."""
    prior = f"the prior {m.detail['prior']}" if m.detail.get("prior") else "its prior"
    bound = "at most " if m.detail.get("kl_is") == "upper_bound" else ""
    sentence = f"Drawn from a distribution that is {bound}{number(m.value)} nats from {prior}"
    sentence += f" ({m.detail['law']})" if m.detail.get("law") else ""
    mean, score = (number_or_none(m.detail.get(name)) for name in ("mean_in_sd", "score_in_sd"))
    if mean is not None:
        sentence += f"; its mean score is {_above_or_below(mean)} the prior’s"
    if score is not None:
        sentence += f"; this picture’s score is {_above_or_below(score)} the prior’s mean"
    return Wording(
        title="Distance from the prior, upper bound" if bound else "Distance from the prior",
        sentence=f"{sentence}.",
        chip=f"{bound}{number(m.value)} nats from the prior",
        missing_chip="nats unbounded" if m.detail.get("kind") == "point" else "nats not known",
        suffix=f"{SPACE}nats",
        stated=("law", "prior", "mean_in_sd", "score_in_sd", "kl_is", "kind"),
        detail_names={
            "beta": "β per standard deviation",
            "mean": "mean score",
            "score": "score of this picture",
            "ess": "effective samples",
            "weight": "weight of this draw",
            "excess": "nats above the frontier",
        },
    )

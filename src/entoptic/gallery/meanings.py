"""What each measurement means, in one line for readers who do not know the metric, and what its interval says."""

from __future__ import annotations

from entoptic.gallery.wording import PERCENT

MEANINGS: dict[str, str] = {
    "activation": "How strongly the unit responds to the picture, in the network’s own units. On its own it says little: "
    "compare it with the photos.",
    "percentile": "Whether the picture does what it should: drive the unit more than ordinary photos do.",
    "margin": "Above zero, the picture drives the unit more than any photo; below, some photo drives it more.",
    "rank": "Whether the picture is about this unit: at 1 no other unit of the layer responds more.",
    "robustness": "Whether the response survives small changes. What vanishes with them is noise that only this network sees.",
    "selectivity": "Whether the picture drives this unit in particular and not the whole layer.",
    "relevance_agreement": "Whether the picture and real photos reach the unit by the same features, and not by a shortcut.",
    "causal": "Whether the unit does the same for the network’s answer on the picture as on real photos.",
    "klsc_guidance": "How near the feature is to being active in the middle of the picture, whether it is or not (what KLSC "
    "is guided by).",
    "klsc_evaluation": "How active the feature is where it is most active (what KLSC is judged by).",
    "specificity": "Whether the picture is this unit’s and not another’s: 1 where it drives no other unit of the layer as much.",
    "two_afc": "Whether the picture tells which photos drive the unit: another network, shown the picture, picks the stronger "
    "of two photos.",
    "transfer_top1": "Whether networks that had no part in making the picture see the same thing in it, as people would.",
    "transfer_top5": "The same, less strict: the thing is among their five best guesses.",
    "transfer_probability": "How sure the other networks are.",
    "nats": "How far the picture strays from natural ones: 1 nat is about as far as picking the best of 6 natural pictures.",
    "cosine": "How alike the picture’s feature map is to the one asked for: 1 is the same, 0 is unrelated.",
    "cosine_standardised": "The same with every channel given equal weight, so that a few strong channels do not decide it.",
    "match_top1": "Whether the network takes the picture for the same thing as the map.",
    "match_top5": "The same, less strict: the thing is among its five best guesses.",
    "others_match_top1": "Whether networks that had no part in making the picture see in it what they see in the photo.",
    "others_match_top5": "The same, less strict: among their five best guesses.",
    "sample_sd": "How much the pictures of one map differ: what the layer does not keep of the photo.",
    "map_percentile": "Whether photos have such maps at all. A map that no photo has is outside of what the network knows.",
    "cosine_inside": "Whether the part that was put in is there.",
    "cosine_outside": "Whether the rest stayed as it was.",
    "locality": "Whether the edit changes the picture where it was made, and not elsewhere.",
    "probability_a": "How much of the first photo is left for the network.",
    "probability_b": "How much of the second photo is there for the network.",
    "effect_p": "How often a random edit of the same size would change the picture as much. Small numbers speak for an effect.",
    "detectable_effect": "How large an effect has to be for this comparison to notice it.",
    "affected_area": "How much of the picture the concept changes.",
    "attenuation": "Whether the edit arrived: how much of the concept the network still sees in the picture.",
    "leakage": "Whether other concepts were changed along with it.",
    "logit_change": "What the edit does to the network’s first answer.",
    "consistency": "Whether the photos that drive the unit most show one thing where the unit looks. At 0 they are as alike as "
    "random places.",
    "part_localisation": "Whether the unit keeps to one part of the object, and to all of it.",
    "part_coverage": "Whether the units together reach the whole object, and little beside it.",
    "cell_consistency": "Whether the unit looks at the same place of the object in every photo: 1 always, 0 never.",
    "people_2afc": "Whether people understand from the pictures what drives the unit. Real photos and no references stand beside.",
    "people_intruder": "Whether the unit’s pictures look alike to people, and unlike those of another unit.",
    "people_class_match": "How well people think that the picture fits the word.",
    "people_inner_match": "How well people think that the picture fits the photos that drive the unit.",
    "people_describe": "Whether people name in the picture what the unit is about. Above zero is better than a shuffled label.",
    "people_preferred": "How often people take the picture before that of another method; one half is no preference.",
    "map_cosine": "How well the pictures show the map at all, before any edit. Low values weaken everything else here.",
}
"""One line for each metric, by its name."""

_COUNTED = {
    "transfer_top1": ("other networks", "networks like them"),
    "transfer_top5": ("other networks", "networks like them"),
    "others_match_top1": ("other networks", "networks like them"),
    "others_match_top5": ("other networks", "networks like them"),
    "percentile": ("photos", "photos like them"),
    "map_percentile": ("photos", "photos like them"),
}


def meaning(name: str) -> str:
    """Returns what a metric tells, or "" for metrics that have no line here.

    Args:
        name: of the metric.
    """
    return MEANINGS.get(name, "")


def interval_in_words(name: str, interval: str, n: int | None) -> str:
    """Returns what a 95 % interval says of a value, or "" where it is exact or not given.

    Args:
        name: of the metric.
        interval: as it is shown: `34 to 100 %`.
        n: how many were counted, or None.
    """
    if " to " not in interval:
        return ""
    if name in _COUNTED and n:
        asked, all_of_them = _COUNTED[name]
        if n == 1:
            asked = asked.removesuffix("s")
        return (
            f"Counted on {n:,} {asked}. For all {all_of_them} the share lies between {interval.replace(' to ', ' and ')}, "
            f"with 95{PERCENT} confidence."
        )
    return f"The value lies between {interval.replace(' to ', ' and ')} with 95{PERCENT} confidence."

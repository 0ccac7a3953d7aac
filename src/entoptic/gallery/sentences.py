"""The sentence function of each metric."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from entoptic.gallery import inversion_sentences as inversions
from entoptic.gallery import people_sentences as people
from entoptic.gallery import unit_sentences as units
from entoptic.gallery.formats import number
from entoptic.gallery.wording import Measurement, Wording


def unknown(m: Measurement) -> Wording:
    """Returns the wording of a metric that has no function here: its name and its value."""
    title = m.name.replace("_", " ").strip().capitalize() or "Unnamed"
    return Wording(
        title=title,
        sentence=f"Measured as {m.name}" + (f", on the scale “{m.scale}”." if m.scale else "."),
        chip=f"{title.lower()} {number(m.value)}",
    )


SENTENCES: dict[str, Callable[[Measurement], Wording]] = {
    "activation": units.activation,
    "percentile": units.percentile,
    "margin": units.margin,
    "rank": units.rank,
    "robustness": units.robustness,
    "selectivity": units.selectivity,
    "specificity": units.specificity,
    "two_afc": units.two_afc,
    "relevance_agreement": partial(
        units.similarity_to_photos,
        title="Reached by the same way",
        what="Reaches the unit through the same features below it as",
        chip="same way",
    ),
    "causal": partial(
        units.similarity_to_photos,
        title="The same effect",
        what="Switching the unit off changes the network’s answer to the picture as it does to",
        chip="same effect",
    ),
    "transfer_top1": partial(units.transfer, top=1),
    "transfer_top5": partial(units.transfer, top=5),
    "transfer_probability": units.transfer_probability,
    "nats": units.nats,
    "cosine": partial(inversions.cosine, title="Cosine to the map", of="vectors"),
    "cosine_standardised": partial(
        inversions.cosine, title="Cosine, channels alike", of="vectors with every channel on one scale"
    ),
    "match_top1": partial(inversions.same_class, top=1),
    "match_top5": partial(inversions.same_class, top=5),
    "others_match_top1": partial(inversions.others_same_class, top=1),
    "others_match_top5": partial(inversions.others_same_class, top=5),
    "sample_sd": inversions.sample_sd,
    "map_percentile": inversions.map_percentile,
    "cosine_inside": partial(inversions.cosine_of_part, where="inside"),
    "cosine_outside": partial(inversions.cosine_of_part, where="outside"),
    "locality": inversions.locality,
    "probability_a": partial(inversions.path_probability, photo="first"),
    "probability_b": partial(inversions.path_probability, photo="second"),
    "effect_p": inversions.effect_p,
    "detectable_effect": inversions.detectable_effect,
    "affected_area": inversions.affected_area,
    "attenuation": inversions.attenuation,
    "leakage": inversions.leakage,
    "logit_change": inversions.logit_change,
    "map_cosine": inversions.map_cosine,
    "people_2afc": partial(
        people.found, what="found the photo that drives the unit", title="People find its photos", chip="people found"
    ),
    "people_intruder": partial(
        people.found,
        what="found the picture of another unit",
        title="People find the odd one out",
        chip="odd one found",
    ),
    "people_class_match": partial(people.rated, beside="beside the word", title="Rated with the word"),
    "people_inner_match": partial(people.rated, beside="beside photos that drive the unit", title="Rated with photos"),
    "people_describe": people.described,
    "people_preferred": people.preferred,
}
"""The function of each metric, by the metric's name."""

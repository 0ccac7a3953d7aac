"""What people answered about the pictures of a unit, from studies (`entoptic study`). No file can tell it again."""

from __future__ import annotations

from collections.abc import Mapping

from entoptic.metrics.evidence import Evidence
from entoptic.metrics.registry import UNIT, card, metric

PEOPLE: Mapping[str, tuple[str, str]] = {
    "2afc": ("people_2afc", "People find its photos"),
    "intruder": ("people_intruder", "People find the odd one out"),
    "class-match": ("people_class_match", "People's rating with the word"),
    "inner-match": ("people_inner_match", "People's rating with photos"),
    "describe": ("people_describe", "People's words, above chance"),
    "preference": ("people_preferred", "People prefer it"),
}
"""Name and title of the metric of each task of a study."""


def _answered(_: object) -> Evidence:
    raise TypeError("answers of people are measured by entoptic.study")


for _name, _title in PEOPLE.values():
    # Several pictures of a unit may be shown together, so it is measured on all of one method.
    metric(card(_name, _title, targets={UNIT}, recomputable=False, set_level=True))(_answered)

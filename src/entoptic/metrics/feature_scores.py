"""The two scores that KLSC (arXiv:2605.17504) reports of a dictionary's feature: the one that guides, the one that evaluates.

Guidance reads the feature before its threshold, over the central half of the map: 0.7·max z + 0.3·mean max(z, 0). Evaluation
reads the feature itself, its largest activation over the whole picture. A feature has a fixed threshold, so that both are
functions of the picture alone.
"""

from __future__ import annotations

from entoptic.metrics.evidence import Evidence
from entoptic.metrics.registry import UNIT, card, metric
from entoptic.metrics.unit_picture import UnitPicture
from entoptic.sampling.unit_scores import REDUCTIONS
from entoptic.units.dictionary import activation, pre_activation

SINCE = 5
"""Version of the evidence of units that both came with; features that have them came with it too."""


@metric(
    card("klsc_guidance", "KLSC's guidance score", targets={UNIT}, since=SINCE),
    card("klsc_evaluation", "KLSC's evaluation score", targets={UNIT}, since=SINCE),
)
def feature_scores(picture: UnitPicture) -> list[Evidence]:
    """Computes both scores of a feature that has a value before its threshold; nothing for other units.

    Both are exact for the saved picture.
    """
    unit = picture.unit
    if unit.dictionary is None:
        return []
    before_BD = pre_activation(unit.dictionary, picture.values, unit.index)
    if before_BD is None:
        return []
    info = unit.model.layer(unit.layer)
    prefix, rows, columns = info.patches or (0, *info.grid)
    guidance = float(REDUCTIONS["mix"](before_BD[:, prefix:].unflatten(1, (rows, columns)))[0])
    evaluation = float(activation(unit.dictionary, picture.values, unit.index).amax())
    about: dict[str, object] = {"read": "before the threshold, over the central half of the map"}
    return [
        Evidence("klsc_guidance", guidance, 1, (guidance, guidance), "higher", "activation", detail=about),
        Evidence("klsc_evaluation", evaluation, 1, (evaluation, evaluation), "higher", "activation"),
    ]

"""What a string that names no unit may mean in a model: a label without its quotes, a layer without an index."""

from __future__ import annotations

import re

from entoptic.errors import UserError, closest, slips
from entoptic.models.model import LOGITS, Model
from entoptic.units.grammar import Address, parse, quoted_layer
from entoptic.units.near_labels import near_labels


def read_address(model: Model, text: str) -> Address:
    """Parses a unit's string; what cannot be read is answered with the label or layer of the model that it may mean.

    Args:
        model: the network.
        text: the string.
    """
    try:
        return parse(text)
    except UserError as error:
        meant = _meant(model, text.strip()[:200])
        if not meant:
            raise
        raise UserError(f"cannot read the unit {text[:120]!r}; {meant}") from error


def _meant(model: Model, text: str) -> str:
    """What a string that does not fit the grammar may mean in a model, "" where nothing is near."""
    for layer in model.layers:
        if quoted_layer(layer) != layer and text.startswith(f"{layer}:"):
            unit = quoted_layer(layer) + text[len(layer) :]
            return f"the name of this layer stands in quotes; did you mean {unit} (in a shell: '{unit}')?"
    layer, colon, word = text.partition(":")
    word = (word if colon else text).strip("\"' ")
    if not re.fullmatch(r"[A-Za-z][\w .,'/()-]*", word) or (not colon and (text in model.layers or text == LOGITS)):
        return ""
    if colon and closest(layer, [LOGITS, *model.layers]) != LOGITS:
        return ""
    labels = model.card.labels or ()
    found = model.card.find_label(word)
    near = None if found else next(iter(near_labels(word, labels)), None) or closest(word, labels)
    label = labels[found[0]] if len(found) == 1 else word if found else near
    near_layer = None if colon else closest(text, model.layers)
    if label is not None and (near_layer is None or found or slips(word, label) <= slips(text, near_layer)):
        unit = f'{LOGITS}:"{label}"'
        return f"names of logits stand in quotes; did you mean {unit} (in a shell: '{unit}')?"
    return f"a unit is LAYER:INDEX; did you mean {quoted_layer(near_layer)}:0?" if near_layer else ""

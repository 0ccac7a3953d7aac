"""From an address with a range, a star or a label to addresses with one index each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from entoptic.errors import UserError, instead
from entoptic.models.model import LOGITS, Model
from entoptic.units.dictionary import check_feature, load_dictionary
from entoptic.units.grammar import Address, Label
from entoptic.units.near_labels import nearest_label


def expand(model: Model, address: Address) -> Sequence[Address]:
    """Unfolds ranges and `*` of an address and looks labels up: addresses with one index each."""
    if address.kind == "dict":
        return _expand_features(model, address)
    if address.kind != "unit":
        return [address]
    if isinstance(address.index, Label):
        return [replace(address, index=_logit_of(model, address))]
    if address.index == "*":
        return [replace(address, index=i) for i in range(model.layer(address.layer).channels)]
    if isinstance(address.index, tuple):
        first, last = address.index
        check_index(model, address, last)
        return [replace(address, index=i) for i in range(first, last + 1)]
    return [address]


def _expand_features(model: Model, address: Address) -> Sequence[Address]:
    dictionary, index = load_dictionary(address.path, model), address.index
    names = dictionary.names
    if isinstance(index, Label):
        if index.text not in names:
            raise UserError(f'no feature "{index.text}" in {address.path}{nearest_label(index.text, names)}')
        return [replace(address, index=names.index(index.text))]
    if isinstance(index, int):
        return [address]
    first, last = index if isinstance(index, tuple) else (0, len(names) - 1)
    check_feature(dictionary, last, f"{address}: {address.path}")
    return [replace(address, index=i) for i in range(first, last + 1)]


def _logit_of(model: Model, address: Address) -> int:
    assert isinstance(address.index, Label)
    if address.layer != LOGITS:
        raise UserError(
            f"only logits have names; {address.layer} has channels 0-{model.layer(address.layer).channels - 1}"
        )
    card = model.card
    if card.labels is None:
        raise UserError(f"{card.name} has no labels; use logits:0 to logits:{model.outputs - 1}")
    found = card.find_label(address.index.text)
    if not found:
        hint = nearest_label(address.index.text, card.labels) or instead(address.index.text, card.labels)
        raise UserError(f'no label "{address.index.text}" in {card.name}{hint}')
    if len(found) > 1:
        some = ", ".join(f"{card.labels[i]} (logits:{i})" for i in found[:12])
        raise UserError(f'"{address.index.text}" fits {len(found)} labels of {card.name}: {some}; give one of them')
    return found[0]


def check_index(model: Model, address: Address, index: int) -> None:
    channels = model.layer(address.layer).channels
    if index >= channels:
        what = "logits" if address.layer == LOGITS else "channels"
        raise UserError(
            f"{address}: {address.layer} of {model.card.name} has {channels} {what}, 0 to {channels - 1}; "
            f"did you mean {address.layer}:{channels - 1}?"
        )

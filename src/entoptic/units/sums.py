"""Combinations in the unit grammar: `logits:207 + 0.5*logits:3 - features.6:112`.

A number with a star stands before the part that it weighs, and parentheses are multiplied out. A part that is named twice
counts once, with the sum of its weights. Spaces around + and - may be left out where the string can be read in one way only.
"""

from __future__ import annotations

import math
import re

from entoptic.errors import UserError
from entoptic.units.grammar import Address, address_of, advice, forms, short

PARTS = 256
"""Largest number of parts of a combination."""
_DEPTH = 20  # of parentheses

_NUMBER = re.compile(r"(\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*\*\s*")
_NO_NUMBER = re.compile(r"[+\-\s(]*(nan|inf|infinity)\s*\*", re.IGNORECASE)
_SPACE = re.compile(r"\s*")
# A part ends where the next begins: 1-3 in a:1-3*b:2 and in a:1-3.conv:2 is no range.
_PARTS = forms(between=r"\d+-\d+(?!\d*\s*[*:.])", at=r"[^@\s+*()-]*")
_WHOLE = forms()


def is_sum(text: str) -> bool:
    """Whether a string is to be read as a combination, by how it begins and by what stands behind its first part."""
    if text[:1] in ("+", "-", "(") or _NUMBER.match(text) or _NO_NUMBER.match(text):
        return True
    for _, form in _WHOLE:
        found = form.fullmatch(text)
        if found and not re.search(r"[+*(-]", found.groupdict().get("readout") or ""):
            return False
    first = next((found for _, form in _PARTS if (found := form.match(text))), None)
    if first is not None and text[first.end() :].lstrip()[:1] in ("+", "-", "*"):
        return True
    return bool(re.search(r"\S\s+[+-]\s+\S", text)) and '"' not in text


def parse_sum(text: str) -> Address:
    """Parses a combination.

    Returns:
        An address of kind "sum"; where one part with weight 1 is left, that part's own.

    Raises:
        UserError: it does not fit the grammar, a weight is 0 or infinite, or all parts cancel.
    """
    if found := _NO_NUMBER.match(text):
        raise UserError(f"cannot read the unit {short(text)}; a weight is a finite number, not {found[1]}")
    found_terms: list[tuple[float, Address]] = []
    end = _terms(text, 0, 1.0, found_terms, 0)
    if end < len(text):
        raise _refused(text, f'"{text[end]}" closes nothing')
    return sum_of(found_terms, text)


def sum_of(terms: list[tuple[float, Address]], text: str = "") -> Address:
    """Returns the address of a combination of parts.

    Equal parts are put together, those that cancel are left out, and combinations among them are multiplied out.

    Args:
        terms: weights and parts.
        text: the string that they were read from, for messages.

    Raises:
        UserError: a weight is 0 or not finite, nothing is left, or there are too many parts.
    """
    weights: dict[Address, float] = {}
    for weight, part in terms:
        for inner, address in part.terms or ((1.0, part),):
            _check_weight(weight * inner, address)
            weights[address] = weights.get(address, 0.0) + weight * inner
    weights = {address: weight for address, weight in weights.items() if weight != 0}
    if not weights:
        raise UserError(f"nothing is left{f' of {short(text)}' if text else ''}: its parts cancel")
    for address, weight in weights.items():
        _check_weight(weight, address)
    if len(weights) > PARTS:
        raise UserError(
            f"a combination has at most {PARTS} parts, got {len(weights)}; name a direction in a file instead"
        )
    together = tuple((weight, address) for address, weight in weights.items())
    return together[0][1] if len(together) == 1 and together[0][0] == 1 else Address("sum", terms=together)


def _check_weight(weight: float, part: Address) -> None:
    if weight == 0 or not math.isfinite(weight):
        raise UserError(f"the weight of {part} must be a finite number other than 0, got {weight:g}")


def _terms(text: str, at: int, factor: float, found: list[tuple[float, Address]], depth: int) -> int:
    """Reads terms up to the end or a closing parenthesis; returns where it stopped."""
    first = True
    while True:
        at = _skip(text, at)
        if not first and (at == len(text) or text[at] == ")"):
            return at
        if not first and text[at] not in "+-":
            hint = "; a number stands before the unit that it weighs, such as 0.5*logits:1" if text[at] == "*" else ""
            raise _refused(text, f"between two parts stands + or -, not {short(text[at : at + 20])}{hint}")
        weight = factor
        while at < len(text) and text[at] in "+-":
            weight = -weight if text[at] == "-" else weight
            at = _skip(text, at + 1)
        if number := _NUMBER.match(text, at):
            weight, at = weight * float(number[0].rstrip().rstrip("*")), number.end()
        at = _part(text, at, weight, found, depth)
        first = False


def _part(text: str, at: int, weight: float, found: list[tuple[float, Address]], depth: int) -> int:
    """Reads one part, or several in parentheses; returns where it ends."""
    if at == len(text) or text[at] in "*)":
        hint = "; in a shell a combination stands in quotes" if text in ("+", "-") else ""
        raise _refused(text, f"a unit is missing behind {short(text[max(0, at - 12) : at].strip())}{hint}")
    if text[at] == "(":
        if depth == _DEPTH:
            raise _refused(text, f"parentheses are nested more than {_DEPTH} deep")
        end = _terms(text, at + 1, weight, found, depth + 1)
        if end == len(text):
            raise _refused(text, "a closing parenthesis is missing")
        return end + 1
    for kind, form in _PARTS:
        if read := form.match(text, at):
            if kind == "fmap":
                raise _refused(text, f"{read[0]} is a whole feature map, which has no score to add")
            found.append((weight, address_of(kind, read, text)))
            return read.end()
    part = re.split(r"\s+[+-]\s+|\)", text[at:], maxsplit=1)[0]
    raise _refused(text, f"its part {short(part)} cannot be read: {advice(part[:200])}")


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    assert space is not None
    return space.end()


def _refused(text: str, why: str) -> UserError:
    return UserError(f"cannot read the unit {short(text)}; {why}")

"""The unit grammar: one string for Python, the command line, a URL, a file name and a footnote.

    logits:207            logits:"golden retriever"
    features.6:112        a channel          features.6:112@3,5     a neuron at row 3, column 5
    features.6:0-63       a range            features.6:*           all of them
    blocks.9.mlp.fc1:312@cls | @tok17 | @mean | @max | @centre
    features.6:112@mean.pre                  before the activation function that ends the layer
    dir(PATH#NAME)        a direction in a safetensors file
    dict(PATH):4211       a dictionary feature
    fmap(LAYER)<PHOTO>    the whole feature map of a photo
    logits:207 + 0.5*logits:3 - features.6:112        a combination: the weighted sum of the scores of its parts
    "conv 1":112          a layer whose name has spaces or one of : @ ( ) < > # and quotes in it

`parse` and `str` are inverse to each other. A combination is read by `entoptic.units.sums`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from entoptic.errors import UserError, nearest

_DIGITS = 9
READOUTS = ("mean", "max", "centre", "cls", "tokN", "ROW,COLUMN")


@dataclass(frozen=True)
class Readout:
    """How one score per picture is read from a channel's map or tokens.

    Attributes:
        how: "mean", "max", "centre", "cls", "tok", "at", or "" for the layer's own default (the value itself for a
            vector, the mean for maps and tokens).
        where: (token,) for "tok", (row, column) for "at".
        pre: before the activation function that ends the layer.
    """

    how: str = ""
    where: tuple[int, ...] = ()
    pre: bool = False

    def __str__(self) -> str:
        forms = {"tok": lambda: f"tok{self.where[0]}", "at": lambda: f"{self.where[0]},{self.where[1]}"}
        text = forms[self.how]() if self.how in forms else self.how
        return text + (".pre" if self.pre else "")


@dataclass(frozen=True)
class Address:
    """A parsed unit string.

    Attributes:
        kind: "unit" (a channel, neuron or logit), "dir", "dict", "fmap" or "sum" (a combination).
        layer: module name, for "unit" and "fmap".
        index: a number, (first, last) of a range, "*", or the label of a logit as `Label`.
        readout: see `Readout`.
        path: file of a direction or dictionary, or the photo of a feature map.
        name: of a direction in its file.
        terms: of a combination, the weight and the address of each part: no part twice, no weight 0.
    """

    kind: str
    layer: str = ""
    index: int | tuple[int, int] | str | Label = 0
    readout: Readout = Readout()
    path: str = ""
    name: str = ""
    terms: tuple[tuple[float, Address], ...] = ()

    def __str__(self) -> str:
        if self.kind == "sum":
            return _written(self.terms)
        if self.kind == "fmap":
            return f"fmap({quoted_layer(self.layer)})<{self.path}>"
        at = f"@{self.readout}" if str(self.readout) else ""
        if self.kind == "dir":
            return f"dir({self.path}#{self.name}){at}"
        head = f"dict({self.path})" if self.kind == "dict" else quoted_layer(self.layer)
        index = f"{self.index[0]}-{self.index[1]}" if isinstance(self.index, tuple) else str(self.index)
        return f"{head}:{index}{at}"


def _written(terms: Sequence[tuple[float, Address]]) -> str:
    """A combination as it is written: each number in the shortest form that reads back as the same, 1 left out."""
    text = ""
    for weight, part in terms:
        size = abs(weight)
        number = str(int(size)) if size.is_integer() and size < 1e15 else repr(size)
        sign = ("-" if weight < 0 else "") if not text else " - " if weight < 0 else " + "
        text += sign + ("" if size == 1 else f"{number}*") + str(part)
    return text


@dataclass(frozen=True)
class Label:
    """The name of a logit, quoted in the grammar."""

    text: str

    def __str__(self) -> str:
        return _quoted(self.text)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL) if text.startswith('"') else text


LAYER = r"[^\s:@()<>\"#]+"
_LABEL = r'"(?:[^"\\]|\\.)*"'
_ANY_LAYER = rf"{LAYER}|{_LABEL}"
# What begins like a part of a combination is read as one.
_PLAIN_LAYER = re.compile(rf"(?![*+-]|[\d.]+(?:[eE][+-]?\d+)?\*|(?i:nan|inf|infinity)\*){LAYER}")


def quoted_layer(layer: str) -> str:
    """Returns the name of a layer as it stands in the grammar: in quotes where it could be read as something else.

    Args:
        layer: its name, or a dictionary in the form dict(PATH), which stays as it is.
    """
    return layer if _PLAIN_LAYER.fullmatch(layer) or layer.startswith("dict(") else _quoted(layer)


def forms(*, between: str = r"\d+-\d+", at: str = r"[^@\s]*") -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Returns the forms of an address by kind.

    Args:
        between: expression for a range.
        at: expression for what stands behind the @.
    """
    index = rf"(?P<index>\*|{between}|\d+|{_LABEL})"
    readout = rf"(?:@(?P<readout>{at}))?"
    return (
        ("fmap", re.compile(rf"fmap\((?P<layer>{_ANY_LAYER})\)<(?P<path>[^<>]+)>")),
        ("dir", re.compile(rf"dir\((?P<path>[^#()]+)#(?P<name>[^#()]+)\){readout}")),
        ("dict", re.compile(rf"dict\((?P<path>[^()]+)\):{index}{readout}")),
        ("unit", re.compile(rf"(?P<layer>{_ANY_LAYER}):{index}{readout}")),
    )


_FORMS = forms()


@lru_cache(maxsize=65536)
def parse(text: str) -> Address:
    """Parses a unit's string.

    Raises:
        UserError: it does not fit the grammar, with the nearest form that does.
    """
    from entoptic.units.sums import is_sum, parse_sum

    whole = text.strip()
    if is_sum(whole):
        return parse_sum(whole)
    for kind, form in _FORMS:
        if found := form.fullmatch(whole):
            return address_of(kind, found, text)
    raise UserError(f"cannot read the unit {short(text)}; {advice(whole[:200])}")


def address_of(kind: str, found: re.Match[str], text: str) -> Address:
    """Returns the address that a form of the grammar has found in a string.

    Args:
        kind: of the address.
        found: the match.
        text: the whole string, for messages.
    """
    parts = found.groupdict()
    return Address(
        kind=kind,
        layer=_unquoted(parts.get("layer") or ""),
        index=_index(parts["index"], text) if parts.get("index") else 0,
        readout=_readout(parts.get("readout"), text),
        path=parts.get("path") or "",
        name=parts.get("name") or "",
    )


def _number(text: str, whole: str) -> int:
    """Reads a number; longer ones than any network has are refused before they are read."""
    digits = text.lstrip("0") or "0"
    if len(digits) > _DIGITS:
        raise UserError(
            f"cannot read the unit {short(whole)}; a number of {len(digits)} digits is no unit of any network"
        )
    return int(digits)


def short(text: str) -> str:
    """Returns a string in quotes, its middle left out where it is long."""
    return repr(text if len(text) <= 120 else f"{text[:60]}…{text[-20:]}")


def _index(text: str, whole: str) -> int | tuple[int, int] | str | Label:
    if text == "*":
        return text
    if text.startswith('"'):
        return Label(_unquoted(text))
    first, dash, last = text.partition("-")
    if not dash:
        return _number(first, whole)
    low, high = _number(first, whole), _number(last, whole)
    if high < low:
        raise UserError(f"the range in {whole!r} runs backwards; did you mean {last}-{first}?")
    return (low, high)


def _readout(text: str | None, whole: str) -> Readout:
    if text is None:
        return Readout()
    how, dot, pre = text.partition(".")
    if not dot or pre == "pre":
        if how in ("mean", "max", "centre", "cls") or (how == "" and dot):
            return Readout(how, (), bool(dot))
        if token := re.fullmatch(r"tok(\d+)", how):
            return Readout("tok", (_number(token[1], whole),), bool(dot))
        if position := re.fullmatch(r"(\d+),(\d+)", how):
            return Readout("at", (_number(position[1], whole), _number(position[2], whole)), bool(dot))
    hint = nearest(text[:40], ["mean", "max", "centre", "cls", "tok0", "mean.pre", "max.pre"])
    raise UserError(
        f'cannot read "@{text[:40]}" in {short(whole)}; after @ comes one of {", ".join(READOUTS)}, each with .pre behind it '
        f"to read before the activation function{hint}"
    )


def advice(text: str) -> str:
    """Returns what a string that cannot be read may mean."""
    if re.fullmatch(LAYER, text) and not text.startswith(("fmap", "dir", "dict")):
        return f"a unit is LAYER:INDEX; did you mean {text}:0 (its first channel) or {text}:* (all)?"
    layer, _, index = text.partition(":")
    if re.fullmatch(r"[A-Za-z][\w ,'-]*", index):
        return f'names of logits stand in quotes; did you mean {layer}:"{index}" (in a shell: \'{layer}:"{index}"\')?'
    named, _, number = text.rpartition(":")
    is_name = named and not re.fullmatch(LAYER, named) and not re.match(r'.*"|(fmap|dir|dict)\(|.*\S:\S*\s', named)
    if is_name and re.fullmatch(r"\*|\d+(-\d+)?", number):
        return f"the name of such a layer stands in quotes; did you mean {quoted_layer(named)}:{number}?"
    if re.fullmatch(r"-\d+", index):
        return "indices count from 0 and are not negative"
    return (
        'expected LAYER:INDEX such as logits:207, logits:"golden retriever", features.6:0-63, features.6:112@3,5, '
        "dir(FILE#NAME), dict(FILE):7 or fmap(LAYER)<PHOTO>"
    )

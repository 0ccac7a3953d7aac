"""The unit grammar: one string for Python, the command line, a URL, a file name and a footnote.

    logits:207            logits:"golden retriever"
    features.6:112        a channel          features.6:112@3,5     a neuron at row 3, column 5
    features.6:0-63       a range            features.6:*           all of them
    blocks.9.mlp.fc1:312@cls | @tok17 | @mean | @max | @centre
    features.6:112@mean.pre                  before the activation function that ends the layer
    dir(PATH#NAME)        a direction in a safetensors file
    dict(PATH):4211       a dictionary feature
    fmap(LAYER)<PHOTO>    the whole feature map of a photo

`parse` and `str` are inverse to each other.
"""

from __future__ import annotations

import re
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
        kind: "unit" (a channel, neuron or logit), "dir", "dict" or "fmap".
        layer: module name, for "unit" and "fmap".
        index: a number, (first, last) of a range, "*", or the label of a logit as `Label`.
        readout: see `Readout`.
        path: file of a direction or dictionary, or the photo of a feature map.
        name: of a direction in its file.
    """

    kind: str
    layer: str = ""
    index: int | tuple[int, int] | str | Label = 0
    readout: Readout = Readout()
    path: str = ""
    name: str = ""

    def __str__(self) -> str:
        if self.kind == "fmap":
            return f"fmap({self.layer})<{self.path}>"
        at = f"@{self.readout}" if str(self.readout) else ""
        if self.kind == "dir":
            return f"dir({self.path}#{self.name}){at}"
        head = f"dict({self.path})" if self.kind == "dict" else self.layer
        index = f"{self.index[0]}-{self.index[1]}" if isinstance(self.index, tuple) else str(self.index)
        return f"{head}:{index}{at}"


@dataclass(frozen=True)
class Label:
    """The name of a logit, quoted in the grammar."""

    text: str

    def __str__(self) -> str:
        return '"' + self.text.replace("\\", "\\\\").replace('"', '\\"') + '"'


_LAYER = r"[^\s:@()<>\"#]+"
_INDEX = r'(?P<index>\*|\d+-\d+|\d+|"(?:[^"\\]|\\.)*")'
_AT = r"(?:@(?P<readout>[^@\s]*))?"
_FORMS = (
    ("fmap", re.compile(rf"fmap\((?P<layer>{_LAYER})\)<(?P<path>[^<>]+)>")),
    ("dir", re.compile(rf"dir\((?P<path>[^#()]+)#(?P<name>[^#()]+)\){_AT}")),
    ("dict", re.compile(rf"dict\((?P<path>[^()]+)\):{_INDEX}{_AT}")),
    ("unit", re.compile(rf"(?P<layer>{_LAYER}):{_INDEX}{_AT}")),
)


@lru_cache(maxsize=65536)
def parse(text: str) -> Address:
    """Parses a unit's string.

    Raises:
        UserError: it does not fit the grammar, with the nearest form that does.
    """
    for kind, form in _FORMS:
        found = form.fullmatch(text.strip())
        if found:
            parts = found.groupdict()
            return Address(
                kind=kind,
                layer=parts.get("layer") or "",
                index=_index(parts["index"], text) if parts.get("index") else 0,
                readout=_readout(parts.get("readout"), text),
                path=parts.get("path") or "",
                name=parts.get("name") or "",
            )
    raise UserError(f"cannot read the unit {_short(text)}; {_advice(text.strip()[:200])}")


def _number(text: str, whole: str) -> int:
    """Reads a number; longer ones than any network has are refused before they are read."""
    digits = text.lstrip("0") or "0"
    if len(digits) > _DIGITS:
        raise UserError(
            f"cannot read the unit {_short(whole)}; a number of {len(digits)} digits is no unit of any network"
        )
    return int(digits)


def _short(text: str) -> str:
    return repr(text if len(text) <= 120 else f"{text[:60]}…{text[-20:]}")


def _index(text: str, whole: str) -> int | tuple[int, int] | str | Label:
    if text == "*":
        return text
    if text.startswith('"'):
        return Label(re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL))
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
        f'cannot read "@{text[:40]}" in {_short(whole)}; after @ comes one of {", ".join(READOUTS)}, each with .pre behind it '
        f"to read before the activation function{hint}"
    )


def _advice(text: str) -> str:
    if re.fullmatch(_LAYER, text) and not text.startswith(("fmap", "dir", "dict")):
        return f"a unit is LAYER:INDEX; did you mean {text}:0 (its first channel) or {text}:* (all)?"
    layer, _, index = text.partition(":")
    if re.fullmatch(r"[A-Za-z][\w ,'-]*", index):
        return f'names of logits stand in quotes; did you mean {layer}:"{index}" (in a shell: \'{layer}:"{index}"\')?'
    if re.fullmatch(r"-\d+", index):
        return "indices count from 0 and are not negative"
    return (
        'expected LAYER:INDEX such as logits:207, logits:"golden retriever", features.6:0-63, features.6:112@3,5, '
        "dir(FILE#NAME), dict(FILE):7 or fmap(LAYER)<PHOTO>"
    )

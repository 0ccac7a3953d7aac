"""Some pictures of a run: found by their unit, chosen by method and by what was measured of them."""

from __future__ import annotations

import html
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, overload

from entoptic.errors import UserError, closest, nearest, printable
from entoptic.runs.figure_options import FigureOptions, captions_text
from entoptic.runs.pictures import Picture
from entoptic.units.grammar import Address, Label, Readout, parse

if TYPE_CHECKING:
    import pyarrow as pa

    from entoptic.plots.figure import Figure
    from entoptic.runs.store import Run
    from entoptic.units.unit import Unit

Condition = str | Callable[[Picture], Any]
"""What is asked of a picture's measurements: a comparison such as "transfer_top1>=0.5", or a function of the picture."""
SHOWN = 24
"""Pictures that a notebook shows."""

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, "==": operator.eq, "!=": operator.ne, ">": operator.gt, "<": operator.lt,
}  # fmt: skip
_COMPARISON = re.compile(r"\s*([A-Za-z_][\w.-]*?)\s*(>=|<=|==|!=|>|<)\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*")


class Pictures(Sequence[Picture]):
    """Some pictures of a run.

    Args:
        run: that they are of.
        pictures: of the run.
    """

    def __init__(self, run: Run, pictures: Iterable[Picture]) -> None:
        self.run = run
        self._pictures = tuple(pictures)

    def __len__(self) -> int:
        return len(self._pictures)

    @overload
    def __getitem__(self, index: int) -> Picture: ...
    @overload
    def __getitem__(self, index: slice | str) -> Pictures: ...
    def __getitem__(self, index: int | slice | str) -> Picture | Pictures:
        """One picture by its place, or those of a unit; see `Run.__getitem__`."""
        if isinstance(index, str):
            return self.filter(unit=index)
        if isinstance(index, slice):
            return Pictures(self.run, self._pictures[index])
        return self._pictures[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and not isinstance(other, str) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Pictures({len(self)} of {str(self.run.path)!r})"

    @property
    def units(self) -> list[str]:
        """Their units, in order."""
        return list(dict.fromkeys(picture.unit for picture in self))

    @property
    def methods(self) -> list[str]:
        """Their methods, in order."""
        return list(dict.fromkeys(picture.method for picture in self))

    def filter(
        self,
        *,
        unit: str | Unit | Iterable[str | Unit] | None = None,
        method: str | Iterable[str] | None = None,
        evidence: Condition | Iterable[Condition] = (),
    ) -> Pictures:
        """Returns those of one or several units and methods that keep one or several conditions, in the order that is asked for.

        Args:
            unit: strings of the unit grammar; ranges and names of logits are looked up among the pictures.
            method: names, also "vital,maco".
            evidence: conditions such as "transfer_top1>=0.5" or "rank<=1 and percentile>95", or functions of a picture. A
                picture whose measurement has no value keeps no comparison.

        Raises:
            UserError: a unit, a method or a measurement that none of them has, with the nearest; a condition that cannot
                be read.
        """
        found: Iterable[Picture] = self._pictures
        if unit is not None:
            wanted = [unit] if isinstance(unit, str) or not isinstance(unit, Iterable) else list(unit)
            units = list(dict.fromkeys(name for one in wanted for name in self._named(str(one))))
            found = sorted((p for p in found if p.unit in units), key=lambda picture: units.index(picture.unit))
        if method is not None:
            names = method.split(",") if isinstance(method, str) else list(method)
            methods = list(dict.fromkeys(self._method(name.strip()) for name in names))
            found = sorted((p for p in found if p.method in methods), key=lambda picture: methods.index(picture.method))
            if unit is not None:
                found = sorted(found, key=lambda picture: units.index(picture.unit))
        tests = [evidence] if isinstance(evidence, str) or callable(evidence) else list(evidence)
        for test in tests:
            keeps = test if callable(test) else self._condition(test)
            found = [picture for picture in found if keeps(picture)]
        return Pictures(self.run, found)

    def table(self) -> pa.Table:
        """Returns their measurements, one row each; the columns are those of `Run.table`."""
        from entoptic.runs.table import rows_of_pictures, table_of

        return table_of(rows_of_pictures(self, self.run.path))

    def figure(
        self,
        *,
        columns: int | None = None,
        captions: bool | str | Sequence[str] = False,
        width: float = 5.5,
        title: str = "",
        with_photos: bool = False,
    ) -> Figure:
        """Returns a figure of them for a paper; see `Run.figure`."""
        from entoptic.runs.figure import figure_of

        options = FigureOptions(
            columns=columns, captions=captions_text(captions), width=width, title=title, with_photos=with_photos
        )
        return figure_of(self, options)

    def _repr_html_(self) -> str:
        shown = "".join(picture._repr_html_() for picture in self._pictures[:SHOWN])
        more = len(self) - SHOWN
        return f"<div>{shown}</div>" + (
            f"<p>… and {more} more in {html.escape(str(self.run.path))}</p>" if more > 0 else ""
        )

    # --- names ----------------------------------------------------------------------------------------------------

    def _named(self, text: str) -> list[str]:
        """The units among the pictures that a string of the grammar names."""
        known = {picture.unit: picture.label for picture in self}
        if text in known:
            return [text]
        try:
            asked = parse(text)
        except UserError as error:
            raise UserError(f"{error}{self._hint(text, known)}") from None
        if (plain := str(asked)) in known:
            return [plain]
        names = {part["unit"]: part.get("label") for picture in self for part in picture.record.get("parts") or ()}
        found = [unit for unit, label in known.items() if _fits(asked, unit, label, names)]
        if not found:
            raise UserError(f"there is no picture of {printable(text)} here{self._hint(text, known)}")
        return found

    def _hint(self, text: str, known: dict[str, str | None]) -> str:
        """What a string that names no unit may have meant: a unit, or the name of one, without its quotes too."""
        by_name = {unit: unit for unit in known}
        by_name |= {f"{unit.rpartition(':')[0]}:{Label(label)}": unit for unit, label in known.items() if label}
        by_name |= {label: unit for unit, label in known.items() if label}
        bare = text.rpartition(":")[2].strip("\"' ")
        meant = by_name.get(text) or closest(text, by_name) or (closest(bare, by_name) if bare else None)
        if meant is None:
            some = ", ".join(list(known)[:8]) + (", …" if len(known) > 8 else "")
            return f"; there are {some}" if known else "; there are no pictures at all"
        unit = by_name.get(meant, meant)
        label = known.get(unit)
        return f"; did you mean {unit}{f' ({label})' if label else ''}?"

    def _method(self, name: str) -> str:
        known = self.methods
        if name not in known:
            raise UserError(f'there is no picture by "{name}" here; there are {", ".join(known)}{nearest(name, known)}')
        return name

    def _condition(self, text: str) -> Callable[[Picture], bool]:
        """Reads comparisons that are joined by "and"."""
        known = list(dict.fromkeys(name for picture in self for name in picture.evidence))
        tests: list[tuple[str, Callable[[float, float], bool], float]] = []
        for part in re.split(r"\s+and\s+|,", text.strip()):
            found = _COMPARISON.fullmatch(part)
            if found is None:
                raise UserError(
                    f'cannot read the condition "{part}"; expected NAME, one of {", ".join(_COMPARISONS)} and a number, for '
                    'instance "transfer_top1>=0.5", or several of them joined by "and"'
                )
            name, sign, number = found.groups()
            if known and name not in known:
                raise UserError(f'no evidence "{name}"; there is {", ".join(known)}{nearest(name, known)}')
            tests.append((name, _COMPARISONS[sign], float(number)))

        def keeps(picture: Picture) -> bool:
            values: dict[str, Any] = {name: entry.get("value") for name, entry in picture.evidence.items()}
            return all(values.get(name) is not None and holds(values[name], number) for name, holds, number in tests)

        return keeps


def _fits(asked: Address, unit: str, label: str | None, names: Mapping[str, str | None]) -> bool:
    """Whether a stored unit is one of those that an address names: by a label, in a range, or with another readout left out.

    names: labels of the parts of combinations.
    """
    try:
        there = parse(unit)
    except UserError:
        return False
    if asked.kind == there.kind == "sum" and len(asked.terms) == len(there.terms):
        return all(
            any(weight == w and _fits(part, str(p), names.get(str(p)), names) for w, p in there.terms)
            for weight, part in asked.terms
        )
    place = there.index
    if there.kind != asked.kind or there.kind == "sum" or not isinstance(place, int):
        return False
    if asked.readout == Readout():  # a readout that is left out is any
        there = replace(there, readout=Readout())
    if isinstance(asked.index, Label):
        same = label is not None and asked.index.text.lower() in {
            part.strip().lower() for part in [label, *label.split(",")]
        }
        return same and replace(there, index=0) == replace(asked, index=0)
    if isinstance(asked.index, tuple):
        first, last = asked.index
        return first <= place <= last and replace(there, index=0) == replace(asked, index=0)
    if asked.index == "*":
        return replace(there, index=0) == replace(asked, index=0)
    return there == asked

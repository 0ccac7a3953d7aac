"""`entoptic figure`: the pictures of a run as a figure for a paper."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import OmitArgPrefixes, Positional, arg

from entoptic.cli.options import Debug, RunToRead
from entoptic.runs.figure_options import FigureOptions


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Draw the pictures of a run as a figure for a paper."""

    examples: ClassVar[tuple[str, ...]] = (
        "entoptic figure runs/first --out grid.pdf",
        "entoptic figure runs/first --out grid.png --columns 4 --captions headline",
    )

    run: RunToRead
    units: Positional[
        Annotated[tuple[str, ...], arg(metavar="UNIT", help="units to show, in this order (default: all)")]
    ] = ()
    out: Annotated[Path, arg(metavar="FILE")]
    """file to write; its ending says the format: .pdf, .svg (text stays text) or .png"""
    method: str | None = None
    """methods to show, in this order, separated by commas (default: all)"""
    where: str | None = None
    """show only pictures whose measurements keep a condition, such as 'transfer_top1>=0.5 and rank<=1'"""
    figure: OmitArgPrefixes[FigureOptions] = field(default_factory=FigureOptions)
    dpi: int = 300
    """pixels to the inch of a PNG file"""
    debug: Debug = False


def run_figure(options: Figure) -> int:
    """Runs `entoptic figure`; returns the exit code."""
    from entoptic.runs.figure import figure_of
    from entoptic.runs.store import Run

    pictures = Run.open(options.run).filter(
        unit=options.units or None, method=options.method, evidence=(options.where,) if options.where else ()
    )
    print(figure_of(pictures, options.figure).save(options.out, dpi=options.dpi))
    return 0

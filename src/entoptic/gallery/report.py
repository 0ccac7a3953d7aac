"""`entoptic.report`: one page on a classifier, for an auditor or an engineer."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from torch import nn

from entoptic.base.files import json_bytes
from entoptic.base.gradients import with_gradients
from entoptic.base.progress import Reporter, reporter
from entoptic.base.unread import names_unread
from entoptic.errors import UserError
from entoptic.gallery.pattern_page import write_pattern_pages
from entoptic.gallery.site import page_environment, write_page
from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.runs.records import about_run
from entoptic.runs.report import ReportPlan, make_report, make_report_plan
from entoptic.runs.report_records import FILE, PAGE, Report
from entoptic.runs.store import Run

_LINKS = {
    "index.html": "gallery", "patterns.html": "patterns", "atlases.html": "atlas", "circuits.html": "circuits",
}  # fmt: skip
"""Pages of a run's gallery to which a report leads."""


@names_unread
@with_gradients
def report(
    model: str | nn.Module | Model,
    *,
    photos: Any,
    out: str | Path | None = None,
    classes: int | str | tuple[str, ...] = 6,
    method: str = "vital",
    steps: int | None = None,
    layer: str = "",
    quantile: float = 0.9,
    seed: int = 0,
    batch_size: int = 32,
    context: bool = True,
    masks: str | Path | None = None,
    device: str = "auto",
    card: Card | None = None,
    progress: bool = True,
) -> Path:
    """Writes one page on a classifier: its errors, what its classes look for, and which units carry them.

    Pictures and patterns are stored in the run folder; the same request makes only what is not there. A section that cannot be
    made says why, and costs no other.

    Args:
        model: anything `load` takes.
        photos: real photos, anything `Photos.open` takes; with labels where accuracy and errors are asked for.
        out: the run folder (default `runs/MODEL`).
        classes: how many classes are shown, the most used and most confused, or their names.
        method: of the pictures.
        steps: of the method (default: its own).
        layer: where patterns of errors are looked for (default: the layer that the logits read).
        quantile: a unit is on above this quantile of its own scores, for patterns.
        seed: of all draws.
        batch_size: photos of one pass.
        context: store small copies of photos beside pictures and patterns.
        masks: folder of PNG masks by the names of the photos, white on the object; they say whether classes look at it.
        device: "auto", "cpu", "cuda:1", ….
        card: of a bare `nn.Module`.
        progress: show how far the work is.

    Returns:
        The page, `report.html`; `report.json` beside it holds the same numbers.

    Raises:
        UserError: bad input.
    """
    plan = make_report_plan(
        model, photos=photos, out=out, classes=classes, method=method, steps=steps, layer=layer, quantile=quantile,
        seed=seed, batch_size=batch_size, context=context, masks=masks, device=device, card=card,
    )  # fmt: skip
    with reporter(progress) as told:
        return write_report(plan, told)


def write_report(plan: ReportPlan, told: Reporter) -> Path:
    """Makes a planned report and writes its page.

    Args:
        plan: of `make_report_plan`.
        told: is told how far it is.

    Returns:
        The page.

    Raises:
        UserError: the photos cannot be read, or the page cannot be written.
    """
    found = make_report(plan, told)
    run = Run(plan.out)
    if found.patterns:
        write_pattern_pages(run.path)
    with run.writing(about_run(plan.model)):
        try:
            write_page(run.path / FILE, json_bytes(found.to_json()).decode())
            write_page(run.path / PAGE, _page(found, run))
        except OSError as error:
            raise UserError(f'cannot write the report to "{run.path}": {error.strerror or error}') from error
    return run.path / PAGE


def _page(found: Report, run: Run) -> str:
    pictures = {
        one.unit: base64.b64encode((run.path / one.picture).read_bytes()).decode()
        for one in found.classes
        if one.picture and (run.path / one.picture).is_file()
    }
    links = [(f"gallery/{file}", words) for file, words in _LINKS.items() if (run.path / "gallery" / file).is_file()]
    return page_environment().get_template("report.html").render(r=found, pictures=pictures, links=links)

"""What a GPU makes of each method: steps a second, pictures an hour and peak memory, by batch.

    python benchmarks/gpu.py                                     # minutes on one GPU: builtin:lite0, class logits
    python benchmarks/gpu.py --model timm:resnet50.a1_in1k --batches 1,16,64,256
    python benchmarks/gpu.py --device cpu --batches 1,2 --steps 2 --whole 0 --out runs/gpu-on-a-cpu      # a trial run

Times are of single steps behind a few that warm up, with the device synchronised at each. `whole` is an ordinary run of so many
pictures at the method's own number of steps, with its measurements and files. A batch that does not fit is a row that says so.
Every row is written as soon as it is measured; the same command measures only what is missing (--again: all of it). Writes
gpu.json and gpu.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from entoptic.base.files import write_atomically
from entoptic.errors import UserError
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.methods.contract import Context, Item, MethodConfig, card_of, find_method
from entoptic.models.model import LOGITS, Model
from entoptic.models.sources import load
from entoptic.runs.records import versions
from entoptic.runs.see import see
from entoptic.units.unit import bind

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
METHODS = "vital,vital-paper,fourier,maco,pixels,deep-inversion"
WARM = 3
"""Steps of every batch that are not timed."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method at one batch.

    Attributes:
        model: name of the network.
        device: it ran on.
        method: name of the method.
        batch: pictures made together.
        steps: of the method as it comes.
        timed: steps that were timed.
        second: seconds of a step, the median.
        slowest: seconds of the slowest timed step.
        passes: the same in passes forward and back through the network with as many pictures.
        views: pictures through the network at each step, for each picture.
        peak: largest memory that tensors took, in MiB; None where the device does not say.
        whole: seconds of a whole run, None where there was none.
        pictures: that the whole run made.
        reason: why there are no numbers.
    """

    model: str
    device: str
    method: str
    batch: int
    steps: int
    timed: int
    second: float | None = None
    slowest: float | None = None
    passes: float | None = None
    views: float | None = None
    peak: float | None = None
    whole: float | None = None
    pictures: int = 0
    reason: str = ""

    @property
    def key(self) -> tuple[str, str, str, int, int, int]:
        """What tells rows apart."""
        return self.model, self.device, self.method, self.batch, self.steps, self.timed


def parser() -> argparse.ArgumentParser:
    """What the command takes."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--model", default="builtin:lite0")
    options.add_argument(
        "--layer", default=LOGITS, help="whose first units are shown; channels need a model with statistics"
    )
    options.add_argument("--methods", default=METHODS)
    options.add_argument("--batches", default="1,8,32,64,128")
    options.add_argument("--steps", type=int, default=20, help="timed steps of each batch")
    options.add_argument("--whole", type=int, default=64, help="pictures of a whole run of each method; 0 for none")
    options.add_argument("--photos", default=None, help="for networks without shipped statistics")
    options.add_argument("--device", default="auto")
    options.add_argument("--again", action="store_true", help="measure what is there already, too")
    options.add_argument("--out", type=Path, default=OUT)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser()
    given = options.parse_args(arguments)
    try:
        batches = [int(one) for one in given.batches.split(",")]
    except ValueError:
        options.error(f"--batches takes numbers separated by commas, such as 1,8,32, got {given.batches!r}")
    if min(batches) < 1 or given.steps < 1 or given.whole < 0:
        options.error("batches and steps are at least 1, --whole is at least 0")
    try:
        configs = [find_method(name).config() for name in given.methods.split(",")]
        if without := [card_of(c).name for c in configs if not hasattr(c, "steps")]:
            options.error(f"{without[0]} has no steps that could be timed")
        model = load(given.model, device=given.device)
        bind(model, [f"{given.layer}:0"])
        photos = None if given.photos is None else Photos.open(given.photos)
    except UserError as error:
        options.error(str(error))
    file = given.out / "gpu.json"
    held = json.loads(file.read_text()) if file.is_file() else {}
    rows = {(row := Row(**one)).key: row for one in held.get("rows", [])}
    given.out.mkdir(parents=True, exist_ok=True)
    words = shlex.join(["python", "benchmarks/gpu.py", *(sys.argv[1:] if arguments is None else arguments)])
    told = {
        "command": words.replace(str(given.photos), "PHOTOS") if given.photos else words,
        "device": device_name(model),
        **versions(),
        "python": platform.python_version(),
        "hardware": hardware(),
    }
    for config in configs:
        for batch in batches:
            empty = Row(
                model=model.card.name, device=device_name(model), method=card_of(config).name, batch=batch,
                steps=int(vars(config)["steps"]), timed=given.steps,
            )  # fmt: skip
            if empty.key in rows and not given.again:
                continue
            row = measured(empty, model, given.layer, config, photos)
            if given.whole and batch == max(batches) and not row.reason:
                row = whole(row, model, given.layer, config, given.whole, photos)
            rows[row.key] = row
            write(given.out, told, list(rows.values()))
            print(line(row), flush=True)
    write(given.out, told, list(rows.values()))


def write(out: Path, told: dict[str, Any], rows: Sequence[Row]) -> None:
    """Writes both files, also of a table that is not whole yet."""
    result = {"about": told, "rows": [asdict(one) for one in rows]}
    write_atomically(out / "gpu.json", (json.dumps(result, indent=1) + "\n").encode())
    write_atomically(out / "gpu.md", page(result).encode())


def device_name(model: Model) -> str:
    """Such as "NVIDIA H100 80GB HBM3", or "cpu"."""
    return torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else str(model.device)


def hardware() -> str:
    """The class of the machine."""
    return f"{platform.machine()}, {os.cpu_count()} cores"


def units_of(model: Model, layer: str, count: int) -> list[str]:
    """The first units of a layer, again from the first where there are fewer."""
    known = model.outputs if layer == LOGITS else model.layer(layer).channels
    return [f"{layer}:{k % known}" for k in range(count)]


def measured(row: Row, model: Model, layer: str, config: MethodConfig, photos: Photos | None) -> Row:
    """Times single steps of one batch."""
    cuda = model.device.type == "cuda"
    ticks: list[float] = []

    def tick(done: int, of: int) -> None:
        if cuda:
            torch.cuda.synchronize(model.device)
        ticks.append(time.perf_counter())

    short: Any = replace(config, steps=WARM + row.timed)  # type: ignore[call-arg]
    units = bind(model, list(dict.fromkeys(units_of(model, layer, row.batch))))
    items = [Item(target=units[k % len(units)], sample=k // len(units), seed=0) for k in range(row.batch)]
    context = Context(model=model, references=References(model, photos), on_step=tick)
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(model.device)
    try:
        drafts = list(card_of(config).function(items, short, context))
        failed = next((d.failure for d in drafts if d.failure is not None), None)
        if failed is not None:
            return replace(row, reason=failed.text)
        peak = torch.cuda.max_memory_allocated(model.device) / 2**20 if cuda else None
        steps = [b - a for a, b in zip(ticks[WARM - 1 :], ticks[WARM:])]
        evaluations = next((d.trace.evaluations for d in drafts if d.trace and d.trace.evaluations), None)
        second = statistics.median(steps)
        return replace(
            row, second=second, slowest=max(steps), passes=second / plain_pass(model, row.batch), peak=peak,
            views=None if evaluations is None else evaluations / short.steps,
        )  # fmt: skip
    except (torch.OutOfMemoryError, MemoryError):
        return replace(row, reason="out of memory")
    except UserError as error:
        return replace(row, reason=str(error))
    finally:
        if cuda:
            torch.cuda.empty_cache()


def plain_pass(model: Model, batch: int, repeats: int = 3) -> float:
    """Seconds of a pass forward and back to the pixels, the median."""

    def once() -> float:
        images = torch.rand(batch, 3, *model.card.size, device=model.device, requires_grad=True)
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        started = time.perf_counter()
        with model.frozen():
            model(images).sum().backward()
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        return time.perf_counter() - started

    once()
    return statistics.median(once() for _ in range(repeats))


def whole(row: Row, model: Model, layer: str, config: MethodConfig, count: int, photos: Photos | None) -> Row:
    """Times an ordinary run, with measurements and files."""
    units = list(dict.fromkeys(units_of(model, layer, count)))
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        try:
            run = see(
                model, units, method=config, n=-(-count // len(units)), out=Path(folder) / "run", batch_size=row.batch,
                photos=photos, context=False, progress=False,
            )  # fmt: skip
        except (UserError, torch.OutOfMemoryError, MemoryError) as error:
            return replace(row, reason=f"the whole run was not made: {error}")
        return replace(row, whole=time.perf_counter() - started, pictures=len(list(run)))


def per_hour(row: Row) -> float | None:
    """Pictures an hour, of steps alone."""
    return None if row.second is None else 3600 * row.batch / (row.steps * row.second)


def line(row: Row) -> str:
    """One row of the table."""
    memory = "–" if row.peak is None else f"{row.peak:,.0f}"
    run = (
        "–" if row.whole is None or not row.pictures else f"{3600 * row.pictures / row.whole:,.0f} (n = {row.pictures})"
    )
    if row.second is None or row.passes is None:
        return f"| {row.method} | {row.batch} | {row.reason or '–'} | – | – | – | – | – |"
    views = "–" if row.views is None else f"{row.views:g}"
    return (
        f"| {row.method} | {row.batch} | {1 / row.second:.3g} (slowest {1 / row.slowest if row.slowest else 0:.3g}) | "
        f"{row.passes:.2f} | {views} | {per_hour(row):,.0f} | {run} | {memory} |"
    )


def page(result: dict[str, Any]) -> str:
    """The table in Markdown."""
    told, rows = result["about"], [Row(**one) for one in result["rows"]]
    lines = ["# A GPU", ""]
    for model, device in dict.fromkeys((row.model, row.device) for row in rows):
        lines += [
            f"## {model} on {device}", "",
            "| method | batch | steps a second | a step in plain passes | views a step | pictures an hour, steps alone | "
            "pictures an hour, whole run | peak memory, MiB |", "|---" * 8 + "|",
            *(line(row) for row in rows if (row.model, row.device) == (model, device)), "",
        ]  # fmt: skip
    counts = ", ".join(f"{name} {steps}" for name, steps in dict.fromkeys((row.method, row.steps) for row in rows))
    timed = ", ".join(str(n) for n in dict.fromkeys(row.timed for row in rows))
    numbers = ", ".join(f"{k} {v}" for k, v in told.items() if k not in ("command", "device", "hardware"))
    lines += [
        f"Steps a second: median of {timed} timed steps behind {WARM} that warm up. A plain pass is one forward and back to the "
        f"pixels with as many pictures. Pictures an hour, steps alone: at the method's own number of steps ({counts}). A whole "
        "run has its measurements by two other networks and its files, too. Peak memory is of tensors, of the timed steps.", "",
        f"`{told['command']}` on {told['device']} ({told['hardware']}) with {numbers}.", "",
    ]  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    main()

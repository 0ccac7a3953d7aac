"""How long a run of many pictures takes to list, verify and show, and how much memory that needs.

    python benchmarks/big_run.py --pictures 100000 --out docs/benchmarks/big-run.json

The run is invented: tiny pictures of a network whose units all read the same sum, so that every measurement comes out. Each
step is a process of its own, so that its peak memory is its own. The last one opens the gallery in Chromium and takes the time
until the first pictures are drawn (median and range of `--repeats`).
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from entoptic.images.references import References
from entoptic.metrics.picture import measure_unit_picture
from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.runs.records import model_record
from entoptic.runs.store import Run
from entoptic.runs.verify import verify
from entoptic.units.unit import bind

METHODS, SAMPLES, SIZE = ("invented-a", "invented-b"), 2, 8
STEPS = ("metadata", "ls", "table", "gallery", "gallery again", "verify")
CHROMIUM = "/usr/bin/chromium"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step: seconds from its start to its end, those that its process computed, and the most memory that it held."""

    name: str
    seconds: float
    cpu_seconds: float
    peak_mb: float
    code: int


def network(units: int) -> Model:
    """Returns a network whose units all read the mean of the picture."""
    linear = nn.Linear(3, units)
    nn.init.constant_(linear.weight, 1.0)
    nn.init.zeros_(linear.bias)
    module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
    labels = tuple(f"thing {i}" for i in range(units))
    card = Card(name="big:net", size=(SIZE, SIZE), mean=(0.0,) * 3, std=(1.0,) * 3, labels=labels, licence="cc0-1.0")
    return Model(module, card)


def invent(folder: Path, pictures: int) -> None:
    """Writes the run: per unit two samples by each of two methods, with everything a real sidecar holds."""
    units = max(1, pictures // (len(METHODS) * SAMPLES))
    model = network(units)
    references = References(model, None)
    (unit,) = bind(model, "logits:0")
    draw = np.random.default_rng(0)
    made = []
    for method in METHODS:
        for sample in range(SAMPLES):
            pixels = draw.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            evidence = [one.to_json() for one in measure_unit_picture(pixels, unit, references, (), None)]
            made.append((method, sample, buffer.getvalue(), evidence))
    about = model_record(model)
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(
        json.dumps({"format": 1, "title": "A big run", "created": "2026-01-01", "model": about})
    )
    for i in range(units):
        place = folder / "pictures" / f"logits-{i}"
        place.mkdir(parents=True)
        for method, sample, data, evidence in made:
            key = hashlib.sha256(f"{i} {method} {sample}".encode()).hexdigest()
            file = place / f"{method}-{sample}-{key[:12]}.png"
            file.write_bytes(data)
            image = {"file": file.name, "sha256": hashlib.sha256(data).hexdigest(), "width": SIZE, "height": SIZE}
            record = {
                "format": 1, "key": key, "complete": True, "unit": f"logits:{i}", "label": f"thing {i}",
                "layer": f"blocks.{i // 1000}", "readout": "value", "method": method, "method_title": method.title(),
                "paper": "arXiv:0000.00000", "config": {"steps": 300, "lr": 0.05}, "seed": 0, "sample": sample,
                "model": about, "versions": {"torch": torch.__version__, "numpy": np.__version__},
                "command": f"entoptic see big:net logits:{i} --method {method}", "image": image, "maps": {},
                "trace": {"steps": 300, "loss": [[50 * j, 10.0 / (j + 1)] for j in range(7)], "notes": [], "seconds": 1.0,
                          "stopped": "finished"},
                "measured_with": {"evidence": 10, "photos": None, "index": None}, "evidence": evidence,
            }  # fmt: skip
            file.with_suffix(".json").write_text(json.dumps(record, indent=1))


def do(step: str, folder: Path) -> int:
    """Does one step; called in a process of its own."""
    if step == "metadata":
        with Run.open(folder).writing({}):
            pass
        return 0
    if step == "verify":
        torch.set_num_threads(1)
        units = sum(1 for _ in (folder / "pictures").iterdir())
        found = verify(folder, model=network(units))
        print(found)
        return 0 if found.ok else 2
    print(Run.open(folder).table().num_rows)
    return 0


def measured(step: str, folder: Path) -> Step:
    """Runs a step in a process and returns its time and peak memory."""
    command = [sys.executable, __file__, "--do", step, "--folder", str(folder)]
    if step.split()[0] in ("ls", "gallery"):
        command = [sys.executable, "-m", "entoptic", step.split()[0], str(folder)]
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return Step(
        name=step, seconds=round(seconds, 1), cpu_seconds=round(usage.ru_utime + usage.ru_stime, 1),
        peak_mb=round(usage.ru_maxrss / scale), code=process.returncode,
    )  # fmt: skip


def opened(folder: Path, repeats: int) -> dict[str, Any]:
    """Opens the index in Chromium, each time in a fresh profile; seconds until the first rows and their pictures are there."""
    from playwright.sync_api import sync_playwright

    index = folder / "gallery" / "index.html"
    seconds, counts, searches = [], "", []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        for _ in range(repeats):
            page = browser.new_page()
            started = time.monotonic()
            page.goto(index.as_uri(), wait_until="commit")
            page.wait_for_selector(".row img", timeout=120_000)
            page.wait_for_function("document.querySelector('.row img').complete", timeout=120_000)
            seconds.append(time.monotonic() - started)
            started = time.monotonic()
            page.fill("#q", "thing 777")
            page.wait_for_function("/^[0-9,]+ of /.test(document.querySelector('#count').innerText)", timeout=120_000)
            searches.append(time.monotonic() - started)
            counts = page.locator("#count").inner_text()
            page.close()
        browser.close()
    return {
        "seconds": [round(one, 2) for one in seconds], "median": round(statistics.median(seconds), 2),
        "search_seconds": [round(one, 2) for one in searches], "found": counts,
        "bytes": {one.name: one.stat().st_size for one in sorted(index.parent.glob("*.js"))},
        "units_page_bytes": (index.parent / "units.html").stat().st_size,
    }  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """Returns what the benchmark takes."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--pictures", type=int, default=100_000)
    made.add_argument("--repeats", type=int, default=5)
    made.add_argument("--steps", default=",".join(STEPS), help="some of them, separated by commas")
    made.add_argument("--folder", type=Path, help="of the run; one that is there is used (default: a temporary one)")
    made.add_argument("--out", type=Path, help="JSON file of what was measured")
    made.add_argument("--do", help=argparse.SUPPRESS)
    return made


def main() -> None:
    options = parser().parse_args()
    if options.do:
        sys.exit(do(options.do, options.folder))
    with tempfile.TemporaryDirectory() as place:
        folder = options.folder or Path(place) / "run"
        if not folder.exists():
            started = time.monotonic()
            invent(folder, options.pictures)
            print(f"invented {options.pictures} pictures in {time.monotonic() - started:.0f} s", flush=True)
        steps = []
        for name in options.steps.split(","):
            steps.append(measured(name, folder))
            print(steps[-1], flush=True)
        browser = {}
        if (folder / "gallery" / "index.html").is_file() and os.path.exists(CHROMIUM):
            browser = opened(folder, options.repeats)
            print(f"index in Chromium: {browser}", flush=True)
    record = {
        "command": f"python benchmarks/big_run.py --pictures {options.pictures}", "pictures": options.pictures,
        "python": platform.python_version(), "steps": [asdict(one) for one in steps], "chromium": browser,
    }  # fmt: skip
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

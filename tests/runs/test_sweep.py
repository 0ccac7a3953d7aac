"""A sweep over a layer runs unattended: killed at any moment, it goes on where it was, and nothing is made twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from entoptic.images.build_index import build_index
from entoptic.models.model import Model
from entoptic.runs.store import Run

CHILD = """
import sys
sys.path[:0] = {paths!r}
import torch
torch.set_num_threads(1)
from conftest import tiny_card, tiny_module
from entoptic.images.photos import Photos
from entoptic.models.model import Model
from entoptic.runs.see import see
model = Model(tiny_module(), tiny_card(), device="cpu")
print("begins", flush=True)
run = see(model, "stage2:*", photos={photos!r}, index={index!r}, out={out!r}, batch_size=3, steps=4, references=4,
          verifiers="", progress=False)
print("ends", len(run), flush=True)
"""


@pytest.mark.slow
def test_a_sweep_survives_kill_9_at_any_moment(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    index = build_index(tiny, photo_folder, ["stage2"], out=tmp_path / "index", k=4)
    paths = [str(Path(__file__).parents[1]), *(p for p in sys.path if p)]
    out = tmp_path / "sweep"
    code = CHILD.format(paths=paths, photos=str(photo_folder), index=str(index.path), out=str(out))
    rng = random.Random(0)

    def start() -> subprocess.Popen[str]:
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "begins\n"
        return child

    def finished() -> dict[str, tuple[int, bytes]]:
        """Each finished picture with the inode of its file: a file that is written again is another one."""
        pictures = Run.open(out) if (out / "run.json").is_file() else ()
        return {p.path.name + p.unit: (p.path.stat().st_ino, p.path.read_bytes()) for p in pictures}

    seen: dict[str, tuple[int, bytes]] = {}
    for kill in range(3):
        child = start()
        wanted = len(seen) + rng.randint(1, 4)
        while child.poll() is None and len(finished()) < wanted:
            time.sleep(0.005)
        time.sleep(rng.random() * 0.05)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        now = finished()
        assert now.items() >= seen.items(), f"kill {kill} cost finished pictures"
        seen = now
    assert 3 <= len(seen) < 16
    child = start()
    assert child.stdout is not None
    assert child.stdout.readline() == "ends 16\n"
    child.wait()
    assert finished().items() >= seen.items(), "finished pictures were made again"
    assert not list(out.glob("**/*.part"))

"""Small jobs of every verb that writes, and a process that runs one and may be killed at a file operation.

    python -m tests.kill.jobs VERB        (in a folder that `prepare` filled)

With `ENTOPTIC_KILL_AT` set to SIGNAL:N the process signals itself before its Nth file operation below the folder.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, chdir, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

AT = "ENTOPTIC_KILL_AT"
OUT = "out"
PHOTOS = 100
_QUICK = ("--verifiers", "", "--device", "cpu")
_PRIOR = ("--prior", "file:prior")
_INVERTER = ("--inverter", "file:inverter")
_TINY = (
    "--size", "8", "--patch", "2", "--widths", "16", "32", "--batch-size", "4", "--steps", "12", "--warmup", "1",
)  # fmt: skip

JOBS: dict[str, list[str]] = {
    "see": [
        "see", "tiny:0", "logits:0-1", "stage1:3", "--method", "fourier,retrieval", "--photos", "photos", "--steps", "5",
        "--n", "2", "--out", OUT, *_QUICK,
    ],
    "index": [
        "index", "tiny:0", "--layers", "stage1", "stage2", "--photos", "many", "--reservoir", "20", "--device", "cpu",
        "--out", OUT,
    ],
    "invert": ["invert", "tiny:0", "stage2", "photos", "--steps", "2", "--n", "2", "--out", OUT, *_INVERTER, *_QUICK],
    "steer": [
        "steer", "tiny:0", "stage2", "photos/circle/0.png", "photos/dot/1.png", "--dictionary", "four.safetensors",
        "--concept", "0", "2", "--nulls", "4", "--level", "0.4", "--n", "2", "--scales", "0", "1", "2", "--device", "cpu",
        "--out", OUT, *_INVERTER,
    ],
    "frontier": [
        "frontier", "tiny:0", "logits:0", "--methods", "klsc,best-of,fourier", "--bank", "192",
        "--particles", "12", "--islands", "4", "--nats", "1", "--n", "1", "--fourier.steps", "3", "--klsc.moves", "2",
        "--out", OUT, *_PRIOR, *_QUICK,
    ],
    "commitment": [
        "commitment", "tiny:0", "logits:0", "--steps", "6", "--switches", "2", "--seeds", "20", "--bank", "192", "--beta", "4",
        "--quantile", "0.8", "--device", "cpu", "--out", OUT, *_PRIOR,
    ],
    "report": [
        "report", "tiny:0", "--photos", "photos", "--classes", "2", "--method", "fourier", "--steps", "5", "--device", "cpu",
        "--out", OUT,
    ],
    "learn prior": [
        "learn", "prior", "--photos", "many", "--samples", "50", "--device", "cpu", "--out", OUT, *_TINY,
    ],
    "learn inverter": [
        "learn", "inverter", "tiny:0", "stage2", "--photos", "many", "--steps", "12", "--entoptic.hint", "8",
        "--entoptic.batch-size", "2", "--entoptic.warmup", "1", "--compared", "4", "--out", OUT, *_PRIOR, *_QUICK,
    ],
}  # fmt: skip
"""The command of each job, by its verb."""


def prepare(folder: Path) -> Path:
    """Fills a folder with what the jobs read."""
    import numpy as np
    from PIL import Image
    from tests.stored import asked

    for name in ("photos", "networks", "prior", "inverter"):
        shutil.copytree(asked.HERE / name, folder / name)
    shutil.copy(asked.HERE / asked.DICTIONARY, folder)
    (folder / "many").mkdir()
    draw = np.random.default_rng(0)
    for i in range(PHOTOS):
        Image.fromarray(draw.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / "many" / f"{i:02}.png")
    return folder


class Operations:
    """Counts file operations that write below the working directory; before the Nth it sends this process a signal."""

    def __init__(self) -> None:
        self.count, self.root, self.at, self.signal, self.hooked = 0, "", 0, 0, False

    def start(self, root: str, at: int = 0, signal: int = 0) -> None:
        self.count, self.root, self.at, self.signal = 0, os.path.realpath(root) + os.sep, at, signal

    def stop(self) -> None:
        self.root = ""

    def seen(self, event: str, given: tuple[Any, ...]) -> None:
        """Is told of every audited event of the interpreter."""
        if not self.root or event not in ("open", "os.rename", "os.remove", "os.mkdir"):
            return
        if event == "open" and not (isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        path = given[0]
        if isinstance(path, (str, bytes)) and os.path.abspath(os.fsdecode(path)).startswith(self.root):
            self.count += 1
            if self.count == self.at:
                os.kill(os.getpid(), self.signal)


OPERATIONS = Operations()
WORK = {"pictures": 0, "blocks": 0, "steps": 0}
"""Pictures, blocks of an index and steps of a training that this process made since `running` began."""


def _counted(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def counting(*given: Any, **named: Any) -> Any:
        WORK[what] += 1
        return function(*given, **named)

    return counting


@contextmanager
def _small(folder: Path) -> Iterator[None]:
    """The stored networks; a network that judges without weights; blocks and checkpoints after a few photos and steps."""
    from tests.stored import asked

    from entoptic.images import build_index
    from entoptic.inversion import learn as of_inverter
    from entoptic.models.sources import SOURCES
    from entoptic.priors import learn as of_prior
    from entoptic.runs import execute, learn, learn_inverter

    networks = asked.networks(folder)
    with ExitStack() as stack:
        for one in (
            mock.patch.dict(SOURCES, {"tiny": networks, "builtin": lambda name, pretrained: networks("7", pretrained)}),
            mock.patch.object(build_index, "BLOCK", 8),
            mock.patch.object(build_index, "read_block", _counted("blocks", build_index.read_block)),
            mock.patch.object(execute, "_store", _counted("pictures", execute._store)),
            mock.patch.object(of_prior, "flow_loss", _counted("steps", of_prior.flow_loss)),
            mock.patch.object(of_inverter, "loss", _counted("steps", of_inverter.loss)),
            mock.patch.object(learn, "features", lambda model, pictures: pictures.mean((2, 3))),
            mock.patch.object(learn, "learn_prior", partial(learn.learn_prior, save_every=3, sheet_every=6)),
            mock.patch.object(
                learn_inverter, "learn_inverter", partial(learn_inverter.learn_inverter, save_every=3, sheet_every=6)
            ),
        ):
            stack.enter_context(one)
        yield


@contextmanager
def running(folder: Path) -> Iterator[None]:
    """The folder as the working directory, with its own cache, and the small settings inside of every verb.

    They are set inside, so that what a command imports is imported where it would be.
    """
    from entoptic.cli.main import VERBS

    def inside(run: Callable[[Any], int]) -> Callable[[Any], int]:
        def small(options: Any) -> int:
            with _small(folder):
                return run(options)

        return small

    verbs = {name: (kind, inside(run)) for name, (kind, run) in VERBS.items()}
    own = {"ENTOPTIC_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    WORK.update(dict.fromkeys(WORK, 0))
    with chdir(folder), mock.patch.dict(VERBS, verbs), mock.patch.dict(os.environ, own):
        yield


def run(verb: str, folder: Path) -> int:
    """Runs a job in this process; returns its exit code."""
    from entoptic.cli import main

    with running(folder):
        return main(JOBS[verb])


if __name__ == "__main__":
    number, _, nth = os.environ.get(AT, "0:0").partition(":")
    OPERATIONS.start(os.getcwd(), int(nth), int(number))
    sys.addaudithook(OPERATIONS.seen)
    try:
        sys.exit(run(sys.argv[1], Path.cwd()))
    except KeyboardInterrupt:  # `entoptic.__main__` does the same
        sys.exit(130)

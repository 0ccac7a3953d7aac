"""Options that several verbs share: the help of each is written once, here.

An option is an annotated type, not a field of a base class. The fields of a base class come first, but the help of a
verb begins with what that verb alone takes. Options that go together (`InverterOptions`) are one field without a prefix.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from entoptic.base.bounds import check_bounds, check_shard, check_threads, whole_number
from entoptic.errors import UserError

if TYPE_CHECKING:
    from entoptic.workers.count import Workers


def photos_help(role: str = "") -> object:
    """The help of an option that names a set of real photos; `role` says what the verb does with it."""
    return arg(metavar="PHOTOS", help=f"real photos: a folder, Parquet file, archive or pattern{role}")


def run_folder_help(default: str) -> object:
    """The help of an option that names the folder of a run to make."""
    return arg(metavar="FOLDER", help=f"run folder (default: {default}); what is there already is not made again")


# What is looked at.
ModelName = Positional[
    Annotated[str, arg(metavar="MODEL", help="SOURCE:NAME, for instance builtin:lite0 or timm:resnet50.a1_in1k")]
]
UnitNames = Positional[
    Annotated[
        tuple[str, ...],
        arg(
            metavar="UNIT",
            help="such as logits:207, 'logits:\"golden retriever\"', blocks.6:112, blocks.6:0-63, "
            "'logits:207 + 0.5*logits:3'",
        ),
    ]
]
LayerToRead = Positional[
    Annotated[str, arg(metavar="LAYER", help="a layer, as `entoptic ls MODEL` names them, or dict(PATH)")]
]
RunToRead = Positional[Annotated[Path, arg(metavar="RUN", help="the run folder")]]

# What pictures are made with.
PriorName = Annotated[
    str | None,
    arg(
        metavar="PRIOR",
        help="image prior that methods sample, such as builtin:…, hf:REPO or a folder (default: the shipped one)",
    ),
]
BankSeed = Annotated[
    int,
    arg(
        metavar="SEED",
        help="random seed of the prior's samples that standardise scores and start the sampling; --seed does not change them",
    ),
]
InverterName = Annotated[
    str | None, arg(metavar="INVERTER", help="builtin:NAME or file:FOLDER (default: the one shipped for the layer)")
]
MovedPrior = Annotated[
    str | None,
    arg(
        metavar="PRIOR",
        help="where the image prior that the inverter was trained on is now, if it is not where the card says; no other is taken",
    ),
]
Verifiers = Annotated[
    str,
    arg(
        metavar="MODELS",
        help="networks that judge the pictures, separated by commas; auto takes the builtin ones, '' none",
    ),
]
Seed = Annotated[int, arg(metavar="SEED", help="random seed; the same request gives the same results")]

NoiseOf = Annotated[
    str | None,
    arg(
        metavar="UNIT",
        help="unit whose random numbers all pictures use: they start from the same noise (default: its own)",
    ),
]

MethodSteps = Annotated[int | None, arg(help="optimisation steps, for every method that has them")]
ScoreOfMap = Annotated[
    str,
    arg(
        metavar="NAME",
        help="score: '' for the unit's readout, or max, mean, mix, top, log-mean-exp over its map",
    ),
]

# What is known of units already.
NamesBesideRun = Annotated[
    Path | None,
    arg(
        metavar="FILE",
        help="suggested names of units, made by `entoptic name` (default: names.json in --out, where it is)",
    ),
]

# What a network is trained on.
TrainingPhotos = Annotated[
    tuple[str, ...], arg(metavar="PHOTOS", help="folders or Parquet files of photos; labels are not read")
]

# Where they go.
RunFolder = Annotated[Path | None, run_folder_help("runs/MODEL")]
KeepPhotos = Annotated[
    bool,
    arg(
        help="store small copies of photos (each unit's strongest, or those that are inverted) for the gallery; "
        "--no-context for runs to be published"
    ),
]

# How they are computed.
BatchSize = Annotated[
    int | None,
    arg(help="pictures made together (default: 10 on a CPU, 64 elsewhere); results do not depend on it"),
]
PhotosAtOnce = Annotated[int, arg(help="photos in one pass; fewer need less memory")]
Device = Annotated[str, arg(metavar="DEVICE", help="auto, cpu, cuda, cuda:1 or mps")]
Threads = Annotated[int | None, arg(help="CPU threads of each process (default: torch's own choice)")]
WorkerCount = Annotated[
    str | None,
    arg(
        metavar="WORKERS",
        help="processes that share the work: a number, auto (one per device), ray or ray://HOST:PORT (default: this process)",
    ),
]
TimesOneStep = Annotated[
    bool, arg(help="time one step, then say how many pictures are decoded and how long that takes")
]
Debug = Annotated[bool, arg(help="show the traceback of an error")]


@dataclass(frozen=True, kw_only=True)
class InverterOptions:
    """Which inverter draws the pictures, and how."""

    inverter: InverterName = None
    prior: MovedPrior = None
    device: Device = "auto"
    threads: Threads = None
    workers: WorkerCount = None
    context: KeepPhotos = True

    def __post_init__(self) -> None:
        check_bounds(self)

    def for_python(self) -> dict[str, Any]:
        """Returns what the verbs' functions take of them by name, once the threads are set."""
        use_threads(self.threads)
        return {
            "inverter": self.inverter, "prior": self.prior, "device": self.device, "context": self.context,
            "workers": asked_workers(self.workers, self.threads),
        }  # fmt: skip


def asked_workers(workers: str | None, threads: int | None) -> Workers | None:
    """Returns which workers `--workers` and `--threads` ask for, None for this process alone."""
    from entoptic.workers.count import Workers

    return Workers.parse(workers, threads=threads)


def use_threads(threads: int | None) -> None:
    """Sets torch's threads on the CPU; None leaves its own choice."""
    check_threads(threads)
    if threads is None:
        return
    import torch

    torch.set_num_threads(threads)


def parse_shard(text: str) -> tuple[int, int]:
    """Returns what `--shard` says: `0/4` is the first of four parts, (0, 4).

    Raises:
        UserError: it is written otherwise.
    """
    which, slash, of = text.partition("/")
    part, parts = whole_number(which), whole_number(of)
    if not slash or part is None or not parts:
        raise UserError(f'--shard is I/M such as 0/4, got "{text[:80]}"')
    check_shard(part, parts)
    return part, parts

"""How a tool makes pictures for the benchmark: one adapter file a tool, run in a process and an environment of its own.

    python benchmarks/tools/lucent_adapter.py TASKS.json

TASKS.json is a list of tasks. Each gives a PNG at the network's input size and a JSON record beside it; what has a record is
not made again. The network counts its own evaluations by hooks. An adapter imports its tool inside `make`, so that
the benchmark can read what an adapter says without having the tool.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to call a tool.

    Attributes:
        name: of the setting; begins the names of its files.
        says: what a reader needs to know of it.
        equal: whether it is compared at an equal number of network evaluations, else as the tool comes.
        slow: whether it takes many minutes a picture on a CPU, so that the benchmark makes fewer of them.
    """

    name: str
    says: str
    equal: bool = False
    slow: bool = False


@dataclass(frozen=True, kw_only=True)
class Task:
    """One picture to make.

    Attributes:
        network: as `entoptic.load` names it.
        index: of the class.
        setting: name of one of the tool's settings.
        evaluations: of the network, for settings that take a budget.
        seed: of the picture.
        folder: where the PNG and its record go.
    """

    network: str
    index: int
    setting: str
    evaluations: int
    seed: int
    folder: str

    @property
    def stem(self) -> str:
        """Name of its files without their endings."""
        return f"{self.setting}-{self.index}-seed{self.seed}"

    @property
    def record(self) -> Path:
        """Its JSON record; it is there when the picture is finished."""
        return Path(self.folder) / f"{self.stem}.json"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The network as the tools get it.

    Attributes:
        net: takes normalised pictures B×3×H×W, gives logits. Its parameters take no gradients, and it is in evaluation mode.
        mean: of its preprocessing, for each colour.
        std: of its preprocessing.
        size: height and width of its input.
        last: its last layer, whose output is the logits.
        model: Entoptic's own form of it, which the other tools do not use.
    """

    net: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int]
    last: nn.Module
    model: Any


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a tool gives.

    Attributes:
        picture: 3×H×W in [0, 1], of any size.
        settings: the arguments that the tool was called with.
        parts: further pictures 3×h×w by name, such as a crop that the network saw.
    """

    picture: Tensor
    settings: dict[str, Any]
    parts: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A tool and how to call it.

    Attributes:
        name: in the tables.
        package: distribution whose version is recorded; "" for a tool that is not installed (tests).
        settings: ways to call it.
        make: makes one picture.
        bare: requirements that are installed without what they depend on (torch is shared with this environment).
        also: requirements that are installed with what they depend on.
        note: what a user of the tool would object to, or why it cannot run.
    """

    name: str
    package: str
    settings: tuple[Setting, ...]
    make: Callable[[Subject, Task], Made]
    bare: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    note: str = ""


@dataclass
class Count:
    """Pictures that went through the network, forward with gradient and backward."""

    forward: int = 0
    backward: int = 0


@contextmanager
def counted(net: nn.Module) -> Iterator[Count]:
    """Counts pictures at the network's first layer with weights: forward where gradients are recorded, and backward."""
    count = Count()
    first = next(m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))

    def on_forward(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        if torch.is_grad_enabled() and output.requires_grad:
            count.forward += len(output)

            def on_backward(gradient: Tensor) -> None:
                count.backward += len(gradient)

            output.register_hook(on_backward)

    handle = first.register_forward_hook(on_forward)
    try:
        yield count
    finally:
        handle.remove()


def subject(network: str) -> Subject:
    """Loads a network as a plain torch module with the numbers of its preprocessing."""
    import entoptic

    model = entoptic.load(network, device="cpu")
    net = model.module.eval().requires_grad_(False)
    last = [m for m in net.modules() if isinstance(m, nn.Linear)][-1]
    card = model.card
    return Subject(net=net, mean=card.mean, std=card.std, size=card.size, last=last, model=model)


def at_size(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """A picture 3×H×W at the network's input size (bicubic, antialiased), in [0, 1]."""
    picture = picture.detach().float().cpu()
    if tuple(picture.shape[1:]) != tuple(size):
        picture = nn.functional.interpolate(picture[None], size, mode="bicubic", antialias=True)[0]
    return picture.clamp(0, 1)


def save(picture: Tensor, path: Path) -> None:
    """Writes a picture 3×H×W in [0, 1] as an 8-bit PNG."""
    pixels = (picture * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    _replace(path, lambda part: Image.fromarray(pixels).save(part, "PNG"))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    part = path.with_name(path.name + ".part")
    write(part)
    os.replace(part, path)


def work(tool: Tool, tasks: list[Task]) -> int:
    """Makes the pictures of all tasks that have no record yet; one that fails does not stop the others.

    Returns:
        How many failed. Their errors are on stderr.
    """
    torch.set_num_threads(1)
    loaded: dict[str, Subject] = {}
    failed = 0
    for task in (task for task in tasks if not task.record.is_file()):
        try:
            if task.network not in loaded:
                loaded[task.network] = subject(task.network)
            _finish(tool, task, loaded[task.network])
        except Exception:
            traceback.print_exc()
            failed += 1
    return failed


def _finish(tool: Tool, task: Task, given: Subject) -> None:
    """Makes one picture and writes it with its record."""
    Path(task.folder).mkdir(parents=True, exist_ok=True)
    random.seed(task.seed)
    np.random.seed(task.seed)  # noqa: NPY002 (the tools draw from it)
    torch.manual_seed(task.seed)
    began, processor = time.monotonic(), time.process_time()
    with counted(given.net) as count:
        made = tool.make(given, task)
    seconds, processor_seconds = time.monotonic() - began, time.process_time() - processor
    for name, part in {"": made.picture, **made.parts}.items():
        save(at_size(part, given.size), Path(task.folder) / f"{task.stem}{name and '-' + name}.png")
    record = {
        "tool": tool.name,
        "version": importlib.metadata.version(tool.package) if tool.package else "",
        "task": {k: v for k, v in asdict(task).items() if k != "folder"},
        "settings": made.settings,
        "parts": sorted(made.parts),
        "native size": list(made.picture.shape[1:]),
        "evaluations": {"forward": count.forward, "backward": count.backward},
        "seconds": seconds,
        "processor seconds": processor_seconds,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    text = json.dumps(record, indent=1) + "\n"
    _replace(task.record, lambda part: part.write_text(text))
    print(f"{tool.name} {task.stem}: {count.forward} evaluations, {seconds:.0f} s", flush=True)


def main(tool: Tool) -> None:
    """What an adapter does when it is run."""
    tasks = [Task(**one) for one in json.loads(Path(sys.argv[1]).read_text())]
    sys.exit(min(work(tool, tasks), 1))

"""Entoptic itself, by the same protocol: `vital` as it comes, MACO and Fourier at the same number of evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from protocol import Made, Setting, Subject, Task, Tool, main


def make(subject: Subject, task: Task) -> Made:
    import entoptic

    options: dict[str, Any] = {} if task.setting == "vital" else {"steps": task.evaluations}
    options |= {"crops": 1} if task.setting == "maco" else {}
    run = entoptic.see(
        subject.model, f"logits:{task.index}", method=task.setting, seed=task.seed, out=Path(task.folder) / "run",
        verifiers="", context=False, progress=False, **options,
    )  # fmt: skip
    (picture,) = [
        one
        for one in run
        if (one.record["method"], one.record["seed"], one.unit) == (task.setting, task.seed, f"logits:{task.index}")
    ]
    return Made(picture=picture.tensor, settings=dict(picture.record["config"]))


TOOL = Tool(
    name="Entoptic",
    package="entoptic",
    settings=(
        Setting(name="vital", says="the default", equal=True),
        Setting(name="maco", says="one crop a step", equal=True),
        Setting(name="fourier", says="Lucid's transforms", equal=True),
    ),
    make=make,
    note="",
)

if __name__ == "__main__":
    main(TOOL)

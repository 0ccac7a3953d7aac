"""Captum, whose feature visualisation (captum.optim) was never released."""

from __future__ import annotations

from protocol import Made, Setting, Subject, Task, Tool, main


def make(subject: Subject, task: Task) -> Made:
    from captum import optim

    raise NotImplementedError(f"{optim.__name__} is there now: write its adapter")


TOOL = Tool(
    name="captum.optim",
    package="captum",
    settings=(Setting(name="default", says=""),),
    make=make,
    bare=("captum==0.9.0",),
    also=("matplotlib", "tqdm", "packaging"),
    note="A port of Lucid on a branch of Captum that was left in 2022; the release does not hold it.",
)

if __name__ == "__main__":
    main(TOOL)

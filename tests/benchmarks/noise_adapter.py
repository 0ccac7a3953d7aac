"""A tool for tests: noise, pushed a few steps along the gradient of the class logit."""

from __future__ import annotations

import torch
from protocol import Made, Setting, Subject, Task, Tool, main


def make(subject: Subject, task: Task) -> Made:
    if task.index == 3:
        raise ValueError("this tool knows no class 3")
    x = torch.rand(1, 3, 48, 48)
    for _ in range(task.evaluations):
        x.requires_grad_(True)
        subject.net((x - 0.5) / 0.25)[:, task.index].sum().backward()
        x = (x.detach() + 0.1 * x.grad.sign()).clamp(0, 1)  # type: ignore[union-attr]
    with torch.no_grad():
        subject.net(x)  # looking is not counted
    return Made(
        picture=x[0].detach(), settings={"steps": task.evaluations}, parts={"centre": x[0, :, 12:36, 12:36].detach()}
    )


TOOL = Tool(name="Noise", package="", settings=(Setting(name="equal", says="a few steps", equal=True),), make=make)

if __name__ == "__main__":
    main(TOOL)

"""torch-dreams."""

from __future__ import annotations

from protocol import Made, Setting, Subject, Task, Tool, main

ITERATIONS = 120


def make(subject: Subject, task: Task) -> Made:
    from torch_dreams import Dreamer
    from torchvision.transforms import Normalize

    side, steps = (256, ITERATIONS) if task.setting == "default" else (subject.size[0], task.evaluations)
    dreamer = Dreamer(subject.net, quiet=True, device="cpu")
    dreamer.set_custom_normalization(Normalize(subject.mean, subject.std))
    image = dreamer.render(
        layers=[subject.last], custom_func=lambda outputs: -outputs[0][:, task.index].mean(), width=side, height=side,
        iters=steps,
    )  # fmt: skip
    return Made(
        picture=image.to_chw_tensor(device="cpu"),
        settings={"width": side, "height": side, "iters": steps, "custom_func": "minus the class logit",
                  "set_custom_normalization": "the network's"},
    )  # fmt: skip


TOOL = Tool(
    name="torch-dreams",
    package="torch-dreams",
    settings=(
        Setting(name="default", says="256 pixels, 120 iterations"),
        Setting(name="equal", says="224 pixels", equal=True),
    ),
    make=make,
    bare=("torch-dreams==4.0.0",),
    also=("opencv-python-headless", "tqdm"),
    note="120 iterations are what `render` has when nothing is given; its author's notebooks take more for large pictures.",
)

if __name__ == "__main__":
    main(TOOL)

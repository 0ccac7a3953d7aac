"""torch-lucent, Lucid for PyTorch."""

from __future__ import annotations

import copy

import torch
from protocol import Made, Setting, Subject, Task, Tool, main

STEPS = 512


def make(subject: Subject, task: Task) -> Made:
    from lucent.optvis import param, render, transform
    from torchvision.transforms import Normalize

    side, steps = (128, STEPS) if task.setting == "default" else (subject.size[0], task.evaluations)
    # Lucent normalises for torchvision's networks; for others it has `preprocess=False` and a transform of one's own.
    transforms = [*transform.standard_transforms, Normalize(subject.mean, subject.std)]
    if side < 224:
        # What render_vis does itself with small pictures, after the normalisation as there.
        transforms.append(torch.nn.Upsample(size=224, mode="bilinear", align_corners=True))
    # Lucent leaves its hooks in the network; on a copy they slow no later picture. The benchmark's own hooks are copied too.
    net = copy.deepcopy(subject.net)
    shown = render.render_vis(
        net, f"labels:{task.index}", lambda: param.image(side), transforms=transforms, preprocess=False,
        thresholds=(steps,), fixed_image_size=None, show_image=False, progress=False,
    )  # fmt: skip
    return Made(
        picture=torch.from_numpy(shown[-1][0]).permute(2, 0, 1),
        settings={
            "param_f": f"param.image({side})",
            "thresholds": steps,
            "transforms": "standard, the network's normalisation",
        },
    )


TOOL = Tool(
    name="torch-lucent",
    package="torch-lucent",
    settings=(
        Setting(name="default", says="128 pixels, 512 steps"),
        Setting(name="equal", says="224 pixels", equal=True),
    ),
    make=make,
    bare=("torch-lucent==0.1.8", "kornia==0.4.1", "decorator"),
    also=("ipython", "tqdm"),
    note="Lucid's recipe was tuned on channels of InceptionV1, not on class logits.",
)

if __name__ == "__main__":
    main(TOOL)

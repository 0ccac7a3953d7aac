"""Xplique, whose feature visualisation is written for TensorFlow."""

from __future__ import annotations

from protocol import Made, Setting, Subject, Task, Tool, main


def make(subject: Subject, task: Task) -> Made:
    from xplique.features_visualizations import Objective, maco

    # Reached only where TensorFlow is installed; the objective then asks for a Keras model and refuses a torch module.
    picture, _transparency = maco(Objective.layer(subject.net, -1, task.index))
    raise TypeError(f"expected a refusal of {type(subject.net).__name__}, got {type(picture).__name__}")


TOOL = Tool(
    name="Xplique",
    package="xplique",
    settings=(Setting(name="default", says=""),),
    make=make,
    bare=("xplique==2.0.2",),
    note="Its feature visualisation is TensorFlow's (2.18 to 2.20, not installed here) and takes Keras models alone, so this torch "
    "network cannot be given to it. Its authors' MACO for torch is Horama.",
)

if __name__ == "__main__":
    main(TOOL)

"""`tuning`: what `standard` measures, on other classes and channels: here a method's recipe may be chosen, there it is reported."""

from __future__ import annotations

from dataclasses import replace

from entoptic.bench.standard import EQUAL, of_channels, of_classes
from entoptic.bench.standard import RECIPE as STANDARD

CLASSES = (
    295, 462, 755, 784, 857, 291, 467, 242, 79, 351, 576, 736, 11, 873, 611, 416, 262, 539, 913, 530, 963, 257, 344, 627,
    919, 434, 687, 450, 203, 165, 596, 746, 70, 477, 860, 830, 594, 890, 449, 775,
)  # fmt: skip
"""Drawn at random from those on which vital's recipe was chosen (the half `tune` of benchmarks/any_class.py)."""

RECIPE = replace(
    STANDARD,
    name="tuning",
    title="as standard, on the half on which methods may be chosen",
    note=(
        "Choose a method's recipe here, with the judges that may take part in the choice, and report it by the standard benchmark: "
        "its classes, channels and untouched judges are others. Numbers of this table are too good for what was chosen by them."
    ),
    subjects=(
        of_classes(CLASSES, EQUAL),
        of_channels([*(f"blocks.6:{15 + 20 * k}" for k in range(15)), *(f"blocks.5:{11 + 12 * k}" for k in range(15))]),
    ),
    untouched=(),
    planted=None,
)

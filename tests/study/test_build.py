"""From runs to a study."""

from __future__ import annotations

from entoptic.study.answers import read_plan, read_study
from study.conftest import Make


def test_smoke(make: Make) -> None:
    built = make()
    print(built.size)
    study = read_study(built.path)
    plan = read_plan(built.path)
    print(study, built.pictures)
    for a in plan.assignments:
        print([(t.task[:4], t.kind[:2], t.arm, t.unit, t.right) for t in a.trials])

"""Checks that a plan's pictures are there, and that their names lead nowhere else."""

from __future__ import annotations

from pathlib import Path

from entoptic.base.files import is_inside
from entoptic.errors import NotAvailable, Unreadable
from entoptic.study.records import Plan
from entoptic.study.stimuli import FOLDER, is_name


def check_pictures(folder: Path, plan: Plan) -> None:
    """Checks every picture of a plan.

    Raises:
        UserError: one has a name that no picture has, or is not there.
    """
    for one in plan.stimuli:
        if not is_name(one.name):
            raise Unreadable(f'{folder} is damaged: "{one.name[:80]}" is no name of a picture')
        file = folder / FOLDER / f"{one.name}.png"
        if not file.is_file() or not is_inside(file, folder):
            raise NotAvailable(f"{folder} lacks the picture {one.name}.png; copy the whole study, or build it again")
    known = {one.name for one in plan.stimuli}
    for assignment in plan.assignments:
        for trial in assignment.trials:
            for shown in trial.pictures:
                if shown.stimulus not in known:
                    raise Unreadable(f"{folder} is damaged: a trial shows a picture that is not in its list")

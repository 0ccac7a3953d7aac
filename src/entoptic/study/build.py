"""From runs to a study: pictures with neutral names, everybody's trials, and the pre-registration, which is written last."""

from __future__ import annotations

import hashlib
import os
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from entoptic.base.files import json_bytes, user_path, write_atomically
from entoptic.base.progress import Progress, silent
from entoptic.base.unread import names_unread
from entoptic.errors import NotAvailable, UserError, counted
from entoptic.runs.records import version
from entoptic.study.answers import PLAN_FILE, STUDY_FILE
from entoptic.study.assign import Group, deal, make_groups
from entoptic.study.design import (
    VITAL_ITEMS,
    Design,
    choose_tasks,
    exclusion_rules,
    expected_minutes,
    task_records,
)
from entoptic.study.fresh_folder import fresh_folder
from entoptic.study.json_form import to_json
from entoptic.study.layout import lay_out
from entoptic.study.material import Material, read_material
from entoptic.study.photo_source import RankedPhotos, rank_photos
from entoptic.study.questions import Questions, arms_of
from entoptic.study.records import INTERVALS, WITH_RIGHT_ANSWER, Arm, Consent, Plan, Study, Task, TaskKind, UnitFrame
from entoptic.study.registration import read_consent, register
from entoptic.study.stimuli import FOLDER, Stimuli
from entoptic.study.wording_files import FOLDER as WORDING
from entoptic.study.wording_files import hashes_of, wording_bytes

PRACTICE_SHARE, MOST_PRACTICE = 6, 5
_SHOW_PHOTOS: frozenset[TaskKind] = frozenset({"2afc", "inner-match", "intruder"})


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a study is.

    Attributes:
        tasks: how each kind of question is asked.
        arms: conditions of each task.
        groups: of units, as they are dealt.
        kept: units for practice and catch trials, by task.
        participants: places.
        minutes: expected length of a session.
        answers: fewest and most answers a unit and condition.
        left_out: units that are not asked about, each with the reason.
    """

    tasks: tuple[Task, ...]
    arms: Mapping[TaskKind, tuple[Arm, ...]]
    groups: tuple[Group, ...]
    kept: Mapping[TaskKind, tuple[str, ...]]
    participants: int
    minutes: float
    answers: tuple[int, int]
    left_out: tuple[str, ...]

    @property
    def units(self) -> tuple[str, ...]:
        """Units of main trials."""
        return tuple(dict.fromkeys(unit for group in self.groups for unit in group.units))

    def __str__(self) -> str:
        lines = [
            f"{one.kind}: {counted(one.trials, 'trial')} a person and {counted(one.catch, 'catch trial')}, "
            f"conditions {', '.join(arm.name for arm in self.arms[one.kind])}"
            for one in self.tasks
        ]
        low, high = self.answers
        answers = f"{low}" if low == high else f"{low} to {high}"
        lines.append(
            f"{counted(self.participants, 'participant')}, about {self.minutes:g} minutes each; "
            f"{counted(len(self.units), 'unit')}, {answers} answers a unit and condition"
        )
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Built:
    """A study that was built.

    Attributes:
        path: its folder, or None where nothing was written.
        size: how large it is.
        pictures: files in it.
        notes: what its people should still think of.
    """

    path: Path | None
    size: Size
    pictures: int
    notes: tuple[str, ...] = ()


@names_unread
def build(
    runs: Sequence[str | Path],
    out: str | Path,
    design: Design | None = None,
    *,
    name: str = "",
    preset: str = "default",
    tasks: Sequence[str] = (),
    photos: Any = None,
    with_photos: bool = False,
    proposed: str = "",
    hypotheses: Sequence[str] = (),
    consent: str | Path | None = None,
    languages: Sequence[str] = (),
    wording: str | Path | None = None,
    model: Any = None,
    device: str = "auto",
    dry_run: bool = False,
    progress: Progress = silent,
) -> Built:
    """Builds a study from runs.

    Args:
        runs: folders.
        out: of the study; a folder that is not there, or is empty.
        design: how it asks.
        name: of the study; "" is the folder's.
        preset: "default" (2afc, intruder, preference) or "vital" (describe, inner-match, class-match).
        tasks: instead of the preset's.
        photos: real photos to rank for each unit, for 2afc and references.
        with_photos: whether real photos may be part of the study.
        proposed: method of the primary comparison; "" is the first.
        hypotheses: in words.
        consent: JSON file of what the consent page says.
        languages: of the texts; none takes all that there are.
        wording: folder of further languages.
        model: the runs' network, where it has no loadable name.
        device: "auto", "cpu", "cuda:1", ….
        dry_run: only say how large it would be.
        progress: called with (what, done, total).

    Raises:
        UserError: the runs lack pictures that a task needs, there are too few units for the balance, or `out` cannot be
            written. Nothing is left behind then.
    """
    design = design or Design()
    kinds = choose_tasks(preset, tasks)
    folder = user_path(out)
    material = read_material(runs)
    alone = len(material.methods) == 1 and preset == "default" and not tasks
    if alone:
        kinds = tuple(kind for kind in kinds if kind != "preference")
    said = read_consent(consent)
    texts = wording_bytes(languages, wording)
    _check_photos(kinds, photos=photos is not None, with_photos=with_photos)
    arms = {
        kind: arms_of(kind, material.methods, photos=with_photos and _natural(material, photos, design))
        for kind in kinds
    }
    _check_samples(kinds, material, design)
    ranked = None
    if photos is not None and with_photos and not dry_run and _SHOW_PHOTOS & set(kinds):
        ranked = rank_photos(photos, material.units, design, model=model, device=device, progress=progress)
    size = _size(kinds, arms, material, ranked, photos is not None, design, preset)
    registration = register(
        kinds, arms, material.methods, proposed=proposed, hypotheses=hypotheses, participants=design.participants,
        level=design.level, interval=next(one for one in INTERVALS if one == design.interval),
    )  # fmt: skip
    notes = _notes(kinds, said)
    if alone:
        notes = (f"the runs hold one method ({material.methods[0]}), so preference is not asked", *notes)
    if dry_run:
        return Built(path=None, size=size, pictures=0, notes=notes)
    study = Study(
        name=name or folder.name, created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        software=f"entoptic {version('entoptic')}", preset="" if tasks else preset, seed=design.seed,
        participants=design.participants, tasks=size.tasks, arms=tuple(arm for kind in kinds for arm in arms[kind]),
        units=UnitFrame(
            units=size.units, practice=tuple(dict.fromkeys(unit for kept in size.kept.values() for unit in kept)),
            source="all units that every method shows in the runs, shuffled by the seed", left_out=size.left_out,
        ),
        methods=material.methods, minutes=size.minutes, trials_before_break=design.break_every,
        registration=registration, exclusions=exclusion_rules(preset, kinds), consent=said, wording=hashes_of(texts),
        with_photos=with_photos, plan_sha256="", runs=material.runs,
    )  # fmt: skip
    fixed = preset == "vital" or bool(tasks)
    return replace(_write(folder, study, size, material, ranked, design, texts, progress, fixed=fixed), notes=notes)


def _notes(kinds: Sequence[TaskKind], consent: Consent) -> tuple[str, ...]:
    """What a careful reader would miss."""
    notes = []
    blank = [one.name for one in fields(consent) if not getattr(consent, one.name)]
    if blank:
        notes.append(f"the consent page says “not stated” for {', '.join(blank)}; give --consent FILE")
    if not WITH_RIGHT_ANSWER & set(kinds):
        notes.append(
            "no task has a right answer: ratings measure liking, and only 2afc or intruder measure understanding"
        )
    return tuple(notes)


def _natural(material: Material, photos: Any, design: Design) -> bool:
    """Whether enough photos of the units can be shown for a natural arm of intruder."""
    return photos is not None or all(len(unit.photos) >= design.options - 1 for unit in material.units)


def _check_photos(kinds: Sequence[TaskKind], *, photos: bool, with_photos: bool) -> None:
    need = [kind for kind in kinds if kind in ("2afc", "inner-match")]
    if need and not with_photos:
        raise UserError(
            f"{' and '.join(need)} {'shows' if len(need) == 1 else 'show'} real photos, which are part of a study only with "
            "--with-photos, since it may be published; or choose other --tasks"
        )
    if "2afc" in kinds and not photos:
        raise NotAvailable(
            "2afc shows photos from both ends of a unit's scores, which are not in a run; give --photos FOLDER"
        )


def _check_samples(kinds: Sequence[TaskKind], material: Material, design: Design) -> None:
    """Refuses tasks that show more pictures of a unit than the runs hold."""
    have = f"the runs hold {counted(material.samples, 'picture')} of some unit and method"
    if "2afc" in kinds and material.samples < design.references:
        raise UserError(
            f"2afc shows {design.references} pictures of each method as references, and {have}; draw more with "
            f"`entoptic see … --n {design.references}`, or give --references {material.samples}"
        )
    if "intruder" in kinds and material.samples < design.options - 1:
        raise UserError(
            f"intruder shows {design.options - 1} pictures of one unit and method, and {have}; draw more with "
            f"`entoptic see … --n {design.options - 1}`, or choose --tasks without intruder"
        )


def _size(
    kinds: Sequence[TaskKind],
    arms: Mapping[TaskKind, tuple[Arm, ...]],
    material: Material,
    ranked: RankedPhotos | None,
    photos: bool,
    design: Design,
    preset: str,
) -> Size:
    left_out = list(material.left_out)
    usable = [unit for unit in material.units if ranked is None or unit.name not in ranked.reasons]
    if ranked is not None:
        left_out += [f"{name}: {reason}" for name, reason in ranked.reasons.items()]
        if not usable:
            raise UserError(f"no unit can be asked about; {left_out[-1]}")
    labelled = [unit.name for unit in usable if unit.label]
    with_references = [unit.name for unit in usable if photos or unit.photos]
    inner = [name for name in with_references if name not in labelled]
    eligible: dict[TaskKind, list[str]] = {}
    for kind in kinds:
        if kind in ("class-match", "describe"):
            eligible[kind] = labelled
            missing = f"{kind} needs units with a name, such as logits, and the runs show none"
        elif kind == "inner-match":
            eligible[kind] = inner or with_references
            missing = "inner-match needs photos of the units; give --photos, or runs with photos beside their pictures"
        else:
            eligible[kind] = [unit.name for unit in usable]
            missing = f"{kind} needs units"
        if not eligible[kind]:
            raise UserError(missing)
    kept = _kept(eligible, design)
    reserved = {unit for units in kept.values() for unit in units}
    asked = {kind: [unit for unit in units if unit not in reserved] for kind, units in eligible.items()}
    number = sum(len(arms[kind]) for kind in kinds)
    wanted = design.trials or (VITAL_ITEMS * number if preset == "vital" else 40)
    groups = make_groups(asked, arms, wanted, design.seed)
    dealt = deal(groups, design.participants)
    trials = {kind: _mean(sum(one.arm.task == kind for one in slot) for slot in dealt) for kind in kinds}
    met: dict[tuple[str, str, str], int] = {}
    for slot in dealt:
        for one in slot:
            met[one.unit, one.arm.task, one.arm.name] = met.get((one.unit, one.arm.task, one.arm.name), 0) + 1
    cells = [met.get((unit, arm.task, arm.name), 0) for group in groups for unit in group.units for arm in group.arms]
    tasks = task_records(kinds, design, trials)
    return Size(
        tasks=tasks, arms=arms, groups=groups, kept=kept, participants=design.participants,
        minutes=expected_minutes(tasks), answers=(min(cells), max(cells)), left_out=tuple(left_out),
    )  # fmt: skip


def _mean(counts: Any) -> int:
    return max(1, round(statistics.fmean(counts)))


def _kept(eligible: Mapping[TaskKind, Sequence[str]], design: Design) -> dict[TaskKind, tuple[str, ...]]:
    """Units for practice and catch trials: of each task's own, as few as possible for all tasks together."""
    kept: dict[TaskKind, tuple[str, ...]] = {}
    for kind, units in eligible.items():
        if len(units) < 2:
            raise UserError(
                f"{kind} can ask about {counted(len(units), 'unit')}; one unit is kept for practice, so it needs more units"
            )
        want = design.practice_units or max(1, min(MOST_PRACTICE, len(units) // PRACTICE_SHARE))
        if want >= len(units):
            raise UserError(f"--practice-units {want} leaves none of the {len(units)} units of {kind} for main trials")
        shared = [unit for before in kept.values() for unit in before if unit in units]
        order = sorted(units)
        random.Random(f"{design.seed}|practice").shuffle(order)
        kept[kind] = tuple(dict.fromkeys((*shared, *order)))[: max(want, 1)]
    return kept


def _write(
    folder: Path,
    study: Study,
    size: Size,
    material: Material,
    ranked: RankedPhotos | None,
    design: Design,
    texts: Mapping[str, bytes],
    progress: Progress,
    *,
    fixed: bool,
) -> Built:
    with fresh_folder(folder, (FOLDER, WORDING, PLAN_FILE, STUDY_FILE), "nothing was built"):
        side = next(iter(material.units[0].pictures.values()))[0].pixels.shape[0]
        stimuli = Stimuli(folder, side)
        questions = Questions(material=material, design=design, stimuli=stimuli, photos=ranked)
        assignments = []
        for slot, dealt in enumerate(deal(size.groups, design.participants)):
            progress("laying out places", slot, design.participants)
            assignments.append(
                lay_out(
                    slot,
                    dealt,
                    size.tasks,
                    size.arms,
                    size.kept,
                    questions,
                    rounds=study.exclusions.max_practice_rounds or 1,
                    fixed_order=fixed,
                )
            )
        plan = Plan(stimuli=tuple(stimuli.all.values()), assignments=tuple(assignments))
        for language, content in texts.items():
            write_atomically(folder / WORDING / f"{language}.json", content)
        content = json_bytes(to_json(plan))
        write_atomically(folder / PLAN_FILE, content)
        if hasattr(os, "sync"):  # pictures were written without waiting for the disk
            os.sync()
        registered = replace(study, plan_sha256=_sha256(content))
        write_atomically(folder / STUDY_FILE, json_bytes(to_json(registered)))
    return Built(path=folder, size=size, pictures=len(stimuli.all))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

"""Whether a benchmark's runs hold what they say, and its table what they give."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from entoptic.base.files import file_exists, is_inside, user_path
from entoptic.base.gradients import with_gradients
from entoptic.base.pixels import quantise
from entoptic.base.progress import Reporter, reporter
from entoptic.base.records import read_json
from entoptic.base.unread import names_unread
from entoptic.bench.about import measured_with, shown
from entoptic.bench.make import Setting, named, plan_of, settings, short_name
from entoptic.bench.page import page
from entoptic.bench.recipe import Recipe, recipe_json
from entoptic.bench.recipes import RECIPES
from entoptic.bench.results import Results
from entoptic.bench.run import checked, judges_of, results_of
from entoptic.bench.table_files import MARK, Found, check_files, compare_files, encoded, laid_out
from entoptic.bench.table_numbers import compare_tables
from entoptic.bench.truth import folder_of
from entoptic.errors import Unreadable, UserError, counted
from entoptic.images.photos import Photos
from entoptic.metrics.sets.zero_shot import PicturesAndTexts, find_clip
from entoptic.planted.networks import NETWORKS, planted_network
from entoptic.planted.scenes import make_scenes
from entoptic.runs.store import Run
from entoptic.runs.unit_items import EVIDENCE
from entoptic.runs.verify import Verification, verify

_WORDS = ("title", "note")
"""What a recipe says of itself, from which no number follows."""
_DAMAGE = (UserError, Unreadable, LookupError, TypeError, AttributeError, ValueError)
"""What values that are no numbers, names or tables lead to."""


def is_benchmark(folder: str | Path) -> bool:
    """Returns whether a folder is one of a benchmark."""
    return file_exists(user_path(folder) / MARK)


@names_unread
@with_gradients
def verify_benchmark(
    folder: str | Path,
    *,
    recipe: Recipe | None = None,
    photos: Any = None,
    verifiers: str | Sequence[str] = "",
    clip: str | PicturesAndTexts | None = None,
    device: str = "auto",
    progress: bool = True,
) -> Verification:
    """Verifies every run of a benchmark, computes its table again from their pictures, and says what differs.

    Nothing is written into the folder. A judge that is not here is left out with its numbers.

    Args:
        folder: of the benchmark.
        recipe: of the benchmark, where it is none of Entoptic's own.
        photos: the photos that it was made with.
        verifiers: the networks that judged beside those of the recipe.
        clip: the CLIP that judged, if one did.
        device: "auto", "cpu", "cuda:1", ….
        progress: show how far the work is.

    Returns:
        What differs, and what could not be recomputed.

    Raises:
        UserError: no such benchmark, or photos that its recipe needs were not given.
    """
    place = user_path(folder)
    if not is_benchmark(place):
        raise UserError(f"{place} is no folder of a benchmark (it has no {MARK})")
    found, files = Verification(), check_files(place)
    stored = _stored(place, files, found)
    chosen = None if stored is None else _recipe_of(stored, recipe, photos, files, found)
    opened = None if photos is None else Photos.open(photos)
    loaded = find_clip(clip, device=device) if isinstance(clip, str) else clip
    judges = judges_of(verifiers)
    known = [] if chosen is None else settings(chosen, place, judges=judges, photos=opened, device=device, clip=loaded)
    with reporter(progress) as report:
        for run, options in _runs(place, chosen, known, found):
            try:
                one = verify(run, device=device, on_picture=_telling(report, run.name), **options)
            except UserError as error:  # its network cannot be loaded
                found.leaves_out(f"{run.relative_to(place).as_posix()}: {error}")
            else:
                _add(found, run, place, one)
        if stored is not None:
            _verify_table(place, stored, chosen, known, files, found, report)
    found.differs(*files.wrong)
    found.notes += files.notes
    return found


def _verify_table(
    place: Path,
    stored: Results,
    chosen: Recipe | None,
    known: list[Setting],
    files: Found,
    found: Verification,
    report: Reporter,
) -> None:
    """Computes the table again, where its recipe, its pictures and its judges are here, and compares it."""
    try:
        compare_files(laid_out(stored), files)
        numbers = sum(cell.found is not None for cell in stored.cells)
        if chosen is None:
            found.leaves_out(f"the table ({counted(numbers, 'number')}): its recipe is not known")
            return
        kept, without = _judges(stored, known, place, found)
        if missing := _lacking(stored, kept, place, found):
            found.leaves_out(f"the table ({counted(numbers, 'number')}): {missing}")
            return
        if not _is_whole(place, chosen, kept, found, report):
            found.leaves_out(f"the table ({counted(numbers, 'number')}): not all pictures of the recipe are there")
            return
        with tempfile.TemporaryDirectory() as copy:
            again = [replace(one, folder=Path(copy) / one.folder.relative_to(place)) for one in kept]
            _copy_runs(place, chosen, again, Path(copy))
            before = _pictures(Path(copy))
            fresh = results_of(chosen, again, Path(copy), [], report)
            found.drift += [f"{name} is not there" for name in sorted(_pictures(Path(copy)) - before)]
        compare_tables(stored, fresh, found, without)
        compare_files({"index.html": encoded(page(replace(stored, shown=fresh.shown)))}, files)
    except UserError as error:  # no room for a copy of the runs, for instance
        found.leaves_out(f"the table: {error}")
    except _DAMAGE as error:
        found.drift.append(f"table.json is damaged ({type(error).__name__}: {error})")


def _stored(place: Path, files: Found, found: Verification) -> Results | None:
    """The table, or None where there is none that can be read."""
    if not (place / "table.json").is_file():
        if "table.json" not in {one.file for one in files.wrong}:
            found.drift.append("table.json is not there: the benchmark was interrupted, or it was taken out")
        return None
    try:
        held = read_json(place / "table.json")
        table = Results.from_json(held)
        if more := sorted(set(held) - set(table.to_json())):
            found.drift.append(f"table.json holds {', '.join(map(str, more))}, which is no part of a table")
        return table
    except _DAMAGE as error:
        found.drift.append(f"table.json is damaged ({error})")
    return None


def _recipe_of(
    stored: Results, given: Recipe | None, photos: object, files: Found, found: Verification
) -> Recipe | None:
    """The recipe that a table was made by, with as many seeds, or None where this version has another one."""
    try:
        name = stored.recipe["name"]
        seeds = max((len(subject["seeds"]) for subject in stored.recipe["subjects"]), default=None)
    except _DAMAGE as error:
        found.drift.append(f"table.json is damaged: its recipe lacks {error}")
        return None
    if files.recipe not in (None, name):
        found.drift.append(f"{MARK} is of the benchmark {files.recipe}, and table.json of {name}")
        return None
    if given is None and name not in RECIPES:
        return None
    whole = checked(given or name, photos)
    try:
        recipe = checked(whole, photos, seeds)
    except UserError as error:
        found.drift.append(f"table.json: its recipe is not {name} of this version ({error})")
        return None
    now = recipe_json(recipe)
    if stored.recipe == now:
        return recipe
    words = f"its recipe is not {name} of this version: it was changed, or is of another version"
    if _numbers_of(stored.recipe) == _numbers_of(now):
        told = f"the words of its recipe are not those of {name} in this version: they were changed, or are of another version"
        (found.drift if files.same_code else found.notes).append(f"table.json: {told}")
        return recipe
    if not _is_of_pictures(stored.recipe, files.folder):
        found.drift.append(f"table.json: {words}")
    return None


def _numbers_of(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in recipe.items() if name not in _WORDS}


def _is_of_pictures(recipe: Mapping[str, Any], place: Path) -> bool:
    """Whether the sidecars say the units, seeds and settings that a stored recipe has: it is then of another version."""
    try:
        for subject in recipe["subjects"]:
            records = [picture.record for picture in Run.open(_folder(place, subject["name"]))]
            if not {one["unit"] for one in records} <= set(subject["units"]):
                return False
            if {one["seed"] for one in records} != set(subject["seeds"]):
                return False
            for entry in subject["methods"]:
                made = [one["config"] for one in records if one["method"] == entry["method"]]
                if not any(
                    all(name in one and one[name] == value for name, value in entry["config"].items()) for one in made
                ):
                    return False
    except _DAMAGE:
        return False
    return True


def _folder(place: Path, subject: str) -> Path:
    return place / "runs" / subject.replace(" ", "-")


def _runs(
    place: Path, recipe: Recipe | None, known: Sequence[Setting], found: Verification
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folders of all runs that are there, and what they are verified with. What is not of the recipe is named."""
    expected: dict[Path, dict[str, Any]] = {}
    for setting in known:
        matched = setting.halves.matched if setting.halves and setting.subject.matches_photos else None
        expected[setting.folder] = {"photos": matched}
    scenes = place / "runs" / "planted" / "scenes"
    if recipe is not None and recipe.planted is not None:
        found.drift += _wrong_scenes(scenes, recipe.planted.scenes)
        for one in recipe.planted.networks:
            for entry in recipe.planted.methods:
                expected[folder_of(place, one.network, entry)] = {}
    marks = [*place.glob("runs/*/run.json"), *place.glob("runs/planted/*/*/run.json")]
    for folder in sorted({mark.parent for mark in marks}):
        if not is_inside(folder / "run.json", place):
            found.notes.append(f"{folder.relative_to(place).as_posix()} leads out of the benchmark, and is left out")
            continue
        if recipe is not None and folder not in expected:
            found.notes.append(f"{folder.relative_to(place).as_posix()} is no run of this benchmark")
        options = expected.get(folder, {})
        network = folder.parent.name if folder.parent.parent.name == "planted" else ""
        if network in NETWORKS:
            options = {"photos": str(scenes), "model": planted_network(network).model}
        yield folder, options


def _wrong_scenes(folder: Path, count: int) -> list[str]:
    """What is wrong with the scenes of the planted part, which follow from their number."""
    wrong = 0
    for i, scene in enumerate(make_scenes(count, seed=0)):
        try:
            with Image.open(folder / f"{i:05d}.png") as image:
                wrong += not np.array_equal(np.asarray(image.convert("RGB")), quantise(scene.image))
        except (OSError, ValueError):
            wrong += 1
    more = len(list(folder.glob("*"))) - count if folder.is_dir() else 0
    told = f"runs/planted/scenes: {wrong} of {count} scenes are not those of the recipe"
    return (
        [told]
        if wrong
        else [f"runs/planted/scenes holds {more} more files than the recipe has scenes"]
        if more > 0
        else []
    )


def _telling(report: Reporter, name: str) -> Any:
    return lambda done, total: report.progress(f"verifying {name}", done, total)


def _add(found: Verification, run: Path, place: Path, one: Verification) -> None:
    """Adds what was found in a run, with its place in the benchmark."""
    name = run.relative_to(place).as_posix()
    found.pictures += one.pictures
    found.numbers += one.numbers
    found.drift += [f"{name}: {line}" for line in one.drift]
    found.skipped += [f"{name}: {line}" for line in one.skipped]
    found.notes += [f"{name}: {line}" for line in one.notes]


def _judges(
    stored: Results, known: Sequence[Setting], place: Path, found: Verification
) -> tuple[list[Setting], frozenset[str]]:
    """The subjects with the judges that the table names, and the short names of those that are not here.

    Every sidecar says which networks judged its picture, so a table that names others was changed.
    """
    told: dict[str, str] = dict(stored.measured_with["networks"])
    subjects = {setting.model.card.name for setting in known}
    recorded: dict[str, str] = {}
    for setting in known:
        for record in _records(setting.folder):
            verifiers = record["measured_with"].get("verifiers", {})
            recorded |= {shown(name): identity for name, identity in verifiers.items()}
    if recorded and set(recorded) != set(told) - subjects:
        ours, theirs = (", ".join(sorted(names)) or "no network" for names in (set(told) - subjects, recorded))
        found.drift.append(f"table.json: it says that {ours} judged, and the pictures say {theirs}")
    here, forged = dict[str, str](), list[str]()
    for setting in known:
        for model in (setting.model, *setting.judges):
            name = shown(model.card.name)
            if told.get(name) == model.card.weights_sha256:
                here[name] = told[name]
            elif name in told and recorded.get(name, model.card.identity) == model.card.identity:
                forged.append(name)
                here[name] = told[name]
            elif name not in told:
                found.notes.append(f"{name} did not judge this benchmark, and is left out")
    for name in dict.fromkeys(forged):
        found.drift.append(f"table.json: the weights of {name} are not those that it says")
    order = list(told)
    kept = []
    for setting in known:
        judges = sorted(
            (one for one in setting.judges if shown(one.card.name) in here),
            key=lambda one: order.index(shown(one.card.name)),
        )
        names = {named(one) for one in judges}
        kept.append(replace(
            setting, judges=judges, untouched=tuple(one for one in setting.untouched if one in names),
            related=tuple(one for one in setting.related if one in names),
        ))  # fmt: skip
    found.notes[:] = dict.fromkeys(found.notes)
    return kept, frozenset(short_name(name) for name in told if name not in here)


def _records(folder: Path) -> Iterator[Mapping[str, Any]]:
    """The records of a run's pictures; what cannot be read was named where the run was verified."""
    try:
        for picture in Run.open(folder):
            if isinstance(picture.record.get("measured_with"), Mapping):
                yield picture.record
    except UserError:
        return


def _lacking(stored: Results, known: Sequence[Setting], place: Path, found: Verification) -> str:
    """What must be given to compute a table again, in words; "" where all is there."""
    before, now = stored.measured_with, measured_with(known)
    versions = {record["measured_with"].get("evidence") for one in known for record in _records(one.folder)}
    if before.get("evidence") != EVIDENCE:
        if versions != {EVIDENCE}:
            return "it is of an earlier version, which measured otherwise"
        found.drift.append("table.json: it says another version of the evidence than its pictures")
    if ("clip" in before) != ("clip" in now):
        return "it was judged by a CLIP too; give it with --clip" if "clip" in before else "it was not judged by a CLIP"
    told, here = before.get("photos"), now["photos"]
    if told == here or (told and here and told == {name: value for name, value in here.items() if name in told}):
        return ""
    if told and here and {**told, "order": ""} == {**here, "order": ""}:
        return "its photos have other names now, and some are drawn in the order of their names"
    for one in known:
        if one.halves is not None and one.subject.matches_photos:
            matched = one.halves.matched.fingerprint()
            if {record["measured_with"].get("photos") for record in _records(one.folder)} == {matched}:
                found.drift.append("table.json: the photos are not those that it says")
                return ""
    return (
        "it was made with other photos; give those with --photos"
        if before.get("photos")
        else "it was made without photos"
    )


def _is_whole(place: Path, recipe: Recipe, known: Sequence[Setting], found: Verification, report: Reporter) -> bool:
    """Whether all pictures of a recipe are there. Those that failed are known to their run; others were taken out."""
    folders = [one.folder for one in known]
    if recipe.planted is not None:
        folders += [folder_of(place, one.network, e) for one in recipe.planted.networks for e in recipe.planted.methods]
    gone = [folder.relative_to(place).as_posix() for folder in folders if not (folder / "run.json").is_file()]
    found.drift += [f"{name}/run.json is not there" for name in gone]
    if gone:
        return False
    absent = failed = 0
    for setting in known:
        problems = {(one.unit, one.method) for one in Run.open(setting.folder).problems}
        for seed in setting.subject.seeds:
            plan = plan_of(setting, seed, report, None)
            for job in plan.jobs:
                for entry in plan.entries(job):
                    if plan.run.finished(entry.file, entry.key) is None:
                        unit, method = str(entry.item.unit), job.card.name
                        known_failure = problems & {(unit, method), (unit, ""), ("", method), ("", "")}
                        failed += bool(known_failure)
                        absent += not known_failure
    if absent:
        found.drift.append(f"{counted(absent, 'picture')} of the recipe {'is' if absent == 1 else 'are'} not there")
    return not absent and not failed


def _copy_runs(place: Path, recipe: Recipe, known: Sequence[Setting], copy: Path) -> None:
    """Copies the runs of a recipe, file by file: nothing behind a link, and nothing else that lies there."""
    folders = [one.folder.relative_to(copy) for one in known]
    if recipe.planted is not None:
        folders += [
            folder_of(Path(), one.network, e) for one in recipe.planted.networks for e in recipe.planted.methods
        ]
    try:
        for folder in folders:
            for root, _, names in os.walk(place / folder):
                target = copy / Path(root).relative_to(place)
                target.mkdir(parents=True, exist_ok=True)
                for name in names:
                    if stat.S_ISREG(os.lstat(Path(root) / name).st_mode):
                        shutil.copyfile(Path(root) / name, target / name)
    except OSError as error:
        raise UserError(
            f"the table cannot be computed again: its runs cannot be copied to {copy} ({error.strerror})"
        ) from None


def _pictures(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.glob("runs/**/pictures/**/*.png")}

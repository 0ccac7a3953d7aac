"""Whether a benchmark's runs hold what they say, and its table what they give."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from entoptic.base.files import is_inside, json_bytes, sha256_of, user_path
from entoptic.base.progress import Reporter, reporter
from entoptic.base.records import read_json
from entoptic.bench.about import measured_with
from entoptic.bench.draw import draw
from entoptic.bench.make import Setting, plan_of, settings
from entoptic.bench.recipe import Recipe, recipe_json
from entoptic.bench.results import Cell, Results
from entoptic.bench.run import LISTED, LISTING, MARK, benchmark, checked, judges_of
from entoptic.bench.tables import csv_table, markdown
from entoptic.errors import Unreadable, UserError, counted
from entoptic.images.photos import Photos
from entoptic.metrics.sets.zero_shot import PicturesAndTexts, find_clip
from entoptic.planted.networks import planted_network
from entoptic.runs.difference import Difference
from entoptic.runs.same import same_numbers
from entoptic.runs.verify import TOLERANCE, Verification, verify

PARTS = {"found": "the number", "n": "n", "over": "what it is over", "real": "the number of real photos", "gap": "the gap",
         "reason": "the reason"}  # fmt: skip
"""What a cell holds, in words."""


def is_benchmark(folder: str | Path) -> bool:
    """Returns whether a folder is one of a benchmark."""
    return (user_path(folder) / MARK).is_file()


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

    Nothing is written into the folder.

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
        UserError: no such benchmark, or photos, networks or the CLIP that it needs were not given.
    """
    place = user_path(folder)
    if not is_benchmark(place):
        raise UserError(f"{place} is no folder of a benchmark (it has no {MARK})")
    found = Verification()
    found.differs(*_changed_files(place))
    stored = _stored(place, found)
    if stored is None:
        return found
    found.differs(*_not_of(stored, place, found))
    chosen = _recipe_of(stored, recipe, photos, found)
    opened = None if photos is None else Photos.open(photos)
    loaded = find_clip(clip, device=device) if isinstance(clip, str) else clip
    judges = judges_of(verifiers)
    if chosen is None:
        return found
    known = settings(chosen, place, judges=judges, photos=opened, device=device, clip=loaded)
    with reporter(progress) as report:
        for run, options in _runs(chosen, known, place):
            _add(found, run, place, verify(run, device=device, on_picture=_telling(report, run.name), **options))
        if missing := _lacking(stored.measured_with, measured_with(known)):
            found.skipped.append(f"the table: {missing}")
            return found
        absent = sum(_absent(setting, report) for setting in known)
    if absent:
        line = f"{counted(absent, 'picture')} of the recipe {'is' if absent == 1 else 'are'} not there"
        (found.skipped if stored.failures else found.drift).append(line)
        return found
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(place / "runs", Path(copy) / "runs")
        (Path(copy) / MARK).write_bytes(json_bytes({"benchmark": chosen.name}))
        before = _pictures(Path(copy))
        fresh = benchmark(
            chosen, out=copy, photos=opened, verifiers=judges, clip=loaded, device=device, progress=progress
        )
        found.drift += [f"{name} is not there" for name in sorted(_pictures(Path(copy)) - before)]
    try:
        _compare(stored, fresh, found)
    except (LookupError, TypeError, AttributeError, ValueError) as error:  # values that are no numbers or names
        found.drift.append(f"table.json is damaged ({type(error).__name__}: {error})")
    return found


def _stored(place: Path, found: Verification) -> Results | None:
    """The table, or None where there is none that can be read."""
    if not (place / "table.json").is_file():
        if "table.json" not in found.files:
            found.drift.append("table.json is not there: the benchmark was interrupted, or it was taken out")
        return None
    try:
        return Results.from_json(read_json(place / "table.json"))
    except (UserError, Unreadable, LookupError, TypeError, AttributeError, ValueError) as error:
        found.drift.append(f"table.json is damaged ({error})")
    return None


def _recipe_of(stored: Results, given: Recipe | None, photos: object, found: Verification) -> Recipe | None:
    """The recipe that a table was made by, with as many seeds, or None where this version has another one."""
    try:
        seeds = max(len(subject["seeds"]) for subject in stored.recipe["subjects"])
        recipe = checked(given or stored.recipe["name"], photos, seeds)
    except (LookupError, TypeError, ValueError) as error:
        found.drift.append(f"table.json is damaged: its recipe lacks {error}")
        return None
    if stored.recipe != recipe_json(recipe):
        found.drift.append(
            f"table.json: its recipe is not {recipe.name} of this version: it was changed, or is of another version"
        )
        return None
    return recipe


def _changed_files(place: Path) -> list[Difference]:
    """Which files of the table are not those that were written."""
    try:
        listed = LISTED in read_json(place / MARK)
    except Unreadable as error:
        return [Difference(MARK, f"{MARK} is damaged ({error})")]
    if not (place / LISTING).is_file():
        return [Difference(LISTING, f"{LISTING} is not there, and the benchmark wrote one")] if listed else []
    try:
        named = read_json(place / LISTING)["files"].items()
    except (Unreadable, LookupError, AttributeError) as error:
        return [Difference(LISTING, f"{LISTING} is damaged ({error})")]
    wrong = []
    for name, sha256 in named:
        file = place / name
        if not is_inside(file, place) or not file.is_file():
            wrong.append(Difference(name, f"{name} is not there"))
        elif sha256_of(file) != sha256:
            wrong.append(Difference(name, f"{name} was changed after it was written (its sha256 differs)"))
    return wrong


def _not_of(stored: Results, place: Path, found: Verification) -> Iterator[Difference]:
    """Which files say something else than the table that they are made of. What is known to be wrong is not said twice."""
    if not (place / LISTING).is_file():
        return  # of a version that may have laid them out otherwise
    try:
        made = {"table.csv": csv_table(stored), "table.md": markdown(stored), "plot.svg": draw(stored).svg()}
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        yield Difference("table.json", f"table.json is damaged ({type(error).__name__}: {error})")
        return
    for name, text in made.items():
        if name not in found.files and (place / name).is_file() and (place / name).read_bytes() != text.encode():
            yield Difference(name, f"{name} is not what this version makes of table.json")


def _lacking(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What must be given to compute a table again, in words; "" where all is there."""
    if not isinstance(before, Mapping) or not isinstance(before.get("networks"), Mapping):
        return "it does not say which networks judged it"
    gone = sorted(set(before["networks"]) - set(now["networks"]))
    if gone:
        return f"it was judged by {', '.join(gone)} too; give them with --verifiers"
    if extra := sorted(set(now["networks"]) - set(before["networks"])):
        return f"it was not judged by {', '.join(extra)}"
    if other := [name for name, sha256 in before["networks"].items() if now["networks"][name] != sha256]:
        return f"{', '.join(other)} {'has' if len(other) == 1 else 'have'} other weights than those that made it"
    if ("clip" in before) != ("clip" in now):
        return "it was judged by a CLIP too; give it with --clip" if "clip" in before else "it was not judged by a CLIP"
    if before.get("photos") != now["photos"]:
        return "it was made with other photos; give those with --photos"
    if any(before.get(name) != now[name] for name in ("recipe_of_pictures", "evidence")):
        return "it is of an earlier version, which measured otherwise"
    return ""


def _runs(recipe: Recipe, known: Sequence[Setting], place: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folders of the runs, and what they are verified with."""
    for setting in known:
        matched = setting.halves.matched if setting.halves and setting.subject.matches_photos else None
        if (setting.folder / "run.json").is_file():
            yield setting.folder, {"photos": matched}
    for one in recipe.planted.networks if recipe.planted is not None else ():
        scenes = str(place / "runs" / "planted" / "scenes")
        for folder in sorted((place / "runs" / "planted" / one.network).glob("*/run.json")):
            yield folder.parent, {"photos": scenes, "model": planted_network(one.network).model}


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


def _absent(setting: Setting, report: Reporter) -> int:
    """How many pictures of a subject are not there, or are of something else than the recipe."""
    absent = 0
    for seed in setting.subject.seeds:
        plan = plan_of(setting, seed, report, None)
        absent += sum(plan.run.finished(e.file, e.key) is None for job in plan.jobs for e in plan.entries(job))
    return absent


def _pictures(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.glob("runs/**/pictures/**/*.png")}


def _compare(stored: Results, fresh: Results, found: Verification) -> None:
    """Compares every number of a table with what was computed again."""
    before, now = ({_place(cell): cell for cell in one.cells} for one in (stored, fresh))
    found.drift += [f"table.json: {where} is not there" for where in now if where not in before]
    for where, cell in before.items():
        if where not in now:
            found.drift.append(f"table.json: {where} is no number of this benchmark")
            continue
        found.numbers += cell.found is not None
        again = now[where]
        for name, words in PARTS.items():
            told, true = (_plain(getattr(one, name)) for one in (cell, again))
            if not same_numbers(told, true, TOLERANCE):
                found.drift.append(f"table.json: {where}: {words} is {_words(told)}, computed again {_words(true)}")
    costs = zip(stored.costs, fresh.costs)
    if len(stored.costs) != len(fresh.costs) or any(
        not same_numbers(asdict(a), asdict(b), TOLERANCE) for a, b in costs
    ):
        found.drift.append("table.json: its costs are not those of the pictures")
    if set(stored.failures) != set(fresh.failures):
        found.drift.append("table.json: its failures are not those that are found again")


def _place(cell: Cell) -> str:
    return ", ".join(filter(None, (cell.subject, cell.method, cell.column, cell.judge)))


def _plain(value: Any) -> Any:
    return None if value is None else value if isinstance(value, str | int | float) else asdict(value)


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name} {_words(one)}" for name, one in value.items())
    return "nothing" if value is None else f"{value:.6g}" if isinstance(value, int | float) else f'"{value}"'

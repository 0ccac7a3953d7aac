"""Runs a recipe: pictures, measurements, and the files of its table. What is finished is never made again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from entoptic.base.files import check_own, delete_unfinished, json_bytes, lock_folder, user_path
from entoptic.base.gradients import with_gradients
from entoptic.base.progress import Reporter, reporter
from entoptic.base.records import read_json
from entoptic.base.unread import names_unread
from entoptic.bench.about import about, command_of, measured_with
from entoptic.bench.make import Setting, Shot, make, settings
from entoptic.bench.measure import Seen, measure
from entoptic.bench.recipe import Recipe, recipe_json
from entoptic.bench.recipes import find_recipe
from entoptic.bench.results import Cost, Results, Shown
from entoptic.bench.table_files import MARK, put, write
from entoptic.bench.truth import cells_of, costs_of, recover_all, shown_of
from entoptic.errors import Unreadable, UserError, counted
from entoptic.images.photos import Photos
from entoptic.metrics.sets.zero_shot import PicturesAndTexts, find_clip
from entoptic.workers.count import Workers


@names_unread
@with_gradients
def benchmark(
    recipe: str | Recipe,
    *,
    out: str | Path,
    photos: Any = None,
    verifiers: str | Sequence[str] = "",
    batch_size: int | None = None,
    device: str = "auto",
    progress: bool = True,
    workers: int | str | Workers | None = None,
    clip: str | PicturesAndTexts | None = None,
    seeds: int | None = None,
) -> Results:
    """Measures methods side by side and writes the table, a plot and a page of the pictures.

    The same call again makes only what is missing.

    Args:
        recipe: "small", "tuning", "standard", "full", or a recipe of your own.
        out: folder of the benchmark: its runs, `table.md`, `table.csv`, `table.json`, `plot.svg` and `index.html`.
        photos: real photos, anything `Photos.open` takes. Methods that match photos get one half of them; pictures are measured
            on the other half.
        verifiers: networks that judge beside those of the recipe, by name. They count as judges on which nothing was chosen,
            but for those of families that took part in a choice (`bench.make.TOOK_PART`).
        batch_size: pictures made together (default 10 on a CPU, 64 elsewhere).
        device: "auto", "cpu", "cuda:1", ….
        progress: show how far the work is.
        workers: processes that share the pictures, as in `see`.
        clip: a CLIP that judges too, a folder in the format of transformers or MODEL:PRETRAINED of open_clip.
        seeds: how many seeds of each unit, the first of the recipe's; None takes all. A later call with more makes only those.

    Returns:
        The table.

    Raises:
        UserError: bad input, or the folder is of something else.
        KeyboardInterrupt: on Ctrl-C, with all finished pictures stored.
    """
    chosen = checked(recipe, photos, seeds)
    folder = user_path(out)
    named = judges_of(verifiers)
    shared = Workers.parse(workers)
    check_folder(folder, chosen)
    opened = None if photos is None else Photos.open(photos)
    words_clip = clip if isinstance(clip, str) else None if clip is None else clip.name
    loaded = find_clip(clip, device=device) if isinstance(clip, str) else clip
    with reporter(progress) as report:
        found = settings(chosen, folder, judges=named, photos=opened, device=device, clip=loaded)
        with closing(lock_folder(folder)):
            delete_unfinished(folder, "")
            put(folder, MARK, json_bytes({"benchmark": chosen.name}))
            words = command_of(
                chosen.name, Path(out), photos=photos, verifiers=named, device=device, batch_size=batch_size,
                clip=words_clip, seeds=seeds,
            )  # fmt: skip
            results = results_of(
                chosen, found, folder, words, report, batch_size=batch_size, progress=progress, workers=shared
            )
            write(results, folder)
    return results


def judges_of(verifiers: str | Sequence[str]) -> list[str]:
    """Returns the names of networks that were given, separated by commas or as a list.

    Args:
        verifiers: the names.
    """
    return [v.strip() for v in verifiers.split(",") if v.strip()] if isinstance(verifiers, str) else list(verifiers)


def checked(recipe: str | Recipe, photos: object, seeds: int | None = None) -> Recipe:
    """Returns a recipe that can be run with what was given.

    Args:
        recipe: it, or its name.
        photos: real photos, or None.
        seeds: how many seeds of each unit, None for all.

    Raises:
        UserError: there is no such recipe, it needs photos, or it has fewer seeds.
    """
    chosen = find_recipe(recipe) if isinstance(recipe, str) else recipe
    if chosen.needs_photos and photos is None:
        raise UserError(
            f"the {chosen.name} benchmark is judged with real photos; give --photos PHOTOS (small needs none)"
        )
    if seeds is None:
        return chosen
    most = max((len(subject.seeds) for subject in chosen.subjects), default=1)
    if isinstance(seeds, bool) or not isinstance(seeds, int) or not 1 <= seeds <= most:
        raise UserError(
            f"the {chosen.name} benchmark has {counted(most, 'seed')}; give --seeds of 1 to {most}, got {seeds}"
        )
    return replace(chosen, subjects=tuple(replace(one, seeds=one.seeds[:seeds]) for one in chosen.subjects))


def check_folder(folder: Path, recipe: Recipe) -> None:
    """Checks that a folder is new, empty or of the same benchmark.

    Args:
        folder: of the benchmark.
        recipe: what is to go there.

    Raises:
        UserError: it holds something else.
    """
    folder = user_path(folder)
    check_own(folder, marks={MARK}, what="benchmark")
    if (folder / MARK).is_file():
        try:
            there = read_json(folder / MARK).get("benchmark")
        except Unreadable:
            there = None
        if there != recipe.name:
            raise UserError(f'{folder} is of the benchmark "{there}"; give --out another folder for {recipe.name}')


def results_of(
    recipe: Recipe,
    found: Sequence[Setting],
    folder: Path,
    words: Sequence[str],
    report: Reporter,
    *,
    batch_size: int | None = None,
    progress: bool = False,
    workers: Workers | None = None,
) -> Results:
    """Makes the pictures of a recipe, as far as they are not there, and measures them.

    Args:
        recipe: the recipe.
        found: its subjects with everything loaded.
        folder: of the benchmark.
        words: of the command, for the table.
        report: is told of the progress.
        batch_size: pictures made together.
        progress: whether the planted part says how far it is.
        workers: processes that share the pictures.

    Returns:
        The table, with as many digits as its file keeps.
    """
    cells, costs, failures, shown = [], [], [], []
    seen = Seen(report=report)
    for setting in found:
        shots, failed = make(setting, report, batch_size, workers)
        failures += failed
        cells += measure(setting, shots, seen)
        costs += _costs(setting, shots)
        shown += _shown(setting, shots, folder)
    if recipe.planted is not None:
        recovered = recover_all(recipe.planted, folder, progress=progress)
        cells += cells_of(recipe.planted, recovered)
        costs += costs_of(recipe.planted, recovered)
        shown += shown_of(recipe.planted, recovered, folder)
    table = Results(
        recipe=recipe_json(recipe), measured_with=measured_with(found), cells=tuple(cells), costs=tuple(costs),
        failures=tuple(dict.fromkeys(failures)), about=about(words),
    )  # fmt: skip
    # Digits that the table does not keep must not show in its other files.
    return replace(Results.from_json(table.to_json()), shown=tuple(shown))


def _costs(setting: Setting, shots: Sequence[Shot]) -> list[Cost]:
    name, costs = setting.subject.name, []
    evaluations: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for entry in setting.subject.methods:
        traces = [s.picture.record["trace"] for s in shots if s.method == entry.label]
        counts = [t["evaluations"] for t in traces if t.get("evaluations") is not None]
        times = [t["seconds"] for t in traces if t.get("seconds") is not None]
        if counts:
            evaluations[entry.label] = sum(counts) / len(counts)
        if times:
            seconds[entry.label] = sum(times) / len(times)
    first = setting.subject.methods[0].label
    for entry in setting.subject.methods:
        count = evaluations.get(entry.label)
        costs.append(
            Cost(
                subject=name,
                method=entry.label,
                evaluations=None if count is None else round(count),
                ratio=_ratio(evaluations, entry.label, first),
                time=_ratio(seconds, entry.label, first),
                pictures=sum(s.method == entry.label for s in shots),
            )
        )
    return costs


def _ratio(values: Mapping[str, float], label: str, first: str) -> float | None:
    return values[label] / values[first] if label in values and values.get(first) else None


def _shown(setting: Setting, shots: Sequence[Shot], folder: Path) -> list[Shown]:
    order = [str(unit) for unit in setting.units]
    labels = [entry.label for entry in setting.subject.methods]
    ordered = sorted(shots, key=lambda s: (order.index(str(s.unit)), labels.index(s.method), s.seed))
    return [
        Shown(
            subject=setting.subject.name, method=s.method, unit=str(s.unit), label=s.unit.label or "", seed=s.seed,
            file=s.picture.path.relative_to(folder).as_posix(),
        )
        for s in ordered
    ]  # fmt: skip

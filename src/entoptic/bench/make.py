"""The pictures of a recipe, made by ordinary runs: what is there is not made again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path, PurePath
from typing import Any

from entoptic.base.progress import Reporter
from entoptic.bench.recipe import Recipe, Subject
from entoptic.errors import UserError
from entoptic.images.photos import Photos
from entoptic.images.unit_reference import evenly_spaced
from entoptic.metrics.distribution import features, has_features
from entoptic.metrics.sets.embedders import Embedder
from entoptic.metrics.sets.zero_shot import PicturesAndTexts, ZeroShot, embedder_of
from entoptic.models.model import Model
from entoptic.models.sources import load
from entoptic.runs.execute import execute, split
from entoptic.runs.pictures import Picture
from entoptic.runs.plan import UnitPlan, find_verifiers, make_plan
from entoptic.units.unit import Unit, bind
from entoptic.workers.count import Workers

TOOK_PART = ("EfficientNet", "MobileNetV2", "SqueezeNet")
"""Classes of networks of which some took part in the choice of a method's recipe: Lite1, Lite2, MobileNetV2, SqueezeNet."""


@dataclass(frozen=True, kw_only=True)
class Halves:
    """Photos that methods may match, and those that pictures are measured on. No photo is in both.

    Attributes:
        matched: for methods.
        held_out: for measuring.
    """

    matched: Photos
    held_out: Photos


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A subject with everything loaded.

    Attributes:
        subject: what the recipe says.
        model: the network under study.
        units: of it.
        judges: other networks.
        untouched: names of the judges that took part in no choice of a recipe.
        related: names of judges that were given, and are of a family that took part in such a choice.
        absent: why a judge of the recipe could not be loaded, by its name.
        clip: a CLIP that judges too, or None.
        halves: of the photos, or None where none were given.
        folder: of its run.
    """

    subject: Subject
    model: Model
    units: list[Unit]
    judges: list[Model]
    halves: Halves | None
    folder: Path
    untouched: tuple[str, ...] = ()
    related: tuple[str, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)
    clip: PicturesAndTexts | None = None

    @property
    def spaces(self) -> list[Embedder]:
        """Where sets of pictures are compared with photos, the chosen one first: a CLIP, then untouched judges, then others."""
        known = [
            Embedder(name=named(judge), identity=judge.card.identity, embed=partial(features, judge))
            for judge in sorted(self.judges, key=lambda one: named(one) not in self.untouched)
            if has_features(judge)
        ]
        return known if self.clip is None else [embedder_of(self.clip), *known]

    @cached_property
    def zero_shot(self) -> ZeroShot | None:
        """The CLIP's answers about the network's classes, where there are a CLIP and names of classes."""
        labels = self.model.card.labels
        return None if self.clip is None or not labels or len(labels) < 2 else ZeroShot(self.clip, labels)


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One picture that was made.

    Attributes:
        method: label of its row.
        unit: what it shows.
        seed: of the run.
        picture: the stored picture with its record.
    """

    method: str
    unit: Unit
    seed: int
    picture: Picture


def named(judge: Model) -> str:
    """Returns a judge's name without folders of the machine."""
    return short_name(judge.card.name)


def short_name(network: str) -> str:
    """Returns a network's name as tables have it: of a file its stem.

    Args:
        network: its name with its source, such as "file:judges/one.json".
    """
    source, _, name = network.partition(":")
    return PurePath(name).stem if source == "file" else network


def took_part(judge: Model) -> bool:
    """Returns whether a judge is of a family that took part in the choice of a method's recipe.

    Args:
        judge: a network.
    """
    return any(base.__name__ in TOOK_PART for base in type(judge.module).__mro__)


def halve(photos: Photos | None, most: int) -> Halves | None:
    """Splits photos by their content, at even distances where there are more than `most` in a half.

    Args:
        photos: all of them.
        most: photos in a half.

    Raises:
        UserError: too few for two halves.
    """
    if photos is None:
        return None
    kept = evenly_spaced(len(photos), 2 * most)
    ordered = sorted(kept, key=photos.sha256)
    parts = sorted(ordered[::2]), sorted(ordered[1::2])
    if not parts[1]:
        raise UserError(f"{photos.source} has {len(photos)} photos; a benchmark needs at least 2")
    return Halves(matched=photos.subset(parts[0]), held_out=photos.subset(parts[1]))


def settings(
    recipe: Recipe,
    out: Path,
    *,
    judges: Sequence[str],
    photos: Photos | None,
    device: str,
    clip: PicturesAndTexts | None = None,
) -> list[Setting]:
    """Loads the networks of a recipe.

    Args:
        recipe: the recipe.
        out: the benchmark's folder.
        judges: names of networks beside the recipe's judges.
        photos: real photos, or None.
        device: of the networks.
        clip: judges too, or None.

    Raises:
        UserError: a network or a unit that is not there.
    """
    halves = halve(photos, recipe.most_photos)
    loaded: dict[str, Model] = {}
    for name in (*(subject.model for subject in recipe.subjects), *recipe.judges, *judges):
        if name not in loaded:
            loaded[name] = load(name, device=device)
    absent: dict[str, str] = {}
    for name in recipe.untouched:
        try:
            loaded[name] = loaded.get(name) or load(name, device=device)
        except UserError as error:  # weights that have to be downloaded
            absent[name] = str(error)
    fresh = [name for name in (*recipe.untouched, *judges) if name in loaded and name not in recipe.judges]
    found = []
    for subject in recipe.subjects:
        model = loaded[subject.model]
        known = find_verifiers(model, [loaded[name] for name in dict.fromkeys((*recipe.judges, *fresh))])
        own = [judge for judge in known if judge.card.weights_sha256 != model.card.weights_sha256]
        names = [named(judge) for judge in own]
        if double := next((name for name in names if names.count(name) > 1), None):
            raise UserError(f'two judges would both be called "{double}" in the table; rename one of their files')
        units = bind(model, list(subject.units))
        folder = out / "runs" / subject.name.replace(" ", "-")
        new = {loaded[name].card.weights_sha256 for name in fresh}
        given = [judge for judge in own if judge.card.weights_sha256 in new]
        related = tuple(named(judge) for judge in given if took_part(judge))
        untouched = tuple(named(judge) for judge in given if named(judge) not in related)
        found.append(
            Setting(
                subject=subject, model=model, units=units, judges=own, halves=halves, folder=folder, untouched=untouched,
                related=related, absent=absent, clip=clip,
            )
        )  # fmt: skip
    return found


def plan_of(setting: Setting, seed: int, report: Reporter, batch_size: int | None) -> UnitPlan:
    """Resolves one seed of a subject to a plan of an ordinary run; its jobs are in the order of the methods.

    Args:
        setting: the subject.
        seed: of the run.
        report: is told of passes over photos.
        batch_size: pictures made together.
    """
    matched: Any = setting.halves.matched if setting.halves and setting.subject.matches_photos else None
    return make_plan(
        setting.model, setting.units, method=[entry.config for entry in setting.subject.methods], photos=matched, seed=seed,
        out=setting.folder, verifiers=setting.judges, batch_size=batch_size, report=report, context=False,
    )  # fmt: skip


def make(
    setting: Setting, report: Reporter, batch_size: int | None, workers: Workers | None = None
) -> tuple[list[Shot], list[str]]:
    """Makes a subject's pictures, as far as its run does not hold them.

    Args:
        setting: the subject.
        report: is told of the progress.
        batch_size: pictures made together.
        workers: processes that share the work; None makes all in this one.

    Returns:
        The pictures, and why there are none of some units, in words.
    """
    shots: list[Shot] = []
    failures: list[str] = []
    for seed in setting.subject.seeds:
        plan = plan_of(setting, seed, report, batch_size)
        run = execute(plan, report, workers)
        failures += run.failures
        for entry, job in zip(setting.subject.methods, plan.jobs, strict=True):
            for one, record in split(run, plan.entries(job))[0]:
                picture = Picture(one.file, record)
                shots.append(Shot(method=entry.label, unit=one.item.unit, seed=seed, picture=picture))
    return shots, list(dict.fromkeys(failures))

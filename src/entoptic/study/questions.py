"""The questions of a study: which pictures one trial shows, and what is right."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

from entoptic.errors import UserError
from entoptic.study.design import Design
from entoptic.study.material import Material, UnitMaterial
from entoptic.study.photo_source import RankedPhotos
from entoptic.study.records import Arm, Shown, TaskKind, TrialKind
from entoptic.study.stimuli import Stimuli
from entoptic.study.unit_ranks import PhotoBatch

NATURAL, NONE = "natural", "none"
NOISE = 8
"""Pictures of noise in a study."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One trial before it is laid out on the screen.

    Attributes:
        task: kind of question.
        kind: "main", "practice" or "catch".
        arm: name of the arm.
        method: whose pictures are judged, or "".
        unit: that it is about.
        batch: which of the unit's sets of photos is shown.
        word: that is shown, or "".
        fixed: pictures that cannot be chosen, in order.
        choices: pictures that can be chosen.
        right: names of the choices that are right.
        right_ratings: ratings that are right.
    """

    task: TaskKind
    kind: TrialKind = "main"
    arm: str
    method: str = ""
    unit: UnitMaterial
    batch: int = 0
    word: str = ""
    fixed: tuple[Shown, ...] = ()
    choices: tuple[Shown, ...] = ()
    right: tuple[str, ...] = ()
    right_ratings: tuple[int, ...] = ()


def arms_of(task: TaskKind, methods: Sequence[str], *, photos: bool) -> tuple[Arm, ...]:
    """Returns the arms of a task.

    Args:
        task: kind of question.
        methods: of the runs.
        photos: whether real photos are shown.

    Raises:
        UserError: the task cannot be asked with these methods.
    """
    synthetic = tuple(Arm(task=task, name=method, kind="synthetic", methods=(method,)) for method in methods)
    natural = (Arm(task=task, name=NATURAL, kind="natural"),)
    if task == "2afc":
        return (*natural, *synthetic, Arm(task=task, name=NONE, kind="none"))
    if task == "intruder":
        return (*natural, *synthetic) if photos else synthetic
    if task == "preference":
        if len(methods) < 2:
            raise UserError(
                f"preference compares methods, and the runs hold one ({methods[0]}); add a run of another method, or choose "
                "--tasks without preference"
            )
        return tuple(Arm(task=task, name=f"{a}|{b}", kind="pair", methods=(a, b)) for a, b in combinations(methods, 2))
    return synthetic


@dataclass(kw_only=True)
class Questions:
    """Makes the questions of a study and writes their pictures.

    Attributes:
        material: pictures of the runs.
        design: how the study asks.
        stimuli: where pictures are written.
        photos: ranked, or None.
        by_name: the units.
    """

    material: Material
    design: Design
    stimuli: Stimuli
    photos: RankedPhotos | None = None
    by_name: dict[str, UnitMaterial] = field(init=False)

    def __post_init__(self) -> None:
        self.by_name = {unit.name: unit for unit in self.material.units}

    def main(self, arm: Arm, unit: UnitMaterial, occurrence: int, draw: random.Random) -> Question:
        """Returns a main question.

        Args:
            arm: the condition.
            unit: that it is about.
            occurrence: how often this unit was asked about in this arm before, over all people.
            draw: random choices.
        """
        if arm.task == "2afc":
            return self._two_choices(arm, unit, occurrence)
        if arm.task == "intruder":
            return self._intruder(arm, unit, draw)
        if arm.task == "preference":
            return self._preference(arm, unit, occurrence)
        return self._about_one_picture(arm, unit, occurrence)

    # --- one picture ---------------------------------------------------------------------------------------------

    def _about_one_picture(self, arm: Arm, unit: UnitMaterial, occurrence: int) -> Question:
        method = arm.methods[0]
        target = Shown(role="target", stimulus=self.made(unit, method, occurrence), method=method)
        references = self.references(unit, occurrence) if arm.task == "inner-match" else ()
        return Question(
            task=arm.task, arm=arm.name, method=method, unit=unit, batch=self._batch_number(unit, occurrence),
            word=word_of(unit) if arm.task == "class-match" else "", fixed=(*references, target),
        )  # fmt: skip

    def made(self, unit: UnitMaterial, method: str, sample: int) -> str:
        """Writes a picture of a method; no method shows more pictures of a unit than another."""
        picture = unit.pictures[method][sample % self.material.samples]
        key = str(picture.record.get("key") or picture.path.name)
        return self.stimuli.file(picture.path, method=method, unit=unit.name, source=key)

    def references(self, unit: UnitMaterial, occurrence: int) -> tuple[Shown, ...]:
        """Writes the photos that drive a unit most."""
        most = self.design.references
        if self.photos is not None:
            names = [self.photos.write(self.stimuli, unit, one) for one in self.batch(unit, occurrence).high]
        else:
            names = [self.stimuli.small_photo(path, unit.name) for path in unit.photos]
        return tuple(Shown(role="reference", stimulus=name) for name in names[:most])

    # --- two choices ---------------------------------------------------------------------------------------------

    def _two_choices(self, arm: Arm, unit: UnitMaterial, occurrence: int) -> Question:
        batch = self.batch(unit, occurrence)
        right, wrong = (self._photo(unit, batch, end) for end in ("high", "low"))
        method = arm.methods[0] if arm.methods else ""
        return Question(
            task="2afc", arm=arm.name, method=method, unit=unit, batch=self._batch_number(unit, occurrence),
            fixed=self.groups(arm, unit, batch), choices=(Shown(role="query", stimulus=right), Shown(role="query", stimulus=wrong)),
            right=(right,),
        )  # fmt: skip

    def _photo(self, unit: UnitMaterial, batch: PhotoBatch, end: str) -> str:
        assert self.photos is not None
        return self.photos.write(self.stimuli, unit, batch.high_query if end == "high" else batch.low_query)

    def groups(self, arm: Arm, unit: UnitMaterial, batch: PhotoBatch) -> tuple[Shown, ...]:
        """Writes the two groups of references of an arm.

        The group of low activation is the same in every arm that has references: the arms differ in the other one only.
        """
        assert self.photos is not None
        if arm.kind == "none":
            return ()
        if arm.methods:
            high = [self.made(unit, arm.methods[0], sample) for sample in range(self.design.references)]
        else:
            high = [self.photos.write(self.stimuli, unit, one) for one in batch.high]
        low = batch.low[: len(high)] if self.design.low == NATURAL else ()
        return (
            *(Shown(role="high", stimulus=name, method=arm.methods[0] if arm.methods else "") for name in high),
            *(Shown(role="low", stimulus=self.photos.write(self.stimuli, unit, one)) for one in low),
        )

    def batch(self, unit: UnitMaterial, occurrence: int) -> PhotoBatch:
        """Returns a unit's set of photos."""
        assert self.photos is not None
        batches = self.photos.batches[unit.name]
        return batches[occurrence % len(batches)]

    def _batch_number(self, unit: UnitMaterial, occurrence: int) -> int:
        if self.photos is None or unit.name not in self.photos.batches:
            return 0
        return occurrence % len(self.photos.batches[unit.name])

    # --- more choices --------------------------------------------------------------------------------------------

    def _intruder(self, arm: Arm, unit: UnitMaterial, draw: random.Random) -> Question:
        others = [
            one for one in self.material.units if one.name != unit.name and one.label.lower() != unit.label.lower()
        ]
        others = others or [one for one in self.material.units if one.name != unit.name]
        same_layer = [one for one in others if (one.weights, one.layer) == (unit.weights, unit.layer)]
        other = draw.choice(same_layer or others)
        count = self.design.options - 1
        own = self.several(arm, unit, count, draw)
        (odd,) = self.several(arm, other, 1, draw)
        return Question(
            task="intruder", arm=arm.name, method=arm.methods[0] if arm.methods else "", unit=unit,
            choices=tuple(Shown(role="option", stimulus=name) for name in (*own, odd)), right=(odd,),
        )  # fmt: skip

    def several(self, arm: Arm, unit: UnitMaterial, count: int, draw: random.Random) -> list[str]:
        """Writes some pictures of a unit, by an arm's method or the photos that drive it most."""
        if arm.methods:
            chosen = draw.sample(range(self.material.samples), count)
            return [self.made(unit, arm.methods[0], sample) for sample in sorted(chosen)]
        if self.photos is not None:
            strongest = self.photos.strongest[unit.name]
            if len(strongest) < count:
                raise UserError(
                    f"{len(strongest)} photos are too few to show {count} of one unit; give --photos with more"
                )
            ranked = draw.sample(strongest, count)
            return [self.photos.write(self.stimuli, unit, one) for one in ranked]
        return [self.stimuli.small_photo(path, unit.name) for path in draw.sample(list(unit.photos), count)]

    def _preference(self, arm: Arm, unit: UnitMaterial, occurrence: int) -> Question:
        choices = tuple(
            Shown(role="option", stimulus=self.made(unit, method, occurrence), method=method) for method in arm.methods
        )
        return Question(task="preference", arm=arm.name, unit=unit, word=word_of(unit), choices=choices)

    # --- trials that check ---------------------------------------------------------------------------------------

    def check(self, arm: Arm, unit: UnitMaterial, kind: TrialKind, draw: random.Random) -> Question:
        """Returns a question whose right answer anybody sees who looks: for practice and catch trials.

        Args:
            arm: the condition it looks like.
            unit: kept for such trials.
            kind: "practice" or "catch".
            draw: random choices.
        """
        if arm.task == "2afc":
            return self._obvious_choice(arm, unit, kind, draw)
        if arm.task == "intruder":
            plain = self._intruder(arm, unit, draw)
            (odd,) = plain.right
            same = plain.choices[0].stimulus
            copies = [self.stimuli.copy(same, i) for i in range(self.design.options - 1)]
            choices = tuple(Shown(role="option", stimulus=name) for name in (*copies, odd))
            return replace(plain, kind=kind, choices=choices)
        plain = self.main(arm, unit, draw.randrange(self.material.samples), draw)
        if kind == "practice" and arm.task != "preference":
            return replace(plain, kind=kind)
        noise = self.stimuli.noise(draw.randrange(NOISE))
        if arm.task == "preference":
            good = plain.choices[0]
            return replace(
                plain, kind=kind, choices=(good, Shown(role="option", stimulus=noise)), right=(good.stimulus,)
            )
        target = Shown(role="target", stimulus=noise, method=plain.method)
        return replace(plain, kind=kind, fixed=(*plain.fixed[:-1], target), right_ratings=(1, 2))

    def _obvious_choice(self, arm: Arm, unit: UnitMaterial, kind: TrialKind, draw: random.Random) -> Question:
        """The queries are copies of a reference of each group; without a low group the low query stays."""
        plain = self._two_choices(arm, unit, draw.randrange(1_000))
        groups = {role: [one.stimulus for one in plain.fixed if one.role == role] for role in ("high", "low")}
        right = self.stimuli.copy(draw.choice(groups["high"]), 0)
        wrong = self.stimuli.copy(draw.choice(groups["low"]), 0) if groups["low"] else plain.choices[1].stimulus
        choices = (Shown(role="query", stimulus=right), Shown(role="query", stimulus=wrong))
        return replace(plain, kind=kind, choices=choices, right=(right,))


def word_of(unit: UnitMaterial) -> str:
    """Returns the word that is shown for a unit: the first of its label's synonyms."""
    return unit.label.split(",")[0].strip()

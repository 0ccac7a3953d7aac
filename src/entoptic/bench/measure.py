"""The numbers of a subject: answers of networks, evidence of pictures, and what sets of pictures are like."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import normalize

from entoptic.base.pixels import to_float
from entoptic.base.progress import Reporter
from entoptic.bench.columns import COLUMNS
from entoptic.bench.distances import distances
from entoptic.bench.intervals import difference, difference_of_shares, mean, mean_of_shares
from entoptic.bench.make import Setting, Shot, named
from entoptic.bench.pathways import pathways
from entoptic.bench.results import Cell
from entoptic.errors import counted
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.images.shipped_statistics import find_pack
from entoptic.metrics.distribution import has_features
from entoptic.metrics.evidence import Evidence
from entoptic.metrics.observed import specificity, two_afc
from entoptic.metrics.picture import margin, robustness
from entoptic.metrics.sets.answers import first_of, within_top
from entoptic.metrics.sets.embedders import Embedder
from entoptic.metrics.unit_picture import UnitPicture
from entoptic.models.model import LOGITS, Model
from entoptic.units.grammar import quoted_layer
from entoptic.units.unit import Unit, bind, read_siblings

PHOTOS = "photos"
"""Label of the row of real photos."""
ALL = "all"
"""Stands for the mean over judges."""
UNTOUCHED = "untouched"
"""Stands for the mean over judges that took part in no choice of a recipe."""
LEAST = 3
"""Fewest units behind Student's interval."""
CLIP_BANDWIDTH = 10.0
"""Width of the Gaussian kernel in features of a CLIP of length 1 (Jayasumana et al. 2024)."""


@dataclass(kw_only=True)
class Values:
    """What was measured on pictures of units, before it is averaged.

    Attributes:
        of: (method, column, judge) to the values of each unit, one for each picture.
        real: the same numbers of real photos.
        reasons: why a column has no value.
    """

    of: dict[tuple[str, str, str], dict[str, list[float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    real: dict[tuple[str, str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    reasons: dict[tuple[str, str, str], str] = field(default_factory=dict)

    def add(self, method: str, column: str, judge: str, unit: str, value: float) -> None:
        """Takes one value."""
        self.of[method, column, judge][unit].append(value)

    def take(self, method: str, column: str, unit: str, found: Evidence, judge: str = "") -> None:
        """Takes a measurement of a picture, or the reason why there is none."""
        key = (method, column, judge)
        if found.value is None:
            self.reasons.setdefault(key, found.reason or "")
            return
        self.add(*key, unit, found.value)
        if (ceiling := found.detail.get("ceiling")) is not None:
            self.real[key].append(float(ceiling))

    def cells(self, subject: str, methods: Sequence[str]) -> list[Cell]:
        """Returns means over units, each with its paired difference to the first method.

        Args:
            subject: name of the part.
            methods: labels of the rows.
        """
        keys = sorted(
            {*self.of, *self.reasons}, key=lambda k: (methods.index(k[0]), list(COLUMNS).index(k[1]), k[2])
        )  # fmt: skip
        return [self._cell(subject, key, methods[0]) for key in keys]

    def _cell(self, subject: str, key: tuple[str, str, str], first: str) -> Cell:
        method, column, judge = key
        mine, theirs = self._by_unit(key), self._by_unit((first, column, judge))
        share = COLUMNS[column].kind == "share"
        if not mine or (len(mine) < LEAST and not share):
            why = self.reasons.get(key, "") if not mine else f"{counted(len(mine), 'unit')}, {LEAST} are needed"
            return Cell(subject=subject, method=method, column=column, judge=judge, n=len(mine), reason=why)
        both = [unit for unit in mine if unit in theirs]
        gap = None
        if method not in (first, PHOTOS) and len(both) >= (1 if share else LEAST):
            pairs = [mine[u] for u in both], [theirs[u] for u in both]
            gap = difference_of_shares(*pairs) if share else difference(*pairs)
        values, real = list(mine.values()), self.real.get(key)
        return Cell(
            subject=subject, method=method, column=column, judge=judge, n=len(values), gap=gap,
            found=mean_of_shares(values) if share else mean(values, COLUMNS[column].bounds),
            real=sum(real) / len(real) if real else None,
        )  # fmt: skip

    def _by_unit(self, key: tuple[str, str, str]) -> dict[str, float]:
        return {unit: sum(values) / len(values) for unit, values in self.of.get(key, {}).items()}


@dataclass(kw_only=True)
class Seen:
    """Features of the held-out photos, computed once for all subjects.

    Attributes:
        report: is told how far a pass is.
        held: features by network and preprocessing.
    """

    report: Reporter
    held: dict[tuple[object, ...], Tensor] = field(default_factory=dict)

    def by(self, space: Embedder, photos: Photos, subject: Model) -> Tensor:
        """Returns the features of photos that are prepared as pictures of the subject are, N×C."""
        key = (space.identity, tuple(subject.card.preprocessing().items()), photos.source, len(photos))
        if key not in self.held:
            parts, done = [], 0
            for _, images in photos.batches(subject.card.prepare, 25):
                parts.append(space.embed(images))
                done += len(images)
                self.report.progress(f"photos seen by {space.name}", done, len(photos))
            self.held[key] = torch.cat(parts)
        return self.held[key]


def measure(setting: Setting, shots: Sequence[Shot], seen: Seen) -> list[Cell]:
    """Measures the pictures of a subject.

    Args:
        setting: the subject.
        shots: its pictures.
        seen: features of photos that are known already.
    """
    subject = setting.subject
    labels = [entry.label for entry in subject.methods]
    values = Values()
    spaces = setting.spaces
    photos = setting.halves.held_out if setting.halves else None
    references = _references(setting, seen.report) if photos else None
    _evidence_of_all(values, setting, shots, references, seen.report)
    if references is not None and photos is not None:
        _take_pathways(values, setting, shots, references, photos, seen.report)
    sets: dict[str, dict[str, tuple[Tensor, list[str]]]] = defaultdict(dict)
    # The first judge of the recipe, whatever else judges: so tables of one recipe show one diversity.
    varied = next((named(judge) for judge in setting.judges if has_features(judge)), "")
    for label in labels:
        own = sorted(
            (s for s in shots if s.method == label), key=lambda s: (setting.units.index(s.unit), s.seed)
        )  # fmt: skip
        if not own:
            continue
        units = [str(shot.unit) for shot in own]
        images = torch.cat([to_float(shot.picture.pixels) for shot in own])
        _answers(values, label, setting, images, [shot.unit for shot in own])
        for space in spaces:
            table = space.embed(images)
            sets[space.name][label] = (table, units)
            if space.name == varied and len(subject.seeds) > 1:
                _diversity(values, label, space.name, table, units)
    if photos is not None:
        _photo_rows(values, setting, photos, next((one for one in spaces if one.name == varied), None))
    cells = values.cells(subject.name, [*labels, PHOTOS])
    for k, space in enumerate(spaces):
        real = seen.by(space, photos, setting.model) if photos else None
        width = CLIP_BANDWIDTH if setting.clip is not None and k == 0 else None
        cells += distances(subject.name, space.name, sets[space.name], real, bandwidth=width, near=k == 0)
    return cells


def _evidence_of_all(
    values: Values, setting: Setting, shots: Sequence[Shot], references: References | None, report: Reporter
) -> None:
    """Evidence of single pictures, unit by unit: what is known of a unit's photos serves all methods."""
    spread = {} if setting.halves else _layer_spread(setting)
    for done, unit in enumerate(setting.units, 1):
        for shot in shots:
            if shot.unit == unit:
                _evidence(values, shot, setting, references, spread.get(str(unit)))
        report.progress(f"measuring {setting.subject.name}", done, len(setting.units))


def _references(setting: Setting, report: Reporter) -> References:
    held = setting.halves.held_out if setting.halves else None
    references = References(setting.model, held, progress=report.progress)
    references.expect(setting.units)
    return references


# --- answers ---------------------------------------------------------------------------------------------------------


def _answers(values: Values, label: str, setting: Setting, images: Tensor, units: Sequence[Unit]) -> None:
    """Whether the network itself and each judge give the units' classes; nothing for units inside a network."""
    if any(unit.layer != LOGITS for unit in units):
        return
    classes = torch.tensor([unit.index for unit in units])
    judges: list[tuple[str, Model, Sequence[int] | None]] = [
        (named(judge), judge, setting.model.card.places_in(judge.card)) for judge in setting.judges
    ]
    for top in (1, 5):
        key = f"self_top{top}"
        _add_all(values, label, key, "", units, within_top(_logits(setting.model, images), classes, top))
    together: dict[int, list[Tensor]] = {1: [], 5: []}
    untouched: dict[int, list[Tensor]] = {1: [], 5: []}
    for name, judge, places in judges:
        if places is None:
            for top in (1, 5):
                values.reasons[label, f"verifier_top{top}", name] = "it does not know these classes"
            continue
        logits = _logits(judge, images)[:, places]
        for top in (1, 5):
            right = within_top(logits, classes, top)
            together[top].append(right.double())
            if name in setting.untouched:
                untouched[top].append(right.double())
            _add_all(values, label, f"verifier_top{top}", name, units, right)
    for top, answers in together.items():
        if len(answers) > 1:
            _add_all(values, label, f"verifier_top{top}", ALL, units, torch.stack(answers).mean(0))
    for top, answers in untouched.items():
        if answers:
            _add_all(values, label, f"verifier_top{top}", UNTOUCHED, units, torch.stack(answers).mean(0))
    if setting.clip is not None and setting.zero_shot is not None:
        _add_all(values, label, "clip_top1", setting.clip.name, units, setting.zero_shot.answers(images, classes))


def _add_all(values: Values, label: str, column: str, judge: str, units: Sequence[Unit], found: Tensor) -> None:
    for unit, one in zip(units, found.double().tolist()):
        values.add(label, column, judge, str(unit), one)


def _logits(model: Model, images: Tensor, batch: int = 25) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(model.fit(part.to(model.device))).cpu() for part in images.split(batch)])


# --- evidence of single pictures ----------------------------------------------------------------------------------------


def _evidence(
    values: Values,
    shot: Shot,
    setting: Setting,
    references: References | None,
    spread: tuple[Tensor, Tensor] | None,
) -> None:
    """Evidence from the sidecar, or against the held-out photos where there are any."""
    unit, label, name = shot.unit, shot.method, str(shot.unit)
    if references is None:
        known = shot.picture.evidence
        for column, metric in (("beats_photos", "margin"), ("robustness", "robustness")):
            entry = known.get(metric, {"value": None, "reason": "it was not measured"})
            value = entry["value"]
            if value is not None and column == "beats_photos":
                value = float(value > 0)
            values.take(label, column, name, Evidence(column, value, reason=entry.get("reason")))
        if unit.layer != LOGITS:
            _take_specificity(values, label, unit, to_float(shot.picture.pixels), spread)
        return
    reference = references.unit_reference(unit)
    pixels = shot.picture.pixels
    with torch.no_grad():
        seen = UnitPicture(pixels=pixels, unit=unit, reference=reference, verifiers=setting.judges)
        ahead = margin(seen.value, unit, reference)
        beats = ahead.value if ahead.value is None else float(ahead.value > 0)
        values.take(label, "beats_photos", name, Evidence("beats_photos", beats, reason=ahead.reason))
        values.take(label, "robustness", name, robustness(pixels, seen.value, unit, reference))
        choice = two_afc(seen)
        values.take(label, "two_afc", name, choice, _observer(setting, choice))
        if unit.layer != LOGITS:
            values.take(label, "specificity", name, specificity(seen))


def _take_pathways(
    values: Values, setting: Setting, shots: Sequence[Shot], references: References, photos: Photos, report: Reporter
) -> None:
    labels = [entry.label for entry in setting.subject.methods]
    found = pathways(setting, shots, references, photos, report)
    for label in labels if isinstance(found, str) else ():
        values.reasons[label, "pathway", ""] = str(found)
    for one in () if isinstance(found, str) else found:
        key = (one.method, "pathway", "")
        if one.value is None:
            values.reasons.setdefault(key, one.reason)
            continue
        values.add(*key, one.unit, one.value)
        if one.real is not None:
            values.real[key].append(one.real)


def _observer(setting: Setting, choice: Evidence) -> str:
    """The network that chose."""
    chosen = choice.detail.get("observer")
    return next((named(judge) for judge in setting.judges if chosen is None or judge.card.name == chosen), "")


def _take_specificity(
    values: Values, label: str, unit: Unit, image: Tensor, spread: tuple[Tensor, Tensor] | None
) -> None:
    if spread is None:
        values.reasons.setdefault(
            (label, "specificity", ""), "no photos were given and the shipped statistics do not hold the layer"
        )
        return
    with torch.no_grad():
        seen = unit.model.fit(image.to(unit.model.device))
        found = read_siblings(unit, unit.model.read(seen, [unit.tap])[unit.tap]).float().cpu()
    values.add(label, "specificity", "", str(unit), float(first_of(found, [unit.index], *spread)[0]))


def _layer_spread(setting: Setting) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and standard deviation of every unit beside each unit, from the shipped quantiles over photos."""
    pack = find_pack(setting.model.card)
    found = {}
    for unit in setting.units:
        plain = bind(setting.model, f"{quoted_layer(unit.layer)}:{unit.index}")[0] if unit.layer != LOGITS else unit
        table = pack.tensors.get(f"quantiles|{unit.layer}") if pack else None
        if table is not None and unit.layer != LOGITS and str(plain) == str(unit):
            found[str(unit)] = (table.float().mean(1), table.float().std(1, unbiased=False))
    return found


# --- sets ------------------------------------------------------------------------------------------------------------


def _diversity(values: Values, label: str, judge: str, table: Tensor, units: Sequence[str]) -> None:
    for unit in dict.fromkeys(units):
        rows = normalize(table[[i for i, one in enumerate(units) if one == unit]].double(), dim=1)
        if len(rows) > 1:
            far = (1 - rows @ rows.T).clamp(0, 2)
            far.fill_diagonal_(0)
            values.add(label, "diversity", judge, unit, float(far.sum()) / (len(rows) * (len(rows) - 1)))


def _photo_rows(values: Values, setting: Setting, photos: Photos, varied: Embedder | None) -> None:
    """The row of real photos of the same classes, as many of each as there are pictures where there are so many."""
    model, count = setting.model, len(setting.subject.seeds)
    units, images = [], []
    for unit in setting.units:
        if unit.layer != LOGITS:
            continue
        own = photos.of_class(model.card.identifiers(unit.index), unit.index)
        own = sorted(sorted(own, key=photos.sha256)[:count])
        for _, batch in photos.batches(model.card.prepare, 25, own) if own else ():
            images.append(batch)
            units += [unit] * len(batch)
    if not images:
        return
    pictures = torch.cat(images)
    _answers(values, PHOTOS, setting, pictures, units)
    if varied is not None and count > 1:
        _diversity(values, PHOTOS, varied.name, varied.embed(pictures), [str(unit) for unit in units])

"""`References`: the reference statistics of real photos that methods and metrics use.

They come from the photos given, or, for a network that has one, from the statistics pack shipped with Entoptic (see
`entoptic.images.shipped_statistics`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from entoptic.base.cache import content_key
from entoptic.base.progress import Progress, silent
from entoptic.errors import NotAvailable, Unreadable, UserError
from entoptic.images.colour import natural_spectrum, resample_spectrum
from entoptic.images.index import ActivationIndex
from entoptic.images.matching_targets import (
    MatchingTarget,
    natural_of_pack,
    sorted_means,
    table_of,
    target_of_pack,
    target_of_photos,
)
from entoptic.images.other_photos import other_photos, quiet_photos, weaker_photos
from entoptic.images.photo_scores import RealScores, Scores, score_photos
from entoptic.images.photos import Photos
from entoptic.images.relevance_weighting import (
    RelevanceWeighting,
    Weighted,
    facet_photos,
    layers_below,
    profile,
    rules_of,
)
from entoptic.images.shipped_statistics import Pack, find_pack
from entoptic.images.unit_reference import (
    ARBITRARY,
    NO_PHOTOS,
    STRONGEST,
    ExemplarPhotos,
    LayerMoments,
    UnitReference,
    evenly_spaced,
    layer_moments,
)
from entoptic.models.model import Model
from entoptic.models.taps import Tap
from entoptic.units.near_labels import nearest_label
from entoptic.units.unit import Unit, without_siblings

KEPT_TARGETS = 64
"""Matching targets in memory: thousands of units would fill it."""
KEPT_UNITS = 4
"""Unit references in memory: a unit's photos take some 10 MB, and its pictures are measured one after another."""


class References:
    """Reference statistics of one network.

    Args:
        model: the network.
        photos: real photos, or None to use the shipped pack.
        progress: called with (what, done, total) during passes over photos.
        batch_size: of those passes.
        index: of this network on these photos; what it holds needs no pass.

    Raises:
        UserError: the index is of other weights, another card or other photos.
    """

    def __init__(
        self,
        model: Model,
        photos: Photos | None = None,
        *,
        progress: Progress = silent,
        batch_size: int = 32,
        index: ActivationIndex | None = None,
    ) -> None:
        self.model, self.photos, self.progress, self.batch_size = model, photos, progress, batch_size
        self.index = index
        if index is not None:
            index.check(model, photos)
        self.pack: Pack | None = find_pack(model.card)
        self._targets: dict[tuple[object, ...], MatchingTarget] = {}
        self._facets: dict[tuple[object, ...], tuple[list[int], list[int]]] = {}
        self._spectra: dict[tuple[int, int], Tensor] = {}
        self._expected: dict[str, Unit] = {}
        self._scores: dict[str, Scores] = {}
        self._units: dict[tuple[str, str], UnitReference] = {}

    @cached_property
    def labelled(self) -> bool:
        """Whether any photo has a class."""
        photos = self.photos
        return photos is not None and (bool(photos.classes()) or any(photo.class_index is not None for photo in photos))

    def identity(self, unit: Unit, reads: Iterable[str]) -> str:
        """Hashes the real photos that a method's result for a unit depends on; part of a picture's key.

        Args:
            unit: the unit.
            reads: what the method reads: "targets", "scores", "spectrum".
        """
        reads = set(reads)
        if self.pack is not None and reads == {"spectrum"}:
            return self.pack.spectrum_sha256
        if self.photos is None and unit.parts and "targets" in reads:
            return content_key({"parts": [self.identity(part, reads) for _, part in unit.parts]})
        if self.photos is None:
            table = table_of(self.model, self.pack, unit) if "targets" in reads else None
            return table.sha256 if table else self.pack.sha256 if self.pack and reads else ""
        if reads == {"targets"} and (own := self.class_photos(unit)):
            return self.photos.fingerprint(own)
        if self.index is not None and "targets" in reads and unit in self.index:
            return content_key({"photos": self.photos.fingerprint(), "index": self.index.key})
        return self.photos.fingerprint() if reads else ""

    def holds_whole(self, unit: Unit) -> bool:
        """Whether there are photos, or shipped statistics of a unit's whole photos, not weighted by relevance."""
        if self.photos is not None:
            return True
        if unit.parts:
            return all(self.holds_whole(part) for _, part in unit.parts)
        table = table_of(self.model, self.pack, unit, "none")
        return table is not None and table.relevance == "none"

    def check(self, unit: Unit, reads: Iterable[str]) -> None:
        """Checks at once that a method's references of a unit are available.

        Args:
            unit: the unit.
            reads: what the method reads: "targets", "scores", "spectrum".

        Raises:
            UserError: they are not.
        """
        if "scores" in reads and self.photos is None:
            raise NotAvailable("retrieval shows real photos; give --photos DIR (Python: photos=…)")
        if "targets" in reads and self.photos is None:
            target_of_pack(self.model, self.pack, unit, ())
        if "spectrum" in reads and self.photos is None and self.pack is None:
            self.spectrum((8, 8))

    # --- scores ------------------------------------------------------------------------------------------------

    def expect(self, units: Iterable[Unit]) -> None:
        """Announces units whose scores will be asked for, so that one pass over the photos serves them all."""
        self._expected |= {unit.identity: unit for unit in units}

    def scores(self, units: Sequence[Unit]) -> Scores:
        """Scores the photos on units.

        Raises:
            NotAvailable: there are no photos.
        """
        if self.photos is None:
            raise NotAvailable("this needs real photos; give --photos DIR (Python: photos=…)")
        if any(unit.identity not in self._scores for unit in units):
            # One pass serves every unit that will be asked for.
            missing = {u.identity: u for u in (*units, *self._expected.values()) if u.identity not in self._scores}
            held = score_photos(
                self.model,
                list(missing.values()),
                self.photos,
                batch_size=self.batch_size,
                progress=self.progress,
            )
            self._scores |= dict.fromkeys(missing, held)
        rows = torch.stack([self._scores[unit.identity].of(unit) for unit in units])
        return Scores(tuple(map(str, units)), self._scores[units[0].identity].indices, rows)

    def real_scores(self, unit: Unit) -> RealScores | str:
        """Returns the scores of real photos on a unit, or the reason why they are not known."""
        if self.index is not None and unit in self.index:
            return self.index.real_scores(unit)
        if self.photos is not None:
            try:
                values = self.scores([unit]).of(unit).sort().values
            except NotAvailable as error:
                return str(error)
            return RealScores(values, len(values), f"{self.photos.source}")
        known = self.pack.real_scores(str(unit)) if self.pack else None
        if known is None:
            return NO_PHOTOS + (" and the shipped statistics do not hold this unit" if self.pack else "")
        return RealScores(known[0], known[1], "shipped statistics")

    # --- what the pictures of a unit are measured against ----------------------------------------------------------

    def unit_reference(self, unit: Unit) -> UnitReference:
        """Returns what the pictures of a unit are measured against; the records of the latest few units are kept.

        Nothing is computed here: each part of the record is when it is first read.
        """
        key = unit.identity, str(unit)
        if key not in self._units:
            while len(self._units) >= KEPT_UNITS:
                self._units.pop(next(iter(self._units)))
            self._units[key] = UnitReference(
                unit=unit,
                load_real_scores=lambda: self.real_scores(unit),
                load_exemplars=lambda: self._exemplars(unit),
                load_moments=lambda: self._layer_moments(unit),
                load_weak=lambda: self._weak(unit),
            )
        return self._units[key]

    def _exemplars(self, unit: Unit) -> ExemplarPhotos | str:
        if self.photos is None:
            return NO_PHOTOS
        strongest = self.choose(unit, STRONGEST)[0]
        arbitrary = [i for i in evenly_spaced(len(self.photos), ARBITRARY) if i not in strongest]
        return ExemplarPhotos(strongest=self._prepared(strongest), arbitrary=self._prepared(arbitrary))

    def _weak(self, unit: Unit) -> Tensor | str:
        if self.photos is None:
            return NO_PHOTOS
        strong = {*self.choose(unit, STRONGEST)[0], *(self.class_photos(unit) or ())}
        found = [i for i in weaker_photos(self, unit, STRONGEST + len(strong)) if i not in strong]
        return self._prepared(sorted(found, key=self.photos.sha256)[:STRONGEST])

    def _prepared(self, indices: list[int]) -> Tensor:
        card = self.model.card
        assert self.photos is not None
        batches = self.photos.batches(card.prepare, self.batch_size, indices) if indices else []
        images = [batch for _, batch in batches]
        return torch.cat(images) if images else torch.zeros(0, 3, *card.size)

    def _layer_moments(self, unit: Unit) -> LayerMoments | str:
        if self.photos is None:
            return NO_PHOTOS
        if why := without_siblings(unit):
            return why
        return layer_moments(self.model, self.photos, unit, self.index, batch_size=self.batch_size)

    # --- targets for distribution matching -----------------------------------------------------------------------

    def target(
        self,
        unit: Unit,
        taps: Sequence[Tap],
        count: int,
        *,
        strongest: bool = True,
        wanted: RelevanceWeighting | None = None,
    ) -> MatchingTarget:
        """Averages sorted values over reference photos of a unit; see `choose` for which.

        Args:
            unit: the unit.
            taps: the layers to match.
            count: number of photos, at least 1.
            strongest: see `choose`.
            wanted: weight the features by the unit's relevance (see `RelevanceWeighting`); only layers below the unit's
                own then have a target. None leaves them as they are.

        Raises:
            UserError: a unit or layer that the shipped pack does not hold.
        """
        if count < 1:
            raise UserError(f"the number of reference photos must be at least 1, got {count}")
        if wanted is not None:
            taps = tuple(Weighted(tap.layer, tap.pre) for tap in layers_below(self.model, taps, unit))
            if not taps:
                raise UserError(
                    f"{unit} lies at the first of the layers to match or before it, so there is nothing below it whose "
                    "relevance could be told; use relevance=none"
                )
        if self.photos is None:
            return target_of_pack(self.model, self.pack, unit, taps, wanted)
        key = (unit.identity, tuple(taps), count, strongest, wanted)
        return self._kept(key, lambda: self._from_photos(unit, taps, count, strongest, wanted))

    def _kept(self, key: tuple[object, ...], make: Callable[[], MatchingTarget]) -> MatchingTarget:
        """Returns the target under `key`; only the latest few stay in memory."""
        if key not in self._targets:
            while len(self._targets) >= KEPT_TARGETS:
                self._targets.pop(next(iter(self._targets)))
            self._targets[key] = make()
        return self._targets[key]

    def _from_photos(
        self, unit: Unit, taps: Sequence[Tap], count: int, strongest: bool, wanted: RelevanceWeighting | None
    ) -> MatchingTarget:
        """Computes or loads the target of the photos that `choose` selects."""
        assert self.photos is not None
        many = count * (wanted.facets if wanted else 1)
        indices, how = self.choose(unit, many, strongest=strongest)
        if wanted is not None and wanted.facets > 1:
            indices = self._facet(unit, indices, wanted, taps)[:count]
            how = f"{len(indices)} photos of facet {wanted.facet} of {wanted.facets}, of {how}"

        def on_batch(done: int) -> None:
            self.progress(f"reference photos of {unit}", done, len(indices))

        target = target_of_photos(
            self.model, self.photos, indices, how, unit, taps, wanted, batch_size=self.batch_size, on_batch=on_batch
        )
        return replace(target, borrowed=self.class_photos(unit) == [])

    def _facet(self, unit: Unit, indices: list[int], wanted: RelevanceWeighting, taps: Sequence[Tap]) -> list[int]:
        """Selects those of `indices` (strongest first) that belong to one facet of the unit."""
        assert self.photos is not None
        deepest = max(taps, key=self._depth)
        key = (unit.identity, tuple(indices), wanted.rules, wanted.facets, deepest)
        if key not in self._facets:
            batches = self.photos.batches(self.model.card.prepare, self.batch_size, indices)
            read, profiles = profile(self.model, unit, deepest, batches, rules_of(wanted.rules))
            self._facets[key] = (read, facet_photos(profiles, wanted.facets).tolist())
        read, assigned = self._facets[key]
        there = sorted(set(assigned))
        mine = there[wanted.facet % len(there)]  # where photos make fewer facets than asked, they are shown in turn
        return [index for index, facet in zip(read, assigned) if facet == mine]

    def _depth(self, tap: Tap) -> int:
        return self.model.layer(tap.layer).order

    def choose(self, unit: Unit, count: int, *, strongest: bool = True) -> tuple[list[int], str]:
        """Chooses a unit's reference photos.

        They come from the photos of a logit's class. For any other unit, and for a logit whose class has no photos here, they
        come from all photos. Those that the unit scores highest are taken.

        Args:
            unit: the unit.
            count: number of photos.
            strongest: False takes an arbitrary choice from a class instead, the same for everybody (in the order of
                their content hashes).

        Returns:
            Positions in the set, and how they were chosen in words.
        """
        photos = self.photos
        assert photos is not None
        own = self.class_photos(unit)
        if own and not strongest:
            found = sorted(own, key=photos.sha256)[:count]
            return sorted(found), f"{len(found)} photos of {unit.label or unit} in {photos.source}"
        allowed = set(own or range(len(photos)))
        absent = "" if own is None or own else f", which has none of {unit.label or unit}{self._near(unit)}"
        if not own and self.index is not None and unit in self.index and count <= self.index.k:
            numbers = {photo.name: i for i, photo in enumerate(photos)}
            ranked = [numbers[hit.photo] for hit in self.index.top(unit, count)]
            return ranked, f"the {len(ranked)} photos that drive {unit} most in {photos.source}{absent}"
        ranked = [index for index, _ in self.scores([unit]).ranked(unit) if index in allowed][:count]
        whose = f"photos of {unit.label or unit}" if own else "photos"
        return ranked, f"the {len(ranked)} {whose} that drive {unit} most in {photos.source}{absent}"

    def _near(self, unit: Unit) -> str:
        """Returns the name of a class of the photos that is nearly that of a logit, as a question; "" for none."""
        assert self.photos is not None
        return nearest_label(unit.label or "", list(self.photos.classes()))

    def class_photos(self, unit: Unit) -> list[int] | None:
        """Finds the photos of a logit's class: positions in the set. None for other units and for photos without labels."""
        photos, card = self.photos, self.model.card
        assert photos is not None
        if unit.kind != "logit" or not self.labelled:
            return None
        return photos.of_class(card.identifiers(unit.index), unit.index)

    def natural(self, unit: Unit, taps: Sequence[Tap], count: int = 64) -> MatchingTarget:
        """Averages sorted values over photos that do not drive the unit: what photos look like where the unit sees nothing.

        The photos are an arbitrary choice from the weaker half of the set, so that what stands beside the unit's cause in its
        strongest photos is as rare there as anywhere. Without photos, it is the shipped mean over photos of all kinds.

        Args:
            unit: the unit.
            taps: the layers.
            count: largest number of photos.

        Raises:
            UserError: no photos, and no shipped statistics that hold these layers.
        """
        if self.photos is None:
            return self._shipped_mean(taps)
        key = ("natural", unit.identity, tuple(taps), count)
        return self._kept(key, lambda: self._mean_of(*quiet_photos(self, unit, count), taps))

    def others(self, unit: Unit, taps: Sequence[Tap], used: int, count: int = 64) -> MatchingTarget:
        """Averages sorted values over what a unit's target is moved away from: other photos of the same set (`other_photos`).

        Where it has fewer than `LEAST_OTHERS` of them, or no photos are given, it is the shipped mean over photos of all kinds.

        Args:
            unit: the unit.
            taps: the layers.
            used: number of reference photos asked for its own target.
            count: largest number of photos.

        Raises:
            UserError: no photos, and no shipped statistics that hold these layers.
        """
        if self.photos is None:
            return self._shipped_mean(taps)
        chosen, how, few = other_photos(self, unit, used, count)
        if few:
            with suppress(NotAvailable):
                shipped = self._shipped_mean(taps)
                return replace(shipped, note=f"{few}: what it is moved away from is {shipped.source}")
        made = self._kept(("others", tuple(taps), tuple(chosen)), lambda: self._mean_of(chosen, how, taps))
        return replace(made, source=how, note=f"{few}: it is moved away from {how}" if few else "")

    def _shipped_mean(self, taps: Sequence[Tap]) -> MatchingTarget:
        """Returns the shipped mean over photos of all kinds."""
        return self._kept(("natural", tuple(taps)), lambda: natural_of_pack(self.model, self.pack, taps))

    def _mean_of(self, chosen: list[int], how: str, taps: Sequence[Tap]) -> MatchingTarget:
        """Averages sorted values over photos. Not kept on disk: megabytes for each unit, made again in less than a second."""
        assert self.photos is not None
        batches = self.photos.batches(self.model.card.prepare, self.batch_size, chosen)
        values, read = sorted_means(self.model, taps, batches, lambda done: None)
        if not read:
            raise Unreadable(f"none of the {how} could be read")
        return MatchingTarget(values, read, how, self.photos.fingerprint(chosen))

    # --- the natural Fourier spectrum ------------------------------------------------------------------------------

    def spectrum(self, size: tuple[int, int]) -> Tensor:
        """Returns the mean |rfft2| of natural photos in the decorrelated colour space: 3×H×(W//2+1).

        It comes from the shipped pack (resampled by frequency, so that each coefficient keeps its cycles per picture), else
        from up to 500 of the photos.

        Args:
            size: height and width of the picture.

        Raises:
            NotAvailable: neither a pack nor photos.
        """
        if self.pack is not None:
            return resample_spectrum(self.pack.spectrum, size)
        if self.photos is None:
            raise NotAvailable("MACO needs the spectrum of natural photos: give --photos DIR (Python: photos=…)")
        if size in self._spectra:
            return self._spectra[size]
        card = self.model.card.with_(size=size)
        indices = list(range(0, len(self.photos), max(1, len(self.photos) // 500)))[:500]
        total, count = torch.zeros(3, size[0], size[1] // 2 + 1), 0
        for batch, images in self.photos.batches(card.prepare, self.batch_size, indices):
            total, count = total + natural_spectrum(images), count + len(batch)
        self._spectra[size] = total / count
        return self._spectra[size]

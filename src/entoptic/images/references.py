"""What real photos look like to a network: the reference statistics that methods and metrics use.

`References` answers from the photos given, or, for a network that has one, from the statistics pack shipped with
Entoptic (see `entoptic.images.shipped_statistics`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from entoptic.base.cache import content_key, load_cached, save_cached
from entoptic.base.progress import Progress, silent
from entoptic.errors import UserError, nearest
from entoptic.images.colour import natural_spectrum
from entoptic.images.photo_scores import RealScores, Scores, score_photos
from entoptic.images.photos import Photos
from entoptic.images.relevance_weighting import (
    RelevanceWeighting,
    Weighted,
    accumulator_dtype,
    crops,
    facet_photos,
    layers_below,
    profile,
    relevant_means,
    rules_of,
)
from entoptic.images.shipped_statistics import Pack, find_pack
from entoptic.models.model import Model
from entoptic.models.taps import Tap
from entoptic.units.unit import Unit

if TYPE_CHECKING:
    from entoptic.images.index import ActivationIndex


@dataclass(frozen=True)
class Target:
    """Mean sorted values of a unit's reference photos.

    Attributes:
        values: per tap C×D: entry (c, d) is the mean over photos of the d-th smallest value of channel c.
        photos: how many. source: where they came from, for people. sha256: of their contents or of the pack.
        importance: per tap C weights of the channels (VITAL's ū) where the values were weighted by relevance.
    """

    values: dict[Tap, Tensor]
    photos: int
    source: str
    sha256: str
    importance: dict[Tap, Tensor] = field(default_factory=dict)

    def describe(self) -> dict[str, object]:
        """For sidecars."""
        return {"source": self.source, "n": self.photos, "sha256": self.sha256}


def sorted_means(
    model: Model,
    taps: Sequence[Tap],
    batches: Iterable[tuple[list[int], Tensor]],
    on_batch: Callable[[int], None],
) -> tuple[dict[Tap, Tensor], int]:
    """Mean over photos of each channel's sorted values, streaming: memory does not grow with their number.

    Returns:
        C×D float32 per tap, and the number of photos.
    """
    totals: dict[Tap, Tensor] = {}
    count = 0
    with torch.no_grad(), model.frozen():
        for indices, images in batches:
            for tap, values in model.read(images.to(model.device), taps).items():
                total = values.sort(dim=-1).values.to(accumulator_dtype(values)).sum(0)
                totals[tap] = totals[tap] + total if tap in totals else total
            count += len(indices)
            on_batch(count)
    return {tap: (total / max(count, 1)).float() for tap, total in totals.items()}, count


class References:
    """Reference statistics of one network.

    Args:
        model: the network. photos: real photos, or None to use the shipped pack.
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
        self._targets: dict[tuple[object, ...], Target] = {}
        self._facets: dict[tuple[object, ...], tuple[list[int], list[int]]] = {}
        self._spectra: dict[tuple[int, int], Tensor] = {}
        self._expected: dict[str, Unit] = {}
        self._scores: dict[str, Scores] = {}
        self.exemplars: dict[str, Any] = {}  # what measurements keep of a unit's photos, by the unit's identity

    @cached_property
    def labelled(self) -> bool:
        """Whether the photos say which class they show."""
        photos = self.photos
        return photos is not None and (bool(photos.classes()) or any(photo.class_index is not None for photo in photos))

    def identity(self, unit: Unit, reads: Iterable[str]) -> str:
        """Hash of the real photos that a method's result for `unit` depends on; part of a picture's key."""
        reads = set(reads)
        if self.pack is not None and reads == {"spectrum"}:
            return self.pack.spectrum_sha256
        if self.photos is None:
            return self.pack.sha256 if self.pack and reads else ""
        if reads == {"targets"} and unit.kind == "logit" and self.labelled:
            card = self.model.card
            return self.photos.fingerprint(self.photos.of_class(card.identifiers(unit.index), unit.index))
        if self.index is not None and "targets" in reads and unit in self.index:
            return content_key({"photos": self.photos.fingerprint(), "index": self.index.key})
        return self.photos.fingerprint() if reads else ""

    def check(self, unit: Unit, reads: Iterable[str]) -> None:
        """Raises UserError, at once, where a method's references of `unit` cannot be had."""
        if "scores" in reads and self.photos is None:
            raise UserError("retrieval shows real photos; give --photos DIR (Python: photos=…)")
        if "targets" in reads:
            if self.photos is None:
                self._from_pack(unit, ())
            elif unit.kind == "logit" and self.labelled:
                self.class_photos(unit)
        if "spectrum" in reads and self.photos is None and self.pack is None:
            self.spectrum((8, 8))

    # --- scores ------------------------------------------------------------------------------------------------

    def expect(self, units: Iterable[Unit]) -> None:
        """Names units whose scores will be asked for, so that one pass over the photos serves them all."""
        self._expected |= {unit.identity: unit for unit in units}

    def scores(self, units: Sequence[Unit]) -> Scores:
        """Scores of the photos on units.

        Raises:
            UserError: there are no photos.
        """
        if self.photos is None:
            raise UserError("this needs real photos; give --photos DIR (Python: photos=…)")
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
        """What a unit scores on real photos, or the reason why that is not known."""
        if self.index is not None and unit in self.index:
            return self.index.real_scores(unit)
        if self.photos is not None:
            values = self.scores([unit]).of(unit).sort().values
            return RealScores(values, len(values), f"{self.photos.source}")
        known = self.pack.real_scores(str(unit)) if self.pack else None
        if known is None:
            return "no photos were given" + (" and the shipped statistics do not hold this unit" if self.pack else "")
        return RealScores(known[0], known[1], "shipped statistics")

    # --- targets for distribution matching -----------------------------------------------------------------------

    def target(
        self,
        unit: Unit,
        taps: Sequence[Tap],
        count: int,
        *,
        strongest: bool = True,
        wanted: RelevanceWeighting | None = None,
    ) -> Target:
        """Mean sorted values over `count` reference photos of a unit; see `choose` for which.

        Args:
            wanted: weight the features by the unit's relevance (see `Relevant`); only layers below the unit's own
                then have a target. None leaves them as they are.

        Raises:
            UserError: no photos of the class, or a unit or layer that the shipped pack does not hold.
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
            return self._from_pack(unit, taps, wanted)
        key = (unit.identity, tuple(taps), count, strongest, wanted)
        return self._kept(key, lambda: self._from_photos(unit, taps, count, strongest, wanted))

    def _kept(self, key: tuple[object, ...], make: Callable[[], Target]) -> Target:
        """The target under `key`. Only the latest few stay: thousands of units would fill the memory."""
        if key not in self._targets:
            while len(self._targets) >= 64:
                self._targets.pop(next(iter(self._targets)))
            self._targets[key] = make()
        return self._targets[key]

    def _from_pack(self, unit: Unit, taps: Sequence[Tap], wanted: RelevanceWeighting | None = None) -> Target:
        if self.pack is None:
            raise UserError(
                f"matching {unit} of {self.model.card.name} needs real photos: give --photos DIR (Python: photos=…), "
                "or use --method fourier, which needs none"
            )
        held = self.pack.units
        if str(unit) not in held:
            names = {str(i): self.model.card.label(int(i.split(":")[1])) or i for i in held if i.startswith("logits:")}
            raise UserError(
                f"without photos, {self.model.card.name} has references for {', '.join(f'{k} ({v})' for k, v in names.items())}"
                f" and {', '.join(i for i in held if not i.startswith('logits:')) or 'no channels'}, but not for {unit}"
                f"{f' ({unit.label})' if unit.label else ''}; give --photos DIR, or use --method fourier"
            )
        if wanted is not None and (wanted.reference, wanted.facets) != ("image", 1):
            raise UserError(f"facets and crops of {unit} need real photos; give --photos DIR (Python: photos=…)")
        held_as = self.pack.relevance(str(unit))
        if taps and held_as != (wanted.rules if wanted else "none"):
            raise UserError(
                f'without photos, {unit} can be matched with relevance="{held_as}" only; give --photos DIR for others'
            )
        values = self._pack_values(str(unit), taps)
        importance = {tap: u.to(self.model.device) for tap, u in self.pack.importance(str(unit), taps).items()}
        return Target(values, self.pack.count(str(unit)), "shipped statistics", self.pack.sha256, importance)

    def _natural_from_pack(self, taps: Sequence[Tap]) -> Target:
        if self.pack is None:
            raise UserError(
                "what photos look like in general needs real photos: give --photos DIR (Python: photos=…), "
                "or leave it out with natural=0"
            )
        count = int(self.pack.meta.get("natural", 0))
        return Target(self._pack_values("natural", taps), count, "shipped statistics", self.pack.sha256)

    def _pack_values(self, name: str, taps: Sequence[Tap]) -> dict[Tap, Tensor]:
        assert self.pack is not None
        values = {}
        for tap in taps:
            info = self.model.layer(tap.layer)
            target = self.pack.target(name, tap, info.grid[0] * info.grid[1])
            if target is None:
                raise UserError(
                    f'the shipped statistics have no layer "{tap}"{nearest(str(tap), self.pack.layers)}; '
                    f"they hold {', '.join(self.pack.layers)}; give --photos DIR for others"
                )
            values[tap] = target.to(self.model.device)
        return values

    def _from_photos(
        self, unit: Unit, taps: Sequence[Tap], count: int, strongest: bool, wanted: RelevanceWeighting | None
    ) -> Target:
        """Means over the photos chosen, kept on disk by content."""
        assert self.photos is not None
        many = count * (wanted.facets if wanted else 1)
        indices, how = self.choose(unit, many, strongest=strongest)
        if wanted is not None and wanted.facets > 1:
            indices = self._facet(unit, indices, wanted, taps)[:count]
            how = f"{len(indices)} photos of facet {wanted.facet} of {wanted.facets}, of {how}"
        fingerprint = self.photos.fingerprint(indices)
        key: dict[str, object] = {
            "weights": self.model.card.weights_sha256, "card": self.model.card.preprocessing(),
            "taps": [str(tap) for tap in taps], "photos": fingerprint,
        }  # fmt: skip
        if wanted is not None:
            key |= {"unit": unit.identity, "relevant": [wanted.rules, wanted.reference, wanted.epsilon]}
            if wanted.reference == "crop":
                how = f"crops of {how}"
        known = load_cached("targets", content_key(key))
        if known is not None:
            values = {tap: known[str(tap)].to(self.model.device) for tap in taps}
            importance = {tap: known[f"{tap} u"].to(self.model.device) for tap in taps if f"{tap} u" in known}
            return Target(values, int(known["count"]), how, fingerprint, importance)

        def on_batch(done: int) -> None:
            self.progress(f"reference photos of {unit}", done, len(indices))

        batches = self.photos.batches(self.model.card.prepare, self.batch_size, indices)
        importance = {}
        if wanted is None:
            values, read = sorted_means(self.model, taps, batches, on_batch)
        else:
            if wanted.reference == "crop":
                batches = crops(self.model, unit, batches)
            weighted = [tap for tap in taps if isinstance(tap, Weighted)]
            values, importance, read = relevant_means(self.model, unit, weighted, batches, on_batch, wanted)
        stored = {str(tap): value.cpu() for tap, value in values.items()}
        stored |= {f"{tap} u": value.cpu() for tap, value in importance.items()}
        save_cached("targets", content_key(key), {**stored, "count": torch.tensor(read)})
        return Target(values, read, how, fingerprint, importance)

    def _facet(self, unit: Unit, indices: list[int], wanted: RelevanceWeighting, taps: Sequence[Tap]) -> list[int]:
        """Those of `indices` (strongest first) that belong to one facet of the unit."""
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
        """Positions of a unit's reference photos, and how they were chosen in words.

        They come from the photos of a logit's class, or from all photos for any other unit and for a logit when the
        photos have no labels. The unit scores those taken highest; with `strongest` False they are an arbitrary
        choice from a class, the same for everybody (in the order of their content hashes).
        """
        photos = self.photos
        assert photos is not None
        own = self.class_photos(unit)
        if own is not None and not strongest:
            found = sorted(own, key=photos.sha256)[:count]
            return sorted(found), f"{len(found)} photos of {unit.label or unit} in {photos.source}"
        allowed = set(own if own is not None else range(len(photos)))
        if own is None and self.index is not None and unit in self.index and count <= self.index.k:
            numbers = {photo.name: i for i, photo in enumerate(photos)}
            ranked = [numbers[hit.photo] for hit in self.index.top(unit, count)]
            return ranked, f"the {len(ranked)} photos that drive {unit} most in {photos.source}"
        ranked = [index for index, _ in self.scores([unit]).ranked(unit) if index in allowed][:count]
        whose = f"photos of {unit.label or unit}" if own is not None else "photos"
        return ranked, f"the {len(ranked)} {whose} that drive {unit} most in {photos.source}"

    def class_photos(self, unit: Unit) -> list[int] | None:
        """Positions of the photos of a logit's class; None for other units and for photos without labels.

        Raises:
            UserError: the photos have labels, but none of this class.
        """
        photos, card = self.photos, self.model.card
        assert photos is not None
        if unit.kind != "logit" or not self.labelled:
            return None
        found = photos.of_class(card.identifiers(unit.index), unit.index)
        if not found:
            names = list(photos.classes())
            asked = " or ".join(card.identifiers(unit.index)) or str(unit.index)
            some = ", ".join(names[:6]) + (", …" if len(names) > 6 else "") or "given by number only"
            raise UserError(
                f"{photos.source} has no photos of {asked} for {unit}; its classes are {some}"
                + nearest(unit.label or "", names)
            )
        return found

    def natural(self, unit: Unit, taps: Sequence[Tap], count: int = 64) -> Target:
        """Mean sorted values over up to `count` photos that do not drive the unit, evenly spread over the weaker half
        of the set: what photos look like where the unit sees nothing. What merely stands beside the unit's cause in
        its strongest photos is as rare here as anywhere.

        Without photos, the shipped mean over photos of all kinds.

        Raises:
            UserError: no photos, and no shipped statistics that hold these layers.
        """
        if self.photos is None:
            return self._kept(("natural", tuple(taps)), lambda: self._natural_from_pack(taps))
        return self._kept(("natural", unit.identity, tuple(taps), count), lambda: self._quiet(unit, taps, count))

    def _quiet(self, unit: Unit, taps: Sequence[Tap], count: int) -> Target:
        assert self.photos is not None
        chosen = self._weaker(unit, count)
        how = f"{len(chosen)} photos of {self.photos.source} that do not drive {unit}"
        # Not kept on disk: megabytes for each unit, made again in less than a second.
        batches = self.photos.batches(self.model.card.prepare, self.batch_size, chosen)
        values, read = sorted_means(self.model, taps, batches, lambda done: None)
        if not read:
            raise UserError(f"none of the {how} could be read")
        return Target(values, read, how, self.photos.fingerprint(chosen))

    def _weaker(self, unit: Unit, count: int) -> list[int]:
        """Positions of up to `count` photos of the half that drives the unit less, an arbitrary choice that is the same
        for everybody (by content hash). An index knows the median: a few photos are scored, not all."""
        photos = self.photos
        assert photos is not None
        arbitrary = sorted(range(len(photos)), key=photos.sha256)
        if self.index is None or unit not in self.index:
            weak = {index for index, _ in self.scores([unit]).ranked(unit)[len(photos) // 2 :]}
            return sorted([index for index in arbitrary if index in weak][:count])
        median = float(self.index.quantiles(unit)[100])
        found: list[int] = []
        with torch.no_grad():
            for indices, images in photos.batches(
                self.model.card.prepare, self.batch_size, arbitrary[: 2 * count + 16]
            ):
                scores = unit.read(self.model.read(images.to(self.model.device), [unit.tap])[unit.tap]).tolist()
                found += [index for index, score in zip(indices, scores) if score <= median]
        rank = {index: place for place, index in enumerate(arbitrary)}
        return sorted(sorted(found, key=rank.__getitem__)[:count])

    # --- the natural Fourier spectrum ------------------------------------------------------------------------------

    def spectrum(self, size: tuple[int, int]) -> Tensor:
        """Mean |rfft2| of natural photos in the decorrelated colour space at `size`, 3×H×(W//2+1).

        From the shipped pack (resampled by frequency, so that each coefficient keeps its cycles per picture),
        else from up to 500 of the photos.
        """
        if self.pack is not None:
            return _resample_spectrum(self.pack.spectrum, size)
        if self.photos is None:
            raise UserError("MACO needs the spectrum of natural photos: give --photos DIR (Python: photos=…)")
        if size in self._spectra:
            return self._spectra[size]
        card = self.model.card.with_(size=size)
        indices = list(range(0, len(self.photos), max(1, len(self.photos) // 500)))[:500]
        total, count = torch.zeros(3, size[0], size[1] // 2 + 1), 0
        for batch, images in self.photos.batches(card.prepare, self.batch_size, indices):
            total, count = total + natural_spectrum(images), count + len(batch)
        self._spectra[size] = total / count
        return self._spectra[size]


def _resample_spectrum(spectrum: Tensor, size: tuple[int, int]) -> Tensor:
    """|rfft2| magnitudes at another picture size, along each axis over the same range of cycles per pixel."""
    height, width = spectrum.shape[1], 2 * (spectrum.shape[2] - 1)
    centred = torch.fft.fftshift(spectrum, dim=1)  # row height // 2 holds frequency 0
    rows = torch.fft.fftfreq(size[0]) * height + height // 2
    columns = torch.fft.rfftfreq(size[1]) * width
    # Straight lines between the coefficients at both sides: frequency 0 stays what it is and ±f stay alike.
    return _between(_between(centred, rows, 1), columns, 2)


def _between(table: Tensor, places: Tensor, axis: int) -> Tensor:
    """Linear interpolation of `table` along an axis at fractional indices, the ends repeated."""
    places = places.clamp(0, table.shape[axis] - 1)
    left = places.floor().long().clamp_max(table.shape[axis] - 2)
    share = (places - left).view([-1 if i == axis else 1 for i in range(table.ndim)])
    return table.index_select(axis, left) * (1 - share) + table.index_select(axis, left + 1) * share

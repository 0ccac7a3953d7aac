"""Pictures of units of a model: their keys, measurements and sidecars."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from entoptic.base.cache import content_key
from entoptic.base.pixels import opaque, quantise
from entoptic.base.progress import Reporter
from entoptic.base.unread import hear_again
from entoptic.errors import UserError
from entoptic.images.references import References
from entoptic.images.unread import unread_record
from entoptic.methods.contract import Context, Draft, Failure, Item, Student, Trace
from entoptic.metrics.evidence import Evidence
from entoptic.metrics.picture import measure_unit_picture
from entoptic.models.model import Model
from entoptic.priors.prior import Prior
from entoptic.runs.records import config_words
from entoptic.runs.store import Picture, Run
from entoptic.runs.unit_photos import spotlight_of, write_context
from entoptic.sampling.sampled_distribution import SampledDistribution
from entoptic.units.unit import Unit

if TYPE_CHECKING:
    from entoptic.runs.plan import Entry, Job

RECIPE = 1
"""Raised whenever a method or the ascent loop changes what it makes from the same config."""
EVIDENCE = 5
"""Raised whenever `measure` measures something else: pictures measured by an older one are measured again."""
ORDER, OWN = "order", "class_photos"
"""Entries of `measured_with`: hashes of the photos in their order, and of those of the unit's class."""


@dataclass(kw_only=True)
class UnitItems:
    """Items that are units of a model.

    Attributes:
        model: the network under study.
        references: statistics of real photos by unit.
        verifiers: networks that judge the pictures.
        prior: of the methods that sample one, or None.
        bank_seed: of the prior's bank.
        photos: where the photos were, or None.
        store_photos: store small copies of the photos that drive each unit beside its pictures.
    """

    model: Model
    references: References
    verifiers: list[Model] = field(default_factory=list)
    prior: Prior | None = None
    bank_seed: int = 0
    photos: str | None = None
    store_photos: bool = True

    def context(self, job: Job, report: Reporter, pictures: int, batch_size: int) -> Context:
        """Returns what the method gets for a batch of `pictures`."""
        return Context(
            model=self.model, references=self.references,
            on_step=lambda step, steps: report.step(step, steps, pictures), prior=self.prior,
            units=list({item.unit.identity: item.unit for item in job.items}.values()), progress=report.progress,
            bank_seed=self.bank_seed, batch_size=batch_size,
        )  # fmt: skip

    def key(self, job: Job, item: Item) -> str:
        """Returns the hash of everything that a picture's pixels depend on."""
        card = self.model.card
        parts: dict[str, Any] = {
            "recipe": RECIPE,
            "unit": item.unit.identity,
            "readout": item.unit.readout,
            "method": job.card.name,
            "config": job.config_identity,
            "seed": item.seed,
            "sample": item.sample,
            "weights": card.identity,
            "card": card.preprocessing(),
            "references": self.references.identity(item.unit, (job.card.reads | job.config.reads_too) - {"prior"}),
        }
        if item.other_noise:
            parts["noise_of"] = item.other_noise
        if (prior := self._prior_of(job)) is not None:
            parts["prior"] = prior.identity
            if self.bank_seed:
                parts["bank_seed"] = self.bank_seed
        return content_key(parts)

    def overlays(self, job: Job, draft: Draft, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the method's overlays, and `where`: a shade that is clear where the picture drives the unit."""
        found = {name: overlay(value, pixels) for name, value in draft.overlays.items()}
        light = spotlight_of(draft.item.unit, pixels)
        return found | ({"where": light} if light is not None else {})

    def measure(self, job: Job, draft: Draft, pixels: np.ndarray, overlays: Mapping[str, np.ndarray]) -> list[Evidence]:
        """Returns the evidence of a picture, H×W×3 uint8, exactly as saved."""
        return self._evidence(pixels, draft.item.unit, draft.trace.distribution, draft.trace.student)

    def _evidence(
        self, pixels: np.ndarray, unit: Unit, distribution: SampledDistribution | None, student: Student | None
    ) -> list[Evidence]:
        return measure_unit_picture(pixels, unit, self.references, self._judges(student), distribution)

    def record(self, job: Job, draft: Draft, entry: Entry) -> dict[str, Any]:
        """Returns the sidecar's entries that only pictures of units have."""
        trace, prior = draft.trace, self._prior_of(job)
        index = self.references.index
        return (
            {
                "config": asdict(job.config),
                "references": dict(trace.references) if trace.references is not None else None,
                "photos": self.photos,
                "prior": prior.name if prior is not None else None,
                "prior_identity": prior.identity if prior is not None else None,
                "bank_seed": self.bank_seed if prior is not None else None,
                "index": str(index.path) if index is not None else None,
                "measured_with": self._measured_with(draft.item.unit, trace.student),
            }
            | unread_record(self.references.photos)
            | beside_the_unit(draft.item)
        )

    def command(self, job: Job, item: Item) -> str:
        """Returns the command that makes a picture again."""
        words = ["entoptic", "see", self.model.card.name, item.target.text, "--method", job.card.name]
        words += ["--seed", str(item.seed), "--n", str(item.sample + 1)]
        if self.photos is not None:
            words += ["--photos", self.photos]
        if self.references.index is not None:
            words += ["--index", str(self.references.index.path)]
        words += ["--noise-of", item.other_noise] if item.other_noise else []
        if (prior := self._prior_of(job)) is not None:
            words += ["--prior", prior.name]
            words += ["--bank-seed", str(self.bank_seed)] if self.bank_seed else []
        return shlex.join(words + config_words(job.card.name, job.config))

    def refresh(self, run: Run, job: Job, finished: Sequence[tuple[Entry, dict[str, Any]]]) -> None:
        """Measures pictures again that were measured with other photos, verifiers, or by an older `measure`."""
        for entry, record in finished:
            unit, trace = entry.item.unit, trace_of(record)
            if self.photos is not None:
                hear_again(self.photos, record.get("unread"))
            current = self._measured_with(unit, trace.student)
            known = record.get("measured_with") or {}
            is_known = ORDER in known  # earlier versions recorded neither the order of photos nor those of a class
            if is_known and "targets" in job.card.reads and known.get(OWN) != current.get(OWN):
                raise UserError(
                    f"{entry.file.name} of this run was made from other photos of {unit.label or unit}: the photos are the same, "
                    "and their labels have changed. Give --out another folder, or the photos with the labels that they had"
                )
            if known == (current if is_known else {n: v for n, v in current.items() if n not in (OWN, ORDER)}):
                continue
            pixels = Picture(entry.file, record).pixels
            evidence = self._evidence(pixels, unit, trace.distribution, trace.student)
            record["evidence"] = [e.to_json() for e in evidence]
            record["measured_with"] = current
            run.write_record(entry.file, record)

    def complete(self, run: Run, jobs: Sequence[tuple[Job, Sequence[Entry]]], report: Reporter) -> list[Failure]:
        """Stores small copies of the photos that drive each unit most and least."""
        if self.store_photos and self.references.photos is not None:
            units = {item.unit.identity: item.unit for job, _ in jobs for item in job.items}
            for done, unit in enumerate(units.values(), 1):
                write_context(run, unit, self.references)
                report.progress("photos of units", done, len(units))
        return []

    def _prior_of(self, job: Job) -> Prior | None:
        return self.prior if "prior" in job.card.reads else None

    def _judges(self, student: Student | None) -> list[Model]:
        """The verifiers of a picture: without the student that its method optimised against, if it had one."""
        return [v for v in self.verifiers if student is None or v.card.weights_sha256 != student.weights_sha256]

    def _measured_with(self, unit: Unit, student: Student | None) -> dict[str, Any]:
        """What the evidence was measured against, for measuring again when that changes."""
        references = self.references
        index = references.index
        indexed = {"index": index.key} if index is not None and unit in index else {}
        verifiers = {v.card.name: v.card.identity for v in self._judges(student)}
        found = {"evidence": EVIDENCE, "photos": identity_of_photos(references), "verifiers": verifiers} | indexed
        if references.photos is not None:
            found[ORDER] = references.photos.order()
            if own := references.class_photos(unit):
                found[OWN] = references.photos.fingerprint(own)
        return found


def identity_of_photos(references: References) -> str | None:
    """Returns the hash of the real photos that evidence is measured against, or of the statistics in their place."""
    if references.photos is not None:
        return references.photos.fingerprint()
    return references.pack.sha256 if references.pack else None


def beside_the_unit(item: Item) -> dict[str, Any]:
    """Returns what a sidecar holds of a combination's parts and of another unit's random numbers; nothing for any other item."""
    parts = [{"weight": weight, "unit": str(part), "label": part.label} for weight, part in item.unit.parts]
    found: dict[str, Any] = {"parts": parts} if parts else {}
    return found | ({"noise_of": item.other_noise} if item.other_noise else {})


def trace_of(record: Mapping[str, Any]) -> Trace:
    """Returns what a sidecar holds of a picture's distribution and student, which its evidence depends on."""
    trace = record["trace"]
    selection, student = trace.get("selection"), trace.get("student")
    return Trace(
        distribution=SampledDistribution.from_json(selection) if isinstance(selection, dict) and "nats" in selection else None,
        student=Student(name=student["name"], weights_sha256=student["weights_sha256"]) if student else None,
    )  # fmt: skip


def overlay(value: Tensor | np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Returns an overlay of a draft as it is stored.

    Args:
        value: a finished map; H×W in [0, 1], the opacity of the picture; or 3×h×w in [0, 1], another picture.
        pixels: the picture, H×W×3 uint8.
    """
    if isinstance(value, np.ndarray):
        return value
    if value.ndim == 2:
        opacity = (value.clamp(0, 1) * 255).round().byte().cpu().numpy()
        return np.concatenate([pixels, opacity[:, :, None]], 2)
    return opaque(quantise(value.cpu()))

"""Pictures of concepts of photos' feature maps, scaled and decoded: their keys, measurements and sidecars."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from entoptic.base.cache import content_key
from entoptic.base.pixels import centre_square, opaque
from entoptic.base.progress import Reporter
from entoptic.inversion.maps import FeatureMaps
from entoptic.inversion.null_edits import COMMON_SIZE, OWN_SIZE, NullTest
from entoptic.inversion.targets import EditTarget, PhotoReader
from entoptic.methods.contract import Context, Draft, Failure, Item
from entoptic.methods.steer import SteerConcepts
from entoptic.metrics.evidence import Evidence
from entoptic.metrics.steering import measure_steering, numbers
from entoptic.plots.steering import steering_maps
from entoptic.runs.map_items import inverter_record
from entoptic.runs.store import Run

if TYPE_CHECKING:
    from entoptic.inversion.inverter import Inverter
    from entoptic.runs.plan import Entry, Job
    from entoptic.units.dictionary import Dictionary

RECIPE = 2
"""Raised whenever steering makes or measures something else from the same config. How random edits are made and compared is
a `NullTest` with a version of its own."""
DISCOVERED = 4
"""Concepts of a class that are discovered by default: the rule of completeness often stops at one."""


@dataclass(frozen=True, kw_only=True)
class Concepts:
    """Where concepts come from.

    Attributes:
        dictionary: that holds them.
        source: its file or name.
        identity: hash of what it does.
        class_name: the class that they were discovered for, "" where the dictionary was given.
        class_photos: the photos that they were discovered on, None where the dictionary was given.
        discover: how many were asked for.
    """

    dictionary: Dictionary
    source: str
    identity: str
    class_name: str | int = ""
    class_photos: Any = None
    discover: int = DISCOVERED


@dataclass(kw_only=True)
class EditItems:
    """Items that are concepts of photos' feature maps.

    Attributes:
        maps: the layer.
        inverter: of that layer.
        prior: what a sidecar says of the inverter's prior, see `prior_record`.
        concepts: where the concepts come from.
        photos: reads photos, with their maps.
        photos_source: where the photos are, for `verify`.
        store_photos: store a small copy of each photo beside its pictures.
        test: how random edits are made and compared.
    """

    maps: FeatureMaps
    inverter: Inverter
    prior: dict[str, str]
    concepts: Concepts
    photos: PhotoReader
    photos_source: str = ""
    store_photos: bool = True
    test: NullTest = COMMON_SIZE

    def context(self, job: Job, report: Reporter, pictures: int, batch_size: int) -> Context:
        """Returns what the method gets for the concepts of one photo."""
        return Context(
            model=self.maps.model, inverter=self.inverter, photos=self.photos, dictionary=self.concepts.dictionary,
            progress=report.progress, on_step=lambda step, steps: report.step(step, steps, pictures),
            batch_size=batch_size,
        )  # fmt: skip

    def key(self, job: Job, item: Item) -> str:
        """Returns the hash of everything that a picture's pixels and numbers depend on.

        Keys hold the test's version from its second on, and only where there are random edits: earlier keys stay as they are.
        """
        config, target, card = asdict(job.config), _target(item), self.maps.model.card
        config.pop("batch_size")
        tested = {"test": self.test.version} if _config(job).nulls and self.test.version > OWN_SIZE.version else {}
        return content_key(tested | {
            "recipe": RECIPE, "inverter": self.inverter.identity, "dictionary": self.concepts.identity,
            "concept": target.concept, "photo": target.photo.sha256, "config": config, "weights": card.identity,
            "layer": self.maps.layer, "card": card.preprocessing(),
        })  # fmt: skip

    def overlays(self, job: Job, draft: Draft, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the original, the difference, the affected region, the sweep, and the photo where it is stored."""
        photo = centre_square(self.photos.image(_target(draft.item).photo), pixels.shape[0])
        found = steering_maps(draft.made, photo)
        if not self.store_photos:
            del found["photo"]
        return found

    def measure(self, job: Job, draft: Draft, pixels: np.ndarray, overlays: Mapping[str, np.ndarray]) -> list[Evidence]:
        """Returns the evidence of an edit: it is of the decoded pictures of all seeds, so only the making knows it."""
        return measure_steering(draft.made, self.concepts.dictionary.names, self.maps.model.card)

    def record(self, job: Job, draft: Draft, entry: Entry) -> dict[str, Any]:
        """Returns the sidecar's entries that only edits have."""
        target, config, made = _target(draft.item), _config(job), draft.made
        photo, card = target.photo.path, self.maps.model.card
        return {
            "alt": f"{Path(photo).name} decoded with {made.scale:g} times its concept {made.name}",
            "config": {"photo": photo} | asdict(config) | {"scales": list(config.scales)},
            "photos": None,
            "photo": {"name": photo, "sha256": target.photo.sha256, "source": self.photos_source},
            "inverter": inverter_record(self.inverter, self.prior),
            "dictionary": {"source": self.concepts.source, "identity": self.concepts.identity},
            "steering": numbers(made, self.concepts.dictionary.names, card),
        }

    def command(self, job: Job, item: Item) -> str:
        """Returns the command that makes a picture again."""
        target, config, concepts = _target(item), _config(job), self.concepts
        words = ["entoptic", "steer", self.maps.model.card.name, self.maps.layer, target.photo.path]
        words += ["--concept", str(target.concept), "--inverter", self.inverter.name]
        words += ["--prior", self.prior["prior"]] if "prior" in self.prior else []
        if concepts.class_photos is None:
            words += ["--dictionary", concepts.source]
        else:
            words += ["--class", str(concepts.class_name), "--photos", str(concepts.class_photos)]
            if concepts.discover != DISCOVERED:
                words += ["--concepts", str(concepts.discover)]
        for name, value in asdict(config).items():
            if value != getattr(SteerConcepts(), name):
                flag = "--" + name.replace("_", "-")
                if isinstance(value, bool):
                    words.append(flag if value else flag.replace("--", "--no-", 1))
                else:
                    words += [flag, *(f"{v:g}" for v in value)] if isinstance(value, tuple) else [flag, str(value)]
        return shlex.join(words)

    def refresh(self, run: Run, job: Job, finished: Sequence[tuple[Entry, dict[str, Any]]]) -> None:
        """Stores the copy of the photo beside pictures that were made without one."""
        for entry, record in finished:
            if not self.store_photos or "photo" in record.setdefault("maps", {}):
                continue
            shown = centre_square(self.photos.image(_target(entry.item).photo), record["image"]["height"])
            record["maps"]["photo"] = run.write_map(entry.file, "photo", opaque(shown.permute(1, 2, 0).numpy()))
            run.write_record(entry.file, record)

    def complete(self, run: Run, jobs: Sequence[tuple[Job, Sequence[Entry]]], report: Reporter) -> list[Failure]:
        """Leaves all as it is: nothing is measured on several edits together."""
        return []


def _target(item: Item) -> EditTarget:
    assert isinstance(item.target, EditTarget)
    return item.target


def _config(job: Job) -> SteerConcepts:
    assert isinstance(job.config, SteerConcepts)
    return job.config


def identity_of(dictionary: Any, channels: int) -> str:
    """Returns the hash of what a dictionary does: of its numbers where it has any, else of its parts of fixed values."""
    if hasattr(dictionary, "tensors"):
        from entoptic.units.dictionary import digest

        return digest(dictionary)
    from entoptic.units.dictionary import part

    values = torch.randn(1, channels, 16, generator=torch.Generator().manual_seed(0))
    total = hashlib.sha256()
    with torch.no_grad():
        count = len(dictionary.names)
        one_by_one = (part(dictionary, values, k) for k in range(count)) if hasattr(dictionary, "part") else None
        for each in one_by_one or dictionary.parts(values):
            total.update(each.float().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()

"""All that a request for inversions resolved to, and the pictures that it asks for, each with its key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from entoptic.images.cache import content_key
from entoptic.inversion.maps import FeatureMaps
from entoptic.inversion.options import Sampling
from entoptic.models.model import Model
from entoptic.runs.inversions.edits import Edit
from entoptic.runs.inversions.photos import Source, unit_of
from entoptic.runs.store import Run
from entoptic.units.unit import slug

if TYPE_CHECKING:
    from entoptic.inversion.inverter import Inverter

METHOD = "invert"
RECIPE = 1
"""Raised whenever the same request makes other pictures."""


@dataclass(frozen=True)
class Task:
    """One picture to make."""

    source: Source
    edit: Edit
    sample: int
    set: str  # hash of all but the sample: pictures of one set differ by their noise alone
    key: str
    file: Path


@dataclass
class Plan:
    """What a request resolved to, before any picture is made."""

    maps: FeatureMaps
    inverter: Inverter
    inverter_source: str
    prior: dict[str, str]  # see `prior_record`
    sampling: Sampling
    verifiers: list[Model]
    run: Run
    n: int
    seed: int
    batch_size: int
    sources: list[Source]
    edits: list[Edit]
    failures: list[str] = field(default_factory=list)

    def config(self, edit: Edit) -> dict[str, Any]:
        """What was asked, with the inverter's defaults filled in."""
        asked, own = self.sampling, self.inverter
        return {
            "steps": asked.steps if asked.steps is not None else own.steps,
            "guidance": asked.guidance if asked.guidance is not None else own.guidance,
            "strength": asked.strength if asked.strength is not None else own.strength,
            "pull": asked.pull, "best_of": asked.best_of,
        } | edit.config()  # fmt: skip

    def tasks(self) -> Iterator[Task]:
        """Photo by photo, edit by edit, sample by sample."""
        card = self.maps.model.card
        for source in self.sources:
            for edit in self.edits:
                unit = unit_of(self.maps.layer, source)
                whole = content_key({
                    "recipe": RECIPE, "unit": unit, "photo": source.sha256, "method": METHOD, "seed": self.seed,
                    "config": {k: v for k, v in self.config(edit).items() if k not in ("mix", "paste")},
                    "edit": edit.kind, "weights": card.weights_sha256, "card": card.preprocessing(),
                    "inverter": self.inverter.identity,
                })  # fmt: skip
                for sample in range(self.n):
                    key = content_key({"set": whole, "sample": sample})
                    file = self.run.file(slug(unit), f"{METHOD}-{sample}-{key[:12]}")
                    yield Task(source, edit, sample, whole, key, file)

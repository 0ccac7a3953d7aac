"""Names units of a network and stores the suggestions in a run's folder: RUN/names.json and RUN/names.safetensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from entoptic.base.bounds import check_options
from entoptic.base.cache import content_key, load_cached, save_cached
from entoptic.base.files import check_inside
from entoptic.base.gradients import with_gradients
from entoptic.base.progress import Reporter, reporter
from entoptic.base.randomness import generator_for
from entoptic.base.unread import names_unread
from entoptic.errors import Unreadable, UserError, counted
from entoptic.images.photos import Photos
from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.models.sources import load
from entoptic.names.clip import ImageTextModel, OpenClip, photo_vectors
from entoptic.names.encoders import MINILM, TextEncoder, load_encoder
from entoptic.names.judge import SILENT, Space, split_photos, suggest
from entoptic.names.mapper import Mapper, MapRecipe, check_classes, fidelity, mapper_bytes, mapper_of, train_mapper
from entoptic.names.penultimate import find_penultimate
from entoptic.names.readings import Readings, check_count, photos_key, read_photos
from entoptic.names.records import FILE, Fidelity, Names, read_names
from entoptic.names.vocabulary import Vocabulary, load_vocabulary
from entoptic.runs.plan import run_name
from entoptic.runs.records import about_run
from entoptic.runs.store import Run
from entoptic.units.unit import Unit, bind

MAPPER = "names.safetensors"
TEMPLATE = "an image of a {}"
"""What a class's name stands in, as in the paper; words stand alone."""
CLIP_TEMPLATE = "a photo of a {}"
_VERSION = 1


@names_unread
@with_gradients
def name(
    model: str | nn.Module | Model,
    units: Any,
    *,
    photos: Any,
    out: str | Path | None = None,
    encoder: str | TextEncoder = MINILM,
    clip: str | ImageTextModel | None = None,
    words: str | Path | Iterable[str] | None = None,
    remove: str = "hypernyms",
    n: int = 1500,
    features: str = "",
    control: bool = True,
    recipe: MapRecipe | None = None,
    seed: int = 0,
    device: str = "auto",
    card: Card | None = None,
    progress: bool = True,
) -> Names:
    """Suggests a name for each unit, judged on photos that it was not chosen on.

    Names are stored in the run's folder as `names.json`, those of earlier calls with the same settings beside the new ones. Photos
    are read once; the map is trained once for a network and its photos.

    Args:
        model: anything `load` takes.
        units: one or several strings of the unit grammar, or units.
        photos: real photos, anything `Photos.open` takes; labels are not read.
        out: the run's folder (default `runs/MODEL`).
        encoder: of texts: "minilm", a name or folder that sentence-transformers loads, or an encoder.
        clip: name units by a CLIP model instead of the map: "MODEL:PRETRAINED" of open_clip, or a model.
        words: a text file with a word a line, or words; None for the shipped ones.
        remove: what is left out of the words: "hypernyms" of the classes (with synonyms and names), "synonyms" (with names),
            "names" or "nothing".
        n: photos read at most.
        features: layer whose mean over positions the map reads; "" for what the last linear layer reads.
        control: also train a map on shuffled class names, and tell what each name predicts under it.
        recipe: of the map's training; None for the defaults.
        seed: of all draws; it takes the place of the recipe's.
        device: "auto", "cpu", "cuda:1", ….
        card: of a bare `nn.Module`.
        progress: show how far the work is.

    Returns:
        The suggestions for these units, in order.

    Raises:
        UserError: bad input: a network without class names, too few photos, units that are all silent, a missing package.
    """
    check_options(n=n, seed=seed)
    subject = load(model, card, device=device)
    bound = bind(subject, units)
    opened = Photos.open(photos)
    check_count(min(n, len(opened)), opened)
    run = Run(out if out is not None else Path("runs") / run_name(subject))
    labels = check_classes(subject.card.labels, subject.card.name) if clip is None else (subject.card.labels or ())
    vocabulary = load_vocabulary(words, labels=labels, remove=remove)
    with reporter(progress) as report:
        job: _ByMap | _ByClip
        if clip is None:
            encoding = load_encoder(encoder) if isinstance(encoder, str) else encoder
            job = _ByMap(
                subject, labels, encoding, vocabulary, replace(recipe or MapRecipe(), seed=seed), features, control
            )
        else:
            seeing = OpenClip(clip, subject.device) if isinstance(clip, str) else clip
            job = _ByClip(subject, seeing, vocabulary, seed)
        key = content_key(
            {"what": "names", "photos": photos_key(subject, opened, n), "words": vocabulary.sha256, "seed": seed}
            | job.about()
        )
        _held(run, key)
        made = _named(job, bound, opened, n, seed, key, report)
        return _stored(run, subject, made, job.mapper)


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What names are chosen and judged in."""

    space: Space
    readings: Readings
    fidelity: Fidelity | None


class _ByMap:
    """By a map into a text encoder's space."""

    way = "map"

    def __init__(
        self, model: Model, labels: Sequence[str], encoder: TextEncoder, vocabulary: Vocabulary, recipe: MapRecipe,
        features: str, control: bool,
    ) -> None:  # fmt: skip
        self.model, self.labels, self.encoder, self.vocabulary = model, labels, encoder, vocabulary
        self.recipe, self.control = recipe, control
        self.where = find_penultimate(model, features)
        self.mapper: Mapper | None = None
        self.photos_key = ""

    def about(self) -> dict[str, Any]:
        return {
            "version": _VERSION, "way": self.way, "encoder": self.encoder.identity, "recipe": asdict(self.recipe),
            "features": self.where.layer,
            "labels": list(self.labels), "control": self.control,
        }  # fmt: skip

    def find(self, units: Sequence[Unit], photos: Photos, n: int, seed: int, report: Reporter) -> _Found:
        readings = read_photos(self.model, units, photos, where=self.where, most=n, progress=report.progress)
        if not bool(readings.features_NC.isfinite().all() and readings.logits_NK.isfinite().all()):
            raise UserError(
                f"the outputs of {self.model.card.name} are no finite numbers on photos in {photos.source}, so no map can be "
                "trained on them; check its weights and its card (`entoptic check`)"
            )
        chosen, judged = split_photos(len(readings.photos), seed)
        self.photos_key = photos_key(self.model, photos, n)
        classes, words = self._texts(report)
        self.mapper = self._map(readings, chosen, classes, "", report)
        shuffled = None
        if self.control:
            order = torch.randperm(len(classes), generator=generator_for("shuffled class names", seed, len(classes)))
            shuffled = self._map(readings, chosen, classes[order], "shuffled", report)(readings.features_NC)
        told = fidelity(self.mapper, readings.features_NC[judged], readings.logits_NK[judged], classes)
        space = Space(
            photos_Nm=self.mapper(readings.features_NC), words_Vm=words, chosen_on=chosen, judged_on=judged,
            shuffled_Nm=shuffled,
        )  # fmt: skip
        return _Found(space=space, readings=readings, fidelity=told)

    def _texts(self, report: Reporter) -> tuple[Tensor, Tensor]:
        """Text vectors of the classes and of the words."""
        texts = [*(TEMPLATE.format(label) for label in self.labels), *self.vocabulary.words]
        key = content_key({"what": "texts", "encoder": self.encoder.identity, "texts": texts})
        if (held := load_cached("names", key, {"vectors": 2})) is None:
            report.progress("encoding words", 0, 1)
            held = {"vectors": torch.as_tensor(self.encoder.encode(texts)).float()}
            save_cached("names", key, held)
            report.progress("encoding words", 1, 1)
        return held["vectors"][: len(self.labels)], held["vectors"][len(self.labels) :]

    def _map(self, readings: Readings, chosen: Tensor, classes: Tensor, what: str, report: Reporter) -> Mapper:
        key = content_key({"what": f"map {what}", "photos": self.photos_key, "chosen": chosen.tolist()} | self.about())
        if (held := load_cached("names", key, {"first.weight": 2})) is not None and (
            known := mapper_of(held)
        ) is not None:
            return known
        made = train_mapper(
            readings.features_NC[chosen], readings.logits_NK[chosen], classes, self.recipe, linear=self.where.linear,
            progress=lambda _, done, total: report.progress(f"training the {what} map".replace("  ", " "), done, total),
        )  # fmt: skip
        save_cached("names", key, dict(made.state_dict()))
        return made


class _ByClip:
    """By a CLIP model."""

    way = "clip"
    mapper: Mapper | None = None

    def __init__(self, model: Model, clip: ImageTextModel, vocabulary: Vocabulary, seed: int) -> None:
        self.model, self.encoder, self.vocabulary, self.seed = model, clip, vocabulary, seed

    def about(self) -> dict[str, Any]:
        return {"version": _VERSION, "way": self.way, "encoder": self.encoder.identity}

    def find(self, units: Sequence[Unit], photos: Photos, n: int, seed: int, report: Reporter) -> _Found:
        readings = read_photos(self.model, units, photos, where=None, most=n, progress=report.progress)
        read, vectors = photo_vectors(self.encoder, photos, readings.photos, report.progress)
        if tuple(read) != readings.photos:
            raise Unreadable(f"photos in {photos.source} could be read once and not again; start again")
        chosen, judged = split_photos(len(read), seed)
        texts = self.encoder.encode_texts([CLIP_TEMPLATE.format(word) for word in self.vocabulary.words])
        space = Space(
            photos_Nm=vectors, words_Vm=texts, chosen_on=chosen, judged_on=judged, scale=self.encoder.scale
        )  # fmt: skip
        return _Found(space=space, readings=readings, fidelity=None)


def _named(
    job: _ByMap | _ByClip, units: list[Unit], photos: Photos, n: int, seed: int, key: str, report: Reporter
) -> Names:
    found = job.find(units, photos, n, seed, report)
    vocabulary, model = job.vocabulary, job.model
    suggestions = suggest(found.space, vocabulary.words, [str(unit) for unit in units], found.readings.scores_NU, seed)
    if all(one.reason == SILENT for one in suggestions):
        silent = ", ".join(one.unit for one in suggestions[:3])
        raise UserError(
            f"{silent} {'is' if len(suggestions) == 1 else 'are'} silent: the score is the same on all "
            f"{counted(len(found.readings.photos), 'photo')} in {photos.source}; give other photos, or name another unit"
        )
    return Names(
        key=key, model=model.card.name, weights=model.card.weights_sha256, way=job.way, encoder=job.encoder.name,
        encoder_identity=job.encoder.identity,
        vocabulary={
            "source": vocabulary.source, "sha256": vocabulary.sha256, "words": len(vocabulary.words),
            "remove": vocabulary.remove, "removed": vocabulary.removed,
        },
        photos=Path(photos.source).name, named_on=len(found.space.chosen_on), judged_on=len(found.space.judged_on), seed=seed,
        fidelity=found.fidelity, suggestions=tuple(suggestions), unread=found.readings.unread,
    )  # fmt: skip


def _held(run: Run, key: str) -> Names | None:
    """Names that the folder holds.

    Raises:
        UserError: they were made with other settings.
    """
    file = run.path / FILE
    if not file.exists():
        return None
    held = read_names(check_inside(file, run.path))
    if held.key != key:
        raise UserError(
            f"{file} holds names of {held.model} by {held.encoder} on {held.named_on + held.judged_on} photos of "
            f"{held.photos}, made with other settings; give another --out, or delete it"
        )
    return held


def _stored(run: Run, model: Model, made: Names, mapper: Mapper | None) -> Names:
    """Writes names beside those that the folder holds."""
    with run.writing(about_run(model)):
        held = _held(run, made.key)
        if mapper is not None:
            run.put(run.path / MAPPER, mapper_bytes(mapper, made.key))
        run.put(run.path / FILE, (held.with_more(made) if held else made).to_bytes())
    return replace(made, path=run.path / FILE)

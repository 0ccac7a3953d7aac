"""Concept steering as a run: photos, an inverter and a dictionary in, pictures with their measurements out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor, nn

from entoptic.base.bounds import check_options, whole_number
from entoptic.base.cache import content_key
from entoptic.base.files import check_inside, file_exists, folder_exists, user_path
from entoptic.base.gradients import with_gradients
from entoptic.base.progress import reporter
from entoptic.base.unread import names_unread
from entoptic.errors import Unreadable, UserError
from entoptic.images.photo_folders import is_archive
from entoptic.images.photos import Photos, Skipped
from entoptic.inversion.configs import Steer
from entoptic.inversion.maps import FeatureMaps
from entoptic.inversion.saved import find_inverter, prior_record
from entoptic.inversion.steer import check_concept
from entoptic.inversion.targets import EditTarget, PhotoFile, PhotoReader
from entoptic.methods import find_method
from entoptic.methods.contract import Failure, FailureCode, Item
from entoptic.methods.steer import SteerConcepts, photo_of
from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.models.sources import load
from entoptic.runs.again import Again
from entoptic.runs.decoding_time import DecodingTime, decoding_time
from entoptic.runs.edit_items import DISCOVERED, RECIPE, Concepts, EditItems, identity_of
from entoptic.runs.execute import execute, split
from entoptic.runs.plan import Job, Plan, run_name
from entoptic.runs.records import about_run
from entoptic.runs.store import Run, Unwritable, writable
from entoptic.units.near_labels import nearest_label
from entoptic.workers.count import Workers

if TYPE_CHECKING:
    from entoptic.inversion.inverter import Inverter
    from entoptic.units.dictionary import Dictionary

STRONGEST = 3  # concepts steered where none is named


@names_unread
@with_gradients
def steer(
    model: str | nn.Module | Model,
    layer: str,
    photos: Any,
    *,
    dictionary: str | Path | Dictionary | None = None,
    class_name: str | int = "",
    class_photos: Any = None,
    concepts: Sequence[int | str] = (),
    discover: int = DISCOVERED,
    inverter: str | Inverter | None = None,
    prior: str | None = None,
    config: Steer | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    card: Card | None = None,
    context: bool = True,
    progress: bool = True,
    dry_run: bool = False,
    workers: int | str | Workers | None = None,
) -> Run:
    """Steers concepts of photos' feature maps and stores what changes in the pictures, where, and whether it is chance.

    The picture of each photo and concept is the decoded edit of the first seed; beside it, as maps, lie the photo, the
    decoded original, the difference over the photo with the outline of the affected region, and the sweep.

    Args:
        model: as in `see`.
        layer: with a map over the picture, the one that the inverter inverts.
        photos: files, a folder, or anything `Photos.open` takes.
        dictionary: any `Dictionary`, or its file. Without one, concepts of a class are discovered and kept in the run.
        class_name: name or number of the logit whose concepts are discovered.
        class_photos: photos on which they are discovered.
        concepts: numbers or names in the dictionary; () takes the three that are strongest in each photo.
        discover: how many concepts of the class; 0 takes the fewest that are complete.
        inverter: `builtin:NAME`, `file:FOLDER` or an `Inverter`; None is the one that is shipped for the layer.
        prior: where the prior that the inverter was trained on is now, if not where its card says; another is refused.
        config: options of the steering; None for the defaults.
        out: as in `see`.
        device: as in `see`.
        card: as in `see`.
        context: store a small copy of the photo for the gallery; turn it off where a run is published whose photos may
            not be.
        progress: show how far the work is, and before it how long it will take.
        dry_run: only say how long it will take; nothing is made.
        workers: as in `see`.

    Returns:
        The run. Photos that failed are named in `run.failures`; the others are finished.

    Raises:
        UserError: bad input, or nothing could be made.
    """
    config, shared = config or Steer(), Workers.parse(workers)
    check_options(concepts=discover)
    subject = load(model, card, device=device)
    maps = FeatureMaps.of(subject, layer)
    opened = _open(photos)
    if dictionary is None and (class_name == "" or class_photos is None):
        raise UserError(
            "steering needs concepts: give a dictionary (--dictionary FILE), or a class and photos of it to discover "
            'them on (--class "golden retriever" --photos FOLDER)'
        )
    run = Run(out if out is not None else Path("runs") / f"{run_name(subject)}-steer")
    known, where = (None, "") if dictionary is None else _loaded(dictionary, maps)
    if known is not None:
        check_dictionary(known, maps, where)
        _numbers(known, concepts)
    class_index = _class(subject, class_name) if known is None else -1
    decoder, _ = find_inverter(inverter, maps, prior)
    with reporter(progress or dry_run) as report:
        if dry_run:
            each = len(concepts) or min(STRONGEST, len(known.names) if known is not None else discover or STRONGEST)
            report.note(f"{_time(decoder, len(opened), len(opened) * each, config)}; nothing was made")
            return run
        if known is None:
            with run.writing(about_run(subject)):
                known, where = _discover(run, maps, class_index, class_photos, discover)
        given = {
            "layer": layer, "dictionary": where if dictionary is None else dictionary, "class_name": class_name,
            "class_photos": class_photos, "discover": discover, "concepts": concepts, "prior": prior, "config": config,
            "out": run.path, "context": context,
        }  # fmt: skip
        plan = _plan(
            maps, opened, known, where, decoder, **{k: v for k, v in given.items() if k not in ("layer", "dictionary")}
        )
        here = {"model": model, "card": card, "device": device, "photos": photos, "inverter": inverter}
        plan = replace(plan, again=Again(make_steering_plan, given | here))
        left = [entry.item for job in plan.jobs for entry in split(run, plan.entries(job))[1]]
        if left and progress:
            report.note(str(_time(decoder, len({photo_of(item) for item in left}), len(left), config)))
        try:
            return execute(plan, report, shared)
        except Unwritable:
            raise
        except UserError as error:
            raise UserError(f"no photo could be steered: {error}") from None


def make_steering_plan(
    model: str | nn.Module | Model,
    layer: str,
    photos: Any,
    *,
    dictionary: Any,
    inverter: str | Inverter | None = None,
    prior: str | None = None,
    card: Card | None = None,
    device: str = "auto",
    **asked: Any,
) -> Plan:
    """Loads what is steered once its concepts are known, and makes nothing: for workers, who do as `steer` did.

    Args:
        dictionary: the concepts, or their file.
        asked: what `_plan` takes. The others: see `steer`.

    Raises:
        UserError: it cannot be loaded here.
    """
    maps = FeatureMaps.of(load(model, card, device=device), layer)
    decoder, _ = find_inverter(inverter, maps, prior)
    return _plan(maps, _open(photos), *_loaded(dictionary, maps), decoder, prior=prior, **asked)


def _plan(
    maps: FeatureMaps,
    opened: Photos,
    known: Any,
    where: str,
    decoder: Inverter,
    *,
    class_name: str | int,
    class_photos: Any,
    discover: int,
    concepts: Sequence[int | str],
    prior: str | None,
    config: Steer,
    out: Path,
    context: bool,
) -> Plan:
    """What is steered: concepts of every photo that can be read."""
    concepts_of_run = Concepts(
        dictionary=known, source=where, identity=identity_of(known, maps.channels), class_name=class_name,
        class_photos=class_photos, discover=discover,
    )  # fmt: skip
    numbers = {opened.sha256(index): index for index in range(len(opened))}

    def image(photo: PhotoFile) -> Image.Image:
        found = opened.read(numbers[photo.sha256])
        if found is None:
            raise Unreadable(f"{photo.path} cannot be read")
        return found

    reader = PhotoReader(maps, (), image)
    named = _numbers(known, concepts)
    items: list[Item] = []
    for sha, index in numbers.items():
        photo = PhotoFile(opened[index].name, sha)
        try:
            readout = reader(photo)
        except Unreadable:  # it is in `opened.skipped`
            continue
        items += [
            Item(
                target=EditTarget(layer=maps.layer, photo=photo, source=where, concept=k, name=str(known.names[k])),
                sample=0, seed=config.seed,
            )
            for k in named or strongest(known, readout.map_Chw[None])
        ]  # fmt: skip
    failures = [_skipped(photo) for photo in opened.skipped if photo.is_photo]
    kind = EditItems(
        maps=maps, inverter=decoder, prior=prior_record(decoder, prior), concepts=concepts_of_run, photos=reader,
        photos_source=opened.source, store_photos=context,
    )  # fmt: skip
    steering = SteerConcepts(**{one.name: getattr(config, one.name) for one in fields(Steer)})
    return Plan(
        model=maps.model, kind=kind, jobs=[Job(card=find_method("steer"), config=steering, items=items)], run=Run(out),
        batch_size=config.batch_size, failures=failures,
    )  # fmt: skip


# --- what was asked for ----------------------------------------------------------------------------------------------


def _time(decoder: Inverter, photos: int, edits: int, config: Steer) -> DecodingTime:
    """How long the decoding takes: each seed decodes the map of each photo and every edit of it."""
    scales = sum(scale != 1 for scale in config.all_scales)
    decoded = config.n * (photos + edits * (scales + (1 + config.nulls if config.nulls else 0)))
    return decoding_time(decoder, decoded, steps=config.steps, guidance=config.guidance, readings=2)


def _skipped(photo: Skipped) -> Failure:
    return Failure(method="steer", code=FailureCode.UNREADABLE, text=f"{photo.name}: {photo.reason}")


def _open(photos: Any) -> Photos:
    if isinstance(photos, (list, tuple)) and len(photos) == 1 and folder_exists(user_path(str(photos[0]))):
        photos = photos[0]
    if isinstance(photos, (str, Path)) and file_exists(user_path(photos)):
        # A single picture is a list of one file; tables are told by their ending.
        photos = photos if Path(photos).suffix.lower() in (".parquet", ".csv") or is_archive(photos) else [photos]
    return photos if isinstance(photos, Photos) else Photos.open(photos)


def _loaded(dictionary: Any, maps: FeatureMaps) -> tuple[Any, str]:
    if not isinstance(dictionary, (str, Path)):
        return dictionary, str(dictionary.layer)
    from entoptic.units.dictionary import load_dictionary

    return load_dictionary(dictionary), str(dictionary)


def check_dictionary(dictionary: Any, maps: FeatureMaps, where: str) -> None:
    """Refuses a dictionary of another layer or of other weights, which may have the right shape by chance."""
    from entoptic.units.dictionary import check_writes_own_layer

    if dictionary.layer != maps.layer:
        raise UserError(
            f"the dictionary {where} is of {dictionary.layer}, not of {maps.layer}; did you mean the layer "
            f'"{dictionary.layer}"?'
        )
    check_writes_own_layer(dictionary, "steering")
    own = maps.model.card.identity
    if dictionary.model_sha256 and not maps.model.card.is_named_by(dictionary.model_sha256):
        raise UserError(
            f"the dictionary {where} was found on weights {dictionary.model_sha256[:12]}, but {maps.model.card.name} has "
            f"{own[:12]}: its concepts mean nothing there"
        )


def _numbers(dictionary: Any, concepts: Sequence[int | str]) -> list[int]:
    """Numbers of concepts given by number or name, each once."""
    found = []
    for one in concepts:
        text = str(one).strip()
        if text in dictionary.names:
            found.append(dictionary.names.index(text))
        elif (number := whole_number(text)) is not None:
            check_concept(dictionary, number)
            found.append(number)
        else:
            some = ", ".join(map(str, dictionary.names[:8]))
            raise UserError(f'no concept "{text[:80]}"; there are {some}{nearest_label(text, dictionary.names)}')
    return list(dict.fromkeys(found))


def _class(model: Model, name: str | int) -> int:
    """The logit of a class given by number or name."""
    text = str(name).strip()
    if (number := whole_number(text)) is not None:
        if not 0 <= number < model.outputs:
            raise UserError(f"{model.card.name} has classes 0 to {model.outputs - 1}, not {number}")
        return number
    found = model.card.find_label(text)
    if len(found) != 1:
        labels = model.card.labels or ()
        several = ", ".join(f"{i} ({labels[i]})" for i in found[:6])
        raise UserError(
            f'"{text}" is {f"more than one class of {model.card.name}: {several}" if found else f"no class of {model.card.name}"}'
            + (nearest_label(text, labels) if not found else "")
        )
    return found[0]


def _discover(run: Run, maps: FeatureMaps, class_index: int, photos: Any, count: int) -> tuple[Any, str]:
    """The concepts of a class, from the run where it holds them already."""
    from entoptic.inversion.class_concepts import concepts_of
    from entoptic.units.concepts import Mcd
    from entoptic.units.dictionary import load_dictionary, save

    config, opened = Mcd(concepts=count), Photos.open(photos)
    key = content_key({
        "recipe": RECIPE, "weights": maps.model.card.identity, "layer": maps.layer, "class": class_index,
        "photos": opened.fingerprint(), "discovery": asdict(config),
    })  # fmt: skip
    label = "".join(c if c.isalnum() else "-" for c in maps.model.card.label(class_index) or f"class {class_index}")
    file = run.path / "dictionaries" / f"{label[:40]}-{key[:8]}.safetensors"
    if not file_exists(file):
        found = concepts_of(maps.model, maps.layer, opened, class_index, config)
        check_inside(file, run.path)
        with writable(run.path):
            file.parent.mkdir(parents=True, exist_ok=True)
            save(found, file)
    return load_dictionary(file), str(file)


def strongest(dictionary: Any, map_1Chw: Tensor) -> list[int]:
    """The concepts that a photo's map holds most of, in the order of their parts' norms."""
    from entoptic.units.dictionary import norms

    return norms(dictionary, map_1Chw.flatten(2))[0].argsort(descending=True)[:STRONGEST].tolist()

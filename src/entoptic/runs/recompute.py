"""Computes the evidence of stored pictures once more, from their files and sidecars."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from PIL import Image

from entoptic.base.files import file_exists
from entoptic.base.pixels import quantise
from entoptic.base.progress import Reporter
from entoptic.errors import NotAvailable, UserError, counted
from entoptic.images.decode import decode
from entoptic.images.index import ActivationIndex
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.inversion.maps import FeatureMaps
from entoptic.inversion.null_edits import OWN_SIZE, find_test
from entoptic.inversion.saved import check_inverter
from entoptic.inversion.targets import Edit, EditTarget, MapTarget, PhotoFile, PhotoReader
from entoptic.methods import METHODS
from entoptic.methods.contract import EDIT, MAP, Draft, Item, recorded_config
from entoptic.methods.invert import Invert
from entoptic.methods.steer import SteerConcepts, steer_with
from entoptic.metrics import registry
from entoptic.metrics.evidence import Evidence
from entoptic.metrics.picture import measure_unit_picture
from entoptic.metrics.registry import PHOTOS, VERIFIERS, needing
from entoptic.metrics.steering import numbers
from entoptic.models.model import Model
from entoptic.models.sources import SOURCES, load
from entoptic.runs.earlier_forms import as_stored, earlier_identity
from entoptic.runs.edit_items import Concepts, EditItems, identity_of
from entoptic.runs.listing import SEAL
from entoptic.runs.map_items import MapItems, remeasure
from entoptic.runs.moved_files import MovedFiles, find_moved
from entoptic.runs.plan import Job
from entoptic.runs.records import model_record
from entoptic.runs.same import alike, same_numbers
from entoptic.runs.store import Picture, Run
from entoptic.runs.unit_items import ORDER, UnitItems, identity_of_photos, trace_of
from entoptic.runs.verify_files import wrong_names
from entoptic.units.dictionary import load_dictionary
from entoptic.units.unit import Unit, bind

if TYPE_CHECKING:
    from entoptic.inversion.inverter import Inverter


@dataclass(kw_only=True)
class Recomputed:
    """What was computed once more for one picture.

    Attributes:
        evidence: by name.
        not_comparable: why a metric cannot be compared, by name; "" where `notes` say it already.
        notes: what could not be recomputed, in words.
        drift: what differs from the record beside the evidence, in words.
    """

    evidence: dict[str, Evidence] = field(default_factory=dict)
    not_comparable: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    drift: list[str] = field(default_factory=list)


class Recompute:
    """Computes the evidence of a run's pictures once more. Networks, photos and inverters are loaded when first needed.

    Args:
        run: that holds the pictures.
        model: of a run whose network has no loadable name, or None.
        photos: where the photos are now, or None for where the sidecars say.
        inverter: of a run whose inverter has no loadable name, or None.
        prior: where the inverters' prior is now, or None for where the sidecars say.
        device: for everything that is loaded.
    """

    def __init__(
        self, run: Run, model: Model | None, photos: Any, inverter: Inverter | None, prior: str | None, device: str
    ) -> None:
        self._run, self._model, self._photos = run, model, photos
        self._inverter, self._prior, self._device = inverter, prior, device
        self._moved = MovedFiles(run.path)
        self._models: dict[str, Model] = {}
        self._references: dict[tuple[str, str, str], References] = {}
        self._inverters: dict[str, Inverter] = {}
        self._readers: dict[tuple[str, str, tuple[str, ...]], PhotoReader] = {}
        self._edits: dict[str, dict[str, Draft]] = {}
        self._opened: Photos | None = None

    def evidence(self, picture: Picture) -> Recomputed:
        """Computes the evidence of a picture.

        Raises:
            UserError: its network cannot be loaded, or has other weights.
            NotAvailable: something else that it needs is not there, so nothing can be recomputed.
        """
        record = picture.record
        card = METHODS.get(picture.method)
        kinds = card.units if card is not None else frozenset({""})
        model = self._network(record["model"])
        found = Recomputed()
        try:
            if EDIT in kinds:
                return self._of_edit(picture, model)
            verifiers = self._verifiers(record, found)
            if MAP in kinds:
                return self._of_map(picture, model, verifiers, found)
        except UserError as error:
            raise NotAvailable(str(error)) from None
        return self._of_unit(picture, model, verifiers, found)

    # --- units ----------------------------------------------------------------------------------------------------

    def _of_unit(self, picture: Picture, model: Model, verifiers: Sequence[Model], found: Recomputed) -> Recomputed:
        record = picture.record
        lost = bool(found.notes)
        measured_with = record.get("measured_with") or {}
        source, indexed = self._photos, None
        if source is None and (named := record.get("photos")):
            source = self._moved.photos(named, measured_with.get("photos"))
        if measured_with.get("index") and (named := record.get("index")):
            indexed = self._moved.index(named, measured_with["index"])
        references = self._references_of(model, source, indexed, found)
        try:
            (unit,) = bind(model, record["unit"])
        except UserError as error:
            if "unit" in taken_out(record):
                raise NotAvailable(f"the file of its unit is not part of this public copy ({error})") from None
            found.drift.append(f"its unit cannot be read ({error})")
            return found
        found.drift += self._identity_of_unit(picture, unit, references, found.notes)
        distribution = trace_of(record).distribution
        measured = measure_unit_picture(picture.pixels, unit, references, verifiers, distribution)
        found.evidence = {e.name: e for e in measured}
        of_photos, of_order, of_verifiers = needing(PHOTOS), needing(registry.ORDER), needing(VERIFIERS)
        order = None if references.photos is None else references.photos.order()
        index = references.index.key if references.index is not None else None
        for name in found.evidence:
            if name in of_photos and measured_with.get("index") != index:
                found.not_comparable[name] = f"{name} was measured against an index that is not there any more"
            elif name in of_photos and identity_of_photos(references) != measured_with.get("photos"):
                found.not_comparable[name] = f"{name} was measured against other photos; give them with --photos"
            elif name in of_order and measured_with.get(ORDER, order) != order:
                found.not_comparable[name] = (
                    f"{name} draws some of the photos in the order of their names, which have changed"
                )
            elif lost and name in of_verifiers:
                found.not_comparable[name] = ""
        return found

    def _identity_of_unit(self, picture: Picture, unit: Unit, references: References, notes: list[str]) -> list[str]:
        """What a sidecar says of its request that its key does not: the key is a hash of all of it."""
        record, model = picture.record, unit.model
        card = METHODS.get(picture.method)
        if card is None:  # of a method that is not installed here
            return []
        wrong = wrong_names(picture, unit.label, unit.layer, card)
        if record.get("readout") != unit.readout:
            wrong.append(f'it says that its readout is "{record.get("readout")}", and it is "{unit.readout}"')
        now = model_record(model)
        wrong += [
            f"it says that its network's {name} is {value}, and it is {now[name]}"
            for name, value in record["model"].items()
            if name in now and name != "name" and now[name] != value
        ]
        try:
            config = recorded_config(card, record["config"])
        except UserError as error:
            if SEAL not in record:
                notes.append(f"{picture.path.name}: its key is of an earlier form of {card.name} ({error})")
                return wrong
            return [*wrong, f"its settings are none of {card.name} ({error})"]
        steps, done = getattr(config, "steps", None), record["trace"].get("steps")
        if record.get("complete") and steps and done and card.reads.isdisjoint({"prior"}) and steps != done:
            wrong.append(f"it says that it took {counted(done, 'step')}, and its settings are {steps}")
        known = (record.get("measured_with") or {}).get("photos")
        lacks_behaviour = model.card.behaviour_sha256 and "behaviour_sha256" not in record["model"]
        if lacks_behaviour or ("prior" not in card.reads and identity_of_photos(references) != known):
            return wrong  # of a version before behaviour was part of the key, or the photos are others now
        if references.index is None and record.get("index") is not None:
            return wrong
        prior = SimpleNamespace(identity=record.get("prior_identity"), name=record.get("prior"))
        kind = UnitItems(
            model=model, references=references, prior=prior if record.get("prior_identity") else None,
            bank_seed=record.get("bank_seed") or 0,
        )  # fmt: skip
        job = Job(card=card, config=config, items=[])
        item = Item(target=unit, sample=record["sample"], seed=record["seed"], noise_of=record.get("noise_of") or "")
        if record["key"] in (kind.key(job, item), kind.key(as_stored(job, record["config"]), item)):
            return wrong
        if "prior" in card.reads and not record.get("prior_identity") and SEAL not in record:
            notes.append(f"{picture.path.name}: its key depends on a prior whose identity was not recorded then")
        elif "unit" not in taken_out(record):
            wrong.append("its key does not follow from its unit, method, settings, seed, network and photos")
        return wrong

    def _references_of(self, model: Model, source: Any, indexed: str | None, found: Recomputed) -> References:
        """References as the run had them; without its index where that is gone or does not fit any more."""
        key = (model.card.identity, str(source or ""), indexed or "")
        if key not in self._references:
            photos = None
            try:
                photos = source if isinstance(source, Photos) else Photos.open(source) if source else None
            except UserError as error:
                found.notes.append(f"photos: {error}")
            try:
                index = ActivationIndex.open(indexed) if indexed else None
                self._references[key] = References(model, photos, index=index)
            except UserError as error:
                found.notes.append(f"index: {error}")
                self._references[key] = References(model, photos)
        return self._references[key]

    # --- feature maps ---------------------------------------------------------------------------------------------

    def _of_map(self, picture: Picture, model: Model, verifiers: Sequence[Model], found: Recomputed) -> Recomputed:
        record, lost = picture.record, bool(found.notes)
        inverter = self._inverter_of(record["inverter"], model)
        maps = FeatureMaps.of(model, record["layer"])
        check_inverter(inverter, maps)
        kind = MapItems(
            maps=maps, inverter=inverter, inverter_source="", prior={}, verifiers=list(verifiers),
            photos=self._reader(maps, verifiers),
        )  # fmt: skip
        photo = PhotoFile(record["photo"]["path"], record["photo"]["sha256"])
        target = MapTarget(layer=record["layer"], photo=photo, edit=Edit.of(record["config"]))
        found.drift += wrong_names(picture, target.label, target.layer, METHODS[picture.method])
        known = {one.name for one in fields(Invert)}
        job = Job(
            card=METHODS[picture.method],
            config=Invert(**{name: value for name, value in record["config"].items() if name in known}), items=[],
        )  # fmt: skip
        if "unit" in taken_out(record):
            found.notes.append(
                f"{picture.path.name}: its key follows from the path of its photo, which is not in this copy"
            )
        elif kind.key(job, Item(target=target, sample=record["sample"], seed=record["seed"])) != record["key"]:
            found.drift.append("its key does not follow from its photo, settings, seed, network and inverter")
        found.evidence = remeasure(self._run, picture, kind)
        recorded = {e["name"] for e in record["evidence"]}
        if "sample_sd" in recorded and "sample_sd" not in found.evidence:
            found.drift.append("a sample that sample_sd was measured on is gone or was changed")
            found.not_comparable["sample_sd"] = ""
        if lost:
            found.not_comparable |= dict.fromkeys(needing(VERIFIERS), "")
        return found

    # --- edits of maps --------------------------------------------------------------------------------------------

    def _of_edit(self, picture: Picture, model: Model) -> Recomputed:
        """An edit is made again: its numbers are of decoded pictures of several seeds, which no run stores."""
        record, found = picture.record, Recomputed()
        inverter = self._inverter_of(record["inverter"] | {"source": record["inverter"]["name"]}, model)
        maps = FeatureMaps.of(model, record["layer"])
        check_inverter(inverter, maps)
        concepts = self._concepts(record["dictionary"], maps)
        kind = EditItems(
            maps=maps, inverter=inverter, prior={}, concepts=concepts, photos=self._reader(maps, ()),
            test=find_test(_version_of(record)),
        )  # fmt: skip
        label = str(concepts.dictionary.names[int(record["unit"].rpartition("):")[2])])
        found.drift += wrong_names(picture, label, maps.layer, METHODS[picture.method])
        group = _group(picture)
        if group not in self._edits:
            self._edits[group] = self._made_again(kind, [p for p in self._run if _group(p) == group])
        draft = self._edits[group].get(record["key"])
        if draft is None and inverter.identity == earlier_identity(inverter) and SEAL not in record:
            raise NotAvailable("it was made by an earlier form of steer, which this version does not make again")
        if draft is None:
            found.drift.append("its key does not follow from its unit, photo, settings and network")
            return found
        if draft.failure is not None:
            raise NotAvailable(draft.failure.text)
        found.evidence = {e.name: e for e in kind.measure(_job(record), draft, picture.pixels, {})}
        assert draft.image is not None
        if not alike(quantise(draft.image), picture.pixels):
            found.drift.append("its pixels are not those that its settings make")
        again = numbers(draft.made, concepts.dictionary.names, model.card)
        if not same_numbers(record.get("steering"), json.loads(json.dumps(again))):
            found.drift.append("its steering numbers are not those that its settings make")
        return found

    def _made_again(self, kind: EditItems, pictures: Sequence[Picture]) -> dict[str, Draft]:
        """The edits of one photo by one dictionary, by the keys that follow from their records."""
        job = _job(pictures[0].record)
        items = []
        for one in pictures:
            record = one.record
            photo = PhotoFile(self._path_of(record["photo"]), record["photo"]["sha256"])
            source, _, concept = record["unit"].rpartition("):")
            target = EditTarget(
                layer=record["layer"], photo=photo, source=source.removeprefix("dict("), concept=int(concept),
                name=record.get("label"),
            )  # fmt: skip
            items.append(Item(target=target, sample=record["sample"], seed=record["seed"]))
        context = kind.context(job, Reporter(), len(items), job.config.batch_size)  # type: ignore[attr-defined]
        assert isinstance(job.config, SteerConcepts)
        drafts = steer_with(kind.test, items, job.config, context)
        return {kind.key(job, draft.item): draft for draft in drafts}

    def _concepts(self, entry: Mapping[str, Any], maps: FeatureMaps) -> Concepts:
        source = Path(entry["source"])

        def fits(place: str) -> bool:
            return identity_of(load_dictionary(place), maps.channels) == entry["identity"]

        inside = self._run.path / "dictionaries" / source.name
        dictionary = load_dictionary(find_moved(entry["source"], self._run.path, fits, [inside]))
        identity = identity_of(dictionary, maps.channels)
        if identity != entry["identity"]:
            raise NotAvailable(f"the dictionary {source} has changed since the picture was made")
        return Concepts(dictionary=dictionary, source=entry["source"], identity=identity)

    # --- what they share ------------------------------------------------------------------------------------------

    def _network(self, entry: Mapping[str, Any]) -> Model:
        """The network that a sidecar names: the same weights, and the same behaviour where the sidecar holds one."""
        name, weights, behaviour = entry["name"], entry["weights_sha256"], entry.get("behaviour_sha256")
        if self._model is None and name.partition(":")[0] not in SOURCES:
            raise UserError(
                f'the run is of "{name}", a network that was given as a module and has no name to load it by: give it again, '
                "entoptic.verify(run, model=model)"
            )
        if self._model is None and name not in self._models:
            self._models[name] = load(name, device=self._device)
        model = self._model or self._models[name]
        now = "than those given" if self._model is not None else "than it has now"
        if model.card.weights_sha256 != weights:
            raise UserError(f"the run was made with other weights of {name} {now}")
        if behaviour is not None and model.card.behaviour_sha256 != behaviour:
            raise UserError(
                f"the run was made with another network of the same weights as {name} {now}: its activations, strides, head "
                "or forward differ"
            )
        return model

    def _load(self, name: str, sha256: str) -> Model:
        if name not in self._models:
            self._models[name] = load(name, device=self._device)
        card = self._models[name].card
        # A run of a version before behaviour was part of the identity knows the weights alone.
        if sha256 not in (card.identity, card.with_(behaviour_sha256="").identity):
            raise UserError(f"{name} has other weights now than when the run was made")
        return self._models[name]

    def _verifiers(self, record: Mapping[str, Any], found: Recomputed) -> list[Model]:
        """Those that can be loaded; the others are in `found.notes`."""
        verifiers = []
        for name, sha in ((record.get("measured_with") or {}).get("verifiers") or {}).items():
            try:
                verifiers.append(self._load(name, sha))
            except UserError as error:
                found.notes.append(f"transfer: {error}")
        return verifiers

    def _inverter_of(self, entry: Mapping[str, Any], model: Model) -> Inverter:
        held = self._inverter or self._inverters.get(entry["source"])
        if held is None:
            held = self._inverters[entry["source"]] = self._load_inverter(entry, model)
        if held.identity != entry["identity"]:
            if earlier_identity(held) == entry["identity"]:
                return replace(held, identity=entry["identity"])
            raise NotAvailable(f"the inverter {entry['name']} has changed since the picture was made")
        return held

    def _load_inverter(self, entry: Mapping[str, Any], model: Model) -> Inverter:
        from entoptic.inversion.saved import load_inverter

        there = entry.get("prior")
        if self._prior is None and there is not None:
            with contextlib.suppress(UserError):  # it may have moved since, while the inverter's card says where it is
                return load_inverter(entry["source"], model=model, prior=there, device=self._device)
        try:
            return load_inverter(entry["source"], model=model, prior=self._prior, device=self._device)
        except UserError as error:
            raise NotAvailable(f"recomputing it needs its inverter: {error}") from None

    def _reader(self, maps: FeatureMaps, verifiers: Sequence[Model]) -> PhotoReader:
        key = (maps.model.card.identity, maps.layer, tuple(v.card.identity for v in verifiers))
        if key not in self._readers:
            self._readers[key] = PhotoReader(maps, verifiers, self._image)
        return self._readers[key]

    def _path_of(self, entry: Mapping[str, Any]) -> str:
        """Where a photo of a set lies, as far as a path says it."""
        name, sha256 = str(entry["name"]), str(entry["sha256"])
        inside = self._moved.photo(str(Path(str(entry["source"])) / name), sha256) if entry.get("source") else name
        return inside if file_exists(inside) else name

    def _image(self, photo: PhotoFile) -> Image.Image:
        """A photo by its path, else among the photos that were given, told by the hash of its bytes."""
        path = Path(self._moved.photo(photo.path, photo.sha256))
        with contextlib.suppress(OSError, ValueError):
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() == photo.sha256:
                return decode(data)
        if self._photos is not None:
            if self._opened is None:
                self._opened = self._photos if isinstance(self._photos, Photos) else Photos.open(self._photos)
            moved = self._opened
            order = sorted(range(len(moved)), key=lambda i: Path(moved[i].name).name != path.name)
            for index in order:
                if moved.sha256(index) == photo.sha256 and (image := moved.read(index)) is not None:
                    return image
        there = "was changed" if file_exists(path) else "is not there any more"
        raise NotAvailable(f"the photo {path} {there}; give the folder that it is in with --photos")


def taken_out(record: Mapping[str, Any]) -> Sequence[str]:
    """Returns which entries of a sidecar `export` has changed: none in a run that is no public copy."""
    changed = record.get("exported")
    return changed if isinstance(changed, list) else ()


def _group(picture: Picture) -> str:
    """What all edits share that are made again together; "" for other pictures."""
    record = picture.record
    if picture.method != "steer":
        return ""
    names = ("config", "photo", "inverter", "dictionary")
    return json.dumps([_version_of(record), *(record.get(name) for name in names)], sort_keys=True)


def _version_of(record: Mapping[str, Any]) -> Any:
    """The version of an edit's test of chance. Records of the first do not name it; without random edits it has no bearing."""
    steering = record.get("steering")
    calibration = steering.get("calibration") if isinstance(steering, Mapping) else None
    return calibration.get("version", OWN_SIZE.version) if isinstance(calibration, Mapping) else OWN_SIZE.version


def _job(record: Mapping[str, Any]) -> Job:
    known = {one.name for one in fields(SteerConcepts)}
    options = {name: value for name, value in record["config"].items() if name in known}
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    return Job(card=METHODS["steer"], config=SteerConcepts(**options), items=[])

"""Concept steering as a run: photos, an inverter and a dictionary in, pictures with their measurements out."""

from __future__ import annotations

import hashlib
import shlex
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn

from entoptic.base.cache import content_key
from entoptic.base.pixels import centre_square, opaque, quantise
from entoptic.base.progress import Reporter, reporter
from entoptic.errors import UserError, nearest
from entoptic.images.photos import Photos
from entoptic.inversion.configs import Steer
from entoptic.inversion.maps import FeatureMaps
from entoptic.inversion.saved import find_inverter, prior_record
from entoptic.inversion.steer import Steering, check_concept, steer_concepts
from entoptic.metrics.steering import evidence, numbers
from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.models.sources import load
from entoptic.plots.steering import drawn
from entoptic.runs.records import model_record, version, versions
from entoptic.runs.store import FORMAT, Run, writable
from entoptic.units.unit import slug

if TYPE_CHECKING:
    from entoptic.inversion.inverter import Inverter
    from entoptic.units.dictionary import Dictionary

RECIPE = 2
"""Raised whenever steering makes or measures something else from the same config."""
PAPER = "FeatInv"
STRONGEST = 3  # concepts steered where none is named
DISCOVERED = 4  # concepts of a class: the rule of completeness often stops at one, which leaves nothing to tell apart


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
) -> Run:
    """Steers concepts of photos' feature maps and stores what changes in the pictures, where, and whether it is chance.

    The picture of each photo and concept is the decoded edit of the first seed; beside it, as maps, lie the photo, the
    decoded original, the difference over the photo with the outline of the affected region, and the sweep.

    Args:
        model, device, card: as in `see`. layer: with a map over the picture, the one that the inverter inverts.
        photos: files, a folder, or anything `Photos.open` takes.
        dictionary: any `Dictionary`, or its file. Without one, concepts of class `class_name` (a name or number of a
            logit) are discovered on `class_photos` and kept in the run.
        concepts: numbers or names in the dictionary; () takes the three that are strongest in each photo.
        discover: how many concepts of the class; 0 takes the fewest that are complete.
        inverter: `builtin:NAME`, `file:FOLDER` or an `Inverter`; None is the shipped one. prior: where the prior that
            it was trained on is now, if not where its card says; another prior is refused.
        context: store a small copy of the photo for the gallery; turn it off where a run is published whose photos may
            not be.

    Returns:
        The run. Photos that failed are named in `run.failures`; the others are finished.

    Raises:
        UserError: bad input, or nothing could be made.
    """
    config = config or Steer()
    subject = load(model, card, device=device)
    maps = FeatureMaps.of(subject, layer)
    opened = _open(photos)
    if dictionary is None and (class_name == "" or class_photos is None):
        raise UserError(
            "steering needs concepts: give a dictionary (--dictionary FILE), or a class and photos of it to discover "
            'them on (--class "golden retriever" --photos FOLDER)'
        )
    name = subject.card.name.partition(":")[2] or subject.card.name
    run = Run(out if out is not None else Path("runs") / f"{name.replace('/', '-')}-steer")
    known, where = (None, "") if dictionary is None else _loaded(dictionary, maps)
    if known is not None:
        check_dictionary(known, maps, where)
        _numbers(known, concepts)
    class_index = _class(subject, class_name) if known is None else -1
    decoder, _ = find_inverter(inverter, maps, prior)
    about = {"entoptic": version("entoptic"), "title": subject.card.name, "model": model_record(subject)}
    with reporter(progress) as report, run.writing(about):
        if known is None:
            known, where = _discover(run, maps, class_index, class_photos, discover)
        asked = {
            "dictionary": where, "class": class_name, "photos": class_photos, "concepts": discover,
            "prior": prior_record(decoder, prior),
        }  # fmt: skip
        job = _Job(run, decoder, maps, known, where, _numbers(known, concepts), config, asked, context, report)
        for index in range(len(opened)):
            job.make(opened, index)
    for skipped in opened.skipped:
        if not any(skipped.name in failure for failure in run.failures):
            run.failures.append(f"{skipped.name}: {skipped.reason}")
    if not job.stored:
        raise UserError(f"no photo could be steered: {run.failures[0]}")
    for failure in run.failures:
        warnings.warn(failure, stacklevel=2)
    return run


# --- what was asked for ----------------------------------------------------------------------------------------------


def _open(photos: Any) -> Photos:
    if isinstance(photos, (list, tuple)) and len(photos) == 1 and Path(str(photos[0])).expanduser().is_dir():
        photos = photos[0]
    if isinstance(photos, (str, Path)) and Path(photos).expanduser().is_file():
        # A single picture is a list of one file; tables are told by their ending.
        photos = photos if Path(photos).suffix.lower() in (".parquet", ".csv") else [photos]
    return photos if isinstance(photos, Photos) else Photos.open(photos)


def _loaded(dictionary: Any, maps: FeatureMaps) -> tuple[Any, str]:
    if not isinstance(dictionary, (str, Path)):
        return dictionary, str(dictionary.layer)
    from entoptic.units.dictionary import load_dictionary

    return load_dictionary(dictionary), str(dictionary)


def check_dictionary(dictionary: Any, maps: FeatureMaps, where: str) -> None:
    """Refuses a dictionary of another layer or of other weights, which may have the right shape by chance."""
    if dictionary.layer != maps.layer:
        raise UserError(
            f"the dictionary {where} is of {dictionary.layer}, not of {maps.layer}; did you mean the layer "
            f'"{dictionary.layer}"?'
        )
    own = maps.model.card.weights_sha256
    if dictionary.model_sha256 and dictionary.model_sha256 != own:
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
        elif text.lstrip("-").isdigit():
            check_concept(dictionary, int(text))
            found.append(int(text))
        else:
            some = ", ".join(map(str, dictionary.names[:8]))
            raise UserError(f'no concept "{text}"; there are {some}{nearest(text, dictionary.names)}')
    return list(dict.fromkeys(found))


def _class(model: Model, name: str | int) -> int:
    """The logit of a class given by number or name."""
    text = str(name).strip()
    if text.isdigit():
        return int(text)
    found = model.card.find_label(text)
    if len(found) != 1:
        labels = model.card.labels or ()
        several = ", ".join(f"{i} ({labels[i]})" for i in found[:6])
        raise UserError(
            f'"{text}" is {f"more than one class of {model.card.name}: {several}" if found else f"no class of {model.card.name}"}'
            + (nearest(text, labels) if not found else "")
        )
    return found[0]


def _discover(run: Run, maps: FeatureMaps, class_index: int, photos: Any, count: int) -> tuple[Any, str]:
    """The concepts of a class, from the run where it holds them already."""
    from entoptic.inversion.class_concepts import concepts_of
    from entoptic.units.concepts import Mcd
    from entoptic.units.dictionary import load_dictionary, save

    config, opened = Mcd(concepts=count), Photos.open(photos)
    key = content_key({
        "recipe": RECIPE, "weights": maps.model.card.weights_sha256, "layer": maps.layer, "class": class_index,
        "photos": opened.fingerprint(), "discovery": asdict(config),
    })  # fmt: skip
    label = "".join(c if c.isalnum() else "-" for c in maps.model.card.label(class_index) or f"class {class_index}")
    file = run.path / "dictionaries" / f"{label[:40]}-{key[:8]}.safetensors"
    if not file.is_file():
        found = concepts_of(maps.model, maps.layer, opened, class_index, config)
        with writable(run.path):
            file.parent.mkdir(parents=True, exist_ok=True)
            save(found, file)
    return load_dictionary(file), str(file)


def identity_of(dictionary: Any, channels: int) -> str:
    """Hash of what a dictionary does: of its numbers where it has any to show, else of its parts of fixed values."""
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


def strongest(dictionary: Any, map_1Chw: Tensor) -> list[int]:
    """The concepts that a photo's map holds most of, in the order of their parts' norms."""
    from entoptic.units.dictionary import norms

    return norms(dictionary, map_1Chw.flatten(2))[0].argsort(descending=True)[:STRONGEST].tolist()


# --- making ----------------------------------------------------------------------------------------------------------


class _Job:
    """Concepts of one dictionary to be steered in photos."""

    def __init__(
        self, run: Run, inverter: Any, maps: FeatureMaps, dictionary: Any, where: str, concepts: list[int], config: Steer,
        asked: dict[str, Any], context: bool, report: Reporter,
    ) -> None:  # fmt: skip
        self.run, self.inverter, self.maps, self.dictionary, self.where = run, inverter, maps, dictionary, where
        self.concepts, self.config, self.asked, self.context, self.report = concepts, config, asked, context, report
        self.identity = identity_of(dictionary, maps.channels)
        self.stored = 0

    def make(self, photos: Photos, index: int) -> None:
        """Steers what is not there yet in one photo; failures are noted."""
        image = photos.read(index)
        if image is None:
            return
        name, sha = photos[index].name, photos.sha256(index)
        seen = centre_square(image, self.maps.model.card.size[0])[None].float() / 255
        with torch.no_grad():
            map_1Chw = self.maps.read(seen).cpu()
            asked = self.concepts or strongest(self.dictionary, map_1Chw)
        places = {k: self._place(k, sha) for k in asked}
        done = {k: self.run.finished(file, key) for k, (file, key) in places.items()}
        todo = [k for k, record in done.items() if record is None]
        for k, record in done.items():
            if self.context and record is not None and "photo" not in record.setdefault("maps", {}):
                self._add_photo(places[k][0], record, image)
        self.stored += len(asked) - len(todo)
        if not todo:
            return
        started = time.monotonic()
        try:
            made = steer_concepts(
                self.inverter, self.dictionary, map_1Chw, todo, self.config, key=sha,
                progress=lambda what, done, total: self.report.progress(f"{what} of {Path(name).name}", done, total),
            )  # fmt: skip
        except UserError as error:
            self.run.failures.append(f"{name}: {error}")
            return
        for found in made:
            file, key = places[found.concept]
            pixels = quantise(found.edits_n3SS[0])
            shown = centre_square(image, pixels.shape[0])
            record = self._record(found, name, sha, key) | {
                "trace": {"seconds": (time.monotonic() - started) / len(made), "decoded": found.decoded, "notes": []}
            }
            maps = drawn(found, shown)
            if not self.context:
                del maps["photo"]
            self.run.write(file, pixels, record, maps=maps)
            self.stored += 1

    def _add_photo(self, file: Path, record: dict[str, Any], image: Image.Image) -> None:
        """The copy of the photo beside a picture that was made without one."""
        shown = centre_square(image, record["image"]["height"])
        record["maps"]["photo"] = self.run.write_map(file, "photo", opaque(shown.permute(1, 2, 0).numpy()))
        self.run.write_record(file, record)

    def _place(self, k: int, sha: str) -> tuple[Path, str]:
        config = asdict(self.config)
        config.pop("batch_size")
        key = content_key({
            "recipe": RECIPE, "inverter": self.inverter.identity, "dictionary": self.identity, "concept": k,
            "photo": sha, "config": config, "weights": self.maps.model.card.weights_sha256, "layer": self.maps.layer,
            "card": self.maps.model.card.preprocessing(),
        })  # fmt: skip
        return self.run.file(slug(f"dict({self.where}):{k}"), f"steer-0-{key[:12]}"), key

    def _record(self, found: Steering, photo: str, sha: str, key: str) -> dict[str, Any]:
        card, config = self.maps.model.card, self.config
        words = ["entoptic", "steer", card.name, self.maps.layer, photo, "--concept", str(found.concept)]
        words += ["--inverter", self.inverter.name]
        words += ["--prior", self.asked["prior"]["prior"]] if "prior" in self.asked["prior"] else []
        if self.asked["photos"] is None:
            words += ["--dictionary", self.where]
        else:
            words += ["--class", str(self.asked["class"]), "--photos", str(self.asked["photos"])]
            if self.asked["concepts"] != DISCOVERED:
                words += ["--concepts", str(self.asked["concepts"])]
        for name, value in asdict(config).items():
            if value != getattr(Steer(), name):
                flag = "--" + name.replace("_", "-")
                if isinstance(value, bool):
                    words.append(flag if value else flag.replace("--", "--no-", 1))
                else:
                    words += [flag, *(f"{v:g}" for v in value)] if isinstance(value, tuple) else [flag, str(value)]
        return {
            "format": FORMAT, "key": key, "complete": True, "unit": f"dict({self.where}):{found.concept}",
            "label": found.name, "layer": self.maps.layer, "readout": "", "method": "steer",
            "method_title": "Concept steering (FeatInv-Viz)", "paper": PAPER,
            "alt": f"{Path(photo).name} decoded with {found.scale:g} times its concept {found.name}",
            "config": {"photo": photo} | asdict(config) | {"scales": list(config.scales)},
            "seed": config.seed, "sample": 0, "model": model_record(self.maps.model), "photos": None,
            "photo": {"name": photo, "sha256": sha},
            "inverter": {"name": self.inverter.name, "identity": self.inverter.identity} | self.asked["prior"],
            "dictionary": {"source": self.where, "identity": self.identity}, "versions": versions(),
            "command": shlex.join(words), "evidence": [e.to_json() for e in evidence(found, self.dictionary.names, card)],
            "steering": numbers(found, self.dictionary.names, card),
        }  # fmt: skip


# --- numbers ---------------------------------------------------------------------------------------------------------


# --- drawing ---------------------------------------------------------------------------------------------------------

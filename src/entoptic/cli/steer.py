"""`entoptic steer`: what changes in a photo when one concept of its feature map is scaled."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from tyro.conf import OmitArgPrefixes, Positional, arg

from entoptic.cli.options import Debug, InverterOptions, ModelName, TimesOneStep, photos_help, run_folder_help
from entoptic.cli.output import finish_run
from entoptic.inversion.configs import Steer as Steering

if TYPE_CHECKING:
    from entoptic.runs.store import Picture


@dataclass(frozen=True, kw_only=True)
class Steer:
    """Scale one concept of a photo's feature map, decode both maps, and see where the picture changes."""

    title: ClassVar[str] = "scale one concept of a photo's map and see what changes"
    examples: ClassVar[tuple[str, ...]] = (
        "entoptic steer builtin:lite0 bn2 photo.jpg --class church --photos photos",
        "entoptic steer builtin:lite0 bn2 photos --class 497 --photos photos --scale 0",
    )

    model: ModelName
    layer: Positional[Annotated[str, arg(metavar="LAYER")]]
    """the layer that the inverter inverts"""
    photo: Positional[Annotated[tuple[str, ...], arg(metavar="PHOTO")]]
    """files of photos, or one folder"""
    steer: OmitArgPrefixes[Steering] = field(default_factory=Steering)
    concept: Annotated[tuple[str, ...], arg(metavar="CONCEPT")] = ()
    """numbers or names of concepts in the dictionary (default: the three strongest in each photo)"""
    dictionary: Annotated[Path | None, arg(metavar="FILE")] = None
    """file of a saved dictionary of this layer"""
    class_name: Annotated[str, arg(name="class", metavar="CLASS")] = ""
    """name or number of the class whose concepts are discovered, where there is no dictionary"""
    photos: Annotated[str | None, photos_help(" that these concepts are discovered on")] = None
    concepts: int = 4
    """how many concepts of the class are discovered; 0 takes the fewest that are complete"""
    out: Annotated[Path | None, run_folder_help("runs/MODEL-steer")] = None
    shared: OmitArgPrefixes[InverterOptions] = field(default_factory=InverterOptions)
    dry_run: TimesOneStep = False
    debug: Debug = False


def run_steer(options: Steer) -> int:
    """Runs `entoptic steer`; returns the exit code."""
    from entoptic.runs.steer import steer

    started = time.monotonic()
    run = steer(
        options.model,
        options.layer,
        list(options.photo),
        dictionary=options.dictionary,
        class_name=options.class_name,
        class_photos=options.photos,
        concepts=options.concept,
        discover=options.concepts,
        config=options.steer,
        out=options.out,
        dry_run=options.dry_run,
        **options.shared.for_python(),
    )
    if options.dry_run:
        return 0
    for picture in run:
        print(f"{picture.path}  {picture.record['label']}: {_effect(picture)}")
    return finish_run(run, started)


def _effect(picture: Picture) -> str:
    """What the edit changed, in a few words."""
    known = {name: entry["value"] for name, entry in picture.evidence.items()}
    parts = []
    if known.get("effect_p") is not None:
        parts.append(f"p {known['effect_p']:.3g}")
    elif not picture.record["config"].get("nulls"):
        parts.append("chance not measured (--nulls 19 does)")
    if "affected_area" in known:
        parts.append(f"{100 * known['affected_area']:.0f} % of the picture affected")
    if known.get("attenuation") is not None:
        parts.append(f"{known['attenuation']:.2f} of the concept left, {picture.record['config']['scale']:g} asked")
    return ", ".join(parts)

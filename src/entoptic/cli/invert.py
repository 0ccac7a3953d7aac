"""`entoptic invert`: pictures that have a photo's feature map."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Annotated, ClassVar

from tyro.conf import OmitArgPrefixes, Positional, arg

from entoptic.cli.options import BatchSize, Debug, InverterOptions, ModelName, RunFolder, Seed, TimesOneStep, Verifiers
from entoptic.cli.output import finish_run
from entoptic.inversion.configs import Sampling


@dataclass(frozen=True, kw_only=True)
class Invert:
    """Draw pictures that have a photo's feature map, or a mixture of two photos' maps, each with its measurements."""

    title: ClassVar[str] = "make pictures that have a photo's feature map"
    examples: ClassVar[tuple[str, ...]] = (
        "entoptic invert builtin:vit-s14 blocks.10 photo.jpg",
        "entoptic invert builtin:lite0 bn2 photo.jpg --mix other.jpg --weights 0,.5,1",
        "entoptic invert builtin:lite0 bn2 photos --best-of 8 --out runs/inverted",
    )

    model: ModelName
    layer: Positional[Annotated[str, arg(metavar="LAYER")]]
    """layer whose output is inverted; the inverter must have been trained on it"""
    photos: Positional[Annotated[tuple[str, ...], arg(metavar="PHOTO")]]
    """image files, and folders of them; of each the central square is inverted"""
    n: int = 4
    """pictures per map"""
    sampling: OmitArgPrefixes[Sampling] = field(default_factory=Sampling)
    mix: Annotated[str | None, arg(metavar="PHOTO")] = None
    """a second photo, whose map is mixed in"""
    weights: Annotated[str, arg(metavar="WEIGHTS")] = "0,.25,.5,.75,1"
    """weights of the second photo's map, separated by commas; write negative ones as --weights=-.5,1.5"""
    mixing: Annotated[str, arg(metavar="HOW")] = "linear"
    """linear, norm (with the interpolated norms) or slerp"""
    paste: Annotated[str | None, arg(metavar="PHOTO")] = None
    """a second photo, whose map is put in at --region"""
    region: Annotated[str | None, arg(metavar="REGION")] = None
    """TOP,LEFT,BOTTOM,RIGHT in cells of the map; bottom and right are the first cells left out"""
    seed: Seed = 0
    out: RunFolder = None
    verifiers: Verifiers = "auto"
    batch_size: BatchSize = None
    shared: OmitArgPrefixes[InverterOptions] = field(default_factory=InverterOptions)
    dry_run: TimesOneStep = False
    debug: Debug = False


def run_invert(options: Invert) -> int:
    """Runs `entoptic invert`; returns the exit code."""
    from entoptic.runs.headline import headline
    from entoptic.runs.invert import invert
    from entoptic.runs.map_items import METHOD
    from entoptic.runs.set_evidence import SET_FILE

    started = time.monotonic()
    run = invert(
        options.model,
        options.layer,
        options.photos,
        n=options.n,
        mix=options.mix,
        weights=options.weights,
        mixing=options.mixing,
        paste=options.paste,
        region=options.region,
        seed=options.seed,
        out=options.out,
        verifiers=options.verifiers,
        batch_size=options.batch_size,
        dry_run=options.dry_run,
        **options.shared.for_python(),
        **asdict(options.sampling),
    )
    if options.dry_run:
        return 0
    for picture in run:
        if picture.method == METHOD and picture.record["layer"] == options.layer:
            print(f"{picture.path}  {picture.unit}: {'; '.join(headline(picture.record))}")
    if (run.path / SET_FILE).is_file():
        print(f"{run.path / SET_FILE}: all pictures together")
    return finish_run(run, started)

"""`entoptic atlas`: a map of photos, of units or of features, and how faithful it is."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import arg

from entoptic.base.bounds import Bounds, check_bounds
from entoptic.cli.options import (
    Debug,
    Device,
    LayerToRead,
    ModelName,
    NamesBesideRun,
    PhotosAtOnce,
    Seed,
    Threads,
    photos_help,
    run_folder_help,
    use_threads,
)
from entoptic.cli.output import table_console
from entoptic.errors import counted


@dataclass(frozen=True, kw_only=True)
class Atlas:
    """Map photos, units or features so that what is alike lies together, and measure how faithful the map is."""

    title: ClassVar[str] = "map photos, units or features, and measure how faithful the map is"
    examples: ClassVar[tuple[str, ...]] = (
        "entoptic atlas builtin:lite0 blocks.6 --photos photos --map dtsne",
        "entoptic atlas builtin:lite0 blocks.6 --photos photos --of units --map densmap",
        "entoptic atlas builtin:lite0 bn2 --photos photos --map confetti --known class",
    )
    bounds: ClassVar[Bounds] = {"neighbours": (2, 1000), "removed": (1e-3, 1e3)}

    model: ModelName
    layer: LayerToRead
    photos: Annotated[str, photos_help()]
    of: Annotated[str, arg(metavar="KIND")] = "photos"
    """photos (by the units' scores), units (by their scores on photos), or features (by the directions that they write)"""
    map: Annotated[str, arg(metavar="NAME")] = "tsne"
    """tsne, umap, densmap, dtsne (keeps density), confetti (without what is known) or mercat (a sphere)"""
    known: Annotated[tuple[str, ...], arg(metavar="WHAT")] = ()
    """what confetti takes out: class, strength, colour (default: class where there are any)"""
    removed: Annotated[float | None, arg(metavar="LAMBDA")] = None
    """weight with which --known is taken out (default: the least at which neighbours do not show it)"""
    neighbours: int = 30
    """number of neighbours of each point that the map keeps near it"""
    colour: Annotated[str, arg(metavar="COLUMN")] = ""
    """what the page shows first: class, strength, kept, …"""
    run: Annotated[Path | None, arg(metavar="RUN")] = None
    """a run with pictures of the units, which stand for them; else their strongest photos do"""
    gallery: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """pages of units that points link to (default: those in --out)"""
    names: NamesBesideRun = None
    index: Annotated[Path | None, arg(metavar="INDEX")] = None
    """an index of these photos with a sample (entoptic index --reservoir), so that they are not read again"""
    readout: Annotated[str, arg(metavar="READOUT")] = ""
    """how units are read, as behind @ in a unit (default: the layer's own)"""
    out: Annotated[Path | None, run_folder_help("runs/MODEL")] = None
    seed: Seed = 0
    batch_size: PhotosAtOnce = 32
    device: Device = "auto"
    threads: Threads = None
    debug: Debug = False

    def __post_init__(self) -> None:
        check_bounds(self)


def run_atlas(options: Atlas) -> int:
    """Runs `entoptic atlas`; returns the exit code."""
    from rich.table import Table

    from entoptic.gallery.atlas import atlas
    from entoptic.gallery.result_pages import page_of

    use_threads(options.threads)
    started = time.monotonic()
    names = (
        "photos", "of", "map", "known", "removed", "neighbours", "colour", "run", "gallery", "names", "index", "readout", "out",
        "seed", "batch_size", "device",
    )  # fmt: skip
    result = atlas(options.model, options.layer, **{name: getattr(options, name) for name in names})
    record = result.record
    table = Table("measurement", "value", "95 % interval", "n", "by chance", box=None)
    for one in record["faithfulness"]:
        low, high = one["interval"]
        row = (one["name"], f"{one['value']:.3f}", f"{low:.3f} to {high:.3f}", str(one["n"]), f"{one['chance']:.3f}")
        table.add_row(*row)
    table_console().print(table, highlight=False, markup=False)
    for one in record["faithfulness"]:
        if one["name"] != "known" and one["interval"][0] <= one["chance"]:
            print(f"{one['name']}: no better than on a random map, so the picture does not show it")
    for why, n in record["left_out"].items():
        print(f"left out: {n} {why}")
    what = counted(record["n"], str(record["of"])[:-1])
    print(f"{what} of {record['layer']}, {time.monotonic() - started:.0f} s; look at {page_of(result)}")
    return 0

"""`entoptic.atlas`: a map of photos, units or features, with its page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from entoptic.base.gradients import with_gradients
from entoptic.base.progress import reporter
from entoptic.base.unread import names_unread
from entoptic.gallery.atlas_page import check_gallery, write_atlas_pages
from entoptic.images.index import ActivationIndex
from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.names import read_names
from entoptic.runs.atlas import AtlasOptions, make_atlas
from entoptic.runs.results import Result
from entoptic.runs.store import Run


@names_unread
@with_gradients
def atlas(
    model: str | nn.Module | Model,
    layer: str,
    *,
    photos: Any,
    of: str = "photos",
    map: str = "tsne",
    known: str | tuple[str, ...] = (),
    removed: float | None = None,
    neighbours: int = 30,
    readout: str = "",
    colour: str = "",
    seed: int = 0,
    run: str | Path | Run | None = None,
    gallery: str | Path | None = None,
    names: str | Path | None = None,
    index: str | Path | ActivationIndex | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    card: Card | None = None,
    batch_size: int = 32,
    progress: bool = True,
) -> Result:
    """Maps photos, units or features of a layer so that what is alike lies together, and measures how faithful the map is.

    The result is stored in the run folder under `results/atlas`, its page in `gallery`. The same request finds it again; what an
    interrupted pass over the photos had read is kept.

    Args:
        model: anything `load` takes.
        layer: of the model, `logits`, or a dictionary as dict(FILE).
        photos: real photos, anything `Photos.open` takes.
        of: "photos" (by the scores of the layer's units), "units" (by their scores on the photos), or "features" of a
            dictionary (by the directions that they write).
        map: "tsne", "umap", "densmap", "dtsne", "confetti" or "mercat".
        known: what "confetti" takes out: "class", "strength", "colour", or several (default: class where there are any).
        removed: the weight λ of what is taken out (default: the least at which neighbours do not show it).
        neighbours: of each point that the map looks after.
        readout: how units are read, as behind @ in a unit; "" is the layer's default.
        colour: the column that the page shows first.
        seed: of all that is random.
        run: with pictures of the units, which stand for them.
        gallery: with pages of units, to which points lead (default: that of the run folder).
        names: a file of suggested names (see `name`), or a folder with one (default: that of the run folder).
        index: of the model on these photos with a sample of them, so that they need not be read again.
        out: the run folder (default `runs/MODEL`).
        device: "auto", "cpu", "cuda:1", ….
        card: of a bare `nn.Module`.
        batch_size: photos in one forward pass.
        progress: show how far the work is.

    Returns:
        The result. `record["faithfulness"]` has its measurements, `file("points.csv")` every point.

    Raises:
        UserError: bad input.
    """
    options = AtlasOptions(
        of=of, map=map, known=(known,) if isinstance(known, str) else tuple(known), removed=removed, neighbours=neighbours,
        readout=readout, colour=colour, seed=seed,
    )  # fmt: skip
    with reporter(progress) as report:
        if names is not None:
            read_names(names)  # is refused before hours of work, as is the next
        if gallery is not None:
            check_gallery(gallery)
        result = make_atlas(
            model, layer, photos=photos, options=options, out=out, index=index, run=run, device=device, card=card,
            batch_size=batch_size, report=report,
        )  # fmt: skip
        write_atlas_pages(result.path.parents[3], gallery, names=names)
    return result

"""Training an inverter from start to shelf: the training, its sample sheets, and a card that says how good it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from entoptic.base.bounds import check_options
from entoptic.base.estimates import mean_interval, wilson
from entoptic.base.files import check_own, delete_unfinished, lock_folder, user_path
from entoptic.base.gradients import with_gradients
from entoptic.base.pixels import centre_square, eight_bit
from entoptic.base.progress import Reporter, reporter
from entoptic.base.training import fitting, mean_weights, read_record
from entoptic.base.unread import names_unread
from entoptic.errors import UserError, counted
from entoptic.inversion.configs import RECIPES, EntopticRecipe
from entoptic.inversion.data import Pairs, open_photos, preprocessing
from entoptic.inversion.inverter import Inverter
from entoptic.inversion.learn import encoding, learn_inverter, picture_size
from entoptic.inversion.map_gaussian import FeatureMapGaussian
from entoptic.inversion.maps import FeatureMaps, superpixel_cosine
from entoptic.inversion.network import NetworkPrior, build
from entoptic.inversion.saved import base_prior, load_inverter, save_inverter
from entoptic.metrics.inversion import match_ranks
from entoptic.models.model import Model, pick_device, predictions
from entoptic.models.sources import load
from entoptic.priors.network_prior import TextPrior
from entoptic.priors.sources import SHIPPED, name_of
from entoptic.runs.learn import save_sheet
from entoptic.runs.plan import find_verifiers
from entoptic.runs.records import versions

FROM_PAPER = {"steps": 50, "order": 1, "guidance": 1.0, "strength": 1.0}
OURS = {"steps": 8, "order": 2, "guidance": 1.5, "strength": 1.0}
"""How a finished inverter samples unless it is told otherwise."""
PAPER_TEXT = {"prompt": "a high-quality, detailed, and professional image", "guidance": 1.75}
"""What FeatInv tells a prior that reads text, and how strongly (its released settings for ConvNeXt)."""
TRAINING = ("training.json", "pairs", "inverter")
"""What tells the folder of an inverter's training."""
SHEET_COLUMNS = 10
LEAST_FOR_A_LAW = 40


@names_unread
@with_gradients
def learn(
    model: str | Model,
    layer: str,
    photos: Any,
    out: str | Path,
    recipe: EntopticRecipe | None = None,
    *,
    prior: str | NetworkPrior = SHIPPED,
    start: str | None = None,
    prompt: str | None = None,
    prior_guidance: float | None = None,
    trust: bool = False,
    held_out: Any = None,
    limit: int = 0,
    name: str = "",
    compared: int = 200,
    pairs_folder: str | Path | None = None,
    verifiers: str | Sequence[str | Model] = "auto",
    device: str = "auto",
    progress: bool = True,
    log: Callable[[str], None] = lambda line: None,
) -> Path:
    """Trains the inverse of a layer on photos, or goes on, and writes it with its card to OUT/inverter.

    Args:
        model: the network that is inverted.
        layer: that is inverted; `entoptic ls MODEL` lists layers.
        photos: anything `Photos.open` takes, or several of them.
        out: folder of the training; the inverter is in its `inverter`.
        recipe: of the training; None for the defaults.
        limit: most photos taken, at random; 0 takes all.
        prior: what supplies naturalness; `fresh:SIZE` is an untrained network, for recipes that train it (`direct`).
        start: an inverter whose weights the training begins with, builtin:NAME or file:FOLDER; None begins with the prior's.
        prompt: text that a prior that reads text is trained with (the paper's recipe has its own, see `PAPER_TEXT`).
        prior_guidance: weight of guidance by that text when it is sampled.
        trust: as in `load_prior`.
        held_out: photos that it is measured on in the end; None takes the training photos, and says so.
        name: on its card (default: the folder's).
        compared: photos it is measured on.
        pairs_folder: where photos and their maps are kept (default OUT/pairs); several trainings may share it.
        verifiers: networks that judge the reconstructions too.
        device: "auto", "cpu", "cuda:1", ….
        progress: show how far the work is.
        log: called with each line of the training's log.

    Returns:
        The folder OUT/inverter, which `load_inverter` and --inverter take.

    Raises:
        UserError: as `learn_inverter`, or another job is writing `out`.
        KeyboardInterrupt: after a checkpoint; the same call goes on.
    """
    recipe, folder = recipe or EntopticRecipe(), user_path(out)
    check_own(folder, marks=TRAINING, what="training of an inverter")
    where = pick_device(device)
    subject = load(model, device=str(where)) if isinstance(model, str) else model
    maps = FeatureMaps.of(subject, layer)
    base = base_prior(prior, where, trust=trust)
    options: dict[str, Any] = {"prompt": prompt, "guidance": prior_guidance}
    if isinstance(base, TextPrior) and recipe.drop_together:
        options = {k: PAPER_TEXT[k] if v is None else v for k, v in options.items()}
    options = {k: v for k, v in options.items() if v is not None}
    base = base_prior(base, where, **options)
    judges = find_verifiers(subject, verifiers)
    for sets in (photos, held_out) if held_out is not None else (photos,):
        open_photos(sets)  # a name that is wrong must not show after hours of training, nor after a folder is made
    if compared < 1:
        raise UserError(
            f"compared is the number of photos that the inverter is measured on, at least 1, got {compared}"
        )

    check_options(limit=limit, compared=compared, prior_guidance=prior_guidance)

    def sheet(net: nn.Module, pairs: Pairs, path: Path) -> None:
        inverter = Inverter(name, "", maps, base, net, recipe, pairs.mean_C, pairs.sd_C, **_defaults(recipe))  # type: ignore[arg-type]
        draw_sheet(inverter, pairs, path)

    with lock_folder(folder), reporter(progress) as report:
        delete_unfinished(folder, "", "sheets/", "inverter/")
        _, pairs = learn_inverter(
            maps, base, photos, folder, recipe, start=start, pairs_folder=pairs_folder, limit=limit, sheet=sheet,
            progress=report.progress, log=log,
        )  # fmt: skip
        return export_inverter(
            folder, maps, base, pairs, held_out if held_out is not None else photos, seen=held_out is None,
            name=name or folder.name, compared=compared, judges=judges, report=report,
            prior_options=options | ({"trust": True} if trust else {}),
        )  # fmt: skip


def export_inverter(
    folder: str | Path, maps: FeatureMaps, prior: NetworkPrior, pairs: Pairs, photos: Any, *, name: str, seen: bool = False,
    compared: int = 200, judges: Sequence[Model] = (), report: Reporter | None = None,
    prior_options: dict[str, Any] | None = None, eight_bit: bool = False,
) -> Path:  # fmt: skip
    """Writes what a training folder holds as an inverter with its card, sample sheet and measurements.

    Args:
        pairs: what it was trained on.
        photos: what it is measured on; `seen` tells that these are the same.
        prior_options: with which the prior was loaded.
        eight_bit: whether weights are stored in 8 bits, as those of shipped inverters are.
    """
    report, folder = report or Reporter(), Path(folder)
    record = read_record(folder)
    if record is None:
        raise UserError(
            f"{folder} holds no training (it has no training.json); make one with `entoptic learn inverter`"
        )
    with fitting(folder / str(record.get("state"))):
        recipe = RECIPES["entoptic"](**record["recipe"])
        net = build(prior, maps.channels, recipe)
        net.load_state_dict(mean_weights(folder, record))
    tensors = {"mean": pairs.mean_C, "sd": pairs.sd_C}
    if len(pairs) >= LEAST_FOR_A_LAW:
        law = FeatureMapGaussian.fit(pairs.batch(range(min(2000, len(pairs))))[1])
        tensors |= {f"law/{k}": v for k, v in law.tensors().items()}
    rows, columns = maps.grid
    card: dict[str, Any] = {
        "name": name, "model": maps.model.card.name, **maps.model.card.provenance,
        "layer": maps.layer, "map": [maps.channels, rows, columns], "prior": name_of(prior),
        "prior_identity": prior.identity, "prior_options": prior_options or {}, "seen": preprocessing(maps.model.card),
        "size": picture_size(prior), "recipe": record["recipe"],
        **_defaults(recipe), "parameters": sum(p.numel() for p in net.parameters()),
        "training": {
            "photos": record["photos"], "pictures_seen": record["step"] * recipe.batch_size, "steps": record["step"],
            "loss": record["loss"][-1:], "seconds": record.get("seconds"), "versions": versions(),
            **({"start": record["start"]} if "start" in record else {}),
        },
    }  # fmt: skip
    out = folder / "inverter"
    save_inverter(net, out, card, tensors, eight_bit=eight_bit)
    inverter = load_inverter(f"file:{out}", maps.model, prior=prior, device=prior.device)
    draw_sheet(inverter, pairs, out / "samples.png")
    card["measured"] = {"on": "training photos" if seen else "held-out photos"} | measured(
        inverter, photos, judges, compared=compared, report=report
    )
    save_inverter(net, out, card, tensors, eight_bit=eight_bit)
    return out


@torch.no_grad()
def measured(
    inverter: Inverter,
    photos: Any,
    judges: Sequence[Model] = (),
    *,
    compared: int = 200,
    report: Reporter | None = None,
) -> dict[str, Any]:
    """One sample for each of some photos: cosines, and matches of the network's and the judges' own predictions.

    Beside them the ceiling: the photo itself at the inverter's size, which is all that a perfect inverse could give. Where the
    prior's states hold less than its pictures (an upsampler, an autoencoder), it is the photo through those states, and the
    photo itself is a further row.
    """
    report, maps = report or Reporter(), inverter.maps
    sets = open_photos(photos)
    places = [(i, j) for i, one in enumerate(sets) for j in range(len(one))]
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(7)).tolist()
    originals: list[Tensor] = []
    for place in order:
        i, j = places[place]
        if (photo := sets[i].read(j)) is not None:
            originals.append(centre_square(photo, maps.model.card.size[0]).float() / 255)
        if len(originals) == compared:
            break
    if not originals:
        raise UserError(f"no photo to measure on can be read ({counted(len(places), 'photo')} tried)")
    real = torch.stack(originals)
    wanted = torch.cat([maps.read(chunk).cpu() for chunk in real.split(25)])
    noise = inverter.noise([torch.Generator().manual_seed(k) for k in range(len(real))])
    made = eight_bit(inverter.sample(wanted, noise, progress=report.progress))
    small = interpolate(real, made.shape[2:], mode="bicubic", antialias=True).clamp(0, 1)
    ceilings = {"photo at this size": eight_bit(small)}
    if (encode := encoding(inverter.prior)) is not None:
        states = [encode[0](chunk.to(inverter.prior.device)) for chunk in small.split(25)]
        through = torch.cat([inverter.prior.decode(one).float().cpu() for one in states])
        ceilings = {"photo through the prior's states": eight_bit(through)} | ceilings
    out: dict[str, Any] = {"n": len(real), "photos": [Path(one.source).name for one in sets]}
    for step, (what, pictures) in enumerate(rows := [("inverter", made), *ceilings.items()]):
        found = torch.cat([maps.read(chunk).cpu() for chunk in pictures.split(25)])
        entry: dict[str, Any] = {}
        for kind, (a, b) in {
            "cosine": (found, wanted), "standardised cosine": (inverter.standardise(found), inverter.standardise(wanted))
        }.items():  # fmt: skip
            values = superpixel_cosine(a, b).tolist()
            entry[kind] = [round(x, 4) for x in (sum(values) / len(values), *mean_interval(values))]
        for judge in (maps.model, *judges):
            targets = predictions(judge, judge.fit(real)).argmax(1)
            ranks = match_ranks(predictions(judge, judge.fit(pictures)), targets)
            entry[judge.card.name] = {
                f"top{k}": [round(x, 4) for x in (hits / len(ranks), *wilson(hits, len(ranks)))]
                for k in (1, 5)
                for hits in [int((ranks <= k).sum())]
            }
        out[what] = entry
        report.progress("measuring the inverter", step + 1, len(rows))
    return out


@torch.no_grad()
def draw_sheet(inverter: Inverter, pairs: Pairs, path: Path) -> None:
    """Four rows: photos, the expected picture given their maps, and two samples, of the same noise on every sheet."""
    pictures, maps_BChw = pairs.batch(range(min(SHEET_COLUMNS, len(pairs))))
    if pairs.encoded:
        pictures = inverter.prior.decode(pictures.to(inverter.prior.device)).float().cpu()
    rows = [pictures, inverter.mean(maps_BChw)]
    for sample in range(2):
        noise = inverter.noise([torch.Generator().manual_seed(1000 * sample + i) for i in range(len(pictures))])
        rows.append(inverter.sample(maps_BChw, noise))
    scale = max(1, 96 // pictures.shape[-1])
    save_sheet(interpolate(torch.cat(rows), scale_factor=scale), path, len(pictures))


def _defaults(recipe: EntopticRecipe) -> dict[str, Any]:
    return FROM_PAPER if recipe.drop_together else OURS

"""The shipped inverters beside each other; FeatInv as published against Entoptic's recipe, whole maps against pooled ones.

    python benchmarks/inversion.py --work runs/inversion-benchmark --out docs/benchmarks

All are measured on the same held-out photos with one sample each: the cosine to the photo's map, whether networks predict
what they predict on the photo and how probable that is to them (log p, which still tells pictures apart where hardly any is
recognised), and the distance to the photos in the features of Lite2, which nobody inverts (to photos of 224 pixels in the
table of shipped inverters, elsewhere of the inverter's size). Intervals are over photos; differences are paired. A photo
through the prior's states is what the photo itself reaches at the prior's size: a reference, not a proven bound.

Recipes are compared on a small prior (`--prior`). Each inverter there is trained on the same photos, as many of them, in the
same order. `--long` is an inverter trained longer (a shipped one), for what sampling options do.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.flop_counter import FlopCounterMode

from common import DATA, about, bootstrap, logits_and_features, mobilenet
from entoptic.base.estimates import wilson
from entoptic.base.pixels import centre_square, eight_bit
from entoptic.images.photos import Photos
from entoptic.inversion.arithmetic import shuffle
from entoptic.inversion.configs import EntopticRecipe, PaperRecipe
from entoptic.inversion.decoder import DecoderRecipe, decode, learn_decoder
from entoptic.inversion.inverter import Inverter
from entoptic.inversion.learn import learn_inverter
from entoptic.inversion.maps import FeatureMaps, superpixel_cosine
from entoptic.inversion.network import build
from entoptic.inversion.saved import load_inverter
from entoptic.metrics.distribution import frechet, kid, kid_interval
from entoptic.metrics.inversion import match_ranks
from entoptic.models.model import Model, predictions
from entoptic.models.sources import load
from entoptic.priors.sources import load_prior

SUBJECTS = {"lite0": ("builtin:lite0", "bn2", 24000), "vit-s14": ("builtin:vit-s14", "blocks.10", 10000)}
# The rate of the paper's recipe is raised from 1e-5, at which nothing is learned of so few photos; its hint has the
# share of the prior's width that 512 is of Stable Diffusion's.
SHORT: dict[str, Any] = {"rate": 1.5e-3, "warmup": 20, "cycle_from": 0.4, "cycle_below": 0.5}
PAPER: dict[str, Any] = {"rate": 5e-4, "hint": 128}
SHIPPED = ("builtin:lite0-bn2", "builtin:lite0-bn2-128", "builtin:vit-s14-blocks-10")
"""The earlier one of a layer comes before the one that it is compared with."""
TITLES = {
    "shipped": "The shipped inverters", "lite0": "Recipes: bn2 of lite0", "vit-s14": "Recipes: blocks.10 of vit-s14",
    "sampling": "Sampling options",
}  # fmt: skip
SHOWN = 10
AS_SHIPPED = "8 steps, guidance 1.5"


def recipes(pictures: int) -> dict[str, EntopticRecipe]:
    """The four trainings of each network, each of which sees `pictures` photos."""
    ours, theirs = {"steps": pictures // 32, **SHORT}, {"steps": pictures // 8, **PAPER}
    return {
        "paper": PaperRecipe(**theirs),
        "entoptic": EntopticRecipe(**ours),
        "paper, pooled": PaperRecipe(**theirs, pooled=True),
        "entoptic, pooled": EntopticRecipe(**ours, pooled=True),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--work", type=Path, default=Path("runs/inversion-benchmark"), help="trainings are kept here")
    parser.add_argument("--prior", default="builtin:small-32", help="on which the recipes are compared")
    parser.add_argument("--shipped", default=",".join(SHIPPED), help="inverters of the first table")
    parser.add_argument("--long", default=SHIPPED[0], help="inverter for the sampling table")
    parser.add_argument("--pictures", type=int, default=8000, help="photos that each training sees")
    parser.add_argument("--n", type=int, default=200, help="held-out photos")
    parser.add_argument(
        "--parts",
        default="shipped,lite0,vit-s14,sampling",
        help="what to measure; the others keep their rows, '' only writes the page",
    )
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    real = held_out(options.n)
    judges = {"Lite0": load("builtin:lite0"), "Lite2": load("builtin:lite2"), "MobileNetV2": mobilenet()}
    judges["ViT-S/14"] = load("builtin:vit-s14")
    targets = {name: predictions(model, real).argmax(1) for name, model in judges.items()}

    def judge(
        inverter: Inverter, wanted: Tensor, make: Callable[[], Tensor], size: int = 0
    ) -> tuple[dict[str, Any], Tensor]:
        made = eight_bit(make())
        return measure(inverter, wanted, made, real, judges, targets, size or made.shape[-1]), made

    for part in filter(None, options.parts.split(",")):
        if part == "shipped":
            rows, strips = shipped(options, real, judge)
        else:
            rows, strips = sampling(options, real, judge) if part == "sampling" else subject(part, options, real, judge)
        keep(part, options, rows, strips)
        draw(strips, options.work / f"sheet-{part}.png")
    write(options.work, options.out)


@torch.no_grad()
def shipped(options: argparse.Namespace, real: Tensor, judge: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Inverters as they are shipped, each beside its bare prior and the photo as its prior's states hold it."""
    rows: dict[str, Any] = {}
    strips: dict[str, Tensor] = {"photo": real[:SHOWN]}
    for source in options.shipped.split(","):
        inverter = load_inverter(source)
        wanted, noise, side = read(inverter.maps, real), noise_of(inverter, len(real)), real.shape[-1]
        small = interpolate(real, (inverter.size,) * 2, mode="bicubic", antialias=True).clamp(0, 1)
        through = [inverter.prior.decode(inverter.prior.states(part)) for part in small.split(25)]  # type: ignore[misc]
        rows[source], made = judge(inverter, wanted, lambda: inverter.sample(wanted, noise), side)  # noqa: B023
        rows[source] |= cost(inverter, wanted[:1], steps=inverter.steps, guidance=inverter.guidance)
        strips[source] = made[:SHOWN]
        bare = inverter.sample(wanted, noise, strength=0.0, guidance=1.0)
        rows[f"{source}: the bare prior"], _ = judge(inverter, wanted, lambda: bare, side)  # noqa: B023
        what = f"{source}: the photo through the prior's states"
        rows[what], made = judge(inverter, wanted, lambda: torch.cat(through), side)  # noqa: B023
        strips[what] = made[:SHOWN]
        for name, row in rows.items():
            if name.startswith(source):
                tell(name, row)
        keep("shipped", options, rows, strips)
    return rows, strips


def subject(
    part: str, options: argparse.Namespace, real: Tensor, judge: Any
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The four trainings of one network, the bare prior, and the photo through the prior's states."""
    rows: dict[str, Any] = {}
    strips: dict[str, Tensor] = {}
    name, layer, limit = SUBJECTS[part]
    maps, prior = FeatureMaps.of(load(name), layer), load_prior(options.prior)
    wanted = read(maps, real)
    for what, recipe in recipes(options.pictures).items():
        folder = options.work / f"{part}-{what.replace(', ', '-')}"
        inverter = trained(folder, maps, prior, recipe, options.work / f"pairs-{part}", limit)
        noise = noise_of(inverter, len(real))
        steps, order = (50, 1) if recipe.drop_together else (8, 2)
        rows[what], made = judge(
            inverter,
            wanted,
            lambda: inverter.sample(wanted, noise, steps=steps, order=order),  # noqa: B023
        )
        rows[what] |= cost(inverter, wanted[:1], steps=steps, order=order)
        strips[f"{part} {what}"] = made[:SHOWN]
        tell(f"{part} {what}", rows[what])
    noise = noise_of(inverter, len(real))
    rows["the bare prior"], _ = judge(inverter, wanted, lambda: inverter.sample(wanted, noise, strength=0.0))
    small = interpolate(real, (inverter.size,) * 2, mode="bicubic", antialias=True).clamp(0, 1)
    rows["the photo through the prior's states"], made = judge(inverter, wanted, lambda: small)
    strips["photo"] = made[:SHOWN]
    tell(f"{part} photo", rows["the photo through the prior's states"])
    return rows, strips


def keep(part: str, options: argparse.Namespace, rows: dict[str, Any], strips: dict[str, Tensor]) -> None:
    record = {"rows": rows, "n": options.n, "pictures": options.pictures, "versions": about()}
    if part in SUBJECTS:
        record["prior"] = options.prior
    if part == "sampling":
        record["prior"] = load_inverter(options.long).prior.name
    (options.work / f"record-{part}.json").write_text(json.dumps(record))
    torch.save(strips, options.work / f"strips-{part}.pt")


def tell(what: str, row: dict[str, Any]) -> None:
    say(f"{what}: " + ", ".join(f"{k} {v[0]:.3f}" for k, v in row.items() if isinstance(v, list)))


def sampling(options: argparse.Namespace, real: Tensor, judge: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the options of `Inverter.sample` do, on the inverter that was trained longer."""
    inverter, strips = load_inverter(options.long), dict[str, Tensor]()
    wanted, noise = read(inverter.maps, real), noise_of(inverter, len(real))
    shuffled = shuffle(wanted, [torch.Generator().manual_seed(i) for i in range(len(real))])
    tries = [noise, *(noise_of(inverter, len(real), first) for first in (10_000, 20_000, 30_000))]

    def best_of() -> Tensor:
        made = torch.stack([eight_bit(inverter.sample(wanted, one)) for one in tries])
        cosines = torch.stack([superpixel_cosine(read(inverter.maps, one), wanted) for one in made])
        return made[cosines.argmax(0), torch.arange(len(real))]

    pairs = training_pairs(options.work / "pairs-lite0", inverter)
    ways: dict[str, tuple[Callable[[], Tensor], dict[str, Any] | None]] = {
        AS_SHIPPED: (lambda: inverter.sample(wanted, noise, guidance=1.5), {"guidance": 1.5}),
        "8 steps, one branch (guidance 1)": (lambda: inverter.sample(wanted, noise, guidance=1.0), {"guidance": 1.0}),
        "8 steps, best of 4 by cosine": (best_of, None),
        "8 steps, pull 2": (lambda: inverter.sample(wanted, noise, pull=2), {"guidance": 1.5, "pull": 2}),
        "8 steps, guidance 1.5, positions shuffled": (lambda: inverter.sample(shuffled, noise), None),
        "its own E[picture \\| map]": (lambda: inverter.mean(wanted), None),
    }
    if pairs is not None:
        decoder = learn_decoder(pairs, options.work / "decoder", DecoderRecipe(steps=800))

        def decoded() -> Tensor:
            with torch.no_grad():
                return torch.cat([decode(decoder, pairs, part) for part in wanted.split(50)]).clamp(0, 1)

        ways["trained decoder E[picture \\| map]"] = (decoded, None)
    ways |= {
        "50 DDIM steps, guidance 1.5": (
            lambda: inverter.sample(wanted, noise, steps=50, order=1, guidance=1.5),
            {"steps": 50, "order": 1, "guidance": 1.5},
        ),
    }
    rows: dict[str, Any] = {}
    for what, (make, flops) in ways.items():
        rows[what], made = judge(inverter, wanted, make)
        if flops is not None:
            rows[what] |= cost(inverter, wanted[:1], **flops)
        strips[f"longer: {what}"] = made[:SHOWN]
        tell(what, rows[what])
        keep("sampling", options, rows, strips)
    return rows, strips


def measure(
    inverter: Inverter, wanted: Tensor, made: Tensor, real: Tensor, judges: dict[str, Model], targets: dict[str, Tensor],
    size: int,
) -> dict[str, Any]:  # fmt: skip
    """Everything that is said about one set of pictures, with its values per photo under "each".

    The photos that their distribution is compared with have `size` pixels a side.
    """
    found = read(inverter.maps, made)
    each = {
        "cosine": superpixel_cosine(found, wanted),
        "standardised": superpixel_cosine(inverter.standardise(found), inverter.standardise(wanted)),
    }
    theirs = torch.empty(0)
    out: dict[str, Any] = {k: [float(v.mean()), *bootstrap(v.tolist())] for k, v in each.items()}
    for name, model in judges.items():
        logits, theirs = logits_and_features(model, made) if name == "Lite2" else (predictions(model, made), theirs)
        ranks = match_ranks(logits, targets[name])
        told = logits.log_softmax(1).gather(1, targets[name][:, None])[:, 0]
        each[f"{name} log p"] = told
        out[f"{name} log p"] = [float(told.mean()), *bootstrap(told.tolist())]
        for k in (1, 5):
            hits = (ranks <= k).float()
            each[f"{name} top{k}"] = hits
            out[f"{name} top{k}"] = [float(hits.mean()), *wilson(int(hits.sum()), len(hits))]
    small = interpolate(real, (size, size), mode="bicubic", antialias=True)
    reference = logits_and_features(judges["Lite2"], small.clamp(0, 1))[1]
    out["kid"] = [kid(theirs, reference), *kid_interval(theirs, reference)]
    out["frechet"] = frechet(theirs, reference)
    out["each"] = {k: [round(x, 5) for x in v.tolist()] for k, v in each.items()}
    return out


def paired(a: dict[str, list[float]], b: dict[str, list[float]]) -> dict[str, list[float]]:
    """Mean difference over photos with its interval, for each measurement."""
    out = {}
    for name in a:
        gaps = [x - y for x, y in zip(a[name], b[name])]
        out[name] = [sum(gaps) / len(gaps), *bootstrap(gaps)]
    return out


def cost(inverter: Inverter, wanted: Tensor, *, steps: int = 8, **options: Any) -> dict[str, Any]:
    """Network calls and GFLOP (2 per multiply-add) of one picture, counted."""
    with FlopCounterMode(display=False) as counter:
        inverter.sample(wanted, noise_of(inverter, 1), steps=steps, **options)
    calls = steps * (2 if options.get("guidance", 1.0) != 1 else 1)
    return {"calls": calls, "gflop": counter.get_total_flops() / 1e9}


def trained(
    folder: Path, maps: FeatureMaps, prior: Any, recipe: EntopticRecipe, pairs_folder: Path, limit: int
) -> Inverter:
    """The inverter of a recipe, trained if it is not there yet."""
    from safetensors.torch import load_file

    done, pairs = learn_inverter(
        maps, prior, photos(limit), folder, recipe, pairs_folder=pairs_folder, save_every=250, log=say
    )
    state = load_file(next(done.glob("training-*.safetensors")))
    net = build(prior, maps.channels, recipe)
    net.load_state_dict({k[4:]: v for k, v in state.items() if k.startswith("ema/")})
    return Inverter(folder.name, folder.name, maps, prior, net, recipe, pairs.mean_C, pairs.sd_C)


def photos(limit: int) -> list[Photos]:
    """The training photos: one of each ImageNet class, imagenette, and as many of tiny-imagenet as make `limit`."""
    tiny = Photos.open(DATA / "tiny-imagenet-64-train.parquet")
    pick = torch.randperm(len(tiny), generator=torch.Generator().manual_seed(1)).tolist()[: limit - 2000]
    return [Photos.open(DATA / "imagenet-one-per-class"), Photos.open(DATA / "imagenette" / "train"), tiny.subset(pick)]


def training_pairs(folder: Path, inverter: Inverter) -> Any:
    from entoptic.inversion.data import make_pairs

    return make_pairs(inverter.maps, photos(SUBJECTS["lite0"][2]), inverter.size, folder)


def held_out(n: int) -> Tensor:
    """N×3×224×224 photos of imagenette's validation part."""
    val = Photos.open(DATA / "imagenette" / "val")
    order = torch.randperm(len(val), generator=torch.Generator().manual_seed(0)).tolist()
    return torch.stack([centre_square(p, 224).float() / 255 for i in order if (p := val.read(i)) is not None][:n])


@torch.no_grad()
def read(maps: FeatureMaps, pictures: Tensor) -> Tensor:
    return torch.cat([maps.read(part).cpu() for part in pictures.split(25)])


def noise_of(inverter: Inverter, n: int, first: int = 0) -> Tensor:
    return inverter.noise([torch.Generator().manual_seed(first + i) for i in range(n)])


def say(text: str) -> None:
    print(text, flush=True)


# --- what is written ------------------------------------------------------------------------------------------------

COLUMNS = {
    "cosine": "cosine", "standardised": "standardised cosine", "Lite0 top1": "Lite0 top-1", "Lite0 top5": "Lite0 top-5",
    "ViT-S/14 top1": "ViT top-1 of 10", "Lite0 log p": "Lite0 log p",
    "Lite2 log p": "Lite2 log p", "MobileNetV2 log p": "MobileNetV2 log p", "ViT-S/14 log p": "ViT log p", "kid": "KID",
}  # fmt: skip


def write(work: Path, out: Path) -> None:
    """The page, from all the parts that were ever measured in `work`; tables of other parts stay as they are."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "inversion.json"
    kept = json.loads(file.read_text()) if file.is_file() else {"tables": {}, "paired": {}, "about": {}}
    for part in TITLES:
        if not (path := work / f"record-{part}.json").is_file():
            continue
        one = json.loads(path.read_text())
        rows = one.pop("rows")
        kept["paired"][part] = {
            f"{a} minus {b}": paired(rows[a]["each"], rows[b]["each"]) for a, b in differences(part, list(rows))
        }
        kept["tables"][part] = {name: {k: v for k, v in row.items() if k != "each"} for name, row in rows.items()}
        kept["about"][part] = one
        # Real photos are shown in the working folder only.
        shown = {k: v for k, v in strips_of(work, part).items() if "photo" not in k}
        draw(shown, out / f"inversion-{part}.jpg", 112 if part == "shipped" else 64)
    file.write_text(json.dumps(kept, indent=1) + "\n")
    lines = ["# Inversion: shipped inverters, two recipes, whole maps and pooled ones", ""]
    lines += [*(__doc__ or "").strip().splitlines()[2:], ""]
    for part in (one for one in TITLES if one in kept["tables"]):
        rows, one = kept["tables"][part], kept["about"][part]
        lines += [f"## {TITLES[part]}", "", f"n = {one['n']} photos of imagenette's validation part"]
        lines[-1] += f"; {one['pictures']} photos seen in each training" if part in SUBJECTS else ""
        lines[-1] += f"; on {one['prior']}" if "prior" in one else ""
        lines[-1] += "; " + ", ".join(f"{k} {v}" for k, v in one["versions"].items()) + "."
        lines.append("")
        if (out / f"inversion-{part}.jpg").is_file():
            shown = [name for name in rows if "photo" not in name and "the bare prior" not in name]
            lines += [f"![Samples](inversion-{part}.jpg)", "", "*From above: " + "; ".join(shown) + ".*", ""]
        lines += [
            "| | " + " | ".join(COLUMNS.values()) + " | Fréchet | calls | GFLOP |",
            "|---" * (len(COLUMNS) + 4) + "|",
        ]
        for what, row in rows.items():
            cells = [f"{row[k][0]:.3f} [{row[k][1]:.3f}, {row[k][2]:.3f}]" for k in COLUMNS]
            spent = [f"{row['frechet']:.0f}", *(f"{row[k]:.3g}" if k in row else "" for k in ("calls", "gflop"))]
            lines.append(f"| {what} | " + " | ".join(cells + spent) + " |")
        lines.append("")
        for what, gaps in kept["paired"][part].items():
            told = "; ".join(
                f"{COLUMNS.get(k, k)} {v[0]:+.3f} [{v[1]:+.3f}, {v[2]:+.3f}]" for k, v in gaps.items() if k in COLUMNS
            )
            lines += [f"{what}, paired: {told}", ""]
    (out / "inversion.md").write_text("\n".join(lines).rstrip() + "\n")


def differences(part: str, names: list[str]) -> list[tuple[str, str]]:
    """Rows whose differences are told."""
    if part == "sampling":
        return [(AS_SHIPPED, name) for name in names if name != AS_SHIPPED]
    if part == "shipped":
        bare = [(name, f"{name}: the bare prior") for name in names if f"{name}: the bare prior" in names]
        return [(SHIPPED[1], SHIPPED[0])] * ({*SHIPPED[:2]} <= {*names}) + bare
    return [("entoptic", "paper"), ("entoptic", "entoptic, pooled"), ("paper", "paper, pooled")]


def strips_of(work: Path, part: str) -> dict[str, Tensor]:
    strips: dict[str, Tensor] = torch.load(work / f"strips-{part}.pt", weights_only=True)
    return strips


def draw(strips: dict[str, Tensor], path: Path, side: int = 64) -> None:
    from torchvision.utils import make_grid

    sheet = torch.cat(
        [interpolate(v, (side, side), mode="bicubic", antialias=True).clamp(0, 1) for v in strips.values()]
    )
    grid = (make_grid(sheet, nrow=SHOWN, padding=2) * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(grid).save(path)


if __name__ == "__main__":
    main()

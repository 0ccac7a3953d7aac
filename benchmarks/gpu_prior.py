"""Trains the 64-pixel prior in minutes of GPU time, on a machine that has PyTorch and nothing else of ours.

    python benchmarks/gpu_prior.py pack --photos TRAIN… --held-out VAL --out parts       # here: photos as a few files
    python benchmarks/gpu_prior.py train --parts parts --out trained --minutes 9         # there: stops by itself
    python benchmarks/gpu_prior.py train --parts parts --out trained --minutes 9 --resume checkpoint
    python benchmarks/gpu_prior.py finish --checkpoint trained --held-out VAL --out prior   # here: a prior with its card

`pack` writes mosaics of WebP pictures in parts of at most 15 MB, with their classes. `train` needs torch, torchvision, timm, numpy,
Pillow and safetensors: it trains `entoptic.priors.unet` by the loop of `entoptic learn prior`, in bfloat16 and compiled on a
GPU. Its first minute times networks of several sizes and takes the largest that sees each photo often enough (`--network`
names one). The time left then sets the number of steps, so that the rate has fallen to 0 when the time is up. A line of
`log.jsonl`, a sample
sheet and the Fréchet and kernel distances come every `--every` minutes. What it leaves in OUT is small enough to be carried
back: the mean weights in 8 bits, in parts of at most 15 MB, and `state.json`. `--resume` starts from these weights; the
optimiser's moments are built again while the rate rises.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from entoptic.base.compact import pack, read_parts, unpack, write_parts
from entoptic.base.training import optimise
from entoptic.priors.learn import Batches, flow_loss
from entoptic.priors.recipe import Recipe
from entoptic.priors.unet import UNet

SIDE, TILES = 64, 16
"""Side of a picture, and pictures along each side of a mosaic."""
PART = 15e6
"""Bytes of a part of the photos."""
BASE = Recipe(
    size=SIDE, batch_size=256, patch=2, attention=(16, 8), rate=4e-4, warmup=400, decay=0.3, ema=0.9995, dropout=0.1
)
"""What all networks share."""
NETWORKS = {
    "toy": replace(BASE, widths=(32, 64), layers=1, attention=(16,), batch_size=16, warmup=5),
    "23M": replace(BASE, widths=(128, 256, 320), layers=1),
    "42M": replace(BASE, widths=(128, 256, 384), layers=2),
    "61M": replace(BASE, widths=(128, 256, 512), layers=2),
}
"""Networks by their number of weights."""
TIMED = 4.0
"""Seconds over which a pace is measured."""
PASSES = 40
"""How often a network should see each photo; the largest network that does is taken."""


# --- photos in parts ---------------------------------------------------------------------------------------------------


def pack_photos(photos: list[str], held_out: str, out: Path, megabytes: float) -> None:
    """Writes photos as parts of mosaics, at the highest quality that fits.

    Args:
        photos: for the training; their labels are the classes.
        held_out: compared with in the end; a tenth as many at most.
        out: folder of the parts.
        megabytes: of all parts together.
    """
    from entoptic.base.pixels import centre_square
    from entoptic.images.photos import Photos

    pixels, labels = [], []
    for source in [*photos, held_out]:
        opened = Photos.open(source)
        for at, images in opened.batches(lambda photo: centre_square(photo, SIDE), 256):
            pixels += [image.permute(1, 2, 0).numpy() for image in images]
            names = [opened[i].labels for i in at]
            labels += ["" if source == held_out else (name[0] if name else "") for name in names]
        print(f"{source}: {len(pixels)} pictures so far")
    kept = [i for i, name in enumerate(labels) if name]
    apart = [i for i, name in enumerate(labels) if not name][: max(1, len(kept) // 10)]
    classes = sorted({labels[i] for i in kept})
    order = [kept[i] for i in np.random.default_rng(0).permutation(len(kept))]
    quality = 95
    while quality > 40:
        trial = mosaics([pixels[i] for i in order[: TILES**2]], quality)
        if sum(map(len, trial)) / TILES**2 * (len(order) + len(apart)) < megabytes * 1e6:
            break
        quality -= 3
    out.mkdir(parents=True, exist_ok=True)
    tiles = [
        (group, split, mosaics([pixels[i] for i in group], quality)[0])
        for split, rows in (("train", order), ("held-out", apart))
        for group in (rows[first : first + TILES**2] for first in range(0, len(rows), TILES**2))
    ]
    parts: list[list[int]] = [[]]
    size = 0
    for number, (_, _, content) in enumerate(tiles):
        if size + len(content) > PART:
            parts.append([])
            size = 0
        parts[-1].append(number)
        size += len(content)
    for number, held in enumerate(parts):
        with zipfile.ZipFile(out / f"photos-{number:02}.zip", "w", zipfile.ZIP_STORED) as archive:
            index = []
            for i in held:
                group, split, content = tiles[i]
                archive.writestr(f"{i:04}.webp", content)
                index.append({"file": f"{i:04}.webp", "split": split, "labels": [labels[g] for g in group]})
            archive.writestr("index.json", json.dumps({"classes": classes, "tiles": index}))
    total = sum(file.stat().st_size for file in out.glob("photos-*.zip"))
    print(f"{len(order)} + {len(apart)} pictures, {len(classes)} classes, quality {quality}: {total / 1e6:.1f} MB")


def mosaics(pictures: list[np.ndarray], quality: int) -> list[bytes]:
    """Returns pictures S×S×3 as WebP files of TILES×TILES of them; the last is filled up with black."""
    out = []
    for first in range(0, len(pictures), TILES**2):
        sheet = np.zeros((TILES * SIDE, TILES * SIDE, 3), np.uint8)
        for i, picture in enumerate(pictures[first : first + TILES**2]):
            y, x = divmod(i, TILES)
            sheet[y * SIDE : (y + 1) * SIDE, x * SIDE : (x + 1) * SIDE] = picture
        held = io.BytesIO()
        Image.fromarray(sheet).save(held, "WEBP", quality=quality, method=6)
        out.append(held.getvalue())
    return out


def read_photos(parts: Path) -> tuple[np.ndarray, Tensor, list[str], np.ndarray]:
    """Returns training pictures M×3×S×S uint8, their classes M, the names of classes, and held-out pictures."""
    files = sorted(parts.rglob("photos-*.zip"))
    if not files:
        raise SystemExit(f"no photos-*.zip in {parts}; make them with the command `pack`")
    jobs: list[tuple[str, list[str], bytes]] = []
    names: list[str] = []
    for file in files:
        with zipfile.ZipFile(file) as archive:
            index = json.loads(archive.read("index.json"))
            names = index["classes"]
            jobs += [(tile["split"], tile["labels"], archive.read(tile["file"])) for tile in index["tiles"]]

    def pictures(job: tuple[str, list[str], bytes]) -> np.ndarray:
        sheet = np.asarray(Image.open(io.BytesIO(job[2])).convert("RGB"))
        tiles = sheet.reshape(TILES, SIDE, TILES, SIDE, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, SIDE, SIDE)
        return np.ascontiguousarray(tiles[: len(job[1])])

    with ThreadPoolExecutor() as pool:
        decoded = list(pool.map(pictures, jobs))
    train = [i for i, job in enumerate(jobs) if job[0] == "train"]
    number = {name: i for i, name in enumerate(names)}
    classes = torch.tensor([number[label] for i in train for label in jobs[i][1]])
    held_out = np.concatenate([decoded[i] for i, job in enumerate(jobs) if job[0] != "train"])
    return np.concatenate([decoded[i] for i in train]), classes, names, held_out


# --- training ----------------------------------------------------------------------------------------------------------


def train(
    parts: Path, out: Path, minutes: float, *, network: str = "", resume: Path | None = None, device: str = "auto",
    every: float = 3.0, compared: int = 2000,
) -> dict[str, Any]:  # fmt: skip
    """Trains for so many minutes, everything included, and returns the record that it writes to OUT/state.json."""
    began = time.monotonic()

    def left() -> float:
        return minutes - (time.monotonic() - began) / 60

    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    out.mkdir(parents=True, exist_ok=True)
    pixels, classes, names, held_out = read_photos(parts)
    say(out, event="photos", train=len(pixels), held_out=len(held_out), classes=len(names), device=device_name(where))
    before = read_state(resume) if resume else None
    timed = {}
    if not network:
        network = before["network"] if before else ""
    if not network:
        for name in [n for n in NETWORKS if n != "toy"]:
            timed[name] = pace(name, pixels, classes, len(names), where)
            say(out, event="pace", network=name, pictures_per_second=round(timed[name], 1))
        often = [n for n, speed in timed.items() if speed * 60 * left() > PASSES * len(pixels)]
        network = often[-1] if often else next(iter(timed))
    recipe = NETWORKS[network]
    torch.manual_seed(recipe.seed)
    net, mean = UNet(recipe, len(names), dropout=recipe.dropout).to(where), UNet(recipe, len(names)).to(where)
    seen = 0
    if before and resume:
        net.load_state_dict(unpack(read_parts(sorted(resume.rglob("weights-*.safetensors")))))
        seen = before["pictures_seen"]
    mean.load_state_dict(net.state_dict())
    mean.requires_grad_(False).eval()
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    forward = compiled(net, where)
    optimiser = torch.optim.AdamW(net.parameters(), lr=recipe.rate, betas=(0.9, 0.99), weight_decay=0.01)
    # Other batches than those of the stretches before.
    batches = Batches(pixels, classes, len(names), replace(recipe, seed=recipe.seed + seen), where)
    state = {"network": network, "recipe": asdict(recipe), "classes": names, "pictures_seen": seen, "pace": timed}
    state |= {"stretches": (before or {}).get("stretches", [])}
    for _ in range(3):
        flow_loss(forward, batches, 0).backward()  # the first call compiles
    speed = steps_per_second(net, forward, batches, optimiser, where)
    # Sheets, distances and the last checkpoint take a part of the time.
    reserve = 0.35 if where == "cuda" else 0.15 * minutes
    steps = max(2, int(speed * 60 * max(0.05, left() - reserve)))
    recipe = replace(recipe, steps=steps, warmup=min(recipe.warmup, max(1, steps // 10)))
    say(out, event="start", network=network, weights=sum(p.numel() for p in net.parameters()), steps=steps,
        pictures_per_second=round(speed * recipe.batch_size, 1), seen_before=seen)  # fmt: skip
    record: dict[str, Any] = {"step": 0, "loss": []}
    last, took = [time.monotonic()], [0.3]  # when it was measured, and the minutes that took
    scratch = Path(tempfile.mkdtemp())  # the whole state in float32: too large to be carried
    judge = Judge(held_out, compared, where)

    def report(net: UNet, path: Path) -> None:
        now = time.monotonic()
        if now - last[0] < 60 * every or left() < 3 * took[0] + reserve:
            return
        measure(net, recipe, judge, out, seen + record["step"] * recipe.batch_size, where)
        last[0], took[0] = time.monotonic(), (time.monotonic() - now) / 60

    optimise(
        "training the prior", net, mean, lambda step: flow_loss(forward, batches, step), recipe, scratch, record,
        optimiser, device=where, save_every=steps + 1, sheet_every=max(1, steps // 50), sheet=report,
        minutes=max(0.02, left() - reserve / 2), log=lambda line: say(out, event="step", line=line),
    )  # fmt: skip
    state["pictures_seen"] = seen + record["step"] * recipe.batch_size
    state["stretches"] = [
        *state["stretches"],
        {"device": device_name(where), "minutes": round((time.monotonic() - began) / 60, 2), "steps": record["step"],
         "batch_size": recipe.batch_size, "loss": round(record.get("running", float("nan")), 5), "torch": torch.__version__},
    ]  # fmt: skip
    write_parts(pack(mean.state_dict()), out, "weights")
    (out / "state.json").write_text(json.dumps(state, indent=1))
    say(out, event="saved", pictures_seen=state["pictures_seen"], minutes_left=round(left(), 2))
    if left() > took[0]:
        rounded = UNet(recipe, len(names)).to(where)
        rounded.load_state_dict(unpack(read_parts(sorted(out.glob("weights-*.safetensors")))))
        measure(rounded.eval(), recipe, judge, out, state["pictures_seen"], where)
    return state


def compiled(net: UNet, where: str) -> Any:
    """Returns the network, compiled on a GPU; where that fails it runs as it is."""
    if where != "cuda":
        return net
    torch._dynamo.config.suppress_errors = True  # type: ignore[attr-defined]
    return torch.compile(net)


def pace(name: str, pixels: np.ndarray, classes: Tensor, count: int, where: str) -> float:
    """Returns the pictures a second that a network learns from, not compiled."""
    recipe = NETWORKS[name]
    net = UNet(recipe, count, dropout=recipe.dropout).to(device=where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-5)
    batches = Batches(pixels[:2048], classes[:2048], count, recipe, where)
    return steps_per_second(net, net, batches, optimiser, where) * recipe.batch_size


def steps_per_second(net: UNet, forward: Any, batches: Batches, optimiser: torch.optim.Optimizer, where: str) -> float:
    """Returns the steps a second, over a few seconds. The weights do not move: the rate is 0."""
    for group in optimiser.param_groups:
        group["lr"] = 0.0
    started, steps = 0.0, -2
    while steps < 2 or time.monotonic() - started < TIMED:
        if steps == 0:
            started = time.monotonic()
        with torch.autocast(where, torch.bfloat16, enabled=where == "cuda"):
            loss = flow_loss(forward, batches, steps + 2)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        float(loss.detach())
        steps += 1
    speed = steps / (time.monotonic() - started)
    optimiser.state.clear()
    optimiser.zero_grad(set_to_none=True)
    return speed


# --- measuring ---------------------------------------------------------------------------------------------------------


class Judge:
    """Distances of samples from held-out pictures in the pooled features of the packaged network (builtin:lite0).

    No training here saw these features. The published figures are those of other judges, in the prior's card.
    """

    def __init__(self, held_out: np.ndarray, compared: int, where: str) -> None:
        from entoptic.metrics.distribution import features
        from entoptic.models.sources import load

        self.model = load("builtin:lite0", device=where)
        self.count = min(compared, len(held_out) // 2)
        real = torch.from_numpy(held_out[: 2 * self.count]).float() / 255
        self.reference, self.other = (features(self.model, half) for half in real.split(self.count))

    def __call__(self, pictures: Tensor) -> dict[str, float]:
        """Returns the distances of n×3×S×S pictures in [0, 1], beside those of other photos."""
        from entoptic.metrics.distribution import features, frechet, kid

        theirs = features(self.model, pictures)
        return {
            "n": self.count, "kid": kid(theirs, self.reference), "frechet": frechet(theirs, self.reference),
            "kid_photos": kid(self.other, self.reference), "frechet_photos": frechet(self.other, self.reference),
        }  # fmt: skip


def measure(net: UNet, recipe: Recipe, judge: Judge, out: Path, seen: int, where: str) -> None:
    """Writes a sample sheet, and the distances of six-step samples with and without guidance."""
    from entoptic.runs.learn import draw_sheet, training_prior
    from entoptic.sampling.bank import make_bank

    for guidance in (1.0, 2.0):
        prior = training_prior(net, recipe, torch.device(where), guidance=guidance)
        draw_sheet(prior, out / f"sheet-{seen:09}-{guidance:g}.png")
        bank = make_bank(prior, size=judge.count, steps=6, seed=1, batch_size=500 if where == "cuda" else 64)
        say(out, event="distances", seen=seen, guidance=guidance, **judge(bank.pictures.float() / 255))


def say(out: Path, **what: Any) -> None:
    """Prints one line of the log and appends it to OUT/log.jsonl."""
    line = json.dumps({"at": time.strftime("%H:%M:%S"), **what})
    print(line, flush=True)
    with open(out / "log.jsonl", "a") as file:
        file.write(line + "\n")


def device_name(where: str) -> str:
    """Returns the name of a device in words."""
    return torch.cuda.get_device_name() if where == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def read_state(folder: Path) -> dict[str, Any]:
    """Reads OUT/state.json of an earlier stretch."""
    found = sorted(folder.rglob("state.json"))
    if not found:
        raise SystemExit(f"no state.json in {folder}; it holds no checkpoint")
    state = json.loads(found[-1].read_text())
    if state["network"] not in NETWORKS:
        raise SystemExit(f"{folder} holds a network {state['network']!r}; there are {', '.join(NETWORKS)}")
    return state


# --- a prior with its card ---------------------------------------------------------------------------------------------


def finish(checkpoint: Path, held_out: str, out: Path, name: str, guidance: float, samples: int) -> None:
    """Writes the weights of a checkpoint as a prior with a card, in 8 bits, and measures it."""
    from entoptic.priors.learn import network
    from entoptic.priors.saved import save_prior
    from entoptic.priors.sources import load_prior
    from entoptic.runs.learn import SHIFT, distances, draw_sheet
    from entoptic.runs.records import versions

    state = read_state(checkpoint)
    recipe = Recipe(**{k: tuple(v) if isinstance(v, list) else v for k, v in state["recipe"].items()})
    net = network(recipe, len(state["classes"]))
    net.load_state_dict(unpack(read_parts(sorted(checkpoint.rglob("weights-*.safetensors")))))
    card = {
        "name": name, "size": recipe.size, "patch": recipe.patch, "classes": state["classes"], "guidance": guidance,
        "shift": SHIFT, "parameters": sum(p.numel() for p in net.parameters()),
        "training": {k: state[k] for k in ("pictures_seen", "stretches", "recipe")} | {"versions": versions()},
    }  # fmt: skip
    save_prior(net, out, card, eight_bit=True)
    prior = load_prior(f"file:{out}")
    draw_sheet(prior, out / "samples.png")
    card["distances"] = distances(prior, held_out, samples=samples)
    save_prior(net, out, card, eight_bit=True)
    print(json.dumps(card["distances"], indent=1))


def parser() -> argparse.ArgumentParser:
    """Returns what reads the three commands."""
    whole = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = whole.add_subparsers(dest="command", required=True)
    one = commands.add_parser("pack")
    one.add_argument("--photos", nargs="+", required=True)
    one.add_argument("--held-out", required=True)
    one.add_argument("--out", type=Path, required=True)
    one.add_argument("--megabytes", type=float, default=50.0)
    one = commands.add_parser("train")
    one.add_argument("--parts", type=Path, required=True)
    one.add_argument("--out", type=Path, required=True)
    one.add_argument("--minutes", type=float, required=True)
    one.add_argument("--network", choices=NETWORKS, default="")
    one.add_argument("--resume", type=Path)
    one.add_argument("--device", default="auto")
    one.add_argument("--every", type=float, default=3.0)
    one.add_argument("--compared", type=int, default=2000)
    one = commands.add_parser("finish")
    one.add_argument("--checkpoint", type=Path, required=True)
    one.add_argument("--held-out", required=True)
    one.add_argument("--out", type=Path, required=True)
    one.add_argument("--name", default="flow-64")
    one.add_argument("--guidance", type=float, default=1.0)
    one.add_argument("--samples", type=int, default=2000)
    return whole


def main() -> None:
    """Runs one of the three commands."""
    given = parser().parse_args()
    if given.command == "pack":
        pack_photos(given.photos, given.held_out, given.out, given.megabytes)
    elif given.command == "train":
        train(given.parts, given.out, given.minutes, network=given.network, resume=given.resume, device=given.device,
              every=given.every, compared=given.compared)  # fmt: skip
    else:
        finish(given.checkpoint, given.held_out, given.out, given.name, given.guidance, given.samples)


if __name__ == "__main__":
    main()

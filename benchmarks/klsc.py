"""EnergyDPS against KLSC at equal scores, on a small prior and builtin:lite0.

    python benchmarks/klsc.py --out docs/benchmarks

For each of 20 units EnergyDPS runs as published (1000 ancestral steps, constant step 1, capped at the mean of the strongest
`--caps` share of the prior's samples, the published one and a lower one). KLSC is asked for the very mean score that the
chain of the lower cap reached on that unit, and for budgets of nats. Controls are what the samplers make without a unit:
1000 ancestral steps from EnergyDPS's own noise, and the few-step map that KLSC tilts. Naturalness is the kernel distance to
photos in the features of networks that no method sees, whether those see the class, and, without any network, how far the
power spectrum is from that of photos. Intervals resample units; pictures of one unit are never compared with each other.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common import CLASSES, DATA, about, logits_and_features, mobilenet
from entoptic.base.pixels import centre_square
from entoptic.errors import UserError
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.methods.contract import Context, Item
from entoptic.methods.klsc import Klsc, populate
from entoptic.methods.prior_sampling import MAP_STEPS, as_shown
from entoptic.models.model import Model
from entoptic.models.sources import load
from entoptic.priors.sources import load_prior
from entoptic.sampling.bank import Bank, make_bank
from entoptic.sampling.frontier import Frontier, dv_bound
from entoptic.sampling.guidance import energy_dps
from entoptic.sampling.tilt import top_share_mean
from entoptic.sampling.unit_scores import UnitScores, as_saved
from entoptic.units.unit import bind

CHANNELS = tuple(f"blocks.6:{i}" for i in (7, 40, 112, 185, 260)) + tuple(
    f"blocks.5:{i}" for i in (5, 33, 77, 120, 171)
)
SHOWN = 12  # draws of a population
PLAIN = 6  # of the map without a unit, for each unit
CAP_BANK = 2048  # samples that EnergyDPS's cap is taken from, as its config has it
UNGUIDED, MAP = "unguided, 1000 steps", "unguided, the map"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--keep", type=Path, default=Path("runs/klsc-benchmark"), help="where chains are kept")
    parser.add_argument("--prior", default="builtin:small-32", help="small: samplers are compared here, not priors")
    parser.add_argument("--steps", type=int, default=1000, help="of EnergyDPS")
    parser.add_argument(
        "--caps", type=float, nargs="+", default=[0.001, 0.2], help="EnergyDPS's, shares of the prior's samples"
    )
    parser.add_argument("--asked", type=float, nargs="+", default=[0.2], help="caps at whose scores KLSC is asked for")
    parser.add_argument("--budgets", type=float, nargs="*", default=[], help="of KLSC, nats, beside")
    parser.add_argument("--bank", type=int, default=16384)
    parser.add_argument("--particles", type=int, default=12)
    parser.add_argument("--islands", type=int, default=1)
    parser.add_argument("--moves", type=int, default=1)
    parser.add_argument("--units", type=int, default=20)
    parser.add_argument(
        "--only", default="", help="numbers of units, to share the work between processes; makes no page"
    )
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for folder in (options.out, options.keep):
        folder.mkdir(parents=True, exist_ok=True)
    subject, prior = load("builtin:lite0"), load_prior(options.prior)
    # Logits and channels in turn, so that a shorter run has both.
    names = [n for pair in zip((f"logits:{c}" for c in CLASSES), CHANNELS) for n in pair][: options.units]
    units = bind(subject, names)
    bank = make_bank(prior, size=options.bank, steps=MAP_STEPS, progress=say)
    plain = UnitScores(units)
    raw = bank.scores(plain, progress=say)
    scores = plain.standardised(raw)
    made: dict[str, list[Tensor | None]] = {}
    told: dict[str, list[dict[str, Any]]] = {}
    for share in options.caps:
        name = f"energydps, cap {share:g}"
        made[name], told[name] = chains(name, share, units, scores, raw, prior, options)
    made[UNGUIDED], told[UNGUIDED] = chains("unguided", None, units, scores, raw, prior, options)
    rows = torch.arange(len(units))[:, None] + len(units) * torch.arange(PLAIN)
    made[MAP] = [as_shown(subject, bank.pictures[r].float() / 255) for r in rows]
    told[MAP] = [{"mean": float(scores.of(raw[u, rows[u]], u).mean()), "nats": 0.0} for u in range(len(units))]
    wanted: list[tuple[str, list[dict[str, float]]]] = [
        (f"klsc at the scores of {name}", [{"mean": round(row["mean"], 3)} for row in told[name]])
        for name in (f"energydps, cap {share:g}" for share in options.asked)
    ]
    wanted += [(f"klsc, {nats:g} nats", [{"nats": nats}] * len(units)) for nats in options.budgets]
    context = Context(model=subject, references=References(subject), prior=prior, progress=say)
    for name, targets in wanted:
        drawn = [
            draw(units[u], u, bank, scores, raw, target, context, options)
            if not options.only or str(u) in options.only.split(",") else (None, {})
            for u, target in enumerate(targets)
        ]  # fmt: skip
        made[name], told[name] = [p for p, _ in drawn], [t for _, t in drawn]
    if options.only:
        return
    result: dict[str, Any] = {
        "about": about() | vars(options) | {"out": "", "keep": "", "prior": prior.name}, "units": names, "told": told,
        "least nats": {
            name: [dv_bound(row["mean"], Frontier.from_bank(scores.of(raw[u], u))).to_json() for u, row in enumerate(told[name])]
            for name in made if name.startswith("energydps")
        },
    }  # fmt: skip
    judge(result, made, units, subject, bank.pictures.shape[-1])
    (options.out / "klsc.json").write_text(json.dumps(result, indent=1) + "\n")
    sheets = {name: f"klsc-{i}.jpg" for i, name in enumerate(made)}
    for name, file in sheets.items():
        sheet(made[name], options.out / file)
    (options.out / "klsc.md").write_text(page(result, sheets))
    print(page(result, sheets))


def say(what: str, done: int, total: int) -> None:
    if done == total:
        print(f"{what}: {done}", flush=True)


def chains(
    name: str, share: float | None, units: Sequence[Any], scores: UnitScores, raw: Tensor, prior: Any, options: Any
) -> tuple[list[Tensor | None], list[dict[str, Any]]]:
    """One EnergyDPS chain for each unit, every 10 in a batch; without a share, the same sampler without a push."""
    path = options.keep / f"{name.replace(' ', '-').replace(',', '')}-{options.steps}-{len(units)}.pt"
    if not path.is_file():
        caps = torch.tensor([0.0 if share is None else top_share_mean(r[:CAP_BANK], share) for r in raw])
        x0, found, spent = [], [], []
        for rows in torch.arange(len(units)).split(10):
            done = energy_dps(
                prior, UnitScores(units), caps[rows], [Item(target=units[u], sample=0, seed=0).generator() for u in rows.tolist()],
                scale=0.0 if share is None else 1.0, steps=options.steps, groups=rows,
            )  # fmt: skip
            if not bool(done.alive.all()):
                raise SystemExit(f"{name}: a chain diverged")
            x0.append(done.x0)
            found.append(done.scores)
            spent.append(done.noisy_path_kl)
            print(f"{name}: {int(rows[-1]) + 1}/{len(units)}", flush=True)
        pictures = as_shown(units[0].model, prior.decode(torch.cat(x0)))
        torch.save({"pictures": pictures[:, None], "scores": torch.cat(found), "path": torch.cat(spent)}, path)
    kept = torch.load(path, weights_only=True)
    told = [
        {"mean": float(scores.of(s, u)), "path nats": float(p)}
        for u, (s, p) in enumerate(zip(kept["scores"].flatten(), kept["path"].flatten()))
    ]
    return list(kept["pictures"]), told


def draw(
    unit: Any,
    place: int,
    bank: Bank,
    scores: UnitScores,
    raw: Tensor,
    target: dict[str, float],
    context: Context,
    options: Any,
) -> tuple[Tensor | None, dict[str, Any]]:
    """Pictures of the unit's tilt and what is told of it."""
    config = Klsc(bank=bank.size, particles=options.particles, islands=options.islands, moves=options.moves, **target)  # type: ignore[arg-type]
    try:
        found = populate(unit, place, bank, scores, raw[place], config, 0, context)
    except UserError as error:
        print(f"{unit} at {target}: {error}", flush=True)
        return None, {"refused": str(error)}
    law = {
        k: found.law.get(k)
        for k in ("beta", "nats", "ess", "memory", "pictures_scored", "refused", "acceptance", "distinct_ancestors")
    }
    # They are drawn by weight already, so their plain mean is what EnergyDPS's chains are compared with.
    s = found.scores[:SHOWN]
    told = law | {"mean": found.law["mean_in_sd"], "mean shown": float(s.mean()), "shown": len(s)}
    print(f"{unit} at {target}: {told}", flush=True)
    return as_shown(context.model, found.pictures[:SHOWN].float() / 255), told


def real_photos(size: int, count: int = 300) -> Tensor:
    """Photos as the prior could show them: at its size."""
    photos = Photos.open(DATA / "tiny-imagenet-64-val.parquet")
    order = torch.randperm(len(photos), generator=torch.Generator().manual_seed(0))[:count].tolist()
    return torch.stack([centre_square(photos.read(i), size).float() / 255 for i in order])


def spectrum(pictures: Tensor, size: int) -> Tensor:
    """N×(size/2) log power of the grey picture at the prior's size, by distance from the zero frequency."""
    small = torch.nn.functional.interpolate(pictures, (size, size), mode="area").mean(1).double()
    power = torch.fft.fft2(small - small.mean((1, 2), keepdim=True)).abs().square()
    at = torch.fft.fftfreq(size, dtype=torch.float64) * size
    ring = (at[:, None].square() + at.square()).sqrt().round().long()
    return torch.stack([power[:, ring == r].mean(1) for r in range(1, size // 2)], 1).clamp_min(1e-9).log()


def judge(
    result: dict[str, Any], made: dict[str, list[Tensor | None]], units: Sequence[Any], subject: Model, size: int
) -> None:  # fmt: skip
    """What networks that no method sees, and the spectrum, say of each method's pictures; and differences paired by unit."""
    real = as_saved(subject, real_photos(size))
    usual = spectrum(real, size)
    off = {
        m: [None if p is None else float((spectrum(p, size) - usual.mean(0)).abs().mean()) for p in pictures]
        for m, pictures in made.items()
    }
    apart_photos = float((usual - usual.mean(0)).abs().mean())
    result["spectrum"] = {"photos": apart_photos} | {
        m: paired(np.array([v for v in x if v is not None])) for m, x in off.items()
    }
    against = pairs(made)
    result["paired"] = {f"{a} minus {b}": {"spectrum": paired(difference(off[a], off[b]))} for a, b in against}
    judges = {"Lite1": load("builtin:lite1"), "Lite2": load("builtin:lite2"), "MobileNetV2": mobilenet()}
    logits = [u for u in range(len(units)) if units[u].layer == "logits"]
    result["judges"] = {}
    for name, model in judges.items():
        target = logits_and_features(model, real)[1]
        both = {
            m: [None if p is None else logits_and_features(model, p) for p in pictures] for m, pictures in made.items()
        }
        sets = {m: [None if b is None else b[1] for b in found] for m, found in both.items()}
        seen = {
            m: [
                None if (b := found[u]) is None else float(b[0].log_softmax(1)[:, units[u].index].mean())
                for u in logits
            ]
            for m, found in both.items()
        }
        result["judges"][name] = {
            m: {
                "kid": apart([s for s in sets[m] if s is not None], target),
                "log probability": paired(np.array([v for v in seen[m] if v is not None])),
            }
            for m in made
        }
        for a, b in against:
            there = [(x, y) for x, y in zip(sets[a], sets[b]) if x is not None and y is not None]
            result["paired"][f"{a} minus {b}"][name] = {
                "kid": paired_apart([x for x, _ in there], [y for _, y in there], target),
                "log probability": paired(difference(seen[a], seen[b])),
            }
        print(name, "judged", flush=True)


def pairs(made: dict[str, Any]) -> list[tuple[str, str]]:
    """KLSC minus EnergyDPS at its scores, and each minus what its own sampler makes without a unit."""
    found = []
    for name in made:
        if name.startswith("energydps"):
            found.append((name, UNGUIDED))
            if (same := f"klsc at the scores of {name}") in made:
                found += [(same, name), (same, MAP)]
    return [*found, (MAP, UNGUIDED)]


def difference(a: Sequence[float | None], b: Sequence[float | None]) -> np.ndarray:
    return np.array([x - y for x, y in zip(a, b) if x is not None and y is not None])


def _blocks(sets: list[Tensor], target: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums of the KID's kernel between units (U×U, 0 within one), with the target (U, its mean), and sizes."""
    sizes = np.array([len(s) for s in sets], dtype=float)
    owner = np.repeat(np.arange(len(sets)), sizes.astype(int))
    x = torch.cat(sets).double()
    member = torch.zeros(len(sets), len(x), dtype=torch.float64)
    member[owner, np.arange(len(x))] = 1.0
    between = (member @ ((x @ x.T) / x.shape[1] + 1) ** 3 @ member.T).numpy()
    np.fill_diagonal(between, 0.0)
    cross = member @ (((x @ target.double().T) / x.shape[1] + 1) ** 3).mean(1)
    return between, cross.numpy(), sizes


def _distance(blocks: tuple[np.ndarray, np.ndarray, np.ndarray], w: np.ndarray) -> float:
    """KID but for the target's own term, of units drawn w times; pictures of one unit do not meet."""
    between, cross, sizes = blocks
    pairs = np.outer(w * sizes, w * sizes)
    np.fill_diagonal(pairs, 0.0)
    return float(w @ between @ w / pairs.sum() - 2 * (w @ cross) / (w @ sizes))


def _own(target: Tensor) -> float:
    kernel = ((target.double() @ target.double().T) / target.shape[1] + 1) ** 3
    return float((kernel.sum() - kernel.diagonal().sum()) / (len(target) * (len(target) - 1)))


def _draws(units: int, count: int = 2000) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.bincount(rng.integers(0, units, units), minlength=units).astype(float) for _ in range(count)]


def apart(sets: list[Tensor], target: Tensor) -> dict[str, Any]:
    """KID without pairs of one unit, with a 95 % interval from resampling units."""
    blocks, own = _blocks(sets, target), _own(target)
    found = [_distance(blocks, w) + own for w in _draws(len(sets))]
    value = _distance(blocks, np.ones(len(sets))) + own
    return {"value": value, "n": len(sets), "interval": [float(np.quantile(found, q)) for q in (0.025, 0.975)]}


def paired_apart(a: list[Tensor], b: list[Tensor], target: Tensor) -> dict[str, Any]:
    """Difference of two such distances; both take the same draw of units."""
    pa, pb = _blocks(a, target), _blocks(b, target)
    found = [_distance(pa, w) - _distance(pb, w) for w in _draws(len(a))]
    one = np.ones(len(a))
    value = _distance(pa, one) - _distance(pb, one)
    return {"value": value, "n": len(a), "interval": [float(np.quantile(found, q)) for q in (0.025, 0.975)]}


def paired(differences: np.ndarray, draws: int = 4000) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    means = differences[rng.integers(0, len(differences), (draws, len(differences)))].mean(1)
    return {
        "value": float(differences.mean()), "n": len(differences),
        "interval": [float(np.quantile(means, q)) for q in (0.025, 0.975)],
    }  # fmt: skip


def sheet(pictures: Sequence[Tensor | None], path: Path, side: int = 64) -> None:
    """One column per unit, up to four pictures each."""
    tall = max((min(4, len(p)) for p in pictures if p is not None), default=0)
    canvas = Image.new("RGB", (side * len(pictures), side * tall), "white")
    for x, column in enumerate(pictures):
        for y, picture in enumerate([] if column is None else column[:4]):
            pixels = (picture * 255).round().byte().permute(1, 2, 0).numpy()
            canvas.paste(Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS), (x * side, y * side))
    canvas.save(path, quality=88)


def page(result: dict[str, Any], sheets: dict[str, str]) -> str:
    def show(entry: dict[str, Any], digits: int = 2) -> str:
        low, high = entry["interval"]
        count = f" (n = {entry['n']})" if entry["n"] not in (len(result["units"]), len(result["units"]) // 2) else ""
        return f"{entry['value']:,.{digits}f} [{low:,.{digits}f}, {high:,.{digits}f}]{count}"

    def mean(values: Sequence[float | None], digits: int = 2) -> str:
        there = [v for v in values if v is not None]
        return show(paired(np.array(there)), digits) if there else "not told"

    def spent(m: str) -> str:
        if m.startswith("energydps"):
            # The confident end: the estimate itself runs high where a chain's score lies beyond what the bank supports.
            least, path = [b["interval"][0] for b in result["least nats"][m]], [r["path nats"] for r in told[m]]
            return f"at least {mean(least)}; path {mean(path, 0)}"
        return "0" if m in (UNGUIDED, MAP) else mean([r.get("nats") for r in told[m]])

    about_run, told, judges = result["about"], result["told"], result["judges"]
    lines = [
        "# EnergyDPS and KLSC at equal scores", "",
        f"`python benchmarks/klsc.py`: {len(result['units'])} units of builtin:lite0 (logits and late channels in turn) on "
        f"{about_run['prior']}. EnergyDPS: {about_run['steps']} ancestral steps, 1 chain a unit, cap the mean of the strongest "
        f"share of {CAP_BANK} samples. KLSC: {SHOWN} draws a unit, "
        f"bank {about_run['bank']}, {about_run['islands']} × "
        f"{about_run['particles']} particles, {about_run['moves']} move a rung and up to 3 more. Scores in standard deviations of "
        "the prior's samples; of KLSC those of the pictures shown. n is given where it is not all units (or all logits). Nats of "
        "KLSC are its KL divergence from the prior, where its particles support an estimate; of EnergyDPS, the least that any law "
        "of its mean scores spends (Donsker-Varadhan on the bank, lower end of the 95 % interval; one chain stands for each "
        "mean), and what its steps added to their means, its last, infinite step left out (an upper bound, a loose one). Spectrum: "
        "mean distance of the log power spectrum from the mean of photos. 95 % intervals resample units. "
        f"torch {about_run['torch']}, timm {about_run['timm']}.",
        "", "| pictures | mean score (sd) | nats | spectrum | " + " | ".join(
            f"{j}: KID to photos | {j}: log p of the class" for j in judges
        ) + " |", "|---" * (4 + 2 * len(judges)) + "|",
    ]  # fmt: skip
    for m in told:
        cells = [f"{show(j[m]['kid'], 3)} | {show(j[m]['log probability'])}" for j in judges.values()]
        reached = mean([r.get("mean shown", r.get("mean")) for r in told[m]])
        lines.append(f"| {m} | {reached} | {spent(m)} | {show(result['spectrum'][m])} | " + " | ".join(cells) + " |")
    lines += ["", f"A photo's own spectrum is {result['spectrum']['photos']:.2f} from the mean.", "", "Paired by unit:", "",
              "| difference | spectrum | " + " | ".join(f"{j}: KID | {j}: log p" for j in judges) + " |",
              "|---" * (2 + 2 * len(judges)) + "|"]  # fmt: skip
    for name, row in result["paired"].items():
        cells = [f"{show(row[j]['kid'], 3)} | {show(row[j]['log probability'])}" for j in judges]
        lines.append(f"| {name} | {show(row['spectrum'])} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "| KLSC on | target | mean (sd) | nats | ESS | memory | ancestors | pictures scored | not told because |",
        "|---" * 9 + "|",
    ]
    for m in told:
        if m.startswith("klsc at"):
            target = told[m.removeprefix("klsc at the scores of ")]
            for unit, row, aim in zip(result["units"], told[m], target):
                cells = [
                    row.get(k)
                    for k in ("mean shown", "nats", "ess", "memory", "distinct_ancestors", "pictures_scored", "refused")
                ]
                shown_cells = ["" if v is None else f"{v:.3g}" if isinstance(v, float) else str(v) for v in cells]
                lines.append(f"| {unit} | {aim['mean']:.2f} | " + " | ".join(shown_cells) + " |")
    for name, file in sheets.items():
        lines += ["", f"![{name}]({file})", "", f"*{name}*"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

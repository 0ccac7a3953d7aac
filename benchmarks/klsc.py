"""EnergyDPS against the exact guidance coefficient and KLSC, on the shipped prior and builtin:lite0.

    python benchmarks/klsc.py --out docs/benchmarks

For each of 20 units EnergyDPS runs as published (1000 ancestral steps, constant step 1, capped at the mean of the strongest
0.1 % of the prior's samples). Chains of the same noise, pushed by the exact coefficient instead (100 steps, five values of β),
make a curve: mean score against the nats that the steps spend. KLSC is drawn at a budget that the shared bank supports by
itself. Naturalness is the kernel distance to photos in the features of networks that no method sees, and whether they see
the class. Unguided chains show what the samplers themselves make. Intervals resample units; pictures of one unit are never
compared with each other.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common import CLASSES, DATA, about, mobilenet
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.methods.klsc import Klsc, populate
from entoptic.methods.registry import Context, Item
from entoptic.methods.sampled import MAP_STEPS, shown
from entoptic.metrics.distribution import features
from entoptic.models.model import Model
from entoptic.models.sources import load
from entoptic.priors.bank import make_bank
from entoptic.priors.frontier import Frontier, dv_bound
from entoptic.priors.guide import energy_dps, guided
from entoptic.priors.learn import square
from entoptic.priors.score import UnitScores, as_saved
from entoptic.priors.sources import SHIPPED, load_prior
from entoptic.priors.tilt import top_share_mean
from entoptic.units.unit import bind

CHANNELS = tuple(f"blocks.6:{i}" for i in (7, 40, 112, 185, 260)) + tuple(
    f"blocks.5:{i}" for i in (5, 33, 77, 120, 171)
)
SHOWN = 8
BETAS = (1.0, 2.0, 2.8, 4.0, 8.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--keep", type=Path, default=Path("runs/klsc-benchmark"), help="where chains are kept")
    parser.add_argument("--prior", default=SHIPPED)
    parser.add_argument("--steps", type=int, default=1000, help="of EnergyDPS")
    parser.add_argument("--chains", type=int, default=1, help="EnergyDPS chains per unit")
    parser.add_argument("--nats", type=float, default=1.5, help="of KLSC")
    parser.add_argument("--bank", type=int, default=2048)
    parser.add_argument("--units", type=int, default=20)
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
    found = {
        "energydps": kept(options.keep / "energydps.pt", lambda: run_energy_dps(units, plain, raw, prior, options))
    }
    for beta in (0.0, *BETAS):
        path = options.keep / f"guided-{beta:g}.pt"
        found[f"exact, β = {beta:g}" if beta else "unguided"] = kept(
            path, lambda beta=beta: run_guided(units, scores, beta, prior)
        )
    result: dict[str, Any] = {"about": about() | vars(options) | {"out": "", "keep": "", "prior": prior.name}}
    context = Context(subject, References(subject), prior=prior, progress=say)
    made = {name: list(chains["pictures"]) for name, chains in found.items()}
    means = {
        name: np.array(
            [
                float((c["scores"][u] if name != "energydps" else scores.of(c["scores"][u], u)).mean())
                for u in range(len(units))
            ]
        )
        for name, c in found.items()
    }
    drawn = f"klsc, {options.nats:g} nats"
    made[drawn], means[drawn], spent = [], np.zeros(len(units)), []
    for u, unit in enumerate(units):
        population = populate(unit, u, bank, scores, raw[u], Klsc(nats=options.nats, bank=options.bank), 0, context)
        made[drawn].append(shown(subject, population.pictures[:SHOWN].float() / 255))
        means[drawn][u] = population.law["mean_in_sd"] or np.nan
        spent.append(population.law["nats"])
    result["units"] = {
        n: {m: float(v[u]) for m, v in means.items()} | {
            "frontier at EnergyDPS's score, at least (nats)": dv_bound(
                float(means["energydps"][u]), Frontier.from_bank(scores.of(raw[u], u))
            ).to_json(),
        }
        for u, n in enumerate(names)
    }  # fmt: skip
    result["curve"] = {
        name: {
            "mean score": paired(means[name]),
            "path nats": paired(c["path"].mean(1).numpy()) if "path" in c else None,
        }
        for name, c in found.items()
    } | {drawn: {"mean score": paired(means[drawn]), "nats": options.nats}}
    result["frontier at EnergyDPS's score, at least"] = paired(
        np.array([r["frontier at EnergyDPS's score, at least (nats)"]["value"] for r in result["units"].values()])
    )
    matched = min(BETAS, key=lambda b: abs(means[f"exact, β = {b:g}"].mean() - means["energydps"].mean()))
    result["matched"] = f"exact, β = {matched:g}"
    result["matched, mean score minus EnergyDPS's"] = paired(means[result["matched"]] - means["energydps"])
    (options.out / "klsc.json").write_text(json.dumps(result, indent=1) + "\n")
    judge(result, made, units, subject, bank.pictures.shape[-1])
    (options.out / "klsc.json").write_text(json.dumps(result, indent=1) + "\n")
    for name in ("energydps", result["matched"], "unguided", drawn):
        short = {"energydps": "energydps", "unguided": "unguided", drawn: "klsc"}.get(name, "exact")
        sheet(made[name], options.out / f"klsc-{short}.jpg")
    (options.out / "klsc.md").write_text(page(result))
    print(page(result))


def kept(path: Path, work: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors in a file, made first where there is none."""
    if not path.is_file():
        torch.save(work(), path)
    return torch.load(path, weights_only=True)


def say(what: str, done: int, total: int) -> None:
    if done == total:
        print(f"{what}: {done}", flush=True)


def run_energy_dps(units: Sequence[Any], plain: UnitScores, raw: Tensor, prior: Any, options: Any) -> dict[str, Any]:
    """Chains of all units; every 10 share a batch."""
    caps = torch.tensor([top_share_mean(r, max(0.001, 1 / len(r))) for r in raw])
    jobs = [(u, k) for u in range(len(units)) for k in range(options.chains)]
    pictures, scored, paths = [], [], []
    for start in range(0, len(jobs), 10):
        part = jobs[start : start + 10]
        group = torch.tensor([u for u, _ in part])
        chains = energy_dps(
            prior, plain, caps[group], [Item(units[u], k, 0).generator() for u, k in part], steps=options.steps,
            groups=group,
        )  # fmt: skip
        if not bool(chains.alive.all()):
            raise SystemExit("an EnergyDPS chain diverged")
        pictures.append(shown(units[0].model, prior.decode(chains.x0)))
        scored.append(chains.scores)
        paths.append(chains.noisy_path_kl)
        print(f"energydps {start + len(part)}/{len(jobs)}", flush=True)
    shape = (len(units), options.chains)
    return {
        "pictures": torch.cat(pictures).unflatten(0, shape), "scores": torch.cat(scored).unflatten(0, shape),
        "path": torch.cat(paths).unflatten(0, shape),
    }  # fmt: skip


def run_guided(units: Sequence[Any], scores: UnitScores, beta: float, prior: Any) -> dict[str, Tensor]:
    """One chain per unit from EnergyDPS's noise, 100 steps with the exact coefficient."""
    pictures, scored, paths = [], [], []
    for start in range(0, len(units), 10):
        rows = list(range(start, min(start + 10, len(units))))
        draw = [Item(units[u], 0, 0).generator() for u in rows]
        chains = guided(prior, scores, beta, draw, steps=100, groups=torch.tensor(rows))
        if not bool(chains.alive.all()):
            raise SystemExit(f"a chain at β = {beta} diverged")
        pictures.append(shown(units[0].model, prior.decode(chains.x0)))
        scored.append(chains.scores)
        paths.append(chains.path_kl)
    print(f"β = {beta:g}: mean score {float(torch.cat(scored).mean()):.2f} sd", flush=True)
    return {
        "pictures": torch.cat(pictures)[:, None],
        "scores": torch.cat(scored)[:, None],
        "path": torch.cat(paths)[:, None],
    }


def real_photos(size: int, count: int = 500) -> Tensor:
    """Photos as the prior could show them: at its size."""
    photos = Photos.open(DATA / "tiny-imagenet-64-val.parquet")
    order = torch.randperm(len(photos), generator=torch.Generator().manual_seed(0))[:count].tolist()
    return torch.stack([square(photos.read(i), size).float() / 255 for i in order])


def judge(
    result: dict[str, Any], made: dict[str, list[Tensor]], units: Sequence[Any], subject: Model, size: int
) -> None:  # fmt: skip
    """Kernel distances to photos and log probabilities of the class under networks that no method sees."""
    real = as_saved(subject, real_photos(size))
    judges = {"Lite1": load("builtin:lite1"), "Lite2": load("builtin:lite2"), "MobileNetV2": mobilenet()}
    logits = [u for u in range(len(units)) if units[u].layer == "logits"]
    result["judges"] = {}
    for name, model in judges.items():
        target = features(model, real)
        sets = {m: [features(model, p) for p in pictures] for m, pictures in made.items()}
        seen: dict[str, np.ndarray] = {}
        for m, pictures in made.items():
            with torch.no_grad():
                seen[m] = np.array(
                    [float(model(model.fit(pictures[u])).log_softmax(1)[:, units[u].index].mean()) for u in logits]
                )
        entry: dict[str, Any] = {m: {"kid": apart(sets[m], target), "log probability": paired(seen[m])} for m in made}
        for other in (result["matched"], "unguided"):
            entry[f"energydps minus {other}"] = {
                "kid": paired_apart(sets["energydps"], sets[other], target),
                "log probability": paired(seen["energydps"] - seen[other]),
            }
        result["judges"][name] = entry
        print(name, "judged", flush=True)


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
    return {"value": value, "interval": [float(np.quantile(found, q)) for q in (0.025, 0.975)]}


def paired_apart(a: list[Tensor], b: list[Tensor], target: Tensor) -> dict[str, Any]:
    """Difference of two such distances; both take the same draw of units."""
    pa, pb = _blocks(a, target), _blocks(b, target)
    found = [_distance(pa, w) - _distance(pb, w) for w in _draws(len(a))]
    one = np.ones(len(a))
    value = _distance(pa, one) - _distance(pb, one)
    return {"value": value, "interval": [float(np.quantile(found, q)) for q in (0.025, 0.975)]}


def paired(differences: np.ndarray, draws: int = 4000) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    means = differences[rng.integers(0, len(differences), (draws, len(differences)))].mean(1)
    return {
        "value": float(differences.mean()), "n": len(differences),
        "interval": [float(np.quantile(means, q)) for q in (0.025, 0.975)],
    }  # fmt: skip


def sheet(pictures: list[Tensor], path: Path, side: int = 64) -> None:
    """One column per unit, up to four pictures each."""
    tall = max((min(4, len(p)) for p in pictures), default=0)
    canvas = Image.new("RGB", (side * len(pictures), side * tall), "white")
    for x, column in enumerate(pictures):
        for y, picture in enumerate(column[:4]):
            pixels = (picture * 255).round().byte().permute(1, 2, 0).numpy()
            canvas.paste(Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS), (x * side, y * side))
    canvas.save(path, quality=88)


def page(result: dict[str, Any]) -> str:
    def show(entry: dict[str, Any] | None, digits: int = 2) -> str:
        if not entry:
            return ""
        low, high = entry["interval"]
        return f"{entry['value']:,.{digits}f} [{low:,.{digits}f}, {high:,.{digits}f}]"

    told = result["about"]
    lines = [
        "# Guidance and KLSC on the shipped prior", "",
        f"`python benchmarks/klsc.py`: {len(result['units'])} units of builtin:lite0 (10 logits, 10 late channels) on "
        f"{told['prior']}. EnergyDPS: {told['steps']} ancestral steps, {told['chains']} chain a unit, cap the mean of the "
        f"strongest 0.1 % of {told['bank']} samples (2 pictures). *exact*: the same noise, 100 steps, the exact coefficient at β. "
        f"KLSC: {SHOWN} draws a unit at {told['nats']:g} nats, which the bank supports by itself. Scores in standard deviations of "
        "the prior's samples. Path nats are what the steps added to their means, Σ|shift|²/2sd²: an upper bound, often a loose "
        "one, on what the exact chains spend; for EnergyDPS its last step is left out, with which it is infinite. "
        "95 % intervals resample units. "
        f"torch {told['torch']}, timm {told['timm']}.",
        "", "| method | mean score (sd) | path nats | " + " | ".join(
            f"{j}: KID to photos | {j}: log probability of the class" for j in result["judges"]
        ) + " |", "|---" * (3 + 2 * len(result["judges"])) + "|",
    ]  # fmt: skip
    for m, row in result["curve"].items():
        cells = [
            f"{show(entry[m]['kid'], 3)} | {show(entry[m]['log probability'])}" for entry in result["judges"].values()
        ]
        spent = f"{row['nats']:g} (KL itself)" if row.get("nats") else show(row.get("path nats"), 1)
        lines.append(f"| {m} | {show(row['mean score'])} | {spent} | " + " | ".join(cells) + " |")
    lines += ["", f"Paired by unit, EnergyDPS minus *{result['matched']}* (which scores "
              f"{show(result['matched, mean score minus EnergyDPS'+chr(39)+'s'])} sd more) and minus unguided chains:", "",
              "| judge | against | KID to photos | log probability of the class |", "|---|---|---|---|"]  # fmt: skip
    for j, entry in result["judges"].items():
        for other in (result["matched"], "unguided"):
            gap = entry[f"energydps minus {other}"]
            lines.append(f"| {j} | {other} | {show(gap['kid'], 3)} | {show(gap['log probability'])} |")
    bound = result["frontier at EnergyDPS's score, at least"]
    lines += [
        "", f"Any law with EnergyDPS's mean scores spends at least {show(bound)} nats on average (Donsker-Varadhan, on the tangent "
        "at the end of what the bank supports): it pushes every unit far beyond its cap, to where no sample of the prior "
        "comes. One chain stands for each unit's mean, which biases this bound upwards. On the one unit where it was asked for "
        "that (logits:0, islands of 24 particles, 3 moves) `klsc` refused: 2 ancestors were left.",
        "", "![EnergyDPS](klsc-energydps.jpg)", "", f"*EnergyDPS, one chain for each unit; below {result['matched']}, then "
        "unguided, from the same noise; last KLSC, four draws a unit.*", "", "![Exact coefficient](klsc-exact.jpg)", "",
        "![Unguided](klsc-unguided.jpg)", "", "![KLSC](klsc-klsc.jpg)",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

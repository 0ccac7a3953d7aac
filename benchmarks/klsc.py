"""KLSC against EnergyDPS at the activation that EnergyDPS reaches, on the shipped prior and builtin:lite0.

    python benchmarks/klsc.py --out docs/benchmarks

For each unit EnergyDPS runs first (1000 ancestral steps, constant step 1, capped at the mean of the strongest 0.1 % of the
prior's samples). KLSC is then asked for the mean score that EnergyDPS reached. Compared are nats from the same prior
(the few-step generator's law), kernel distances in the features of networks that neither method sees, and whether those
networks see the class. Differences are paired by unit; intervals resample units.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from itertools import pairwise
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
from entoptic.metrics.distribution import features, kid
from entoptic.models.model import Model
from entoptic.models.sources import load
from entoptic.priors.bank import make_bank
from entoptic.priors.divergence import dv_bound_features
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--prior", default=SHIPPED)
    parser.add_argument("--steps", type=int, default=1000, help="of EnergyDPS")
    parser.add_argument("--chains", type=int, default=1, help="EnergyDPS chains per unit")
    parser.add_argument("--particles", type=int, default=32, help="of each of KLSC's four islands")
    parser.add_argument("--bank", type=int, default=2048)
    parser.add_argument("--units", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    subject, prior = load("builtin:lite0"), load_prior(options.prior)
    # Logits and channels in turn, so that a shorter run has both.
    names = [n for pair in zip((f"logits:{c}" for c in CLASSES), CHANNELS) for n in pair][: options.units]
    units = bind(subject, names)
    bank = make_bank(prior, size=options.bank, steps=MAP_STEPS, progress=say)
    plain = UnitScores(units)
    raw = bank.scores(plain, progress=say)
    scores = plain.standardised(raw)
    started = time.time()
    edps = run_energy_dps(units, plain, raw, prior, options)
    print(f"energydps {time.time() - started:.0f} s", flush=True)
    context = Context(subject, References(subject), prior=prior, progress=say)
    result: dict[str, Any] = {"units": {}, "about": about() | {"prior": prior.name, "bank": options.bank}}
    made: dict[str, list[Tensor]] = {"energydps": [], "klsc": [], "guided": [], "best-of": []}
    started = time.time()
    for u, unit in enumerate(units):
        s_M = scores.of(raw[u], u)
        chains = edps["pictures"][u], scores.of(edps["scores"][u], u)
        reached = float(chains[1].mean())
        config = Klsc(mean=reached, bank=options.bank, particles=options.particles)
        row: dict[str, Any] = {
            "energydps": {
                "mean_in_sd": reached, "scores": chains[1].tolist(), "path_nats": edps["path"][u].tolist(),
                "nats_at_least": dv_bound(reached, Frontier.from_bank(s_M)).to_json(),
            },
        }  # fmt: skip
        try:
            population = populate(unit, u, bank, scores, raw[u], config, 0, context)
            row["klsc"] = population.law
            made["klsc"].append(shown(subject, population.pictures[:SHOWN].float() / 255))
        except Exception as error:  # the table says which units could not be matched
            row["klsc"] = {"failure": str(error)}
            made["klsc"].append(torch.empty(0))
        made["energydps"].append(chains[0])
        best = raw[u].topk(SHOWN).indices
        made["best-of"].append(shown(subject, bank.pictures[best].float() / 255))
        result["units"][str(unit)] = row
        print(unit, json.dumps({k: row["klsc"].get(k) for k in ("nats", "mean_in_sd", "ess", "failure")}), flush=True)
    print(f"klsc {time.time() - started:.0f} s", flush=True)
    made["guided"] = run_guided(units, scores, result, prior, options)
    judge(result, made, units, bank.pictures, subject)
    nats(result, made, scores, raw, bank.pictures, subject)
    (options.out / "klsc.json").write_text(json.dumps(result, indent=1) + "\n")
    for name, pictures in made.items():
        sheet(pictures, options.out / f"klsc-{name}.jpg")
    (options.out / "klsc.md").write_text(page(result))
    print(page(result))


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


def run_guided(
    units: Sequence[Any], scores: UnitScores, result: dict[str, Any], prior: Any, options: Any
) -> list[Tensor]:
    """The exact coefficient, uncorrected, 100 steps, at the β that KLSC found."""
    pictures = []
    for start in range(0, len(units), 5):
        rows = list(range(start, min(start + 5, len(units))))
        betas = [result["units"][str(units[u])]["klsc"].get("beta") or 0.0 for u in rows]
        group = torch.tensor(rows).repeat_interleave(2)
        chains = guided(
            prior, scores, torch.tensor(betas).repeat_interleave(2),
            [Item(units[u], k, 0).generator() for u in rows for k in (0, 1)], steps=100, groups=group,
        )  # fmt: skip
        for j, u in enumerate(rows):
            pair = slice(2 * j, 2 * j + 2)
            alive = chains.alive[pair]
            pictures.append(
                shown(units[0].model, prior.decode(chains.x0[pair][alive])) if bool(alive.any()) else torch.empty(0)
            )
            result["units"][str(units[u])]["guided"] = {
                "beta": betas[j], "mean_in_sd": float(chains.scores[pair][alive].mean()),
                "path_nats": chains.path_kl[pair].tolist(),
            }  # fmt: skip
    return pictures


def real_photos(size: int, count: int = 1000) -> Tensor:
    """Photos as the prior could show them: at its size."""
    photos = Photos.open(DATA / "tiny-imagenet-64-val.parquet")
    order = torch.randperm(len(photos), generator=torch.Generator().manual_seed(0))[:count].tolist()
    return torch.stack([square(photos.read(i), size).float() / 255 for i in order])


def judge(
    result: dict[str, Any], made: dict[str, list[Tensor]], units: Sequence[Any], bank: Tensor, subject: Model
) -> None:
    real = as_saved(subject, real_photos(bank.shape[-1]))
    own = shown(subject, bank[:1000].float() / 255)
    whole = [u for u in range(len(units)) if all(len(made[m][u]) for m in made)]
    result["judges"] = {}
    for name, model in {
        "Lite1": load("builtin:lite1"),
        "Lite2": load("builtin:lite2"),
        "MobileNetV2": mobilenet(),
    }.items():
        target = {"photos": features(model, real), "prior": features(model, own)}
        per_unit = {m: [features(model, made[m][u]) for u in whole] for m in made}
        entry: dict[str, Any] = {"prior": {"photos": kid(target["prior"][500:], target["photos"])}}
        for m in made:
            entry[m] = {to: kid(torch.cat(per_unit[m]), target[to]) for to in target}
        entry["energydps minus klsc"] = {
            to: paired_kid(per_unit["energydps"], per_unit["klsc"], target[to]) for to in target
        }
        agreement = {}
        logits = [u for u in whole if units[u].layer == "logits"]
        for m in made:
            with torch.no_grad():
                agreement[m] = [
                    float(model(model.fit(made[m][u])).softmax(1)[:, units[u].index].mean()) for u in logits
                ]
        entry["class probability"] = {m: float(np.mean(v)) for m, v in agreement.items()}
        entry["class probability, klsc minus energydps"] = paired(
            np.array(agreement["klsc"]) - np.array(agreement["energydps"])
        )
        result["judges"][name] = entry
    result["judged units"] = [str(units[u]) for u in whole]


def paired_kid(a: list[Tensor], b: list[Tensor], target: Tensor, draws: int = 1000) -> dict[str, Any]:
    """kid(a) - kid(b) with a 95 % interval from resampling units, the same for both.

    A resampled unit twice in a set would count its pictures as alike; pairs from the same draw of a unit are left out by
    working with unit-level sums of the kernel, so that no picture meets its own copy.
    """

    def parts(sets: list[Tensor]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        sizes = np.array([len(s) for s in sets], dtype=float)
        x = torch.cat(sets).double()
        kernel = ((x @ x.T) / x.shape[1] + 1) ** 3
        kernel.fill_diagonal_(0.0)
        cross = (((x @ target.double().T) / x.shape[1] + 1) ** 3).mean(1)
        edges = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
        within = np.array(
            [[float(kernel[i0:i1, j0:j1].sum()) for j0, j1 in pairwise(edges)] for i0, i1 in pairwise(edges)]
        )
        return within, np.array([float(cross[i0:i1].sum()) for i0, i1 in pairwise(edges)]), sizes

    pa, pb = parts(a), parts(b)

    def value(p: tuple[np.ndarray, np.ndarray, np.ndarray], w: np.ndarray) -> float:
        within, cross, sizes = p
        # Counts of pairs: between different draws of units all of them; within one draw of a unit none with itself.
        pairs = np.outer(w, w)
        np.fill_diagonal(pairs, np.diag(pairs) - w)  # copies of one unit do not meet
        same = np.diag(within) @ w
        count = (pairs * np.outer(sizes, sizes)).sum() - 0.0
        own = (w * sizes * (sizes - 1)).sum()
        off = pairs * within
        np.fill_diagonal(off, 0.0)
        number = count - (np.diag(pairs) * sizes * sizes).sum() + own
        return float((off.sum() + same) / number - 2 * (w @ cross) / (w @ sizes))

    rng = np.random.default_rng(0)
    ones = np.ones(len(a))
    weights = [np.bincount(rng.integers(0, len(a), len(a)), minlength=len(a)).astype(float) for _ in range(draws)]
    found = [value(pa, w) - value(pb, w) for w in weights]
    return {
        "value": value(pa, ones) - value(pb, ones),
        "interval": [float(np.quantile(found, q)) for q in (0.025, 0.975)],
    }


def paired(differences: np.ndarray, draws: int = 4000) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    means = differences[rng.integers(0, len(differences), (draws, len(differences)))].mean(1)
    return {
        "value": float(differences.mean()), "n": len(differences),
        "interval": [float(np.quantile(means, q)) for q in (0.025, 0.975)],
    }  # fmt: skip


def statistics(pictures: Tensor) -> Tensor:
    """N×4: what a push off the natural images shows in: total variation, fine detail, saturation, contrast."""
    small = torch.nn.functional.interpolate(pictures, (32, 32), mode="area")
    tv = small.diff(dim=2).abs().mean((1, 2, 3)) + small.diff(dim=3).abs().mean((1, 2, 3))
    blurred = torch.nn.functional.avg_pool2d(small, 3, 1, 1, count_include_pad=False)
    fine = (small - blurred).square().mean((1, 2, 3)).log()
    saturation = (small.amax(1) - small.amin(1)).mean((1, 2))
    return torch.stack([tv, fine, saturation, small.std((1, 2, 3))], 1).double()


def nats(
    result: dict[str, Any], made: dict[str, list[Tensor]], scores: UnitScores, raw: Tensor, bank: Tensor, subject: Model
) -> None:  # fmt: skip
    """Average nats over units: KLSC's, and a lower bound for EnergyDPS from its score and four plain statistics.

    The law is that of (unit, picture) with the unit uniform; its divergence from (unit, prior) is the mean over units.
    """
    rows = result["units"]
    names = [n for n in rows if rows[n]["klsc"].get("nats") is not None]
    places = [list(rows).index(n) for n in names]
    statistics_p = statistics(shown(subject, bank.float() / 255))
    centre, scale = statistics_p.mean(0), statistics_p.std(0)
    p_rows, q_rows = [], []
    for u in places:
        s = scores.of(raw[u], u)
        p_rows.append(torch.cat([s[:, None], (statistics_p - centre) / scale], 1))
        mine = torch.tensor(rows[list(rows)[u]]["energydps"]["scores"], dtype=torch.float64)
        q_rows.append(torch.cat([mine[:, None], (statistics(made["energydps"][u]) - centre) / scale], 1))
    bound = dv_bound_features(torch.cat(q_rows), torch.cat(p_rows))
    klsc_nats = np.array([rows[n]["klsc"]["nats"] for n in names])
    result["nats"] = {
        "klsc": paired(klsc_nats), "energydps at least (mean score alone)": paired(
            np.array([rows[n]["energydps"]["nats_at_least"]["value"] for n in names])
        ),
        "energydps at least (score and four statistics)": bound.to_json(),
        "energydps steps before the last": paired(np.array([np.mean(rows[n]["energydps"]["path_nats"]) for n in names])),
        "klsc mean score": paired(np.array([rows[n]["klsc"]["mean_in_sd"] for n in names])),
        "energydps mean score": paired(np.array([rows[n]["energydps"]["mean_in_sd"] for n in names])),
        "statistics of energydps in the prior's sd": torch.cat(q_rows).mean(0).tolist(),
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
    def show(entry: dict[str, Any], digits: int = 2) -> str:
        low, high = entry["interval"] or (float("nan"), float("nan"))
        return f"{entry['value']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"

    about_, n = result["about"], result["nats"]
    lines = [
        "# KLSC against EnergyDPS", "",
        f"`python benchmarks/klsc.py`: {len(result['units'])} units of builtin:lite0 on {about_['prior']}, a bank of "
        f"{about_['bank']} samples; EnergyDPS with 1000 steps; 95 % intervals resample units. torch {about_['torch']}.",
        "", "| average over units | value |", "|---|---|",
    ]  # fmt: skip
    lines += [f"| {name} | {show(entry)} |" for name, entry in n.items() if isinstance(entry, dict)]
    lines += ["", "| judge | method | KID to photos | KID to the prior | class probability |", "|---|---|---|---|---|"]
    for name, entry in result["judges"].items():
        for m in ("energydps", "guided", "best-of", "klsc"):
            lines.append(
                f"| {name} | {m} | {entry[m]['photos']:.3f} | {entry[m]['prior']:.3f} | {entry['class probability'][m]:.3f} |"
            )
        lines.append(f"| {name} | the prior itself | {entry['prior']['photos']:.3f} | 0 | |")
        gap = entry["energydps minus klsc"]
        lines.append(
            f"| {name} | energydps minus klsc, paired | {show(gap['photos'], 3)} | {show(gap['prior'], 3)} | "
            f"{show(flipped(entry['class probability, klsc minus energydps']), 3)} |"
        )
    lines += [
        "",
        "| unit | energydps mean (sd) | at least (nats) | klsc mean (sd) | nats | β | ESS |",
        "|---|---|---|---|---|---|---|",
    ]
    for unit, row in result["units"].items():
        e, k = row["energydps"], row["klsc"]
        if k.get("nats") is None:
            why = k.get("failure") or k.get("refused")
            lines.append(f"| {unit} | {e['mean_in_sd']:.2f} | {e['nats_at_least']['value']:.2f} | {why} | | | |")
        else:
            lines.append(
                f"| {unit} | {e['mean_in_sd']:.2f} | {e['nats_at_least']['value']:.2f} | {k['mean_in_sd']:.2f} | {k['nats']:.2f} | "
                f"{k['beta']:.2f} | {k['ess']:.0f} |"
            )
    return "\n".join(lines) + "\n"


def flipped(entry: dict[str, Any]) -> dict[str, Any]:
    low, high = entry["interval"]
    return {"value": -entry["value"], "interval": [-high, -low]}


if __name__ == "__main__":
    main()

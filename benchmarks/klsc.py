"""KLSC against EnergyDPS at the activation that EnergyDPS reaches, on the shipped prior and builtin:lite0.

    python benchmarks/klsc.py --out docs/benchmarks

For each unit EnergyDPS runs first (1000 ancestral steps, constant step 1, capped at the mean of the strongest 0.1 % of the
prior's samples). KLSC is then asked for the mean score that EnergyDPS reached. By Pythagoras (klsc.md F3) a law q of that
mean spends KL(q‖q_β) nats more than KLSC's q_β; a lower bound on that comes from samples of both. Naturalness is the kernel
distance to photos and to fresh samples of the prior in the features of networks that neither method sees.

EnergyDPS walks 1000 ancestral steps, KLSC is of the six-step map: what that alone makes is measured on unguided ancestral
chains of the same noise. Intervals resample units; pictures of one unit are never compared with each other.
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
from entoptic.errors import UserError
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.methods.klsc import Klsc, Population, populate
from entoptic.methods.registry import Context, Item
from entoptic.methods.sampled import MAP_STEPS, shown
from entoptic.metrics.distribution import features, kid
from entoptic.models.model import Model
from entoptic.models.sources import load
from entoptic.priors.bank import make_bank
from entoptic.priors.divergence import dv_bound_features
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
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument(
        "--keep", type=Path, default=Path("runs/klsc-benchmark"), help="where EnergyDPS's chains are kept"
    )
    parser.add_argument("--prior", default=SHIPPED)
    parser.add_argument("--steps", type=int, default=1000, help="of EnergyDPS")
    parser.add_argument("--chains", type=int, default=1, help="EnergyDPS chains per unit")
    parser.add_argument("--particles", type=int, default=32, help="of each of KLSC's four islands")
    parser.add_argument("--moves", type=int, default=6, help="of every particle at each rung")
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
    fresh = make_bank(prior, size=500, steps=MAP_STEPS, seed=1, progress=say)
    plain = UnitScores(units)
    raw = bank.scores(plain, progress=say)
    scores = plain.standardised(raw)
    chains = kept(options.keep / "energydps.pt", lambda: run_energy_dps(units, plain, raw, prior, options))
    idle = kept(options.keep / "unguided.pt", lambda: run_unguided(units, plain, prior, options))
    context = Context(subject, References(subject), prior=prior, progress=say)
    result: dict[str, Any] = {
        "units": {},
        "about": about() | vars(options) | {"out": "", "keep": "", "prior": prior.name},
    }
    names_of = ("energydps", "unguided", "best-of", "klsc")
    made: dict[str, list[Tensor]] = {name: [] for name in names_of}
    populations: list[Population | None] = []
    for u, unit in enumerate(units):
        s_M = scores.of(raw[u], u)
        reached = scores.of(chains["scores"][u], u)
        row: dict[str, Any] = {
            "energydps": {"mean_in_sd": float(reached.mean()), "path_nats": chains["path"][u].tolist()},
            "unguided": {"mean_in_sd": float(scores.of(idle["scores"][u], u).mean())},
            "best-of": {"mean_in_sd": float(s_M.topk(SHOWN).values.mean())},
        }  # fmt: skip
        config = Klsc(mean=float(reached.mean()), bank=options.bank, particles=options.particles, moves=options.moves)
        try:
            population = populate(unit, u, bank, scores, raw[u], config, 0, context)
            row["klsc"] = population.law | {"population_mean_in_sd": float(population.scores.mean())}
            made["klsc"].append(shown(subject, population.pictures[:SHOWN].float() / 255))
            populations.append(population)
        except UserError as error:  # the table says which units could not be matched
            row["klsc"] = {"failure": str(error)}
            made["klsc"].append(torch.empty(0))
            populations.append(None)
        made["energydps"].append(chains["pictures"][u])
        made["unguided"].append(idle["pictures"][u])
        best = raw[u].topk(SHOWN).indices
        made["best-of"].append(shown(subject, bank.pictures[best].float() / 255))
        result["units"][str(unit)] = row
        told = {k: row["klsc"].get(k) for k in ("nats", "mean_in_sd", "ess", "memory", "failure", "refused")}
        print(unit, json.dumps(told), flush=True)
        (options.out / "klsc.json").write_text(json.dumps(result, indent=1) + "\n")
    judge(result, made, units, fresh.pictures, subject)
    nats(result, made, populations, scores, chains, idle, fresh.pictures, plain, subject)
    (options.out / "klsc.json").write_text(json.dumps(result, indent=1) + "\n")
    for name, pictures in made.items():
        sheet(pictures, options.out / f"klsc-{name}.jpg")
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


def run_unguided(units: Sequence[Any], plain: UnitScores, prior: Any, options: Any) -> dict[str, Tensor]:
    """The same ancestral chains from the same noise, not pushed."""
    group = torch.arange(len(units)).repeat_interleave(options.chains)
    draw = [Item(unit, k, 0).generator() for unit in units for k in range(options.chains)]
    chains = guided(prior, plain, 0.0, draw, steps=options.steps, groups=group)
    shape = (len(units), options.chains)
    pictures = shown(units[0].model, prior.decode(chains.x0))
    return {"pictures": pictures.unflatten(0, shape), "scores": chains.scores.unflatten(0, shape)}


def real_photos(size: int, count: int = 500) -> Tensor:
    """Photos as the prior could show them: at its size."""
    photos = Photos.open(DATA / "tiny-imagenet-64-val.parquet")
    order = torch.randperm(len(photos), generator=torch.Generator().manual_seed(0))[:count].tolist()
    return torch.stack([square(photos.read(i), size).float() / 255 for i in order])


def judge(
    result: dict[str, Any], made: dict[str, list[Tensor]], units: Sequence[Any], fresh: Tensor, subject: Model
) -> None:
    """Kernel distances and class probabilities under networks that no method sees, on units that KLSC could match."""
    real = as_saved(subject, real_photos(fresh.shape[-1]))
    own = shown(subject, fresh.float() / 255)
    whole = [u for u in range(len(units)) if all(len(made[m][u]) for m in made)]
    judges = {"Lite1": load("builtin:lite1"), "Lite2": load("builtin:lite2"), "MobileNetV2": mobilenet()}
    result["judges"], result["judged units"] = {}, [str(units[u]) for u in whole]
    logits = [u for u in whole if units[u].layer == "logits"]
    for name, model in judges.items():
        targets = {"photos": features(model, real), "prior": features(model, own)}
        sets = {m: [features(model, made[m][u]) for u in whole] for m in made}
        entry: dict[str, Any] = {"prior": {"photos": kid(targets["prior"], targets["photos"])}}
        for m in made:
            entry[m] = {to: apart(sets[m], target) for to, target in targets.items()}
        for other in ("unguided", "klsc"):
            entry[f"energydps minus {other}"] = {
                to: paired_apart(sets["energydps"], sets[other], target) for to, target in targets.items()
            }
        found: dict[str, np.ndarray] = {}
        for m in made:
            with torch.no_grad():
                found[m] = np.array(
                    [float(model(model.fit(made[m][u])).log_softmax(1)[:, units[u].index].mean()) for u in logits]
                )
        entry["log probability of the class"] = {m: float(v.mean()) for m, v in found.items()}
        entry["log probability, klsc minus energydps"] = paired(found["klsc"] - found["energydps"])
        result["judges"][name] = entry


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


def statistics(pictures: Tensor) -> Tensor:
    """N×4: what a push off the natural images shows in: total variation, fine detail, saturation, contrast."""
    small = torch.nn.functional.interpolate(pictures, (32, 32), mode="area")
    tv = small.diff(dim=2).abs().mean((1, 2, 3)) + small.diff(dim=3).abs().mean((1, 2, 3))
    blurred = torch.nn.functional.avg_pool2d(small, 3, 1, 1, count_include_pad=False)
    fine = (small - blurred).square().mean((1, 2, 3)).log()
    saturation = (small.amax(1) - small.amin(1)).mean((1, 2))
    return torch.stack([tv, fine, saturation, small.std((1, 2, 3))], 1).double()


def nats(
    result: dict[str, Any], made: dict[str, list[Tensor]], populations: list[Population | None], scores: UnitScores,
    chains: dict[str, Tensor], idle: dict[str, Tensor], fresh: Tensor, plain: UnitScores, subject: Model,
) -> None:  # fmt: skip
    """What KLSC spends, and at least how much more EnergyDPS does, on average over units.

    The law is that of (unit, picture) with the unit uniform: its divergence is the mean over units. Statistics are the
    score and four plain ones, in the prior's standard deviations.
    """
    rows = list(result["units"].values())
    places = [u for u, row in enumerate(rows) if row["klsc"].get("nats") is not None]
    t_fresh = statistics(shown(subject, fresh.float() / 255))
    centre, scale = t_fresh.mean(0), t_fresh.std(0)

    def features_of(pictures: Tensor, s: Tensor) -> Tensor:
        return torch.cat([s.double().reshape(-1, 1), (statistics(pictures) - centre) / scale], 1)

    edps, unguided, klsc, plain_p = [], [], [], []
    raw_fresh = torch.cat([plain.all(fresh[i : i + 64].float() / 255) for i in range(0, len(fresh), 64)]).T
    for j, u in enumerate(places):
        edps.append(features_of(chains["pictures"][u], scores.of(chains["scores"][u], u)))
        unguided.append(features_of(idle["pictures"][u], scores.of(idle["scores"][u], u)))
        population = populations[u]
        assert population is not None
        klsc.append(features_of(shown(subject, population.pictures.float() / 255), population.scores))
        mine = slice(j, None, len(places))  # every picture of the bank in one unit's part only
        plain_p.append(features_of(shown(subject, fresh[mine].float() / 255), scores.of(raw_fresh[u, mine], u)))
    found = {"energydps": torch.cat(edps), "unguided": torch.cat(unguided), "klsc": torch.cat(klsc)}
    names = ("score", "total variation", "fine detail", "saturation", "contrast")
    result["nats"] = {
        "mean score of EnergyDPS (sd)": paired(np.array([rows[u]["energydps"]["mean_in_sd"] for u in places])),
        "mean score of KLSC (sd)": paired(np.array([rows[u]["klsc"]["mean_in_sd"] for u in places])),
        "KLSC, nats": paired(np.array([rows[u]["klsc"]["nats"] for u in places])),
        "EnergyDPS spends more than KLSC by at least, nats": dv_bound_features(found["energydps"], found["klsc"]).to_json(),
        "unguided chains against the prior's map (the samplers' mismatch) at least, nats": dv_bound_features(
            found["unguided"], torch.cat(plain_p)
        ).to_json(),
        "EnergyDPS's steps before the last, nats": paired(
            np.array([np.mean(rows[u]["energydps"]["path_nats"]) for u in places])
        ),
        "KLSC: samples scored per effective one, times six prior evaluations": paired(
            np.array([6 * rows[u]["klsc"]["pictures_scored"] / rows[u]["klsc"]["ess"] for u in places])
        ),
    }  # fmt: skip
    result["statistics in the prior's sd"] = {
        m: dict(zip(names, [paired(column) for column in values.numpy().T])) for m, values in found.items()
    }


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
        if not entry.get("interval"):
            return f"{entry['value']:.{digits}f}"
        low, high = entry["interval"]
        return f"{entry['value']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"

    told, rows = result["about"], result["units"]
    matched = [row for row in rows.values() if row["klsc"].get("nats") is not None]
    lines = [
        "# KLSC against EnergyDPS", "",
        f"`python benchmarks/klsc.py --particles {told['particles']} --moves {told['moves']}`: "
        f"{len(rows)} units of builtin:lite0 (10 logits, 10 late "
        f"channels) on {told['prior']}; EnergyDPS with {told['steps']} steps, {told['chains']} chain a unit, capped at the mean of "
        f"the strongest 0.1 % of {told['bank']} samples ({max(1, round(told['bank'] / 1000))} pictures); KLSC at the mean score "
        f"that EnergyDPS reached, {SHOWN} pictures a unit. {len(matched)} of {len(rows)} units could be matched, and the tables "
        f"are of those. 95 % intervals resample units. torch {told['torch']}, timm {told['timm']}, {told['threads']} threads.",
        "", "| average over units | value |", "|---|---|",
    ]  # fmt: skip
    lines += [f"| {name} | {show(entry)} |" for name, entry in result["nats"].items()]
    lines += [
        "",
        "| in the prior's sd | score | total variation | fine detail | saturation | contrast |",
        "|---|---|---|---|---|---|",
    ]
    for m, entry in result["statistics in the prior's sd"].items():
        lines.append(f"| {m} | " + " | ".join(show(v) for v in entry.values()) + " |")
    lines += [
        "",
        "| judge | method | KID to photos | KID to the prior | log probability of the class |",
        "|---|---|---|---|---|",
    ]
    for name, entry in result["judges"].items():
        for m in ("energydps", "unguided", "best-of", "klsc"):
            lines.append(
                f"| {name} | {m} | {show(entry[m]['photos'], 3)} | {show(entry[m]['prior'], 3)} | "
                f"{entry['log probability of the class'][m]:.2f} |"
            )
        lines.append(f"| {name} | the prior itself | {entry['prior']['photos']:.3f} | 0 | |")
        gain = entry["log probability, klsc minus energydps"]
        gap = entry["energydps minus klsc"]
        lines.append(
            f"| {name} | energydps minus klsc, paired | {show(gap['photos'], 3)} | {show(gap['prior'], 3)} | "
            f"klsc minus energydps {show(gain)} |"
        )
        gap = entry["energydps minus unguided"]
        lines.append(
            f"| {name} | energydps minus unguided, paired | {show(gap['photos'], 3)} | {show(gap['prior'], 3)} | |"
        )
    lines += ["", "| unit | EnergyDPS (sd) | KLSC (sd) | nats | β | ESS | memory |", "|---|---|---|---|---|---|---|"]
    for unit, row in rows.items():
        e, k = row["energydps"], row["klsc"]
        if k.get("nats") is None:
            lines.append(f"| {unit} | {e['mean_in_sd']:.2f} | {k.get('failure') or k.get('refused')} | | | | |")
            continue
        low, high = k["nats_interval"] or (float("nan"),) * 2
        lines.append(
            f"| {unit} | {e['mean_in_sd']:.2f} | {k['mean_in_sd']:.2f} | {k['nats']:.2f} [{low:.2f}, {high:.2f}] | "
            f"{k['beta']:.2f} | {k['ess']:.0f} | {k.get('memory', float('nan')):.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

"""Coverage of the intervals of `klsc`: how many hold the truth on toys whose tilts are known by quadrature.

    python benchmarks/coverage.py --out docs/benchmarks

The prior is N(0, 1) in 256 dimensions, the scores depend on two of them: linear; rough, with waves that gradients trip over;
soft, with a kink and a bend. Each run is four islands, each from its own 512 samples, as `klsc` starts them. What a run
refuses to tell (particles that have not settled, or of too few ancestors) is counted apart.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common import about
from entoptic.errors import UserError
from entoptic.priors.prior import Level
from entoptic.sampling.frontier import Frontier
from entoptic.sampling.mbar import Ladder
from entoptic.sampling.particles import (
    ParticleSet,
    TiltTarget,
    pooled_ess,
    pooled_log_weights,
    refusal,
    worst_autocorrelation,
)
from entoptic.sampling.smc import ScoredSamples, noise_smc

SCORES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "linear": lambda u, v: u,
    "rough": lambda u, v: u + 0.3 * torch.sin(5 * v),
    "soft": lambda u, v: 0.77 * (torch.nn.functional.softplus(2 * u) - 0.3 * v.square()),
}
ISLANDS, BANK = 4, 512
WAYS = {
    "16 particles, trajectories (the default)": {"particles": 16, "moves": 1, "settle": 3, "leaps": 16},
    "32 particles, trajectories": {"particles": 32, "moves": 1, "settle": 3, "leaps": 16},
    "32 particles, 6 blind moves": {"particles": 32, "moves": 6, "settle": 0, "leaps": 0},
}


class White:
    """N(0, 1) over 1×16×16, its few-step map the identity."""

    name, identity, bounds, conditions, shape = "toy:white", "", None, 0, (1, 16, 16)
    device = torch.device("cpu")

    def levels(self, steps: int) -> list[Level]:
        return [Level(1.0, 1e-4, 1.0), Level(0.0, 1.0, 0.0)]

    def denoise(self, x: Tensor, level: Level, condition: Tensor | None = None) -> Tensor:
        return x

    def decode(self, x0: Tensor) -> Tensor:
        return x0


class Truth:
    """(log Z, E[s], nats) of the tilts of one score, by quadrature over the two directions that it sees."""

    def __init__(self, score: Callable[[Tensor, Tensor], Tensor]) -> None:
        u = torch.linspace(-9, 11, 1201, dtype=torch.float64)[:, None]
        v = torch.linspace(-7, 7, 701, dtype=torch.float64)[None]
        self.s, log_p = score(u, v).expand(1201, 701), -(u.square() + v.square()) / 2
        self.log_p = log_p - log_p.logsumexp((0, 1))

    def at(self, beta: float) -> tuple[float, float, float]:
        joint = self.log_p + beta * self.s
        log_z = joint.logsumexp((0, 1))
        mean = float(((joint - log_z).exp() * self.s).sum())
        return float(log_z), mean, beta * mean - float(log_z)

    def beta(self, nats: float) -> float:
        low, high = 0.0, 20.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if self.at(middle)[2] < nats else (low, middle)
        return low


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--runs", type=int, default=200)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # the ops are small
    rows = [
        {"score": name, "nats": nats, "way": way} | covered(score, nats, settings, options.runs)
        for name, score in SCORES.items()
        for nats in (3.0, 5.0, 8.0)
        for way, settings in WAYS.items()
    ]
    result = {"about": about(), "runs": options.runs, "rows": rows}
    (options.out / "coverage.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.out / "coverage.md").write_text(page(result))
    print(page(result))


def covered(
    score: Callable[[Tensor, Tensor], Tensor], nats: float, settings: dict[str, int], runs: int
) -> dict[str, Any]:
    """Errors of all runs and coverage of those that tell."""
    truth = Truth(score)
    beta = truth.beta(nats)
    _, mean, kl = truth.at(beta)
    found = clouds(score, beta, settings, runs)
    error, told, apart, held = [], 0, 0, {"mean": 0, "nats": 0}
    for run in found:
        try:
            point = Frontier.from_ladders(
                [Ladder([r.beta for r in c.rungs], [r.scores for r in c.rungs]) for c in run]
            ).at_beta(beta)
        except UserError:  # rungs that do not overlap
            apart += 1
            continue
        error.append([point.mean.value - mean, point.nats.value - kl])
        if refusal(run, pooled_ess(run, pooled_log_weights(run, beta)), sum(len(c.scores) for c in run)):
            continue
        told += 1
        for which, estimate, value in (("mean", point.mean, mean), ("nats", point.nats, kl)):
            assert estimate.interval is not None
            held[which] += estimate.interval[0] <= value <= estimate.interval[1]
    errors = torch.tensor(error, dtype=torch.float64).reshape(-1, 2)
    return {
        "beta": beta, "error of the mean": float(errors[:, 0].mean()), "error of nats": float(errors[:, 1].mean()),
        "told": told, "no estimate": apart, "held": held,
        "scores per island": sum(c.score_calls for run in found for c in run) / (runs * ISLANDS),
        "memory": sum(worst_autocorrelation(run) for run in found) / runs,
    }  # fmt: skip


def clouds(
    score: Callable[[Tensor, Tensor], Tensor], beta: float, settings: dict[str, int], runs: int
) -> list[list[ParticleSet]]:
    def on_pictures(pictures: Tensor, group: Tensor) -> Tensor:
        return score(pictures[:, 0, 0, 0], pictures[:, 0, 0, 1])

    found = []
    for start in range(0, runs, 50):  # more at once would fill the memory
        generators = [
            torch.Generator().manual_seed(ISLANDS * start + i) for i in range(ISLANDS * min(50, runs - start))
        ]
        first = []
        for generator in generators:
            z = torch.randn((BANK, *White.shape), generator=generator)
            first.append(ScoredSamples(z, None, on_pictures(z, z).double()))
        made = noise_smc(
            White(), on_pictures, TiltTarget(beta=beta), generators, steps=1, ess=0.5, first=first, batch=100_000, **settings
        )  # fmt: skip
        found += [made[i : i + ISLANDS] for i in range(0, len(made), ISLANDS)]
    return found


def page(result: dict[str, Any]) -> str:
    runs = result["runs"]
    lines = [
        "# Coverage of the intervals of klsc", "",
        f"`python benchmarks/coverage.py --runs {runs}`: a Gaussian prior of 256 dimensions, scores of two of them, "
        f"{ISLANDS} islands a run, each from its own {BANK} samples; truth by quadrature. Errors are of all runs with an estimate "
        "(without: rungs that do not overlap); a run tells its mean and nats unless `klsc` refuses (particles that have not "
        "settled, or come from too few). Scores each: taken by one island, with a gradient each but for blind moves. Nominal 95 %. "
        f"torch {result['about']['torch']}.", "",
        "| score | nats | way | error of the mean (sd) | error of nats | no estimate | told | mean held | nats held | memory "
        "| scores each |", "|---" * 11 + "|",
    ]  # fmt: skip
    for row in result["rows"]:
        held = [
            f"{row['held'][k]} ({row['held'][k] / row['told']:.0%})" if row["told"] else "–" for k in ("mean", "nats")
        ]
        lines.append(
            f"| {row['score']} | {row['nats']:g} | {row['way']} | {row['error of the mean']:+.3f} | "
            f"{row['error of nats']:+.3f} | {row['no estimate']} | {row['told']} of {runs} | {held[0]} | {held[1]} | "
            f"{row['memory']:.2f} | {row['scores per island']:.0f} |"
        )
    for way in WAYS:
        mine = [row for row in result["rows"] if row["way"] == way]
        told = sum(row["told"] for row in mine)
        if told:
            mean, nats = (sum(row["held"][k] for row in mine) / told for k in ("mean", "nats"))
            of = f"of {told} of {runs * len(mine)} runs that tell"
            lines.append(f"\n{way}: {of}, {mean:.1%} hold the mean and {nats:.1%} the nats.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

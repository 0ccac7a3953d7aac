"""Does concept steering show where a concept is? On generated scenes with known masks, against upsampled concept maps.

    python benchmarks/steer.py --inverter ridge                  # minutes on one core
    python benchmarks/steer.py --inverter trained --folder DIR   # trains an inverter there first, or takes the one there

Network: the planted net of tests/planted, its last map (4×4 positions of 64 channels, each of which sees 31 pixels).
Concepts: planted channels, which fire for one known thing, and directions of things (the map regressed on what covers
each position's field). Writes docs/benchmarks/steer.json and steer.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from common import about, bootstrap
from entoptic.base.estimates import wilson
from entoptic.inversion.configs import Steer
from entoptic.inversion.map_gaussian import FeatureMapGaussian
from entoptic.inversion.maps import FeatureMaps
from entoptic.inversion.null_edits import map_covariance
from entoptic.inversion.steer import Steering, paper_mask, steer_concepts

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.planted.nets import FIELD, GRASS_UNIT, LABELS, RING_UNIT, STRIDE, planted_model
from tests.planted.shapes import GRASS, RING, SIZE, Scene, balanced_scenes, stack

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
LAYER = "stage3"
TRAIN, TUNE, TEST, OTHERS = 5000, 6000, 7000, 8000  # seeds of the scenes
LEVELS = np.linspace(0.05, 0.95, 19)  # shares of a map's maximum that a threshold may be tuned to


# --- inverters -------------------------------------------------------------------------------------------------------


class Ridge:
    """E[picture | map] by ridge regression plus independent Gaussian noise of the residuals' size at each pixel."""

    name = "ridge"

    def __init__(self, maps: FeatureMaps, scenes: Sequence[Scene], side: int = SIZE, penalty: float = 1e-2) -> None:
        self.maps, self.size = maps, side
        pictures_NP = F.interpolate(stack(scenes), (side, side), mode="area").flatten(1)
        with torch.no_grad():
            read_NChw = torch.cat([maps.read(part) for part in stack(scenes).split(250)])
        self.law = FeatureMapGaussian.fit(read_NChw)
        self.mean_C, self.sd_C = read_NChw.mean((0, 2, 3)), read_NChw.transpose(0, 1).flatten(1).std(1)
        values_ND = self.standardise(read_NChw).flatten(1).double()
        self.centre_D, self.mean_P = values_ND.mean(0), pictures_NP.mean(0)
        centred_ND = values_ND - self.centre_D
        gram_DD = centred_ND.T @ centred_ND
        gram_DD.diagonal().add_(penalty * float(gram_DD.diagonal().mean()))
        self.weights_DP = torch.linalg.solve(gram_DD, centred_ND.T @ (pictures_NP - self.mean_P).double()).float()
        residual_NP = pictures_NP - self._mean(read_NChw)
        self.residual_P = residual_NP.std(0)
        self.explained = float(1 - residual_NP.var(0).sum() / pictures_NP.var(0).sum())

    def standardise(self, maps_BChw: Tensor) -> Tensor:
        sd = self.sd_C[:, None, None]
        return (maps_BChw - self.mean_C[:, None, None]) / sd.where(sd > 0, 1) * (sd > 0)

    def _mean(self, maps_BChw: Tensor) -> Tensor:
        centred_BD = self.standardise(maps_BChw).flatten(1).double() - self.centre_D
        return self.mean_P + centred_BD.float() @ self.weights_DP

    def noise(self, generators: Sequence[torch.Generator]) -> Tensor:
        return torch.stack([torch.randn(3, self.size, self.size, generator=g) for g in generators])

    def sample(self, maps_BChw: Tensor, noise: Tensor, **options: Any) -> Tensor:
        flat = self._mean(maps_BChw) + self.residual_P * noise.flatten(1)
        return flat.unflatten(1, (3, self.size, self.size)).clamp(0, 1)


def trained_inverter(folder: Path, steps: int, side: int) -> Any:
    """An inverter of the planted net's last map, trained on generated scenes from the start, or the one in the folder.

    Its network is small, and so are its pictures: with the defaults it is trained in five minutes of one core.
    """
    from safetensors.torch import load_file
    from tests.planted.shapes import write_photos

    from entoptic.inversion.configs import EntopticRecipe
    from entoptic.inversion.learn import learn_inverter
    from entoptic.inversion.network import build
    from entoptic.inversion.saved import load_inverter, save_inverter
    from entoptic.priors.learn import network
    from entoptic.priors.recipe import Recipe
    from entoptic.priors.saved import save_prior
    from entoptic.priors.sources import load_prior

    model, shelf, base = planted_model(), folder / "inverter", folder / "prior"
    if not base.is_dir():
        shape = Recipe(size=side, patch=max(2, side // 8), widths=(64, 96), attention=(4,))
        card = {"name": "untrained", "size": side, "patch": shape.patch, "classes": [], "shift": 2.0}
        torch.manual_seed(0)
        save_prior(network(shape, 0), base, card, half=False)
    prior: Any = load_prior(f"file:{base}", device="cpu")
    if not shelf.is_dir():
        scenes = folder / "scenes"
        if not scenes.is_dir():
            write_photos(balanced_scenes(2500, TRAIN), scenes)
        maps = FeatureMaps.of(model, LAYER)
        recipe = EntopticRecipe(
            network="direct", steps=steps, batch_size=32, rate=2e-3, warmup=20, drop=0.1, cycle=0.0, hint=64, ema=0.99
        )
        done, pairs = learn_inverter(
            maps, prior, scenes, folder / "training", recipe, save_every=100, log=lambda line: print(line, flush=True)
        )
        state = load_file(next(done.glob("training-*.safetensors")))
        net = build(prior, maps.channels, recipe)
        net.load_state_dict({k[4:]: v for k, v in state.items() if k.startswith("ema/")})
        law = FeatureMapGaussian.fit(pairs.batch(range(min(2000, len(pairs))))[1])
        card = {
            "name": "planted", "model": model.card.name, "model_sha256": model.card.weights_sha256, "layer": LAYER,
            "prior": prior.name, "prior_identity": prior.identity, "recipe": asdict(recipe), "steps": 4,
            "strength": 1.0, "guidance": 1.0,
        }  # fmt: skip
        tensors = {"mean": pairs.mean_C, "sd": pairs.sd_C} | {f"law/{k}": v for k, v in law.tensors().items()}
        save_inverter(net, shelf, card, tensors)
    return load_inverter(f"file:{shelf}", model, prior=prior, device="cpu")


# --- concepts --------------------------------------------------------------------------------------------------------


class Directions:
    """Concepts that are one direction each: φ_k from the thin-Gram decomposition on the span of all of them."""

    layer, model_sha256 = LAYER, ""

    def __init__(self, names: Sequence[str], directions_KC: Tensor) -> None:
        self.names = list(names)
        self.C_KC = directions_KC.double()
        self.V_KC = torch.linalg.solve(self.C_KC @ self.C_KC.T, self.C_KC)

    def parts(self, maps_BCD: Tensor) -> Tensor:
        weights_KBD = torch.einsum("kc,bcd->kbd", self.V_KC, maps_BCD.double())
        return (self.C_KC[:, None, :, None] * weights_KBD[:, :, None]).float()

    def activations(self, maps_BCD: Tensor) -> Tensor:
        return self.parts(maps_BCD).norm(dim=2).transpose(0, 1)


class Subspace:
    """The span of given directions C×d, as one concept."""

    layer, model_sha256, names = LAYER, "", ["random"]

    def __init__(self, directions_Cd: Tensor) -> None:
        self.basis_Cd = torch.linalg.qr(directions_Cd.double()).Q

    def parts(self, maps_BCD: Tensor) -> Tensor:
        return torch.einsum("cd,ed,bep->bcp", self.basis_Cd, self.basis_Cd, maps_BCD.double()).float()[None]


def planted_channels() -> Directions:
    """The channels that were trained to fire for red rings and for grass, and for nothing else."""
    channels = [int(unit.split(":")[1]) for unit in (RING_UNIT, GRASS_UNIT)]
    return Directions([RING, GRASS], torch.eye(64)[channels])


def thing_directions(maps: FeatureMaps, scenes: Sequence[Scene]) -> Directions:
    """φ(p) ≈ b + Σ_k cover_k(p)·v_k by least squares: v_k is what one field full of thing k adds to the map."""
    with torch.no_grad():
        values_PC = torch.cat([maps.read(part) for part in stack(scenes).split(250)]).permute(0, 2, 3, 1).flatten(0, 2)
    cover = []
    for scene in scenes:
        masks = torch.stack([scene.masks.get(n, torch.zeros(SIZE, SIZE)).float() for n in LABELS])
        cover.append(F.avg_pool2d(masks[None], FIELD, STRIDE, FIELD // 2)[0].permute(1, 2, 0).flatten(0, 1))
    cover_PK = torch.cat(cover).double()
    design = torch.cat([cover_PK, torch.ones(len(cover_PK), 1, dtype=torch.float64)], 1)
    ridge = 1e-6 * len(design) * torch.eye(design.shape[1], dtype=torch.float64)
    directions = torch.linalg.solve(design.T @ design + ridge, design.T @ values_PC.double())[:-1]
    return Directions(LABELS, directions.float())


# --- localisation ----------------------------------------------------------------------------------------------------


def upsampled(active_hw: Tensor) -> Tensor:
    """As activation maps are shown: bilinear, each position the centre of its cell."""
    return F.interpolate(active_hw[None, None], (SIZE, SIZE), mode="bilinear", align_corners=False)[0, 0]


def aligned(active_hw: Tensor) -> Tensor:
    """Bilinear with each position where its field is centred: at pixel (16·r, 16·c)."""
    place = (torch.arange(SIZE) / STRIDE).clamp(max=active_hw.shape[0] - 1)
    weights = (1 - (place[:, None] - torch.arange(active_hw.shape[0])).abs()).clamp(min=0)
    return weights @ active_hw @ weights.T


def at_size(map_SS: Tensor) -> Tensor:
    """A map over an inverter's picture, on the pixels of the scene."""
    return F.interpolate(map_SS[None, None].float(), (SIZE, SIZE), mode="bilinear", align_corners=False)[0, 0]


def iou(region: Tensor, mask: Tensor) -> float:
    union = int((region | mask).sum())
    return float((region & mask).sum()) / union if union else 1.0


def auroc(values: Tensor, mask: Tensor) -> float:
    """Chance that a pixel of the mask has a higher value than one outside, ties counting half."""
    flat, inside = values.flatten(), mask.flatten()
    _, places, counts = flat.unique(return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0) - (counts - 1) / 2)[places]
    m, rest = int(inside.sum()), int((~inside).sum())
    return float((ranks[inside].sum() - m * (m + 1) / 2) / (m * rest))


@dataclass
class Case:
    """One concept that is in a scene."""

    scene: int
    mask: Tensor
    found: Steering

    @cached_property
    def maps(self) -> dict[str, Tensor]:
        """Of which each is to lie on the mask."""
        return {
            "Δ": at_size(self.found.delta_SS),
            "upsampled": upsampled(self.found.activation_hw),
            "aligned": aligned(self.found.activation_hw),
        }


def cases(
    inverter: Any, dictionary: Any, scenes: Sequence[Scene], config: Steer, least: int = 20
) -> tuple[list[Case], list[bool]]:
    """The concepts of things in each scene of which at least `least` pixels show; and whether each one absent is flagged."""
    found, false = [], []
    for i, scene in enumerate(scenes):
        shown = [
            k
            for k, name in enumerate(dictionary.names)
            if name in scene and least <= int(scene.masks[name].sum()) <= SIZE**2 - least
        ]
        absent = [k for k, name in enumerate(dictionary.names) if name not in scene]
        with torch.no_grad():
            phi = inverter.maps.read(scene.image[None])
        extra = [absent[i % len(absent)]] if absent else []
        for one in steer_concepts(inverter, dictionary, phi, [*shown, *extra], config, key=f"scene {i}"):
            if one.concept in shown:
                found.append(Case(i, scene.masks[dictionary.names[one.concept]], one))
            else:
                false.append(bool(one.affected_SS.any()))
    return found, false


def tuned(tuning: Sequence[Case], name: str) -> float:
    """Share of the maximum with the best mean IoU on the tuning scenes."""
    means = [np.mean([iou(m >= share * m.max(), c.mask) for c in tuning for m in [c.maps[name]]]) for share in LEVELS]
    return float(LEVELS[int(np.argmax(means))])


def score(tests: Sequence[Case], shares: dict[str, float]) -> dict[str, list[float]]:
    """Every metric of every case, by name."""
    rules: dict[str, Callable[[Case], Tensor]] = {
        "Δ, calibrated": lambda c: at_size(c.found.affected_SS) > 0.5,
        "Δ, calibrated, pixel by pixel": lambda c: at_size(c.found.calibration.pointwise_affected_HW) > 0.5,  # type: ignore[union-attr]
        "Δ, 0.33 of the maximum": lambda c: paper_mask(c.maps["Δ"]),
        "Δ, tuned share": lambda c: c.maps["Δ"] >= shares["Δ"] * c.maps["Δ"].max(),
    }
    for name in ("upsampled", "aligned"):
        rules |= {
            f"{name}, {share} of the maximum": lambda c, n=name, s=share: c.maps[n] >= s * c.maps[n].max()
            for share in (0.33, 0.5)
        } | {f"{name}, tuned share": lambda c, n=name: c.maps[n] >= shares[n] * c.maps[n].max()}
    values: dict[str, list[float]] = {f"IoU: {rule}": [iou(f(c), c.mask) for c in tests] for rule, f in rules.items()}
    for name in ("Δ", "upsampled", "aligned"):
        maps = [c.maps[name] for c in tests]
        values[f"pointing: {name}"] = [float(c.mask.flatten()[int(m.argmax())]) for c, m in zip(tests, maps)]
        values[f"AUROC: {name}"] = [auroc(m, c.mask) for c, m in zip(tests, maps)]
    return values


def summary(tests: Sequence[Case], values: dict[str, list[float]]) -> dict[str, Any]:
    """Means over cases with bootstrap intervals over scenes, and paired differences to the baselines."""

    def of(name: str, other: str = "") -> dict[str, Any]:
        per: dict[int, list[float]] = {}
        for c, a, b in zip(tests, values[name], values[other] if other else [0.0] * len(tests)):
            per.setdefault(c.scene, []).append(a - b)
        means = [float(np.mean(v)) for v in per.values()]  # scenes are independent, the things in one are not
        return {"value": float(np.mean(means)), "interval": bootstrap(means), "scenes": len(means)}

    pairs = [(f"{m}: Δ", f"{m}: {b}") for m in ("pointing", "AUROC") for b in ("upsampled", "aligned")]
    for rule in ("calibrated", "calibrated, pixel by pixel", "0.33 of the maximum", "tuned share"):
        pairs += [(f"IoU: Δ, {rule}", f"IoU: {b}, tuned share") for b in ("upsampled", "aligned")]
    pairs += [("IoU: Δ, 0.33 of the maximum", f"IoU: {b}, 0.33 of the maximum") for b in ("upsampled", "aligned")]
    return {
        "means": {name: of(name) for name in values},
        "paired": [{"of": a, "minus": b, **of(a, b)} for a, b in pairs],
        "cases": len(tests),
    }


def localisation(inverter: Any, dictionary: Any, tune: Any, test: Any, config: Steer) -> dict[str, Any]:
    tuning, _ = cases(inverter, dictionary, tune, replace(config, nulls=0))
    shares = {name: tuned(tuning, name) for name in ("Δ", "upsampled", "aligned")}
    tests, false = cases(inverter, dictionary, test, config)
    flagged = [float(bool(c.found.affected_SS.any())) for c in tests]
    at = tests[0].found.at
    attenuation = [float(c.found.attenuation_An[at].nanmean()) for c in tests]
    cosines = [float(c.found.cosine_n.mean()) for c in tests]
    calibrations = [c.found.calibration for c in tests if c.found.calibration is not None]
    return summary(tests, score(tests, shares)) | {
        "test": {
            "version": calibrations[0].test.version,
            "size": _quartiles([c.size for c in calibrations]),
            "flagged from": _quartiles([c.flagged_from for c in calibrations]),
            "detectable": _quartiles([c.detectable.value if c.detectable else None for c in calibrations]),
        },
        "shares": shares,
        "flagged": {"value": float(np.mean(flagged)), "interval": wilson(sum(flagged), len(flagged)), "n": len(flagged)},
        "absent flagged": {"value": float(np.mean(false)), "interval": wilson(sum(false), len(false)), "n": len(false)}
        if false
        else None,
        "attenuation": {"value": float(np.nanmedian(attenuation)), "asked": config.scale,
                        "quartiles": [float(v) for v in np.nanquantile(attenuation, (0.25, 0.75))]},
        "cosine": {"value": float(np.mean(cosines)), "interval": bootstrap(cosines)},
    }  # fmt: skip


def _quartiles(values: Sequence[float | None]) -> list[float]:
    """Quartiles of those that are known; NaN where none is."""
    known = [v for v in values if v is not None]
    return [float(v) for v in np.quantile(known, (0.25, 0.5, 0.75))] if known else [float("nan")] * 3


def false_alarms(
    inverter: Any, scenes: Sequence[Scene], vectors_NC: Tensor, count: int, config: Steer
) -> dict[str, Any]:
    """Subspaces of 1 to 4 dimensions, one a scene, that stand for concepts without any meaning, of four kinds.

    Args:
        vectors_NC: of positions of other scenes' maps, real ones, by which the last kind is spanned.
    """
    law = map_covariance(inverter)
    kinds: dict[str, Callable[[int, torch.Generator], Tensor]] = {
        "draws of the maps' covariance": lambda d, g: law.directions(d, g).T,
        "one draw of the maps' covariance": lambda d, g: law.directions(1, g).T,
        "Gaussian directions of the channels' scale": lambda d, g: (
            torch.randn(len(inverter.sd_C), d, generator=g) * inverter.sd_C[:, None]
        ),
        "spans of vectors of other scenes": lambda d, g: (
            vectors_NC[torch.randint(len(vectors_NC), (d,), generator=g)].T
        ),
    }
    found = {}
    for kind, draw in kinds.items():
        hits = {"calibrated": 0, "0.33 of the maximum": 0}
        for i in range(count):
            with torch.no_grad():
                phi = inverter.maps.read(scenes[i % len(scenes)].image[None])
            concept = Subspace(draw(1 + i % 4, torch.Generator().manual_seed(90_000 + i)))
            (one,) = steer_concepts(inverter, concept, phi, [0], config, key=f"null {kind} {i}")
            hits["calibrated"] += bool(one.affected_SS.any())
            hits["0.33 of the maximum"] += bool(paper_mask(one.delta_SS).any())
        found |= {
            f"{kind}: {rule}": {
                "value": hit / count, "interval": wilson(hit, count), "n": count,
                "stated": config.level if rule == "calibrated" else None,
            }
            for rule, hit in hits.items()
        }  # fmt: skip
    return found


# --- the page --------------------------------------------------------------------------------------------------------


def page(results: dict[str, Any]) -> str:
    lines = [
        "# Concept steering on scenes with known masks", "",
        "Does the region that [concept steering](../how-to/steer.md) shows lie on the thing that the concept stands for? "
        "Scenes of 64×64 pixels with up to three shapes on a textured ground; a small network trained on them; concepts of "
        "its last map of 4×4 positions, each of which sees 31 pixels. Δ is decoded at α = 0.25 and enlarged to the scene. "
        "Against it: the concept's "
        "activation map, upsampled as such maps are shown, and aligned with the centres of the positions' fields. A tuned "
        "share is the share of a map's maximum with the best IoU on other scenes.", "",
    ]  # fmt: skip
    for name, result in sorted(results["inverters"].items(), reverse=True):  # the trained one first
        lines += [f"## Inverter: {name}", "", result["about"], ""]
        for family, found in result["families"].items():
            scenes = next(iter(found["means"].values()))["scenes"]
            lines += [
                f"### {family}, {found['cases']} things in {scenes} scenes", "", "| measure | mean [95 % over scenes] |",
                "|---|---|",
            ]  # fmt: skip
            lines += [f"| {measure} | {_cell(entry)} |" for measure, entry in found["means"].items()]
            lines += ["", "Paired over scenes:", "", "| of | minus | difference [95 %] |", "|---|---|---|"]
            lines += [f"| {p['of']} | {p['minus']} | {_cell(p, '+')} |" for p in found["paired"]]
            absent = found["absent flagged"]
            at = found["attenuation"]
            lines += [
                "",
                f"Flagged by the calibration: {_cell(found['flagged'])} of the concepts that are there"
                + (f", {_cell(absent)} of {absent['n']} whose thing is not in the scene" if absent else "")
                + f". Closed loop: the network sees {at['value']:.2f} (quartiles {at['quartiles'][0]:.2f} to "
                f"{at['quartiles'][1]:.2f}) of the concept left where {at['asked']:g} was asked for; cosine of originals to "
                f"their map {_cell(found['cosine'])}.",
                "",
            ]
            if test := found.get("test"):
                lines += [
                    f"Median (quartiles) over these things: compared at {_spread(test['size'])} times the edit that is shown, "
                    f"flagged from {_spread(test['flagged from'])} times its change on; effects of "
                    f"{_spread(test['detectable'])} times that of a random edit are found in four of five cases.",
                    "",
                ]
            else:
                lines += [
                    "Which are flagged was measured with the first version of the test (random edits of the concept's own size).",
                    "",
                ]
        lines += [
            "### False alarms on random subspaces",
            "",
            "| random concepts: rule | flagged [95 %] | stated | n |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {rule} | {_cell(entry)} | {entry['stated'] or 'none'} | {entry['n']} |"
            for rule, entry in result["false alarms"].items()
        ]
        lines += ["", f"`{result['command']}`, {result['seconds']:.0f} s.", ""]
    versions = ", ".join(f"{k} {v}" for k, v in results["about"].items())
    return "\n".join([*lines, f"With {versions}.", ""])


def _spread(quartiles: Sequence[float]) -> str:
    low, middle, high = quartiles
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def _cell(entry: dict[str, Any], sign: str = "") -> str:
    low, high = entry["interval"]
    return f"{entry['value']:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="steer.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inverter", choices=("ridge", "trained"), default="trained")
    parser.add_argument("--folder", type=Path, default=Path("inverters/planted"), help="of the trained inverter")
    parser.add_argument("--steps", type=int, default=1100, help="of its training")
    parser.add_argument("--side", type=int, default=32, help="of the pictures that are decoded, in pixels")
    parser.add_argument("--scenes", type=int, default=120)
    parser.add_argument("--tune", type=int, default=60, help="scenes on which shares of the maximum are tuned")
    parser.add_argument("--nulls", type=int, default=100, help="random concepts of each kind")
    parser.add_argument("--train", type=int, default=2500, help="scenes that ridge and directions are fitted on")
    parser.add_argument("--n", type=int, default=3, help="random seeds")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    started = time.monotonic()
    train = balanced_scenes(given.train, TRAIN)
    maps = FeatureMaps.of(planted_model(), LAYER)
    if given.inverter == "ridge":
        inverter: Any = Ridge(maps, train, given.side)
        what = f"Ridge regression of pixels on the map plus Gaussian noise; it explains {inverter.explained:.0%} of their variance."
    else:
        inverter = trained_inverter(given.folder, given.steps, given.side)
        what = (
            f"A network of {sum(p.numel() for p in inverter.net.parameters()) / 1e6:.1f} M parameters, trained from the "
            f"start by {inverter.recipe.steps} steps on 2500 scenes of {given.side} pixels; {inverter.steps} sampling steps."
        )
    config = Steer(n=given.n, scales=(), level=0.05, nulls=19, batch_size=64)
    families = {}
    for family, dictionary, odds in (
        ("Planted channels", planted_channels(), {"ring": 1.0, "cross": 0.25}),
        ("Directions of things", thing_directions(maps, train), {}),
    ):
        tune, test = (balanced_scenes(n, seed, **odds) for n, seed in ((given.tune, TUNE), (given.scenes, TEST)))
        families[family] = localisation(inverter, dictionary, tune, test, config)
        print(family, json.dumps(families[family]["means"], ensure_ascii=False, indent=1), flush=True)
    with torch.no_grad():
        vectors_NC = maps.read(stack(balanced_scenes(200, OTHERS))).permute(0, 2, 3, 1).flatten(0, 2)
    alarms = false_alarms(inverter, test, vectors_NC, given.nulls, config)
    earlier = given.out / "steer.json"
    results: dict[str, Any] = json.loads(earlier.read_text()) if earlier.is_file() else {"inverters": {}}
    results["inverters"] = {k: v for k, v in results["inverters"].items() if k != given.inverter}
    results["inverters"][given.inverter] = {
        "about": what, "families": families, "false alarms": alarms, "seconds": time.monotonic() - started,
        "command": ("python benchmarks/steer.py " + " ".join(arguments)).strip(), "n": given.n,
    }  # fmt: skip
    results["about"] = about()
    given.out.mkdir(parents=True, exist_ok=True)
    earlier.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    (given.out / "steer.md").write_text(page(results))
    print(page(results))


if __name__ == "__main__":
    main(sys.argv[1:])

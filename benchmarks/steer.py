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
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from common import about, bootstrap
from entoptic.inversion.maps import FeatureMaps
from entoptic.inversion.steer import Steer, Steering, paper_mask, steer_concepts
from entoptic.metrics.evidence import wilson

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.planted.nets import FIELD, GRASS_UNIT, LABELS, RING_UNIT, STRIDE, planted_model
from tests.planted.shapes import GRASS, RING, SIZE, Scene, balanced_scenes, stack

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
LAYER = "stage3"
TRAIN, TUNE, TEST = 5000, 6000, 7000  # seeds of the scenes
LEVELS = np.linspace(0.05, 0.95, 19)  # shares of a map's maximum that a threshold may be tuned to


# --- inverters -------------------------------------------------------------------------------------------------------


class Ridge:
    """E[picture | map] by ridge regression plus independent Gaussian noise of the residuals' size at each pixel."""

    name = "ridge"

    def __init__(self, maps: FeatureMaps, scenes: Sequence[Scene], penalty: float = 1e-2) -> None:
        self.maps, self.size = maps, SIZE
        pictures_NP = stack(scenes).flatten(1)
        with torch.no_grad():
            read_NChw = torch.cat([maps.read(part) for part in stack(scenes).split(250)])
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
        return torch.stack([torch.randn(3, SIZE, SIZE, generator=g) for g in generators])

    def sample(self, maps_BChw: Tensor, noise: Tensor, **options: Any) -> Tensor:
        flat = self._mean(maps_BChw) + self.residual_P * noise.flatten(1)
        return flat.unflatten(1, (3, SIZE, SIZE)).clamp(0, 1)


def trained_inverter(folder: Path) -> Any:
    """An inverter of the planted net's last map, trained on generated scenes, or the one that is in the folder."""
    from tests.planted.shapes import write_photos

    from entoptic.inversion.learn import learn_inverter
    from entoptic.inversion.saved import load_inverter

    model = planted_model()
    if not (folder / "inverter").is_dir():
        photos = folder / "scenes"
        if not photos.is_dir():
            write_photos(balanced_scenes(6000, TRAIN), photos)
        learn_inverter(model, LAYER, photos, folder)
    return load_inverter(f"file:{folder / 'inverter'}", model=model)


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
    """One random subspace of the channels' scale: a concept that means nothing."""

    layer, model_sha256, names = LAYER, "", ["random"]

    def __init__(self, sd_C: Tensor, dimension: int, seed: int) -> None:
        draws = torch.randn(len(sd_C), dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.basis_Cd = torch.linalg.qr(draws * sd_C.double()[:, None]).Q

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
            "Δ": self.found.delta_SS,
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
        "Δ, calibrated": lambda c: c.found.affected_SS,
        "Δ, calibrated, pixel by pixel": lambda c: c.found.calibration.pointwise_affected_HW,  # type: ignore[union-attr]
        "Δ, 0.33 of the maximum": lambda c: paper_mask(c.found.delta_SS),
        "Δ, tuned share": lambda c: c.found.delta_SS >= shares["Δ"] * c.found.delta_SS.max(),
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
    tuning, _ = cases(inverter, dictionary, tune, config)
    shares = {name: tuned(tuning, name) for name in ("Δ", "upsampled", "aligned")}
    tests, false = cases(inverter, dictionary, test, config)
    flagged = [float(bool(c.found.affected_SS.any())) for c in tests]
    at = tests[0].found.at
    attenuation = [float(c.found.attenuation_An[at].nanmean()) for c in tests]
    cosines = [float(c.found.cosine_n.mean()) for c in tests]
    return summary(tests, score(tests, shares)) | {
        "shares": shares,
        "flagged": {"value": float(np.mean(flagged)), "interval": wilson(sum(flagged), len(flagged)), "n": len(flagged)},
        "absent flagged": {"value": float(np.mean(false)), "interval": wilson(sum(false), len(false)), "n": len(false)}
        if false
        else None,
        "attenuation": {"value": float(np.nanmedian(attenuation)), "asked": config.scale,
                        "quartiles": [float(v) for v in np.nanquantile(attenuation, (0.25, 0.75))]},
        "cosine": {"value": float(np.mean(cosines)), "interval": bootstrap(cosines)},
    }  # fmt: skip


def false_alarms(inverter: Any, scenes: Sequence[Scene], count: int, config: Steer) -> dict[str, Any]:
    """Random subspaces of 1 to 4 dimensions, one a scene, that stand for concepts without any meaning."""
    flagged = {"calibrated": 0, "0.33 of the maximum": 0}
    for i in range(count):
        with torch.no_grad():
            phi = inverter.maps.read(scenes[i % len(scenes)].image[None])
        concept = Subspace(inverter.sd_C, 1 + i % 4, 90_000 + i)
        (one,) = steer_concepts(inverter, concept, phi, [0], config, key=f"null {i}")
        flagged["calibrated"] += bool(one.affected_SS.any())
        flagged["0.33 of the maximum"] += bool(paper_mask(one.delta_SS).any())
    return {
        name: {"value": hits / count, "interval": wilson(hits, count), "n": count, "stated": config.level}
        for name, hits in flagged.items()
    }


# --- the page --------------------------------------------------------------------------------------------------------


def page(results: dict[str, Any]) -> str:
    lines = [
        "# Concept steering on scenes with known masks", "",
        "Does the region that [concept steering](../how-to/steer.md) shows lie on the thing that the concept stands for? "
        "Scenes of 64×64 pixels with up to three shapes on a textured ground; a small network trained on them; concepts of "
        "its last map of 4×4 positions, each of which sees 31 pixels. Δ is decoded at α = 0.25. Against it: the concept's "
        "activation map, upsampled as such maps are shown, and aligned with the centres of the positions' fields. A tuned "
        "share is the share of a map's maximum with the best IoU on other scenes.", "",
    ]  # fmt: skip
    for name, result in results["inverters"].items():
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
        lines += [
            "### False alarms on random subspaces",
            "",
            "| rule | flagged [95 %] | stated | n |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {rule} | {_cell(entry)} | {entry['stated'] if rule == 'calibrated' else 'none'} | {entry['n']} |"
            for rule, entry in result["false alarms"].items()
        ]
        lines += ["", f"`{result['command']}`, {result['seconds']:.0f} s.", ""]
    versions = ", ".join(f"{k} {v}" for k, v in results["about"].items())
    return "\n".join([*lines, f"With {versions}.", ""])


def _cell(entry: dict[str, Any], sign: str = "") -> str:
    low, high = entry["interval"]
    return f"{entry['value']:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="steer.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inverter", choices=("ridge", "trained"), default="ridge")
    parser.add_argument("--folder", type=Path, default=Path("inverters/planted"), help="of the trained inverter")
    parser.add_argument("--scenes", type=int, default=120)
    parser.add_argument("--nulls", type=int, default=200, help="random subspaces in place of concepts")
    parser.add_argument("--train", type=int, default=4000, help="scenes that ridge and directions are fitted on")
    parser.add_argument("--n", type=int, default=3, help="random seeds")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    started = time.monotonic()
    train = balanced_scenes(given.train, TRAIN)
    maps = FeatureMaps.of(planted_model(), LAYER)
    if given.inverter == "ridge":
        inverter: Any = Ridge(maps, train)
        what = f"Ridge regression of pixels on the map plus Gaussian noise; it explains {inverter.explained:.0%} of their variance."
    else:
        inverter = trained_inverter(given.folder)
        what = f"`{inverter.name}`, {inverter.steps} steps."
    config = Steer(n=given.n, scales=(), level=0.05, nulls=19)
    tune, test = balanced_scenes(60, TUNE), balanced_scenes(given.scenes, TEST)
    families = {}
    for family, dictionary, odds in (
        ("Planted channels", planted_channels(), {"ring": 1.0, "cross": 0.25}),
        ("Directions of things", thing_directions(maps, train), {}),
    ):
        if odds:
            tune_here, test_here = balanced_scenes(60, TUNE, **odds), balanced_scenes(given.scenes, TEST, **odds)
        else:
            tune_here, test_here = tune, test
        families[family] = localisation(inverter, dictionary, tune_here, test_here, config)
        print(family, json.dumps(families[family]["means"], ensure_ascii=False, indent=1), flush=True)
    alarms = false_alarms(inverter, test, given.nulls, config)
    earlier = given.out / "steer.json"
    results: dict[str, Any] = json.loads(earlier.read_text()) if earlier.is_file() else {"inverters": {}}
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

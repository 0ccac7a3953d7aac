"""Planted truth: which method's pictures tell the cause of a unit, which are fooled, and what the evidence says.

    python benchmarks/planted.py                    # everything, minutes on one core
    python benchmarks/planted.py --methods pixels

Needs no photos: the scenes are generated. Pictures are stored in a run (--run) and never made twice. Writes
docs/benchmarks/planted.json, planted.md and planted.jpg.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from common import about
from entoptic.configs import Fourier, Maco, PixelAscent, Retrieval, Vital
from entoptic.methods.contract import MethodConfig
from entoptic.planted.causes import ASPECTS
from entoptic.planted.dataset import write_dataset
from entoptic.planted.meter import read
from entoptic.planted.networks import MATCHED, PlantedNetwork, planted_network
from entoptic.planted.recover import Recovered, Share, Summary, recover, share, summarise
from entoptic.planted.scenes import make_scenes, write_scenes

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
SUBJECTS = ("honest", "fooling", "slingshot")
SCENES, METER_SCENES, SAMPLES = 300, 300, 3
CONFIGS: dict[str, MethodConfig] = {
    # Chosen on the honest network with another seed. The defaults are for pictures of 224 pixels and for networks with
    # thousands of channels; a mirrored view would have another place.
    "vital": Vital(
        steps=150, jitter=8, smoothness=12.0, smooth_from=0, flip=False, layers=MATCHED, drive=30.0, natural=0.1
    ),
    "fourier": Fourier(steps=384),
    "maco": Maco(steps=128, canvas=64, crops=2, crop_start=1.0, crop_end=0.8, crop_std=0.03, noise=0.03),
    "pixels": PixelAscent(steps=256),
    "retrieval": Retrieval(),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--methods", default=",".join(CONFIGS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--run", type=Path, default=Path("runs/planted"))
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument(
        "--dataset", type=Path, default=None, help="write the networks, units, scenes and their card here instead"
    )
    given = parser.parse_args(arguments)
    if given.dataset is not None:
        print(
            f"{write_dataset(given.dataset, scenes=SCENES)}: the planted networks as a data set; its card is README.md"
        )
        return
    methods = given.methods.split(",")
    scenes = write_scenes(make_scenes(SCENES, seed=0), given.run / "scenes")
    second = planted_network("twin")
    networks = {name: planted_network(name) for name in SUBJECTS}
    found: list[Recovered] = []
    seconds = {}
    for name, network in networks.items():
        units = None if name == "honest" else [unit for unit in network.units if unit.decoy is not None]
        for method in methods:
            begun = time.monotonic()
            found += recover(
                network, CONFIGS[method], method=method, scenes=scenes, out=given.run / name / method, units=units,
                n=SAMPLES, seed=given.seed, second=second,
            )  # fmt: skip
            seconds[f"{name} {method}"] = round(time.monotonic() - begun, 1)
            print(name, method, seconds[f"{name} {method}"], summarise(found)[-1].identified.text, flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    sheet(found, networks, methods, given.out / "planted.jpg")
    accuracy = meter_accuracy()
    result = {
        "command": "python benchmarks/planted.py", "seed": given.seed, "samples": SAMPLES, "scenes": SCENES,
        "meter": {aspect: plain(one) for aspect, one in accuracy.items()},
        "summaries": [
            {k: plain(v) if isinstance(v, Share) else v for k, v in vars(s).items()} for s in summarise(found)
        ],
        "units": [
            {
                "network": one.network, "method": one.method, "unit": one.unit.name, "kind": one.unit.kind.value,
                "causes": [cause.text for cause in one.unit.causes], "manipulation": one.unit.manipulation.value,
                "decoy": one.unit.decoy.text if one.unit.decoy else None,
                "identified": one.identified, "fooled": one.fooled,
                "pictures": [
                    {"cause": s.cause, "decoy": s.decoy, "null": s.null, "drives": s.drives, "selective": s.selective,
                     "transfers": s.transfers, "shows": s.reading.text}
                    for s in one.sightings
                ],
            }
            for one in found
        ],
        "configs": {name: asdict(CONFIGS[name]) for name in methods}, "seconds": seconds, "about": about(),
    }  # fmt: skip
    (given.out / "planted.json").write_text(json.dumps(result, indent=1) + "\n")
    text = page(found, summarise(found), accuracy, methods, result)
    (given.out / "planted.md").write_text(text)
    print(text)


def plain(one: Share) -> dict[str, Any]:
    return {"hits": one.hits, "n": one.n, "interval": one.interval}


def pooled(shares: Iterable[Share]) -> Share:
    """The same question over several groups of pictures."""
    parts = list(shares)
    return Share(hits=sum(part.hits for part in parts), n=sum(part.n for part in parts))


def meter_accuracy() -> dict[str, Share]:
    """How often the meter reads each aspect of scenes with one thing as it was drawn."""
    scenes = make_scenes(METER_SCENES, seed=100, things=1)
    readings = [read(scene.image) for scene in scenes]
    return {
        aspect: share(r.leading(aspect) == getattr(s.things[0], aspect) for r, s in zip(readings, scenes))
        for aspect in ASPECTS
    }


def sheet(
    found: Sequence[Recovered], networks: dict[str, PlantedNetwork], methods: Sequence[str], path: Path, side: int = 66
) -> None:
    """The first picture of every unit: honest ones above, manipulated ones below, a row for each method."""
    honest = [unit.name for unit in networks["honest"].units]
    manipulated = [unit.name for unit in networks["fooling"].units if unit.decoy is not None]
    page = Image.new("RGB", (len(honest) * side, (2 * len(methods) + 1) * side - side // 2), "white")
    for one in found:
        row = methods.index(one.method)
        if one.network == "honest":
            x, y = honest.index(one.unit.name) * side, row * side
        else:
            group = SUBJECTS.index(one.network) - 1
            x = (group * (len(manipulated) + 1) + manipulated.index(one.unit.name)) * side
            y = (len(methods) + row) * side + side // 2
        page.paste(Image.open(one.sightings[0].path), (x, y))
    page.save(path, quality=90, subsampling=0)


def page(
    found: Sequence[Recovered],
    summaries: Sequence[Summary],
    accuracy: dict[str, Share],
    methods: Sequence[str],
    result: dict[str, Any],
) -> str:
    """The tables in Markdown."""
    ascended = [s for s in summaries if s.network != "honest" and s.method != "retrieval"]
    caught = pooled(s.caught_by_transfer for s in ascended)
    selectivity = pooled(s.caught_by_selectivity for s in ascended)
    false = pooled(s.false_by_transfer for s in summaries if s.network == "honest")
    same = pooled(s.caught_by_transfer for s in summaries if s.network == "honest")
    false_selectivity = pooled(s.false_by_selectivity for s in summaries if s.network == "honest")
    honest = [s for s in summaries if s.network == "honest"]
    good = [s.method for s in honest if s.identified.n and s.identified.hits >= 0.9 * s.identified.n]
    fooled = {
        network: [s.method for s in summaries if s.network == network and s.fooled.hits] for network in SUBJECTS[1:]
    }
    lines = [
        "# Planted truth", "",
        "Networks whose units have causes that are known by construction ([how to](../how-to/planted.md)). A closed-form "
        f"meter reads off each picture what it shows. {SAMPLES} pictures a unit and method; a unit is identified where "
        "more than half of its pictures show one of its causes. 95 % Wilson intervals.", "",
        f"At least 90 % of honest units are identified by: {', '.join(good) or 'no method'}. "
        + " ".join(f"Fooled in the {n} network, by the decoy in some unit: {', '.join(m) or 'no method'}."
                   for n, m in fooled.items()), "",
        f"Of the misleading pictures that were optimised on manipulated units, the second network warns of {caught.text} and "
        f"selectivity of {selectivity.text}. Of right pictures of honest units they warn too, of {false.text} and of "
        f"{false_selectivity.text}. Of misleading pictures of honest units, the second network warns of {same.text}: it shares "
        "their design, and so what else drives them.", "",
        "The meter reads scenes with one thing as drawn: "
        + ", ".join(f"{aspect} {one.text}" for aspect, one in accuracy.items()) + ".", "",
        *by_method(result), "## Units", "",
        "Chance: pictures that show the cause of a unit with which theirs has nothing in common.", "",
        "| network | method | identified | silent units told | fooled by the decoy | chance |", "|---" * 6 + "|",
    ]  # fmt: skip
    for s in summaries:
        cells = [part.text for part in (s.identified, s.silent, s.fooled, s.chance)]
        lines.append(f"| {s.network} | {s.method} | " + " | ".join(cells) + " |")
    lines += [
        "", "## What the evidence says", "",
        "Misleading: pictures that drive their unit at least half as far as its strongest scene and do not show its cause, of all. "
        "Caught: those that selectivity (below 0) or the second network (its unit is driven less than half as far as by its "
        "strongest scene) warns of. False alarms: pictures that show the cause and are warned of, or that do not drive the unit.",
        "", "| network | method | misleading | caught | by selectivity | by the second network | false alarms | by selectivity | "
        "by the second network |",
        "|---" * 9 + "|",
    ]  # fmt: skip
    for s in summaries:
        parts = (
            s.misleading,
            s.caught,
            s.caught_by_selectivity,
            s.caught_by_transfer,
            s.false_alarms,
            s.false_by_selectivity,
            s.false_by_transfer,
        )
        lines.append(f"| {s.network} | {s.method} | " + " | ".join(part.text for part in parts) + " |")
    lines += ["", "## Unit by unit", "", "Pictures that show the cause, of 3 (for silent units: whose evidence says so); d: "
              "of which so many show the decoy and not the cause.", "",
              "| network | unit | kind | " + " | ".join(methods) + " |", "|---" * (3 + len(methods)) + "|"]  # fmt: skip
    for network, name in dict.fromkeys((one.network, one.unit.name) for one in found):
        mine = {one.method: one for one in found if (one.network, one.unit.name) == (network, name)}
        kind = next(iter(mine.values())).unit.kind.value
        lines.append(f"| {network} | {name} | {kind} | " + " | ".join(_cell(mine.get(m)) for m in methods) + " |")
    versions = ", ".join(f"{k} {v}" for k, v in result["about"].items())
    lines += [
        "", "## Pictures", "",
        "The first picture of every unit, a row for each method (" + ", ".join(methods) + "). Above: the honest network, a "
        "column for each unit in the order of the table. Below: the four units of the fooling network, then those of the "
        "slingshot network.", "", "![The first picture of every unit](planted.jpg)", "",
        f"`{result['command']}` in {sum(result['seconds'].values()):.0f} seconds of pictures, with {versions}.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def by_method(result: dict[str, Any]) -> list[str]:
    """What every method does, in a line each; made of the JSON alone."""
    alive = [p["null"] for one in result["units"] if one["causes"] for p in one["pictures"]]
    lines = [
        "## Method by method", "",
        "*Identified*: units of the honest network whose pictures show the cause. *Null told*: silent units of which the "
        "evidence says that nothing drives them. *Fooled*: manipulated units whose pictures show the decoy instead. *Warned*: of "
        "pictures that drive a manipulated unit and do not show its cause, those of which selectivity or the second network "
        f"warns. Of pictures of units that something drives, the evidence calls {share(alive).text} silent.", "",
        "| method | identified | null told | fooled, fooling network | fooled, slingshot network | warned | fooled at |",
        "|---" * 7 + "|",
    ]  # fmt: skip
    rows = {(one["network"], one["method"]): one for one in result["summaries"]}
    for method in dict.fromkeys(one["method"] for one in result["summaries"]):
        honest, *others = (rows.get((network, method)) for network in SUBJECTS)
        warned = pooled(_share(one, "caught") for one in others if one)
        at = [
            f"{one['unit']} ({one['network']})" for one in result["units"] if one["method"] == method and one["fooled"]
        ]  # fmt: skip
        cells = [_share(honest, "identified").text, _share(honest, "silent").text]
        cells += [_share(one, "fooled").text for one in others]
        lines.append(f"| {method} | {' | '.join(cells)} | {warned.text} | {', '.join(at) or 'nothing'} |")
    return [*lines, ""]


def _share(summary: dict[str, Any] | None, name: str) -> Share:
    return Share(hits=summary[name]["hits"], n=summary[name]["n"]) if summary else Share(hits=0, n=0)


def _cell(one: Recovered | None) -> str:
    if one is None:
        return "–"
    if one.unit.null:
        return str(sum(s.null for s in one.sightings))
    decoys = sum(s.decoy and not s.cause for s in one.sightings)
    return f"{sum(s.cause for s in one.sightings)}" + (f" (d {decoys})" if one.unit.decoy else "")


if __name__ == "__main__":
    main()

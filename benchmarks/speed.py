"""Speed of VITAL's step as ratios measured in one run: against the reference form, by batch size, and where time goes.

    python benchmarks/speed.py [--repeats 5] [--out docs/benchmarks]

Absolute CPU times differ from machine to machine and from minute to minute; competing measurements alternate, and the
median of the ratios is quoted with its range.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common import DATA, about
from entoptic.methods.objectives import AscentStep, match
from entoptic.models.model import Model
from entoptic.models.sources import load
from entoptic.models.taps import Tap
from entoptic.models.trunk import trunk_layers

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.oracles import vital as oracle
from tests.oracles import vital_inner as inner_oracle

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
PHOTOS = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--only", default="", help="parts to measure, separated by commas; the others keep their rows")
    given = parser.parse_args()
    torch.manual_seed(0)
    lite0 = load("builtin:lite0", device="cpu")
    resnet = load("torchvision:resnet50/IMAGENET1K_V1", device="cpu", pretrained=False)
    parts: dict[str, Callable[[], Any]] = {
        "class step": lambda: {m.card.name: class_step(m, given.repeats) for m in (lite0, resnet)},
        "inner step": lambda: inner_step(given.repeats),
        "where a step's time goes": lambda: shares(lite0, given.repeats),
        "batch of 16": lambda: batch_of_16(given.repeats),
        "memory of a batch of 10": memory,
        "index": lambda: index(given.repeats),
        "klsc": lambda: klsc(lite0, given.repeats),
    }
    chosen = [name for name in given.only.split(",") if name] or list(parts)
    if unknown := [name for name in chosen if name not in parts]:
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(parts)}")
    earlier = given.out / "speed.json"
    result: dict[str, Any] = json.loads(earlier.read_text()) if earlier.is_file() else {}
    command = f"python benchmarks/speed.py {shlex.join(sys.argv[1:])}".strip()
    for name in chosen:
        result[name] = parts[name]() | {"measured": {"command": command, **about()}}
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "speed.json").write_text(json.dumps(result, indent=1) + "\n")
    (given.out / "speed.md").write_text(page(result))
    print(page(result))


def timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def class_step(model: Model, repeats: int) -> dict[str, Any]:
    """One class step at batch 1 and N = 50: the reference form (all real maps sorted again, weights not frozen)
    against the cached, one-sort form; loss and image gradient compared."""
    layers = trunk_layers(model)
    taps = [Tap(layer) for layer in layers]
    size = model.card.size
    photos = torch.rand(PHOTOS, 3, *size)
    real = {layer: [] for layer in layers}
    with torch.no_grad(), model.frozen():
        for photo in photos.split(10):
            for tap, values in model.read(photo, taps).items():
                real[tap.layer].append(values)
    maps = {layer: torch.cat(chunks) for layer, chunks in real.items()}  # N×C×D
    targets = {Tap(layer): values.sort(-1).values.mean(0) for layer, values in maps.items()}
    objective = match(dict.fromkeys(taps, 1.0), [targets], balanced=False)
    image = torch.rand(1, 3, *size)
    weights = dict.fromkeys(layers, 1.0)

    def reference() -> tuple[Tensor, Tensor]:
        x = image.clone().requires_grad_()
        model.module.eval()
        for parameter in model.module.parameters():
            parameter.requires_grad_(True)
        z = oracle.maps(model.module, layers, model.normalise(x))
        loss = oracle.class_loss({name: value[0] for name, value in z.items()}, maps, weights)
        loss.backward()
        model.module.zero_grad(set_to_none=True)
        assert x.grad is not None
        return loss.detach(), x.grad

    def ours() -> tuple[Tensor, Tensor]:
        x = image.clone().requires_grad_()
        with model.frozen():
            loss = objective(AscentStep(model.read(x, taps), x, x, 1, [[]]))
            loss.sum().backward()
        assert x.grad is not None
        return loss.detach()[0], x.grad

    (loss_a, grad_a), (loss_b, grad_b) = reference(), ours()
    pairs = [(timed(reference), timed(ours)) for _ in range(repeats)]
    return {
        "speed-up": spread([a / b for a, b in pairs]),
        "loss difference": float((loss_a - loss_b).abs() / loss_a.abs()),
        "gradient difference": float((grad_a - grad_b).norm() / grad_a.norm()),
    }


def inner_step(repeats: int) -> dict[str, Any]:
    """One step for a channel of ResNet-50's layer4 at batch 1 and N = 50: the reference form (network copied, relevance
    and gradients through all photos at every step) against cached targets and one recorded pass; loss and image
    gradient compared. One repeat of the reference form takes about a minute."""
    from entoptic.images.relevance_weighting import RelevanceWeighting, Weighted, relevant_means
    from entoptic.methods.vital import weighted_reader
    from entoptic.methods.vital_paper import PAPER_INNER
    from entoptic.units.unit import bind

    model = load("torchvision:resnet50/IMAGENET1K_V1", device="cpu", pretrained=False)
    _calibrate(model)
    (unit,) = bind(model, "layer4:1546")
    weights, _, _ = PAPER_INNER["resnet50"]
    wanted = RelevanceWeighting("lrp-vital", epsilon=1e-6)
    taps = [Weighted(layer) for layer in weights]
    photos = _smooth(PHOTOS, model.card.size)
    values, importance, _ = relevant_means(
        model, unit, taps, [(list(range(10)), chunk) for chunk in photos.split(10)], lambda n: None, wanted
    )
    objective = match(dict(zip(taps, weights.values())), [values], balanced=False, importance=[importance])
    read = weighted_reader(model, [unit], [wanted])
    image = _smooth(1, model.card.size, seed=1)

    def reference() -> tuple[Tensor, Tensor]:
        x = image.clone().requires_grad_()
        model.module.eval()
        for parameter in model.module.parameters():
            parameter.requires_grad_(True)
        real = model.normalise(photos).requires_grad_()
        loss = inner_oracle.inner_loss(model.module, model.normalise(x), real, unit.index, weights)
        loss.backward(retain_graph=True)
        model.module.zero_grad(set_to_none=True)
        assert x.grad is not None
        return loss.detach(), x.grad

    def ours() -> tuple[Tensor, Tensor]:
        x = image.clone().requires_grad_()
        with model.frozen():
            loss = objective(AscentStep(read(x, taps), x, x, 1, [[]]))
            loss.sum().backward()
        assert x.grad is not None
        return loss.detach()[0], x.grad

    (loss_a, grad_a), (loss_b, grad_b) = reference(), ours()
    pairs = [(timed(reference), timed(ours)) for _ in range(repeats)]
    return {
        "speed-up": spread([a / b for a, b in pairs]),
        "loss difference": float((loss_a - loss_b).abs() / loss_a.abs()),
        "gradient difference": float((grad_a - grad_b).norm() / grad_a.norm()),
    }


def _smooth(count: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    """Blotchy pictures: unlike white noise they drive deep units differently at different places."""
    noise = torch.rand(count, 3, 14, 14, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise, size, mode="bicubic", align_corners=False).clamp(0, 1)


def _calibrate(model: Model) -> None:
    """Running statistics of random weights from a few pictures, so that activations keep a sensible scale."""
    model.module.train()
    with torch.no_grad():
        for _ in range(3):
            model.module(model.normalise(_smooth(8, model.card.size)))
    model.module.eval()


def shares(model: Model, repeats: int, batch: int = 10) -> dict[str, Any]:
    """Share of a step of `vital` that bare passes through the network (forward to the deepest layer and back to the
    pixels) and bare sorts of the same maps take, each timed on its own in turn with the whole step."""
    from entoptic.methods.contract import Context, Item
    from entoptic.methods.vital import Vital, vital
    from entoptic.units.unit import bind

    references = _references(model)
    taps = [Tap(layer) for layer in trunk_layers(model)]
    items = [Item(target=unit, sample=0, seed=0) for unit in bind(model, [f"logits:{i}" for i in PACKED[:batch]])]
    images = torch.rand(batch, 3, *model.card.size)
    with torch.no_grad():
        maps = model.read(images, taps)
    gradients = [torch.randn_like(maps[tap]) for tap in taps]

    def network() -> None:
        x = images.clone().requires_grad_()
        with model.frozen():
            values = model.read(x, taps)
        torch.autograd.backward([values[tap] for tap in taps], gradients)

    def sort() -> None:
        for tap in taps:
            maps[tap].sort(dim=-1)

    def steps() -> float:
        ticks: list[float] = []
        context = Context(model=model, references=references, on_step=lambda step, n: ticks.append(time.perf_counter()))
        for _ in vital(items, Vital(steps=4), context):
            pass
        return (ticks[-1] - ticks[0]) / 3

    network(), sort(), steps()
    rows = [(timed(network), timed(sort), steps(), timed(network), timed(sort)) for _ in range(repeats)]
    net = [(n1 + n2) / 2 / whole for n1, _, whole, n2, _ in rows]
    srt = [(s1 + s2) / 2 / whole for _, s1, whole, _, s2 in rows]
    both = [n + s for n, s in zip(net, srt)]
    return {"network and sort": spread(both), "network": spread(net), "sort": spread(srt)}


DEEP = 6.0  # nats, beyond what the bank supports
PACKED = (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)


def _references(model: Model) -> Any:
    from entoptic.images.references import References
    from entoptic.units.unit import bind

    references = References(model)
    taps = tuple(Tap(layer) for layer in trunk_layers(model))
    for unit in bind(model, [f"logits:{i}" for i in PACKED]):  # reading the pack is not part of a step
        references.target(unit, taps, 50)
    return references


def batch_of_16(repeats: int) -> dict[str, Any]:
    """Time per picture of a batch of 16 units against 16 runs of one, `vital` with 6 steps."""
    from entoptic.methods.contract import Context, Item
    from entoptic.methods.vital import Vital, vital
    from entoptic.units.unit import bind

    model = load("builtin:lite0", device="cpu")
    references = _references(model)
    units = bind(model, [f"logits:{i}" for i in PACKED])
    items = [Item(target=units[i % 10], sample=i // 10, seed=0) for i in range(16)]
    context = Context(model=model, references=references)

    def run(batch: list[Item]) -> None:
        for _ in vital(batch, Vital(steps=6), context):
            pass

    def singles() -> None:
        for item in items:
            run([item])

    run(items)
    pairs = [(timed(lambda: run(items)), timed(singles)) for _ in range(max(2, repeats // 2))]
    return {"cost per picture against one by one": spread([a / b for a, b in pairs])}


_MEMORY = """
import torch
torch.set_num_threads({threads})
import entoptic.runs.see, timm, pyarrow
def kib(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field))
base = kib("VmRSS")
from entoptic.runs.see import make_plan, execute
from entoptic.base.progress import Reporter
import tempfile
with tempfile.TemporaryDirectory() as folder:
    units = ["logits:%d" % i for i in {units}]
    plan = make_plan("builtin:lite0", units, method="vital", verifiers="", out=folder + "/run", options=dict(steps=4))
    execute(plan, Reporter())
print((kib("VmHWM") - base) / 2**10)
"""


def memory() -> dict[str, float]:
    """Peak resident memory of a run of ten units above the interpreter with everything imported, in MiB."""
    code = _MEMORY.format(threads=torch.get_num_threads(), units=list(PACKED))
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return {"MiB above the interpreter": float(out.strip().splitlines()[-1])}


def index(repeats: int, count: int = 300) -> dict[str, Any]:
    """Photos a second of building an index against the bare forward pass of the whole network over the same photos, in
    the same batches and decoded by the same threads. The layers are those of the trunk, the late blocks and the logits
    (which leave nothing of the pass to be saved)."""
    from entoptic.images.build_index import build_index
    from entoptic.images.photos import Photos

    model = load("builtin:lite0", device="cpu")
    photos = Photos.open(DATA / "imagenet-val-650")
    photos = photos.subset(range(min(count, len(photos))))
    late = [name for name in model.layers if re.fullmatch(r"blocks\.[56]\.\d+|conv_head", name)]
    layers = [*dict.fromkeys([*trunk_layers(model), *late, "logits"])]

    def forward() -> None:
        with torch.no_grad(), model.frozen():
            for _, images in photos.batches(model.card.prepare, 32):
                model(images.to(model.device))

    def indexed() -> None:
        with tempfile.TemporaryDirectory() as folder:
            build_index(model, photos, layers, out=Path(folder) / "index")

    forward()
    # Each indexing stands between two bare passes: a machine that slows down meanwhile favours neither.
    rows = [(timed(forward), timed(indexed), timed(forward)) for _ in range(repeats)]
    return {
        "throughput of the plain forward pass": spread([(a + b) / 2 / i for a, i, b in rows]),
        "layers": layers,
        "units": sum(model.layer(name).channels for name in layers),
        "photos": len(photos),
    }


def klsc(model: Model, repeats: int) -> dict[str, Any]:
    """Prior evaluations per effective sample against 1000-step guidance, whose chains are one sample each; and what a
    gradient adds to an evaluation. The bank counts in full for one unit, and as a share for each of 20 that it serves."""
    from entoptic.errors import UserError
    from entoptic.images.references import References
    from entoptic.methods.contract import Context
    from entoptic.methods.klsc import Klsc, populate
    from entoptic.methods.prior_sampling import MAP_STEPS, scored_bank
    from entoptic.priors.prior import draw_conditions, generate, noise_like
    from entoptic.priors.sources import SHIPPED, load_prior
    from entoptic.sampling.frontier import Frontier
    from entoptic.sampling.guidance import energy_dps
    from entoptic.units.unit import bind
    from klsc import CHANNELS

    prior = load_prior(SHIPPED)
    units = bind(model, [n for pair in zip((f"logits:{c}" for c in PACKED), CHANNELS) for n in pair])
    context = Context(model=model, references=References(model), prior=prior)
    config = Klsc(nats=DEEP, bank=16384, islands=1)
    bank, scores, raw = scored_bank(context, units, size=config.bank)
    whole = bank.size * MAP_STEPS
    from_bank: dict[str, Any] = {}
    for nats in (1.5, 3.0, 4.5):
        ess = []
        for u in range(len(units)):
            with contextlib.suppress(UserError):  # the bank does not reach that far
                ess.append(Frontier.from_bank(scores.of(raw[u], u)).at_nats(nats).ess)
        if not ess:
            continue
        from_bank[f"{nats:g}"] = {
            "units": len(ess), "of": len(units), "alone": spread([1000 * e / whole for e in ess]),
            "shared": spread([1000 * e / (whole / len(units)) for e in ess]),
        }  # fmt: skip
    beyond = {}
    for u in (8,):  # logits:497
        try:
            law = populate(units[u], u, bank, scores, raw[u], config, 0, context).law
        except UserError as error:
            print(error)
            continue
        moved = law["pictures_scored"] * MAP_STEPS
        beyond[str(units[u])] = {
            "ess": law["ess"], "evaluations beside the bank": moved, "refused": law.get("refused", ""),
            "alone": 1000 * law["ess"] / (moved + whole), "shared": 1000 * law["ess"] / (moved + whole / len(units)),
        }  # fmt: skip

    def forward(batch: int) -> Callable[[], Any]:
        draw = [torch.Generator().manual_seed(i) for i in range(batch)]
        noise, condition = noise_like(prior, draw), draw_conditions(prior, draw)

        def work() -> None:
            with torch.no_grad():
                generate(prior, noise, condition, steps=4)

        return work

    def chains(steps: int = 4, batch: int = 16) -> None:
        draw = [torch.Generator().manual_seed(i) for i in range(batch)]
        energy_dps(prior, scores, 1e9, draw, steps=steps)

    step, batched = [], []
    for _ in range(repeats):
        plain, guided, single = timed(forward(16)), timed(chains), timed(forward(1))
        step.append(guided / plain)
        batched.append(single * 16 / plain)
    return {
        "from the bank": from_bank, "beyond it": beyond, "time of a guided step in plain ones": spread(step),
        "batch of 16 against singles": spread(batched), "bank": config.bank, "steps of G": MAP_STEPS,
    }  # fmt: skip


def page(result: dict[str, Any]) -> str:
    lines = [
        "# Speed",
        "",
        "Ratios measured in one run (median, range).",
        "",
        "| what | figure |",
        "|---|---|",
    ]

    def show(s: dict[str, float], scale: float = 1.0, tail: str = "×") -> str:
        return f"{s['median'] * scale:.2f}{tail} ({s['min'] * scale:.2f} to {s['max'] * scale:.2f}, n = {s['n']})"

    def rows(part: str) -> dict[str, Any]:
        return {name: row for name, row in result.get(part, {}).items() if name != "measured"}

    def step(what: str, row: dict[str, Any]) -> None:
        lines.append(f"| {what} at N = 50 against the reference form | {show(row['speed-up'])} faster |")
        lines.append(
            f"| its relative difference of loss, of image gradient | {row['loss difference']:.1e}, "
            f"{row['gradient difference']:.1e} |"
        )

    for name, row in rows("class step").items():
        step(f"class step, {name}", row)
    if inner := rows("inner step"):
        step("step for a channel of ResNet-50's layer4", inner)
    for name, row in rows("where a step's time goes").items():
        bare = {
            "network": "bare passes through the network",
            "sort": "torch's own sorts",
            "network and sort": "bare passes and torch's own sorts (vital sorts faster)",
        }
        lines.append(f"| {bare[name]}, as a share of a step of `vital`, lite0, batch 10 | {show(row, 100, ' %')} |")
    for row in rows("batch of 16").values():
        lines.append(f"| batch of 16 units, cost per picture against 16 runs of one | {show(row)} |")
    for mib in rows("memory of a batch of 10").values():
        lines.append(f"| memory of a batch of 10 lite0 units | {mib:.0f} MiB |")
    if built := rows("index"):
        lines.append(
            f"| index of {built['units']} units over {built['photos']} photos, throughput against the plain forward pass | "
            f"{show(built['throughput of the plain forward pass'], 100, ' %')} |"
        )
    if sampled := rows("klsc"):
        lines += [
            *(
                f"| `klsc` at {nats} nats from a bank of {sampled['bank']}, on {row['units']} of {row['of']} units: prior "
                f"evaluations of 1000-step guidance, as multiples of those per effective sample | {show(row['alone'])} for a unit "
                f"alone, {show(row['shared'])} where {row['of']} share the bank |"
                for nats, row in sampled["from the bank"].items()
            ),
            *(
                f"| `klsc` at {DEEP:g} nats on {unit}, the bank and its moves, ESS {row['ess']:.3g}"
                f"{' (nothing told: ' + row['refused'] + ')' if row['refused'] else ''} | {row['alone']:.2f}× alone, "
                f"{row['shared']:.2f}× where 20 share the bank |"
                for unit, row in sampled["beyond it"].items()
            ),
            "| and a step of that guidance, with its gradient and score, takes as long as so many plain evaluations | "
            f"{show(sampled['time of a guided step in plain ones'])} |",
            f"| sampling 16 pictures in one batch against one by one | {show(sampled['batch of 16 against singles'])} faster |",
        ]
    lines.append("")
    told: dict[str, list[str]] = {}
    for name, part in result.items():
        if isinstance(part, dict) and name != "about":
            how = part.get("measured") or result.get("about", {}) | {"command": result.get("command", "")}
            versions = ", ".join(f"{k} {v}" for k, v in how.items() if k != "command")
            told.setdefault(f"`{str(how['command']).strip()}` with {versions}", []).append(name)
    lines += [f"{', '.join(names)}: {how}.\n" for how, names in told.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

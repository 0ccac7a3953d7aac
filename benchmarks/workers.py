"""Units of a layer by one process, by two workers and on a Ray cluster of two nodes: the same bytes, and how fast.

    python benchmarks/workers.py [--units 320] [--steps 20] [--rounds 1] [--no-ray] [--out docs/benchmarks]

Workers are killed by kill -9 twice, and one Ray node is removed, while they work. The pace is pictures a minute from the
first batch to the last file, as `entoptic status` gives it: it holds the start of the workers, not that of the job.
Paces are compared within a round, since they differ from minute to minute. Each run is a command in its own process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import about
from entoptic.errors import UserError
from entoptic.runs.status import Status, status

MODEL, LAYER = "builtin:lite0", "blocks.6"
PLANNED = 100_000
"""Units that are planned, not made."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a command made.

    Attributes:
        name: of the way.
        pace: pictures a minute.
        seconds: of the job behind it.
        files: bytes of its pictures and maps by name.
    """

    name: str
    pace: float
    seconds: float
    files: dict[str, bytes]


Disturb = Callable[[subprocess.Popen[bytes], Status], bool]
"""Is told how far a job is, about once a second; returns whether it has done what it does."""


def see(name: str, options: argparse.Namespace, out: Path, *words: str, disturb: Disturb | None = None) -> Made:
    """Runs one command to its end."""
    command = [
        sys.executable, "-m", "entoptic", "see", MODEL, f"{LAYER}:0-{options.units - 1}", "--steps", str(options.steps),
        "--verifiers", options.verifiers, "--device", "cpu", "--out", str(out), *words,
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as job:
        while job.poll() is None:
            time.sleep(0.5)
            try:
                found = status(out)
            except UserError:  # it has not begun
                continue
            if disturb is not None and disturb(job, found):
                disturb = None
    if job.returncode or disturb is not None:
        raise SystemExit(f"{name}: ends with {job.returncode}, {'not ' if disturb else ''}disturbed")
    found = status(out)
    files = {file.relative_to(out).as_posix(): file.read_bytes() for file in sorted(out.glob("*/*/*.png"))}
    assert found.pace is not None
    print(f"{name}: {found.made} pictures, {found.pace:.1f} a minute, {found.failed} failed", flush=True)
    return Made(name=name, pace=found.pace, seconds=found.seconds, files=files)


def killing(times: int) -> Disturb:
    """Ends a worker by kill -9, `times` times, at even distances."""
    killed: list[int] = []

    def disturb(job: subprocess.Popen[bytes], found: Status) -> bool:
        if len(killed) < times and found.made >= found.asked * (len(killed) + 1) / (times + 1):
            listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(job.pid)], capture_output=True, text=True)
            workers = [int(line.split()[0]) for line in listed.stdout.splitlines() if "entoptic.workers.child" in line]
            if workers:
                killed.append(workers[0])
                os.kill(workers[0], signal.SIGKILL)
        return len(killed) == times

    return disturb


def removing(cluster: Any) -> Disturb:
    """Ends an actor by kill -9, then removes a node."""
    killed: list[int] = []

    def disturb(job: subprocess.Popen[bytes], found: Status) -> bool:
        if not killed and found.made >= found.asked / 4:
            listed = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True)
            actors = [int(line.split()[0]) for line in listed.stdout.splitlines() if "ray::RayWorker" in line]
            if actors:
                killed.append(actors[0])
                os.kill(actors[0], signal.SIGKILL)
        if killed and found.made >= found.asked / 2:
            cluster.remove_node(next(iter(cluster.worker_nodes)))
            return True
        return False

    return disturb


def on_ray(options: argparse.Namespace, folder: Path) -> list[Made]:
    """The same units on two nodes, undisturbed and disturbed."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    os.environ["RAY_ADDRESS"] = cluster.address
    try:
        cluster.add_node(**node)
        whole = see("Ray, two nodes", options, folder / "ray", "--workers", "ray", "--threads", "1")
        disturbed = see(
            "Ray, an actor killed and a node removed", options, folder / "ray-disturbed", "--workers", "ray", "--threads",
            "1", disturb=removing(cluster),
        )  # fmt: skip
        return [whole, disturbed]
    finally:
        cluster.shutdown()
        del os.environ["RAY_ADDRESS"]


def one_round(options: argparse.Namespace, folder: Path) -> list[Made]:
    """All ways, one after another."""
    found = [
        see("one process, one thread", options, folder / "one", "--threads", "1"),
        see("two workers, one thread each", options, folder / "two", "--workers", "2", "--threads", "1"),
        see("one process, two threads", options, folder / "threads", "--threads", "2"),
        see(
            "two workers, killed twice",
            options,
            folder / "killed",
            "--workers",
            "2",
            "--threads",
            "1",
            disturb=killing(2),
        ),
    ]
    return found if options.no_ray else found + on_ray(options, folder)


def planning() -> dict[str, float]:
    """Seconds and megabytes that a plan of many units of a tiny network takes; in a process of its own."""
    import torch
    from torch import nn

    from entoptic.models.card import Card
    from entoptic.models.model import Model
    from entoptic.runs.execute import chunks, split
    from entoptic.runs.plan import make_plan

    torch.set_num_threads(1)
    pooled = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, PLANNED)
    )
    model = Model(pooled, Card(name="tiny", size=(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3), device="cpu")
    with tempfile.TemporaryDirectory() as out:
        make_plan(model, "logits:0-9", method="fourier", out=out, verifiers="")
        before, started, busy = (
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            time.monotonic(),
            time.process_time(),
        )
        plan = make_plan(model, f"logits:0-{PLANNED - 1}", method="fourier", out=out, verifiers="")
        todo = split(plan.run, plan.entries(plan.jobs[0]))[1]
        batches = list(chunks(plan.jobs[0], todo, plan.batch_size))
        seconds, busy = time.monotonic() - started, time.process_time() - busy
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(map(len, batches)) == PLANNED
    return {
        "units": PLANNED,
        "seconds": seconds,
        "cpu_seconds": busy,
        "more_megabytes": (after - before) / 1024,
        "megabytes": after / 1024,
    }


def main() -> None:
    """Runs the rounds and prints what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=320)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--verifiers", default="auto")
    parser.add_argument("--no-ray", action="store_true", help="without the Ray cluster")
    parser.add_argument("--out", type=Path, default=None, help="folder for workers.json")
    parser.add_argument("--planning", action="store_true", help="only the planning, as JSON")
    options = parser.parse_args()
    if options.planning:
        print(json.dumps(planning()))
        return
    plan = json.loads(
        subprocess.run([sys.executable, __file__, "--planning"], capture_output=True, text=True, check=True).stdout
    )
    beside = plan["megabytes"] - plan["more_megabytes"]
    print(
        f"a plan of {plan['units']} units: {plan['seconds']:.1f} s ({plan['cpu_seconds']:.1f} s of the CPU), "
        f"{plan['more_megabytes']:.0f} MB beside the {beside:.0f} MB of the libraries"
    )
    rounds = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append(one_round(options, Path(folder)))
    first = rounds[0][0].files
    for made in (one for found in rounds for one in found):
        differ = sum(first.get(name) != data for name, data in made.files.items())
        lack = len(first.keys() - made.files.keys())
        print(
            f"{made.name}: {len(made.files)} files, {differ} of other bytes than one process, one thread, {lack} missing"
        )
    names = [one.name for one in rounds[0]]
    ratios: dict[str, list[float]] = {}
    for base in names[0], names[2]:
        for i, name in enumerate(names):
            ratios[f"{name} / {base}"] = [found[i].pace / found[names.index(base)].pace for found in rounds]
    for name in (f"{names[1]} / {names[0]}", f"{names[1]} / {names[2]}"):
        values = ratios[name]
        print(f"{name}: {statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f}, n = {len(values)})")
    if options.out is not None:
        record = {
            "about": about(), "units": options.units, "steps": options.steps, "planning": plan, "ratios": ratios,
            "paces": {name: [found[i].pace for found in rounds] for i, name in enumerate(names)},
        }  # fmt: skip
        (options.out / "workers.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Workers as actors of a Ray cluster: they load what the work needs once and are given chunks; nodes may come and go."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from entoptic.errors import NotAvailable, UserError, counted
from entoptic.workers import frames
from entoptic.workers.count import RAY, Workers
from entoptic.workers.making import begin, collected, differing, own_versions
from entoptic.workers.records import Answer, Chunk, Done, Event, Handler, Lost, Ready, Refused, Said, Told, Work

STARTS = 2
"""Starts for each place of the cluster that may fail before Ray's workers are given up."""
_LOOK_EVERY = 2.0
_SAY_AFTER = 30.0
_CONNECT = 5.0


class RayWorker:
    """One worker in the cluster.

    Args:
        work: see `frames.packed`.
        device: of this worker.
        threads: on the CPU.
        folder: the job's working directory: paths are relative to it.
        versions: of the job's packages.
    """

    def __init__(self, work: bytes, device: str, threads: int, folder: str, versions: dict[str, str]) -> None:
        self._work, self._device, self._threads = work, device, threads
        self._folder, self._versions = folder, versions
        self._handler: Handler | None = None

    def begin(self) -> str:
        """Loads what the work needs; returns why that cannot be done here, or ""."""
        node = socket.gethostname()
        if differences := differing(self._versions, own_versions()):
            return f"the node {node} has {differences}; pictures would differ, install the same there"
        with contextlib.suppress(OSError):  # absolute paths need no folder
            os.chdir(self._folder)
        try:
            self._handler = begin(self._work, self._device, self._threads)
        except UserError as error:
            return f"a worker on the node {node} cannot begin: {error}; what the job reads must be at the same path on every node"
        return ""

    def make(self, pieces: Sequence[Any]) -> list[Answer]:
        """Makes a chunk."""
        assert self._handler is not None
        return collected(self._handler, pieces)


@dataclass(kw_only=True)
class _Actor:
    """An actor and what it does now."""

    name: str
    handle: Any
    pending: Any
    ready: bool = False


class RayPool:
    """Actors of a Ray cluster, one for each GPU, or for each group of cores where there is none.

    Args:
        work: the job's work.
        workers: which cluster, and how many threads a worker has.
        device: that the job asked for.
        chunks: of the work: there are no more workers than these.

    Raises:
        UserError: Ray is not installed, the cluster cannot be reached, is of another version, or lacks what was asked for.
    """

    def __init__(self, work: Work, workers: Workers, device: str, chunks: int) -> None:
        data = frames.packed(work)
        self._ray = connect(workers.cluster)
        self._threads, self._most = workers.threads or 1, chunks
        self._actors: dict[str, _Actor] = {}
        self._count = self._refused = self._failed_starts = 0
        self._looked, self._began, self._ever_ready, self._told = 0.0, time.monotonic(), False, False
        try:
            self._on_gpu = on_gpu(device, self._ray.cluster_resources())
            self._class = self._ray.remote(RayWorker)
            self._arguments = (self._ray.put(data), self._device(device), self._threads, os.getcwd(), own_versions())
            self._replenish()
        except BaseException:
            self.close()
            raise

    def events(self, timeout: float) -> list[Event]:
        """Returns what happened, after at most `timeout` seconds.

        Raises:
            UserError: the cluster cannot be reached any more.
        """
        try:
            self._replenish()
            told: list[Event] = [Told(worker="", answer=Said(text=text))] if (text := self._waits_for()) else []
            pending = {actor.pending: actor for actor in self._actors.values() if actor.pending is not None}
            if not pending:
                time.sleep(timeout)
                return told
            ready, _ = self._ray.wait(list(pending), num_returns=1, timeout=timeout)
            more, _ = self._ray.wait(list(pending), num_returns=len(pending), timeout=0)
            ended = dict.fromkeys([*ready, *more])
            return told + [event for one in ended for event in self._event(pending[one])]
        except (ConnectionError, self._ray.exceptions.RaySystemError) as error:
            raise UserError(
                f"the Ray cluster cannot be reached any more ({_short(error)}); what is finished is kept"
            ) from None

    def give(self, worker: str, chunk: Chunk) -> None:
        """Gives a chunk to a worker."""
        actor = self._actors[worker]
        actor.pending = actor.handle.make.remote(chunk.pieces)

    def hopeless(self) -> bool:
        """Whether no worker is left and none will come."""
        return not self._actors and self._capacity() <= self._refused

    def close(self) -> None:
        """Ends all workers; leaves a cluster that this job had joined."""
        for actor in self._actors.values():
            with contextlib.suppress(Exception):
                self._ray.kill(actor.handle)
        self._actors.clear()
        if self._ray.owned:
            with contextlib.suppress(Exception):
                self._ray.shutdown()

    def _device(self, asked: str) -> str:
        """The device that a worker sees: Ray shows it one GPU alone."""
        return "cuda" if self._on_gpu else "cpu" if asked == "auto" else asked

    def _capacity(self) -> int:
        """How many workers the cluster has room for, at most one for each chunk."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        places = sum(int(n.get("GPU", 0)) if self._on_gpu else int(n.get("CPU", 0)) // self._threads for n in nodes)
        return min(places, self._most)

    def _waits_for(self) -> str:
        """What the job waits for, once, where no worker could be started for a while; else ""."""
        if self._ever_ready or self._told or time.monotonic() - self._began < _SAY_AFTER:
            return ""
        self._told = True
        free = self._ray.available_resources()
        what = f"{free.get('GPU', 0):g} GPUs" if self._on_gpu else f"{free.get('CPU', 0):g} CPUs"
        return f"no worker could be started yet; the Ray cluster has {what} free"

    def _replenish(self) -> None:
        """Starts workers where there is room for more: at the beginning, after a loss, on nodes that have come."""
        if time.monotonic() - self._looked < _LOOK_EVERY:
            return
        self._looked = time.monotonic()
        for _ in range(self._capacity() - self._refused - len(self._actors)):
            self._count += 1
            options: dict[str, Any] = {"num_cpus": self._threads, "scheduling_strategy": "SPREAD"}
            options |= {"num_gpus": 1, "num_cpus": 0} if self._on_gpu else {}
            handle = self._class.options(**options).remote(*self._arguments)
            name = f"worker {self._count}"
            self._actors[name] = _Actor(name=name, handle=handle, pending=handle.begin.remote())

    def _event(self, actor: _Actor) -> list[Event]:
        """What the end of an actor's task means for the job."""
        try:
            found = self._ray.get(actor.pending)
        except self._ray.exceptions.RayError as error:
            return self._ended(actor, error)
        actor.pending = None
        if not actor.ready:
            if found:
                return [self._give_up(actor, found)]
            actor.ready = self._ever_ready = True
            return [Ready(worker=actor.name)]
        return [*(Told(worker=actor.name, answer=answer) for answer in found), Done(worker=actor.name)]

    def _ended(self, actor: _Actor, error: Exception) -> list[Event]:
        reason = _short(error)
        if actor.ready:
            self._drop(actor)
            return [Lost(worker=actor.name, reason=f"a worker ended: {reason}")]
        self._failed_starts += 1
        if self._failed_starts > STARTS * max(1, self._capacity()):
            return [self._give_up(actor, f"a worker of the Ray cluster ended before it had begun: {reason}")]
        self._drop(actor)
        return []

    def _give_up(self, actor: _Actor, reason: str) -> Refused:
        self._refused += 1
        self._drop(actor)
        return Refused(worker=actor.name, reason=reason)

    def _drop(self, actor: _Actor) -> None:
        del self._actors[actor.name]
        with contextlib.suppress(Exception):
            self._ray.kill(actor.handle)


class _Ray:
    """The module `ray`, connected; `owned` says whether this job connected it."""

    def __init__(self, module: Any, owned: bool) -> None:
        self._module, self.owned = module, owned

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def connect(cluster: str) -> Any:
    """Connects to a Ray cluster, unless this process is connected to one already.

    Args:
        cluster: "ray" for the one that this machine belongs to, or an address.

    Raises:
        UserError: there is no Ray, no cluster, or one of another version.
    """
    try:
        import ray
    except ImportError:
        raise NotAvailable('workers on a cluster need Ray: pip install "entoptic[ray]"') from None
    if ray.is_initialized():
        return _Ray(ray, owned=False)
    address = "auto" if cluster == RAY else cluster
    _check_reachable(os.environ.get("RAY_ADDRESS", "") if cluster == RAY else cluster)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except RuntimeError as error:
        if "ersion mismatch" in str(error):
            raise UserError(
                f"this machine and the Ray cluster have different versions of Ray or Python ({_short(error, 6)}); install the same"
            ) from None
        raise UserError(f"the Ray cluster does not take this job ({_short(error)})") from None
    except (ConnectionError, ValueError, TimeoutError, OSError) as error:
        if cluster == RAY:
            raise UserError(
                f"no Ray cluster runs here ({_short(error)}); start one with `ray start --head`, or give ray://HOST:10001"
            ) from None
        raise UserError(
            f"no Ray cluster answers at {cluster} ({_short(error)}); give ray://HOST:PORT of its head"
        ) from None
    return _Ray(ray, owned=True)


def on_gpu(device: str, resources: dict[str, float]) -> bool:
    """Whether workers take GPUs of the cluster.

    Args:
        device: that the job asked for.
        resources: of the cluster.

    Raises:
        UserError: a GPU was asked for, and the cluster has none.
    """
    gpus = int(resources.get("GPU", 0))
    if device.startswith("cuda") and not gpus:
        cores = counted(int(resources.get("CPU", 0)), "CPU")
        raise UserError(
            f"the device {device} was asked for, and the Ray cluster has no GPU (it has {cores}); give --device cpu, or start "
            "its nodes with GPUs"
        )
    return gpus > 0 and (device == "auto" or device.startswith("cuda"))


def _check_reachable(address: str) -> None:
    """Refuses an address that nothing listens at, before Ray tries for minutes.

    Raises:
        UserError: nothing answers there.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT).close()
    except OSError as error:
        raise UserError(
            f"no Ray cluster answers at {address} ({error.strerror or error}); is the head running, and is this its port "
            "(10001 for ray://)?"
        ) from None


def _short(error: BaseException, most: int = 1) -> str:
    """The first lines of an error of Ray as one; its own texts are pages long."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:most])[:240]

"""How many workers there are, on what, and with how many threads each: what `--workers` says."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from entoptic.base.bounds import check_threads, whole_number
from entoptic.errors import UserError, counted

MOST = 1024
"""Workers on one machine at most: more is a slip of the finger."""
_BYTES_EACH = 2 * 2**30
"""Memory that `auto` leaves each process on a CPU."""
RAY = "ray"


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Which workers make a job's work.

    Attributes:
        count: of processes on this machine; 0 takes one for each device ("auto").
        cluster: "" for this machine, "ray" for the Ray cluster that it belongs to, or the cluster's address.
        threads: of each worker on a CPU; 0 shares out the cores of this machine, and takes one in a cluster.
    """

    count: int = 0
    cluster: str = ""
    threads: int = 0

    @classmethod
    def parse(cls, text: str | int | Workers | None, *, threads: int | None = None) -> Workers | None:
        """Returns what `--workers` says, None where the work is done in this process.

        Args:
            text: a number, "auto", "ray" or "ray://HOST:PORT".
            threads: of each worker, None for the default.

        Raises:
            UserError: it is none of these.
        """
        if text is None or isinstance(text, Workers):
            return text
        check_threads(threads)
        each = threads or 0
        word = str(text).strip()
        if word == "auto":
            return cls(threads=each)
        if word == RAY:
            return cls(cluster=RAY, threads=each)
        if word.startswith("ray:"):
            host, colon, port = word.removeprefix("ray://").rpartition(":")
            number = whole_number(port)
            if not word.startswith("ray://") or not host or not colon or number is None or not 0 < number < 65536:
                raise UserError(
                    f'the address of a Ray cluster is ray://HOST:PORT, such as ray://head:10001; got "{word[:80]}"'
                )
            return cls(cluster=word, threads=each)
        number = whole_number(word)
        if number is None or isinstance(text, bool):
            raise UserError(f'workers is a number, auto, ray or ray://HOST:PORT; got "{word[:80]}"')
        if not 0 < number <= MOST:
            raise UserError(f"workers must be between 1 and {MOST}, got {number}; auto takes one for each device")
        return cls(count=number, threads=each)

    def __str__(self) -> str:
        if self.cluster:
            return "the Ray cluster" if self.cluster == RAY else f"the Ray cluster {self.cluster}"
        return counted(self.count, "worker") if self.count else "one worker a device"


@dataclass(frozen=True, kw_only=True)
class Seat:
    """What one worker of this machine runs on.

    Attributes:
        device: such as "cuda:1" or "cpu".
        threads: on the CPU.
    """

    device: str
    threads: int


def seats(workers: Workers, device: str, chunks: int) -> list[Seat]:
    """Returns what each worker of this machine runs on, at most one worker for each chunk.

    Args:
        workers: what was asked for.
        device: of the job: "auto", "cpu", "cuda", "cuda:1" or "mps".
        chunks: of the work.
    """
    cores = available_cores()
    devices = _devices(device)
    count = workers.count or (_on_cpu(cores) if devices == ["cpu"] else len(devices))
    count = max(1, min(count, chunks))
    threads = workers.threads or max(1, cores // count)
    return [Seat(device=devices[i % len(devices)], threads=threads) for i in range(count)]


def available_cores() -> int:
    """Returns how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _devices(asked: str) -> list[str]:
    """The devices that a job may use: all GPUs where it names none by number."""
    import torch

    if asked in ("auto", "cuda") and torch.cuda.is_available():
        return [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if asked == "auto":
        return ["mps"] if torch.backends.mps.is_available() else ["cpu"]
    return [asked]


def _on_cpu(cores: int) -> int:
    """Processes on a CPU: one for each core, as far as the memory that is free goes."""
    free = _free_memory()
    return cores if free is None else max(1, min(cores, free // _BYTES_EACH))


def _free_memory() -> int | None:
    """Bytes of memory that are available, None where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None

"""A frontier on several processes: the same files as by one, whatever happens to a process."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import tiny_card, tiny_module
from entoptic.base.files import lock_folder
from entoptic.cli import main
from entoptic.errors import UserError
from entoptic.methods.klsc import Klsc
from entoptic.models.model import Model
from entoptic.priors.toy import GaussianMixture
from entoptic.runs import frontier_islands
from entoptic.runs.frontier import FrontierResult, frontier
from entoptic.workers.count import Workers
from entoptic.workers.local import LocalPool

TWO = Workers(count=2, threads=1)


def prior() -> GaussianMixture:
    mean = 0.3 * torch.randn((1, 3, 8, 8), generator=torch.Generator().manual_seed(5))
    return GaussianMixture(torch.ones(1), mean, torch.full_like(mean, 1.0), scale=0.08, offset=0.5)


def measured(
    out: Path, workers: Workers | None, cache: str, monkeypatch: pytest.MonkeyPatch, **more: Any
) -> list[FrontierResult]:
    """The frontier of units with nothing remembered from before."""
    monkeypatch.setenv("ENTOPTIC_CACHE", str(out.parent / cache))
    options: dict[str, Any] = {
        "methods": "klsc,fourier", "n": 2, "bank": 256, "particles": 16, "islands": 4, "nats": 3.0,
        "verifiers": "", "batch_size": 1, "progress": False,
    } | more  # fmt: skip
    options |= {"steps": 2} if "fourier" in options["methods"] else {}
    model = Model(tiny_module(), tiny_card(), device="cpu")
    return frontier(model, options.pop("units", "logits:0-2"), prior=prior(), out=out, workers=workers, **options)


def files(out: Path) -> dict[str, bytes]:
    """The bytes of every picture, frontier and drawing."""
    found = [*out.glob("pictures/*/*.png"), *out.glob("frontier/*")]
    return {file.relative_to(out).as_posix(): file.read_bytes() for file in found}


@pytest.mark.slow
def test_two_processes_make_the_files_of_one_also_where_one_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(tmp_path / "one", None, "cache-one", monkeypatch)
    pools: list[LocalPool] = []
    killed: list[int] = []

    class Noted(LocalPool):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            pools.append(self)

    made = frontier_islands._Keeper.made

    def noting(self: Any, piece: str, value: object) -> None:
        made(self, piece, value)
        if not killed:
            killed.append(next(iter(pools[0].processes.values())))
            os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr("entoptic.workers.pools.LocalPool", Noted)
    monkeypatch.setattr(frontier_islands._Keeper, "made", noting)
    results = measured(tmp_path / "two", TWO, "cache-two", monkeypatch)
    assert killed
    assert len(pools) == 2, "the islands, and the pictures of fourier"
    assert not any(result.failures for result in results)
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert len(one) == 2 * 6 + 3 * 3 + 1
    assert two == one
    # The same command again starts no worker.
    pools.clear()
    measured(tmp_path / "two", TWO, "cache-two", monkeypatch)
    assert not pools
    assert files(tmp_path / "two") == one


@pytest.mark.slow
def test_a_failure_is_that_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Workers make these pictures, of which the last cannot be: a population of twelve has no thirteenth.
    few = Klsc(nats=0.5, particles=12, islands=1, bank=256)
    more: dict[str, Any] = {"methods": [few], "units": "logits:0", "n": 13, "nats": 1.0, "batch_size": 13}
    one = measured(tmp_path / "one", None, "cache-one", monkeypatch, **more)
    two = measured(tmp_path / "two", TWO, "cache-two", monkeypatch, **more)
    assert one[0].failures
    assert [result.failures for result in two] == [result.failures for result in one]
    assert files(tmp_path / "two") == files(tmp_path / "one")


def test_what_workers_cannot_be_sent_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Local(GaussianMixture):
        pass

    found = prior()
    local = Local(torch.ones(1), found.means, found.variances, scale=0.08, offset=0.5)
    monkeypatch.setattr("test_frontier_workers.prior", lambda: local)
    with pytest.raises(UserError, match="workers cannot be sent what was given"):
        measured(tmp_path / "r", TWO, "cache", monkeypatch)


def test_islands_that_killed_every_worker_are_a_failure_of_their_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(work: Any, problems: Any, workers: Any, device: str, progress: Any) -> dict[str, str]:
        return {problems[1].unit.identity: "logits:1: a worker ended, whenever it was sampled"}

    monkeypatch.setattr("entoptic.runs.frontier.sample_on_workers", lost)
    results = measured(tmp_path / "r", TWO, "cache", monkeypatch, methods="klsc", units="logits:0-1", n=1)
    assert [result.failures for result in results] == [[], ["logits:1: a worker ended, whenever it was sampled"]]
    assert [bool(result.record["frontier"]) for result in results] == [True, False]


def test_a_run_that_another_job_writes_is_refused_before_anything_is_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("entoptic.runs.frontier.scored_bank", lambda *given, **more: pytest.fail("it was sampled"))
    with lock_folder(tmp_path / "r"), pytest.raises(UserError, match="is being written by another process"):
        measured(tmp_path / "r", None, "cache", monkeypatch)


def test_the_verb_passes_its_workers_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    given: dict[str, Any] = {}

    def noted(*words: Any, **options: Any) -> Any:
        given.update(options)
        raise UserError("that is enough")

    monkeypatch.setattr("entoptic.runs.frontier.frontier", noted)
    words = ["frontier", "builtin:lite0", "logits:0", "--out", str(tmp_path / "r"), "--threads", "1"]
    assert main([*words, "--workers", "2"]) == 2
    assert given["workers"] == TWO
    assert main([*words, "--workers", "0"]) == 2
    assert "workers must be between 1 and 1024, got 0" in capsys.readouterr().err
    assert main(words) == 2
    assert given["workers"] is None

"""Workers of a Ray cluster: what can be wrong with one is one sentence; on two nodes, one of which goes, nothing is lost."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from kept import Kept
from works import Squares

import entoptic
from conftest import tiny_card, tiny_module
from entoptic.errors import NotAvailable, UserError
from entoptic.models.model import Model
from entoptic.priors.toy import GaussianMixture
from entoptic.runs import sweep
from entoptic.workers import frames, making, on_ray
from entoptic.workers.count import Workers
from entoptic.workers.dispatch import dispatch
from entoptic.workers.on_ray import RayWorker, connect, on_gpu
from entoptic.workers.pools import opened
from entoptic.workers.records import Chunk


@pytest.fixture
def fake_ray(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module that stands in for Ray, and raises what `init_raises` holds."""
    module: Any = ModuleType("ray")
    module.is_initialized = lambda: False

    def init(**given: Any) -> None:
        raise module.init_raises

    module.init = init
    monkeypatch.setitem(sys.modules, "ray", module)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return module


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(NotAvailable, match=r"workers on a cluster need Ray: pip install \"entoptic\[ray\]\""):
        connect("ray")


def test_no_cluster_here(fake_ray: Any) -> None:
    fake_ray.init_raises = ConnectionError("Could not find any running Ray instance.\nPlease specify …")
    with pytest.raises(
        UserError, match=r"no Ray cluster runs here \(Could not find any running Ray instance\.\); start one"
    ):
        connect("ray")


def test_another_version(fake_ray: Any) -> None:
    fake_ray.init_raises = RuntimeError(
        "Version mismatch: The cluster was started with:\n    Ray: 2.9.0\n    Python: 3.10"
    )
    with pytest.raises(UserError, match=r"different versions of Ray or Python .*Ray: 2\.9\.0.*install the same"):
        connect("ray")


def test_a_cluster_that_does_not_take_the_job(fake_ray: Any) -> None:
    fake_ray.init_raises = RuntimeError("no more clients")
    with pytest.raises(UserError, match="does not take this job"):
        connect("ray")


def test_a_wrong_address_is_told_before_ray_tries_for_minutes(fake_ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
    fake_ray.init_raises = AssertionError("Ray was asked")
    with pytest.raises(UserError, match=f"no Ray cluster answers at ray://{address}"):
        connect(f"ray://{address}")
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=f"no Ray cluster answers at {address}"):
        connect("ray")


def test_a_gpu_that_the_cluster_does_not_have() -> None:
    with pytest.raises(UserError, match="the device cuda was asked for, and the Ray cluster has no GPU"):
        on_gpu("cuda", {"CPU": 8.0})
    assert not on_gpu("auto", {"CPU": 8.0})
    assert on_gpu("auto", {"CPU": 8.0, "GPU": 2.0})
    assert not on_gpu("cpu", {"CPU": 8.0, "GPU": 2.0})


def worker(work: object, **versions: str) -> RayWorker:
    return RayWorker(frames.packed(work), "cpu", 1, os.getcwd(), making.own_versions() | versions)


def test_a_worker_that_does_not_see_the_photos_says_so() -> None:
    reason = worker(Squares("there is no folder photos")).begin()
    assert reason.startswith(f"a worker on the node {socket.gethostname()} cannot begin: there is no folder photos;")
    assert "at the same path on every node" in reason


def test_a_worker_with_other_versions_says_so() -> None:
    assert "where the job has 1.0" in (reason := worker(Squares(), torch="1.0").begin())
    assert reason.endswith("pictures would differ, install the same there")


def test_a_worker_makes_chunks() -> None:
    one = worker(Squares())
    assert one.begin() == ""
    assert [answer.value for answer in one.make((2, 3))] == [4, 9]  # type: ignore[union-attr]


# --- a cluster of two nodes on this machine ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray cluster of two nodes with a core each; $RAY_ADDRESS leads to it."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'entoptic[ray]'")
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    # Workers import what the tests import.
    paths = os.pathsep.join([str(Path(on_ray.__file__).parents[2]), str(Path(__file__).parent)])
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", "RAY_ADDRESS")}
    os.environ["PYTHONPATH"] = paths
    try:
        found = Cluster(initialize_head=True, head_node_args=small)
    except Exception as error:
        pytest.skip(f"no Ray cluster can be started here ({type(error).__name__}: {str(error)[:200]})")
    try:
        found.add_node(num_cpus=1, object_store_memory=80 * 2**20)
        os.environ["RAY_ADDRESS"] = found.address
        yield found
    finally:
        found.shutdown()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@pytest.mark.slow
def test_on_two_nodes_a_worker_that_dies_costs_nothing(cluster: Any, tmp_path: Path) -> None:
    kept, word = Kept(), f"die-once {tmp_path / 'mark'}"
    with opened(Squares(), Workers(cluster="ray"), "cpu", 4) as pool:
        dispatch(pool, [Chunk(number=i, pieces=one) for i, one in enumerate([(1, word), (2,), ("fail",), (3,)])], kept)
    assert set(kept.values) == {1, word, 2, 3}
    assert [piece for piece, _ in kept.failures] == ["fail"]
    assert not kept.losses


@pytest.mark.slow
def test_where_no_worker_can_begin_the_reason_is_said(cluster: Any) -> None:
    with (
        pytest.raises(UserError, match="cannot begin: there is no folder photos"),
        opened(Squares("there is no folder photos"), Workers(cluster="ray"), "cpu", 1) as pool,
    ):
        dispatch(pool, [Chunk(number=0, pieces=(1,))], Kept())


@pytest.mark.slow
def test_the_files_of_one_process_also_where_a_node_goes(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, gone = sweep._Keeper.made, []

    def going(self: Any, piece: Any, value: Any) -> None:
        made(self, piece, value)
        if not gone:
            gone.append(cluster.remove_node(cluster.worker_nodes.copy().pop()))

    def see(out: Path, workers: str | None) -> dict[str, bytes]:
        model = Model(tiny_module(), tiny_card(), device="cpu")
        run = entoptic.see(
            model, "stage2:0-7", method="fourier", steps=20, batch_size=1, verifiers="", out=out, workers=workers,
            progress=False,
        )  # fmt: skip
        assert not run.failures
        return {file.relative_to(out).as_posix(): file.read_bytes() for file in out.glob("*/*/*.png")}

    monkeypatch.setattr(sweep._Keeper, "made", going)
    assert see(tmp_path / "ray", "ray") == see(tmp_path / "one", None)
    assert gone


@pytest.mark.slow
def test_a_frontier_is_that_of_one_process(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mean = 0.3 * torch.randn((1, 3, 8, 8), generator=torch.Generator().manual_seed(5))
    prior = GaussianMixture(torch.ones(1), mean, torch.full_like(mean, 1.0), scale=0.08, offset=0.5)

    def measured(name: str, workers: str | None) -> dict[str, bytes]:
        monkeypatch.setenv("ENTOPTIC_CACHE", str(tmp_path / f"cache-{name}"))
        model = Model(tiny_module(), tiny_card(), device="cpu")
        results = entoptic.frontier(
            model, "logits:0-1", prior=prior, methods="klsc,fourier", n=1, bank=256, particles=16, nats=3.0, steps=2,
            verifiers="", batch_size=1, out=tmp_path / name, workers=workers, progress=False,
        )  # fmt: skip
        assert not any(result.failures for result in results)
        files = [*(tmp_path / name).glob("pictures/*/*.png"), *(tmp_path / name).glob("frontier/*")]
        return {file.relative_to(tmp_path / name).as_posix(): file.read_bytes() for file in files}

    assert measured("ray", "ray") == measured("one", None)

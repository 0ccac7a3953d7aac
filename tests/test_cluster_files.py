"""The files of the pages about Slurm and clouds work as they are: run with stand-ins of the programs that they call."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

HOW_TO = Path(__file__).parents[1] / "docs" / "how-to"
SLURM, CLOUD = HOW_TO / "slurm", HOW_TO / "cloud"
SCRIPTS = sorted([*SLURM.glob("*.sbatch"), *CLOUD.glob("*.sh")])
BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None or sys.platform == "win32", reason="needs bash")

SAY = '#!/bin/bash\necho "{name} $*" >> "$LOG"\n'
# srun runs what stands behind its own options.
SRUN = SAY + 'while [[ $1 == --* ]]; do shift; done\nexec "$@"\n'
RAY = (
    SAY + 'case "$1 $*" in\n  *--block*) echo up > "$PWD/up"; exec sleep 60 ;;\n  status*) test -f "$PWD/up" ;;\nesac\n'
)


class Place:
    """A folder with stand-ins of programs, which write down how they were called."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log"
        (folder / "bin").mkdir()
        (folder / "sweep.yaml").write_text("model: tiny:net\n")

    def program(self, name: str, text: str = SAY) -> None:
        file = self.folder / "bin" / name
        file.write_text(text.replace("{name}", name))
        file.chmod(file.stat().st_mode | stat.S_IXUSR)

    def start(self, script: Path, *words: str, **settings: str) -> subprocess.Popen[str]:
        path = f"{self.folder / 'bin'}:/usr/bin:/bin"
        environment = {"PATH": path, "LOG": str(self.log), "HOME": str(self.folder), **settings}
        command = [str(BASH), str(script), *words]
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def run(self, script: Path, *words: str, **settings: str) -> tuple[int, list[str], str]:
        process = self.start(script, *words, **settings)
        _, err = process.communicate(timeout=60)
        return process.returncode, self.log.read_text().splitlines() if self.log.exists() else [], err


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda one: one.name)
def test_a_script_is_read_by_bash_and_shellcheck(script: Path) -> None:
    assert subprocess.run([str(BASH), "-n", script]).returncode == 0
    if checker := shutil.which("shellcheck", path=os.environ.get("SHELLCHECK_PATH", os.environ["PATH"])):
        found = subprocess.run([checker, "-s", "bash", script], capture_output=True, text=True)
        assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda one: one.name)
def test_what_is_left_out_is_asked_for(place: Place, script: Path) -> None:
    code, called, err = place.run(script, SLURM_ARRAY_TASK_ID="0", SLURM_ARRAY_TASK_COUNT="1")
    assert code != 0
    assert "the sweep, such as sweep.yaml" in err or "the folder that array.sbatch was given" in err
    assert called == []


def test_every_task_of_an_array_makes_its_part(place: Place) -> None:
    place.program("entoptic")
    place.program("srun", SRUN)
    task = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_CPUS_PER_TASK": "4"}
    code, called, err = place.run(SLURM / "array.sbatch", "sweep.yaml", "runs/a", **task)
    assert (code, err) == (0, "")
    assert called[-1] == "entoptic see --config sweep.yaml --shard 3/8 --out runs/a/parts/3 --threads 4"
    # One part again is an array of one task.
    _, called, _ = place.run(
        SLURM / "array.sbatch", "sweep.yaml", "runs/a", **{**task, "SLURM_ARRAY_TASK_COUNT": "1", "PARTS": "8"}
    )
    assert "--shard 3/8" in called[-1]


def test_parts_are_merged_for_each_network(place: Place) -> None:
    place.program("entoptic")
    code, _, err = place.run(SLURM / "merge.sbatch", "runs/a")
    assert (code, err) == (2, "no part of runs/a is there; did array.sbatch run?\n")
    for name in ("parts/0", "parts/2"):
        folder = place.folder / "runs" / "a" / name
        folder.mkdir(parents=True)
        (folder / "run.json").touch()
    code, called, err = place.run(SLURM / "merge.sbatch", "runs/a")
    assert (code, err) == (0, "")
    assert called == ["entoptic merge runs/a/parts/0 runs/a/parts/2 --out runs/a/merged"]
    for name in ("parts/0/x", "parts/0/y", "parts/2/y"):
        folder = place.folder / "runs" / "b" / name
        folder.mkdir(parents=True)
        (folder / "run.json").touch()
    _, called, _ = place.run(SLURM / "merge.sbatch", "runs/b")
    assert sorted(called[1:]) == [
        "entoptic merge runs/b/parts/0/x --out runs/b/merged/x",
        "entoptic merge runs/b/parts/0/y runs/b/parts/2/y --out runs/b/merged/y",
    ]


def cluster(place: Place, entoptic: str = SAY) -> dict[str, str]:
    place.program("entoptic", entoptic)
    place.program("srun", SRUN)
    place.program("ray", RAY)
    place.program("scontrol", '#!/bin/bash\nprintf "node1\\nnode2\\nnode3\\n"\n')
    place.program("hostname", "#!/bin/bash\necho 10.0.0.1 192.168.0.1\n")
    return {"SLURM_JOB_NODELIST": "node[1-3]", "SLURM_JOB_ID": "12345", "SLURM_CPUS_PER_TASK": "8"}


def test_a_ray_cluster_is_started_used_and_ended(place: Place) -> None:
    code, called, err = place.run(
        SLURM / "ray.sbatch", "sweep.yaml", "runs/a", **cluster(place, SAY + "sleep 2\n")
    )  # the other node starts meanwhile
    assert code == 0, err
    starts = [line for line in called if line.startswith("ray start")]
    assert "--head --node-ip-address=10.0.0.1 --port=22345 --ray-client-server-port=32345" in starts[0]
    assert any("--address=10.0.0.1:22345" in line for line in starts[1:])
    assert any("--nodes=2 --ntasks=2 --exclude=node1" in line for line in called)
    (see,) = [line for line in called if line.startswith("entoptic ")]
    assert see == "entoptic see --config sweep.yaml --out runs/a --workers ray://10.0.0.1:32345"


def test_the_exit_code_of_the_sweep_is_that_of_the_job(place: Place) -> None:
    settings = cluster(place, SAY + "exit 2\n")
    assert place.run(SLURM / "ray.sbatch", "sweep.yaml", "runs/a", **settings)[0] == 2


def test_a_head_that_does_not_start_is_said(place: Place) -> None:
    settings = cluster(place)
    place.program("ray", SAY + "exit 1\n")
    code, called, err = place.run(SLURM / "ray.sbatch", "sweep.yaml", "runs/a", RAY_SECONDS="1", **settings)
    assert code == 1
    assert "Ray's head did not start on node1" in err
    assert not [line for line in called if line.startswith("entoptic ")]


STOPS = (
    SAY
    + "trap 'echo stored >> \"$LOG\"; exit 130' INT\nmkdir -p runs/a\ntouch runs/a/begun\nfor i in $(seq 600); do sleep 0.1; done\n"
)


def test_an_interrupt_reaches_the_sweep(place: Place) -> None:
    """What a background job of a script never gets without job control."""
    place.program("rclone")
    place.program("entoptic", STOPS)
    for script, words, settings in (
        (SLURM / "ray.sbatch", ("sweep.yaml", "runs/a"), cluster(place, STOPS)),
        (CLOUD / "machine.sh", ("sweep.yaml", "runs/a", "remote:b"), {"SYNC_SECONDS": "1"}),
    ):
        (place.folder / "runs" / "a" / "begun").unlink(missing_ok=True)
        place.log.unlink(missing_ok=True)
        process = place.start(script, *words, **settings)
        for _ in range(400):
            if (place.folder / "runs" / "a" / "begun").exists():
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 130
        assert "stored" in place.log.read_text()


def test_a_rented_machine_fetches_and_keeps_what_is_finished(place: Place) -> None:
    place.program("rclone")
    place.program("entoptic", SAY + "sleep 1.5\nexit 2\n")
    code, called, _ = place.run(CLOUD / "machine.sh", "sweep.yaml", "runs/a", "remote:b", SYNC_SECONDS="1")
    assert code == 2  # of the sweep
    assert called[0] == "rclone copy remote:b runs/a"
    assert "entoptic see --config sweep.yaml --out runs/a" in called
    assert called[-1].startswith("rclone copy runs/a remote:b --exclude .*.part --exclude .lock")


def test_the_cluster_of_a_cloud_is_one_that_ray_takes() -> None:
    import yaml

    held = yaml.safe_load((CLOUD / "ray-cluster.yaml").read_text())
    assert held["head_node_type"] in held["available_node_types"]
    ports = [line for line in held["head_start_ray_commands"] if "--ray-client-server-port=10001" in line]
    assert ports, "the page names this port"
    util = pytest.importorskip("ray.autoscaler._private.util", reason="Ray is not installed")
    util.validate_config(util.prepare_config(held))

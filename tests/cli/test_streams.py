"""A reader that leaves, a closed stdout, a full disk and Ctrl-C: no traceback, and the work is finished."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from entoptic.cli.streams import forgiving_streams

SOURCE = Path(__file__).parents[2] / "src"
PYTHON = [sys.executable, "-m", "entoptic"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), *sys.path])}


def sh(command: str) -> subprocess.CompletedProcess[str]:
    whole = command.replace("entoptic", " ".join(PYTHON), 1)
    return subprocess.run(["bash", "-c", whole], capture_output=True, text=True, env=ENVIRONMENT, timeout=60)


def test_a_reader_that_leaves() -> None:
    done = sh("entoptic see --help all | head -1; echo ${PIPESTATUS[0]}")
    assert done.stdout.splitlines() == ["usage: entoptic see MODEL UNIT… [options]", "0"]
    assert done.stderr == ""
    done = sh("entoptic ls methods | true; echo ${PIPESTATUS[0]}")
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_closed_streams() -> None:
    done = sh("entoptic ls >&-; echo $?")
    assert (done.stdout, done.stderr) == ("0\n", "")
    done = sh("entoptic sea >&- 2>&-; echo $?")
    assert (done.stdout, done.stderr) == ("2\n", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full on this system")
def test_an_answer_that_cannot_be_written() -> None:
    done = sh("entoptic --version > /dev/full; echo $?")
    assert done.stdout == "2\n"
    assert done.stderr == "entoptic: the answer cannot be written (No space left on device)\n"


def test_what_is_written_to_nobody_is_dropped() -> None:
    read, write = os.pipe()
    os.close(read)
    before = sys.stdout
    with open(write, "w") as gone:
        sys.stdout = gone
        try:
            with forgiving_streams():
                print("x" * 100_000)
                print("on it goes", flush=True)
        finally:
            sys.stdout = before


def test_ctrl_c_outside_of_a_run() -> None:
    code = (
        "import sys, time\nfrom entoptic.cli import main, verbs, list_known\n"
        "def wait():\n    print('begun', flush=True)\n    time.sleep(60)\n"
        "list_known.LISTS['models'] = wait\nsys.exit(main(['ls', 'models']))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n"
    time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=30)
    assert child.returncode == 130
    assert err.startswith("entoptic: interrupted; ")
    assert "Traceback" not in err

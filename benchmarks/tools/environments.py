"""An environment for each tool, and what came of running its adapter there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
from dataclasses import asdict
from pathlib import Path

from protocol import Task, Tool

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "src"


class DoesNotRun(Exception):
    """A tool cannot be installed or fails; the message says why."""


def python_of(tool: Tool, folder: Path) -> Path:
    """The interpreter of a tool's environment, which is made where it is not there.

    torch and what else this environment has are shared by a path file, so that all tools run the same torch and little is
    stored. Nothing is ever installed into this environment.

    Raises:
        DoesNotRun: it cannot be installed.
    """
    if not tool.bare and not tool.also:
        return Path(sys.executable)
    home = folder / tool.name.lower().replace(" ", "-")
    python = home / ("Scripts" if os.name == "nt" else "bin") / "python"
    wanted, done = {"bare": list(tool.bare), "also": list(tool.also)}, home / "installed.json"
    if done.is_file() and json.loads(done.read_text()) == wanted:
        return python
    venv.create(home, with_pip=False, clear=True)
    (site,) = home.glob("Lib/site-packages" if os.name == "nt" else "lib/python*/site-packages")
    shared = dict.fromkeys(sysconfig.get_paths()[name] for name in ("purelib", "platlib"))
    (site / "shared.pth").write_text("".join(f"{path}\n" for path in shared))
    for requirements, option in ((tool.bare, ["--no-deps"]), (tool.also, [])):
        if requirements:
            _pip(python, [*option, *requirements])
    done.write_text(json.dumps(wanted))
    return python


def _pip(python: Path, arguments: list[str]) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *arguments]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise DoesNotRun(f"does not install: {last_line(found.stderr)}")


def run(tool: Tool, adapter: Path, tasks: list[Task], environments: Path) -> None:
    """Makes a tool's pictures in its own process. What failed is tried again by the next call.

    Raises:
        DoesNotRun: it does not install, or some task failed; finished pictures stay.
    """
    if all(task.record.is_file() for task in tasks):
        return
    python = python_of(tool, environments)
    folder = Path(tasks[0].folder)
    folder.mkdir(parents=True, exist_ok=True)
    listed = folder / "tasks.json"
    listed.write_text(json.dumps([asdict(task) for task in tasks], indent=1))
    paths = [str(SOURCE), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    given = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    with (folder / "errors.txt").open("w") as errors:
        code = subprocess.run(
            [str(python), str(adapter), str(listed)], env=given, stderr=errors, check=False
        ).returncode
    if code:
        raise DoesNotRun(f"does not run: {last_line((folder / 'errors.txt').read_text())}")


def last_line(text: str) -> str:
    """What an error says: the last line that is not empty and no notice of pip, without paths."""
    lines = [
        line.strip() for line in text.splitlines() if line.strip() and not line.startswith(("[notice]", "WARNING"))
    ]
    return re.sub(r"""(^| )[('"]?/[^\s()'"]+[)'"]?""", "", lines[-1])[:300] if lines else "it ended without a word"

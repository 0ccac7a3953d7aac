"""`python -m tests.kill --rounds N --seed S`: kills jobs of every verb that writes; ends with 1 where something is lost."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from tests.kill.jobs import JOBS
from tests.kill.rounds import some_rounds


def main() -> int:
    """Runs the harness."""
    parser = argparse.ArgumentParser(prog="python -m tests.kill", description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verb", action="append", choices=list(JOBS), help="only this one (may be repeated)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        faults = some_rounds(
            options.rounds, options.seed, Path(place), options.verb, tell=lambda line: print(line, flush=True)
        )
    print(f"{options.rounds} jobs killed, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

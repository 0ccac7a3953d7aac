"""`python -m tests.fuzz --examples N`: the harness at length; prints each distinct failure once and ends with 1 if there is one."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.fuzz import damage
from tests.fuzz.commands import command, run, watched
from tests.fuzz.kinds import Kind, kinds, prepared, restore

from entoptic.errors import UserError

DAMAGES = {"json": damage.JSON, "tensors": damage.TENSORS, "other": damage.ANY}


def place_of(error: BaseException) -> str:
    """Where in Entoptic an error came from."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "entoptic" in f.filename]
    last = frames[-1] if frames else None
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}" if last else type(error).__name__


def records(draw: random.Random, folder: Path, chosen: Kind) -> str:
    """Damages a file and says how."""
    file = folder / chosen.file
    if chosen.form == "json" and draw.random() < 0.8:
        record = json.loads(file.read_text())
        place, value, remove = draw.choice(damage.places(record)), draw.choice(damage.VALUES), draw.random() < 0.2
        damage.replace(file, damage.changed(record, place, value, remove=remove))
        return f"{place} {'removed' if remove else repr(value)[:40]}"
    how = draw.choice(list(DAMAGES[chosen.form]))
    DAMAGES[chosen.form][how](file)
    return how


def attempt(use: Callable[[], object]) -> BaseException | None:
    """The error of a use that is not one sentence."""
    try:
        use()
    except UserError as error:
        return None if "\n" not in str(error) and str(error).strip() else error
    except BaseException as error:
        return error
    return None


def main() -> int:
    """Runs the harness."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", default="", help="part of the name of the kinds to damage")
    options = parser.parse_args()
    draw, failures = random.Random(options.seed), Counter[str]()
    warnings.simplefilter("ignore")
    chosen = [(name, kind) for name, kind in kinds(slow=True).items() if options.kind in name]
    with tempfile.TemporaryDirectory() as temporary, prepared(Path(temporary)) as folder:
        for _ in range(options.examples):
            name, kind = draw.choice(chosen)
            how = records(draw, folder, kind)
            error = attempt(kind.use)
            if error is not None:
                what = f"{name}: {place_of(error)}"
                failures[what] += 1
                if failures[what] == 1:
                    print(f"{what}: {str(error)[:200]!r} ({how})", flush=True)
            restore(folder, kind)
        for _ in range(options.examples if not options.kind else 0):
            words = command(draw, folder / "photos", folder / "out")
            with watched(folder / "watched", folder / "photos") as folders:
                before = folders.files()
                answer = run(words)
                stray = folders.stray(before, words, answer)
            if fault := answer.fault() or (f"writes {stray[0].relative_to(folder)}" if stray else ""):
                what = f"{words[0]}: {fault}"
                failures[what] += 1
                print(f"{what}: {[word[:80] for word in words]}", flush=True)
    print(
        f"{options.examples} damaged files and as many commands, {sum(failures.values())} failures, {len(failures)} distinct"
    )
    os.sync()
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

"""Work that worker processes can import."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entoptic.errors import UserError
from entoptic.workers.records import Failed, Handler, Made, Step, Tell


@dataclass(frozen=True)
class Squares:
    """Squares numbers. A piece may be a word: "die" kills the worker, "die once FILE" the first time, and so on.

    Attributes:
        refusal: why no worker can begin, "" where they can.
    """

    refusal: str = ""

    def start(self, device: str) -> Handler:
        if self.refusal:
            raise UserError(self.refusal)
        return square


def square(pieces: Sequence[Any], tell: Tell) -> None:
    """Makes a chunk."""
    for place, piece in enumerate(pieces):
        word, _, rest = str(piece).partition(" ")
        if word == "die":
            os.kill(os.getpid(), 9)
        elif word == "die-once" and not Path(rest).exists():
            Path(rest).touch()
            os.kill(os.getpid(), 9)
        elif word == "break":
            raise ZeroDivisionError("one over none")
        elif word == "fail":
            tell(Failed(piece=place, value=f"failed in {os.getpid()}"))
            continue
        elif word == "sleep":
            time.sleep(float(rest))
        elif word == "warn":
            warnings.warn(rest, stacklevel=1)
        elif word == "print":
            print(rest)
        elif word == "threads":
            import torch

            tell(Made(piece=place, value=torch.get_num_threads()))
            continue
        tell(Step(share=(place + 1) / len(pieces)))
        tell(Made(piece=place, value=piece * piece if isinstance(piece, int) else piece))

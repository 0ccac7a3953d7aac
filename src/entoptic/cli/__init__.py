"""The command line: `entoptic VERB …`, one file a verb.

The options of a verb are a dataclass and those of a method its config: nothing is declared twice.
No file here imports torch at its top, so that `--help` answers at once.
"""

from __future__ import annotations

from entoptic.cli.main import main

__all__ = ["main"]

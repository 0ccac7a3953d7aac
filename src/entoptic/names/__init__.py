"""Names of units: suggestions with what speaks for them.

names = entoptic.name("builtin:lite0", "blocks.6:0-9", photos="photos")
suggestion_for("runs/lite0", "blocks.6:3")       # what a page shows of a unit, or None
"""

from __future__ import annotations

from entoptic.names.records import Names, Suggestion, read_names, suggestion_for

__all__ = ["Names", "Suggestion", "read_names", "suggestion_for"]

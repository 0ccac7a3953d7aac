"""What `verify` finds in one file of a run."""

from __future__ import annotations

from typing import NamedTuple


class Difference(NamedTuple):
    """A file that is not as it was written, or as others say that it is.

    Attributes:
        file: the file by its path in the run; `pictures` for all sidecars together.
        text: what is wrong, in words for people.
    """

    file: str
    text: str


PICTURES = "pictures"
"""The folder of pictures, which stands for all their sidecars."""

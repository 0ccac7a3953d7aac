"""`python -m entoptic` is the command line."""

from entoptic.cli import entry

entry()

"""Damaged files and commands with one thing wrong; `python -m tests.fuzz` does at length what the tests here do."""

import sys
from pathlib import Path

if (_TESTS := str(Path(__file__).parents[1])) not in sys.path:  # what tests share imports from there, as under pytest
    sys.path.append(_TESTS)

"""Jobs that are killed at random moments; `python -m tests.kill` does at length what the test here does."""

import sys
from pathlib import Path

if (_TESTS := str(Path(__file__).parents[1])) not in sys.path:  # what tests share imports from there, as under pytest
    sys.path.append(_TESTS)

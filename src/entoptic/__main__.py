"""`python -m entoptic` is the command line."""

import sys

from entoptic.cli import main

sys.exit(main())

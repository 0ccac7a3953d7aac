"""`python -m entoptic` is the command line."""

import sys


def run() -> int:
    """Runs the command line; returns its exit code. Ctrl-C is a sentence also while the command line is imported."""
    try:
        from entoptic.cli import main

        return main()
    except KeyboardInterrupt:
        print("entoptic: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(run())

"""`python -m entoptic` is the command line."""

import sys
import warnings


def run() -> int:
    """Runs the command line; returns its exit code. Ctrl-C is a sentence also while the command line is imported."""
    try:
        with warnings.catch_warnings():  # of packages that are loaded with the command line
            warnings.showwarning = lambda message, *rest, **more: print(f"warning: {message}", file=sys.stderr)
            from entoptic.cli import main

        return main()
    except KeyboardInterrupt:
        print("entoptic: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(run())

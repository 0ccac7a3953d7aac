"""Parses a command, runs its verb and turns errors into exit codes."""

from __future__ import annotations

import io
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import reduce
from operator import or_
from typing import Annotated, Any

import tyro

from entoptic import __version__
from entoptic.base.bounds import check_bounds
from entoptic.cli.check import Check, run_check
from entoptic.cli.frontier import Frontier, run_frontier
from entoptic.cli.gallery import Gallery, run_gallery
from entoptic.cli.index import Index, run_index
from entoptic.cli.invert import Invert, run_invert
from entoptic.cli.learn import LearnInverter, LearnPrior, run_learn_inverter, run_learn_prior
from entoptic.cli.ls import Ls, run_ls
from entoptic.cli.merge import Merge, run_merge
from entoptic.cli.see import See, run_see
from entoptic.cli.steer import Steer, run_steer
from entoptic.cli.verify import Verify, run_verify
from entoptic.errors import UserError

VERBS: dict[str, tuple[type, Callable[[Any], int]]] = {
    "ls": (Ls, run_ls),
    "see": (See, run_see),
    "frontier": (Frontier, run_frontier),
    "invert": (Invert, run_invert),
    "steer": (Steer, run_steer),
    "verify": (Verify, run_verify),
    "gallery": (Gallery, run_gallery),
    "check": (Check, run_check),
    "index": (Index, run_index),
    "merge": (Merge, run_merge),
    "learn-prior": (LearnPrior, run_learn_prior),
    "learn-inverter": (LearnInverter, run_learn_inverter),
}
"""The options of each verb and the function that runs it, in the order of `entoptic --help`."""

_DESCRIPTION = "Entoptic shows what a vision model looks for. `entoptic --version` prints its version."


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code: 0, 2 for bad input, 1 for a defect of Entoptic, 130 for Ctrl-C."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # names that are no UTF-8 are shown escaped, as on stderr
        sys.stdout.reconfigure(errors="backslashreplace")
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if given == ["--version"]:
        print(f"entoptic {__version__}")
        return 0
    if given[0] == "learn":  # what is learned is part of the verb: `entoptic learn prior`
        given = ["-".join(given[:2]), *given[2:]]
    try:
        options = _parse(given)
    except SystemExit as stop:
        return int(stop.code or 0)
    except UserError as error:  # a config refused its options
        return _refuse(error, debug="--debug" in given)
    except KeyboardInterrupt:
        return _interrupted()
    except BrokenPipeError:
        return 0
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *rest, **more: print(f"warning: {message}", file=sys.stderr)
        return _run(options)


def _parse(given: Sequence[str]) -> Any:
    """The options of the verb that was asked for."""
    verbs: Any = reduce(or_, [Annotated[kind, tyro.conf.subcommand(name)] for name, (kind, _) in VERBS.items()])
    return tyro.cli(verbs, prog="entoptic", args=given, description=_DESCRIPTION)


def _run(options: Any) -> int:
    """Runs the verb whose options these are."""
    run = dict(VERBS.values())[type(options)]
    try:
        check_bounds(options)
        return run(options)
    except UserError as error:
        return _refuse(error, debug=options.debug)
    except KeyboardInterrupt:
        return _interrupted()
    except BrokenPipeError:
        return 0
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        else:
            print(
                f"entoptic: internal error, {type(error).__name__}: {error} (this is a defect of Entoptic; "
                "--debug shows where)",
                file=sys.stderr,
            )
        return 1


def _interrupted() -> int:
    """Says what Ctrl-C means."""
    print("entoptic: interrupted; what is finished is stored, the same command goes on from there", file=sys.stderr)
    return 130


def _refuse(error: UserError, debug: bool) -> int:
    """Prints the sentence of bad input, after its traceback where that is wanted."""
    if debug:
        traceback.print_exc()
    print(f"entoptic: {error}", file=sys.stderr)
    return 2

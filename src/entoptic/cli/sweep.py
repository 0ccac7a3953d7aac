"""`entoptic see --config FILE`: the commands of a file one after another; `--print-config` writes such a file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from entoptic.base.bounds import check_options, check_threads
from entoptic.cli.config_file import FileJob, config_text, read_jobs
from entoptic.cli.method_options import chosen_methods, without_others
from entoptic.cli.options import asked_workers, parse_shard
from entoptic.cli.parse import parse
from entoptic.cli.see import See, run_see
from entoptic.errors import UserError, counted
from entoptic.methods.contract import card_of
from entoptic.methods.presets import PRESETS

_FLAGS = ("--config", "--print-config", "--print_config")
_EXAMPLE = See(model="builtin:lite0", units=("logits:207",))


def wants_file(name: str, words: Sequence[str]) -> bool:
    """Returns whether a command reads or writes a file of options.

    Args:
        name: of the verb.
        words: behind it.
    """
    return name == "see" and any(word.partition("=")[0] in _FLAGS for word in words)


def run_file(words: Sequence[str]) -> int:
    """Runs `entoptic see` with --config or --print-config; returns the exit code.

    Args:
        words: behind the verb.
    """
    given: See = parse("see", words, default=See(model="", units=()))
    if given.print_config:
        return _print(words, given)
    assert given.config is not None
    if given.model or given.units:
        raise UserError(
            f'"{given.model or given.units[0]}" is one word too many beside --config: MODEL and UNIT stand in the file'
        )
    read = read_jobs(given.config, See, _preset_said(words))
    jobs = [replace(job, options=_overridden(job, words)) for job in read]
    jobs = _in_folders(jobs)
    for job in jobs:
        try:
            _check(job.options)
        except UserError as error:
            raise UserError(f"{job.where}: {error}") from None
    return _run(jobs)


def _check(options: See) -> None:
    """Checks what can be checked before the network is loaded: a slip in the last job is found before the first begins.

    Raises:
        UserError: a method, a number, the workers, the shard or the kind of film is none.
    """
    from entoptic.runs.film import check_kind

    chosen_methods(options, options.method)
    check_options(n=options.n, seed=options.seed, bank_seed=options.bank_seed, batch_size=options.batch_size)
    check_threads(options.threads)
    asked_workers(options.workers, options.threads)
    parse_shard(options.shard)
    check_kind(options.film)


def _preset_said(words: Sequence[str]) -> dict[str, bool]:
    """What the command line says of presets: it counts before the file, where one preset takes the place of another."""
    said = {name: word == f"--{name}" for word in words for name in PRESETS if word in (f"--{name}", f"--no-{name}")}
    return dict.fromkeys(PRESETS, False) | said if any(said.values()) else said


def _overridden(job: FileJob, words: Sequence[str]) -> See:
    """The options of a job with those of the command line before them."""
    options: See = parse("see", words, default=job.options)
    return without_others(options, options.method)


def _in_folders(jobs: list[FileJob]) -> list[FileJob]:
    """Gives each network a run of its own: below the folder, where several would share one."""
    models: dict[Path, set[str]] = {}
    for job in jobs:
        if job.options.out is not None:
            models.setdefault(job.options.out, set()).add(job.options.model)
    found = []
    for job in jobs:
        out, model = job.options.out, job.options.model
        if out is not None and len(models[out]) > 1:
            job = replace(job, options=replace(job.options, out=out / model.replace(":", "-").replace("/", "-")))
        found.append(job)
    return found


def _run(jobs: Sequence[FileJob]) -> int:
    """Runs the jobs; one that cannot be done does not cost the others."""
    failed = 0
    for number, job in enumerate(jobs, 1):
        print(f"[{number}/{len(jobs)}] {job.options.model} {' '.join(job.options.units)} by {job.options.method}")
        sys.stdout.flush()
        try:
            failed += run_see(job.options) != 0
        except UserError as error:
            failed += 1
            print(f"entoptic: {job.where}: {error}", file=sys.stderr)
    if failed and len(jobs) > 1:
        print(f"{counted(failed, 'job')} of {len(jobs)} with something that could not be made", file=sys.stderr)
    return 2 if failed else 0


def _print(words: Sequence[str], given: See) -> int:
    """Prints the file of a command; without MODEL and UNIT those of an example."""
    if given.config is not None:
        raise UserError("--print-config prints a command as a file, and --config reads one; give one of them")
    options: See = parse("see", words, default=_EXAMPLE) if not given.units else given
    if given.model and not given.units:
        options = replace(given, units=_EXAMPLE.units)
    methods = [card_of(config).name for config in chosen_methods(options, options.method)]
    plain = replace(options, quick=False, fine=False)  # a preset stands there as the options that it is
    print(config_text(plain, methods), end="")
    return 0

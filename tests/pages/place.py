"""The folder that pages run in, and the commands that they hold."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from entoptic import cli
from entoptic.base.bounds import check_bounds
from entoptic.cli.option_table import all_options
from entoptic.cli.parse import parse
from entoptic.cli.verbs import FAMILIES, VERBS
from pages.blocks import ROOT, Block, NotUnderstood, commands_of

PLACEHOLDERS = {"MODEL": "builtin:lite0", "UNIT": "logits:497", "LAYER": "bn2"}
"""Words in capitals that stand for anything, where a command is only read."""


@dataclass
class Page:
    """A page that is being run: what its Python has defined and what its blocks have printed."""

    scope: dict[str, Any] = field(default_factory=dict)
    printed: str = ""
    settings_used: set[str] = field(default_factory=set)

    def run(self, block: Block) -> None:
        """Runs a block as it stands, with the settings of its marker."""
        said = block.marker
        for command in said.first:
            self._command(command, said.options)
        if block.language == "python":
            self._python(block)
        elif block.language == "bash":
            for command in commands_of(block.code):
                self._command(command, said.options)
        elif block.language == "console":
            self._console(block)
        wanted = {word for word in said.options if "--" in word}
        assert wanted <= self.settings_used, f"{block}: no command takes {wanted - self.settings_used}"
        self.settings_used.clear()

    def _python(self, block: Block) -> None:
        code = block.code
        for name, value in block.marker.numbers.items():
            code, found = re.subn(rf"\b{name}=[\w.\"'-]+", f"{name}={value}", code)
            assert found, f"{block} does not set {name}"
        said = io.StringIO()
        self.scope.setdefault("__name__", Path(block.page).stem)
        with contextlib.redirect_stdout(said):
            exec(compile("\n" * block.line + code, block.page, "exec", dont_inherit=True), self.scope)
        self.printed += said.getvalue()

    def _console(self, block: Block) -> None:
        """`$ command` and, below it, all that it answers; … stands for anything."""
        for part in re.split(r"^\$ ", block.code, flags=re.M)[1:]:
            command, _, answer = part.partition("\n")
            code, said = say(with_options(words_of(command)[0], block.marker.options, self.settings_used))
            assert code in (0, 2), said
            pattern = ".*?".join(map(re.escape, answer.strip().split("…")))
            assert re.fullmatch(pattern, said.strip(), flags=re.S), f"{block}: {command} answers\n{said}"

    def _command(self, command: str, options: Sequence[str]) -> None:
        words, target = words_of(command)
        if words[:2] == ["mkdir", "-p"]:
            for folder in words[2:]:
                Path(folder).expanduser().mkdir(parents=True, exist_ok=True)
            return
        if words[0] != "entoptic":
            raise NotUnderstood(f'"{command}" is no command of Entoptic; mark its block "parse only, WHY"')
        code, said = say(with_options(words, options, self.settings_used))
        assert code == 0, f"{command}\n{said}"
        self.printed += said
        if target:
            Path(target).expanduser().write_text(said)


def words_of(command: str) -> tuple[list[str], str]:
    """The words of a command without its comment, and the file behind >."""
    command, _, target = command.partition(" > ")
    return shlex.split(command, comments=True), target.strip()


def say(words: Sequence[str]) -> tuple[int, str]:
    """Runs a command of Entoptic as the shell does; gives its exit code and what it wrote."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = cli.main(list(words[1:]))
    return code, said.getvalue()


def verb_of(words: Sequence[str]) -> tuple[str, list[str]]:
    """The verb of a command, a key of `VERBS`, and the words behind it."""
    return ("-".join(words[1:3]), [*words[3:]]) if words[1] in FAMILIES else (words[1], [*words[2:]])


def with_options(words: list[str], options: Sequence[str], used: set[str]) -> list[str]:
    """The words of a command with the options of a marker, in place of its own, where its verb has them."""
    if len(words) < 2 or not options:
        return words
    verb, _ = verb_of(words)
    if verb not in VERBS:  # --version
        return words
    known = {flag for option in all_options(VERBS[verb][0]) for flag in option.flags}
    for asked, *values in _split_options(options):
        only, _, flag = asked.rpartition(":")
        if flag not in known or (only and words[1] != only):
            continue
        used.add(asked)
        if flag in words:
            at = words.index(flag)
            end = next((i for i in range(at + 1, len(words)) if words[i].startswith("--")), len(words))
            words = [*words[:at], *words[end:]]
        words = [*words, flag, *values]
    return words


def _split_options(options: Sequence[str]) -> list[list[str]]:
    found: list[list[str]] = []
    for word in options:
        if "--" in word:
            found.append([word])
        else:
            found[-1].append(word)
    return found


def read(block: Block) -> None:
    """Checks a block that does not run: Python compiles, and each command is one that its program takes."""
    if block.language == "python":
        compile(block.code, block.page, "exec", dont_inherit=True)
        return
    for command in commands_of(block.code):
        read_command(command.removeprefix("$ "))


def read_command(command: str) -> None:
    """Checks a command by the parser of its program."""
    words, _ = words_of(command)
    program, *rest = words
    if program == "entoptic":
        _read_entoptic(words)
    elif program == "pip":
        assert rest[0] in ("install", "download"), command
        extras = re.findall(r"entoptic\[([\w,]+)\]", command)
        known = (ROOT / "pyproject.toml").read_text()
        for extra in ",".join(extras).split(",") if extras else ():
            assert re.search(rf"^{extra} = \[", known, flags=re.M), f"no extra {extra}"
    elif program == "make":
        assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), flags=re.M), f"no target {rest[0]}"
    elif program == "python" and rest[0] == "-c":
        compile(rest[1], "command", "exec")
    elif program == "python" and rest[0].startswith("benchmarks/"):
        _read_benchmark(rest)
    elif program == "hf":
        assert rest[0] == "download", command
        assert {word for word in rest if word.startswith("--")} <= {"--local-dir", "--include", "--exclude"}, command
    elif program in ("sbatch", "ray") or program.startswith("./"):
        files = [word for word in rest if word.endswith((".sbatch", "-cluster.yaml"))] + [program[2:]] * (
            program[:2] == "./"
        )
        assert files, command
        assert all(list((ROOT / "docs" / "how-to").glob(f"*/{file}")) for file in files), command
    elif program in ("git", "cd"):
        assert rest, command
    else:
        raise NotUnderstood(f'the tests do not know the program of "{command}"')


def _read_entoptic(words: list[str]) -> None:
    if len(words) == 1 or {"--help", "--version"} & set(words):
        code, said = say(words)
        assert code == 0, said
        return
    verb, rest = verb_of(words)
    check_bounds(parse(verb, [PLACEHOLDERS.get(word, word) for word in rest]))


def _read_benchmark(words: list[str]) -> None:
    """Has the parser of a benchmark read its words."""
    module = _benchmark(words[0])
    try:
        module.parser().parse_args(words[1:])
    except SystemExit:
        raise AssertionError(f"{words[0]} does not take {shlex.join(words[1:])}") from None


@cache
def _benchmark(script: str) -> Any:
    spec = importlib.util.spec_from_file_location(Path(script).stem, ROOT / script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def enter(place: Path, monkeypatch: Any) -> None:
    """Makes a folder the working directory and the home of what follows."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("HOME", str(place))
    assert Path(os.path.expanduser("~")) == place

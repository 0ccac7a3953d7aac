"""Help: short pages with examples that work, longer ones behind them, and a script for the Tab key."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.conftest import Say, refusal
from entoptic.cli.help_pages import SCREEN
from entoptic.cli.option_table import all_options, groups_of, options_of
from entoptic.cli.parse import parse
from entoptic.cli.verbs import FAMILIES, VERBS, spoken
from entoptic.images import build_index
from entoptic.methods import METHODS
from entoptic.models import sources
from entoptic.runs import learn

EXAMPLES = [example for verb, _ in VERBS.values() for example in verb.examples]  # type: ignore[attr-defined]


def words_of(example: str) -> list[str]:
    """The words behind `entoptic`, without a comment or where the answer goes."""
    return shlex.split(example.partition(" > ")[0], comments=True)[1:]


def test_the_first_page_names_every_verb_once(say: Say) -> None:
    code, out, err = say()
    assert (code, err) == (0, "")
    assert say("--help")[1] == out == say("-h")[1]
    for name in VERBS:
        assert sum(line.startswith(f"  {spoken(name)} ") for line in out.splitlines()) == 1
    assert out.count("\n") <= SCREEN
    assert all(len(line) <= 80 for line in out.splitlines())


@pytest.mark.parametrize("name", VERBS)
def test_the_short_page_of_a_verb(say: Say, name: str) -> None:
    verb = VERBS[name][0]
    code, out, _ = say(*spoken(name).split(), "--help")
    assert code == 0
    assert out.count("\n") <= SCREEN
    assert out.startswith(f"usage: entoptic {spoken(name)} ")
    assert len([line for line in out.splitlines() if line.startswith("  entoptic ")]) >= 2
    for option in options_of(verb):
        assert option.help, option.flag
        assert (option.metavar if option.positional else option.flag.lstrip("-")) in out
    assert all(len(line) <= 80 for line in out.splitlines())
    assert "STR" not in out
    assert "TEXT" not in {option.metavar for option in options_of(verb) if option.positional}
    code, everything, _ = say(*spoken(name).split(), "--help", "all")
    assert code == 0
    for option in all_options(verb):
        assert option.positional or option.flag in everything.replace("[no-]", "")


def test_pages_of_methods_and_recipes(say: Say) -> None:
    assert set(groups_of(VERBS["see"][0])) == {name for name, card in METHODS.items() if card.shows_units}
    code, out, _ = say("see", "--help", "vital")
    assert code == 0
    assert out == say("help", "see", "vital")[1]
    assert "--vital.[no-]flip" in out
    assert "--maco" not in out
    assert "--paper.steps" in say("learn", "inverter", "--help", "paper")[1]
    assert 'did you mean "vital"?' in refusal(say("see", "--help", "vitla"))
    assert "`entoptic see --help` lists them" in refusal(say("see", "--help", "qqqq"))


def test_learn_lists_what_can_be_learned(say: Say) -> None:
    code, out, _ = say("learn", "--help")
    assert code == 0
    assert "entoptic learn prior --help" in out
    assert "entoptic learn inverter --help" in out
    assert say("learn") == (0, out, "")
    assert say("learn", "--help", "prior") == say("learn", "prior", "--help") == say("help", "learn", "prior")


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_are_read(example: str) -> None:
    words = words_of(example)
    name = "-".join(words[:2]) if words[0] in FAMILIES else words[0]
    parse(name, words[2:] if words[0] in FAMILIES else words[1:])


def test_commands_of_the_page_are_read(say: Say) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "command-line.md").read_text()
    commands = [line for line in page.splitlines() if line.startswith("entoptic ") and "entoptic: " not in line]
    assert len(commands) > 15
    for command in commands:
        words = words_of(command)
        if not words or {"--help", "--version"} & set(words):
            assert say(*words)[0] == 0, command
        else:
            parse(words[0], words[1:])


SMALL = {
    "see": ["--steps", "1", "--verifiers", ""],
    "interpolate": ["--steps", "1", "--verifiers", "", "--count", "2"], "invert": ["--n", "1", "--steps", "2", "--verifiers", ""],
    "steer": ["--n", "1", "--nulls", "0", "--steps", "2", "--scales", "0.25"],
    "learn-prior": ["--steps", "1", "--batch-size", "2", "--samples", "4", "--widths", "16", "16"],
    "learn-inverter": ["--steps", "1", "--compared", "2", "--verifiers", "", "--limit", "4"],
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the examples name: photos with labels, and two files."""
    place = tmp_path_factory.mktemp("examples")
    draw = np.random.default_rng(0)
    for label in ("church", "tench"):
        (place / "photos" / label).mkdir(parents=True)
        for i in range(4):
            pixels = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(32, 0).repeat(32, 1)
            Image.fromarray(pixels).save(place / "photos" / label / f"{i}.jpg")
    for name in ("photo.jpg", "other.jpg"):
        shutil.copy(place / "photos" / "church" / f"{len(name) % 4}.jpg", place / name)
    return place


@pytest.mark.slow
def test_examples_work_in_the_order_of_the_verbs(say: Say, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(sources, "_lite", cache(sources._lite))
    monkeypatch.setattr(build_index, "BLOCK", 2)
    order = ("see", "interpolate", "index", "ls", "check", "merge", "verify", "gallery", "completion")
    for name in order:
        for example in VERBS[name][0].examples:  # type: ignore[attr-defined]
            if "bench-small" in example:  # a benchmark takes minutes: tests/bench/test_verify_table.py
                continue
            small = SMALL.get(name, [])[2 * ("retrieval" in example) :]
            code, _, err = say(*words_of(example), *small)
            assert code == 0 or (name == "check" and not err), (example, err)
    assert (place / "pages" / "index.html").is_file()


@pytest.mark.slow
def test_examples_with_maps_and_training_work(say: Say, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of each verb; `frontier` takes minutes however small, and is only read."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(sources, "_lite", cache(sources._lite))
    monkeypatch.setattr(learn, "LEAST_COMPARED", 2)
    for name in ("invert", "steer", "learn-prior", "learn-inverter"):
        example = VERBS[name][0].examples[0]  # type: ignore[attr-defined]
        code, _, err = say(*words_of(example), *SMALL[name])
        assert code == 0, (example, err)


def test_the_tab_key(say: Say, tmp_path: Path) -> None:
    for shell in ("bash", "zsh"):
        code, out, err = say("completion", shell)
        assert (code, err) == (0, "")
        assert "--vital.steps" in out
        assert "inverter" in out
    assert 'did you mean "bash"?' in refusal(say("completion", "bsh"))
    assert "needs a shell" in refusal(say("--tyro-print-completion"))
    if bash := shutil.which("bash"):
        (tmp_path / "script").write_text(say("completion", "bash")[1])
        assert say("--tyro-print-completion", "bash")[1].strip() == (tmp_path / "script").read_text().strip()
        asked = (
            f"source {tmp_path / 'script'}; COMP_WORDS=(entoptic learn ''); COMP_CWORD=2; "
            "$(complete -p entoptic | sed 's/.*-F \\([^ ]*\\).*/\\1/') entoptic '' learn; echo \"${COMPREPLY[@]}\""
        )
        answer = subprocess.run([bash, "-c", asked], capture_output=True, text=True, timeout=30).stdout
        assert {"prior", "inverter"} <= set(answer.split())

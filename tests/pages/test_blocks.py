"""Every block of README, CONTRIBUTING and docs runs as it stands, or says above it why not."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from pages.blocks import PAGES, ROOT, Block, NotUnderstood, blocks_of, read_blocks
from pages.checks import CHECKS
from pages.place import Page, read, read_command

WITH_BLOCKS = {page.relative_to(ROOT).as_posix(): blocks_of(page) for page in PAGES}
WITH_BLOCKS = {name: blocks for name, blocks in WITH_BLOCKS.items() if blocks}
CODE = ("python", "bash", "console")


def run(name: str, place: Path, slow: bool) -> None:
    """Runs the blocks of a page in their order."""
    page = Page()
    for block in WITH_BLOCKS[name]:
        if block.language not in CODE:
            about(block, page)
        elif block.marker.parse_only or (block.marker.slow and not slow):
            read(block)
        else:
            page.run(block)
    if name in CHECKS and (slow or not any(block.marker.slow for block in WITH_BLOCKS[name])):
        CHECKS[name](page, place)


def about(block: Block, page: Page) -> None:
    """Checks a block that is no code."""
    if block.language == "json":
        json.loads(block.code)
    elif block.language == "toml":
        tomllib.loads(block.code)
    elif block.language == "yaml":
        yaml.safe_load(block.code)
    elif block.language == "bibtex":
        assert block.code.count("{") == block.code.count("}")
    elif block.marker.printed:
        pattern = ".*?".join(map(re.escape, block.code.strip().split("…")))
        assert re.search(pattern, page.printed, flags=re.S), f"{block} was not printed by\n{page.printed}"
    elif not block.marker.not_compared:
        raise NotUnderstood(f'{block}: text needs the marker "printed" or "not compared, WHY"')


@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_the_blocks_of_a_page_run(name: str, place: Path) -> None:
    run(name, place, slow=False)


SLOW = [name for name, blocks in WITH_BLOCKS.items() if any(block.marker.slow for block in blocks)]


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_the_slow_blocks_of_a_page_run(name: str, place: Path) -> None:
    run(name, place, slow=True)


INLINE = [
    pytest.param(command, id=f"{page.name}-{i}")
    for page in PAGES
    for i, command in enumerate(re.findall(r"`(entoptic [a-z][^`]*)`", page.read_text()))
]


@pytest.mark.parametrize("command", INLINE)
def test_commands_inside_sentences_have_options_that_exist(command: str) -> None:
    from entoptic.cli.option_table import all_options
    from entoptic.cli.verbs import FAMILIES, VERBS

    words = command.replace("\n", " ").split()
    if (
        words[1:2] == ["help"] or words[1:] in [[one] for one in FAMILIES] or words[-1] == "--vi"
    ):  # a page of help, and half a word
        return
    name = "-".join(words[1:3]) if words[1] in FAMILIES else words[1]
    assert name in VERBS, command
    known = {flag for option in all_options(VERBS[name][0]) for flag in option.flags} | {"--help"}
    for word in words:
        if word.startswith("--"):
            assert word.partition("=")[0] in known or "--smooth" in word, f"{name} has no {word}"


def test_every_reason_is_told() -> None:
    """What does not run says why, and it is the smaller part."""
    kept = [block for blocks in WITH_BLOCKS.values() for block in blocks if block.marker.parse_only]
    assert all(len(block.marker.parse_only.split()) >= 3 for block in kept)
    run = [block for blocks in WITH_BLOCKS.values() for block in blocks if block.language in CODE]
    assert len(kept) <= len(run) / 3, [str(block) for block in kept]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```\nentoptic ls\n```\n", 'a block of ""'),
        ("```ruby\n1\n```\n", 'a block of "ruby"'),
        ("<!-- test: fast -->\n```bash\nls\n```\n", 'the marker "fast"'),
        ("<!-- test: parse only -->\n```bash\nls\n```\n", 'the marker "parse only"'),
    ],
)
def test_a_block_that_the_tests_do_not_understand_fails(text: str, message: str) -> None:
    with pytest.raises(NotUnderstood, match=message):
        read_blocks(text)


def test_a_command_that_is_not_ours_needs_a_marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = read_blocks("```bash\nrm -r runs\n```\n")
    with pytest.raises(NotUnderstood, match="is no command of Entoptic"):
        Page().run(block)
    with pytest.raises(NotUnderstood, match="do not know the program"):
        read_command("rm -r runs")
    (stale,) = read_blocks("<!-- test: --stepps 2 -->\n```bash\nentoptic ls methods\n```\n")
    with pytest.raises(AssertionError, match="no command takes"):
        Page().run(stale)
    (text,) = read_blocks("```text\nanything\n```\n")
    with pytest.raises(NotUnderstood, match="needs the marker"):
        about(text, Page())


def test_a_wrong_command_is_found(place: Path) -> None:
    from entoptic.errors import UserError

    with pytest.raises(UserError, match="no option --metod"):
        read_command("entoptic see builtin:lite0 logits:1 --metod maco")
    (wrong,) = read_blocks("```bash\nentoptic ls nothing:here\n```\n")
    with pytest.raises(AssertionError, match="entoptic ls nothing:here"):
        Page().run(wrong)
    with pytest.raises(AssertionError, match="no extra"):
        read_command("pip install 'entoptic[difusion]'")

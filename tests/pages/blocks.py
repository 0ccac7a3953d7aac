"""The code blocks of a page, each with what the comment above it says to the tests.

A block runs as it stands. A comment right above it may say otherwise, in clauses that semicolons divide:

    <!-- test: steps=2, bank=16 -->          Python: these numbers in place of the block's own
    <!-- test: --steps 2 --verifiers '' -->  commands: these options, where a verb has them
    <!-- test: learn: --steps 2 -->          the same for one verb alone
    <!-- test: slow -->                      only with the slow tests; read by the parser in the others
    <!-- test: parse only, WHY -->           its verbs, options and names are checked, nothing runs
    <!-- test: first, COMMAND -->            a command that runs before it
    <!-- test: printed -->                   text: what the page's blocks have printed
    <!-- test: not compared, WHY -->         text that nothing checks
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])

_FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<language>[^\n]*)\n(?P<code>.*?)^(?P=indent)(?P=fence) *$", re.M | re.S
)
_MARK = re.compile(r"<!-- test: (?P<clauses>(?:(?!-->).)*?) -->\s*\Z")
LANGUAGES = ("python", "bash", "console", "text", "json", "toml", "yaml", "bibtex")


class NotUnderstood(ValueError):
    """A block or a marker that the tests cannot read."""


@dataclass(frozen=True, kw_only=True)
class Marker:
    """What the comment above a block says."""

    numbers: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    slow: bool = False
    parse_only: str = ""
    first: tuple[str, ...] = ()
    printed: bool = False
    not_compared: str = ""


@dataclass(frozen=True, kw_only=True)
class Block:
    """One block of a page."""

    page: str
    line: int
    language: str
    code: str
    marker: Marker

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """Returns the blocks of a page in order."""
    return read_blocks(page.read_text(), page.relative_to(ROOT).as_posix())


def read_blocks(text: str, page: str = "page") -> list[Block]:
    """Returns the blocks of a text.

    Raises:
        NotUnderstood: a block without a language that the tests know, or a marker that says nothing they know.
    """
    found = []
    for match in _FENCE.finditer(text):
        line = text[: match.start()].count("\n") + 1
        language = match["language"].strip()
        if language not in LANGUAGES:
            raise NotUnderstood(f'{page}:{line}: a block of "{language}"; the tests know {", ".join(LANGUAGES)}')
        mark = _MARK.search(text[: match.start()])
        try:
            marker = read_marker(mark["clauses"] if mark else "")
        except NotUnderstood as error:
            raise NotUnderstood(f"{page}:{line}: {error}") from None
        code = re.sub(rf"^{match['indent']}", "", match["code"], flags=re.M)
        found.append(Block(page=page, line=line, language=language, code=code, marker=marker))
    return found


def read_marker(clauses: str) -> Marker:
    """Reads what stands behind `test:`."""
    said: dict[str, object] = {}
    first: list[str] = []
    options: list[str] = []
    for clause in filter(None, (one.strip() for one in clauses.split(";"))):
        head, _, rest = clause.partition(", ")
        if head in ("parse only", "not compared") and rest:
            said[head.replace(" ", "_")] = rest
        elif head == "first" and rest:
            first.append(rest)
        elif clause in ("slow", "printed"):
            said[clause] = True
        elif verb := re.fullmatch(r"(\w+): (--.*)", clause):
            options += [f"{verb[1]}:{word}" if word.startswith("--") else word for word in shlex.split(verb[2])]
        elif clause.startswith("--"):
            options += shlex.split(clause)
        elif numbers := re.fullmatch(r"(\w+=[\w.\"'-]+)(, \w+=[\w.\"'-]+)*", clause):
            said["numbers"] = dict(one.split("=") for one in numbers[0].split(", "))
        else:
            raise NotUnderstood(f'the marker "{clause}" says nothing that the tests know')
    return Marker(**said, first=tuple(first), options=tuple(options))  # type: ignore[arg-type]


def commands_of(code: str) -> list[str]:
    """The commands of a block: lines, continued behind a backslash or inside quotes, without comments alone on a line."""
    found: list[str] = []
    whole = ""
    for line in code.splitlines():
        whole += line if not whole else "\n" + line
        if whole.endswith("\\"):
            whole = whole[:-1]
            continue
        if whole.strip() and not whole.lstrip().startswith("#"):
            found.append(whole.strip())
        whole = ""
    return found

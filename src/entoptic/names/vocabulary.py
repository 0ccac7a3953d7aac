"""Words that units may be called: common words for what can be seen, without the names of the network's own classes.

A map that was trained on class names gives them back. So a class's name, its synonyms and its hypernyms (what it is a kind of) are
left out, by WordNet; what stays was never told to the map.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from entoptic.base.files import file_exists, user_path
from entoptic.errors import Unreadable, UserError, counted, instead

LEAST = 20
"""Words below which no name can be better than 95 % of the others."""
REMOVE = ("nothing", "names", "synonyms", "hypernyms")
"""What is left out of the words, each with what stands before it."""
_MOST_BYTES = 2**24


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Words that units may be called.

    Attributes:
        words: in the order of the alphabet.
        source: where they come from.
        remove: what was left out, one of `REMOVE`.
        removed: how many words that were.
    """

    words: tuple[str, ...]
    source: str
    remove: str
    removed: int

    @property
    def sha256(self) -> str:
        """The hash of the words."""
        return hashlib.sha256("\n".join(self.words).encode()).hexdigest()


def load_vocabulary(
    words: str | Path | Iterable[str] | None = None, *, labels: Sequence[str] = (), remove: str = "hypernyms"
) -> Vocabulary:
    """Loads words and leaves out what the classes say.

    Args:
        words: a text file with a word a line, or words; None for the shipped ones.
        labels: names of the network's classes; synonyms behind commas.
        remove: "hypernyms" (with synonyms and names), "synonyms" (with names), "names", or "nothing".

    Raises:
        UserError: the file cannot be read, or too few words are left.
    """
    if remove not in REMOVE:
        raise UserError(f'no choice "{remove[:80]}" of words to remove{instead(remove, REMOVE)}')
    if words is None:
        source, known = "shipped", _shipped()
    elif isinstance(words, (str, Path)):
        source, known = Path(words).name, _of_file(user_path(words))
    else:
        source, known = "given", list(words)
    known = sorted({word for text in known if (word := _plain(text))})
    gone = _said_by(labels, remove)
    kept = tuple(word for word in known if not {word, _singular(word)} & gone)
    if len(kept) < LEAST:
        raise UserError(
            f"{counted(len(kept), 'word')} of {len(known)} are left once the classes' {remove} are taken out; names need "
            f"{LEAST}, so give more words (--words FILE), or take out less (--remove names)"
        )
    return Vocabulary(words=kept, source=source, remove=remove, removed=len(known) - len(kept))


def _of_file(file: Path) -> list[str]:
    try:
        if not file_exists(file):
            raise UserError(f"there is no file {file} of words; it has a word a line")
        if file.stat().st_size > _MOST_BYTES:
            raise UserError(f"{file} is too large for a list of words (at most {_MOST_BYTES // 2**20} MiB)")
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        raise Unreadable(f"{file} cannot be read as a list of words; it is UTF-8 text, a word a line") from None
    return [line for line in text.splitlines() if not line.startswith(("#", "["))]


def _shipped() -> list[str]:
    things, attributes = (_data(name).decode() for name in ("words.txt", "attributes.txt"))
    return [
        line.partition("\t")[0] for line in f"{things}\n{attributes}".splitlines() if not line.startswith(("#", "["))
    ]


def _data(name: str) -> bytes:
    return resources.files("entoptic.names").joinpath(name).read_bytes()


def _plain(text: str) -> str:
    return " ".join(text.replace("_", " ").lower().split())


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _said_by(labels: Sequence[str], remove: str) -> set[str]:
    """Words that the classes' names say already."""
    if remove == "nothing":
        return set()
    names = {_plain(part) for label in labels for part in label.split(",")} - {""}
    if remove == "names":
        return names | set(map(_singular, names))
    lemmas, parents, senses = _wordnet()
    found = set(names)
    for name in names:
        own = senses.get(name, ())
        found.update(word for synset in own for word in lemmas[synset])
        if remove == "hypernyms":
            head = name.rpartition(" ")[2]
            if not own and head != name:  # a red circle is a circle
                own = senses.get(head, ())
                found.add(head)
                found.update(word for synset in own for word in lemmas[synset])
            found.update(word for synset in _above(own, parents) for word in lemmas[synset])
    return found | set(map(_singular, found))


def _above(synsets: Collection[int], parents: Sequence[tuple[int, ...]]) -> set[int]:
    seen: set[int] = set()
    todo = list(synsets)
    while todo:
        for parent in parents[todo.pop()]:
            if parent not in seen:
                seen.add(parent)
                todo.append(parent)
    return seen


@cache
def _wordnet() -> tuple[list[tuple[str, ...]], list[tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Lemmas and hypernyms of each synset by its number, and the synsets of each lemma."""
    lines = [line.split("\t") for line in gzip.decompress(_data("synsets.txt.gz")).decode().splitlines()]
    place = {int(number): i for i, (number, _, _) in enumerate(lines)}
    lemmas = [tuple(_plain(word) for word in words.split("|")) for _, words, _ in lines]
    parents = [tuple(place[int(p)] for p in above.split() if int(p) in place) for _, _, above in lines]
    senses: dict[str, list[int]] = {}
    for i, words in enumerate(lemmas):
        for word in words:
            senses.setdefault(word, []).append(i)
    return lemmas, parents, {word: tuple(some) for word, some in senses.items()}

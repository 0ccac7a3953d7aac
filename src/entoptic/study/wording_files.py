"""The texts that people read: one JSON file a language, all with the same keys. A further file is a further language."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from entoptic.base.files import user_path
from entoptic.base.records import parse_json
from entoptic.errors import NotAvailable, Unreadable, UserError, instead
from entoptic.study.records import Study

FOLDER = "wording"
SHIPPED = Path(__file__).parent / "wording"
REFERENCE = "en"
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


def wording_bytes(languages: Sequence[str] = (), folder: str | Path | None = None) -> dict[str, bytes]:
    """Returns the texts of each language as the bytes of its file, checked against the English ones.

    Args:
        languages: that are wanted; none takes all.
        folder: of further languages, or of other texts for those that there are.

    Raises:
        UserError: there is no such language, or a file lacks a text or a placeholder.
    """
    files = {file.stem: file for file in sorted(SHIPPED.glob("*.json"))}
    reference = _texts(files[REFERENCE].read_bytes(), files[REFERENCE])
    if folder is not None:
        own = {file.stem: file for file in sorted(user_path(folder).glob("*.json"))}
        if not own:
            raise NotAvailable(f"{folder} holds no texts; expected files such as fr.json")
        files |= own
    for language in languages:
        if language not in files:
            raise UserError(f'no texts in the language "{language[:80]}"{instead(language, files)}')
    found = {}
    for language in languages or sorted(files, key=lambda one: (one != REFERENCE, one)):
        if not _LANGUAGE.fullmatch(language):
            raise UserError(f'"{language[:80]}" is no language code; a file of texts is called like fr.json')
        content = files[language].read_bytes()
        _check(_texts(content, files[language]), reference, files[language])
        found[language] = content
    return found


def hashes_of(texts: Mapping[str, bytes]) -> dict[str, str]:
    """Returns the sha256 of each language's file."""
    return {language: hashlib.sha256(content).hexdigest() for language, content in texts.items()}


def read_wording(study_folder: Path, study: Study) -> dict[str, dict[str, str]]:
    """Returns the registered texts by language.

    Raises:
        UserError: a file is missing, or is not the one that was registered.
    """
    found = {}
    for language, registered in study.wording.items():
        file = study_folder / FOLDER / f"{language}.json"
        if not _LANGUAGE.fullmatch(language) or not file.is_file():
            raise NotAvailable(f"{study_folder} lacks the texts of the language {language!r}")
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != registered:
            raise Unreadable(f"{file} was changed after the study was registered; build the study again")
        found[language] = _texts(content, file)
    return found


def _texts(content: bytes, file: Path) -> dict[str, str]:
    record = parse_json(content, file)
    for key, text in record.items():
        if not isinstance(text, str) or not text.strip():
            raise Unreadable(f'{file} has no text for "{key}"')
    return json.loads(content)


def _check(texts: Mapping[str, str], reference: Mapping[str, str], file: Path) -> None:
    for key, text in reference.items():
        if key not in texts:
            raise Unreadable(f'{file} has no text for "{key}" (in English: "{text[:60]}")')
        if set(_PLACEHOLDER.findall(texts[key])) != set(_PLACEHOLDER.findall(text)):
            raise Unreadable(
                f'{file}: the text of "{key}" must have the placeholders of the English one, "{text[:60]}"'
            )

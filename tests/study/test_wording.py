"""The texts of the pages: complete in every language, and all of them used."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from entoptic.errors import UserError
from entoptic.study.records import TASKS
from entoptic.study.wording_files import SHIPPED, hashes_of, wording_bytes

ENGLISH = json.loads((SHIPPED / "en.json").read_text())
PAGES = SHIPPED.parent / "pages"


def test_english_and_german_are_shipped_and_complete() -> None:
    texts = wording_bytes()
    assert list(texts) == ["en", "de"]
    german = json.loads(texts["de"])
    assert list(german) == list(ENGLISH)
    assert not [key for key, text in ENGLISH.items() if german[key] == text and " " in text]
    assert len(set(hashes_of(texts).values())) == 2


def test_every_text_is_used_and_every_use_has_a_text() -> None:
    code = "".join(file.read_text() for file in PAGES.glob("*.js"))
    used = set(re.findall(r'(?:text|button|once)\("([a-z0-9.-]+)"', code)) | set(
        re.findall(r'"((?:trial|error|bundle|finished)\.[a-z0-9.-]+)"', code)
    )
    assert used <= set(ENGLISH), used - set(ENGLISH)
    built = (
        "task.",
        "trial.alt.",
        "trial.confidence.",
        "consent.",
        "stopped.",
        "finished.",
        "screened-out.",
        "withdrawn.",
        "language.",
    )
    assert not [key for key in ENGLISH if key not in code and not key.startswith(built)]
    for task in TASKS:
        assert {f"task.{task}.{part}" for part in ("title", "how", "question")} <= set(ENGLISH)


def test_a_further_language_is_a_further_file(tmp_path: Path) -> None:
    (tmp_path / "fr.json").write_text(json.dumps({**ENGLISH, "language.name": "Français"}))
    assert list(wording_bytes(folder=tmp_path)) == ["en", "de", "fr"]
    assert list(wording_bytes(["fr"], tmp_path)) == ["fr"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"trial.send": None}, 'no text for "trial.send"'),
        ({"trial.send": " "}, 'no text for "trial.send"'),
        ({"break.text": "a pause"}, "placeholders of the English one"),
    ],
)
def test_incomplete_languages_are_refused(tmp_path: Path, change: dict[str, str | None], said: str) -> None:
    texts = {key: text for key, text in {**ENGLISH, **change}.items() if text is not None}
    (tmp_path / "fr.json").write_text(json.dumps(texts))
    with pytest.raises(UserError, match=said):
        wording_bytes(folder=tmp_path)


def test_other_bad_input(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no texts"):
        wording_bytes(folder=tmp_path)
    with pytest.raises(UserError, match='no texts in the language "xx"'):
        wording_bytes(["xx"])
    (tmp_path / "not a code.json").write_text(json.dumps(ENGLISH))
    with pytest.raises(UserError, match="no language code"):
        wording_bytes(folder=tmp_path)

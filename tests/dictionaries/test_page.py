"""The how-to of dictionaries runs as it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from entoptic.dictionaries.recipe import DictionaryRecipe
from entoptic.units.sparse import Sparse
from test_docs import ROOT, run_page


def test_the_how_to_runs(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").symlink_to(photo_folder)
    found = run_page(ROOT / "docs" / "how-to" / "learn-a-dictionary.md", steps=8)
    assert isinstance(found["again"], Sparse)
    assert found["again"].found["layout"] == "SAELens"
    assert found["recipe"] == DictionaryRecipe(features=64, active=4, steps=8, batch_size=64, buffer=512)
    assert "explained_each" in capsys.readouterr().out
    assert (tmp_path / "dictionaries" / "small" / "sheet.png").is_file()
    assert (tmp_path / "dictionaries" / "read.safetensors").is_file()

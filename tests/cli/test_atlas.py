"""`entoptic atlas`: what it prints, and where the page is."""

from __future__ import annotations

from pathlib import Path

import pytest

from entoptic.atlases import mercat
from entoptic.cli import main


def test_it_prints_how_faithful_the_map_is(
    tiny_student: str,
    photo_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mercat, "STEPS", 3)
    words = [
        "atlas",
        tiny_student,
        "stage2",
        "--photos",
        str(photo_folder),
        "--out",
        str(tmp_path / "run"),
        "--device",
        "cpu",
    ]
    assert main([*words, "--map", "mercat"]) == 0
    said = capsys.readouterr().out
    for name in ("neighbours", "distances", "density", "by chance"):
        assert name in said
    assert "40 photos of stage2" in said
    page = Path(said.split("look at ")[1].strip())
    assert page.is_file()
    assert main(["gallery", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.strip().endswith("atlases.html")
    assert main([*words, "--map", "mercat", "--colour", "clas"]) == 2
    assert 'did you mean "class"' in capsys.readouterr().err
    assert main([*words, "--map", "tnse"]) == 2
    assert 'did you mean "tsne"' in capsys.readouterr().err

"""`entoptic check`."""

from __future__ import annotations

from pathlib import Path

from cli.conftest import Say, refusal


def test_check(say: Say, photo_folder: Path) -> None:
    code, out, _ = say("check", "tiny:net", "--photos", photo_folder, "--n", 8)
    assert code in (0, 2)
    assert "card of tiny:net" in out
    assert "must be at least 1" in refusal(say("check", "tiny:net", "--photos", photo_folder, "--n", 0))

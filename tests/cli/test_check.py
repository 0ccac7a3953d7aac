"""`entoptic check`."""

from __future__ import annotations

from pathlib import Path

from cli.conftest import Say, refusal
from conftest import tiny_card, tiny_module
from entoptic.images.preflight import preflight
from entoptic.models.model import Model


def test_check(say: Say, photo_folder: Path) -> None:
    code, out, _ = say("check", "tiny:net", "--photos", photo_folder, "--n", 8)
    assert code in (0, 2)
    assert "card of tiny:net" in out
    told: list[tuple[str, int, int]] = []
    model = Model(tiny_module(), tiny_card(), device="cpu")
    preflight(model, photo_folder, n=8, progress=lambda *one: told.append(one))
    assert told[0] == ("reading photos", 0, 8)
    assert "trying the card" in {what for what, _, _ in told}
    assert "trying blue and red swapped" in {what for what, _, _ in told}
    assert all(done <= total for _, done, total in told)
    assert told[-1][1] == told[-1][2]
    assert "must be at least 1" in refusal(say("check", "tiny:net", "--photos", photo_folder, "--n", 0))

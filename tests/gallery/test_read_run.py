"""Pictures that cannot be shown are left out with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from entoptic.errors import UserError
from entoptic.gallery.site import build
from fake_run import FakeRun, Page, data_of, unit_page


def _no_json(file: Path) -> None:
    file.with_suffix(".json").write_text('{"format": 1,')


def _no_sidecar(file: Path) -> None:
    file.with_suffix(".json").unlink()


def _no_picture(file: Path) -> None:
    file.unlink()


def _not_png(file: Path) -> None:
    file.write_bytes(b"GIF89a" + b"\0" * 40)


def _edited(**changes: Any) -> Callable[[Path], None]:
    def edit(file: Path) -> None:
        path = file.with_suffix(".json")
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_no_json, "not valid JSON"),
        (_no_sidecar, "its sidecar is missing"),
        (_no_picture, "there is a sidecar but no picture"),
        (_not_png, "not a PNG"),
        (_edited(unit=None), 'no "unit"'),
        (_edited(sample="x"), 'no "sample" number'),
        (_edited(image={}), 'no "image"'),
        (_edited(image={"file": "../../../secret.png"}), "names another file"),
        (_edited(evidence=[{"name": "rank", "value": "one"}]), '"rank" in its sidecar is not a number'),
        (_edited(evidence=[7]), "a measurement without a name"),
    ],
)
def test_a_broken_picture_is_left_out_and_listed(fake: FakeRun, damage: Callable[[Path], None], reason: str) -> None:
    fake.add()
    broken = fake.add(method="maco")
    damage(broken)
    index = build(fake.folder)
    text = Page(index).text
    assert f"left out: logits-497/{broken.stem}" in text
    assert reason in text
    assert len(data_of(index)["units"][0]["pictures"]) == 1


@pytest.mark.parametrize(
    "junk",
    [
        {"trace": 7},
        {"trace": {"loss": 3, "notes": 4}},
        {"config": []},
        {"model": None},
        {"references": "x"},
        {"versions": [1]},
        {"evidence": None},
    ],
)
def test_optional_parts_in_another_form_cost_only_themselves(fake: FakeRun, junk: dict[str, Any]) -> None:
    fake.add(**junk)
    assert "church" in unit_page(build(fake.folder)).text


def test_no_pictures_and_no_folder_are_user_errors(fake: FakeRun, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no picture to show"):
        build(fake.folder)
    _no_json(fake.add())
    with pytest.raises(UserError, match="left out"):
        build(fake.folder)
    with pytest.raises(UserError, match="no run folder"):
        build(tmp_path / "absent")
    fake.add(method="maco")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the gallery"):
        build(fake.folder, tmp_path / "file")


def test_a_missing_run_file_is_noted_and_not_fatal(fake: FakeRun) -> None:
    fake.add()
    (fake.folder / "run.json").unlink()
    assert "left out: run.json (the file is missing)" in Page(build(fake.folder)).text

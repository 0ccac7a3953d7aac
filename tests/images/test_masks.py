"""Which mask is of which photo."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import tiny_card
from entoptic.errors import Unreadable, UserError
from entoptic.images.masks import Masks, mask_folder, read_mask


def masks(folder: Path, *names: str) -> Masks:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return Masks.find(folder)


def test_a_mask_of_another_class_is_of_no_photo(tmp_path: Path) -> None:
    found = masks(tmp_path, "cat/3.png", "dog/4.png")
    assert found.of("cat/3.jpg") == tmp_path / "cat/3.png"
    assert found.of("dog/3.jpg") is None
    assert found.of("dog/4.JPEG") == tmp_path / "dog/4.png"


def test_masks_in_no_folder_are_of_photos_in_any(tmp_path: Path) -> None:
    found = masks(tmp_path, "a.png", "cat/a.png", "cat/b.png", "dog/c.png", "cat/c.png")
    assert found.of("dog/a.jpg") == tmp_path / "a.png"
    assert found.of("cat/a.jpg") == tmp_path / "cat/a.png"
    assert found.of("b.jpg") == tmp_path / "cat/b.png"  # photos in no folder
    assert found.of("c.jpg") is None  # which of the two?


def test_what_is_no_mask_says_so(tmp_path: Path) -> None:
    masks(tmp_path, "a.png")
    with pytest.raises(Unreadable, match=r"the mask .*a\.png cannot be read"):
        read_mask(tmp_path / "a.png", tiny_card())
    with pytest.raises(UserError, match=r"there is no folder .*nowhere"):
        mask_folder(tmp_path / "nowhere")
    assert mask_folder(None) is None

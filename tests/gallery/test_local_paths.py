"""No folder of the machine that made a run is on its pages."""

from __future__ import annotations

import json

import pytest

from entoptic.gallery.local_paths import without_folders
from entoptic.gallery.site import build
from fake_run import FakeRun


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fmap(bn2)</home/me/my photos/a.jpg>", "fmap(bn2)<a.jpg>"),
        ("dict(/data/x y/church.safetensors):0", "dict(church.safetensors):0"),
        ("entoptic invert m bn2 '/home/me/my photos/a.jpg' --out /data/run", "entoptic invert m bn2 'a.jpg' --out run"),
        ("photos:/data/imagenet --photos=/data/x", "photos:imagenet --photos=x"),
        (r"C:\Users\me\a.jpg", "a.jpg"),
        (r"fmap(bn2)<C:\Users\me\a.jpg>", "fmap(bn2)<a.jpg>"),
        ("/a.jpg", "a.jpg"),
        ("https://arxiv.org/abs/2503.22399", "https://arxiv.org/abs/2503.22399"),
        ("church/1.jpg and ../pictures/a/b.png", "church/1.jpg and ../pictures/a/b.png"),
        ("either / or, 1/2, </b>", "either / or, 1/2, </b>"),
    ],
)
def test_absolute_paths_are_cut_down_to_names(text: str, expected: str) -> None:
    assert without_folders(text) == expected


def test_no_page_names_a_folder_of_the_machine(fake: FakeRun) -> None:
    photo = "/home/someone/secret/a.jpg"
    command = f"entoptic invert m bn2 {photo} --photos '/home/someone/my secret/x'"
    fake.add(unit=f"fmap(bn2)<{photo}>", method="invert", label=photo, command=command, references={"source": photo})
    fake.add(command=command, config={"path": photo}, model={"name": f"file:{photo}", "weights_sha256": "ab" * 32})
    fake.surround(strongest=[{"file": "top-1.jpg", "photo": photo, "label": "", "value": 1.0}])
    fake.cost(prior={"name": f"file:{photo}"}, command=command)
    # Folders of pictures may repeat a photo's path as words; that is the run's, and no path.
    index = build(fake.folder)
    for path in index.parent.iterdir():
        text = path.read_text(encoding="utf-8")
        assert "/someone" not in text, path.name
        assert str(fake.folder) not in text, path.name
        assert str(fake.folder) not in json.dumps(text), path.name

"""Paths of a machine in texts, commands and records."""

from __future__ import annotations

import socket

import pytest

from entoptic.runs.scrub import Scrubber, name_of

RECORD = {
    "unit": "fmap(stage2)</home/me/my photos/a.png>", "photos": "data/sets/birds", "index": "/scratch/index 1",
    "photo": {"path": "/home/me/my photos/a.png", "sha256": "0123456789abcdef"}, "prior": "file:/models/prior",
    "config": {"paste": "other/b.png", "paste_sha256": "fedcba9876543210"}, "model": {"name": "file:nets/x.safetensors"},
    "inverter": {"name": "file:/models/inverter", "source": "file:/models/inverter"},
    "measured_with": {"verifiers": {"file:/models/judge.safetensors": "ab"}},
}  # fmt: skip


@pytest.fixture
def scrubber() -> Scrubber:
    found = Scrubber()
    found.learn(RECORD)
    return found


@pytest.mark.parametrize(("text", "plain"), [
    ("the 3 photos of church in data/sets/birds", "the 3 photos of church in birds"),
    ("rank 1 of 192 samples of file:/models/prior, score -4.1", "rank 1 of 192 samples of file:prior, score -4.1"),
    ("no file /var/data/x.y (missing)", "no file x.y (missing)"), ("/scratch/index 1 is gone", "index 1 is gone"),
    (r"C:\Users\me\photo.png cannot be read", "photo.png cannot be read"), ("~/data/z.png", "z.png"),
    ("see https://example.org/a/b and doi:10.1038/s41586", "see https://example.org/a/b and doi:10.1038/s41586"),
    ("timm:resnet50.a1_in1k and hf:facebook/dit, n/a, 3 / 4", "timm:resnet50.a1_in1k and hf:facebook/dit, n/a, 3 / 4"),
    ("fmap(stage2)</home/me/my photos/a.png>", "fmap(stage2)<a-01234567.png>"), ("pictures/logits-0/a.png",) * 2,
    ("/home/me/my photos/a.png decoded", "a-01234567.png decoded"), ("in /home/me/my photos/b/c.png: no", "in c.png: no"),
    ("/home/me/my photos, twice", "my photos, twice"), ("/home/me/my photographs", "my photographs"),
    ("other/b.png", "b-fedcba98.png"),
    ("in data/sets/birds/robin/1.png", "in 1.png"),
])  # fmt: skip
def test_texts(scrubber: Scrubber, text: str, plain: str) -> None:
    assert scrubber.text(text) == plain


def test_commands_keep_their_words(scrubber: Scrubber) -> None:
    command = (
        "entoptic invert file:nets/x.safetensors stage2 '/home/me/my photos/a.png' --paste other/b.png --out '/scratch/a b/c d' "
        "--inverter file:/models/inverter 'dict(/x/y.safetensors):3' 'logits:\"a/b\"'"
    )
    assert scrubber.command(command) == (
        "entoptic invert file:x.safetensors stage2 a-01234567.png --paste b-fedcba98.png --out 'c d' "
        "--inverter file:inverter 'dict(y.safetensors):3' 'logits:\"a/b\"'"
    )
    assert scrubber.command("broken 'quote /a/b") == "broken 'quote b"


def test_records_and_their_names(scrubber: Scrubber) -> None:
    plain = scrubber.record(RECORD)
    assert plain["unit"] == "fmap(stage2)<a-01234567.png>"
    assert plain["measured_with"] == {"verifiers": {"file:judge.safetensors": "ab"}}
    assert (plain["photos"], plain["index"], plain["prior"]) == ("birds", "index 1", "file:prior")
    assert plain["photo"]["sha256"] == RECORD["photo"]["sha256"]  # type: ignore[index]
    assert "/" not in "".join(str(plain))
    host = socket.gethostname()
    said = scrubber.record({"notes": [f"pid 3 on {host}"], "label": host, "n": 3, "none": None})
    assert said["label"] == host
    assert said["notes"] == (["pid 3 on HOST"] if len(host) >= 4 and host != "localhost" else [f"pid 3 on {host}"])


def test_names_of_photos_that_could_not_be_read_stay_at_home(scrubber: Scrubber) -> None:
    told = {
        "photos": "data/sets/birds",
        "unread": "2 of 9 photos could not be read: robin/mine.jpg (empty file); b.jpg (empty)",
    }
    assert scrubber.record(told) == {"photos": "birds", "unread": "2 of 9 photos could not be read"}


def test_names_of_paths() -> None:
    assert [name_of(p) for p in ("/a/b/", "a", r"C:\x\y", "/", "")] == ["b", "a", "y", "", ""]
    assert Scrubber().unit("dir(/a/b.safetensors#stripes)@max") == "dir(b.safetensors#stripes)@max"
    assert Scrubber().unit("logits:1 - 0.5*dict(/a/b.st):3") == "logits:1 - 0.5*dict(b.st):3"
    assert Scrubber().record({"parts": [{"unit": "dir(/a/b.st#x)"}], "noise_of": "-dict(/a/b.st):3"}) == {
        "parts": [{"unit": "dir(b.st#x)"}],
        "noise_of": "-dict(b.st):3",
    }
    assert Scrubber().unit("not a /unit/at all") == "not a unit at all".replace("unit at", "at")

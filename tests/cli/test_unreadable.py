"""Folders that one may not look into: one sentence, exit code 2, from every verb that is given one."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import Say, refusal
from entoptic.base.files import file_exists, folder_exists, path_exists

VERBS = {
    "verify": ("verify", "LOCKED"),
    "ls": ("ls", "LOCKED"),
    "gallery": ("gallery", "LOCKED"),
    "status": ("status", "LOCKED"),
    "merge": ("merge", "LOCKED", "LOCKED", "--out", "merged"),
    "export": ("export", "LOCKED", "--out", "public"),
    "figure": ("figure", "LOCKED", "--out", "a.pdf"),
    "push": ("push", "LOCKED", "folder:shared"),
    "pull": ("pull", "folder:LOCKED", "--out", "pulled"),
    "study build": ("study", "build", "LOCKED", "--out", "study"),
    "study serve": ("study", "serve", "LOCKED"),
    "study simulate": ("study", "simulate", "LOCKED"),
    "study export": ("study", "export", "LOCKED", "--out", "bundle"),
    "see --out": ("see", "tiny:net", "logits:0", "--method", "fourier", "--steps", "1", "--out", "LOCKED"),
    "see --index": ("see", "tiny:net", "logits:0", "--method", "fourier", "--index", "LOCKED"),
    "see --photos": ("see", "tiny:net", "logits:0", "--method", "fourier", "--photos", "LOCKED"),
    "see of a file": ("see", "file:LOCKED", "logits:0", "--method", "fourier"),
    "see of a dictionary": ("see", "tiny:net", "dict(LOCKED):1", "--method", "fourier"),
    "interpolate --out": ("interpolate", "tiny:net", "logits:0", "logits:1", "--method", "fourier", "--out", "LOCKED"),
    "circuit --steer": ("circuit", "--steer", "LOCKED"),
    "learn dictionary --from": ("learn", "dictionary", "tiny:net", "stage1", "--from", "LOCKED", "--out", "learned"),
    "frontier --prior": ("frontier", "tiny:net", "logits:0", "--prior", "file:LOCKED"),
}


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run that nobody may look into, neither the superuser."""
    folder = tmp_path / "locked"
    (folder / "run").mkdir(parents=True)
    (folder / "run.json").write_text("{}")

    def refusing(real: Callable[..., Any], *, inside: bool) -> Callable[..., Any]:
        def call(path: Any = ".", *rest: Any, **more: Any) -> Any:
            if isinstance(path, str | bytes | os.PathLike):
                where = Path(os.path.abspath(os.fsdecode(path)))
                if folder in where.parents or (where == folder and not inside):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return real(path, *rest, **more)

        return call

    for name in ("stat", "lstat", "open", "mkdir", "readlink"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name), inside=True))
    for name in ("scandir", "listdir"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name), inside=False))
    monkeypatch.setattr("builtins.open", refusing(open, inside=True))
    monkeypatch.setattr("io.open", refusing(open, inside=True))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.parametrize("deeper", ["", "/run"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_folder_that_may_not_be_read_is_one_sentence(say: Say, locked: Path, verb: str, deeper: str) -> None:
    words = [word.replace("LOCKED", f"locked{deeper}") for word in VERBS[verb]]
    assert "locked" in refusal(say(*words))


def test_a_folder_that_may_not_be_read_is_named_as_such(say: Say, locked: Path) -> None:
    assert "; locked may not be looked into" in refusal(say("verify", "locked"))


def test_what_may_not_be_seen_is_not_there(locked: Path) -> None:
    with pytest.raises(PermissionError):
        (locked / "run.json").stat()
    assert not file_exists(locked / "run.json")
    assert not folder_exists(locked / "run")
    assert not path_exists(locked / "run.json")
    assert folder_exists(locked)
    assert not path_exists("\0")

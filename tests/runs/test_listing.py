"""Whatever a record says and no measurement depends on is hashed: `verify` finds an edit of it, and nothing else."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import tiny_card, tiny_module
from entoptic.base import files
from entoptic.errors import UserError
from entoptic.gallery.site import build
from entoptic.models.model import Model
from entoptic.runs.export import export_run
from entoptic.runs.listing import FILE, SEAL, seal, was_edited
from entoptic.runs.merge import merge_runs
from entoptic.runs.results import write_result
from entoptic.runs.see import see
from entoptic.runs.status import status
from entoptic.runs.store import Run
from entoptic.runs.verify import Verification, verify


def network() -> Model:
    return Model(tiny_module(), tiny_card(), device="cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two units with films, and one that failed."""
    folder = tmp_path_factory.mktemp("listing") / "r"
    with pytest.warns(UserWarning, match="matching|photos"):
        see(
            network(), ["logits:0", "stage1:3"], method="fourier,retrieval", steps=2, film="gif", out=folder, progress=False,
            verifiers="",
        )  # fmt: skip
    run = Run.open(folder)
    with run.writing({}):
        write_result(run, "notes", "one", "0" * 64, files={"a.txt": b"a"}, about={"number": 3})
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "r")


def found_in(folder: Path) -> Verification:
    return verify(folder, model=network())


def of(folder: Path, pattern: str) -> Path:
    return min(folder.glob(pattern))


def edit(pattern: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edited(folder: Path) -> None:
        file = of(folder, pattern)
        record = json.loads(file.read_text())
        change(record)
        file.write_text(json.dumps(record))

    return edited


def swap(pattern: str) -> Callable[[Path], None]:
    def swapped(folder: Path) -> None:
        one, other = sorted(folder.glob(pattern))[:2]
        first, second = one.read_bytes(), other.read_bytes()
        one.write_bytes(second)
        other.write_bytes(first)

    return swapped


def lines(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        file = folder / "metadata.jsonl"
        file.write_bytes(b"".join(change(file.read_bytes().splitlines(keepends=True))))

    return changed


SIDECAR, RESULT = "pictures/logits-0/*.json", "results/*/*/result.json"
FOUND: dict[str, tuple[Callable[[Path], object], str]] = {
    "the command": (edit(SIDECAR, lambda r: r.update(command=r["command"] + " --n 9")), "its command is not the one that"),
    "a version": (edit(SIDECAR, lambda r: r["versions"].update(torch="1.0")), "its sidecar was changed after it was written"),
    "no versions": (edit(SIDECAR, lambda r: r.pop("versions")), "its sidecar was changed"),
    "a number of the trace": (edit(SIDECAR, lambda r: r["trace"].update(seconds=0.5)), "its sidecar was changed"),
    "the version of its evidence": (edit(SIDECAR, lambda r: r["measured_with"].update(evidence=1)), "its sidecar was changed"),
    "evidence twice": (edit(SIDECAR, lambda r: r["evidence"].append(r["evidence"][0])), "its sidecar was changed"),
    "a format": (edit(SIDECAR, lambda r: r.update(format=7)), "its sidecar was changed"),
    "a version, and no hash": (
        edit(SIDECAR, lambda r: (r.pop(SEAL), r["versions"].update(torch="1.0"))), f"a sidecar was changed after {FILE} listed it",
    ),
    "a version, and its hash": (
        edit(SIDECAR, lambda r: (r["versions"].update(torch="1.0"), r.update({SEAL: seal(r)}))),
        f"a sidecar was changed after {FILE} listed it",
    ),
    "a number of a result": (edit(RESULT, lambda r: r.update(number=4)), "its record was changed after it was written"),
    "a result is gone": (lambda f: shutil.rmtree(f / "results"), f"result.json is gone, and {FILE} lists it"),
    "a film": (lambda f: of(f, "films/*/*").write_bytes(b"GIF"), ".gif was changed after the job"),
    "films swapped": (swap("films/*/*"), ".gif was changed after the job"),
    "a film is gone": (lambda f: of(f, "films/*/*").unlink(), f".gif is gone, and {FILE} lists it"),
    "another film": (lambda f: (of(f, "films/*/*").parent / "x.gif").write_bytes(b"GIF"), "x.gif was put in"),
    "the reason of a failure": (edit("failures.json", lambda r: r["failures"][0].update(text="x")), "failures.json was changed"),
    "the failures are gone": (lambda f: (f / "failures.json").unlink(), f"failures.json is gone, and {FILE} lists it"),
    "what was asked for": (edit("progress.json", lambda r: r["tasks"][0].update(asked=9)), "progress.json was changed"),
    "the progress is gone": (lambda f: (f / "progress.json").unlink(), f"progress.json is gone, and {FILE} lists it"),
    "when it was made": (edit("run.json", lambda r: r.update(created="1999")), "run.json was changed"),
    "the list is gone": (lambda f: (f / FILE).unlink(), f"{FILE} is not there, and the job that wrote the run finished"),
    "the list is cut": (lambda f: (f / FILE).write_bytes((f / FILE).read_bytes()[:50]), f"{FILE} cannot be read"),
    "the list is of another run": (edit(FILE, lambda r: r.update(pictures=99)), "2 pictures now, 99 then"),
    "rows in another order": (lines(lambda rows: rows[::-1]), "metadata.jsonl was changed"),
    "a row twice": (lines(lambda rows: [*rows, rows[0]]), "metadata.jsonl lists it twice"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "words"), FOUND.values(), ids=FOUND)
def test_an_edit_is_found_and_said_once(run: Path, change: Callable[[Path], object], words: str) -> None:
    change(run)
    drift = found_in(run).drift
    assert any(words in line for line in drift), drift
    assert len(drift) <= (2 if "swapped" in words or words.startswith(".gif was") else 1), drift


def crlf(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.suffix in (".json", ".jsonl"):
            file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))


SAME: dict[str, Callable[[Path], object]] = {
    "nothing": lambda folder: None,
    "times of files": lambda folder: [os.utime(file, (1, 1)) for file in folder.rglob("*")],
    "line ends of another system": crlf,
    "a sidecar laid out anew": edit(SIDECAR, lambda record: None),
    "a gallery": build,
    "notes of a person": lambda folder: (folder / "README.md").write_text("mine"),
    "no lock": lambda folder: (folder / ".lock").unlink(),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_what_says_the_same_is_no_difference(run: Path, change: Callable[[Path], object]) -> None:
    change(run)
    found = found_in(run)
    assert (found.drift, found.notes) == ([], [])


def test_a_renamed_folder_a_copy_and_a_merged_run_are_whole(run: Path, tmp_path: Path) -> None:
    moved = run.rename(tmp_path / 'a folder "é" #1')
    assert found_in(moved).ok
    merged = merge_runs([moved], tmp_path / "merged")
    assert found_in(merged.path).ok
    export_run(moved, tmp_path / "public")
    assert found_in(tmp_path / "public").ok
    link = tmp_path / "link"
    link.symlink_to(moved, target_is_directory=True)
    assert found_in(link).ok


def test_a_number_of_a_public_copy_is_found(run: Path, tmp_path: Path) -> None:
    export_run(run, tmp_path / "public")
    edit(SIDECAR, lambda r: r["trace"].update(seconds=0.5))(tmp_path / "public")
    assert any("its sidecar was changed" in line for line in found_in(tmp_path / "public").drift)


def test_a_job_that_was_killed_leaves_no_list_and_the_next_one_writes_it(run: Path) -> None:
    writing = Run(run).writing({})
    writing.__enter__()
    assert not (run / FILE).exists()
    found = found_in(run)  # the job before said that it finished
    assert found.ok
    assert any("the run was interrupted, or is being written" in line for line in found.notes)
    (run / ".files.json.part").unlink()  # what a killed job leaves is deleted by the next one
    edit("progress.json", lambda r: r.update(state="running"))(run)
    assert found_in(run).ok
    writing.__exit__(None, None, None)
    assert found_in(run).notes == []


def test_a_record_from_before_is_listed_by_the_next_job(run: Path) -> None:
    edit(SIDECAR, lambda record: record.pop(SEAL))(run)
    with Run(run).writing({}):
        pass
    assert found_in(run).ok
    edit(SIDECAR, lambda record: record["versions"].update(torch="1.0"))(run)
    assert any("a sidecar was changed" in line for line in found_in(run).drift)


def test_the_hash_is_of_the_content() -> None:
    record = {"b": {10: 1.5, 9: "é\ud800"}, "a": (1, 2)}
    assert seal(record) == seal({"a": [1, 2], "b": {"9": "é\ud800", "10": 1.5}, SEAL: "of itself"})
    assert not was_edited(record)
    assert was_edited(record | {SEAL: "0"})


# --- folders that cannot be written --------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.name != ".lock"}


def forbid(monkeypatch: pytest.MonkeyPatch, folder: Path, code: int) -> None:
    """Whatever would write below a folder raises, as on a read-only or full disk."""
    inside = os.path.realpath(folder)

    def refused(real: Callable[..., Any], writes: Callable[..., bool]) -> Callable[..., Any]:
        def function(*given: Any, **named: Any) -> Any:
            place = named.get("dir") or next((one for one in given if isinstance(one, (str, os.PathLike))), "")
            if os.path.realpath(place).startswith(inside) and writes(*given):
                raise OSError(code, os.strerror(code), str(place))
            return real(*given, **named)

        return function

    always = lambda *given: True  # noqa: E731
    opens = lambda *given: bool(given[1] & (os.O_WRONLY | os.O_RDWR))  # noqa: E731
    if code == errno.EROFS:
        monkeypatch.setattr(os, "open", refused(os.open, opens))
        monkeypatch.setattr(os, "unlink", refused(os.unlink, always))
        monkeypatch.setattr(os, "replace", refused(os.replace, always))
    monkeypatch.setattr(os, "mkdir", refused(os.mkdir, always))
    monkeypatch.setattr(files.tempfile, "mkstemp", refused(files.tempfile.mkstemp, always))


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC])
def test_a_folder_that_cannot_be_written_is_one_sentence_and_stays_as_it_is(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    before = contents(tmp_path)
    with monkeypatch.context() as patched:
        forbid(patched, run, code)
        with pytest.raises(UserError) as caught:
            see(network(), "logits:0", method="fourier", steps=3, out=run, progress=False, verifiers="")
    assert "\n" not in str(caught.value)
    assert "cannot be written" in str(caught.value)
    assert contents(tmp_path) == before
    assert found_in(run).drift == []


def test_a_read_only_run_is_read(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(run)
    with monkeypatch.context() as patched:
        forbid(patched, run, errno.EROFS)
        assert found_in(run).ok
        assert status(run).pictures == 2
        assert len(Run.open(run)) == 2
        assert build(run, tmp_path / "pages").is_file()
        assert len(merge_runs([run], tmp_path / "merged")) == 2
        export_run(run, tmp_path / "public")
        with pytest.raises(UserError, match="cannot write the gallery to"):
            build(run)
    assert contents(run) == before

"""Sharing runs: a folder, and the hub by a stand-in of its HTTP interface. No photo, no path and no token leaves."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from cli.conftest import Say, refusal
from conftest import tiny_card, tiny_module
from entoptic.errors import NotAvailable, UserError
from entoptic.models.sources import SOURCES
from entoptic.runs.results import write_result
from entoptic.runs.see import see as make
from entoptic.runs.store import Run, Unwritable
from entoptic.runs.verify import verify
from entoptic.sharing import push as pushing
from entoptic.sharing import retries
from entoptic.sharing.places import SharedFile, check_name, check_names, open_place
from entoptic.sharing.pull import MARK, pull
from entoptic.sharing.push import push
from sharing.hub_stand_in import TOKEN, Hub


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    out = tmp_path_factory.mktemp("made") / "run"
    words: dict[str, Any] = {
        "photos": str(photo_folder),
        "verifiers": "",
        "steps": 2,
        "progress": False,
        "device": "cpu",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SOURCES, "tiny", lambda name, pretrained: (tiny_module(), tiny_card(name="tiny:net")))
        make("tiny:net", ["logits:0", "logits:1"], method="fourier,retrieval", out=out, **words)
    return out


@pytest.fixture
def run(made_once: Path, tmp_path: Path) -> Path:
    """Two made pictures, two photos, and small copies of photos beside them."""
    shutil.copytree(made_once, tmp_path / "run")
    assert list((tmp_path / "run" / "context").rglob("*.jpg"))
    return tmp_path / "run"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    pytest.importorskip("huggingface_hub")
    import huggingface_hub.constants as constants
    import huggingface_hub.utils._http as transport

    started = Hub().start()
    monkeypatch.setenv("HF_ENDPOINT", started.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.001)
    impatient = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
    monkeypatch.setattr(transport, "time", impatient)  # it asks again too, with waits of its own
    yield started
    started.stop()


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- a folder ---------------------------------------------------------------------------------------------------


def test_a_run_goes_to_a_folder_and_back(run: Path, tmp_path: Path, photo_folder: Path) -> None:
    shared, back = tmp_path / "shared", tmp_path / "back"
    told = push(run, f"folder:{shared}", dry_run=True)
    assert not shared.exists()
    made = push(run, f"folder:{shared}")
    assert (
        (told.files, told.size, told.sent) == (made.files, made.size, made.sent) == (told.files, told.size, made.files)
    )
    again = push(run, f"folder:{shared}")
    assert (again.sent, again.sent_size) == (0, 0)
    pulled = pull(f"folder:{shared}", back)
    assert pulled.fetched == made.files
    assert {p.unit: p.path.read_bytes() for p in Run.open(back)} == {
        p.unit: p.path.read_bytes() for p in Run.open(shared)
    }
    assert [p.method for p in Run.open(back)] == ["fourier", "fourier"]
    assert verify(back).ok
    text = b"\n".join(contents(shared).values())
    for secret in (str(tmp_path), str(photo_folder), str(Path.home())):
        assert secret.encode() not in text, secret


def test_photos_stay_out_and_leave_a_hash_and_a_caption(run: Path, tmp_path: Path, photo_folder: Path) -> None:
    made = push(run, f"folder:{tmp_path / 'shared'}")
    held = contents(tmp_path / "shared")
    assert not [name for name in held if name.startswith("context/") or "retrieval" in name]
    photos = {p.path.read_bytes() for p in Run.open(run) if p.method == "retrieval"}
    photos |= {p.read_bytes() for p in photo_folder.rglob("*.png")}
    assert not photos & set(held.values())
    rows = [json.loads(line) for line in held["withheld.jsonl"].decode().splitlines()]
    assert len(rows) == made.withheld
    of_pictures = [row for row in rows if row["kind"] == "picture"]
    assert len(of_pictures) == 2
    stored = {p.record["image"]["sha256"] for p in Run.open(run) if p.method == "retrieval"}
    assert {row["sha256"] for row in of_pictures} == stored
    assert all(
        row["caption"] and row["photo"] and row["photo_sha256"] and "/" not in row["photo"] for row in of_pictures
    )
    beside = [row for row in rows if row["kind"] == "context"]
    assert beside
    assert all(len(row["sha256"]) == 64 and "drive logits:" in row["caption"] for row in beside)
    everything = push(run, f"folder:{tmp_path / 'open'}", with_photos=True)
    assert everything.withheld == 0
    assert [name for name in contents(tmp_path / "open") if "retrieval" in name]


def test_the_card_is_written_from_the_run(run: Path, tmp_path: Path) -> None:
    push(run, f"folder:{tmp_path / 'shared'}", licence="cc-by-4.0")
    text = (tmp_path / "shared" / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    card = yaml.safe_load(head)
    assert card["license"] == "cc-by-4.0"
    assert card["size_categories"] == ["n<1K"]
    assert "fourier" in card["tags"]
    assert "| `fourier` | 2 | doi:10.23915/distill.00007 |" in body
    assert "| `tiny:net` | cc0-1.0 |" in body
    assert "withheld.jsonl" in body
    bib = (tmp_path / "shared" / "CITATION.bib").read_text()
    assert "@software{entoptic" in bib
    assert "@article{olah2017" in bib
    (picture, *_) = Run.open(tmp_path / "shared")
    assert picture.record["model"]["weights_sha256"] in bib
    assert bib.count("{") == bib.count("}")


def test_the_card_makes_a_data_set_that_loads(run: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    push(run, f"folder:{tmp_path / 'shared'}")
    found = datasets.load_dataset(str(tmp_path / "shared"), cache_dir=str(tmp_path / "cache"))
    assert {row["unit"] for row in found["train"]} == {"logits:0", "logits:1"}
    assert found["train"][0]["image"].size == (32, 32)


def test_a_space_has_the_gallery(run: Path, tmp_path: Path) -> None:
    push(run, f"folder:{tmp_path / 'space'}", space=True)
    held = contents(tmp_path / "space")
    assert yaml.safe_load(held["README.md"].decode().split("---\n")[1])["sdk"] == "static"
    assert b"gallery/index.html" in held["index.html"]
    assert "gallery/data.js" in held
    pulled = pull(f"folder:{tmp_path / 'space'}", tmp_path / "back")
    assert pulled.ignored >= len([name for name in held if name.startswith("gallery/")])
    assert not (tmp_path / "back" / "gallery").exists(), "scripts of somebody else are not fetched"
    assert not (tmp_path / "back" / "index.html").exists()


def test_the_verbs(say: Say, run: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    code, out, err = say("push", run, f"folder:{shared}", "--dry-run")
    assert (code, err) == (0, "")
    assert "would send: pictures/logits-0/fourier-0-" in out
    assert " to send, " in out
    assert not shared.exists()
    code, out, _ = say("push", run, f"folder:{shared}")
    assert code == 0
    assert "it is a real photo" in out
    assert "photos as hashes and captions in withheld.jsonl" in out
    code, out, _ = say("pull", f"folder:{shared}", "--out", tmp_path / "back")
    assert code == 0
    assert " to fetch, " in out.splitlines()[0]  # told beforehand
    assert "2 pictures in" in out
    assert (tmp_path / "back" / "gallery" / "index.html").is_file()
    assert 'did you mean "folder"?' in refusal(say("push", run, "foldr:x"))
    assert "is no place to share" in refusal(say("push", run, "x"))
    assert "is no repository of the hub" in refusal(say("push", run, "hf:x"))
    assert "is no repository of the hub" in refusal(say("push", run, "hf:../x"))
    assert "is no licence" in refusal(say("push", run, f"folder:{shared}", "--licence", "a b"))
    assert "is no shared run" in refusal(say("pull", f"folder:{tmp_path / 'none'}", "--out", tmp_path / "c"))
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    said = refusal(say("push", run, f"folder:{other}"))
    assert f"holds other files (mine.txt); give PLACE an empty folder, for instance folder:{other / 'run'}" in said
    assert "is no folder; give PLACE a folder" in refusal(say("push", run, f"folder:{other / 'mine.txt'}"))
    assert "holds other files" in refusal(say("pull", f"folder:{shared}", "--out", other))
    assert contents(other) == {"mine.txt": b"mine"}


# --- the hub ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("large", [False, True])
def test_a_run_goes_to_the_hub_and_back(run: Path, tmp_path: Path, hub: Hub, large: bool) -> None:
    hub.large = large
    made = push(run, "hf:someone/run", private=True)
    held = hub.repos["dataset/someone/run"]
    assert len(held) == made.files
    assert not [name for name in held if "retrieval" in name or name.startswith(("context/", "gallery/"))]
    assert bool(hub.blobs) == large
    asked = len(hub.asked)
    again = push(run, "hf:someone/run")
    assert again.sent == 0
    assert not [line for line in hub.asked[asked:] if "commit" in line]
    back = tmp_path / "back"
    pulled = pull("hf:someone/run", back)
    assert pulled.size == sum(map(len, held.values()))
    assert {name: data for name, data in contents(back).items() if not name.startswith(".")} == held
    assert verify(back).ok


def test_a_space_is_made_static(run: Path, hub: Hub) -> None:
    push(run, "hf:someone/show", space=True)
    assert hub.heads["space/someone/show"]["sdk"] == "static"
    assert "gallery/index.html" in hub.repos["space/someone/show"]


def test_a_busy_hub_is_asked_again(run: Path, tmp_path: Path, hub: Hub) -> None:
    hub.faults = {"/commit/": [503, 500], "/tree/": [502, 404], "/repos/create": [504]}
    made = push(run, "hf:someone/run")
    assert len(hub.repos["dataset/someone/run"]) == made.files
    hub.faults = {"/resolve/": [503, 429], "/tree/": [500]}
    assert pull("hf:someone/run", tmp_path / "back").fetched == made.files
    hub.faults = {"/tree/": [503] * 60}
    with pytest.raises(NotAvailable, match="cannot be listed: the hub answered 503"):
        push(run, "hf:someone/run")


def test_a_push_that_broke_off_goes_on(run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushing, "MOST_FILES", 3)
    send = type(open_place("hf:someone/run")).send
    sent: list[set[str]] = []

    def breaks(self: Any, files: Any, message: str) -> None:
        if len(sent) == 2:
            raise KeyboardInterrupt
        send(self, files, message)
        sent.append(set(files))

    monkeypatch.setattr(type(open_place("hf:someone/run")), "send", breaks)
    with pytest.raises(KeyboardInterrupt):
        push(run, "hf:someone/run")
    there = set(hub.repos["dataset/someone/run"])
    assert there == sent[0] | sent[1]
    assert "run.json" not in there, "what is half there is no run"
    monkeypatch.setattr(type(open_place("hf:someone/run")), "send", send)
    made = push(run, "hf:someone/run")
    assert made.sent == made.files - len(there)
    assert len(hub.repos["dataset/someone/run"]) == made.files


def test_a_pull_that_broke_off_goes_on(run: Path, tmp_path: Path, hub: Hub) -> None:
    push(run, "hf:someone/run")
    back, seen = tmp_path / "back", []

    def stop(what: str, done: int, total: int) -> None:
        seen.append(done)
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull("hf:someone/run", back, progress=stop)
    assert not (back / "run.json").exists()
    before = {p: p.stat().st_mtime_ns for p in back.rglob("*") if p.is_file() and not p.name.startswith(".")}
    assert len(before) == 3
    pulled = pull("hf:someone/run", back)
    assert pulled.fetched == pulled.files - 3
    assert {p: p.stat().st_mtime_ns for p in before} == before
    victim = next(iter(Run.open(back))).path
    victim.write_bytes(b"damaged")
    assert pull("hf:someone/run", back).fetched == 1
    hub.repos["dataset/someone/other"] = hub.repos["dataset/someone/run"]
    with pytest.raises(UserError, match="holds a run from hf:someone/run"):
        pull("hf:someone/other", back)


def test_the_token_is_in_no_file_and_no_line(
    run: Path,
    tmp_path: Path,
    hub: Hub,
    say: Say,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    said = [say("push", run, "hf:someone/run"), say("pull", "hf:someone/run", "--out", tmp_path / "back")]
    assert [code for code, _, _ in said] == [0, 0]
    assert any("/commit/" in path for path in hub.signed), "the token did come along"
    hub.faults = {"/tree/": [401], "/repos/create": [403]}
    said += [
        say("push", run, "hf:someone/run", "--debug"),
        say("pull", "hf:someone/none", "--out", tmp_path / "c", "--debug"),
    ]
    for _, out, err in said:
        assert TOKEN not in out + err
    assert TOKEN not in caplog.text
    for folder in (run, tmp_path):
        for name, data in contents(folder).items():
            assert TOKEN.encode() not in data, name


def test_another_host_does_not_get_the_token(run: Path, tmp_path: Path, hub: Hub) -> None:
    push(run, "hf:someone/run")
    hub.elsewhere = True
    hub.signed.clear()
    pull("hf:someone/run", tmp_path / "back")
    assert [line for line in hub.asked if line.startswith("GET /large/")]
    assert [path for path in hub.signed if "/resolve/" in path]
    assert not [path for path in hub.signed if path.startswith("/large/")]


def test_a_refusal_is_one_sentence(
    run: Path,
    hub: Hub,
    say: Say,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub.faults = {"/tree/": [401]}
    assert "the token is missing or was refused" in refusal(say("push", run, "hf:someone/run"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(retries, "TRIES", 2)
    assert "the hub cannot be reached" in refusal(say("push", run, "hf:someone/run"))


@pytest.mark.parametrize(
    "name",
    [
        "pictures/../../evil.png", "../evil.json", "/evil.json", "pictures\\..\\evil.png", "pictures/.hidden/a.png",
        "pictures/a\n.png", "pictures/CON/a.png", "pictures/nul.json", "pictures//a.png", "pictures/C:/a.png", "pictures/a.",
        "pictures/" + "x" * 300,
    ],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(name: str, run: Path, tmp_path: Path, hub: Hub) -> None:
    push(run, "hf:someone/run")
    hub.repos["dataset/someone/run"][name] = b"evil"
    with pytest.raises(UserError, match="is not safe"):
        pull("hf:someone/run", tmp_path / "deep" / "back")
    assert not (tmp_path / "deep").exists()
    assert not list(tmp_path.glob("**/evil*"))


def test_names_that_are_safe() -> None:
    for name in ("run.json", "pictures/logits-0/fourier-0-abc.png", "pictures/logits-“church”/a.png"):
        assert check_name(name) == name
    with pytest.raises(UserError, match="differ by case alone"):
        check_names(["pictures/A.png", "pictures/a.png"])


def test_bytes_that_differ_from_the_list_are_not_kept(
    run: Path, tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(run, "hf:someone/run")
    place = open_place("hf:someone/run")
    listed = place.listing()
    name = next(one for one in listed if one.startswith("pictures/") and one.endswith(".png"))
    wrong = SharedFile(name=name, size=listed[name].size, blob="f" * 40)
    monkeypatch.setattr(type(place), "listing", lambda self: {**listed, name: wrong})
    pulled = pull(place, tmp_path / "back")
    assert pulled.damaged == (f"{name}: it came with other bytes than it is listed with; fetch again",)
    assert not (tmp_path / "back" / name).exists()
    assert len(Run.open(tmp_path / "back")) == 1, "the other picture is kept"
    monkeypatch.undo()


def test_a_damaged_picture_is_named_and_the_others_are_kept(run: Path, tmp_path: Path, say: Say) -> None:
    shared, back = tmp_path / "shared", tmp_path / "back"
    push(run, f"folder:{shared}")
    first, second = Run.open(shared)
    whole = first.path.read_bytes()
    first.path.write_bytes(second.path.read_bytes())  # a picture, but not that of its record
    name = first.path.relative_to(shared).as_posix()
    code, out, err = say("pull", f"folder:{shared}", "--out", back)
    assert code == 2
    assert f"not kept: {name}: its bytes are not those of its record" in err
    assert "1 picture in" in out
    assert [p.path.read_bytes() for p in Run.open(back)] == [second.path.read_bytes()]
    assert not (back / name).exists()
    assert not (back / name).with_suffix(".json").exists()
    # Mended where it came from, the same command fetches it.
    first.path.write_bytes(whole)
    assert say("pull", f"folder:{shared}", "--out", back)[0] == 0
    assert len(Run.open(back)) == 2
    assert verify(back).ok


@pytest.mark.parametrize("victim", ["sidecar", "missing", "withheld"])
def test_other_damage_is_named_too(run: Path, tmp_path: Path, victim: str) -> None:
    shared, back = tmp_path / "shared", tmp_path / "back"
    push(run, f"folder:{shared}")
    first, _ = Run.open(shared)
    name = first.path.relative_to(shared).as_posix()
    if victim == "sidecar":
        first.path.with_suffix(".json").write_text("{")
        said = f"{name.replace('.png', '.json')}: it cannot be read"
    elif victim == "missing":
        first.path.unlink()
        said = f"{name}: it is missing"
    else:
        (shared / "failures.json").write_text("[")
        said = "failures.json: it cannot be read"
    pulled = pull(f"folder:{shared}", back)
    assert pulled.damaged == (said,)
    assert len(Run.open(back)) == (2 if victim == "withheld" else 1)


def test_a_run_of_results_alone_says_so(run: Path, tmp_path: Path, say: Say) -> None:
    results = Run(tmp_path / "results")
    with results.writing({"model": "tiny:net"}):
        write_result(results, "circuit", "logits:0", "ab" * 32, files={"edges.json": b"{}"})
    for words in (
        ("push", results.path, f"folder:{tmp_path / 'x'}"),
        ("export", results.path, "--out", tmp_path / "x"),
    ):
        said = refusal(say(*words))
        assert "it holds 1 result (1 of kind circuit) and no picture that can be copied" in said
        assert "it is empty" not in said
        assert not (tmp_path / "x").exists()


def test_what_cannot_be_prepared_names_the_folder_of_temporary_files(
    run: Path, tmp_path: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Run, file: Path, content: object) -> None:
        try:
            raise OSError(28, "No space left on device")
        except OSError:
            raise Unwritable("the folder cannot be written; give another --out") from None

    monkeypatch.setattr(Run, "put", full)
    said = refusal(say("push", run, f"folder:{tmp_path / 'shared'}"))
    assert "(No space left on device); make room there, or let TMPDIR name another folder" in said
    assert "--out" not in said
    assert not (tmp_path / "shared").exists()


def test_a_link_in_the_folder_is_not_followed(run: Path, tmp_path: Path, hub: Hub) -> None:
    push(run, "hf:someone/run")
    back, outside = tmp_path / "back", tmp_path / "outside"
    back.mkdir()
    outside.mkdir()
    (back / MARK).write_text('{"from": "hf:someone/run"}')
    (back / "pictures").symlink_to(outside)
    with pytest.raises(UserError, match="symbolic link"):
        pull("hf:someone/run", back)
    assert not list(outside.iterdir())


def test_no_room_is_said_before_anything_is_fetched(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push(run, f"folder:{tmp_path / 'shared'}")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(UserError, match="has no room for"):
        pull(f"folder:{tmp_path / 'shared'}", tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("where", ["run", "other"])
def test_a_run_is_never_overwritten_by_a_shared_copy(run: Path, tmp_path: Path, where: str) -> None:
    shutil.copytree(run, tmp_path / "other")
    held = {file: file.read_bytes() for file in (tmp_path / where).rglob("*") if file.is_file()}
    with pytest.raises(UserError, match="is a run itself, which a shared copy would overwrite"):
        push(run, f"folder:{tmp_path / where}")
    assert {file: file.read_bytes() for file in (tmp_path / where).rglob("*") if file.is_file()} == held


def test_what_is_damaged_in_the_run_is_left_out_and_shown_by_the_exit_code(run: Path, tmp_path: Path, say: Say) -> None:
    first, second, *_ = [p for p in Run.open(run) if p.method == "fourier"]
    first.path.write_bytes(second.path.read_bytes())
    for words in (("push", run, f"folder:{tmp_path / 'shared'}"), ("export", run, "--out", tmp_path / "copy")):
        code, out, _ = say(*words)
        assert code == 2
        assert f"left out: {first.path.name}: its pixels were changed" in out
    assert [p.unit for p in Run.open(tmp_path / "shared")] == [second.unit]

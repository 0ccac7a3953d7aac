"""Verification finds whatever no longer comes out of the files."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from conftest import tiny_card, tiny_module
from entoptic.errors import UserError
from entoptic.methods.vital import Vital
from entoptic.metrics.registry import METRICS
from entoptic.models.model import Model
from entoptic.runs import recompute as verify_module
from entoptic.runs.listing import MARK, SEAL, seal
from entoptic.runs.see import see
from entoptic.runs.store import Run
from entoptic.runs.verify import Verification, _share_close, verify


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("verify") / "r"
    see(
        Model(tiny_module(), tiny_card(), device="cpu"), ["logits:0", "stage1:3"], method="fourier", steps=3,
        photos=photo_folder, out=folder, progress=False,
        verifiers=[Model(tiny_module(1), tiny_card(name="judge"), device="cpu")],
    )  # fmt: skip
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A copy of the run, in a world where the name "judge" can be loaded."""
    judge = Model(tiny_module(1), tiny_card(name="judge"), device="cpu")
    real = verify_module.load
    monkeypatch.setattr(verify_module, "load", lambda name, **more: judge if name == "judge" else real(name, **more))
    shutil.copytree(made, tmp_path / "r")
    return Run.open(tmp_path / "r")


def edit(run: Run, change: Callable[[dict[str, Any]], Any], unit: str = "logits:0", *, signed: bool = False) -> str:
    """Changes a sidecar; `signed` with its hash, as if a run had been stored so."""
    (picture,) = (p for p in run if p.unit == unit)
    record = json.loads(json.dumps(picture.record))
    change(record)
    if signed:
        record[SEAL] = seal(record)
        (run.path / "files.json").unlink(missing_ok=True)
        about = json.loads((run.path / "run.json").read_text())
        about.pop(MARK, None)
        (run.path / "run.json").write_text(json.dumps(about))
    picture.path.with_suffix(".json").write_text(json.dumps(record))
    return picture.path.name


def entry(record: dict[str, Any], name: str) -> dict[str, Any]:
    return next(e for e in record["evidence"] if e["name"] == name)


def test_an_untouched_run_is_as_recorded(run: Run, tiny: Model) -> None:
    seen: list[tuple[int, int]] = []
    found = verify(run, model=tiny, on_picture=lambda done, total: seen.append((done, total)))
    assert found.ok
    assert (found.pictures, found.numbers, found.skipped) == (2, 26, [])
    assert str(found) == "2 pictures, 26 numbers recomputed: all as recorded"
    assert seen == [(0, 2), (1, 2), (2, 2)]
    assert "all as recorded" in found._repr_html_()


@pytest.mark.parametrize("name", ["activation", "rank", "percentile", "margin", "transfer_probability"])
def test_an_edited_value_is_found(run: Run, tiny: Model, name: str) -> None:
    png = edit(run, lambda record: entry(record, name).update(value=entry(record, name)["value"] + 0.5))
    (line,) = verify(run, model=tiny).drift
    assert line.startswith(f"{png}: {name} says ")
    assert "recomputed" in line


def test_edited_n_interval_and_missing_evidence_are_found(run: Run, tiny: Model) -> None:
    png = edit(run, lambda record: entry(record, "rank").update(n=6))
    assert verify(run, model=tiny).drift == [f"{png}: rank says n = 6, recomputed n = 5"]
    edit(run, lambda record: entry(record, "rank").update(n=5, interval=[0, 9]))
    assert len(verify(run, model=tiny).drift) == 1
    edit(
        run,
        lambda record: (
            entry(record, "rank").update(interval=[entry(record, "rank")["value"]] * 2),
            record["evidence"].pop(0),
        ),
    )
    assert verify(run, model=tiny).drift == [f"{png}: activation is missing from the sidecar"]


def test_evidence_claimed_where_there_is_none_is_found(run: Run, tiny: Model) -> None:
    edit(run, lambda record: entry(record, "transfer_top1").update(value=1.0), unit="stage1:3")
    (line,) = verify(run, model=tiny).drift
    assert "transfer_top1 says 1, recomputed nothing" in line
    edit(run, lambda record: record["evidence"].append({"name": "beauty", "value": 1, "n": 1}), unit="stage1:3")
    assert any("beauty is no measurement of this version" in line for line in verify(run, model=tiny).drift)


def test_a_changed_png_is_found(run: Run, tiny: Model) -> None:
    picture = run[0]
    pixels = picture.pixels.copy()
    pixels[0, 0] ^= 255
    Image.fromarray(pixels).save(picture.path)
    assert any("the picture was changed after it was measured" in line for line in verify(run, model=tiny).drift)
    picture.path.write_bytes(picture.path.read_bytes()[:60])
    found = verify(run, model=tiny)
    assert any("the picture was changed after it was measured" in line for line in found.drift)
    assert found.pictures == 1  # the other one is still recomputed


def test_missing_and_broken_files_are_found(run: Run, tiny: Model) -> None:
    first, second = list(run)
    first.path.unlink()
    second.path.with_suffix(".json").write_text("{")
    found = verify(run.path, model=tiny)
    assert len(found.drift) == 2
    assert any(f"its picture {first.path.name} is missing" in line for line in found.drift)
    assert any("cannot be read" in line for line in found.drift)
    assert not found.ok


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.update(unit="logits:99"),
        lambda record: record.update(unit="no unit"),
        lambda record: record.update(unit="logits:*"),
        lambda record: record.pop("image"),
        lambda record: record.update(image={}),
        lambda record: entry(record, "rank").update(interval=["a", "b"]),
        lambda record: entry(record, "rank").pop("value"),
        lambda record: record.update(measured_with={"verifiers": 3}),
    ],
)
def test_a_sidecar_edited_into_nonsense_is_found_and_stops_nothing(
    run: Run, tiny: Model, change: Callable[[dict[str, Any]], Any]
) -> None:
    edit(run, change)
    found = verify(run, model=tiny)
    assert len(found.drift) >= 1
    assert found.numbers >= 8
    assert not any("stage1" in line for line in found.drift)


def test_what_cannot_be_recomputed_is_skipped_and_said(
    run: Run, tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(run, lambda record: record.update(photos=str(tmp_path / "gone")), signed=True)
    found = verify(run, model=tiny)
    assert found.ok
    assert any("gone" in line for line in found.skipped)
    assert sum("measured against other photos; give them with --photos" in line for line in found.skipped) == 8

    def unknown(name: str, **more: Any) -> Model:
        raise UserError(f"no {name}")

    monkeypatch.setattr(verify_module, "load", unknown)
    found = verify(run, model=tiny)
    assert found.ok
    assert "transfer: no judge" in found.skipped


@pytest.mark.parametrize(("version", "said"), [(4, True), (3, False), (None, False)])
def test_a_metric_that_is_younger_than_a_picture_is_not_missed(
    run: Run, tiny: Model, version: int | None, said: bool
) -> None:
    def older(record: dict[str, Any]) -> None:
        record["measured_with"]["evidence"] = version
        record["evidence"] = [e for e in record["evidence"] if e["name"] not in ("specificity", "two_afc")]

    name = edit(run, older)
    drift = verify(run, model=tiny).drift
    assert (f"{name}: specificity is missing from the sidecar" in drift) is said


def test_a_picture_from_before_an_option_keeps_its_key(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    run = see(
        tiny,
        "logits:0",
        method=Vital(steps=2, denoise=0.0),
        photos=photo_folder,
        out=tmp_path,
        progress=False,
        verifiers="",
    )
    edit(
        run, lambda record: record["config"].pop("denoise"), signed=True
    )  # as it was stored when there was no such option
    found = verify(run, model=tiny)
    assert not [line for line in found.drift if "metadata" not in line]
    edit(run, lambda record: record["config"].update(denoise=0.5))
    assert any("its key does not follow" in line for line in verify(run, model=tiny).drift)


@pytest.mark.parametrize(("version", "compared"), [(4, False), (5, True)])
def test_a_value_by_an_earlier_definition_is_not_compared(
    run: Run, tiny: Model, monkeypatch: pytest.MonkeyPatch, version: int, compared: bool
) -> None:
    changed = replace(METRICS["robustness"], changed=5)
    monkeypatch.setitem(METRICS, "robustness", changed)

    def older(record: dict[str, Any]) -> None:
        record["measured_with"]["evidence"] = version
        next(e for e in record["evidence"] if e["name"] == "robustness")["value"] += 0.5

    name = edit(run, older)
    found = verify(run, model=tiny)
    assert any(line.startswith(f"{name}: robustness says") for line in found.drift) is compared
    assert (f"{name}: robustness was measured as an earlier version defined it" in found.skipped) is not compared


def test_a_metric_that_is_older_than_a_picture_is_missed(run: Run, tiny: Model) -> None:
    def older(record: dict[str, Any]) -> None:
        record["measured_with"]["evidence"] = 3
        record["evidence"] = [e for e in record["evidence"] if e["name"] != "rank"]

    name = edit(run, older)
    assert f"{name}: rank is missing from the sidecar" in verify(run, model=tiny).drift


def test_moved_photos_can_be_given(run: Run, tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(photo_folder, tmp_path / "moved")
    edit(run, lambda record: record.update(photos=str(tmp_path / "gone")), signed=True)
    found = verify(run, model=tiny, photos=moved)
    assert (found.ok, found.skipped, found.numbers) == (True, [], 26)
    (moved / "circle" / "0.png").unlink()
    assert verify(run, model=tiny, photos=str(moved)).skipped != []


def test_other_weights_and_other_folders_are_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was made with other weights of tiny than those given"):
        verify(run, model=Model(tiny_module(1), tiny_card(), device="cpu"))
    with pytest.raises(UserError, match="is no run folder"):
        verify(tmp_path)
    with pytest.raises(UserError, match="give it again"):
        verify(run)  # the module has no loadable name


def test_texts() -> None:
    found = Verification(3, 20, ["a"], ["b", "c"])
    assert not found.ok
    assert str(found) == "3 pictures, 20 numbers recomputed: 1 differs, 2 not recomputed"
    assert all(word in found._repr_html_() for word in ("<li>a</li>", "<li>c</li>"))


# --- what a sceptic edits ------------------------------------------------------------------------------------------


def edited(run: Run, change: Any) -> list[str]:
    """The drift after a change of the first sidecar and of its row in metadata.jsonl alike."""
    picture = next(iter(run))
    sidecar = picture.path.with_suffix(".json")
    record = json.loads(sidecar.read_text())
    change(record)
    sidecar.write_text(json.dumps(record))
    Run(run.path)._write_metadata()
    return verify(run, model=Model(tiny_module(), tiny_card(), device="cpu")).drift


EDITS = {
    "another label": (lambda r: r.update(label="gold fish"), 'says that its label is "gold fish"'),
    "another title of its method": (lambda r: r.update(method_title="VITAL"), "says that its method_title"),
    "another paper": (lambda r: r.update(paper="arXiv:0000.00000"), "says that its paper"),
    "another method": (lambda r: r.update(method="pixels"), "not those of its file's name"),
    "another seed": (lambda r: r.update(seed=r["seed"] + 1), "its key does not follow"),
    "another sample": (lambda r: r.update(sample=7), "not those of its file's name"),
    "another rate": (lambda r: r["config"].update(lr=0.123), "its key does not follow"),
    "more steps": (lambda r: r["config"].update(steps=500), "its key does not follow"),
    "more steps told": (lambda r: r["trace"].update(steps=500), "says that it took 500 steps"),
    "another readout": (lambda r: r.update(readout="max"), "says that its readout"),
    "a network invented": (
        lambda r: entry(r, "transfer_top1")["detail"].update(another=1), "another = 1, which is no part of it",
    ),
    "a probability": (
        lambda r: entry(r, "transfer_probability")["detail"].update(judge=0.9), "transfer_probability says judge = 0.9",
    ),
    "a rank": (lambda r: entry(r, "transfer_top1")["detail"].update(judge=9), "transfer_top1 says judge = 9"),
    "better the other way": (lambda r: entry(r, "rank").update(direction="higher"), "says that higher is better"),
    "a percentile by a little": (
        lambda r: entry(r, "percentile").update(value=entry(r, "percentile")["value"] - 0.09), "percentile says",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), EDITS.values(), ids=EDITS)
def test_what_a_sceptic_edits_is_found(run: Run, change: Any, expected: str) -> None:
    assert verify(run, model=Model(tiny_module(), tiny_card(), device="cpu")).ok
    drift = edited(run, change)
    assert any(expected in line for line in drift), drift


def test_a_number_in_metadata_is_found(run: Run) -> None:
    file = run.path / "metadata.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[1]["activation"] += 0.5
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (line,) = verify(run, model=Model(tiny_module(), tiny_card(), device="cpu")).drift
    assert "its activation in metadata.jsonl is not that of its sidecar" in line


def test_a_line_separator_in_a_label_is_no_end_of_a_row(run: Run) -> None:
    drift = edited(run, lambda r: r.update(label="gold\u2028fish"))
    assert drift
    assert not [line for line in drift if line.startswith("metadata.jsonl is damaged")]


def test_a_picture_that_is_gone_with_its_sidecar_is_found(run: Run) -> None:
    picture = next(iter(run))
    picture.path.unlink()
    picture.path.with_suffix(".json").unlink()
    (line,) = verify(run, model=Model(tiny_module(), tiny_card(), device="cpu")).drift
    assert "metadata.jsonl lists it, and it is gone" in line


def test_a_pixel_whose_hash_was_rewritten_is_found(run: Run) -> None:
    picture = next(iter(run))
    pixels = picture.pixels.copy()
    pixels[3, 3, 0] ^= 1
    Image.fromarray(pixels).save(picture.path)
    record = json.loads(picture.path.with_suffix(".json").read_text())
    record["image"]["sha256"] = hashlib.sha256(picture.path.read_bytes()).hexdigest()
    picture.path.with_suffix(".json").write_text(json.dumps(record))
    drift = verify(run, model=Model(tiny_module(), tiny_card(), device="cpu")).drift
    assert any("its sha256 in metadata.jsonl is not that of its sidecar" in line for line in drift)


def found_in(run: Run) -> Verification:
    return verify(run, model=Model(tiny_module(), tiny_card(), device="cpu"))


def test_a_run_that_was_interrupted_is_no_drift(run: Run) -> None:
    (run.path / "metadata.jsonl").unlink()
    (run.path / "files.json").unlink()
    (run.path / "progress.json").write_text('{"format": 1, "state": "running"}')
    found = found_in(run)
    assert found.ok
    assert any("metadata.jsonl is not there" in line for line in found.skipped)


def _rows(run: Run, change: Callable[[list[str]], list[str]]) -> None:
    file = run.path / "metadata.jsonl"
    file.write_text("".join(change(file.read_text().splitlines(keepends=True))))


def _json(run: Run, pattern: str, change: Callable[[dict[str, Any]], Any]) -> None:
    file = next(iter(sorted(run.path.glob(pattern))))
    record = json.loads(file.read_text())
    change(record)
    file.write_text(json.dumps(record))


def _copy(run: Run, source: str, to: str) -> None:
    file = next(iter(sorted(run.path.glob(source))))
    shutil.copy(file, file.with_name(to))


SIDECAR = "pictures/logits-0/fourier*.json"
EDITS: dict[str, tuple[Callable[[Run], Any], str]] = {
    "a row out": (lambda run: _rows(run, lambda rows: rows[1:]), "the job that wrote the run finished, so that the row was"),
    "a row twice": (lambda run: _rows(run, lambda rows: [*rows, rows[0]]), "metadata.jsonl lists it twice"),
    "no rows": (lambda run: (run.path / "metadata.jsonl").unlink(), "metadata.jsonl is not there, and the job"),
    "a picture more": (lambda run: _copy(run, "pictures/logits-0/*.png", "other.png"), "it has no sidecar"),
    "its size": (lambda run: _json(run, SIDECAR, lambda r: r["image"].update(width=9)), "it says that it is 9×32 pixels"),
    "its file": (lambda run: _json(run, SIDECAR, lambda r: r["image"].update(file="x.png")), 'its picture is "x.png"'),
    "not complete": (lambda run: _json(run, SIDECAR, lambda r: r.update(complete=False)), "it is not complete"),
    "a mean": (lambda run: _json(run, SIDECAR, lambda r: r["model"].update(mean=[0.1] * 3)), "its network's mean is"),
    "a licence": (lambda run: _json(run, SIDECAR, lambda r: r["model"].update(licence="x")), "its network's licence is x"),
    "a scale": (
        lambda run: _json(run, SIDECAR, lambda r: entry(r, "activation").update(scale="kg")), 'its scale is "kg"',
    ),
    "a later format": (lambda run: _json(run, "run.json", lambda r: r.update(format=99)), "its format is 99"),
    "another network": (
        lambda run: _json(run, "run.json", lambda r: r["model"].update(weights_sha256="0")), "that none of its pictures is of",
    ),
    "a photo's score": (
        lambda run: _json(run, "context/*/context.json", lambda r: r["strongest"][0].update(value=99.0)),
        "what it says of its photos was changed",
    ),
    "a photo": (lambda run: _copy(run, "context/*/top-2.jpg", "top-1.jpg"), "its file top-1.jpg was changed"),
    "no photo": (lambda run: next(run.path.glob("context/*/top-1.jpg")).unlink(), "its file top-1.jpg is missing"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "words"), EDITS.values(), ids=EDITS)
def test_an_edit_beside_the_numbers_is_found(run: Run, change: Callable[[Run], Any], words: str) -> None:
    change(run)
    assert any(words in line for line in found_in(run).drift)


def test_a_verifier_from_before_behaviour_was_part_of_it_is_the_same(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Model(tiny_module(1), tiny_card(name="judge"), device="cpu").card.with_(behaviour_sha256="").identity
    for unit in ("logits:0", "stage1:3"):
        edit(run, lambda r: r["measured_with"]["verifiers"].update(judge=plain), unit, signed=True)
    found = found_in(run)
    assert not [line for line in found.skipped if "other weights" in line]
    assert found.ok


def test_a_network_that_was_given_as_a_module_is_asked_for(tiny: Model, tmp_path: Path) -> None:
    run = see(tiny, "logits:0", method="pixels", steps=1, out=tmp_path / "r", verifiers="", progress=False)
    with pytest.raises(UserError, match=r'the run is of "tiny", .* entoptic\.verify\(run, model=model\)'):
        verify(run)
    assert verify(run, model=tiny).ok


def test_a_share_of_few_photos_may_move_by_one_of_them() -> None:
    stored = 66.66666865348816  # two of three in single precision
    assert _share_close(stored, 100.0, 3)
    assert _share_close(stored, 66.66666666666667, 3)
    assert not _share_close(100 / 3, 100.0, 3)
    assert not _share_close(stored, 70.0, 3)

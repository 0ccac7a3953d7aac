"""What was changed in a stored circuit is found by `verify`, and refused where it is read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from circuits.conftest import fitted_module
from conftest import tiny_card
from entoptic.circuits.certify import CertifyOptions
from entoptic.errors import UserError
from entoptic.models.model import Model
from entoptic.runs.circuit import circuit
from entoptic.runs.circuit_steering import read_circuit, steer_circuit
from entoptic.runs.results import Result
from entoptic.runs.verify import verify


@pytest.fixture
def stored(photo_folder: Path, tmp_path: Path) -> tuple[Model, Result]:
    model = Model(fitted_module(photo_folder), tiny_card(), device="cpu")
    (result,) = circuit(
        model, "logits:4", photos=photo_folder, finder="eap", n=4, others=6, groups=2, reruns=1, out=tmp_path / "run",
        certified=CertifyOptions(samples=100, deletion=0.3, tau=0.6), progress=False,
    )  # fmt: skip
    return model, result


def change(kind: str) -> Callable[[dict[str, Any]], None]:
    def certificate(record: dict[str, Any]) -> None:
        record["certificate"]["in"] += 1

    def sparsity(record: dict[str, Any]) -> None:
        next(e for e in record["evidence"] if e["name"] == "sparsity")["value"] = 1.0

    def kept(record: dict[str, Any]) -> None:
        record["kept"] -= 1

    def alpha(record: dict[str, Any]) -> None:
        record["certificate"]["tau"] = 0.5

    def evidence(record: dict[str, Any]) -> None:
        record["evidence"] = []

    return {"certificate": certificate, "sparsity": sparsity, "kept": kept, "tau": alpha, "evidence": evidence}[kind]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("certificate", "edges as in, its votes"),
        ("sparsity", "its sparsity is 1 %, that of its file"),
        ("kept", r"its record has \d of 7 edges, its file \d of 7"),
        ("tau", "states or radii|edges as|votes"),
        ("evidence", "its record or files cannot be read"),
    ],
)
def test_a_record_that_says_something_else_is_found(kind: str, said: str, stored: tuple[Model, Result]) -> None:
    model, result = stored
    assert verify(result.path.parents[3], model=model).ok
    record = json.loads(result.path.read_text())
    change(kind)(record)
    result.path.write_text(json.dumps(record))
    drift = verify(result.path.parents[3], model=model).drift
    assert drift
    assert any(re.search(said, line) for line in drift), drift


@pytest.mark.parametrize("file", ["edges.safetensors", "circuit.json", "circuit.graphml", "directions.safetensors"])
def test_a_changed_file_is_named_by_verify_and_refused_by_steering(file: str, stored: tuple[Model, Result]) -> None:
    model, result = stored
    path = result.file(file)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    (line,) = verify(result.path.parents[3], model=model).drift
    assert f"{file} is missing or was changed" in line
    with pytest.raises(UserError, match=f"its file {file} is missing or was changed; find the circuit again"):
        steer_circuit(result.path.parent, model=model, progress=False)


def test_a_record_that_is_cut_or_of_another_kind_is_refused(stored: tuple[Model, Result]) -> None:
    model, result = stored
    whole = result.path.read_text()
    for text in (whole[: len(whole) // 2], "", "[]", '{"kind": "circuit"}', whole.replace('"circuit"', '"atlas"', 1)):
        result.path.write_text(text)
        with pytest.raises(UserError, match="is no circuit; --steer takes the folder of one"):
            read_circuit(result.path.parent)
    record = json.loads(whole)
    del record["asked"]["finder"]
    record["asked"]["nonsense"] = 1
    result.path.write_text(json.dumps(record))
    with pytest.raises(UserError, match="the record of the circuit cannot be read"):
        steer_circuit(result.path.parent, model=model, progress=False)


def test_a_record_that_names_other_files_is_refused(stored: tuple[Model, Result]) -> None:
    model, result = stored
    record = json.loads(result.path.read_text())
    record["files"]["edges.safetensors"]["file"] = "../../../run.json"
    result.path.write_text(json.dumps(record))
    with pytest.raises(UserError, match="is no circuit"):
        read_circuit(result.path.parent)
    assert not verify(result.path.parents[3], model=model).ok
    record["files"] = {"edges.safetensors": 3}
    result.path.write_text(json.dumps(record))
    with pytest.raises(UserError, match="is no circuit"):
        read_circuit(result.path.parent)
    assert not verify(result.path.parents[3], model=model).ok

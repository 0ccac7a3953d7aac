"""Circuits as results of a run: found, judged, certified, stored, found again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from circuits.conftest import fitted_module
from conftest import LABELS, tiny_card, tiny_module
from entoptic.circuits import patching
from entoptic.circuits.certify import CertifyOptions
from entoptic.errors import UserError
from entoptic.models.model import Model
from entoptic.runs.circuit import circuit, make_circuit_plans
from entoptic.runs.circuit_plan import CircuitOptions, estimate_cost
from entoptic.runs.results import Result
from entoptic.runs.verify import verify
from entoptic.units.unit import bind


@pytest.fixture
def fitted(photo_folder: Path) -> Model:
    return Model(fitted_module(photo_folder), tiny_card(), device="cpu")


def found(model: Model, photos: Path, out: Path, unit: str = "logits:4", **options: Any) -> Result:
    settings: dict[str, Any] = {"finder": "eap", "n": 4, "others": 6, "groups": 2, "reruns": 1, "progress": False}
    (result,) = circuit(model, unit, photos=photos, out=out, **settings | options)
    return result


def test_a_circuit_with_its_evidence(fitted: Model, photo_folder: Path, tmp_path: Path) -> None:
    result = found(fitted, photo_folder, tmp_path / "run")
    record = result.record
    assert (result.kind, record["unit"], record["label"]) == ("circuit", "logits:4", "dot")
    assert record["held_out"]
    assert record["n"] == {"find": 4, "judge": 4, "others": 6}
    assert {
        "accuracy_kept", "accuracy_of_network", "accuracy_of_complement", "faithfulness", "sparsity", "false_positives",
        "false_positives_of_network", "accuracy_of_random_edges", "overlap",
    } <= set(result.evidence)  # fmt: skip
    for name, entry in result.evidence.items():
        assert entry["value"] is None or entry["n"] > 0, name
    assert result.evidence["accuracy_of_network"]["value"] == 100
    tensors = load_file(result.file("edges.safetensors"))
    assert int(tensors["kept"].sum()) == record["kept"] <= record["edges"] == len(tensors["kept"])
    whole = json.loads(result.file("circuit.json").read_text())
    assert [edge["kept"] for edge in whole["edges"]] == tensors["kept"].bool().tolist()
    graph = ElementTree.fromstring(result.file("circuit.graphml").read_text())
    ids = {node.get("id") for node in graph.iter("{http://graphml.graphdrawing.org/xmlns}node")}
    ends = [
        e.get(end) for e in graph.iter("{http://graphml.graphdrawing.org/xmlns}edge") for end in ("source", "target")
    ]
    assert "output" in ids
    assert ends
    assert set(ends) <= ids
    assert verify(tmp_path / "run", model=fitted).ok


def test_what_a_node_writes_is_a_unit(fitted: Model, photo_folder: Path, tmp_path: Path) -> None:
    result = found(fitted, photo_folder, tmp_path / "run")
    file = result.file("directions.safetensors")
    name = sorted(load_file(file))[0]
    (unit,) = bind(fitted, f"dir({file}#{name})")
    assert float(unit.direction.norm()) == pytest.approx(1)  # type: ignore[union-attr]
    shown = json.loads(result.file("circuit.json").read_text())["written"][name]
    assert len(shown) == 4
    assert [photo["along"] for photo in shown] == sorted((photo["along"] for photo in shown), reverse=True)
    assert all(result.file(photo["file"]).is_file() for photo in shown)
    bare = found(fitted, photo_folder, tmp_path / "run", context=False)
    assert bare.path != result.path
    assert not any(name.startswith("photo") for name in bare.record["files"])


def test_a_finished_circuit_is_found_again_and_another_request_is_another_one(
    fitted: Model, photo_folder: Path, tmp_path: Path
) -> None:
    first = found(fitted, photo_folder, tmp_path / "run")
    stamp = first.path.stat().st_mtime_ns
    again = found(fitted, photo_folder, tmp_path / "run")
    assert (again.path, again.path.stat().st_mtime_ns) == (first.path, stamp)
    paths = {first.path}
    for changed in ({"keep": 0.5}, {"corrupt": "mean"}, {"finder": "random"}, {"seed": 1}, {"unit": "logits:3"}):
        paths.add(found(fitted, photo_folder, tmp_path / "run", **changed).path)
    assert len(paths) == 6
    assert found(fitted, photo_folder, tmp_path / "run", at_once=3).path == first.path


def test_an_interrupted_search_goes_on_where_it_stopped(
    fitted: Model, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[float] = []
    real = patching._search

    def stop(problem: Any, tau: float, seed: int) -> Any:
        if len(searched) == 3:
            raise KeyboardInterrupt
        searched.append(tau)
        return real(problem, tau, seed)

    monkeypatch.setattr(patching, "_search", stop)
    with pytest.raises(KeyboardInterrupt):
        found(fitted, photo_folder, tmp_path / "run", finder="patching")
    again: list[float] = []
    monkeypatch.setattr(patching, "_search", lambda p, tau, seed: (again.append(tau), real(p, tau, seed))[1])
    result = found(fitted, photo_folder, tmp_path / "run", finder="patching")
    assert not set(searched) & set(again[:-1])  # the last is the rerun, at the same threshold on other photos
    whole = found(fitted, photo_folder, tmp_path / "other", finder="patching")
    assert whole.file("edges.safetensors").read_bytes() == result.file("edges.safetensors").read_bytes()


@pytest.mark.parametrize("finder", ["eap-ig", "patching", "random"])
def test_certified(finder: str, fitted: Model, photo_folder: Path, tmp_path: Path) -> None:
    options = CertifyOptions(samples=30 if finder != "eap-ig" else 300, deletion=0.3, tau=0.6)
    result = found(fitted, photo_folder, tmp_path / "run", finder=finder, certified=options)
    certificate = result.record["certificate"]
    assert certificate["in"] + certificate["out"] + certificate["abstain"] == result.record["edges"]
    assert "does not say that the edges are what the network uses" in certificate["means"]
    edges = json.loads(result.file("circuit.json").read_text())["edges"]
    assert all((edge["radius_mask"] >= 0) == (edge["state"] != "abstain") for edge in edges)
    if finder == "eap-ig":
        assert certificate["in"] > 0


def test_an_inner_unit_is_judged_by_its_score(fitted: Model, photo_folder: Path, tmp_path: Path) -> None:
    result = found(fitted, photo_folder, tmp_path / "run", unit="stage2:3")
    assert result.record["held_out"]
    assert "accuracy_kept" not in result.evidence
    assert result.evidence["faithfulness"]["value"] >= 50
    assert result.evidence["faithfulness_of_random_edges"]["n"] == 5


def test_masks_say_where_the_object_is(fitted: Model, photo_folder: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    for label in LABELS:
        (masks / label).mkdir(parents=True)
        for i in range(8):
            mask = np.zeros((32, 32), np.uint8)
            mask[4:28, 4:28] = 255
            Image.fromarray(mask).save(masks / label / f"{i}.png")
    result = found(fitted, photo_folder, tmp_path / "run", corrupt="mask", masks=masks)
    assert result.record["asked"]["corrupt"] == "mask"
    shutil.rmtree(masks / "dot")
    for label in LABELS[:4]:
        shutil.rmtree(masks / label)
    with pytest.raises(UserError, match=r"there is no mask \d\.png"):
        found(fitted, photo_folder, tmp_path / "other", corrupt="mask", masks=masks)
    with pytest.raises(UserError, match="needs --masks FOLDER"):
        found(fitted, photo_folder, tmp_path / "other", corrupt="mask")


def test_the_cost_is_told_and_not_exceeded(fitted: Model, photo_folder: Path, tmp_path: Path) -> None:
    for finder in ("eap-ig", "patching"):
        options = CircuitOptions(finder=finder, n=4, others=6, reruns=1)
        (plan,) = make_circuit_plans(fitted, "logits:4", photos=photo_folder, options=options, device="cpu")
        cost = estimate_cost(plan)
        assert cost.bytes > 0
        assert "forward passes of one picture" in str(cost)
        result = found(fitted, photo_folder, tmp_path / finder, finder=finder, groups=1)
        assert 0 < result.record["passes"] <= cost.passes


def test_what_a_circuit_cannot_be_found_on(fitted: Model, photo_folder: Path, tmp_path: Path) -> None:
    never = tiny_module()
    never.head.bias.data[4] = -1e4
    with pytest.raises(UserError, match=r"tiny recognises none of 8 photos of dot .* give photos that it recognises"):
        found(Model(never, tiny_card(), device="cpu"), photo_folder, tmp_path / "run")
    some = tmp_path / "some"
    shutil.copytree(photo_folder / "dot", some / "dot")
    with pytest.raises(UserError, match=r"there is no photo of cross in .* its classes are dot"):
        found(fitted, some, tmp_path / "run", unit="logits:3")
    lone = found(fitted, some, tmp_path / "run")
    assert lone.evidence["false_positives"]["value"] is None
    assert "no photos of other classes" in lone.evidence["false_positives"]["reason"]
    even = tmp_path / "even" / "dot"
    even.mkdir(parents=True)
    for i in range(4):
        Image.new("RGB", (32, 32), (200 + i,) * 3).save(even / f"{i}.png")
    flat = nn.Sequential(*list(tiny_module().children()))
    flat[-1].bias.data[4] = 1e4  # type: ignore[union-attr,index]
    with pytest.raises(UserError, match=r"the corrupted photos are the photos themselves|score alike"):
        raise_if_alike(found(Model(flat, tiny_card(), device="cpu"), even.parent, tmp_path / "run"))
    with pytest.raises(UserError, match="no edge can be certified as in"):
        found(fitted, photo_folder, tmp_path / "run", certified=CertifyOptions())
    with pytest.raises(UserError, match='circuit has no option "kep"; did you mean "keep"'):
        found(fitted, photo_folder, tmp_path / "run", kep=1)


def raise_if_alike(result: Result) -> None:
    """A blur of an even picture differs from it by rounding alone: then no faithfulness is given."""
    assert result.evidence["faithfulness"]["value"] is None
    raise UserError(str(result.evidence["faithfulness"]["reason"]))


def test_photos_without_labels_count_by_what_the_network_takes_them_for(
    fitted: Model, photo_folder: Path, tmp_path: Path
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for label in ("circle", "dot"):
        for i in range(8):
            shutil.copy(photo_folder / label / f"{i}.png", flat / f"{label}{i}.png")
    result = found(fitted, flat, tmp_path / "run")
    assert result.record["n"] == {"find": 4, "judge": 4, "others": 6}
    assert result.evidence["accuracy_of_network"]["value"] == 100
    assert result.evidence["false_positives_of_network"]["value"] == 0

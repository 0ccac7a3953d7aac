"""Patterns as results of a run: planted ones are named, followed up, stored, found again; bad input is one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

import entoptic
from conftest import LABELS, tiny_card, tiny_module
from entoptic.errors import UserError
from entoptic.findings import activity, questions
from entoptic.findings.activity import read_activity, read_basis
from entoptic.findings.questions import Between, Errors
from entoptic.gallery.pattern_page import write_pattern_pages
from entoptic.images.photos import Photos
from entoptic.models.model import Model
from entoptic.planted.shortcut import LAYER, PlantedShortcut, plant_shortcut, shortcut_network
from entoptic.runs.patterns_plan import PatternOptions, estimate_patterns, make_patterns_plan
from entoptic.runs.results import Result
from entoptic.runs.verify import verify
from entoptic.units.dictionary import save
from entoptic.units.sparse import Sparse


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> PlantedShortcut:
    return plant_shortcut(tmp_path_factory.mktemp("scenes") / "photos", 400)


SETTINGS: dict[str, Any] = {"quantile": 0.8, "shuffles": 5, "sets": 5, "progress": False}


def of(result: Result) -> list[dict[str, Any]]:
    return json.loads(result.file("patterns.json").read_text())["patterns"]


@pytest.fixture(scope="module")
def named(planted: PlantedShortcut, tmp_path_factory: pytest.TempPathFactory) -> Result:
    out = tmp_path_factory.mktemp("patterns") / "run"
    return entoptic.patterns(planted.model, LAYER, photos=planted.photos, out=out, **SETTINGS)


# --- the shortcut, end to end -----------------------------------------------------------------------------------------


def test_a_rendered_shortcut_is_named_and_undone(planted: PlantedShortcut, named: Result) -> None:
    (pattern,) = of(named)
    assert [clause for (clause,) in pattern["clauses"]] == sorted(planted.pair)
    assert pattern["towards"] == "wrong"
    assert pattern["on"] == [0, len(planted.tripped)]
    assert pattern["size"] == [400 - len(planted.tripped), len(planted.tripped)]
    assert pattern["p"] < 1e-15
    assert {photo["name"] for photo in pattern["photos"]} <= set(planted.tripped)
    assert {(photo["label"], photo["said"]) for photo in pattern["photos"]} == {("ring", "cross")}
    change = pattern["change"]
    assert (change["before"], change["after"]) == (0, 100)
    assert change["n"] == change["gained"] == len(planted.tripped)
    assert change["interval"][0] > 30
    assert max(change["random"]) <= 100
    evidence = named.evidence
    assert evidence["patterns"]["value"] == 1
    assert (evidence["found_with_shuffled_groups"]["value"], evidence["found_with_shuffled_groups"]["n"]) == (0, 5)
    assert evidence["accuracy_change_of_pattern_1"]["value"] == 100
    for entry in evidence.values():
        assert entry["value"] is None or entry["n"] > 0


def test_what_is_stored_can_be_read_again(planted: PlantedShortcut, named: Result, tmp_path: Path) -> None:
    whole = json.loads(named.file("patterns.json").read_text())
    assert whole["format"] == 1
    held = load_file(named.file("items.safetensors"))
    rows = len(held["photo"])
    on = np.unpackbits(held["on"], axis=0, bitorder="little")[:rows].astype(bool)
    pair = [held["unit"].tolist().index(int(unit.rpartition(":")[2])) for unit in planted.pair]
    holds = on[:, pair].all(1)
    assert holds[held["group"] == 1].sum() == len(planted.tripped)
    for name, entry in named.record["files"].items():
        assert (named.path.parent / entry["file"]).is_file(), name
    assert any(name.endswith(".jpg") for name in named.record["files"])
    run = named.path.parents[3]
    assert verify(run).drift == []
    again = entoptic.patterns(planted.model, LAYER, photos=planted.photos, out=run, **SETTINGS)
    assert again.path == named.path
    other = entoptic.patterns(
        planted.model, LAYER, photos=planted.photos, out=tmp_path / "run", context=False, **SETTINGS | {"tested": 0}
    )
    assert other.record["key"] != named.record["key"]
    assert not any(name.endswith(".jpg") for name in other.record["files"])
    assert of(other)[0]["change"] == {"reason": "it was not asked for (--tested 0)"}


def test_the_command_gives_the_same_result(named: Result) -> None:
    assert named.record["command"].startswith("entoptic patterns planted-shortcut shown --photos ")
    assert "--quantile 0.8 --shuffles 5 --sets 5" in named.record["command"]


def test_a_network_without_the_shortcut_makes_no_errors(planted: PlantedShortcut, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the network gets 0 photos wrong of the 400 labelled photos"):
        entoptic.patterns(shortcut_network(False), LAYER, photos=planted.photos, out=tmp_path / "run", **SETTINGS)
    assert not (tmp_path / "run").exists()


def test_errors_of_one_class_and_errors_taken_for_one(planted: PlantedShortcut, tmp_path: Path) -> None:
    within = entoptic.patterns(
        planted.model, LAYER, photos=planted.photos, of="ring", out=tmp_path / "run", **SETTINGS
    )  # fmt: skip
    (pattern,) = of(within)
    assert [c for (c,) in pattern["clauses"]] == [planted.pair[1]]  # all of them are rings
    taken = entoptic.patterns(
        planted.model, LAYER, photos=planted.photos, taken_for="cross", out=tmp_path / "run", **SETTINGS
    )
    assert planted.pair[0] in {c for p in of(taken) for (c,) in p["clauses"]}
    assert sum(entry["rows"] for entry in json.loads(taken.file("patterns.json").read_text())["groups"]) < 400


def test_a_class_against_another(planted: PlantedShortcut, tmp_path: Path) -> None:
    found = entoptic.patterns(
        planted.model, LAYER, photos=planted.photos, between=("ring", "disc"), out=tmp_path / "run",
        **SETTINGS | {"quantile": 0.7},
    )  # fmt: skip
    sides = {tuple(c for (c,) in p["clauses"]): p["towards"] for p in of(found)}
    assert sides[(f"{LAYER}:1",)] == "ring"
    assert found.record["groups"] == ["disc", "ring"]


def test_photos_of_a_class_are_found_by_the_name_that_the_network_has_for_it(photo_folder: Path) -> None:
    card = tiny_card(label_ids=tuple(LABELS), labels=("round thing", "box", "lines", "plus", "point"))
    model = Model(tiny_module().eval(), card, device="cpu")
    plan = make_patterns_plan(model, "stage2", photos=photo_folder, question=Between(one="round thing", other="dot"))
    assert plan.question == Between(one="circle", other="dot")


def test_every_class_at_once(planted: PlantedShortcut, tmp_path: Path) -> None:
    found = entoptic.patterns(
        planted.model, LAYER, photos=planted.photos, every_class=True, out=tmp_path / "run", **SETTINGS
    )
    assert sorted(found.record["groups"]) == ["cross", "disc", "ring"]
    assert "not made for" in found.evidence["found_with_shuffled_groups"]["reason"]
    for pattern in of(found):
        assert pattern["groups"][0] == "all others"
        assert len(pattern["clauses"]) >= 2


# --- two networks -----------------------------------------------------------------------------------------------------


def checkpoint(changed: int | None = None) -> Model:
    """The tiny network; one unit of its second stage responds more in the changed one."""
    module = tiny_module()
    if changed is not None:
        norm = module.stage2[1]
        norm.bias.data[changed] += 1.5
    return Model(module.eval(), tiny_card(name="before" if changed is None else "after"), device="cpu")


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("noise")
    draw = np.random.default_rng(0)
    for number in range(120):
        pixels = draw.integers(0, 256, (4, 4, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
    return folder


def test_what_changed_between_two_checkpoints(noise: Path, tmp_path: Path) -> None:
    before = checkpoint()
    live = int(
        read_activity(before, read_basis(before, "stage2"), (p := Photos.open(noise)), range(len(p)))
        .scores.std(0)
        .argmax()
    )
    found = entoptic.patterns(
        before, "stage2", photos=noise, against=checkpoint(live), out=tmp_path / "run", **SETTINGS | {"quantile": 0.9}
    )
    units = {unit for pattern in of(found) for clause in pattern["clauses"] for unit in clause}
    assert units == {f"stage2:{live}"}
    assert of(found)[0]["towards"] == "after"
    evidence = found.evidence
    assert evidence["found_against_itself"]["value"] == 0
    assert evidence["found_against_itself"]["n"] == 10
    agreement = evidence["agreement_of_units"]
    assert 0.9 < agreement["interval"][0] <= agreement["value"] <= agreement["interval"][1]
    assert agreement["n"] == 16 > 10 * abs(agreement["detail"]["with_other_units"])
    change = of(found)[0]["change"]  # without labels: whether it says what the other network says
    assert change["model"] == "after"
    assert change["n"] > 0


def test_two_networks_with_different_bases(noise: Path, tmp_path: Path) -> None:
    fewer = torch.nn.Sequential()
    for name, part in tiny_module().named_children():
        fewer.add_module(name, part)
    fewer.stage2 = torch.nn.Sequential(torch.nn.Conv2d(12, 9, 3, 2, 1), torch.nn.ReLU())
    fewer.head = torch.nn.Linear(9, 5)
    cases = {
        "have different bases: stage2 has 16 channels in the one and has 9 channels in the other": Model(
            fewer.eval(), tiny_card(name="fewer"), device="cpu"
        ),
        "correlates with unit k in the other": Model(tiny_module(3).eval(), tiny_card(name="another"), device="cpu"),
        "is compared with itself": checkpoint(),
    }
    for said, other in cases.items():
        with pytest.raises(UserError, match=said):
            entoptic.patterns(checkpoint(), "stage2", photos=noise, against=other, out=tmp_path / "run", **SETTINGS)
    assert not (tmp_path / "run").exists()


# --- dictionaries -----------------------------------------------------------------------------------------------------


def test_features_of_a_dictionary_are_items(planted: PlantedShortcut, tmp_path: Path) -> None:
    eye = torch.eye(6)
    dictionary = Sparse(
        encoder=eye[:, :, None, None], encoder_bias=torch.full((6,), -0.5), decoder=eye, decoder_bias=torch.zeros(6),
        threshold=torch.zeros(6), kind="relu", layer=LAYER, model_sha256=planted.model.card.weights_sha256,
    )  # fmt: skip
    file = save(dictionary, tmp_path / "features.safetensors")
    found = entoptic.patterns(planted.model, f"dict({file})", photos=planted.photos, out=tmp_path / "run", **SETTINGS)
    (pattern,) = of(found)
    assert [clause for (clause,) in pattern["clauses"]] == [f"dict({file}):1", f"dict({file}):5"]
    assert pattern["change"]["before"] == 0
    assert all(
        entry["threshold"] >= 0 for entry in json.loads(found.file("patterns.json").read_text())["units"].values()
    )


# --- an interrupted pass ----------------------------------------------------------------------------------------------


def test_an_interrupted_pass_goes_on(noise: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity, "BLOCK", 40)
    model, photos = checkpoint(), Photos.open(noise)
    basis, whole = read_basis(model, "stage2"), list(range(len(photos)))

    def stop(what: str, done: int, total: int) -> None:
        if done == 80:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_activity(model, basis, photos, whole, progress=stop)
    seen = []
    monkeypatch.setattr(activity, "read_scores", lambda *given: seen.append(given) or read_scores(*given))
    from entoptic.images.index_shards import read_scores

    found = read_activity(model, basis, photos, whole)
    assert sum(len(given[2]) for given in seen) == 40
    assert found.photos == tuple(whole)
    with torch.no_grad():
        images = torch.cat([images for _, images in photos.batches(model.card.prepare, 40)])
        values = model.read(images, [basis.group.tap])[basis.group.tap].mean(2)
    assert np.allclose(found.scores, values.numpy(), atol=1e-5)
    assert np.allclose(found.means, values.mean(0).numpy(), atol=1e-5)
    assert found.said.tolist() == model(images).argmax(1).tolist()


def test_a_photo_that_cannot_be_read_is_left_out(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "FEWEST", 5)
    folder = tmp_path / "photos"
    shutil.copytree(photo_folder, folder)
    (folder / LABELS[0] / "3.png").write_bytes(b"no picture")
    found = entoptic.patterns(
        checkpoint(), "stage2", photos=folder, between=("circle",), out=tmp_path / "run",
        **SETTINGS | {"shuffles": 0, "tested": 0},
    )  # fmt: skip
    assert found.evidence["patterns"]["n"] == 39
    said = f"1 of 40 photos could not be read: {LABELS[0]}/3.png (not an image in a known format)"
    assert found.record["unread"] == said
    (page,) = write_pattern_pages(tmp_path / "run")
    assert f"{said}." in page.read_text()


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"between": ("circle", "cicle")}, 'has the label "cicle"; did you mean "circle"'),
        ({"between": ("circle", "circle")}, "are the same photos; name two classes"),
        ({"between": ()}, "no label was given; give one, to compare it with all others, or two"),
        ({"between": ("circle",)}, "has 8 photos of circle; patterns need at least 10 on each side"),
        ({"every_class": True}, "0 classes of .* has 20 photos or more"),
        ({"every_class": True, "of": "circle"}, "are questions of their own; ask one of them"),
        ({"quantile": 1.5}, "quantile must be above 0 and below 1"),
        ({"ablate": "half"}, 'to their "mean" or to "zero", not to "half"'),
        ({"quantil": 0.5}, 'has no option "quantil"; did you mean "quantile"'),
        ({"layer": "stage3"}, 'no layer "stage3"'),
        ({"readout": "cls"}, "without tokens"),
        ({"of": "circl"}, 'names 0 classes of before; did you mean "circle"'),
    ],
)
def test_bad_input_is_one_sentence(photo_folder: Path, tmp_path: Path, asked: dict[str, Any], said: str) -> None:
    layer = asked.pop("layer", "stage2")
    with pytest.raises(UserError, match=said):
        entoptic.patterns(
            checkpoint(), layer, photos=photo_folder, out=tmp_path / "run", progress=False, **asked
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_photos_without_labels_or_with_one_class(noise: Path, photo_folder: Path, tmp_path: Path) -> None:
    for asked in ({}, {"between": ("circle",)}, {"every_class": True}):
        with pytest.raises(UserError, match=r"on photos with labels; .* has none: give a folder of class folders"):
            entoptic.patterns(checkpoint(), "stage2", photos=noise, out=tmp_path / "run", progress=False, **asked)
    (tmp_path / "one").mkdir()
    shutil.copytree(photo_folder / "circle", tmp_path / "one" / "circle")
    with pytest.raises(UserError, match=r"has one class only \(circle\); comparing classes needs photos of two"):
        entoptic.patterns(
            checkpoint(), "stage2", photos=tmp_path / "one", between=("circle",), out=tmp_path / "run", progress=False
        )
    (tmp_path / "one" / "circle").rename(tmp_path / "one" / "zebra")
    with pytest.raises(UserError, match=r"none of the labels of .* \(zebra\) is a class of before"):
        entoptic.patterns(checkpoint(), "stage2", photos=tmp_path / "one", out=tmp_path / "run", progress=False)


def test_units_that_are_never_on(photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "FEWEST", 5)
    module = tiny_module()
    module.stage2[1].weight.data.zero_()
    module.stage2[1].bias.data.fill_(-1.0)
    dead = Model(module.eval(), tiny_card(name="dead"), device="cpu")
    with pytest.raises(UserError, match=r"none of the units of stage2 is on in 0\.5 to 60 % of 40 photos"):
        entoptic.patterns(dead, "stage2", photos=photo_folder, out=tmp_path / "run", progress=False)


def test_a_folder_of_other_files_is_refused_before_the_work(planted: PlantedShortcut, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is no run and holds other files"):
        entoptic.patterns(planted.model, LAYER, photos=planted.photos, out=tmp_path, **SETTINGS)


def test_logits_are_not_ablated(planted: PlantedShortcut, tmp_path: Path) -> None:
    found = entoptic.patterns(planted.model, "logits", photos=planted.photos, out=tmp_path / "run", **SETTINGS)
    for pattern in of(found):
        assert "a logit cannot be ablated" in pattern["change"]["reason"]


def test_the_cost_is_told_beforehand(planted: PlantedShortcut) -> None:
    plan = make_patterns_plan(
        planted.model,
        LAYER,
        photos=planted.photos,
        question=Errors(),
        options=PatternOptions(most=2, tested=10, sets=3),
    )
    cost = estimate_patterns(plan)
    assert (cost.reading, cost.testing) == (400, 2 * 10 * 5)
    assert cost.seconds > 0
    assert "at most 500 forward passes of one photo (400 to read units, 100 to ablate them)" in str(cost)


def test_a_network_whose_outputs_are_no_numbers(photo_folder: Path, tmp_path: Path) -> None:
    module = tiny_module()
    module.head.weight.data.fill_(torch.nan)
    broken = Model(module.eval(), tiny_card(name="broken"), device="cpu")
    with pytest.raises(UserError, match="outputs are no finite numbers on 40 photos"):
        entoptic.patterns(broken, "stage2", photos=photo_folder, out=tmp_path / "run", progress=False)

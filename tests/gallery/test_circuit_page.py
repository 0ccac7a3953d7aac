"""Pages of circuits: every node and edge is there, links hold, keys and pointer work from the disk."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from circuits.conftest import fitted_module
from conftest import tiny_card
from entoptic.circuits.certify import CertifyOptions
from entoptic.errors import UserError
from entoptic.gallery.circuit_evidence import verdict_of
from entoptic.gallery.circuit_layout import lay_out, short_name
from entoptic.gallery.circuit_page import write_circuit_pages
from entoptic.models.model import Model
from entoptic.names import Names, Suggestion
from entoptic.runs.circuit import circuit
from entoptic.runs.circuit_steering import steer_circuit
from entoptic.runs.results import Result
from entoptic.runs.see import see
from entoptic.runs.store import Run


@pytest.fixture(scope="module")
def stored(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Result]:
    model = Model(fitted_module(photo_folder), tiny_card(), device="cpu")
    out = tmp_path_factory.mktemp("circuit") / "run"
    (result,) = circuit(
        model, "logits:4", photos=photo_folder, finder="eap", n=4, others=6, groups=2, reruns=1, out=out, progress=False,
        certified=CertifyOptions(samples=200, deletion=0.3, tau=0.6),
    )  # fmt: skip
    return model, result


def run_of(result: Result) -> Path:
    return result.path.parents[3]


def test_a_page_shows_every_edge_and_its_links_hold(stored: tuple[Model, Result]) -> None:
    _, result = stored
    (page,) = write_circuit_pages(run_of(result))
    text = page.read_text()
    edges = json.loads(result.file("circuit.json").read_text())["edges"]
    drawn = [edge for edge in edges if edge["kept"] or edge["state"] == "abstain"]
    assert text.count('<path class="edge') == len(drawn) > 0
    assert text.count(" abstained") >= sum(edge["state"] == "abstain" for edge in edges)
    assert "accuracy kept" in text
    links = set(re.findall(r'(?:href|src)="([^"#:]+)"', text))
    assert any(link.endswith(".jpg") for link in links)
    for link in links:
        assert (page.parent / unquote(link)).is_file(), link
    assert "circuit-" in (page.parent / "circuits.html").read_text()
    assert str(run_of(result).parent) not in text  # no page names a folder of the machine
    stamp = page.stat().st_mtime_ns
    assert write_circuit_pages(run_of(result))[0].stat().st_mtime_ns == stamp


def test_a_picture_of_what_a_node_writes_takes_its_place(stored: tuple[Model, Result], photo_folder: Path) -> None:
    model, result = stored
    file, name = result.file("directions.safetensors"), "stage1.3.group0"
    see(
        model, f"dir({file}#{name})", method="pixels", steps=1, out=run_of(result), photos=photo_folder, verifiers="",
        progress=False,
    )  # fmt: skip
    (page,) = write_circuit_pages(run_of(result))
    text = page.read_text()
    assert "The picture was made of this direction by pixels." in text
    assert re.search(r'<image href="\.\./pictures/[^"]+\.png"', text)


def test_a_run_without_circuits_says_so(tmp_path: Path) -> None:
    with Run(tmp_path / "run").writing({"title": "tiny"}):
        pass
    with pytest.raises(UserError, match="holds no circuit; `entoptic circuit` finds one"):
        write_circuit_pages(tmp_path / "run")


def node(name: str, depth: int, receives: str, kind: str = "block") -> dict[str, Any]:
    return {"name": name, "kind": kind, "layer": name, "depth": depth, "receives": receives, "used": True}


def edge(a: str, b: str, effect: float | None, kept: bool = True, **more: Any) -> dict[str, Any]:
    return {"from": a, "to": b, "kept": kept, "effect": effect, "order": 0} | more


def test_depth_runs_from_left_to_right_and_width_is_effect() -> None:
    nodes = [node("embedding", 0, ""), node("a", 1, "a"), node("b", 2, "b"), node("output", 3, "output", "output")]
    edges = [
        edge("embedding", "a", 1.0), edge("a", "output", -4.0), edge("embedding", "output", None, False, state="abstain"),
        edge("embedding", "b", 2.0, False), edge("a", "b", 0.0, False, state="out"),
    ]  # fmt: skip
    layout = lay_out(nodes, edges)
    assert [tile.name for tile in layout.tiles] == ["embedding", "a", "output"]
    assert [tile.x for tile in layout.tiles] == sorted(tile.x for tile in layout.tiles)
    by_end = {(line.source, line.target): line for line in layout.lines}
    assert len(by_end) == 3
    assert by_end["a", "output"].width > by_end["embedding", "a"].width > by_end["embedding", "output"].width
    assert by_end["a", "output"].kind == "against"
    assert by_end["embedding", "output"].abstained
    empty = lay_out(nodes, [])
    assert [tile.name for tile in empty.tiles] == ["output"]


def test_long_edges_lie_apart_where_they_overlap() -> None:
    names = ["embedding", "a", "b", "c"]
    nodes = [node(name, i, name if i else "") for i, name in enumerate(names)] + [node("output", 4, "output", "output")]
    edges = [edge(*pair, 1.0) for pair in zip(names, [*names[1:], "output"])]
    edges += [
        edge("embedding", "output", 1.0),
        edge("a", "c", 1.0),
        edge("embedding", "b", 1.0),
        edge("b", "output", 1.0),
    ]
    layout = lay_out(nodes, edges)
    tops = {
        (line.source, line.target): min(float(y) for y in re.findall(r",(\d+)", line.path)) for line in layout.lines
    }
    long = [tops[pair] for pair in (("embedding", "output"), ("a", "c"), ("embedding", "b"))]
    assert len(set(long)) == 3
    assert tops["embedding", "b"] == tops["b", "output"]  # one ends where the other begins
    assert max(long) < min(box.y for box in layout.boxes)


def test_names_fit_a_column() -> None:
    assert short_name("blocks.3.attn.head2") == "3 head 2"
    assert short_name("encoder.layers.encoder_layer_1.self_attention.head0") == "1 head 0"
    assert short_name("blocks.11.mlp") == "11 mlp"
    assert short_name("blocks.1.0.group3") == "1.0 group 3"
    assert short_name("layer1.0") == "layer1.0"
    assert short_name("embedding") == "embedding"


def test_browser_hover_and_keys(browser: Any, stored: tuple[Model, Result]) -> None:
    (path,) = write_circuit_pages(run_of(stored[1]))
    faults: list[str] = []
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 900})
        page = context.new_page()
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("requestfailed", lambda request: faults.append(request.url))
        page.on("request", lambda request: request.url.startswith("file:") or faults.append(request.url))
        page.goto(path.as_uri())
        assert page.locator(".detail:visible").count() == 0
        page.keyboard.press("ArrowRight")
        assert page.locator(".node.chosen").get_attribute("data-name") == "embedding"
        assert page.locator(".detail:visible").count() == 1
        assert page.locator(".edge.near").count() >= 1
        page.keyboard.press("ArrowRight")
        assert page.locator(".node.chosen").get_attribute("data-column") == "1"
        page.keyboard.press("Escape")
        assert page.locator(".choosing").count() == 0
        page.locator(".node").last.hover()
        assert page.locator(".detail:visible h2").inner_text() == "output"
        page.keyboard.press("?")
        assert page.locator("#help").is_visible()
        context.close()
    assert faults == []


def test_a_suggested_name_stands_below_the_unit_and_below_a_node(stored: tuple[Model, Result], tmp_path: Path) -> None:
    model, result = stored
    (page,) = write_circuit_pages(run_of(result))
    assert "Suggested name" not in page.read_text()
    made = re.search(r"<code>entoptic see tiny '(dir\([^<]*)'</code>", page.read_text())
    assert made is not None
    one = Suggestion(
        unit="logits:4", name="spot", score=0.4, rho=0.41, low=0.32, high=0.49, n=500, p=0.005, shuffled=None, shown=True,
        reason="",
    )  # fmt: skip
    names = Names(
        key="k", model="tiny", weights=model.card.weights_sha256, way="map", encoder="toy", encoder_identity="t", vocabulary={},
        photos="photos", named_on=1000, judged_on=500, seed=0, fidelity=None,
        suggestions=(one, replace(one, unit=made[1], name="edge")),
    )  # fmt: skip
    file = tmp_path / "names.json"
    file.write_bytes(names.to_bytes())
    (page,) = write_circuit_pages(run_of(result), file)
    assert page.read_text().count("Suggested name: <b>spot</b>, rho 0.41 [0.32, 0.49], n = 500") == 1
    assert page.read_text().count("Suggested name: <b>edge</b>") == 1
    write_circuit_pages(run_of(result))
    assert "Suggested name" not in page.read_text()


def test_every_node_shows_a_picture_and_the_page_says_how_far_to_trust_it(stored: tuple[Model, Result]) -> None:
    (page,) = write_circuit_pages(run_of(stored[1]))
    text = page.read_text()
    assert text.count("<image ") == text.count('<g class="node"') > 2
    assert 'class="headline"' in text
    assert "random circuits of as many edges" in text.lower()
    assert "false positives" in text


def record_of(**changes: object) -> dict[str, object]:
    return {"kept": 3, "edges": 9, "held_out": True, "asked": {"keep": 0.8}} | changes


def entry_of(value: float, low: float, high: float) -> dict[str, object]:
    return {"value": value, "interval": [low, high]}


@pytest.mark.parametrize(
    ("record", "kept", "random", "said"),
    [
        (record_of(), (95, 80, 99), (20, 5, 40), "It keeps more than random circuits of as many edges."),
        (record_of(), (95, 60, 99), (70, 40, 90), "on average, but the intervals overlap"),
        (record_of(), (90, 80, 99), (90, 80, 99), "which edges these are says little"),
        (
            record_of(),
            (30, 10, 60),
            (16, 0, 38),
            "On photos that it was not found on it keeps less than was asked for.",
        ),
        (record_of(kept=9), (100, 80, 100), (100, 100, 100), "No edge could be cut."),
        (record_of(kept=0), (0, 0, 20), (0, 0, 0), "No edge is needed"),
    ],
)
def test_a_verdict_rests_on_the_controls(
    record: dict[str, object], kept: tuple[float, ...], random: tuple[float, ...], said: str
) -> None:
    evidence = {
        "accuracy_kept": entry_of(*kept), "accuracy_of_network": entry_of(100, 70, 100),
        "accuracy_of_random_edges": entry_of(*random),
    }  # fmt: skip
    assert said in verdict_of(record, evidence)


def test_steering_stands_on_the_page_of_its_circuit(stored: tuple[Model, Result], tmp_path: Path) -> None:
    model, result = stored
    run = tmp_path / "run"
    shutil.copytree(run_of(result), run)
    (folder,) = (run / "results" / "circuit").iterdir()
    for alpha in (0.4, 1.0):
        steer_circuit(folder, alpha=alpha, model=model, progress=False)
    (page,) = write_circuit_pages(run)
    text = page.read_text()
    assert text.index("α = 0.4") < text.index("α = 1")
    assert "Steering as many random edges" in text or "It lowers the score more" in text
    shown = re.findall(r'<li><img src="([^"]+)"[^>]*width="112"', text)
    assert len(shown) == 2 * 4
    assert all((page.parent / unquote(src)).is_file() for src in shown)
    assert f'href="{page.name}#steered"' in (page.parent / "circuits.html").read_text()
    assert str(tmp_path) not in text
    assert "#steered" not in (write_circuit_pages(run_of(result))[0].parent / "circuits.html").read_text()


def test_a_changed_circuit_is_named_and_not_shown(stored: tuple[Model, Result], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(run_of(stored[1]), run)
    (folder,) = (run / "results" / "circuit").iterdir()
    shutil.copytree(folder, folder.with_name("copy-123"))
    (folder / "circuit.json").write_text("{}")
    write_circuit_pages(run)
    assert "Not shown: results/circuit/logits-4" in (run / "gallery" / "circuits.html").read_text()
    (run / "results" / "circuit" / "copy-123" / "edges.safetensors").unlink()
    with pytest.raises(UserError, match=r"no circuit that can be shown: .*(missing or was changed)"):
        write_circuit_pages(run)


def test_browser_shows_the_strongest_edges_alone(browser: Any, stored: tuple[Model, Result]) -> None:
    (path,) = write_circuit_pages(run_of(stored[1]))
    context = browser.new_context(viewport={"width": 390, "height": 800})
    page = context.new_page()
    page.goto(path.as_uri())
    total = page.locator(".edge").count()
    assert page.locator("#strongest-said").inner_text() == f"all {total}"
    page.locator("#strongest").evaluate("s => { s.value = 2; s.dispatchEvent(new Event('input')); }")
    assert page.locator("#strongest-said").inner_text() == f"the strongest 2 of {total}"
    assert page.locator(".edge:not(.beyond)").count() == 2
    assert page.locator(".unchosen").is_visible()
    full = page.evaluate("document.getElementById('drawing').getBoundingClientRect().width")
    page.keyboard.press("f")
    assert page.evaluate("document.getElementById('drawing').getBoundingClientRect().width") < full
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.keyboard.press("ArrowRight")
    assert not page.locator(".unchosen").is_visible()
    assert page.locator(".edge.near").evaluate_all("all => all.every(e => getComputedStyle(e).display !== 'none')")
    context.close()

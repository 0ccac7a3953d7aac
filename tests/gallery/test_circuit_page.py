"""Pages of circuits: every node and edge is there, links hold, keys and pointer work from the disk."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from circuits.conftest import fitted_module
from conftest import tiny_card
from entoptic.circuits.certify import CertifyOptions
from entoptic.errors import UserError
from entoptic.gallery.circuit_layout import lay_out, short_name
from entoptic.gallery.circuit_page import write_circuit_pages
from entoptic.models.model import Model
from entoptic.names import Names, Suggestion
from entoptic.runs.circuit import circuit
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
    assert short_name("blocks.11.mlp") == "11 mlp" or short_name("blocks.11.mlp") == "blocks.11.mlp"
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

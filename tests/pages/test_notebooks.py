"""The notebooks run, store what they print, stay small, and are pages of the site."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest

from pages.blocks import ROOT

FOLDER = ROOT / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]


def module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def cells(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]  # type: ignore[no-any-return]


def code_of(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in cells(path) if cell["cell_type"] == "code"]


def test_there_are_three() -> None:
    assert NAMES == ["first-pictures", "my-own-network", "units-to-a-figure"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_output_is_stored_and_small(path: Path) -> None:
    assert path.stat().st_size < 400_000
    text = path.read_text(encoding="utf-8")
    assert '"output_type": "error"' not in text
    assert "data:image/" in text
    assert f"colab.research.google.com/github/entoptic/entoptic/blob/main/docs/notebooks/{path.name}" in text
    for secret in ("/tmp/", "/root/", "/home/", "Traceback"):
        assert secret not in text
    ran = [cell["execution_count"] for cell in code_of(path)]
    assert ran == list(range(1, len(ran) + 1))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_cells_are_those_that_the_script_writes(path: Path) -> None:
    pytest.importorskip("nbclient")
    made = module(FOLDER / "make.py").notebook(path.stem)
    assert [cell.source for cell in made.cells] == ["".join(cell["source"]) for cell in cells(path)]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_a_notebook_runs_in_a_kernel(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("ENTOPTIC_STEPS", "2")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    make = module(FOLDER / "make.py")
    nb = make.run(make.notebook(path.stem), tmp_path, timeout=600)
    assert any(
        "data:image/" in output.get("data", {}).get("text/html", "")
        for cell in nb.cells
        for output in cell.get("outputs", [])
    )


@pytest.mark.parametrize(
    "path", [pytest.param(p, marks=pytest.mark.slow if "figure" in p.stem else ()) for p in NOTEBOOKS], ids=NAMES
)
def test_the_code_of_a_notebook_runs(path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a kernel, which takes seconds to start: the cells one behind the other."""
    monkeypatch.setenv("ENTOPTIC_STEPS", "2")
    scope: dict[str, Any] = {"__name__": path.stem}
    for cell in code_of(path):
        code = "".join(cell["source"]).replace("%pip install", "pass  #")
        exec(compile(ast.parse(code), path.name, "exec"), scope)
    assert scope["STEPS"] == 2
    assert len(scope["run"]) >= 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_a_notebook_is_a_page(path: Path) -> None:
    pytest.importorskip("mkdocs")
    text, pictures = module(ROOT / "docs" / "hooks" / "notebooks.py").page_of(path)
    assert text.startswith("# ")
    assert ".ipynb)" in text.splitlines()[2] or "Colab" in text
    assert pictures
    for name, data in pictures.items():
        assert f"]({name})" in text
        assert len(data) > 1000
    assert f"notebooks/{path.stem}.md" in (ROOT / "mkdocs.yml").read_text()

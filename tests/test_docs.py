"""The documentation runs: the tutorial's code, and a page for everything that registers itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from entoptic.methods import METHODS

ROOT = Path(__file__).parents[1]


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)


def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    code = "\n".join(blocks(ROOT / "docs" / "tutorial.md"))
    assert "steps=300" in code
    scope: dict[str, object] = {}
    exec(compile(code.replace("steps=300", "steps=2"), "tutorial.md", "exec"), scope)
    printed = capsys.readouterr().out
    assert 'did you mean "golden retriever"?' in printed
    assert "all as recorded" in printed
    assert (tmp_path / "runs" / "tutorial" / "gallery" / "index.html").is_file()
    assert sorted(p.unit for p in scope["run"]) == ["logits:497", "logits:701"]  # type: ignore[attr-defined]


def test_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(ROOT / "README.md")
    assert "n=1, seed=0" in code
    exec(compile(code.replace("n=1, seed=0", "n=1, seed=0, steps=2"), "README.md", "exec"), {})
    assert len(list(tmp_path.glob("runs/first/pictures/*/*.png"))) == 2


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_page_that_the_site_and_the_overview_list(name: str) -> None:
    page = ROOT / "docs" / "methods" / f"{name}.md"
    assert page.is_file()
    assert f"({name}.md)" in (ROOT / "docs" / "methods" / "index.md").read_text()
    assert f"methods/{name}.md" in (ROOT / "mkdocs.yml").read_text()


def test_every_page_is_in_the_site() -> None:
    listed = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").as_posix()
        assert name in listed or name.startswith("decisions/"), name


def test_every_measurement_is_explained() -> None:
    from entoptic.gallery.explain import explain

    page = (ROOT / "docs" / "evidence.md").read_text()
    names = ("activation", "percentile", "margin", "rank", "robustness")
    for name in (*names, "transfer_top1", "transfer_top5", "transfer_probability"):
        assert f"`{name}`" in page
        assert explain({"name": name, "value": 1.0, "n": 3, "interval": [0.5, 1.0], "direction": "higher"}).sentence
